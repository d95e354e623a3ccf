//! The most frequent keys of a stream, in bounded memory.
//!
//! Source: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient computation of frequent and top-k elements in data streams", 2005:
//! the algorithm Space-Saving.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;

/// Counts of the most frequent keys.
///
/// Of `n` counted in all, with room for `k` keys: a count is at least the true one and at most `over` above it; `over` is at most `n / k`;
/// and whatever was counted more often than `n / k` times is there.
#[derive(Clone)]
pub(crate) struct Top<K> {
    room: usize,
    places: HashMap<K, usize>,
    entries: Vec<Entry<K>>,
    /// By count, then by place.
    order: BTreeSet<(u64, usize)>,
    total: u64,
}

/// Without the keys.
impl<K> fmt::Debug for Top<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Top").field("room", &self.room).field("total", &self.total).finish_non_exhaustive()
    }
}

/// A key and its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<K> {
    pub(crate) key: K,
    pub(crate) count: u64,
    /// By how much the count may be too high.
    pub(crate) over: u64,
}

impl<K: Clone + Eq + Hash> Top<K> {
    /// With room for so many keys, at least 1.
    pub(crate) fn new(room: usize) -> Self {
        let room = room.max(1);
        Self { room, places: HashMap::new(), entries: Vec::new(), order: BTreeSet::new(), total: 0 }
    }

    /// Counts a key once more.
    pub(crate) fn count(&mut self, key: &K) {
        self.total = self.total.saturating_add(1);
        let place = match self.places.get(key) {
            Some(&place) => place,
            None if self.entries.len() < self.room => {
                self.entries.push(Entry { key: key.clone(), count: 0, over: 0 });
                let place = self.entries.len() - 1;
                self.places.insert(key.clone(), place);
                self.order.insert((0, place));
                place
            }
            None => self.replace_least(key),
        };
        let entry = &mut self.entries[place];
        self.order.remove(&(entry.count, place));
        entry.count = entry.count.saturating_add(1);
        self.order.insert((entry.count, place));
    }

    /// Gives the place of the least frequent key to another, which takes its count over.
    fn replace_least(&mut self, key: &K) -> usize {
        let place = self.order.first().map_or(0, |&(_, place)| place);
        let entry = &mut self.entries[place];
        self.places.remove(&entry.key);
        self.places.insert(key.clone(), place);
        *entry = Entry { key: key.clone(), count: entry.count, over: entry.count };
        place
    }

    /// The most frequent first.
    pub(crate) fn most(&self) -> impl Iterator<Item = &Entry<K>> {
        self.order.iter().rev().map(|&(_, place)| &self.entries[place])
    }

    /// How many were counted in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.room);
    }
}

#[cfg(test)]
#[path = "top_tests.rs"]
mod tests;
