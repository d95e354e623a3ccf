//! Who reads and who writes which record now: what keeps an old record out of the cache.
//!
//! A read that begins while a record is neither kept nor written *leads*: others follow it, and what it reads is kept. A
//! write first forgets what is kept and cuts off who leads, so that its answer is not kept; while it lasts, reads go alone
//! and keep nothing. So nothing that is kept is older than the last write that was answered.
//!
//! A trim names no records. It counts up, with the number of trims under way beside the count; what was read under another
//! count is not good any more. Partitions share 4,096 counts by hash: a trim costs others a miss, never a stale hit.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::channel::oneshot;
use futures::future::{FutureExt as _, Shared};
use parking_lot::{Mutex, MutexGuard};
use sysd_core::{Error, Key, KeyBuf, Record};

use crate::layer::bug::{Bug, Bugs};

type Answer = Result<Option<Record>, Arc<Error>>;

const SHARDS: usize = 16;
const TRIM_COUNTS: usize = 4_096;
/// The lower bits of a trim count: how many trims are under way.
const UNDER_WAY_BITS: u32 = 20;

#[derive(Debug)]
pub(super) struct Fills {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    trims: Box<[AtomicU64]>,
    bugs: Bugs,
}

#[derive(Debug, Default)]
struct Shard {
    last_id: u64,
    slots: HashMap<KeyBuf, Slot>,
}

/// One record that is being read or written; there is none for others.
#[derive(Debug, Default)]
struct Slot {
    writers: u32,
    fill: Option<Fill>,
}

#[derive(Debug)]
struct Fill {
    id: u64,
    trims: u64,
    /// Made for the first who follows.
    followed: Option<(oneshot::Sender<Answer>, Shared<oneshot::Receiver<Answer>>)>,
}

/// What a read does that found nothing kept.
pub(super) enum Role<'a> {
    /// Read, and tell.
    Lead(Lead<'a>),
    /// Be told.
    Follow(Shared<oneshot::Receiver<Answer>>),
    /// Read, and keep nothing.
    Alone,
}

impl Fills {
    pub(super) fn new(bugs: Bugs) -> Self {
        let trims = (0..TRIM_COUNTS).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), shards: Default::default(), trims, bugs }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is meant")]
    fn shard(&self, key: Key<'_>) -> MutexGuard<'_, Shard> {
        self.shards[self.hasher.hash_one(key) as usize % SHARDS].lock()
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is meant")]
    fn trim_count(&self, key: Key<'_>) -> &AtomicU64 {
        let hash = self.hasher.hash_one((key.space().name(), key.partition()));
        &self.trims[hash as usize % TRIM_COUNTS]
    }

    /// How many trims there have been that may have touched the record; `None` while one is under way.
    pub(super) fn trims(&self, key: Key<'_>) -> Option<u64> {
        if key.is_lone() {
            return Some(0);
        }
        let count = self.trim_count(key).load(Ordering::SeqCst);
        let under_way = count & ((1 << UNDER_WAY_BITS) - 1);
        (under_way == 0).then_some(count >> UNDER_WAY_BITS)
    }

    /// A trim of a key's partition, until it is dropped.
    pub(super) fn trim(&self, key: Key<'_>) -> Trimming<'_> {
        let count = self.trim_count(key);
        count.fetch_add((1 << UNDER_WAY_BITS) + 1, Ordering::SeqCst);
        Trimming(count)
    }

    /// Takes a part in reading a record.
    pub(super) fn join<'a>(&'a self, key: Key<'a>) -> Role<'a> {
        let Some(trims) = self.trims(key) else { return Role::Alone };
        let mut shard = self.shard(key);
        shard.last_id += 1;
        let id = shard.last_id;
        let slot = shard.slots.entry(key.to_owned()).or_default();
        if slot.writers > 0 && !self.bugs.has(Bug::FillWhileWritten) {
            return Role::Alone;
        }
        match &mut slot.fill {
            None => {
                slot.fill = Some(Fill { id, trims, followed: None });
                Role::Lead(Lead { fills: self, key, id, trims })
            }
            // It may have read before the trim.
            Some(fill) if fill.trims != trims => Role::Alone,
            Some(fill) => {
                let (_, awaited) = fill.followed.get_or_insert_with(|| {
                    let (tell, awaited) = oneshot::channel();
                    (tell, awaited.shared())
                });
                Role::Follow(awaited.clone())
            }
        }
    }

    /// A write of a record, until it is dropped; `forget` removes what is kept.
    pub(super) fn write<'a>(&'a self, key: Key<'a>, forget: impl FnOnce()) -> Writing<'a> {
        let cut_off = {
            let mut shard = self.shard(key);
            let slot = shard.slots.entry(key.to_owned()).or_default();
            slot.writers += 1;
            forget();
            if self.bugs.has(Bug::FillStale) { None } else { slot.fill.take() }
        };
        // Not under the lock: it wakes who follows.
        drop(cut_off);
        Writing { fills: self, key }
    }

    fn leave(&self, key: Key<'_>, change: impl FnOnce(&mut Slot) -> Option<Fill>) -> Option<Fill> {
        let mut shard = self.shard(key);
        let owned = key.to_owned();
        let slot = shard.slots.get_mut(&owned)?;
        let fill = change(slot);
        if slot.writers == 0 && slot.fill.is_none() {
            shard.slots.remove(&owned);
        }
        fill
    }
}

/// A read whose answer is kept and told. Dropped before, those who follow begin anew.
pub(super) struct Lead<'a> {
    fills: &'a Fills,
    key: Key<'a>,
    id: u64,
    trims: u64,
}

impl<'a> Lead<'a> {
    pub(super) const fn key(&self) -> Key<'a> {
        self.key
    }

    pub(super) const fn trims(&self) -> u64 {
        self.trims
    }

    /// Ends it: `keep` runs if no write or trim came between, before any can.
    pub(super) fn finish(self, answer: Answer, keep: impl FnOnce()) {
        let is_trimmed = self.fills.trims(self.key) != Some(self.trims);
        let fill = self.fills.leave(self.key, |slot| {
            let fill = slot.fill.take_if(|fill| fill.id == self.id)?;
            // A trim that begins now changes the count that it is kept with.
            if !is_trimmed || self.fills.bugs.has(Bug::ForgetTrims) {
                keep();
            }
            Some(fill)
        });
        if let Some((tell, _)) = fill.and_then(|fill| fill.followed) {
            let _ = tell.send(answer);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        drop(self.fills.leave(self.key, |slot| slot.fill.take_if(|fill| fill.id == self.id)));
    }
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    fills: &'a Fills,
    key: Key<'a>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.fills.leave(self.key, |slot| {
            slot.writers = slot.writers.saturating_sub(1);
            None
        });
    }
}

/// A trim under way.
#[derive(Debug)]
pub(super) struct Trimming<'a>(&'a AtomicU64);

impl Drop for Trimming<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
