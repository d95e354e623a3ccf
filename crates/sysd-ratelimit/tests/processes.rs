//! Real processes against one Redis: what they admit together is the limit, and at most the overshoot that their mode declares.
//!
//! A process is this test's program again, told by its environment what to do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sysd_core::{Result, SystemClock, SystemEntropy, random_base62};
use sysd_ratelimit::{
    Decision, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, Rule, RuleLimiter, RuleSet,
    ShardedLimiter, TokenBucket,
};
use sysd_storage::{RedisConfig, RedisStore};

mod common;

const PROCESSES: u64 = 4;
/// Burst and rate a second. Where processes decide by themselves, so fast a rate that one that never posts is seen in what it admits;
/// elsewhere so slow a one that the burst is most of what is granted, however slow the machine is.
fn limit(mode: &str) -> (u64, u64) {
    if matches!(mode, "local_first" | "never_posts") { (500, 1_000) } else { (ASKS, 100) }
}
const BATCH_MAX: u32 = 50;
/// How long a process asks at least, so that what is leased or posted goes round several times.
const ASKS_FOR: Duration = Duration::from_millis(1_500);
/// One that never posts asks so long that it admits more than it may within [`LAG_MAX_MS`].
const ASKS_ALONE_FOR: Duration = Duration::from_secs(4);
/// How often a process asks at least, however slow the machine is: one alone could take the whole burst.
const ASKS: u64 = 2_000;
const FLUSH: Duration = Duration::from_millis(20);
/// Postings are answered within so long, also where four processes that never rest share a small machine.
const LAG_MAX_MS: u64 = 1_000;

const MODE: &str = "SYSD_TEST_PROCESS_MODE";
const NAME: &str = "SYSD_TEST_PROCESS_NAME";

/// A limiter in one of the modes.
enum Fleet {
    Central(RuleLimiter<RedisStore>),
    Sharded(ShardedLimiter<RedisStore>),
    Leased(LeasedLimiter<RedisStore>),
    LocalFirst(LocalFirstLimiter<RedisStore>),
}

impl Fleet {
    async fn connect(mode: &str, name: &str) -> Self {
        let url = common::url("SYSD_TEST_REDIS_URL");
        let store = RedisStore::connect_with(&url, RedisConfig::default(), SystemClock).await.unwrap();
        let (burst, per_second) = limit(mode);
        let rate = format!("{per_second}/s").parse().unwrap();
        let bucket = TokenBucket::new(rate, u32::try_from(burst).unwrap()).unwrap();
        let rule = Rule::new("all", bucket).unwrap();
        match mode {
            "central" => Self::Central(RuleLimiter::new(store, name, RuleSet::new([rule]).unwrap()).unwrap()),
            "sharded" => Self::Sharded(ShardedLimiter::new(store, name, bucket, 4).unwrap()),
            "leased" => {
                let (limiter, keeper) = LeasedLimiter::new(store, name, rule, LeaseConfig::new(BATCH_MAX)).unwrap();
                tokio::spawn(keeper);
                Self::Leased(limiter)
            }
            _ => {
                let config = LocalFirstConfig { flush_every: FLUSH, ..LocalFirstConfig::default() };
                let (limiter, keeper) = LocalFirstLimiter::new(store, name, rule, config).unwrap();
                // Else it never posts.
                if mode == "local_first" {
                    tokio::spawn(keeper);
                }
                Self::LocalFirst(limiter)
            }
        }
    }

    async fn check(&self) -> Result<Decision> {
        match self {
            Self::Central(limiter) => limiter.check("everybody", 1).await.map(|joint| *joint.decision()),
            Self::Sharded(limiter) => limiter.check("everybody", 1).await,
            Self::Leased(limiter) => limiter.check("everybody", 1).await,
            Self::LocalFirst(limiter) => limiter.check("everybody", 1).await,
        }
    }
}

/// What a process does: it asks as fast as it can, and says what it was allowed, and the longest lag in milliseconds.
#[tokio::test]
async fn as_a_process() {
    let (Ok(mode), Ok(name)) = (std::env::var(MODE), std::env::var(NAME)) else { return };
    let limiter = Fleet::connect(&mode, &name).await;
    let asks_for = if mode == "never_posts" { ASKS_ALONE_FOR } else { ASKS_FOR };
    let (mut asked, mut allowed, mut lag, begun) = (0_u64, 0_u64, Duration::ZERO, Instant::now());
    while begun.elapsed() < asks_for || asked < ASKS {
        for _ in 0..8 {
            asked += 1;
            allowed += u64::from(limiter.check().await.unwrap().is_allowed());
        }
        if let Fleet::LocalFirst(limiter) = &limiter {
            lag = lag.max(limiter.lag());
        }
        // The keeper and the connection have their turn.
        tokio::task::yield_now().await;
    }
    println!("allowed {allowed} lag {}", lag.as_millis());
}

fn start(mode: &str, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_process", "--nocapture", "--test-threads", "1"])
        .env(MODE, mode)
        .env(NAME, name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a process said.
fn said(child: Child) -> (u64, u64) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let words: Vec<_> = text.split_whitespace().collect();
    let after = |word| words[words.iter().position(|found| *found == word).unwrap() + 1].parse().unwrap();
    (after("allowed"), after("lag"))
}

/// What processes came to.
struct Outcome {
    /// Beyond what one limit grants.
    over: i64,
    /// The longest lag that one of them saw.
    lag_ms: u64,
}

/// Runs processes, of which each has a limit of its own where `names` has more than one.
fn run(mode: &str, names: &[String]) -> Outcome {
    let begun = Instant::now();
    let children: Vec<_> =
        (0..PROCESSES).map(|at| start(mode, &names[usize::try_from(at).unwrap() % names.len()])).collect();
    let said: Vec<_> = children.into_iter().map(said).collect();
    let allowed: u64 = said.iter().map(|(allowed, _)| allowed).sum();
    let lag_ms = said.iter().map(|(_, lag_ms)| lag_ms + 1).max().unwrap();
    // From before the first began until after the last ended.
    let (burst, per_second) = limit(mode);
    let granted = burst + per_second * u64::try_from(begun.elapsed().as_millis()).unwrap() / 1_000 + 1;
    println!("{mode}: {allowed} allowed, {granted} granted, lag {lag_ms} ms");
    let held = if mode == "leased" { PROCESSES * u64::from(BATCH_MAX) } else { 0 };
    assert!(allowed >= burst - held, "{mode}: hardly asked for: {allowed}");
    Outcome { over: i64::try_from(allowed).unwrap() - i64::try_from(granted).unwrap(), lag_ms }
}

/// What a mode declares that it may admit beyond the limit.
fn declared(mode: &str, lag_ms: u64) -> i64 {
    let (burst, per_second) = limit(mode);
    let declared = match mode {
        "leased" => PROCESSES * u64::from(BATCH_MAX),
        "local_first" | "never_posts" => PROCESSES * (burst + 2 * per_second * lag_ms / 1_000 + 1),
        _ => 0,
    };
    i64::try_from(declared).unwrap()
}

fn fresh() -> String {
    random_base62(12, &SystemEntropy)
}

#[test]
fn processes_admit_together_what_their_mode_declares() {
    for mode in ["central", "sharded", "leased", "local_first"] {
        let outcome = run(mode, &[fresh()]);
        assert!(mode != "local_first" || outcome.lag_ms <= LAG_MAX_MS, "nothing was posted for {} ms", outcome.lag_ms);
        let declared = declared(mode, outcome.lag_ms);
        assert!(outcome.over <= declared, "{mode}: {} beyond the limit, more than {declared}", outcome.over);
    }
}

/// A fleet that shares nothing is found by the same measure.
#[test]
fn processes_that_share_nothing_are_found() {
    assert!(run("central", &[fresh(), fresh(), fresh(), fresh()]).over > 0, "nobody noticed");
}

/// By what it says of itself, and by what it admits were it to say that it posts.
#[test]
fn processes_that_never_post_are_found() {
    let outcome = run("never_posts", &[fresh()]);
    assert!(outcome.lag_ms > LAG_MAX_MS, "it says that it posts: {} ms", outcome.lag_ms);
    let declared = declared("never_posts", LAG_MAX_MS);
    assert!(outcome.over > declared, "{} is no more than {declared}", outcome.over);
}
