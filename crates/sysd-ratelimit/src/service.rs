//! The limiter on a store.

use sysd_core::tuple::{self, Element, KeyBytes};
use sysd_core::{Key, Result, Store, StoreExt};

use crate::algorithm::Algorithm;
use crate::error::RateLimitError;
use crate::model::{Decision, JointDecision, RuleSet, TokenBucket, fit_record};
use crate::procedure::TakeAll;
use crate::schema;

/// A limit for every key, by any [`Algorithm`], kept in a store.
///
/// Limiters with different names share a store without sharing anything else; those with the same name and algorithm, in
/// any process, share their states. The time is the store's: its clock, or its server's.
///
/// # Guarantees
/// - A key is granted what its algorithm says and no more, by all processes together: of a [`TokenBucket`] at most
///   `burst + rate * t` tokens over any stretch of time `t`; the others say it in their docs.
/// - Nothing is lost to rounding: a client that waits out its `retry_after` is admitted, if nobody
///   else took the tokens meanwhile, and a microsecond earlier it is not.
/// - A refusal takes nothing and writes nothing.
/// - A clock that goes back gives nothing: time stands still until the clock has caught up.
///
/// These hold as far as the store keeps what it acknowledged: where `limits().durability` is less
/// than durable, a crash may forget a state, and the key begins anew.
#[derive(Debug, Clone)]
pub struct RateLimiter<S, A = TokenBucket> {
    store: S,
    prefix: KeyBytes,
    algorithm: A,
}

impl<S: Store, A: Algorithm> RateLimiter<S, A> {
    /// The limiter `name` on `store`.
    pub fn new(store: S, name: &str, algorithm: A) -> Self {
        Self { store, prefix: tuple::encode(&(name,)), algorithm }
    }

    /// What it decides by.
    pub fn algorithm(&self) -> &A {
        &self.algorithm
    }

    /// Takes `cost` for `key`, if there is as much; a cost of zero only looks.
    ///
    /// A refusal is an answer, not an error: see [`Decision`].
    ///
    /// # Errors
    /// As [`Store::update`]: the question could not be answered, and whether to let the request pass
    /// is the caller's to choose. A key longer than the store's limit is
    /// [`TooLarge`](sysd_core::ErrorKind::TooLarge) naming `partition`; stored bytes that are no
    /// state are [`Corrupt`](sysd_core::ErrorKind::Corrupt). With
    /// [`Effect::Unknown`](sysd_core::Effect::Unknown) the cost may have been taken.
    ///
    /// # Cost
    /// One update: a lock on memory, a round trip on Redis.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the cost or not; never a part of it.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let partition = partition(&self.prefix, key);
        let take = self.algorithm.take(cost);
        let output = self.store.run(Key::lone(self.algorithm.space(), &partition), &take).await?;
        Ok(self.algorithm.decision(&take, &output))
    }
}

/// Several limits for every key, which a request must all pass; kept in a store, all those of a key in one record.
///
/// ```
/// use sysd_ratelimit::{FixedWindow, RuleLimiter, Rule, RuleSet, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let rules = RuleSet::new([
///     Rule::new("bursts", TokenBucket::new("10/s".parse()?, 2)?)?,
///     Rule::new("daily", FixedWindow::new("1000/d".parse()?))?,
/// ])?;
/// let limiter = RuleLimiter::new(Memory::new(), "api", rules)?;
/// assert!(limiter.check("ann", 2).await?.is_allowed());
///
/// let denied = limiter.check("ann", 1).await?;
/// assert_eq!(limiter.rules().rules()[denied.bound_by()].name(), "bursts");
/// // Nothing was taken of the day's.
/// assert_eq!(denied.each()[1].remaining(), 998);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// Those of a [`RateLimiter`], for each rule; and what one rule denies takes nothing from the others, at no moment and for no
/// other caller.
#[derive(Debug, Clone)]
pub struct RuleLimiter<S> {
    store: S,
    prefix: KeyBytes,
    rules: RuleSet,
}

impl<S: Store> RuleLimiter<S> {
    /// The limiter `name` on `store`.
    ///
    /// # Errors
    /// [`RateLimitError::RecordTooLarge`] if the store could not hold the states of all rules in one record.
    pub fn new(store: S, name: &str, rules: RuleSet) -> Result<Self, RateLimitError> {
        fit_record(rules.rules().iter(), store.limits())?;
        Ok(Self { store, prefix: tuple::encode(&(name,)), rules })
    }

    /// What it decides by.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Takes `cost` for `key` from every rule, or from none; a cost of zero only looks.
    ///
    /// # Errors
    /// As [`RateLimiter::check`].
    ///
    /// # Cost
    /// One update: a lock on memory, a round trip on Redis.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the cost from all or from none.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<JointDecision> {
        let partition = partition(&self.prefix, key);
        let take = TakeAll::new(self.rules.rules().iter().map(|rule| (rule, cost)));
        let output = self.store.run(Key::lone(schema::RULES, &partition), &take).await?;
        Ok(take.decision(&output))
    }
}

/// Where the states of a limiter's key lie.
pub(crate) fn partition(prefix: &KeyBytes, key: impl AsRef<[u8]>) -> KeyBytes {
    // A clone would copy byte by byte.
    let mut partition = KeyBytes::from_slice(prefix);
    key.as_ref().encode_to(&mut partition);
    partition
}
