//! The books: a pure, deterministic machine.

mod accounts;
mod blocks;
mod books;
#[cfg(feature = "seeded-bugs")]
mod bugs;
mod holds;
mod numbers;
mod places;
mod resolve;
mod stored;

#[doc(hidden)]
pub use books::Bug;
pub use books::{Books, Command, GROUP_MAX, Inconsistency, TrialBalance};
pub(crate) use stored::{Parts, StoredHold};
