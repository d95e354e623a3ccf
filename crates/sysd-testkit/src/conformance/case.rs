//! What every clause works with: a store and a clock of its own, in partitions of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Barrier;
use std::time::Duration;

use bytes::Bytes;
use sysd_core::{
    AnyStore, Change, Clock as _, Expect, Key, KeyBuf, ManualClock, Outcome, Record, Result, Row, Scan, Store,
    StoreExt, SystemClock, SystemEntropy, Timestamp, Version, Write, random_base62, timeout,
};

use super::{Harness, TRUTH};

/// No clause takes longer, on any backend: what does is stuck.
const DEADLINE: Duration = Duration::from_secs(120);

/// The time when a clause starts: in the autumn of 2025.
const START_US: u64 = 1_760_000_000_000_000;

/// How a store breaks a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<sysd_core::Error> for Failure {
    fn from(error: sysd_core::Error) -> Self {
        Self(format!("an error instead of an answer: {error}"))
    }
}

pub(super) type Verdict<T = ()> = std::result::Result<T, Failure>;

/// Fails the clause unless something holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::conformance::case::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails the clause unless two things are equal: what was found, and what should be.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if found != expected {
                    let what = format!($($message)+);
                    let message = format!("{what}: {found:?} instead of {expected:?}");
                    return Err($crate::conformance::case::Failure::new(message));
                }
            }
        }
    };
}

pub(super) use {ensure, ensure_eq};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A harness behind a pointer, so that the clauses are compiled once.
pub(super) trait Bench: Send + Sync {
    fn run(&self, future: BoxFuture<'_, Verdict>) -> Verdict;
    fn connect(&self, clock: ManualClock) -> Result<AnyStore>;
    fn connect_twice(&self, clock: ManualClock) -> Result<[AnyStore; 2]>;
    fn corrupt<'a>(&'a self, key: Key<'a>) -> BoxFuture<'a, Result<()>>;
}

impl<H: Harness> Bench for H {
    fn run(&self, future: BoxFuture<'_, Verdict>) -> Verdict {
        let stuck = || Err(Failure::new(format!("it did not end within {} s", DEADLINE.as_secs())));
        self.block_on(async { timeout(&SystemClock, DEADLINE, future).await.unwrap_or_else(|_| stuck()) })
    }

    fn connect(&self, clock: ManualClock) -> Result<AnyStore> {
        self.block_on(async { Harness::connect(self, clock).await.map(AnyStore::new) })
    }

    fn connect_twice(&self, clock: ManualClock) -> Result<[AnyStore; 2]> {
        self.block_on(async { Ok(Harness::connect_twice(self, clock).await?.map(AnyStore::new)) })
    }

    fn corrupt<'a>(&'a self, key: Key<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(Harness::corrupt(self, key))
    }
}

/// One clause's store, clock and partitions.
pub(super) struct Case<'h> {
    bench: &'h dyn Bench,
    pub(super) store: AnyStore,
    pub(super) clock: ManualClock,
    namespace: String,
}

impl<'h> Case<'h> {
    pub(super) fn new(bench: &'h dyn Bench) -> Verdict<Self> {
        let clock = ManualClock::new(Timestamp::from_micros_saturating(START_US));
        let store = bench.connect(clock.clone()).map_err(|error| Failure::new(error.to_string()))?;
        let namespace = format!("{}:", random_base62(12, &SystemEntropy));
        Ok(Self { bench, store, clock, namespace })
    }

    /// The same case through two other connections, which share their records.
    pub(super) fn connect_twice(&self) -> Verdict<[Self; 2]> {
        let stores = self.bench.connect_twice(self.clock.clone()).map_err(|error| Failure::new(error.to_string()))?;
        Ok(stores.map(|store| Self {
            bench: self.bench,
            store,
            clock: self.clock.clone(),
            namespace: self.namespace.clone(),
        }))
    }

    /// Runs a future to its end, or to the deadline.
    pub(super) fn run(&self, future: impl Future<Output = Verdict> + Send) -> Verdict {
        self.bench.run(Box::pin(future))
    }

    /// Runs a future on each of so many threads, all started together.
    pub(super) fn on_threads<F, T>(&self, count: usize, task: F) -> Verdict
    where
        F: Fn(usize) -> T + Sync,
        T: Future<Output = Verdict> + Send,
    {
        let start = Barrier::new(count);
        std::thread::scope(|scope| {
            let (start, task) = (&start, &task);
            let thread = |at| {
                scope.spawn(move || {
                    start.wait();
                    self.run(task(at))
                })
            };
            let threads: Vec<_> = (0..count).map(thread).collect();
            let verdicts = threads.into_iter().map(|thread| match thread.join() {
                Ok(verdict) => verdict,
                Err(_) => Err(Failure::new("a call panicked")),
            });
            verdicts.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// A partition that no other case uses.
    pub(super) fn partition(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        [self.namespace.as_bytes(), name.as_ref()].concat()
    }

    /// A lone record and a row: what holds for a record must hold for both.
    pub(super) fn places(&self, name: &str) -> [KeyBuf; 2] {
        let (lone, rows) = (self.partition(format!("{name}-lone")), self.partition(format!("{name}-rows")));
        [Key::lone(TRUTH, &lone).to_owned(), Key::row(TRUTH, &rows, b"sort").to_owned()]
    }

    /// So many microseconds from now.
    pub(super) fn after(&self, micros: u64) -> Timestamp {
        self.clock.now().saturating_add(Duration::from_micros(micros))
    }

    pub(super) fn advance(&self, micros: u64) {
        self.clock.advance(Duration::from_micros(micros));
    }

    /// Overwrites a stored record with undecodable bytes.
    pub(super) async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        self.bench.corrupt(key).await
    }

    /// Makes a write that must be applied; answers the record that it leaves.
    pub(super) async fn apply(&self, write: Write<'_>) -> Verdict<Option<Record>> {
        let left = record(&write);
        let (key, expect) = (write.key.to_owned(), write.expect);
        match self.store.write(write).await? {
            Outcome::Applied => Ok(left),
            Outcome::Conflict { found } => {
                let found = found.map(|record| record.version);
                Err(Failure::new(format!("a write of {key} expecting {expect:?} met a conflict with {found:?}")))
            }
        }
    }

    /// Makes an unconditional put; answers the record that it leaves.
    pub(super) async fn put(&self, key: Key<'_>, value: impl Into<Bytes>) -> Verdict<Record> {
        let left = self.apply(Write::put(key, value)).await?;
        left.ok_or_else(|| Failure::new("a put leaves a record"))
    }

    /// Makes a write that must be refused; answers what it found.
    pub(super) async fn conflict(&self, write: Write<'_>) -> Verdict<Option<Record>> {
        let (key, expect) = (write.key.to_owned(), write.expect);
        match self.store.write(write).await? {
            Outcome::Conflict { found } => Ok(found),
            Outcome::Applied => Err(Failure::new(format!("a write of {key} expecting {expect:?} was applied"))),
        }
    }

    /// Fails unless this, and exactly this, is there.
    pub(super) async fn holds(&self, key: Key<'_>, expected: Option<&Record>) -> Verdict {
        let found = self.store.get(key).await?;
        ensure_eq!(found.as_ref(), expected, "get {key}");
        Ok(())
    }

    /// All rows of a scan, whatever pages they come in; each page is checked.
    pub(super) async fn rows(&self, scan: Scan<'_>) -> Verdict<Vec<Row>> {
        Ok(self.store.scan_rows(scan).await?)
    }

    /// The sort keys of a scan.
    pub(super) async fn sorts(&self, scan: Scan<'_>) -> Verdict<Vec<Vec<u8>>> {
        Ok(self.rows(scan).await?.into_iter().map(|row| row.sort.to_vec()).collect())
    }
}

/// The record that an applied write leaves.
pub(super) fn record(write: &Write<'_>) -> Option<Record> {
    match &write.change {
        Change::Put { value, version, expires_at } => {
            Some(Record { value: value.clone(), version: *version, expires_at: *expires_at })
        }
        Change::Delete => None,
    }
}

/// Every condition that fails where `there` is.
pub(super) fn failing(there: Option<&Record>) -> Vec<Expect> {
    let other = Expect::Is(Version::random());
    match there {
        Some(_) => vec![Expect::Absent, other],
        None => vec![other],
    }
}
