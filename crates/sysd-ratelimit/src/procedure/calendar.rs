//! The calendar's window as a [`Procedure`]; `calendar.lua` beside it is its twin, line for line. Its state is a fixed window's.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, Step, Timestamp, Undecodable};

use crate::model::{CalendarSpan, Decision, Outcome};
use crate::procedure::{life, step};
use crate::schema::fixed_window::{self as schema, State};

/// Takes `cost` from a window of the calendar, if it has as much left; a cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is. An absent state is a window that nobody used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeCalendar {
    span: CalendarSpan,
    cost: u32,
}

/// What [`TakeCalendar`] found, before it is put into the numbers of a [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CalendarVerdict {
    pub(crate) allowed: bool,
    /// By how much the stored time is ahead of `now`: the clock has gone back.
    pub(crate) skew_us: u64,
    /// How long until the window ends.
    pub(crate) left_us: u64,
    /// What the window has admitted, after this decision.
    pub(crate) count: u32,
}

impl TakeCalendar {
    /// Takes `cost` from the window of a key.
    pub const fn new(span: CalendarSpan, cost: u32) -> Self {
        Self { span, cost }
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &CalendarVerdict) -> Decision {
        let limit = self.span.limit();
        let ends_us = verdict.skew_us + verdict.left_us;
        let outcome = Outcome::of(self.cost, limit, verdict.allowed, || ends_us);
        let reset_us = if verdict.count == 0 { 0 } else { ends_us };
        Decision::new(outcome, limit, limit.saturating_sub(verdict.count), reset_us)
    }
}

/// Decides on `cost` at `now`: the verdict, and the state to write if it changed.
#[inline]
pub(crate) fn decide(
    span: &CalendarSpan,
    state: Option<State>,
    now: Timestamp,
    cost: u32,
) -> (CalendarVerdict, Option<State>) {
    let now_us = now.as_micros();
    // A clock that has gone back gives nothing: time stands still until it has caught up.
    let at_us = state.map_or(now_us, |state| state.at_us.max(now_us));
    let skew_us = at_us - now_us;
    let Some((begin_us, end_us)) = span.around(at_us) else {
        // Nothing is known of this time: as if its window were used up, and as long as the first that is known.
        let [first_us, second_us, ..] = span.bounds_us();
        let left_us = (second_us - first_us).max(1);
        return (CalendarVerdict { allowed: cost == 0, skew_us, left_us, count: span.limit() }, None);
    };
    let used = state.filter(|state| state.at_us >= begin_us).map_or(0, |state| state.count);
    // A count from before the limit was lowered may be above it.
    let allowed = cost == 0 || u64::from(used) + u64::from(cost) <= u64::from(span.limit());
    let count = if allowed { used + cost } else { used };
    let verdict = CalendarVerdict { allowed, skew_us, left_us: end_us - at_us, count };
    (verdict, (allowed && cost > 0).then_some(State { at_us, count }))
}

/// How long the state must live from `now`: until the window ends. `None`, for ever, when that is beyond the end of time.
#[inline]
pub(crate) fn time_to_live(verdict: &CalendarVerdict, now: Timestamp) -> Option<Duration> {
    life(now, verdict.skew_us + verdict.left_us)
}

const NAME: &str = "calendar";
const VERDICT_BYTES: usize = 21;

static SCRIPT: Script = Script { name: NAME, source: include_str!("calendar.lua") };

impl Procedure for TakeCalendar {
    type Output = CalendarVerdict;

    fn name(&self) -> &'static str {
        NAME
    }

    #[inline]
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<CalendarVerdict>, Undecodable> {
        step(NAME, state, schema::decode_state, |state| {
            let (verdict, state) = decide(&self.span, state, now, self.cost);
            let encode = |state| StateBytes::from_slice(&schema::encode_state(&state));
            let written = state.map(|state| (encode(state), time_to_live(&verdict, now)));
            (verdict, written)
        })
    }

    #[inline]
    fn encode_output(&self, output: &CalendarVerdict, out: &mut OutputBytes) {
        out.push(u8::from(output.allowed));
        out.extend_from_slice(&output.skew_us.to_be_bytes());
        out.extend_from_slice(&output.left_us.to_be_bytes());
        out.extend_from_slice(&output.count.to_be_bytes());
    }

    #[inline]
    fn decode_output(&self, bytes: &[u8]) -> Result<CalendarVerdict, Undecodable> {
        let decode = |bytes: &[u8; VERDICT_BYTES]| {
            let (allowed, rest) = bytes.split_first()?;
            let (skew, rest) = rest.split_first_chunk()?;
            let (left, count) = rest.split_first_chunk()?;
            let verdict = CalendarVerdict {
                allowed: *allowed == 1,
                skew_us: u64::from_be_bytes(*skew),
                left_us: u64::from_be_bytes(*left),
                count: u32::from_be_bytes(*count.first_chunk()?),
            };
            let last_us = Timestamp::MAX.as_micros();
            (*allowed < 2 && verdict.skew_us <= last_us && verdict.left_us <= last_us).then_some(verdict)
        };
        bytes.try_into().ok().and_then(decode).ok_or(Undecodable { procedure: NAME, what: "output" })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        for bound_us in self.span.bounds_us() {
            out.extend_from_slice(&bound_us.to_be_bytes());
        }
        out.extend_from_slice(&self.span.limit().to_be_bytes());
        out.extend_from_slice(&self.cost.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
