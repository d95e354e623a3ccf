//! Which transactions were recorded, by id and by number.

use super::blocks::Blocks;
use super::places::{Hash, Places};
use crate::model::TransactionId;

/// The ids of the journal, in the order of their numbers, and a way back from an id.
///
/// 16 bytes an id in order, and 10 to 20 for the way back.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    ids: Blocks<TransactionId, { 1 << 16 }>,
    places: Places,
    /// The numbers whose ids are not their own, in order.
    unnamed: Vec<u64>,
}

impl Numbers {
    /// How many there are; the next number is one more.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The number of an id, or its hash for [`push`](Self::push).
    #[inline]
    pub(super) fn find(&self, id: TransactionId) -> Result<u64, Hash> {
        let hash = self.hash(id);
        let found = self.places.find(hash, |at| self.ids.get(at) == Some(&id));
        found.map(|at| u64::from(at) + 1).ok_or(hash)
    }

    pub(super) fn hash(&self, id: TransactionId) -> Hash {
        self.places.hash(id.0)
    }

    /// Adds the next id, which is not there yet. Answers its number; `None` if there is no room for another.
    #[inline]
    pub(super) fn push(&mut self, id: TransactionId, hash: Hash) -> Option<u64> {
        let at = u32::try_from(self.ids.len()).ok()?;
        self.ids.push(id);
        self.places.insert(hash, at);
        Some(u64::from(at) + 1)
    }

    /// Uses up a number for what is no transaction of its own, such as the end of a hold of that id.
    pub(super) fn push_unnamed(&mut self, of: TransactionId) -> u64 {
        self.ids.push(of);
        self.unnamed.push(self.count());
        self.count()
    }

    /// The numbers that [`push_unnamed`](Self::push_unnamed) used up.
    pub(super) fn unnamed(&self) -> &[u64] {
        &self.unnamed
    }

    /// In the order of their numbers.
    pub(super) fn ids(&self) -> impl Iterator<Item = TransactionId> {
        self.ids.iter().copied()
    }

    /// Takes the last one back.
    pub(super) fn pop(&mut self) {
        let number = self.count();
        let Some(id) = self.ids.pop() else { return };
        if self.unnamed.last() == Some(&number) {
            self.unnamed.pop();
        }
        if let Ok(at) = u32::try_from(self.ids.len()) {
            self.places.remove(self.hash(id), at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_have_numbers_until_they_are_taken_back() {
        let mut numbers = Numbers::default();
        let ids = (0..200_000_u128).map(|at| TransactionId(at * at * at));
        for id in ids.clone() {
            let hash = numbers.find(id).unwrap_err();
            assert_eq!(numbers.push(id, hash), Some(numbers.count()));
        }
        for (number, id) in (1..).zip(ids.clone()) {
            assert_eq!(numbers.find(id).ok(), Some(number));
        }
        for _ in 0..150_000 {
            numbers.pop();
        }
        for (at, id) in ids.clone().enumerate() {
            assert_eq!(numbers.find(id).is_ok(), at < 50_000);
        }
        assert_eq!(numbers.push_unnamed(TransactionId(0)), 50_001);
        assert_eq!(numbers.find(TransactionId(0)).ok(), Some(1));
        numbers.pop();
        assert_eq!(numbers.find(TransactionId(0)).ok(), Some(1));
        assert_eq!(numbers.count(), 50_000);
    }
}
