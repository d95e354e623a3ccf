//! A decision on Redis, exact and central: ours beside `limitador`'s asynchronous Redis storage, 64 callers, in turns; and how
//! many of a limit each admits when 64 callers of one limiter, and of each of two, ask for one key at once. It needs a server:
//! `cargo xtask servers up redis`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../../support/callers.rs"]
mod callers;
#[path = "../../support/pairs.rs"]
mod pairs;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use callers::timed;
use futures::future::join_all;
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
/// How often one limit is used up, for each number of limiters.
const ROUNDS: usize = 5;
const DAY_S: u64 = 86_400;

fn random_name() -> String {
    random_base62(12, &SystemEntropy)
}

/// Limiters of one name, each with a connection of its own, share what they count; a day, so that hardly a run meets its end.
async fn ours(url: &str, name: &str, limit: u64) -> RateLimiter<RedisStore, FixedWindow> {
    let store = RedisStore::connect_with(url, RedisConfig::default(), SystemClock).await.unwrap();
    RateLimiter::new(store, name, FixedWindow::new(format!("{limit}/d").parse().unwrap()))
}

async fn theirs(url: &str, namespace: &str, limit: u64) -> Arc<AsyncRateLimiter> {
    let storage = AsyncRedisStorage::new(url).await.unwrap();
    let limiter = AsyncRateLimiterBuilder::new(AsyncStorage::with_counter_storage(Box::new(storage))).build();
    assert!(limiter.add_limit(Limit::new(namespace, limit, DAY_S, vec![], vec!["user".try_into().unwrap()])));
    Arc::new(limiter)
}

async fn decide(limiter: &AsyncRateLimiter, namespace: &str, name: String) -> bool {
    let context = HashMap::from([("user".to_owned(), name)]).into();
    !limiter.check_rate_limited_and_update(&namespace.into(), &context, 1).await.unwrap().limited
}

fn name(at: u64) -> String {
    format!("{:016x}", (at.wrapping_mul(61_153) % KEYS + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn main() {
    let url =
        std::env::var("SYSD_TEST_REDIS_URL").expect("SYSD_TEST_REDIS_URL is not set: `cargo xtask servers up redis`");
    speed(&url);
    for limiters in [1, 2] {
        admits(&url, limiters);
    }
}

fn speed(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let namespace = random_name();
    let limiter = runtime.block_on(ours(url, &random_name(), 4_000_000_000));
    let peer = runtime.block_on(theirs(url, &namespace, 4_000_000_000));
    let next = Arc::new(AtomicU64::new(0));
    let our_calls = |calls| {
        let (limiter, next) = (limiter.clone(), Arc::clone(&next));
        runtime.block_on(timed(calls, CALLERS, move |_| {
            let (limiter, at) = (limiter.clone(), next.fetch_add(1, Ordering::Relaxed));
            async move { assert!(limiter.check(name(at), 1).await.unwrap().is_allowed()) }
        }))
    };
    let their_calls = |calls| {
        let (peer, namespace, next) = (Arc::clone(&peer), namespace.clone(), Arc::clone(&next));
        runtime.block_on(timed(calls, CALLERS, move |_| {
            let (peer, namespace, at) = (Arc::clone(&peer), namespace.clone(), next.fetch_add(1, Ordering::Relaxed));
            async move { assert!(decide(&peer, &namespace, name(at)).await) }
        }))
    };
    // All states are there before anything is measured.
    our_calls(KEYS);
    their_calls(KEYS);
    pairs::compare("limitador_redis_c64", our_calls, their_calls);
}

/// Uses up a limit on one key, by so many limiters that share it, and prints how much of it was admitted.
///
/// Two threads, since callers that take turns on one ask in step, and are then always admitted alike.
fn admits(url: &str, limiters: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut our_counts, mut their_counts) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let name = random_name();
        let asks = runtime.block_on(join_all((0..limiters).map(async |_| {
            let limiter = ours(url, &name, LIMIT).await;
            move || {
                let limiter = limiter.clone();
                async move { limiter.check("one", 1).await.unwrap().is_allowed() }
            }
        })));
        our_counts.push(runtime.block_on(admitted(asks)));
        let asks = runtime.block_on(join_all((0..limiters).map(async |_| {
            let peer = theirs(url, &name, LIMIT).await;
            let namespace = name.clone();
            move || {
                let (peer, namespace) = (Arc::clone(&peer), namespace.clone());
                async move { decide(&peer, &namespace, "one".to_owned()).await }
            }
        })));
        their_counts.push(runtime.block_on(admitted(asks)));
    }
    let summary = |counts: &mut Vec<u64>| {
        counts.sort_unstable();
        format!("min {} median {} max {}", counts[0], counts[ROUNDS / 2], counts[ROUNDS - 1])
    };
    let row = format!("limitador_redis_admits_{limiters}x{CALLERS}");
    println!("{row:<28} of {LIMIT}: ours {}; beside it {}", summary(&mut our_counts), summary(&mut their_counts));
    assert!(our_counts.iter().all(|&count| count == LIMIT), "ours admitted {our_counts:?} of a limit of {LIMIT}");
    // One that admits fewer, or all that one limiter is asked for, is not doing the same work.
    let is_limit = |count: &u64| (LIMIT..4 * LIMIT).contains(count);
    assert!(their_counts.iter().all(is_limit), "beside it {their_counts:?} were admitted of a limit of {LIMIT}");
}

/// How many calls are admitted when all callers of each limiter ask at once, four times as often as the limit.
async fn admitted<F>(asks: Vec<impl Fn() -> F + Clone + Send + 'static>) -> u64
where
    F: Future<Output = bool> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    join_all(asks.into_iter().map(|ask| {
        let count = Arc::clone(&count);
        timed(4 * LIMIT, CALLERS, move |_| {
            let (asked, count) = (ask(), Arc::clone(&count));
            async move { _ = count.fetch_add(u64::from(asked.await), Ordering::Relaxed) }
        })
    }))
    .await;
    count.load(Ordering::Relaxed)
}
