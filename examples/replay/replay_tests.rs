#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::ValueEnum as _;
use sysd::ratelimit::Rate;

use super::super::feed::Feeder;
use super::super::store::{Opened, open_memory};
use super::super::traffic::Traffic;
use super::super::{Decider, KeyBy};
use super::*;

const REQUESTS: u64 = 20_000;
/// For stores that take their time.
#[cfg(any(feature = "dynamodb", feature = "scylla"))]
const FEW: u64 = 3_000;

/// Replays made-up traffic against a limit that it meets often: what became of each request, and who was denied how often.
async fn decide_all(opened: Opened, requests: u64, algorithm: Decider) -> (Vec<bool>, Tally) {
    let lanes = opened.lanes(algorithm.limit(Rate::new(6, Duration::from_secs(3)).unwrap(), 5).unwrap());
    let (sender, mut batches) = mpsc::channel(4);
    let traffic = Traffic::new(requests, 1).unwrap();
    let feed = std::thread::spawn(move || Feeder::new(KeyBy::Ip, sender).feed_traffic(traffic));
    let mut verdicts = Vec::new();
    let tally = replay(&lanes, &mut batches, None, |batch| verdicts.extend_from_slice(batch)).await.unwrap();
    feed.join().unwrap();
    (verdicts, tally)
}

#[tokio::test]
async fn every_request_is_decided_and_counted() {
    let (verdicts, tally) = decide_all(open_memory(1), REQUESTS, Decider::TokenBucket).await;
    assert_eq!(verdicts.len() as u64, REQUESTS);
    assert_eq!(tally.allowed, verdicts.iter().filter(|&&is_allowed| is_allowed).count() as u64);
    assert_eq!(tally.allowed + tally.denied, REQUESTS);
    assert_eq!(tally.denied, tally.denied_by_key.values().sum::<u64>());
    assert!(tally.denied > 500 && tally.denied_by_key.len() > 10, "{} denied", tally.denied);
}

#[tokio::test]
async fn lanes_change_nothing() {
    let (one, many) = (
        decide_all(open_memory(1), REQUESTS, Decider::TokenBucket).await,
        decide_all(open_memory(7), REQUESTS, Decider::TokenBucket).await,
    );
    assert_same(&one, &many);
}

/// The same traffic on every other store, by every algorithm: request for request the same as on memory.
async fn decides_as_memory_does(url: &str, requests: u64) {
    for algorithm in Decider::value_variants() {
        let requests = if *algorithm == Decider::TokenBucket { requests } else { requests / 4 };
        let opened = super::super::store::open(url).await.unwrap();
        let on_store = decide_all(opened, requests, *algorithm).await;
        let in_memory = decide_all(open_memory(1), requests, *algorithm).await;
        assert!(in_memory.1.denied > 0, "{algorithm:?} denies nobody");
        assert_same(&on_store, &in_memory);
    }
}

#[cfg(any(feature = "redis", feature = "dynamodb", feature = "scylla"))]
fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

#[cfg(feature = "local")]
#[tokio::test]
async fn a_local_disk_decides_as_memory_does() {
    let directory = std::env::temp_dir().join(format!("sysd-replay-{}", std::process::id()));
    decides_as_memory_does(&format!("local:{}", directory.display()), REQUESTS).await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn redis_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_URL"), REQUESTS).await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_redis_cluster_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_CLUSTER_URL"), REQUESTS).await;
}

#[cfg(feature = "dynamodb")]
#[tokio::test]
async fn dynamodb_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_DYNAMODB_URL"), FEW).await;
}

#[cfg(feature = "scylla")]
#[tokio::test]
async fn cassandra_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_CASSANDRA_URL"), FEW).await;
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
