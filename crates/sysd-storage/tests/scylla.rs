//! The Cassandra store on a real server: equal to the in-process store, and what only Cassandra has.
#![cfg(all(feature = "scylla", feature = "memory", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures::poll;
use sysd_core::{
    AnyStore, Clock as _, Effect, ErrorKind, Expect, Keep, Key, ManualClock, Outcome, Scan, Space, Store as _,
    StoreExt as _, SystemClock, SystemEntropy, Timestamp, Trim, Version, Write, random_base62,
};
use sysd_storage::{ScyllaConfig, ScyllaSchema, ScyllaStore};

use support::log::two_writers;
use support::proxy::{Mode, Proxy};
use support::{cassandra_url, suite};

const TRUTH: Space = Space::conditional("scylla_test");
const FEED: Space = Space::plain("scylla_plain");

fn config() -> ScyllaConfig {
    let patience = Duration::from_secs(20);
    let config = ScyllaConfig::from_url(&cassandra_url()).unwrap();
    ScyllaConfig { request_timeout: patience, connect_timeout: patience, ..config }
}

async fn store() -> ScyllaStore {
    ScyllaStore::create_schema(&config(), &ScyllaSchema::replicated(1)).await.unwrap();
    ScyllaStore::connect_with(config(), SystemClock).await.unwrap()
}

fn partition() -> Vec<u8> {
    random_base62(16, &SystemEntropy).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_memory_does_over_random_histories() {
    let store = store().await;
    suite::answers_as_memory(12, async |clock| store.with_clock(clock)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_answer_in_order_and_fail_one_by_one() {
    let store = store().await;
    suite::batches(&store).await;
    suite::batches(&AnyStore::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_lose_nothing() {
    suite::concurrent_writes(&store().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_with_stores_of_their_own_lose_nothing() {
    // They take no turns: Paxos alone decides.
    let stores = [store().await, store().await];
    let name = partition();
    let tasks: Vec<_> = (0..8)
        .map(|at| {
            let (store, name) = (stores[at % 2].clone(), name.clone());
            tokio::spawn(async move {
                let key = Key::lone(TRUTH, &name);
                let mut won = 0;
                let mut found = None;
                while won < 10 {
                    let count = found.as_ref().map_or(0, |record: &sysd_core::Record| record.value.len());
                    let expect = found.as_ref().map_or(Expect::Absent, |record| Expect::Is(record.version));
                    let write = Write::put(key, vec![1; count + 1]).expect(expect);
                    match store.write(write.clone()).await {
                        Ok(Outcome::Applied) => {
                            won += 1;
                            found = store.get(key).await.unwrap();
                        }
                        Ok(Outcome::Conflict { found: there }) => found = there,
                        // Sent again, it knows itself.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let found = stores[0].get(Key::lone(TRUTH, &name)).await.unwrap().unwrap();
    assert_eq!(found.value.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_record_in_one_batch_never_mix() {
    let store = store().await;
    for space in [TRUTH, FEED] {
        let name = partition();
        // With equal timestamps the greater of two cells stays: of a mixture, value and version would be of two writes.
        let writes: Vec<_> = (0..60_u8)
            .map(|at| {
                let (value, version) = (if at % 2 == 0 { at } else { 200 - at }, u128::from(at));
                let key = Key::row(space, &name, if at % 3 == 0 { b"a" } else { b"b" });
                Write::put(key, vec![value]).with_version(Version::from_u128(version))
            })
            .collect();
        for outcome in store.write_many(&writes).await {
            assert!(outcome.unwrap().is_applied());
        }
        for sort in [b"a", b"b"] {
            let found = store.get(Key::row(space, &name, sort)).await.unwrap().unwrap();
            let written = writes.iter().find(|write| write.version() == Some(found.version)).unwrap();
            let sysd_core::Change::Put { value, .. } = &written.change else { unreachable!("all are puts") };
            assert_eq!(*value, found.value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_and_is_still_there_is_replaced_on_condition() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_800_000_000_000_000));
    let store = store().await.with_clock(clock.clone());
    let name = partition();
    for key in [Key::lone(TRUTH, &name), Key::row(TRUTH, &name, b"a")] {
        let at = clock.now().saturating_add(Duration::from_micros(1));
        assert!(store.write(Write::put(key, "old").expires_at(at)).await.unwrap().is_applied());
        assert!(!store.put_if_absent(key, "early").await.unwrap().is_applied());
        clock.set(at);
        assert!(store.put_if_absent(key, "new").await.unwrap().is_applied());
        assert_eq!(store.get(key).await.unwrap().unwrap().value, "new");
    }
}

/// A call that waits for its turn when its caller leaves is never sent; the one that has its turn is.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_caller_left_before_its_turn_is_not_sent() {
    store().await;
    let url = cassandra_url();
    let port = url.trim_start_matches("scylla://127.0.0.1:").split('/').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port);
    let through = ScyllaConfig { contact_points: vec![format!("127.0.0.1:{}", proxy.port)], ..config() };
    let store = ScyllaStore::connect_with(through, SystemClock).await.unwrap();
    let name = partition();
    let (first, second) = (Key::row(TRUTH, &name, b"a"), Key::row(TRUTH, &name, b"b"));
    for call in ["write", "write_many", "trim"] {
        store.delete(first).await.unwrap();
        proxy.set(Mode::Hold);
        let mut holder = Box::pin(store.put(first, "x"));
        assert!(poll!(holder.as_mut()).is_pending());
        // real-time: until it has its turn, wherever it runs.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let write = Write::put(second, "y").expect(Expect::Absent);
        let mut waiting = Box::pin(async {
            match call {
                "write" => drop(store.write(write).await),
                "write_many" => drop(store.write_many(&[write]).await),
                _ => drop(store.trim(Trim { space: TRUTH, partition: &name, keep: Keep::First(0) }).await),
            }
        });
        assert!(poll!(waiting.as_mut()).is_pending());
        // real-time: until it waits behind it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop((holder, waiting));
        proxy.set(Mode::Pass);
        // Reads have turns as well: what was to come has come before.
        let found = [store.get(first).await.unwrap(), store.get(second).await.unwrap()];
        assert_eq!(found.map(|record| record.is_some()), [true, false], "{call}");
    }
}

/// A call that waits for its turn at a partition while a record there expires: by the time of before it would still be there.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waited_for_its_turn_decides_by_the_time_at_which_it_got_it() {
    store().await;
    let url = cassandra_url();
    let port = url.trim_start_matches("scylla://127.0.0.1:").split('/').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port);
    let through = ScyllaConfig { contact_points: vec![format!("127.0.0.1:{}", proxy.port)], ..config() };
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_800_000_000_000_000));
    let store = ScyllaStore::connect_with(through, clock.clone()).await.unwrap();
    let version = Version::from_u128(7);
    for is_batch in [false, true] {
        let name = partition();
        let (key, other) = (Key::row(TRUTH, &name, b"a"), Key::row(TRUTH, &name, b"b"));
        let at = clock.now().saturating_add(Duration::from_secs(1));
        assert!(store.write(Write::put(key, "old").with_version(version).expires_at(at)).await.unwrap().is_applied());
        proxy.set(Mode::Hold);
        let mut first = Box::pin(store.put(other, "x"));
        assert!(poll!(first.as_mut()).is_pending());
        // real-time: until it has its turn, wherever it runs.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let write = Write::put(key, "new").expect(Expect::Is(version));
        let mut second = Box::pin(async {
            if is_batch { store.write_many(&[write]).await.remove(0) } else { store.write(write).await }
        });
        assert!(poll!(second.as_mut()).is_pending());
        // real-time: until it waits behind it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        clock.set(at);
        proxy.set(Mode::Pass);
        first.await.unwrap();
        assert_eq!(second.await.unwrap(), Outcome::Conflict { found: None }, "is_batch: {is_batch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_trimmed_and_filled_again_stays_readable() {
    let store = store().await;
    for (space, rounds) in [(FEED, 60_u32), (TRUTH, 6)] {
        let name = partition();
        // In all more rows removed than a read may meet tombstones, if each left one: 2,500 each round, of 100,000.
        let each = if space == FEED { 2_500 } else { 300 };
        for round in 0..rounds {
            let sorts: Vec<_> = (0..each).map(|at: u32| (round * each + at).to_be_bytes()).collect();
            let writes: Vec<_> = sorts.iter().map(|sort| Write::put(Key::row(space, &name, sort), "x")).collect();
            for outcome in store.write_many(&writes).await {
                assert!(outcome.unwrap().is_applied());
            }
            store.trim_all(Trim { space, partition: &name, keep: Keep::Last(10) }).await.unwrap();
            let rows = store.scan_rows(Scan::partition(space, &name, 100)).await.unwrap();
            let last: Vec<_> = sorts[sorts.len() - 10..].iter().map(|sort| sort.to_vec()).collect();
            assert_eq!(rows.iter().map(|row| row.sort.to_vec()).collect::<Vec<_>>(), last, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_share_a_log() {
    let name = format!("bank-{}", random_base62(12, &SystemEntropy));
    two_writers(store().await, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_with_stores_of_their_own_share_a_log() {
    // Each its own connections and turns, as two processes have.
    let wide = ScyllaConfig { partition_in_flight_max: 64, ..config() };
    store().await;
    let store = ScyllaStore::connect_with(wide, SystemClock).await.unwrap();
    two_writers(store, &format!("bank-{}", random_base62(12, &SystemEntropy))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_may_be_made_by_many_at_once() {
    let config = ScyllaConfig { keyspace: format!("made_{}", random_base62(8, &SystemEntropy)), ..config() };
    // Quotes keep capitals, so the name is as good as any.
    let makers: Vec<_> = (0..4)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move { ScyllaStore::create_schema(&config, &ScyllaSchema::replicated(1)).await })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap().unwrap();
    }
    let store = ScyllaStore::connect_with(config.clone(), SystemClock).await.unwrap();
    store.put(Key::lone(TRUTH, b"k"), "kept").await.unwrap();
    ScyllaStore::create_schema(&config, &ScyllaSchema::replicated(1)).await.unwrap();
    assert_eq!(store.get(Key::lone(TRUTH, b"k")).await.unwrap().unwrap().value, "kept");
    let session = scylla::client::session_builder::SessionBuilder::new();
    let session = session.known_nodes(&config.contact_points).build().await.unwrap();
    session.query_unpaged(format!("DROP KEYSPACE \"{}\"", config.keyspace), ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_is_missing() {
    let missing = ScyllaConfig { keyspace: "missing".to_owned(), ..config() };
    let error = ScyllaStore::connect_with(missing, SystemClock).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
    assert!(error.to_string().contains("create_schema"), "{error}");
    // Nobody listens on port 1.
    let nobody = ScyllaConfig { contact_points: vec!["127.0.0.1:1".to_owned()], ..config() };
    let nobody = ScyllaConfig { credentials: Some(("ann".to_owned(), "hunter2".to_owned())), ..nobody };
    let error = ScyllaStore::connect_with(nobody, SystemClock).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
