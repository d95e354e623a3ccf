//! The Cassandra store beside the bare driver, in one run: `cargo bench -p sysd-benches --bench store_scylla`.
//!
//! Both have a session of their own and 64 tasks that each wait for one call before the next; a call is one iteration. Values
//! have 100 bytes. The bare statements are what one would write by hand for the same single-record work on a table of a key,
//! a value and a version: SELECT and INSERT by LOCAL_QUORUM; SELECT by SERIAL; INSERT IF NOT EXISTS; UPDATE IF version.
//!
//! The shared log's rows are here too: commands by 64 and 1,024 callers.
//!
//! It needs a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/counters.rs"]
mod counters;
#[path = "support/report.rs"]
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
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

/// What one would write by hand.
struct Bare {
    session: Session,
    get: PreparedStatement,
    get_serial: PreparedStatement,
    put: PreparedStatement,
    put_absent: PreparedStatement,
    put_is: PreparedStatement,
}

impl Bare {
    async fn connect(config: &ScyllaConfig) -> Self {
        let session = SessionBuilder::new().known_nodes(&config.contact_points).build().await.unwrap();
        let table = format!("\"{}\".bare", config.keyspace);
        let create = format!("CREATE TABLE IF NOT EXISTS {table} (key blob PRIMARY KEY, value blob, version blob)");
        session.query_unpaged(create, ()).await.unwrap();
        let prepare = async |text: &str, consistency| {
            let mut statement = session.prepare(text.replace("TABLE", &table)).await.unwrap();
            statement.set_consistency(consistency);
            statement.set_serial_consistency(Some(SerialConsistency::Serial));
            statement
        };
        let select = "SELECT value, version FROM TABLE WHERE key = ?";
        Self {
            get: prepare(select, Consistency::LocalQuorum).await,
            get_serial: prepare(select, Consistency::Serial).await,
            put: prepare("INSERT INTO TABLE (value, version, key) VALUES (?, ?, ?)", Consistency::LocalQuorum).await,
            put_absent: prepare(
                "INSERT INTO TABLE (value, version, key) VALUES (?, ?, ?) IF NOT EXISTS",
                Consistency::Quorum,
            )
            .await,
            put_is: prepare(
                "UPDATE TABLE SET value = ?, version = ? WHERE key = ? IF version = ?",
                Consistency::Quorum,
            )
            .await,
            session,
        }
    }

    async fn get(&self, statement: &PreparedStatement, key: [u8; 16]) {
        let result =
            self.session.execute_unpaged(statement, (key.as_slice(),)).await.unwrap().into_rows_result().unwrap();
        let (value, _) = result.single_row::<(&[u8], &[u8])>().unwrap();
        assert_eq!(value.len(), VALUE.len());
    }

    async fn put(&self, key: [u8; 16], version: [u8; 16]) {
        self.session.execute_unpaged(&self.put, (VALUE.as_slice(), version.as_slice(), key.as_slice())).await.unwrap();
    }

    async fn put_absent(&self, key: [u8; 16]) {
        let version = Version::random().to_bytes();
        let values = (VALUE.as_slice(), version.as_slice(), key.as_slice());
        let result = self.session.execute_unpaged(&self.put_absent, values).await.unwrap();
        assert!(is_applied(result));
    }

    async fn put_is(&self, key: [u8; 16], expected: [u8; 16]) {
        let values = (VALUE.as_slice(), expected.as_slice(), key.as_slice(), expected.as_slice());
        let result = self.session.execute_unpaged(&self.put_is, values).await.unwrap();
        assert!(is_applied(result));
    }
}

fn is_applied(result: scylla::response::query_result::QueryResult) -> bool {
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

fn name(run: u64, at: u64) -> [u8; 16] {
    ((u128::from(run) << 64) | u128::from(at)).to_be_bytes()
}

async fn get(store: ScyllaStore, space: Space, key: [u8; 16]) {
    let found = store.get(Key::lone(space, &key)).await.unwrap().unwrap();
    assert_eq!(found.value.len(), VALUE.len());
}

/// The version of a record that is put again and again.
fn version(key: [u8; 16]) -> Version {
    Version::from_bytes(key)
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

    /// The same records for both, under versions that are known.
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
                futures::future::join_all(names.iter().map(|&key| bare.put(key, key))).await;
            }
        });
    }

    /// One row for the store and one for the bare driver; each call takes a number that no other has.
    fn pair<F, G>(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        what: &str,
        store: impl Fn(ScyllaStore, u64) -> F + Copy + Send + 'static,
        bare: impl Fn(Arc<Bare>, u64) -> G + Copy + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        group.bench_function(BenchmarkId::new(what, "sysd"), |bench| {
            bench.iter_custom(|iterations| {
                let (handle, next) = (self.store.clone(), Arc::clone(&self.next));
                let call = move |_| store(handle.clone(), next.fetch_add(1, Ordering::Relaxed));
                self.runtime.block_on(timed(iterations, CALLERS, call))
            });
        });
        group.bench_function(BenchmarkId::new(what, "bare"), |bench| {
            bench.iter_custom(|iterations| {
                let (handle, next) = (Arc::clone(&self.bare), Arc::clone(&self.next));
                let call = move |_| bare(Arc::clone(&handle), next.fetch_add(1, Ordering::Relaxed));
                self.runtime.block_on(timed(iterations, CALLERS, call))
            });
        });
    }

    fn records(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
        let run = self.run;
        let there = move |at: u64| name(run, at % KEYS);
        // Behind those that are there.
        let fresh = move |at: u64| name(run, KEYS + at);
        self.pair(
            group,
            "get_plain",
            move |store, at| get(store, FEED, there(at)),
            move |bare, at| async move { bare.get(&bare.get, there(at)).await },
        );
        self.pair(
            group,
            "put_plain",
            move |store, at| async move { store.put(Key::lone(FEED, &there(at)), &VALUE[..]).await.unwrap() },
            move |bare, at| async move { bare.put(there(at), Version::random().to_bytes()).await },
        );
        self.pair(
            group,
            "get_conditional",
            move |store, at| get(store, TRUTH, there(at)),
            move |bare, at| async move { bare.get(&bare.get_serial, there(at)).await },
        );
        self.pair(
            group,
            "put_if_absent",
            move |store, at| async move {
                assert!(store.put_if_absent(Key::lone(TRUTH, &fresh(at)), &VALUE[..]).await.unwrap().is_applied());
            },
            move |bare, at| async move { bare.put_absent(fresh(at)).await },
        );
        self.pair(
            group,
            "put_if_is",
            move |store, at| async move {
                let key = there(at);
                let write = Write::put(Key::lone(TRUTH, &key), &VALUE[..]).with_version(version(key));
                assert!(store.write(write.expect(Expect::Is(version(key)))).await.unwrap().is_applied());
            },
            // The plain row above left other versions in the bare table, behind which these lie.
            move |bare, at| async move { bare.put_is(name(run, u64::MAX - at % KEYS), [1; 16]).await },
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
    let (run, bare) = (bench.run, Arc::clone(&bench.bare));
    bench.runtime.block_on(async move {
        for first in (0..KEYS).step_by(200) {
            let keys = (first..first + 200).map(|at| name(run, u64::MAX - at));
            futures::future::join_all(keys.map(|key| bare.put(key, [1; 16]))).await;
        }
    });
    let mut group = criterion.benchmark_group("store_scylla");
    group.throughput(Throughput::Elements(1));
    bench.records(&mut group);
    for callers in [64, 1_024] {
        shared_log(&mut group, &bench, callers);
    }
    group.finish();
    criterion.final_summary();
    report::print(start);
}
