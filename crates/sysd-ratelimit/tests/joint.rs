//! Rules of several keys, under faults and crashes, in simulations: `SYSD_SIM_SEED=7` runs only that seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::below;
use sysd_core::{
    Clock as _, Effect, ErasedProcedure, Error, ErrorKind, Key, OutputBytes, Result, Store, StoreExt as _, tuple,
};
use sysd_ratelimit::schema::RULES;
use sysd_ratelimit::{Ask, Decision, FixedWindow, JointLimiter, OnError, Rule, SlidingLog, TakeAll, TokenBucket};
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation};
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::seeds;

const LIMIT: u32 = 12;

/// Windows and refills longer than any run: what is admitted is admitted for good.
fn rules() -> [Rule; 3] {
    [
        Rule::new("each", TokenBucket::new("1/d".parse().unwrap(), LIMIT).unwrap()).unwrap(),
        Rule::new("each, logged", SlidingLog::new(format!("{}/d", LIMIT + 2).parse().unwrap()).unwrap()).unwrap(),
        Rule::new("all", FixedWindow::new(format!("{}/d", LIMIT + LIMIT / 2).parse().unwrap())).unwrap(),
    ]
}

const KEYS: [&[u8]; 2] = [b"ann", b"bob"];

fn asks<'a>(rules: &'a [Rule; 3], key: &'a [u8], cost: u32) -> [Ask<'a>; 2] {
    [
        Ask { key, rules: vec![(&rules[0], cost), (&rules[1], cost)] },
        Ask { key: b"all", rules: vec![(&rules[2], cost)] },
    ]
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

/// What callers were told.
#[derive(Debug, Default)]
struct Told {
    admitted: [u32; 2],
    errors: u32,
}

/// Three processes ask for two keys, under faults; one crashes. What is wrong with it.
fn run(seed: u64, faults: Faults, broken: Broken) -> std::result::Result<(), String> {
    let simulation = Simulation::new(seed);
    simulation.set_faults(faults);
    let told = Arc::new(Mutex::new(Told::default()));
    for node in 0..3 {
        let limiter = JointLimiter::new(Overridden(simulation.store(Node(node)), broken), "api");
        let (entropy, told) = (simulation.entropy(), Arc::clone(&told));
        simulation.spawn(Node(node), async move {
            let rules = rules();
            for _ in 0..12 {
                let key = usize::try_from(below(&entropy, 2)).unwrap();
                let cost = u32::try_from(below(&entropy, 4)).unwrap();
                let outcome = limiter.check_or(&asks(&rules, KEYS[key], cost), |_, _| OnError::Deny).await;
                let mut told = told.lock().unwrap();
                told.admitted[key] += if outcome.is_allowed { cost } else { 0 };
                told.errors += u32::try_from(outcome.errors.len()).unwrap();
            }
        });
    }
    if faults != Faults::NONE {
        let _ = simulation.run_for(Duration::from_millis(1 + seed % 20));
        simulation.crash(Node(2));
    }
    simulation.run().map_err(|error| format!("{error}"))?;
    let told = told.lock().unwrap();
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("seed {seed}: {what}: {told:?}")) };
    ensure(told.admitted.iter().all(|&admitted| admitted <= LIMIT), "a key had more than its limit")?;
    ensure(told.admitted.iter().sum::<u32>() <= LIMIT + LIMIT / 2, "all had more than their limit")?;
    // What is left, by the store itself.
    let truth = JointLimiter::new(simulation.truth(), "api");
    let rules = rules();
    for (key, &admitted) in KEYS.iter().zip(&told.admitted) {
        let look = futures::executor::block_on(truth.check(&asks(&rules, key, 0))).unwrap();
        let used: Vec<_> = look.each().iter().map(|decision| decision.limit() - decision.remaining()).collect();
        ensure(used[0] >= admitted && used[1] >= admitted, "what was admitted is not counted")?;
        ensure(used[2] >= told.admitted.iter().sum(), "what was admitted is not counted for all")?;
        if faults == Faults::NONE {
            // Of the bucket all but the time between: less than a token.
            ensure(used[0] <= admitted + 1 && used[1] == admitted, "what was denied was not given back")?;
        }
    }
    Ok(())
}

const FAULTY: Faults = Faults { reply_lost: 150, ..Faults::MANY };

#[test]
fn without_faults_a_denied_request_takes_nothing() {
    for seed in seeds(500) {
        run(seed, Faults::NONE, Broken::No).unwrap();
    }
}

#[test]
fn with_faults_and_a_crash_nothing_is_ever_given() {
    for seed in seeds(4_000) {
        run(seed, FAULTY, Broken::No).unwrap();
    }
}

#[test]
fn giving_back_again_after_a_lost_reply_is_found() {
    assert!((0..4_000).any(|seed| run(seed, FAULTY, Broken::SendsAgain).is_err()), "nobody noticed");
}

/// How a request that is denied may come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    /// By the limiter, the key that denies last.
    DeniedLast,
    /// By the limiter, the key that denies first, as a policy has it.
    DeniedFirst,
    /// Takes from one key after the other, and gives nothing back.
    Keeps,
}

/// A request that takes one of `all`, which everybody shares, and one of ann's own.
async fn ask<S: Store + Clone>(store: &S, (all, own): (&Rule, &Rule), flood: Flood) -> bool {
    let mut asks = [Ask { key: b"all", rules: vec![(all, 1)] }, Ask { key: b"ann", rules: vec![(own, 1)] }];
    if flood == Flood::DeniedFirst {
        asks.reverse();
    }
    if flood != Flood::Keeps {
        return JointLimiter::new(store.clone(), "api").check(&asks).await.unwrap().is_allowed();
    }
    for ask in asks {
        let partition = tuple::encode(&("api", ask.key));
        let take = TakeAll::new(ask.rules.iter().copied());
        if !store.run(Key::lone(RULES, &partition), &take).await.unwrap().is_allowed() {
            return false;
        }
    }
    true
}

/// A simulation over a slow store in which so much of the shared bucket is used, and all of ann's.
fn slow(seed: u64, shared: &Rule, own: &Rule, used: u32) -> Simulation {
    let simulation = Simulation::new(seed);
    simulation.set_faults(Faults { delay_max: Duration::from_millis(20), ..Faults::NONE });
    let truth = JointLimiter::new(simulation.truth(), "api");
    let before = [Ask { key: b"all", rules: vec![(shared, used)] }, Ask { key: b"ann", rules: vec![(own, 1)] }];
    assert!(futures::executor::block_on(truth.check(&before)).unwrap().is_allowed());
    simulation
}

fn shared_and_own(rate: &str, burst: u32) -> (Rule, Rule) {
    let shared = Rule::new("all", TokenBucket::new(rate.parse().unwrap(), burst).unwrap()).unwrap();
    (shared, Rule::new("each", FixedWindow::new("1/d".parse().unwrap())).unwrap())
}

/// A thousand requests, all denied by ann's key. What is left in the bucket that all share, and what would be had they never come.
fn after_a_flood(flood: Flood) -> (u32, u32) {
    let (shared, own) = shared_and_own("10/s", 1_000);
    let simulation = slow(7, &shared, &own, 900);
    let (start, store, all) = (simulation.clock().now(), simulation.store(Node(0)), shared.clone());
    simulation.spawn(Node(0), async move {
        for _ in 0..1_000 {
            assert!(!ask(&store, (&all, &own), flood).await);
        }
    });
    simulation.run().unwrap();
    let (truth, look) =
        (JointLimiter::new(simulation.truth(), "api"), [Ask { key: b"all", rules: vec![(&shared, 0)] }]);
    let left = futures::executor::block_on(truth.check(&look)).unwrap().decision().remaining();
    let passed = simulation.clock().now().saturating_since(start);
    (left, 100 + u32::try_from(passed.as_millis() / 100).unwrap())
}

#[test]
fn a_flood_of_denied_requests_takes_nothing_from_a_shared_bucket() {
    for flood in [Flood::DeniedLast, Flood::DeniedFirst] {
        let (left, expected) = after_a_flood(flood);
        assert!(left == expected && left > 200, "{flood:?}: {left} of {expected}");
    }
}

#[test]
fn a_limiter_that_gives_nothing_back_is_found() {
    let (left, expected) = after_a_flood(Flood::Keeps);
    assert!(left < expected / 2, "{left} of {expected}");
}

/// While requests come that ann's key denies, another asks for the last token of the shared one: whether it gets it.
fn is_the_last_token_there(seed: u64, flood: Flood) -> bool {
    let (shared, own) = shared_and_own("1/d", 10);
    let simulation = slow(seed, &shared, &own, 9);
    let (store, all) = (simulation.store(Node(0)), shared.clone());
    simulation.spawn(Node(0), async move {
        for _ in 0..5 {
            assert!(!ask(&store, (&all, &own), flood).await);
        }
    });
    let (store, is_there) = (simulation.store(Node(1)), Arc::new(Mutex::new(false)));
    let (clock, answer) = (simulation.clock(), Arc::clone(&is_there));
    simulation.spawn(Node(1), async move {
        clock.sleep_until(clock.now().saturating_add(Duration::from_millis(30))).await;
        let limiter = JointLimiter::new(store, "api");
        let asks = [Ask { key: b"all", rules: vec![(&shared, 1)] }];
        *answer.lock().unwrap() = limiter.check(&asks).await.unwrap().is_allowed();
    });
    simulation.run().unwrap();
    *is_there.lock().unwrap()
}

#[test]
fn what_a_key_denies_takes_nothing_from_those_behind_it_even_for_a_moment() {
    for seed in seeds(200) {
        assert!(is_the_last_token_there(seed, Flood::DeniedFirst), "seed {seed}");
    }
    // Of those before it for a moment: too much is denied.
    assert!((0..200).any(|seed| !is_the_last_token_there(seed, Flood::DeniedLast)), "nobody noticed");
}

#[test]
fn each_key_is_asked_once_and_a_denied_request_hears_all() {
    let simulation = Simulation::new(7);
    let limiter = JointLimiter::new(simulation.store(Node(0)), "api");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let write = Arc::clone(&seen);
    simulation.set_faults(Faults { delay_max: Duration::ZERO, ..Faults::NONE });
    simulation.spawn(Node(0), async move {
        let rules = rules();
        for (key, cost) in [(KEYS[0], LIMIT), (KEYS[0], 1), (KEYS[1], LIMIT / 2 + 1)] {
            let decision = limiter.check(&asks(&rules, key, cost)).await.unwrap();
            let remaining: Vec<_> = decision.each().iter().map(Decision::remaining).collect();
            write.lock().unwrap().push((decision.is_allowed(), decision.bound_by(), remaining));
        }
    });
    simulation.run().unwrap();
    let expected = [
        (true, 0, vec![0, 2, LIMIT / 2]),
        (false, 0, vec![0, 2, LIMIT / 2]),
        // What bob's rules gave back is there.
        (false, 2, vec![LIMIT, LIMIT + 2, LIMIT / 2]),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    // Two takes; a take and a look; two takes, of which one is given back.
    assert_eq!(simulation.calls(Node(0)), 7);
}

/// The first calls for the records of a key can't be answered.
struct Away(&'static [u8], AtomicU32);

impl<S: Store> Overrides<S> for Away {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let is_of = key.partition().windows(self.0.len()).any(|part| part == self.0);
        let is_first = |left: u32| left.checked_sub(1);
        if is_of && self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_first).is_ok() {
            return Err(Error::new(ErrorKind::Unavailable, Effect::None, "away"));
        }
        store.update(key, procedure).await
    }
}

#[tokio::test]
async fn a_key_that_could_not_be_asked_is_open_or_closed_as_chosen() {
    let memory = sysd_storage::Memory::new();
    let rules = rules();
    let limiter = || JointLimiter::new(Overridden(memory.clone(), Away(b"all", AtomicU32::new(1))), "api");
    let left = async || {
        let truth = JointLimiter::new(memory.clone(), "api");
        let look = truth.check(&asks(&rules, b"ann", 0)).await.unwrap();
        look.each().iter().map(Decision::remaining).collect::<Vec<_>>()
    };
    let closed = limiter().check_or(&asks(&rules, b"ann", 1), |_, _| OnError::Deny).await;
    let of_ann = closed.decision.unwrap();
    assert!(!closed.is_allowed && of_ann.is_allowed());
    assert_eq!(of_ann.each()[1].remaining(), LIMIT + 2, "as it was given back");
    assert_eq!((closed.errors.len(), closed.errors[0].0), (1, 1));
    assert_eq!(left().await, [LIMIT, LIMIT + 2, LIMIT + LIMIT / 2]);
    assert_eq!(limiter().check(&asks(&rules, b"ann", 1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let open = limiter().check_or(&asks(&rules, b"ann", 1), |_, _| OnError::Allow).await;
    assert!(open.is_allowed && open.errors.len() == 1);
    assert_eq!(left().await, [LIMIT - 1, LIMIT + 1, LIMIT + LIMIT / 2]);
    // What a key before it denies is denied; the one behind it that could not be looked at says nothing.
    let denied = limiter().check(&asks(&rules, b"ann", LIMIT)).await.unwrap();
    assert_eq!((denied.is_allowed(), denied.each().len()), (false, 2));
}

#[tokio::test]
async fn an_error_that_is_no_outage_refuses_whatever_was_chosen() {
    let store = sysd_storage::Memory::new();
    let limiter = JointLimiter::new(store.clone(), "api");
    let rules = rules();
    let long = vec![b'x'; 100_000];
    let asks = |cost| {
        [Ask { key: b"ann", rules: vec![(&rules[0], cost)] }, Ask { key: &long, rules: vec![(&rules[2], cost)] }]
    };
    let error = limiter.check(&asks(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None));
    let left = async || limiter.check(&asks(0)[..1]).await.unwrap().decision().remaining();
    assert_eq!(left().await, LIMIT);
    // That is no outage: nobody is asked whether it may pass.
    let opened = limiter.check_or(&asks(1), |_, _| OnError::Allow).await;
    assert!(!opened.is_allowed && opened.errors.len() == 1 && opened.decision.unwrap().is_allowed());
    assert_eq!(left().await, LIMIT);
    let nothing: Result<_, Error> = limiter.check(&[]).await;
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn rules_that_cant_be_told_apart_are_refused_before_any_is_asked() {
    let simulation = Simulation::new(7);
    let limiter = JointLimiter::new(simulation.store(Node(0)), "api");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let write = Arc::clone(&seen);
    simulation.spawn(Node(0), async move {
        let rules = rules();
        let many: Vec<_> =
            (0..17).map(|at| Rule::new(&at.to_string(), FixedWindow::new("9/d".parse().unwrap()))).collect();
        let many: Vec<_> = many.into_iter().map(std::result::Result::unwrap).collect();
        for bad in [vec![(&rules[1], 1), (&rules[0], 1), (&rules[0], 1)], many.iter().map(|rule| (rule, 1)).collect()] {
            let asks = [Ask { key: b"ann", rules: vec![(&rules[0], 1)] }, Ask { key: b"all", rules: bad }];
            let error = limiter.check(&asks).await.unwrap_err();
            let opened = limiter.check_or(&asks, |_, _| OnError::Allow).await;
            write.lock().unwrap().push((error.kind(), error.effect(), opened.is_allowed));
        }
        let look = limiter.check(&[Ask { key: b"ann", rules: vec![(&rules[0], 0)] }]).await.unwrap();
        assert_eq!(look.decision().remaining(), LIMIT, "nothing was taken");
    });
    simulation.run().unwrap();
    assert_eq!(*seen.lock().unwrap(), [(ErrorKind::Invalid, Effect::None, false); 2]);
}

/// Those that give back fail.
#[cfg(feature = "metrics")]
#[derive(Clone)]
struct NeverTakesBack;

#[cfg(feature = "metrics")]
impl<S: Store> Overrides<S> for NeverTakesBack {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        if procedure.name() == "give" {
            return Err(Error::new(ErrorKind::Timeout, Effect::Unknown, "the password is s3cret").with_key(key));
        }
        store.update(key, procedure).await
    }
}

#[cfg(feature = "metrics")]
#[test]
fn what_could_not_be_given_back_is_told() {
    let numbers = common::numbers::Numbers::default();
    let denied = metrics::with_local_recorder(&numbers, || {
        let store = Overridden(sysd_storage::Memory::new(), NeverTakesBack);
        let (limiter, rules) = (JointLimiter::new(store, "api"), rules());
        let ask =
            |cost| futures::executor::block_on(limiter.check_or(&asks(&rules, b"ann", cost), |_, _| OnError::Deny));
        assert!(ask(0).not_given_back.is_empty() && limiter.last_error().is_none());
        // All of `each` is there, and of `all` too little.
        futures::executor::block_on(limiter.check(&[Ask { key: b"all", rules: vec![(&rules[2], 10)] }])).unwrap();
        let denied = ask(LIMIT);
        assert!(!denied.is_allowed && denied.errors.is_empty(), "{denied:?}");
        let error = limiter.last_error().unwrap();
        assert_eq!((error.kind, error.effect, error.count), (ErrorKind::Timeout, Effect::Unknown, 1));
        assert!(!format!("{error:?}").contains("s3cret"));
        // Clones tell the same.
        assert_eq!(limiter.clone().last_error(), Some(error));
        denied
    });
    let [(0, error)] = &denied.not_given_back[..] else { panic!("{denied:?}") };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let series = "sysd_ratelimit_give_back_errors_total{limiter=api,kind=timeout,effect=unknown}";
    assert_eq!((numbers.names(), numbers.count(series)), (vec![series.to_owned()], 1));
}
