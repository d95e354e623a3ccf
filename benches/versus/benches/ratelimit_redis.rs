//! A decision on Redis, exact and central: ours beside `limitador`'s asynchronous Redis storage, 64 callers, in turns; and how
//! many of a limit each admits when 64 callers ask for one key at once. It needs a server: `cargo xtask servers up redis`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../../support/callers.rs"]
mod callers;
#[path = "../../support/pairs.rs"]
mod pairs;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use callers::timed;
use limitador::limit::Limit;
use limitador::storage::AsyncStorage;
use limitador::storage::redis::AsyncRedisStorage;
use limitador::{AsyncRateLimiter, AsyncRateLimiterBuilder};
use sysd_core::{SystemClock, SystemEntropy, random_base62};
use sysd_ratelimit::{FixedWindow, RateLimiter};
use sysd_storage::{RedisConfig, RedisStore};

const CALLERS: u64 = 64;
const KEYS: u64 = 100_000;
const LIMIT: u64 = 1_000;

async fn ours(url: &str, limit: u64) -> RateLimiter<RedisStore, FixedWindow> {
    let store = RedisStore::connect_with(url, RedisConfig::default(), SystemClock).await.unwrap();
    let window = FixedWindow::new(format!("{limit}/h").parse().unwrap());
    RateLimiter::new(store, &random_base62(12, &SystemEntropy), window)
}

async fn theirs(url: &str, limit: u64) -> (Arc<AsyncRateLimiter>, String) {
    let storage = AsyncRedisStorage::new(url).await.unwrap();
    let limiter = AsyncRateLimiterBuilder::new(AsyncStorage::with_counter_storage(Box::new(storage))).build();
    let namespace = random_base62(12, &SystemEntropy);
    limiter.add_limit(Limit::new(namespace.as_str(), limit, 3_600, vec![], vec!["user".try_into().unwrap()]));
    (Arc::new(limiter), namespace)
}

async fn decide(limiter: &AsyncRateLimiter, namespace: &str, name: String) -> bool {
    let context = HashMap::from([("user".to_owned(), name)]).into();
    !limiter.check_rate_limited_and_update(&namespace.into(), &context, 1, false).await.unwrap().limited
}

fn name(at: u64) -> String {
    format!("{:016x}", (at.wrapping_mul(61_153) % KEYS + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn main() {
    let url = std::env::var("SYSD_TEST_REDIS_URL").expect("SYSD_TEST_REDIS_URL is not set: `cargo xtask servers up redis`");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limiter = runtime.block_on(ours(&url, 4_000_000_000));
    let (peer, namespace) = runtime.block_on(theirs(&url, 4_000_000_000));
    let next = Arc::new(AtomicU64::new(0));
    pairs::compare(
        "limitador_redis_c64",
        |calls| {
            let (limiter, next) = (limiter.clone(), Arc::clone(&next));
            runtime.block_on(timed(calls, CALLERS, move |_| {
                let (limiter, at) = (limiter.clone(), next.fetch_add(1, Ordering::Relaxed));
                async move { assert!(limiter.check(name(at), 1).await.unwrap().is_allowed()) }
            }))
        },
        |calls| {
            let (peer, namespace, next) = (Arc::clone(&peer), namespace.clone(), Arc::clone(&next));
            runtime.block_on(timed(calls, CALLERS, move |_| {
                let (peer, namespace, at) = (Arc::clone(&peer), namespace.clone(), next.fetch_add(1, Ordering::Relaxed));
                async move { assert!(decide(&peer, &namespace, name(at)).await) }
            }))
        },
    );

    for _ in 0..3 {
        let limiter = runtime.block_on(ours(&url, LIMIT));
        let (peer, namespace) = runtime.block_on(theirs(&url, LIMIT));
        let (admitted, others) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&admitted);
        runtime.block_on(timed(4 * LIMIT, CALLERS, move |_| {
            let (limiter, count) = (limiter.clone(), Arc::clone(&count));
            async move { _ = count.fetch_add(u64::from(limiter.check("one", 1).await.unwrap().is_allowed()), Ordering::Relaxed) }
        }));
        let count = Arc::clone(&others);
        runtime.block_on(timed(4 * LIMIT, CALLERS, move |_| {
            let (peer, namespace, count) = (Arc::clone(&peer), namespace.clone(), Arc::clone(&count));
            async move { _ = count.fetch_add(u64::from(decide(&peer, &namespace, "one".to_owned()).await), Ordering::Relaxed) }
        }));
        println!(
            "limitador_redis_admits       ours {} of a limit of {LIMIT}; beside it {}",
            admitted.load(Ordering::Relaxed),
            others.load(Ordering::Relaxed)
        );
    }
}
