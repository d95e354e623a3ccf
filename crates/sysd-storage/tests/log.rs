//! The shared log around its protocol, which `sysd-testkit` simulates: what is refused, what ends when, what is stored.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{
    Effect, ErrorKind, Key, ManualClock, Outcome, Result, Scan, SeededEntropy, Space, StateMachine as _, Store,
    StoreExt, Timestamp, Write, tuple,
};
use sysd_storage::{Driver, Follower, Memory, Replica, ReplicaConfig};
use sysd_testkit::counters::Add;
use sysd_testkit::{Counters, Limited, Overridden, Overrides};

const LOG: Space = Space::conditional("log");
const START: u64 = 1_767_225_600_000_000;

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(START).unwrap())
}

fn config(clock: &ManualClock) -> ReplicaConfig {
    ReplicaConfig {
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(1)),
        poll_every: None,
        ..ReplicaConfig::default()
    }
}

const fn add(id: u64) -> Add {
    Add { id, counter: 0, amount: 1 }
}

fn open(store: impl Store, config: ReplicaConfig) -> (Replica<Counters>, Driver) {
    block_on(Replica::open(store, "bank", config)).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes hang while it is set; they never happen.
#[derive(Clone, Default)]
struct Hanging(Arc<AtomicBool>);

impl<S: Store> Overrides<S> for Hanging {
    async fn write(&self, store: &S, write: Write<'_>) -> Result<Outcome> {
        if self.0.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        store.write(write).await
    }
}

fn told(answer: Poll<Result<impl Sized>>) -> (ErrorKind, Effect) {
    match answer {
        Poll::Ready(Err(error)) => (error.kind(), error.effect()),
        Poll::Ready(Ok(_)) => panic!("it succeeded"),
        Poll::Pending => panic!("it still waits"),
    }
}

#[test]
fn a_name_is_refused_by_its_field() {
    for (name, kind) in [("", ErrorKind::Invalid), (&*"x".repeat(257), ErrorKind::TooLarge)] {
        let error = block_on(Replica::<Counters>::open(Memory::new(), name, ReplicaConfig::default())).unwrap_err();
        assert_eq!((error.kind(), error.field(), error.effect()), (kind, Some("name"), Effect::None));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let clock = clock();
    let config = ReplicaConfig { queue_commands_max: 2, ..config(&clock) };
    let (replica, mut driver) = open(Memory::with_clock(clock.clone()), config);
    let mut fits: Vec<_> = (0..2).map(|id| Box::pin(replica.submit(add(id)))).collect();
    assert!(fits.iter_mut().all(|submit| poll(submit).is_pending()));
    let refused = told(replica.submit(add(9)).now_or_never().map_or(Poll::Pending, Poll::Ready));
    assert_eq!(refused, (ErrorKind::Throttled, Effect::None));
    assert!(poll(&mut driver).is_pending());
    assert!(fits.iter_mut().all(|submit| matches!(poll(submit), Poll::Ready(Ok(_)))));

    let config = ReplicaConfig { batch_bytes_max: 60, ..self::config(&clock) };
    let (replica, _driver) = open(Memory::with_clock(clock.clone()), config);
    let error = replica.submit(add(1)).now_or_never().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.field(), error.effect()), (ErrorKind::TooLarge, Some("command"), Effect::None));
    assert_eq!(replica.status().next, 0);

    let config = ReplicaConfig { queue_bytes_max: 30, ..self::config(&clock) };
    let (replica, _driver) = open(Memory::with_clock(clock), config);
    let mut fits = Box::pin(replica.submit(add(1)));
    assert!(poll(&mut fits).is_pending());
    let refused = told(replica.submit(add(2)).now_or_never().map_or(Poll::Pending, Poll::Ready));
    assert_eq!(refused, (ErrorKind::Throttled, Effect::None));
}

#[test]
fn batches_split_where_an_entry_is_full_and_keep_the_order() {
    let clock = clock();
    // Two commands of 24 bytes and the entry's own 46.
    let config = ReplicaConfig { batch_bytes_max: 46 + 2 * 24, ..config(&clock) };
    let (replica, mut driver) = open(Memory::with_clock(clock), config);
    let mut waiting: Vec<_> = (0..5).map(|id| Box::pin(replica.submit(add(id)))).collect();
    assert!(waiting.iter_mut().all(|submit| poll(submit).is_pending()));
    assert!(poll(&mut driver).is_pending());
    for (submit, position) in waiting.iter_mut().zip(0..) {
        let Poll::Ready(Ok(added)) = poll(submit) else { panic!("no reply") };
        assert_eq!(added.position, position);
    }
    assert_eq!(replica.status().next, 3);
}

#[test]
fn a_store_that_hangs_costs_no_more_than_the_deadline() {
    let clock = clock();
    let store = Overridden(Memory::with_clock(clock.clone()), Hanging::default());
    let config = ReplicaConfig {
        submit_wait_max: Duration::from_secs(3),
        call_wait_max: Duration::from_secs(1),
        ..config(&clock)
    };
    let (replica, mut driver) = open(store.clone(), config);
    store.1.0.store(true, Ordering::SeqCst);
    let mut sent = Box::pin(replica.submit(add(1)));
    assert!(poll(&mut sent).is_pending() && poll(&mut driver).is_pending());
    let mut queued = Box::pin(replica.submit(add(2)));
    assert!(poll(&mut queued).is_pending());
    let deadline = Timestamp::from_micros(START).unwrap().saturating_add(Duration::from_millis(4_500));
    while let Some(next) = clock.next_deadline().filter(|next| *next <= deadline) {
        clock.set(next);
        assert!(poll(&mut driver).is_pending());
    }
    assert_eq!(told(poll(&mut sent)), (ErrorKind::Timeout, Effect::Unknown));
    assert_eq!(told(poll(&mut queued)), (ErrorKind::Timeout, Effect::None));

    // It comes back: the first is settled before anything else is appended, and applied once.
    store.1.0.store(false, Ordering::SeqCst);
    let mut third = Box::pin(replica.submit(add(3)));
    assert!(poll(&mut third).is_pending());
    while poll(&mut driver).is_pending() && poll(&mut third).is_pending() {
        clock.set(clock.next_deadline().expect("it waits to try again"));
    }
    let ids = |counters: &Counters| counters.journal().iter().map(|(_, command)| command.id).collect::<Vec<_>>();
    assert_eq!(replica.read(ids), [1, 3]);
}

#[test]
fn a_dropped_driver_says_what_may_have_happened() {
    let clock = clock();
    let store = Overridden(Memory::with_clock(clock.clone()), Hanging::default());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    store.1.0.store(true, Ordering::SeqCst);
    let mut sent = Box::pin(replica.submit(add(1)));
    assert!(poll(&mut sent).is_pending() && poll(&mut driver).is_pending());
    let (mut queued, mut read) = (Box::pin(replica.submit(add(2))), Box::pin(replica.read_latest(|_| ())));
    let mut snapshot = Box::pin(replica.snapshot());
    assert!(poll(&mut queued).is_pending() && poll(&mut read).is_pending() && poll(&mut snapshot).is_pending());
    drop(driver);
    assert_eq!(told(poll(&mut sent)), (ErrorKind::Unavailable, Effect::Unknown));
    assert_eq!(told(poll(&mut queued)), (ErrorKind::Unavailable, Effect::None));
    assert_eq!(told(poll(&mut read)), (ErrorKind::Unavailable, Effect::None));
    assert_eq!(told(poll(&mut snapshot)).0, ErrorKind::Unavailable);
    let late = replica.submit(add(3)).now_or_never().map_or(Poll::Pending, Poll::Ready);
    assert_eq!(told(late), (ErrorKind::Unavailable, Effect::None));
    assert!(replica.snapshot().now_or_never().unwrap().is_err());
}

#[test]
fn a_driver_ends_when_nobody_is_left() {
    let clock = clock();
    let (replica, mut driver) = open(Memory::with_clock(clock.clone()), config(&clock));
    let other = replica.clone();
    drop(replica);
    assert!(poll(&mut driver).is_pending());
    drop(other);
    assert!(matches!(poll(&mut driver), Poll::Ready(Ok(()))));
}

#[test]
fn a_submission_may_be_dropped_anywhere() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let mut unpolled = 0;
    for (id, polls) in (0..30).zip([0, 1, 2].into_iter().cycle()) {
        let mut dropped = Box::pin(replica.submit(add(id)));
        for _ in 0..polls {
            assert!(poll(&mut dropped).is_pending());
        }
        unpolled += u64::from(polls == 0);
        drop(dropped);
        let mut kept = Box::pin(replica.submit(add(1_000 + id)));
        assert!(poll(&mut kept).is_pending() && poll(&mut driver).is_pending());
        assert!(matches!(poll(&mut kept), Poll::Ready(Ok(_))));
    }
    let ids = replica.read(|counters| counters.journal().len());
    // What was never polled was never submitted; everything else is there once.
    assert_eq!(ids as u64, 60 - unpolled);
    assert_eq!(open(store, config(&clock)).0.read(Counters::clone), replica.read(Counters::clone));
}

#[test]
fn another_machines_log_is_refused() {
    #[derive(Debug, Default)]
    struct Other;
    impl sysd_core::StateMachine for Other {
        type Command = ();
        type Reply = ();
        const NAME: &'static str = "other";
        const FORMAT: u16 = 1;
        fn apply(&mut self, _: Timestamp, (): &()) {}
        fn encode_command((): &(), _: &mut Vec<u8>) {}
        fn decode_command(_: u16, _: &[u8]) -> Result<(), sysd_core::DecodeError> {
            Ok(())
        }
        fn encode_snapshot(&self, _: &mut Vec<u8>) {}
        fn decode_snapshot(_: u16, _: &[u8]) -> Result<Self, sysd_core::DecodeError> {
            Ok(Self)
        }
    }
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    drop(open(store.clone(), config(&clock)));
    let error = block_on(Replica::<Other>::open(store, "bank", config(&clock))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("counters") && error.message().contains("other"), "{error}");
}

fn run<T>(driver: &mut Driver, future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    for _ in 0..1_000 {
        let answer = poll(&mut future);
        assert!(poll(driver).is_pending());
        if let Poll::Ready(answer) = answer {
            return answer;
        }
    }
    panic!("no answer after a thousand polls");
}

fn entry_key(number: u64) -> (Vec<u8>, Vec<u8>) {
    (tuple::encode(&("bank", 0_u8, number / 1_024)).to_vec(), tuple::encode(&(number,)).to_vec())
}

#[test]
fn a_corrupt_entry_is_named_and_stops_everything() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let (follower, mut following) =
        block_on(Follower::<Counters>::open(store.clone(), "bank", config(&clock))).unwrap();
    for id in 0..3 {
        run(&mut driver, replica.submit(add(id))).unwrap();
    }
    let (partition, sort) = entry_key(1);
    let key = Key::row(LOG, &partition, &sort);
    let mut value = block_on(store.get(key)).unwrap().unwrap().value.to_vec();
    value[50] ^= 1;
    block_on(store.put(key, value)).unwrap();

    let error = block_on(Replica::<Counters>::open(store.clone(), "bank", config(&clock))).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(key)));
    let mut read = Box::pin(follower.read_latest(|_| ()));
    assert!(poll(&mut read).is_pending());
    assert!(matches!(poll(&mut following), Poll::Ready(Err(error)) if error.kind() == ErrorKind::Corrupt));
    assert!(matches!(poll(&mut read), Poll::Ready(Err(_))));
    assert_eq!(told(Poll::Ready(block_on(follower.read_latest(|_| ())))), (ErrorKind::Corrupt, Effect::None));

    // A gap is as bad.
    block_on(store.delete(key)).unwrap();
    let error = block_on(Replica::<Counters>::open(store, "bank", config(&clock))).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(key)));
}

#[test]
fn a_long_log_spans_segments_and_snapshots() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let config = ReplicaConfig { snapshot_log_bytes: None, ..config(&clock) };
    let (replica, mut driver) = open(store.clone(), config.clone());
    for id in 0..2_500 {
        run(&mut driver, replica.submit(add(id))).unwrap();
    }
    assert_eq!(replica.status().next, 2_500);
    let (again, _driver) = open(store.clone(), config.clone());
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));

    let before = store.record_count();
    assert_eq!(run(&mut driver, replica.snapshot()).unwrap(), 2_500);
    // 28 bytes a command: one chunk, and the manifest.
    assert_eq!(store.record_count(), before + 2);
    run(&mut driver, replica.submit(add(2_500))).unwrap();
    let (again, _driver) = open(store.clone(), config.clone());
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
    assert_eq!(again.status().snapshot_next, 2_500);
    // The next one takes its place.
    assert_eq!(run(&mut driver, replica.snapshot()).unwrap(), 2_501);
    assert_eq!(store.record_count(), before + 3);
}

#[test]
fn a_large_snapshot_comes_in_chunks_and_a_missing_one_is_corrupt() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let mut all: Vec<_> = (0..30_000).map(|id| Box::pin(replica.submit(add(id)))).collect();
    assert!(all.iter_mut().all(|submit| poll(submit).is_pending()));
    assert!(poll(&mut driver).is_pending());
    assert!(all.iter_mut().all(|submit| matches!(poll(submit), Poll::Ready(Ok(_)))));
    run(&mut driver, replica.snapshot()).unwrap();
    let (again, _driver) = open(store.clone(), config(&clock));
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));

    // 840,000 bytes: four chunks, in the partition that the manifest names.
    let manifest = tuple::encode(&("bank", 2_u8));
    let record = block_on(store.get(Key::lone(LOG, &manifest))).unwrap().unwrap();
    let id = u128::from_be_bytes(record.value[2..18].try_into().unwrap());
    let partition = tuple::encode(&("bank", 3_u8, id));
    let chunks = block_on(store.scan_rows(Scan::partition(LOG, &partition, 10))).unwrap();
    assert_eq!(chunks.len(), 4);
    block_on(store.delete(Key::row(LOG, &partition, &chunks[2].sort))).unwrap();
    let error = block_on(Replica::<Counters>::open(store, "bank", config(&clock))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn small_limits_and_short_pages_are_enough() {
    let clock = clock();
    let store = Limited::new(Memory::with_clock(clock.clone()), clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    for id in 0..1_300 {
        run(&mut driver, replica.submit(add(id))).unwrap();
    }
    let (again, _driver) = open(store.clone(), config(&clock));
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
    run(&mut driver, replica.snapshot()).unwrap();
    let (again, _driver) = open(store, config(&clock));
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
}

#[test]
fn reads_say_how_stale_they_are() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let (follower, mut following) = block_on(Follower::<Counters>::open(store, "bank", config(&clock))).unwrap();
    run(&mut driver, replica.submit(add(1))).unwrap();
    assert_eq!(follower.read(|counters| counters.total(0)), 0);
    clock.advance(Duration::from_secs(5));
    let error = follower.read_within(Duration::from_secs(4), |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(follower.read_within(Duration::from_secs(5), |_| ()).is_ok());
    assert_eq!(run(&mut following, follower.read_latest(|counters| counters.total(0))).unwrap(), 1);
    assert!(follower.read_within(Duration::ZERO, |_| ()).is_ok());
}

#[test]
fn a_follower_follows_by_itself() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let polling = ReplicaConfig { poll_every: Some(Duration::from_millis(100)), ..config(&clock) };
    let (follower, mut following) = block_on(Follower::<Counters>::open(store, "bank", polling)).unwrap();
    assert!(poll(&mut following).is_pending());
    for id in 0..100 {
        run(&mut driver, replica.submit(add(id))).unwrap();
    }
    clock.advance(Duration::from_millis(99));
    assert!(poll(&mut following).is_pending());
    assert_eq!(follower.read(|counters| counters.total(0)), 0);
    clock.advance(Duration::from_millis(1));
    for _ in 0..10 {
        assert!(poll(&mut following).is_pending());
    }
    assert_eq!(follower.read(|counters| counters.total(0)), 100);
}

/// The stored bytes of format 1, for ever: a log that was written once can be read by every later version.
#[test]
fn the_golden_log_reads_and_writes_the_same() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock));
    let mut both: Vec<_> = [Add { id: 7, counter: 1, amount: -2 }, Add { id: 8, counter: 1, amount: 5 }]
        .into_iter()
        .map(|command| Box::pin(replica.submit(command)))
        .collect();
    assert!(both.iter_mut().all(|submit| poll(submit).is_pending()) && poll(&mut driver).is_pending());
    clock.advance(Duration::from_secs(1));
    assert_eq!(run(&mut driver, replica.fence()).unwrap(), 1);
    assert_eq!(run(&mut driver, replica.release()).unwrap(), 1);
    assert_eq!(run(&mut driver, replica.snapshot()).unwrap(), 3);

    let golden: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = include_str!("golden/log-1.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut parts = line.split(' ').map(unhex);
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
        })
        .collect();
    let read = Memory::with_clock(clock.clone());
    for (partition, sort, value) in &golden {
        let record = block_on(store.get(Key::row(LOG, partition, sort))).unwrap();
        assert_eq!(record.map(|record| hex(&record.value)), Some(hex(value)), "partition {}", partition.escape_ascii());
        block_on(read.put(Key::row(LOG, partition, sort), value.clone())).unwrap();
    }
    assert_eq!(golden.len(), store.record_count(), "nothing else is stored");
    let (again, _driver) = open(read.clone(), config(&clock));
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
    assert_eq!(again.status(), replica.status());
    // And from the entries alone.
    block_on(read.delete(Key::lone(LOG, &tuple::encode(&("bank", 2_u8))))).unwrap();
    let (again, _driver) = open(read, config(&clock));
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
    assert_eq!((again.status().epoch, again.status().owner), (1, None));
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn the_machine_for_tests_keeps_its_laws() {
    let mut counters = Counters::default();
    let now = Timestamp::from_micros(START).unwrap();
    for id in 0..5 {
        let command = Add { id, counter: 1, amount: i64::MIN };
        let mut bytes = Vec::new();
        Counters::encode_command(&command, &mut bytes);
        assert_eq!(Counters::decode_command(1, &bytes), Ok(command));
        counters.apply(now, &command);
    }
    let mut bytes = Vec::new();
    counters.encode_snapshot(&mut bytes);
    assert_eq!(Counters::decode_snapshot(1, &bytes), Ok(counters));
    assert!(Counters::decode_snapshot(1, &bytes[1..]).is_err());
}
