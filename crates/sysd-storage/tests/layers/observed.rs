//! What spans and metrics say of each call and of relays, and what they never say.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, KeyName, Metadata as MetricMetadata, Recorder,
    SharedString, Unit,
};
use sysd_core::event::NewEvent;
use sysd_core::{ErrorKind, Expect, Key, ManualClock, Space, Store, StoreExt as _, Timestamp, Write, tuple};
use sysd_storage::layer::{Breaker, BreakerConfig, LayerExt as _, Metrics, Trace};
use sysd_storage::{Memory, MemoryEvents, MemoryEventsConfig, Outbox, OutboxConfig, Wrote};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::script::{Fault, SPACE, Scripted, gate, scripted};

/// Calls that end in every way: well, in a conflict, in errors, in a batch of both, dropped.
fn every_ending(scripted: &Scripted, store: &impl Store) {
    let secret = Key::lone(SPACE, b"secret key");
    assert!(block_on(store.write(Write::put(secret, "secret value"))).unwrap().is_applied());
    assert!(!block_on(store.write(Write::put(secret, "x").expect(Expect::Absent))).unwrap().is_applied());
    scripted.script.play([
        Fault::Refuse(ErrorKind::Throttled),
        Fault::LoseReply(ErrorKind::Timeout),
        Fault::Spoil(vec![1], sysd_core::Effect::Unknown),
    ]);
    assert!(block_on(store.get(secret)).is_err());
    assert!(block_on(store.write(Write::put(secret, "x"))).is_err());
    let absent = Write::put(secret, "x").expect(Expect::Absent);
    assert_eq!(block_on(store.write_many(&[absent.clone(), absent.clone(), absent])).len(), 3);
    let (_open, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    assert!(pin!(store.get(secret)).now_or_never().is_none());
}

/// Keeps the fields of every span.
#[derive(Default)]
struct Spans(Mutex<Vec<BTreeMap<&'static str, String>>>);

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

struct Subscribed(Arc<Spans>);

impl Subscriber for Subscribed {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut spans = self.0.0.lock().unwrap();
        let mut fields = BTreeMap::new();
        span.record(&mut Fields(&mut fields));
        spans.push(fields);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let at = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut Fields(&mut self.0.0.lock().unwrap()[at]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_span_says_how_each_call_ended_and_no_secret() {
    let spans = Arc::new(Spans::default());
    let scripted = scripted();
    let store = scripted.store.clone().layer(Trace);
    tracing::subscriber::with_default(Subscribed(Arc::clone(&spans)), || every_ending(&scripted, &store));
    let spans = std::mem::take(&mut *spans.0.lock().unwrap());
    let said = |span: &BTreeMap<&'static str, String>| {
        let fields = ["operation", "answers", "outcome", "errors", "kind", "effect"];
        fields.map(|field| span.get(field).cloned().unwrap_or_default()).join(" ").trim_end().to_owned()
    };
    assert!(spans.iter().all(|span| span["space"] == "layers"));
    assert_eq!(
        spans.iter().map(said).collect::<Vec<_>>(),
        [
            "write 1 ok",
            "write 1 conflict",
            "get 1 error 1 throttled none",
            "write 1 error 1 timeout unknown",
            "write_many 3 error 1 throttled unknown",
            "get 1 dropped"
        ]
    );
    assert!(!format!("{spans:?}").contains("secret"));
}

/// Keeps the last value of every series.
#[derive(Default)]
struct Numbers(Mutex<BTreeMap<String, Arc<Series>>>);

#[derive(Default)]
struct Series(AtomicU64, Mutex<Vec<f64>>);

impl CounterFn for Series {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Series {
    fn increment(&self, value: f64) {
        self.1.lock().unwrap().push(value);
    }

    fn decrement(&self, value: f64) {
        self.1.lock().unwrap().push(-value);
    }

    fn set(&self, value: f64) {
        self.1.lock().unwrap().push(value);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.1.lock().unwrap().push(value);
    }
}

impl Numbers {
    fn series(&self, key: &metrics::Key) -> Arc<Series> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &MetricMetadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &MetricMetadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, key: &metrics::Key, _: &MetricMetadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}

/// So many calls that the store refuses.
fn fail(scripted: &Scripted, store: &impl Store, times: usize) {
    scripted.script.play((0..times).map(|_| Fault::Refuse(ErrorKind::Unavailable)));
    for _ in 0..times {
        block_on(store.get(Key::lone(SPACE, b"k"))).unwrap_err();
    }
}

#[test]
fn a_gauge_says_how_many_breakers_are_open() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let is_open = || -> f64 {
            numbers.series(&metrics::Key::from_name("sysd_store_breakers_open")).1.lock().unwrap().iter().sum()
        };
        let assert_open =
            |breakers: f64| assert!((is_open() - breakers).abs() < 0.5, "{} and not {breakers}", is_open());
        let config = BreakerConfig { calls_min: 2, probes: 1, ..BreakerConfig::default() };
        let scripted = scripted();
        let of = || scripted.store.clone().layer(Breaker::with_clock(config, scripted.clock.clone()));
        let (one, other) = (of(), of());
        fail(&scripted, &one, 1);
        assert_open(0.0);
        fail(&scripted, &one, 1);
        assert_open(1.0);
        // A clone is the same one; calls that are turned away change nothing.
        block_on(one.clone().get(Key::lone(SPACE, b"k"))).unwrap_err();
        assert_open(1.0);
        fail(&scripted, &other, 2);
        assert_open(2.0);
        // A probe that fails leaves it open, one that does not closes it.
        scripted.clock.advance(config.open_for);
        fail(&scripted, &one, 1);
        assert_open(2.0);
        scripted.clock.advance(config.open_for);
        block_on(one.get(Key::lone(SPACE, b"k"))).unwrap();
        assert_open(1.0);
        // One that is there no longer is not open.
        drop(one);
        assert_open(1.0);
        drop(other);
        assert_open(0.0);
    });
}

#[test]
fn metrics_count_calls_answers_errors_and_conflicts_apart() {
    let numbers = Numbers::default();
    let scripted = scripted();
    metrics::with_local_recorder(&numbers, || {
        let store = scripted.store.clone().layer(Metrics::with_clock(scripted.clock.clone()));
        every_ending(&scripted, &store);
        // One more, that takes 1.5 s.
        let (open, held) = gate();
        scripted.script.play([Fault::HoldCall(held)]);
        let mut slow = pin!(store.get(Key::lone(SPACE, b"k")));
        assert!(slow.as_mut().now_or_never().is_none());
        scripted.clock.advance(Duration::from_millis(1_500));
        open.send(()).unwrap();
        block_on(slow).unwrap();
    });
    let series = numbers.0.lock().unwrap();
    let at = |name: &str, labels: &str| &series[&format!("{name}{{{labels}}}")];
    let count = |name: &str, labels: &str| at(name, labels).0.load(Ordering::Relaxed);
    let (get, write, batch) =
        ("operation=get,space=layers", "operation=write,space=layers", "operation=write_many,space=layers");
    assert_eq!([get, write, batch].map(|labels| count("sysd_store_calls_total", labels)), [3, 3, 1]);
    assert_eq!([get, write, batch].map(|labels| count("sysd_store_answers_total", labels)), [2, 3, 3]);
    assert_eq!([get, write, batch].map(|labels| count("sysd_store_conflicts_total", labels)), [0, 1, 2]);
    assert_eq!([get, write, batch].map(|labels| count("sysd_store_dropped_total", labels)), [1, 0, 0]);
    let errors = |labels: &str, error: &str| count("sysd_store_errors_total", &format!("{labels},{error}"));
    assert_eq!(errors(get, "kind=throttled,effect=none"), 1);
    assert_eq!(errors(write, "kind=timeout,effect=unknown"), 1);
    assert_eq!(errors(batch, "kind=throttled,effect=unknown"), 1);
    assert_eq!(*at("sysd_store_duration_seconds", get).1.lock().unwrap(), [0.0, 1.5]);
    for labels in [get, write, batch] {
        let under_way: f64 = at("sysd_store_in_flight", labels).1.lock().unwrap().iter().sum();
        assert!(under_way.abs() < 1e-9, "{labels}: {under_way} under way");
    }
    assert!(series.keys().all(|name| name.starts_with("sysd_store_") && !name.contains("secret")));
}

#[test]
fn metrics_count_what_a_relay_published_and_what_failed() {
    const OUTBOX: Space = Space::conditional("outbox");
    let (numbers, store) = (Numbers::default(), Memory::new());
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let config = OutboxConfig { clock: Arc::new(clock.clone()), ..OutboxConfig::default() };
    let poll_every = config.poll_every;
    let outbox = Outbox::new(store.clone(), "shop", &[SPACE], config).unwrap();
    let events = vec![NewEvent::new(b"secret key", "secret"); 2];
    let wrote = block_on(outbox.write(Key::lone(SPACE, b"secret key"), "x", Expect::Absent, events)).unwrap();
    assert!(matches!(wrote, Wrote::Written(_)));
    let shard = tuple::encode(&("shop", 3_u16));
    block_on(store.put(Key::row(OUTBOX, &shard, b"names no record"), "?")).unwrap();
    let log = MemoryEvents::new(MemoryEventsConfig::default()).unwrap();
    metrics::with_local_recorder(&numbers, || {
        let mut relay = pin!(outbox.relay(&log));
        for _ in 0..2 {
            assert!(relay.as_mut().now_or_never().is_none());
            // The time that it waits after a look.
            clock.advance(poll_every);
        }
    });
    let series = numbers.0.lock().unwrap();
    let counts: Vec<_> = series.iter().map(|(name, count)| (name.as_str(), count.0.load(Ordering::Relaxed))).collect();
    let expected = [("sysd_outbox_failed_total{outbox=shop}", 1), ("sysd_outbox_published_total{outbox=shop}", 2)];
    assert_eq!(counts, expected);
}
