//! What resolves a case: a transaction that names it.

use sysd_core::Error;

use super::model::CaseId;
use crate::model::{JournalEntry, TransactionId};

impl CaseId {
    /// Under which key a transaction's metadata names the case that it settles.
    pub const METADATA_KEY: &str = "reconciliation_case";

    /// What is to be among the metadata of a transaction that settles the case: the key, and the case's id as it is shown.
    pub fn metadata(self) -> (String, String) {
        (Self::METADATA_KEY.to_owned(), self.to_string())
    }
}

/// That a transaction was recorded, posted something, and names a case: what [`Step::Resolve`](super::Step::Resolve) takes. There is none
/// but by an entry of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Citation {
    pub(super) case: CaseId,
    pub(super) transaction: TransactionId,
    pub(super) number: u64,
}

impl Citation {
    /// Looks at an entry, as it was read from the ledger.
    ///
    /// # Errors
    /// [`CitationError`] if it does not settle that case.
    pub fn of(entry: &JournalEntry, case: CaseId) -> Result<Self, CitationError> {
        let number = entry.number;
        let not_cited = CitationError::NotCited { number, case };
        let transaction = entry.transaction().ok_or(not_cited)?;
        let (key, value) = case.metadata();
        let mut metadata = transaction.details.iter().flat_map(|details| details.metadata());
        if !metadata.any(|(found, of)| (found, of) == (&key, &value)) {
            return Err(not_cited);
        }
        if entry.changes.iter().all(|change| change.posted == 0) {
            return Err(CitationError::PostedNothing { number });
        }
        Ok(Self { case, transaction: transaction.id, number })
    }

    /// The case that it names.
    pub const fn case(&self) -> CaseId {
        self.case
    }

    /// The transaction.
    pub const fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// Its number in the journal.
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// Why an entry of the journal settles no case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CitationError {
    /// It does not say that it does.
    #[error(
        "entry {number} of the journal does not name the case {case} in its metadata, under {key}",
        key = CaseId::METADATA_KEY
    )]
    NotCited {
        /// The entry's number.
        number: u64,
        /// The case.
        case: CaseId,
    },
    /// It is a hold, or a void.
    #[error("entry {number} of the journal posted nothing")]
    PostedNothing {
        /// The entry's number.
        number: u64,
    },
}

/// Why a case was not resolved; nothing was changed, unless the store did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The ledger has no such transaction. What was recorded across shards is there in the ledger of each of its shards.
    #[error("{transaction} is not recorded in this ledger; post it, or ask the ledger of a shard that has it")]
    NotRecorded {
        /// The transaction.
        transaction: TransactionId,
    },
    /// It was taken back.
    #[error("{transaction} settles nothing: entry {by} of the journal took it back")]
    Reversed {
        /// The transaction.
        transaction: TransactionId,
        /// The number of what took it back.
        by: u64,
    },
    /// The transaction does not settle the case.
    #[error(transparent)]
    Citation(#[from] CitationError),
    /// The ledger's store or the queue's did not answer.
    #[error(transparent)]
    Store(#[from] Error),
}
