//! Validated types: what a limit is, and what it answers.

mod calendar_span;
#[cfg(feature = "calendar")]
mod calendar_window;
mod concurrency;
mod decision;
mod fixed_window;
mod hold;
mod leaky_bucket;
mod rate;
mod rule;
mod sliding_log;
mod sliding_window;
mod span;
mod token_bucket;

#[cfg(test)]
pub(crate) use calendar_span::BOUNDS;
pub use calendar_span::CalendarSpan;
#[cfg(feature = "calendar")]
pub use calendar_window::{CalendarUnit, CalendarWindow};
pub use concurrency::{Concurrency, SLOTS_MAX, Slot, SlotOutcome, SlotRelease, SlotRenewal, SlotUse};
pub use decision::{Decision, Outcome};
pub use fixed_window::FixedWindow;
pub use hold::{HOLDS_MAX, HoldId, Reservation, Settlement};
pub use leaky_bucket::LeakyBucket;
pub use rate::{MAX_REFILL, Rate};
pub use rule::{JointDecision, RULE_NAME_MAX, RULES_MAX, Rule, RuleLimit, RuleSet};
pub(crate) use rule::{RuleId, fit_holds, fit_record, told_apart};
pub use sliding_log::{SLIDING_LOG_MAX, SlidingLog};
pub use sliding_window::SlidingWindow;
pub(crate) use span::Span;
pub use token_bucket::TokenBucket;
