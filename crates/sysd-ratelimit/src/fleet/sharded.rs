//! Sharded: one key's bucket cut into several, for a key that is hotter than one record bears.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use sysd_core::entropy::below;
use sysd_core::tuple::{self, Element as _, KeyBytes};
use sysd_core::{
    Clock, Effect, Entropy, Error, ErrorKind, FastClock, Key, Procedure, Result, Store, StoreExt as _, SystemEntropy,
    timeout,
};

use super::gather::{Gather, Next, Part, enough_after};
use super::meter::Meter;
use super::{CALL_WAIT_MAX, StoreCall, counted, micros};
use crate::error::RateLimitError;
use crate::model::{Decision, Outcome, Rate, Rule, Span, TokenBucket};
use crate::procedure::{GiveAll, TakeAll};
use crate::schema;
use crate::service::partition;
use crate::untold::{Untold, UntoldError, What};

/// The most shards of a [`ShardedLimiter`].
pub const SHARDS_MAX: u32 = 64;

/// Two requests that were in each other's way come again this far apart, on average, times how long each took.
const APART: u32 = 4;

/// However quick they were: about a round trip.
const APART_MIN: Duration = Duration::from_millis(1);

/// What a shard is called as the rule of its record.
const RULE: &str = "shard";

/// A token bucket a key, cut into shards that lie in records, and so on nodes, of their own.
///
/// A request takes from one shard, chosen at random. Where that has too little, it looks at all others, and gathers its cost from the
/// fullest: from one alone if one has it, else parts from several, and what it can't use it gives back to the shards that gave it. So a key
/// is decided as fast as all nodes together are, and what some shards have too little others have for them.
///
/// ```
/// use sysd_ratelimit::{ShardedLimiter, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let bucket = TokenBucket::new("100000/s".parse()?, 1_000)?;
/// let limiter = ShardedLimiter::new(Memory::new(), "everybody", bucket, 8)?;
/// assert!(limiter.check("all", 1).await?.is_allowed());
/// // Each of the eight holds 125.
/// assert!(limiter.check("all", 900).await?.is_allowed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - **Never more**: bursts and rates of the shards add up to those of the bucket, exactly. A token that is admitted was taken from its
///   shard before, and none is put where it did not come from. So all processes together are granted what the bucket grants, and no more, also
///   where replies are lost and processes die between two shards: that loses tokens.
/// - **Seldom less**: where nobody else asks at that moment and all shards answer, a request is denied only if fewer whole tokens than it
///   costs are in all shards together. Up to a token a shard is in parts that can't be used yet, so a bucket in one record would have
///   had at most as many tokens more as there are shards. Requests that gather at the same time may deny one another, for a moment; each
///   is told to come again at another time, by chance, so they don't for ever. A
///   shard that is full gains nothing while others are not; a key that is asked for more than it has is taken from in all of its
///   shards, so none stays full.
/// - **Never late.** A decision waits no longer than [its deadline](Self::with_deadline), however many shards hang, and as long again where
///   parts are to be given back.
/// - The number of shards is a part of the key: with another number the key begins anew.
///
/// # A store that is slow or down
/// On a store in the layers `Timeout` and `Breaker` requests end at once while the breaker is open, [`Unavailable`](ErrorKind::Unavailable) without effect: the example of
/// [`fleet`](super). The layer's timeout is to be no longer than a quarter of the deadline.
#[derive(Debug, Clone)]
pub struct ShardedLimiter<S, E = SystemEntropy, C = FastClock> {
    store: S,
    entropy: E,
    clock: C,
    deadline: Duration,
    prefix: KeyBytes,
    bucket: TokenBucket,
    shards: Vec<Shard>,
    untold: Arc<Untold>,
    meter: Arc<Meter>,
}

#[derive(Debug, Clone)]
struct Shard {
    bucket: TokenBucket,
    rule: Rule,
}

/// What a shard answered.
#[derive(Debug)]
struct Answer {
    at: usize,
    decision: Decision,
    /// What it is short of full.
    debt: Span,
    /// By how much its time is ahead.
    skew_us: u64,
    /// Of a take.
    give: Option<GiveAll>,
}

impl<S: Store> ShardedLimiter<S> {
    /// The limiter `name` on `store`.
    ///
    /// # Errors
    /// [`RateLimitError::Shards`] for no shards, more than [`SHARDS_MAX`], or more than the burst;
    /// [`RateLimitError::BurstTooLarge`] if a shard would need longer than [`MAX_REFILL`](crate::MAX_REFILL) to fill,
    /// [`RateLimitError::RatePeriod`] if it would need as long for one token.
    pub fn new(store: S, name: &str, bucket: TokenBucket, shards: u32) -> Result<Self, RateLimitError> {
        Self::with_entropy(store, name, bucket, shards, SystemEntropy)
    }
}

impl<S: Store, E: Entropy> ShardedLimiter<S, E> {
    /// The same, choosing shards by `entropy`.
    ///
    /// # Errors
    /// As [`ShardedLimiter::new`].
    pub fn with_entropy(
        store: S,
        name: &str,
        bucket: TokenBucket,
        shards: u32,
        entropy: E,
    ) -> Result<Self, RateLimitError> {
        let shards = cut(&bucket, shards)?;
        // The number of shards tells the keys of one cut from those of another.
        let prefix = tuple::encode(&(name, shards.len() as u64));
        let untold = Arc::new(Untold::new(What::Shard, name));
        let meter = Arc::new(Meter::new("sharded", name));
        let (clock, deadline) = (FastClock::new(), CALL_WAIT_MAX);
        Ok(Self { store, entropy, clock, deadline, prefix, bucket, shards, untold, meter })
    }
}

impl<S: Store, E: Entropy, C: Clock> ShardedLimiter<S, E, C> {
    /// The same, waiting by `clock`; without it by one of real time.
    #[must_use]
    pub fn with_clock<D: Clock>(self, clock: D) -> ShardedLimiter<S, E, D> {
        let Self { store, entropy, clock: _, deadline, prefix, bucket, shards, untold, meter } = self;
        ShardedLimiter { store, entropy, clock, deadline, prefix, bucket, shards, untold, meter }
    }

    /// How long a decision waits for all of its shards together, and again where it is to give parts back: without it a second, as
    /// [`call_wait_max`](super::LeaseConfig::call_wait_max) of the other modes.
    ///
    /// The shard that is chosen may take all of it; each later step half of what is left, so that one that hangs leaves the others time to decide.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The bucket that the shards make together.
    pub fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    /// The most that can be taken at once: the burst.
    pub fn limit(&self) -> u32 {
        self.bucket.burst()
    }

    /// The last error of a shard that no request ended in: one that could not be looked at, or did not give its part, counts as
    /// empty; one that did not take its part back has lost it.
    pub fn last_error(&self) -> Option<UntoldError> {
        self.untold.last()
    }

    /// Takes `cost` for `key` from its shards; a cost of zero looks at all.
    ///
    /// A cost above [`limit`](Self::limit) is never allowed, which needs no store: then `remaining` is zero. `remaining` and `reset_after` are
    /// those of the shards that were asked: of a denial and of a look all, of a request that one shard admitted that one, so there is at
    /// least so much. `retry_after` is when all together have enough: who waits so long is admitted, if nobody else takes any. Where others were
    /// in the way it is longer, by chance, up to eight times as long as this request took, but a millisecond at least and the deadline at most.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), of the shard that was chosen; of another one if those that answered could
    /// never have the cost: its effect is unknown where parts were taken, or may have been, and are not given back. Other errors of shards end no
    /// request: they are told by [`last_error`](Self::last_error) and counted. A shard that
    /// does not answer within the [deadline](Self::with_deadline) is such an error, [`Timeout`](sysd_core::ErrorKind::Timeout): an outage
    /// ([`is_outage`](crate::is_outage)), so whoever calls lets the route's choice decide.
    ///
    /// # Cost
    /// An update; where that shard has too little, a look at each other in one round trip, and one at which parts are taken, at most three
    /// times; where others were faster then, one more to give back and one to look again. So a request that is denied asks all shards.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the cost, a part of it or nothing; it never gives.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let answer = self.decide(partition(&self.prefix, key), cost).await;
        self.meter.count(&answer);
        answer
    }

    async fn decide(&self, prefix: KeyBytes, cost: u32) -> Result<Decision> {
        if cost > self.limit() {
            return Ok(Decision::new(Outcome::NeverAllowed, self.limit(), 0, 0));
        }
        let begun = self.clock.steady();
        let mut known = None;
        #[allow(clippy::cast_possible_truncation, reason = "at most 64 shards")]
        let at = (self.entropy.next_u64() % self.shards.len() as u64) as usize;
        // What it can never have alone it is not asked for.
        if (1..=self.shards[at].bucket.burst()).contains(&cost) {
            let answer = self.take(&prefix, at, cost, self.deadline).await?;
            if answer.decision.is_allowed() {
                return Ok(self.told(Outcome::Allowed, &[answer]));
            }
            known = Some(answer);
        }
        let (seen, error) = self.look(&prefix, known, self.left(begun) / 2).await;
        match error {
            Some(error) if seen.is_empty() => Err(error),
            _ if cost == 0 => Ok(self.told(Outcome::Allowed, &seen)),
            error => self.gather(&prefix, cost, begun, seen, error).await,
        }
    }

    /// What is left of a deadline since then.
    fn left(&self, begun: Duration) -> Duration {
        self.deadline.saturating_sub(self.clock.steady().saturating_sub(begun))
    }

    /// Asks a shard, once, and waits so long.
    async fn ask<P: Procedure>(
        &self,
        prefix: &KeyBytes,
        at: usize,
        procedure: &P,
        what: StoreCall,
        wait: Duration,
    ) -> Result<P::Output> {
        if wait.is_zero() {
            let message = "not asked: the decision's time was over";
            return Err(Error::new(ErrorKind::Timeout, Effect::None, message));
        }
        let mut partition = KeyBytes::from_slice(prefix);
        (at as u64).encode_to(&mut partition);
        let call = self.store.run(Key::lone(schema::SHARDS, &partition), procedure);
        let call = timeout(&self.clock, wait, call).map(|answer| {
            answer.unwrap_or_else(|_| {
                // A look writes nothing.
                let effect = if what == StoreCall::Look { Effect::None } else { Effect::Unknown };
                Err(Error::new(ErrorKind::Timeout, effect, "a shard did not answer within the deadline"))
            })
        });
        counted(&self.clock, &self.meter, what, call).await
    }

    async fn take(&self, prefix: &KeyBytes, at: usize, cost: u32, wait: Duration) -> Result<Answer> {
        let take = TakeAll::new([(&self.shards[at].rule, cost)]);
        let verdict = self.ask(prefix, at, &take, StoreCall::of(cost), wait).await?;
        let (debt, skew_us) = verdict.first().map_or((Span::ZERO, 0), |first| (first.debt(), first.skew_us()));
        let decision = *take.decision(&verdict).decision();
        Ok(Answer { at, decision, debt, skew_us, give: GiveAll::of(&take, &verdict) })
    }

    /// Once: a second that follows a lost reply would give what was never taken. Whether it was given back.
    async fn give(&self, prefix: &KeyBytes, at: usize, give: &GiveAll, wait: Duration) -> bool {
        let given = self.ask(prefix, at, give, StoreCall::Give, wait).await;
        if let Err(error) = &given {
            self.untold.note(error);
        }
        given.is_ok()
    }

    /// Looks at all shards but the one that is known: what is known of those that answered in time, and the last error.
    async fn look(&self, prefix: &KeyBytes, known: Option<Answer>, wait: Duration) -> (Vec<Answer>, Option<Error>) {
        let known_at = known.as_ref().map(|known| known.at);
        let others = (0..self.shards.len()).filter(|at| known_at != Some(*at));
        let looks = join_all(others.map(|at| self.take(prefix, at, 0, wait))).await;
        let mut seen: Vec<_> = known.into_iter().collect();
        let mut error = None;
        for look in looks {
            match look {
                Ok(answer) => seen.push(answer),
                Err(failed) => {
                    self.untold.note(&failed);
                    error = Some(failed);
                }
            }
        }
        (seen, error)
    }

    /// Takes parts of several shards, as they were seen to have them; gives back what is not enough. `error` is why not all were seen.
    async fn gather(
        &self,
        prefix: &KeyBytes,
        cost: u32,
        begun: Duration,
        seen: Vec<Answer>,
        mut error: Option<Error>,
    ) -> Result<Decision> {
        let level = |answer: &Answer| Part { at: answer.at, tokens: answer.decision.remaining() };
        let mut gather = Gather::new(cost, seen.iter().map(level));
        let mut taken = Vec::new();
        let (mut has_asked, mut may_be_lost) = (false, false);
        loop {
            match gather.next() {
                Next::Admit => return Ok(self.told(Outcome::Allowed, &taken)),
                Next::GiveUp => break,
                Next::Take(parts) => {
                    has_asked = true;
                    let wait = self.left(begun) / 2;
                    let calls = parts.iter().map(|part| self.take(prefix, part.at, part.tokens, wait));
                    for (part, answer) in parts.iter().zip(join_all(calls).await) {
                        match answer {
                            Ok(answer) if answer.decision.is_allowed() => {
                                gather.took(*part, answer.decision.remaining());
                                taken.push(answer);
                            }
                            Ok(answer) => gather.had_less(*part, answer.decision.remaining()),
                            Err(failed) => {
                                self.untold.note(&failed);
                                gather.failed(*part);
                                may_be_lost |= failed.effect() == Effect::Unknown;
                                error = Some(failed);
                            }
                        }
                    }
                }
            }
        }
        if !has_asked {
            return self.denied(cost, &seen, error, 0);
        }
        // Others were in the way, or a shard failed. What they and this one gave back counts again, as far as it is there by now.
        let undoing = self.clock.steady();
        let wait = self.left(undoing) / 2;
        let gives = taken.iter().filter_map(|answer| Some(self.give(prefix, answer.at, answer.give.as_ref()?, wait)));
        may_be_lost |= join_all(gives).await.contains(&false);
        let (seen, failed) = self.look(prefix, None, self.left(undoing)).await;
        let apart_us = self.apart_us(self.clock.steady().saturating_sub(begun));
        // That something may have happened says more than that nothing did.
        let error = error.filter(|error| error.effect() == Effect::Unknown || failed.is_none()).or(failed);
        // Whichever of them failed: tokens of the request's are gone, or may be.
        let error = error.map(|error| error.after_part(may_be_lost));
        self.denied(cost, &seen, error, apart_us)
    }

    /// By how much longer one waits that took so long and met others: they would meet again, if all waited for the same tokens.
    fn apart_us(&self, took: Duration) -> u64 {
        let most = took.saturating_mul(2 * APART).min(self.deadline).max(APART_MIN);
        below(&self.entropy, micros(most))
    }

    /// Of these shards, told as the key's.
    fn told(&self, outcome: Outcome, answers: &[Answer]) -> Decision {
        // Of one that gave several parts the last says what is there.
        let is_last = |place: usize| answers[place + 1..].iter().all(|later| later.at != answers[place].at);
        let last = answers.iter().enumerate().filter(|(place, _)| is_last(*place)).map(|(_, answer)| answer);
        let remaining: u64 = last.map(|answer| u64::from(answer.decision.remaining())).sum();
        let reset_us = answers.iter().map(|answer| micros(answer.decision.reset_after())).max().unwrap_or(0);
        // Shards add up to the burst.
        let remaining = u32::try_from(remaining).unwrap_or(u32::MAX).min(self.limit());
        Decision::new(outcome, self.limit(), remaining, reset_us)
    }

    /// `apart_us` later than there is enough.
    fn denied(&self, cost: u32, seen: &[Answer], error: Option<Error>, apart_us: u64) -> Result<Decision> {
        let tokens_after = |us: u64| {
            let of = |answer: &Answer| {
                let debt = answer.debt.minus_us(us.saturating_sub(answer.skew_us));
                u64::from(self.shards[answer.at].bucket.tokens_left(debt))
            };
            seen.iter().map(of).sum::<u64>()
        };
        let full_us = seen.iter().map(|answer| answer.skew_us.saturating_add(answer.debt.ceil_us())).max().unwrap_or(0);
        let Some(retry_us) = enough_after(cost, full_us, tokens_after) else {
            // All of them together hold the cost, so some did not answer.
            return error.map_or_else(|| Ok(self.told(Outcome::NeverAllowed, seen)), Err);
        };
        // Others may have given back by now: at once is not said.
        let retry_after = Duration::from_micros(retry_us.max(1).saturating_add(apart_us));
        Ok(self.told(Outcome::Denied { retry_after }, seen))
    }
}

/// Bursts and rates that add up to the bucket's; the last shard is the smallest.
fn cut(bucket: &TokenBucket, shards: u32) -> Result<Vec<Shard>, RateLimitError> {
    let burst = bucket.burst();
    if shards == 0 || shards > SHARDS_MAX || shards > burst {
        return Err(RateLimitError::Shards { shards, burst });
    }
    let rate = Rate::new(bucket.rate().count(), bucket.rate().period().saturating_mul(shards))?;
    let shard = |at| {
        let bucket = TokenBucket::new(rate, burst / shards + u32::from(at < burst % shards))?;
        Ok(Shard { bucket, rule: Rule::new(RULE, bucket)? })
    };
    (0..shards).map(shard).collect()
}
