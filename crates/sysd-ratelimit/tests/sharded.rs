//! One hot key in several records: gathering under faults and crashes, in simulations (`SYSD_SIM_SEED=7` runs only that seed), and what
//! is told of shards that fail.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::executor::block_on;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sysd_core::entropy::below;
use sysd_core::{
    Clock as _, Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, SeededEntropy, Store,
};
use sysd_ratelimit::{Decision, Outcome, ShardedLimiter, TokenBucket, UntoldError, is_outage};
use sysd_storage::Memory;
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation};
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::numbers::Numbers;
use common::{clock, seeds};

const BURST: u32 = 23;
const SHARDS: u32 = 5;

/// Nothing comes back by time within a run.
fn frozen() -> TokenBucket {
    TokenBucket::new("1/d".parse().unwrap(), BURST).unwrap()
}

/// How a store may be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// Sends again what may have happened.
    SendsAgain,
}

impl Overrides<SimStore> for Broken {
    async fn update(&self, store: &SimStore, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        loop {
            match store.update(key, procedure).await {
                Err(error) if error.effect() == Effect::Unknown && *self == Self::SendsAgain => {}
                answer => return answer,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Told {
    admitted: u32,
    denied: u32,
    gathered: u32,
}

/// Three processes ask for more than there is, with costs that no shard has alone; one crashes. What was admitted, what is left.
fn run(seed: u64, faults: Faults, broken: Broken) -> (Told, u32) {
    let simulation = Simulation::new(seed);
    simulation.set_faults(faults);
    let told = Arc::new(Mutex::new(Told::default()));
    for node in 0..3 {
        let (store, entropy) = (Overridden(simulation.store(Node(node)), broken), simulation.entropy());
        let limiter = ShardedLimiter::with_entropy(store, "api", frozen(), SHARDS, simulation.entropy()).unwrap();
        let limiter = limiter.with_clock(simulation.clock());
        let told = Arc::clone(&told);
        simulation.spawn(Node(node), async move {
            for _ in 0..8 {
                let cost = u32::try_from(below(&entropy, 9)).unwrap();
                let answer = limiter.check("all", cost).await;
                let mut told = told.lock().unwrap();
                match answer {
                    Ok(decision) if decision.is_allowed() => {
                        told.admitted += cost;
                        told.gathered += u32::from(cost > BURST.div_ceil(SHARDS));
                    }
                    Ok(_) => told.denied += 1,
                    Err(_) => {}
                }
            }
        });
    }
    if faults != Faults::NONE {
        let _ = simulation.run_for(Duration::from_micros(500 + 131 * (seed % 100)));
        simulation.crash(Node(2));
    }
    // A call may never be answered.
    simulation.run_for(Duration::from_secs(60)).unwrap();
    let truth = ShardedLimiter::new(simulation.truth(), "api", frozen(), SHARDS).unwrap();
    let left = block_on(truth.check("all", 0)).unwrap().remaining();
    let told = std::mem::take(&mut *told.lock().unwrap());
    (told, left)
}

const FAULTY: Faults = Faults { reply_lost: 150, ..Faults::MANY };

/// What is wrong with a run.
fn fault(seed: u64, faults: Faults, broken: Broken) -> std::result::Result<Told, String> {
    let (told, left) = run(seed, faults, broken);
    let there = told.admitted + left;
    if there > BURST {
        return Err(format!("seed {seed}: {} tokens were made: {told:?}, {left} left", there - BURST));
    }
    // A bucket that was full for a part of the time is given back less, by so much: less than a token of each shard.
    if faults == Faults::NONE && there + SHARDS < BURST {
        return Err(format!("seed {seed}: {} tokens were lost: {told:?}, {left} left", BURST - there));
    }
    Ok(told)
}

#[test]
fn without_faults_no_token_is_lost_or_made() {
    let (mut denied, mut gathered) = (0, 0);
    for seed in seeds(600) {
        let told = fault(seed, Faults::NONE, Broken::No).unwrap();
        (denied, gathered) = (denied + told.denied, gathered + told.gathered);
    }
    assert!(denied > 500 && gathered > 500 || std::env::var("SYSD_SIM_SEED").is_ok(), "{denied} and {gathered}");
}

#[test]
fn lost_replies_and_a_crash_between_two_shards_make_no_token() {
    for seed in seeds(2_000) {
        fault(seed, FAULTY, Broken::No).unwrap();
    }
}

#[test]
fn giving_back_again_after_a_lost_reply_is_found() {
    assert!((0..8_000).any(|seed| fault(seed, FAULTY, Broken::SendsAgain).is_err()), "nobody noticed");
}

/// A caller that goes away in the middle loses at most what it asked for.
#[test]
fn a_future_that_is_dropped_makes_no_token() {
    for seed in seeds(500) {
        let simulation = Simulation::new(seed);
        simulation.set_faults(Faults { delay_max: Duration::from_millis(2), ..Faults::NONE });
        let limiter =
            ShardedLimiter::with_entropy(simulation.store(Node(0)), "api", frozen(), SHARDS, simulation.entropy());
        let (limiter, clock) = (limiter.unwrap().with_clock(simulation.clock()), simulation.clock());
        simulation.spawn(Node(0), async move {
            for cost in [BURST - 3, 8] {
                let wait = Duration::from_micros(100 * (seed % 90));
                let _ = sysd_core::timeout(&clock, wait, limiter.check("all", cost)).await;
            }
        });
        simulation.run().unwrap();
        let truth = ShardedLimiter::new(simulation.truth(), "api", frozen(), SHARDS).unwrap();
        let look = block_on(truth.check("all", 0)).unwrap();
        assert!(look.remaining() <= BURST, "seed {seed}: {look:?}");
    }
}

/// By one process and a clock that is driven.
fn alone(bucket: TokenBucket, shards: u32, seed: u64) -> impl Fn(u64, u32) -> Decision {
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let limiter =
        ShardedLimiter::with_entropy(store, "api", bucket, shards, Arc::new(SeededEntropy::new(seed))).unwrap();
    move |step_us, cost| {
        clock.advance(Duration::from_micros(step_us));
        block_on(limiter.check("all", cost)).unwrap()
    }
}

/// A bucket, its shards, and calls: by how much the clock moves in sixteenths of a token's time, and the cost.
type Case = (u32, u64, u32, u32, u64, Vec<(u64, u32)>);

fn cases() -> impl Strategy<Value = Case> {
    (1..=5_u32, 1_000..=9_999_u64, 8..=40_u32, 1..=8_u32, any::<u64>()).prop_flat_map(
        |(count, period_us, burst, shards, seed)| {
            let steps = prop_oneof![3 => 0..=16_u64, 2 => 0..=64_u64, 1 => 0..=1_000_u64];
            let costs = prop_oneof![4 => Just(1_u32), 2 => 1..=burst, 1 => Just(burst)];
            let calls = proptest::collection::vec((steps, costs), 1..60);
            calls.prop_map(move |calls| (count, period_us, burst, shards, seed, calls))
        },
    )
}

fn run_cases(law: impl Fn(Case) -> std::result::Result<(), TestCaseError>) {
    let config = Config { cases: 1_500, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&cases(), law).unwrap_or_else(|error| panic!("{error}"));
}

/// Who waits `retry_after` is admitted, by whichever shard is chosen first; a microsecond earlier not.
#[test]
fn retry_after_is_exact() {
    run_cases(|(count, period_us, burst, shards, seed, calls)| {
        let rate = sysd_ratelimit::Rate::new(count, Duration::from_micros(period_us)).unwrap();
        let check = alone(TokenBucket::new(rate, burst).unwrap(), shards, seed);
        for (step, cost) in calls {
            let step_us = step * period_us / u64::from(count) / 16;
            if let Outcome::Denied { retry_after } = check(step_us, cost).outcome() {
                let retry_us = u64::try_from(retry_after.as_micros()).unwrap();
                prop_assert!(!check(retry_us - 1, cost).is_allowed(), "{retry_us} is late");
                prop_assert!(check(1, cost).is_allowed(), "{retry_us} is early");
            }
        }
        Ok(())
    });
}

/// What the docs say that a cut bucket may deny too much: between two denials that are so near to one another that no shard can have
/// been full, it admits what a whole one would, but for a token a shard and the cost that was denied.
#[test]
fn a_key_that_is_asked_for_too_much_gets_its_rate() {
    let compared = AtomicU32::new(0);
    run_cases(|(count, period_us, burst, shards, seed, calls)| {
        let rate = sysd_ratelimit::Rate::new(count, Duration::from_micros(period_us)).unwrap();
        let check = alone(TokenBucket::new(rate, burst).unwrap(), shards, seed);
        let smallest = u64::from(burst / shards);
        assert!(check(0, burst).is_allowed());
        // The denial before: since when, with how many admitted since.
        let mut since: Option<(u64, u64)> = None;
        let mut now_us = 0;
        for (step, cost) in calls {
            let step_us = step * period_us / u64::from(count) / 16;
            now_us += step_us;
            let cost = cost.min(2);
            let decision = check(step_us, cost);
            if decision.is_allowed() {
                since = since.map(|(begun_us, admitted)| (begun_us, admitted + u64::from(cost)));
                continue;
            }
            if let Some((begun_us, admitted)) = since {
                let passed_us = now_us - begun_us;
                // A shard that was denied has less than two, and a share of the rate.
                let full_us = period_us * u64::from(shards) * smallest.saturating_sub(2) / u64::from(count);
                if passed_us < full_us {
                    compared.fetch_add(1, Ordering::Relaxed);
                    let refilled = passed_us * u64::from(count) / period_us;
                    let bound = refilled.saturating_sub(u64::from(shards) + u64::from(cost));
                    prop_assert!(admitted >= bound, "{admitted} of {refilled} that came back");
                }
            }
            since = Some((now_us, 0));
        }
        Ok(())
    });
    assert!(compared.into_inner() > 1_000, "hardly ever denied twice");
}

#[test]
fn what_no_shard_has_alone_all_have_together() {
    let check = alone(TokenBucket::new("1/s".parse().unwrap(), 10).unwrap(), 4, 1);
    assert!(check(0, 10).is_allowed());
    let denied = check(0, 10);
    assert_eq!((denied.limit(), denied.remaining()), (10, 0));
    assert_eq!(check(0, 11).outcome(), Outcome::NeverAllowed);
    // Each of them gains a quarter of a token a second.
    assert_eq!(check(0, 1).retry_after(), Some(Duration::from_secs(4)));
    assert!(check(4_000_000, 4).is_allowed());
}

/// The first calls at some places of the partition fail.
#[derive(Clone)]
struct Failing {
    shards: Arc<Mutex<Vec<(u8, ErrorKind, Effect)>>>,
    /// Only those that give back.
    gives: bool,
}

impl<S: Store> Overrides<S> for Failing {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let at = *key.partition().last().unwrap();
        let failing = self.shards.lock().unwrap().iter().find(|(shard, ..)| *shard == at).copied();
        match failing.filter(|_| !self.gives || procedure.name() == "give") {
            Some((_, kind, effect)) => Err(Error::new(kind, effect, "scripted").with_key(key)),
            None => store.update(key, procedure).await,
        }
    }
}

type Scripted = ShardedLimiter<Overridden<Memory<ManualClock>, Failing>, Arc<SeededEntropy>>;

fn failing(gives: bool) -> (Scripted, Failing) {
    let failing = Failing { shards: Arc::default(), gives };
    let store = Overridden(Memory::with_clock(clock()), failing.clone());
    let entropy = Arc::new(SeededEntropy::new(1));
    (ShardedLimiter::with_entropy(store, "api", frozen(), SHARDS, entropy).unwrap(), failing)
}

#[tokio::test]
async fn a_shard_that_fails_is_told_and_those_that_answer_decide() {
    let (limiter, failing) = failing(false);
    assert_eq!(limiter.last_error(), None);
    failing.shards.lock().unwrap().push((4, ErrorKind::Unavailable, Effect::None));
    // Five, five, five, four, and four that can't be reached; a cost that no shard has alone looks at all.
    let look = limiter.check("all", 0).await.unwrap();
    assert_eq!((look.limit(), look.remaining()), (BURST, BURST - 4));
    let told = |count| Some(UntoldError { kind: ErrorKind::Unavailable, effect: Effect::None, count });
    assert_eq!(limiter.last_error(), told(1));
    assert!(limiter.check("all", 19).await.unwrap().is_allowed());
    assert_eq!(limiter.last_error(), told(2));
    let denied = limiter.check("all", 18).await.unwrap();
    assert!(denied.retry_after().is_some() && limiter.last_error() == told(3), "{denied:?}");
    // Those that answer could never have it.
    let error = limiter.check("all", 20).await.unwrap_err();
    assert_eq!((error.kind(), limiter.last_error()), (ErrorKind::Unavailable, told(4)));
}

/// Somebody else takes a token when all shards have been looked at.
struct Faster {
    calls: AtomicU32,
    other: ShardedLimiter<Memory<ManualClock>>,
}

impl<S: Store> Overrides<S> for Faster {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == SHARDS {
            assert!(self.other.check("all", 1).await.unwrap().is_allowed());
        }
        store.update(key, procedure).await
    }
}

#[test]
fn parts_that_are_not_enough_go_back_and_what_does_not_is_told() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        for fails in [false, true] {
            let memory = Memory::with_clock(clock());
            let other = ShardedLimiter::new(memory.clone(), "api", frozen(), SHARDS).unwrap();
            let failing = Failing { shards: Arc::default(), gives: true };
            if fails {
                let all = (0..5).map(|shard| (shard, ErrorKind::Timeout, Effect::Unknown));
                failing.shards.lock().unwrap().extend(all);
            }
            let store =
                Overridden(Overridden(memory, failing), Faster { calls: AtomicU32::new(0), other: other.clone() });
            let limiter = ShardedLimiter::new(store, "api", frozen(), SHARDS).unwrap();
            let denied = block_on(limiter.check("all", BURST)).unwrap();
            assert!(denied.retry_after().is_some(), "{denied:?}");
            let left = block_on(other.check("all", 0)).unwrap().remaining();
            let error = limiter.last_error();
            if fails {
                // One had less than its part; what the four others gave is lost.
                assert_eq!(error, Some(UntoldError { kind: ErrorKind::Timeout, effect: Effect::Unknown, count: 4 }));
                assert!(left < 5, "{left}");
            } else {
                assert_eq!((left, error), (BURST - 1, None));
            }
        }
    });
    let series = "sysd_ratelimit_shard_errors_total{limiter=api,kind=timeout,effect=unknown}";
    let names: Vec<_> = numbers.names().into_iter().filter(|name| !name.contains("_fleet_")).collect();
    assert_eq!((names, numbers.count(series)), (vec![series.to_owned()], 4));
}

/// So many calls are answered, and all after them fail.
struct Dies {
    answers: u32,
    effect: Effect,
    calls: AtomicU32,
}

impl<S: Store> Overrides<S> for Dies {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        if self.calls.fetch_add(1, Ordering::Relaxed) < self.answers {
            return store.update(key, procedure).await;
        }
        // A breaker opens by the first of them: to the others nothing happens.
        let effect = if self.calls.load(Ordering::Relaxed) == self.answers + 1 { self.effect } else { Effect::None };
        Err(Error::new(ErrorKind::Unavailable, effect, "scripted").with_key(key))
    }
}

/// Half of four shards that have a quarter each: all are looked at, one gives, and then the store is away.
#[test]
fn who_has_lost_tokens_is_not_told_that_nothing_happened() {
    for (answers, effect, told, left) in [
        // Not even looked at; of no part; between two parts.
        (0, Effect::None, Effect::None, 100),
        (3, Effect::None, Effect::None, 100),
        (4, Effect::None, Effect::None, 100),
        // One part may have been taken, though what fails after it has no effect.
        (4, Effect::Unknown, Effect::Unknown, 100),
        // One was, and is not given back.
        (5, Effect::None, Effect::Unknown, 75),
        (5, Effect::Unknown, Effect::Unknown, 75),
    ] {
        let memory = Memory::with_clock(clock());
        let bucket = TokenBucket::new("1/d".parse().unwrap(), 100).unwrap();
        let store = Overridden(memory.clone(), Dies { answers, effect, calls: AtomicU32::new(0) });
        let limiter = ShardedLimiter::new(store, "api", bucket, 4).unwrap();
        let error = block_on(limiter.check("all", 50)).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, told), "{answers} answers, {effect:?}");
        let truth = ShardedLimiter::new(memory, "api", bucket, 4).unwrap();
        assert_eq!(block_on(truth.check("all", 0)).unwrap().remaining(), left, "{answers} answers, {effect:?}");
    }
}

/// Calls of these shards, of this procedure, are never answered.
#[derive(Clone, Default)]
struct Hanging(Arc<Mutex<Vec<(u8, &'static str)>>>);

impl<S: Store> Overrides<S> for Hanging {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let call = (*key.partition().last().unwrap(), procedure.name());
        let hangs = self.0.lock().unwrap().contains(&call);
        if hangs { std::future::pending().await } else { store.update(key, procedure).await }
    }
}

const DEADLINE: Duration = Duration::from_millis(80);

/// Drives the clock until it is answered: what it says, and after how long.
fn driven<T>(clock: &ManualClock, call: impl Future<Output = T>) -> (T, Duration) {
    let (begun, mut call) = (clock.now(), pin!(call));
    loop {
        let waited = clock.now().saturating_since(begun);
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return (answer, waited);
        }
        assert!(waited < 10 * DEADLINE, "it waits for ever");
        clock.advance(Duration::from_millis(1));
    }
}

#[test]
fn a_decision_has_a_deadline_whichever_shard_hangs() {
    let (clock, hanging) = (clock(), Hanging::default());
    let store = Overridden(Memory::with_clock(clock.clone()), hanging.clone());
    let limiter = ShardedLimiter::new(store, "api", frozen(), SHARDS).unwrap();
    let limiter = limiter.with_clock(clock.clone()).with_deadline(DEADLINE);
    let hang = |shards: &[u8], procedure| {
        *hanging.0.lock().unwrap() = shards.iter().map(|&shard| (shard, procedure)).collect();
    };
    // The one that is chosen: whichever that is.
    hang(&[0, 1, 2, 3, 4], "rules");
    let (answer, waited) = driven(&clock, limiter.check("all", 1));
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.effect(), waited), (ErrorKind::Timeout, Effect::Unknown, DEADLINE));
    assert!(is_outage(&error), "the route's choice does not apply");
    // All that are looked at: nothing was taken.
    let (answer, waited) = driven(&clock, limiter.check("all", BURST));
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.effect(), waited), (ErrorKind::Timeout, Effect::None, DEADLINE / 2));
    // One of them: those that answer decide, five, five, five and four.
    hang(&[4], "rules");
    let (answer, waited) = driven(&clock, limiter.check("all", 20));
    assert_eq!((answer.unwrap_err().kind(), waited), (ErrorKind::Timeout, DEADLINE / 2));
    let (answer, waited) = driven(&clock, limiter.check("all", 19));
    assert!(answer.unwrap().is_allowed() && waited == DEADLINE / 2, "{waited:?}");
    let (answer, waited) = driven(&clock, limiter.check("all", 18));
    assert!(answer.unwrap().retry_after().is_some() && waited == DEADLINE / 2, "{waited:?}");
    assert_eq!(limiter.last_error().map(|error| error.kind), Some(ErrorKind::Timeout));
}

#[test]
fn giving_back_has_a_deadline_too() {
    let (clock, hanging) = (clock(), Hanging::default());
    let memory = Memory::with_clock(clock.clone());
    let other = ShardedLimiter::new(memory.clone(), "api", frozen(), SHARDS).unwrap();
    let store = Overridden(Overridden(memory, hanging.clone()), Faster { calls: AtomicU32::new(0), other });
    let limiter = ShardedLimiter::new(store, "api", frozen(), SHARDS).unwrap();
    let limiter = limiter.with_clock(clock.clone()).with_deadline(DEADLINE);
    *hanging.0.lock().unwrap() = (0..5).map(|shard| (shard, "give")).collect();
    let (answer, waited) = driven(&clock, limiter.check("all", BURST));
    assert!(answer.unwrap().retry_after().is_some());
    assert_eq!(waited, DEADLINE / 2);
}

/// How requests that were in each other's way come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// Each by its own chance.
    Apart,
    /// Broken: at the same time.
    Together,
}

/// One process is near to the even shards, another to the odd ones, and both want all there is: each gets its half, again and again. How
/// often they asked until both had all.
fn two_that_meet(seed: u64, again: Again) -> Option<u32> {
    let simulation = Simulation::new(seed);
    simulation.set_faults(Faults { delay_max: Duration::ZERO, ..Faults::NONE });
    let bucket = TokenBucket::new("100/s".parse().unwrap(), 4).unwrap();
    let asked = Arc::new(Mutex::new((0, 0)));
    for node in 0..2 {
        let store = Overridden(simulation.store(Node(node)), Far { node, clock: simulation.clock() });
        let entropy = if again == Again::Together {
            SeededEntropy::new(seed)
        } else {
            SeededEntropy::new(2 * seed + u64::from(node))
        };
        let limiter = ShardedLimiter::with_entropy(store, "api", bucket, 2, Arc::new(entropy)).unwrap();
        let limiter = limiter.with_clock(simulation.clock());
        let (clock, asked) = (simulation.clock(), Arc::clone(&asked));
        simulation.spawn(Node(node), async move {
            for _ in 0..100 {
                let decision = limiter.check("all", 4).await.unwrap();
                asked.lock().unwrap().0 += 1;
                match decision.retry_after() {
                    Some(wait) => clock.sleep_until(clock.now().saturating_add(wait)).await,
                    None => return asked.lock().unwrap().1 += 1,
                }
            }
        });
    }
    simulation.run().unwrap();
    let (asked, admitted) = *asked.lock().unwrap();
    (admitted == 2).then_some(asked)
}

/// A call of a shard of the other half takes longer.
struct Far {
    node: u32,
    clock: ManualClock,
}

impl<S: Store> Overrides<S> for Far {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let is_near = u32::from(*key.partition().last().unwrap()) % 2 == self.node;
        let way = Duration::from_micros(if is_near { 100 } else { 500 });
        self.clock.sleep_until(self.clock.now().saturating_add(way)).await;
        let answer = store.update(key, procedure).await;
        self.clock.sleep_until(self.clock.now().saturating_add(way)).await;
        answer
    }
}

#[test]
fn two_that_deny_one_another_do_not_for_ever() {
    let asked: Vec<u32> = seeds(300).map(|seed| two_that_meet(seed, Again::Apart).unwrap_or(u32::MAX)).collect();
    assert!(asked.iter().all(|&asked| asked < 40), "{asked:?}");
    assert!(asked.iter().any(|&asked| asked > 3), "they never met");
    assert_eq!(two_that_meet(1, Again::Together), None, "who come again together are not found");
}

/// Who was denied because of another waits `retry_after`, and is admitted, once that one has gone.
#[test]
fn who_met_another_is_admitted_after_the_wait() {
    let met = Arc::new(AtomicU32::new(0));
    for seed in seeds(1_500) {
        let simulation = Simulation::new(seed);
        let entropy = simulation.entropy();
        let rate = format!("{}/s", 1 + below(&entropy, 2_000)).parse().unwrap();
        let bucket = TokenBucket::new(rate, BURST).unwrap();
        let shards = u32::try_from(2 + below(&entropy, 6)).unwrap();
        let ended = Arc::new(Mutex::new(None));
        for node in 0..2 {
            let store = simulation.store(Node(node));
            let limiter = ShardedLimiter::with_entropy(store, "api", bucket, shards, simulation.entropy()).unwrap();
            let (limiter, clock) = (limiter.with_clock(simulation.clock()), simulation.clock());
            let (ended, met) = (Arc::clone(&ended), Arc::clone(&met));
            let few = u32::try_from(below(&entropy, 8)).unwrap();
            let cost = if node == 0 { BURST - few } else { 4 + few };
            let pause = Duration::from_micros(below(&entropy, 2_000));
            simulation.spawn(Node(node), async move {
                clock.sleep_until(clock.now().saturating_add(pause)).await;
                let decision = limiter.check("all", cost).await.unwrap();
                if node == 1 {
                    *ended.lock().unwrap() = Some(clock.now());
                    return;
                }
                let Some(wait) = decision.retry_after() else { return };
                let now = clock.now();
                // Its last look takes two ways; the other one must have ended before.
                let is_over =
                    ended.lock().unwrap().is_some_and(|ended| now.saturating_since(ended) >= Duration::from_millis(1));
                clock.sleep_until(now.saturating_add(wait)).await;
                let is_admitted = limiter.check("all", cost).await.unwrap().is_allowed();
                assert!(is_admitted || !is_over, "seed {seed}: {wait:?} is early");
                met.fetch_add(u32::from(is_over), Ordering::Relaxed);
            });
        }
        simulation.run().unwrap();
    }
    let met = met.load(Ordering::Relaxed);
    assert!(met > 100 || std::env::var("SYSD_SIM_SEED").is_ok(), "{met}");
}
