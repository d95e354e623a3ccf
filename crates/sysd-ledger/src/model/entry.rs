//! What the journal says.

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::account::AccountId;
use super::amount::{Currency, Side};
use super::reply::{Balance, Receipt};
use super::transaction::{Action, Date, Transaction, TransactionId};

/// What became of one column of one account, and how the account stood just after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The account.
    pub account: AccountId,
    /// What it is counted in.
    pub currency: Currency,
    /// The column.
    pub side: Side,
    /// What was posted, in minor units.
    pub posted: u128,
    /// What was held from then on.
    pub held: u128,
    /// What was held before and is not any more, whether it was posted or set free.
    pub freed: u128,
    /// All sums of the account, just after it.
    pub balance: Balance,
    /// The how manieth of the account's changes it is: from 1 on, without a gap.
    pub ordinal: u64,
}

/// What a number of the journal is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction, as it was asked for.
    Transaction(Transaction),
    /// A hold whose deadline came.
    HoldEnded {
        /// The transaction that held.
        hold: TransactionId,
    },
}

/// One number of the journal: what was recorded, and everything that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number: from 1 on, without a gap.
    pub number: u64,
    /// When it was recorded; never earlier than the one before.
    pub recorded_at: Timestamp,
    /// What it is of.
    pub event: Event,
    /// What it changed. In every currency the debits of each kind equal the credits.
    pub changes: SmallVec<[Change; 2]>,
}

impl JournalEntry {
    /// The transaction, if it is of one.
    pub const fn transaction(&self) -> Option<&Transaction> {
        match &self.event {
            Event::Transaction(transaction) => Some(transaction),
            Event::HoldEnded { .. } => None,
        }
    }

    /// The day for which it counts.
    pub fn effective(&self) -> Date {
        let said = self.transaction().and_then(|transaction| transaction.effective);
        said.unwrap_or_else(|| Date::of(self.recorded_at))
    }

    /// What the transaction was answered; `None` if it is of no transaction.
    pub fn receipt(&self) -> Option<Receipt> {
        let transaction = self.transaction()?;
        let moved = match transaction.action {
            Action::PostUpTo => self.changes.first().map_or(0, |change| change.posted),
            _ => 0,
        };
        let balances = self.changes.iter().map(|change| (change.account, change.balance)).collect();
        Some(Receipt { id: transaction.id, number: self.number, recorded_at: self.recorded_at, moved, balances })
    }
}
