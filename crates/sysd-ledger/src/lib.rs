#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod interchange;
pub mod logic;
pub mod model;
mod schema;
pub mod service;

pub use logic::{Books, Command, GROUP_MAX, Inconsistency, TrialBalance};
pub use model::{
    Account, AccountId, AccountKind, AccountState, AccountUpdate, AccountView, Action, Balance, Change, Currency,
    CurrencyError, Date, Details, DetailsError, Event, Funds, JournalEntry, Posting, Postings, Receipt, Rejection,
    Reply, Rest, Side, Transaction, TransactionId,
};
pub use service::Ledger;
