//! Leased: a process takes tokens in batches.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{Either, select};
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Clock, Effect, Error, ErrorKind, FastClock, Key, Result, Store, StoreExt as _};

use super::keeper::{EndedAt, Errors, KeeperError, Kept, Shared, ends_round, share, until_outage};
use super::lease::{Batch, Grant, Lease, Refill, Rest, Said, Terms};
use super::meter::{Meter, Tally};
use super::seat::{Called, Late, Lead, Next, Numbers, Overdue, Place, Seat, Told, Turn};
use super::table::Table;
use super::{CALL_WAIT_MAX, StoreCall, counted, micros, none_is_zero, steady_us, within};
use crate::algorithm::{Algorithm as _, Limit};
use crate::error::RateLimitError;
use crate::joint::is_outage;
use crate::model::{Decision, Outcome, Rule, RuleLimit, Span, TokenBucket};
use crate::procedure::{GiveAll, JointVerdict, TakeAll};
use crate::schema;
use crate::service::partition;

/// So many rests are given back at once.
const GIVES_MAX: usize = 32;

/// How a [`LeasedLimiter`] takes its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The most tokens of a key that a process takes at once. With the number of processes it bounds what they admit beyond the limit.
    pub batch_max: u32,
    /// How long a process keeps what it took and does not use. A busy key asks the store about once in that time.
    pub hold_for: Duration,
    /// The most keys of which a process holds anything, exactly; more are decided by the store. About a kilobyte each, and as much again
    /// for each of up to four batches whose rests wait for the keeper.
    pub keys_max: usize,
    /// How long a request asks the store, all its calls together; then its effect counts as unknown. With what it waits for batches that others
    /// ask for it is three times that at most.
    pub call_wait_max: Duration,
}

impl LeaseConfig {
    /// Batches of at most `batch_max` tokens, held for 100 ms, of up to 100,000 keys.
    pub fn new(batch_max: u32) -> Self {
        Self { batch_max, hold_for: Duration::from_millis(100), keys_max: 100_000, call_wait_max: CALL_WAIT_MAX }
    }
}

/// A limit that a fleet shares, decided within the process from tokens that it took in batches.
///
/// The first requests of a key are decided by the store. While a key uses up its batches within
/// [`hold_for`](LeaseConfig::hold_for), they double, up to [`batch_max`](LeaseConfig::batch_max); what is not used in that
/// time is given back. Requests that come while one asks for a batch wait for it in line, instead of asking
/// the store each. The least cost that was denied is remembered while that lasts, but no longer than `hold_for`, and greater ones are
/// denied with it, so a flood that is over the limit asks the store about once in that time. Of a token bucket it is known when the next token
/// comes: then one request asks for it, and the others are denied at once; so a flood over the limit asks once for each token that comes, one
/// call after the other. What is in hand counts for a greater cost: the store is asked for what that lacks.
///
/// ```
/// use sysd_ratelimit::{LeaseConfig, LeasedLimiter, Rule, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let rule = Rule::new("each client", TokenBucket::new("1000/s".parse()?, 1_000)?)?;
/// let (limiter, keeper) = LeasedLimiter::new(Memory::new(), "api", rule, LeaseConfig::new(100))?;
/// // On a runtime: `tokio::spawn(keeper)`.
/// # drop(keeper);
/// assert!(limiter.check("ann", 1).await?.is_allowed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - **Overshoot.** What is admitted was taken from the limit before. So in any stretch of time for which the rule admits at
///   most `m`, processes `n` admit at most `m + n * batch_max`: the tokens that they held when it began. Nothing is
///   admitted beyond what was taken, ever; in the long run the rate is the limit's.
/// - **Undershoot.** What a process holds others can't use, for at most `hold_for` and until the keeper's next round, which begins
///   as long after the last one ended. What others gave back it sees at most `hold_for` later: for so long it goes by a denial. Giving
///   back is as [`GiveAll`] says: a bucket that would have been full meanwhile gets less.
/// - A process that dies, a future that is dropped, a reply that is lost: tokens are lost and never gained.
///
/// Its states are those of a [`RuleLimiter`](crate::RuleLimiter) of the same name and rule: some processes may lease while
/// others decide centrally.
///
/// # A store that is slow or down
/// What is in hand and what was denied goes on deciding, for [`hold_for`](LeaseConfig::hold_for) at most. On a store in the layers `Timeout` and `Breaker` requests for
/// more end at once while the breaker is open, [`Unavailable`](ErrorKind::Unavailable) without effect, and what is to be given back waits for a store that
/// is well: the example of [`fleet`](super). The layer's timeout is to be no longer than [`call_wait_max`](LeaseConfig::call_wait_max).
#[derive(Debug)]
pub struct LeasedLimiter<S, C = FastClock> {
    shared: Shared<Leased<S, C>>,
}

impl<S, C> Clone for LeasedLimiter<S, C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Leased<S, C> {
    store: S,
    clock: C,
    prefix: KeyBytes,
    rule: Rule,
    /// The most that can be taken at once.
    limit: u32,
    config: LeaseConfig,
    hold_us: u64,
    wait_max_us: u64,
    leases: Table<Seat>,
    numbers: Numbers,
    ended_at: EndedAt,
    errors: Errors,
    meter: Meter,
}

/// A rest on its way back. One that was not sent is its lease's again when this is dropped.
struct Giving<S: Store, C: Clock> {
    leased: Arc<Leased<S, C>>,
    key: KeyBytes,
    rest: Option<Rest>,
    /// So many tokens were sent, and nothing is known of them yet.
    sent: u32,
    /// No round follows in which it could be given back.
    is_last: bool,
}

impl<S: Store, C: Clock> Giving<S, C> {
    /// Once: a second that follows a lost reply would give what was never taken. The key, if the store does not answer.
    async fn give(mut self) -> std::result::Result<(), KeyBytes> {
        let Some(rest) = self.rest.take() else { return Ok(()) };
        let Some(give) = GiveAll::part_of(&rest.batch.take, &rest.batch.verdict, |_| rest.tokens) else {
            return Ok(());
        };
        let leased = Arc::clone(&self.leased);
        let partition = partition(&leased.prefix, &self.key);
        let call = leased.store.run(Key::lone(schema::RULES, &partition), &give);
        let call = counted(&leased.clock, &leased.meter, StoreCall::Give, call);
        self.sent = rest.tokens;
        let wait = leased.config.call_wait_max;
        let given = within(&leased.clock, &leased.meter, StoreCall::Give, wait, call).await;
        self.sent = 0;
        let Err(error) = given else {
            leased.leases.with_known(&self.key, |seat| seat.lease.given_back(rest.tokens));
            return Ok(());
        };
        leased.errors.note(&leased.clock, &error);
        if error.effect() == Effect::None && is_outage(&error) {
            self.rest = Some(rest);
        } else {
            leased.errors.lost(rest.tokens, error.effect());
        }
        if ends_round(&error) { Err(self.key.clone()) } else { Ok(()) }
    }
}

impl<S: Store, C: Clock> Drop for Giving<S, C> {
    fn drop(&mut self) {
        self.leased.errors.lost(self.sent, Effect::Unknown);
        if let Some(rest) = self.rest.take() {
            let tokens = rest.tokens;
            if self.is_last || self.leased.leases.with(&self.key, |seat| seat.lease.put_back(rest)).is_none() {
                self.leased.errors.lost(tokens, Effect::None);
            }
        }
    }
}

/// What the store gave, if that was allowed.
struct Taken {
    tokens: u32,
    batch: Box<Batch>,
    decision: Decision,
    asked_at_us: u64,
}

/// A batch is being asked for; if that ends without an answer, the first in line asks.
struct Asking<'a, S: Store, C: Clock> {
    leased: &'a Leased<S, C>,
    key: &'a [u8],
    /// Zero when it is over.
    number: u64,
}

impl<S: Store, C: Clock> Asking<'_, S, C> {
    /// Tells the lease, and those in line. If others did not wait for this one any longer and ask themselves, `tell` is told that it is late.
    fn answered<T>(mut self, tell: impl FnOnce(&mut Lease, &Terms<'_>, bool) -> T) -> Option<T> {
        let number = std::mem::take(&mut self.number);
        let leased = self.leased;
        leased.at(self.key, |seat, terms| seat.answered(number, terms, &leased.numbers, tell))
    }

    fn failed(mut self, error: &Error) {
        let (number, error) = (std::mem::take(&mut self.number), Arc::new(error.share()));
        self.leased.at(self.key, |seat, _| ((), seat.failed(number, &error)));
    }
}

impl<S: Store, C: Clock> Drop for Asking<'_, S, C> {
    fn drop(&mut self) {
        if self.number != 0 {
            let Self { leased, key, number } = self;
            leased.at(key, |seat, terms| ((), seat.abandoned(*number, terms, &leased.numbers)));
        }
    }
}

/// A request in line. When it is dropped it leaves the line, and gives back what it was told and has not seen.
struct Waiting<'a, S: Store, C: Clock> {
    leased: &'a Leased<S, C>,
    key: &'a [u8],
    cost: u32,
    /// Zero when it has its turn.
    ticket: u64,
    turn: oneshot::Receiver<Told>,
}

impl<S: Store, C: Clock> Drop for Waiting<'_, S, C> {
    fn drop(&mut self) {
        if self.ticket == 0 {
            return;
        }
        self.turn.close();
        let is_left = self.leased.leases.with_known(self.key, |seat| seat.leave(self.ticket));
        if is_left != Some(true)
            && let Ok(Some((turn, batch))) = self.turn.try_recv()
        {
            let called = self.leased.take_back(self.key, self.cost, batch, &turn);
            self.leased.tell(self.key, called);
        }
    }
}

impl<S: Store> LeasedLimiter<S> {
    /// The limiter `name` on `store`, and its keeper: a future to spawn, which gives back what is not used, and ends, after it
    /// gave back the rest, when the last clone of the limiter is dropped. Without it, what is not used is lost,
    /// and no key is ever forgotten: once there are [`keys_max`](LeaseConfig::keys_max), all others are decided by the store.
    ///
    /// # Errors
    /// [`RateLimitError::FleetRule`] for a leaky bucket; [`RateLimitError::Fleet`] naming the field of `config` that is zero.
    pub fn new(
        store: S,
        name: &str,
        rule: Rule,
        config: LeaseConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S>), RateLimitError> {
        Self::with_clock(store, name, rule, config, FastClock::new())
    }
}

impl<S: Store, C: Clock> LeasedLimiter<S, C> {
    /// The same, by `clock`.
    ///
    /// # Errors
    /// As [`LeasedLimiter::new`].
    pub fn with_clock(
        store: S,
        name: &str,
        rule: Rule,
        config: LeaseConfig,
        clock: C,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S, C>), RateLimitError> {
        if let RuleLimit::Limit(Limit::LeakyBucket(_)) = rule.by() {
            let why = "is a queue, which tokens in hand would overtake";
            return Err(RateLimitError::FleetRule { name: rule.name().to_owned(), why });
        }
        let hold_us = micros(config.hold_for);
        let wait_max_us = micros(config.call_wait_max);
        none_is_zero([
            ("batch_max", config.batch_max == 0),
            ("hold_for", hold_us == 0),
            ("keys_max", config.keys_max == 0),
            ("call_wait_max", wait_max_us == 0),
        ])?;
        let (leases, limit) = (Table::new(config.keys_max), rule.limit().limit());
        let (prefix, errors, meter) =
            (tuple::encode(&(name,)), Errors::new("leased", name), Meter::new("leased", name));
        let (shared, keeper) = share(Leased {
            store,
            clock,
            prefix,
            rule,
            limit,
            config,
            hold_us,
            wait_max_us,
            leases,
            numbers: Numbers::default(),
            ended_at: EndedAt::default(),
            errors,
            meter,
        });
        Ok((Self { shared }, keeper))
    }

    /// What it decides by.
    pub fn rule(&self) -> &Rule {
        &self.shared.rule
    }

    /// Takes `cost` for `key`, if there is as much; a cost of zero asks the store what is there.
    ///
    /// A cost above the rule's limit is never allowed, which needs no store: then `remaining` is zero.
    /// What `remaining` and `reset_after` say is what is in hand and what the store said last. Who waits `retry_after` is admitted, if nobody else takes
    /// any; it may be longer than it has to be: by the way back of the answer that it goes by; of a bucket by two microseconds where a smaller cost is known not
    /// to be there, or another request asks for what comes first; of a sliding window or log it may be that of a greater cost that was denied; and where what is in hand
    /// is gone by then, and no more is known, it is until all of the limit is there.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), where the store is asked; [`Timeout`](sysd_core::ErrorKind::Timeout)
    /// after [`call_wait_max`](LeaseConfig::call_wait_max). Who waits for a batch for which the call fails ends in that call's error, of its kind
    /// and effect, and asks nobody; who is still in line after one and three quarters of that time to three times it ends in `Timeout`, without effect.
    ///
    /// # Cost
    /// None of the store's while there are tokens in hand or the denial lasts, or where another request asks for a batch, for which it
    /// waits if there may be enough for those in front and for it; else an update, and up to two more where the store has less than the batch, all of them within `call_wait_max`. No caller waits
    /// longer than three times that. No request gives back: the keeper does.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken a batch, which is then lost; it never gives. The first in line then asks for
    /// the next, and so one does after one and a quarter of `call_wait_max` if it is kept and not polled; what it still gets beyond its own cost the keeper
    /// gives back. What is taken for one in line that is dropped before it sees it is in hand again.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let shared = &*self.shared;
        if let Some(decision) = shared.decide(key.as_ref(), cost) {
            return Ok(decision);
        }
        let key = KeyBytes::from_slice(key.as_ref());
        let answer = shared.check(key, cost).await;
        shared.meter.count(&answer);
        answer
    }

    /// The last error of the store's in giving back, of which no request was told. What was to be given back is lost then, unless
    /// nothing happened and it may go better: that a later round gives back.
    pub fn last_error(&self) -> Option<KeeperError> {
        self.shared.errors.last()
    }

    /// How many keys this process holds anything of.
    pub fn keys(&self) -> usize {
        self.shared.leases.len()
    }

    /// How many tokens of `key` are in hand.
    pub fn in_hand(&self, key: impl AsRef<[u8]>) -> u32 {
        let shared = &*self.shared;
        shared.leases.with_known(key.as_ref(), |seat| seat.lease.in_hand(steady_us(&shared.clock))).unwrap_or(0)
    }
}

impl<S: Store, C: Clock> Leased<S, C> {
    /// By what is known of a key: neither is it copied for that, nor held against what the store takes, which was done when it came first.
    #[inline]
    fn decide(&self, key: &[u8], cost: u32) -> Option<Decision> {
        if cost > self.limit {
            return None;
        }
        // Before the lock, which is held the shorter.
        let terms = self.terms();
        let decide = |seat: &mut Seat, tally: &mut Tally| {
            let decision = seat.lease.decide(&terms, cost)?;
            tally.count(decision.outcome());
            Some(decision)
        };
        self.leases.counting_known(key, decide).flatten()
    }

    async fn check(&self, key: KeyBytes, cost: u32) -> Result<Decision> {
        let partition = partition(&self.prefix, &key);
        self.store.limits().check_update(Key::lone(schema::RULES, &partition))?;
        if cost > self.limit {
            return Ok(Decision::new(Outcome::NeverAllowed, self.limit, 0, 0));
        }
        let begun_us = steady_us(&self.clock);
        let step =
            |seat: &mut Seat, terms: &Terms<'_>| (seat.step(terms, cost, &self.numbers, || self.late()), Vec::new());
        let turn = match self.at(&key, step).unwrap_or(Next::Alone) {
            Next::Decided(decision) => return Ok(decision),
            Next::Alone => Turn::Alone,
            Next::Lead(lead) => Turn::Lead(lead),
            Next::Wait(place) => self.wait(&key, cost, place, begun_us).await?,
        };
        match turn {
            Turn::Decided(decision) => Ok(decision),
            Turn::Lead(lead) => {
                let number = lead.number;
                let asking = Asking { leased: self, key: &key, number };
                // What it waited for so far is of the time that it has.
                let wait_max_us = self.wait_max_us;
                let left_us = wait_max_us.saturating_mul(3).saturating_sub(self.since_us(begun_us)).min(wait_max_us);
                if left_us == 0 {
                    return Err(too_late());
                }
                self.lead(&partition, cost, lead, Duration::from_micros(left_us), asking).await
            }
            Turn::Alone => {
                let (call, wait) = (self.take(&partition, cost), self.config.call_wait_max);
                Ok(within(&self.clock, &self.meter, StoreCall::of(cost), wait, call).await?.1)
            }
            Turn::Failed(error) => Err(error.share()),
        }
    }

    /// In line, until it has its turn.
    async fn wait(&self, key: &[u8], cost: u32, place: Place, begun_us: u64) -> Result<Turn> {
        let Place { ticket, turn, mut late, mut asking } = place;
        let mut waiting = Waiting { leased: self, key, cost, ticket, turn };
        let told = loop {
            if let Either::Left((told, _)) = select(&mut waiting.turn, &mut late).await {
                break told;
            }
            // Another wait would be longer than three times `call_wait_max` in all.
            let is_over = self.since_us(begun_us) >= self.wait_max_us.saturating_mul(7) / 4;
            let overdue = |seat: &mut Seat, terms: &Terms<'_>| {
                seat.overdue((ticket, cost, asking), is_over, terms, &self.numbers, || self.late())
            };
            match self.at(key, overdue) {
                Some(Overdue::Wait(next, number)) => (late, asking) = (next, number),
                Some(Overdue::Turn(turn)) => {
                    waiting.ticket = 0;
                    return Ok(turn);
                }
                Some(Overdue::Over) => {
                    waiting.ticket = 0;
                    return Err(too_late());
                }
                Some(Overdue::Called) | None => break (&mut waiting.turn).await,
            }
        };
        waiting.ticket = 0;
        let gone = |_| Error::new(ErrorKind::Unavailable, Effect::None, "who asked for a batch ended without a word");
        told.map(|(turn, _)| turn).map_err(gone)
    }

    fn since_us(&self, begun_us: u64) -> u64 {
        steady_us(&self.clock).saturating_sub(begun_us)
    }

    /// A timer for all who wait for the one that asks. It is longer than that one's own: a store that does not answer is that one's error first, and
    /// everybody's.
    fn late(&self) -> Late {
        let wait = self.config.call_wait_max.saturating_mul(5) / 4;
        (Box::pin(self.clock.sleep_until(self.clock.now().saturating_add(wait)))
            as Pin<Box<dyn Future<Output = ()> + Send>>)
            .shared()
    }

    fn terms(&self) -> Terms<'_> {
        // Before the lock, which is held the shorter.
        let now_us = steady_us(&self.clock);
        let batch_max = self.config.batch_max.min(self.limit);
        Terms { now_us, batch_max, wait_max_us: self.wait_max_us, refill: self.refill() }
    }

    /// Looks at the seat of a key; who has its turn by that is told when the table is free. `None` if there is no room for the key.
    fn at<T>(&self, key: &[u8], look: impl FnOnce(&mut Seat, &Terms<'_>) -> (T, Vec<Called>)) -> Option<T> {
        let terms = self.terms();
        let (told, called) = self.leases.with(key, |seat| look(seat, &terms))?;
        self.tell(key, called);
        Some(told)
    }

    fn tell(&self, key: &[u8], called: Vec<Called>) {
        let mut called = VecDeque::from(called);
        while let Some(Called { call, cost, batch, turn }) = called.pop_front() {
            if let Err((turn, batch)) = call.send((turn, batch)) {
                called.extend(self.take_back(key, cost, batch, &turn));
            }
        }
    }

    /// Who was told so is gone: its tokens are in hand again, and the next in line asks.
    fn take_back(&self, key: &[u8], cost: u32, batch: u64, turn: &Turn) -> Vec<Called> {
        match turn {
            Turn::Decided(decision) if decision.is_allowed() => {
                self.leases.with_known(key, |seat| seat.lease.untaken(batch, cost));
                Vec::new()
            }
            Turn::Decided(_) | Turn::Alone | Turn::Failed(_) => Vec::new(),
            Turn::Lead(Lead { number, .. }) => {
                let terms = self.terms();
                let abandoned = |seat: &mut Seat| seat.abandoned(*number, &terms, &self.numbers);
                self.leases.with_known(key, abandoned).unwrap_or_default()
            }
        }
    }

    fn refill(&self) -> Refill<'_> {
        match self.rule.by() {
            RuleLimit::Limit(Limit::TokenBucket(bucket)) => Refill::Evenly(bucket),
            RuleLimit::Limit(Limit::SlidingWindow(_) | Limit::SlidingLog(_)) => Refill::Unknown,
            _ => Refill::AtOnce,
        }
    }

    fn bucket(&self) -> Option<&TokenBucket> {
        if let RuleLimit::Limit(Limit::TokenBucket(bucket)) = self.rule.by() { Some(bucket) } else { None }
    }

    /// In what time a bucket has so many tokens more than such a verdict took; zero if it has them now.
    fn wait_us(&self, verdict: &JointVerdict, tokens: u32) -> Option<u64> {
        let (bucket, first) = (self.bucket()?, verdict.first()?);
        let owed = first.debt().plus(bucket.price(tokens)?, bucket.denominator());
        let wait = owed.minus(bucket.capacity(), bucket.denominator());
        Some(if wait == Span::ZERO { 0 } else { first.skew_us().saturating_add(wait.ceil_us()) })
    }

    async fn take(&self, partition: &KeyBytes, tokens: u32) -> Result<(Box<Batch>, Decision)> {
        let take = TakeAll::new([(&self.rule, tokens)]);
        let call = self.store.run(Key::lone(schema::RULES, partition), &take);
        let verdict = counted(&self.clock, &self.meter, StoreCall::of(tokens), call).await?;
        let decision = *take.decision(&verdict).decision();
        Ok((Box::new(Batch { take, verdict }), decision))
    }

    /// A batch of so many, half of what is there where the store has less, at last what the request lacks: what was taken, if anything, and when
    /// that was asked for.
    async fn take_some(&self, partition: &KeyBytes, least: u32, tokens: u32) -> Result<Taken> {
        let (mut tokens, mut is_first) = (tokens, true);
        loop {
            let asked_at_us = steady_us(&self.clock);
            let (batch, decision) = self.take(partition, tokens).await?;
            if decision.is_allowed() || tokens <= least {
                return Ok(Taken { tokens, batch, decision, asked_at_us });
            }
            // Others find some too.
            tokens = if is_first { (decision.remaining() / 2).clamp(least, tokens - 1) } else { least };
            is_first = false;
        }
    }

    /// Asks for a batch, and tells the lease and those who wait.
    async fn lead(
        &self,
        partition: &KeyBytes,
        cost: u32,
        Lead { tokens, least, number }: Lead,
        wait_max: Duration,
        asking: Asking<'_, S, C>,
    ) -> Result<Decision> {
        let calls = self.take_some(partition, least, tokens);
        let answer = within(&self.clock, &self.meter, StoreCall::Take, wait_max, calls).await;
        let (at_us, hold_us) = (steady_us(&self.clock), self.hold_us);
        match answer {
            Ok(Taken { tokens: taken, batch, decision, asked_at_us }) if decision.is_allowed() => {
                let said = Said { asked_at_us, at_us, hold_us };
                let wait_us = |verdict: &JointVerdict, tokens| self.wait_us(verdict, tokens);
                // How much is left of the batch, which is there for the next ones.
                let left = asking.answered(|lease, _, is_late| {
                    if is_late {
                        // What was put aside for it the others have.
                        let left = taken.checked_sub(cost);
                        lease.keep_late(batch, left.unwrap_or(taken));
                        return left;
                    }
                    lease.granted(said, Grant { tokens: taken, cost, batch, number }, &decision, wait_us);
                    Some(taken - least)
                });
                left.flatten().map(|left| decision.untaken(left)).ok_or_else(too_long)
            }
            Ok(Taken { decision, asked_at_us, .. }) => {
                let said = Said { asked_at_us, at_us, hold_us };
                let told = asking.answered(|lease, terms, is_late| {
                    if is_late { None } else { Some(lease.refused(said, terms, (cost, least), &decision)) }
                });
                match told.flatten() {
                    Some(told) => Ok(told.unwrap_or(decision)),
                    None if least == cost => Ok(decision),
                    None => Err(too_long()),
                }
            }
            // It had little time left, which says nothing of the store: the first in line asks.
            Err(error) if error.kind() == ErrorKind::Timeout && wait_max < self.config.call_wait_max => {
                drop(asking);
                Err(error)
            }
            Err(error) => {
                asking.failed(&error);
                Err(error)
            }
        }
    }
}

fn too_long() -> Error {
    Error::new(
        ErrorKind::Timeout,
        Effect::Unknown,
        "another request asked in the stead of this one, which took too long",
    )
}

fn too_late() -> Error {
    Error::new(ErrorKind::Timeout, Effect::None, "the batches that others asked for had nothing for it in time")
}

impl<S: Store, C: Clock> Kept for Leased<S, C> {
    fn clock(&self) -> &impl Clock {
        &self.clock
    }

    fn every(&self) -> Duration {
        self.config.hold_for
    }

    async fn round(this: &Arc<Self>, ends: bool) {
        let now_us = steady_us(&this.clock);
        let mut rests: Vec<(KeyBytes, Rest)> = Vec::new();
        let tally = this.leases.retain(|key, Seat { lease, .. }| {
            rests.extend(lease.expire(now_us, ends).into_iter().map(|rest| (KeyBytes::from_slice(key), rest)));
            this.errors.lost(lease.lost(), Effect::None);
            !lease.is_idle(now_us, this.hold_us)
        });
        this.meter.tell(tally);
        this.ended_at.turn(&mut rests);
        // Those that are not sent go back to their leases. A call is made when it is its turn: it is larger.
        let giving = |(key, rest)| Giving { leased: Arc::clone(this), key, rest: Some(rest), sent: 0, is_last: ends };
        let givings: Vec<_> = rests.into_iter().map(giving).collect();
        let gives = givings.into_iter().map(Giving::give);
        until_outage(gives, GIVES_MAX, &this.ended_at, std::result::Result::err).await;
    }
}
