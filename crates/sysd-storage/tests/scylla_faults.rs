//! The Cassandra store while nodes die and hang: right kinds and effects, linearizable records, nothing acknowledged lost.
#![cfg(all(feature = "scylla", feature = "memory", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sysd_core::entropy::{Entropy as _, SeededEntropy, below};
use sysd_core::{Effect, Error, ErrorKind, Expect, Key, Outcome, Record, Space, Store as _, Version, Write};
use sysd_storage::{ScyllaConfig, ScyllaStore};
use sysd_testkit::oracle::{Call, History, RecordSpec, Reply, check};

use support::cassandra::{Cassandra, ready};

const TRUTH: Space = Space::conditional("truth");
const FEED: Space = Space::plain("feed");
/// Of these every second is a row, all in one partition: their rounds of Paxos meet.
const RECORDS: u8 = 6;
const CALLERS: u64 = 12;
/// How long what is there may take to be read in the end.
const READ_MAX: Duration = Duration::from_secs(120);
/// Of one record, before it is only read.
const LOST_MAX: usize = 6;

/// What is done to some records, by all callers, and what was acknowledged beside it in a plain space.
#[derive(Default)]
struct Seen {
    histories: Vec<History<RecordSpec>>,
    rows: Vec<[u8; 16]>,
    /// Rows of a conditional space, inserted once each: whether that was acknowledged, or refused without effect.
    inserted: Vec<([u8; 16], bool)>,
    failed: usize,
    /// Of all writes. Those to records may wait for one another in here and end unsent; a caller's own rows do not.
    unknown: usize,
    unknown_of: [usize; RECORDS as usize],
    acknowledged: usize,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record(name: &[u8; 1]) -> Key<'_> {
    if name[0].is_multiple_of(2) { Key::lone(TRUTH, name) } else { Key::row(TRUTH, b"rows", name) }
}

/// What a call may fail with while a node is away.
fn is_weather(error: &Error, is_read: bool) {
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    assert!(!is_read || error.effect() == Effect::None, "a read of unknown effect: {error}");
}

/// One call on one record, noted before it is sent and when its answer is there.
async fn one_call(store: &ScyllaStore, seen: &Shared, at: u8, entropy: &SeededEntropy, held: &mut Option<Version>) {
    let name = [at];
    let key = record(&name);
    // Few lost calls: each may have happened at any later time, and the search for an order tries them all.
    let is_read = below(entropy, 3) == 0 || lock(seen).unknown_of[usize::from(at)] >= LOST_MAX;
    let version = |record: Option<Record>| record.map(|record| record.version);
    let invoke = |call| lock(seen).histories[usize::from(at)].invoke(call);
    let (id, reply) = if is_read {
        let id = invoke(Call::Get);
        (id, store.get(key).await.map(|found| Reply::Found(version(found))))
    } else {
        let put = (below(entropy, 5) != 0).then(|| Version::mint(entropy));
        let expect = match (below(entropy, 3), *held) {
            (0, _) => Expect::Absent,
            (1, Some(held)) => Expect::Is(held),
            _ => Expect::Any,
        };
        let write = match put {
            Some(version) => Write::put(key, version.to_bytes().to_vec()).with_version(version),
            None => Write::delete(key),
        };
        let id = invoke(Call::Write { expect, version: put });
        let reply = store.write(write.expect(expect)).await.map(|outcome| match outcome {
            Outcome::Applied => Reply::Applied,
            Outcome::Conflict { found } => Reply::Conflict(version(found)),
        });
        if matches!(reply, Ok(Reply::Applied)) {
            *held = put;
        }
        (id, reply)
    };
    let mut seen = lock(seen);
    match reply {
        Ok(reply) => {
            if let Reply::Found(found) | Reply::Conflict(found) = &reply {
                *held = *found;
            }
            seen.acknowledged += 1;
            seen.histories[usize::from(at)].complete(id, reply);
        }
        Err(error) => {
            is_weather(&error, false);
            seen.failed += 1;
            if error.effect() == Effect::None {
                seen.histories[usize::from(at)].fail(id);
            } else {
                seen.unknown += 1;
                seen.unknown_of[usize::from(at)] += 1;
                seen.histories[usize::from(at)].lose(id);
            }
        }
    }
}

/// Inserts a row on the condition that it is not there; answers how many milliseconds to wait after it.
async fn insert(store: &ScyllaStore, seen: &Shared, caller: u64, sort: [u8; 16]) -> u64 {
    let partition = caller.to_be_bytes();
    let write = Write::put(Key::row(TRUTH, &partition, &sort), sort.to_vec()).expect(Expect::Absent);
    match store.write(write).await {
        Ok(outcome) => {
            assert_eq!(outcome, Outcome::Applied);
            lock(seen).inserted.push((sort, true));
            20
        }
        Err(error) => {
            is_weather(&error, false);
            let mut seen = lock(seen);
            if error.effect() == Effect::None {
                seen.inserted.push((sort, false));
            } else {
                seen.unknown += 1;
            }
            200
        }
    }
}

/// Callers that work until they are told to stop.
struct Load {
    seen: Shared,
    is_over: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Each caller on all records in turn, a pause between calls so that histories stay short.
    fn start(store: &ScyllaStore) -> Self {
        let (seen, is_over) = (Shared::default(), Arc::<AtomicBool>::default());
        lock(&seen).histories.resize_with(usize::from(RECORDS), History::new);
        let caller = |caller: u64| {
            let (store, seen, is_over) = (store.clone(), Arc::clone(&seen), Arc::clone(&is_over));
            tokio::spawn(async move {
                let entropy = SeededEntropy::new(caller);
                let mut held = [None; RECORDS as usize];
                while !is_over.load(Ordering::Relaxed) {
                    let at = u8::try_from(below(&entropy, u64::from(RECORDS))).unwrap();
                    one_call(&store, &seen, at, &entropy, &mut held[usize::from(at)]).await;
                    let sort = [entropy.next_u64().to_be_bytes(), caller.to_be_bytes()].concat();
                    let sort: [u8; 16] = sort.try_into().unwrap();
                    match store.write(Write::put(Key::row(FEED, b"p", &sort), "x")).await {
                        Ok(_) => lock(&seen).rows.push(sort),
                        Err(error) => {
                            is_weather(&error, false);
                            lock(&seen).unknown += usize::from(error.effect() != Effect::None);
                        }
                    }
                    let pause_ms = insert(&store, &seen, caller, sort).await;
                    // real-time: a checker can't read histories of any length.
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
            })
        };
        let callers = (0..CALLERS).map(caller).collect();
        Self { seen, is_over, callers }
    }

    /// Waits until so much has been seen.
    async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let start = Instant::now();
        while !holds(&lock(&self.seen)) {
            assert!(start.elapsed() < Duration::from_secs(90), "waited in vain until {what}");
            // real-time: the load runs by the clock.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn acknowledged(&self, more: usize) {
        let before = lock(&self.seen).acknowledged;
        self.until("calls succeed", |seen| seen.acknowledged >= before + more).await;
    }

    async fn stop(self) -> Shared {
        self.is_over.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        self.seen
    }
}

/// What is there. On a machine that is busy a read may take longer than its call waits; it changes nothing and is made again.
async fn found(store: &ScyllaStore, key: Key<'_>) -> Option<Record> {
    let start = Instant::now();
    loop {
        match store.get(key).await {
            Ok(found) => return found,
            Err(error) => {
                is_weather(&error, true);
                assert!(start.elapsed() < READ_MAX, "no answer within {READ_MAX:?}: {error}");
            }
        }
    }
}

/// Afterwards: what is there, and whether all that was answered can be explained.
async fn verify(store: &ScyllaStore, seen: &Shared) {
    for at in 0..RECORDS {
        let name = [at];
        let id = lock(seen).histories[usize::from(at)].invoke(Call::Get);
        let found = found(store, record(&name)).await.map(|record| record.version);
        lock(seen).histories[usize::from(at)].complete(id, Reply::Found(found));
    }
    let rows = std::mem::take(&mut lock(seen).rows);
    for row in &rows {
        let found = found(store, Key::row(FEED, b"p", row)).await;
        assert!(found.is_some(), "a write was acknowledged and is gone");
    }
    let inserted = std::mem::take(&mut lock(seen).inserted);
    assert!(inserted.iter().any(|(_, is_there)| *is_there), "no row was inserted");
    for (sort, is_there) in &inserted {
        let found = found(store, Key::row(TRUTH, &sort[8..], sort)).await;
        assert_eq!(
            found.is_some(),
            *is_there,
            "a row was acknowledged and is gone, or refused without effect and is there"
        );
    }
    let seen = lock(seen);
    for (at, history) in seen.histories.iter().enumerate() {
        check(history).unwrap_or_else(|error| panic!("record {at}, {} calls: {error}", history.len()));
    }
    let Seen { acknowledged, failed, unknown, .. } = &*seen;
    println!("{acknowledged} acknowledged, {failed} failed, and {unknown} writes were of unknown effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_and_restarted_under_load_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = Cassandra::start(1);
    let store = server.connect(server.config()).await;
    let load = Load::start(&store);
    load.acknowledged(200).await;
    server.nodes[0].kill();
    load.until("calls fail", |seen| seen.failed > 0).await;
    tokio::task::block_in_place(|| server.nodes[0].restart());
    load.acknowledged(100).await;
    let seen = load.stop().await;
    verify(&store, &seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_a_timeout_and_late_writes_are_explained() {
    let server = Cassandra::start(1);
    drop(server.connect(server.config()).await);
    // The schema is there; from now on two seconds are long.
    let impatient = ScyllaConfig { request_timeout: Duration::from_secs(2), ..server.config() };
    let store = ScyllaStore::connect_with(impatient, sysd_core::SystemClock).await.unwrap();
    ready(&store).await;
    let load = Load::start(&store);
    load.acknowledged(150).await;
    server.nodes[0].signal("-STOP");
    load.until("calls are of unknown effect", |seen| seen.unknown > 2).await;
    server.nodes[0].signal("-CONT");
    load.acknowledged(100).await;
    let seen = load.stop().await;
    verify(&store, &seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_nodes_one_may_die_and_come_back_under_load() {
    let mut cluster = Cassandra::start(3);
    let store = cluster.connect(cluster.config()).await;
    let load = Load::start(&store);
    load.acknowledged(150).await;
    cluster.nodes[1].kill();
    load.acknowledged(100).await;
    tokio::task::block_in_place(|| cluster.nodes[1].restart());
    load.acknowledged(100).await;
    let seen = load.stop().await;
    verify(&store, &seen).await;
    // With one node of three there is no majority: refused, not lost.
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let mut is_told = false;
    for round in 0..40_u8 {
        let name = [b'z', round];
        let Err(error) = store.write(Write::put(Key::lone(TRUTH, &name), "x")).await else { continue };
        is_weather(&error, false);
        is_told |= error.kind() == ErrorKind::Unavailable && error.effect() == Effect::None;
        if is_told {
            break;
        }
        // real-time: until the nodes have told each other.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(is_told, "too few nodes, and nobody said that nothing happened");
    let found = store.get(Key::lone(TRUTH, b"z")).await.unwrap_err();
    assert_eq!(found.effect(), Effect::None, "{found}");
}
