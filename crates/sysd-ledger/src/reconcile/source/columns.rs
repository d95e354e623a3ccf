//! Which column says what.

use super::super::decimal::Notation;
use crate::model::Currency;

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// By its name in the header; of several with one name the first.
    Name(String),
    /// By its place, from 0 on.
    Place(usize),
}

impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<usize> for Column {
    fn from(place: usize) -> Self {
        Self::Place(place)
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Place(place) => write!(f, "{place}"),
        }
    }
}

/// Where an amount stands. What came in is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AmountIn {
    /// In one column, with its sign.
    Signed(Column),
    /// In one of two columns; the other is empty or zero.
    DebitCredit {
        /// What went out.
        debit: Column,
        /// What came in.
        credit: Column,
    },
    /// In one column, without a sign, and another says which it is.
    Indicated {
        /// How much.
        amount: Column,
        /// Which.
        indicator: Column,
        /// What it says of what went out.
        debit: Vec<String>,
        /// What it says of what came in.
        credit: Vec<String>,
    },
}

/// Where the currency stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrencyIn {
    /// In a column, as a code; small letters do too.
    Column(Column),
    /// It is always this one.
    Fixed(Currency),
}

/// Where an amount and its currency stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoneyIn {
    /// The amount.
    pub amount: AmountIn,
    /// Its currency.
    pub currency: CurrencyIn,
}

/// Where the fee stands: it is the sum of these, empty ones being none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeeIn {
    /// The amounts.
    pub amounts: Vec<AmountIn>,
    /// Their currency, `None`: the amount's. A fee in another currency can't be taken off the amount, and is left out.
    pub currency: Option<CurrencyIn>,
    /// Whether a fee that was taken is written as a negative amount.
    pub is_negative: bool,
}

/// What names the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Header {
    /// The first row.
    First,
    /// Nothing: columns are given by their places.
    None,
    /// The first field of each row says what it is, as in reports of PayPal.
    Tagged {
        /// Of a header.
        header: String,
        /// Of a record.
        data: String,
        /// Of rows that are neither, and are passed over. Other tags are bad rows.
        others: Vec<String>,
    },
}

/// How a CSV file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvFormat {
    /// What stands between fields, one byte.
    pub delimiter: u8,
    /// What fields may be enclosed in, one byte.
    pub quote: u8,
    /// What names the columns.
    pub header: Header,
    /// Whether a row may have fewer or more fields than the header. Else that is a bad row: its fields may have slipped.
    pub is_ragged: bool,
    /// The most bytes of a row; more is a bad row.
    pub row_bytes_max: usize,
    /// Where our id stands: the first of these columns that is not empty. One of them must be there.
    pub reference: Vec<Column>,
    /// Where amount and currency stand: the first of these whose amount is not empty. One must be there.
    pub money: Vec<MoneyIn>,
    /// Where the day stands: the first of these columns that is not empty.
    pub day: Vec<Column>,
    /// How it is written, in the notation of `strptime`: the first that fits. The day counts as it is written; no zone is applied.
    pub day_formats: Vec<String>,
    /// Where it says what happened; none: it does not.
    pub kind: Vec<Column>,
    /// Where the payout or batch stands; none: nowhere.
    pub batch: Vec<Column>,
    /// Where the fee stands.
    pub fee: Option<FeeIn>,
    /// How amounts are written.
    pub notation: Notation,
    /// Currencies of your own, beside those of ISO 4217.
    pub currencies: Vec<Currency>,
}
