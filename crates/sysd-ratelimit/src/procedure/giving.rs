//! How what was taken is given back; `giving.lua` beside it is its twin.
//!
//! The rule: what is left when something was given back must admit nothing that would have been denied had it never been
//! taken. What a take still weighs lessens while time goes by, and only that is given back:
//!
//! - A bucket that would be full without the take has nothing to gain from time, so from then on the take weighs less and less. That
//!   is not before the debt which the take found has run down, so the debt right after it, less the time since, is what may be given
//!   back, up to the price. What others were given back meanwhile brings that moment nearer: the record counts it, the verdict
//!   knows what it was then, and the difference is lessened too. Of the price, what exceeds the time since is owed in any case.
//! - A queue has told those behind a place when to go, so only the last place is given back: another one would go at the same time as
//!   somebody else.
//! - A window's count is lowered if it is still the count of the window in which it was taken. One that was cut otherwise since,
//!   by another policy, mostly ends elsewhere: what it counts may not be what was taken. Where it ends at the same moment and has not
//!   counted it, at most the take's cost is admitted too much, once.
//! - A log has the very entry, or has forgotten it.
//!
//! What is left keeps its time, even where it counts nothing: without it a clock that has gone back would find an unused window
//! where others have taken.
//!
//! A state that begins before the take is not the one that was taken from: the store has lost it, and there is nothing to give.

use sysd_core::{StateBytes, Timestamp};

use super::rules::Asked;
use crate::algorithm::AnyVerdict;
use crate::model::Span;
use crate::schema::rules::{Entry, GIVEN_MAX_US};
use crate::schema::taken::{Taken, Weight};
use crate::schema::{fixed_window, sliding_log, sliding_window, token_bucket};

/// The algorithm of a leaky bucket.
const QUEUE: u8 = 2;

/// When a state expires whose last window ends there; zero: never.
fn expiry_us(ends_us: u64) -> u64 {
    if ends_us <= Timestamp::MAX.as_micros() { ends_us } else { 0 }
}

impl Taken {
    /// Of what `asked` took, or a part of it that costs `cost`; `None` if that is nothing.
    pub(super) fn of(asked: &Asked, verdict: &AnyVerdict, cost: u32, now_us: u64, given_us: u64) -> Option<Self> {
        let at_us = now_us + verdict.skew_us();
        let code = asked.limit.code();
        let ends_us = expiry_us(at_us.saturating_add(verdict.left_us(&asked.limit)));
        let weight = match (asked.limit.as_bucket(), code) {
            (Some(bucket), _) => {
                let (denominator, price) = (bucket.denominator(), bucket.price(cost)?);
                Weight::Bucket { denominator, price, debt: verdict.debt(), given_us }
            }
            (None, 4) => Weight::Sliding { ends_us, window_us: asked.limit.window_us() },
            (None, 5) => Weight::Log,
            (None, _) => Weight::Window { ends_us },
        };
        (cost > 0).then_some(Self { id: asked.id, code, cost, at_us, weight })
    }

    /// The part of it that costs so much less, in a window; it is not all.
    pub(super) const fn of_cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    /// The part of it that has this price, in a bucket.
    pub(super) const fn of_price(self, new: Span) -> Self {
        match self.weight {
            Weight::Bucket { denominator, debt, given_us, .. } => {
                Self { weight: Weight::Bucket { denominator, price: new, debt, given_us }, ..self }
            }
            _ => self,
        }
    }
}

/// A state after something was given back to it (empty: it says nothing any more), and what has been given back to a bucket by then;
/// `None` if nothing is changed.
type Given = Option<(StateBytes, u64)>;

/// Gives back as at `moment_us`, before which nobody has asked since; `None` if the state is undecodable.
pub(super) fn give(entry: &Entry<'_>, taken: &Taken, moment_us: u64, now_us: u64) -> Option<Given> {
    match taken.weight {
        Weight::Bucket { denominator, price, debt, given_us } => {
            let state = token_bucket::decode_state(entry.state)?;
            if taken.code == QUEUE && !is_last(&state, taken.at_us, debt, denominator) {
                return Some(None);
            }
            let passed_us = state.at_us.max(moment_us).saturating_sub(taken.at_us);
            let since_us = entry.given_us.checked_sub(given_us).filter(|_| entry.given_us < GIVEN_MAX_US);
            let weighs = since_us.map_or(Span::ZERO, |since_us| debt.minus_us(since_us)).max(price);
            let mut owed = weighs.minus_us(passed_us).min(price);
            if state.denominator != denominator {
                // What is owed was rounded up when the rate changed; this down.
                owed.part = 0;
            }
            if state.at_us < taken.at_us || owed == Span::ZERO {
                return Some(None);
            }
            let debt = state.debt_in(denominator);
            let owed = owed.min(debt);
            let state = token_bucket::BucketState { debt: debt.minus(owed, denominator), denominator, ..state };
            let given_us = entry.given_us.saturating_add(owed.ceil_us()).min(GIVEN_MAX_US);
            Some(Some((StateBytes::from_slice(&token_bucket::encode_state(&state)), given_us)))
        }
        Weight::Window { ends_us } => {
            let state = fixed_window::decode_state(entry.state)?;
            if state.at_us < taken.at_us || entry.expires_us != ends_us {
                return Some(None);
            }
            let state = fixed_window::State { count: state.count.saturating_sub(taken.cost), ..state };
            Some(Some((StateBytes::from_slice(&fixed_window::encode_state(&state)), 0)))
        }
        Weight::Sliding { ends_us, window_us } => {
            let mut state = sliding_window::decode_state(entry.state)?;
            if state.at_us < taken.at_us {
                return Some(None);
            }
            if entry.expires_us == ends_us {
                state.current = state.current.saturating_sub(taken.cost);
            } else if ends_us > 0 && entry.expires_us == expiry_us(ends_us + window_us) {
                state.previous = state.previous.saturating_sub(taken.cost);
            } else {
                return Some(None);
            }
            Some(Some((StateBytes::from_slice(&sliding_window::encode_state(&state)), 0)))
        }
        Weight::Log => to_log(entry, taken, now_us),
    }
}

/// Whether nobody has taken a place behind one after which the debt was that.
fn is_last(state: &token_bucket::BucketState, at_us: u64, debt: Span, denominator: u32) -> bool {
    let until = |at_us: u64, debt: Span| (at_us + debt.us, debt.part);
    state.denominator == denominator && until(state.at_us, state.debt) == until(at_us, debt)
}

fn to_log(entry: &Entry<'_>, taken: &Taken, now_us: u64) -> Option<Given> {
    let mut log = sliding_log::decode_state(entry.state)?;
    let Ok(at) = log.binary_search_by_key(&taken.at_us, |noted| noted.at_us) else { return Some(None) };
    match log[at].cost.checked_sub(taken.cost) {
        // The last entry is the log's time, which a clock that has gone back still needs.
        None | Some(0) if at + 1 == log.len() && taken.at_us > now_us => return Some(None),
        None | Some(0) => drop(log.remove(at)),
        Some(cost) => log[at].cost = cost,
    }
    let state = if log.is_empty() { StateBytes::new() } else { sliding_log::encode_state(&log) };
    Some(Some((state, 0)))
}
