//! The sliding log as a [`Procedure`]; `sliding_log.lua` beside it is its twin, line for line.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, Step, Timestamp, Undecodable};

use crate::model::{Decision, Outcome, SlidingLog};
use crate::procedure::{life, step};
use crate::schema::sliding_log::{self as schema, Entries, Entry};

/// Takes `cost` from a sliding log, if there is as much room; a cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is. An absent state is an empty log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeLogged {
    limit: SlidingLog,
    cost: u32,
}

/// What [`TakeLogged`] found, before it is put into the numbers of a [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoggedVerdict {
    pub(crate) allowed: bool,
    /// What the last window has admitted, after this decision.
    pub(crate) count: u32,
    /// By how much the stored time is ahead of `now`: the clock has gone back.
    pub(crate) skew_us: u64,
    /// How long from the stored time on until a request that was refused would be admitted.
    pub(crate) wait_us: u64,
    /// How long from the stored time on until the log is empty.
    pub(crate) reset_us: u64,
}

impl TakeLogged {
    /// Takes `cost` from the log of a key.
    pub const fn new(limit: SlidingLog, cost: u32) -> Self {
        Self { limit, cost }
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &LoggedVerdict) -> Decision {
        let limit = self.limit.limit();
        let outcome = Outcome::of(self.cost, limit, verdict.allowed, || verdict.skew_us + verdict.wait_us);
        let reset_us = if verdict.reset_us == 0 { 0 } else { verdict.skew_us + verdict.reset_us };
        Decision::new(outcome, limit, limit.saturating_sub(verdict.count), reset_us)
    }
}

/// Decides on `cost` at `now`: the verdict, and the log to write if it changed.
pub(crate) fn decide(limit: &SlidingLog, log: &Entries, now: Timestamp, cost: u32) -> (LoggedVerdict, Option<Entries>) {
    let now_us = now.as_micros();
    let window_us = limit.window_us();
    // A clock that has gone back gives nothing: time stands still until it has caught up.
    let at_us = log.last().map_or(now_us, |last| last.at_us.max(now_us));
    let skew_us = at_us - now_us;
    let first = log.iter().position(|entry| at_us - entry.at_us < window_us).unwrap_or(log.len());
    let kept = &log[first..];
    let used: u64 = kept.iter().map(|entry| u64::from(entry.cost)).sum();
    let count = u32::try_from(used).unwrap_or(u32::MAX);
    let ends_in_us = |entry: &Entry| window_us - (at_us - entry.at_us);
    let (limit, cost_wide) = (u64::from(limit.limit()), u64::from(cost));
    if cost > 0 && used + cost_wide <= limit {
        let mut log = kept.to_vec();
        match log.last_mut() {
            Some(last) if last.at_us == at_us => last.cost += cost,
            _ => log.push(Entry { at_us, cost }),
        }
        let verdict = LoggedVerdict { allowed: true, count: count + cost, skew_us, wait_us: 0, reset_us: window_us };
        return (verdict, Some(log));
    }
    let mut freed = 0;
    let mut wait_us = 0;
    for entry in kept {
        if used - freed + cost_wide <= limit {
            break;
        }
        freed += u64::from(entry.cost);
        wait_us = ends_in_us(entry);
    }
    let reset_us = kept.last().map_or(0, ends_in_us);
    (LoggedVerdict { allowed: cost == 0, count, skew_us, wait_us, reset_us }, None)
}

/// How long the log must live from `now`: until its last entry ends. `None`, for ever, when that is beyond the end of time.
pub(crate) fn time_to_live(verdict: &LoggedVerdict, now: Timestamp) -> Option<Duration> {
    life(now, verdict.skew_us + verdict.reset_us)
}

const NAME: &str = "sliding_log";

static SCRIPT: Script = Script { name: NAME, source: include_str!("sliding_log.lua") };

impl Procedure for TakeLogged {
    type Output = LoggedVerdict;

    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<LoggedVerdict>, Undecodable> {
        step(NAME, state, schema::decode_state, |log| {
            let (verdict, log) = decide(&self.limit, &log.unwrap_or_default(), now, self.cost);
            let written = log.map(|log| (schema::encode_state(&log), time_to_live(&verdict, now)));
            (verdict, written)
        })
    }

    fn encode_output(&self, output: &LoggedVerdict, out: &mut OutputBytes) {
        out.extend_from_slice(&schema::encode_verdict(output));
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<LoggedVerdict, Undecodable> {
        schema::decode_verdict(bytes).ok_or(Undecodable { procedure: NAME, what: "output" })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        out.extend_from_slice(&self.limit.window_us().to_be_bytes());
        out.extend_from_slice(&self.limit.limit().to_be_bytes());
        out.extend_from_slice(&self.cost.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "sliding_log_tests.rs"]
mod tests;
