//! Where something with a 128-bit id lies, by its hash.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// So many tables, so that one that grows is a small part of all, and nothing waits for long.
const TABLES: usize = 256;

/// A place, and half of the hash of what lies there: to tell it from others, and to move it when the table grows, without a
/// look at what lies there.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    hash: u32,
}

impl Entry {
    /// As the tables want it: what they look at is in the lowest and the highest bits.
    const fn spread(self) -> u64 {
        self.hash as u64 | (self.hash as u64) << 32
    }
}

/// From ids to places.
#[derive(Debug)]
pub(super) struct Places {
    tables: Vec<HashTable<Entry>>,
    /// Seeded anew in each process: who chooses ids can't choose where they lie. Nothing that is answered depends on it.
    hasher: RandomState,
}

impl Default for Places {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect(), hasher: RandomState::default() }
    }
}

/// The hash of an id, to look for it and then to add it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u64);

impl Hash {
    const fn table(self) -> usize {
        (self.0 >> 32) as usize % TABLES
    }

    const fn entry(self, at: u32) -> Entry {
        #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
        Entry { at, hash: self.0 as u32 }
    }
}

impl Places {
    #[inline]
    pub(super) fn hash(&self, id: u128) -> Hash {
        Hash(self.hasher.hash_one(id))
    }

    /// The place of an id, if it lies where `is_it` says so.
    #[inline]
    pub(super) fn find(&self, hash: Hash, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let wanted = hash.entry(0);
        let table = self.tables.get(hash.table())?;
        table.find(wanted.spread(), |found| found.hash == wanted.hash && is_it(found.at)).map(|found| found.at)
    }

    /// Adds one that is not there.
    #[inline]
    pub(super) fn insert(&mut self, hash: Hash, at: u32) {
        if let Some(table) = self.tables.get_mut(hash.table()) {
            let entry = hash.entry(at);
            table.insert_unique(entry.spread(), entry, |entry| entry.spread());
        }
    }

    /// Removes the one that lies there, if it is there.
    pub(super) fn remove(&mut self, hash: Hash, at: u32) {
        if let Some(table) = self.tables.get_mut(hash.table())
            && let Ok(found) = table.find_entry(hash.entry(at).spread(), |found| found.at == at)
        {
            found.remove();
        }
    }
}
