#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod logic;
pub mod model;
#[cfg(feature = "reconcile")]
pub mod reconcile;
mod schema;
pub mod service;

pub use logic::{Books, Command, GROUP_MAX, Inconsistency, TrialBalance};
pub use model::{
    Account, AccountId, AccountKind, AccountState, AccountUpdate, AccountView, Action, Balance, Currency,
    CurrencyError, Date, Details, DetailsError, Funds, Posting, Postings, Receipt, Rejection, Reply, Rest, Side,
    Transaction, TransactionId,
};
pub use service::Ledger;
