//! The bound on the bytes of a store's records, and what is known of the room that could be made.
//!
//! At the bound more is freed than one write needs, a 64th of all, so that the writes after it find room: looking through the
//! records then costs each of them a few looks, however many records there are. Where nothing can be freed that is known
//! without a look: from the bytes in evictable spaces, from the soonest expiry, and from a rest after a look that found too
//! little.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sysd_core::Timestamp;

/// At the bound, one part in so many is freed at once.
const BATCH_PARTS: usize = 64;

/// How long expired records are not looked for again where too few were found, for each record looked at: some hundred
/// times what the look takes.
const REST_PER_RECORD: Duration = Duration::from_micros(1);

/// Bytes that were freed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freed {
    pub(super) bytes: usize,
    /// Of these, in evictable spaces.
    pub(super) evictable_bytes: usize,
}

impl Freed {
    pub(super) fn of(bytes: usize, is_evictable: bool) -> Self {
        Self { bytes, evictable_bytes: if is_evictable { bytes } else { 0 } }
    }

    pub(super) fn add(&mut self, bytes: usize, is_evictable: bool) {
        self.bytes += bytes;
        self.evictable_bytes += if is_evictable { bytes } else { 0 };
    }
}

/// What a bounded store counts.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) bytes_max: usize,
    bytes_used: AtomicUsize,
    evictable_bytes: AtomicUsize,
    /// No record expires before; `u64::MAX` if none does.
    soonest_us: AtomicU64,
    /// Held while room is made: who comes meanwhile waits for it rather than making it twice.
    pub(super) search: Mutex<Search>,
}

/// Where room is looked for next, and from when on.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) shard: usize,
    rest: Option<(Timestamp, Timestamp)>,
}

impl Search {
    /// Looked in vain at so many records.
    pub(super) fn rest(&mut self, now: Timestamp, records: usize) {
        let rest = REST_PER_RECORD.saturating_mul(u32::try_from(records).unwrap_or(u32::MAX));
        self.rest = Some((now, now.saturating_add(rest)));
    }

    /// A clock that went back ends a rest.
    pub(super) fn is_resting(&self, now: Timestamp) -> bool {
        self.rest.is_some_and(|(from, until)| (from..until).contains(&now))
    }
}

impl Bound {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes_used: AtomicUsize::new(0),
            evictable_bytes: AtomicUsize::new(0),
            soonest_us: AtomicU64::new(u64::MAX),
            search: Mutex::default(),
        }
    }

    /// How much is freed at once, if there is as much.
    pub(super) fn batch_bytes(&self) -> usize {
        self.bytes_max / BATCH_PARTS
    }

    /// What has to go before so many more bytes fit.
    pub(super) fn excess(&self, more: usize) -> usize {
        self.bytes_used.load(Ordering::Relaxed).saturating_add(more).saturating_sub(self.bytes_max)
    }

    pub(super) fn evictable_bytes(&self) -> usize {
        self.evictable_bytes.load(Ordering::Relaxed)
    }

    /// Takes the room for a record that held so many bytes; otherwise how many more it wants.
    pub(super) fn reserve(&self, held: usize, wanted: usize, is_evictable: bool) -> Result<(), usize> {
        if wanted <= held {
            self.release(Freed::of(held - wanted, is_evictable));
            return Ok(());
        }
        let more = wanted - held;
        let take = |used: usize| used.checked_add(more).filter(|&used| used <= self.bytes_max);
        self.bytes_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| more)?;
        if is_evictable {
            self.evictable_bytes.fetch_add(more, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn release(&self, freed: Freed) {
        self.bytes_used.fetch_sub(freed.bytes, Ordering::Relaxed);
        self.evictable_bytes.fetch_sub(freed.evictable_bytes, Ordering::Relaxed);
    }

    /// Called under the lock of the record's shard.
    pub(super) fn expect_expiry(&self, expires_at_us: u64) {
        if expires_at_us < self.soonest_us.load(Ordering::Relaxed) {
            self.soonest_us.fetch_min(expires_at_us, Ordering::Relaxed);
        }
    }

    /// Before all shards are looked at: what is written meanwhile counts, and what they hold is then
    /// [expected](Bound::expect_expiry) again.
    pub(super) fn forget_expiries(&self) {
        self.soonest_us.store(u64::MAX, Ordering::Relaxed);
    }

    pub(super) fn may_hold_expired(&self, now: Timestamp) -> bool {
        self.soonest_us.load(Ordering::Relaxed) <= now.as_micros()
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.bytes_used.load(Ordering::Relaxed), self.evictable_bytes())
    }
}
