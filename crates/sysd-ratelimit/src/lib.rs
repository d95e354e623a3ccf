#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod algorithm;
#[cfg(feature = "policy")]
mod defence;
#[cfg(feature = "tower")]
pub mod downstream;
mod elapsed;
pub mod error;
pub mod fleet;
pub mod holds;
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
pub mod slots;
mod untold;

#[cfg(feature = "tower")]
pub use crate::http::{FieldStyle, RateLimitLayer, RateLimited};
pub use algorithm::{Algorithm, AnyVerdict, Limit, TakeAny};
pub use error::RateLimitError;
pub use fleet::{
    KeeperError, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, SHARDS_MAX, ShardedLimiter,
};
pub use holds::HoldLimiter;
pub use joint::{Ask, JointLimiter, JointOutcome, OnError, is_outage};
pub use local::LocalLimiter;
pub use model::{
    CalendarSpan, Concurrency, Decision, FixedWindow, HOLDS_MAX, HoldId, JointDecision, LeakyBucket, MAX_REFILL,
    Outcome, RULE_NAME_MAX, RULES_MAX, Rate, Reservation, Rule, RuleLimit, RuleSet, SLIDING_LOG_MAX, SLOTS_MAX,
    Settlement, SlidingLog, SlidingWindow, Slot, SlotOutcome, SlotRelease, SlotRenewal, SlotUse, TokenBucket,
};
#[cfg(feature = "calendar")]
pub use model::{CalendarUnit, CalendarWindow};
#[cfg(feature = "policy")]
pub use policy::{Plan, Policy, PolicyError, PolicyLimiter, RequestView, Ruling};
pub use procedure::{
    AskHolds, AskSlots, CalendarVerdict, FixedVerdict, GiveAll, HoldAsk, HoldsFound, JointVerdict, LoggedVerdict,
    SlidingVerdict, SlotAsk, SlotsFound, Take, TakeAll, TakeCalendar, TakeFixed, TakeLogged, TakeSliding, Verdict,
};
pub use service::{RateLimiter, RuleLimiter};
pub use slots::ConcurrencyLimiter;
pub use untold::UntoldError;
