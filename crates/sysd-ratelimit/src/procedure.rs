//! The decisions, pure: they are given the state, the time and the cost.

pub(crate) mod token_bucket;

pub use token_bucket::{Take, Verdict};
