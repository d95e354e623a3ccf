//! Commands through the shared log: `cargo bench -p sysd-benches --bench shared_log`.
//!
//! One command is one iteration. All runs on one thread: proposers that wait for each reply before they submit the next, and
//! the driver. Beside it what one would write without a log: one conditional insert a command, as many at once.
//!
//! The rows on Redis need a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/counters.rs"]
mod counters;
#[path = "support/report.rs"]
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use sysd_core::{Key, Space, Store, StoreExt, Version};
use sysd_storage::{Memory, RedisStore, Replica, ReplicaConfig};
use tokio::runtime::Runtime;

use callers::timed;
use counters::Counters;

const SPACE: Space = Space::conditional("bench");

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn replica_row(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    store: impl Store,
    callers: u64,
    batch: usize,
) {
    let log = format!("bench-{}", Version::random());
    let config = ReplicaConfig { batch_commands_max: batch, ..ReplicaConfig::default() };
    let (replica, driver) = runtime.block_on(Replica::<Counters>::open(store, &log, config)).unwrap();
    runtime.spawn(driver);
    let id = if batch == usize::MAX { format!("{callers}") } else { format!("{callers}_by_{batch}") };
    group.bench_function(BenchmarkId::new("replica", id), |bench| {
        bench.iter_custom(|iterations| {
            let replica = replica.clone();
            runtime.block_on(timed(iterations, callers, move |at| {
                let replica = replica.clone();
                let counter = u32::try_from(at % 1_024).unwrap();
                async move { assert_ne!(replica.submit((counter, 1)).await.unwrap(), 0) }
            }))
        });
    });
}

fn insert_row(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, store: &(impl Store + Clone), callers: u64) {
    let partition = Version::random().to_bytes();
    let next = std::sync::Arc::new(AtomicU64::new(0));
    group.bench_function(BenchmarkId::new("insert_each", callers), |bench| {
        bench.iter_custom(|iterations| {
            let (store, next) = (store.clone(), next.clone());
            runtime.block_on(timed(iterations, callers, move |_| {
                let (store, number) = (store.clone(), next.fetch_add(1, Ordering::Relaxed));
                async move {
                    let sort = number.to_be_bytes();
                    let outcome = store.put_if_absent(Key::row(SPACE, &partition, &sort), &b"twelve bytes"[..]).await;
                    assert!(outcome.unwrap().is_applied());
                }
            }))
        });
    });
}

fn memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shared_log_memory");
    group.throughput(Throughput::Elements(1));
    for callers in [1, 64, 1_024] {
        replica_row(&mut group, &runtime(), Memory::new(), callers, usize::MAX);
    }
    for batch in [1, 8, 64] {
        replica_row(&mut group, &runtime(), Memory::new(), 1_024, batch);
    }
    insert_row(&mut group, &runtime(), &Memory::new(), 64);
    group.finish();
}

fn redis(criterion: &mut Criterion) {
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        println!("no rows on Redis: start one with `cargo xtask servers up` and export what it prints");
        return;
    };
    let mut group = criterion.benchmark_group("shared_log_redis");
    group.throughput(Throughput::Elements(1));
    for (callers, batch) in [(1, usize::MAX), (64, usize::MAX), (1_024, 1), (1_024, 64), (1_024, usize::MAX)] {
        // A connection lives in the runtime that it was made in.
        let runtime = runtime();
        let store = runtime.block_on(RedisStore::connect(&url)).unwrap();
        replica_row(&mut group, &runtime, store, callers, batch);
    }
    let runtime = runtime();
    let store = runtime.block_on(RedisStore::connect(&url)).unwrap();
    insert_row(&mut group, &runtime, &store, 64);
    group.finish();
}

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    memory(&mut criterion);
    redis(&mut criterion);
    criterion.final_summary();
    report::print(start);
}
