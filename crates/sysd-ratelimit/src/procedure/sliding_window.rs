//! The sliding-window counter as a [`Procedure`]; `sliding_window.lua` beside it is its twin, line for line.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, Step, Timestamp, Undecodable};

use crate::model::{Decision, Outcome, SlidingWindow};
use crate::procedure::{life, step};
use crate::schema::sliding_window::{self as schema, State};

/// Takes `cost` from a sliding window, if it has as much left; a cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is. An absent state is a window that nobody used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeSliding {
    limit: SlidingWindow,
    cost: u32,
}

/// What [`TakeSliding`] found, before it is put into the numbers of a [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlidingVerdict {
    pub(crate) allowed: bool,
    /// By how much the stored time is ahead of `now`: the clock has gone back.
    pub(crate) skew_us: u64,
    /// How far into the clock's window it is.
    pub(crate) into_us: u64,
    /// What the clock's window has admitted, after this decision.
    pub(crate) current: u32,
    /// What the one before had.
    pub(crate) previous: u32,
}

/// How many steps of the window before the sliding window still covers: at least one.
#[inline]
fn steps_left(limit: &SlidingWindow, into_us: u64) -> u64 {
    (limit.window_us() - into_us).div_ceil(limit.step_us())
}

impl TakeSliding {
    /// Takes `cost` from the sliding window of a key.
    pub const fn new(limit: SlidingWindow, cost: u32) -> Self {
        Self { limit, cost }
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &SlidingVerdict) -> Decision {
        let limit = self.limit.limit();
        let outcome = Outcome::of(self.cost, limit, verdict.allowed, || verdict.skew_us + self.wait_us(verdict));
        let steps = self.limit.steps();
        let room = u64::from(limit) * steps;
        let covered = u64::from(verdict.previous) * steps_left(&self.limit, verdict.into_us);
        let free = room.saturating_sub(covered) / steps;
        let remaining = u32::try_from(free).unwrap_or(limit).saturating_sub(verdict.current);
        let ends_us = self.limit.window_us() - verdict.into_us;
        let reset_us = match (verdict.current, verdict.previous) {
            (0, 0) => 0,
            (0, _) => verdict.skew_us + ends_us,
            _ => verdict.skew_us + ends_us + self.limit.window_us(),
        };
        Decision::new(outcome, limit, remaining, reset_us)
    }

    /// How long until there is room: in this window of the clock, in the next, or in the one after, when all is forgotten.
    fn wait_us(&self, verdict: &SlidingVerdict) -> u64 {
        let window_us = self.limit.window_us();
        let ends_us = window_us - verdict.into_us;
        // When so many of the window before may still be covered.
        let covered_at = |room: u64, before: u32| match (room * self.limit.steps()).checked_div(u64::from(before)) {
            None => Some(0),
            Some(0) => None,
            Some(steps) => Some(window_us.saturating_sub(steps * self.limit.step_us())),
        };
        let (limit, cost) = (u64::from(self.limit.limit()), u64::from(self.cost));
        let now = limit.checked_sub(u64::from(verdict.current) + cost);
        if let Some(into_us) = now.and_then(|room| covered_at(room, verdict.previous)) {
            return into_us.saturating_sub(verdict.into_us);
        }
        match limit.checked_sub(cost).and_then(|room| covered_at(room, verdict.current)) {
            Some(into_us) => ends_us + into_us,
            None => ends_us + window_us,
        }
    }
}

/// Decides on `cost` at `now`: the verdict, and the state to write if it changed.
#[inline]
pub(crate) fn decide(
    limit: &SlidingWindow,
    state: Option<State>,
    now: Timestamp,
    cost: u32,
) -> (SlidingVerdict, Option<State>) {
    let now_us = now.as_micros();
    // A clock that has gone back gives nothing: time stands still until it has caught up.
    let at_us = state.map_or(now_us, |state| state.at_us.max(now_us));
    let into_us = at_us % limit.window_us();
    let (used, previous) = match state {
        Some(state) if at_us - state.at_us <= into_us => (state.current, state.previous),
        Some(state) if at_us - state.at_us <= into_us + limit.window_us() => (0, state.current),
        _ => (0, 0),
    };
    let covered = u64::from(previous) * steps_left(limit, into_us);
    let taken = (u64::from(used) + u64::from(cost)) * limit.steps() + covered;
    let allowed = cost == 0 || taken <= u64::from(limit.limit()) * limit.steps();
    let current = if allowed { used + cost } else { used };
    let verdict = SlidingVerdict { allowed, skew_us: at_us - now_us, into_us, current, previous };
    (verdict, (allowed && cost > 0).then_some(State { at_us, current, previous }))
}

/// How long the state must live from `now`: until the next window of the clock ends. `None`, for ever, when that is beyond the
/// end of time.
#[inline]
pub(crate) fn time_to_live(limit: &SlidingWindow, verdict: &SlidingVerdict, now: Timestamp) -> Option<Duration> {
    life(now, verdict.skew_us + (limit.window_us() - verdict.into_us) + limit.window_us())
}

const NAME: &str = "sliding_window";

static SCRIPT: Script = Script { name: NAME, source: include_str!("sliding_window.lua") };

impl Procedure for TakeSliding {
    type Output = SlidingVerdict;

    fn name(&self) -> &'static str {
        NAME
    }

    #[inline]
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<SlidingVerdict>, Undecodable> {
        step(NAME, state, schema::decode_state, |state| {
            let (verdict, state) = decide(&self.limit, state, now, self.cost);
            let encode = |state| StateBytes::from_slice(&schema::encode_state(&state));
            let written = state.map(|state| (encode(state), time_to_live(&self.limit, &verdict, now)));
            (verdict, written)
        })
    }

    #[inline]
    fn encode_output(&self, output: &SlidingVerdict, out: &mut OutputBytes) {
        out.extend_from_slice(&schema::encode_verdict(output));
    }

    #[inline]
    fn decode_output(&self, bytes: &[u8]) -> Result<SlidingVerdict, Undecodable> {
        let verdict = schema::decode_verdict(bytes).filter(|verdict| verdict.into_us < self.limit.window_us());
        verdict.ok_or(Undecodable { procedure: NAME, what: "output" })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        for number in [self.limit.window_us(), self.limit.step_us(), self.limit.steps()] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.limit.limit().to_be_bytes());
        out.extend_from_slice(&self.cost.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "sliding_window_tests.rs"]
mod tests;
