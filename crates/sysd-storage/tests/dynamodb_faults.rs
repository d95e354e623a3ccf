//! The DynamoDB store on a server that is killed, stopped and cut off under concurrent writers.
//!
//! Errors have the right kind and effect; what was acknowledged is there, what was refused is not; and the history of each
//! record, with lost replies as unknown, is linearizable.
#![cfg(all(feature = "dynamodb", feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sysd_core::{Effect, ErrorKind, Expect, Key, Store as _, StoreExt as _, Write};
use sysd_storage::{DynamoConfig, DynamoStore};

mod support;

use support::dynamodb::{Private, config_at};
use support::histories::{SPACE, pause, under};
use support::proxy::{Mode, Proxy};

/// Longer than a call on a busy machine, shorter than a stop.
const PATIENCE: Duration = Duration::from_secs(2);
const STOP: Duration = Duration::from_secs(4);

async fn impatient(config: DynamoConfig) -> DynamoStore {
    let patient = DynamoConfig { response_timeout: Duration::from_secs(20), ..config.clone() };
    DynamoStore::connect(patient).await.unwrap().create_table().await.unwrap();
    let config = DynamoConfig { response_timeout: PATIENCE, connection_timeout: PATIENCE, ..config };
    let store = DynamoStore::connect(config).await.unwrap();
    // Java's first calls are slow.
    for _ in 0..50 {
        let _ = store.put(Key::lone(SPACE, b"warm"), "x").await;
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = Private::start();
    let store = impatient(server.config()).await;
    for round in 0..2 {
        let seen = under(&store, round, async {
            server.kill();
            pause(Duration::from_millis(300)).await;
            server.restart();
            while store.get(Key::lone(SPACE, b"warm")).await.is_err() {
                pause(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert!(seen.has(ErrorKind::Unavailable, Effect::None), "nobody was refused a connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_times_out_with_unknown_effect_and_goes_on() {
    let server = Private::start();
    let store = impatient(server.config()).await;
    let seen = under(&store, 0, async {
        server.signal("-STOP");
        pause(STOP).await;
        server.signal("-CONT");
        while store.get(Key::lone(SPACE, b"warm")).await.is_err() {
            pause(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(seen.has(ErrorKind::Timeout, Effect::Unknown), "no write was overdue");
}

#[tokio::test]
async fn a_call_whose_answer_is_cut_off_is_of_unknown_effect_and_never_sent_again() {
    let config = support::dynamodb::config();
    let port = config.endpoint.as_ref().unwrap().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port);
    let direct = DynamoStore::connect(config.clone()).await.unwrap();
    direct.create_table().await.unwrap();
    let through = DynamoConfig { endpoint: config_at(proxy.port).endpoint, ..config };
    let store = DynamoStore::connect(through).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    for round in 0..10_u8 {
        store.get(key).await.unwrap();
        proxy.set(Mode::CutAnswers);
        let put = Write::put(key, vec![round]);
        let error = store.write(put.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        let error = store.get(key).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
        // It happened, once: what somebody else makes of it stays.
        assert_eq!(direct.get(key).await.unwrap().unwrap().version, put.version().unwrap());
        direct.delete(key).await.unwrap();
        proxy.set(Mode::Pass);
        assert_eq!(store.get(key).await.unwrap(), None);
        // Sent again by the caller on a condition, it knows itself.
        let own = put.expect(Expect::Absent);
        assert!(store.write(own.clone()).await.unwrap().is_applied());
        assert!(store.write(own).await.unwrap().is_applied());
    }
}
