//! The token bucket as a [`Procedure`]; `token_bucket.lua` beside it is its twin, line for line.
//!
//! The state is not how many tokens are left but how long the bucket needs to be full again, its
//! *debt*, at a point in time. Refilling is then to subtract the time that has passed: no product, no
//! quotient, nothing to round. `docs/ratelimit.md` has the argument.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

use crate::model::{Decision, Outcome, Span, TokenBucket};
use crate::schema::token_bucket::{self as schema, BucketState};

/// Takes `cost` tokens from a bucket, if it has as many; a cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is. An absent state is a full bucket, which is
/// why the state may expire as soon as the bucket is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Take {
    bucket: TokenBucket,
    cost: u32,
}

/// What [`Take`] found, before it is put into the numbers of a [`Decision`](crate::Decision).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    pub(crate) allowed: bool,
    /// By how much the stored time is ahead of `now`: the clock has gone back.
    pub(crate) skew_us: u64,
    /// What the bucket is short of full, after this decision.
    pub(crate) debt: Span,
}

impl Take {
    /// Takes `cost` tokens from the bucket of a key.
    pub const fn new(bucket: TokenBucket, cost: u32) -> Self {
        Self { bucket, cost }
    }

    /// The limit.
    pub const fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    /// How many tokens it takes.
    pub const fn cost(&self) -> u32 {
        self.cost
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &Verdict) -> Decision {
        let bucket = &self.bucket;
        let outcome = match bucket.price(self.cost) {
            None => Outcome::NeverAllowed,
            Some(_) if verdict.allowed => Outcome::Allowed,
            Some(price) => {
                let denominator = bucket.denominator();
                let wait = verdict.debt.plus(price, denominator).minus(bucket.capacity(), denominator);
                Outcome::Denied { retry_after: Duration::from_micros(verdict.skew_us.saturating_add(wait.ceil_us())) }
            }
        };
        let reset_us = match verdict.debt.ceil_us() {
            0 => 0,
            debt_us => verdict.skew_us.saturating_add(debt_us),
        };
        Decision::new(outcome, bucket.burst(), bucket.tokens_left(verdict.debt), reset_us)
    }

    /// How long those need that are ahead of what was just taken.
    pub(crate) fn queued_us(&self, verdict: &Verdict) -> u64 {
        let price = self.bucket.price(self.cost).filter(|_| verdict.allowed);
        match price.map(|price| verdict.debt.minus(price, self.bucket.denominator()).ceil_us()) {
            None | Some(0) => 0,
            Some(ahead_us) => verdict.skew_us.saturating_add(ahead_us),
        }
    }
}

/// Decides on `cost` tokens at `now`: the verdict, and the state to write if it changed.
#[inline]
pub(crate) fn decide(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let denominator = bucket.denominator();
    let now_us = now.as_micros();
    let (at_us, debt) = match state {
        None => (now_us, Span::ZERO),
        Some(state) => {
            // A clock that has gone back gives nothing: time stands still until it has caught up.
            let at_us = now_us.max(state.at_us);
            (at_us, state.debt_in(denominator).minus_us(at_us - state.at_us))
        }
    };
    let skew_us = at_us - now_us;
    let looked = |allowed| (Verdict { allowed, skew_us, debt }, None);
    match bucket.price(cost) {
        Some(Span::ZERO) => looked(true),
        None => looked(false),
        Some(price) => {
            let after = debt.plus(price, denominator);
            if after > bucket.capacity() {
                return looked(false);
            }
            let state = BucketState { at_us, debt: after, denominator };
            (Verdict { allowed: true, skew_us, debt: after }, Some(state))
        }
    }
}

/// What a bucket owes that is told by when it is full again, which time alone does not change.
#[inline]
pub(crate) fn owed(full: Span, now: Timestamp) -> Span {
    full.us.checked_sub(now.as_micros()).map_or(Span::ZERO, |us| Span { us, ..full })
}

/// [`decide`] on such a bucket, by a clock that never goes back: the verdict, and when it is full then if that changed.
#[inline]
pub(crate) fn decide_until_full(
    bucket: &TokenBucket,
    full: Span,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<Span>) {
    let state = BucketState { at_us: now.as_micros(), debt: owed(full, now), denominator: bucket.denominator() };
    let (verdict, taken) = decide(bucket, Some(state), now, cost);
    (verdict, taken.map(|state| Span { us: state.at_us.saturating_add(state.debt.us), ..state.debt }))
}

/// How long the state must live from `now`: until the bucket is full. `None`, for ever, when that is
/// beyond the end of time.
#[inline]
pub(crate) fn time_to_live(state: &BucketState, now: Timestamp) -> Option<Duration> {
    let full_at_us = state.at_us.checked_add(state.debt.ceil_us())?;
    let full_at = Timestamp::from_micros(full_at_us).ok()?;
    Some(full_at.saturating_since(now))
}

const NAME: &str = "token_bucket";

static SCRIPT: Script = Script { name: NAME, source: include_str!("token_bucket.lua") };

fn undecodable(what: &'static str) -> Undecodable {
    Undecodable { procedure: NAME, what }
}

impl Procedure for Take {
    type Output = Verdict;

    fn name(&self) -> &'static str {
        NAME
    }

    #[inline]
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<Verdict>, Undecodable> {
        let state = match state {
            None => None,
            Some(bytes) => Some(schema::decode_state(bytes).ok_or_else(|| undecodable("state"))?),
        };
        let (output, state) = decide(&self.bucket, state, now, self.cost);
        let change = match state {
            None => StateChange::Keep,
            Some(state) => StateChange::Put {
                state: StateBytes::from_slice(&schema::encode_state(&state)),
                ttl: time_to_live(&state, now),
            },
        };
        Ok(Step { change, output })
    }

    #[inline]
    fn encode_output(&self, output: &Verdict, out: &mut OutputBytes) {
        out.extend_from_slice(&schema::encode_verdict(output));
    }

    #[inline]
    fn decode_output(&self, bytes: &[u8]) -> Result<Verdict, Undecodable> {
        let verdict = schema::decode_verdict(bytes).filter(|verdict| verdict.debt.part < self.bucket.denominator());
        verdict.ok_or_else(|| undecodable("output"))
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        let capacity = self.bucket.capacity();
        // What the bucket never holds is sent as one microsecond more than it can owe.
        let price = self.bucket.price(self.cost).unwrap_or(Span { us: capacity.us + 1, part: 0 });
        out.extend_from_slice(&schema::encode_arguments(self.bucket.denominator(), capacity, price));
    }
}

#[cfg(test)]
#[path = "token_bucket_tests.rs"]
mod tests;
