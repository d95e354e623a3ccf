//! The service by itself: its futures, its queue, what becomes of it when it is dropped.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use sysd_core::AnyStore;
use sysd_ratelimit::policy::PolicyLimiter;
use sysd_ratelimit::{Policy, RateLimitLayer};
use sysd_storage::Memory;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::{clock, limiter};

const QUEUE: &str = r#"
    name = "queue"
    [[rules]]
    name = "one by one"
    key = "global"
    algorithm = "leaky_bucket"
    rate = "1/s"
    queue = 1
"#;

type Body = Full<bytes::Bytes>;

/// Answers, and counts how often it was asked.
fn counting(
    count: &Arc<AtomicU32>,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + use<> {
    let count = Arc::clone(count);
    service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Response::new(Body::default())))
    })
}

#[tokio::test]
async fn its_future_can_be_spawned_over_any_store_and_body() {
    let policy = Policy::from_toml("limits.toml", QUEUE).unwrap();
    let limiter = Arc::new(PolicyLimiter::new(AnyStore::new(Memory::new()), policy).unwrap());
    // A body that can't be shared between threads, only sent.
    let inner = service_fn(async |_: Request<std::cell::Cell<u8>>| Ok::<_, Infallible>(Response::new(Empty::new())));
    let mut service = RateLimitLayer::new(limiter, |_| None).layer(inner);
    let call = service.ready().await.unwrap().call(Request::new(std::cell::Cell::new(1)));
    assert_eq!(tokio::spawn(call).await.unwrap().unwrap().status(), 200);
}

#[test]
fn what_is_queued_waits_for_its_turn_by_the_clock_that_was_given() {
    let clock = clock();
    let (count, layer) = (Arc::new(AtomicU32::new(0)), RateLimitLayer::new(limiter(QUEUE, &clock), |_| None));
    let service = layer.with_clock(clock.clone()).layer(counting(&count));
    let call = || service.clone().oneshot(Request::new(Body::default()));
    let status = |response: Result<Response<_>, Infallible>| response.unwrap().status().as_u16();
    assert_eq!(status(call().now_or_never().unwrap()), 200);
    let mut second = pin!(call());
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(status(call().now_or_never().unwrap()), 429, "the queue is full");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    clock.advance(Duration::from_millis(999));
    assert!(second.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_millis(1));
    assert_eq!(status(second.now_or_never().unwrap()), 200);
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn one_that_is_dropped_while_it_waits_keeps_its_place_and_reaches_nobody() {
    let clock = clock();
    let (count, layer) = (Arc::new(AtomicU32::new(0)), RateLimitLayer::new(limiter(QUEUE, &clock), |_| None));
    let service = layer.with_clock(clock.clone()).layer(counting(&count));
    let call = || service.clone().oneshot(Request::new(Body::default()));
    assert!(call().now_or_never().is_some());
    assert!(call().now_or_never().is_none(), "dropped here");
    assert_eq!(clock.next_deadline(), None);
    assert_eq!(call().now_or_never().unwrap().unwrap().status(), 429);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

/// Remembers that it is ready, as one behind a queue or a limit of its own does; its clones are not.
#[derive(Default)]
struct Reserved {
    is_ready: bool,
}

impl Clone for Reserved {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<Body>> for Reserved {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.is_ready = true;
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without being ready");
        std::future::ready(Ok(Response::new(Body::default())))
    }
}

#[tokio::test]
async fn the_service_that_is_ready_is_the_one_that_is_called() {
    let clock = clock();
    let text = "name = \"api\"\n[[rules]]\nname = \"all\"\nkey = \"global\"\nrate = \"9/s\"\n";
    let mut service = RateLimitLayer::new(limiter(text, &clock), |_| None).layer(Reserved::default());
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(Request::new(Body::default())).await;
        assert_eq!(response.unwrap().status(), 200);
    }
}

/// Has one place, taken by whoever finds it ready, until the call or the drop of that one.
struct OnePlace {
    taken: Arc<AtomicU32>,
    has_place: bool,
}

impl OnePlace {
    fn leave(&mut self) {
        if std::mem::take(&mut self.has_place) {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Clone for OnePlace {
    fn clone(&self) -> Self {
        Self { taken: Arc::clone(&self.taken), has_place: false }
    }
}

impl Drop for OnePlace {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Service<Request<Body>> for OnePlace {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        if !self.has_place && self.taken.fetch_max(1, Ordering::Relaxed) == 1 {
            return std::task::Poll::Pending;
        }
        self.has_place = true;
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(self.has_place, "called without being ready");
        self.leave();
        std::future::ready(Ok(Response::new(Body::default())))
    }
}

#[test]
fn who_waits_for_a_limit_or_is_refused_takes_no_place_of_the_service() {
    let clock = clock();
    let (taken, layer) = (Arc::new(AtomicU32::new(0)), RateLimitLayer::new(limiter(QUEUE, &clock), |_| None));
    let place = OnePlace { taken: Arc::clone(&taken), has_place: false };
    let service = layer.with_clock(clock.clone()).layer(place.clone());
    let call = || service.clone().oneshot(Request::new(Body::default()));
    let status = |response: Result<Response<_>, Infallible>| response.unwrap().status().as_u16();
    assert_eq!(status(call().now_or_never().unwrap()), 200);
    let mut queued = pin!(call());
    assert!(queued.as_mut().now_or_never().is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 0, "one that waits for its turn");
    // Somebody else has the place: who is refused hears it all the same.
    let mut other = place.clone();
    assert!(std::future::poll_fn(|context| other.poll_ready(context)).now_or_never().is_some());
    assert_eq!(status(call().now_or_never().unwrap()), 429);
    // Its turn comes, and then it waits for the place.
    clock.advance(Duration::from_secs(1));
    assert!(queued.as_mut().now_or_never().is_none());
    other.leave();
    assert_eq!(status(queued.now_or_never().unwrap()), 200);
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}
