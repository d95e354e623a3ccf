//! Histories of records on a Redis Cluster whose masters are stopped and killed, so that replicas take over.
//!
//! What the Cluster promises: what a master has passed on to its replica stays. What it acknowledged last may be gone after a
//! failover, and a master that was stopped answers for a moment as if nothing had happened. So records may go back in time while
//! it lasts, and then no more.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use sysd_core::{Effect, ErrorKind, Key, Store as _, SystemClock};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::config;
use support::histories::{Partitions, Promise, SPACE, pause, under_promise};
use support::server::{Private, PrivateCluster};

/// Longer than a call on a busy machine, shorter than a failover.
const PATIENCE: Duration = Duration::from_secs(1);
/// For what servers do by themselves, on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT_MAX, "waited in vain until {what}");
        pause(Duration::from_millis(50)).await;
    }
}

fn name(config: &RedisConfig, partition: &str) -> String {
    format!("{}{{{}:{partition}}}", config.prefix, SPACE.name())
}

/// What a node says of its replication.
fn told(node: &Private, what: &str) -> Option<String> {
    let info = node.tell(&["INFO", "replication"]);
    let line = info.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// How far a master, or a replica, is.
fn offset(node: &Private) -> u64 {
    let own = told(node, "slave_repl_offset").or_else(|| told(node, "master_repl_offset"));
    own.unwrap().parse().unwrap()
}

/// The replica of a master, by its index.
fn replica_of(cluster: &PrivateCluster, master: usize) -> usize {
    let port = cluster.nodes[master].port.to_string();
    let follows = |node: &Private| told(node, "master_port").as_deref() == Some(&port);
    cluster.nodes.iter().position(follows).unwrap()
}

/// A master that follows another now, with all that the other has.
fn follows(node: &Private) -> bool {
    told(node, "role").as_deref() == Some("slave") && told(node, "master_link_status").as_deref() == Some("up")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_master_that_is_stopped_or_killed_go_back_in_time_only_meanwhile() {
    let mut cluster = PrivateCluster::start(1);
    let config = RedisConfig { response_timeout: PATIENCE, connection_timeout: PATIENCE, ..config() };
    let store = RedisStore::connect_with(&cluster.url(), config.clone(), SystemClock).await.unwrap();
    for (round, is_killed) in [(0, false), (1, true)] {
        // All on one master.
        let master = cluster.holder(&name(&config, "0"));
        let is_here = |partition: &String| cluster.holder(&name(&config, partition)) == master;
        let names = (0..).map(|at| format!("{round}:{at}")).filter(is_here).map(String::into_bytes);
        let names: Vec<_> = names.take(Partitions::COUNT).collect();
        let probe = names[0].clone();
        let replica = replica_of(&cluster, master);
        let fault = async {
            let reached = offset(&cluster.nodes[master]);
            until("all is passed on", || offset(&cluster.nodes[replica]) >= reached).await;
            if is_killed {
                cluster.nodes[master].kill();
            } else {
                cluster.nodes[master].signal("-STOP");
            }
            until("the replica takes over", || told(&cluster.nodes[replica], "role").as_deref() == Some("master"))
                .await;
            // Callers have found it.
            let key = Key::lone(SPACE, &probe);
            let start = Instant::now();
            while let Err(error) = store.get(key).await {
                assert!(start.elapsed() < WAIT_MAX, "{error}");
                pause(Duration::from_millis(20)).await;
            }
            pause(Duration::from_millis(300)).await;
            if is_killed {
                cluster.nodes[master].restart();
            } else {
                cluster.nodes[master].signal("-CONT");
            }
            until("the old master follows", || follows(&cluster.nodes[master])).await;
        };
        let partitions = Partitions::new(names.into_iter());
        let seen = under_promise(&store, round, partitions, Promise::KeptOncePassedOn, fault).await;
        if is_killed {
            assert!(seen.has(ErrorKind::Unavailable, Effect::None), "nobody was refused a connection");
        } else {
            assert!(seen.has(ErrorKind::Timeout, Effect::Unknown), "no write was overdue");
        }
    }
}
