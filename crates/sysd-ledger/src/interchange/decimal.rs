//! Decimal numbers without any rounding.

use std::fmt;

use super::problem::Problem;

/// `mantissa / 10^scale`, without zeros at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decimal {
    mantissa: i128,
    scale: u32,
}

fn ten_to(power: u32) -> Option<i128> {
    10_i128.checked_pow(power)
}

impl Decimal {
    pub(super) const ZERO: Self = Self { mantissa: 0, scale: 0 };

    /// Digits, with one point among them or none.
    pub(super) fn parse(digits: &str) -> Result<Self, Problem> {
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let bad = || Problem::Number { text: digits.to_owned() };
        if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        // Zeros at the end would cost room for nothing.
        let part = part.trim_end_matches('0');
        let mantissa = whole
            .bytes()
            .chain(part.bytes())
            .try_fold(0_i128, |sum, byte| sum.checked_mul(10)?.checked_add(i128::from(byte - b'0')));
        let scale = u32::try_from(part.len()).map_err(|_| bad())?;
        Ok(Self { mantissa: mantissa.ok_or(Problem::TooLarge)?, scale })
    }

    /// How many decimals it has.
    pub(super) const fn decimals(self) -> u32 {
        self.scale
    }

    pub(super) const fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    pub(super) const fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// A mantissa is never the least of its type: it is made of a magnitude, and every sum is checked.
    pub(super) fn negated(self) -> Self {
        Self { mantissa: self.mantissa.saturating_neg(), ..self }
    }

    fn normal(mut self) -> Self {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.scale -= 1;
        }
        self
    }

    fn scaled(self, scale: u32) -> Option<i128> {
        // Zero fits any scale.
        if self.is_zero() { Some(0) } else { self.mantissa.checked_mul(ten_to(scale.checked_sub(self.scale)?)?) }
    }

    pub(super) fn plus(self, other: Self) -> Result<Self, Problem> {
        let scale = self.scale.max(other.scale);
        let sum = self.scaled(scale).zip(other.scaled(scale)).and_then(|(left, right)| left.checked_add(right));
        Ok(Self { mantissa: sum.ok_or(Problem::TooLarge)?, scale }.normal())
    }

    pub(super) fn times(self, other: Self) -> Result<Self, Problem> {
        let mantissa = self.mantissa.checked_mul(other.mantissa).ok_or(Problem::TooLarge)?;
        Ok(Self { mantissa, scale: self.scale + other.scale }.normal())
    }

    /// In minor units, or `None` if it has more decimals.
    pub(super) fn to_minor(self, exponent: u8) -> Result<Option<i128>, Problem> {
        if self.scale > u32::from(exponent) {
            return Ok(None);
        }
        self.scaled(u32::from(exponent)).map(Some).ok_or(Problem::TooLarge)
    }

    /// Whether it is within half a minor unit of zero.
    pub(super) fn is_within_half(self, exponent: u8) -> bool {
        let half = Self { mantissa: 5, scale: u32::from(exponent) + 1 };
        let magnitude = if self.is_negative() { self } else { self.negated() };
        magnitude.plus(half).is_ok_and(|rest| !rest.is_negative())
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.scale as usize;
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = scale + 1);
        let (whole, part) = digits.split_at(digits.len() - scale);
        let sign = if self.mantissa < 0 { "-" } else { "" };
        if part.is_empty() { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{part}") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(number("1.50").plus(number("0.5")).unwrap(), number("2"));
        assert_eq!(number("1.25").times(number("0.4")).unwrap().to_string(), "0.5");
        assert_eq!(number("0.05").negated().to_string(), "-0.05");
        assert_eq!(number("12.3").to_minor(2), Ok(Some(1_230)));
        assert_eq!(number("12.345").to_minor(2), Ok(None));
        assert_eq!(number("12").to_minor(38), Err(Problem::TooLarge));
        assert_eq!(number("0").to_minor(38), Ok(Some(0)));
        assert!(number("0.005").is_within_half(2) && number("0.005").negated().is_within_half(2));
        assert!(!number("0.0051").is_within_half(2) && !number("0.0051").negated().is_within_half(2));
        for text in ["", ".", ".5", "1.2.3", "1e3", "-1", "٣"] {
            assert!(Decimal::parse(text).is_err(), "{text}");
        }
        assert_eq!(Decimal::parse(&"9".repeat(40)), Err(Problem::TooLarge));
    }

    proptest! {
        #[test]
        fn a_minor_amount_is_read_as_it_is_written(minor in 0..i128::MAX, exponent in 0_u8..=38) {
            let shown = Decimal { mantissa: minor, scale: exponent.into() }.to_string();
            prop_assert_eq!(number(&shown).to_minor(exponent), Ok(Some(minor)));
        }
    }
}
