//! Made-up payments and a provider's report about them. Nothing is kept: each row is made where it is read.

use std::io::{BufRead, BufReader, Read};

use sysd::ledger::reconcile::{CsvFormat, CsvRows, ReconcileError, Record, Row, records};
use sysd::ledger::{Currency, Date};

/// 2026-01-01.
const DAY: i32 = 20_454;
const A_PAYOUT: u64 = 500;

/// A payment: its amount in cents, and its fee.
fn payment(at: u64) -> (i128, i128) {
    let amount = i128::from(500 + at.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 50_000);
    (amount, 25 + amount * 29 / 1_000)
}

fn day(at: u64) -> i32 {
    DAY + i32::try_from(at / A_PAYOUT % 31).unwrap_or(0)
}

/// What we booked: every payment, gross; some net of the fee; some in two parts; what reached the bank, by payout.
pub(crate) fn ours(payments: u64) -> impl Iterator<Item = Result<Row, ReconcileError>> + Send {
    let euro = Currency::iso("EUR").or_else(|_| Currency::custom("EUR", 2));
    let all = euro.into_iter().flat_map(move |euro| {
        (0..payments).flat_map(move |at| {
            let (amount, fee) = payment(at);
            let one = |amount| Record::new(&format!("order-{at}"), euro, amount, Date(day(at)), 0);
            match at % 1_000 {
                // It never reached the books.
                17 => Vec::new(),
                117 => vec![one(amount + 1)],
                217 => vec![one(amount - fee)],
                317 => vec![one(amount / 2), one(amount - amount / 2)],
                417 => vec![one(amount), one(amount)],
                _ => vec![one(amount)],
            }
        })
    });
    records(all)
}

fn cents(amount: i128) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", amount.abs() / 100, amount.abs() % 100)
}

fn date(day: i32) -> String {
    let date = jiff::civil::Date::constant(1970, 1, 1).checked_add(jiff::Span::new().days(day));
    date.map_or_else(|_| String::new(), |date| date.to_string())
}

/// The provider's rows of a payment.
fn lines(at: u64) -> String {
    let (amount, fee) = payment(at);
    let (day, payout) = (day(at) + 1, at / A_PAYOUT);
    let row = |day: i32, gross: &str, fee: i128, kind: &str| {
        let (date, fee) = (date(day), cents(fee));
        format!("ch_{at},order-{at},{date} 10:00:00,EUR,{gross},{fee},{kind},po_{payout}\n")
    };
    let gross = cents(amount);
    match at % 1_000 {
        // It never happened there.
        517 => String::new(),
        617 => row(day, &gross, fee, "charge") + &row(day, &gross, fee, "charge"),
        717 => row(day + 20, &gross, fee, "charge"),
        817 => row(day, &format!("{gross}5"), fee, "charge"),
        _ => row(day, &gross, fee, "charge"),
    }
}

/// The report as a file that is made while it is read.
pub(crate) fn report(payments: u64) -> impl BufRead + Send {
    let header =
        "source_id,payment_metadata[order],created,currency,gross,fee,reporting_category,automatic_payout_id\n";
    let texts = std::iter::once(header.to_owned()).chain((0..payments).map(lines));
    BufReader::with_capacity(1 << 16, Texts { from_now_on: texts, rest: Vec::new(), from: 0 })
}

pub(crate) fn theirs(payments: u64) -> impl Iterator<Item = Result<Row, ReconcileError>> + Send {
    CsvRows::new(report(payments), CsvFormat::stripe("order"))
}

struct Texts<I> {
    from_now_on: I,
    rest: Vec<u8>,
    from: usize,
}

impl<I: Iterator<Item = String>> Read for Texts<I> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.from == self.rest.len() {
            let Some(text) = self.from_now_on.next() else { return Ok(0) };
            (self.rest, self.from) = (text.into_bytes(), 0);
        }
        let read = into.len().min(self.rest.len() - self.from);
        into[..read].copy_from_slice(&self.rest[self.from..self.from + read]);
        self.from += read;
        Ok(read)
    }
}
