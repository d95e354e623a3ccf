//! The Redis store beside bare commands, in one run: `cargo bench -p sysd-benches --bench store_redis`.
//!
//! Both use one multiplexed connection and 64 tasks that each wait for one call before the next; a call is one iteration. Keys
//! are those of a hundred thousand records of 100 bytes. The bare commands are what one would write by hand for the same: GET;
//! SET; a script that compares and sets; a script that counts with a time to live; ZRANGEBYLEX and HMGET for a page of 50.
//!
//! It needs a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/report.rs"]
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput};
use futures::future::join_all;
use redis::aio::MultiplexedConnection;
use sysd_core::{
    Expect, Key, OutputBytes, Procedure, Scan, Script, Space, StateBytes, StateChange, Step, Store, StoreExt,
    Timestamp, Undecodable, Version, Write, random_base62,
};
use sysd_storage::{RedisConfig, RedisStore};
use tokio::runtime::Runtime;

use callers::timed;

const SPACE: Space = Space::conditional("bench");
const TIMELINES: Space = Space::keys_only("bench_timelines");
const CALLERS: u64 = 64;
const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];

/// Counts, and lives an hour: what a limiter's state costs, without being one.
struct Touch;

static TOUCH: Script = Script {
    name: "touch",
    source: r"
        local count = 1
        if state then count = struct.unpack('>I8', state) + 1 end
        local packed = struct.pack('>I8I8', count, now)
        return 'put', packed, packed, 3600000000",
};

const BARE_TOUCH: &str = r"
    local state = redis.call('GET', KEYS[1])
    local count = 1
    if state then count = struct.unpack('>I8', state) + 1 end
    local packed = struct.pack('>I8I8', count, tonumber(ARGV[1]))
    redis.call('SET', KEYS[1], packed, 'PX', 3600000)
    return packed";

const BARE_COMPARE_AND_SET: &str = r"
    local found = redis.call('GET', KEYS[1])
    if found and string.sub(found, 1, 16) ~= ARGV[1] then return found end
    redis.call('SET', KEYS[1], ARGV[2])
    return 1";

impl Procedure for Touch {
    type Output = u64;

    fn name(&self) -> &'static str {
        "touch"
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<u64>, Undecodable> {
        let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
        let mut state = StateBytes::from_slice(&count.to_be_bytes());
        state.extend_from_slice(&now.as_micros().to_be_bytes());
        Ok(Step { change: StateChange::Put { state, ttl: Some(Duration::from_secs(3_600)) }, output: count })
    }

    fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
        out.extend_from_slice(&output.to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
        let error = Undecodable { procedure: "touch", what: "output" };
        bytes.first_chunk().map(|count| u64::from_be_bytes(*count)).ok_or(error)
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&TOUCH)
    }
}

/// Keys in an order that repeats only after all of them.
struct Next(AtomicU64);

impl Next {
    fn key(&self) -> [u8; 16] {
        let index = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(61_153) % KEYS;
        (u128::from(index) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
    }
}

struct Bench {
    runtime: Runtime,
    store: RedisStore,
    bare: MultiplexedConnection,
    prefix: String,
    next: Arc<Next>,
}

impl Bench {
    fn connect(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let prefix = format!("{}:", random_base62(12, &sysd_core::SystemEntropy));
        let config = RedisConfig { prefix: prefix.clone(), ..RedisConfig::default() };
        let store = runtime.block_on(RedisStore::connect_with(url, config, sysd_core::SystemClock)).unwrap();
        let client = redis::Client::open(url).unwrap();
        let bare = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
        Self { runtime, store, bare, prefix, next: Arc::new(Next(AtomicU64::new(0))) }
    }

    fn fill(&self) {
        let keys: Vec<_> = (0..KEYS).map(|_| self.next.key()).collect();
        let mut bare = self.bare.clone();
        self.runtime.block_on(async {
            for keys in keys.chunks(1_000) {
                let writes: Vec<_> = keys.iter().map(|key| Write::put(Key::lone(SPACE, key), VALUE.to_vec())).collect();
                assert!(self.store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
                let mut sets = redis::pipe();
                for key in keys {
                    sets.cmd("SET").arg(named(&self.prefix, key)).arg([&[0; 16], VALUE.as_slice()].concat()).ignore();
                }
                let () = sets.query_async(&mut bare).await.unwrap();
            }
        });
    }

    /// A row of ours, a bare one, and both in turns. `call` is given the store and a key, `command` the name of a key.
    fn pair<F>(
        &self,
        criterion: &mut Criterion,
        name: &str,
        call: impl Fn(RedisStore, [u8; 16]) -> F + Clone + Send + 'static,
        command: impl Fn(&[u8]) -> redis::Pipeline + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let bare = move |mut bare: MultiplexedConnection, name: Vec<u8>| {
            let pipeline = command(&name);
            async move { drop(pipeline.query_async::<redis::Value>(&mut bare).await.unwrap()) }
        };
        self.pair_with(criterion, name, call, bare);
    }

    /// The same with a bare row that does more than to send a command.
    fn pair_with<F, G>(
        &self,
        criterion: &mut Criterion,
        name: &str,
        call: impl Fn(RedisStore, [u8; 16]) -> F + Clone + Send + 'static,
        bare_call: impl Fn(MultiplexedConnection, Vec<u8>) -> G + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let ours = |iterations| {
            let (store, next, call) = (self.store.clone(), Arc::clone(&self.next), call.clone());
            self.runtime.block_on(timed(iterations, CALLERS, move |_| call(store.clone(), next.key())))
        };
        let bare = |iterations| {
            let (bare, next, call) = (self.bare.clone(), Arc::clone(&self.next), bare_call.clone());
            let prefix = self.prefix.clone();
            self.runtime.block_on(timed(iterations, CALLERS, move |_| call(bare.clone(), named(&prefix, &next.key()))))
        };
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        group.bench_function("store", |bench| bench.iter_custom(ours));
        group.bench_function("bare", |bench| bench.iter_custom(bare));
        group.finish();
        if is_wanted(name) {
            pairs::compare(name, ours, bare);
        }
    }
}

/// Whether the command line's filter has room for it.
fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// A key as one would name it by hand, of the same length.
fn named(prefix: &str, key: &[u8]) -> Vec<u8> {
    [prefix.as_bytes(), b"bare:", key].concat()
}

fn single(command: redis::Cmd) -> redis::Pipeline {
    let mut pipeline = redis::Pipeline::with_capacity(1);
    pipeline.add_command(command);
    pipeline
}

fn script(runtime: &Runtime, bare: &MultiplexedConnection, source: &str) -> String {
    let mut bare = bare.clone();
    runtime.block_on(redis::cmd("SCRIPT").arg("LOAD").arg(source).query_async(&mut bare)).unwrap()
}

fn lone_records(criterion: &mut Criterion, bench: &Bench) {
    bench.pair(
        criterion,
        "redis_get",
        |store, key| async move { assert!(store.get(Key::lone(SPACE, &key)).await.unwrap().is_some()) },
        |name| single(redis::cmd("GET").arg(name).to_owned()),
    );
    bench.pair(
        criterion,
        "redis_put",
        |store, key| async move { store.put(Key::lone(SPACE, &key), VALUE.as_slice()).await.unwrap() },
        |name| single(redis::cmd("SET").arg(name).arg([&[0; 16], VALUE.as_slice()].concat()).to_owned()),
    );
    let sha = script(&bench.runtime, &bench.bare, BARE_COMPARE_AND_SET);
    bench.pair(
        criterion,
        "redis_put_conditional",
        |store, key| async move {
            let write = Write::put(Key::lone(SPACE, &key), VALUE.as_slice()).expect(Expect::Is(Version::from_u128(0)));
            assert!(!store.write(write).await.unwrap().is_applied());
        },
        move |name| {
            let mut command = redis::cmd("EVALSHA");
            command.arg(&sha).arg(1).arg(name).arg([1_u8; 16].as_slice()).arg([&[0; 16], VALUE.as_slice()].concat());
            single(command)
        },
    );
}

fn procedures(criterion: &mut Criterion, bench: &Bench) {
    let sha = script(&bench.runtime, &bench.bare, BARE_TOUCH);
    let touch = |store: RedisStore, mut key: [u8; 16]| async move {
        // Other records than those of the other rows.
        key[0] ^= 0xFF;
        assert!(store.run(Key::lone(SPACE, &key), &Touch).await.unwrap() > 0);
    };
    let bare_touch = move |name: &[u8]| {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&sha).arg(1).arg([name, b"touch"].concat()).arg(1_767_225_600_000_000_u64);
        single(command)
    };
    // All records are there before anything is measured: a server whose tables grow does other work besides.
    let mut bare = bench.bare.clone();
    bench.runtime.block_on(async {
        for _ in 0..=KEYS / CALLERS {
            let keys = || (0..CALLERS).map(|_| bench.next.key());
            join_all(keys().map(|key| touch(bench.store.clone(), key))).await;
        }
        for _ in 0..KEYS {
            let call = bare_touch(&named(&bench.prefix, &bench.next.key()));
            let _: redis::Value = call.query_async(&mut bare).await.unwrap();
        }
    });
    bench.pair(criterion, "redis_update", touch, bare_touch);
}

fn scans(criterion: &mut Criterion, bench: &Bench) {
    let sorts: Vec<[u8; 16]> = (0..10_000).map(|_| bench.next.key()).collect();
    let writes: Vec<_> = sorts.iter().map(|sort| Write::put(Key::row(SPACE, b"p", sort), VALUE.to_vec())).collect();
    let (order, rows) = (named(&bench.prefix, b"order"), named(&bench.prefix, b"rows"));
    let mut bare = bench.bare.clone();
    bench.runtime.block_on(async {
        assert!(bench.store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
        for sorts in sorts.chunks(1_000) {
            let mut fill = redis::pipe();
            for sort in sorts {
                fill.cmd("ZADD").arg(&order).arg(0).arg(sort).ignore();
                fill.cmd("HSET").arg(&rows).arg(sort).arg(VALUE.as_slice()).ignore();
            }
            let () = fill.query_async(&mut bare).await.unwrap();
        }
    });
    bench.pair_with(
        criterion,
        "redis_scan_50",
        |store, _| async move {
            assert_eq!(store.scan(Scan::partition(SPACE, b"p", 50)).await.unwrap().rows.len(), 50);
        },
        move |mut bare, _| {
            let (order, rows) = (order.clone(), rows.clone());
            async move {
                let mut sorts = redis::cmd("ZRANGEBYLEX");
                sorts.arg(order).arg("-").arg("+").arg("LIMIT").arg(0).arg(50);
                let sorts: Vec<Vec<u8>> = sorts.query_async(&mut bare).await.unwrap();
                let mut values = redis::cmd("HMGET");
                let values: Vec<Vec<u8>> = values.arg(rows).arg(&sorts).query_async(&mut bare).await.unwrap();
                assert_eq!(values.len(), 50);
            }
        },
    );
}

/// Timelines: keys only, one sorted set a partition; 256 of them.
fn timelines(criterion: &mut Criterion, bench: &Bench) {
    /// The timeline's name, and the key in it.
    fn split(name: &[u8]) -> (Vec<u8>, &[u8]) {
        let (timeline, key) = name.split_at(name.len() - 15);
        ([timeline, b"timeline"].concat(), key)
    }
    bench.pair(
        criterion,
        "redis_put_key",
        |store, key| async move { store.put(Key::row(TIMELINES, &key[..1], &key), "").await.unwrap() },
        |name| {
            let (timeline, key) = split(name);
            single(redis::cmd("ZADD").arg(timeline).arg(0).arg(key).to_owned())
        },
    );
    bench.pair(
        criterion,
        "redis_scan_50_keys",
        |store, key| async move {
            assert_eq!(store.scan(Scan::partition(TIMELINES, &key[..1], 50)).await.unwrap().rows.len(), 50);
        },
        |name| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(split(name).0).arg("-").arg("+").arg("LIMIT").arg(0).arg(50);
            single(command)
        },
    );
}

fn main() {
    let start = SystemTime::now();
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        println!("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints");
        return;
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .configure_from_args();
    let bench = Bench::connect(&url);
    bench.fill();
    lone_records(&mut criterion, &bench);
    procedures(&mut criterion, &bench);
    scans(&mut criterion, &bench);
    timelines(&mut criterion, &bench);
    criterion.final_summary();
    report::print(start);
}
