//! Histories of records on a Redis that is killed and stopped under concurrent callers; it syncs every write.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sysd_core::{Durability, Effect, ErrorKind, Key, Store as _, SystemClock};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::config;
use support::histories::{SPACE, pause, under};
use support::server::Private;

/// Longer than a call on a busy machine, shorter than a stop.
const PATIENCE: Duration = Duration::from_secs(1);
const STOP: Duration = Duration::from_secs(3);

fn start() -> Private {
    Private::start(&["--appendonly", "yes", "--appendfsync", "always"])
}

async fn connect(server: &Private) -> RedisStore {
    let config = RedisConfig { durability: Durability::Durable, response_timeout: PATIENCE, ..config() };
    RedisStore::connect_with(&server.url(), config, SystemClock).await.unwrap()
}

async fn until_it_answers(store: &RedisStore) {
    while store.get(Key::lone(SPACE, b"warm")).await.is_err() {
        pause(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_all_that_it_acknowledged_and_its_histories_are_linearizable() {
    let mut server = start();
    let store = connect(&server).await;
    for round in 0..3 {
        let seen = under(&store, round, async {
            server.kill();
            pause(Duration::from_millis(300)).await;
            server.restart();
            until_it_answers(&store).await;
        })
        .await;
        assert!(seen.has(ErrorKind::Unavailable, Effect::None), "nobody was refused a connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_times_out_with_unknown_effect_and_its_histories_are_linearizable() {
    let server = start();
    let store = connect(&server).await;
    let seen = under(&store, 0, async {
        server.signal("-STOP");
        pause(STOP).await;
        server.signal("-CONT");
        until_it_answers(&store).await;
    })
    .await;
    assert!(seen.has(ErrorKind::Timeout, Effect::Unknown), "no write was overdue");
}
