#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod algorithm;
#[cfg(feature = "policy")]
mod defence;
#[cfg(feature = "tower")]
pub mod downstream;
pub mod error;
pub mod fleet;
#[cfg(feature = "tower")]
pub mod http;
pub mod joint;
pub mod local;
pub mod model;
#[cfg(feature = "policy")]
pub mod policy;
pub mod procedure;
pub mod schema;
pub mod service;

#[cfg(feature = "tower")]
pub use crate::http::{FieldStyle, RateLimitLayer, RateLimited};
pub use algorithm::{Algorithm, AnyVerdict, Limit, TakeAny};
pub use error::RateLimitError;
pub use fleet::{LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, SHARDS_MAX, ShardedLimiter};
pub use joint::{Ask, JointLimiter, JointOutcome, OnError, is_outage};
pub use local::LocalLimiter;
pub use model::{
    CalendarSpan, Decision, FixedWindow, JointDecision, LeakyBucket, MAX_REFILL, Outcome, RULE_NAME_MAX, RULES_MAX,
    Rate, Rule, RuleLimit, RuleSet, SLIDING_LOG_MAX, SlidingLog, SlidingWindow, TokenBucket,
};
#[cfg(feature = "calendar")]
pub use model::{CalendarUnit, CalendarWindow};
#[cfg(feature = "policy")]
pub use policy::{Plan, Policy, PolicyError, PolicyLimiter, RequestView, Ruling};
pub use procedure::{
    CalendarVerdict, FixedVerdict, GiveAll, JointVerdict, LoggedVerdict, SlidingVerdict, Take, TakeAll, TakeCalendar,
    TakeFixed, TakeLogged, TakeSliding, Verdict,
};
pub use service::{RateLimiter, RuleLimiter};
