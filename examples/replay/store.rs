//! Which store the buckets lie in.

use sysd::core::{AnyStore, ManualClock};
use sysd::storage::Memory;

/// A store to replay on.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: AnyStore,
    /// Its URL, fit to be shown.
    pub(crate) shown: String,
    /// Buckets of an earlier replay must not be met again, so each has a limiter of its own.
    pub(crate) limiter_name: String,
    /// How many decisions of one moment to have under way.
    pub(crate) concurrency: usize,
}

/// Opens `memory` or a URL, by the replay's clock.
///
/// # Errors
/// In words: what is not a store, or could not be reached.
pub(crate) async fn open(url: &str, clock: &ManualClock) -> Result<Opened, String> {
    if url == "memory" || url == "memory:" {
        return Ok(Opened {
            store: AnyStore::new(Memory::with_clock(clock.clone())),
            shown: "memory".to_owned(),
            limiter_name: "r".to_owned(),
            concurrency: 1,
        });
    }
    if url.starts_with("redis://") || url.starts_with("rediss://") {
        return open_redis(url, clock).await;
    }
    Err(format!("--store {}: not a store; give memory, or a URL like redis://127.0.0.1:6379", without_password(url)))
}

#[cfg(feature = "redis")]
async fn open_redis(url: &str, clock: &ManualClock) -> Result<Opened, String> {
    use sysd::core::{SystemEntropy, random_base62};
    use sysd::storage::{RedisConfig, RedisStore};

    let shown = without_password(url);
    let store = RedisStore::connect_with(url, RedisConfig::default(), clock.clone())
        .await
        .map_err(|error| format!("--store {shown}: {error}"))?;
    let limiter_name = format!("replay {}", random_base62(12, &SystemEntropy));
    Ok(Opened { store: AnyStore::new(store), shown, limiter_name, concurrency: 64 })
}

#[cfg(not(feature = "redis"))]
#[allow(clippy::unused_async, reason = "its twin connects")]
async fn open_redis(_url: &str, _clock: &ManualClock) -> Result<Opened, String> {
    Err("--store: this build is without Redis; run `cargo run --release --features redis --example replay`".to_owned())
}

/// The URL without what must not be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.escape_debug().to_string() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // The path is a database's number; what is behind it may be a secret.
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}").escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
            ("redis://ann:p@ss@host:1", "redis://host:1"),
            ("redis://:secret@host/0?password=secret", "redis://host/0"),
            ("redis://host?x@y", "redis://host"),
            ("rubbish", "rubbish"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
