//! Reconciliation: our records beside a settlement file's, and exactly the differences.

mod books;
mod decimal;
mod error;
mod found;
mod logic;
mod model;
mod ordered;
mod review;
mod run;
mod sort;
mod source;
mod totals;

pub use decimal::{AmountError, Decimals, Notation};
pub use error::ReconcileError;
pub use found::Found;
pub use model::{Candidate, Difference, Finding, Match, Party, Pass, Record, Records, Rules, What};
pub use review::{
    Case, CaseId, CaseState, Citation, CitationError, Event, FileId, FileState, FileView, Note, Person, RecordError,
    Recorded, ResolveError, ReviewCommand, ReviewQueue, ReviewReject, ReviewReply, Reviews, Step,
};
pub use run::{Reconciliation, Summary};
pub use source::{
    AmountIn, BadRow, CamtFormat, CamtReference, CamtRows, Column, CsvFormat, CsvRows, CurrencyIn, FeeIn, Header,
    MoneyIn, Row, records,
};
pub use totals::{SideTotals, Sum, Totals, Uneven};

/// A deliberate mistake, for tests.
#[cfg(feature = "seeded-bugs")]
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A duplicate is not told of.
    DropDuplicate,
    /// Bad rows are passed over.
    SkipBadRows,
    /// A record is matched, and matched again.
    MatchTwice,
}
