//! The Redis store on real servers: equal to the in-process store, and right when the server dies.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use sysd_core::{
    ArgumentBytes, Clock as _, Durability, Effect, ErrorKind, Expect, Keep, Key, ManualClock, OutputBytes, Procedure,
    Scan, Script, Space, StateChange, Step, Store, StoreExt, SystemClock, Timestamp, Trim, Undecodable, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::server::Private;
use support::{Add, Count, config, connect, server_url, suite};

const SPACE: Space = Space::conditional("redis_test");

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    suite::answers_as_memory(40, async |clock| connect(&server_url(), clock).await).await;
}

#[tokio::test]
async fn batches_answer_in_order_and_fail_one_by_one() {
    suite::batches(&RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap()).await;
}

/// Neighbours that write rows of one partition go together; whatever stands between them goes alone.
#[tokio::test]
async fn a_batch_of_rows_is_few_calls_and_each_is_answered() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let sorts: Vec<_> = (0..100_u32).map(u32::to_be_bytes).collect();
    let row = |at: usize| Key::row(SPACE, b"p", &sorts[at]);
    let mut writes: Vec<_> = (0..100).map(|at| Write::put(row(at), format!("value {at}"))).collect();
    writes[40] = writes[40].clone().expect(Expect::Absent);
    // The first time, the server does not know the scripts.
    let mut calls = 0;
    for _ in 0..2 {
        calls = script_calls(&server);
        assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
    }
    assert_eq!(script_calls(&server) - calls, 4, "two pipelines, one of them around the write with a condition");
    for (at, write) in writes.iter().enumerate() {
        let record = store.get(row(at)).await.unwrap().unwrap();
        assert_eq!((record.value, Some(record.version)), (format!("value {at}").into(), write.version()));
    }
    // Half of them go, and one is refused.
    let mut writes: Vec<_> = (0..50).map(|at| Write::delete(row(at * 2))).collect();
    writes.push(Write::put(row(1), "other").expect(Expect::Absent));
    let outcomes = store.write_many(&writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.as_ref().unwrap().is_applied()).count(), 50);
    let page = store.scan(Scan::partition(SPACE, b"p", 100)).await.unwrap();
    let left: Vec<_> = page.rows.iter().map(|row| row.sort.to_vec()).collect();
    assert_eq!(left, (0..50).map(|at| sorts[at * 2 + 1].to_vec()).collect::<Vec<_>>());
    // The server forgot the scripts.
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    assert!(store.write_many(&writes[..2]).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
    // Another program's key in the way: all that went together fail, with the key of each.
    let () = redis::cmd("SET").arg("{redis_test:q}:order").arg("x").query_async(&mut connection).await.unwrap();
    let writes = [Write::put(Key::row(SPACE, b"q", b"1"), "x"), Write::put(Key::row(SPACE, b"q", b"2"), "x")];
    for (outcome, write) in store.write_many(&writes).await.into_iter().zip(&writes) {
        assert_eq!(outcome.unwrap_err().key(), store.write(write.clone()).await.unwrap_err().key());
    }
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
        let written = Arc::new(AtomicU32::new(0));
        let writers: Vec<_> = (0..16_u32)
            .map(|writer| {
                let (store, written) = (store.clone(), Arc::clone(&written));
                tokio::spawn(async move {
                    for at in 0_u32.. {
                        let sort = [(acknowledged + writer).to_be_bytes(), at.to_be_bytes()].concat();
                        if let Err(error) = store.put(Key::row(SPACE, b"p", &sort), "x").await {
                            return (at, error);
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    unreachable!("the server is killed before four billion writes")
                })
            })
            .collect();
        let start = Instant::now();
        // A busy disk may take longer than that for the first one.
        while start.elapsed() < Duration::from_millis(300) || written.load(Ordering::Relaxed) == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing is written");
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

/// Rows named by number, so many, as they are put by no clock.
async fn put_rows(store: &impl Store, partition: &[u8], count: u32) {
    let sorts: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
    for part in sorts.chunks(10_000) {
        let writes: Vec<_> = part.iter().map(|sort| Write::put(Key::row(SPACE, partition, sort), "x")).collect();
        for outcome in store.write_many(&writes).await {
            assert!(outcome.unwrap().is_applied());
        }
    }
}

/// The longest that a call of a script stopped the server, as its slow log has it, microseconds.
fn longest_us(server: &Private) -> u64 {
    let log = server.tell(&["--json", "SLOWLOG", "GET", "-1"]);
    let log: serde_json::Value = serde_json::from_str(&log).unwrap();
    log.as_array().unwrap().iter().map(|entry| entry[2].as_u64().unwrap()).max().unwrap_or(0)
}

fn script_calls(server: &Private) -> u64 {
    let stats = server.tell(&["INFO", "commandstats"]);
    let count = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    count.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// A trim looked at every row that stays in one call: with 300,000 of them the server stood still for a second, each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_trim_that_keeps_many_rows_does_not_stop_the_server() {
    let server = Private::start(&["--slowlog-log-slower-than", "1000"]);
    let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), SystemClock).await.unwrap();
    put_rows(&store, b"p", 100_000).await;
    server.tell(&["SLOWLOG", "RESET"]);
    let trim = |keep| Trim { space: SPACE, partition: b"p", keep };
    // Nothing goes: one call tells.
    let before = script_calls(&server);
    let trimmed = store.trim(trim(Keep::Last(100_000))).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.more), (0, false));
    assert!(script_calls(&server) - before <= 2);
    // Ten thousand go, in ten calls; which, is found out once.
    let before = script_calls(&server);
    assert_eq!(store.trim_all(trim(Keep::Last(90_000))).await.unwrap(), 10_000);
    let made = script_calls(&server) - before;
    assert!((90..=110).contains(&made), "{made} calls");
    assert!(longest_us(&server) < 100_000, "stood still for {} us", longest_us(&server));
    let page = store.scan(Scan::partition(SPACE, b"p", 1)).await.unwrap();
    assert_eq!(page.rows[0].sort, 10_000_u32.to_be_bytes().as_slice());
}

/// What one trim found out about the rows that stay is used by the next only while it holds.
#[tokio::test]
async fn a_trim_counts_anew_once_rows_that_stay_have_gone_or_expired() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(100_000_000_000_000));
    let store = RedisStore::connect_with(&server_url(), config(), clock.clone()).await.unwrap();
    for (partition, is_deleted) in [(b"deleted", true), (b"expired", false)] {
        put_rows(&store, partition, 4_000).await;
        let last = 4_000_u32.to_be_bytes();
        let put = Write::put(Key::row(SPACE, partition, &last), "x")
            .expires_at(clock.now().saturating_add(Duration::from_secs(1)));
        assert!(store.write(put).await.unwrap().is_applied());
        let trim = Trim { space: SPACE, partition, keep: Keep::Last(1_500) };
        assert!(store.trim(trim).await.unwrap().more);
        if is_deleted {
            store.delete(Key::row(SPACE, partition, &last)).await.unwrap();
        } else {
            clock.advance(Duration::from_secs(1));
        }
        store.trim_all(trim).await.unwrap();
        let rows = store.scan_rows(Scan::partition(SPACE, partition, 4_000)).await.unwrap();
        let expected: Vec<_> = (2_500..4_000_u32).map(|sort| sort.to_be_bytes().to_vec()).collect();
        assert_eq!(rows.into_iter().map(|row| row.sort.to_vec()).collect::<Vec<_>>(), expected);
    }
}

/// Many expired rows among those that stay: found over several calls, and none counted.
#[tokio::test]
async fn a_trim_that_takes_many_calls_counts_live_rows_only() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(100_000_000_000_000));
    let store = RedisStore::connect_with(&server_url(), config(), clock.clone()).await.unwrap();
    let soon = clock.now().saturating_add(Duration::from_secs(1));
    let sorts: Vec<[u8; 4]> = (0..6_000_u32).map(u32::to_be_bytes).collect();
    let writes: Vec<_> = (0..)
        .zip(&sorts)
        .map(|(at, sort)| {
            let write = Write::put(Key::row(SPACE, b"p", sort), "x");
            if at % 3 == 0 { write } else { write.expires_at(soon) }
        })
        .collect();
    assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
    clock.advance(Duration::from_secs(1));
    for keep in [1_500, 1_200] {
        store.trim_all(Trim { space: SPACE, partition: b"p", keep: Keep::First(keep) }).await.unwrap();
        let rows = store.scan_rows(Scan::partition(SPACE, b"p", 6_000)).await.unwrap();
        assert_eq!(rows.len(), keep);
        assert_eq!(rows[keep - 1].sort, (u32::try_from(keep - 1).unwrap() * 3).to_be_bytes().as_slice());
    }
}

#[tokio::test]
async fn a_trim_neither_counts_nor_removes_corrupt_rows_among_those_that_stay() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    for sort in ["a", "b", "c"] {
        store.put(Key::row(SPACE, b"p", sort.as_bytes()), "x").await.unwrap();
    }
    server.tell(&["ZADD", "{redis_test:p}:order", "0", "d"]);
    server.tell(&["HSET", "{redis_test:p}:rows", "d", "rubbish"]);
    assert_eq!(store.trim_all(Trim { space: SPACE, partition: b"p", keep: Keep::Last(2) }).await.unwrap(), 1);
    assert_eq!(
        server.tell(&["ZRANGE", "{redis_test:p}:order", "0", "-1"]).split_whitespace().collect::<String>(),
        "bcd"
    );
    let error = store.scan(Scan::partition(SPACE, b"p", 9)).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(Key::row(SPACE, b"p", b"d"))));
}

/// A page was as large as its rows: a thousand of a megabyte took longer than a call waits, each time anew.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_large_rows_are_short() {
    let server = Private::start(&[]);
    let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), SystemClock).await.unwrap();
    for at in 0..40_u8 {
        // One is larger than a page.
        store.put(Key::row(SPACE, b"p", &[at]), vec![at; if at == 20 { 6 << 20 } else { 1 << 20 }]).await.unwrap();
    }
    for scan in
        [Scan::partition(SPACE, b"p", 1_000), Scan::partition(SPACE, b"p", 1_000).order(sysd_core::Order::Descending)]
    {
        let (mut cursor, mut found) = (None::<bytes::Bytes>, Vec::new());
        loop {
            let page = store.scan(cursor.as_ref().map_or(scan, |cursor| scan.after(cursor))).await.unwrap();
            let bytes: usize = page.rows.iter().map(|row| row.record.value.len()).sum();
            assert!(!page.rows.is_empty() && (bytes <= 4 << 20 || page.rows.len() == 1), "{bytes} bytes");
            found.extend(page.rows.iter().map(|row| row.sort[0]));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..40).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn scans_reclaim_expired_rows_but_not_before_every_clock_is_past_them() {
    let server = Private::start(&[]);
    let clock = ManualClock::new(Timestamp::from_micros_saturating(100_000_000_000_000));
    let store = RedisStore::connect_with(&server.url(), RedisConfig::default(), clock.clone()).await.unwrap();
    let behind = store.with_clock(ManualClock::new(clock.now()));
    let key = Key::row(SPACE, b"p", b"a");
    let put = Write::put(key, "x").expires_at(clock.now().saturating_add(Duration::from_secs(1)));
    assert!(store.write(put).await.unwrap().is_applied());
    let held = || {
        [["HLEN", "{redis_test:p}:rows"], ["ZCARD", "{redis_test:p}:order"]]
            .map(|ask| server.tell(&ask).trim().to_owned())
    };
    clock.advance(Duration::from_secs(2));
    assert!(store.scan(Scan::partition(SPACE, b"p", 9)).await.unwrap().rows.is_empty());
    assert_eq!(held(), ["1", "1"]);
    assert!(behind.get(key).await.unwrap().is_some(), "by another's clock it is live");
    clock.advance(Duration::from_secs(24 * 60 * 60));
    assert!(store.scan(Scan::partition(SPACE, b"p", 9)).await.unwrap().rows.is_empty());
    assert_eq!(held(), ["0", "0"]);
}

/// An expiry beyond all time was corrupt for a get, and live for a procedure, which counted on.
#[tokio::test]
async fn an_expiry_beyond_time_is_corrupt_for_every_call() {
    let config = config();
    let store = RedisStore::connect_with(&server_url(), config.clone(), SystemClock).await.unwrap();
    let client = redis::Client::open(server_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let names = ["", ":rows", ":order"].map(|suffix| format!("{}{{redis_test:k}}{suffix}", config.prefix));
    for expiry in [1_u64 << 53, 0x7F7F_7F7F_7F7F_7F7F, u64::MAX] {
        let bytes = [&[1_u8][..], &expiry.to_be_bytes(), &[3; 16], &7_u64.to_be_bytes()].concat();
        let () = redis::cmd("SET").arg(&names[0]).arg(&bytes).query_async(&mut connection).await.unwrap();
        let () = redis::cmd("HSET").arg(&names[1]).arg("a").arg(&bytes).query_async(&mut connection).await.unwrap();
        let () = redis::cmd("ZADD").arg(&names[2]).arg(0).arg("a").query_async(&mut connection).await.unwrap();
        for key in [Key::lone(SPACE, b"k"), Key::row(SPACE, b"k", b"a")] {
            let errors = [
                store.get(key).await.unwrap_err(),
                store.run(key, &Count).await.unwrap_err(),
                store.put_if_absent(key, "y").await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(key)), "{expiry}: {error}");
            }
        }
        assert_eq!(store.scan(Scan::partition(SPACE, b"k", 9)).await.unwrap_err().kind(), ErrorKind::Corrupt);
        store.trim_all(Trim { space: SPACE, partition: b"k", keep: Keep::Last(1) }).await.unwrap();
        assert_eq!(store.get(Key::row(SPACE, b"k", b"a")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn scans_and_trims_that_fail_name_the_partition() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    server.tell(&["RPUSH", "{redis_test:p}:order", "x"]);
    let trim = Trim { space: SPACE, partition: b"p", keep: Keep::Last(1) };
    for error in [store.scan(Scan::partition(SPACE, b"p", 9)).await.unwrap_err(), store.trim(trim).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.key().map(|key| (key.space(), key.partition().to_vec())), Some((SPACE, b"p".to_vec())));
    }
}

#[tokio::test]
async fn options_that_are_zero_are_refused_by_name() {
    let zero = Duration::ZERO;
    for (option, config) in [
        ("response_timeout", RedisConfig { response_timeout: zero, ..config() }),
        ("connection_timeout", RedisConfig { connection_timeout: zero, ..config() }),
        ("batch_in_flight_max", RedisConfig { batch_in_flight_max: 0, ..config() }),
    ] {
        let error = RedisStore::connect_with(&server_url(), config, SystemClock).await.unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Config, Some(option)), "{error}");
        assert!(error.to_string().contains(option), "{error}");
    }
}

/// Fails in Lua where it is asked to.
struct Fragile(bool);

static FRAGILE: Script =
    Script { name: "fragile", source: "if arguments == 'x' then error('broken') end return 'put', 'done', 'state'" };

impl Procedure for Fragile {
    type Output = ();
    fn name(&self) -> &'static str {
        "fragile"
    }
    fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
        unreachable!("it runs on Redis only")
    }
    fn encode_output(&self, (): &(), _: &mut OutputBytes) {}
    fn decode_output(&self, _: &[u8]) -> Result<(), Undecodable> {
        Ok(())
    }
    fn script(&self) -> Option<&'static Script> {
        Some(&FRAGILE)
    }
    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        out.extend_from_slice(if self.0 { b"x" } else { b"" });
    }
}

/// Each of many concurrent updates is decided for itself, in far fewer calls of the script.
#[tokio::test]
async fn concurrent_updates_share_calls_and_none_is_lost() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    for (round, key) in [Key::lone(SPACE, b"hot"), Key::row(SPACE, b"hot", b"row")].into_iter().enumerate() {
        let mut counts = join_all((0..1_000).map(|_| store.run(key, &Count))).await;
        counts.sort_by_key(|count| *count.as_ref().unwrap());
        assert!(counts.into_iter().map(Result::unwrap).eq(1..=1_000));
        let calls = script_calls(&server);
        assert!(calls < 60 * (1 + round as u64), "{calls} calls of the script");
    }
    // No two records of a batch get the same version.
    let names: Vec<_> = (0..100_u8).map(|name| [name]).collect();
    let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
    assert!(
        join_all(keys.iter().map(|&key| store.run(key, &Count))).await.into_iter().all(|count| count.unwrap() == 1)
    );
    let records = store.get_many(&keys).await.into_iter().map(|record| record.unwrap().unwrap().version);
    assert_eq!(records.collect::<HashSet<_>>().len(), 100);
}

/// One forbidden key had the server refuse the whole call, and with it the updates of others.
#[tokio::test]
async fn an_update_of_a_forbidden_key_fails_alone() {
    let server = Private::start(&[]);
    server.tell(&["ACL", "SETUSER", "ann", "on", ">secret", "~{redis_test:mine*", "+@all"]);
    let url = format!("redis://ann:secret@127.0.0.1:{}/", server.port);
    let store = RedisStore::connect(&url).await.unwrap();
    let names = ["mine 1", "other", "mine 2"];
    let counts = join_all(names.map(|name| store.run(Key::lone(SPACE, name.as_bytes()), &Count))).await;
    let found: Vec<_> = counts.into_iter().map(|count| count.map_err(|error| (error.kind(), error.effect()))).collect();
    assert_eq!(found, [Ok(1), Err((ErrorKind::Denied, Effect::None)), Ok(1)]);
}

#[tokio::test]
async fn an_update_that_fails_among_others_fails_alone() {
    for protocol in ["resp2", "resp3"] {
        fails_alone(protocol).await;
    }
}

async fn fails_alone(protocol: &str) {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&format!("{}?protocol={protocol}", server.url())).await.unwrap();
    server.tell(&["RPUSH", "{redis_test:list}", "x"]);
    server.tell(&["SET", "{redis_test:foreign}", "x"]);
    let runs = |name: &'static str, is_broken| {
        let store = store.clone();
        async move { store.run(Key::lone(SPACE, name.as_bytes()), &Fragile(is_broken)).await }
    };
    let answers = join_all([
        runs("a", false),
        runs("list", false),
        runs("foreign", false),
        runs("broken", true),
        runs("b", false),
    ])
    .await;
    let found: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().copied().map_err(|error| (error.kind(), error.effect()))).collect();
    let corrupt = Err((ErrorKind::Corrupt, Effect::None));
    let broken = Err((ErrorKind::Internal, Effect::Unknown));
    assert_eq!(found, [Ok(()), corrupt, corrupt, broken, Ok(())]);
    for (name, is_there) in [("a", true), ("b", true), ("broken", false)] {
        let record = store.get(Key::lone(SPACE, name.as_bytes())).await.unwrap();
        assert_eq!(record.is_some(), is_there, "{name}");
    }
    assert_eq!(script_calls(&server), 1, "they went together");
}
