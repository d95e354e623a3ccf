//! The Cassandra store beside the bare driver: `cargo bench -p sysd-benches --bench store_scylla`.
//!
//! Both have a session of their own and 64 tasks that each wait for one call before the next, on a runtime of one thread; they
//! take turns, so that both meet the same server. The server shares the machine with them; what a call costs its client is
//! printed below its time. Values have 100 bytes, and no two calls under way are of one key. The driver
//! beside the store sends the same statements by the same consistency to tables of the same columns, filled in the same way;
//! `by_hand` are the shorter ones that one would write for a table of a key, a value and a version, where nothing expires and
//! no format is told.
//!
//! The shared log's rows are here too: commands by 64 and 1,024 callers.
//!
//! It needs a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/counters.rs"]
mod counters;
#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/report.rs"]
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use sysd_core::{Expect, Key, Space, Store as _, StoreExt as _, SystemClock, Version, Write};
use sysd_storage::{Replica, ReplicaConfig, ScyllaConfig, ScyllaSchema, ScyllaStore};
use tokio::runtime::Runtime;

use callers::timed;
use counters::Counters;

const TRUTH: Space = Space::conditional("bench");
const FEED: Space = Space::plain("bench_plain");
const CALLERS: u64 = 64;
const KEYS: u64 = 10_000;
const VALUE: [u8; 100] = [7; 100];
const NEVER: i64 = i64::MAX;

type KeyName = [u8; 16];

/// A table of the store's columns, and the store's statements on it.
struct Table {
    get: PreparedStatement,
    put: PreparedStatement,
    put_absent: PreparedStatement,
    put_is: PreparedStatement,
}

/// What one would write by hand.
struct ByHand {
    get: PreparedStatement,
    put_absent: PreparedStatement,
    put_is: PreparedStatement,
}

/// The driver beside the store.
struct Bare {
    session: Session,
    plain: Table,
    conditional: Table,
    by_hand: ByHand,
}

/// Prepares statements that name their table `TABLE`.
struct Preparer<'a> {
    session: &'a Session,
    table: String,
    read: Consistency,
    write: Consistency,
}

impl<'a> Preparer<'a> {
    async fn create(session: &'a Session, keyspace: &str, name: &str, columns: &str, is_conditional: bool) -> Self {
        let table = format!("\"{keyspace}\".{name}");
        session.query_unpaged(format!("CREATE TABLE IF NOT EXISTS {table} ({columns})"), ()).await.unwrap();
        let (read, write) = if is_conditional {
            (Consistency::Serial, Consistency::Quorum)
        } else {
            (Consistency::LocalQuorum, Consistency::LocalQuorum)
        };
        Self { session, table, read, write }
    }

    async fn prepare(&self, text: &str, consistency: Consistency) -> PreparedStatement {
        let mut statement = self.session.prepare(text.replace("TABLE", &self.table)).await.unwrap();
        statement.set_consistency(consistency);
        statement.set_serial_consistency(Some(SerialConsistency::Serial));
        // The columns of a read are named, so they stay what they are; those of a condition's answer don't.
        statement.set_use_cached_result_metadata(text.starts_with("SELECT"));
        statement
    }

    async fn table(&self, put_condition: &str) -> Table {
        let row = "WHERE space = ? AND partition = ? AND lone = ? AND sort = ?";
        let put = |condition: &str| {
            format!("UPDATE TABLE USING TTL ? SET record = ?, version = ?, expires_at = ? {row} {condition}")
        };
        let absent = "IF record = NULL AND version = NULL AND expires_at = NULL";
        let is = "IF version = ? AND expires_at > ? AND record >= 0x01 AND record < 0x02";
        Table {
            get: self.prepare(&format!("SELECT record, version, expires_at FROM TABLE {row}"), self.read).await,
            put: self.prepare(&put(put_condition), self.write).await,
            put_absent: self.prepare(&put(absent), self.write).await,
            put_is: self.prepare(&put(is), self.write).await,
        }
    }

    async fn by_hand(&self) -> ByHand {
        let insert = "INSERT INTO TABLE (value, version, key) VALUES (?, ?, ?) IF NOT EXISTS";
        let update = "UPDATE TABLE SET value = ?, version = ? WHERE key = ? IF version = ?";
        ByHand {
            get: self.prepare("SELECT value, version FROM TABLE WHERE key = ?", self.read).await,
            put_absent: self.prepare(insert, self.write).await,
            put_is: self.prepare(update, self.write).await,
        }
    }
}

/// A record as the store keeps it: a format byte and the value.
fn stored() -> Vec<u8> {
    [&[1], VALUE.as_slice()].concat()
}

impl Bare {
    async fn connect(config: &ScyllaConfig) -> Self {
        let session = SessionBuilder::new().known_nodes(&config.contact_points).build().await.unwrap();
        let columns = "space text, partition blob, lone boolean, sort blob, record blob, version blob, \
                       expires_at bigint, PRIMARY KEY ((space, partition, lone), sort)";
        let by_hand = "key blob PRIMARY KEY, value blob, version blob";
        let keyspace = &config.keyspace;
        let plain = Preparer::create(&session, keyspace, "bare_plain", columns, false).await.table("").await;
        let conditional = Preparer::create(&session, keyspace, "bare_conditional", columns, true).await;
        let conditional = conditional.table("IF version != 0x").await;
        let by_hand = Preparer::create(&session, keyspace, "bare_by_hand", by_hand, true).await.by_hand().await;
        Self { session, plain, conditional, by_hand }
    }

    async fn get(&self, table: &Table, space: &str, key: KeyName) {
        let values = (space, key.as_slice(), true, [0_u8].as_slice());
        let result = self.session.execute_unpaged(&table.get, values).await.unwrap().into_rows_result().unwrap();
        let (record, _, _) = result.single_row::<(&[u8], &[u8], i64)>().unwrap();
        assert_eq!(record.len(), VALUE.len() + 1);
    }

    async fn put(&self, statement: &PreparedStatement, space: &str, key: KeyName, version: [u8; 16]) -> QueryResult {
        let (record, version) = (stored(), version.as_slice());
        let values = (0_i32, record.as_slice(), version, NEVER, space, key.as_slice(), true, [0_u8].as_slice());
        self.session.execute_unpaged(statement, values).await.unwrap()
    }

    async fn put_is(&self, key: KeyName) {
        let (record, version, now) = (stored(), key.as_slice(), now_us());
        let (space, sort) = (TRUTH.name(), [0_u8]);
        let place = (space, key.as_slice(), true, sort.as_slice());
        let values = (0_i32, record.as_slice(), version, NEVER, place.0, place.1, place.2, place.3, version, now);
        let result = self.session.execute_unpaged(&self.conditional.put_is, values).await.unwrap();
        assert!(is_applied(result));
    }

    async fn get_by_hand(&self, key: KeyName) {
        let result = self.session.execute_unpaged(&self.by_hand.get, (key.as_slice(),)).await.unwrap();
        let result = result.into_rows_result().unwrap();
        let (value, _) = result.single_row::<(&[u8], &[u8])>().unwrap();
        assert_eq!(value.len(), VALUE.len());
    }

    async fn put_absent_by_hand(&self, key: KeyName, version: [u8; 16]) {
        let values = (VALUE.as_slice(), version.as_slice(), key.as_slice());
        assert!(is_applied(self.session.execute_unpaged(&self.by_hand.put_absent, values).await.unwrap()));
    }

    async fn put_is_by_hand(&self, key: KeyName) {
        let values = (VALUE.as_slice(), key.as_slice(), key.as_slice(), key.as_slice());
        assert!(is_applied(self.session.execute_unpaged(&self.by_hand.put_is, values).await.unwrap()));
    }
}

fn now_us() -> i64 {
    i64::try_from(sysd_core::Clock::now(&SystemClock).as_micros()).unwrap()
}

fn is_applied(result: QueryResult) -> bool {
    let rows = result.into_rows_result().unwrap();
    let row = rows.first_row::<scylla::value::Row>().unwrap();
    row.columns[0] == Some(scylla::value::CqlValue::Boolean(true))
}

struct Bench {
    runtime: Runtime,
    store: ScyllaStore,
    bare: Arc<Bare>,
    /// Begins every key: other runs left theirs.
    run: u64,
    next: Arc<AtomicU64>,
}

fn name(run: u64, at: u64) -> KeyName {
    ((u128::from(run) << 64) | u128::from(at)).to_be_bytes()
}

/// The version of a record that is put again and again.
fn version(key: KeyName) -> Version {
    Version::from_bytes(key)
}

async fn get(store: ScyllaStore, space: Space, key: KeyName) {
    let found = store.get(Key::lone(space, &key)).await.unwrap().unwrap();
    assert_eq!(found.value.len(), VALUE.len());
}

async fn put_absent(store: ScyllaStore, key: KeyName) {
    assert!(store.put_if_absent(Key::lone(TRUTH, &key), &VALUE[..]).await.unwrap().is_applied());
}

async fn put_is(store: ScyllaStore, key: KeyName) {
    let write = Write::put(Key::lone(TRUTH, &key), &VALUE[..]).with_version(version(key));
    assert!(store.write(write.expect(Expect::Is(version(key)))).await.unwrap().is_applied());
}

/// Whether the command line's filter has room for it.
fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

impl Bench {
    fn connect(config: &ScyllaConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (store, bare) = runtime.block_on(async {
            ScyllaStore::create_schema(config, &ScyllaSchema::replicated(1)).await.unwrap();
            let store = ScyllaStore::connect_with(config.clone(), SystemClock).await.unwrap();
            (store, Arc::new(Bare::connect(config).await))
        });
        let run = sysd_core::Entropy::next_u64(&sysd_core::SystemEntropy);
        Self { runtime, store, bare, run, next: Arc::default() }
    }

    /// The same records for all, under versions that are known, those of conditional spaces each by a Paxos round.
    fn fill(&self) {
        let (run, store, bare) = (self.run, &self.store, &self.bare);
        self.runtime.block_on(async {
            for first in (0..KEYS).step_by(200) {
                let names: Vec<_> = (first..first + 200).map(|at| name(run, at)).collect();
                for space in [TRUTH, FEED] {
                    let writes: Vec<_> = names
                        .iter()
                        .map(|key| Write::put(Key::lone(space, key), VALUE.to_vec()).with_version(version(*key)))
                        .collect();
                    assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
                }
                for chunk in names.chunks(64) {
                    let (plain, conditional) = (&bare.plain.put, &bare.conditional.put);
                    futures::future::join_all(chunk.iter().map(|&key| bare.put(plain, FEED.name(), key, key))).await;
                    let puts = chunk.iter().map(|&key| bare.put(conditional, TRUTH.name(), key, key));
                    assert!(futures::future::join_all(puts).await.into_iter().all(is_applied));
                    futures::future::join_all(chunk.iter().map(|&key| bare.put_absent_by_hand(key, key))).await;
                }
            }
        });
    }

    /// Rounds of the store and of the bare driver in turns; each call takes a number that no other has.
    fn pair<F, G>(
        &self,
        name: &str,
        store: impl Fn(ScyllaStore, u64) -> F + Copy + Send + 'static,
        bare: impl Fn(Arc<Bare>, u64) -> G + Copy + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        if !is_wanted(name) {
            return;
        }
        let ours = |iterations| {
            let (handle, next) = (self.store.clone(), Arc::clone(&self.next));
            let call = move |_| store(handle.clone(), next.fetch_add(1, Ordering::Relaxed));
            self.runtime.block_on(timed(iterations, CALLERS, call))
        };
        let beside = |iterations| {
            let (handle, next) = (Arc::clone(&self.bare), Arc::clone(&self.next));
            let call = move |_| bare(Arc::clone(&handle), next.fetch_add(1, Ordering::Relaxed));
            self.runtime.block_on(timed(iterations, CALLERS, call))
        };
        pairs::compare_on_one_thread(name, ours, beside);
    }

    fn records(&self) {
        let run = self.run;
        let there = move |at: u64| name(run, at % KEYS);
        // Behind those that are there.
        let fresh = move |at: u64| name(run, KEYS + at);
        self.pair(
            "get_plain",
            move |store, at| get(store, FEED, there(at)),
            move |bare, at| async move { bare.get(&bare.plain, FEED.name(), there(at)).await },
        );
        self.pair(
            "put_plain",
            move |store, at| async move { store.put(Key::lone(FEED, &there(at)), &VALUE[..]).await.unwrap() },
            move |bare, at| async move {
                bare.put(&bare.plain.put, FEED.name(), there(at), Version::random().to_bytes()).await;
            },
        );
        self.pair(
            "get_conditional",
            move |store, at| get(store, TRUTH, there(at)),
            move |bare, at| async move { bare.get(&bare.conditional, TRUTH.name(), there(at)).await },
        );
        self.pair(
            "put_if_absent",
            move |store, at| put_absent(store, fresh(at)),
            move |bare, at| async move {
                let version = Version::random().to_bytes();
                let put = bare.put(&bare.conditional.put_absent, TRUTH.name(), fresh(at), version).await;
                assert!(is_applied(put));
            },
        );
        self.pair(
            "put_if_is",
            move |store, at| put_is(store, there(at)),
            move |bare, at| async move { bare.put_is(there(at)).await },
        );
        self.pair(
            "get_conditional_by_hand",
            move |store, at| get(store, TRUTH, there(at)),
            move |bare, at| async move { bare.get_by_hand(there(at)).await },
        );
        self.pair(
            "put_if_absent_by_hand",
            move |store, at| put_absent(store, fresh(at)),
            move |bare, at| async move { bare.put_absent_by_hand(fresh(at), Version::random().to_bytes()).await },
        );
        self.pair(
            "put_if_is_by_hand",
            move |store, at| put_is(store, there(at)),
            move |bare, at| async move { bare.put_is_by_hand(there(at)).await },
        );
    }
}

fn shared_log(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench, callers: u64) {
    let log = format!("bench-{}", Version::random());
    let opened = Replica::<Counters>::open(bench.store.clone(), &log, ReplicaConfig::default());
    let (replica, driver) = bench.runtime.block_on(opened).unwrap();
    bench.runtime.spawn(driver);
    group.bench_function(BenchmarkId::new("shared_log", callers), |criterion| {
        criterion.iter_custom(|iterations| {
            let replica = replica.clone();
            let call = move |_| {
                let replica = replica.clone();
                async move { assert_ne!(replica.submit((1, 1)).await.unwrap(), 0) }
            };
            bench.runtime.block_on(timed(iterations, callers, call))
        });
    });
}

fn main() {
    let Ok(url) = std::env::var("SYSD_TEST_CASSANDRA_URL") else {
        println!("nothing measured: start a server with `cargo xtask servers up` and export what it prints");
        return;
    };
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .sample_size(12)
        .configure_from_args();
    let bench = Bench::connect(&ScyllaConfig::from_url(&url).unwrap());
    bench.fill();
    bench.records();
    let mut group = criterion.benchmark_group("store_scylla");
    group.throughput(Throughput::Elements(1));
    for callers in [64, 1_024] {
        shared_log(&mut group, &bench, callers);
    }
    group.finish();
    criterion.final_summary();
    report::print(start);
}
