//! The shared log on real servers: two writers at once, and a server that is killed.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sysd_core::{AnyStore, Durability, Effect, SystemClock};
use sysd_storage::{Follower, RedisConfig, RedisStore, Replica, ReplicaConfig};
use sysd_testkit::Counters;
use sysd_testkit::counters::Add;

use support::log::two_writers;
use support::server::Private;
use support::{cluster_url, config, server_url};

const LOG: &str = "bank";

async fn connect(url: &str, config: RedisConfig) -> RedisStore {
    RedisStore::connect_with(url, config, SystemClock).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_share_a_log_on_redis() {
    two_writers(connect(&server_url(), config()).await, LOG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_share_a_log_on_a_cluster() {
    two_writers(connect(&cluster_url(), config()).await, LOG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_share_a_log_on_an_erased_store() {
    two_writers(AnyStore::new(connect(&server_url(), config()).await), LOG).await;
}

/// Submits until `end`; answers what was acknowledged, and what may have happened.
async fn submit_until(replica: Replica<Counters>, caller: u64, end: Instant) -> (Vec<u64>, Vec<u64>) {
    let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
    for at in 0.. {
        if Instant::now() >= end {
            break;
        }
        let id = caller << 32 | at;
        match replica.submit(Add { id, counter: 1, amount: 1 }).await {
            Ok(_) => acknowledged.push(id),
            Err(error) if error.effect() == Effect::Unknown => unknown.push(id),
            Err(_) => {}
        }
    }
    (acknowledged, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_acknowledged_and_applies_nothing_twice() {
    let mut server = Private::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let redis = RedisConfig { durability: Durability::Durable, ..config() };
    let store = connect(&server.url(), redis).await;
    let log = ReplicaConfig { submit_wait_max: Duration::from_millis(300), ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Counters>::open(store.clone(), LOG, log).await.unwrap();
    tokio::spawn(driver);
    let end = Instant::now() + Duration::from_secs(4);
    let callers: Vec<_> = (0..16).map(|caller| tokio::spawn(submit_until(replica.clone(), caller, end))).collect();
    for _ in 0..2 {
        // real-time: the server is killed under load, and stays away longer than callers wait.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill();
        // real-time: as above.
        tokio::time::sleep(Duration::from_millis(600)).await;
        server.restart();
    }
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for caller in callers {
        let (known, unsure) = caller.await.unwrap();
        acknowledged.extend(known);
        unknown.extend(unsure);
    }
    // A server that syncs each write may take long to come back on a busy disk.
    let back = Instant::now();
    let (follower, driver) = loop {
        match Follower::<Counters>::open(store.clone(), LOG, ReplicaConfig::default()).await {
            Ok(opened) => break opened,
            Err(error) => assert!(error.kind().is_transient() && back.elapsed() < Duration::from_secs(60), "{error}"),
        }
    };
    tokio::spawn(driver);
    let ids = |counters: &Counters| counters.journal().iter().map(|(_, command)| command.id).collect::<Vec<_>>();
    let journal = follower.read_latest(ids).await.unwrap();
    let applied: BTreeSet<u64> = journal.iter().copied().collect();
    assert_eq!(applied.len(), journal.len(), "something was applied twice");
    assert!(acknowledged.is_subset(&applied), "something acknowledged was lost");
    let certain: BTreeSet<u64> = applied.difference(&unknown).copied().collect();
    assert_eq!(certain, acknowledged, "something is there that failed without effect");
    assert!(acknowledged.len() > 100 && !unknown.is_empty(), "{} and {}", acknowledged.len(), unknown.len());
    assert_eq!(replica.read_latest(ids).await.unwrap(), journal);
}
