//! Concurrency limits: slots that are held.

use std::time::Duration;

use sysd_core::lease::HolderId;
use sysd_core::tuple::{self, KeyBytes};
use sysd_core::{Error, Key, Result, Store, StoreExt};

use crate::model::{Concurrency, SlotOutcome, SlotRelease, SlotRenewal, SlotUse};
use crate::procedure::{AskSlots, SlotAsk, SlotsFound};
use crate::schema;
use crate::service::partition;

/// A concurrency limit for every key, kept in a store: so much may be under way at the same time, by all processes together.
///
/// Who begins acquires a slot, who ends releases it. Each slot has a deadline: one whose holder has crashed, or whose release was
/// lost, returns then. Who needs longer renews.
///
/// ```
/// use std::time::Duration;
/// use sysd_core::SystemEntropy;
/// use sysd_core::lease::HolderId;
/// use sysd_ratelimit::{Concurrency, ConcurrencyLimiter, SlotOutcome, SlotRelease};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let limiter = ConcurrencyLimiter::new(Memory::new(), "exports", Concurrency::new(1)?);
/// let minute = Duration::from_secs(60);
/// let ann = HolderId::mint(&SystemEntropy);
/// assert!(limiter.acquire("customer 7", ann, 1, minute).await?.granted().is_some());
///
/// let bob = HolderId::mint(&SystemEntropy);
/// let SlotOutcome::Denied { retry_after, usage } = limiter.acquire("customer 7", bob, 1, minute).await? else { panic!() };
/// assert!(retry_after <= minute);
/// assert_eq!(usage.in_use, 1);
///
/// assert_eq!(limiter.release("customer 7", ann).await?, SlotRelease::Released);
/// assert!(limiter.acquire("customer 7", bob, 1, minute).await?.granted().is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - Before their deadlines, never more than the limit are held, by all processes together.
/// - A slot is held for as long as was asked, by the store's clock; one that goes back makes it longer, and never shorter.
/// - All calls may be sent again after a lost reply: acquiring again under the same holder takes nothing more, and releasing again
///   finds it [`Lost`](SlotRelease::Lost). An acquisition that arrives after its holder has let go holds until its deadline.
///
/// These hold as far as the store keeps what it acknowledged. By [`ClockAuthority::Client`](sysd_core::ClockAuthority) a process
/// whose clock is ahead sees the slots of others end early, by as much.
///
/// # Cost
/// One update a call: a lock on memory, a round trip on Redis. 8 bytes a key and 25 for each holder, at most 25,008.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimiter<S> {
    store: S,
    prefix: KeyBytes,
    limit: Concurrency,
}

impl<S: Store> ConcurrencyLimiter<S> {
    /// The limiter `name` on `store`. Those of the same name share their slots; where their limits differ, each holds to its own.
    pub fn new(store: S, name: &str, limit: Concurrency) -> Self {
        Self { store, prefix: tuple::encode(&(name,)), limit }
    }

    /// The limit.
    pub fn limit(&self) -> Concurrency {
        self.limit
    }

    /// Acquires `cost` slots of `key` for `holder`, for so long. If `holder` has some, it keeps these, their cost as it is, and the
    /// deadline no earlier: so it may be sent again after a lost reply.
    ///
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) naming `cost` or `hold` if that is zero. Else as
    /// [`RateLimiter::check`](crate::RateLimiter::check); with [`Effect::Unknown`](sysd_core::Effect::Unknown) it may be held: send
    /// again, or release.
    ///
    /// # Cancel safety
    /// A future that is dropped may have acquired: release, or leave it to the deadline.
    pub async fn acquire(
        &self,
        key: impl AsRef<[u8]> + Send,
        holder: HolderId,
        cost: u32,
        hold: Duration,
    ) -> Result<SlotOutcome> {
        if cost == 0 {
            return Err(Error::invalid("cost", "a cost of 0 holds nothing; give at least 1, or look at the usage"));
        }
        let ask = AskSlots::new(self.limit, holder, SlotAsk::Acquire { cost, hold_us: hold_us(hold)? });
        Ok(ask.acquired(&self.run(key, &ask).await?))
    }

    /// Holds on for `hold` from now, or longer if that was so.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// A future that is dropped has renewed or not.
    pub async fn renew(&self, key: impl AsRef<[u8]> + Send, holder: HolderId, hold: Duration) -> Result<SlotRenewal> {
        let ask = AskSlots::new(self.limit, holder, SlotAsk::Renew { hold_us: hold_us(hold)? });
        Ok(ask.renewed(&self.run(key, &ask).await?))
    }

    /// Lets go.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check); whatever the effect, it may be sent again.
    ///
    /// # Cancel safety
    /// A future that is dropped has released or not; if not, the deadline does.
    pub async fn release(&self, key: impl AsRef<[u8]> + Send, holder: HolderId) -> Result<SlotRelease> {
        let ask = AskSlots::new(self.limit, holder, SlotAsk::Release);
        Ok(ask.released(&self.run(key, &ask).await?))
    }

    /// What the slots of `key` are doing.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check).
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn usage(&self, key: impl AsRef<[u8]> + Send) -> Result<SlotUse> {
        let ask = AskSlots::look(self.limit);
        Ok(ask.usage(&self.run(key, &ask).await?))
    }

    async fn run(&self, key: impl AsRef<[u8]> + Send, ask: &AskSlots) -> Result<SlotsFound> {
        let partition = partition(&self.prefix, key);
        self.store.run(Key::lone(schema::SLOTS, &partition), ask).await
    }
}

/// Whole microseconds, rounded up.
pub(crate) fn hold_us(hold: Duration) -> Result<u64> {
    if hold.is_zero() {
        return Err(Error::invalid("hold", "a hold of no time at all; give at least a microsecond"));
    }
    Ok(u64::try_from(hold.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX))
}
