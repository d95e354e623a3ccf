//! Records that were read are kept for a while.

mod fills;

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::{Cache as Table, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use sysd_core::tuple::KeyBytes;
use sysd_core::{
    Clock, ClockAuthority, Effect, ErasedProcedure, Error, ErrorKind, Key, Limits, Outcome, OutputBytes, Page, Record,
    Result, Scan, Space, Store, SystemClock, Timestamp, Trim, Trimmed, Write,
};

use super::Layer;
use super::bug::{Bug, Bugs};
use super::coalesce::share;
use fills::{Fills, Lead, Role, Writing};

/// How much a cache keeps, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The most bytes: keys, values, and 256 for each record's share of the tables.
    pub bytes_max: u64,
    /// How long a record that was found is kept.
    pub ttl: Duration,
    /// How long it is remembered that nothing was there; zero: not at all.
    pub absent_ttl: Duration,
    /// The conditional spaces whose records are kept too: their `get`s are then as stale as those of plain spaces.
    pub conditional_spaces: Vec<Space>,
}

impl Default for CacheConfig {
    /// 64 MiB, ten seconds, one for absence, plain spaces only.
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            ttl: Duration::from_secs(10),
            absent_ttl: Duration::from_secs(1),
            conditional_spaces: Vec::new(),
        }
    }
}

/// Answers `get` and `get_many` from memory, of plain spaces, and of the conditional ones that are named.
///
/// # Guarantees
/// - **Staleness is bounded**: what another process wrote is seen at the latest when `ttl` (`absent_ttl` for a record that
///   was made) has passed since the record was read.
/// - **Own writes are seen**: once a write, update or trim through this layer or a clone of it is answered, no read that
///   begins later answers what was there before, also when a read of the old record is still on its way.
/// - **Time does not run backwards** in the process: what a read has seen, later ones don't unsee, as long as all writes
///   come through this layer and are answered. One of unknown effect, or dropped, counts as another process's.
/// - **Expiry stays exact.** Where the [server's clock](ClockAuthority::Server) decides, records that expire are not kept.
/// - **Conditions are the store's**: no write, update, scan or trim is answered from here.
/// - **Memory is bounded** by `bytes_max`; what is used least goes first (S3-FIFO; Yang et al., SOSP 2023).
/// - **One read at a time** of a record that is missing: those who want it meanwhile, alone or in a batch, share its answer. A batch
///   reads what nobody reads yet in one call, and waits for the others' answers.
///
/// # Cost
/// A hit: one look-up and one read of the clock; [`FastClock`](sysd_core::FastClock) makes it cheaper. A miss adds two locks
/// of a shard and an allocation, as does a read of a space that is not cached; a write adds three locks.
///
/// # Cancel safety
/// Dropping a read that others share harms none of them: one of them reads again. Dropping a write leaves nothing kept.
#[derive(Clone, Debug)]
pub struct Cache<C = SystemClock> {
    config: CacheConfig,
    clock: C,
    bugs: Bugs,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(CacheConfig::default())
    }
}

impl Cache {
    /// By the system's clock.
    pub const fn new(config: CacheConfig) -> Self {
        Self { config, clock: SystemClock, bugs: Bugs::NONE }
    }
}

impl<C: Clock> Cache<C> {
    /// By `clock`.
    pub const fn with_clock(config: CacheConfig, clock: C) -> Self {
        Self { config, clock, bugs: Bugs::NONE }
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub const fn with_bug(mut self, bug: Bug) -> Self {
        self.bugs.bug = Some(bug);
        self
    }
}

impl<S: Store, C: Clock> Layer<S> for Cache<C> {
    type Store = Cached<S, C>;

    fn wrap(self, store: S) -> Self::Store {
        let keeps_expiring = store.limits().clock == ClockAuthority::Client;
        let kept = Kept {
            table: table(self.config.bytes_max),
            fills: Fills::new(self.bugs),
            keeps_expiring,
            ttl_us: micros(self.config.ttl),
            absent_ttl_us: micros(self.config.absent_ttl),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        Cached { inner: store, cache: self, kept: Arc::new(kept) }
    }
}

/// A store under [`Cache`].
#[derive(Clone, Debug)]
pub struct Cached<S, C = SystemClock> {
    inner: S,
    cache: Cache<C>,
    kept: Arc<Kept>,
}

/// How a cache does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that were answered from memory.
    pub hits: u64,
    /// Reads that were not, though their space is cached.
    pub misses: u64,
    /// Records that are kept, absent ones included.
    pub records: usize,
    /// Bytes that they take.
    pub bytes: u64,
}

/// What was read.
#[derive(Clone, Debug)]
struct Held {
    record: Option<Record>,
    /// When its read began.
    read_at: Timestamp,
    /// How many trims of its partition (and of those that share its count) there had been.
    trims: u64,
}

type RecordTable = Table<Name, Held, Weight, foldhash::fast::RandomState>;

/// An answer.
type Found = Result<Option<Record>>;

/// A key of a batch without an answer yet.
struct Missing {
    /// Its place in the batch.
    at: usize,
    /// Whether its read may be shared with others.
    is_shared: bool,
}

#[derive(Debug)]
struct Kept {
    table: RecordTable,
    fills: Fills,
    keeps_expiring: bool,
    ttl_us: u64,
    absent_ttl_us: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A key as it is kept: its parts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    space: Space,
    partition_bytes: usize,
    bytes: KeyBytes,
}

impl Name {
    fn new(key: Key<'_>) -> Self {
        let mut bytes = KeyBytes::from_slice(key.partition());
        bytes.extend_from_slice(key.sort());
        Self { space: key.space(), partition_bytes: key.partition().len(), bytes }
    }

    #[inline]
    fn key(&self) -> Key<'_> {
        let (partition, sort) = self.bytes.split_at(self.partition_bytes);
        Key::row(self.space, partition, sort)
    }
}

impl Hash for Name {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        Lookup(self.key()).hash(state);
    }
}

/// A key looked up without a copy.
struct Lookup<'a>(Key<'a>);

impl Hash for Lookup<'_> {
    /// In one call for each part that there is: the table's hasher mixes the length of each in, under a seed.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.partition());
        state.write(self.0.space().name().as_bytes());
        if !self.0.is_lone() {
            state.write(self.0.sort());
        }
    }
}

impl Equivalent<Name> for Lookup<'_> {
    #[inline]
    fn equivalent(&self, name: &Name) -> bool {
        self.0 == name.key()
    }
}

#[derive(Clone, Debug)]
struct Weight;

/// Entry, hash and ghost of a record in the table, rounded up.
const OVERHEAD_BYTES: u64 = 256;

impl Weighter<Name, Held> for Weight {
    fn weight(&self, name: &Name, held: &Held) -> u64 {
        let value_bytes = held.record.as_ref().map_or(0, |record| record.value.len());
        OVERHEAD_BYTES + (name.bytes.len() + value_bytes) as u64
    }
}

fn table(bytes_max: u64) -> RecordTable {
    let records = usize::try_from(bytes_max / (2 * OVERHEAD_BYTES)).unwrap_or(usize::MAX).clamp(1, 1 << 24);
    let hasher = foldhash::fast::RandomState::default();
    let built = OptionsBuilder::new().estimated_items_capacity(records).weight_capacity(bytes_max).build();
    match built {
        Ok(options) => Table::with_options(options, Weight, hasher, DefaultLifecycle::default()),
        // Only for settings that were not set.
        Err(_) => Table::with(records, bytes_max, Weight, hasher, DefaultLifecycle::default()),
    }
}

impl<S: Store, C: Clock> Cached<S, C> {
    /// How it does.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.kept.hits.load(Ordering::Relaxed),
            misses: self.kept.misses.load(Ordering::Relaxed),
            records: self.kept.table.len(),
            bytes: self.kept.table.weight(),
        }
    }

    fn is_cached(&self, space: Space) -> bool {
        !space.is_conditional() || self.cache.config.conditional_spaces.contains(&space)
    }

    /// What is kept and still good.
    #[expect(clippy::option_option, reason = "nothing is kept, or that nothing is there, or a record")]
    fn hit(&self, key: Key<'_>) -> Option<Option<Record>> {
        // The time first: behind the locks of the table the processor would wait for it.
        let (now, bugs) = (self.cache.clock.now(), self.cache.bugs);
        let held = self.kept.table.get(&Lookup(key))?;
        let ttl_us = if held.record.is_some() { self.kept.ttl_us } else { self.kept.absent_ttl_us };
        // A clock that was set back must not make it last longer: the difference is none, or long.
        let is_fresh = now.as_micros().wrapping_sub(held.read_at.as_micros()) < ttl_us;
        let is_live = !is_expired(held.record.as_ref(), now) || bugs.has(Bug::ForgetExpiry);
        let is_whole = key.is_lone() || self.kept.fills.trims(key) == Some(held.trims) || bugs.has(Bug::ForgetTrims);
        (is_fresh && is_live && is_whole).then_some(held.record)
    }

    #[expect(clippy::option_option, reason = "as above")]
    fn counted_hit(&self, key: Key<'_>) -> Option<Option<Record>> {
        let hit = self.hit(key);
        let count = if hit.is_some() { &self.kept.hits } else { &self.kept.misses };
        count.fetch_add(1, Ordering::Relaxed);
        hit
    }

    /// Keeps what was read, unless the record was written meanwhile.
    fn fill(&self, lead: Lead<'_>, read_at: Timestamp, answer: &Result<Option<Record>>) {
        let trims = lead.trims();
        let key = lead.key();
        lead.finish(share(answer), || {
            let Ok(record) = answer else { return };
            let expires = record.as_ref().is_some_and(|record| record.expires_at.is_some());
            let is_kept = if record.is_some() { self.kept.keeps_expiring || !expires } else { true };
            if is_kept {
                self.kept.table.insert(Name::new(key), Held { record: record.clone(), read_at, trims });
            }
        });
    }

    async fn fetch(&self, key: Key<'_>) -> Result<Option<Record>> {
        loop {
            match self.kept.fills.join(key) {
                Role::Alone => return self.inner.get(key).await,
                Role::Lead(lead) => {
                    let read_at = self.cache.clock.now();
                    let answer = self.inner.get(key).await;
                    self.fill(lead, read_at, &answer);
                    return answer;
                }
                Role::Follow(awaited) => match awaited.await {
                    Ok(Err(error)) => return Err(error.share()),
                    Ok(Ok(record)) if self.is_current(record.as_ref()) => return Ok(record),
                    Ok(Ok(_)) => return self.inner.get(key).await,
                    // Its reader was dropped, or the record is being written: begin anew.
                    Err(_) => {
                        if let Some(record) = self.hit(key) {
                            return Ok(record);
                        }
                    }
                },
            }
        }
    }

    /// Whether what another's read brought may be answered: it was read before this call began, and may have expired since.
    fn is_current(&self, record: Option<&Record>) -> bool {
        match record {
            // By whose clock?
            Some(record) if record.expires_at.is_some() && !self.kept.keeps_expiring => false,
            record => !is_expired(record, self.cache.clock.now()),
        }
    }

    /// Answers those of `keys` that have no answer yet: what nobody reads in one call, then what others read. In this order nobody waits in a
    /// circle: each tells what it leads before it waits for another.
    async fn fetch_many(&self, keys: &[Key<'_>], mut missing: Vec<Missing>, answers: &mut [Option<Found>]) {
        while !missing.is_empty() {
            let read_at = self.cache.clock.now();
            let (mut wanted, mut leads, mut followed) = (Vec::new(), Vec::new(), Vec::new());
            for Missing { at, is_shared } in std::mem::take(&mut missing) {
                let lead = match is_shared.then(|| self.kept.fills.join(keys[at])) {
                    Some(Role::Follow(awaited)) if !self.cache.bugs.has(Bug::ReadTwice) => {
                        followed.push((at, awaited));
                        continue;
                    }
                    Some(Role::Lead(lead)) => Some(lead),
                    _ => None,
                };
                wanted.push(keys[at]);
                leads.push((at, lead));
            }
            if !wanted.is_empty() {
                let mut found = self.inner.get_many(&wanted).await.into_iter();
                for (at, lead) in leads {
                    let none = || Err(Error::new(ErrorKind::Internal, Effect::None, "an answer is missing"));
                    let answer = found.next().unwrap_or_else(none);
                    if let Some(lead) = lead {
                        self.fill(lead, read_at, &answer);
                    }
                    answers[at] = Some(answer);
                }
            }
            for (at, awaited) in followed {
                answers[at] = match awaited.await {
                    Ok(Err(error)) => Some(Err(error.share())),
                    Ok(Ok(record)) if self.is_current(record.as_ref()) => Some(Ok(record)),
                    Ok(Ok(_)) => {
                        missing.push(Missing { at, is_shared: false });
                        None
                    }
                    // Its reader was dropped, or the record is being written: begin anew.
                    Err(_) => {
                        let hit = self.hit(keys[at]).map(Ok);
                        if hit.is_none() {
                            missing.push(Missing { at, is_shared: true });
                        }
                        hit
                    }
                };
            }
        }
    }

    /// The record is not kept while it is written.
    fn writing<'a>(&'a self, key: Key<'a>) -> Option<Writing<'a>> {
        let forget = || drop(self.kept.table.remove(&Lookup(key)));
        self.is_cached(key.space()).then(|| self.kept.fills.write(key, forget))
    }
}

/// Microseconds, a part of one counted whole; no more than any point in time has.
fn micros(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX).min(Timestamp::MAX.as_micros())
}

fn is_expired(record: Option<&Record>, now: Timestamp) -> bool {
    record.is_some_and(|record| record.is_expired(now))
}

impl<S: Store, C: Clock> Store for Cached<S, C> {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    // A hit is cheaper than moving a large future. So this one holds the key once, as an `async fn` would not, and what waits
    // lies in a box.
    #[expect(clippy::manual_async_fn, reason = "as said above")]
    fn get(&self, key: Key<'_>) -> impl Future<Output = Result<Option<Record>>> + Send {
        async move {
            if !self.is_cached(key.space()) {
                return Box::pin(self.inner.get(key)).await;
            }
            if let Some(record) = self.counted_hit(key) {
                return Ok(record);
            }
            Box::pin(self.fetch(key)).await
        }
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut answers: Vec<Option<Found>> = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let is_shared = self.is_cached(key.space());
            let hit = if is_shared { self.counted_hit(key) } else { None };
            if hit.is_none() {
                missing.push(Missing { at, is_shared });
            }
            answers.push(hit.map(Ok));
        }
        self.fetch_many(keys, missing, &mut answers).await;
        answers.into_iter().flatten().collect()
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let key = write.key;
        let _writing = self.writing(key);
        self.inner.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let _writing: Vec<_> = writes.iter().map(|write| self.writing(write.key)).collect();
        self.inner.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.inner.scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        let _trimming = self.kept.fills.trim(Key::lone(trim.space, trim.partition));
        self.inner.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let _writing = self.writing(key);
        self.inner.update(key, procedure).await
    }
}
