//! What several tests share.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

pub(crate) mod fleets;
#[cfg(feature = "metrics")]
pub(crate) mod numbers;

use sysd_core::{ManualClock, SystemEntropy, Timestamp, random_base62};
#[cfg(feature = "policy")]
use sysd_ratelimit::{Policy, PolicyLimiter};
#[cfg(feature = "policy")]
use sysd_storage::Memory;
use sysd_storage::{RedisConfig, RedisStore};

/// The seeds of a simulation: the one in `SYSD_SIM_SEED`, else so many.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("SYSD_SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..count,
    }
}

/// A clock that is driven.
pub(crate) fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros_saturating(1_800_000_000_000_000))
}

/// Where a server is.
pub(crate) fn url(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

/// A store on the server of this variable, with keys of its own.
pub(crate) async fn on_redis(variable: &str, clock: ManualClock) -> RedisStore<ManualClock> {
    let config = RedisConfig { prefix: random_base62(12, &SystemEntropy), ..RedisConfig::default() };
    RedisStore::connect_with(&url(variable), config, clock).await.unwrap()
}

/// By the policy of this text, in memory, by this clock.
#[cfg(feature = "policy")]
pub(crate) fn limiter(text: &str, clock: &ManualClock) -> PolicyLimiter<Memory<ManualClock>> {
    let policy = Policy::from_toml("limits.toml", text).unwrap();
    PolicyLimiter::new(Memory::with_clock(clock.clone()), policy).unwrap()
}
