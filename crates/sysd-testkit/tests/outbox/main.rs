//! The outbox, simulated: many seeds, deliberate bugs, and the two exhaustive sweeps.
//!
//! A record's value is the list of the writes that it has seen, so the last value is its history.
//!
//! `SYSD_SIM_SEEDS=1000000` runs more seeds, `SYSD_SIM_SEED=7` only that one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::event::{Event, EventLimits, EventSink, NewEvent};
use sysd_core::{
    Clock as _, Effect, Error, ErrorKind, Expect, Key, Result as StoreResult, RetryPolicy, Space, Store as _,
};
use sysd_storage::outbox::Bug;
use sysd_storage::{Outbox, OutboxConfig, Wrote};
use sysd_testkit::oracle::outbox::{Answered, OutboxHistory, complete, honest, ordered};
use sysd_testkit::sim::{Fault, Faults, Node, SimStore, Simulation, SkewedClock, sweep};

const RECORDS: Space = Space::conditional("records");
const KEYS: [&[u8]; 2] = [b"a", b"b"];
const SEEDS: u64 = 2_000;
const BUG_SEEDS: u64 = 4_000;

#[derive(Default)]
struct Seen {
    next: u64,
    answers: Vec<(u64, Answered)>,
    published: [Vec<u64>; 2],
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Seen>>);

/// A sink that fails now and then, also after the event is there.
struct Sink {
    simulation: Simulation,
    record: Record,
    is_faulty: bool,
}

impl EventSink for Sink {
    fn limits(&self) -> EventLimits {
        EventLimits::PROCESS
    }

    async fn append_many(&self, events: &[Event]) -> Vec<StoreResult<()>> {
        let mut answers = Vec::new();
        for event in events {
            answers.push(self.append(event).await);
        }
        answers
    }

    async fn append(&self, event: &Event) -> StoreResult<()> {
        wait(&self.simulation, self.simulation.below(1_000)).await;
        let failed = || Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, "the sink failed"));
        if self.is_faulty && self.simulation.chance(100) {
            return failed();
        }
        let which = KEYS.iter().position(|known| *known == event.key.as_slice()).unwrap();
        let number = u64::from_be_bytes(event.bytes.as_ref().try_into().unwrap());
        self.record.0.lock().unwrap().published[which].push(number);
        if self.is_faulty && self.simulation.chance(100) {
            return failed();
        }
        Ok(())
    }
}

async fn wait(simulation: &Simulation, micros: u64) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(Duration::from_micros(micros))).await;
}

fn outbox(simulation: &Simulation, node: Node, bug: Option<Bug>) -> Outbox<SimStore> {
    let behind = Duration::from_millis(u64::from(node.0) * 7);
    let config = OutboxConfig {
        shards: 2,
        settle_after: Duration::from_millis(20),
        poll_every: Duration::from_millis(5),
        call_wait_max: Duration::from_millis(10),
        retry: RetryPolicy {
            wait_base: Duration::from_millis(1),
            wait_max: Duration::from_millis(8),
            total_max: Duration::from_millis(60),
            ..RetryPolicy::default()
        },
        clock: Arc::new(SkewedClock::new(simulation.clock(), behind)),
        entropy: simulation.entropy(),
        bug,
        ..OutboxConfig::default()
    };
    Outbox::new(simulation.store(node), "out", &[RECORDS], config).expect("a good configuration")
}

fn numbers(value: &[u8]) -> Vec<u64> {
    value.chunks(8).map(|number| u64::from_be_bytes(number.try_into().unwrap())).collect()
}

/// Reads a record and writes one number more, on what was read.
async fn write_once(store: &SimStore, outbox: &Outbox<SimStore>, record: &Record, key: &'static [u8]) {
    let key = Key::lone(RECORDS, key);
    let Ok(found) = store.get(key).await else { return };
    let number = {
        let mut seen = record.0.lock().unwrap();
        seen.next += 1;
        let number = seen.next;
        seen.answers.push((number, Answered::Unknown));
        number
    };
    let (mut value, expect) = match found {
        Some(found) => (found.value.to_vec(), Expect::Is(found.version)),
        None => (Vec::new(), Expect::Absent),
    };
    value.extend_from_slice(&number.to_be_bytes());
    let events = vec![NewEvent::new(key.partition(), number.to_be_bytes().to_vec())];
    let answered = match outbox.write(key, value, expect, events).await {
        Ok(Wrote::Written(_)) => Answered::Written,
        Ok(Wrote::Conflict { .. }) => Answered::NotWritten,
        Err(error) if error.effect() == Effect::None => Answered::NotWritten,
        Err(_) => Answered::Unknown,
    };
    let at = usize::try_from(number).unwrap() - 1;
    record.0.lock().unwrap().answers[at].1 = answered;
}

async fn process(simulation: Simulation, node: Node, record: Record, bug: Option<Bug>) {
    let outbox = outbox(&simulation, node, bug);
    let sink = Sink { simulation: simulation.clone(), record: record.clone(), is_faulty: true };
    let relay = outbox.clone();
    if node.0 < 2 {
        simulation.spawn(node, async move { relay.relay(&sink).await });
    }
    let store = simulation.store(node);
    for _ in 0..6 {
        wait(&simulation, simulation.below(12_000)).await;
        let key = KEYS[usize::try_from(simulation.below(2)).unwrap()];
        write_once(&store, &outbox, &record, key).await;
    }
}

fn run(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let simulation = Simulation::new(seed);
    let record = Record::default();
    let nodes: Vec<Node> = (0..3).map(Node).collect();
    simulation.set_faults(match simulation.below(4) {
        0 => Faults::NONE,
        1 => Faults { reply_lost: 150, late: 100, ..Faults::MANY },
        _ => Faults::MANY,
    });
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, record.clone(), bug));
    nodes.iter().copied().for_each(start);
    for _ in 0..simulation.below(5) {
        let pause = Duration::from_micros(simulation.below(60_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        let node = nodes[usize::try_from(simulation.below(3)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.run_for(Duration::from_millis(300)).map_err(|error| error.to_string())?;
    // Peace: whatever is still on its way arrives.
    simulation.set_faults(Faults::NONE);
    for &node in &nodes {
        simulation.crash(node);
    }
    simulation.run_for(Duration::from_secs(11)).map_err(|error| error.to_string())?;
    settle(&simulation, &record, bug)?;
    Ok(simulation.digest())
}

/// Without faults everything is published, and what was published and answered is right.
fn settle(simulation: &Simulation, record: &Record, bug: Option<Bug>) -> Result<(), String> {
    let values = Arc::new(Mutex::new(None));
    let (sim, seen, there) = (simulation.clone(), record.clone(), Arc::clone(&values));
    simulation.spawn(Node(2), async move {
        let outbox = outbox(&sim, Node(2), bug);
        let sink = Sink { simulation: sim.clone(), record: seen, is_faulty: false };
        for _ in 0..8 {
            let relayed = outbox.relay_once(&sink).await.expect("peace");
            assert!(relayed.error.is_none(), "{:?}", relayed.error);
            wait(&sim, 30_000).await;
        }
        let left = outbox.relay_once(&sink).await.expect("peace").left;
        let mut values = Vec::new();
        for key in KEYS {
            let record = sim.truth().get(Key::lone(RECORDS, key)).await.expect("the truth");
            values.push(record.map(|record| numbers(&record.value)).unwrap_or_default());
        }
        *there.lock().unwrap() = Some((values, left));
    });
    simulation.run_for(Duration::from_secs(5)).map_err(|error| error.to_string())?;
    let (values, left) = values.lock().unwrap().take().ok_or("in peace, the relay did not end")?;
    if left != 0 {
        return Err(format!("in peace, {left} intents are left"));
    }
    let seen = record.0.lock().unwrap();
    let mut all = OutboxHistory::default();
    for (written, published) in values.into_iter().zip(&seen.published) {
        let history = OutboxHistory { written, published: published.clone() };
        complete(&history).map_err(|violation| violation.to_string())?;
        ordered(&history).map_err(|violation| violation.to_string())?;
        all.written.extend(history.written);
    }
    honest(&seen.answers, &all).map_err(|violation| violation.to_string())
}

#[test]
fn no_event_is_lost_or_invented() {
    support::survives("outbox", "no_event_is_lost", SEEDS, |seed| run(seed, None));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

#[track_caller]
fn is_caught(bug: Bug) {
    support::is_caught(bug, BUG_SEEDS, |seed| run(seed, Some(bug)));
}

#[test]
fn removing_before_publishing_is_caught() {
    is_caught(Bug::RemoveFirst);
}

#[test]
fn writing_the_record_first_is_caught() {
    is_caught(Bug::RecordFirst);
}

#[test]
fn publishing_what_was_abandoned_is_caught() {
    is_caught(Bug::PublishAbandoned);
}

#[test]
fn taking_back_what_may_still_be_written_is_caught() {
    is_caught(Bug::TakeBack);
}

#[test]
fn publishing_in_any_order_is_caught() {
    is_caught(Bug::AnyOrder);
}

#[test]
fn following_only_what_was_listed_is_caught() {
    is_caught(Bug::ListedOnly);
}

fn scenario(simulation: &Simulation, fault: Fault) -> Result<u64, String> {
    let first = Node(0);
    let record = Record::default();
    simulation.set_fault(first, fault);
    let (sim, seen) = (simulation.clone(), record.clone());
    simulation.spawn(first, async move {
        let (store, outbox) = (sim.store(first), outbox(&sim, first, None));
        let sink = Sink { simulation: sim.clone(), record: seen.clone(), is_faulty: false };
        for _ in 0..3 {
            write_once(&store, &outbox, &seen, KEYS[0]).await;
            write_once(&store, &outbox, &seen, KEYS[0]).await;
            write_once(&store, &outbox, &seen, KEYS[1]).await;
            drop(outbox.relay_once(&sink).await);
        }
    });
    simulation.run_for(Duration::from_secs(2)).map_err(|error| error.to_string())?;
    let calls = simulation.calls(first);
    simulation.crash(first);
    settle(simulation, &record, None)?;
    Ok(calls)
}

#[test]
fn every_fault_at_every_storage_call() {
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    // Three faults, and some fifty calls in that life.
    assert!(runs > 120, "only {runs} runs");
}
