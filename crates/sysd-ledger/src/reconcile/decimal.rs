//! Amounts as texts, read exactly: digits, one decimal mark, thousands marks in their places. No floating point.

use crate::model::Currency;

/// How many decimals an amount is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Decimals {
    /// As many as the currency has.
    #[default]
    Exact,
    /// As many as the currency has, or fewer: `5` and `5.1` are 5.00 and 5.10.
    AtMost,
    /// Any number, but behind those that the currency has there are only zeros: `5.100` is 5.10.
    Padded,
    /// None: it is in minor units.
    Minor,
}

/// How amounts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notation {
    /// What stands before the decimals.
    pub decimal: char,
    /// What may stand between groups of three digits: between all of them, or none.
    pub thousands: Option<char>,
    /// How many decimals there are.
    pub decimals: Decimals,
}

impl Default for Notation {
    /// `1234.56`.
    fn default() -> Self {
        Self { decimal: '.', thousands: None, decimals: Decimals::Exact }
    }
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// There is nothing.
    #[error("there is no amount")]
    Empty,
    /// There is something else than digits and the marks of the notation.
    #[error("it is no number in this notation")]
    NotANumber,
    /// Thousands marks that are not before every third digit.
    #[error("thousands are not marked in groups of three")]
    Thousands,
    /// Decimals that the currency does not have, or fewer than it has.
    #[error("it has {found} decimals, not {expected}")]
    Decimals {
        /// How many there are.
        found: usize,
        /// How many the currency has.
        expected: u8,
    },
    /// More than an amount can be.
    #[error("it is beyond i128::MAX minor units")]
    TooGreat,
}

impl Notation {
    /// Reads an amount in minor units of the currency. A sign may stand before it, `-` or `+`; an amount in parentheses is negative.
    ///
    /// # Errors
    /// [`AmountError`].
    ///
    /// ```
    /// use sysd_ledger::Currency;
    /// use sysd_ledger::reconcile::{AmountError, Decimals, Notation};
    ///
    /// let euro = Currency::iso("EUR")?;
    /// let continental = Notation { decimal: ',', thousands: Some('.'), decimals: Decimals::Exact };
    /// assert_eq!(continental.read("-1.234,56", euro), Ok(-1_234_56));
    /// assert_eq!(continental.read("1.23,45", euro), Err(AmountError::Thousands));
    /// assert_eq!(Notation::default().read("1.5", euro), Err(AmountError::Decimals { found: 1, expected: 2 }));
    /// assert_eq!(Notation::default().read("7", Currency::iso("JPY")?), Ok(7));
    /// # Ok::<(), sysd_ledger::CurrencyError>(())
    /// ```
    pub fn read(self, text: &str, currency: Currency) -> Result<i128, AmountError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AmountError::Empty);
        }
        let (is_negative, text) = match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
            Some(inside) => (true, inside),
            None => match text.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            },
        };
        let (whole, decimals) = text.split_once(self.decimal).map_or((text, None), |(a, b)| (a, Some(b)));
        let (whole, decimals) = (self.groups(whole)?, decimals.unwrap_or(""));
        let has_no_digit = whole.iter().all(|group| group.is_empty()) && decimals.is_empty();
        // `5.` and `.` are as broken as a mark where there are no decimals at all.
        if has_no_digit || text.ends_with(self.decimal) {
            return Err(AmountError::NotANumber);
        }
        let exponent = if self.decimals == Decimals::Minor { 0 } else { currency.exponent() };
        let (found, wanted) = (decimals.chars().count(), usize::from(exponent));
        if !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AmountError::NotANumber);
        }
        let is_right = match self.decimals {
            Decimals::Exact => found == wanted,
            Decimals::AtMost => found <= wanted,
            Decimals::Padded => decimals.bytes().skip(wanted).all(|byte| byte == b'0'),
            Decimals::Minor => found == 0,
        };
        if !is_right {
            return Err(AmountError::Decimals { found, expected: exponent });
        }
        let digits = whole.iter().flat_map(|group| group.bytes());
        let digits = digits.chain(decimals.bytes().chain(std::iter::repeat(b'0')).take(wanted));
        let mut amount = 0_i128;
        for digit in digits {
            let digit = i128::from(digit - b'0');
            let next = amount.checked_mul(10).and_then(|amount| amount.checked_add(digit));
            amount = next.ok_or(AmountError::TooGreat)?;
        }
        Ok(if is_negative { -amount } else { amount })
    }

    /// The whole part in groups of digits.
    fn groups(self, whole: &str) -> Result<smallvec::SmallVec<[&str; 8]>, AmountError> {
        let groups: smallvec::SmallVec<[&str; 8]> = match self.thousands {
            Some(mark) => whole.split(mark).collect(),
            None => std::iter::once(whole).collect(),
        };
        if groups.iter().any(|group| !group.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(AmountError::NotANumber);
        }
        if let [first, rest @ ..] = groups.as_slice()
            && !rest.is_empty()
            && (!(1..=3).contains(&first.len()) || rest.iter().any(|group| group.len() != 3))
        {
            return Err(AmountError::Thousands);
        }
        Ok(groups)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn euro() -> Currency {
        Currency::iso("EUR").unwrap()
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        let plain = Notation::default();
        for text in
            ["-", "+", ".", "1.", "5,00", "1e2", "0x1", "--1", "1.2.3", "1 000.00", "١.00", "NaN", "()", "(-1.00)"]
        {
            assert_eq!(plain.read(text, euro()), Err(AmountError::NotANumber), "{text}");
        }
        assert_eq!(plain.read("  ", euro()), Err(AmountError::Empty));
        for (text, found) in [("1", 0), ("1.2", 1), ("1.234", 3), ("1.230", 3)] {
            assert_eq!(plain.read(text, euro()), Err(AmountError::Decimals { found, expected: 2 }), "{text}");
        }
        assert_eq!(plain.read(&"9".repeat(40), Currency::iso("JPY").unwrap()), Err(AmountError::TooGreat));
        let marked = Notation { thousands: Some(','), ..plain };
        for text in ["1,23.00", ",123.00", "1234,567.00", "1,,000.00"] {
            assert_eq!(marked.read(text, euro()), Err(AmountError::Thousands), "{text}");
        }
    }

    #[test]
    fn every_notation_is_read() {
        let read = |decimals, text| Notation { decimals, ..Notation::default() }.read(text, euro());
        assert_eq!(read(Decimals::AtMost, "5"), Ok(500));
        assert_eq!(read(Decimals::AtMost, "-.5"), Ok(-50));
        assert_eq!(read(Decimals::Padded, "8.85000"), Ok(885));
        assert!(read(Decimals::Padded, "8.85001").is_err());
        assert_eq!(read(Decimals::Minor, "5200"), Ok(5_200));
        assert!(read(Decimals::Minor, "52.00").is_err());
        assert_eq!(read(Decimals::Exact, "(12.34)"), Ok(-1_234));
        let swiss = Notation { decimal: '.', thousands: Some('\''), decimals: Decimals::Exact };
        assert_eq!(swiss.read("1'234'567.89", euro()), Ok(123_456_789));
        assert_eq!(swiss.read("1234567.89", euro()), Ok(123_456_789));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(amount in -i128::MAX..=i128::MAX, code in prop_oneof![Just("EUR"), Just("JPY"), Just("BHD")]) {
            let currency = Currency::iso(code).unwrap();
            let shown = currency.show(amount);
            prop_assert_eq!(Notation::default().read(shown.strip_suffix(code).unwrap(), currency), Ok(amount));
        }

        #[test]
        fn any_text_is_answered(text in "[-+().,0-9 ]{0,12}") {
            for thousands in [None, Some(',')] {
                _ = Notation { thousands, ..Notation::default() }.read(&text, euro());
            }
        }
    }
}
