//! What a process believes of one key's bucket, pure: what the store said last, and what it admitted itself since.

use sysd_core::Timestamp;

use crate::model::{Span, TokenBucket};
use crate::procedure::Verdict;
use crate::procedure::token_bucket::decide;
use crate::schema::token_bucket::BucketState;

#[derive(Debug, Default)]
pub(super) struct View {
    /// When the bucket is full again, steady microseconds, and the parts of one more.
    full_us: u64,
    full_part: u32,
    /// Admitted, and not posted yet.
    pending: u64,
    /// Being posted.
    in_flight: u32,
}

impl View {
    /// Takes from what it believes is there.
    #[inline]
    pub(super) fn take(&mut self, bucket: &TokenBucket, now_us: u64, cost: u32) -> Verdict {
        let now = Timestamp::from_micros_saturating(now_us);
        let debt = self.full_us.checked_sub(now_us).map_or(Span::ZERO, |us| Span { us, part: self.full_part });
        let state = BucketState { at_us: now.as_micros(), debt, denominator: bucket.denominator() };
        let (verdict, taken) = decide(bucket, Some(state), now, cost);
        if let Some(state) = taken {
            self.owe(now_us, state.debt);
            self.pending += u64::from(cost);
        }
        verdict
    }

    /// What is to be posted now, if anything; it is being posted until one of the next two is called.
    pub(super) fn post(&mut self, most: u32) -> Option<u32> {
        if self.pending == 0 || self.in_flight > 0 {
            return None;
        }
        self.in_flight = u32::try_from(self.pending).unwrap_or(u32::MAX).min(most);
        self.pending -= u64::from(self.in_flight);
        Some(self.in_flight)
    }

    /// It was posted, and the bucket is full in so long. What was admitted meanwhile comes on top.
    pub(super) fn posted(&mut self, lifted: &TokenBucket, now_us: u64, full_in_us: u64) {
        self.in_flight = 0;
        let pending = u32::try_from(self.pending).unwrap_or(u32::MAX).min(lifted.burst());
        let own = lifted.price(pending).unwrap_or(Span::ZERO);
        self.owe(now_us, Span { us: full_in_us, part: 0 }.plus(own, lifted.denominator()));
    }

    /// Nobody knows whether it was posted. It is posted again: twice denies too much, never would admit too much.
    pub(super) fn failed(&mut self) {
        self.pending += u64::from(std::mem::take(&mut self.in_flight));
    }

    /// Whether it says nothing any more.
    pub(super) fn is_idle(&self, now_us: u64) -> bool {
        self.pending == 0 && self.in_flight == 0 && self.full_us < now_us
    }

    fn owe(&mut self, now_us: u64, debt: Span) {
        (self.full_us, self.full_part) = (now_us.saturating_add(debt.us), debt.part);
    }
}
