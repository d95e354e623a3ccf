//! Journals in plain text: for `hledger`, `ledger` and `beancount`, and from them. docs/interchange.md says what becomes of what.

mod beancount;
mod commodity;
mod day;
mod decimal;
mod escape;
mod export;
mod import;
mod names;
mod problem;
mod raw;
mod resolve;
mod text;

pub use export::{ExportError, Exported, Exporter, IoWriter};
pub use import::{Imported, Importer, Skipped};
pub use names::default_name;
pub use problem::{ImportError, ImportErrors, Problem};

/// How a journal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// As `hledger` and `ledger` both read it.
    Text,
    /// As `beancount` reads it.
    Beancount,
}
