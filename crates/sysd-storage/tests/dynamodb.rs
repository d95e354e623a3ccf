//! The DynamoDB store on DynamoDB Local: equal to the in-process store, at the edges of calls and pages, and its table.
#![cfg(all(feature = "dynamodb", feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use sysd_core::{
    Clock as _, Effect, ErrorKind, Expect, Keep, Key, ManualClock, Order, Outcome, Scan, Space, Store as _,
    StoreExt as _, SystemClock, Timestamp, Trim, Write, random_base62,
};
use sysd_storage::{DynamoConfig, DynamoStore};

mod support;

use support::dynamodb::{KEY, config, connect};
use support::suite;

const SPACE: Space = Space::conditional("dynamodb_test");
const PLAIN: Space = Space::plain("dynamodb_plain");

fn bare(config: &DynamoConfig) -> Client {
    let client = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new(KEY, KEY, None, None, "test"))
        .region(config.region.clone().map(Region::new))
        .endpoint_url(config.endpoint.clone().unwrap());
    Client::from_conf(client.build())
}

/// A table that no other test has.
fn own_table() -> DynamoConfig {
    DynamoConfig { table: format!("test-{}", random_base62(12, &sysd_core::SystemEntropy)), ..config() }
}

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    suite::answers_as_memory(12, connect).await;
}

#[tokio::test]
async fn batches_answer_in_order_and_fail_one_by_one() {
    suite::batches(&connect(SystemClock).await).await;
}

#[tokio::test]
async fn concurrent_writes_lose_nothing() {
    suite::concurrent_writes(&connect(SystemClock).await).await;
}

#[tokio::test]
async fn batches_hold_repetitions_conditions_and_spaces_of_both_kinds() {
    let store = connect(SystemClock).await;
    let names: Vec<[u8; 2]> = (0..230_u16).map(u16::to_be_bytes).collect();
    let key = |at: usize| match at % 3 {
        0 => Key::lone(SPACE, &names[at]),
        1 => Key::row(SPACE, b"p", &names[at]),
        _ => Key::row(PLAIN, b"p", &names[at]),
    };
    // Every tenth is written twice, every seventh on the condition that it is not there.
    let mut writes = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let write = Write::put(key(at), name.to_vec());
        if at % 10 == 0 {
            writes.push(write.clone());
        }
        let is_once = at % 7 == 0 && at % 10 != 0 && key(at).space() == SPACE;
        writes.push(if is_once { write.expect(Expect::Absent) } else { write });
    }
    for outcome in store.write_many(&writes).await {
        assert_eq!(outcome.unwrap(), Outcome::Applied);
    }
    // Asked for twice each, beside as many that are not there.
    let missing: Vec<[u8; 3]> = (0..230_u16).map(|at| [9, at.to_be_bytes()[0], at.to_be_bytes()[1]]).collect();
    let mut keys: Vec<_> = (0..names.len()).flat_map(|at| [key(at), Key::lone(SPACE, &missing[at])]).collect();
    keys.extend((0..names.len()).map(key));
    let found = store.get_many(&keys).await;
    assert_eq!(found.len(), 3 * names.len());
    for (at, found) in found.into_iter().enumerate() {
        let found = found.unwrap().map(|record| record.value.to_vec());
        let expected = match at {
            0..460 if at % 2 == 0 => Some(names[at / 2].to_vec()),
            0..460 => None,
            _ => Some(names[at - 460].to_vec()),
        };
        assert_eq!(found, expected, "{at}");
    }
}

#[tokio::test]
async fn more_than_a_call_brings_back_is_asked_for_again() {
    let store = connect(SystemClock).await;
    // A call answers 16 MB at most.
    let value = vec![7; store.limits().value_bytes_max];
    let names: Vec<[u8; 1]> = (0..50).map(|name| [name]).collect();
    let writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(SPACE, name), value.clone())).collect();
    assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
    let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
    for found in store.get_many(&keys).await {
        assert!(found.unwrap().unwrap().value == value);
    }
    let writes: Vec<_> = keys.iter().map(|&key| Write::delete(key)).collect();
    assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
}

#[tokio::test]
async fn pages_end_at_a_megabyte_and_add_up() {
    let store = connect(SystemClock).await;
    let sorts: Vec<[u8; 1]> = (1..=30).map(|sort| [sort]).collect();
    let writes: Vec<_> =
        sorts.iter().map(|sort| Write::put(Key::row(SPACE, b"p", sort), vec![sort[0]; 100 << 10])).collect();
    assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
    let mut ascending = sorts.iter().map(|sort| sort.to_vec()).collect::<Vec<_>>();
    for order in [Order::Ascending, Order::Descending] {
        let scan = Scan::partition(SPACE, b"p", 100).order(order);
        let page = store.scan(scan).await.unwrap();
        assert!((5..=11).contains(&page.rows.len()), "{} rows of 100 KB", page.rows.len());
        assert_eq!(page.next.as_ref(), page.rows.last().map(|row| &row.sort));
        let rows = store.scan_rows(scan).await.unwrap();
        assert!(rows.iter().all(|row| row.record.value == vec![row.sort[0]; 100 << 10]));
        assert_eq!(rows.iter().map(|row| row.sort.to_vec()).collect::<Vec<_>>(), ascending);
        ascending.reverse();
    }
    // What stays is over a megabyte, and so is what goes.
    let trim = Trim { space: SPACE, partition: b"p", keep: Keep::Last(15) };
    assert_eq!(store.trim_all(trim).await.unwrap(), 15);
    let rows = store.scan_rows(Scan::partition(SPACE, b"p", 100)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.sort.to_vec()).collect::<Vec<_>>(), ascending[15..]);
}

#[tokio::test]
async fn the_largest_record_is_taken_by_every_way_to_write() {
    let store = connect(SystemClock).await;
    let limits = *store.limits();
    let (partition, sort) = (vec![1; limits.partition_bytes_max], vec![2; limits.sort_bytes_max]);
    let key = Key::row(SPACE, &partition, &sort);
    let put = Write::put(key, vec![3; limits.value_bytes_max]).expires_at(Timestamp::MAX);
    assert!(store.write(put.clone()).await.unwrap().is_applied());
    // Its number has as many digits as any.
    let now = SystemClock.now().as_micros() / 1_000_000 * 1_000_000 + 999_999_999_999;
    let again = Write::put(key, vec![4; limits.value_bytes_max]).expires_at(Timestamp::from_micros(now).unwrap());
    assert!(store.write(again.clone().expect(Expect::Is(put.version().unwrap()))).await.unwrap().is_applied());
    let writes = [put, Write::put(Key::lone(SPACE, &partition), "x")];
    for outcome in store.write_many(&writes).await {
        assert!(outcome.unwrap().is_applied());
    }
    assert!(store.get(key).await.unwrap().unwrap().value == vec![3; limits.value_bytes_max]);
    // The server counts as we do: without version, expiry and ttl so many bytes more fit, and not one beyond.
    let config = config();
    for (more, fits) in [((1 + 16) + (1 + 21) + (3 + 21), true), ((1 + 16) + (1 + 21) + (3 + 21) + 1, false)] {
        let bytes = |byte, length| AttributeValue::B(Blob::new(vec![byte; length]));
        let call = bare(&config)
            .put_item()
            .table_name(&config.table)
            .item("p", bytes(1, 2_048))
            .item("s", bytes(2, 1_024))
            .item("v", bytes(3, limits.value_bytes_max + more));
        assert_eq!(call.send().await.is_ok(), fits, "{more} bytes more");
    }
}

#[tokio::test]
async fn dynamodb_is_told_when_to_delete_where_the_clock_is_real() {
    let config = config();
    let store = DynamoStore::connect(config.clone()).await.unwrap();
    store.create_table().await.unwrap();
    let client = bare(&config);
    let ttl = client.describe_time_to_live().table_name(&config.table).send().await.unwrap();
    assert_eq!(ttl.time_to_live_description().unwrap().attribute_name(), Some("ttl"));
    let at = SystemClock.now().saturating_add(Duration::from_secs(60));
    let manual = store.with_clock(ManualClock::new(SystemClock.now()));
    for is_real in [true, false] {
        let put = Write::put(Key::row(SPACE, b"p", b"s"), "x").expires_at(at);
        let outcome = if is_real { store.write(put).await } else { manual.write(put).await };
        assert!(outcome.unwrap().is_applied());
        let partition = [config.prefix.as_bytes(), b"/dynamodb_test:p"].concat();
        let call = client
            .get_item()
            .table_name(&config.table)
            .key("p", AttributeValue::B(Blob::new(partition)))
            .key("s", AttributeValue::B(Blob::new(*b"\x01s")))
            .consistent_read(true);
        let item = call.send().await.unwrap().item.unwrap();
        let names: BTreeSet<_> = item.keys().map(String::as_str).collect();
        let expected = if is_real { ["e", "p", "r", "s", "ttl", "v"].as_slice() } else { &["e", "p", "r", "s", "v"] };
        assert_eq!(names, expected.iter().copied().collect());
        assert_eq!(item["e"], AttributeValue::N(at.as_micros().to_string()));
        if is_real {
            let seconds = at.saturating_add(Duration::from_secs(3_600)).as_micros().div_ceil(1_000_000);
            assert_eq!(item["ttl"], AttributeValue::N(seconds.to_string()));
        }
    }
}

#[tokio::test]
async fn a_table_is_made_once_whoever_asks() {
    let config = own_table();
    let missing = DynamoStore::connect(config.clone()).await.unwrap();
    let errors = [
        missing.get(Key::lone(SPACE, b"k")).await.unwrap_err(),
        missing.put(Key::lone(SPACE, b"k"), "x").await.unwrap_err(),
        missing.scan(Scan::partition(SPACE, b"k", 1)).await.unwrap_err(),
        missing.get_many(&[Key::lone(SPACE, b"k")]).await.remove(0).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
        assert!(error.to_string().contains(&config.table), "{error}");
    }
    let stores = [missing.clone(), DynamoStore::connect(config.clone()).await.unwrap(), missing.clone()];
    let made = futures::future::join_all(stores.iter().map(DynamoStore::create_table)).await;
    made.into_iter().for_each(Result::unwrap);
    missing.put(Key::lone(SPACE, b"k"), "x").await.unwrap();
    missing.create_table().await.unwrap();
    assert_eq!(missing.get(Key::lone(SPACE, b"k")).await.unwrap().unwrap().value, "x");
    bare(&config).delete_table().table_name(&config.table).send().await.unwrap();
}

#[tokio::test]
async fn a_table_of_other_keys_is_refused() {
    let config = own_table();
    let client = bare(&config);
    let attribute = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
    let call = client.create_table().table_name(&config.table).billing_mode(BillingMode::PayPerRequest);
    let call = call.attribute_definitions(attribute.build().unwrap()).key_schema(key.build().unwrap());
    call.send().await.unwrap();
    let store = DynamoStore::connect(config.clone()).await.unwrap();
    let errors = [
        store.create_table().await.unwrap_err(),
        store.get(Key::lone(SPACE, b"k")).await.unwrap_err(),
        store.put(Key::lone(SPACE, b"k"), "x").await.unwrap_err(),
        store.delete(Key::lone(SPACE, b"k")).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
    }
    client.delete_table().table_name(&config.table).send().await.unwrap();
}
