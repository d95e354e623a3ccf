//! Decisions of a token bucket beside what one would use instead, in turns: `cargo bench -p sysd-benches --bench ratelimit`.
//!
//! In process: beside `governor` keyed by String, over 1, 100 thousand and 1 million keys, evenly and by Zipf's law (exponent 1.1),
//! on one thread and on two: `decide_…` on the memory store, `local_…` by a `LocalLimiter`. `decide_rules_3` are three rules on a key, all or nothing, beside three calls of governor, which
//! are not.
//!
//! On Redis: 64 callers, each waiting for one decision before the next, beside a script by hand that is called once for each
//! decision; one caller alone, the same; and 50,000 decisions a second offered at even intervals whatever the answers do, with
//! the quantiles of their latencies, beside those of the script by hand and of a PING: what of them is the machine's, its scheduler's and
//! the client's. Calls that are not answered within a second of when they were due count as timed out, of all three, and are in the quantiles all the
//! same; the clients give up after two. `leased` and `local_first` are what a process decides with Redis behind it, and what three
//! that share a limit admit beyond it. It needs a server: `cargo xtask servers up` prints the variable to export. An argument
//! chooses rows by a part of their name.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a bench"
)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/pairs.rs"]
mod pairs;

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand_distr::{Distribution as _, Zipf};
use rand_pcg::Pcg64Mcg;
use redis::aio::MultiplexedConnection;
use sysd_core::{ErrorKind, FastClock, SystemClock, SystemEntropy, random_base62};
use sysd_ratelimit::{
    FixedWindow, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, LocalLimiter, RateLimiter, Rule,
    RuleLimiter, RuleSet, SlidingWindow, TokenBucket,
};
use sysd_storage::{Memory, RedisConfig, RedisStore};

use callers::timed;

/// Calls visit so many places before they repeat.
const VISITS: usize = 1 << 20;
const CALLERS: u64 = 64;
const REDIS_KEYS: u64 = 100_000;

/// The memory store's futures are ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

/// Pseudo-random, so that no prefetcher sees a pattern.
fn name(index: usize) -> String {
    format!("{:016x}", (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) >> 64)
}

fn bucket() -> TokenBucket {
    TokenBucket::new("4000000000/s".parse().unwrap(), 4_000_000_000).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Law {
    Uniform,
    Zipf,
}

/// Names in the order in which they are visited.
fn visits(keys: usize, law: Law) -> Vec<u32> {
    let mut generator = Pcg64Mcg::new(7);
    let zipf = Zipf::new(keys as f64, 1.1).unwrap();
    let place = |at: usize| match law {
        Law::Uniform => (at * 611_953) % keys,
        Law::Zipf => zipf.sample(&mut generator) as usize - 1,
    };
    (0..VISITS).map(place).map(|place| u32::try_from(place).unwrap()).collect()
}

/// How long `calls` take, shared by `threads`.
fn on_threads(
    calls: u64,
    threads: usize,
    names: &[String],
    visits: &[u32],
    call: &(impl Fn(&String) + Sync),
) -> Duration {
    let each = usize::try_from(calls).unwrap().div_ceil(threads);
    let barrier = Barrier::new(threads);
    let times = std::thread::scope(|scope| {
        let run = |thread: usize| {
            let barrier = &barrier;
            move || {
                let mut at = thread * (VISITS / 2);
                barrier.wait();
                let start = Instant::now();
                for _ in 0..each {
                    at = (at + 1) % VISITS;
                    call(&names[visits[at] as usize]);
                }
                start.elapsed()
            }
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect::<Vec<_>>()
    });
    let share = calls as f64 / (each * threads) as f64;
    times.into_iter().max().unwrap_or_default().mul_f64(share)
}

/// Whether the command line's filter has room for it.
fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

fn in_process() {
    for (keys, size) in [(1, "1"), (100_000, "100k"), (1_000_000, "1m")] {
        for law in [Law::Uniform, Law::Zipf] {
            for threads in [1, 2] {
                let [row, local_row] =
                    ["decide", "local"].map(|what| format!("{what}_{size}_{law:?}_t{threads}").to_lowercase());
                let is_twice = keys == 1 && matches!(law, Law::Zipf);
                if is_twice || !(is_wanted(&row) || is_wanted(&local_row)) {
                    continue;
                }
                let names: Vec<_> = (0..keys).map(name).collect();
                let visits = visits(keys, law);
                let limiter = RateLimiter::new(Memory::with_clock(FastClock::new()), "api", bucket());
                let governor = governor::RateLimiter::keyed(governor::Quota::per_second(NonZeroU32::MAX));
                let ours = |name: &String| assert!(now(limiter.check(name, 1)).unwrap().is_allowed());
                let local = LocalLimiter::new(bucket(), 2 * keys).unwrap();
                let locally = |name: &String| assert!(local.check(name, 1).is_allowed());
                let other = |name: &String| assert!(governor.check_key(name).is_ok());
                names.iter().for_each(other);
                if is_wanted(&row) {
                    names.iter().for_each(ours);
                    pairs::compare(
                        &row,
                        |calls| on_threads(calls, threads, &names, &visits, &ours),
                        |calls| on_threads(calls, threads, &names, &visits, &other),
                    );
                }
                if is_wanted(&local_row) {
                    names.iter().for_each(locally);
                    pairs::compare(
                        &local_row,
                        |calls| on_threads(calls, threads, &names, &visits, &locally),
                        |calls| on_threads(calls, threads, &names, &visits, &other),
                    );
                }
            }
        }
    }
}

fn rules() {
    let row = "decide_rules_3_100k";
    if !is_wanted(row) {
        return;
    }
    let names: Vec<_> = (0..100_000).map(name).collect();
    let visits = visits(names.len(), Law::Uniform);
    let rules = RuleSet::new([
        Rule::new("second", bucket()).unwrap(),
        Rule::new("minute", SlidingWindow::new("4000000000/m".parse().unwrap())).unwrap(),
        Rule::new("day", FixedWindow::new("4000000000/d".parse().unwrap())).unwrap(),
    ]);
    let limiter = RuleLimiter::new(Memory::with_clock(FastClock::new()), "api", rules.unwrap()).unwrap();
    let governors = [(); 3].map(|()| governor::RateLimiter::keyed(governor::Quota::per_second(NonZeroU32::MAX)));
    let ours = |name: &String| assert!(now(limiter.check(name, 1)).unwrap().is_allowed());
    let other = |name: &String| assert!(governors.iter().all(|governor| governor.check_key(name).is_ok()));
    names.iter().for_each(ours);
    names.iter().for_each(other);
    pairs::compare(
        row,
        |calls| on_threads(calls, 1, &names, &visits, &ours),
        |calls| on_threads(calls, 1, &names, &visits, &other),
    );
}

/// What one would write by hand: tokens and a time in a string, refilled and taken.
const BY_HAND: &str = r"
    local state = redis.call('GET', KEYS[1])
    local now, rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
    local tokens, at = burst, now
    if state then tokens, at = struct.unpack('>dI8', state) end
    tokens = math.min(burst, tokens + math.max(now - at, 0) * rate / 1000000)
    local allowed = tokens >= cost
    if allowed then tokens = tokens - cost end
    redis.call('SET', KEYS[1], struct.pack('>dI8', tokens, now), 'PX', 3600000)
    return {allowed and 1 or 0, tostring(tokens)}";

fn micros() -> u64 {
    u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap()
}

/// Whether it was answered; not, if the client gave up.
type Call = Pin<Box<dyn Future<Output = bool> + Send>>;

/// An offered call that takes longer counts as timed out.
const CALL_MAX: Duration = Duration::from_secs(1);

/// The answer, if there was one in time; any other error ends the bench.
fn is_answered<T>(answer: redis::RedisResult<T>) -> Option<T> {
    let is_late = answer.as_ref().is_err_and(redis::RedisError::is_timeout);
    if is_late { None } else { Some(answer.unwrap()) }
}

/// With no more offered than is answered, none is late.
async fn answered(call: Call) {
    assert!(call.await, "a call was not answered");
}

struct Redis {
    runtime: tokio::runtime::Runtime,
    limiter: RateLimiter<RedisStore>,
    bare: MultiplexedConnection,
    hash: String,
    prefix: String,
    next: Arc<AtomicU64>,
}

impl Redis {
    /// The client on so many threads: on one it does nothing while the server answers all that it sent, and the other way round.
    fn connect(url: &str, threads: usize) -> Self {
        let runtime = match threads {
            1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            _ => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
        };
        let runtime = runtime.unwrap();
        let prefix = format!("{}:", random_base62(12, &SystemEntropy));
        let config = RedisConfig { prefix: prefix.clone(), ..RedisConfig::default() };
        // The client's own default is half a second; ours has more patience, so it has as much.
        let patience = redis::AsyncConnectionConfig::new().set_response_timeout(Some(config.response_timeout));
        let store = runtime.block_on(RedisStore::connect_with(url, config, SystemClock)).unwrap();
        let client = redis::Client::open(url).unwrap();
        let bare = client.get_multiplexed_async_connection_with_config(&patience);
        let mut bare = runtime.block_on(bare).unwrap();
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(BY_HAND).to_owned();
        let hash = runtime.block_on(load.query_async(&mut bare)).unwrap();
        let limiter = RateLimiter::new(store, "api", bucket());
        let redis = Self { runtime, limiter, bare, hash, prefix, next: Arc::new(AtomicU64::new(0)) };
        // All states are there before anything is measured.
        redis.ours(2 * REDIS_KEYS, CALLERS);
        redis.by_hand(2 * REDIS_KEYS, CALLERS);
        redis
    }

    /// A decision of ours on the next key.
    fn our_call(&self) -> impl Fn() -> Call + Clone + Send + use<> {
        let (limiter, next) = (self.limiter.clone(), Arc::clone(&self.next));
        move || {
            let (limiter, at) = (limiter.clone(), next.fetch_add(1, Ordering::Relaxed));
            Box::pin(async move {
                let answer = limiter.check(key(at), 1).await;
                let is_late = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout);
                assert!(is_late || answer.unwrap().is_allowed());
                !is_late
            })
        }
    }

    /// One by hand: a call of the script for itself.
    fn call_by_hand(&self) -> impl Fn() -> Call + Clone + Send + use<> {
        let (bare, hash, prefix, next) =
            (self.bare.clone(), self.hash.clone(), self.prefix.clone(), Arc::clone(&self.next));
        move || {
            let (mut bare, at) = (bare.clone(), next.fetch_add(1, Ordering::Relaxed));
            let mut command = redis::cmd("EVALSHA");
            command.arg(&hash).arg(1).arg(format!("{prefix}by hand:{}", key(at)));
            command.arg(micros()).arg(1_000_000).arg(1_000_000).arg(1);
            Box::pin(async move {
                let answer: redis::RedisResult<(u8, String)> = command.query_async(&mut bare).await;
                is_answered(answer).is_some_and(|(allowed, _)| {
                    assert_eq!(allowed, 1);
                    true
                })
            })
        }
    }

    /// A server that does nothing: what is left is the way there and back.
    fn ping(&self) -> impl Fn() -> Call + Clone + Send + use<> {
        let bare = self.bare.clone();
        move || {
            let mut bare = bare.clone();
            Box::pin(async move { is_answered(redis::cmd("PING").query_async::<String>(&mut bare).await).is_some() })
        }
    }

    fn ours(&self, calls: u64, callers: u64) -> Duration {
        let call = self.our_call();
        self.runtime.block_on(timed(calls, callers, move |_| answered(call())))
    }

    fn by_hand(&self, calls: u64, callers: u64) -> Duration {
        let call = self.call_by_hand();
        self.runtime.block_on(timed(calls, callers, move |_| answered(call())))
    }

    /// What the server spent in scripts until now, microseconds.
    fn script_us(&self) -> u64 {
        let mut bare = self.bare.clone();
        let info = redis::cmd("INFO").arg("commandstats").to_owned();
        let stats: String = self.runtime.block_on(info.query_async(&mut bare)).unwrap();
        let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap();
        line.split_once("usec=").unwrap().1.split(',').next().unwrap().parse().unwrap()
    }

    /// Says how much of a decision's time the server spends in its script.
    fn of_the_server(&self, row: &str, callers: u64) {
        const CALLS: u64 = 50_000;
        let each = |calls: &dyn Fn() -> Duration| {
            let before = self.script_us();
            let wall = calls();
            let scripts = Duration::from_micros(self.script_us() - before);
            (scripts.as_secs_f64() * 1e9 / CALLS as f64, wall.as_secs_f64() * 1e9 / CALLS as f64)
        };
        let (ours, by_hand) = (each(&|| self.ours(CALLS, callers)), each(&|| self.by_hand(CALLS, callers)));
        println!(
            "{row}             of it in scripts: ours {:.0} of {:.0} ns; beside it {:.0} of {:.0} ns",
            ours.0, ours.1, by_hand.0, by_hand.1
        );
    }

    /// Offers so many a second, at even intervals, and says how many were not answered in time, and how long each took from when it was due,
    /// in microseconds.
    fn offered(&self, row: &str, per_second: u64, seconds: u64, call: impl Fn() -> Call) -> u64 {
        let times = Arc::new(Mutex::new(Histogram::<u64>::new(3).unwrap()));
        let late = Arc::new(AtomicU64::new(0));
        self.runtime.block_on(async {
            let start = Instant::now();
            let total = per_second * seconds;
            let mut tasks = tokio::task::JoinSet::new();
            let mut sent = 0;
            while sent < total {
                let due = u64::try_from(start.elapsed().as_nanos()).unwrap() * per_second / 1_000_000_000;
                while sent < due.min(total) {
                    let (call, times, late) = (call(), Arc::clone(&times), Arc::clone(&late));
                    let due = start + Duration::from_nanos(sent * 1_000_000_000 / per_second);
                    tasks.spawn(async move {
                        let is_answered = call.await;
                        let took = due.elapsed();
                        late.fetch_add(u64::from(!is_answered || took > CALL_MAX), Ordering::Relaxed);
                        times.lock().record(u64::try_from(took.as_micros()).unwrap()).unwrap();
                    });
                    sent += 1;
                }
                while tasks.try_join_next().is_some() {}
                // Others run; the next are due when this comes round again.
                tokio::task::yield_now().await;
            }
            while tasks.join_next().await.is_some() {}
            // What was given up is still being answered; who comes next finds none of it.
            let ping = self.ping();
            while !ping().await {}
        });
        let times = times.lock();
        let late = late.load(Ordering::Relaxed);
        println!(
            "{row:<32} {late} of {} timed out ({:.2} %); p50 {} us, p99 {} us, p99.9 {} us, longest {} us",
            per_second * seconds,
            late as f64 / (per_second * seconds) as f64 * 100.0,
            times.value_at_quantile(0.5),
            times.value_at_quantile(0.99),
            times.value_at_quantile(0.999),
            times.max()
        );
        times.value_at_quantile(0.99)
    }

    /// The same of ours, of the script by hand and of a server that does nothing, in turns.
    fn offered_in_turns(&self, per_second: u64, seconds: u64) {
        let row = format!("redis_offered_{per_second}");
        let mut of = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..3 {
            of[0].push(self.offered(&row, per_second, seconds, self.our_call()));
            of[1].push(self.offered("  beside it, by hand", per_second, seconds, self.call_by_hand()));
            of[2].push(self.offered("  beside it, PING", per_second, seconds, self.ping()));
        }
        let [ours, by_hand, ping] = of.map(|mut p99| {
            p99.sort_unstable();
            p99[p99.len() / 2] as f64
        });
        println!("{row}: median p99 {ours} us; {:.2} of by hand, {:.2} of PING", ours / by_hand, ours / ping);
    }
}

fn key(at: u64) -> String {
    format!("{:016x}", (at.wrapping_mul(61_153) % REDIS_KEYS + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn on_redis() {
    let decide = [("c64", CALLERS, 1), ("c1", 1, 1), ("c64_t2", CALLERS, 2), ("c1000_t2", 1_000, 2)];
    let mut rows = decide.map(|(name, callers, threads)| (format!("redis_decide_{name}"), callers, threads)).to_vec();
    rows.retain(|(row, ..)| is_wanted(row));
    let offers = is_wanted("redis_offered_50000");
    if rows.is_empty() && !offers {
        return;
    }
    let url = std::env::var("SYSD_TEST_REDIS_URL")
        .expect("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints");
    for threads in [1, 2] {
        let offers = offers && threads == 1;
        if !offers && rows.iter().all(|(.., on)| *on != threads) {
            continue;
        }
        let redis = Redis::connect(&url, threads);
        for (row, callers, _) in rows.iter().filter(|(.., on)| *on == threads) {
            pairs::compare(row, |calls| redis.ours(calls, *callers), |calls| redis.by_hand(calls, *callers));
            redis.of_the_server(row, *callers);
        }
        if offers {
            redis.offered_in_turns(50_000, 2);
        }
    }
}

/// A limiter of a fleet's mode, as a process has it.
#[derive(Clone)]
enum Fleet {
    Leased(LeasedLimiter<RedisStore>),
    LocalFirst(LocalFirstLimiter<RedisStore>),
}

impl Fleet {
    async fn connect(mode: &str, url: &str, name: &str, rule: &Rule) -> Self {
        let store = RedisStore::connect_with(url, RedisConfig::default(), SystemClock).await.unwrap();
        if mode == "leased" {
            // Long enough for some arrivals of every key, also of a thousand.
            let config = LeaseConfig { hold_for: HOLD_FOR, ..LeaseConfig::new(LEASE_BATCH_MAX) };
            let (limiter, keeper) = LeasedLimiter::new(store, name, rule.clone(), config).unwrap();
            tokio::spawn(keeper);
            Self::Leased(limiter)
        } else {
            let config = LocalFirstConfig::default();
            let (limiter, keeper) = LocalFirstLimiter::new(store, name, rule.clone(), config).unwrap();
            tokio::spawn(keeper);
            Self::LocalFirst(limiter)
        }
    }

    async fn is_allowed(&self, key: &str) -> bool {
        match self {
            Self::Leased(limiter) => limiter.check(key, 1).await.unwrap().is_allowed(),
            Self::LocalFirst(limiter) => limiter.check(key, 1).await.unwrap().is_allowed(),
        }
    }
}

const LEASE_BATCH_MAX: u32 = 100_000;
const BURST: u32 = 1_000_000;
const HOLD_FOR: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(5);

/// Asks as fast as it can, over some keys, and counts what was asked and allowed.
async fn ask(limiter: Fleet, names: Arc<[String]>, from: usize, until: Instant) -> (u64, u64) {
    let keys = names.len();
    let (mut asked, mut allowed, mut at) = (0, 0, from);
    while Instant::now() < until {
        for _ in 0..512 {
            at = (at + 611_953) % keys;
            asked += 1;
            allowed += u64::from(limiter.is_allowed(&names[at]).await);
        }
        // The keeper and the connection have their turn.
        tokio::task::yield_now().await;
    }
    (asked, allowed)
}

/// As many callers at once: few of them, each waiting for the store, would be no demand to lease for.
async fn crowd(limiter: &Fleet, names: &Arc<[String]>, until: Instant) -> (u64, u64) {
    let callers = usize::try_from(CALLERS).unwrap();
    let start = |at| tokio::spawn(ask(limiter.clone(), Arc::clone(names), at * names.len() / callers, until));
    let tasks: Vec<_> = (0..callers).map(start).collect();
    let (mut asked, mut allowed) = (0, 0);
    for task in tasks {
        let (a, b) = task.await.unwrap();
        (asked, allowed) = (asked + a, allowed + b);
    }
    (asked, allowed)
}

/// Decisions a second of one process with Redis behind; and what three that share a limit admit beyond it.
fn fleets() {
    for mode in ["leased", "local_first"] {
        if !is_wanted(mode) {
            continue;
        }
        let url = std::env::var("SYSD_TEST_REDIS_URL")
            .expect("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fresh = || random_base62(12, &SystemEntropy);
        let seconds = Duration::from_secs(2);
        for keys in [1, 1_000] {
            for limit in ["1000000000/s", "1000/s"] {
                let rule = Rule::new("all", TokenBucket::new(limit.parse().unwrap(), BURST).unwrap()).unwrap();
                let per_second: f64 = limit.trim_end_matches("/s").parse().unwrap();
                let names: Arc<[String]> = (0..keys).map(name).collect();
                runtime.block_on(async {
                    let limiter = Fleet::connect(mode, &url, &fresh(), &rule).await;
                    let start = Instant::now();
                    // Batches grow to what is asked for.
                    let (_, before) = crowd(&limiter, &names, Instant::now() + WARM_UP).await;
                    let (asked, allowed) = crowd(&limiter, &names, Instant::now() + seconds).await;
                    let millions = asked as f64 / seconds.as_secs_f64() / 1e6;
                    let granted = keys as f64 * (f64::from(BURST) + per_second * start.elapsed().as_secs_f64());
                    let beyond = ((before + allowed) as f64 - granted).max(0.0);
                    println!(
                        "{mode}_{keys}_keys_{limit:<14} {millions:.1} M decisions/s, {allowed} of {asked} allowed, {beyond:.0} beyond the limit"
                    );
                });
            }
        }
        let (rate, burst) = (10_000_u32, 1_000_u32);
        let bucket = TokenBucket::new(format!("{rate}/s").parse().unwrap(), burst).unwrap();
        let rule = Rule::new("all", bucket).unwrap();
        runtime.block_on(async {
            let (states, mut limiters) = (fresh(), Vec::new());
            for _ in 0..3 {
                limiters.push(Fleet::connect(mode, &url, &states, &rule).await);
            }
            let start = Instant::now();
            let ask = |limiter| tokio::spawn(ask(limiter, [name(0)].into(), 0, start + seconds));
            let tasks: Vec<_> = limiters.into_iter().map(ask).collect();
            let mut allowed = 0;
            for task in tasks {
                allowed += task.await.unwrap().1;
            }
            let granted = f64::from(burst) + f64::from(rate) * start.elapsed().as_secs_f64();
            let beyond = allowed as f64 - granted;
            println!("{mode}_overshoot: three at {rate}/s with a burst of {burst}: {allowed} allowed, {beyond:.0} beyond the limit");
        });
    }
}

fn main() {
    in_process();
    rules();
    on_redis();
    fleets();
}
