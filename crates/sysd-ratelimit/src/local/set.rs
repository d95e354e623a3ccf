//! A few keys' buckets side by side, and who gives way to whom when there are more keys than places.
//!
//! It is Space-Saving (Metwally, Agrawal, El Abbadi: *Efficient Computation of Frequent and Top-k Elements in Data Streams*,
//! 2005) with a bucket's debt in the place of a count. A key that has no way takes the one whose debt is least, **and its
//! debt with it**. So:
//!
//! - A key never owes less than it took. Whoever lost a way owed no more than what was then least, the least only falls by
//!   what time pays back, and that the key would have been paid back too.
//! - Whoever owes more than the least keeps its way; if it found one free, its debt is exactly its own.
//! - A way's debt is at most what was taken by way of it in the last refill time, so the least of all debts is at most what
//!   was taken in the set in that time, divided by [`WAYS`]: so much a key may owe that took nothing.

use sysd_core::Timestamp;

use crate::model::{Span, TokenBucket};
use crate::procedure::Verdict;
use crate::procedure::token_bucket::{decide_until_full, owed};

/// So many keys share two cache lines.
pub(super) const WAYS: usize = 6;

/// A key's bucket: the debt is told by when it will have run down, which time alone does not change.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// The keys' hashes.
    hashes: [u64; WAYS],
    /// When each bucket is full again, whole microseconds; what has passed is a way that nobody needs.
    full_us: [u64; WAYS],
    /// The parts of one more microsecond, in the denominator of the limit.
    parts: [u32; WAYS],
}

impl Set {
    /// Takes `cost` for the key with this hash, or nothing.
    ///
    /// Who reads the clock first may come second: it owes the microseconds between, and gives nothing.
    #[inline]
    pub(super) fn take(&mut self, hash: u64, bucket: &TokenBucket, now: Timestamp, cost: u32) -> Verdict {
        let way = self.way_of(hash).unwrap_or_else(|| self.least());
        self.take_by(way, hash, bucket, now, cost)
    }

    #[inline]
    fn take_by(&mut self, way: usize, hash: u64, bucket: &TokenBucket, now: Timestamp, cost: u32) -> Verdict {
        let (verdict, taken) = decide_until_full(bucket, self.full(way), now, cost);
        if let Some(full) = taken {
            self.hashes[way] = hash;
            (self.full_us[way], self.parts[way]) = (full.us, full.part);
        }
        verdict
    }

    /// Forgets what the key owes, down to the least of the others: the least of all must not fall, for those who lost a way
    /// owe up to that.
    pub(super) fn forget(&mut self, hash: u64) {
        if let Some(way) = self.way_of(hash) {
            let others = (0..WAYS).filter(|&other| other != way).map(|other| (self.full_us[other], self.parts[other]));
            let least = others.min().unwrap_or_default();
            (self.full_us[way], self.parts[way]) = least.min((self.full_us[way], self.parts[way]));
        }
    }

    /// How many keys owe something.
    pub(super) fn owing(&self, now: Timestamp) -> usize {
        (0..WAYS).filter(|&way| owed(self.full(way), now) > Span::ZERO).count()
    }

    #[inline]
    fn way_of(&self, hash: u64) -> Option<usize> {
        self.hashes.iter().position(|held| *held == hash)
    }

    #[inline]
    fn full(&self, way: usize) -> Span {
        Span { us: self.full_us[way], part: self.parts[way] }
    }

    /// The way with the least debt.
    #[inline]
    fn least(&self) -> usize {
        let mut least = 0;
        for way in 1..WAYS {
            if (self.full_us[way], self.parts[way]) < (self.full_us[least], self.parts[least]) {
                least = way;
            }
        }
        least
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
