//! Numbers of decisions and of calls of the store, through the `metrics` facade. Without the feature, `no_meter.rs` is in its place.
//!
//! What is decided within the process is counted in a [`Tally`], which lies where it is decided and is locked for that anyway; the keeper tells
//! them. All else has waited, and is told at once.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, SharedString};
use sysd_core::{Clock, Error, Result};

use super::StoreCall;
use crate::error::effect_label;
use crate::model::{Decision, Outcome};

const DECISIONS: &str = "sysd_ratelimit_fleet_decisions_total";
const CALLS: &str = "sysd_ratelimit_fleet_calls_total";
const CALL_ERRORS: &str = "sysd_ratelimit_fleet_call_errors_total";
const CALL_DURATION: &str = "sysd_ratelimit_fleet_call_duration_seconds";

/// What became of requests, as labels; the last is that of those that ended in an error.
const OUTCOMES: [&str; 4] = ["allowed", "denied", "never_allowed", "error"];
const ERROR: usize = 3;

const fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Allowed => 0,
        Outcome::Denied { .. } => 1,
        Outcome::NeverAllowed => 2,
    }
}

/// Decisions that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Tally([u64; ERROR]);

impl Tally {
    #[inline]
    pub(super) fn count(&mut self, outcome: Outcome) {
        self.0[place(outcome)] += 1;
    }

    /// Adds those of another, which has none then.
    pub(super) fn take_from(&mut self, other: &mut Self) {
        for (sum, part) in self.0.iter_mut().zip(std::mem::take(&mut other.0)) {
            *sum += part;
        }
    }
}

/// The handles of a limiter, each made when it is first needed.
pub(super) struct Meter {
    limiter: SharedString,
    mode: &'static str,
    decisions: [OnceLock<Counter>; OUTCOMES.len()],
    calls: [OnceLock<(Counter, Histogram)>; StoreCall::ALL],
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("limiter", &self.limiter).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Meter {
    /// Of the limiter `name` in this `mode`.
    pub(super) fn new(mode: &'static str, name: &str) -> Self {
        metrics::describe_counter!(DECISIONS, "Requests that a fleet's limiter answered.");
        metrics::describe_counter!(CALLS, "Calls that a fleet's limiter made of its store.");
        metrics::describe_counter!(CALL_ERRORS, "Those of them that failed, or were not answered in time.");
        let seconds = metrics::Unit::Seconds;
        metrics::describe_histogram!(
            CALL_DURATION,
            seconds,
            "How long they took until they were answered, or given up."
        );
        Self {
            limiter: name.to_owned().into(),
            mode,
            decisions: [const { OnceLock::new() }; OUTCOMES.len()],
            calls: [const { OnceLock::new() }; StoreCall::ALL],
        }
    }

    /// One request was answered.
    pub(super) fn count(&self, answer: &Result<Decision>) {
        self.add(answer.as_ref().map_or(ERROR, |decision| place(decision.outcome())), 1);
    }

    /// Tells what was counted.
    pub(super) fn tell(&self, Tally(counts): Tally) {
        for (place, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.add(place, count);
        }
    }

    fn add(&self, place: usize, count: u64) {
        let make = || {
            let outcome = OUTCOMES[place];
            metrics::counter!(DECISIONS, "limiter" => self.limiter.clone(), "mode" => self.mode, "outcome" => outcome)
        };
        self.decisions[place].get_or_init(make).increment(count);
    }

    /// A call begins; it ends when what this answers is dropped.
    pub(super) fn begin<'a, C: Clock>(&'a self, clock: &'a C, call: StoreCall) -> UnderWay<'a, C> {
        self.handles(call).0.increment(1);
        UnderWay { meter: self, clock, call, begun: clock.steady() }
    }

    fn handles(&self, call: StoreCall) -> &(Counter, Histogram) {
        let make = || {
            let labels: [(&str, SharedString); 3] =
                [("limiter", self.limiter.clone()), ("mode", self.mode.into()), ("call", call.name().into())];
            (metrics::counter!(CALLS, &labels), metrics::histogram!(CALL_DURATION, &labels))
        };
        self.calls[call as usize].get_or_init(make)
    }

    /// A call failed, or was given up. That is rare, or else each waits for the store: it is looked up by name.
    pub(super) fn failed(&self, call: StoreCall, error: &Error) {
        let labels: [(&str, SharedString); 5] = [
            ("limiter", self.limiter.clone()),
            ("mode", self.mode.into()),
            ("call", call.name().into()),
            ("kind", error.kind().name().into()),
            ("effect", effect_label(error.effect()).into()),
        ];
        metrics::counter!(CALL_ERRORS, &labels).increment(1);
    }
}

/// A call.
pub(super) struct UnderWay<'a, C: Clock> {
    meter: &'a Meter,
    clock: &'a C,
    call: StoreCall,
    begun: Duration,
}

impl<C: Clock> UnderWay<'_, C> {
    pub(super) fn answered<T>(self, answer: &Result<T>) {
        if let Err(error) = answer {
            self.meter.failed(self.call, error);
        }
    }
}

impl<C: Clock> Drop for UnderWay<'_, C> {
    fn drop(&mut self) {
        let took = self.clock.steady().saturating_sub(self.begun);
        self.meter.handles(self.call).1.record(took.as_secs_f64());
    }
}
