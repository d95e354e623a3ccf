//! The store on a local disk beside bare libraries and the bare disk, in one run: `cargo bench -p sysd-benches --bench local`.
//!
//! One record is one iteration: 16-byte keys in random order, values of 100 bytes. `append` is a file and `fdatasync`, the
//! physical limit; `fjall` and `redb` are called as one would without us, on one thread, with a batch where a row names a
//! number; `local` is called by as many tasks that each wait for one write before the next. `CRITERION_HOME` says where results
//! go, `TMPDIR` which disk is measured.
//!
//! `in_turns` measures ours and the other in turns, and prints how many times as fast ours is: beside group commit by hand over
//! fjall (as many tasks, each waiting for its own write), beside synced batches of known records on one thread (no caller, no
//! answer: the library's own limit), beside one sync a write, and point reads beside fjall's.
#![allow(missing_docs, clippy::unwrap_used, clippy::future_not_send)]

#[path = "support/by_hand.rs"]
mod by_hand;
#[path = "support/callers.rs"]
mod callers;
#[path = "support/counters.rs"]
mod counters;
#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/report.rs"]
mod report;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use futures::executor::block_on;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use sysd_core::{
    Expect, Key, OutputBytes, Procedure, Scan, Space, StateBytes, StateChange, Step, Store as _, StoreExt as _,
    SystemClock, Timestamp, Undecodable, Version, Write,
};
use sysd_storage::{LocalConfig, LocalStore, Replica, ReplicaConfig};
use tokio::runtime::Runtime;

use by_hand::ByHand;
use callers::timed;
use counters::Counters;

const SPACE: Space = Space::conditional("bench");
const VALUE: [u8; 100] = [7; 100];
const KEYS: u64 = 1_000_000;
const ROWS: u64 = 10_000;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");

/// Pseudo-random, all different.
fn key(index: u64) -> [u8; 16] {
    (u128::from(index) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sysd-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open_fjall(scratch: &Scratch) -> (Database, Keyspace) {
    let database = Database::builder(scratch.path().join("db")).cache_size(128 << 20).open().unwrap();
    let keyspace = database.keyspace("t", KeyspaceCreateOptions::default).unwrap();
    (database, keyspace)
}

fn open_redb(scratch: &Scratch) -> redb::Database {
    let database = redb::Database::builder().set_cache_size(128 << 20).create(scratch.path().join("db")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(TABLE).unwrap();
    write.commit().unwrap();
    database
}

fn open_local(scratch: &Scratch) -> LocalStore {
    block_on(LocalStore::open(scratch.path().join("store"))).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How long `iterations` records take in batches of `batch`.
fn batched(iterations: u64, batch: u64, mut commit: impl FnMut()) -> Duration {
    let batches = u32::try_from(iterations.div_ceil(batch)).unwrap();
    let start = Instant::now();
    (0..batches).for_each(|_| commit());
    start.elapsed().mul_f64(
        f64::from(u32::try_from(iterations).unwrap()) / (f64::from(batches) * f64::from(u32::try_from(batch).unwrap())),
    )
}

fn bare_rows(group: &mut BenchmarkGroup<'_, WallTime>, batch: u64) {
    let next = AtomicU64::new(0);
    let next = || key(next.fetch_add(1, Ordering::Relaxed));
    let scratch = Scratch::new("append");
    let mut file = File::create(scratch.path().join("file")).unwrap();
    let bytes = VALUE.repeat(usize::try_from(batch).unwrap());
    group.bench_function(BenchmarkId::new("append", batch), |bench| {
        bench.iter_custom(|iterations| {
            batched(iterations, batch, || {
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
            })
        });
    });
    let scratch = Scratch::new("fjall");
    let (database, keyspace) = open_fjall(&scratch);
    group.bench_function(BenchmarkId::new("fjall", batch), |bench| {
        bench.iter_custom(|iterations| {
            batched(iterations, batch, || {
                let mut write = database.batch().durability(Some(PersistMode::SyncData));
                (0..batch).for_each(|_| write.insert(&keyspace, next(), VALUE));
                write.commit().unwrap();
            })
        });
    });
    let scratch = Scratch::new("redb");
    let database = open_redb(&scratch);
    group.bench_function(BenchmarkId::new("redb", batch), |bench| {
        bench.iter_custom(|iterations| {
            batched(iterations, batch, || {
                let write = database.begin_write().unwrap();
                let mut table = write.open_table(TABLE).unwrap();
                (0..batch).for_each(|_| drop(table.insert(&next()[..], &VALUE[..]).unwrap()));
                drop(table);
                write.commit().unwrap();
            })
        });
    });
}

/// Counts its calls.
struct Count;

impl Procedure for Count {
    type Output = u64;

    fn name(&self) -> &'static str {
        "count"
    }

    fn apply(&self, state: Option<&[u8]>, _: Timestamp) -> Result<Step<u64>, Undecodable> {
        let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
        let change = StateChange::Put { state: StateBytes::from_slice(&count.to_be_bytes()), ttl: None };
        Ok(Step { change, output: count })
    }

    fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
        out.extend_from_slice(&output.to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
        let error = Undecodable { procedure: "count", what: "output" };
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| error)?))
    }
}

fn local_rows(group: &mut BenchmarkGroup<'_, WallTime>, callers: u64) {
    let scratch = Scratch::new("local");
    let (store, runtime, next) = (open_local(&scratch), runtime(), Arc::new(AtomicU64::new(0)));
    for (name, expect) in [("local", Expect::Any), ("local_insert", Expect::Absent)] {
        group.bench_function(BenchmarkId::new(name, callers), |bench| {
            bench.iter_custom(|iterations| {
                let (store, next) = (store.clone(), Arc::clone(&next));
                runtime.block_on(timed(iterations, callers, move |_| {
                    let (store, name) = (store.clone(), key(next.fetch_add(1, Ordering::Relaxed)));
                    async move {
                        let write = Write::put(Key::lone(SPACE, &name), &VALUE[..]).expect(expect);
                        assert!(store.write(write).await.unwrap().is_applied());
                    }
                }))
            });
        });
    }
    group.bench_function(BenchmarkId::new("local_update_hot", callers), |bench| {
        bench.iter_custom(|iterations| {
            let store = store.clone();
            runtime.block_on(timed(iterations, callers, move |_| {
                let store = store.clone();
                async move { assert_ne!(store.run(Key::lone(SPACE, b"hot"), &Count).await.unwrap(), 0) }
            }))
        });
    });
    let log = format!("bench-{}", Version::random());
    let open = Replica::<Counters>::open(store.clone(), &log, ReplicaConfig::default());
    let (replica, driver) = runtime.block_on(open).unwrap();
    runtime.spawn(driver);
    group.bench_function(BenchmarkId::new("local_shared_log", callers), |bench| {
        bench.iter_custom(|iterations| {
            let replica = replica.clone();
            runtime.block_on(timed(iterations, callers, move |_| {
                let replica = replica.clone();
                async move { assert_ne!(replica.submit((1, 1)).await.unwrap(), 0) }
            }))
        });
    });
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable_write");
    group.throughput(Throughput::Elements(1));
    for callers in [1, 64, 1_024] {
        bare_rows(&mut group, callers);
        local_rows(&mut group, callers);
    }
    group.finish();
}

/// Writes, in turns with what one would do without us.
fn writes_in_turns() {
    let runtime = runtime();
    for callers in [64, 1_024] {
        let scratch = [Scratch::new("turns-local"), Scratch::new("turns-hand"), Scratch::new("turns-known")];
        let next = Arc::new(AtomicU64::new(0));
        let store = open_local(&scratch[0]);
        let ours = |calls| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            runtime.block_on(timed(calls, callers, move |_| {
                let (store, name) = (store.clone(), key(next.fetch_add(1, Ordering::Relaxed)));
                async move {
                    let write = Write::put(Key::lone(SPACE, &name), &VALUE[..]);
                    assert!(store.write(write).await.unwrap().is_applied());
                }
            }))
        };
        let (database, keyspace) = open_fjall(&scratch[1]);
        let hand = ByHand::new(database, keyspace);
        let by_hand = |calls| {
            let (hand, next) = (hand.clone(), Arc::clone(&next));
            runtime.block_on(timed(calls, callers, move |_| {
                let (hand, name) = (hand.clone(), key(next.fetch_add(1, Ordering::Relaxed)));
                async move { hand.write(name, &VALUE).await }
            }))
        };
        pairs::compare(&format!("in_turns/write {callers} by hand"), ours, by_hand);
        let (database, keyspace) = open_fjall(&scratch[2]);
        let known = |batch: u64, calls| {
            batched(calls, batch, || {
                let mut write = database.batch().durability(Some(PersistMode::SyncData));
                (0..batch).for_each(|_| write.insert(&keyspace, key(next.fetch_add(1, Ordering::Relaxed)), VALUE));
                write.commit().unwrap();
            })
        };
        pairs::compare(&format!("in_turns/write {callers} known"), ours, |calls| known(callers, calls));
        // A sync each takes long: a part of them.
        let part = 64;
        pairs::compare(&format!("in_turns/write {callers} a sync each"), ours, |calls| known(1, calls / part) * 64);
    }
}

/// Point reads, in turns.
fn reads_in_turns() {
    let filled = Filled::new();
    let mut indexes = Indexes(0);
    let mut timed = |calls: u64, read: &dyn Fn([u8; 16])| {
        let start = Instant::now();
        (0..calls).for_each(|_| read(indexes.next()));
        start.elapsed()
    };
    let timed = std::cell::RefCell::new(&mut timed);
    pairs::compare(
        "in_turns/get of a million",
        |calls| {
            timed.borrow_mut()(calls, &|key| {
                assert!(block_on(filled.local.get(Key::lone(SPACE, &key))).unwrap().is_some());
            })
        },
        |calls| timed.borrow_mut()(calls, &|key| assert!(filled.fjall.1.get(key).unwrap().is_some())),
    );
}

/// Whether the command line's filter has room for it.
fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter) || filter.contains(name))
}

/// A million records, and a partition of ten thousand rows, in each.
struct Filled {
    fjall: (Database, Keyspace),
    redb: redb::Database,
    local: LocalStore,
    local_on_threads: Option<LocalStore>,
    scratch: [Scratch; 3],
}

/// Before the keys that [`key`] makes.
fn row_key(sort: u64) -> [u8; 16] {
    (u128::from(sort) << 8).to_be_bytes()
}

impl Filled {
    fn new() -> Self {
        let scratch = [Scratch::new("fjall-full"), Scratch::new("redb-full"), Scratch::new("local-full")];
        let fjall = open_fjall(&scratch[0]);
        let keys: Vec<_> = (0..ROWS).map(row_key).chain((0..KEYS).map(key)).collect();
        for keys in keys.chunks(10_000) {
            let mut write = fjall.0.batch();
            for key in keys {
                write.insert(&fjall.1, *key, VALUE);
            }
            write.commit().unwrap();
        }
        let redb = open_redb(&scratch[1]);
        let write = redb.begin_write().unwrap();
        {
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            let mut table = write.open_table(TABLE).unwrap();
            for key in &sorted {
                drop(table.insert(&key[..], &VALUE[..]).unwrap());
            }
        }
        write.commit().unwrap();
        let local = open_local(&scratch[2]);
        for start in (0..KEYS).step_by(10_000) {
            let names: Vec<_> = (start..start + 10_000).map(key).collect();
            let writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(SPACE, name), &VALUE[..])).collect();
            assert!(block_on(local.write_many(&writes)).into_iter().all(|outcome| outcome.unwrap().is_applied()));
        }
        for sort in (0..ROWS).map(row_key).collect::<Vec<_>>().chunks(1_000) {
            let put = |sort| Write::put(Key::row(SPACE, b"p", sort), &VALUE[..]);
            let writes: Vec<_> = sort.iter().map(|sort| put(&sort[..])).collect();
            assert!(block_on(local.write_many(&writes)).into_iter().all(|outcome| outcome.unwrap().is_applied()));
        }
        Self { fjall, redb, local, local_on_threads: None, scratch }
    }

    /// Opened again, with all reads on its threads.
    fn on_threads(&mut self) {
        let config = LocalConfig { reads_on_threads: true, ..LocalConfig::default() };
        let path = self.scratch[2].path().join("store");
        // The store is free once its last clone is gone.
        self.local = open_local(&Scratch::new("none"));
        self.local_on_threads = Some(block_on(LocalStore::open_with(path, config, SystemClock)).unwrap());
    }
}

/// Visits all keys in an order without a pattern.
struct Indexes(u64);

impl Indexes {
    fn next(&mut self) -> [u8; 16] {
        self.0 = (self.0 + 611_953) % KEYS;
        key(self.0)
    }
}

fn reads(criterion: &mut Criterion) {
    let mut filled = Filled::new();
    let mut group = criterion.benchmark_group("get_1m");
    let mut indexes = Indexes(0);
    group.bench_function("fjall", |bench| bench.iter(|| filled.fjall.1.get(indexes.next()).unwrap().unwrap()));
    group.bench_function("redb", |bench| {
        bench.iter(|| {
            let table = filled.redb.begin_read().unwrap().open_table(TABLE).unwrap();
            table.get(&indexes.next()[..]).unwrap().unwrap().value().to_vec()
        });
    });
    group.bench_function("local", |bench| {
        bench.iter(|| block_on(filled.local.get(Key::lone(SPACE, &indexes.next()))).unwrap().unwrap());
    });
    group.finish();

    let mut group = criterion.benchmark_group("scan_50_of_10k");
    group.bench_function("fjall", |bench| {
        bench.iter(|| {
            let range = filled.fjall.1.range(row_key(0)..row_key(ROWS)).take(50);
            range.map(|row| row.into_inner().unwrap()).collect::<Vec<_>>()
        });
    });
    group.bench_function("redb", |bench| {
        bench.iter(|| {
            let table = filled.redb.begin_read().unwrap().open_table(TABLE).unwrap();
            let rows = table.range(&row_key(0)[..]..&row_key(ROWS)[..]).unwrap().take(50);
            rows.map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).unwrap())
                .collect::<Vec<_>>()
        });
    });
    group.bench_function("local", |bench| {
        bench.iter(|| block_on(filled.local.scan(Scan::partition(SPACE, b"p", 50))).unwrap());
    });
    group.finish();

    filled.on_threads();
    let mut group = criterion.benchmark_group("get_1m_on_threads");
    let (store, runtime) = (filled.local_on_threads.take().unwrap(), runtime());
    for callers in [1, 64] {
        group.bench_function(BenchmarkId::new("local", callers), |bench| {
            bench.iter_custom(|iterations| {
                let (store, next) = (store.clone(), Arc::new(AtomicU64::new(0)));
                runtime.block_on(timed(iterations, callers, move |_| {
                    let (store, at) = (store.clone(), next.fetch_add(611_953, Ordering::Relaxed) % KEYS);
                    async move { assert!(store.get(Key::lone(SPACE, &key(at))).await.unwrap().is_some()) }
                }))
            });
        });
    }
    group.finish();
}

/// What it costs to find and remove an expired record among as many that stay.
fn expiry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expire");
    let entries = |iterations: u64| (0..iterations * 2).map(|at| (key(at), u8::from(at % 2 == 0)));
    group.bench_function("fjall", |bench| {
        bench.iter_custom(|iterations| {
            let scratch = Scratch::new("fjall-expire");
            let (database, keyspace) = open_fjall(&scratch);
            let mut write = database.batch();
            entries(iterations).for_each(|(key, flag)| write.insert(&keyspace, key, [flag; 100]));
            write.commit().unwrap();
            let start = Instant::now();
            let mut write = database.batch().durability(Some(PersistMode::SyncData));
            for entry in keyspace.iter() {
                let (key, value) = entry.into_inner().unwrap();
                if value[0] == 1 {
                    write.remove(&keyspace, key);
                }
            }
            write.commit().unwrap();
            start.elapsed()
        });
    });
    group.bench_function("redb", |bench| {
        bench.iter_custom(|iterations| {
            let scratch = Scratch::new("redb-expire");
            let database = open_redb(&scratch);
            let fill = |keep: fn(&[u8]) -> bool, is_filling: bool| {
                let write = database.begin_write().unwrap();
                let mut table = write.open_table(TABLE).unwrap();
                if is_filling {
                    entries(iterations).for_each(|(key, flag)| drop(table.insert(&key[..], &[flag; 100][..]).unwrap()));
                } else {
                    table.retain(|_, value| keep(value)).unwrap();
                }
                assert!(iterations == 0 || table.first().unwrap().is_some());
                drop(table);
                write.commit().unwrap();
            };
            fill(|_| true, true);
            let start = Instant::now();
            fill(|value| value[0] != 1, false);
            start.elapsed()
        });
    });
    group.bench_function("local", |bench| {
        bench.iter_custom(|iterations| {
            let scratch = Scratch::new("local-expire");
            let clock = sysd_core::ManualClock::new(Timestamp::from_micros_saturating(1));
            let store = block_on(LocalStore::open_with(scratch.path(), LocalConfig::default(), clock.clone())).unwrap();
            let names: Vec<_> = entries(iterations).collect();
            let mut writes = Vec::new();
            for (name, flag) in &names {
                let write = Write::put(Key::lone(SPACE, name), &VALUE[..]);
                writes.push(if *flag == 1 { write.expires_at(Timestamp::from_micros_saturating(2)) } else { write });
            }
            assert!(block_on(store.write_many(&writes)).into_iter().all(|outcome| outcome.unwrap().is_applied()));
            clock.set(Timestamp::from_micros_saturating(1 << 50));
            let start = Instant::now();
            assert_eq!(block_on(store.reclaim()).unwrap() as u64, iterations);
            start.elapsed()
        });
    });
    group.finish();
}

fn main() {
    let start = SystemTime::now();
    if is_wanted("in_turns/write") {
        writes_in_turns();
    }
    if is_wanted("in_turns/get") {
        reads_in_turns();
    }
    if std::env::args().any(|argument| argument.starts_with("in_turns")) {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(15)
        .configure_from_args();
    writes(&mut criterion);
    reads(&mut criterion);
    expiry(&mut criterion);
    criterion.final_summary();
    report::print(start);
}
