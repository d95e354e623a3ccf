//! The decisions, pure: they are given the state, the time and the cost.

pub(crate) mod fixed_window;
#[cfg(test)]
mod laws;
pub(crate) mod sliding_log;
pub(crate) mod sliding_window;
pub(crate) mod token_bucket;

pub use fixed_window::{FixedVerdict, TakeFixed};
pub use sliding_log::{LoggedVerdict, TakeLogged};
pub use sliding_window::{SlidingVerdict, TakeSliding};
pub use token_bucket::{Take, Verdict};
