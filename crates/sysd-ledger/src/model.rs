//! What a ledger is about: amounts, accounts, transactions, and what it answers.

pub mod account;
pub mod amount;
pub mod entry;
pub mod rejection;
pub mod reply;
pub mod transaction;

pub use account::{Account, AccountId, AccountKind, AccountState, AccountUpdate, AccountView, Funds};
pub use amount::{Currency, CurrencyError, Side};
pub use entry::{Change, Event, JournalEntry};
pub use rejection::Rejection;
pub use reply::{Balance, Conflict, Receipt, Reply};
pub use transaction::{Action, Date, Details, DetailsError, Posting, Postings, Rate, Rest, Transaction, TransactionId};
