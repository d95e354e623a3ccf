//! Reserving and settling on stores, and under faults and crashes in simulations: `SYSD_SIM_SEED=7` runs only that seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::below;
use sysd_core::{Clock as _, ErrorKind, Key, ManualClock, Store, StoreExt as _, SystemEntropy, tuple};
use sysd_ratelimit::schema::HOLDS;
use sysd_ratelimit::{
    FixedWindow, HoldId, HoldLimiter, RateLimitError, Reservation, Rule, RuleSet, Settlement, SlidingLog,
    SlidingWindow, TokenBucket,
};
use sysd_storage::Memory;
use sysd_testkit::Limited;
use sysd_testkit::sim::{Faults, Node, Simulation};

mod common;

use common::{clock, on_redis, seeds};

const LIMIT: u32 = 30;
const HOLD: Duration = Duration::from_millis(40);

/// Refills and windows longer than any run: what is taken is taken for good.
fn rules() -> RuleSet {
    RuleSet::new([
        Rule::new("a bucket", TokenBucket::new("1/d".parse().unwrap(), LIMIT).unwrap()).unwrap(),
        Rule::new("a window", FixedWindow::new(format!("{LIMIT}/d").parse().unwrap())).unwrap(),
        Rule::new("two counters", SlidingWindow::new(format!("{LIMIT}/d").parse().unwrap())).unwrap(),
        Rule::new("a log", SlidingLog::new(format!("{LIMIT}/d").parse().unwrap()).unwrap()).unwrap(),
    ])
    .unwrap()
}

/// However many reserve at once, and each twice: as many are held as the rules admit; what is settled, cancelled and leaked comes back.
async fn exactly_the_limit<S: Store + Clone>(store: S, clock: ManualClock) {
    let limiter = Arc::new(HoldLimiter::new(store, "api", rules()).unwrap());
    let tasks: Vec<_> = (0..60)
        .map(|_| {
            let (limiter, id) = (Arc::clone(&limiter), HoldId::mint(&SystemEntropy));
            tokio::spawn(async move {
                let first = limiter.reserve("ann", id, 5, HOLD).await.unwrap();
                let second = limiter.reserve("ann", id, 5, HOLD).await.unwrap();
                assert_eq!(first.is_held(), second.is_held(), "a second time changes nothing");
                first.is_held().then_some(id)
            })
        })
        .collect();
    let mut held = Vec::new();
    for task in tasks {
        held.extend(task.await.unwrap());
    }
    assert_eq!(held.len(), 6);
    let left = async || {
        let each = limiter.check("ann", 0).await.unwrap().each().to_vec();
        each.iter().map(sysd_ratelimit::Decision::remaining).collect::<Vec<_>>()
    };
    assert_eq!(left().await, [0; 4]);
    let Settlement::Settled { decision } = limiter.settle("ann", held[0], 2).await.unwrap() else { panic!() };
    assert_eq!(decision.decision().remaining(), 3);
    assert!(limiter.cancel("ann", held[1]).await.unwrap().is_settled());
    assert!(!limiter.cancel("ann", held[1]).await.unwrap().is_settled());
    assert!(limiter.settle("ann", held[2], 9).await.unwrap().is_settled());
    assert_eq!(left().await, [4; 4], "eight came back, four were overrun");
    assert!(limiter.check("ann", 4).await.unwrap().is_allowed());
    assert!(limiter.settle("ann", held[3], 25).await.unwrap().is_settled());
    assert_eq!(left().await, [0; 4]);
    assert!(!limiter.check("ann", 1).await.unwrap().is_allowed());
    // Two are leaked: what they give back is owed.
    clock.advance(HOLD);
    assert_eq!(left().await, [0; 4]);
    assert!(!limiter.settle("ann", held[4], 5).await.unwrap().is_settled());
    assert_eq!(limiter.check("bob", 0).await.unwrap().decision().remaining(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_holds_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(Memory::with_clock(clock.clone()), clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_holds_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_URL", clock.clone()).await, clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_holds_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_CLUSTER_URL", clock.clone()).await, clock).await;
}

#[tokio::test]
async fn bad_input_is_named_and_too_many_are_told() {
    let store = Memory::with_clock(clock());
    let limiter = HoldLimiter::new(store.clone(), "api", rules()).unwrap();
    let field = |error: sysd_core::Error| (error.kind(), error.field());
    let id = HoldId::from_u128(1 << 100);
    let nothing = limiter.reserve("ann", id, 0, HOLD).await.unwrap_err();
    assert_eq!(field(nothing), (ErrorKind::Invalid, Some("cost")));
    let no_time = limiter.reserve("ann", id, 1, Duration::ZERO).await.unwrap_err();
    assert_eq!(field(no_time), (ErrorKind::Invalid, Some("hold")));
    let Reservation::Denied(never) = limiter.reserve("ann", id, LIMIT + 1, HOLD).await.unwrap() else { panic!() };
    assert_eq!(never.decision().outcome(), sysd_ratelimit::Outcome::NeverAllowed);
    let many = FixedWindow::new("1000/d".parse().unwrap());
    let many =
        HoldLimiter::new(store.clone(), "many", RuleSet::new([Rule::new("many", many).unwrap()]).unwrap()).unwrap();
    for id in 0..64 {
        assert!(many.reserve("ann", HoldId::from_u128(id), 1, HOLD).await.unwrap().is_held());
    }
    assert_eq!(many.reserve("ann", id, 1, HOLD).await.unwrap(), Reservation::Full { retry_after: HOLD });
    let partition = tuple::encode(&("api", &b"bob"[..]));
    store.put(Key::lone(HOLDS, &partition), "no record").await.unwrap();
    assert_eq!(limiter.check("bob", 1).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Sixteen rules, of each kind some, as full as they get: the longest record there is, and a store that takes a byte less is refused.
#[tokio::test]
async fn rules_and_holds_that_no_record_of_the_store_holds_are_refused() {
    let rules = |count: usize| {
        let bucket = TokenBucket::new("1000/d".parse().unwrap(), 1_000).unwrap();
        let log = SlidingLog::new("20/d".parse().unwrap()).unwrap();
        let log = Rule::new("a log", log).unwrap();
        RuleSet::new((1..count).map(|at| Rule::new(&format!("bucket {at}"), bucket).unwrap()).chain([log])).unwrap()
    };
    // The head, 64 holds, and for each state a header; a bucket to which something was given back, a log of 1,000 entries.
    let bytes = 9 + 64 * (24 + 2 * 50) + 2 * 14 + 31 + 1 + 1_000 * 11;
    let simulation = Simulation::new(7);
    let store = |bytes_max| simulation.store(Node(0)).with_value_bytes_max(bytes_max);
    let error = HoldLimiter::new(store(bytes - 1), "api", rules(2)).unwrap_err();
    let expected = RateLimitError::RecordTooLarge { rule: "a log".to_owned(), others: 1, bytes, bytes_max: bytes - 1 };
    assert_eq!(error, expected);
    assert!(HoldLimiter::new(store(bytes), "api", rules(2)).is_ok());
    // A log notes overruns beyond its limit.
    let clock = clock();
    let memory = Memory::with_clock(clock.clone());
    let limiter = HoldLimiter::new(memory.clone(), "api", rules(1)).unwrap();
    for at in 0..40_u128 {
        clock.advance(Duration::from_millis(1));
        if limiter.reserve("ann", HoldId::from_u128(at), 1, HOLD).await.unwrap().is_held() {
            clock.advance(Duration::from_millis(1));
            assert!(limiter.settle("ann", HoldId::from_u128(at), 2).await.unwrap().is_settled());
        }
    }
    let record = memory.get(Key::lone(HOLDS, &tuple::encode(&("api", &b"ann"[..])))).await.unwrap().unwrap();
    assert!(record.value.len() > 9 + 14 + 1 + 19 * 11, "{}", record.value.len());
    // Sixteen of the longest fit wherever DynamoDB's items do.
    let log = SlidingLog::new("1000/d".parse().unwrap()).unwrap();
    let logs = RuleSet::new((0..16).map(|at| Rule::new(&format!("log {at}"), log).unwrap())).unwrap();
    assert!(HoldLimiter::new(Limited::new(memory, clock), "api", logs).is_ok());
}

/// How a process may be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// Works on though its hold has come back.
    WorksOn,
}

/// What callers were told.
#[derive(Debug, Default)]
struct Told {
    /// What was settled, up to what was reserved, and what was overrun.
    spent: u32,
    overrun: u32,
    /// What may have been settled without anybody being told: by calls whose reply was lost before a deadline that has come since.
    untold: u32,
    /// The same, by the process that crashed.
    untold_by_crash: u32,
}

/// Three processes reserve and settle under faults; one crashes. What is wrong with it.
fn run(seed: u64, broken: Broken) -> Result<(), String> {
    let simulation = Simulation::new(seed);
    simulation.set_faults(Faults { reply_lost: 150, reply_never: 0, late: 0, ..Faults::MANY });
    let told = Arc::new(Mutex::new(Told::default()));
    for node in 0..3 {
        let limiter = HoldLimiter::new(simulation.store(Node(node)), "api", rules()).unwrap();
        let (entropy, clock, told) = (simulation.entropy(), simulation.clock(), Arc::clone(&told));
        simulation.spawn(Node(node), async move {
            for _ in 0..10 {
                let id = HoldId::mint(&*entropy);
                let cost = 1 + u32::try_from(below(&*entropy, 5)).unwrap();
                let held = loop {
                    if let Ok(reservation) = limiter.reserve("key", id, cost, HOLD).await {
                        break reservation;
                    }
                };
                let wait = Duration::from_micros(below(&*entropy, 45_000));
                clock.sleep_until(clock.now().saturating_add(wait)).await;
                let Reservation::Held { until, .. } = held else { continue };
                let real = u32::try_from(below(&*entropy, u64::from(cost) + 2)).unwrap();
                if node == 2 {
                    told.lock().unwrap().untold_by_crash = real;
                }
                let settlement = loop {
                    if let Ok(settlement) = limiter.settle("key", id, real).await {
                        break settlement;
                    }
                };
                // Before the deadline one that is not held was settled by a call whose reply was lost.
                let is_spent = settlement.is_settled() || clock.now() < until || broken == Broken::WorksOn;
                if is_spent {
                    let mut told = told.lock().unwrap();
                    told.spent += real.min(cost);
                    told.overrun += real.saturating_sub(cost);
                } else {
                    told.lock().unwrap().untold += real;
                }
            }
        });
    }
    let _ = simulation.run_for(Duration::from_millis(1 + seed % 150));
    simulation.crash(Node(2));
    simulation.run().map_err(|error| format!("{error}"))?;
    simulation.clock().advance(HOLD);
    let told = told.lock().unwrap();
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("seed {seed}: {what}: {told:?}")) };
    ensure(told.spent <= LIMIT, "more was spent than the limit")?;
    let truth = HoldLimiter::new(simulation.truth(), "api", rules()).unwrap();
    let look = futures::executor::block_on(truth.check("key", 0)).unwrap();
    for decision in look.each() {
        let used = decision.limit() - decision.remaining();
        ensure(used >= (told.spent + told.overrun).min(LIMIT), "what was spent is not counted")?;
        let most = told.spent + told.overrun + told.untold + told.untold_by_crash;
        ensure(used <= most + 1, "what was reserved and not spent has not come back")?;
    }
    Ok(())
}

#[test]
fn with_lost_replies_and_a_crash_no_more_is_spent_than_the_limit_and_what_is_spent_is_counted() {
    for seed in seeds(1_000) {
        run(seed, Broken::No).unwrap();
    }
}

#[test]
fn processes_that_do_not_hold_to_it_are_found() {
    assert!((0..1_000).any(|seed| run(seed, Broken::WorksOn).is_err()), "one that works on passed");
}
