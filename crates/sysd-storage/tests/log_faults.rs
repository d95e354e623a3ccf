//! The shared log where something breaks: the machine's code, the clock, the link, what is stored. Each test is the story
//! of one bug, or of one that could have been.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::procedure::ErasedProcedure;
use sysd_core::{
    Change, Clock as _, DecodeError, Effect, ErrorKind, Key, Limits, ManualClock, Outcome, OutputBytes, Page, Record,
    Result, RetryPolicy, Scan, SeededEntropy, Space, StateMachine, Store, StoreExt as _, Timestamp, Trim, Trimmed,
    Write, tuple,
};
use sysd_storage::{Driver, Follower, Memory, Replica, ReplicaConfig};
use sysd_testkit::Counters;
use sysd_testkit::counters::Add;
use sysd_testkit::sim::SkewedClock;

const LOG: Space = Space::conditional("log");
const START: u64 = 1_767_225_600_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(START).unwrap())
}

fn config(clock: &ManualClock, seed: u64) -> ReplicaConfig {
    ReplicaConfig {
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
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

fn told(answer: Poll<Result<impl Sized>>) -> (ErrorKind, Effect) {
    match answer {
        Poll::Ready(Err(error)) => (error.kind(), error.effect()),
        Poll::Ready(Ok(_)) => panic!("it succeeded"),
        Poll::Pending => panic!("it still waits"),
    }
}

/// Polls both until the future is ready; moves the clock when they wait for it.
fn drive<T>(clock: &ManualClock, mut driver: Option<&mut Driver>, future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    for turn in 0..100_000 {
        if let Poll::Ready(answer) = poll(&mut future) {
            return answer;
        }
        if let Some(driver) = &mut driver {
            assert!(poll(*driver).is_pending());
        }
        // What only lets others run first needs no time.
        if turn % 4 == 3
            && let Some(next) = clock.next_deadline()
        {
            clock.set(next);
        }
    }
    panic!("no answer after a hundred thousand polls");
}

/// Polls the driver while the time goes on.
fn pass(clock: &ManualClock, driver: &mut Driver, time: Duration) {
    let end = clock.now().saturating_add(time);
    assert!(poll(driver).is_pending());
    while let Some(next) = clock.next_deadline().filter(|next| *next <= end) {
        clock.set(next);
        assert!(poll(driver).is_pending());
    }
    clock.set(end);
    assert!(poll(driver).is_pending());
}

/// A store behind a link with faults; they never happen by themselves.
#[derive(Clone)]
struct Faulty {
    inner: Memory<ManualClock>,
    clock: ManualClock,
    /// Reads and writes hang, and writes do not happen.
    hangs: Arc<AtomicBool>,
    /// The next scan misses its first row, as one that is no snapshot may.
    misses: Arc<AtomicBool>,
    /// What the link carries.
    bytes_per_second: Arc<AtomicU64>,
}

impl Faulty {
    fn new(clock: &ManualClock) -> Self {
        Self {
            inner: Memory::with_clock(clock.clone()),
            clock: clock.clone(),
            hangs: Arc::default(),
            misses: Arc::default(),
            bytes_per_second: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    async fn hang(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn carry(&self, bytes: usize) {
        let time_us = bytes as u64 * 1_000_000 / self.bytes_per_second.load(Ordering::SeqCst);
        self.clock.sleep_until(self.clock.now().saturating_add(Duration::from_micros(time_us))).await;
    }
}

impl Store for Faulty {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.hang().await;
        let found = self.inner.get(key).await?;
        self.carry(found.as_ref().map_or(0, |record| record.value.len())).await;
        Ok(found)
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let found = self.inner.get_many(keys).await;
        self.carry(found.iter().flatten().flatten().map(|record| record.value.len()).sum()).await;
        found
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.hang().await;
        if let Change::Put { value, .. } = &write.change {
            self.carry(value.len()).await;
        }
        self.inner.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.inner.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let mut page = self.inner.scan(scan).await?;
        if self.misses.swap(false, Ordering::SeqCst) {
            page.rows.remove(0);
        }
        self.carry(page.rows.iter().map(|row| row.record.value.len()).sum()).await;
        Ok(page)
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.inner.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.inner.update(key, procedure).await
    }
}

/// A sum whose encoder panics half-way at 13, and at 14 throws away what was written before.
#[derive(Default, Debug)]
struct Fragile(u64);

impl StateMachine for Fragile {
    type Command = u64;
    type Reply = u64;

    const NAME: &'static str = "fragile";
    const FORMAT: u16 = 1;

    fn apply(&mut self, _: Timestamp, command: &u64) -> u64 {
        self.0 += command;
        self.0
    }

    fn encode_command(command: &u64, out: &mut Vec<u8>) {
        if *command == 14 {
            out.clear();
        }
        out.extend_from_slice(&command.to_be_bytes()[..4]);
        assert_ne!(*command, 13, "a bug of the application's, in one caller's task");
        out.extend_from_slice(&command.to_be_bytes()[4..]);
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<u64, DecodeError> {
        let error = DecodeError { machine: Self::NAME, format, what: "a number of 8 bytes" };
        bytes.try_into().map(u64::from_be_bytes).map_err(|_| error)
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_command(format, bytes).map(Self)
    }
}

// A panic in one caller's encoder left half a command in the batch that all share. The next caller's entry was appended
// and acknowledged with it, and nobody could open the log ever again.
#[test]
fn a_panic_while_a_command_is_encoded_spoils_nobody_elses() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = block_on(Replica::<Fragile>::open(store.clone(), "sum", config(&clock, 1))).unwrap();
    let mut first = Box::pin(replica.submit(1));
    assert!(poll(&mut first).is_pending());
    // As an executor does with a task that panics.
    assert!(catch_unwind(AssertUnwindSafe(|| replica.submit(13).now_or_never())).is_err());
    let mut second = Box::pin(replica.submit(14));
    assert!(poll(&mut second).is_pending());
    assert_eq!(drive(&clock, Some(&mut driver), replica.submit(2)).unwrap(), 17);
    assert!(matches!(poll(&mut first), Poll::Ready(Ok(1))));
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(15))));
    let (again, _driver) = block_on(Replica::<Fragile>::open(store, "sum", config(&clock, 2))).unwrap();
    assert_eq!((again.read(|sum| sum.0), again.status().next), (17, 1));
}

// The guard that refuses what waits was made by the driver's first poll: one that a runtime dropped before, as it does when
// it shuts down, left its callers waiting for ever.
#[test]
fn a_driver_dropped_before_its_first_poll_leaves_nobody_waiting() {
    let clock = clock();
    let (replica, driver) = open(Memory::with_clock(clock.clone()), config(&clock, 1));
    let mut submit = Box::pin(replica.submit(add(1)));
    let (mut read, mut snapshot) = (Box::pin(replica.read_latest(|_| ())), Box::pin(replica.snapshot()));
    assert!(poll(&mut submit).is_pending() && poll(&mut read).is_pending() && poll(&mut snapshot).is_pending());
    drop(driver);
    assert_eq!(told(poll(&mut submit)), (ErrorKind::Unavailable, Effect::None));
    assert_eq!(told(poll(&mut read)), (ErrorKind::Unavailable, Effect::None));
    assert_eq!(told(poll(&mut snapshot)).0, ErrorKind::Unavailable);
    assert!(replica.submit(add(2)).now_or_never().unwrap().is_err());
    assert!(replica.snapshot().now_or_never().unwrap().is_err());
}

// Staleness was measured by the wall clock: set back by an hour, it made a state fresh that was half an hour old.
#[test]
fn a_clock_that_is_set_back_makes_no_old_state_fresh() {
    let clock = clock();
    let (follower, _driver) =
        block_on(Follower::<Counters>::open(Memory::with_clock(clock.clone()), "bank", config(&clock, 1))).unwrap();
    assert!(follower.read_within(Duration::ZERO, |_| ()).is_ok());
    clock.set(Timestamp::from_micros(START - 3_600_000_000).unwrap());
    assert!(follower.read_within(Duration::ZERO, |_| ()).is_ok(), "no time has passed");
    // Also once the clock shows again what it showed when the log was last seen.
    for half_hours in 1..=2 {
        clock.advance(HOUR / 2);
        let error = follower.read_within(HOUR / 3, |_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(follower.status().staleness, HOUR / 2 * half_hours);
    }
}

// Deadlines were moments of the wall clock: set back by an hour while the store hung, it made callers wait an hour longer.
#[test]
fn a_clock_that_is_set_back_stretches_no_deadline() {
    let clock = clock();
    let store = Faulty::new(&clock);
    let wall = SkewedClock::new(clock.clone(), Duration::ZERO);
    let config = ReplicaConfig { clock: Arc::new(wall.clone()), ..config(&clock, 1) };
    let (replica, mut driver) = open(store.clone(), config);
    store.hangs.store(true, Ordering::SeqCst);
    let mut sent = Box::pin(replica.submit(add(1)));
    assert!(poll(&mut sent).is_pending() && poll(&mut driver).is_pending());
    let (mut queued, mut read) = (Box::pin(replica.submit(add(2))), Box::pin(replica.read_latest(|_| ())));
    assert!(poll(&mut queued).is_pending() && poll(&mut read).is_pending());
    wall.set_back(HOUR);
    // The deadline, one call, and the wait before the next.
    pass(&clock, &mut driver, Duration::from_millis(6_600));
    assert_eq!(told(poll(&mut sent)), (ErrorKind::Timeout, Effect::Unknown));
    assert_eq!(told(poll(&mut queued)), (ErrorKind::Timeout, Effect::None));
    assert_eq!(told(poll(&mut read)), (ErrorKind::Timeout, Effect::None));
}

// A page was up to 64 entries, and a snapshot's chunks were read 16 at once, each in the time of one call: what was written
// over a slow link one by one could not be read over it.
#[test]
fn what_was_written_over_a_link_can_be_read_over_it() {
    let clock = clock();
    let store = Faulty::new(&clock);
    // An entry takes 32 ms and a chunk 87; all entries take 240 and all chunks 280.
    store.bytes_per_second.store(3_000_000, Ordering::SeqCst);
    let config = |seed| ReplicaConfig {
        call_wait_max: Duration::from_millis(100),
        batch_commands_max: 4_000,
        ..config(&clock, seed)
    };
    let opened = drive(&clock, None, Replica::<Counters>::open(store.clone(), "bank", config(1)));
    let (replica, mut driver) = opened.unwrap();
    let mut all: Vec<_> = (0..30_000).map(|id| Box::pin(replica.submit(add(id)))).collect();
    assert!(all.iter_mut().all(|submit| poll(submit).is_pending()));
    for submit in all {
        drive(&clock, Some(&mut driver), submit).unwrap();
    }
    let reopen = |seed| {
        let opened = drive(&clock, None, Replica::<Counters>::open(store.clone(), "bank", config(seed)));
        let (again, _driver) = opened.unwrap();
        assert!(again.read(Counters::clone) == replica.read(Counters::clone));
        again.status().snapshot_next
    };
    assert_eq!(reopen(2), 0);
    assert_eq!(drive(&clock, Some(&mut driver), replica.snapshot()).unwrap(), 8);
    assert_eq!(reopen(3), 8);
}

// What the queue had taken was counted for ever: after 65,536 commands it was full.
#[test]
fn a_queue_takes_more_in_its_life_than_at_once() {
    let clock = clock();
    for (queue_commands_max, queue_bytes_max) in [(2, usize::MAX), (100, 50)] {
        let config = ReplicaConfig { queue_commands_max, queue_bytes_max, ..config(&clock, 1) };
        let (replica, mut driver) = open(Memory::with_clock(clock.clone()), config);
        for id in 0..100 {
            drive(&clock, Some(&mut driver), replica.submit(add(id))).unwrap();
        }
    }
}

#[test]
fn who_does_not_own_a_log_does_not_let_it_go() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (owner, mut owning) = open(store.clone(), config(&clock, 1));
    let (other, mut driver) = open(store, config(&clock, 2));
    drive(&clock, Some(&mut owning), owner.fence()).unwrap();
    drive(&clock, Some(&mut driver), other.read_latest(|_| ())).unwrap();
    for _ in 0..2 {
        let error = drive(&clock, Some(&mut driver), other.release()).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Fenced, Effect::None));
    }
    drive(&clock, Some(&mut owning), owner.submit(add(1))).unwrap();
    assert_eq!(owner.status().owner, Some(owner.writer()));
}

#[test]
fn a_changed_snapshot_is_corrupt_even_where_the_machine_can_read_it() {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let (replica, mut driver) = open(store.clone(), config(&clock, 1));
    drive(&clock, Some(&mut driver), replica.submit(add(1))).unwrap();
    drive(&clock, Some(&mut driver), replica.snapshot()).unwrap();
    let record = block_on(store.get(Key::lone(LOG, &tuple::encode(&("bank", 2_u8))))).unwrap().unwrap();
    let id = u128::from_be_bytes(record.value[2..18].try_into().unwrap());
    let partition = tuple::encode(&("bank", 3_u8, id));
    let chunk = block_on(store.scan_rows(Scan::partition(LOG, &partition, 10))).unwrap().remove(0);
    let mut value = chunk.record.value.to_vec();
    // The amount's last byte: another amount.
    *value.last_mut().unwrap() ^= 2;
    block_on(store.put(Key::row(LOG, &partition, &chunk.sort), value)).unwrap();
    let error = block_on(Replica::<Counters>::open(store, "bank", config(&clock, 2))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn what_waits_behind_a_poll_that_hangs_is_given_up_and_not_sent() {
    let clock = clock();
    let store = Faulty::new(&clock);
    let config = ReplicaConfig {
        poll_every: Some(Duration::from_millis(100)),
        submit_wait_max: Duration::from_millis(500),
        retry: RetryPolicy { attempts_max: 1, ..RetryPolicy::default() },
        ..config(&clock, 1)
    };
    let (replica, mut driver) = open(store.clone(), config);
    store.hangs.store(true, Ordering::SeqCst);
    pass(&clock, &mut driver, Duration::from_millis(100));
    let mut queued = Box::pin(replica.submit(add(1)));
    assert!(poll(&mut queued).is_pending());
    pass(&clock, &mut driver, Duration::from_secs(1));
    assert_eq!(told(poll(&mut queued)), (ErrorKind::Timeout, Effect::None));
}

#[test]
fn a_snapshot_is_taken_only_after_three_times_its_bytes() {
    let clock = clock();
    let config = ReplicaConfig { snapshot_log_bytes: Some(1_000), ..config(&clock, 1) };
    let store = Faulty::new(&clock);
    // So that a snapshot takes its time, and one after the other would not hang this test.
    store.bytes_per_second.store(1_000_000, Ordering::SeqCst);
    let opened = drive(&clock, None, Replica::<Counters>::open(store, "bank", config));
    let (replica, mut driver) = opened.unwrap();
    let mut taken = Vec::new();
    for id in 0..160 {
        drive(&clock, Some(&mut driver), replica.submit(add(id))).unwrap();
        pass(&clock, &mut driver, Duration::from_millis(20));
        let next = replica.status().snapshot_next;
        if taken.last() != Some(&next) {
            taken.push(next);
        }
    }
    // Entries of 68 bytes. A snapshot has some 30 for each entry, so the next one waits for about 90.
    assert_eq!(taken, [0, 15, 36, 83]);
}

#[test]
fn a_row_that_a_scan_misses_is_read_by_itself() {
    let clock = clock();
    let store = Faulty::new(&clock);
    let opened = drive(&clock, None, Replica::<Counters>::open(store.clone(), "bank", config(&clock, 1)));
    let (replica, mut driver) = opened.unwrap();
    for id in 0..5 {
        drive(&clock, Some(&mut driver), replica.submit(add(id))).unwrap();
    }
    store.misses.store(true, Ordering::SeqCst);
    let opened = drive(&clock, None, Replica::<Counters>::open(store.clone(), "bank", config(&clock, 2)));
    let (again, _driver) = opened.unwrap();
    assert!(!store.misses.load(Ordering::SeqCst), "nothing was scanned");
    assert_eq!(again.read(Counters::clone), replica.read(Counters::clone));
}

// A driver that looks for new entries every zero seconds asks the store as fast as it answers.
#[test]
fn polling_without_a_pause_is_refused() {
    let config = ReplicaConfig { poll_every: Some(Duration::ZERO), ..config(&clock(), 1) };
    let error = block_on(Replica::<Counters>::open(Memory::new(), "bank", config)).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("poll_every")));
}
