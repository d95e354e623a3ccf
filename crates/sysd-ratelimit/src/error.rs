//! What can go wrong when a limiter is made or asked.

use std::time::Duration;

#[cfg(feature = "metrics")]
use sysd_core::Effect;

/// An effect as a label of metrics.
#[cfg(feature = "metrics")]
pub(crate) const fn effect_label(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "none",
        Effect::Unknown => "unknown",
    }
}

/// Why a limit could not be made. A request that is over its limit is no error: it is a
/// [`Decision`](crate::Decision).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitError {
    /// A rate of no tokens at all.
    #[error("rate: 0 tokens would never admit anything; give at least 1")]
    ZeroRate,
    /// A period that is zero, longer than [`MAX_REFILL`](crate::MAX_REFILL), or not whole microseconds.
    #[error("rate: a period of {period:?} is not usable; give whole microseconds, from 1 µs to 100 years")]
    RatePeriod {
        /// The period that was given.
        period: Duration,
    },
    /// A text that is not a rate.
    #[error("rate: {text:?} is not a rate; write a count and a period, like 10/s, 100/m, 1/h, 5000/d, 1/mo or 3/500ms")]
    RateSyntax {
        /// The text that was given, shortened.
        text: String,
    },
    /// A bucket that holds nothing.
    #[error("burst: a bucket of 0 tokens would never admit anything; give at least 1")]
    ZeroBurst,
    /// A sliding log that would have to keep too many requests.
    #[error(
        "limit: a sliding log keeps each request of its window, so {limit} is too many; give at most 1000, or use a sliding window"
    )]
    LogTooLong {
        /// The limit that was given.
        limit: u32,
    },
    /// A time zone that is not in the database.
    #[error("zone: {name:?} is no time zone; give a name of the IANA database, like Europe/Berlin, or UTC")]
    UnknownZone {
        /// The name that was given, shortened.
        name: String,
    },
    /// A rule's name that no header could carry.
    #[error("rule: {name:?} is no name; give 1 to 64 printable ASCII characters other than \" and \\")]
    RuleName {
        /// The name that was given, shortened.
        name: String,
    },
    /// A set of no rules, or of too many.
    #[error("rules: {count} rules in one set; give at least 1 and at most 16")]
    RuleCount {
        /// How many were given.
        count: usize,
    },
    /// Two rules of one set that can't be told apart.
    #[error("rules: {name:?} can't be told from {other:?}; give each rule of a set a name of its own")]
    RuleTwice {
        /// The later one.
        name: String,
        /// The earlier one.
        other: String,
    },
    /// A limiter within the process with room for no key, or for too many.
    #[error("keys_max: room for {keys_max} keys can't be had; give 1 to 2147483647")]
    LocalKeys {
        /// How many were asked for.
        keys_max: usize,
    },
    /// A number of a fleet's limiter that is zero.
    #[error("{field}: zero would never decide anything; give at least 1")]
    Fleet {
        /// Which.
        field: &'static str,
    },
    /// A rule that a fleet can't decide so.
    #[error("rule: {name:?} {why}; decide it centrally")]
    FleetRule {
        /// The rule's name.
        name: String,
        /// What stands against it.
        why: &'static str,
    },
    /// More shards than there are tokens, or than [`SHARDS_MAX`](crate::SHARDS_MAX).
    #[error("shards: {shards} shards of a burst of {burst} can't be had; give 1 to 64, and no more than the burst")]
    Shards {
        /// How many were asked for.
        shards: u32,
        /// The limit's burst.
        burst: u32,
    },
    /// Rules of one key whose states the store can't hold in one record.
    #[error(
        "rules: the states of {rule:?} and {others} others of one key may come to {bytes} bytes, and the store takes at most {bytes_max} a record; lower the limits of sliding logs, use sliding windows, or count some rules by another key"
    )]
    RecordTooLarge {
        /// The rule with the longest state.
        rule: String,
        /// How many more lie in its record.
        others: usize,
        /// The longest record, bytes.
        bytes: usize,
        /// The longest that the store takes, bytes.
        bytes_max: usize,
    },
    /// A concurrency limit that would never let anybody work, or keep too many holders.
    #[error("slots: {count} slots are not usable; give at least 1 and at most 1000")]
    SlotCount {
        /// How many were given.
        count: u32,
    },
    /// A rule that the policy does not have.
    #[error("rule: {name:?} is no rule of the policy; give the name of one that is in force")]
    UnknownRule {
        /// The name that was given, shortened.
        name: String,
    },
    /// Numbers of another algorithm than the rule's.
    #[error("rule: {name:?} would begin anew with another algorithm; give numbers of its own, or replace the policy")]
    OtherAlgorithm {
        /// The rule's name.
        name: String,
    },
    /// A limit that no request of the rule could ever pass.
    #[error(
        "limit: {limit} is less than {cost}, what a request costs the rule {name:?}: it would admit nothing; give more"
    )]
    CostAboveLimit {
        /// The rule's name.
        name: String,
        /// What a request costs.
        cost: u32,
        /// The limit that was given.
        limit: u32,
    },
    /// A bucket that would need longer than [`MAX_REFILL`](crate::MAX_REFILL) to fill.
    #[error("burst: {burst} tokens need more than 100 years to refill at this rate; lower the burst or raise the rate")]
    BurstTooLarge {
        /// The burst that was given, in tokens.
        burst: u32,
    },
}
