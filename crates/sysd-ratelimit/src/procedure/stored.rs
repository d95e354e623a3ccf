//! A store of one record, and the limits that tests put in it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use sysd_core::{Procedure, StateBytes, StateChange, Timestamp};

use crate::algorithm::Limit;
use crate::model::{FixedWindow, LeakyBucket, Rate, SlidingLog, SlidingWindow, TokenBucket};

pub(crate) fn limit(algorithm: usize, count: u32, period_us: u64) -> Limit {
    let rate = Rate::new(count, Duration::from_micros(period_us)).unwrap();
    match algorithm {
        0 => TokenBucket::new(rate, count).unwrap().into(),
        1 => LeakyBucket::new(rate, count).unwrap().into(),
        2 => FixedWindow::new(rate).into(),
        3 => SlidingWindow::new(rate).into(),
        _ => SlidingLog::new(rate).unwrap().into(),
    }
}

/// The record, and when it expires.
pub(crate) type State = Option<(StateBytes, u64)>;

/// What a store does with a procedure.
pub(crate) fn run<P: Procedure>(state: &mut State, procedure: &P, now: Timestamp) -> P::Output {
    if state.as_ref().is_some_and(|&(_, expires_us)| expires_us <= now.as_micros()) {
        *state = None;
    }
    let step = procedure.apply(state.as_ref().map(|(bytes, _)| &bytes[..]), now).unwrap();
    match step.change {
        StateChange::Keep => {}
        StateChange::Delete => *state = None,
        StateChange::Put { state: new, ttl } => {
            let expires_us = ttl.map_or(u64::MAX, |ttl| now.checked_add(ttl).unwrap().as_micros());
            assert!(expires_us > now.as_micros());
            *state = Some((new, expires_us));
        }
    }
    step.output
}
