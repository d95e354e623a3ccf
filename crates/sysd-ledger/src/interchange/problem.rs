//! What is wrong with a journal, and where.

use std::fmt;

use crate::model::DetailsError;

/// Why a journal can't be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Something else belongs here.
    #[error("{expected} belongs here")]
    Syntax {
        /// What.
        expected: &'static str,
    },
    /// What the programs do not agree on, or what would change balances in ways that are not in the file.
    #[error("{what}")]
    Refused {
        /// What it is, and what to do instead.
        what: &'static str,
    },
    /// A line that says nothing that is known.
    #[error("{word:?} is no directive that is known here; remove it, or write what it stands for")]
    Unknown {
        /// Its first word.
        word: String,
    },
    /// No day of the calendar.
    #[error("{text:?} is no day from 1400-01-01 to 9999-12-31; write YYYY-MM-DD")]
    Day {
        /// What was there.
        text: String,
    },
    /// Not a number.
    #[error("{text:?} is no number: digits, commas between groups of three, and one point for the decimals")]
    Number {
        /// What was there.
        text: String,
    },
    /// A number of which the programs think differently.
    #[error(
        "{text:?} is a thousandfold in one program of what it is in another; write it without the comma, or with decimals"
    )]
    Ambiguous {
        /// The number.
        text: String,
    },
    /// More digits than an amount may have.
    #[error("this is more than i128::MAX minor units, or comes to it")]
    TooLarge,
    /// A commodity of which it is not known which currency it is.
    #[error("{name:?} is no currency's code; say which it is with Importer::commodity")]
    Commodity {
        /// As it is written.
        name: String,
    },
    /// More decimals than the currency has.
    #[error(
        "{amount} {code} has more than the {exponent} decimals of {code}; round it, or give the commodity more of them with \
         Importer::commodity"
    )]
    TooPrecise {
        /// The amount.
        amount: String,
        /// The currency's code.
        code: String,
        /// Its decimals.
        exponent: u8,
    },
    /// Debits are not credits.
    #[error(
        "debits less credits are not zero: {differences}; if something was exchanged, write its price with @ or @@"
    )]
    Unbalanced {
        /// By commodity.
        differences: String,
    },
    /// Only one amount follows from the others.
    #[error("a second amount is left out; one at most can be worked out")]
    TwoLeftOut,
    /// An account of no kind.
    #[error(
        "{account:?} is no asset, liability, equity, income or expense by its name; say which it is with Importer::kind"
    )]
    Kind {
        /// Its name.
        account: String,
    },
    /// An account that nothing opens.
    #[error("{account:?} is used and never opened; write an open directive")]
    NotOpened {
        /// Its name.
        account: String,
    },
    /// Two accounts with one id.
    #[error("{account:?} in {code} has the id of {other:?}; an account has one currency")]
    SameAccount {
        /// Its name.
        account: String,
        /// Its currency.
        code: String,
        /// The name of the other, with its currency.
        other: String,
    },
    /// A transaction's id that is there twice.
    #[error("the transaction's id {id} was in line {line} already; remove one of them")]
    SameTransaction {
        /// The id.
        id: String,
        /// The line of the other.
        line: usize,
    },
    /// A tag that an export writes, with something else in it.
    #[error("the tag {key:?} is one of an export's and says nothing that an export would; remove it")]
    Tag {
        /// The tag.
        key: String,
    },
    /// More postings than a transaction may have.
    #[error("there are {count} postings, those of one account taken together; at most {max} can be recorded at once", max = crate::Transaction::POSTINGS_MAX)]
    PostingCount {
        /// How many.
        count: usize,
    },
    /// More text than is kept.
    #[error(transparent)]
    Details(#[from] DetailsError),
}

/// A problem and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// The line, from 1 on.
    pub line: usize,
    /// The character in the line, from 1 on, where that is known.
    pub column: Option<usize>,
    /// What is wrong there.
    pub problem: Problem,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{}:{column}: {}", self.line, self.problem),
            None => write!(f, "{}: {}", self.line, self.problem),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// All that is wrong with a journal, of which nothing was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ImportErrors {
    /// By line, at most [`ImportErrors::LISTED_MAX`].
    pub errors: Vec<ImportError>,
    /// How many more there were.
    pub more: usize,
}

impl ImportErrors {
    /// The most that are listed.
    pub const LISTED_MAX: usize = 100;

    pub(super) fn push(&mut self, line: usize, column: Option<usize>, problem: impl Into<Problem>) {
        if self.errors.len() < Self::LISTED_MAX {
            self.errors.push(ImportError { line, column, problem: problem.into() });
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for ImportErrors {
    /// `LINE:COLUMN: PROBLEM`, one on a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        if self.more > 0 { write!(f, "\nand {} more", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for ImportErrors {}
