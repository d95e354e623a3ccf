//! Validated types: what a limit is, and what it answers.

mod decision;
mod rate;
mod span;
mod token_bucket;

pub use decision::{Decision, Outcome};
pub use rate::{MAX_REFILL, Rate};
pub(crate) use span::Span;
pub use token_bucket::TokenBucket;
