//! The in-process store beside the bare maps, in one run: `cargo bench -p sysd-benches --bench store`.
//!
//! Keys are 16 bytes, values 100, as owned byte strings, a million of each. Maps are handed borrowed keys and answer a clone
//! of the value, as the store does. The store is called through its futures, polled once.
#![allow(missing_docs, clippy::unwrap_used, clippy::future_not_send)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/report.rs"]
mod report;

use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use parking_lot::Mutex;
use sysd_core::procedure::ErasedProcedure;
use sysd_core::{
    Expect, FastClock, Key, OutputBytes, Procedure, Scan, SeededEntropy, Space, StateBytes, StateChange, Step, Store,
    Timestamp, Undecodable, Version, Write,
};
use sysd_storage::{Memory, MemoryConfig};

const SPACE: Space = Space::conditional("bench");
const CACHE: Space = Space::conditional("bench_cache").evictable();
const KEYS: usize = 1_000_000;

/// The memory store's futures are ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    let future = std::pin::pin!(future);
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

/// Pseudo-random, so that no prefetcher sees a pattern.
fn key(index: usize) -> [u8; 16] {
    let mixed = (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    mixed.to_be_bytes()
}

struct Indexes(usize);

impl Indexes {
    fn next(&mut self) -> [u8; 16] {
        self.0 = (self.0 + 611_953) % KEYS;
        key(self.0)
    }
}

/// What a token bucket costs, without being one: 16 bytes of state, a time to live, 16 bytes of output.
struct Touch;

impl Procedure for Touch {
    type Output = (u64, u64);

    fn name(&self) -> &'static str {
        "touch"
    }

    #[inline]
    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<(u64, u64)>, Undecodable> {
        let (count, last) = state.map_or(Ok((0, 0)), |state| self.decode_output(state))?;
        let mut state = StateBytes::new();
        self.encode_output(&(count + 1, now.as_micros().max(last)), &mut state);
        let change = StateChange::Put { state, ttl: Some(Duration::from_secs(60)) };
        Ok(Step { change, output: (count + 1, last) })
    }

    #[inline]
    fn encode_output(&self, output: &(u64, u64), out: &mut OutputBytes) {
        out.extend_from_slice(&output.0.to_be_bytes());
        out.extend_from_slice(&output.1.to_be_bytes());
    }

    #[inline]
    fn decode_output(&self, bytes: &[u8]) -> Result<(u64, u64), Undecodable> {
        let error = Undecodable { procedure: "touch", what: "state" };
        let (a, b) = bytes.split_at_checked(8).ok_or(error.clone())?;
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| error.clone());
        Ok((word(a)?, word(b)?))
    }
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get_1m");
    let value = Bytes::from(vec![7_u8; 100]);
    {
        let map = dashmap::DashMap::new();
        (0..KEYS)
            .for_each(|index| drop(map.insert(Bytes::copy_from_slice(&key(index)), Bytes::copy_from_slice(&value))));
        let mut indexes = Indexes(0);
        group.bench_function("dashmap", |bench| {
            bench.iter(|| {
                let key = indexes.next();
                map.get(&key[..]).map(|found| found.value().clone())
            });
        });
    }
    {
        let map = papaya::HashMap::new();
        let pin = map.pin();
        (0..KEYS).for_each(|index| {
            pin.insert(Bytes::copy_from_slice(&key(index)), Bytes::copy_from_slice(&value));
        });
        let mut indexes = Indexes(0);
        group.bench_function("papaya", |bench| {
            bench.iter(|| {
                let (pin, key) = (map.pin(), indexes.next());
                pin.get(&key[..]).cloned()
            });
        });
    }
    let store = filled(&value);
    let mut indexes = Indexes(0);
    group.bench_function("memory", |bench| {
        bench.iter(|| now(store.get(Key::lone(SPACE, &indexes.next()))).unwrap());
    });
    group.finish();
}

fn filled(value: &Bytes) -> Memory<FastClock> {
    let store = Memory::with_clock(FastClock::new());
    for index in 0..KEYS {
        let key = key(index);
        let write = Write::put(Key::lone(SPACE, &key), Bytes::copy_from_slice(value));
        assert!(now(store.write(write)).unwrap().is_applied());
    }
    store
}

fn put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put_1m");
    let value = Bytes::from(vec![7_u8; 100]);
    let fresh = || Bytes::copy_from_slice(&value);
    {
        let map = dashmap::DashMap::new();
        (0..KEYS).for_each(|index| drop(map.insert(Bytes::copy_from_slice(&key(index)), fresh())));
        let mut indexes = Indexes(0);
        group.bench_function("dashmap", |bench| {
            bench.iter_batched(
                || (Bytes::copy_from_slice(&indexes.next()), fresh()),
                // What is replaced is freed in the time taken, as a store frees it.
                |(key, value)| drop(map.insert(key, value)),
                BatchSize::SmallInput,
            );
        });
    }
    let store = filled(&value);
    let (mut indexes, entropy) = (Indexes(0), SeededEntropy::new(1));
    group.bench_function("memory", |bench| {
        bench.iter_batched(
            || (indexes.next(), fresh()),
            |(key, value)| now(store.write(Write::put(Key::lone(SPACE, &key), value))).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let mut versions = vec![None; KEYS];
    let mut index = 0;
    group.bench_function("memory_conditional", |bench| {
        bench.iter_batched(
            || {
                index = (index + 611_953) % KEYS;
                let held = versions[index]
                    .unwrap_or_else(|| now(store.get(Key::lone(SPACE, &key(index)))).unwrap().unwrap().version);
                let version = Version::mint(&entropy);
                versions[index] = Some(version);
                (key(index), fresh(), held, version)
            },
            |(key, value, held, version)| {
                let write = Write::put(Key::lone(SPACE, &key), value).with_version(version);
                assert!(now(store.write(write.expect(Expect::Is(held)))).unwrap().is_applied());
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Puts of new keys where so many have filled the store: beside those below the bound, those that evict, and those refused.
fn put_at_bound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put_at_bound");
    let value = Bytes::from(vec![7_u8; 100]);
    for (count, name) in [(100_000, "100k"), (KEYS, "1m")] {
        for (space, what) in [(CACHE, "evicting"), (SPACE, "refused")] {
            let bytes_max = Some(count * (128 + 16 + 100));
            let store = Memory::with_config(MemoryConfig { bytes_max, ..MemoryConfig::default() }, FastClock::new());
            let put = |index| {
                let key = key(index);
                now(store.write(Write::put(Key::lone(space, &key), value.clone())))
            };
            let mut index = 0;
            while index < count {
                assert!(put(index).unwrap().is_applied());
                index += 1;
            }
            group.bench_function(format!("{what}_{name}"), |bench| {
                bench.iter(|| {
                    index += 1;
                    put(index).is_ok()
                });
            });
        }
    }
    group.finish();
}

fn update(criterion: &mut Criterion) {
    let quota = governor::Quota::per_second(std::num::NonZeroU32::MAX);
    for (name, keys) in [("update_hot", 1), ("update_100k", 100_000), ("update_1m", KEYS)] {
        let mut group = criterion.benchmark_group(name);
        let at = |index: &mut usize| {
            *index = (*index + 611_953) % keys;
            key(*index)
        };
        {
            let limiter = governor::RateLimiter::keyed(quota);
            let names: Vec<String> =
                (0..keys).map(|index| format!("{:032x}", u128::from_be_bytes(key(index)))).collect();
            for name in &names {
                drop(limiter.check_key(name));
            }
            let mut index = 0;
            group.bench_function("governor_string", |bench| {
                bench.iter(|| {
                    index = (index + 611_953) % keys;
                    limiter.check_key(&names[index]).is_ok()
                });
            });
        }
        let store = Memory::with_clock(FastClock::new());
        (0..keys).for_each(|index| drop(now(store.update(Key::lone(SPACE, &key(index)), &Touch))));
        let mut index = 0;
        group.bench_function("memory", |bench| {
            bench.iter(|| {
                let erased: &dyn ErasedProcedure = black_box(&Touch);
                now(store.update(Key::lone(SPACE, &at(&mut index)), erased)).unwrap()
            });
        });
        group.finish();
    }
}

fn scan(criterion: &mut Criterion) {
    let store = Memory::new();
    let map: std::collections::BTreeMap<Vec<u8>, Bytes> =
        (0..10_000).map(|index| (key(index).to_vec(), Bytes::from(vec![7; 100]))).collect();
    for (sort, value) in &map {
        assert!(now(store.write(Write::put(Key::row(SPACE, b"p", sort), value.clone()))).unwrap().is_applied());
    }
    let mut group = criterion.benchmark_group("scan_50_of_10k");
    group.bench_function("btreemap", |bench| {
        bench.iter(|| map.iter().take(50).map(|(sort, value)| (sort.clone(), value.clone())).collect::<Vec<_>>());
    });
    group.bench_function("memory", |bench| {
        bench.iter(|| now(store.scan(Scan::partition(SPACE, b"p", 50))).unwrap());
    });
    group.finish();
}

/// One call of a procedure on a record under a lock, and its output decoded: what a store does once it has found the record.
fn call<P: ErasedProcedure + ?Sized>(record: &Mutex<StateBytes>, procedure: &P, now: Timestamp) -> (u64, u64) {
    let mut output = OutputBytes::new();
    let mut held = record.lock();
    if let StateChange::Put { state, .. } = procedure.apply(Some(&held), now, &mut output).unwrap() {
        *held = state;
    }
    drop(held);
    Touch.decode_output(&output).unwrap()
}

/// What `&dyn ErasedProcedure` at the boundary of a store costs: the same call with the type known; and without bytes for
/// the output too, which only a store that is generic over procedures could do.
fn boundary(criterion: &mut Criterion) {
    let record = || Mutex::new(StateBytes::from_slice(&[0; 16]));
    let now = black_box(Timestamp::from_micros_saturating(1_767_225_600_000_000));
    let mut group = criterion.benchmark_group("procedure");
    let held = record();
    group.bench_function("dyn", |bench| {
        bench.iter(|| {
            let procedure: &dyn ErasedProcedure = black_box(&Touch);
            call(&held, procedure, now)
        });
    });
    let held = record();
    group.bench_function("generic", |bench| bench.iter(|| call(&held, black_box(&Touch), now)));
    let held = record();
    group.bench_function("generic_without_bytes", |bench| {
        bench.iter(|| {
            let mut held = held.lock();
            let step = Procedure::apply(black_box(&Touch), Some(&held), now).unwrap();
            if let StateChange::Put { state, .. } = step.change {
                *held = state;
            }
            step.output
        });
    });
    group.finish();
}

/// Runs `call` on keys in an order that repeats only after all of them; what it needs is made before the time is taken.
fn timed<T, U>(indexes: &mut Indexes, calls: u64, make: impl Fn([u8; 16]) -> T, call: impl Fn(T) -> U) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..calls.div_ceil(64) {
        let given: [T; 64] = std::array::from_fn(|_| make(indexes.next()));
        let start = Instant::now();
        let answers = given.map(&call);
        time += start.elapsed();
        drop(black_box(answers));
    }
    time
}

/// The ratios that are promised, in turns with the fastest map.
fn in_turns() {
    let value = Bytes::from(vec![7_u8; 100]);
    let fresh = || Bytes::copy_from_slice(&value);
    let map = dashmap::DashMap::new();
    (0..KEYS).for_each(|index| drop(map.insert(Bytes::copy_from_slice(&key(index)), fresh())));
    let store = filled(&value);
    let (mut ours, mut theirs) = (Indexes(0), Indexes(0));
    pairs::compare(
        "get_1m beside dashmap",
        |calls| timed(&mut ours, calls, |key| key, |key| now(store.get(Key::lone(SPACE, &key))).unwrap()),
        |calls| timed(&mut theirs, calls, |key| key, |key| map.get(&key[..]).map(|found| found.value().clone())),
    );
    pairs::compare(
        "put_1m beside dashmap",
        |calls| {
            let put =
                |(key, value): ([u8; 16], Bytes)| now(store.write(Write::put(Key::lone(SPACE, &key), value))).unwrap();
            timed(&mut ours, calls, |key| (key, fresh()), put)
        },
        |calls| {
            let make = |key: [u8; 16]| (Bytes::copy_from_slice(&key), fresh());
            // What is replaced is freed in the time taken, as a store frees it.
            timed(&mut theirs, calls, make, |(key, value)| drop(map.insert(key, value)))
        },
    );
    drop((map, store));
    let store = Memory::with_clock(FastClock::new());
    let limiter = governor::RateLimiter::keyed(governor::Quota::per_second(std::num::NonZeroU32::MAX));
    let (hot, name) = (key(0), format!("{:032x}", u128::from_be_bytes(key(0))));
    let erased: &dyn ErasedProcedure = black_box(&Touch);
    pairs::compare(
        "update_hot beside governor",
        |calls| {
            let start = Instant::now();
            (0..calls).for_each(|_| drop(now(store.update(Key::lone(SPACE, black_box(&hot)), erased)).unwrap()));
            start.elapsed()
        },
        |calls| {
            let start = Instant::now();
            (0..calls).for_each(|_| assert!(black_box(limiter.check_key(black_box(&name))).is_ok()));
            start.elapsed()
        },
    );
}

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    get(&mut criterion);
    put(&mut criterion);
    put_at_bound(&mut criterion);
    update(&mut criterion);
    scan(&mut criterion);
    boundary(&mut criterion);
    criterion.final_summary();
    report::print(start);
    // Only where all is measured.
    if std::env::args().skip(1).all(|argument| argument.starts_with('-')) {
        in_turns();
    }
}
