//! The shared log with two writers at once, on any server.

use std::collections::BTreeSet;

use sysd_core::Store;
use sysd_storage::{Follower, Replica, ReplicaConfig};
use sysd_testkit::Counters;
use sysd_testkit::counters::Add;

/// Two replicas, eight callers each: every command is there once, and all agree.
pub(crate) async fn two_writers(store: impl Store + Clone, log: &str) {
    const EACH: u64 = 50;
    let mut callers = Vec::new();
    for writer in 0..2 {
        let config = ReplicaConfig { snapshot_log_bytes: Some(2_000), ..ReplicaConfig::default() };
        let (replica, driver) = Replica::<Counters>::open(store.clone(), log, config).await.unwrap();
        tokio::spawn(driver);
        for caller in 0..8 {
            let replica = replica.clone();
            callers.push(tokio::spawn(async move {
                for at in 0..EACH {
                    let id = (writer * 8 + caller) * EACH + at;
                    replica.submit(Add { id, counter: 1, amount: 1 }).await.unwrap();
                }
            }));
        }
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let (follower, driver) = Follower::<Counters>::open(store, log, ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let (total, ids) = follower
        .read_latest(|counters| {
            let ids: BTreeSet<u64> = counters.journal().iter().map(|(_, command)| command.id).collect();
            (counters.total(1), ids.len())
        })
        .await
        .unwrap();
    assert_eq!((total, ids), (800, 800));
    assert!(follower.status().snapshot_next > 0, "no snapshot was taken");
}
