#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod error;
pub mod model;
pub mod procedure;
pub mod schema;
pub mod service;

pub use error::RateLimitError;
pub use model::{Decision, MAX_REFILL, Outcome, Rate, TokenBucket};
pub use procedure::{Take, Verdict};
pub use service::RateLimiter;
