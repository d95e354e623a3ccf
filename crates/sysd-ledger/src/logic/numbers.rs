//! Which transactions were recorded, by id and by number.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sysd_core::Timestamp;

use super::looked::Looked;
use super::places::{Hash, Places};
use super::times::Times;
use crate::model::TransactionId;

/// So many ids leave memory at once.
pub(crate) const BLOCK_IDS: u64 = 1 << 13;

/// When an id says that it was minted, in milliseconds since 1970: a UUID of version 7 (RFC 9562) does.
#[inline]
fn minted_at_ms(id: TransactionId) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, reason = "48 bits are left")]
    let ms = (id.0 >> 80) as u64;
    let (version, variant) = ((id.0 >> 76) & 0xF, (id.0 >> 62) & 0b11);
    (version == 7 && variant == 0b10).then_some(ms)
}

/// The same in microseconds. An id that says a time that no log's time can come to says nothing.
pub(crate) fn minted_at_us(id: TransactionId) -> Option<u64> {
    let us = minted_at_ms(id)?.checked_mul(1_000)?;
    Timestamp::from_micros(us).is_ok().then_some(us)
}

/// Ids of numbers that follow one another.
#[derive(Debug)]
struct Block {
    ids: Vec<TransactionId>,
    /// When the last of them was recorded.
    ended_at: Timestamp,
}

/// Ids that have left, and say that they are of the future.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    /// Those that are known all the same, by their numbers.
    pub(crate) ids: Vec<(TransactionId, u64)>,
    /// When the others say that they were minted.
    pub(crate) unkept: Times,
}

/// Whether an id was recorded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Under this number.
    Number(u64),
    /// It was not; and its hash.
    New(Hash),
    /// That is no longer known here; and its hash.
    Forgotten(Hash),
}

/// The ids of the journal, in the order of their numbers, and a way back from an id. The oldest leave memory once the store has them.
///
/// 16 bytes an id in order, and 10 to 20 for the way back.
///
/// An id that is not here was never recorded, if nothing was forgotten, or if it says that it was minted after everything that was
/// forgotten was recorded: an id that said so then, of the future, was kept. If there are too many of those, those of the farthest future
/// leave too: no id that says a time when they were minted, or one between two that are near, is known here any more.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    blocks: VecDeque<Block>,
    /// How many have left.
    forgotten: u64,
    count: u64,
    /// Ids that were minted within 16 ms are in one table, if they say when: those that come now are in a table that is near.
    places: Places<1_024>,
    /// The numbers whose ids are not their own, in order.
    unnamed: VecDeque<u64>,
    /// When the last one that has left was recorded.
    horizon: Timestamp,
    /// Those that have left and say that they were minted after it: [`KEPT_MAX`] at most.
    kept: HashMap<TransactionId, u64, RandomState>,
    /// When those that would have been kept, and were not, say that they were minted.
    unkept: Times,
}

/// So many ids that say that they are of the future stay in memory, 40 to 80 bytes each. Part of what a log says: never change it.
pub(crate) const KEPT_MAX: usize = 1 << 18;

impl Numbers {
    /// How many there are; the next number is one more.
    #[inline]
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// How many have left memory: the numbers through this one.
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// When the last one that has left was recorded.
    pub(crate) const fn horizon(&self) -> Timestamp {
        self.horizon
    }

    #[allow(clippy::cast_possible_truncation, reason = "what is in memory is told apart by its lowest 32 bits")]
    const fn place(number: u64) -> u32 {
        number as u32
    }

    /// The number that lies at a place.
    fn number_at(&self, place: u32) -> u64 {
        let first = self.forgotten + 1;
        first + u64::from(place.wrapping_sub(Self::place(first)))
    }

    #[inline]
    fn id_of(&self, number: u64) -> Option<TransactionId> {
        let at = number.checked_sub(self.forgotten + 1)?;
        let block = self.blocks.get(usize::try_from(at / BLOCK_IDS).ok()?)?;
        block.ids.get(usize::try_from(at % BLOCK_IDS).ok()?).copied()
    }

    /// Whether an id was recorded, as far as it is known here and by what the store said.
    #[inline]
    pub(super) fn find(&self, id: TransactionId, looked: Option<&Looked>) -> Found {
        let hash = self.hash(id);
        let found = self.places.find(hash, |at| self.id_of(self.number_at(at)) == Some(id));
        if let Some(at) = found {
            return Found::Number(self.number_at(at));
        }
        if self.forgotten == 0 { Found::New(hash) } else { self.find_forgotten(id, hash, looked) }
    }

    /// Whether an id is in memory.
    pub(super) fn is_there(&self, id: TransactionId) -> bool {
        self.places.find(self.hash(id), |at| self.id_of(self.number_at(at)) == Some(id)).is_some()
    }

    fn find_forgotten(&self, id: TransactionId, hash: Hash, looked: Option<&Looked>) -> Found {
        if let Some(number) = self.kept.get(&id) {
            return Found::Number(*number);
        }
        if minted_at_us(id).is_some_and(|at| at > self.horizon.as_micros() && !self.unkept.contains(at)) {
            return Found::New(hash);
        }
        match looked.filter(|looked| looked.through() >= self.forgotten) {
            None => Found::Forgotten(hash),
            Some(looked) => looked.number(id).map_or(Found::New(hash), Found::Number),
        }
    }

    #[inline]
    pub(super) fn hash(&self, id: TransactionId) -> Hash {
        match minted_at_ms(id) {
            Some(ms) => self.places.hash_in(ms / 16, id.0),
            None => self.places.hash(id.0),
        }
    }

    /// Adds the next id, which is not there yet. Answers its number; `None` if there is no room for another.
    #[inline]
    pub(super) fn push(&mut self, id: TransactionId, hash: Hash, now: Timestamp) -> Option<u64> {
        if self.count - self.forgotten >= u64::from(u32::MAX) {
            return None;
        }
        self.push_id(id, now);
        self.places.insert(hash, Self::place(self.count));
        Some(self.count)
    }

    #[inline]
    fn push_id(&mut self, id: TransactionId, now: Timestamp) {
        self.count += 1;
        match self.blocks.back_mut() {
            Some(block) if (block.ids.len() as u64) < BLOCK_IDS => {
                block.ids.push(id);
                block.ended_at = now;
            }
            _ => {
                let mut ids = Vec::with_capacity(1 << 13);
                ids.push(id);
                self.blocks.push_back(Block { ids, ended_at: now });
            }
        }
    }

    /// Uses up a number for what is no transaction of its own, such as the end of a hold of that id.
    pub(super) fn push_unnamed(&mut self, of: TransactionId, now: Timestamp) -> u64 {
        self.push_id(of, now);
        self.unnamed.push_back(self.count);
        self.count
    }

    /// The numbers that [`push_unnamed`](Self::push_unnamed) used up, of those that are in memory.
    pub(crate) fn unnamed(&self) -> impl ExactSizeIterator<Item = u64> {
        self.unnamed.iter().copied()
    }

    /// Those that are in memory, in the order of their numbers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TransactionId> {
        self.blocks.iter().flat_map(|block| block.ids.iter().copied())
    }

    /// What is known of those that have left.
    pub(crate) fn kept(&self) -> Kept {
        let mut ids: Vec<_> = self.kept.iter().map(|(id, number)| (*id, *number)).collect();
        ids.sort_unstable_by_key(|(_, number)| *number);
        Kept { ids, unkept: self.unkept.clone() }
    }

    /// When the blocks in memory ended.
    pub(crate) fn block_ends(&self) -> impl ExactSizeIterator<Item = Timestamp> {
        self.blocks.iter().map(|block| block.ended_at)
    }

    /// When the last one was recorded.
    pub(super) fn ended_at(&self) -> Timestamp {
        self.blocks.back().map_or(self.horizon, |block| block.ended_at)
    }

    /// Takes the last one back, before which the one before it was the last, recorded at `ended_at`.
    pub(super) fn pop(&mut self, ended_at: Timestamp) {
        let number = self.count;
        let Some(block) = self.blocks.back_mut() else { return };
        let Some(id) = block.ids.pop() else { return };
        block.ended_at = ended_at;
        if self.blocks.back().is_some_and(|block| block.ids.is_empty()) {
            self.blocks.pop_back();
        }
        if self.unnamed.back() == Some(&number) {
            self.unnamed.pop_back();
        }
        self.places.remove(self.hash(id), Self::place(number));
        self.count -= 1;
    }

    /// The ids of the whole block behind that number, with their numbers; `None` if it is not in memory.
    pub(super) fn block(&self, before: u64) -> Option<Vec<(TransactionId, u64)>> {
        let at = usize::try_from(before.checked_sub(self.forgotten)? / BLOCK_IDS).ok()?;
        let block = self.blocks.get(at).filter(|block| block.ids.len() as u64 == BLOCK_IDS)?;
        Some(self.named(before, block))
    }

    /// The ids of a block behind that number that are their numbers' own.
    fn named(&self, before: u64, block: &Block) -> Vec<(TransactionId, u64)> {
        let from = self.unnamed.partition_point(|number| *number <= before);
        let mut unnamed = self.unnamed.range(from..).peekable();
        let named = (before + 1..).zip(&block.ids).filter(|(number, _)| unnamed.next_if_eq(&number).is_none());
        named.map(|(number, id)| (*id, number)).collect()
    }

    /// Lets ids through that number leave memory, which only whole blocks do; the store has them.
    pub(super) fn forget(&mut self, through: u64) {
        while self.forgotten + BLOCK_IDS <= through.min(self.count)
            && let Some(block) = self.blocks.pop_front()
        {
            let ids = self.named(self.forgotten, &block);
            self.horizon = block.ended_at;
            let horizon = self.horizon.as_micros();
            let is_ahead = |id: TransactionId| minted_at_us(id).is_some_and(|at| at > horizon);
            self.kept.retain(|id, _| is_ahead(*id));
            self.unkept.forget(horizon);
            for (id, number) in ids {
                self.places.remove(self.hash(id), Self::place(number));
                if is_ahead(id) {
                    self.kept.insert(id, number);
                }
            }
            self.let_go();
            self.forgotten += BLOCK_IDS;
            while self.unnamed.front().is_some_and(|number| *number <= self.forgotten) {
                self.unnamed.pop_front();
            }
        }
    }

    /// Lets go of those that say that they are of the farthest future, half of them, if there are too many.
    fn let_go(&mut self) {
        if self.kept.len() <= KEPT_MAX {
            return;
        }
        let mut kept: Vec<_> = self.kept.keys().map(|id| (minted_at_us(*id).unwrap_or(u64::MAX), *id)).collect();
        kept.sort_unstable();
        let farthest = kept.split_off(KEPT_MAX / 2);
        for (_, id) in &farthest {
            self.kept.remove(id);
        }
        self.unkept.add(farthest.into_iter().map(|(minted_at, _)| minted_at));
    }

    /// Numbers that were put away: what had left, and what of that was known all the same.
    pub(super) fn restore(forgotten: u64, horizon: Timestamp, kept: Kept) -> Self {
        let Kept { ids, unkept } = kept;
        Self { forgotten, count: forgotten, horizon, kept: ids.into_iter().collect(), unkept, ..Self::default() }
    }
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
