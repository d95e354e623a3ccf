//! How a rule is charged unconditionally; `charging.lua` beside it is its twin.
//!
//! What work has cost must be counted, whether there was as much or not. A bucket's debt then exceeds what it holds, a window's count
//! its limit: time repays it as it repays all, and until then nothing is admitted.

use std::time::Duration;

use sysd_core::{Procedure as _, StateBytes, StateChange, Timestamp, Undecodable};

use super::rules::Asked;
use super::token_bucket::time_to_live;
use crate::algorithm::Algorithm as _;
use crate::model::{SLIDING_LOG_MAX, Span, TokenBucket};
use crate::schema::sliding_log;
use crate::schema::token_bucket::{self, BucketState, MAX_REFILL_US};

/// What is charged beyond what was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Price(Span),
    Cost(u32),
}

/// The new state and how long it lives; `None` if nothing is changed.
pub(super) type Charged = Option<(StateBytes, Option<Duration>)>;

/// Charges a rule whose state this is.
///
/// A debt is at most 100 years, a count what its counter holds. A log notes at most 1,000 at one time and 1,000 entries, and a window
/// of the calendar of which nothing is known counts nothing: both admit nothing anyway.
pub(super) fn charge(
    asked: &Asked,
    state: Option<&[u8]>,
    extra: Extra,
    now: Timestamp,
) -> Result<Charged, Undecodable> {
    let look = asked.limit.take(0).apply(state, now)?.output;
    let cost = match extra {
        Extra::Price(price) => {
            let denominator = asked.limit.as_bucket().map_or(1, TokenBucket::denominator);
            let debt = look.debt().plus(price, denominator).min(Span { us: MAX_REFILL_US, part: 0 });
            let state = BucketState { at_us: now.as_micros() + look.skew_us(), debt, denominator };
            let bytes = StateBytes::from_slice(&token_bucket::encode_state(&state));
            return Ok(Some((bytes, time_to_live(&state, now))));
        }
        Extra::Cost(cost) if asked.limit.code() == 5 => {
            let log = state.and_then(sliding_log::decode_state).unwrap_or_default();
            let noted = log.last().filter(|last| last.at_us >= now.as_micros()).map_or(0, |last| last.cost);
            cost.min(SLIDING_LOG_MAX - noted)
        }
        Extra::Cost(cost) => cost.min(u32::MAX - look.counted()),
    };
    if cost == 0 {
        return Ok(None);
    }
    match asked.limit.unlimited().take(cost).apply(state, now)?.change {
        StateChange::Put { state, ttl } if asked.limit.code() != 5 || state.len() <= sliding_log::STATE_BYTES_MAX => {
            Ok(Some((state, ttl)))
        }
        _ => Ok(None),
    }
}
