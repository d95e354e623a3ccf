//! What a process believes of one key's bucket, pure: what the store said last, and what it admitted itself since.

use sysd_core::Timestamp;

use crate::model::{Span, TokenBucket};
use crate::procedure::Verdict;
use crate::procedure::token_bucket::decide_until_full;

/// So often what was admitted is posted to a store that refuses it; then it is forgotten.
pub(super) const REFUSALS_MAX: u8 = 64;

#[derive(Debug, Default)]
pub(super) struct View {
    /// When the bucket is full again, steady microseconds, and the parts of one more.
    full: Span,
    /// Admitted, and not posted yet.
    pending: u64,
    /// Being posted.
    in_flight: u32,
    is_posting: bool,
    /// A posting may have happened or not.
    is_in_doubt: bool,
    /// How often the store has refused, one after the other. While it does it is asked.
    refusals: u8,
}

impl View {
    /// Takes from what it believes is there.
    #[inline]
    pub(super) fn take(&mut self, bucket: &TokenBucket, now_us: u64, cost: u32) -> Verdict {
        let now = Timestamp::from_micros_saturating(now_us);
        let (verdict, taken) = decide_until_full(bucket, self.full, now, cost);
        if let Some(full) = taken {
            self.full = full;
            self.pending += u64::from(cost);
        }
        verdict
    }

    /// What is to be posted now, if anything; it is being posted until one of the next calls tells how that ended. Zero: the store is
    /// looked at first, because nobody knows whether the last posting happened, and a store that does not answer would
    /// execute all of them in the end.
    pub(super) fn post(&mut self, most: u32) -> Option<u32> {
        if self.pending == 0 || self.is_posting {
            return None;
        }
        self.is_posting = true;
        if self.is_in_doubt {
            return Some(0);
        }
        self.in_flight = u32::try_from(self.pending).unwrap_or(u32::MAX).min(most);
        self.pending -= u64::from(self.in_flight);
        Some(self.in_flight)
    }

    /// The store answered. What it did not take, because the bucket owes as much as can be noted, stays pending. The bucket is
    /// full in so long; what is pending comes on top.
    pub(super) fn answered(&mut self, lifted: &TokenBucket, now_us: u64, full_in_us: u64, was_taken: bool) {
        (self.is_posting, self.is_in_doubt, self.refusals) = (false, false, 0);
        let posted = std::mem::take(&mut self.in_flight);
        self.pending += if was_taken { 0 } else { u64::from(posted) };
        let pending = u32::try_from(self.pending).unwrap_or(u32::MAX).min(lifted.burst());
        let own = lifted.price(pending).unwrap_or(Span::ZERO);
        self.full = Span { us: now_us.saturating_add(full_in_us), part: 0 }.plus(own, lifted.denominator());
    }

    /// The store did not answer. If it may have been posted, it is posted again once the store answers: twice denies too much, never
    /// would admit too much.
    pub(super) fn failed(&mut self, may_have_happened: bool) {
        self.is_posting = false;
        self.pending += u64::from(std::mem::take(&mut self.in_flight));
        self.is_in_doubt |= may_have_happened;
    }

    /// The store refuses, and waiting may not help: who asks is told so by the store itself, until a posting is answered. What was
    /// admitted is posted again so often; then, and only then, it is forgotten.
    pub(super) fn refused(&mut self, may_have_happened: bool) {
        self.failed(may_have_happened);
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals >= REFUSALS_MAX {
            self.pending = 0;
        }
    }

    /// Whether the store is to be asked.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals > 0
    }

    /// Whether it says nothing any more.
    pub(super) fn is_idle(&self, now_us: u64) -> bool {
        self.pending == 0 && !self.is_posting && self.full.us < now_us
    }
}
