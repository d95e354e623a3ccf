//! Deciding within the process for a limit that a fleet shares: how much closer to the speed of memory, for how much less
//! exactness.
//!
//! | mode | asks the store | admits beyond the limit, at most |
//! |---|---|---|
//! | central: [`RateLimiter`](crate::RateLimiter), [`RuleLimiter`](crate::RuleLimiter), [`JointLimiter`](crate::JointLimiter) | for each decision | nothing |
//! | [`ShardedLimiter`] | for each decision, one of several records; all of them where that one has too little | nothing |
//! | [`LeasedLimiter`] | for each batch of tokens | what processes hold: their number times `batch_max`, in the bursts of one window; nothing in the long run |
//! | [`LocalFirstLimiter`] | every `flush_every`, after the fact | `n * (burst + 2 * rate * lag)` for `n` processes, in any stretch of time |
//!
//! Who asks the store waits no longer than a deadline, a second unless the mode is told otherwise: `call_wait_max`, and
//! [`with_deadline`](ShardedLimiter::with_deadline) of the sharded one;
//! who waits for other requests' batches of the leased one ends after three times that at most. The central ones wait as the store does; a policy's limiter has a deadline of its own.
//!
//! By clocks that differ, and where processes or the store are started again: `docs/ratelimit.md`, "In a fleet".
//!
//! All of them keep the states that a `RuleLimiter` of the same name and rule keeps, but for the sharded one, so that some
//! processes may decide centrally while others lease.
//!
//! # A store that is slow or down
//!
//! The layers of `sysd_storage` go around the store: a breaker that leaves it alone while it keeps failing, and under it a timeout, which is to be no longer than the
//! deadline above, of the sharded one than a quarter of it, for of a call that the limiter gives up the breaker learns nothing. What each mode does then: `docs/ratelimit.md`, "A fleet on a store that is slow or down".
//!
//! ```
//! use std::time::Duration;
//! use sysd_core::Effect;
//! use sysd_ratelimit::{LeaseConfig, LeasedLimiter, LocalFirstLimiter, Rule, ShardedLimiter, TokenBucket, is_outage};
//! use sysd_storage::Memory;
//! use sysd_storage::layer::{Breaker, BreakerConfig, LayerExt, Timeout, TimeoutConfig};
//!
//! # futures::executor::block_on(async {
//! let timeout = TimeoutConfig { write_max: Duration::from_millis(100), ..Default::default() };
//! let breaker = BreakerConfig { calls_min: 5, ..Default::default() };
//! // Clones share what the breaker has seen.
//! let store = Memory::new().layer(Timeout::new(timeout)).layer(Breaker::new(breaker));
//!
//! let bucket = TokenBucket::new("1000/s".parse()?, 1_000)?;
//! let rule = Rule::new("each client", bucket)?;
//! let (leased, keeper) = LeasedLimiter::new(store.clone(), "leased", rule.clone(), LeaseConfig::new(100))?;
//! // On a runtime: `tokio::spawn(keeper)`.
//! # drop(keeper);
//! let (local_first, keeper) = LocalFirstLimiter::new(store.clone(), "local first", rule, Default::default())?;
//! // On a runtime: `tokio::spawn(keeper)`.
//! # drop(keeper);
//! let sharded = ShardedLimiter::new(store.clone(), "sharded", bucket, 8)?.with_deadline(Duration::from_millis(400));
//! for answer in [leased.check("ann", 1).await, local_first.check("ann", 1).await, sharded.check("ann", 1).await] {
//!     match answer {
//!         Ok(decision) => assert!(decision.is_allowed()),
//!         // The store is left alone, away or too slow: whether the request passes is a choice of the route's.
//!         Err(error) if is_outage(&error) => match error.effect() {
//!             Effect::None => println!("nothing was taken"),
//!             Effect::Unknown => println!("the call was sent: tokens may have been taken, and are lost then"),
//!         },
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! assert!(!store.interceptor().is_open());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Metrics
//!
//! With the feature `metrics` decisions are counted by mode and outcome, and calls of the store by what they ask for. What is decided within the process is told by
//! the keeper: a round later, and not at all without it. The names: `docs/ratelimit.md`, "Metrics".

mod gather;
mod keeper;
mod lease;
mod leased;
mod local_first;
#[cfg(feature = "metrics")]
mod meter;
#[cfg(not(feature = "metrics"))]
#[path = "fleet/no_meter.rs"]
mod meter;
mod seat;
mod sharded;
mod table;
mod view;

pub use keeper::KeeperError;
pub use leased::{LeaseConfig, LeasedLimiter};
pub use local_first::{LocalFirstConfig, LocalFirstLimiter};
pub use sharded::{SHARDS_MAX, ShardedLimiter};

use std::time::Duration;

use sysd_core::{Clock, Effect, Error, ErrorKind, Result, timeout};

use crate::elapsed::{micros, steady_us};
use crate::error::RateLimitError;
use meter::Meter;

/// How long a request asks the store unless the config says otherwise.
const CALL_WAIT_MAX: Duration = Duration::from_secs(1);

/// What the store is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreCall {
    /// To take tokens, for a request.
    Take,
    /// To say to a request what is there.
    Look,
    /// To take tokens back.
    Give,
    /// To note what was admitted, or to say first whether it is well.
    Post,
}

impl StoreCall {
    /// A request's, for so many tokens.
    const fn of(tokens: u32) -> Self {
        if tokens == 0 { Self::Look } else { Self::Take }
    }
}

#[cfg(feature = "metrics")]
impl StoreCall {
    const ALL: usize = 4;

    /// As a label.
    const fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Look => "look",
            Self::Give => "give",
            Self::Post => "post",
        }
    }
}

/// A call of the store's, counted.
async fn counted<T>(
    clock: &impl Clock,
    meter: &Meter,
    what: StoreCall,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let under_way = meter.begin(clock, what);
    let answer = call.await;
    under_way.answered(&answer);
    answer
}

/// Calls of the store's, one after the other, for at most so long.
async fn within<T: Send>(
    clock: &impl Clock,
    meter: &Meter,
    what: StoreCall,
    wait: Duration,
    calls: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    timeout(clock, wait, calls).await.unwrap_or_else(|_| {
        let late = Error::new(ErrorKind::Timeout, Effect::Unknown, "the store did not answer within call_wait_max");
        meter.failed(what, &late);
        Err(late)
    })
}

/// No field of a config may be zero: which are is told by name.
fn none_is_zero<const N: usize>(is_zero: [(&'static str, bool); N]) -> std::result::Result<(), RateLimitError> {
    is_zero.into_iter().find(|(_, is_zero)| *is_zero).map_or(Ok(()), |(field, _)| Err(RateLimitError::Fleet { field }))
}
