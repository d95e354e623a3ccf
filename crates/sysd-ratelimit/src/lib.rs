#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod algorithm;
pub mod error;
pub mod model;
#[cfg(feature = "policy")]
pub mod policy;
pub mod procedure;
pub mod schema;
pub mod service;

pub use algorithm::{Algorithm, AnyVerdict, Limit, TakeAny};
pub use error::RateLimitError;
pub use model::{
    Decision, FixedWindow, JointDecision, LeakyBucket, MAX_REFILL, Outcome, RULE_NAME_MAX, RULES_MAX, Rate, Rule,
    RuleSet, SLIDING_LOG_MAX, SlidingLog, SlidingWindow, TokenBucket,
};
#[cfg(feature = "policy")]
pub use policy::{Plan, Policy, PolicyError, RequestView};
pub use procedure::{
    FixedVerdict, JointVerdict, LoggedVerdict, SlidingVerdict, Take, TakeAll, TakeFixed, TakeLogged, TakeSliding,
    Verdict,
};
pub use service::{RateLimiter, RuleLimiter};
