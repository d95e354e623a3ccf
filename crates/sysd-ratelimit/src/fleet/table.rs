//! What a process knows of its keys, in shards, and no more keys than there is room for.

use std::hash::{BuildHasher as _, Hasher as _};

use hashbrown::HashTable;
use parking_lot::Mutex;
use sysd_core::KeyBytes;

/// More than processors, so that threads seldom meet.
const SHARDS: usize = 64;

#[derive(Debug)]
struct Held<T> {
    key: KeyBytes,
    value: T,
}

/// Its own cache lines, so that neighbouring shards' locks don't slow each other.
#[repr(align(128))]
#[derive(Debug)]
struct Padded<T>(Mutex<HashTable<Held<T>>>);

#[derive(Debug)]
pub(super) struct Table<T> {
    shards: Box<[Padded<T>]>,
    hasher: foldhash::quality::RandomState,
    /// Of each shard.
    keys_max: usize,
}

impl<T: Default> Table<T> {
    pub(super) fn new(keys_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Padded(Mutex::new(HashTable::new()))).collect();
        Self { shards, hasher: foldhash::quality::RandomState::default(), keys_max: keys_max.div_ceil(SHARDS) }
    }

    /// Looks at a key, which is made if it was not there. `None`, and nothing was done, if there is no room for it.
    #[inline]
    pub(super) fn with<R>(&self, key: &[u8], look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (hash, shard) = self.place(key);
        let mut held = shard.0.lock();
        if let Some(found) = held.find_mut(hash, |held| held.key.as_slice() == key) {
            return Some(look(&mut found.value));
        }
        if held.len() >= self.keys_max {
            return None;
        }
        let new = Held { key: KeyBytes::from_slice(key), value: T::default() };
        Some(look(&mut held.insert_unique(hash, new, |held| self.hash(&held.key)).into_mut().value))
    }

    /// Looks at a key if it is there.
    pub(super) fn with_known<R>(&self, key: &[u8], look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (hash, shard) = self.place(key);
        let mut held = shard.0.lock();
        held.find_mut(hash, |held| held.key.as_slice() == key).map(|found| look(&mut found.value))
    }

    /// Looks at all keys, a shard at a time; those for which it answers `false` are forgotten.
    pub(super) fn retain(&self, mut stays: impl FnMut(&[u8], &mut T) -> bool) {
        for shard in &self.shards {
            let mut held = shard.0.lock();
            held.retain(|held| stays(&held.key, &mut held.value));
            if held.capacity() > 4 * held.len() + 64 {
                held.shrink_to_fit(|held| self.hash(&held.key));
            }
        }
    }

    /// How many keys are there.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    #[inline]
    fn place(&self, key: &[u8]) -> (u64, &Padded<T>) {
        let hash = self.hash(key);
        // The table uses the lowest bits and the highest seven: these are others.
        #[allow(clippy::cast_possible_truncation, reason = "fewer than 64 shards")]
        let index = (hash >> 40) as usize % SHARDS;
        (hash, &self.shards[index])
    }
}
