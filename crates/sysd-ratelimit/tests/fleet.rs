//! What a fleet admits beyond a limit, in simulations with faults and crashes: `SYSD_SIM_SEED=7` runs only that seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::Clock as _;
use sysd_ratelimit::{
    LeakyBucket, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, RateLimitError, Rule, RuleLimiter,
    RuleSet, ShardedLimiter, SlidingLog, TokenBucket,
};
use sysd_testkit::sim::{Faults, Node, Simulation};

mod common;

use common::fleets::{
    self, BATCH_MAX, BURST, Demand, Drifting, FLUSH, FROZEN, Fleet, HOLD, Keeper, LAG_MAX, Mode, NODES, Told, bucket,
    start,
};
use common::seeds;

/// A process by the true clock.
fn fleet(
    mode: Mode,
    simulation: &Simulation,
    node: Node,
    bucket: TokenBucket,
    gives_lost: u64,
) -> (Fleet, Option<Keeper>) {
    fleets::fleet(mode, simulation, node, bucket, Drifting::new(simulation.clock(), 0, 0), false, gives_lost)
}

/// What processes ask for, and what goes wrong; with any faults, one of them crashes.
#[derive(Clone, Copy)]
struct Scene {
    demand: Demand,
    faults: Faults,
    /// In thousandths, of the replies to a giving back.
    gives_lost: u64,
}

const CALM: Scene = Scene { demand: Demand::bursts(60), faults: Faults::NONE, gives_lost: 0 };
const FAULTY: Scene = Scene { faults: Faults { reply_lost: 150, ..Faults::MANY }, ..CALM };
/// In the others a process gives back about once, and a take whose reply is lost and that is sent again takes twice, so that nobody would
/// see what is given twice. In this one it gives back often, and mostly hears nothing of it.
const GIVING: Scene = Scene { demand: Demand::comes_and_goes(60), gives_lost: 700, ..FAULTY };

/// In each process more tasks at once than a batch is for; more than all burst.
const CROWDS: Scene = Scene { demand: Demand::crowds(8), ..CALM };
const FAULTY_CROWDS: Scene = Scene { demand: Demand::crowds(8), gives_lost: 300, ..FAULTY };

/// Processes ask for one key, under faults. By how much they admitted more than the limit, in the stretch of time where it was
/// most.
fn overshoot(seed: u64, mode: Mode, scene: Scene, per_second: u32) -> (i64, Told) {
    let simulation = Simulation::new(seed);
    simulation.set_faults(scene.faults);
    let told = Arc::new(Mutex::new(Told::default()));
    for node in 0..NODES {
        let process = fleet(mode, &simulation, Node(node), bucket(per_second), scene.gives_lost);
        start(&simulation, Node(node), process, scene.demand, &told);
    }
    if scene.faults != Faults::NONE {
        let _ = simulation.run_for(Duration::from_millis(10 + seed % 200));
        simulation.crash(Node(NODES - 1));
    }
    // A call may never be answered, and keepers go on for as long as somebody waits.
    simulation.run_for(Duration::from_secs(8)).unwrap();
    let mut told = std::mem::take(&mut *told.lock().unwrap());
    (told.overshoot(per_second), told)
}

fn bound(mode: Mode, told: &Told, per_second: u32) -> i64 {
    match mode {
        Mode::Central | Mode::Sharded | Mode::TimeGoesBack => 0,
        Mode::Leased | Mode::SendsAgain | Mode::SharesNothing => i64::from(NODES * BATCH_MAX),
        Mode::LocalFirst | Mode::NeverPosts => {
            let lag_us = i64::try_from(told.lag.as_micros()).unwrap();
            let refill = 2 * i64::from(per_second) * lag_us / 1_000_000 + 1;
            i64::from(NODES) * (i64::from(BURST) + refill)
        }
    }
}

#[test]
fn no_mode_admits_more_than_it_says() {
    for mode in [Mode::Central, Mode::Sharded, Mode::Leased, Mode::LocalFirst] {
        let (mut most, mut denied, mut admitted) = (i64::MIN, 0, 0);
        for seed in seeds(150) {
            for (scene, per_second) in [(CALM, FROZEN), (FAULTY, FROZEN), (FAULTY, 400)] {
                let (over, told) = overshoot(seed, mode, scene, per_second);
                assert!(told.lag <= LAG_MAX, "seed {seed}: {mode:?} posted nothing for {:?}", told.lag);
                let bound = bound(mode, &told, per_second);
                assert!(over <= bound, "seed {seed}: {mode:?} admitted {over} too many, more than {bound}: {told:?}");
                most = most.max(over);
                denied += told.denied;
                admitted += told.admitted.len();
            }
        }
        println!("{mode:?}: at most {most} beyond, {admitted} admitted, {denied} denied");
        assert!(denied > 1_000 || std::env::var("SYSD_SIM_SEED").is_ok(), "{mode:?} was hardly asked for too much");
    }
}

/// Crowds of tasks in each process, for which one asks.
#[test]
fn crowds_are_admitted_no_more_than_the_mode_says() {
    for mode in [Mode::Leased, Mode::LocalFirst] {
        let (mut most, mut denied, mut admitted) = (i64::MIN, 0, 0);
        for seed in seeds(60) {
            for (scene, per_second) in
                [(CROWDS, FROZEN), (CROWDS, 2_000), (FAULTY_CROWDS, FROZEN), (FAULTY_CROWDS, 400)]
            {
                let (over, told) = overshoot(seed, mode, scene, per_second);
                let bound = bound(mode, &told, per_second);
                assert!(over <= bound, "seed {seed}: {mode:?} admitted {over} too many, more than {bound}: {told:?}");
                let is_taken = mode != Mode::Leased || per_second != FROZEN || told.sum() <= TAKEN_MAX;
                assert!(is_taken, "seed {seed}: {}", told.sum());
                (most, denied, admitted) = (most.max(over), denied + told.denied, admitted + told.admitted.len());
            }
        }
        println!("{mode:?}: at most {most} beyond, {admitted} admitted, {denied} denied");
        assert!(denied > 1_000 || std::env::var("SYSD_SIM_SEED").is_ok(), "{mode:?} was hardly asked for too much");
    }
    // Processes that share nothing admit what each of them may.
    for scene in [CROWDS, FAULTY_CROWDS] {
        let is_noticed = |seed| {
            let (over, told) = overshoot(seed, Mode::SharesNothing, scene, FROZEN);
            told.sum() > TAKEN_MAX && over > bound(Mode::SharesNothing, &told, FROZEN)
        };
        assert!((0..60).any(is_noticed), "nobody noticed");
    }
}

/// Where nothing comes back by time, no more can be admitted: a run lasts eight seconds.
const TAKEN_MAX: u32 = BURST + 8 * FROZEN;

/// What is admitted was taken: leases admit no token that is not the limit's.
#[test]
fn leases_admit_nothing_that_was_not_taken() {
    for scene in [FAULTY, GIVING] {
        for seed in seeds(400) {
            let (over, told) = overshoot(seed, Mode::Leased, scene, FROZEN);
            assert!(told.sum() <= TAKEN_MAX, "seed {seed}: {}", told.sum());
            let bound = bound(Mode::Leased, &told, FROZEN);
            assert!(over <= bound, "seed {seed}: {over} too many, more than {bound}");
        }
    }
}

/// By what was admitted in all, and by the bound of any stretch of time.
#[test]
fn giving_back_again_after_a_lost_reply_is_found() {
    let (mut by_sum, mut by_bound) = (0, 0);
    for seed in 0..40 {
        let (over, told) = overshoot(seed, Mode::SendsAgain, GIVING, FROZEN);
        by_sum += u32::from(told.sum() > TAKEN_MAX);
        by_bound += u32::from(over > bound(Mode::SendsAgain, &told, FROZEN));
    }
    println!("by the sum in {by_sum} runs of 40, by the bound in {by_bound}");
    assert!(by_sum > 0 && by_bound > 0, "nobody noticed: {by_sum}, {by_bound}");
}

#[test]
fn never_posting_is_found() {
    // Alone, each has a bucket of its own, for ever.
    let is_found = |seed| {
        let (over, mut told) = overshoot(seed, Mode::NeverPosts, CALM, 100);
        told.lag = FLUSH * 2;
        over > bound(Mode::NeverPosts, &told, 100)
    };
    assert!((0..200).any(is_found), "nobody noticed");
}

/// Lets the others run until it holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..100_000 {
        if holds().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came");
}

#[tokio::test]
async fn what_is_not_used_is_given_back_by_the_keeper_and_at_the_end() {
    let clock = common::clock();
    let store = sysd_storage::Memory::with_clock(clock.clone());
    // A log gives back exactly, whenever.
    let rule = Rule::new("all", SlidingLog::new("100/h".parse().unwrap()).unwrap()).unwrap();
    let central = RuleLimiter::new(store.clone(), "api", RuleSet::new([rule.clone()]).unwrap()).unwrap();
    let left = async || central.check("ann", 0).await.unwrap().decision().remaining();
    let config = LeaseConfig { hold_for: HOLD, ..LeaseConfig::new(64) };
    let (limiter, keeper) = LeasedLimiter::with_clock(store.clone(), "api", rule, config, clock.clone()).unwrap();
    let keeper = tokio::spawn(keeper);
    tokio::task::yield_now().await;
    for _ in 0..17 {
        assert!(limiter.check("ann", 1).await.unwrap().is_allowed());
    }
    // 1, 2, 4 and 8 were used; of 16, two.
    assert_eq!((limiter.in_hand("ann"), left().await), (14, 69));
    clock.advance(HOLD);
    until(async || left().await == 83).await;
    assert_eq!(limiter.in_hand("ann"), 0);
    // The next batch is as large as what was used of the last.
    assert!(limiter.check("ann", 1).await.unwrap().is_allowed());
    assert_eq!(limiter.in_hand("ann"), 1);
    drop(limiter);
    clock.advance(HOLD);
    keeper.await.unwrap();
    assert_eq!(left().await, 82);
}

#[tokio::test]
async fn a_denial_is_remembered_and_costs_no_call() {
    let clock = common::clock();
    let store = sysd_storage::Memory::with_clock(clock.clone());
    let rule = Rule::new("all", TokenBucket::new("1/s".parse().unwrap(), 3).unwrap()).unwrap();
    let (limiter, _keeper) =
        LeasedLimiter::with_clock(store.clone(), "api", rule.clone(), LeaseConfig::new(8), clock.clone()).unwrap();
    for _ in 0..3 {
        assert!(limiter.check("ann", 1).await.unwrap().is_allowed());
    }
    let denied = limiter.check("ann", 1).await.unwrap();
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_millis(400));
    let again = limiter.check("ann", 1).await.unwrap();
    assert_eq!(again.retry_after(), Some(Duration::from_millis(600)));
    clock.advance(Duration::from_millis(600));
    assert!(limiter.check("ann", 1).await.unwrap().is_allowed());
    assert!(limiter.check("ann", 4).await.unwrap().retry_after().is_none(), "it can never be");
}

#[tokio::test]
async fn what_was_admitted_too_much_is_made_up_for() {
    let clock = common::clock();
    let store = sysd_storage::Memory::with_clock(clock.clone());
    let rule = Rule::new("all", TokenBucket::new("10/s".parse().unwrap(), 10).unwrap()).unwrap();
    let config = LocalFirstConfig { flush_every: FLUSH, ..LocalFirstConfig::default() };
    let make = || LocalFirstLimiter::with_clock(store.clone(), "api", rule.clone(), config, clock.clone()).unwrap();
    let ((ann, ann_keeper), (bob, bob_keeper)) = (make(), make());
    let keepers = [tokio::spawn(ann_keeper), tokio::spawn(bob_keeper)];
    tokio::task::yield_now().await;
    // Neither knows of the other: twice the burst.
    for limiter in [&ann, &bob] {
        for _ in 0..10 {
            assert!(limiter.check("all", 1).await.unwrap().is_allowed());
        }
        assert!(!limiter.check("all", 1).await.unwrap().is_allowed());
    }
    let central = RuleLimiter::new(store.clone(), "api", RuleSet::new([rule.clone()]).unwrap()).unwrap();
    clock.advance(FLUSH);
    let posted = Duration::from_secs(2);
    until(async || central.check("all", 0).await.unwrap().decision().reset_after() >= posted).await;
    // One of them learned of both: it waits for both.
    let waits = [&ann, &bob].map(async |limiter| limiter.check("all", 1).await.unwrap().retry_after().unwrap());
    let mut waits = futures::future::join_all(waits).await;
    waits.sort_unstable();
    assert_eq!(waits, [Duration::from_millis(100), Duration::from_millis(1_100)]);
    drop((ann, bob));
    clock.advance(FLUSH);
    for keeper in keepers {
        keeper.await.unwrap();
    }
}

/// Ten processes with a burst of a billion owe more than a bucket can note: what was not noted stays pending.
#[tokio::test]
async fn what_the_store_does_not_take_stays_pending() {
    let clock = common::clock();
    let store = sysd_storage::Memory::with_clock(clock.clone());
    let bucket = TokenBucket::new("1000000000/s".parse().unwrap(), 1_000_000_000).unwrap();
    let rule = Rule::new("bytes", bucket).unwrap();
    let config = LocalFirstConfig { flush_every: FLUSH, ..LocalFirstConfig::default() };
    let mut fleet = Vec::new();
    for _ in 0..10 {
        let (limiter, keeper) =
            LocalFirstLimiter::with_clock(store.clone(), "api", rule.clone(), config, clock.clone()).unwrap();
        fleet.push((limiter, tokio::spawn(keeper)));
    }
    tokio::task::yield_now().await;
    let (mut admitted, begun) = (0_u64, clock.now());
    for _ in 0..1_500 {
        for (limiter, _) in &fleet {
            if limiter.check("all", 1_000_000_000).await.unwrap().is_allowed() {
                admitted += 1;
            }
        }
        clock.advance(FLUSH);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    let seconds = clock.now().saturating_since(begun).as_secs();
    // The rate, and each process's burst once or twice.
    assert!(admitted <= seconds + 1 + 20, "{admitted} in {seconds} s");
}

/// A store that answers nothing for a while, and has done everything: what is owed in the end is at most twice what was admitted.
#[test]
fn an_outage_denies_no_more_than_twice() {
    for seed in seeds(40) {
        let simulation = Simulation::new(seed);
        simulation.set_faults(Faults { reply_lost: 1_000, ..Faults::NONE });
        let (limiter, keeper) = fleet(Mode::LocalFirst, &simulation, Node(0), bucket(20), 0);
        simulation.spawn(Node(0), keeper.unwrap());
        let (clock, admitted) = (simulation.clock(), Arc::new(Mutex::new(0_u32)));
        let count = Arc::clone(&admitted);
        simulation.spawn(Node(0), async move {
            for _ in 0..400 {
                clock.sleep_until(clock.now().saturating_add(Duration::from_millis(5))).await;
                *count.lock().unwrap() += u32::from(limiter.check(b"ann", 1).await.unwrap().is_allowed());
            }
            clock.sleep_until(clock.now().saturating_add(Duration::from_millis(500))).await;
        });
        simulation.run_for(Duration::from_secs(2)).unwrap();
        simulation.set_faults(Faults::NONE);
        simulation.run_for(Duration::from_millis(400)).unwrap();
        let rules = RuleSet::new([Rule::new("all", bucket(20)).unwrap()]).unwrap();
        let truth = RuleLimiter::new(simulation.truth(), "api", rules).unwrap();
        let look = futures::executor::block_on(truth.check(b"ann", 0)).unwrap();
        let owed = look.decision().reset_after().as_millis() * 20 / 1_000;
        let admitted = *admitted.lock().unwrap();
        assert!(owed <= 2 * u128::from(admitted), "seed {seed}: {owed} owed for {admitted}");
    }
}

#[test]
fn what_cant_be_decided_so_is_refused() {
    let simulation = Simulation::new(1);
    let store = simulation.store(Node(0));
    let rule = Rule::new("paid", bucket(1)).unwrap();
    let local = |rule| LocalFirstLimiter::new(store.clone(), "api", rule, LocalFirstConfig::default()).map(drop);
    assert!(matches!(local(rule.clone().billed()), Err(RateLimitError::FleetRule { name, .. }) if name == "paid"));
    let log = Rule::new("log", SlidingLog::new("5/s".parse().unwrap()).unwrap()).unwrap();
    assert!(matches!(local(log), Err(RateLimitError::FleetRule { .. })));
    assert_eq!(local(rule.clone()), Ok(()));
    let queue = Rule::new("queue", LeakyBucket::new("5/s".parse().unwrap(), 10).unwrap()).unwrap();
    let leased = LeasedLimiter::new(store.clone(), "api", queue, LeaseConfig::new(8)).map(drop);
    assert!(matches!(leased, Err(RateLimitError::FleetRule { .. })));
    let leased = LeasedLimiter::new(store.clone(), "api", rule, LeaseConfig::new(0)).map(drop);
    assert_eq!(leased, Err(RateLimitError::Fleet { field: "batch_max" }));
    for shards in [0, 41, 65] {
        let sharded = ShardedLimiter::new(store.clone(), "api", bucket(1), shards).map(drop);
        assert_eq!(sharded, Err(RateLimitError::Shards { shards, burst: BURST }));
    }
}
