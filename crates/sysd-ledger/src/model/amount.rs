//! Currencies and sides. An amount is a whole number of a currency's minor units.

use std::fmt;
use std::str::FromStr;

/// The most of any amount, and of any sum of them: `i128::MAX` minor units.
pub const AMOUNT_MAX: u128 = i128::MAX.unsigned_abs();

/// A currency, or whatever else is counted: a code and how many decimals its minor unit has.
///
/// ```
/// use sysd_ledger::Currency;
///
/// let euro: Currency = "EUR".parse()?;
/// assert_eq!((euro.code(), euro.exponent()), ("EUR".to_owned(), 2));
/// let points = Currency::custom("POINTS", 0)?;
/// assert_ne!(points, Currency::custom("POINTS", 1)?);
/// # Ok::<(), sysd_ledger::CurrencyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(u64);

/// What is no currency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CurrencyError {
    /// ISO 4217 has no such code.
    #[error("{code:?} is no currency of ISO 4217; make your own with Currency::custom")]
    Unknown {
        /// What was given.
        code: String,
    },
    /// A code that can't be stored.
    #[error("a currency's code is 1 to 7 of A-Z and 0-9, and begins with a letter; {code:?} is not")]
    Code {
        /// What was given.
        code: String,
    },
    /// More decimals than an amount could have.
    #[error("a currency has at most 38 decimals, not {exponent}")]
    Exponent {
        /// What was given.
        exponent: u8,
    },
    /// A code of ISO 4217 with other decimals than it has there.
    #[error(
        "{code} has {expected} decimals in ISO 4217, not {exponent}; choose another code for what is not that currency"
    )]
    IsoExponent {
        /// The code.
        code: String,
        /// What was given.
        exponent: u8,
        /// What ISO 4217 says.
        expected: u8,
    },
}

impl Currency {
    /// The most bytes of a code.
    pub const CODE_MAX: usize = 7;
    const EXPONENT_MAX: u8 = 38;

    /// One of ISO 4217, with the decimals that it has there; those without any (gold, testing) have none.
    ///
    /// # Errors
    /// [`CurrencyError::Unknown`].
    pub fn iso(code: &str) -> Result<Self, CurrencyError> {
        let unknown = || CurrencyError::Unknown { code: code.to_owned() };
        let found = iso_currency::Currency::from_code(code).ok_or_else(unknown)?;
        let exponent = found.exponent().and_then(|exponent| u8::try_from(exponent).ok()).unwrap_or(0);
        Ok(Self::pack(code, exponent))
    }

    /// One of your own: 1 to 7 of A-Z and 0-9, a letter first.
    ///
    /// # Errors
    /// [`CurrencyError`]: also for a code of ISO 4217 with other decimals.
    pub fn custom(code: &str, exponent: u8) -> Result<Self, CurrencyError> {
        let is_code = (1..=Self::CODE_MAX).contains(&code.len())
            && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && code.as_bytes().first().is_some_and(u8::is_ascii_uppercase);
        if !is_code {
            return Err(CurrencyError::Code { code: code.to_owned() });
        }
        if exponent > Self::EXPONENT_MAX {
            return Err(CurrencyError::Exponent { exponent });
        }
        match Self::iso(code) {
            Ok(iso) if iso.exponent() != exponent => {
                Err(CurrencyError::IsoExponent { code: code.to_owned(), exponent, expected: iso.exponent() })
            }
            _ => Ok(Self::pack(code, exponent)),
        }
    }

    /// How it is stored.
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    /// `None` for what was never made.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let found = Self(bits);
        let bytes = bits.to_be_bytes();
        let (code, rest) = bytes.get(..Self::CODE_MAX)?.split_at(found.code_len());
        let is_code = code.first().is_some_and(u8::is_ascii_uppercase)
            && code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        // What ISO 4217 says may change; what was written stays.
        (is_code && rest.iter().all(|byte| *byte == 0) && found.exponent() <= Self::EXPONENT_MAX).then_some(found)
    }

    fn code_len(self) -> usize {
        self.0.to_be_bytes().iter().take(Self::CODE_MAX).take_while(|byte| **byte != 0).count()
    }

    fn pack(code: &str, exponent: u8) -> Self {
        let mut bytes = [0; 8];
        for (into, byte) in bytes.iter_mut().zip(code.bytes().take(Self::CODE_MAX)) {
            *into = byte;
        }
        bytes[7] = exponent;
        Self(u64::from_be_bytes(bytes))
    }

    /// Its code, such as `EUR`.
    pub fn code(self) -> String {
        let bytes = self.0.to_be_bytes();
        bytes.iter().take(Self::CODE_MAX).take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    }

    /// How many decimals its minor unit has.
    pub const fn exponent(self) -> u8 {
        self.0.to_be_bytes()[7]
    }

    /// An amount in it, written in its major unit: `-12.34 EUR`.
    pub fn show(self, minor: i128) -> String {
        let (digits, exponent) = (minor.unsigned_abs().to_string(), usize::from(self.exponent()));
        let sign = if minor < 0 { "-" } else { "" };
        let padded = format!("{digits:0>width$}", width = exponent + 1);
        let (whole, part) = padded.split_at(padded.len() - exponent);
        let point = if exponent == 0 { "" } else { "." };
        format!("{sign}{whole}{point}{part} {}", self.code())
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    /// As [`Currency::iso`].
    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        Self::iso(code)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.code(), self.exponent())
    }
}

/// Which column of an account a posting stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The left one.
    Debit,
    /// The right one.
    Credit,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Debit => Self::Credit,
            Self::Credit => Self::Debit,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debit => "debit",
            Self::Credit => "credit",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn iso_codes_have_their_decimals() {
        for (code, exponent) in [("EUR", 2), ("JPY", 0), ("BHD", 3), ("CLF", 4), ("XAU", 0)] {
            assert_eq!(Currency::iso(code).unwrap().exponent(), exponent, "{code}");
        }
        assert_eq!(Currency::iso("EURO"), Err(CurrencyError::Unknown { code: "EURO".to_owned() }));
        assert!(Currency::iso("eur").is_err());
    }

    #[test]
    fn a_custom_currency_is_checked() {
        for code in ["", "eth", "1INCH", "TOOLONGX", "A-B", "Ä"] {
            assert!(matches!(Currency::custom(code, 2), Err(CurrencyError::Code { .. })), "{code}");
        }
        assert_eq!(Currency::custom("WEI", 39), Err(CurrencyError::Exponent { exponent: 39 }));
        assert!(matches!(Currency::custom("USD", 3), Err(CurrencyError::IsoExponent { expected: 2, .. })));
        assert_eq!(Currency::custom("USD", 2).unwrap(), Currency::iso("USD").unwrap());
    }

    #[test]
    fn bits_round_trip_and_others_are_refused() {
        for (code, exponent) in [("EUR", 2), ("A", 0), ("ABCDEF9", 38)] {
            let currency = Currency::custom(code, exponent).unwrap();
            assert_eq!(Currency::from_bits(currency.to_bits()), Some(currency));
        }
        for bits in [0, u64::MAX, u64::from_be_bytes(*b"EUR\0\0\0\0\x27"), u64::from_be_bytes(*b"EU\0R\0\0\0\x02")] {
            assert_eq!(Currency::from_bits(bits), None);
        }
    }

    #[test]
    fn amounts_are_shown_in_major_units() {
        let euro = Currency::iso("EUR").unwrap();
        assert_eq!(euro.show(-1_234), "-12.34 EUR");
        assert_eq!(euro.show(5), "0.05 EUR");
        assert_eq!(Currency::iso("JPY").unwrap().show(7), "7 JPY");
        assert_eq!(euro.show(i128::MIN), "-1701411834604692317316873037158841057.28 EUR");
    }
}
