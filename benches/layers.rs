//! What layers cost on the in-process store, and a cached read beside the bare caches, in one run:
//! `cargo bench -p sysd-benches --bench layers`.
//!
//! Keys are 16 bytes, values 100. The store is called through its futures, polled once; all clocks are `FastClock`. No
//! subscriber and no recorder are installed: what those cost is theirs.
#![allow(missing_docs, clippy::unwrap_used, clippy::future_not_send)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/report.rs"]
mod report;

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::Criterion;
use sysd_core::{Clock as _, FastClock, Key, Space, Store, StoreExt as _, SystemEntropy, Write};
use sysd_storage::Memory;
use sysd_storage::layer::{
    Answer, Batch, Breaker, BreakerConfig, Cache, CacheConfig, Coalesce, Interceptor, LayerExt as _, Limit,
    LimitConfig, Metrics, Operation, Retry, Timeout, TimeoutConfig, Trace,
};

const SPACE: Space = Space::plain("bench");
/// Enough to be found in the processor's cache: the layer is measured, not memory.
const FEW: usize = 1_000;
const MANY: usize = 100_000;

fn now<T>(future: impl Future<Output = T>) -> T {
    let future = std::pin::pin!(future);
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

/// Pseudo-random, so that no prefetcher sees a pattern.
fn key(index: usize) -> [u8; 16] {
    (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

fn filled(clock: &FastClock, count: usize) -> Memory<FastClock> {
    let store = Memory::with_clock(clock.clone());
    for index in 0..count {
        now(store.put(Key::lone(SPACE, &key(index)), vec![7; 100])).unwrap();
    }
    store
}

fn bench_get(criterion: &mut Criterion, group: &str, name: &str, count: usize, store: &impl Store) {
    let mut index = 0;
    criterion.benchmark_group(group).bench_function(name, |bench| {
        bench.iter(|| {
            index = (index + 611_953) % count;
            now(store.get(Key::lone(SPACE, &key(index)))).unwrap()
        });
    });
}

fn bench_write(criterion: &mut Criterion, name: &str, store: &impl Store) {
    let (mut index, value) = (0, Bytes::from(vec![7; 100]));
    criterion.benchmark_group("layer_write").bench_function(name, |bench| {
        bench.iter(|| {
            index = (index + 611_953) % FEW;
            now(store.write(Write::put(Key::lone(SPACE, &key(index)), value.clone()))).unwrap()
        });
    });
}

fn each_layer(criterion: &mut Criterion, clock: &FastClock) {
    let bare = filled(clock, FEW);
    let timeout = Timeout::with_clock(TimeoutConfig::default(), clock.clone());
    let retry = Retry::with_clock(sysd_core::RetryPolicy::default(), clock.clone(), SystemEntropy);
    let limit = Limit::with_clock(LimitConfig::default(), clock.clone());
    let breaker = Breaker::with_clock(BreakerConfig::default(), clock.clone());
    let metrics = Metrics::with_clock(clock.clone());
    let stack = bare.clone().layer(timeout.clone()).layer(breaker.clone()).layer(limit.clone());
    let stack = stack.layer(retry.clone()).layer(Trace).layer(metrics.clone());
    let stack = stack.layer(Batch::default()).layer(Coalesce::new());
    let cached = bare.clone().layer(Cache::with_clock(CacheConfig::default(), clock.clone()));
    macro_rules! measure {
        ($($name:literal $store:expr;)+) => {$(
            let store = $store;
            bench_get(criterion, "layer_get", $name, FEW, &store);
            bench_write(criterion, $name, &store);
        )+};
    }
    measure! {
        "0_bare" bare.clone();
        "1_timeout" bare.clone().layer(timeout);
        "2_retry" bare.clone().layer(retry);
        "3_breaker" bare.clone().layer(breaker);
        "4_limit" bare.clone().layer(limit);
        "5_trace" bare.clone().layer(Trace);
        "6_metrics" bare.clone().layer(metrics);
        "7_coalesce" bare.clone().layer(Coalesce::new());
        "8_batch" bare.clone().layer(Batch::default());
        "9_all_but_the_cache" stack;
        "a_cache" cached;
    }
}

/// Hits in turns: the layer beside the bare caches, and beside `quick_cache` as one would bound the age of what it keeps by hand,
/// which is the same work.
fn cache_hit(clock: &FastClock) {
    const TTL: Duration = Duration::from_secs(3_600);
    for (group, count) in [("cache_hit_1k", FEW), ("cache_hit_100k", MANY)] {
        if !is_wanted(group) {
            continue;
        }
        let entry = |index| (Bytes::copy_from_slice(&key(index)), Bytes::from(vec![7; 100]));
        let bare = quick_cache::sync::Cache::new(2 * count);
        (0..count).map(entry).for_each(|(key, value)| bare.insert(key, value));
        let aged = quick_cache::sync::Cache::new(2 * count);
        (0..count).map(entry).for_each(|(key, value)| aged.insert(key, (value, clock.now())));
        let capacity = 2 * count as u64;
        let moka = moka::sync::Cache::builder().max_capacity(capacity).time_to_live(TTL).build();
        (0..count).map(entry).for_each(|(key, value)| moka.insert(key, value));
        let config = CacheConfig { ttl: TTL, bytes_max: 1 << 30, ..CacheConfig::default() };
        let store = filled(clock, count).layer(Cache::with_clock(config, clock.clone()));
        (0..count).for_each(|index| drop(now(store.get(Key::lone(SPACE, &key(index))))));

        let mut layer = turns(count, |key| drop(black_box(now(store.get(Key::lone(SPACE, &key))).unwrap().unwrap())));
        let bare_hit = turns(count, |key| drop(black_box(bare.get(&key[..]).unwrap())));
        pairs::compare(&format!("{group}/quick_cache"), &mut layer, bare_hit);
        let aged_hit = turns(count, |key| {
            let (value, read_at) = aged.get(&key[..]).unwrap();
            assert!(clock.now().saturating_since(read_at) < TTL);
            drop(black_box(value));
        });
        pairs::compare(&format!("{group}/aged"), &mut layer, aged_hit);
        let moka_hit = turns(count, |key| drop(black_box(moka.get(&key[..]).unwrap())));
        pairs::compare(&format!("{group}/moka"), &mut layer, moka_hit);
        assert_eq!(store.stats().misses, count as u64, "all were hits");
    }
}

/// How long so many calls take, each with the next of these keys.
fn turns(count: usize, mut call: impl FnMut([u8; 16])) -> impl FnMut(u64) -> Duration {
    let mut index = 0;
    move |calls| {
        let start = Instant::now();
        for _ in 0..calls {
            index = (index + 611_953) % count;
            call(key(index));
        }
        start.elapsed()
    }
}

/// Whether the command line's filter has room for it.
fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// A call to a server: it is answered at the second poll, and counted.
struct Elsewhere(Arc<AtomicUsize>);

impl Interceptor for Elsewhere {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, _: Operation, call: F) -> A {
        self.0.fetch_add(1, Ordering::Relaxed);
        let mut is_sent = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut is_sent, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        call.await
    }
}

fn sixty_four(criterion: &mut Criterion, clock: &FastClock) {
    let calls = Arc::new(AtomicUsize::new(0));
    let below = || filled(clock, 1).layer(Elsewhere(Arc::clone(&calls)));
    // Nothing is kept for longer than no time: every round is a miss.
    let config = CacheConfig { ttl: Duration::ZERO, ..CacheConfig::default() };
    let name = key(0);
    macro_rules! measure {
        ($($name:literal $store:expr;)+) => {$(
            let store = $store;
            let round = || {
                let callers = (0..64).map(|_| store.get(Key::lone(SPACE, &name)));
                futures::executor::block_on(futures::future::join_all(callers))
            };
            calls.store(0, Ordering::Relaxed);
            round();
            println!("64 callers, {}: {} calls", $name, calls.load(Ordering::Relaxed));
            criterion.benchmark_group("callers_64").bench_function($name, |bench| bench.iter(round));
        )+};
    }
    measure! {
        "bare" below();
        "coalesce" below().layer(Coalesce::new());
        "batch" below().layer(Batch::default());
        "cache_miss" below().layer(Cache::with_clock(config, clock.clone()));
    }
}

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let clock = FastClock::new();
    cache_hit(&clock);
    each_layer(&mut criterion, &clock);
    sixty_four(&mut criterion, &clock);
    criterion.final_summary();
    report::print(start);
}
