//! Reserving a cost before the work, and settling it after.

use std::time::Duration;

use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Error, Key, Result, Store, StoreExt};

use crate::error::RateLimitError;
use crate::model::{HoldId, JointDecision, Reservation, RuleSet, Settlement, fit_holds};
use crate::procedure::{AskHolds, HoldAsk, HoldsFound};
use crate::schema;
use crate::service::partition;

/// Several limits for every key, as a [`RuleLimiter`](crate::RuleLimiter) has them, where a cost may be reserved before the work and
/// settled when it is known; all of a key lies in one record.
///
/// For work whose cost shows only in the end: tokens of a language model, bytes of an answer, rows of a query.
///
/// ```
/// use std::time::Duration;
/// use sysd_core::SystemEntropy;
/// use sysd_ratelimit::{FixedWindow, HoldId, HoldLimiter, Reservation, Rule, RuleSet, Settlement};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let rules = RuleSet::new([Rule::new("tokens a day", FixedWindow::new("1000/d".parse()?))?])?;
/// let limiter = HoldLimiter::new(Memory::new(), "model", rules)?;
///
/// // At most 600 tokens; who does not come back within a minute gives them back.
/// let request = HoldId::mint(&SystemEntropy);
/// let held = limiter.reserve("ann", request, 600, Duration::from_secs(60)).await?;
/// assert!(held.is_held());
/// let other = limiter.reserve("ann", HoldId::mint(&SystemEntropy), 600, Duration::from_secs(60)).await?;
/// assert!(matches!(other, Reservation::Denied(_)), "400 are left");
///
/// // It was 150.
/// let Settlement::Settled { decision } = limiter.settle("ann", request, 150).await? else { panic!() };
/// assert_eq!(decision.decision().remaining(), 850);
/// assert!(!limiter.settle("ann", request, 150).await?.is_settled(), "once");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - What is reserved counts like what is taken: all holds and takes together are what the rules admit.
/// - A hold that is settled for less, cancelled, or not settled before its deadline gives back what it still weighs (see
///   [`GiveAll`](crate::GiveAll)): nothing is admitted that would have been denied had it not been reserved.
/// - One that is settled for more is charged the rest, whether there is as much or not: a bucket's debt then exceeds what it holds, a
///   window's count its limit, and nothing is admitted until time has repaid it. So the rules admit what they say, and beyond it what
///   callers declare to have overrun.
/// - All calls but [`check`](Self::check) may be sent again after a lost reply: a reservation under the same number takes nothing more,
///   a second settlement finds [`NotHeld`](Settlement::NotHeld).
///
/// These hold as far as the store keeps what it acknowledged.
///
/// # Cost
/// One update a call: a lock on memory, a round trip on Redis. Besides the states 9 bytes a key and, for each hold, 24 and up to 50 for
/// each rule; at most [`HOLDS_MAX`](crate::model::HOLDS_MAX) holds.
#[derive(Debug, Clone)]
pub struct HoldLimiter<S> {
    store: S,
    prefix: KeyBytes,
    rules: RuleSet,
}

impl<S: Store> HoldLimiter<S> {
    /// The limiter `name` on `store`. It shares nothing with a [`RuleLimiter`](crate::RuleLimiter) of the same name.
    ///
    /// # Errors
    /// [`RateLimitError::RecordTooLarge`] if the store could not hold the holds and the states of all rules of a key in one record.
    pub fn new(store: S, name: &str, rules: RuleSet) -> Result<Self, RateLimitError> {
        fit_holds(&rules, store.limits())?;
        Ok(Self { store, prefix: tuple::encode(&(name,)), rules })
    }

    /// What it decides by.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Takes `cost` for `key` from every rule for good, or from none; a cost of zero only looks.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check).
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the cost from all or from none.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<JointDecision> {
        let ask = self.ask(if cost == 0 { HoldAsk::Look } else { HoldAsk::Take { cost } });
        Ok(ask.decision(&self.run(key, &ask).await?))
    }

    /// Takes `cost` for `key` from every rule, or from none, and holds it for so long under the number `id`. What is held under that
    /// number already stays as it is, with a deadline that is no earlier.
    ///
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) naming `cost` or `hold` if that is zero. Else as
    /// [`RateLimiter::check`](crate::RateLimiter::check); with [`Effect::Unknown`](sysd_core::Effect::Unknown) it may be held: send
    /// again, or cancel.
    ///
    /// # Cancel safety
    /// A future that is dropped may have reserved: cancel, or leave it to the deadline.
    pub async fn reserve(
        &self,
        key: impl AsRef<[u8]> + Send,
        id: HoldId,
        cost: u32,
        hold: Duration,
    ) -> Result<Reservation> {
        if cost == 0 {
            return Err(Error::invalid("cost", "a cost of 0 holds nothing; give at least 1, or check"));
        }
        let ask = self.ask(HoldAsk::Reserve { id, cost, hold_us: crate::slots::hold_us(hold)? });
        Ok(ask.reserved(&self.run(key, &ask).await?))
    }

    /// Makes what is held under `id` what it really cost, of every rule.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check); whatever the effect, it may be sent again.
    ///
    /// # Cancel safety
    /// A future that is dropped has settled or not.
    pub async fn settle(&self, key: impl AsRef<[u8]> + Send, id: HoldId, cost: u32) -> Result<Settlement> {
        let ask = self.ask(HoldAsk::Settle { id, cost });
        Ok(ask.settled(&self.run(key, &ask).await?))
    }

    /// Gives back what is held under `id`: settles it for nothing.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    ///
    /// # Cancel safety
    /// As [`settle`](Self::settle).
    pub async fn cancel(&self, key: impl AsRef<[u8]> + Send, id: HoldId) -> Result<Settlement> {
        self.settle(key, id, 0).await
    }

    fn ask(&self, ask: HoldAsk) -> AskHolds {
        AskHolds::new(self.rules.rules(), ask)
    }

    async fn run(&self, key: impl AsRef<[u8]> + Send, ask: &AskHolds) -> Result<HoldsFound> {
        let partition = partition(&self.prefix, key);
        self.store.run(Key::lone(schema::HOLDS, &partition), ask).await
    }
}
