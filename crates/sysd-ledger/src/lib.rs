#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod interchange;
pub mod journal;
pub mod logic;
pub mod model;
#[cfg(feature = "reconcile")]
pub mod reconcile;
mod schema;
pub mod service;
pub mod shards;

pub use journal::{AsOf, Audit, AuditError, JournalConfig, JournalWriter, Page, StatementLine};
pub use logic::{Books, Command, GROUP_MAX, HoldView, Inconsistency, Looked, TrialBalance};
pub use model::{
    Account, AccountId, AccountKind, AccountState, AccountUpdate, AccountView, Action, Balance, Change, Conflict,
    Currency, CurrencyError, Date, Details, DetailsError, Event, Funds, JournalEntry, Posting, Postings, Rate, Receipt,
    Rejection, Reply, Rest, Side, Transaction, TransactionId,
};
pub use schema::journal::ChunkHash;
pub use service::Ledger;
