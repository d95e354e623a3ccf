//! What a ledger answers.

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::account::AccountId;
use super::amount::Side;
use super::entry::JournalEntry;
use super::rejection::Rejection;
use super::transaction::{Transaction, TransactionId};
use crate::logic::Looked;

/// The sums of an account, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Balance {
    /// All debits that were posted.
    pub debits_posted: u128,
    /// All credits that were posted.
    pub credits_posted: u128,
    /// The debits that are held.
    pub debits_held: u128,
    /// The credits that are held.
    pub credits_held: u128,
}

impl Balance {
    #[inline]
    pub(crate) const fn posted_mut(&mut self, side: Side) -> &mut u128 {
        match side {
            Side::Debit => &mut self.debits_posted,
            Side::Credit => &mut self.credits_posted,
        }
    }

    /// What was posted, as it counts on that side: negative if there is more on the other.
    pub fn posted(&self, side: Side) -> i128 {
        // Sums are at most i128::MAX.
        let signed = |sum: u128| i128::try_from(sum).unwrap_or(i128::MAX);
        match side {
            Side::Debit => signed(self.debits_posted) - signed(self.credits_posted),
            Side::Credit => signed(self.credits_posted) - signed(self.debits_posted),
        }
    }
}

/// The answer to a transaction that was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its id.
    pub id: TransactionId,
    /// Its number in the journal: from 1 on, without a gap.
    pub number: u64,
    /// When it was recorded; never earlier than the one before.
    pub recorded_at: Timestamp,
    /// How much was moved by [`PostUpTo`](super::Action::PostUpTo); else zero.
    pub moved: u128,
    /// The sums of every account touched, just after it.
    pub balances: SmallVec<[(AccountId, Balance); 2]>,
}

/// What a command is answered. A rejection changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done: an account opened or changed, a period closed, or nothing to do.
    Done,
    /// A transaction was posted, held or voided.
    Recorded(Receipt),
    /// All of a group were, in order.
    GroupRecorded(Vec<Receipt>),
    /// The id was recorded before, under that number of the journal.
    Exists {
        /// The id.
        id: TransactionId,
        /// Its number in the journal.
        number: u64,
    },
    /// It can't be done.
    Rejected(Box<Rejection>),
    /// Of a batch, one for each transaction, in order.
    Batch(Vec<Self>),
    /// Whether it was recorded or reversed before is not known in memory any more, and nothing was done: the store is to be asked for
    /// its ids, and then the books again, with [`Command::Looked`](crate::Command::Looked). `Ledger` does that. Here is what is in memory.
    LookUp(Box<Looked>),
    /// More holds have come to their deadline than end before one command, so nothing can be decided yet: 1,000 of them ended, and
    /// nothing else was done. Let time pass with [`Command::Tick`](crate::Command::Tick) until it is [`Done`](Self::Done), then ask
    /// again. `Ledger` does that.
    HoldsDue,
    /// The id was recorded before, with other content. Nothing was done. Only `Ledger` says so.
    Conflict(Box<Conflict>),
}

/// A transaction, and another that was recorded under its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What was recorded.
    pub recorded: JournalEntry,
    /// What was asked now.
    pub asked: Transaction,
}
