//! What ends a run. A row that can't be read does not: see [`BadRow`](super::BadRow).

use std::io;

use super::ordered::Torn;
use super::totals::Uneven;

/// Why a run could not be carried out. Nothing that came of it until then is to be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// Which file.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Rules, columns or limits that make no sense.
    #[error("{field}: {message}")]
    Config {
        /// Which part of them.
        field: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The file has no such columns.
    #[error("there is no column {wanted}; the file has {found}")]
    NoColumn {
        /// What was looked for.
        wanted: String,
        /// What the header says, as far as it is short enough to be shown.
        found: String,
    },
    /// The file is not of this format at all, or breaks off: what is missing could not be told from what was never there.
    #[error("the file can't be read at byte {at}: {what}")]
    Malformed {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// More differences than people could review: most likely the columns, or our own records, are not the right ones.
    #[error("more than {max} differences; are these the right columns, and our records of the right days?")]
    TooManyDifferences {
        /// The most that are wanted.
        max: u64,
    },
    /// A sum is beyond all sums, or this code counted wrongly.
    #[error("the totals are not even: {0}")]
    Uneven(#[from] Uneven),
    /// A file of the run's own was changed by somebody.
    #[error("a temporary file was changed while it was in use")]
    Torn,
}

impl ReconcileError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(super) fn temporary(source: io::Error) -> Self {
        Self::Io { what: "a temporary file", source }
    }
}

impl From<Torn> for ReconcileError {
    fn from(_: Torn) -> Self {
        Self::Torn
    }
}
