//! A relay goes on whatever becomes of one record: a sink that hangs or refuses, rows that can't be read.
#![cfg(all(feature = "memory", feature = "seeded-bugs"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::event::{Event, EventLimits, EventSink, NewEvent};
use sysd_core::{
    Clock as _, Effect, Error, ErrorKind, Expect, Key, Result, Scan, Space, Store as _, StoreExt as _, Timestamp, tuple,
};
use sysd_storage::{Outbox, OutboxConfig, Wrote};
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation};

const RECORDS: Space = Space::conditional("records");
const OUTBOX: Space = Space::conditional("outbox");
const BAD: &[u8] = b"bad";

/// What a sink does with events of the key `bad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Takes,
    Hangs,
    Refuses,
}

#[derive(Default)]
struct Seen {
    /// Of each key, the events and when they came.
    events: BTreeMap<Vec<u8>, Vec<(Vec<u8>, Timestamp)>>,
    /// How often it was asked for the bad key.
    bad_asked: usize,
    at_once: usize,
    at_once_max: usize,
}

#[derive(Clone)]
struct Sink {
    simulation: Simulation,
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Mutex<Seen>>,
}

impl EventSink for Sink {
    fn limits(&self) -> EventLimits {
        EventLimits::PROCESS
    }

    async fn append(&self, event: &Event) -> Result<()> {
        if event.key.as_slice() == BAD {
            self.seen.lock().unwrap().bad_asked += 1;
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Takes => {}
                Mood::Hangs => std::future::pending().await,
                Mood::Refuses => return Err(Error::new(ErrorKind::Denied, Effect::None, "not this one")),
            }
        }
        let clock = self.simulation.clock();
        {
            let mut seen = self.seen.lock().unwrap();
            seen.at_once += 1;
            seen.at_once_max = seen.at_once_max.max(seen.at_once);
        }
        clock.sleep_until(clock.now().saturating_add(Duration::from_millis(1))).await;
        let mut seen = self.seen.lock().unwrap();
        seen.at_once -= 1;
        seen.events.entry(event.key.to_vec()).or_default().push((event.bytes.to_vec(), clock.now()));
        Ok(())
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        let mut answers = Vec::new();
        for event in events {
            answers.push(self.append(event).await);
        }
        answers
    }
}

struct Scene {
    simulation: Simulation,
    sink: Sink,
    outbox: Outbox<SimStore>,
}

fn scene(mood: Mood) -> Scene {
    let simulation = Simulation::new(7);
    simulation.set_faults(Faults::NONE);
    let sink = Sink { simulation: simulation.clone(), mood: Arc::new(Mutex::new(mood)), seen: Arc::default() };
    let config = OutboxConfig {
        shards: 2,
        records_at_once: 4,
        clock: Arc::new(simulation.clock()),
        entropy: simulation.entropy(),
        ..OutboxConfig::default()
    };
    let outbox = Outbox::new(simulation.store(Node(0)), "o", &[RECORDS], config).unwrap();
    Scene { simulation, sink, outbox }
}

impl Scene {
    fn run<T: Send + 'static>(&self, seconds: u64, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let done = Arc::new(Mutex::new(None));
        let there = Arc::clone(&done);
        self.simulation.spawn(Node(0), async move {
            let output = work.await;
            *there.lock().unwrap() = Some(output);
        });
        self.simulation.run_for(Duration::from_secs(seconds)).unwrap();
        done.lock().unwrap().take()
    }

    /// Writes a record so often, with an event each time, under the record's name.
    fn write(&self, name: &'static [u8], times: u8) {
        let outbox = self.outbox.clone();
        let done = self.run(1, async move {
            let mut expect = Expect::Absent;
            for number in 0..times {
                let events = vec![NewEvent::new(name, vec![number])];
                let Wrote::Written(version) =
                    outbox.write(Key::lone(RECORDS, name), "x", expect, events).await.unwrap()
                else {
                    panic!()
                };
                expect = Expect::Is(version);
            }
        });
        done.unwrap();
    }

    /// Writes a record with an event, over what `expect` says, and waits a second.
    fn write_over(&self, name: &'static [u8], expect: &mut Expect, number: u8) {
        let (outbox, before) = (self.outbox.clone(), *expect);
        let write = async move {
            let events = vec![NewEvent::new(name, vec![number])];
            outbox.write(Key::lone(RECORDS, name), "x", before, events).await.unwrap()
        };
        let Some(Wrote::Written(version)) = self.run(1, write) else { panic!("it was not written") };
        *expect = Expect::Is(version);
    }

    /// A relay, and how often something failed.
    fn relay_counting(&self) -> Arc<Mutex<usize>> {
        let (outbox, sink, failed) = (self.outbox.clone(), self.sink.clone(), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&failed);
        self.simulation.spawn(Node(0), async move {
            outbox.relay_reporting(&sink, |relayed| *count.lock().unwrap() += relayed.failed).await;
        });
        failed
    }

    /// Cuts a row's last byte off.
    fn cut_row(&self, shard: u16, sort: &[u8]) {
        let (partition, truth) = (tuple::encode(&("o", shard)), self.simulation.truth());
        let key = Key::row(OUTBOX, &partition, sort);
        let mut value = futures::executor::block_on(truth.get(key)).unwrap().unwrap().value;
        value.truncate(value.len() - 1);
        futures::executor::block_on(truth.put(key, value)).unwrap();
    }

    fn relay(&self) {
        let (outbox, sink) = (self.outbox.clone(), self.sink.clone());
        self.simulation.spawn(Node(0), async move { outbox.relay(&sink).await });
    }

    fn events(&self, key: &[u8]) -> Vec<u8> {
        let seen = self.sink.seen.lock().unwrap();
        seen.events.get(key).into_iter().flatten().map(|(bytes, _)| bytes[0]).collect()
    }

    /// The rows of all intents: their partitions and sorts.
    fn rows(&self) -> Vec<(u16, Vec<u8>)> {
        let truth = self.simulation.truth();
        let rows = |shard: u16| {
            let partition = tuple::encode(&("o", shard));
            let rows = futures::executor::block_on(truth.scan_rows(Scan::partition(OUTBOX, &partition, 100))).unwrap();
            rows.into_iter().map(move |row| (shard, row.sort.to_vec()))
        };
        (0..2).flat_map(rows).collect()
    }

    fn put_row(&self, shard: u16, sort: &[u8], value: &'static [u8]) {
        let partition = tuple::encode(&("o", shard));
        let truth = self.simulation.truth();
        futures::executor::block_on(truth.put(Key::row(OUTBOX, &partition, sort), value)).unwrap();
    }
}

const OTHERS: [&[u8]; 8] = [b"k0", b"k1", b"k2", b"k3", b"k4", b"k5", b"k6", b"k7"];

/// While one record's events hang or are refused, those of others come within a second; then its own come, in order.
fn one_bad_record_stops_no_other(mood: Mood) {
    let scene = scene(mood);
    scene.write(BAD, 3);
    scene.relay();
    for name in OTHERS {
        scene.write(name, 2);
        scene.simulation.run_for(Duration::from_secs(7)).unwrap();
        assert_eq!(scene.events(name), [0, 1], "{mood:?}");
        // Each write waits a second itself.
        let (last, now) = (scene.sink.seen.lock().unwrap().events[name][1].1, scene.simulation.clock().now());
        assert!(now.saturating_since(last) > Duration::from_secs(6), "it came late");
    }
    assert!(scene.events(BAD).is_empty());
    let asked = scene.sink.seen.lock().unwrap().bad_asked;
    assert!((2..30).contains(&asked), "asked {asked} times in a minute");
    *scene.sink.mood.lock().unwrap() = Mood::Takes;
    scene.simulation.run_for(Duration::from_secs(30)).unwrap();
    assert_eq!(scene.events(BAD), [0, 1, 2]);
    assert!(scene.rows().is_empty());
}

#[test]
fn a_sink_that_hangs_for_one_record_stops_no_other() {
    one_bad_record_stops_no_other(Mood::Hangs);
}

#[test]
fn a_sink_that_refuses_one_record_stops_no_other_and_is_not_asked_all_the_time() {
    one_bad_record_stops_no_other(Mood::Refuses);
}

/// Looking once ends in time, and says which record failed.
#[test]
fn a_look_ends_though_the_sink_hangs_and_names_the_record() {
    let scene = scene(Mood::Hangs);
    scene.write(BAD, 3);
    scene.write(b"good", 2);
    let (outbox, sink) = (scene.outbox.clone(), scene.sink.clone());
    let relayed = scene.run(60, async move { outbox.relay_once(&sink).await }).expect("it ends").unwrap();
    assert_eq!((relayed.published, relayed.settled, relayed.left), (2, 2, 3));
    let error = relayed.error.unwrap();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
    assert_eq!(error.key(), Some(Key::lone(RECORDS, BAD)));
}

/// Rows that can't be read, by their key or by their value, stop nothing but the record whose history they are; nothing of
/// them is removed, and the look names one.
#[test]
fn rows_that_cannot_be_read_stop_no_other_record() {
    let scene = scene(Mood::Takes);
    scene.write(BAD, 2);
    let rows = scene.rows();
    // Of its two intents, whichever: the other's events must not come without it, or are before it.
    scene.put_row(rows[0].0, &rows[0].1, b"??");
    for shard in 0..2 {
        scene.put_row(shard, b"\0", b"no key of an intent");
        scene.put_row(shard, b"neither is this one a key", b"?");
    }
    for name in OTHERS {
        scene.write(name, 2);
    }
    let (outbox, sink) = (scene.outbox.clone(), scene.sink.clone());
    let relayed = scene.run(60, async move { outbox.relay_once(&sink).await }).expect("it ends").unwrap();
    for name in OTHERS {
        assert_eq!(scene.events(name), [0, 1]);
    }
    let error = relayed.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.key().is_some());
    assert_eq!((scene.events(BAD), relayed.settled), (vec![], 16));
    assert!(scene.rows().len() > 4, "they are kept");
}

/// An intent that can't be read and that the record's history does not lead to holds the record up no longer than others, however
/// long it has been there; it is told again and again, but not at every look.
#[test]
fn a_broken_intent_that_is_no_history_holds_nothing_up() {
    let scene = scene(Mood::Takes);
    scene.write_over(b"good", &mut Expect::Absent, 0);
    let (shard, sort) = scene.rows().remove(0);
    let stray = [&sort[..sort.len() - 16], &[9; 16]].concat();
    scene.put_row(shard, &stray, b"??");
    let failed = scene.relay_counting();
    scene.simulation.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(scene.events(b"good"), [0]);
    assert_eq!(scene.rows(), [(shard, stray.clone())], "it is kept");
    scene.simulation.run_for(Duration::from_secs(60)).unwrap();
    let told = *failed.lock().unwrap();
    assert!((5..25).contains(&told), "told {told} times in a minute");
    // By now a record whose events are refused would rest for ten seconds.
    let record = futures::executor::block_on(scene.simulation.truth().get(Key::lone(RECORDS, b"good"))).unwrap();
    let mut expect = Expect::Is(record.unwrap().version);
    for number in 1..4 {
        scene.write_over(b"good", &mut expect, number);
        assert_eq!(scene.events(b"good").last(), Some(&number), "it waits");
    }
    assert!(*failed.lock().unwrap() > told);
}

/// Of a record's history, one intent is cut off behind its head: what was written before that is published, nothing else, and nothing
/// is removed.
#[test]
fn what_was_written_before_a_broken_intent_is_published() {
    for broken in 0..4 {
        let scene = scene(Mood::Takes);
        let (mut expect, mut rows) = (Expect::Absent, Vec::new());
        for number in 0..4 {
            scene.write_over(BAD, &mut expect, number);
            let new = scene.rows().into_iter().find(|row| !rows.contains(row)).unwrap();
            rows.push(new);
        }
        // Overtaken long ago, by what can be read.
        scene.simulation.run_for(Duration::from_secs(60)).unwrap();
        let (shard, sort) = &rows[broken];
        scene.cut_row(*shard, sort);
        let (outbox, sink) = (scene.outbox.clone(), scene.sink.clone());
        let relayed = scene.run(60, async move { outbox.relay_once(&sink).await }).expect("it ends").unwrap();
        assert_eq!(scene.events(BAD), (0..4).take(broken).collect::<Vec<u8>>());
        assert_eq!((relayed.settled, relayed.left, relayed.failed), (broken, 4 - broken, 1));
        assert_eq!(relayed.error.unwrap().kind(), ErrorKind::Corrupt);
        let mut left = rows[broken..].to_vec();
        left.sort();
        assert_eq!(scene.rows(), left, "they are kept");
    }
}

/// No more records in hand than were asked for.
#[test]
fn no_more_records_at_once_than_were_asked_for() {
    let scene = scene(Mood::Takes);
    for name in OTHERS {
        scene.write(name, 3);
    }
    let (outbox, sink) = (scene.outbox.clone(), scene.sink.clone());
    let relayed = scene.run(60, async move { outbox.relay_once(&sink).await }).unwrap().unwrap();
    assert_eq!((relayed.published, relayed.left), (24, 0));
    let seen = scene.sink.seen.lock().unwrap();
    assert!((2..=4).contains(&seen.at_once_max), "{} at once", seen.at_once_max);
}
