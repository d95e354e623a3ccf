//! What real servers refuse, raised for plain commands and inside scripts, as kind and effect.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sysd_core::{
    Effect, Error, ErrorKind, Expect, Keep, Key, Space, Store as _, StoreExt as _, SystemClock, Trim, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::server::{Private, wait_until};
use support::{Count, config, fake_redis};

const SPACE: Space = Space::conditional("redis_test");

async fn store(url: &str) -> RedisStore {
    let config = RedisConfig { prefix: String::new(), ..config() };
    RedisStore::connect_with(url, config, SystemClock).await.unwrap()
}

/// Every way to write: a plain command, scripts, batches of both.
async fn refused_writes(store: &RedisStore) -> Vec<Error> {
    let (lone, row) = (Key::lone(SPACE, b"new"), Key::row(SPACE, b"new", b"row"));
    let mut errors = vec![
        store.put(lone, "x").await.unwrap_err(),
        store.put(row, "x").await.unwrap_err(),
        store.write(Write::put(lone, "x").expect(Expect::Absent)).await.unwrap_err(),
        store.run(lone, &Count).await.unwrap_err(),
        store.run(row, &Count).await.unwrap_err(),
    ];
    let writes = [Write::put(lone, "x"), Write::put(row, "x").expect(Expect::Absent)];
    errors.extend(store.write_many(&writes).await.into_iter().map(Result::unwrap_err));
    errors
}

async fn assert_refused(store: &RedisStore, kind: ErrorKind) {
    for error in refused_writes(store).await {
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
    }
}

/// Both keys of a partition and the lone record are as before.
async fn assert_nothing_written(store: &RedisStore) {
    let (lone, row) = (Key::lone(SPACE, b"new"), Key::row(SPACE, b"new", b"row"));
    assert_eq!(store.get(lone).await.unwrap(), None);
    assert_eq!(store.get(row).await.unwrap(), None);
    assert!(store.scan_rows(sysd_core::Scan::partition(SPACE, b"new", 9)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_full_server() {
    let server = Private::start(&[]);
    let store = store(&server.url()).await;
    store.put(Key::lone(SPACE, b"old"), vec![0; 1 << 20]).await.unwrap();
    server.tell(&["CONFIG", "SET", "maxmemory", "1mb"]);
    assert_refused(&store, ErrorKind::Full).await;
    assert_nothing_written(&store).await;
    // What frees memory is not refused.
    store.delete(Key::lone(SPACE, b"old")).await.unwrap();
    server.tell(&["CONFIG", "SET", "maxmemory", "0"]);
    store.put(Key::lone(SPACE, b"new"), "x").await.unwrap();
}

#[tokio::test]
async fn a_replica() {
    let (master, replica) = (Private::start(&[]), Private::start(&[]));
    let store = store(&replica.url()).await;
    replica.tell(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    wait_until("the replica has its copy", Duration::from_secs(20), || {
        replica.tell(&["INFO", "replication"]).contains("master_link_status:up")
    });
    assert_refused(&store, ErrorKind::Unavailable).await;
    assert_nothing_written(&store).await;
}

#[tokio::test]
async fn too_few_replicas() {
    let server = Private::start(&["--min-replicas-to-write", "1"]);
    let store = store(&server.url()).await;
    assert_refused(&store, ErrorKind::Unavailable).await;
    assert_nothing_written(&store).await;
}

#[tokio::test]
async fn a_disk_that_takes_nothing() {
    let server = Private::start(&[]);
    let store = store(&server.url()).await;
    store.put(Key::lone(SPACE, b"old"), "x").await.unwrap();
    server.tell(&["CONFIG", "SET", "save", "3600 1"]);
    server.lose_directory();
    server.tell(&["BGSAVE"]);
    wait_until("a save fails", Duration::from_secs(20), || {
        server.tell(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
    });
    assert_refused(&store, ErrorKind::Unavailable).await;
    assert_nothing_written(&store).await;
}

#[tokio::test]
async fn a_user_without_rights() {
    let server = Private::start(&[]);
    server.tell(&["ACL", "SETUSER", "ann", "on", ">hunter2", "~*", "+@all", "-set", "-zadd"]);
    let store = store(&server.url().replace("redis://", "redis://ann:hunter2@")).await;
    assert_refused(&store, ErrorKind::Denied).await;
    assert_nothing_written(&store).await;
}

#[tokio::test]
async fn keys_of_another_type() {
    let server = Private::start(&[]);
    let store = store(&server.url()).await;
    for key in ["{redis_test:new}", "{redis_test:new}:order"] {
        server.tell(&["RPUSH", key, "x"]);
    }
    let row = Key::row(SPACE, b"new", b"row");
    let errors = [
        store.put(row, "x").await.unwrap_err(),
        store.write(Write::put(Key::lone(SPACE, b"new"), "x").expect(Expect::Absent)).await.unwrap_err(),
        store.run(Key::lone(SPACE, b"new"), &Count).await.unwrap_err(),
        store.run(row, &Count).await.unwrap_err(),
        store.delete(row).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
    }
    assert_eq!(store.get(row).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_busy_with_a_script() {
    let server = Private::start(&["--busy-reply-threshold", "50"]);
    let store = store(&server.url()).await;
    let url = server.url();
    let endless = std::thread::spawn(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection)
    });
    wait_until("the script runs", Duration::from_secs(20), || server.tell(&["PING"]).contains("BUSY"));
    assert_refused(&store, ErrorKind::Unavailable).await;
    let error = store.get(Key::lone(SPACE, b"new")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    server.tell(&["SCRIPT", "KILL"]);
    assert!(endless.join().unwrap().is_err());
    wait_until("the script ends", Duration::from_secs(20), || server.tell(&["PING"]).contains("PONG"));
    assert_nothing_written(&store).await;
}

#[tokio::test]
async fn a_server_with_as_many_clients_as_it_takes() {
    let server = Private::start(&["--maxclients", "8"]);
    let mut stores = Vec::new();
    let error = loop {
        match RedisStore::connect(&server.url()).await {
            Ok(store) => stores.push(store),
            Err(error) => break error,
        }
        assert!(stores.len() < 9);
    };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
}

/// A trim that needs several calls, of which the second is refused, answers by what the first one removed.
#[tokio::test]
async fn a_trim_that_failed_half_way_may_have_happened() {
    for (removed, effect) in [(0, Effect::None), (500, Effect::Unknown)] {
        let mut trims = 0;
        // Of the first thousand rows some had expired and went; 500 that stay were met, of 700.
        let first = format!("*6\r\n:{removed}\r\n:1\r\n$2\r\n(a\r\n:500\r\n:500\r\n:0\r\n");
        let (port, commands) = fake_redis::start(move |_| {
            trims += 1;
            Some(if trims == 1 { first.clone() } else { "-NOPERM no right\r\n".to_owned() })
        });
        let store = store(&format!("redis://127.0.0.1:{port}/")).await;
        let trim = Trim { space: SPACE, partition: b"p", keep: Keep::First(700) };
        let error = store.trim(trim).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, effect), "{error}");
        assert_eq!(commands.lock().unwrap().len(), 2);
    }
}
