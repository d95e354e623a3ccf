#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod algorithm;
pub mod error;
pub mod model;
pub mod procedure;
pub mod schema;
pub mod service;

pub use algorithm::{Algorithm, AnyVerdict, Limit, TakeAny};
pub use error::RateLimitError;
pub use model::{
    Decision, FixedWindow, LeakyBucket, MAX_REFILL, Outcome, Rate, SLIDING_LOG_MAX, SlidingLog, SlidingWindow,
    TokenBucket,
};
pub use procedure::{FixedVerdict, LoggedVerdict, SlidingVerdict, Take, TakeFixed, TakeLogged, TakeSliding, Verdict};
pub use service::RateLimiter;
