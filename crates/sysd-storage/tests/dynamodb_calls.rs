//! What the DynamoDB store sends, and what it makes of answers that the real one gives only under load.
#![cfg(all(feature = "dynamodb", feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use sysd_core::{
    Effect, ErrorKind, Expect, Keep, Key, Outcome, Scan, Space, Store as _, StoreExt as _, Trim, Version, Write,
};
use sysd_storage::{DynamoConfig, DynamoCredentials, DynamoStore};

mod support;

use support::dynamodb::{KEY, config_at};
use support::fake_dynamodb::{Calls, start};

const SPACE: Space = Space::conditional("truth");
const PLAIN: Space = Space::plain("plain");
/// Sixteen bytes of zero.
const VERSION: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

async fn store(port: u16) -> DynamoStore {
    let config = DynamoConfig {
        response_timeout: Duration::from_secs(10),
        connection_timeout: Duration::from_secs(10),
        batch_timeout: Duration::from_secs(5),
        ..config_at(port)
    };
    DynamoStore::connect(config).await.unwrap()
}

fn names(calls: &Calls) -> Vec<String> {
    calls.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
}

fn bodies(calls: &Calls) -> Vec<Value> {
    calls.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
}

fn failed(code: &str) -> Value {
    json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "told with a secret" })
}

/// The keys that a `BatchGetItem` or `BatchWriteItem` asks for, as text.
fn asked(body: &Value) -> Vec<(Value, String)> {
    let table = &body["RequestItems"]["records"];
    let requests = table["Keys"].as_array().or_else(|| table.as_array()).unwrap();
    let key = |request: &Value| {
        let item = request.pointer("/PutRequest/Item").or_else(|| request.pointer("/DeleteRequest/Key"));
        let item = item.unwrap_or(request);
        format!("{} {}", item["p"]["B"], item["s"]["B"])
    };
    requests.iter().map(|request| (request.clone(), key(request))).collect()
}

/// Answers the first few keys of each call, and leaves the rest; every other call it refuses as a whole.
fn answer_few(few: usize) -> impl FnMut(&str, &Value) -> (u16, Value) {
    let mut calls = 0;
    move |name, body| {
        calls += 1;
        if calls % 2 == 0 {
            return (400, failed("ProvisionedThroughputExceededException"));
        }
        let asked = asked(body);
        let (done, left) = asked.split_at(few.min(asked.len()));
        let left: Vec<_> = left.iter().map(|(request, _)| request.clone()).collect();
        if name == "BatchGetItem" {
            let item = |(key, _): &(Value, String)| json!({ "p": key["p"], "s": key["s"], "v": key["s"], "r": { "B": VERSION } });
            let found: Vec<_> = done.iter().map(item).collect();
            let left = if left.is_empty() { json!({}) } else { json!({ "records": { "Keys": left } }) };
            return (200, json!({ "Responses": { "records": found }, "UnprocessedKeys": left }));
        }
        (200, json!({ "UnprocessedItems": if left.is_empty() { json!({}) } else { json!({ "records": left }) } }))
    }
}

#[tokio::test]
async fn keys_left_unprocessed_are_asked_for_again_and_only_these() {
    let (port, calls) = start(answer_few(30));
    let store = store(port).await;
    let sorts: Vec<[u8; 2]> = (0..250_u16).map(u16::to_be_bytes).collect();
    let keys: Vec<_> = sorts.iter().map(|sort| Key::row(SPACE, b"p", sort)).collect();
    for (sort, found) in sorts.iter().zip(store.get_many(&keys).await) {
        // The value is the sort key as it is stored.
        assert_eq!(found.unwrap().unwrap().value, [&[1], sort.as_slice()].concat());
    }
    let mut times = HashMap::new();
    for body in bodies(&calls) {
        assert_eq!(body["RequestItems"]["records"]["ConsistentRead"], true);
        let asked: Vec<_> = asked(&body).into_iter().map(|(_, key)| key).collect();
        assert!(asked.len() <= 100);
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "DynamoDB refuses repeated keys");
        for key in asked {
            *times.entry(key).or_insert(0) += 1;
        }
    }
    assert_eq!(times.len(), 250);
}

#[tokio::test]
async fn writes_left_unprocessed_are_sent_again_and_only_these() {
    let (port, calls) = start(answer_few(7));
    let store = store(port).await;
    let sorts: Vec<[u8; 2]> = (0..60_u16).map(u16::to_be_bytes).collect();
    let write = |sort: &'static [u8; 2]| match sort[1] % 2 {
        0 => Write::put(Key::row(PLAIN, b"p", sort), "x"),
        _ => Write::delete(Key::row(SPACE, b"p", sort)),
    };
    let sorts: &'static [[u8; 2]] = sorts.leak();
    let writes: Vec<_> = sorts.iter().map(write).collect();
    for outcome in store.write_many(&writes).await {
        assert_eq!(outcome.unwrap(), Outcome::Applied);
    }
    for (name, body) in calls.lock().unwrap().iter() {
        let asked: HashSet<_> = asked(body).into_iter().map(|(_, key)| key).collect();
        assert!(name == "BatchWriteItem" && (1..=25).contains(&asked.len()), "{name} of {}", asked.len());
    }
}

#[tokio::test]
async fn what_is_never_processed_is_throttled_without_effect_when_the_time_is_up() {
    // One of the keys has no luck.
    let is_unlucky = |key: &str| key.contains("Af8=");
    let (port, calls) = start(move |name, body| {
        let left: Vec<_> = asked(body).into_iter().filter(|(_, key)| is_unlucky(key)).map(|(left, _)| left).collect();
        match (name, left.is_empty()) {
            ("BatchGetItem", true) => (200, json!({ "Responses": {}, "UnprocessedKeys": {} })),
            ("BatchGetItem", false) => (200, json!({ "UnprocessedKeys": { "records": { "Keys": left } } })),
            (_, true) => (200, json!({ "UnprocessedItems": {} })),
            _ => (200, json!({ "UnprocessedItems": { "records": left } })),
        }
    });
    let config = DynamoConfig { batch_timeout: Duration::from_millis(300), ..config_at(port) };
    let store = DynamoStore::connect(config).await.unwrap();
    let keys = [b"\x01", b"\xFF", b"\x02"].map(|sort| Key::row(SPACE, b"p", sort));
    let start = Instant::now();
    let writes = keys.map(|key| Write::put(key, "x"));
    let outcomes = store.write_many(&writes).await;
    let found = store.get_many(&keys).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let outcomes = outcomes.into_iter().map(|outcome| outcome.map(drop));
    let found = found.into_iter().map(|found| found.map(|found| assert_eq!(found, None)));
    for (at, answer) in outcomes.enumerate().chain(found.enumerate()) {
        match answer {
            Ok(()) => assert_ne!(at, 1),
            Err(error) => {
                assert_eq!((error.kind(), error.effect()), (ErrorKind::Throttled, Effect::None), "{error}");
                assert_eq!((at, error.key()), (1, Some(keys[1])));
            }
        }
    }
    assert!(names(&calls).len() > 4, "it gave up at once");
}

#[tokio::test]
async fn a_batch_that_may_have_happened_is_not_sent_again() {
    let (port, calls) = start(|_, _| (500, failed("InternalServerError")));
    let store = store(port).await;
    let sorts: Vec<[u8; 1]> = (0..10).map(|sort| [sort]).collect();
    let writes: Vec<_> = sorts.iter().map(|sort| Write::delete(Key::row(PLAIN, b"p", sort))).collect();
    for (write, outcome) in writes.iter().zip(store.write_many(&writes).await) {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        assert_eq!(error.key(), Some(write.key));
    }
    let keys: Vec<_> = writes.iter().map(|write| write.key).collect();
    for found in store.get_many(&keys).await {
        let error = found.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    }
    assert_eq!(names(&calls), ["BatchWriteItem", "BatchGetItem"]);
}

#[tokio::test]
async fn every_single_call_is_sent_once_whatever_comes_back() {
    let codes = [
        (400, "ProvisionedThroughputExceededException", ErrorKind::Throttled, Effect::None),
        (400, "ThrottlingException", ErrorKind::Throttled, Effect::None),
        (500, "InternalServerError", ErrorKind::Unavailable, Effect::Unknown),
        (503, "ServiceUnavailable", ErrorKind::Unavailable, Effect::Unknown),
        (400, "AccessDeniedException", ErrorKind::Denied, Effect::None),
        (400, "TransactionConflictException", ErrorKind::Contention, Effect::None),
    ];
    for (status, code, kind, effect) in codes {
        let (port, calls) = start(move |_, _| (status, failed(code)));
        let store = store(port).await;
        let key = Key::lone(SPACE, b"k");
        let errors = [
            store.put(key, "x").await.unwrap_err(),
            store.delete(key).await.unwrap_err(),
            store.put_if_absent(key, "x").await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.effect(), error.key()), (kind, effect, Some(key)), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
        let error = store.get(key).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
        assert_eq!(names(&calls), ["PutItem", "DeleteItem", "PutItem", "GetItem"]);
    }
    // The SDK left to itself sends it again, and this test would see it.
    let (port, calls) = start(|_, _| (500, failed("InternalServerError")));
    let client = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new(KEY, KEY, None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://127.0.0.1:{port}"));
    let call = Client::from_conf(client.build()).delete_item().table_name("records");
    assert!(call.key("p", AttributeValue::B(Blob::new(*b"k"))).send().await.is_err());
    assert!(names(&calls).len() > 1);
}

#[tokio::test]
async fn a_conditional_write_is_one_call_and_knows_its_own() {
    let version = Version::from_u128(0);
    let there = |v: &str| json!({ "p": { "B": "" }, "s": { "B": "" }, "v": { "B": v }, "r": { "B": VERSION } });
    let (port, calls) = start(move |_, _| {
        let mut body = failed("ConditionalCheckFailedException");
        body["Item"] = there("eA==");
        (400, body)
    });
    let store = store(port).await;
    let key = Key::lone(SPACE, b"k");
    let own = Write::put(key, "x").with_version(version).expect(Expect::Absent);
    assert_eq!(store.write(own).await.unwrap(), Outcome::Applied);
    for write in [Write::put(key, "y"), Write::delete(key)] {
        let outcome = store.write(write.expect(Expect::Is(Version::from_u128(7)))).await.unwrap();
        let Outcome::Conflict { found: Some(found) } = outcome else { panic!("{outcome:?}") };
        assert_eq!((found.value, found.version), ("x".into(), version));
    }
    assert_eq!(names(&calls), ["PutItem", "PutItem", "DeleteItem"]);
    for body in bodies(&calls) {
        assert_eq!(body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
        assert!(body["ConditionExpression"].is_string());
    }
}

#[tokio::test]
async fn reads_are_strong_in_conditional_spaces_and_eventual_in_plain_ones() {
    let (port, calls) = start(|_, _| (200, json!({})));
    let store = store(port).await;
    for (space, is_strong) in [(SPACE, true), (PLAIN, false)] {
        let key = Key::lone(space, b"k");
        assert_eq!(store.get(key).await.unwrap(), None);
        assert_eq!(store.get_many(&[key]).await.remove(0).unwrap(), None);
        assert!(store.scan(Scan::partition(space, b"k", 9)).await.unwrap().rows.is_empty());
        for body in bodies(&calls) {
            let strong = body.get("ConsistentRead").or_else(|| body.pointer("/RequestItems/records/ConsistentRead"));
            assert_eq!(strong, Some(&Value::Bool(is_strong)), "{body}");
        }
        calls.lock().unwrap().clear();
    }
}

/// What a trim of 26 rows answers, whose first so many calls that remove rows are carried out, the others refused.
async fn trim_after(carried_out: usize) -> sysd_core::Error {
    let mut removals = 0;
    let (port, _) = start(move |name, _| {
        if name == "Query" {
            // A byte 1, an `a`, and a number.
            let row = |at: u8| json!({ "s": { "B": format!("AWE{}", char::from(b'A' + at)) } });
            return (200, json!({ "Items": (0..26).map(row).collect::<Vec<_>>() }));
        }
        removals += 1;
        if removals <= carried_out {
            (200, json!({ "UnprocessedItems": {} }))
        } else {
            (400, failed("AccessDeniedException"))
        }
    });
    store(port).await.trim(Trim { space: SPACE, partition: b"p", keep: Keep::First(0) }).await.unwrap_err()
}

#[tokio::test]
async fn a_trim_that_failed_half_way_may_have_happened() {
    for (carried_out, effect) in [(0, Effect::None), (1, Effect::Unknown)] {
        let error = trim_after(carried_out).await;
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, effect), "{error}");
    }
}

#[tokio::test]
async fn credentials_are_never_shown() {
    let (port, _) = start(|_, _| (400, failed("UnrecognizedClientException")));
    let mut credentials = DynamoCredentials::from_keys("AKIDhunter1", "hunter2");
    if let DynamoCredentials::Static { session_token, .. } = &mut credentials {
        *session_token = Some("hunter3".to_owned());
    }
    let config = DynamoConfig { credentials, ..config_at(port) };
    let store = DynamoStore::connect(config.clone()).await.unwrap();
    let error = store.get(Key::lone(SPACE, b"k")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let nowhere = DynamoConfig { endpoint: Some("http://127.0.0.1:1".to_owned()), ..config.clone() };
    let refused = DynamoStore::connect(nowhere).await.unwrap().delete(Key::lone(SPACE, b"k")).await.unwrap_err();
    // Nobody listens there: nothing was sent.
    assert_eq!((refused.kind(), refused.effect()), (ErrorKind::Unavailable, Effect::None), "{refused}");
    // Nor what somebody put into the endpoint: it is refused before the SDK, which traces it, sees it.
    let leaky = DynamoConfig { endpoint: Some("http://ann:hunter4@127.0.0.1:1".to_owned()), ..config.clone() };
    let leaked = DynamoStore::connect(leaky.clone()).await.map(drop).unwrap_err();
    assert_eq!((leaked.kind(), leaked.effect()), (ErrorKind::Config, Effect::None), "{leaked}");
    let shown = format!("{config:?} {store:?} {error} {error:?} {refused} {refused:?} {leaky:?} {leaked} {leaked:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}
