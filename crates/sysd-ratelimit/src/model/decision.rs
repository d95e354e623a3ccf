//! What a limiter answers.

use std::time::Duration;

/// Whether a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It may, after its [`wait`](Decision::wait) if that is not zero; its cost was taken. A cost of zero is always allowed, and takes nothing.
    Allowed,
    /// It may not now; nothing was taken.
    Denied {
        /// How long until there is enough, if nobody else takes any. After this time the
        /// same request is admitted; a microsecond before, it is not.
        retry_after: Duration,
    },
    /// It never can be: it costs more than the limit. Nothing was taken.
    NeverAllowed,
}

impl Outcome {
    /// Of a `cost` beside a `limit`; `retry_us` is asked for when it was refused and may be admitted later.
    pub(crate) fn of(cost: u32, limit: u32, allowed: bool, retry_us: impl FnOnce() -> u64) -> Self {
        if cost > limit {
            Self::NeverAllowed
        } else if allowed {
            Self::Allowed
        } else {
            Self::Denied { retry_after: Duration::from_micros(retry_us()) }
        }
    }
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
    wait_us: u64,
}

impl Decision {
    pub(crate) const fn new(outcome: Outcome, limit: u32, remaining: u32, reset_us: u64) -> Self {
        Self { outcome, limit, remaining, reset_us, wait_us: 0 }
    }

    /// The same, going on only after so long.
    pub(crate) const fn after_us(self, wait_us: u64) -> Self {
        Self { wait_us, ..self }
    }

    /// The same as if `cost` had not been taken; when all is there again is said as before.
    pub(crate) const fn untaken(self, cost: u32) -> Self {
        let remaining = self.remaining.saturating_add(cost);
        Self { remaining: if remaining < self.limit { remaining } else { self.limit }, ..self }
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

    /// How long an allowed request must wait before it goes on. Only a [`LeakyBucket`](super::LeakyBucket), which queues, lets
    /// any wait.
    pub fn wait(&self) -> Duration {
        Duration::from_micros(self.wait_us)
    }

    /// The most that can be taken at once: what a bucket holds, what a window admits.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// How many more could be taken right after this decision.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until all of [`limit`](Self::limit) can be taken again, if nobody takes any meanwhile.
    pub fn reset_after(&self) -> Duration {
        Duration::from_micros(self.reset_us)
    }
}
