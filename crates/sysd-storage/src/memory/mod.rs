//! The in-process store: sharded, ordered, exact expiry, bounded on request.
//!
//! A record's shard is chosen by the hash of space and partition, so a partition lies in one shard and is scanned under one
//! lock. Locks are held for one record's operation, one page or one sweep, never across an await. Values of up to 23 bytes
//! (a procedure's state) and partitions of up to 30 lie in the table's own slot: updating them allocates nothing.
//!
//! Expired records are absent at once and reclaimed later: a shard is swept when it has doubled since its last sweep, so at
//! most half of what it holds is dead, and by [`Memory::reclaim`].

#[cfg(test)]
mod accounting;
mod bound;
mod shard;
mod short;
mod value;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use sysd_core::procedure::expiry;
use sysd_core::{
    Change, Clock, Effect, ErasedProcedure, Error, ErrorKind, Expect, Key, Limits, Outcome, OutputBytes, Page, Record,
    Result, Scan, Space, StateChange, Store, SystemClock, Timestamp, Trim, Trimmed, Version, Write,
};

use bound::{Bound, Freed, Search};
use shard::{Place, Shard, cost};
use value::Stored;

/// How often a write asks for room that others take before it.
const ATTEMPTS_MAX: usize = 64;

/// How a [`Memory`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// How many shards; rounded up to a power of two, at most 65,536. More let more threads write at once.
    pub shards: usize,
    /// The most bytes of records (keys, values, and 128 for each record's share of the tables); `None`: no bound.
    ///
    /// At the bound, expired records go first, then arbitrary records of [evictable](Space::evictable) spaces, as many as
    /// are needed and up to a 64th of the bound, so that the next writes find room. If even all of them were not enough, none
    /// is evicted, and the write is refused with [`ErrorKind::Full`]. Where few expired records were found, they are looked
    /// for again after a microsecond for each record held: so long a write may be refused, or a live record evicted, though
    /// one has expired. A record that is larger than the bound is [`ErrorKind::TooLarge`], naming `value`.
    pub bytes_max: Option<usize>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { shards: 64, bytes_max: None }
    }
}

/// The in-process store. Clones share the records.
///
/// # Cost
/// A trim looks at the rows that it removes; where a row of the partition may have expired it also counts those that stay, under
/// the lock of their shard. At a [bound](MemoryConfig::bytes_max) a write costs what it costs below it and a few looks at
/// records more, on average: one in thousands looks at all of them. Where records of evictable spaces are less than a 64th of
/// all, a write that evicts looks through the shards that they lie in.
///
/// # Cancel safety
/// Every call is done at its first poll: a future dropped unpolled did nothing, and none is ever pending.
#[derive(Debug)]
pub struct Memory<C = SystemClock> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Memory<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// Its own cache lines, so that neighbouring shards' locks don't slow each other.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Padded(Mutex<Shard>);

#[derive(Debug)]
struct Shared<C> {
    clock: C,
    limits: Limits,
    hasher: foldhash::fast::RandomState,
    shards: Box<[Padded]>,
    /// The upper half of the versions that updates mint.
    nonce: u64,
    bound: Option<Bound>,
}

impl Memory {
    /// Unbounded, by the system's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Clock> Memory<C> {
    /// Unbounded, by `clock`. [`FastClock`](sysd_core::FastClock) makes procedures faster.
    pub fn with_clock(clock: C) -> Self {
        Self::with_config(MemoryConfig::default(), clock)
    }

    /// As `config` says, by `clock`.
    pub fn with_config(config: MemoryConfig, clock: C) -> Self {
        let shards = config.shards.clamp(1, 1 << 16).next_power_of_two();
        let shared = Shared {
            clock,
            limits: Limits::PROCESS,
            hasher: foldhash::fast::RandomState::default(),
            shards: (0..shards).map(|_| Padded::default()).collect(),
            nonce: (Version::random().as_u128() >> 64) as u64,
            bound: config.bytes_max.map(Bound::new),
        };
        Self { shared: Arc::new(shared) }
    }

    /// How many records are held, expired ones that were not reclaimed yet included.
    pub fn record_count(&self) -> usize {
        self.shared.shards.iter().map(|shard| shard.0.lock().record_count()).sum()
    }

    /// Reclaims expired records now, shard by shard.
    pub fn reclaim(&self) {
        let now = self.shared.clock.now();
        for shard in &self.shared.shards {
            let freed = shard.0.lock().reclaim(now);
            self.shared.release(freed);
        }
    }
}

/// What was decided under the shard's lock.
enum Attempt<T> {
    Done(T),
    /// The bound stands in the way: so many more bytes are wanted.
    NoRoom(usize),
}

/// The time, read once and only if something can expire: reading it costs as much as the rest.
struct LazyNow<'a, C>(&'a C, Option<Timestamp>);

impl<C: Clock> LazyNow<'_, C> {
    fn get(&mut self) -> Timestamp {
        *self.1.get_or_insert_with(|| self.0.now())
    }

    fn has_expired(&mut self, stored: &Stored) -> bool {
        stored.expires() && stored.is_expired(self.get())
    }
}

impl<C: Clock> Shared<C> {
    #[inline]
    fn hash(&self, space: Space, partition: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(space.name().as_bytes());
        hasher.write_usize(space.name().len());
        hasher.write(partition);
        hasher.finish()
    }

    #[inline]
    fn place<'a>(&self, key: &'a Key<'a>) -> Place<'a> {
        Place { key, hash: self.hash(key.space(), key.partition()) }
    }

    fn shard(&self, hash: u64) -> &Padded {
        // The table uses the lowest bits and the highest seven: take others.
        #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
        let index = (hash >> 40) as usize & (self.shards.len() - 1);
        &self.shards[index]
    }

    fn now(&self) -> LazyNow<'_, C> {
        LazyNow(&self.clock, None)
    }

    fn get(&self, key: &Key<'_>) -> Result<Option<Record>> {
        self.limits.check_key(*key)?;
        let place = self.place(key);
        let mut now = self.now();
        let shard = self.shard(place.hash).0.lock();
        let found = shard.find(place).filter(|stored| !now.has_expired(stored));
        Ok(found.map(Stored::to_record))
    }

    fn write(&self, mut write: Write<'_>) -> Result<Outcome> {
        let mut now = self.now();
        let expires = matches!(write.change, Change::Put { expires_at: Some(_), .. });
        let checked_at = if expires { now.get() } else { Timestamp::UNIX_EPOCH };
        self.limits.check_write(&write, checked_at)?;
        if let Change::Put { value, .. } = &write.change {
            self.check_fits(write.key, value.len())?;
        }
        self.with_room(|| Ok(self.try_write(&mut write, &mut now)))
    }

    /// Takes the value out of `write` once it is written.
    fn try_write(&self, write: &mut Write<'_>, now: &mut LazyNow<'_, C>) -> Attempt<Outcome> {
        let place = self.place(&write.key);
        let home = self.shard(place.hash);
        let mut shard = home.0.lock();
        let is_evictable = self.bound.is_some() && shard.is_evictable(write.key.space());
        let found = shard.find_mut(place);
        let held_bytes = found.as_ref().map_or(0, |found| cost(write.key, found.stored.bytes().len()));
        let live = found.as_ref().map(|found| &*found.stored).filter(|stored| !now.has_expired(stored));
        let holds = match (write.expect, live) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::Is(version), Some(live)) => live.version() == version,
            _ => false,
        };
        if !holds {
            return Attempt::Done(write.lost_to(live.map(Stored::to_record)));
        }
        match &mut write.change {
            Change::Delete => {
                if shard.remove(place) {
                    self.release(Freed::of(held_bytes, is_evictable));
                }
            }
            Change::Put { value, version, expires_at } => {
                let wanted = cost(write.key, value.len());
                if let Err(more) = self.reserve(held_bytes, wanted, is_evictable) {
                    return Attempt::NoRoom(more);
                }
                let stored = Stored::new(std::mem::take(value), *version, *expires_at, self.bound.is_some());
                self.expect_expiry(*expires_at);
                if let Some(found) = found {
                    found.replace(stored);
                } else {
                    self.insert(&mut shard, place, stored, now);
                }
            }
        }
        Attempt::Done(Outcome::Applied)
    }

    fn insert(&self, shard: &mut Shard, place: Place<'_>, stored: Stored, now: &mut LazyNow<'_, C>) {
        shard.insert(place, stored, |space, partition| self.hash(space, partition));
        if shard.is_sweep_due() {
            let freed = shard.reclaim(now.get());
            self.release(freed);
        }
    }

    // Large values are passed by reference and built where they end up: moving what was just written in words makes the
    // processor wait for its own stores, and three such moves cost as much as the lock.
    fn update<P: ErasedProcedure + ?Sized>(&self, key: &Key<'_>, procedure: &P) -> Result<OutputBytes> {
        self.limits.check_update(*key)?;
        let now = self.clock.now();
        let mut answer = Ok(OutputBytes::new());
        if let Ok(output) = &mut answer
            && let Err(error) = self.with_room(|| self.try_update(key, procedure, now, output))
        {
            answer = Err(error);
        }
        answer
    }

    #[inline]
    fn try_update<P: ErasedProcedure + ?Sized>(
        &self,
        key: &Key<'_>,
        procedure: &P,
        now: Timestamp,
        output: &mut OutputBytes,
    ) -> Result<Attempt<()>> {
        let place = self.place(key);
        let home = self.shard(place.hash);
        output.clear();
        let mut shard = home.0.lock();
        let minted = shard.mint();
        let is_evictable = self.bound.is_some() && shard.is_evictable(key.space());
        let found = shard.find_mut(place);
        let held_bytes = found.as_ref().map_or(0, |found| cost(*key, found.stored.bytes().len()));
        let live = found.as_ref().map(|found| &*found.stored).filter(|stored| !stored.is_expired(now));
        let state = live.map(Stored::bytes);
        match &procedure.apply(state, now, output) {
            Err(error) => return Err(error.clone().at(*key)),
            Ok(StateChange::Keep) => {}
            Ok(StateChange::Delete) => {
                if shard.remove(place) {
                    self.release(Freed::of(held_bytes, is_evictable));
                }
            }
            Ok(StateChange::Put { state, ttl }) => {
                self.limits.check_value(state)?;
                self.check_fits(*key, state.len())?;
                let expires_at = ttl.map(|ttl| expiry(now, ttl)).transpose()?;
                let wanted = cost(*key, state.len());
                if let Err(more) = self.reserve(held_bytes, wanted, is_evictable) {
                    return Ok(Attempt::NoRoom(more));
                }
                self.expect_expiry(expires_at);
                let version = Version::from_u128(u128::from(self.nonce) << 64 | u128::from(self.unique(place, minted)));
                if let Some(found) = found {
                    found.set_state(state, version, expires_at);
                } else {
                    let stored = Stored::from_state(state, version, expires_at);
                    self.insert(&mut shard, place, stored, &mut LazyNow(&self.clock, Some(now)));
                }
            }
        }
        Ok(Attempt::Done(()))
    }

    /// A number that no shard of this store minted before: the shard's index above the shard's count.
    fn unique(&self, place: Place<'_>, minted: u64) -> u64 {
        let shard = (place.hash >> 40) & (self.shards.len() as u64 - 1);
        shard << 48 | minted
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Page> {
        self.limits.check_scan(scan)?;
        if scan.is_empty_range() {
            return Ok(Page::default());
        }
        let key = Key::lone(scan.space, scan.partition);
        let place = self.place(&key);
        let now = self.clock.now();
        Ok(self.shard(place.hash).0.lock().scan(place, scan, self.limits.page_rows_max, now))
    }

    fn trim(&self, trim: &Trim<'_>) -> Result<Trimmed> {
        self.limits.check_trim(trim)?;
        let key = Key::lone(trim.space, trim.partition);
        let place = self.place(&key);
        let now = self.clock.now();
        let (trimmed, freed) = self.shard(place.hash).0.lock().trim(place, trim, self.limits.page_rows_max, now);
        self.release(freed);
        Ok(trimmed)
    }

    /// Runs `attempt`; where it finds no room, makes some and runs it again.
    #[inline]
    fn with_room<T>(&self, mut attempt: impl FnMut() -> Result<Attempt<T>>) -> Result<T> {
        // Others may take the room that was made.
        for _ in 0..ATTEMPTS_MAX {
            match attempt()? {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::NoRoom(more) if !self.make_room(more) => break,
                Attempt::NoRoom(_) => {}
            }
        }
        let message = "the store's bytes_max is reached; raise it, delete records, or let a space be evictable";
        Err(Error::new(ErrorKind::Full, Effect::None, message))
    }

    /// Makes room for so many more bytes; answers whether there was any to make.
    #[cold]
    fn make_room(&self, more: usize) -> bool {
        let Some(bound) = &self.bound else { return true };
        let mut search = bound.search.lock();
        let now = self.clock.now();
        let mut freed_bytes = 0;
        if bound.excess(more) > 0 && bound.may_hold_expired(now) && !search.is_resting(now) {
            let looked_at;
            (freed_bytes, looked_at) = self.reclaim_all(bound, now);
            if freed_bytes < bound.batch_bytes() {
                search.rest(now, looked_at);
            }
        }
        let (excess, evictable_bytes) = (bound.excess(more), bound.evictable_bytes());
        if excess > evictable_bytes {
            return false;
        }
        if excess > 0 {
            let batch_bytes = bound.batch_bytes().saturating_sub(freed_bytes);
            self.evict(bound, &mut search, excess.max(batch_bytes.min(evictable_bytes)));
        }
        true
    }

    /// Removes all expired records; answers the bytes freed, and how many records were looked at.
    fn reclaim_all(&self, bound: &Bound, now: Timestamp) -> (usize, usize) {
        bound.forget_expiries();
        let (mut freed_bytes, mut looked_at) = (0, 0);
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            looked_at += shard.record_count();
            let freed = shard.reclaim(now);
            bound.expect_expiry(shard.soonest_us());
            drop(shard);
            bound.release(freed);
            freed_bytes += freed.bytes;
        }
        (freed_bytes, looked_at)
    }

    fn evict(&self, bound: &Bound, search: &mut Search, mut bytes: usize) {
        let count = self.shards.len();
        let one_in = bound.evictable_bytes().div_ceil(count).div_ceil(bytes).max(1);
        // What is then missing is taken as it comes.
        for one_in in [one_in, 1] {
            for _ in 0..count {
                let Some(shard) = self.shards.get(search.shard) else { return };
                let freed = shard.0.lock().evict(bytes, one_in);
                bound.release(freed);
                bytes = bytes.saturating_sub(freed.bytes);
                // While a shard has enough to give it stays its turn: what lies last in it goes too.
                if bytes == 0 {
                    return;
                }
                search.shard = (search.shard + 1) % count;
            }
        }
    }

    /// Refuses a record that no room could be made for.
    fn check_fits(&self, key: Key<'_>, value_len: usize) -> Result<()> {
        match &self.bound {
            Some(bound) if cost(key, value_len) > bound.bytes_max => {
                Err(Error::too_large("value", value_len, bound.bytes_max.saturating_sub(cost(key, 0))))
            }
            _ => Ok(()),
        }
    }

    /// Takes the room for a record that held so many bytes; otherwise how many more it wants.
    fn reserve(&self, held_bytes: usize, wanted: usize, is_evictable: bool) -> Result<(), usize> {
        self.bound.as_ref().map_or(Ok(()), |bound| bound.reserve(held_bytes, wanted, is_evictable))
    }

    fn release(&self, freed: Freed) {
        if let Some(bound) = &self.bound {
            bound.release(freed);
        }
    }

    fn expect_expiry(&self, expires_at: Option<Timestamp>) {
        if let (Some(bound), Some(expires_at)) = (&self.bound, expires_at) {
            bound.expect_expiry(expires_at.as_micros());
        }
    }
}

impl<C: Clock> Store for Memory<C> {
    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.shared.get(&key)
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        keys.iter().map(|key| self.shared.get(key)).collect()
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.shared.write(write)
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        writes.iter().map(|write| self.shared.write(write.clone())).collect()
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.shared.scan(&scan)
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.shared.trim(&trim)
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.shared.update(&key, procedure)
    }
}
