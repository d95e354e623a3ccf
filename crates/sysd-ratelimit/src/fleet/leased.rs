//! Leased: a process takes tokens in batches.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{Either, Shared as Waited, select};
use futures::stream::{self, StreamExt as _};
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Clock, Effect, FastClock, Key, Result, Store, StoreExt as _};

use super::keeper::{EndedAt, Errors, KeeperError, Kept, Shared, ends_round, share};
use super::lease::{Batch, Lease, Rest, Step};
use super::table::Table;
use super::{CALL_WAIT_MAX, micros, none_is_zero, steady_us, within};
use crate::algorithm::{Algorithm as _, Limit};
use crate::error::RateLimitError;
use crate::joint::is_outage;
use crate::model::{Decision, Outcome, Rule, RuleLimit, Span};
use crate::procedure::{GiveAll, TakeAll};
use crate::schema;
use crate::service::partition;

/// So many rests are given back at once.
const GIVES_MAX: usize = 32;

/// So often a request waits for a batch that another one asks for, before it asks the store itself.
const WAITS_MAX: usize = 2;

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
    /// How long a call of the store's may take; then its effect counts as unknown. A request waits as long at most for a batch that another
    /// one asks for.
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
/// denied with it, so a flood that is over the limit asks the store about once in that time.
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
        let call = leased.store.run(Key::lone(schema::RULES, &self.key), &give);
        let Err(error) = within(&leased.clock, leased.config.call_wait_max, call).await else { return Ok(()) };
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

/// Ready when the batch was answered, with `true`; with `false` if it never is, or not in time.
type Answered = Waited<Pin<Box<dyn Future<Output = bool> + Send>>>;

/// A lease, and where those wait who want of the batch that is under way.
#[derive(Default)]
struct Seat {
    lease: Lease,
    room: Option<Box<Room>>,
}

struct Room {
    /// Is dropped where nobody answers.
    answer: oneshot::Sender<()>,
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
                Either::Left((answered, _)) => answered.is_ok(),
                Either::Right(_) => false,
            }
        };
        Self { answer, answered: (Box::pin(answered) as Pin<Box<dyn Future<Output = bool> + Send>>).shared() }
    }
}

/// What becomes of a request.
enum Next {
    Decided(Decision),
    Alone,
    Wait(Answered),
    Lead(u32),
}

/// A batch is being asked for; if that ends without an answer, others may.
struct Asking<'a>(Option<(&'a Table<Seat>, &'a [u8])>);

impl Asking<'_> {
    fn tell(mut self, tell: impl FnOnce(&mut Lease)) {
        // Those who wait are woken when the table is free.
        if let Some(room) = self.end(tell) {
            // Somebody may have waited in vain.
            let _ = room.answer.send(());
        }
    }

    fn end(&mut self, tell: impl FnOnce(&mut Lease)) -> Option<Box<Room>> {
        let (leases, key) = self.0.take()?;
        let tell = |seat: &mut Seat| {
            tell(&mut seat.lease);
            seat.room.take()
        };
        leases.with_known(key, tell).flatten()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        drop(self.end(Lease::gave_up));
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
            ("call_wait_max", config.call_wait_max.is_zero()),
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
    /// or log where a smaller cost is known to be denied: then it is that one's, at least so long.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), where the store is asked; [`Timeout`](sysd_core::ErrorKind::Timeout)
    /// after [`call_wait_max`](LeaseConfig::call_wait_max).
    ///
    /// # Cost
    /// None of the store's while there are tokens in hand or the denial lasts, or where another request asks for a batch, for which it
    /// waits at most twice, and each time no longer than `call_wait_max`; else an update, and up to two more where the store has less
    /// than the batch. No request gives back: the keeper does.
    ///
    /// # Cancel safety
    /// A future that is dropped may have taken a batch, which is then lost; it never gives. Those who wait for that batch then ask the
    /// store themselves, as they do after `call_wait_max` if it is kept and not polled.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let shared = &*self.shared;
        let partition = partition(&shared.prefix, key);
        shared.store.limits().check_update(Key::lone(schema::RULES, &partition))?;
        let limit = shared.limit;
        if cost > limit {
            return Ok(Decision::new(Outcome::NeverAllowed, limit, 0, 0));
        }
        for waits in 0..=WAITS_MAX {
            match shared.step(&partition, cost, waits < WAITS_MAX) {
                Next::Decided(decision) => return Ok(decision),
                Next::Lead(tokens) => {
                    let asking = Asking(Some((&shared.leases, &partition)));
                    return shared.lead(&partition, cost, tokens, asking).await;
                }
                Next::Wait(answered) => {
                    if !answered.await {
                        break;
                    }
                }
                Next::Alone => break,
            }
        }
        Ok(shared.take(&partition, cost).await?.1)
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
        let partition = partition(&shared.prefix, key);
        shared.leases.with_known(&partition, |seat| seat.lease.in_hand(steady_us(&shared.clock))).unwrap_or(0)
    }
}

impl<S: Store, C: Clock> Leased<S, C> {
    #[inline]
    fn step(&self, partition: &KeyBytes, cost: u32, may_wait: bool) -> Next {
        let longer_us = |denied, cost| self.longer_us(denied, cost);
        let step = |seat: &mut Seat| {
            let now_us = steady_us(&self.clock);
            match seat.lease.take(now_us, cost, self.config.batch_max, may_wait, longer_us) {
                Step::Decided(decision) => Next::Decided(decision),
                Step::Lead { tokens } => Next::Lead(tokens),
                Step::Alone => Next::Alone,
                Step::Wait => {
                    let room = || Box::new(Room::new(&self.clock, self.config.call_wait_max));
                    Next::Wait(seat.room.get_or_insert_with(room).answered.clone())
                }
            }
        };
        self.leases.with(partition, step).unwrap_or(Next::Alone)
    }

    /// By how much longer than a denied request one of a greater cost waits: of a bucket what the rest of it takes to come back; a
    /// window of the clock has all of it at its end; of the others it is not known.
    fn longer_us(&self, denied: u32, cost: u32) -> u64 {
        match self.rule.by() {
            RuleLimit::Limit(Limit::TokenBucket(bucket)) => bucket.price(cost - denied).map_or(0, Span::ceil_us),
            _ => 0,
        }
    }

    async fn take(&self, partition: &KeyBytes, tokens: u32) -> Result<(Box<Batch>, Decision)> {
        let take = TakeAll::new([(&self.rule, tokens)]);
        let call = self.store.run(Key::lone(schema::RULES, partition), &take);
        let verdict = within(&self.clock, self.config.call_wait_max, call).await?;
        let decision = *take.decision(&verdict).decision();
        Ok((Box::new(Batch { take, verdict }), decision))
    }

    /// Asks for a batch, for half of what is there where the store has less, at last for the request's own cost.
    async fn lead(&self, partition: &KeyBytes, cost: u32, tokens: u32, asking: Asking<'_>) -> Result<Decision> {
        let (mut batch, mut decision) = self.take(partition, tokens).await?;
        let mut taken = tokens;
        if !decision.is_allowed() && tokens > cost {
            // Others find some too.
            taken = (decision.remaining() / 2).clamp(cost, tokens - 1);
            (batch, decision) = self.take(partition, taken).await?;
            if !decision.is_allowed() && taken > cost {
                taken = cost;
                (batch, decision) = self.take(partition, cost).await?;
            }
        }
        let now_us = steady_us(&self.clock);
        asking.tell(|lease| {
            if decision.is_allowed() {
                lease.granted(now_us, self.hold_us, (taken, cost), batch, &decision);
            } else {
                lease.refused(now_us, self.hold_us, cost, &decision);
            }
        });
        Ok(decision)
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
        let give = |(key, rest)| Giving { leased: Arc::clone(this), key, rest: Some(rest) }.give();
        let gives: Vec<_> = rests.into_iter().map(give).collect();
        let mut gives = stream::iter(gives).buffer_unordered(GIVES_MAX);
        while let Some(given) = gives.next().await {
            if let Err(key) = given {
                // Those that were not sent wait for the next round: a store that hangs would hold this one for ever.
                this.ended_at.note(key);
                break;
            }
        }
    }
}
