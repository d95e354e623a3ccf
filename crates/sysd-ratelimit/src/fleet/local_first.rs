//! Local-first: a process decides by what it believes, and posts what it admitted afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Clock, Effect, FastClock, Key, Result, Store, StoreExt as _};

use super::keeper::{EndedAt, Errors, KeeperError, Kept, Shared, ends_round, share, until_outage};
use super::meter::{Meter, Tally};
use super::table::Table;
use super::view::View;
use super::{CALL_WAIT_MAX, StoreCall, counted, micros, none_is_zero, steady_us, within};
use crate::algorithm::Limit;
use crate::error::RateLimitError;
use crate::joint::is_outage;
use crate::model::{Decision, Outcome, Rule, RuleLimit, TokenBucket};
use crate::procedure::{JointVerdict, Take, TakeAll};
use crate::schema;
use crate::service::partition;

/// So many keys are posted at once.
const POSTS_MAX: usize = 64;

/// How a [`LocalFirstLimiter`] posts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFirstConfig {
    /// How often a process posts what it admitted, and learns what others did.
    pub flush_every: Duration,
    /// The most keys that it knows of, exactly; more are decided by the store. About 150 bytes each.
    pub keys_max: usize,
    /// How long a call of the store's may take; then its effect counts as unknown.
    pub call_wait_max: Duration,
}

impl Default for LocalFirstConfig {
    /// Every 100 ms, up to 100,000 keys.
    fn default() -> Self {
        Self { flush_every: Duration::from_millis(100), keys_max: 100_000, call_wait_max: CALL_WAIT_MAX }
    }
}

/// A token bucket that a fleet shares, decided within the process at once; what was admitted is posted to the store afterwards.
///
/// For protecting a service, where a few too many do no harm and no decision may wait: also while the store is away, each
/// process goes on alone, and posts later. A rule that is [billed](Rule::billed) is refused.
///
/// ```
/// use sysd_ratelimit::{LocalFirstLimiter, Rule, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let rule = Rule::new("each client", TokenBucket::new("1000/s".parse()?, 1_000)?)?;
/// let (limiter, keeper) = LocalFirstLimiter::new(Memory::new(), "api", rule, Default::default())?;
/// // On a runtime: `tokio::spawn(keeper)`.
/// # drop(keeper);
/// assert!(limiter.check("ann", 1).await?.is_allowed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - **Overshoot.** Let `lag` be the longest time from an admission until a posting that includes it is answered: about
///   `flush_every`, and a call for each 64 keys that are busy. In any stretch of time `t`, `n` processes admit at most `burst + rate * t + n * (burst + 2 *
///   rate * lag)`. What they admitted too much the bucket owes, so it is made up for: in the long run the rate is the
///   limit's. While the store does not answer, `lag` grows, and each process admits what the bucket alone would: it is then the outage, from the
///   last round before it, and up to three rounds with their calls; behind a layer `Breaker` its `open_for` comes on top.
///   A process that is started again before a bucket has refilled counts as one more.
/// - A posting that fails is sent again by the next round. An error that is no outage (stored bytes that are no state, missing rights) may
///   last: from then on the store is asked for that key, and its error told, until a posting is answered or the bucket would be full again; what was admitted
///   before is posted 64 times, and then forgotten: so much is admitted too much, of which [`last_error`](LocalFirstLimiter::last_error)
///   tells.
/// - A posting whose answer is lost is sent again once the store answers: the bucket may then owe it once more, for each posting whose
///   answer is lost. So much may be denied too much, and nothing is admitted too much by it.
///
/// Its states are those of a [`RuleLimiter`](crate::RuleLimiter) of the same name and rule.
///
/// # A store that is slow or down
/// Requests don't notice, but for keys beyond [`keys_max`](LocalFirstConfig::keys_max). On a store in the layers `Timeout` and `Breaker` postings are turned away at once, and
/// wait for a store that is well: the example of [`fleet`](super). The layer's timeout is to be no longer than [`call_wait_max`](LocalFirstConfig::call_wait_max).
#[derive(Debug)]
pub struct LocalFirstLimiter<S, C = FastClock> {
    shared: Shared<LocalFirst<S, C>>,
}

impl<S, C> Clone for LocalFirstLimiter<S, C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct LocalFirst<S, C> {
    store: S,
    clock: C,
    prefix: KeyBytes,
    rule: Rule,
    bucket: TokenBucket,
    /// The same with as large a burst as can be: what was admitted is posted, whether it was there or not.
    lifted_rule: Rule,
    lifted: TokenBucket,
    config: LocalFirstConfig,
    views: Table<View>,
    /// When the last round began in which all was posted.
    posted_us: AtomicU64,
    ended_at: EndedAt,
    errors: Errors,
    meter: Meter,
}

/// A posting is under way; what is not answered is told so when this is dropped.
struct Posting<S: Store, C: Clock> {
    shared: Arc<LocalFirst<S, C>>,
    key: KeyBytes,
    is_sent: bool,
    is_over: bool,
}

/// How it ended.
#[derive(Debug)]
enum Posted {
    Taken,
    /// The store is well, and this key, which was in doubt, may be posted now.
    Looked(KeyBytes),
    /// Not now, or nobody knows.
    Not,
    /// The store does not answer, of which this key told: others need not be tried now.
    Outage(KeyBytes),
}

impl<S: Store, C: Clock> Posting<S, C> {
    async fn post(mut self, cost: u32) -> Posted {
        let shared = Arc::clone(&self.shared);
        self.is_sent = true;
        let take = TakeAll::new([(&shared.lifted_rule, cost)]);
        let answer = shared.run(StoreCall::Post, &self.key, &take).await;
        let now_us = steady_us(&shared.clock);
        self.is_over = true;
        let tell = |tell: &dyn Fn(&mut View)| shared.views.with_known(&self.key, tell);
        if let Err(error) = &answer {
            shared.errors.note(&shared.clock, error);
        }
        match answer {
            Ok(verdict) => {
                let was_taken = verdict.is_allowed();
                tell(&|view| view.answered(&shared.lifted, now_us, verdict.debt_us(), was_taken));
                match cost {
                    0 => Posted::Looked(self.key.clone()),
                    _ if was_taken => Posted::Taken,
                    _ => Posted::Not,
                }
            }
            Err(error) if is_outage(&error) => {
                tell(&|view| view.failed(error.effect() == Effect::Unknown));
                if ends_round(&error) { Posted::Outage(self.key.clone()) } else { Posted::Not }
            }
            Err(error) => {
                tell(&|view| view.refused(error.effect() == Effect::Unknown));
                Posted::Not
            }
        }
    }
}

impl<S: Store, C: Clock> Drop for Posting<S, C> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.views.with_known(&self.key, |view| view.failed(self.is_sent));
        }
    }
}

impl<S: Store> LocalFirstLimiter<S> {
    /// The limiter `name` on `store`, and its keeper: a future to spawn, which posts, and ends, after it posted the rest, when the
    /// last clone of the limiter is dropped. Without it no process learns of another.
    ///
    /// # Errors
    /// [`RateLimitError::FleetRule`] for a rule that is billed, or is no token bucket; [`RateLimitError::Fleet`] naming the
    /// field of `config` that is zero.
    pub fn new(
        store: S,
        name: &str,
        rule: Rule,
        config: LocalFirstConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S>), RateLimitError> {
        Self::with_clock(store, name, rule, config, FastClock::new())
    }
}

impl<S: Store, C: Clock> LocalFirstLimiter<S, C> {
    /// The same, by `clock`.
    ///
    /// # Errors
    /// As [`LocalFirstLimiter::new`].
    pub fn with_clock(
        store: S,
        name: &str,
        rule: Rule,
        config: LocalFirstConfig,
        clock: C,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S, C>), RateLimitError> {
        let refused = |why| RateLimitError::FleetRule { name: rule.name().to_owned(), why };
        if rule.is_billed() {
            return Err(refused("is billed, and would be admitted beyond its limit"));
        }
        let RuleLimit::Limit(Limit::TokenBucket(bucket)) = *rule.by() else {
            return Err(refused("is no token bucket, so what was admitted too much would be forgotten"));
        };
        none_is_zero([
            ("flush_every", micros(config.flush_every) == 0),
            ("keys_max", config.keys_max == 0),
            ("call_wait_max", config.call_wait_max.is_zero()),
        ])?;
        let lifted = bucket.lifted();
        let lifted_rule = Rule::new(rule.name(), lifted)?;
        let (prefix, views) = (tuple::encode(&(name,)), Table::new(config.keys_max));
        let posted_us = AtomicU64::new(steady_us(&clock));
        let errors = Errors::new("local_first", name);
        let ended_at = EndedAt::default();
        let of = LocalFirst {
            store,
            clock,
            prefix,
            rule,
            bucket,
            lifted_rule,
            lifted,
            config,
            views,
            posted_us,
            ended_at,
            errors,
            meter: Meter::new("local_first", name),
        };
        let (shared, keeper) = share(of);
        Ok((Self { shared }, keeper))
    }

    /// What it decides by.
    pub fn rule(&self) -> &Rule {
        &self.shared.rule
    }

    /// Takes `cost` for `key`, if the process believes that there is as much; a cost of zero only looks.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), where the store is asked; [`Timeout`](sysd_core::ErrorKind::Timeout)
    /// after [`call_wait_max`](LocalFirstConfig::call_wait_max).
    ///
    /// # Cost
    /// None of the store's, but where there are more keys than [`keys_max`](LocalFirstConfig::keys_max), or the store refuses to
    /// keep this one, by an error that is no outage: then an update, unless the cost is above the burst. What is never allowed needs no
    /// store; then `remaining` is zero where the store would have been asked.
    ///
    /// # Cancel safety
    /// It does not wait, but where it asks the store: then as [`RateLimiter::check`](crate::RateLimiter::check).
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let shared = &*self.shared;
        let partition = partition(&shared.prefix, key);
        // A key that the store will refuse is refused before it is admitted.
        let answer = match shared.store.limits().check_update(Key::lone(schema::RULES, &partition)) {
            Ok(()) => match shared.decide(&partition, cost) {
                Some(decision) => return Ok(decision),
                None => shared.ask(&partition, cost).await,
            },
            Err(error) => Err(error),
        };
        shared.meter.count(&answer);
        answer
    }

    /// How long ago the last round began in which all was posted: the `lag` of the guarantees, as far as it has come.
    pub fn lag(&self) -> Duration {
        let posted_us = self.shared.posted_us.load(Ordering::Relaxed);
        Duration::from_micros(steady_us(&self.shared.clock).saturating_sub(posted_us))
    }

    /// The last error of the store's in posting, of which no request was told. While postings fail, [`lag`](Self::lag) grows.
    pub fn last_error(&self) -> Option<KeeperError> {
        self.shared.errors.last()
    }

    /// How many keys this process knows of.
    pub fn keys(&self) -> usize {
        self.shared.views.len()
    }
}

impl<S: Store, C: Clock> LocalFirst<S, C> {
    /// By what is believed of a key.
    #[inline]
    fn decide(&self, partition: &KeyBytes, cost: u32) -> Option<Decision> {
        let now_us = steady_us(&self.clock);
        let take = |view: &mut View, tally: &mut Tally| {
            if view.is_refused() {
                return None;
            }
            let verdict = view.take(&self.bucket, now_us, cost);
            tally.count(Outcome::of(cost, self.bucket.burst(), verdict.allowed, || 0));
            Some(verdict)
        };
        let verdict = self.views.counting(partition, take).flatten()?;
        Some(Take::new(self.bucket, cost).decision(&verdict))
    }

    async fn ask(&self, partition: &KeyBytes, cost: u32) -> Result<Decision> {
        if cost > self.bucket.burst() {
            return Ok(Decision::new(Outcome::NeverAllowed, self.bucket.burst(), 0, 0));
        }
        let take = TakeAll::new([(&self.rule, cost)]);
        let verdict = self.run(StoreCall::of(cost), partition, &take).await?;
        Ok(*take.decision(&verdict).decision())
    }

    async fn run(&self, what: StoreCall, partition: &KeyBytes, take: &TakeAll) -> Result<JointVerdict> {
        let call = self.store.run(Key::lone(schema::RULES, partition), take);
        let call = counted(&self.clock, &self.meter, what, call);
        within(&self.clock, &self.meter, what, self.config.call_wait_max, call).await
    }

    /// So much of each key, or a look: whether all were posted, and those that were looked at.
    async fn post_all(this: &Arc<Self>, keys: Vec<(KeyBytes, u32)>) -> (bool, Vec<KeyBytes>) {
        // From here on each is answered, or told that it was not, also if this future is dropped.
        let post = |(key, cost)| Posting { shared: Arc::clone(this), key, is_sent: false, is_over: false }.post(cost);
        let posts: Vec<_> = keys.into_iter().map(post).collect();
        let (mut all_are_posted, mut looked) = (true, Vec::new());
        let tells = |posted| {
            all_are_posted &= matches!(posted, Posted::Taken);
            match posted {
                Posted::Outage(key) => return Some(key),
                Posted::Looked(key) => looked.push(key),
                Posted::Taken | Posted::Not => {}
            }
            None
        };
        until_outage(posts, POSTS_MAX, &this.ended_at, tells).await;
        (all_are_posted, looked)
    }
}

impl<S: Store, C: Clock> Kept for LocalFirst<S, C> {
    fn clock(&self) -> &impl Clock {
        &self.clock
    }

    fn every(&self) -> Duration {
        self.config.flush_every
    }

    /// Posts what is pending of all keys, those in doubt a round later: first the store is looked at. No round follows the last one, so that one
    /// posts them too.
    async fn round(this: &Arc<Self>, ends: bool) {
        let begun_us = steady_us(&this.clock);
        let mut keys: Vec<(KeyBytes, u32)> = Vec::new();
        let tally = this.views.retain(|key, view| {
            keys.extend(view.post(this.lifted.burst()).map(|cost| (KeyBytes::from_slice(key), cost)));
            !view.is_idle(begun_us)
        });
        this.meter.tell(tally);
        this.ended_at.turn(&mut keys);
        let (all_are_posted, looked) = Self::post_all(this, keys).await;
        if all_are_posted {
            this.posted_us.store(begun_us, Ordering::Relaxed);
        }
        if ends {
            let most = this.lifted.burst();
            let post = |key: KeyBytes| {
                let cost = this.views.with_known(&key, |view| view.post(most))??;
                Some((key, cost))
            };
            let again = looked.into_iter().filter_map(post).collect();
            Self::post_all(this, again).await;
        }
    }
}

// A table is between seven sixteenths and seven eighths full.
const _: () = assert!(Table::<View>::ENTRY_BYTES <= 150, "the docs say 150 bytes a key");
