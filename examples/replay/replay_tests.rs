#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd::ratelimit::{Rate, TokenBucket};

use super::super::KeyBy;
use super::super::feed::Feeder;
use super::super::store::{Opened, open_memory};
use super::super::traffic::Traffic;
use super::*;

const REQUESTS: u64 = 20_000;

/// Replays made-up traffic against a limit that it meets often: what became of each request, and who was denied how often.
async fn decide_all(opened: Opened) -> (Vec<bool>, Tally) {
    let lanes = opened.lanes(TokenBucket::new(Rate::per_second(2).unwrap(), 5).unwrap());
    let (sender, mut batches) = mpsc::channel(4);
    let traffic = Traffic::new(REQUESTS, 1).unwrap();
    let feed = std::thread::spawn(move || Feeder::new(KeyBy::Ip, sender).feed_traffic(traffic));
    let mut verdicts = Vec::new();
    let tally = replay(&lanes, &mut batches, None, |batch| verdicts.extend_from_slice(batch)).await.unwrap();
    feed.join().unwrap();
    (verdicts, tally)
}

#[tokio::test]
async fn every_request_is_decided_and_counted() {
    let (verdicts, tally) = decide_all(open_memory(1)).await;
    assert_eq!(verdicts.len() as u64, REQUESTS);
    assert_eq!(tally.allowed, verdicts.iter().filter(|&&is_allowed| is_allowed).count() as u64);
    assert_eq!(tally.allowed + tally.denied, REQUESTS);
    assert_eq!(tally.denied, tally.denied_by_key.values().sum::<u64>());
    assert!(tally.denied > 500 && tally.denied_by_key.len() > 10, "{} denied", tally.denied);
}

#[tokio::test]
async fn lanes_change_nothing() {
    let (one, many) = (decide_all(open_memory(1)).await, decide_all(open_memory(7)).await);
    assert_same(&one, &many);
}

/// The same traffic on Redis: request for request the same as on memory.
#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_decides_as_memory_does() {
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        panic!("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints")
    };
    let on_redis = decide_all(super::super::store::open(&url).await.unwrap()).await;
    assert_same(&on_redis, &decide_all(open_memory(1)).await);
}

#[track_caller]
fn assert_same(one: &(Vec<bool>, Tally), other: &(Vec<bool>, Tally)) {
    let first_apart = one.0.iter().zip(&other.0).position(|(one, other)| one != other);
    assert_eq!((first_apart, one.0.len()), (None, other.0.len()));
    assert_eq!(one.1.denied_by_key, other.1.denied_by_key);
}

#[test]
fn speed_scales_time() {
    let hour = Duration::from_secs(3_600);
    assert_eq!(scaled(hour, 60.0), Duration::from_secs(60));
    assert_eq!(scaled(hour, 0.5), 2 * hour);
    assert_eq!(scaled(hour, f64::MIN_POSITIVE), Duration::MAX);
}
