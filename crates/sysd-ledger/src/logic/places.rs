//! Where something with a 128-bit id lies, by its hash.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

const SLOTS_MIN: usize = 8;

/// A place, and 31 bits of the hash of what lies there: to tell it from others, and to move it when the table grows, without a look
/// at what lies there. Zero is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Slot(u64);

impl Slot {
    const NONE: Self = Self(0);

    const fn new(tag: u32, at: u32) -> Self {
        Self((tag as u64) << 32 | at as u64)
    }

    const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn at(self) -> u32 {
        self.0 as u32
    }
}

/// A hash table with linear probing and deletion by moving back (Knuth, vol. 3, 6.4, algorithms L and R), three quarters full at most:
/// what is looked for lies in one line of the cache, or two.
#[derive(Debug, Default)]
struct Table {
    /// A power of two of them, or none.
    slots: Vec<Slot>,
    len: usize,
}

impl Table {
    #[inline]
    fn home(&self, tag: u32) -> usize {
        // Its lowest bit is always set.
        (tag >> 1) as usize & (self.slots.len() - 1)
    }

    #[inline]
    fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(tag);
        loop {
            let slot = *self.slots.get(at)?;
            if slot == Slot::NONE {
                return None;
            }
            if slot.tag() == tag && is_it(slot.at()) {
                return Some(at);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn insert(&mut self, slot: Slot) {
        if 4 * (self.len + 1) > 3 * self.slots.len() {
            self.grow();
        }
        self.len += 1;
        self.put(slot);
    }

    #[inline]
    fn put(&mut self, slot: Slot) {
        let mut at = self.home(slot.tag());
        while self.slots[at] != Slot::NONE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = slot;
    }

    #[cold]
    fn grow(&mut self) {
        let slots = vec![Slot::NONE; SLOTS_MIN.max(2 * self.slots.len())];
        for slot in std::mem::replace(&mut self.slots, slots) {
            if slot != Slot::NONE {
                self.put(slot);
            }
        }
    }

    fn remove(&mut self, mut at: usize) {
        let last = self.slots.len() - 1;
        let mut next = at;
        self.len -= 1;
        loop {
            self.slots[at] = Slot::NONE;
            loop {
                next = (next + 1) & last;
                let slot = self.slots[next];
                if slot == Slot::NONE {
                    return;
                }
                // It may move back to `at` if its home is not behind that.
                let (from_home, gap) = (next.wrapping_sub(self.home(slot.tag())) & last, next.wrapping_sub(at) & last);
                if from_home >= gap {
                    break;
                }
            }
            self.slots[at] = self.slots[next];
            at = next;
        }
    }
}

/// From ids to places: so many tables, so that one that grows is a small part of all, and nothing waits for long.
#[derive(Debug)]
pub(super) struct Places<const TABLES: usize> {
    tables: Vec<Table>,
    /// Seeded anew in each process: who chooses ids can't choose where they lie. Nothing that is answered depends on it.
    hasher: RandomState,
}

impl<const TABLES: usize> Default for Places<TABLES> {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| Table::default()).collect(), hasher: RandomState::default() }
    }
}

/// The hash of an id, to look for it and then to add it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash {
    table: usize,
    tag: u32,
}

impl<const TABLES: usize> Places<TABLES> {
    /// An id that may be in any table.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "both halves are used")]
    pub(super) fn hash(&self, id: u128) -> Hash {
        let hash = self.hasher.hash_one(id);
        Hash { table: (hash >> 32) as usize % TABLES, tag: hash as u32 | 1 }
    }

    /// An id that is always in the table of that number, counted beyond the last one from the first again. What is looked for at about
    /// the same time had better be in the same one.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the remainder counts")]
    pub(super) fn hash_in(&self, table: u64, id: u128) -> Hash {
        Hash { table: table as usize % TABLES, ..self.hash(id) }
    }

    /// The place of an id, if it lies where `is_it` says so.
    #[inline]
    pub(super) fn find(&self, hash: Hash, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let table = self.tables.get(hash.table)?;
        let found = table.find(hash.tag, is_it)?;
        table.slots.get(found).map(|slot| slot.at())
    }

    /// Adds one that is not there.
    #[inline]
    pub(super) fn insert(&mut self, hash: Hash, at: u32) {
        if let Some(table) = self.tables.get_mut(hash.table) {
            table.insert(Slot::new(hash.tag, at));
        }
    }

    /// Removes the one that lies there, if it is there.
    pub(super) fn remove(&mut self, hash: Hash, at: u32) {
        if let Some(table) = self.tables.get_mut(hash.table)
            && let Some(found) = table.find(hash.tag, |found| found == at)
        {
            table.remove(found);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0..40_u32, any::<bool>()), 0..200), spread in 0..5_u32) {
            // Few tags, so that many share a home, and one wraps around the end.
            let tag = |key: u32| (key << spread << 1).wrapping_sub(5) | 1;
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (step, (key, is_added)) in (0..).zip(steps) {
                let at = map.get(&key).copied();
                match (at, is_added) {
                    (None, true) => {
                        table.insert(Slot::new(tag(key), step));
                        map.insert(key, step);
                    }
                    (Some(at), false) => {
                        let found = table.find(tag(key), |found| found == at).unwrap();
                        table.remove(found);
                        map.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len, map.len());
                prop_assert_eq!(table.slots.iter().filter(|slot| **slot != Slot::NONE).count(), map.len());
                for key in 0..40 {
                    let wanted = map.get(&key).copied();
                    let found = table.find(tag(key), |at| Some(at) == wanted);
                    prop_assert_eq!(found.map(|found| table.slots[found].at()), wanted);
                }
            }
        }
    }
}
