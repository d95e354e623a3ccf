//! Concurrency limits on stores, and under faults and crashes in simulations: `SYSD_SIM_SEED=7` runs only that seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::below;
use sysd_core::lease::HolderId;
use sysd_core::{
    Clock as _, Effect, ErrorKind, Key, ManualClock, Store, StoreExt as _, SystemEntropy, Timestamp, tuple,
};
use sysd_ratelimit::schema::SLOTS;
use sysd_ratelimit::{Concurrency, ConcurrencyLimiter, SlotOutcome, SlotRelease, SlotRenewal};
use sysd_storage::Memory;
use sysd_testkit::sim::{Faults, Node, Simulation};

mod common;

use common::{clock, on_redis, seeds};

const LIMIT: u32 = 3;
const HOLD: Duration = Duration::from_millis(40);

fn limit() -> Concurrency {
    Concurrency::new(LIMIT).unwrap()
}

/// However many ask at once, as many as there are slots have one; each call may be sent twice.
async fn exactly_the_limit<S: Store + Clone>(store: S, clock: ManualClock) {
    let limiter = Arc::new(ConcurrencyLimiter::new(store, "api", limit()));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let limiter = Arc::clone(&limiter);
            let holder = HolderId::mint(&SystemEntropy);
            tokio::spawn(async move {
                let first = limiter.acquire("ann", holder, 1, HOLD).await.unwrap().granted();
                let second = limiter.acquire("ann", holder, 1, HOLD).await.unwrap().granted();
                assert!(first.is_none() || first == second, "a second time changes nothing");
                first
            })
        })
        .collect();
    let mut slots = Vec::new();
    for task in tasks {
        slots.extend(task.await.unwrap());
    }
    assert_eq!(slots.len(), LIMIT as usize);
    assert_eq!(limiter.usage("ann").await.unwrap().free(), 0);
    assert_eq!(limiter.usage("bob").await.unwrap().free(), LIMIT);
    assert_eq!(limiter.release("ann", slots[0].holder).await.unwrap(), SlotRelease::Released);
    assert_eq!(limiter.release("ann", slots[0].holder).await.unwrap(), SlotRelease::Lost);
    let SlotRenewal::Held(longer) = limiter.renew("ann", slots[1].holder, 2 * HOLD).await.unwrap() else { panic!() };
    assert_eq!((longer.left, longer.until), (2 * HOLD, slots[1].until.saturating_add(HOLD)));
    // The third is leaked, and returns.
    clock.advance(HOLD);
    assert_eq!(limiter.usage("ann").await.unwrap().in_use, 1);
    assert_eq!(limiter.renew("ann", slots[2].holder, HOLD).await.unwrap(), SlotRenewal::Lost);
    assert_eq!(limiter.release("ann", slots[1].holder).await.unwrap(), SlotRelease::Released);
    assert_eq!(limiter.usage("ann").await.unwrap().in_use, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_grants_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(Memory::with_clock(clock.clone()), clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_grants_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_URL", clock.clone()).await, clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_grants_exactly_the_limit() {
    let clock = clock();
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_CLUSTER_URL", clock.clone()).await, clock).await;
}

#[tokio::test]
async fn bad_input_is_named() {
    let store = Memory::with_clock(clock());
    let limiter = ConcurrencyLimiter::new(store.clone(), "api", limit());
    let ann = HolderId::mint(&SystemEntropy);
    let field = |error: sysd_core::Error| (error.kind(), error.field());
    let nothing = limiter.acquire("ann", ann, 0, HOLD).await.unwrap_err();
    assert_eq!(field(nothing), (ErrorKind::Invalid, Some("cost")));
    let no_time = limiter.acquire("ann", ann, 1, Duration::ZERO).await.unwrap_err();
    assert_eq!(field(no_time), (ErrorKind::Invalid, Some("hold")));
    assert_eq!(field(limiter.renew("ann", ann, Duration::ZERO).await.unwrap_err()), (ErrorKind::Invalid, Some("hold")));
    let never = limiter.acquire("ann", ann, LIMIT + 1, HOLD).await.unwrap();
    assert!(matches!(never, SlotOutcome::NeverAllowed { .. }));
    let partition = tuple::encode(&("api", &b"bob"[..]));
    store.put(Key::lone(SLOTS, &partition), "no record").await.unwrap();
    assert_eq!(limiter.acquire("bob", ann, 1, HOLD).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// How a process may be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// Goes on after its deadline.
    Overstays,
    /// Takes no answer for a yes.
    TakesNoAnswerForYes,
}

/// Who works: until when, and how many slots it was granted.
#[derive(Debug, Default)]
struct Working {
    now: Vec<(HolderId, Timestamp, u32)>,
    grants: u32,
    problem: Option<String>,
}

/// Four processes work under faults; one crashes. What is wrong with it, or how often one was granted.
fn run(seed: u64, broken: Broken) -> Result<u32, String> {
    let simulation = Simulation::new(seed);
    simulation.set_faults(Faults { reply_lost: 150, ..Faults::MANY });
    let working = Arc::new(Mutex::new(Working::default()));
    for node in 0..4 {
        let limiter = ConcurrencyLimiter::new(simulation.store(Node(node)), "api", limit());
        let (entropy, clock, working) = (simulation.entropy(), simulation.clock(), Arc::clone(&working));
        simulation.spawn(Node(node), async move {
            for _ in 0..8 {
                let (holder, cost) = (HolderId::mint(&*entropy), 1 + u32::try_from(below(&*entropy, 2)).unwrap());
                let wait = Duration::from_micros(1 + below(&*entropy, 60_000));
                let until = loop {
                    match limiter.acquire("key", holder, cost, HOLD).await {
                        Ok(outcome) => break outcome.granted().map(|slot| slot.until),
                        Err(error) if broken == Broken::TakesNoAnswerForYes && error.effect() == Effect::Unknown => {
                            break Some(clock.now().saturating_add(HOLD));
                        }
                        Err(_) => {}
                    }
                };
                let Some(mut until) = until.filter(|until| *until > clock.now()) else {
                    clock.sleep_until(clock.now().saturating_add(wait)).await;
                    continue;
                };
                if broken == Broken::Overstays {
                    until = Timestamp::MAX;
                }
                {
                    let mut working = working.lock().unwrap();
                    working.grants += 1;
                    working.now.push((holder, until, cost));
                    let live = working.now.iter().filter(|(_, until, _)| *until > clock.now());
                    let in_use: u32 = live.map(|(_, _, cost)| cost).sum();
                    if in_use > LIMIT {
                        working.problem = Some(format!("seed {seed}: {in_use} slots in use: {:?}", working.now));
                    }
                }
                clock.sleep_until(clock.now().saturating_add(wait).min(until)).await;
                if let Ok(SlotRenewal::Held(longer)) = limiter.renew("key", holder, HOLD).await {
                    let longest = |until: Timestamp| until.max(longer.until);
                    let mine = |(other, _, _): &&mut (HolderId, Timestamp, u32)| *other == holder;
                    working
                        .lock()
                        .unwrap()
                        .now
                        .iter_mut()
                        .filter(mine)
                        .for_each(|(_, until, _)| *until = longest(*until));
                    clock.sleep_until(clock.now().saturating_add(wait).min(longer.until)).await;
                }
                working.lock().unwrap().now.retain(|(other, _, _)| *other != holder);
                while limiter.release("key", holder).await.is_err() {}
            }
        });
    }
    let _ = simulation.run_for(Duration::from_millis(1 + seed % 300));
    simulation.crash(Node(3));
    simulation.run().map_err(|error| format!("{error}"))?;
    simulation.clock().advance(2 * HOLD);
    let truth = ConcurrencyLimiter::new(simulation.truth(), "api", limit());
    let usage = futures::executor::block_on(truth.usage("key")).unwrap();
    let working = working.lock().unwrap();
    if usage.in_use > 0 {
        return Err(format!("seed {seed}: what was leaked has not returned: {usage:?}"));
    }
    working.problem.clone().map_or(Ok(working.grants), Err)
}

#[test]
fn with_lost_replies_and_a_crash_never_more_than_the_limit_are_in_use() {
    let grants: u32 = seeds(2_000).map(|seed| run(seed, Broken::No).unwrap()).sum();
    assert!(grants > 0);
}

#[test]
fn processes_that_do_not_hold_to_it_are_found() {
    for broken in [Broken::Overstays, Broken::TakesNoAnswerForYes] {
        assert!((0..2_000).any(|seed| run(seed, broken).is_err()), "{broken:?}: nobody noticed");
    }
}
