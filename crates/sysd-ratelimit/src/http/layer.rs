//! The limiter as a layer of tower.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::{Either, Full};
use sysd_core::{Clock, Store, SystemClock};
use tower_layer::Layer;
use tower_service::Service;

use super::fields::{self, FieldStyle, limit_fields};
use super::refusal::refusal;
use crate::policy::{PolicyLimiter, RequestView, Ruling};

/// The body of a response behind a [`RateLimited`] service: the service's own, or a refusal's.
pub type LimitedBody<B> = Either<B, Full<Bytes>>;

type PeerFn = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;
type UserFn = dyn Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync;

/// Puts a [`PolicyLimiter`] in front of a service: see the [module](super).
///
/// In axum put it on the outermost router: one that is nested sees the path without what it is nested under, and the policy's routes would
/// not match. Layers that find out who is signed in go around it.
///
/// Cheap to clone.
pub struct RateLimitLayer<S, C = SystemClock> {
    limiter: Arc<PolicyLimiter<S>>,
    peer: Arc<PeerFn>,
    user: Arc<UserFn>,
    style: FieldStyle,
    clock: C,
}

impl<S, C: Clone> Clone for RateLimitLayer<S, C> {
    fn clone(&self) -> Self {
        Self {
            limiter: Arc::clone(&self.limiter),
            peer: Arc::clone(&self.peer),
            user: Arc::clone(&self.user),
            style: self.style,
            clock: self.clock.clone(),
        }
    }
}

impl<S, C> fmt::Debug for RateLimitLayer<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("style", &self.style).finish_non_exhaustive()
    }
}

impl<S: Store> RateLimitLayer<S> {
    /// Asks `limiter`. `peer` says which address has connected, from what the server put into the request's extensions: axum's
    /// `ConnectInfo<SocketAddr>`, tonic's `TcpConnectInfo`. Where it answers `None`, all such requests share the limits by `ip`.
    ///
    /// It must be the address of the connection, and not what a header says: which of those to believe is said by
    /// the policy's [`clients`](crate::policy::ClientsConfig).
    pub fn new(
        limiter: Arc<PolicyLimiter<S>>,
        peer: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self {
            limiter,
            peer: Arc::new(peer),
            user: Arc::new(|_| None),
            style: FieldStyle::default(),
            clock: SystemClock,
        }
    }
}

impl<S: Store, C: Clock + Clone> RateLimitLayer<S, C> {
    /// Who is signed in, from what a layer around this one put into the request's extensions; nobody, if this is not called.
    #[must_use]
    pub fn with_user(mut self, user: impl Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync + 'static) -> Self {
        self.user = Arc::new(user);
        self
    }

    /// Which fields tell a client about its limits; [`FieldStyle::XRateLimit`], if this is not called.
    #[must_use]
    pub fn with_fields(mut self, style: FieldStyle) -> Self {
        self.style = style;
        self
    }

    /// By which clock requests wait in a [`LeakyBucket`](crate::LeakyBucket); the system's, if this is not called.
    #[must_use]
    pub fn with_clock<D: Clock + Clone>(self, clock: D) -> RateLimitLayer<S, D> {
        let Self { limiter, peer, user, style, .. } = self;
        RateLimitLayer { limiter, peer, user, style, clock }
    }

    async fn check(&self, parts: &Parts) -> Ruling {
        let user = (self.user)(parts);
        let view = RequestView {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            peer: (self.peer)(parts),
            user: user.as_deref(),
            headers: &parts.headers,
        };
        self.limiter.check(&view).await
    }
}

impl<Inner, S: Store, C: Clock + Clone> Layer<Inner> for RateLimitLayer<S, C> {
    type Service = RateLimited<Inner, S, C>;

    fn layer(&self, inner: Inner) -> Self::Service {
        RateLimited { inner, layer: Arc::new(self.clone()) }
    }
}

/// A service behind a [`RateLimitLayer`].
///
/// A request is asked about when it is called. One that is refused never reaches the service; one that a
/// [`LeakyBucket`](crate::LeakyBucket) lets in waits for its turn first. What a service answers is given the fields of its limits; such
/// as it has set itself stay.
///
/// It is always ready, and asks its service whether that is when the request has passed its limits: one that waits for them, or is refused,
/// takes no place of the service's. So a layer around it that sheds load by readiness does not see the service's; put that one within.
///
/// Its errors are the service's own: a store that does not answer is a matter of the policy's `on_error`, see
/// [`PolicyLimiter`].
///
/// # Cost
/// That of [`PolicyLimiter::check`], and one allocation for the future. The service is cloned for each call, as tower's layers do.
///
/// # Cancel safety
/// Dropping the future before the service was called: the request may have been counted, and stays so. It never gives anything.
pub struct RateLimited<Inner, S, C = SystemClock> {
    inner: Inner,
    layer: Arc<RateLimitLayer<S, C>>,
}

impl<Inner: Clone, S, C> Clone for RateLimited<Inner, S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: Arc::clone(&self.layer) }
    }
}

impl<Inner: fmt::Debug, S, C> fmt::Debug for RateLimited<Inner, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimited").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<Inner, S, C, RequestBody, ResponseBody> Service<Request<RequestBody>> for RateLimited<Inner, S, C>
where
    Inner: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Clone + Send + 'static,
    Inner::Future: Send,
    Inner::Error: Send,
    S: Store,
    C: Clock + Clone,
    RequestBody: Send + 'static,
    ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<LimitedBody<ResponseBody>>;
    type Error = Inner::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    /// Always ready: the service is asked whether it is once the request may reach it. Who is ready may hold a place in a queue, or a
    /// connection, which nobody else had while this request waits for its limits.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(limited(Arc::clone(&self.layer), inner, request))
    }
}

async fn limited<Inner, S, C, RequestBody, ResponseBody>(
    layer: Arc<RateLimitLayer<S, C>>,
    mut inner: Inner,
    request: Request<RequestBody>,
) -> Result<Response<LimitedBody<ResponseBody>>, Inner::Error>
where
    Inner: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Send,
    Inner::Future: Send,
    Inner::Error: Send,
    S: Store,
    C: Clock + Clone,
    RequestBody: Send,
    ResponseBody: Send,
{
    let (parts, body) = request.into_parts();
    let ruling = layer.check(&parts).await;
    if let Some(refusal) = refusal(layer.style, &ruling, &parts.headers) {
        return Ok(refusal.map(Either::Right));
    }
    let wait = ruling.wait();
    if !wait.is_zero() {
        layer.clock.sleep_until(layer.clock.now().saturating_add(wait)).await;
    }
    std::future::poll_fn(|context| inner.poll_ready(context)).await?;
    let mut response = inner.call(Request::from_parts(parts, body)).await?;
    add_fields(response.headers_mut(), &limit_fields(layer.style, &ruling));
    Ok(response.map(Either::Left))
}

/// Lists grow by ours; of what is said once, the service knows best.
fn add_fields(headers: &mut HeaderMap, ours: &HeaderMap) {
    for (name, value) in ours {
        if *name == fields::POLICY || *name == fields::SERVICE_LIMIT {
            headers.append(name, value.clone());
        } else {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}
