//! How fast tokens come back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::RateLimitError;

/// The longest period of a rate, and the longest time in which a bucket may refill: 100 years of
/// 365.25 days. It keeps every number of a decision below 2^53, where a double is still exact.
pub const MAX_REFILL: Duration = Duration::from_secs(100 * 31_557_600);

/// So many tokens in so long a time, evenly.
///
/// The rate is kept as the fraction it is (never as tokens per second), so one token a month and
/// ten million a second are both exact.
///
/// ```
/// use std::time::Duration;
/// use sysd_ratelimit::Rate;
///
/// let rate: Rate = "100/m".parse()?;
/// assert_eq!(rate, Rate::new(100, Duration::from_secs(60))?);
/// assert_eq!(rate.to_string(), "100/60s");
/// # Ok::<(), sysd_ratelimit::RateLimitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period_us: u64,
}

impl Rate {
    /// `count` tokens each `period`.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`] for no tokens, [`RateLimitError::RatePeriod`] for a period that
    /// is zero, longer than [`MAX_REFILL`], or not a whole number of microseconds.
    pub fn new(count: u32, period: Duration) -> Result<Self, RateLimitError> {
        if count == 0 {
            return Err(RateLimitError::ZeroRate);
        }
        let whole = period.subsec_nanos().is_multiple_of(1_000);
        match u64::try_from(period.as_micros()) {
            Ok(period_us) if period_us > 0 && whole && period <= MAX_REFILL => Ok(Self { count, period_us }),
            _ => Err(RateLimitError::RatePeriod { period }),
        }
    }

    /// `count` tokens a second.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`].
    pub fn per_second(count: u32) -> Result<Self, RateLimitError> {
        Self::new(count, Duration::from_secs(1))
    }

    /// `count` tokens a minute.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`].
    pub fn per_minute(count: u32) -> Result<Self, RateLimitError> {
        Self::new(count, Duration::from_secs(60))
    }

    /// `count` tokens an hour.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`].
    pub fn per_hour(count: u32) -> Result<Self, RateLimitError> {
        Self::new(count, Duration::from_secs(3_600))
    }

    /// `count` tokens each 24 hours.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`].
    pub fn per_day(count: u32) -> Result<Self, RateLimitError> {
        Self::new(count, Duration::from_secs(86_400))
    }

    /// Tokens in one period.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The time in which [`count`](Self::count) tokens come back.
    pub fn period(self) -> Duration {
        Duration::from_micros(self.period_us)
    }

    /// The same period with another count, which may be anything.
    pub(crate) const fn with_count(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// The period in microseconds.
    pub(crate) const fn period_us(self) -> u64 {
        self.period_us
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, us) = (self.count, self.period_us);
        if us.is_multiple_of(1_000_000) {
            write!(f, "{count}/{}s", us / 1_000_000)
        } else if us.is_multiple_of(1_000) {
            write!(f, "{count}/{}ms", us / 1_000)
        } else {
            write!(f, "{count}/{us}us")
        }
    }
}

impl FromStr for Rate {
    type Err = RateLimitError;

    /// Reads `COUNT/PERIOD`, where the period is a unit or a number of them: `10/s`, `100/m`,
    /// `1/h`, `5000/d`, `1/w`, `1/mo` (30 days), `3/500ms`, `1/250us`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || RateLimitError::RateSyntax { text: text.chars().take(40).collect() };
        let (count, period) = text.split_once('/').ok_or_else(syntax)?;
        let count: u32 = count.trim().parse().map_err(|_| syntax())?;
        let period = period.trim();
        let unit_at = period.find(|c: char| !c.is_ascii_digit()).ok_or_else(syntax)?;
        let (number, unit) = period.split_at(unit_at);
        let number: u64 = match number {
            "" => 1,
            digits => digits.parse().map_err(|_| syntax())?,
        };
        let unit_us: u64 = match unit {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "s" | "sec" | "second" => 1_000_000,
            "m" | "min" | "minute" => 60_000_000,
            "h" | "hour" => 3_600_000_000,
            "d" | "day" => 86_400_000_000,
            "w" | "week" => 7 * 86_400_000_000,
            "mo" | "month" => 30 * 86_400_000_000,
            _ => return Err(syntax()),
        };
        let period_us = number.checked_mul(unit_us).ok_or_else(syntax)?;
        Self::new(count, Duration::from_micros(period_us))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_read() {
        for (text, count, us) in [
            ("10/s", 10, 1_000_000),
            ("100/m", 100, 60_000_000),
            ("1/h", 1, 3_600_000_000),
            ("5000/day", 5_000, 86_400_000_000),
            ("1/mo", 1, 2_592_000_000_000),
            ("3/500ms", 3, 500_000),
            (" 7 / 9us ", 7, 9),
            ("10000000/s", 10_000_000, 1_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count(), rate.period_us()), (count, us), "{text}");
        }
    }

    #[test]
    fn bad_rates_name_the_field() {
        for text in ["", "10", "/s", "10/", "10/5", "-1/s", "1.5/s", "10/fortnight", "5000000000/s"] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(matches!(error, RateLimitError::RateSyntax { .. }), "{text}");
            assert!(error.to_string().starts_with("rate: "), "{error}");
        }
        assert_eq!("0/s".parse::<Rate>(), Err(RateLimitError::ZeroRate));
        for period in
            [Duration::ZERO, Duration::from_nanos(1_500), MAX_REFILL + Duration::from_micros(1), Duration::MAX]
        {
            assert_eq!(Rate::new(1, period), Err(RateLimitError::RatePeriod { period }));
        }
        assert!(Rate::new(1, MAX_REFILL).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_a_rate_or_an_error(text in ".*") {
            let _ = text.parse::<Rate>();
        }

        #[test]
        fn what_is_shown_can_be_read(count in 1_u32.., us in 1_u64..=3_155_760_000_000_000) {
            let rate = Rate::new(count, Duration::from_micros(us)).unwrap();
            prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }
    }
}
