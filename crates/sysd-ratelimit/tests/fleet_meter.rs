//! What the metrics say of a fleet's limiters: each decision once, and each call of the store's.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use sysd_core::{
    Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, SeededEntropy, Store, yield_now,
};
use sysd_ratelimit::{
    Decision, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, Outcome, Rule, ShardedLimiter,
    TokenBucket,
};
use sysd_storage::Memory;
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::clock;
use common::numbers::Numbers;

const EVERY: Duration = Duration::from_millis(20);
const CALL_MAX: Duration = Duration::from_millis(50);
const MS: Duration = Duration::from_millis(1);
const BURST: u32 = 12;

const DECISIONS: &str = "sysd_ratelimit_fleet_decisions_total";
const CALLS: &str = "sysd_ratelimit_fleet_calls_total";
const ERRORS: &str = "sysd_ratelimit_fleet_call_errors_total";
const DURATION: &str = "sysd_ratelimit_fleet_call_duration_seconds";

/// What becomes of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answers,
    /// When others had their turn.
    AnswersLater,
    /// After a millisecond.
    TakesItsTime,
    Fails(ErrorKind, Effect),
    Hangs,
}

#[derive(Clone)]
struct Scripted {
    clock: ManualClock,
    does: Arc<Mutex<Does>>,
    /// By procedure.
    calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl<S: Store> Overrides<S> for Scripted {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        *self.calls.lock().unwrap().entry(procedure.name()).or_default() += 1;
        let does = *self.does.lock().unwrap();
        match does {
            Does::Answers => {}
            Does::AnswersLater => yield_now().await,
            Does::TakesItsTime => self.clock.advance(MS),
            Does::Fails(kind, effect) => return Err(Error::new(kind, effect, "scripted")),
            Does::Hangs => std::future::pending().await,
        }
        store.update(key, procedure).await
    }
}

type Through = Overridden<Memory<ManualClock>, Scripted>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Leased,
    LocalFirst,
    Sharded,
}

const MODES: [Mode; 3] = [Mode::Leased, Mode::LocalFirst, Mode::Sharded];

impl Mode {
    const fn label(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::LocalFirst => "local_first",
            Self::Sharded => "sharded",
        }
    }
}

#[derive(Clone)]
enum Limiter {
    Leased(LeasedLimiter<Through, ManualClock>),
    LocalFirst(LocalFirstLimiter<Through, ManualClock>),
    Sharded(ShardedLimiter<Through, Arc<SeededEntropy>, ManualClock>),
}

impl Limiter {
    async fn check(&self, key: &[u8], cost: u32) -> Result<Decision> {
        match self {
            Self::Leased(limiter) => limiter.check(key, cost).await,
            Self::LocalFirst(limiter) => limiter.check(key, cost).await,
            Self::Sharded(limiter) => limiter.check(key, cost).await,
        }
    }
}

type Keeper = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Scene {
    mode: Mode,
    clock: ManualClock,
    store: Scripted,
    /// Until it is dropped.
    limiter: Option<Limiter>,
    /// The sharded one has none.
    keeper: Keeper,
    made: Made,
}

/// The limiter "api", that knows two keys.
fn scene(mode: Mode, per_second: u32) -> Scene {
    let clock = clock();
    let scripted = Scripted { clock: clock.clone(), does: Arc::new(Mutex::new(Does::Answers)), calls: Arc::default() };
    let store = Overridden(Memory::with_clock(clock.clone()), scripted.clone());
    let bucket = TokenBucket::new(format!("{per_second}/s").parse().unwrap(), BURST).unwrap();
    let rule = Rule::new("all", bucket).unwrap();
    let (limiter, mut keeper) = match mode {
        Mode::Leased => {
            let config = LeaseConfig { hold_for: EVERY, keys_max: 2, call_wait_max: CALL_MAX, ..LeaseConfig::new(8) };
            let (limiter, keeper) = LeasedLimiter::with_clock(store, "api", rule, config, clock.clone()).unwrap();
            (Limiter::Leased(limiter), Box::pin(keeper) as Keeper)
        }
        Mode::LocalFirst => {
            let config = LocalFirstConfig { flush_every: EVERY, keys_max: 2, call_wait_max: CALL_MAX };
            let (limiter, keeper) = LocalFirstLimiter::with_clock(store, "api", rule, config, clock.clone()).unwrap();
            (Limiter::LocalFirst(limiter), Box::pin(keeper) as Keeper)
        }
        Mode::Sharded => {
            let entropy = Arc::new(SeededEntropy::new(1));
            let limiter = ShardedLimiter::with_entropy(store, "api", bucket, 3, entropy).unwrap();
            let limiter = limiter.with_clock(clock.clone()).with_deadline(CALL_MAX);
            (Limiter::Sharded(limiter), Box::pin(std::future::ready(())) as Keeper)
        }
    };
    if mode != Mode::Sharded {
        assert!(poll(&mut keeper).is_pending());
    }
    Scene { mode, clock, store: scripted, limiter: Some(limiter), keeper, made: Made::default() }
}

/// As far as it comes without waiting.
fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// What the answers were.
#[derive(Debug, Default)]
struct Made(BTreeMap<&'static str, u64>);

impl Made {
    fn note(&mut self, answer: &Result<Decision>) {
        let outcome = match answer.as_ref().map(Decision::outcome) {
            Ok(Outcome::Allowed) => "allowed",
            Ok(Outcome::Denied { .. }) => "denied",
            Ok(Outcome::NeverAllowed) => "never_allowed",
            Err(_) => "error",
        };
        *self.0.entry(outcome).or_default() += 1;
    }
}

impl Scene {
    fn does(&self, does: Does) {
        *self.store.does.lock().unwrap() = does;
    }

    fn ask(&mut self, key: &[u8], cost: u32) -> Result<Decision> {
        let answer = block_on(self.limiter.as_ref().unwrap().check(key, cost));
        self.made.note(&answer);
        answer
    }

    /// So many at once, for which the store is slow enough that they wait for one another.
    fn crowd(&mut self, callers: u32) {
        self.does(Does::AnswersLater);
        let limiter = self.limiter.as_ref().unwrap();
        let answers = block_on(join_all((0..callers).map(|at| limiter.check(b"ann", 1 + at % 2))));
        for answer in &answers {
            self.made.note(answer);
        }
        self.does(Does::Answers);
    }

    fn round(&mut self) {
        self.clock.advance(EVERY);
        if self.mode != Mode::Sharded {
            assert!(poll(&mut self.keeper).is_pending());
        }
    }

    /// The counts are the decisions that were made.
    fn law(&self, numbers: &Numbers) -> std::result::Result<(), String> {
        let series = |(outcome, count): (&&str, &u64)| {
            (format!("limiter=api,mode={},outcome={outcome}", self.mode.label()), *count)
        };
        let (made, counted) = (self.made.0.iter().map(series).collect(), numbers.labelled(DECISIONS));
        if counted == made { Ok(()) } else { Err(format!("{made:?} were made, {counted:?} counted")) }
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Well,
    /// Broken: the keeper is dropped before its last round.
    WithoutLastRound,
    /// Broken: it was never spawned.
    WithoutKeeper,
}

/// Decisions of all kinds, in rounds: whether the counts are right in the end. Between rounds they lag.
fn history(mode: Mode, ends: Ends) -> std::result::Result<Made, String> {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let mut scene = scene(mode, 100);
        let (mut lagged, too_long) = (0, vec![b'x'; 1 << 20]);
        for round in 0..12 {
            for at in 0..60 {
                // The third has no room; one cost can never be had.
                let key: &[u8] = [&b"ann"[..], b"bob", b"cid"][at % 3];
                let _ = scene.ask(key, [1, 1, 2, 0, 1, 3, BURST + 1][at % 7]);
            }
            scene.ask(&too_long, 1).unwrap_err();
            scene.crowd(20);
            scene.does(Does::Fails(ErrorKind::Unavailable, Effect::None));
            for key in [b"ann", b"bob", b"cid"] {
                let _ = scene.ask(key, 1);
            }
            scene.does(Does::Answers);
            lagged += u32::from(scene.law(&numbers).is_err());
            if ends != Ends::WithoutKeeper {
                scene.round();
                scene.law(&numbers).map_err(|why| format!("round {round}: {why}"))?;
            }
        }
        assert_eq!(lagged, if mode == Mode::Sharded { 0 } else { 12 });
        for _ in 0..10 {
            scene.ask(b"ann", 1).unwrap();
        }
        if mode != Mode::Sharded {
            scene.law(&numbers).unwrap_err();
        }
        scene.limiter = None;
        scene.clock.advance(EVERY);
        match ends {
            Ends::Well if mode == Mode::Sharded => {}
            Ends::Well => assert!(poll(&mut scene.keeper).is_ready()),
            Ends::WithoutLastRound | Ends::WithoutKeeper => scene.keeper = Box::pin(std::future::ready(())),
        }
        scene.law(&numbers)?;
        Ok(scene.made)
    })
}

#[test]
fn each_decision_is_counted_once_also_by_the_last_round() {
    for mode in MODES {
        let Made(made) = history(mode, Ends::Well).unwrap();
        let outcomes: Vec<_> = made.keys().copied().collect();
        assert_eq!(outcomes, ["allowed", "denied", "error", "never_allowed"], "{mode:?}: {made:?}");
        assert!(made.values().all(|count| *count > 10), "{mode:?}: {made:?}");
    }
}

#[test]
fn keepers_that_count_nothing_are_found() {
    for mode in [Mode::Leased, Mode::LocalFirst] {
        for ends in [Ends::WithoutLastRound, Ends::WithoutKeeper] {
            assert!(history(mode, ends).is_err(), "nobody noticed: {mode:?}, {ends:?}");
        }
    }
}

/// Threads that decide at once, while the keeper takes its rounds.
#[test]
fn of_many_threads_each_decision_is_counted_once() {
    const EACH: u64 = 20_000;
    for mode in [Mode::Leased, Mode::LocalFirst] {
        let numbers = Numbers::default();
        let Scene { clock, limiter, mut keeper, .. } =
            metrics::with_local_recorder(&numbers, || scene(mode, 1_000_000));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (limiter, numbers) = (limiter.clone().unwrap(), &numbers);
                scope.spawn(move || {
                    metrics::with_local_recorder(numbers, || {
                        for at in 0..EACH {
                            let key: &[u8] = if (at + thread) % 4 == 0 { b"bob" } else { b"ann" };
                            // Who waits while the clock moves may wait too long.
                            let _ = block_on(limiter.check(key, 1));
                        }
                    });
                });
            }
            metrics::with_local_recorder(&numbers, || {
                for _ in 0..50 {
                    clock.advance(EVERY);
                    assert!(poll(&mut keeper).is_pending());
                }
            });
        });
        drop(limiter);
        clock.advance(EVERY);
        metrics::with_local_recorder(&numbers, || assert!(poll(&mut keeper).is_ready()));
        let counted: u64 = numbers.labelled(DECISIONS).values().sum();
        assert_eq!(counted, 4 * EACH, "{mode:?}");
    }
}

/// By what they ask for, and how long they took.
#[test]
fn each_call_is_counted_and_so_the_share_that_is_decided_within_the_process_is_seen() {
    for mode in MODES {
        let numbers = Numbers::default();
        let calls = metrics::with_local_recorder(&numbers, || {
            let mut scene = scene(mode, 1);
            scene.does(Does::TakesItsTime);
            for at in 0..20 {
                scene.ask(b"ann", u32::from(at % 5 > 0)).unwrap();
            }
            scene.round();
            scene.store.calls.lock().unwrap().clone()
        });
        let counted = numbers.labelled(CALLS);
        let of = |call: &str| {
            let series = format!("limiter=api,mode={},call={call}", mode.label());
            let count = counted.get(&series).copied().unwrap_or(0);
            if count > 0 {
                let took = numbers.values(&format!("{DURATION}{{{series}}}"));
                assert_eq!(took, vec![MS.as_secs_f64(); usize::try_from(count).unwrap()], "{mode:?}: {call}");
            }
            count
        };
        let [take, look, give, post] = ["take", "look", "give", "post"].map(of);
        let expected: BTreeMap<_, _> =
            [("rules", take + look + post), ("give", give)].into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(calls, expected, "{mode:?}: {counted:?}");
        match mode {
            // Of 16 that cost something, far fewer were asked for.
            Mode::Leased => assert!((1..10).contains(&take) && look == 4 && post == 0, "{counted:?}"),
            Mode::LocalFirst => assert_eq!((take, look, give, post), (0, 0, 0, 1)),
            Mode::Sharded => assert!(take >= 16 && look >= 4 * 3 && post == 0, "{counted:?}"),
        }
        assert!(numbers.labelled(ERRORS).is_empty());
    }
}

#[test]
fn calls_that_fail_or_are_given_up_are_counted_by_kind_and_effect() {
    for mode in MODES {
        let numbers = Numbers::default();
        metrics::with_local_recorder(&numbers, || {
            let mut scene = scene(mode, 1);
            // Of the local-first one the two that it knows are posted by the keeper; the third is asked for.
            for key in [b"ann", b"bob"] {
                scene.ask(key, 1).unwrap();
            }
            scene.does(Does::Fails(ErrorKind::Throttled, Effect::None));
            scene.ask(b"cid", 1).unwrap_err();
            scene.does(Does::Hangs);
            let limiter = scene.limiter.clone().unwrap();
            let mut check: Pin<Box<dyn Future<Output = Result<Decision>> + Send + '_>> =
                Box::pin(limiter.check(b"cid", 1));
            assert!(poll(&mut check).is_pending());
            scene.clock.advance(CALL_MAX);
            let Poll::Ready(Err(error)) = poll(&mut check) else { panic!("{mode:?} waits for ever") };
            assert_eq!(error.kind(), ErrorKind::Timeout);
        });
        let label = mode.label();
        let errors: BTreeMap<_, _> = [("throttled", "none"), ("timeout", "unknown")]
            .map(|(kind, effect)| (format!("limiter=api,mode={label},call=take,kind={kind},effect={effect}"), 1))
            .into();
        assert_eq!(numbers.labelled(ERRORS), errors);
        let took = numbers.values(&format!("{DURATION}{{limiter=api,mode={label},call=take}}"));
        assert_eq!(took.last(), Some(&CALL_MAX.as_secs_f64()), "{mode:?}");
    }
}
