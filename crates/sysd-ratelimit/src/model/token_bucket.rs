//! The limit itself: a rate and a burst, with the numbers that a decision needs.

use std::time::Duration;

use super::rate::{MAX_REFILL, Rate};
use super::span::Span;
use crate::error::RateLimitError;

/// A token bucket: it holds up to `burst` tokens, refills evenly at `rate`, and starts full. A
/// request takes its cost in tokens, or is refused and takes none.
///
/// ```
/// use sysd_ratelimit::{Rate, TokenBucket};
///
/// let limit = TokenBucket::new(Rate::per_second(10)?, 20)?;
/// assert_eq!(limit.burst(), 20);
/// # Ok::<(), sysd_ratelimit::RateLimitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    rate: Rate,
    burst: u32,
    /// The rate as a reduced fraction: `denominator` tokens each `numerator` microseconds.
    denominator: u32,
    numerator_us: u64,
    /// The time in which one token comes back.
    interval: Span,
    /// The time in which an empty bucket refills.
    capacity: Span,
}

impl TokenBucket {
    /// A bucket of `burst` tokens that refills at `rate`.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroBurst`], or [`RateLimitError::BurstTooLarge`] when an empty bucket would
    /// need longer than [`MAX_REFILL`] to fill.
    pub fn new(rate: Rate, burst: u32) -> Result<Self, RateLimitError> {
        if burst == 0 {
            return Err(RateLimitError::ZeroBurst);
        }
        let divisor = gcd(u64::from(rate.count()), rate.period_us());
        let numerator_us = rate.period_us() / divisor;
        let too_large = || RateLimitError::BurstTooLarge { burst };
        // The divisor is at most the count, so the quotient fits.
        let denominator = u32::try_from(u64::from(rate.count()) / divisor).map_err(|_| too_large())?;
        let capacity = span_of(burst, numerator_us, denominator).ok_or_else(too_large)?;
        if u128::from(capacity.ceil_us()) > MAX_REFILL.as_micros() {
            return Err(too_large());
        }
        let interval = span_of(1, numerator_us, denominator).ok_or_else(too_large)?;
        Ok(Self { rate, burst, denominator, numerator_us, interval, capacity })
    }

    /// How fast tokens come back.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The most tokens the bucket holds.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time in which an empty bucket refills, rounded up to the microsecond.
    pub fn refill_time(&self) -> Duration {
        Duration::from_micros(self.capacity.ceil_us())
    }

    /// The same rate with the largest burst that can be: what is taken from it is noted, whether this bucket has it or not.
    pub(crate) fn lifted(&self) -> Self {
        // No more than 100 years, which is below 2^52 microseconds.
        let most = MAX_REFILL.as_micros() * u128::from(self.denominator) / u128::from(self.numerator_us);
        let burst = u32::try_from(most).unwrap_or(u32::MAX).max(self.burst);
        Self::new(self.rate, burst).unwrap_or(*self)
    }

    #[inline]
    pub(crate) fn denominator(&self) -> u32 {
        self.denominator
    }

    #[inline]
    pub(crate) fn capacity(&self) -> Span {
        self.capacity
    }

    /// The time in which `cost` tokens come back, or nothing when the bucket never holds so many.
    #[inline]
    pub(crate) fn price(&self, cost: u32) -> Option<Span> {
        match cost {
            0 => Some(Span::ZERO),
            1 => Some(self.interval),
            _ if cost > self.burst => None,
            _ => span_of(cost, self.numerator_us, self.denominator),
        }
    }

    /// The time in which `cost` tokens come back, whether the bucket ever holds so many or not, at most [`MAX_REFILL`].
    pub(crate) fn price_beyond(&self, cost: u32) -> Span {
        let longest = Span { us: u64::try_from(MAX_REFILL.as_micros()).unwrap_or(u64::MAX), part: 0 };
        span_of(cost, self.numerator_us, self.denominator).map_or(longest, |price| price.min(longest))
    }

    /// Whole tokens in a bucket that is `debt` short of full.
    pub(crate) fn tokens_left(&self, debt: Span) -> u32 {
        let free = self.capacity.minus(debt, self.denominator);
        let denominator = u64::from(self.denominator);
        let parts = free.us.checked_mul(denominator).and_then(|parts| parts.checked_add(u64::from(free.part)));
        let tokens = if let Some(parts) = parts {
            parts / self.numerator_us
        } else {
            let parts = u128::from(free.us) * u128::from(denominator) + u128::from(free.part);
            u64::try_from(parts / u128::from(self.numerator_us)).unwrap_or(u64::MAX)
        };
        u32::try_from(tokens).unwrap_or(self.burst)
    }
}

/// `tokens * numerator_us / denominator` microseconds, exactly.
fn span_of(tokens: u32, numerator_us: u64, denominator: u32) -> Option<Span> {
    let parts = u128::from(tokens) * u128::from(numerator_us);
    let denominator = u128::from(denominator);
    Some(Span { us: u64::try_from(parts / denominator).ok()?, part: u32::try_from(parts % denominator).ok()? })
}

/// The greatest common divisor, by Euclid.
fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_range() {
        let month: Rate = "1/mo".parse().unwrap();
        assert!(TokenBucket::new(month, 1).is_ok());
        assert_eq!(TokenBucket::new(month, 2_000), Err(RateLimitError::BurstTooLarge { burst: 2_000 }));
        assert_eq!(TokenBucket::new(month, u32::MAX), Err(RateLimitError::BurstTooLarge { burst: u32::MAX }));
        assert_eq!(TokenBucket::new(month, 0), Err(RateLimitError::ZeroBurst));
        let fast = Rate::per_second(10_000_000).unwrap();
        let limit = TokenBucket::new(fast, 10_000_000).unwrap();
        assert_eq!(limit.refill_time(), Duration::from_secs(1));
        assert_eq!(limit.price(1).unwrap(), Span { us: 0, part: 1 });
        assert_eq!(limit.denominator(), 10);
        assert!(TokenBucket::new(Rate::per_second(u32::MAX).unwrap(), u32::MAX).is_ok());
    }

    #[test]
    fn a_rate_that_does_not_divide_is_exact() {
        let limit = TokenBucket::new(Rate::new(7, Duration::from_micros(10)).unwrap(), 7).unwrap();
        assert_eq!(limit.price(1).unwrap(), Span { us: 1, part: 3 });
        assert_eq!(limit.price(7).unwrap(), Span { us: 10, part: 0 });
        assert_eq!(limit.price(8), None);
        assert_eq!(limit.tokens_left(Span { us: 1, part: 3 }), 6);
        assert_eq!(limit.tokens_left(Span { us: 1, part: 4 }), 5);
        assert_eq!(limit.tokens_left(Span { us: 11, part: 0 }), 0);
    }
}
