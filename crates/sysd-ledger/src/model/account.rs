//! Accounts.

use std::fmt;

use bytes::Bytes;

use super::amount::{Currency, Side};
use super::reply::Balance;

/// Names an account: any number of the application's, such as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub u128);

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What an account is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccountKind {
    /// What the books' owner has: its balance is debits less credits.
    Asset,
    /// What the owner owes, such as what customers keep with it: credits less debits.
    Liability,
    /// What is left for the owner: credits less debits.
    Equity,
    /// What came in: credits less debits.
    Income,
    /// What was spent: debits less credits.
    Expense,
}

impl AccountKind {
    /// The side on which it grows.
    pub const fn normal_side(self) -> Side {
        match self {
            Self::Asset | Self::Expense => Side::Debit,
            Self::Liability | Self::Equity | Self::Income => Side::Credit,
        }
    }
}

/// What may be taken from an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Funds {
    /// As much as one likes: its balance may have either sign.
    #[default]
    Unlimited,
    /// Debits, held ones too, are at most the posted credits and the overdraft: a customer's wallet.
    DebitsWithinCredits {
        /// So many minor units more.
        overdraft: u128,
    },
    /// Credits, held ones too, are at most the posted debits and the overdraft: a cash box.
    CreditsWithinDebits {
        /// So many minor units more.
        overdraft: u128,
    },
}

/// An account, as it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// What it is counted in.
    pub currency: Currency,
    /// What it is of.
    pub kind: AccountKind,
    /// What may be taken from it.
    pub funds: Funds,
    /// The most that its balance may become, on its [normal side](AccountKind::normal_side), everything held on that side counted.
    pub balance_max: Option<u128>,
    /// Whatever the application wants to keep with it, at most [`METADATA_MAX`](Self::METADATA_MAX) bytes.
    pub metadata: Bytes,
}

impl Account {
    /// The most bytes of metadata.
    pub const METADATA_MAX: usize = 4 << 10;

    /// An account from which any amount may be taken.
    pub const fn new(id: AccountId, currency: Currency, kind: AccountKind) -> Self {
        Self { id, currency, kind, funds: Funds::Unlimited, balance_max: None, metadata: Bytes::new() }
    }

    /// The same, from which only what is there may be taken, on the side on which it shrinks.
    #[must_use]
    pub const fn limited(mut self) -> Self {
        self.funds = match self.kind.normal_side() {
            Side::Credit => Funds::DebitsWithinCredits { overdraft: 0 },
            Side::Debit => Funds::CreditsWithinDebits { overdraft: 0 },
        };
        self
    }
}

/// Whether an account takes postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AccountState {
    /// It does.
    #[default]
    Open,
    /// Not for now; what is held there may still be voided, and expires.
    Frozen,
    /// Never again; it was empty.
    Closed,
}

/// What may be changed of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountUpdate {
    /// No postings for now.
    Freeze,
    /// Postings again.
    Unfreeze,
    /// No postings ever again. Its balance must be zero, with nothing held.
    Close,
}

/// An account as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// As it was opened.
    pub account: Account,
    /// Whether it takes postings.
    pub state: AccountState,
    /// Its sums.
    pub balance: Balance,
}
