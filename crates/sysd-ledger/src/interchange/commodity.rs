//! How currencies are called in journals.

use std::collections::BTreeMap;

use crate::model::Currency;

use super::Format;

/// The name of a currency whose code alone would not do: `CODE.E2` for one of two decimals.
fn with_exponent(currency: Currency) -> String {
    format!("{}.E{}", currency.code(), currency.exponent())
}

/// The currency of such a name.
pub(super) fn from_exponent(name: &str) -> Option<Currency> {
    let (code, exponent) = name.split_once(".E")?;
    let currency = Currency::custom(code, exponent.parse().ok()?).ok()?;
    (with_exponent(currency) == name).then_some(currency)
}

/// What each currency of an export is called.
#[derive(Debug, Default)]
pub(super) struct Commodities {
    names: BTreeMap<Currency, String>,
    /// Whose the bare codes are.
    bare: BTreeMap<String, Currency>,
}

impl Commodities {
    /// Its name, as it is written, and whether it is new.
    pub(super) fn name(&mut self, format: Format, currency: Currency) -> (String, bool) {
        if let Some(name) = self.names.get(&currency) {
            return (name.clone(), false);
        }
        let code = currency.code();
        // Letters alone are beancount's flags, and these words its constants.
        let is_taken_by_format =
            format == Format::Beancount && (code.len() == 1 || ["TRUE", "FALSE", "NULL"].contains(&code.as_str()));
        let owner = *self.bare.entry(code.clone()).or_insert(currency);
        let name = if is_taken_by_format || owner != currency { with_exponent(currency) } else { code };
        // In the text form whatever is not letters is quoted.
        let needs_quotes = format == Format::Text && !name.bytes().all(|byte| byte.is_ascii_uppercase());
        let name = if needs_quotes { format!("\"{name}\"") } else { name };
        self.names.insert(currency, name.clone());
        (name, true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_currencies_never_have_one_name() {
        let mut names = Commodities::default();
        let [zero, one, letter] =
            [("POINTS", 0), ("POINTS", 1), ("X", 3)].map(|(c, e)| Currency::custom(c, e).unwrap());
        assert_eq!(names.name(Format::Beancount, zero), ("POINTS".to_owned(), true));
        assert_eq!(names.name(Format::Beancount, one), ("POINTS.E1".to_owned(), true));
        assert_eq!(names.name(Format::Beancount, zero), ("POINTS".to_owned(), false));
        assert_eq!(names.name(Format::Beancount, letter).0, "X.E3");
        assert_eq!(from_exponent("POINTS.E1"), Some(one));
        for name in ["POINTS", "POINTS.E01", "POINTS.E99", "points.E1", "EUR.E3", ".E1", "POINTS.E"] {
            assert_eq!(from_exponent(name), None, "{name}");
        }
        let mut names = Commodities::default();
        assert_eq!(names.name(Format::Text, one).0, "POINTS");
        assert_eq!(names.name(Format::Text, zero).0, "\"POINTS.E0\"");
        assert_eq!(names.name(Format::Text, Currency::custom("A1", 0).unwrap()).0, "\"A1\"");
    }
}
