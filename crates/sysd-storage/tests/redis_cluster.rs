//! The Redis store on a Cluster: equal to the in-process store, on every node, through moving slots and failovers.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sysd_core::{AnyStore, Expect, Key, Space, Store as _, StoreExt as _, SystemClock, Write};
use sysd_storage::RedisStore;

mod support;

use support::{Add, cluster_url, config, suite};

const SPACE: Space = Space::conditional("redis_test");

async fn store() -> RedisStore {
    RedisStore::connect_with(&cluster_url(), config(), SystemClock).await.unwrap()
}

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    suite::answers_as_memory(&cluster_url(), config).await;
}

#[tokio::test]
async fn batches_answer_in_order_and_fail_one_by_one() {
    suite::batches(&store().await).await;
    suite::batches(&AnyStore::new(store().await)).await;
}

#[tokio::test]
async fn concurrent_updates_lose_nothing() {
    suite::concurrent_writes(&store().await).await;
}

#[tokio::test]
async fn any_of_the_nodes_leads_to_all() {
    let url = cluster_url();
    let first = url.split(',').next().unwrap();
    let store = RedisStore::connect_with(first, config(), SystemClock).await.unwrap();
    for partition in 0..64_u32 {
        let partition = partition.to_be_bytes();
        let key = Key::row(SPACE, &partition, b"a");
        assert!(store.write(Write::put(key, "x").expect(Expect::Absent)).await.unwrap().is_applied());
        assert_eq!(store.run(Key::lone(SPACE, &partition), &Add(1)).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_a_matter_of_configuration_and_the_other_way_round() {
    let single = support::server_url().replace("redis://", "redis-cluster://");
    let error = RedisStore::connect(&single).await.unwrap_err();
    assert_eq!(error.kind(), sysd_core::ErrorKind::Config, "{error}");
    let node = cluster_url().replace("redis-cluster://", "redis://");
    let node = node.split(',').next().unwrap();
    let store = RedisStore::connect_with(node, config(), SystemClock).await.unwrap();
    let mut refused = 0;
    for partition in 0..16_u32 {
        if let Err(error) = store.put(Key::lone(SPACE, &partition.to_be_bytes()), "x").await {
            assert_eq!(
                (error.kind(), error.effect()),
                (sysd_core::ErrorKind::Config, sysd_core::Effect::None),
                "{error}"
            );
            refused += 1;
        }
    }
    assert!(refused > 0);
}
