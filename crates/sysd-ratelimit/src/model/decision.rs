//! What a limiter answers.

use std::time::Duration;

use super::token_bucket::TokenBucket;
use crate::procedure::Verdict;

/// Whether a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It may; its cost was taken. A cost of zero is always allowed, and takes nothing.
    Allowed,
    /// It may not now; nothing was taken.
    Denied {
        /// How long until there are tokens enough, if nobody else takes any. After this time the
        /// same request is admitted; a microsecond before, it is not.
        retry_after: Duration,
    },
    /// It never can be: it costs more than the bucket holds. Nothing was taken.
    NeverAllowed,
}

/// The answer to one request, with the numbers for its `RateLimit` and `Retry-After` headers.
///
/// Times count from the `now` of the decision and are whole microseconds, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    outcome: Outcome,
    limit: u32,
    remaining: u32,
    reset_us: u64,
}

impl Decision {
    /// Puts numbers to what the procedure found.
    pub(crate) fn new(bucket: &TokenBucket, cost: u32, verdict: &Verdict) -> Self {
        let outcome = match bucket.price(cost) {
            None => Outcome::NeverAllowed,
            Some(_) if verdict.allowed => Outcome::Allowed,
            Some(price) => {
                let denominator = bucket.denominator();
                let wait = verdict.debt.plus(price, denominator).minus(bucket.capacity(), denominator);
                Outcome::Denied { retry_after: Duration::from_micros(verdict.skew_us.saturating_add(wait.ceil_us())) }
            }
        };
        let reset_us = match verdict.debt.ceil_us() {
            0 => 0,
            debt_us => verdict.skew_us.saturating_add(debt_us),
        };
        Self { outcome, limit: bucket.burst(), remaining: bucket.tokens_left(verdict.debt), reset_us }
    }

    /// Whether the request may go on, and if not, when.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allowed
    }

    /// How long to wait before the same request is admitted: `None` if it was admitted, or never can be.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::Denied { retry_after } => Some(retry_after),
            Outcome::Allowed | Outcome::NeverAllowed => None,
        }
    }

    /// The most tokens the bucket holds.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whole tokens left after this decision.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until the bucket is full again, if nobody takes any.
    pub fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_us)
    }
}
