//! A record among a million, on one thread and on two: the memory store beside maps and bounded caches.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../support/report.rs"]
mod report;

use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use sysd_core::{FastClock, Key, Space, Store, StoreExt};
use sysd_storage::Memory;

const SPACE: Space = Space::conditional("bench");
const KEYS: usize = 1_000_000;

/// The memory store's futures are ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

fn key(index: usize) -> [u8; 16] {
    (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

fn owned(key: &[u8]) -> Bytes {
    Bytes::copy_from_slice(key)
}

fn value() -> Bytes {
    owned(&[7; 100])
}

/// How long `iterations` calls take, shared by `threads`, each on keys in an order of its own.
fn timed(iterations: u64, threads: usize, call: &(impl Fn(&[u8; 16]) + Sync)) -> Duration {
    let each = usize::try_from(iterations).unwrap().div_ceil(threads);
    let barrier = Barrier::new(threads);
    let times = std::thread::scope(|scope| {
        let run = |thread: usize| {
            let barrier = &barrier;
            move || {
                let mut index = thread * 400_009;
                barrier.wait();
                let start = Instant::now();
                for _ in 0..each {
                    index = (index + 611_953) % KEYS;
                    call(&key(index));
                }
                start.elapsed()
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect::<Vec<_>>()
    });
    // What is more than was asked for is taken off the time.
    let share = iterations as f64 / (each * threads) as f64;
    times.into_iter().max().unwrap_or_default().mul_f64(share)
}

fn rows(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    get: impl Fn(&[u8; 16]) -> bool + Sync,
    put: impl Fn(&[u8; 16]) + Sync,
) {
    (0..KEYS).for_each(|index| put(&key(index)));
    for threads in [1, 2] {
        group.bench_function(format!("get_by_{threads}/{name}"), |bench| {
            bench.iter_custom(|iterations| timed(iterations, threads, &|key| assert!(get(key))));
        });
        group.bench_function(format!("put_by_{threads}/{name}"), |bench| {
            bench.iter_custom(|iterations| timed(iterations, threads, &put));
        });
    }
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store_1m");
    {
        let map = dashmap::DashMap::<Bytes, Bytes>::new();
        let get = |key: &[u8; 16]| map.get(&key[..]).map(|found| found.value().clone()).is_some();
        rows(&mut group, "dashmap", get, |key| drop(map.insert(owned(key), value())));
    }
    {
        let map = papaya::HashMap::<Bytes, Bytes>::new();
        let get = |key: &[u8; 16]| map.pin().get(&key[..]).cloned().is_some();
        rows(&mut group, "papaya", get, |key| drop(map.pin().insert(owned(key), value()).cloned()));
    }
    {
        let cache = moka::sync::Cache::<Bytes, Bytes>::new(2 * KEYS as u64);
        let get = |key: &[u8; 16]| cache.get(&key[..]).is_some();
        rows(&mut group, "moka", get, |key| cache.insert(owned(key), value()));
    }
    {
        let cache = quick_cache::sync::Cache::<Bytes, Bytes>::new(2 * KEYS);
        let get = |key: &[u8; 16]| cache.get(&key[..]).is_some();
        rows(&mut group, "quick_cache", get, |key| cache.insert(owned(key), value()));
    }
    let store = Memory::with_clock(FastClock::new());
    let get = |key: &[u8; 16]| now(store.get(Key::lone(SPACE, key))).unwrap().is_some();
    rows(&mut group, "sysd", get, |key| now(store.put(Key::lone(SPACE, key), value())).unwrap());
    group.finish();
}

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(12)
        .configure_from_args();
    records(&mut criterion);
    criterion.final_summary();
    report::print(start);
}
