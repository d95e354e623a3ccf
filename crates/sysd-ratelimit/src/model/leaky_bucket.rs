//! The leaky bucket's limit, as a queue.

use std::time::Duration;

use super::rate::Rate;
use super::token_bucket::TokenBucket;
use crate::error::RateLimitError;

/// A leaky bucket used as a queue: requests go on evenly, one behind the other, and each is told how long to wait for its turn
/// ([`Decision::wait`](super::Decision::wait)). One that finds the queue full is refused.
///
/// A request goes on at once with all of its cost, and the next one waits for as long as that takes. So a stretch of time holds
/// what the rate gives, exactly, where each costs one; where they cost more, the last of them may reach beyond its end.
///
/// Used as a meter (that only says yes or no) a leaky bucket is the [`TokenBucket`] of the same rate, whose burst is what the
/// bucket holds.
///
/// Source: ITU-T I.371, the generic cell rate algorithm; J. Turner, "New directions in communications", 1986.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeakyBucket {
    bucket: TokenBucket,
}

impl LeakyBucket {
    /// Lets requests go on at `rate`, while at most `queue` of them wait behind the one whose turn it is.
    ///
    /// # Errors
    /// [`RateLimitError::BurstTooLarge`] when a full queue would take longer than [`MAX_REFILL`](super::MAX_REFILL).
    pub fn new(rate: Rate, queue: u32) -> Result<Self, RateLimitError> {
        let burst = queue.checked_add(1).ok_or(RateLimitError::BurstTooLarge { burst: queue })?;
        Ok(Self { bucket: TokenBucket::new(rate, burst)? })
    }

    /// How fast requests go on.
    pub fn rate(&self) -> Rate {
        self.bucket.rate()
    }

    /// How many may wait.
    pub fn queue(&self) -> u32 {
        self.bucket.burst() - 1
    }

    /// The longest that one may be told to wait, by a clock that does not go back.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.bucket.price(self.queue()).map_or(0, crate::model::Span::ceil_us))
    }

    #[inline]
    pub(crate) const fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }
}

#[cfg(test)]
#[path = "leaky_bucket_tests.rs"]
mod tests;
