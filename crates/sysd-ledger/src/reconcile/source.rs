//! Where records come from: CSV, camt.053, or any iterator.

mod camt;
mod columns;
mod csv;
mod presets;

pub use camt::{CamtFormat, CamtReference, CamtRows};
pub use columns::{AmountIn, Column, CsvFormat, CurrencyIn, FeeIn, Header, MoneyIn};
pub use csv::CsvRows;

use super::error::ReconcileError;
use super::model::Record;
use crate::model::Currency;

/// A row that is no record, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Where it stands: the line of a file, or the place of an entry, from 1 on.
    pub row: u64,
    /// Which column, or element; empty if it is the row as a whole.
    pub column: String,
    /// What is wrong.
    pub why: String,
    /// What it was about, if that could be read: it counts in the totals then.
    pub known: Option<(Currency, i128)>,
}

impl BadRow {
    pub(super) fn new(row: u64, column: impl Into<String>, why: impl Into<String>) -> Self {
        Self { row, column: column.into(), why: why.into(), known: None }
    }
}

/// A record, or a row that is none.
pub type Row = Result<Record, BadRow>;

/// Records that are at hand as rows that can be read, each with its place as its row.
pub fn records(records: impl IntoIterator<Item = Record>) -> impl Iterator<Item = Result<Row, ReconcileError>> {
    (1..).zip(records).map(|(row, record)| Ok(check(Record { row, ..record })))
}

/// Texts have a greatest length.
pub(super) fn check(record: Record) -> Row {
    for (name, text) in [("reference", &record.reference), ("kind", &record.kind), ("batch", &record.batch)] {
        if text.len() > Record::TEXT_MAX {
            let why = format!("it has {} bytes, the most is {}", text.len(), Record::TEXT_MAX);
            let known = Some((record.currency, record.amount));
            return Err(BadRow { known, ..BadRow::new(record.row, name, why) });
        }
    }
    Ok(record)
}

/// A value as it is shown in reasons: the begin of it.
pub(super) fn shown(value: &str) -> String {
    let short: String = value.chars().take(40).collect();
    let more = if short.len() < value.len() { "…" } else { "" };
    format!("{short:?}{more}")
}
