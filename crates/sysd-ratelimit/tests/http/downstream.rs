//! The breaker in front of another service, by a clock that is driven.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use sysd_core::ManualClock;
use sysd_core::breaker::BreakerConfig;
use sysd_ratelimit::downstream::{BreakerError, BreakerLayer};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::clock;

const CONFIG: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(10),
    calls_min: 4,
    failures_percent: 50,
    open_for: Duration::from_secs(5),
    probes: 1,
};

type Answer = Result<u16, &'static str>;

fn layer(clock: &ManualClock) -> BreakerLayer<fn(&Answer) -> bool, ManualClock> {
    let is_failure: fn(&Answer) -> bool = |answer| matches!(answer, Err(_) | Ok(500..));
    BreakerLayer::with_clock(CONFIG, is_failure, clock.clone())
}

/// Answers what it is told to, and counts its calls.
fn downstream(
    calls: &Arc<AtomicU32>,
) -> impl Service<Answer, Response = u16, Error = &'static str, Future: Send> + Clone + use<> {
    let calls = Arc::clone(calls);
    service_fn(move |answer: Answer| {
        calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(answer)
    })
}

#[test]
fn it_opens_probes_and_closes_and_all_clones_know_it() {
    let (clock, calls) = (clock(), Arc::default());
    let layer = layer(&clock);
    let (one, other) = (layer.layer(downstream(&calls)), layer.layer(downstream(&calls)));
    let ask = |answer: Answer| one.clone().oneshot(answer).now_or_never().unwrap();
    for answer in [Ok(200), Ok(503), Ok(404), Err("reset")] {
        assert_eq!(ask(answer), answer.map_err(BreakerError::Inner));
    }
    assert!(layer.is_open());
    assert_eq!(ask(Ok(200)), Err(BreakerError::Open));
    assert_eq!(other.clone().oneshot(Ok(200)).now_or_never(), Some(Err(BreakerError::Open)));
    assert_eq!(calls.load(Ordering::Relaxed), 4, "nobody is called");
    clock.advance(CONFIG.open_for);
    assert_eq!(ask(Ok(503)), Ok(503));
    assert_eq!(ask(Ok(200)), Err(BreakerError::Open));
    clock.advance(CONFIG.open_for);
    assert_eq!((ask(Ok(200)), ask(Ok(200)), layer.is_open()), (Ok(200), Ok(200), false));
}

#[test]
fn a_probe_that_is_dropped_is_made_again() {
    let clock = clock();
    let layer = layer(&clock);
    let service = layer.layer(service_fn(|gate: oneshot::Receiver<Answer>| gate.map(|answer| answer.unwrap())));
    let begin = || {
        let (answer, gate) = oneshot::channel();
        (answer, service.clone().oneshot(gate))
    };
    for _ in 0..4 {
        let (answer, call) = begin();
        answer.send(Err("away")).unwrap();
        assert!(call.now_or_never().unwrap().is_err());
    }
    clock.advance(CONFIG.open_for);
    let (_answer, probe) = begin();
    {
        let mut probe = pin!(probe);
        assert!(probe.as_mut().now_or_never().is_none());
        assert_eq!(begin().1.now_or_never(), Some(Err(BreakerError::Open)), "one probe at a time");
    }
    let (answer, probe) = begin();
    answer.send(Ok(200)).unwrap();
    assert_eq!((probe.now_or_never(), layer.is_open()), (Some(Ok(200)), false));
}

#[tokio::test]
async fn its_future_can_be_spawned() {
    let layer = layer(&clock());
    let mut service = layer.layer(service_fn(async |request: Cell<u16>| Ok::<_, &'static str>(request.get())));
    let call = service.ready().await.unwrap().call(Cell::new(200));
    assert_eq!(tokio::spawn(call).await.unwrap(), Ok(200));
}

#[test]
fn errors_say_which_they_are() {
    let error = BreakerError::Inner(std::io::Error::other("reset"));
    assert_eq!(error.to_string(), "reset");
    assert!(BreakerError::<std::io::Error>::Open.to_string().contains("was not called"));
}
