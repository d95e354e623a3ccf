//! What a process knows of its keys, in shards, and no more keys than there is room for.
//!
//! Keys are compared whole, so no key is taken for another. The hash is seeded by the process and no keyed pseudo-random function: who
//! learned the seed could choose keys of one shard, whose lookups then compare more of them. A shard has a bound of its own, so it
//! is at most [`SHARD_KEYS_MIN`] and four times its share that are compared; keys beyond it find no room, and are decided by the store. Nothing is ever
//! admitted by that.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;
use sysd_core::KeyBytes;

use super::meter::Tally;

/// More than processors, so that threads seldom meet.
const SHARDS: usize = 64;
/// However little room there is in all, a shard may have so many keys.
const SHARD_KEYS_MIN: usize = 64;

#[derive(Debug)]
struct Held<T> {
    key: KeyBytes,
    value: T,
}

#[derive(Debug)]
struct Shard<T> {
    held: HashTable<Held<T>>,
    /// Of all its keys, also those that were forgotten since.
    tally: Tally,
}

/// Its own cache lines, so that neighbouring shards' locks don't slow each other.
#[repr(align(128))]
#[derive(Debug)]
struct Padded<T>(Mutex<Shard<T>>);

#[derive(Debug)]
pub(super) struct Table<T> {
    shards: Box<[Padded<T>]>,
    hasher: foldhash::quality::RandomState,
    keys_max: usize,
    /// Of each shard.
    shard_keys_max: usize,
    /// Written where a key comes or goes only.
    len: AtomicUsize,
}

impl<T> Table<T> {
    /// Of a key of ordinary length, and what is known of it.
    pub(super) const ENTRY_BYTES: usize = size_of::<Held<T>>() + 1;
}

impl<T: Default> Table<T> {
    pub(super) fn new(keys_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Padded(Mutex::new(Shard { held: HashTable::new(), tally: Tally::default() })));
        let shards = shards.collect();
        let shard_keys_max = keys_max.div_ceil(SHARDS).saturating_mul(4).saturating_add(SHARD_KEYS_MIN);
        let hasher = foldhash::quality::RandomState::default();
        Self { shards, hasher, keys_max, shard_keys_max, len: AtomicUsize::new(0) }
    }

    /// Looks at a key, which is made if it was not there. `None`, and nothing was done, if there is no room for it.
    pub(super) fn with<R>(&self, key: &[u8], look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.counting(key, |value, _| look(value))
    }

    /// The same, where what is decided by it is counted: by who holds the lock anyway, so no thread waits for another's count.
    #[inline]
    pub(super) fn counting<R>(&self, key: &[u8], look: impl FnOnce(&mut T, &mut Tally) -> R) -> Option<R> {
        let (hash, shard) = self.place(key);
        let mut shard = shard.0.lock();
        let Shard { held, tally } = &mut *shard;
        if let Some(found) = held.find_mut(hash, |held| held.key.as_slice() == key) {
            return Some(look(&mut found.value, tally));
        }
        let is_room = |len: usize| (len < self.keys_max).then(|| len + 1);
        if held.len() >= self.shard_keys_max
            || self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_room).is_err()
        {
            return None;
        }
        let new = Held { key: KeyBytes::from_slice(key), value: T::default() };
        Some(look(&mut held.insert_unique(hash, new, |held| self.hash(&held.key)).into_mut().value, tally))
    }

    /// Looks at a key if it is there.
    pub(super) fn with_known<R>(&self, key: &[u8], look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.counting_known(key, |value, _| look(value))
    }

    /// The same, where what is decided by it is counted.
    #[inline]
    pub(super) fn counting_known<R>(&self, key: &[u8], look: impl FnOnce(&mut T, &mut Tally) -> R) -> Option<R> {
        let (hash, shard) = self.place(key);
        let mut shard = shard.0.lock();
        let Shard { held, tally } = &mut *shard;
        held.find_mut(hash, |held| held.key.as_slice() == key).map(|found| look(&mut found.value, tally))
    }

    /// Looks at all keys, a shard at a time; those for which it answers `false` are forgotten. What was counted since it was asked last.
    pub(super) fn retain(&self, mut stays: impl FnMut(&[u8], &mut T) -> bool) -> Tally {
        let mut all = Tally::default();
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            let Shard { held, tally } = &mut *shard;
            all.take_from(tally);
            let before = held.len();
            held.retain(|held| stays(&held.key, &mut held.value));
            self.len.fetch_sub(before - held.len(), Ordering::Relaxed);
            if held.capacity() > 4 * held.len() + 64 {
                held.shrink_to_fit(|held| self.hash(&held.key));
            }
        }
        all
    }

    /// How many keys are there.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(at: u32) -> [u8; 4] {
        at.to_be_bytes()
    }

    #[test]
    fn a_table_has_room_for_exactly_as_many_keys_as_it_was_given() {
        for keys_max in [1, 10, 100, 5_000] {
            let table: Table<u32> = Table::new(keys_max);
            let many = u32::try_from(keys_max).unwrap() * 20;
            let kept: Vec<u32> = (0..many).filter(|&at| table.with(&key(at), |value| *value = at).is_some()).collect();
            assert_eq!((kept.len(), table.len()), (keys_max, keys_max));
            // Those that are there stay and are found, the others are not.
            for at in 0..many {
                let found = table.with_known(&key(at), |value| *value);
                assert_eq!(found, kept.contains(&at).then_some(at));
            }
            // Who goes makes room.
            table.retain(|_, value| *value != kept[0]);
            assert_eq!(table.len(), keys_max - 1);
            assert!(table.with(&key(many), |_| ()).is_some() && table.with(&key(many + 1), |_| ()).is_none());
        }
    }

    #[test]
    fn threads_that_fill_a_table_at_once_find_no_more_room() {
        let table: Table<u32> = Table::new(1_000);
        let fill = |thread: u32| (0..2_000).filter(|at| table.with(&key(thread << 20 | at), |_| ()).is_some()).count();
        let filled: usize = std::thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || fill(thread)));
            threads.map(|thread| thread.join().unwrap()).into_iter().sum()
        });
        assert_eq!((filled, table.len()), (1_000, 1_000));
    }

    #[test]
    fn a_shard_has_no_more_keys_than_its_bound() {
        let table: Table<u32> = Table::new(6_400);
        let shard = |at: u32| std::ptr::from_ref(table.place(&key(at)).1);
        let of_first = (0..).filter(|&at| shard(at) == shard(0));
        let kept = of_first.take(1_000).filter(|&at| table.with(&key(at), |_| ()).is_some()).count();
        assert_eq!(kept, 4 * 100 + SHARD_KEYS_MIN);
    }
}
