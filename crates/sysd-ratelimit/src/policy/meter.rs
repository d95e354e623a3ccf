//! Numbers of decisions, through the `metrics` facade.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, SharedString};
use sysd_core::{Error, Store};

use super::route::Path;
use super::{Listing, Policy, PolicyLimiter, Reason, RequestView, Ruling};
use crate::defence::Guard;
use crate::error::effect_label;

/// How many of the keys that were denied most have a number of their own; see [`PolicyLimiter::report_most_limited`].
pub const RANKS: usize = 10;

const DECISIONS: &str = "sysd_ratelimit_decisions_total";
const DURATION: &str = "sysd_ratelimit_decision_duration_seconds";
const DENIALS: &str = "sysd_ratelimit_rule_denials_total";
const ERRORS: &str = "sysd_ratelimit_store_errors_total";
const STAND_IN: &str = "sysd_ratelimit_stand_in_decisions_total";
const OPEN: &str = "sysd_ratelimit_breaker_open";
const MOST: &str = "sysd_ratelimit_most_limited_denials";

/// The label of paths that are on no route.
const ANY_ROUTE: &str = "*";

/// What became of a request, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Allowed,
    Denied,
    AllowListed,
    DenyListed,
    Missing,
    FailedOpen,
    Unavailable,
    Failed,
}

impl Outcome {
    const ALL: usize = 8;

    fn of(ruling: &Ruling) -> Self {
        match (ruling.reason(), ruling.is_allowed()) {
            (Reason::Listed(Listing::Allow), _) => Self::AllowListed,
            (Reason::Listed(Listing::Deny), _) => Self::DenyListed,
            (Reason::Missing(_), _) => Self::Missing,
            (Reason::Rules, true) if ruling.has_failed_open() => Self::FailedOpen,
            (Reason::Rules, true) => Self::Allowed,
            (Reason::Rules, false) => Self::Denied,
            (Reason::Unavailable, _) => Self::Unavailable,
            (Reason::Failed, _) => Self::Failed,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::AllowListed => "allow_listed",
            Self::DenyListed => "deny_listed",
            Self::Missing => "missing",
            Self::FailedOpen => "failed_open",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }
}

/// The handles of a policy, each made when it is first needed.
pub(super) struct Meter {
    policy: SharedString,
    /// By route.
    decisions: HashMap<String, [OnceLock<Counter>; Outcome::ALL]>,
    /// By the rule's place: in force, shadow.
    denials: Vec<OnceLock<Counter>>,
    duration: OnceLock<Histogram>,
    stand_in: OnceLock<Counter>,
    open: OnceLock<Gauge>,
    was_open: AtomicBool,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("policy", &self.policy).finish_non_exhaustive()
    }
}

pub(super) fn describe() {
    metrics::describe_counter!(DECISIONS, "Requests that were ruled on.");
    metrics::describe_histogram!(DURATION, metrics::Unit::Seconds, "From a request to its ruling.");
    metrics::describe_counter!(DENIALS, "Requests that a rule denied, or would have denied.");
    metrics::describe_counter!(ERRORS, "Errors of the store, by which rules could not be asked.");
    metrics::describe_counter!(STAND_IN, "Requests that the stand-in decided on, at least in part.");
    metrics::describe_gauge!(OPEN, "1 while the store is left alone, else 0.");
    metrics::describe_gauge!(
        MOST,
        "Denials of the key that was denied most, second most and so on, since the last report."
    );
}

impl Meter {
    pub(super) fn new(policy: &Policy) -> Self {
        let rules = policy.rules();
        let routes = rules.iter().flat_map(super::PolicyRule::routes).chain([ANY_ROUTE]);
        Self {
            policy: policy.name().to_owned().into(),
            decisions: routes.map(|route| (route.to_owned(), std::array::from_fn(|_| OnceLock::new()))).collect(),
            denials: rules.iter().map(|_| OnceLock::new()).collect(),
            duration: OnceLock::new(),
            stand_in: OnceLock::new(),
            open: OnceLock::new(),
            was_open: AtomicBool::new(false),
        }
    }

    /// Takes note of a ruling that took so long.
    pub(super) fn record(&self, request: &RequestView<'_>, ruling: &Ruling, took: Duration, guard: &Guard) {
        let policy = || self.policy.clone();
        let histogram = self.duration.get_or_init(|| metrics::histogram!(DURATION, "policy" => policy()));
        histogram.record(took.as_secs_f64());

        let outcome = Outcome::of(ruling);
        let route = ruling.policy().route_of(request.path);
        if let Some(counters) = self.decisions.get(route) {
            let make = || {
                let route = route.to_owned();
                metrics::counter!(DECISIONS, "policy" => policy(), "route" => route, "outcome" => outcome.name())
            };
            counters[outcome as usize].get_or_init(make).increment(1);
        }
        let denied = ruling.each().iter().filter(|(_, decision)| !decision.is_allowed()).map(|(place, _)| *place);
        for place in denied.chain(ruling.would_deny().iter().copied()) {
            self.count_denial(ruling.policy(), place);
        }
        for error in ruling.errors() {
            self.count_error(error);
        }
        if ruling.has_stand_in_decided() {
            self.stand_in.get_or_init(|| metrics::counter!(STAND_IN, "policy" => policy())).increment(1);
        }
        if !ruling.errors().is_empty() || self.was_open.load(Ordering::Relaxed) {
            let is_open = guard.is_open();
            self.was_open.store(is_open, Ordering::Relaxed);
            let gauge = self.open.get_or_init(|| metrics::gauge!(OPEN, "policy" => policy()));
            gauge.set(if is_open { 1.0 } else { 0.0 });
        }
    }

    fn count_denial(&self, policy: &Policy, place: usize) {
        let (Some(counter), Some(rule)) = (self.denials.get(place), policy.rules().get(place)) else { return };
        let make = || {
            let mode = if rule.is_shadow() { "shadow" } else { "enforced" };
            let name = rule.rule().name().to_owned();
            metrics::counter!(DENIALS, "policy" => self.policy.clone(), "rule" => name, "mode" => mode)
        };
        counter.get_or_init(make).increment(1);
    }

    /// Errors are rare, so they are looked up by name.
    fn count_error(&self, error: &Error) {
        let (kind, effect) = (error.kind().name(), effect_label(error.effect()));
        metrics::counter!(ERRORS, "policy" => self.policy.clone(), "kind" => kind, "effect" => effect).increment(1);
    }

    /// One number a rank: a customer's name would be a series of its own for ever.
    pub(super) fn report_most_limited(&self, denials: impl Iterator<Item = u64>) {
        let denials = denials.chain(std::iter::repeat(0));
        for (rank, denials) in (1..=RANKS).zip(denials) {
            #[allow(clippy::cast_precision_loss, reason = "a count of denials")]
            let denials = denials as f64;
            metrics::gauge!(MOST, "policy" => self.policy.clone(), "rank" => rank.to_string()).set(denials);
        }
    }
}

impl Policy {
    /// The first of its routes that the path matches, rules of high priority first, whatever their methods; else `*`.
    fn route_of(&self, path: &str) -> &str {
        let path = Path::new(path);
        let rules = self.compiled.order.iter().map(|&place| &self.compiled.rules[place]);
        let mut routes = rules.flat_map(|rule| &rule.routes);
        routes.find(|route| route.matches(&path)).map_or(ANY_ROUTE, super::Pattern::text)
    }
}

impl<S: Store> PolicyLimiter<S> {
    /// Sets the gauge `sysd_ratelimit_most_limited_denials` for the [`RANKS`] keys that were denied most since the last report, and begins
    /// anew, as [`forget_denials`](Self::forget_denials) does; answers how many denials there were in all. To be called at
    /// intervals. Who they are is in none of the metrics: [`most_limited`](Self::most_limited) says it, before this is called.
    pub fn report_most_limited(&self) -> u64 {
        let (most, total) = {
            let mut top = self.top();
            let most: Vec<_> = top.most().take(RANKS).map(|entry| entry.count).collect();
            let total = top.total();
            top.clear();
            (most, total)
        };
        self.current().meter.report_most_limited(most.into_iter());
        total
    }
}
