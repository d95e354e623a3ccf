//! Every algorithm on every store decides as the memory store does, under one clock that is driven: seeded histories, answer for answer,
//! and what is stored after them byte for byte.
#![cfg(all(
    feature = "memory",
    feature = "local",
    feature = "redis",
    feature = "dynamodb",
    feature = "scylla",
    feature = "calendar"
))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use futures::future::join_all;
use sysd::core::entropy::below;
use sysd::core::lease::HolderId;
use sysd::core::{
    AnyStore, Clock as _, Entropy as _, Key, ManualClock, SeededEntropy, Store as _, SystemEntropy, Timestamp,
    random_base62, tuple,
};
use sysd::ratelimit::{
    Ask, CalendarUnit, CalendarWindow, Concurrency, ConcurrencyLimiter, FixedWindow, HoldId, HoldLimiter, JointLimiter,
    LeakyBucket, Limit, Rate, RateLimiter, Rule, RuleLimiter, RuleSet, SlidingLog, SlidingWindow, TokenBucket, schema,
};
use sysd::storage::{Memory, open_by_clocks, prepare};

const STEPS: usize = 80;
const KEYS: [&str; 2] = ["ann", "bob"];

fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

fn any(entropy: &SeededEntropy, bound: u64) -> u64 {
    below(entropy, bound)
}

/// Where a history begins: any time, and shortly before a month, and a day of 23 hours, begin in Berlin.
fn start(seed: u64) -> Timestamp {
    let us = match seed % 3 {
        0 => 1_700_000_000_123_456 + seed,
        1 => 1_803_855_590_000_000,
        _ => 1_806_188_390_000_000,
    };
    Timestamp::from_micros(us).unwrap()
}

/// All that keeps states, of one process.
struct Process {
    limits: Vec<RateLimiter<AnyStore, Limit>>,
    rules: RuleLimiter<AnyStore>,
    joint: JointLimiter<AnyStore>,
    holds: HoldLimiter<AnyStore>,
    slots: ConcurrencyLimiter<AnyStore>,
}

/// The five that a rate makes.
fn limits(seed: u64) -> [Limit; 5] {
    let rates = [(3, 1_000_000), (7, 10_000_001), (5, 3_333), (6, 3_600_000_000)];
    #[allow(clippy::cast_possible_truncation, reason = "of four")]
    let (count, us) = rates[(seed / 3) as usize % rates.len()];
    let rate = Rate::new(count, Duration::from_micros(us)).unwrap();
    [
        TokenBucket::new(rate, count + 2).unwrap().into(),
        LeakyBucket::new(rate, 2).unwrap().into(),
        FixedWindow::new(rate).into(),
        SlidingWindow::new(rate).into(),
        SlidingLog::new(rate).unwrap().into(),
    ]
}

/// The same, and windows of the calendar.
fn rules(seed: u64, clock: &ManualClock) -> Vec<Rule> {
    let unit = [CalendarUnit::Minute, CalendarUnit::Day, CalendarUnit::Month]
        [usize::from(!seed.is_multiple_of(2)) + usize::from(seed.is_multiple_of(5))];
    let calendar = CalendarWindow::new(9, unit, "Europe/Berlin", clock.clone()).unwrap();
    let limits = limits(seed).into_iter().enumerate().map(|(at, limit)| Rule::new(&format!("rule {at}"), limit));
    limits.chain([Rule::new("calendar", calendar)]).map(std::result::Result::unwrap).collect()
}

impl Process {
    fn new(store: &AnyStore, name: &str, seed: u64, clock: &ManualClock) -> Self {
        let set = || RuleSet::new(rules(seed, clock)).unwrap();
        Self {
            limits: limits(seed).map(|limit| RateLimiter::new(store.clone(), name, limit)).into(),
            rules: RuleLimiter::new(store.clone(), name, set()).unwrap(),
            joint: JointLimiter::new(store.clone(), &format!("{name} joint")),
            holds: HoldLimiter::new(store.clone(), name, set()).unwrap(),
            slots: ConcurrencyLimiter::new(store.clone(), name, Concurrency::new(4).unwrap()),
        }
    }

    /// What it answers, in words: the numbers of a decision and all else.
    async fn ask(&self, asked: Asked, rules: &[Rule]) -> String {
        let Asked { what, key, cost, id, hold } = asked;
        let holder = HolderId::from_u128(u128::from(id) + 1).unwrap();
        let hold_id = HoldId::from_u128(id.into());
        match what {
            0..=4 => format!("{:?}", self.limits[what].check(key, cost).await.unwrap()),
            5 => format!("{:?}", self.rules.check(key, cost).await.unwrap()),
            6 => {
                let of_key = [(&rules[0], cost), (&rules[4], cost)].into();
                let asks = [
                    Ask { key: key.as_bytes(), rules: of_key },
                    Ask { key: b"all", rules: [(&rules[5], cost), (&rules[2], cost)].into() },
                ];
                format!("{:?}", self.joint.check(&asks).await.unwrap())
            }
            7 => format!("{:?}", self.holds.check(key, cost).await.unwrap()),
            8 => format!("{:?}", self.holds.reserve(key, hold_id, cost.max(1), hold).await.unwrap()),
            9 => format!("{:?}", self.holds.settle(key, hold_id, cost).await.unwrap()),
            10 => format!("{:?}", self.slots.acquire(key, holder, cost.max(1), hold).await.unwrap()),
            11 => format!("{:?}", self.slots.renew(key, holder, hold).await.unwrap()),
            _ => format!("{:?}", self.slots.release(key, holder).await.unwrap()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    what: usize,
    key: &'static str,
    cost: u32,
    id: u8,
    hold: Duration,
}

/// As long as things last in a history: nothing, microseconds, the windows of some of the limits, hours.
fn duration(entropy: &SeededEntropy) -> Duration {
    let us = match any(entropy, 8) {
        0..=2 => 0,
        3 => any(entropy, 5_000),
        4 => any(entropy, 400_000),
        5 => any(entropy, 12_000_000),
        6 => 60_000_000,
        _ => any(entropy, 7_200_000_000),
    };
    Duration::from_micros(us)
}

/// Two processes on the store and two in memory are asked the same by the same clock: how many were denied, and how many
/// records were the same, or where they differ.
async fn history(
    seed: u64,
    stores: &[AnyStore],
    memory: &AnyStore,
    clock: &ManualClock,
) -> Result<(usize, usize), String> {
    let (entropy, name) = (SeededEntropy::new(seed), format!("same {}", random_base62(12, &SystemEntropy)));
    clock.set(start(seed));
    let on_store: Vec<_> = stores.iter().map(|store| Process::new(store, &name, seed, clock)).collect();
    let in_memory = Process::new(memory, &name, seed, clock);
    let (rules, mut denied, mut records) = (rules(seed, clock), 0, 0);
    for step in 0..STEPS {
        clock.advance(duration(&entropy));
        #[allow(clippy::cast_possible_truncation, reason = "all are small")]
        let asked = Asked {
            what: any(&entropy, 13) as usize,
            key: KEYS[any(&entropy, 4) as usize / 3],
            cost: any(&entropy, 4) as u32,
            id: any(&entropy, 6) as u8,
            hold: duration(&entropy) + Duration::from_micros(1),
        };
        let process = &on_store[usize::from(entropy.next_u64() % 2 == 0) % on_store.len()];
        let (one, other) = (process.ask(asked, &rules).await, in_memory.ask(asked, &rules).await);
        if one != other {
            return Err(format!("seed {seed}, step {step}: {asked:?} at {}\n{one}\nin memory\n{other}", clock.now()));
        }
        denied += usize::from(one.contains("Denied"));
        if step % (STEPS / 2) == STEPS / 2 - 1 {
            let (there, in_memory) = (stored(&stores[0], &name).await, stored(memory, &name).await);
            if there != in_memory {
                let at = clock.now();
                return Err(format!("seed {seed}, step {step}: stored at {at}\n{there:?}\nin memory\n{in_memory:?}"));
            }
            records += in_memory.iter().flatten().count();
        }
    }
    Ok((denied, records))
}

/// What lies in the records of a history, and until when.
async fn stored(store: &AnyStore, name: &str) -> Vec<Option<(Vec<u8>, Option<Timestamp>)>> {
    let spaces = [
        schema::BUCKETS,
        schema::QUEUES,
        schema::FIXED_WINDOWS,
        schema::SLIDING_WINDOWS,
        schema::SLIDING_LOGS,
        schema::RULES,
        schema::HOLDS,
        schema::SLOTS,
    ];
    let joint = format!("{name} joint");
    let mut found = Vec::new();
    for space in spaces {
        for (name, key) in [(name, KEYS[0]), (name, KEYS[1]), (&joint, KEYS[0]), (&joint, "all")] {
            let partition = tuple::encode(&(name, key));
            let record = store.get(Key::lone(space, &partition)).await.unwrap();
            found.push(record.map(|record| (record.value.to_vec(), record.expires_at)));
        }
    }
    found
}

fn memory(clock: &ManualClock) -> AnyStore {
    AnyStore::new(Memory::with_clock(clock.clone()))
}

/// So many histories at the same time.
async fn decides_as_memory_does(url: &str, histories: u64) {
    prepare(url).await.unwrap();
    let clocks: Vec<_> = (0..histories).map(|seed| ManualClock::new(start(seed))).collect();
    // Two connections or more would be two processes; these share a clock.
    let twice = clocks.iter().flat_map(|clock| [clock.clone(), clock.clone()]).collect();
    let stores = open_by_clocks(url, twice).await.unwrap();
    let run = |(seed, (stores, clock))| async move { history(seed, stores, &memory(clock), clock).await };
    let runs = (0..).zip(stores.chunks(2).zip(&clocks)).map(run);
    let (mut denied, mut records) = (0, 0);
    for told in join_all(runs).await {
        let (of_one, of_store) = told.unwrap_or_else(|told| panic!("{told}"));
        (denied, records) = (denied + of_one, records + of_store);
    }
    assert!(denied > 2 * clocks.len(), "{denied} were denied");
    assert!(records > 4 * clocks.len(), "{records} records were compared");
}

#[tokio::test]
async fn a_local_disk_decides_as_memory_does() {
    let directory = std::env::temp_dir().join(format!("sysd-same-{}", std::process::id()));
    decides_as_memory_does(&format!("local:{}", directory.display()), 60).await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn redis_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_URL"), 120).await;
}

#[tokio::test]
async fn a_redis_cluster_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_REDIS_CLUSTER_URL"), 120).await;
}

#[tokio::test]
async fn dynamodb_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_DYNAMODB_URL"), 24).await;
}

#[tokio::test]
async fn cassandra_decides_as_memory_does() {
    decides_as_memory_does(&server("SYSD_TEST_CASSANDRA_URL"), 24).await;
}

/// A store that goes by another clock, and two stores where there should be one, are found.
#[tokio::test]
async fn stores_that_decide_otherwise_are_found() {
    let (mut by_another, mut apart) = (0, 0);
    for seed in 0..20 {
        let clock = ManualClock::new(start(seed));
        let other = ManualClock::new(start(seed));
        let store = memory(&other);
        by_another += u32::from(history(seed, &[store], &memory(&clock), &clock).await.is_err());
        let clock = ManualClock::new(start(seed));
        let two = [memory(&clock), memory(&clock)];
        apart += u32::from(history(seed, &two, &memory(&clock), &clock).await.is_err());
    }
    assert!(by_another == 20 && apart == 20, "{by_another} and {apart} of 20 were found");
}
