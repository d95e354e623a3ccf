//! A length of time that no rounding has touched.

/// `us` microseconds and `part` of the `denominator` parts of one more, where `part` is below the
/// denominator. The denominator is that of the [`TokenBucket`](crate::TokenBucket) at hand.
///
/// Sums and comparisons of these are exact in `u64`, and in doubles too, since `us` stays below
/// 2^53 and `part` below 2^32.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    // Compared first: the order of the fields is the order of the type.
    pub(crate) us: u64,
    pub(crate) part: u32,
}

impl Span {
    pub(crate) const ZERO: Self = Self { us: 0, part: 0 };

    /// The sum, carrying whole microseconds out of the parts.
    #[inline]
    pub(crate) fn plus(self, other: Self, denominator: u32) -> Self {
        let part = u64::from(self.part) + u64::from(other.part);
        let denominator = u64::from(denominator);
        let carry = part >= denominator;
        Self {
            us: self.us + other.us + u64::from(carry),
            part: truncated(if carry { part - denominator } else { part }),
        }
    }

    /// The difference; nothing when `other` is longer.
    #[inline]
    pub(crate) fn minus(self, other: Self, denominator: u32) -> Self {
        if self <= other {
            return Self::ZERO;
        }
        let borrow = self.part < other.part;
        let lent = if borrow { u64::from(denominator) } else { 0 };
        Self {
            us: self.us - other.us - u64::from(borrow),
            part: truncated(u64::from(self.part) + lent - u64::from(other.part)),
        }
    }

    /// What is left after `us` whole microseconds.
    #[inline]
    pub(crate) fn minus_us(self, us: u64) -> Self {
        match self.us.checked_sub(us) {
            Some(us) => Self { us, ..self },
            None => Self::ZERO,
        }
    }

    /// Whole microseconds, rounded up.
    #[inline]
    pub(crate) fn ceil_us(self) -> u64 {
        self.us + u64::from(self.part > 0)
    }
}

/// A part is below its denominator, which is a `u32`.
#[allow(clippy::cast_possible_truncation, reason = "a part is below its u32 denominator")]
#[inline]
fn truncated(part: u64) -> u32 {
    debug_assert!(u32::try_from(part).is_ok());
    part as u32
}
