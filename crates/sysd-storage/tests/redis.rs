//! The Redis store on real servers: equal to the in-process store, and right when the server dies.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use sysd_core::{
    Durability, Effect, ErrorKind, Expect, Key, OutputBytes, Procedure, Space, StateChange, Step, Store, StoreExt,
    SystemClock, Timestamp, Undecodable, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::server::Private;
use support::{Add, config, server_url, suite};

const SPACE: Space = Space::conditional("redis_test");

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    let connect = async |clock| RedisStore::connect_with(&server_url(), config(), clock).await.unwrap();
    suite::answers_as_memory(40, connect).await;
}

#[tokio::test]
async fn batches_answer_in_order_and_fail_one_by_one() {
    suite::batches(&RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap()).await;
}

#[tokio::test]
async fn concurrent_updates_lose_nothing() {
    suite::concurrent_writes(&RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap()).await;
}

#[tokio::test]
async fn scripts_are_loaded_again_when_the_server_forgot_them() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    assert_eq!(store.run(key, &Add(1)).await.unwrap(), 1);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let _: u8 = store.run(key, &Add(1)).await.unwrap();
    assert!(store.put_if_absent(Key::lone(SPACE, b"other"), "x").await.unwrap().is_applied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = Private::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let config = RedisConfig { durability: Durability::Durable, ..config() };
    let store = RedisStore::connect_with(&server.url(), config, SystemClock).await.unwrap();
    let mut acknowledged = 0_u32;
    for _round in 0..3 {
        let writers: Vec<_> = (0..16_u32)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for at in 0_u32.. {
                        let sort = [(acknowledged + writer).to_be_bytes(), at.to_be_bytes()].concat();
                        if let Err(error) = store.put(Key::row(SPACE, b"p", &sort), "x").await {
                            return (at, error);
                        }
                    }
                    unreachable!("the server is killed before four billion writes")
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            tokio::task::yield_now().await;
        }
        server.kill();
        let mut counts = Vec::new();
        for writer in writers {
            let (count, error) = writer.await.unwrap();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
            counts.push(count);
        }
        assert!(counts.iter().sum::<u32>() > 0);
        let error = store.get(Key::lone(SPACE, b"k")).await.unwrap_err();
        assert_eq!((error.kind().is_transient(), error.effect()), (true, Effect::None), "{error}");
        server.restart();
        let back = Instant::now();
        while store.get(Key::lone(SPACE, b"k")).await.is_err() {
            assert!(back.elapsed() < Duration::from_secs(2), "not found again within two seconds");
            tokio::task::yield_now().await;
        }
        for (writer, count) in (0..).zip(counts) {
            for at in 0..count {
                let sort = [(acknowledged + writer).to_be_bytes(), at.to_be_bytes()].concat();
                let found = store.get(Key::row(SPACE, b"p", &sort)).await.unwrap();
                assert!(found.is_some(), "write {at} of writer {writer} was acknowledged and is gone");
            }
        }
        acknowledged += 16;
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout_of_unknown_effect() {
    let server = Private::start(&[]);
    let config = RedisConfig { response_timeout: Duration::from_millis(300), ..config() };
    let store = RedisStore::connect_with(&server.url(), config, SystemClock).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    store.put(key, "before").await.unwrap();
    server.signal("-STOP");
    let write = Write::put(key, "during").expect(Expect::Absent);
    let error = store.write(write).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    let error = store.get(key).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None), "{error}");
    server.signal("-CONT");
    // What comes late belongs to the calls that gave up: the next answer is the right one.
    assert_eq!(store.get(key).await.unwrap().unwrap().value, "before");
}

#[tokio::test]
async fn foreign_bytes_are_corrupt_and_stay() {
    let config = config();
    let store = RedisStore::connect_with(&server_url(), config.clone(), SystemClock).await.unwrap();
    let client = redis::Client::open(server_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = Key::lone(SPACE, b"k");
    let name = format!("{}{{redis_test:k}}", config.prefix);
    for command in [["SET", "x"], ["RPUSH", "x"]] {
        let () = redis::cmd("DEL").arg(&name).query_async(&mut connection).await.unwrap();
        let () = redis::cmd(command[0]).arg(&name).arg(command[1]).query_async(&mut connection).await.unwrap();
        let kinds = [
            store.get(key).await.unwrap_err(),
            store.put_if_absent(key, "y").await.unwrap_err(),
            store.run(key, &Add(1)).await.unwrap_err(),
        ];
        for error in kinds {
            assert_eq!(
                (error.kind(), error.effect(), error.key()),
                (ErrorKind::Corrupt, Effect::None, Some(key)),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_the_server_and_keeps_the_password() {
    let server =
        Private::start(&["--requirepass", "hunter2", "--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"]);
    let error = RedisStore::connect(&format!("redis://:wrong-secret@127.0.0.1:{}/", server.port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
    let error = RedisStore::connect(&format!("redis://:hunter2@127.0.0.1:{}/", server.port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("noeviction") && !format!("{error:?}").contains("hunter2"));
    let error = RedisStore::connect("no url").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn a_procedure_without_a_twin_is_unsupported() {
    struct Bare;
    impl Procedure for Bare {
        type Output = ();
        fn name(&self) -> &'static str {
            "bare"
        }
        fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
            Ok(Step { change: StateChange::Keep, output: () })
        }
        fn encode_output(&self, (): &(), _: &mut OutputBytes) {}
        fn decode_output(&self, _: &[u8]) -> Result<(), Undecodable> {
            Ok(())
        }
    }
    let store = RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap();
    let error = store.run(Key::lone(SPACE, b"k"), &Bare).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unsupported, Effect::None));
}
