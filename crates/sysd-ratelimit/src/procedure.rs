//! The decisions, pure: they are given the state, the time and the cost.

pub(crate) mod calendar;
pub(crate) mod charging;
pub(crate) mod fixed_window;
pub(crate) mod give;
pub(crate) mod giving;
pub(crate) mod holds;
#[cfg(test)]
mod laws;
pub(crate) mod rules;
pub(crate) mod sliding_log;
pub(crate) mod sliding_window;
pub(crate) mod slots;
#[cfg(test)]
mod stored;
pub(crate) mod token_bucket;

use std::time::Duration;

use sysd_core::{StateBytes, StateChange, Step, Timestamp, Undecodable};

pub use calendar::{CalendarVerdict, TakeCalendar};
pub use fixed_window::{FixedVerdict, TakeFixed};
pub use give::GiveAll;
pub use holds::{AskHolds, HoldAsk, HoldsFound};
pub use rules::{JointVerdict, TakeAll};
pub use sliding_log::{LoggedVerdict, TakeLogged};
pub use sliding_window::{SlidingVerdict, TakeSliding};
pub(crate) use slots::SlotAnswer;
pub use slots::{AskSlots, SlotAsk, SlotsFound};
pub use token_bucket::{Take, Verdict};

/// What is written: the state, and how long it lives.
type Written = (StateBytes, Option<Duration>);

/// Decodes the state, takes from it, and writes what that changed.
#[inline]
fn step<S, V>(
    procedure: &'static str,
    bytes: Option<&[u8]>,
    decode: fn(&[u8]) -> Option<S>,
    take: impl FnOnce(Option<S>) -> (V, Option<Written>),
) -> Result<Step<V>, Undecodable> {
    let undecodable = Undecodable { procedure, what: "state" };
    let state = bytes.map(|bytes| decode(bytes).ok_or(undecodable)).transpose()?;
    let (output, written) = take(state);
    let change = written.map_or(StateChange::Keep, |(state, ttl)| StateChange::Put { state, ttl });
    Ok(Step { change, output })
}

/// A time to live that ends so long after `now`; `None`, for ever, when that is beyond the end of time.
#[inline]
fn life(now: Timestamp, left_us: u64) -> Option<Duration> {
    let left = Duration::from_micros(left_us);
    now.checked_add(left).map(|_| left)
}
