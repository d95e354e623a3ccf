//! Points in time.

use std::fmt;
use std::time::Duration;

/// A point in time: whole microseconds since the Unix epoch, from 1970 to the year 2255.
///
/// The upper end is 2^53 - 1 microseconds, so that every timestamp is exact as a double: Lua on Redis has no integers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// A number of microseconds beyond [`Timestamp::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{micros} microseconds since 1970 are beyond the year 2255; were they nanoseconds?")]
pub struct TimestampOutOfRange {
    /// What was given, in microseconds.
    pub micros: u64,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);
    /// The last point in time: 2^53 - 1 microseconds, in the year 2255.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// From microseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`TimestampOutOfRange`] beyond [`Timestamp::MAX`].
    #[inline]
    pub const fn from_micros(micros: u64) -> Result<Self, TimestampOutOfRange> {
        if micros > Self::MAX.0 { Err(TimestampOutOfRange { micros }) } else { Ok(Self(micros)) }
    }

    /// From microseconds since the Unix epoch, [`Timestamp::MAX`] if beyond it.
    #[inline]
    pub const fn from_micros_saturating(micros: u64) -> Self {
        if micros > Self::MAX.0 { Self::MAX } else { Self(micros) }
    }

    /// Microseconds since the Unix epoch.
    #[inline]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// `self + duration`, a part of a microsecond rounded up, so that what expires then never does so early.
    /// `None` beyond [`Timestamp::MAX`].
    #[inline]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        // In 64 bits: dividing the nanoseconds as 128 would cost more than all the rest of a decision.
        let micros = duration.as_secs().checked_mul(1_000_000)? + u64::from(duration.subsec_nanos().div_ceil(1_000));
        self.0.checked_add(micros).and_then(|sum| Self::from_micros(sum).ok())
    }

    /// `self + duration`, [`Timestamp::MAX`] if beyond it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    #[inline]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_where_doubles_end() {
        assert_eq!(Timestamp::MAX.as_micros(), 9_007_199_254_740_991);
        assert_eq!(
            Timestamp::from_micros(Timestamp::MAX.as_micros() + 1),
            Err(TimestampOutOfRange { micros: 9_007_199_254_740_992 })
        );
        assert_eq!(Timestamp::MAX.checked_add(Duration::from_micros(1)), None);
        assert_eq!(Timestamp::UNIX_EPOCH.checked_add(Duration::MAX), None);
        assert_eq!(Timestamp::UNIX_EPOCH.saturating_add(Duration::MAX), Timestamp::MAX);
    }

    #[test]
    fn rounds_up_parts_of_a_microsecond() {
        let at = Timestamp::UNIX_EPOCH.checked_add(Duration::from_nanos(1_001));
        assert_eq!(at.map(Timestamp::as_micros), Some(2));
    }

    #[test]
    fn never_runs_backwards() {
        let (early, late) = (Timestamp(1), Timestamp(5));
        assert_eq!(late.saturating_since(early), Duration::from_micros(4));
        assert_eq!(early.saturating_since(late), Duration::ZERO);
    }
}
