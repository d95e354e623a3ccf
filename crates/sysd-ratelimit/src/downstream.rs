//! A circuit breaker in front of calls to another service, as a layer of tower.
//!
//! It is the breaker that a limiter has in front of its store, and that `sysd_storage::layer` has: [`Circuit`] decides, and time comes
//! from a [`Clock`].

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use sysd_core::breaker::{BreakerConfig, Circuit, Ticket, Verdict};
use sysd_core::{Clock, SystemClock};
use tower_layer::Layer;
use tower_service::Service;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerError<E> {
    /// The breaker is open: the service kept failing, and was not called.
    Open,
    /// The service's own error.
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for BreakerError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("the circuit breaker is open: the service kept failing, and was not called"),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: StdError> StdError for BreakerError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Open => None,
            Self::Inner(error) => error.source(),
        }
    }
}

/// Refuses calls to a service while it keeps failing: at once, without calling it.
///
/// What a failure is `is_failure` says of each answer: of HTTP, an error or a status of 500 and above. A call that is dropped shows nothing,
/// so a timeout must be within: put it on before this layer. Services that one layer makes, and their clones, share what they have seen: one
/// layer a downstream.
///
/// ```
/// use std::convert::Infallible;
/// use sysd_core::breaker::BreakerConfig;
/// use sysd_ratelimit::downstream::{BreakerError, BreakerLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # futures::executor::block_on(async {
/// let config = BreakerConfig { calls_min: 1, ..BreakerConfig::default() };
/// let layer = BreakerLayer::new(config, |answer: &Result<u16, Infallible>| matches!(answer, Ok(500..)));
/// let service = layer.layer(service_fn(async |_: ()| Ok(503)));
/// assert_eq!(service.clone().oneshot(()).await, Ok(503));
/// assert_eq!(service.oneshot(()).await, Err(BreakerError::Open));
/// # });
/// ```
///
/// # Cost
/// A lock and a read of the clock before a call, and after it.
pub struct BreakerLayer<F, C = SystemClock> {
    shared: Arc<Shared<F, C>>,
}

struct Shared<F, C> {
    circuit: Mutex<Circuit>,
    is_failure: F,
    clock: C,
}

impl<F, C> Shared<F, C> {
    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> BreakerLayer<F> {
    /// By the system's clock.
    pub fn new(config: BreakerConfig, is_failure: F) -> Self {
        Self::with_clock(config, is_failure, SystemClock)
    }
}

impl<F, C: Clock> BreakerLayer<F, C> {
    /// By `clock`.
    pub fn with_clock(config: BreakerConfig, is_failure: F, clock: C) -> Self {
        Self { shared: Arc::new(Shared { circuit: Mutex::new(Circuit::new(config)), is_failure, clock }) }
    }

    /// Whether it refuses calls, or all but the probes.
    pub fn is_open(&self) -> bool {
        !self.shared.circuit().is_closed()
    }
}

impl<F, C> Clone for BreakerLayer<F, C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<F, C> fmt::Debug for BreakerLayer<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerLayer").field("circuit", &*self.shared.circuit()).finish_non_exhaustive()
    }
}

impl<Inner, F, C> Layer<Inner> for BreakerLayer<F, C> {
    type Service = Breakable<Inner, F, C>;

    fn layer(&self, inner: Inner) -> Self::Service {
        Breakable { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind a [`BreakerLayer`].
///
/// # Cancel safety
/// A call that is dropped gives back its probe.
pub struct Breakable<Inner, F, C = SystemClock> {
    inner: Inner,
    shared: Arc<Shared<F, C>>,
}

impl<Inner: Clone, F, C> Clone for Breakable<Inner, F, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<Inner: fmt::Debug, F, C> fmt::Debug for Breakable<Inner, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakable").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<Inner, Request, F, C> Service<Request> for Breakable<Inner, F, C>
where
    Inner: Service<Request>,
    F: Fn(&Result<Inner::Response, Inner::Error>) -> bool,
    C: Clock,
{
    type Response = Inner::Response;
    type Error = BreakerError<Inner::Error>;
    type Future = Calling<Inner::Future, F, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(BreakerError::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let admitted = self.shared.circuit().admit(self.shared.clock.now());
        let under_way =
            admitted.map(|ticket| UnderWay { shared: Arc::clone(&self.shared), ticket, verdict: Verdict::Unknown });
        // Not called where it is not admitted.
        let call = under_way.is_some().then(|| self.inner.call(request));
        Calling { call, under_way }
    }
}

/// A call that was let through; a dropped one shows nothing.
struct UnderWay<F, C: Clock> {
    shared: Arc<Shared<F, C>>,
    ticket: Ticket,
    verdict: Verdict,
}

impl<F, C: Clock> Drop for UnderWay<F, C> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.circuit().settle(now, self.ticket, self.verdict);
    }
}

pin_project! {
    /// The answer of a [`Breakable`] service.
    pub struct Calling<Call, F, C: Clock> {
        #[pin]
        call: Option<Call>,
        under_way: Option<UnderWay<F, C>>,
    }
}

impl<Call: fmt::Debug, F, C: Clock> fmt::Debug for Calling<Call, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<Call, F, C, R, E> Future for Calling<Call, F, C>
where
    Call: Future<Output = Result<R, E>>,
    F: Fn(&Result<R, E>) -> bool,
    C: Clock,
{
    type Output = Result<R, BreakerError<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else { return Poll::Ready(Err(BreakerError::Open)) };
        let Poll::Ready(answer) = call.poll(context) else { return Poll::Pending };
        if let Some(mut under_way) = this.under_way.take() {
            let has_failed = (under_way.shared.is_failure)(&answer);
            under_way.verdict = if has_failed { Verdict::Failed } else { Verdict::Well };
        }
        Poll::Ready(answer.map_err(BreakerError::Inner))
    }
}
