//! Leased: a process takes tokens in batches.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{Either, Shared as Waited, select};
use futures::stream::{self, StreamExt as _};
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Clock, Effect, Error, ErrorKind, FastClock, Key, Result, Store, StoreExt as _};

use super::keeper::{EndedAt, Errors, KeeperError, Kept, Shared, ends_round, share};
use super::lease::{Batch, Lease, Rest, Said, Step};
use super::table::Table;
use super::{CALL_WAIT_MAX, micros, none_is_zero, steady_us, within};
use crate::algorithm::{Algorithm as _, Limit};
use crate::error::RateLimitError;
use crate::joint::is_outage;
use crate::model::{Decision, Outcome, Rule, RuleLimit, Span, TokenBucket};
use crate::procedure::{GiveAll, JointVerdict, TakeAll};
use crate::schema;
use crate::service::partition;

/// So many rests are given back at once.
const GIVES_MAX: usize = 32;

/// So many batches that others asked for a request waits for and finds too small, before it asks the store itself.
const TOLD_MAX: usize = 2;

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
    /// How long a request asks the store, all its calls together; then its effect counts as unknown. For batches that others ask for it waits
    /// twice as long: in all three times at most.
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
/// time is given back. Requests that come while one asks for a batch wait for it, as many as it may have tokens for, instead of asking
/// the store each. The least cost that was denied is remembered while that lasts, but no longer than `hold_for`, and greater ones are
/// denied with it, so a flood that is over the limit asks the store about once in that time. Of a token bucket it is known when the next token
/// comes: then one request asks for it, and the others are denied at once; so a flood over the limit asks once for each token that comes, one
/// call after the other. What is in hand does not count for a greater cost: that asks the store, and may be denied by it.
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
    leases: Table<Seat>,
    /// How many requests have asked for a batch.
    asks: AtomicU64,
    ended_at: EndedAt,
    errors: Errors,
}

/// A rest on its way back. One that was not sent is its lease's again when this is dropped.
struct Giving<S: Store, C: Clock> {
    leased: Arc<Leased<S, C>>,
    key: KeyBytes,
    rest: Option<Rest>,
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
        let Err(error) = within(&leased.clock, leased.config.call_wait_max, call).await else {
            leased.leases.with_known(&self.key, |seat| seat.lease.given_back(rest.tokens));
            return Ok(());
        };
        leased.errors.note(&leased.clock, &error);
        if error.effect() == Effect::None && is_outage(&error) {
            self.rest = Some(rest);
        }
        if ends_round(&error) { Err(self.key.clone()) } else { Ok(()) }
    }
}

impl<S: Store, C: Clock> Drop for Giving<S, C> {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.leased.leases.with(&self.key, |seat| seat.lease.put_back(rest));
        }
    }
}

/// What became of a batch that is waited for.
#[derive(Debug, Clone)]
enum Answer {
    /// The lease knows.
    Told,
    /// The call failed, and that is everybody's answer: were each to ask for itself, a store that fails would be asked by all at once.
    Failed(Arc<Error>),
    /// The future that asked was dropped.
    Abandoned,
    /// It is not polled, or its store not quick enough.
    Late,
}

/// Ready when the batch was answered, or never is, or not in time.
type Answered = Waited<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// A lease, and where those wait who want of the batch that is under way.
#[derive(Default)]
struct Seat {
    lease: Lease,
    /// The number of the request that asks; zero if nobody does.
    asking: u64,
    room: Option<Box<Room>>,
}

struct Room {
    /// Is dropped where nobody answers.
    answer: oneshot::Sender<std::result::Result<(), Arc<Error>>>,
    answered: Answered,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}

impl Room {
    /// One timer for all who wait.
    fn new(clock: &impl Clock, wait: Duration) -> Self {
        let (answer, answered) = oneshot::channel();
        let late = clock.sleep_until(clock.now().saturating_add(wait));
        let answered = async move {
            match select(answered, late).await {
                Either::Left((Ok(Ok(())), _)) => Answer::Told,
                Either::Left((Ok(Err(error)), _)) => Answer::Failed(error),
                Either::Left((Err(_), _)) => Answer::Abandoned,
                Either::Right(_) => Answer::Late,
            }
        };
        Self { answer, answered: (Box::pin(answered) as Pin<Box<dyn Future<Output = Answer> + Send>>).shared() }
    }
}

/// What the store gave, if that was allowed.
struct Taken {
    tokens: u32,
    batch: Box<Batch>,
    decision: Decision,
    asked_at_us: u64,
}

/// What becomes of a request.
enum Next {
    Decided(Decision),
    Alone,
    /// For the request of that number.
    Wait(Answered, u64),
    /// By that number.
    Lead(u32, u64),
}

/// A batch is being asked for, by a request of that number; if that ends without an answer, another one asks.
struct Asking<'a>(Option<(&'a Table<Seat>, &'a [u8], u64)>);

impl Asking<'_> {
    /// Tells the lease, by `tell`, or, if others did not wait for this one any longer and ask themselves, by `tell_late`.
    fn tell<T>(
        mut self,
        answer: std::result::Result<(), Arc<Error>>,
        told: T,
        tell: impl FnOnce(&mut Lease, T),
        tell_late: impl FnOnce(&mut Lease, T),
    ) {
        // Those who wait are woken when the table is free.
        if let Some(room) = self.end(told, tell, tell_late) {
            // Somebody may have waited in vain.
            let _ = room.answer.send(answer);
        }
    }

    fn end<T>(
        &mut self,
        told: T,
        tell: impl FnOnce(&mut Lease, T),
        tell_late: impl FnOnce(&mut Lease, T),
    ) -> Option<Box<Room>> {
        let (leases, key, number) = self.0.take()?;
        let tell = |seat: &mut Seat| {
            if seat.asking == number {
                tell(&mut seat.lease, told);
                seat.asking = 0;
                seat.room.take()
            } else {
                tell_late(&mut seat.lease, told);
                None
            }
        };
        leases.with(key, tell).flatten()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        drop(self.end((), |lease, ()| lease.abandoned(), |_, ()| ()));
    }
}

/// A request that waits for what another one asks for, and that is not counted any more when it stops waiting.
struct Waiting<'a> {
    leases: &'a Table<Seat>,
    key: &'a [u8],
    /// Of the one that asks.
    number: u64,
    cost: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = |seat: &mut Seat| {
            if seat.asking == self.number {
                seat.lease.left(self.cost);
            }
        };
        self.leases.with_known(self.key, left);
    }
}

impl<S: Store> LeasedLimiter<S> {
    /// The limiter `name` on `store`, and its keeper: a future to spawn, which gives back what is not used, and ends, after it
    /// gave back the rest, when the last clone of the limiter is dropped. Without it, what is not used is lost.
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
        none_is_zero([
            ("batch_max", config.batch_max == 0),
            ("hold_for", hold_us == 0),
            ("keys_max", config.keys_max == 0),
            ("call_wait_max", micros(config.call_wait_max) == 0),
        ])?;
        let (leases, limit) = (Table::new(config.keys_max), rule.limit().limit());
        let (prefix, errors) = (tuple::encode(&(name,)), Errors::new("leased", name));
        let (shared, keeper) = share(Leased {
            store,
            clock,
            prefix,
            rule,
            limit,
            config,
            hold_us,
            leases,
            asks: AtomicU64::new(0),
            ended_at: EndedAt::default(),
            errors,
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
    /// What `remaining` and `reset_after` say is what is in hand and what the store said last. `retry_after` is exact, but of a sliding window
    /// or log where a smaller cost is known to be denied: then it is that one's, at least so long; of a bucket it may be two microseconds late where a
    /// smaller cost is known not to be there, or another request asks for what comes first.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), where the store is asked; [`Timeout`](sysd_core::ErrorKind::Timeout)
    /// after [`call_wait_max`](LeaseConfig::call_wait_max). Who waits for a batch for which the call fails ends in that call's error, of its kind
    /// and effect, and asks nobody; who waited twice that long for batches of which none was answered ends in `Timeout`, without effect.
    ///
    /// # Cost
    /// None of the store's while there are tokens in hand or the denial lasts, or where another request asks for a batch, for which it
    /// waits; else an update, and up to two more where the store has less than the batch, all of them within `call_wait_max`. No caller waits
    /// longer than three times that. No request gives back: the keeper does.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken a batch, which is then lost; it never gives. Of those who wait for that batch one then asks for
    /// the next, and so one does after `call_wait_max` if it is kept and not polled; what it still gets beyond its own cost the keeper gives back.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let shared = &*self.shared;
        if let Some(decision) = shared.decide(key.as_ref(), cost) {
            return Ok(decision);
        }
        let key = KeyBytes::from_slice(key.as_ref());
        shared.check(key, cost).await
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
        let now_us = steady_us(&self.clock);
        self.leases.with_known(key, |seat| seat.lease.decide(now_us, cost, |tokens| self.price_us(tokens))).flatten()
    }

    async fn check(&self, key: KeyBytes, cost: u32) -> Result<Decision> {
        let partition = partition(&self.prefix, &key);
        self.store.limits().check_update(Key::lone(schema::RULES, &partition))?;
        if cost > self.limit {
            return Ok(Decision::new(Outcome::NeverAllowed, self.limit, 0, 0));
        }
        let (begun_us, wait_max_us) = (steady_us(&self.clock), micros(self.config.call_wait_max));
        let (mut told, mut unanswered) = (0, None);
        loop {
            let waited_us = steady_us(&self.clock).saturating_sub(begun_us);
            let may_wait = waited_us < wait_max_us.saturating_mul(2);
            // What it waited for so far is of the time that it has.
            let left_us = wait_max_us.saturating_mul(3).saturating_sub(waited_us).min(wait_max_us);
            let left = Duration::from_micros(left_us);
            match self.step(&key, cost, may_wait && told < TOLD_MAX, unanswered.take()) {
                Next::Decided(decision) => return Ok(decision),
                Next::Lead(tokens, number) => {
                    let asking = Asking(Some((&self.leases, &key, number)));
                    return self.lead(&partition, cost, tokens, left, asking).await;
                }
                Next::Wait(answered, number) => {
                    let waiting = Waiting { leases: &self.leases, key: &key, number, cost };
                    let answer = answered.await;
                    // Nobody is counted any more, or will be once this one has said that it waited too long.
                    std::mem::forget(waiting);
                    match answer {
                        Answer::Told => told += 1,
                        Answer::Abandoned => {}
                        Answer::Late => unanswered = Some(number),
                        Answer::Failed(error) => return Err(error.share()),
                    }
                }
                // Another one asks by now, and nobody has answered yet.
                Next::Alone if !may_wait && told < TOLD_MAX => {
                    let why = "no batch that others asked for was answered within twice call_wait_max";
                    return Err(Error::new(ErrorKind::Timeout, Effect::None, why));
                }
                Next::Alone => return Ok(within(&self.clock, left, self.take(&partition, cost)).await?.1),
            }
        }
    }

    /// `unanswered` is the number of a request for which this one waited too long: if it still asks, others ask in its stead.
    fn step(&self, key: &[u8], cost: u32, may_wait: bool, unanswered: Option<u64>) -> Next {
        let now_us = steady_us(&self.clock);
        let price_us = |tokens| self.price_us(tokens);
        let batch_max = self.config.batch_max.min(self.limit);
        let step = |seat: &mut Seat| {
            let mut overtaken = None;
            if seat.asking != 0 && unanswered == Some(seat.asking) {
                seat.lease.abandoned();
                (seat.asking, overtaken) = (0, seat.room.take());
            }
            let next = match seat.lease.take(now_us, cost, batch_max, may_wait, price_us) {
                Step::Decided(decision) => Next::Decided(decision),
                Step::Lead { tokens } => {
                    seat.asking = 1 + self.asks.fetch_add(1, Ordering::Relaxed);
                    Next::Lead(tokens, seat.asking)
                }
                Step::Alone => Next::Alone,
                Step::Wait => {
                    let room = || Box::new(Room::new(&self.clock, self.config.call_wait_max));
                    Next::Wait(seat.room.get_or_insert_with(room).answered.clone(), seat.asking)
                }
            };
            (next, overtaken)
        };
        // Whose room is left is woken when the table is free.
        self.leases.with(key, step).map_or(Next::Alone, |(next, _overtaken)| next)
    }

    fn bucket(&self) -> Option<&TokenBucket> {
        if let RuleLimit::Limit(Limit::TokenBucket(bucket)) = self.rule.by() { Some(bucket) } else { None }
    }

    /// In what time so many tokens of a bucket come back. A window of the clock has all of its tokens at its end; of the others it is not
    /// known.
    fn price_us(&self, tokens: u32) -> Option<u64> {
        Some(self.bucket()?.price(tokens)?.ceil_us())
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
        let verdict = self.store.run(Key::lone(schema::RULES, partition), &take).await?;
        let decision = *take.decision(&verdict).decision();
        Ok((Box::new(Batch { take, verdict }), decision))
    }

    /// A batch of so many, half of what is there where the store has less, at last the request's own cost: what was taken, if anything, and when
    /// that was asked for.
    async fn take_some(&self, partition: &KeyBytes, cost: u32, tokens: u32) -> Result<Taken> {
        let mut asked_at_us = steady_us(&self.clock);
        let (mut batch, mut decision) = self.take(partition, tokens).await?;
        let mut taken = tokens;
        if !decision.is_allowed() && tokens > cost {
            // Others find some too.
            taken = (decision.remaining() / 2).clamp(cost, tokens - 1);
            asked_at_us = steady_us(&self.clock);
            (batch, decision) = self.take(partition, taken).await?;
            if !decision.is_allowed() && taken > cost {
                taken = cost;
                asked_at_us = steady_us(&self.clock);
                (batch, decision) = self.take(partition, cost).await?;
            }
        }
        Ok(Taken { tokens: taken, batch, decision, asked_at_us })
    }

    /// Asks for a batch, and tells the lease and those who wait.
    async fn lead(
        &self,
        partition: &KeyBytes,
        cost: u32,
        tokens: u32,
        wait_max: Duration,
        asking: Asking<'_>,
    ) -> Result<Decision> {
        let answer = within(&self.clock, wait_max, self.take_some(partition, cost, tokens)).await;
        let (at_us, hold_us) = (steady_us(&self.clock), self.hold_us);
        match answer {
            Ok(Taken { tokens: taken, batch, decision, asked_at_us }) if decision.is_allowed() => {
                let said = Said { asked_at_us, at_us, hold_us };
                let wait_us = |verdict: &JointVerdict, tokens| self.wait_us(verdict, tokens);
                asking.tell(
                    Ok(()),
                    batch,
                    |lease, batch| lease.granted(said, (tokens, taken, cost), batch, &decision, wait_us),
                    |lease, batch| lease.keep_late(batch, taken - cost),
                );
                // The rest of the batch is there for the next ones.
                Ok(decision.untaken(taken - cost))
            }
            Ok(Taken { decision, asked_at_us, .. }) => {
                let said = Said { asked_at_us, at_us, hold_us };
                asking.tell(Ok(()), (), |lease, ()| lease.refused(said, cost, &decision), |_, ()| ());
                Ok(decision)
            }
            // It had little time left, which says nothing of the store: one of those who wait asks.
            Err(error) if error.kind() == ErrorKind::Timeout && wait_max < self.config.call_wait_max => {
                drop(asking);
                Err(error)
            }
            Err(error) => {
                asking.tell(Err(Arc::new(error.share())), (), |lease, ()| lease.gave_up(), |_, ()| ());
                Err(error)
            }
        }
    }
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
        this.leases.retain(|key, Seat { lease, .. }| {
            rests.extend(lease.expire(now_us, ends).into_iter().map(|rest| (KeyBytes::from_slice(key), rest)));
            !lease.is_idle(now_us, this.hold_us)
        });
        this.ended_at.turn(&mut rests);
        // Those that are not sent go back to their leases. A call is made when it is its turn: it is larger.
        let giving = |(key, rest)| Giving { leased: Arc::clone(this), key, rest: Some(rest) };
        let givings: Vec<_> = rests.into_iter().map(giving).collect();
        let mut gives = stream::iter(givings.into_iter().map(Giving::give)).buffer_unordered(GIVES_MAX);
        while let Some(given) = gives.next().await {
            if let Err(key) = given {
                // Those that were not sent wait for the next round: a store that hangs would hold this one for ever.
                this.ended_at.note(key);
                break;
            }
        }
    }
}
