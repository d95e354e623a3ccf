//! Leases on any store: one conditional record a name.
//!
//! ```
//! use std::time::Duration;
//! use sysd_core::lease::{Acquired, Leases};
//! use sysd_storage::{LeaseConfig, Memory, RecordLeases};
//!
//! # futures::executor::block_on(async {
//! let leases = RecordLeases::new(Memory::new(), LeaseConfig::default());
//! let (ann, bob) = (leases.mint_holder(), leases.mint_holder());
//! let minute = Duration::from_secs(60);
//! let Acquired::Held(lease) = leases.acquire(b"printer", ann, minute).await? else { panic!() };
//! assert!(matches!(leases.acquire(b"printer", bob, minute).await?, Acquired::Taken { .. }));
//! leases.release(&lease).await?;
//! let Acquired::Held(newer) = leases.acquire(b"printer", bob, minute).await? else { panic!() };
//! assert!(newer.token > lease.token);
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # States
//! A name's record is absent, *held* (token, holder, deadline) or *free* (token, no holder). Each call is one procedure on
//! it, atomic, so there is nothing between two steps to be cut off at: a call happened or not.
//!
//! | call | what it needs | what it leaves |
//! |---|---|---|
//! | acquire | no holder, or the deadline is now or past | held, token `max(last + 1, now in microseconds)` |
//! | acquire | held by the caller | held, same token, deadline no earlier |
//! | renew | held under this token, before the deadline | the same with a later deadline |
//! | release | as renew | free, same token |
//!
//! # Invariants
//! - A token belongs to one acquisition. Tokens rise: the record stays [`LeaseConfig::keep_for`] longer than its lease, and
//!   were it lost (a failover of a store that acknowledges before it is durable), tokens are no lower than the time.
//! - At most one holder before the deadline; at the deadline, to the microsecond, none.
//!
//! # Clocks
//! Deadlines are counted by the clock that [`Limits::clock`](sysd_core::Limits::clock) names: the server's, or each
//! caller's. A caller whose clock is ahead sees others' leases end early by as much, one behind, late. What a
//! holder is told ([`Lease::until`]) is by its own clock, from before the call. Whatever clocks do, two holders
//! never share a token, and the later one's is higher, unless every clock steps back by more than `keep_for`: that is
//! what protects the resource.

mod procedure;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sysd_core::lease::{Acquired, HolderId, Lease, LeaseLost, Leases, Renewed};
use sysd_core::{
    Clock, Effect, Entropy, Error, ErrorKind, Key, KeyBytes, Result, RetryPolicy, Space, Store, StoreExt as _,
    SystemClock, SystemEntropy, Timestamp, timeout, tuple,
};

use crate::attempts::{Attempts, timed_out};

#[doc(hidden)]
pub use procedure::{Answer, Ask, AskLease, Bug};

const SPACE: Space = Space::conditional("lease");
const NAME_BYTES_MAX: usize = 256;

/// How leases are asked for. Start from the default.
#[derive(Clone)]
pub struct LeaseConfig {
    /// How much longer than its lease a record stays, so that tokens rise. Longer than any clock steps back.
    pub keep_for: Duration,
    /// How long one storage call may take before its effect counts as unknown.
    pub call_wait_max: Duration,
    /// How a call that failed is tried again; calls are idempotent.
    pub retry: RetryPolicy,
    /// The time: of waits, and of [`Lease::until`].
    pub clock: Arc<dyn Clock>,
    /// Mints holders.
    pub entropy: Arc<dyn Entropy>,
    /// A deliberate bug.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

impl Default for LeaseConfig {
    /// Records stay a week, calls take a second at most, four attempts, by the system's clock.
    fn default() -> Self {
        Self {
            keep_for: Duration::from_secs(7 * 24 * 3_600),
            call_wait_max: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

impl fmt::Debug for LeaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseConfig")
            .field("keep_for", &self.keep_for)
            .field("call_wait_max", &self.call_wait_max)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// Leases on a store. Clones share it.
///
/// # Cost
/// One round trip a call ([`Store::update`]); on stores that run procedures by compare-and-set, a read and a write.
#[derive(Clone, Debug)]
pub struct RecordLeases<S> {
    store: S,
    config: LeaseConfig,
}

/// Why a lease is kept alive no longer.
#[derive(Debug)]
pub enum KeepAliveEnd {
    /// The store says so.
    Lost(LeaseLost),
    /// No renewal got through before the deadline; the last error, if there was one.
    Unanswered(Option<Error>),
    /// The store refuses for good.
    Failed(Error),
}

impl<S: Store> RecordLeases<S> {
    /// Leases on `store`.
    pub const fn new(store: S, config: LeaseConfig) -> Self {
        Self { store, config }
    }

    /// A fresh id for a holder.
    pub fn mint_holder(&self) -> HolderId {
        HolderId::mint(&self.config.entropy)
    }

    fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    async fn ask(&self, name: &[u8], holder: HolderId, ask: Ask) -> Result<Answer> {
        let partition = tuple::encode(&(name,));
        let procedure = AskLease {
            holder,
            ask,
            keep_for: self.config.keep_for.max(Duration::from_micros(1)),
            #[cfg(feature = "seeded-bugs")]
            bug: self.config.bug,
        };
        let config = &self.config;
        let mut attempts = Attempts::new(&config.retry, &config.clock, &config.entropy);
        loop {
            let call = self.store.run(Key::lone(SPACE, &partition), &procedure);
            let answer = timeout(&config.clock, config.call_wait_max, call).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::Unknown))) {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Renews `lease` after each third of `hold`, until it is lost; then answers why. Run it beside the work, and stop that
    /// when it ends.
    ///
    /// # Guarantees
    /// It ends no later than the deadline of the last renewal that got through, by the configured clock.
    ///
    /// # Cancel safety
    /// Dropped, it renews no more; the lease ends with its deadline, or is released.
    pub fn keep_alive(&self, mut lease: Lease, hold: Duration) -> impl Future<Output = KeepAliveEnd> + Send + use<S>
    where
        S: Clone,
    {
        let this = self.clone();
        async move {
            let clock = Arc::clone(&this.config.clock);
            let mut wait = hold / 3;
            let mut last_error = None;
            loop {
                clock.sleep_until(clock.now().saturating_add(wait).min(lease.until)).await;
                let left = lease.until.saturating_since(clock.now());
                if left.is_zero() {
                    return KeepAliveEnd::Unanswered(last_error);
                }
                match timeout(&clock, left, this.renew(&lease, hold)).await {
                    Ok(Ok(Renewed::Held(renewed))) => {
                        lease = renewed;
                        wait = hold / 3;
                    }
                    Ok(Ok(Renewed::Lost(why))) => return KeepAliveEnd::Lost(why),
                    Ok(Err(error)) if !error.kind().is_transient() => return KeepAliveEnd::Failed(error),
                    Ok(Err(error)) => {
                        last_error = Some(error);
                        wait = hold / 12;
                    }
                    Err(_) => return KeepAliveEnd::Unanswered(last_error),
                }
            }
        }
    }
}

fn check(name: &[u8], hold: Duration) -> Result<()> {
    match name.len() {
        0 => Err(Error::invalid("name", "a lease's name has at least one byte")),
        size if size > NAME_BYTES_MAX => Err(Error::too_large("name", size, NAME_BYTES_MAX)),
        _ if hold < Duration::from_micros(1) => Err(Error::invalid("hold", "hold it for at least a microsecond")),
        _ => Ok(()),
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, Effect::Unknown, "a lease's record answered another question")
}

impl<S: Store> Leases for RecordLeases<S> {
    async fn acquire(&self, name: &[u8], holder: HolderId, hold: Duration) -> Result<Acquired> {
        check(name, hold)?;
        let until = self.now().saturating_add(hold);
        match self.ask(name, holder, Ask::Acquire(hold)).await? {
            Answer::Held(token) => Ok(Acquired::Held(Lease { name: KeyBytes::from_slice(name), holder, token, until })),
            Answer::Taken(token, left) => Ok(Acquired::Taken { token, left }),
            Answer::Lost(_) => Err(unexpected()),
        }
    }

    async fn renew(&self, lease: &Lease, hold: Duration) -> Result<Renewed> {
        check(&lease.name, hold)?;
        let until = self.now().saturating_add(hold).max(lease.until);
        match self.ask(&lease.name, lease.holder, Ask::Renew(lease.token, hold)).await? {
            Answer::Held(_) => Ok(Renewed::Held(Lease { until, ..lease.clone() })),
            Answer::Lost(why) => Ok(Renewed::Lost(why)),
            Answer::Taken(..) => Err(unexpected()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<Option<LeaseLost>> {
        match self.ask(&lease.name, lease.holder, Ask::Release(lease.token)).await? {
            Answer::Lost(LeaseLost::Released) => Ok(None),
            Answer::Lost(why) => Ok(Some(why)),
            _ => Err(unexpected()),
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
