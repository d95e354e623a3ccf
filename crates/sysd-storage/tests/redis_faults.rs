//! The Redis store on connections that go wrong: cut, mute, closed while idle, not to be trusted.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use futures::poll;
use sysd_core::{Effect, ErrorKind, Expect, Key, Space, Store as _, StoreExt as _, SystemClock, Write};
use sysd_storage::{RedisConfig, RedisStore, TlsCa};

mod support;

use support::proxy::{Mode, Proxy};
use support::server::Private;
use support::{Count, config, server_url, suite, tls_url};

const SPACE: Space = Space::conditional("redis_test");
const PATIENCE: Duration = Duration::from_millis(300);

async fn impatient(url: &str) -> RedisStore {
    let config = RedisConfig { response_timeout: PATIENCE, connection_timeout: PATIENCE, ..config() };
    RedisStore::connect_with(url, config, SystemClock).await.unwrap()
}

fn shared_port() -> u16 {
    server_url().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_call_whose_answer_is_cut_off_is_of_unknown_effect_and_never_sent_again() {
    let proxy = Proxy::start(shared_port());
    let store = impatient(&proxy.url()).await;
    for round in 0..20_u8 {
        let key = [round];
        let key = Key::lone(SPACE, &key);
        // The script is known, or its refusal would be cut off in place of the answer.
        let _: u64 = store.run(Key::lone(SPACE, b"other"), &Count).await.unwrap();
        proxy.set(Mode::CutAnswers);
        let error = store.run(key, &Count).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        proxy.set(Mode::Pass);
        // Once it was, not twice; that twice would be seen, the next call shows.
        assert_eq!(
            store.get(key).await.unwrap().map(|record| record.value.to_vec()),
            Some(1_u64.to_be_bytes().to_vec())
        );
        assert_eq!(store.run(key, &Count).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn a_mute_connection_is_given_up() {
    let proxy = Proxy::start(shared_port());
    let store = impatient(&proxy.url()).await;
    // What keeps its connection stays mute: such a store would fail below.
    let client = redis::Client::open(proxy.url()).unwrap();
    let patience = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let mut bare = client.get_multiplexed_async_connection_with_config(&patience).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    store.put(key, "before").await.unwrap();
    proxy.set(Mode::Silent);
    let start = Instant::now();
    let error = store.write(Write::put(key, "during").expect(Expect::Absent)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    assert!(start.elapsed() < PATIENCE + Duration::from_millis(700), "{:?}", start.elapsed());
    // There is no connection now, and none to be had: nothing was sent.
    let error = store.write(Write::put(key, "during").expect(Expect::Absent)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None), "{error}");
    assert!(redis::cmd("PING").query_async::<String>(&mut bare).await.is_err());
    proxy.set(Mode::Pass);
    let before = proxy.connections();
    let back = Instant::now();
    assert_eq!(store.get(key).await.unwrap().unwrap().value, "before");
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    assert!(proxy.connections() > before);
    assert!(redis::cmd("PING").query_async::<String>(&mut bare).await.is_err());
}

#[tokio::test]
async fn calls_in_flight_beside_one_that_is_overdue_all_end_and_later_ones_succeed() {
    let proxy = Proxy::start(shared_port());
    let store = impatient(&proxy.url()).await;
    proxy.set(Mode::Silent);
    let names: Vec<[u8; 1]> = (0..100).map(|name| [name]).collect();
    let start = Instant::now();
    let calls = names.iter().map(|name| store.put(Key::lone(SPACE, name), "x"));
    for outcome in futures::future::join_all(calls).await {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    }
    let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
    for found in store.get_many(&keys).await {
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert!(start.elapsed() < 4 * PATIENCE + Duration::from_secs(1), "{:?}", start.elapsed());
    proxy.set(Mode::Pass);
    for found in store.get_many(&keys).await {
        assert_eq!(found.unwrap(), None);
    }
}

/// An attempt to connect makes headway only while somebody waits for it. One that all have left is over its time when the next
/// caller comes, and would end at once.
#[tokio::test]
async fn an_attempt_to_connect_that_all_have_left_is_not_taken_up_again() {
    let proxy = Proxy::start(shared_port());
    let store = impatient(&proxy.url()).await;
    let key = Key::lone(SPACE, b"k");
    proxy.set(Mode::CutAnswers);
    assert!(store.put(key, "x").await.is_err());
    proxy.set(Mode::Silent);
    assert!(tokio::time::timeout(PATIENCE / 4, store.put(key, "x")).await.is_err(), "nobody answered, and it ended");
    proxy.set(Mode::Pass);
    // real-time: the attempt's time passes.
    tokio::time::sleep(PATIENCE * 2).await;
    store.put(key, "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closed_while_idle_costs_no_call() {
    let server = Private::start(&[]);
    let store = RedisStore::connect_with(&server.url(), config(), SystemClock).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    for round in 0..10_u8 {
        assert_eq!(server.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).trim(), "1");
        // real-time: the end of the connection travels through the kernel.
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.put(key, vec![round]).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_harms_no_other() {
    let store = RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap();
    for round in 0..200_u32 {
        let name = round.to_be_bytes();
        let key = Key::lone(SPACE, &name);
        {
            let mut put = std::pin::pin!(store.put(key, name.to_vec()));
            for _ in 0..round % 4 {
                let _ = futures::poll!(put.as_mut());
                tokio::task::yield_now().await;
            }
        }
        let other = Key::row(SPACE, &name, b"other");
        store.put(other, "x").await.unwrap();
        assert_eq!(store.get(other).await.unwrap().unwrap().value, "x");
        // Written whole or not at all.
        let found = store.get(key).await.unwrap();
        assert!(found.is_none_or(|record| record.value == name.as_slice()));
    }
}

#[tokio::test]
async fn over_tls_all_is_the_same() {
    let (url, ca) = tls_url();
    let with_ca = || RedisConfig { tls_ca: Some(TlsCa::from_file(&ca).unwrap()), ..config() };
    let connect = async |clock| RedisStore::connect_with(&url, with_ca(), clock).await.unwrap();
    suite::answers_as_memory(40, connect).await;
    suite::batches(&RedisStore::connect_with(&url, with_ca(), SystemClock).await.unwrap()).await;
}

/// Damaged answers over TLS once were told as a matter of configuration without effect, though the write had happened: a caller
/// that then wrote something else elsewhere had both.
#[tokio::test]
async fn a_write_whose_answer_is_damaged_over_tls_is_of_unknown_effect() {
    let (url, ca) = tls_url();
    let (host, port) = url.trim_end_matches('/').rsplit_once(':').unwrap();
    let proxy = Proxy::start(port.parse().unwrap());
    let config = RedisConfig { tls_ca: Some(TlsCa::from_file(&ca).unwrap()), ..config() };
    let proxied = format!("{host}:{}/", proxy.port);
    let store = RedisStore::connect_with(&proxied, config.clone(), SystemClock).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    store.put(Key::lone(SPACE, b"other"), "x").await.unwrap();
    proxy.set(Mode::DamageAnswers);
    let error = store.put(key, "v").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    // A connection that can't be made well is another matter: nothing went out.
    let error = store.put(Key::lone(SPACE, b"unsent"), "v").await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "{error}");
    proxy.set(Mode::Pass);
    let direct = RedisStore::connect_with(&url, config, SystemClock).await.unwrap();
    assert_eq!(direct.get(key).await.unwrap().unwrap().value, "v");
    assert_eq!(direct.get(Key::lone(SPACE, b"unsent")).await.unwrap(), None);
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_trusted_is_a_matter_of_configuration() {
    let (url, ca) = tls_url();
    let url = url.replace("rediss://", "rediss://ann:hunter2@");
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    for (what, tls_ca) in [("the system's", None), ("another", Some(TlsCa::from_pem(other.clone())))] {
        let config = RedisConfig { tls_ca, ..config() };
        let error = RedisStore::connect_with(&url, config, SystemClock).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{what}: {error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    for rubbish in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let config = RedisConfig { tls_ca: Some(TlsCa::from_pem(rubbish)), ..config() };
        let error = RedisStore::connect_with(&url, config, SystemClock).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{rubbish}: {error}");
    }
    assert_eq!(TlsCa::from_file("/no/such/file").unwrap_err().kind(), ErrorKind::Config);
    // A server that speaks no TLS waits for the rest of a command.
    let plain = server_url().replace("redis://", "rediss://");
    let config = || RedisConfig { tls_ca: Some(TlsCa::from_file(&ca).unwrap()), ..support::config() };
    let error = RedisStore::connect_with(&plain, config(), SystemClock).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None), "{error}");
}

// Callers share an attempt to connect. One may be dropped at the very moment in which it would go on with it, and another may
// not be polled for long: the attempt waits for neither.
#[tokio::test]
async fn an_attempt_to_connect_goes_on_though_no_caller_is_polled() {
    let mut server = Private::start(&[]);
    let store = impatient(&server.url()).await;
    let key = Key::lone(SPACE, b"k");
    store.put(key, "before").await.unwrap();
    server.kill();
    assert!(store.get(key).await.is_err());
    server.restart();
    let (mut first, mut second) = (Box::pin(store.get(key)), Box::pin(store.get(key)));
    assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
    drop(first);
    let start = Instant::now();
    // Who speaks RESP3 has shaken hands.
    while !server.tell(&["CLIENT", "LIST"]).contains("resp=3") {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody goes on with the attempt");
        // real-time: the server is waited for, while nobody polls the second caller.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(second.await.unwrap(), None);
}

// An attempt that failed while nobody waited for it says nothing of the server as it is now.
#[tokio::test]
async fn an_attempt_that_failed_unseen_is_not_taken_for_the_next() {
    let mut server = Private::start(&[]);
    let store = impatient(&server.url()).await;
    let key = Key::lone(SPACE, b"k");
    store.put(key, "before").await.unwrap();
    server.kill();
    assert!(store.get(key).await.is_err());
    let mut left = Box::pin(store.get(key));
    assert!(poll!(left.as_mut()).is_pending());
    drop(left);
    // real-time: the attempt fails meanwhile.
    tokio::time::sleep(2 * PATIENCE).await;
    server.restart();
    assert_eq!(store.get(key).await.unwrap(), None);
}
