//! The Redis store on a Cluster: equal to the in-process store, on every node, through moving slots and failovers.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures::poll;
use sysd_core::{
    AnyStore, Effect, Error, ErrorKind, Expect, Key, Space, Store as _, StoreExt as _, SystemClock, Write,
};
use sysd_storage::{RedisConfig, RedisStore};

mod support;

use support::proxy::{Mode, Proxy};
use support::server::{Private, PrivateCluster};
use support::{Add, Count, cluster_url, config, connect, fake_redis, suite};

const SPACE: Space = Space::conditional("redis_test");

async fn store() -> RedisStore {
    RedisStore::connect_with(&cluster_url(), config(), SystemClock).await.unwrap()
}

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    suite::answers_as_memory(40, async |clock| connect(&cluster_url(), clock).await).await;
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
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let node = cluster_url().replace("redis-cluster://", "redis://");
    let node = node.split(',').next().unwrap();
    let store = RedisStore::connect_with(node, config(), SystemClock).await.unwrap();
    let mut refused = 0;
    for partition in 0..16_u32 {
        if let Err(error) = store.put(Key::lone(SPACE, &partition.to_be_bytes()), "x").await {
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0);
    // In a batch it once was told as a slot that moves: worth trying again, for ever.
    let names: Vec<[u8; 4]> = (0..16_u32).map(u32::to_be_bytes).collect();
    let writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(SPACE, name), "x")).collect();
    let errors: Vec<_> = store.write_many(&writes).await.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), refused);
    for error in errors {
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
    }
}

/// The text of a key as Redis has it, for partitions of letters.
fn name(config: &RedisConfig, partition: &str) -> String {
    format!("{}{{redis_test:{partition}}}", config.prefix)
}

#[tokio::test]
async fn scripts_are_loaded_again_on_every_node_that_forgot_them_also_within_a_batch() {
    let cluster = PrivateCluster::start(0);
    let store = RedisStore::connect(&cluster.url()).await.unwrap();
    let names: Vec<[u8; 1]> = (0..60).map(|name| [name]).collect();
    for round in 0..3_u64 {
        let sort = round.to_be_bytes();
        for node in &cluster.nodes {
            assert_eq!(node.tell(&["SCRIPT", "FLUSH"]).trim(), "OK");
        }
        let writes: Vec<_> = names.iter().map(|name| Write::put(Key::row(SPACE, name, &sort), "x")).collect();
        for outcome in store.write_many(&writes).await {
            assert!(outcome.unwrap().is_applied());
        }
        for node in &cluster.nodes {
            assert_eq!(node.tell(&["SCRIPT", "FLUSH"]).trim(), "OK");
        }
        for name in &names {
            assert_eq!(store.run(Key::lone(SPACE, name), &Count).await.unwrap(), round + 1);
        }
    }
}

#[tokio::test]
async fn follows_a_slot_that_moves() {
    let cluster = PrivateCluster::start(0);
    let config = config();
    let store = RedisStore::connect_with(&cluster.url(), config.clone(), SystemClock).await.unwrap();
    let (lone, row) = (Key::lone(SPACE, b"moving"), Key::row(SPACE, b"moving", b"a"));
    let name = name(&config, "moving");
    let slot = slot_of(&cluster.nodes[0], &name).to_string();
    assert_eq!(store.run(lone, &Count).await.unwrap(), 1);
    store.put(row, "x").await.unwrap();
    let from = &cluster.nodes[cluster.holder(&name)];
    let to = cluster.nodes.iter().find(|node| node.port != from.port).unwrap();
    let id = |node: &Private| node.tell(&["CLUSTER", "MYID"]).trim().to_owned();
    to.tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    let to_port = to.port.to_string();
    // The lone record moves, the row stays: each is found where it is.
    assert_eq!(from.tell(&["MIGRATE", "127.0.0.1", &to_port, &name, "0", "1000"]).trim(), "OK");
    assert_eq!(store.run(lone, &Count).await.unwrap(), 2);
    assert_eq!(store.get(row).await.unwrap().unwrap().value, "x");
    assert_eq!(store.get_many(&[row, lone]).await.into_iter().filter(|found| matches!(found, Ok(Some(_)))).count(), 2);
    // One of a row's two keys has moved: for a moment nobody can serve it.
    assert_eq!(from.tell(&["MIGRATE", "127.0.0.1", &to_port, &format!("{name}:rows"), "0", "1000"]).trim(), "OK");
    let error = store.put(row, "y").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert_eq!(from.tell(&["MIGRATE", "127.0.0.1", &to_port, &format!("{name}:order"), "0", "1000"]).trim(), "OK");
    store.put(row, "y").await.unwrap();
    for node in &cluster.nodes {
        node.tell(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    assert_eq!(store.run(lone, &Count).await.unwrap(), 3);
    let answers = store.get_many(&[row, lone]).await;
    assert!(answers.into_iter().all(|found| matches!(found, Ok(Some(_)))));
}

/// While a slot moves, updates of several of its records can't be done in one call: some are here and some there.
#[tokio::test]
async fn updates_of_a_slot_that_moves_are_done_one_by_one() {
    let cluster = PrivateCluster::start(0);
    let config = config();
    let store = RedisStore::connect_with(&cluster.url(), config.clone(), SystemClock).await.unwrap();
    // Two partitions of one slot.
    let slot_of = |partition: &str| slot_of(&cluster.nodes[0], &name(&config, partition));
    let mut known = std::collections::HashMap::new();
    let (one, other) = (0..)
        .find_map(|at| {
            let partition = format!("p{at}");
            known.insert(slot_of(&partition), partition.clone()).map(|other| (partition, other))
        })
        .unwrap();
    let keys = [Key::lone(SPACE, one.as_bytes()), Key::lone(SPACE, other.as_bytes())];
    let count_all = async || {
        let counts = futures::future::join_all((0..20).map(|at| store.run(keys[at % 2], &Count))).await;
        let mut counts: Vec<_> = counts.into_iter().map(Result::unwrap).collect();
        counts.sort_unstable();
        counts
    };
    let expected = |from: u64| (from..from + 10).flat_map(|count| [count, count]).collect::<Vec<_>>();
    assert_eq!(count_all().await, expected(1));
    let name = name(&config, &one);
    let slot = slot_of(&one).to_string();
    let from = &cluster.nodes[cluster.holder(&name)];
    let to = cluster.nodes.iter().find(|node| node.port != from.port).unwrap();
    let id = |node: &Private| node.tell(&["CLUSTER", "MYID"]).trim().to_owned();
    to.tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    assert_eq!(from.tell(&["MIGRATE", "127.0.0.1", &to.port.to_string(), &name, "0", "1000"]).trim(), "OK");
    assert_eq!(count_all().await, expected(11));
    assert_eq!(calls(to, "eval"), 10, "those that moved, one by one");
}

fn set_all(proxies: &[Proxy], mode: Mode) {
    for proxy in proxies {
        proxy.set(mode);
    }
}

/// A Cluster whose nodes are known by proxies only.
async fn proxied() -> (PrivateCluster, Vec<Proxy>, RedisStore) {
    let cluster = PrivateCluster::start(0);
    let proxies: Vec<_> = cluster.nodes.iter().map(|node| Proxy::start(node.port)).collect();
    for (node, proxy) in cluster.nodes.iter().zip(&proxies) {
        node.tell(&["CONFIG", "SET", "cluster-announce-port", &proxy.port.to_string()]);
    }
    let ports: Vec<_> = proxies.iter().map(|proxy| proxy.port.to_string()).collect();
    support::server::wait_until("all nodes announce the proxies", Duration::from_secs(20), || {
        cluster.nodes.iter().all(|node| {
            let slots = node.tell(&["CLUSTER", "SLOTS"]);
            ports.iter().all(|port| slots.contains(port))
        })
    });
    let url = format!("redis-cluster://127.0.0.1:{}/", ports[0]);
    let store = RedisStore::connect(&url).await.unwrap();
    (cluster, proxies, store)
}

#[tokio::test]
async fn a_call_whose_answer_is_cut_off_is_never_sent_again() {
    let (_cluster, proxies, store) = proxied().await;
    for round in 0..30_u8 {
        // real-time: the map is learned again, so that no answer about it is the one that is cut next.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let key = [round];
        let key = Key::lone(SPACE, &key);
        // Connections are up, scripts are known.
        for other in 100..130_u8 {
            let _: u64 = store.run(Key::lone(SPACE, &[other]), &Count).await.unwrap();
        }
        set_all(&proxies, Mode::CutAnswers);
        let error = store.run(key, &Count).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        let error = store.put(Key::row(SPACE, b"p", &[round]), "x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        set_all(&proxies, Mode::Pass);
        // Once it was, not twice; that twice would be seen, the next call shows.
        assert_eq!(store.get(key).await.unwrap().unwrap().value, 1_u64.to_be_bytes().as_slice());
        assert_eq!(store.run(key, &Count).await.unwrap(), 2);
    }
}

/// A batch that was sent again after its answers were lost passed all tests: while every answer was cut, nothing could go out a
/// second time. Here only the first is, so that whatever is sent again arrives, and is counted by the servers.
#[tokio::test]
async fn a_batch_whose_answers_are_cut_off_is_never_sent_again() {
    let (cluster, proxies, store) = proxied().await;
    let names: Vec<[u8; 1]> = (0..60).map(|name| [name]).collect();
    let writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(SPACE, name), "x")).collect();
    for outcome in store.write_many(&writes).await {
        assert!(outcome.unwrap().is_applied());
    }
    for round in 2..5_u64 {
        set_all(&proxies, Mode::CutOnce);
        for outcome in store.write_many(&writes).await {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        }
        set_all(&proxies, Mode::Pass);
        // real-time: the map is learned again, so that no answer about it is the one that is cut next.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
        assert!(store.get_many(&keys).await.into_iter().all(|found| found.is_ok()));
        assert_eq!(cluster.nodes.iter().map(|node| calls(node, "set")).sum::<u64>(), round * 60, "puts at the servers");
    }
}

/// A call alone, cut likewise: the count shows how often its procedure ran.
#[tokio::test]
async fn a_procedure_whose_answer_is_cut_off_once_runs_once() {
    let (_cluster, proxies, store) = proxied().await;
    for round in 0..10_u8 {
        // real-time: as above.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for other in 100..130_u8 {
            let _: u64 = store.run(Key::lone(SPACE, &[other]), &Count).await.unwrap();
        }
        set_all(&proxies, Mode::CutOnce);
        let name = [round];
        let error = store.run(Key::lone(SPACE, &name), &Count).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        set_all(&proxies, Mode::Pass);
        assert_eq!(store.run(Key::lone(SPACE, &name), &Count).await.unwrap(), 2);
    }
}

/// How often a server has run a command.
fn calls(node: &Private, command: &str) -> u64 {
    let stats = node.tell(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// A node that takes its first slot is in nobody's map yet, and each call that was sent on to it made a connection of its own:
/// 201 for 200 puts.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_node_that_takes_its_first_slot_share_a_connection() {
    let cluster = PrivateCluster::start(0);
    let fresh = Private::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
    fresh.tell(&["CLUSTER", "MEET", "127.0.0.1", &cluster.nodes[0].port.to_string()]);
    support::server::wait_until("the new node is known", Duration::from_secs(30), || {
        let own = fresh.tell(&["CLUSTER", "INFO"]);
        let is_known = |node: &Private| node.tell(&["CLUSTER", "NODES"]).contains(&format!(":{}@", fresh.port));
        own.contains("cluster_known_nodes:4") && own.contains("cluster_state:ok") && cluster.nodes.iter().all(is_known)
    });
    let config = config();
    let store = RedisStore::connect_with(&cluster.url(), config.clone(), SystemClock).await.unwrap();
    let name = name(&config, "moving");
    let slot = slot_of(&cluster.nodes[0], &name).to_string();
    let from = &cluster.nodes[cluster.holder(&name)];
    let id = |node: &Private| node.tell(&["CLUSTER", "MYID"]).trim().to_owned();
    fresh.tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&fresh)]);
    let connections = || -> u64 {
        let stats = fresh.tell(&["INFO", "stats"]);
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse().unwrap()
    };
    let before = connections();
    for _ in 0..200 {
        store.put(Key::lone(SPACE, b"moving"), "x").await.unwrap();
    }
    let made = connections() - before;
    // One, and one for the question itself.
    assert!(made <= 4, "{made} connections for 200 puts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_followed_by_its_replica() {
    let mut cluster = PrivateCluster::start(1);
    let config = config();
    let store = RedisStore::connect_with(&cluster.url(), config.clone(), SystemClock).await.unwrap();
    let name = name(&config, "p");
    let master = cluster.holder(&name);
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..8_u32).map(|writer| tokio::spawn(write_until(store.clone(), writer, Arc::clone(&is_over)))).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        tokio::task::yield_now().await;
    }
    cluster.nodes[master].kill();
    let survivor = cluster.nodes.iter().position(|node| node.port != cluster.nodes[master].port).unwrap();
    let dead = cluster.nodes[master].port.to_string();
    let slot = slot_of(&cluster.nodes[survivor], &name);
    tokio::task::block_in_place(|| {
        support::server::wait_until("a replica takes over", Duration::from_secs(30), || {
            cluster
                .nodes
                .iter()
                .filter(|node| node.port.to_string() != dead)
                .all(|node| holder_port(node, slot) != dead)
                && cluster.nodes[survivor].tell(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    });
    let failed_over = Instant::now();
    while let Err(error) = store.put(Key::row(SPACE, b"p", b"after"), "x").await {
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
        assert!(failed_over.elapsed() < Duration::from_secs(2), "not found within two seconds: {error}");
        tokio::task::yield_now().await;
    }
    is_over.store(true, Ordering::SeqCst);
    let mut refused = 0;
    for writer in writers {
        for (sort, error) in writer.await.unwrap() {
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
            if error.effect() == Effect::None {
                assert_eq!(store.get(Key::row(SPACE, b"p", &sort)).await.unwrap(), None, "refused, and there: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nobody met the failover");
}

/// Writes rows of one partition until told to end; answers the writes that failed.
async fn write_until(store: RedisStore, writer: u32, is_over: Arc<AtomicBool>) -> Vec<([u8; 8], Error)> {
    let mut failed = Vec::new();
    for at in 0_u32.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let mut sort = [0; 8];
        sort[..4].copy_from_slice(&writer.to_be_bytes());
        sort[4..].copy_from_slice(&at.to_be_bytes());
        if let Err(error) = store.put(Key::row(SPACE, b"p", &sort), "x").await {
            failed.push((sort, error));
        }
        tokio::task::yield_now().await;
    }
    failed
}

fn slot_of(node: &Private, name: &str) -> u16 {
    node.tell(&["CLUSTER", "KEYSLOT", name]).trim().parse().unwrap()
}

/// The port of the master that a node thinks holds a slot.
fn holder_port(node: &Private, slot: u16) -> String {
    let nodes = node.tell(&["CLUSTER", "NODES"]);
    let holds = |range: &str| match range.split_once('-') {
        Some((first, last)) => {
            matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
        }
        None => range.parse() == Ok(slot),
    };
    let line = nodes.lines().find(|line| line.split(' ').skip(8).any(holds)).unwrap_or_default();
    let address = line.split(' ').nth(1).unwrap_or_default();
    address.split(['@', ':']).nth(1).unwrap_or_default().to_owned()
}

// Callers share an attempt to learn the map. They may all be dropped, or not be polled for long: the attempt waits for none.
#[tokio::test]
async fn the_map_is_learned_though_no_caller_is_polled() {
    let port = Arc::new(AtomicU16::new(0));
    let (mut gets, at) = (0, Arc::clone(&port));
    let (listening, commands) = fake_redis::start(move |command| {
        if command[0] == "CLUSTER" {
            let port = at.load(Ordering::SeqCst);
            return Some(format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n"));
        }
        gets += 1;
        // The first one breaks the connection.
        (gets > 1).then(|| "_\r\n".to_owned())
    });
    port.store(listening, Ordering::SeqCst);
    let asked = || commands.lock().unwrap().iter().filter(|command| command[0] == "CLUSTER").count();
    let patience = Duration::from_secs(20);
    let config = RedisConfig { response_timeout: patience, connection_timeout: patience, ..config() };
    let url = format!("redis-cluster://127.0.0.1:{listening}/");
    let store = RedisStore::connect_with(&url, config, SystemClock).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    assert_eq!(store.get(key).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(asked(), 1);
    // real-time: the map is not asked for again at once.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut first, mut second) = (Box::pin(store.get(key)), Box::pin(store.get(key)));
    assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
    drop(first);
    let start = Instant::now();
    while asked() < 2 {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody goes on with the attempt");
        // real-time: the server is waited for, while nobody polls the second caller.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(second);
    assert_eq!(store.get(key).await.unwrap(), None);
    assert_eq!(asked(), 2);
}

// However many nodes take connections and never answer, each of the others is asked within the attempt's time.
#[tokio::test]
async fn nodes_that_hang_keep_no_other_from_being_asked_for_the_map() {
    let hung: Vec<_> = (0..7).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let port = Arc::new(AtomicU16::new(0));
    let at = Arc::clone(&port);
    let (listening, _) = fake_redis::start(move |command| {
        let port = at.load(Ordering::SeqCst);
        let map = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n");
        Some(if command[0] == "CLUSTER" { map } else { "_\r\n".to_owned() })
    });
    port.store(listening, Ordering::SeqCst);
    let mut nodes: Vec<_> = hung.iter().map(|hung| hung.local_addr().unwrap().to_string()).collect();
    nodes.push(format!("127.0.0.1:{listening}"));
    let patience = Duration::from_secs(4);
    let config = RedisConfig { response_timeout: patience, connection_timeout: patience, ..config() };
    let url = format!("redis-cluster://{}/", nodes.join(","));
    let store = RedisStore::connect_with(&url, config, SystemClock).await.unwrap();
    assert_eq!(store.get(Key::lone(SPACE, b"k")).await.unwrap(), None);
}
