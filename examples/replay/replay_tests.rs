#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd::core::AnyStore;
use sysd::ratelimit::{Rate, TokenBucket};
use sysd::storage::Memory;

use super::super::KeyBy;
use super::super::feed::Feeder;
use super::super::traffic::Traffic;
use super::*;

const REQUESTS: u64 = 20_000;

/// A limit that made-up traffic meets often.
fn bucket() -> TokenBucket {
    TokenBucket::new(Rate::per_second(2).unwrap(), 5).unwrap()
}

/// Replays made-up traffic: what became of each request, and who was denied how often.
async fn decide_all(store: AnyStore, clock: &ManualClock, name: &str, concurrency: usize) -> (Vec<bool>, Tally) {
    let limiter = RateLimiter::new(store, name, bucket());
    let (sender, mut batches) = mpsc::channel(4);
    let traffic = Traffic::new(REQUESTS, 1).unwrap();
    let feed = std::thread::spawn(move || Feeder::new(KeyBy::Ip, sender).feed_traffic(traffic));
    let mut verdicts = Vec::new();
    let pace = Pace { speed: None, concurrency };
    let tally =
        replay(&limiter, clock, &mut batches, pace, |_, batch| verdicts.extend_from_slice(batch)).await.unwrap();
    feed.join().unwrap();
    (verdicts, tally)
}

async fn on_memory(concurrency: usize) -> (Vec<bool>, Tally) {
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    decide_all(AnyStore::new(Memory::with_clock(clock.clone())), &clock, "r", concurrency).await
}

#[tokio::test]
async fn every_request_is_decided_and_counted() {
    let (verdicts, tally) = on_memory(1).await;
    assert_eq!(verdicts.len() as u64, REQUESTS);
    assert_eq!(tally.allowed, verdicts.iter().filter(|&&is_allowed| is_allowed).count() as u64);
    assert_eq!(tally.allowed + tally.denied, REQUESTS);
    assert_eq!(tally.denied, tally.denied_by_key.values().sum::<u64>());
    assert!(tally.denied > 500 && tally.denied_by_key.len() > 10, "{} denied", tally.denied);
}

#[tokio::test]
async fn deciding_a_moment_together_changes_nothing() {
    let ((one_by_one, _), (together, _)) = (on_memory(1).await, on_memory(64).await);
    assert!(one_by_one == together);
}

/// The same traffic on Redis, many decisions under way together: request for request the same as on memory.
#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_decides_as_memory_does() {
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        panic!("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints")
    };
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    let opened = super::super::store::open(&url, &clock).await.unwrap();
    let (on_redis, redis_tally) = decide_all(opened.store, &clock, &opened.limiter_name, opened.concurrency).await;
    let (on_memory, memory_tally) = on_memory(1).await;
    let first_apart = on_redis.iter().zip(&on_memory).position(|(redis, memory)| redis != memory);
    assert_eq!((first_apart, on_redis.len()), (None, on_memory.len()));
    assert_eq!(redis_tally.denied_by_key, memory_tally.denied_by_key);
}

#[test]
fn speed_scales_time() {
    let hour = Duration::from_secs(3_600);
    assert_eq!(scaled(hour, 60.0), Duration::from_secs(60));
    assert_eq!(scaled(hour, 0.5), 2 * hour);
    assert_eq!(scaled(hour, f64::MIN_POSITIVE), Duration::MAX);
}
