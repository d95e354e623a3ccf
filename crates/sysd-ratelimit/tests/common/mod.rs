//! What several tests share.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[cfg(feature = "metrics")]
pub(crate) mod numbers;

use sysd_core::{ManualClock, SystemEntropy, Timestamp, random_base62};
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
