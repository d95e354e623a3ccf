//! The fixed window as a [`Procedure`]; `fixed_window.lua` beside it is its twin, line for line.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, Step, Timestamp, Undecodable};

use crate::model::{Decision, FixedWindow, Outcome};
use crate::procedure::{life, step};
use crate::schema::fixed_window::{self as schema, State};

/// Takes `cost` from a window, if it has as much left; a cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is. An absent state is a window that nobody used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeFixed {
    limit: FixedWindow,
    cost: u32,
}

/// What [`TakeFixed`] found, before it is put into the numbers of a [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedVerdict {
    pub(crate) allowed: bool,
    /// By how much the stored time is ahead of `now`: the clock has gone back.
    pub(crate) skew_us: u64,
    /// How far into the window it is.
    pub(crate) into_us: u64,
    /// What the window has admitted, after this decision.
    pub(crate) count: u32,
}

impl TakeFixed {
    /// Takes `cost` from the window of a key.
    pub const fn new(limit: FixedWindow, cost: u32) -> Self {
        Self { limit, cost }
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &FixedVerdict) -> Decision {
        let limit = self.limit.limit();
        let ends_us = verdict.skew_us + self.limit.window_us().saturating_sub(verdict.into_us);
        let outcome = Outcome::of(self.cost, limit, verdict.allowed, || ends_us);
        let reset_us = if verdict.count == 0 { 0 } else { ends_us };
        Decision::new(outcome, limit, limit.saturating_sub(verdict.count), reset_us)
    }
}

/// Decides on `cost` at `now`: the verdict, and the state to write if it changed.
#[inline]
pub(crate) fn decide(
    limit: &FixedWindow,
    state: Option<State>,
    now: Timestamp,
    cost: u32,
) -> (FixedVerdict, Option<State>) {
    let now_us = now.as_micros();
    // A clock that has gone back gives nothing: time stands still until it has caught up.
    let at_us = state.map_or(now_us, |state| state.at_us.max(now_us));
    let into_us = at_us % limit.window_us();
    let used = state.filter(|state| at_us - state.at_us <= into_us).map_or(0, |state| state.count);
    // A count from before the limit was lowered may be above it.
    let allowed = cost == 0 || u64::from(used) + u64::from(cost) <= u64::from(limit.limit());
    let count = if allowed { used + cost } else { used };
    let verdict = FixedVerdict { allowed, skew_us: at_us - now_us, into_us, count };
    (verdict, (allowed && cost > 0).then_some(State { at_us, count }))
}

/// How long the state must live from `now`: until the window ends. `None`, for ever, when that is beyond the end of time.
#[inline]
pub(crate) fn time_to_live(limit: &FixedWindow, verdict: &FixedVerdict, now: Timestamp) -> Option<Duration> {
    life(now, verdict.skew_us + (limit.window_us() - verdict.into_us))
}

const NAME: &str = "fixed_window";

static SCRIPT: Script = Script { name: NAME, source: include_str!("fixed_window.lua") };

impl Procedure for TakeFixed {
    type Output = FixedVerdict;

    fn name(&self) -> &'static str {
        NAME
    }

    #[inline]
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<FixedVerdict>, Undecodable> {
        step(NAME, state, schema::decode_state, |state| {
            let (verdict, state) = decide(&self.limit, state, now, self.cost);
            let encode = |state| StateBytes::from_slice(&schema::encode_state(&state));
            let written = state.map(|state| (encode(state), time_to_live(&self.limit, &verdict, now)));
            (verdict, written)
        })
    }

    #[inline]
    fn encode_output(&self, output: &FixedVerdict, out: &mut OutputBytes) {
        out.extend_from_slice(&schema::encode_verdict(output));
    }

    #[inline]
    fn decode_output(&self, bytes: &[u8]) -> Result<FixedVerdict, Undecodable> {
        let verdict = schema::decode_verdict(bytes).filter(|verdict| verdict.into_us < self.limit.window_us());
        verdict.ok_or(Undecodable { procedure: NAME, what: "output" })
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
#[path = "fixed_window_tests.rs"]
mod tests;
