//! What a journal says, before it is known what it means.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Date;

use super::decimal::Decimal;
use super::import::Skipped;
use super::problem::{ImportErrors, Problem};

/// A number of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawAmount {
    pub(super) number: Decimal,
    pub(super) commodity: String,
}

/// What was given for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawPrice {
    /// For each.
    Each(RawAmount),
    /// For all, whatever the sign.
    Total(RawAmount),
}

#[derive(Clone, Debug)]
pub(super) struct RawPosting {
    pub(super) line: usize,
    /// Of the amount.
    pub(super) column: Option<usize>,
    pub(super) account: String,
    /// `None`: left out.
    pub(super) amount: Option<RawAmount>,
    pub(super) price: Option<RawPrice>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawTransaction {
    pub(super) line: usize,
    pub(super) day: Option<Date>,
    pub(super) memo: String,
    /// Whom it is with, where that is said apart from the memo.
    pub(super) payee: String,
    pub(super) code: String,
    /// How far it is, as a word.
    pub(super) status: &'static str,
    /// Tags and comments, in order.
    pub(super) tags: Vec<(String, String)>,
    pub(super) postings: Vec<RawPosting>,
}

/// A whole journal.
#[derive(Debug, Default)]
pub(super) struct RawJournal {
    pub(super) transactions: Vec<RawTransaction>,
    /// Decimals that commodities were said to have.
    pub(super) decimals: BTreeMap<String, u32>,
    /// Accounts that were opened, with the line and the commodities named there; `None` where accounts need no opening.
    pub(super) opened: Option<BTreeMap<String, (usize, BTreeSet<String>)>>,
    pub(super) skipped: Vec<Skipped>,
}

impl RawJournal {
    pub(super) fn skip(&mut self, line: usize, what: &'static str) {
        self.skipped.push(Skipped { line, what });
    }
}

/// A place in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) line: &'a str,
    pub(super) number: usize,
    at: usize,
}

/// How numbers and commodities are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// The commodity before or behind, quoted or not; a single comma is ambiguous.
    Text,
    /// A code behind.
    Beancount,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(line: &'a str, number: usize) -> Self {
        Self { line, number, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or("")
    }

    /// Goes over the next bytes, of a prefix of the rest.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// In characters, from 1 on.
    pub(super) fn column(&self) -> usize {
        self.line.get(..self.at).unwrap_or("").chars().count() + 1
    }

    pub(super) fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn eat(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        self.at += if is_there { what.len() } else { 0 };
        is_there
    }

    /// What is there as long as the characters are such.
    pub(super) fn take_while(&mut self, is_such: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|char| !is_such(char)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or("")
    }

    /// Notes a problem here.
    pub(super) fn blame(&self, errors: &mut ImportErrors, problem: Problem) {
        errors.push(self.number, Some(self.column()), problem);
    }

    fn sign(&mut self) -> Option<bool> {
        if self.eat("-") { Some(true) } else { self.eat("+").then_some(false) }
    }

    fn number(&mut self, style: Style) -> Result<Decimal, Problem> {
        let start = *self;
        let text = self.take_while(|char| char.is_ascii_digit() || char == '.' || char == ',');
        let result = number(text, style);
        if result.is_err() {
            *self = start;
        }
        result
    }

    fn commodity(&mut self, style: Style) -> Result<String, Problem> {
        let expected = Problem::Syntax { expected: "a commodity, such as EUR," };
        if style == Style::Text && self.eat("\"") {
            let name = self.take_while(|char| char != '"');
            return if !name.is_empty() && self.eat("\"") { Ok(name.to_owned()) } else { Err(expected) };
        }
        let name = match style {
            Style::Text => self.take_while(|char| {
                !(char.is_whitespace()
                    || char.is_control()
                    || char.is_numeric()
                    || "-+.,;:@={}()[]<>\"'!?*/^&|~#%\\`".contains(char))
            }),
            Style::Beancount => {
                self.take_while(|char| char.is_ascii_uppercase() || char.is_ascii_digit() || "'._-".contains(char))
            }
        };
        let is_name = match style {
            Style::Text => !name.is_empty(),
            Style::Beancount => name.starts_with(|first: char| first.is_ascii_uppercase()),
        };
        if is_name { Ok(name.to_owned()) } else { Err(expected) }
    }

    /// An amount with its commodity.
    pub(super) fn amount(&mut self, style: Style) -> Result<RawAmount, Problem> {
        let mut sign = self.sign();
        let begins_with_number =
            |cursor: &Self| cursor.rest().starts_with(|char: char| char.is_ascii_digit() || char == '.');
        if self.rest().starts_with('(') {
            return Err(Problem::Refused { what: "an amount that is to be worked out; write the number" });
        }
        let (number, commodity) = if style == Style::Text && !begins_with_number(self) {
            let commodity = self.commodity(style)?;
            self.skip_spaces();
            if let Some(is_negative) = self.sign() {
                if sign.is_some() {
                    return Err(Problem::Syntax { expected: "one sign" });
                }
                sign = Some(is_negative);
            }
            (self.number(style)?, commodity)
        } else {
            let number = self.number(style)?;
            self.skip_spaces();
            if self.rest().starts_with(['*', '/', '+', '-']) {
                return Err(Problem::Refused { what: "an amount that is to be worked out; write the number" });
            }
            (number, self.commodity(style)?)
        };
        Ok(RawAmount { number: if sign == Some(true) { number.negated() } else { number }, commodity })
    }

    /// `@ AMOUNT` or `@@ AMOUNT`, if there is one.
    pub(super) fn price(&mut self, style: Style) -> Result<Option<RawPrice>, Problem> {
        self.skip_spaces();
        if self.rest().starts_with('{') {
            return Err(Problem::Refused {
                what: "lots and their costs are not kept; write what was paid with @ or @@",
            });
        }
        if !self.eat("@") {
            return Ok(None);
        }
        let is_total = self.eat("@");
        self.skip_spaces();
        let amount = self.amount(style)?;
        if amount.number.is_negative() {
            return Err(Problem::Refused { what: "a price is not negative" });
        }
        Ok(Some(if is_total { RawPrice::Total(amount) } else { RawPrice::Each(amount) }))
    }
}

fn number(text: &str, style: Style) -> Result<Decimal, Problem> {
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let bad = || Problem::Number { text: text.to_owned() };
    if part.is_some_and(|part| part.contains(',')) {
        return Err(bad());
    }
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or("");
    let commas = whole.matches(',').count();
    if commas > 0 && !((1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3)) {
        return Err(bad());
    }
    if commas == 1 && part.is_none() && style == Style::Text {
        return Err(Problem::Ambiguous { text: text.to_owned() });
    }
    let digits: String = text.chars().filter(|char| *char != ',').collect();
    Decimal::parse(&digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(line: &str) -> Result<String, Problem> {
        let mut cursor = Cursor::new(line, 1);
        let amount = cursor.amount(Style::Text)?;
        cursor.skip_spaces();
        assert!(cursor.is_at_end(), "{line}: {}", cursor.rest());
        Ok(format!("{} {}", amount.number, amount.commodity))
    }

    #[test]
    fn amounts_are_read_in_all_their_shapes() {
        for (line, expected) in [
            ("$33.92", "33.92 $"),
            ("$ 37.50", "37.5 $"),
            ("$ -225.00", "-225 $"),
            ("-$5", "-5 $"),
            ("$-0.11", "-0.11 $"),
            ("59820 bytes", "59820 bytes"),
            ("500.00€", "500 €"),
            ("$1,234,567", "1234567 $"),
            ("-1,000.5 \"A 1\"", "-1000.5 A 1"),
            ("+3 EUR", "3 EUR"),
            ("5. JPY", "5 JPY"),
        ] {
            assert_eq!(text(line).as_deref(), Ok(expected), "{line}");
        }
        for line in [
            "",
            "5",
            "EUR",
            "$",
            "1,00 EUR",
            "1.000,00 EUR",
            "--5 EUR",
            "-$-5",
            "(1/3) EUR",
            "5 \"EUR",
            ".5 EUR",
            "1 * 2 EUR",
        ] {
            assert!(text(line).is_err(), "{line}");
        }
        assert_eq!(text("$1,234"), Err(Problem::Ambiguous { text: "1,234".to_owned() }));
        let mut cursor = Cursor::new("1,234 EUR", 1);
        assert_eq!(cursor.amount(Style::Beancount).unwrap().number.to_string(), "1234");
    }
}
