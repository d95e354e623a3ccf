//! The books: a pure, deterministic machine.

mod accounts;
mod blocks;
mod books;
mod bugs;
mod deadlines;
mod held;
mod holds;
mod leaving;
mod looked;
mod numbers;
mod pair;
mod places;
mod resolve;
mod reversals;
mod stored;
mod tail;
mod times;

pub(crate) use accounts::StoredTrail;
pub(crate) use books::TAIL_BYTES_MAX;
pub use books::{Books, Command, GROUP_MAX, Inconsistency, TrialBalance};
#[doc(hidden)]
pub use bugs::{Bug, PairBug};
pub use held::HoldView;
pub(crate) use leaving::{Leaving, Span};
pub use looked::Looked;
#[cfg(test)]
pub(crate) use numbers::{BLOCK_IDS, KEPT_MAX};
pub(crate) use numbers::{Kept, Numbers, minted_at_us};
pub(crate) use resolve::keeps_rate;
pub(crate) use stored::{Parts, StoredHold};
pub(crate) use tail::{Chunk, Tail};
pub(crate) use times::Times;
