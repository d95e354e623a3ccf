//! Which ids leave memory together.
//!
//! The first 8,192, then as many as have left already, up to 2^20: so the pages of ids that don't say when they were minted are of some
//! size, few are to be looked at for one of them, and a ledger with few transactions keeps few in memory. The store is given all
//! pages of those before the first of them leaves; so when a part has left, whoever goes on has only to let go of the rest.

use super::books::Books;
use super::numbers::BLOCK_IDS;
use crate::model::TransactionId;

/// The most ids that leave together. Part of the format: never change it.
pub(crate) const LEAVING_MAX: u64 = 1 << 20;

/// Numbers whose ids leave memory together: those after one, through another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) before: u64,
    pub(crate) through: u64,
}

impl Span {
    /// That of the number behind one.
    pub(crate) const fn behind(number: u64) -> Self {
        if number >= LEAVING_MAX {
            let before = number / LEAVING_MAX * LEAVING_MAX;
            Self { before, through: before + LEAVING_MAX }
        } else if number < BLOCK_IDS {
            Self { before: 0, through: BLOCK_IDS }
        } else {
            let before = 1 << number.ilog2();
            Self { before, through: 2 * before }
        }
    }

    /// The numbers through which a block of ids leaves, one after the other, of those that are still there.
    pub(crate) fn blocks(self, forgotten: u64) -> impl Iterator<Item = u64> + Send {
        (self.before..self.through)
            .step_by(1 << 13)
            .map(|before| before + BLOCK_IDS)
            .filter(move |end| *end > forgotten)
    }
}

/// Ids that leave memory, with their numbers, and what was reversed, with the numbers by which.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving {
    pub(crate) ids: Vec<(TransactionId, u64)>,
    pub(crate) reversals: Vec<(TransactionId, u64)>,
}

impl Books {
    /// Those that leave next, and how many have left: if there are more than `ids_max` without them, and the store may be given them
    /// because it has their entries; or if some of them have left.
    pub(crate) fn next_to_leave(&self, ids_max: u64) -> Option<(Span, u64)> {
        let forgotten = self.numbers.forgotten();
        let span = Span::behind(forgotten);
        let through_max = self.tail.written.min(self.numbers.count().saturating_sub(ids_max));
        (span.through <= through_max || span.before < forgotten).then_some((span, forgotten))
    }

    /// What leaves by the block of numbers that ends there; `None` if it has left.
    pub(crate) fn leaving(&self, through: u64) -> Option<Leaving> {
        let before = through.checked_sub(BLOCK_IDS)?;
        Some(Leaving { ids: self.numbers.block(before)?, reversals: self.reversals.between(before, through) })
    }

    /// How many ids are in memory that need not be.
    pub(crate) fn ids_waiting(&self, ids_max: u64) -> u64 {
        (self.numbers.count() - self.numbers.forgotten()).saturating_sub(ids_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_one_another_and_grow() {
        let (mut at, mut spans) = (0, Vec::new());
        while at < 4 * LEAVING_MAX {
            let span = Span::behind(at);
            assert_eq!(span.before, at);
            for inside in [at + 1, at + BLOCK_IDS, span.through - 1] {
                assert!(inside == span.through || Span::behind(inside) == span);
            }
            spans.push(span.through - span.before);
            at = span.through;
        }
        assert_eq!(spans[..3], [8_192, 8_192, 16_384]);
        assert_eq!(spans[7..], [524_288, LEAVING_MAX, LEAVING_MAX, LEAVING_MAX]);
        let blocks: Vec<_> = Span::behind(16_384).blocks(24_576).collect();
        assert_eq!(blocks, [32_768]);
    }
}
