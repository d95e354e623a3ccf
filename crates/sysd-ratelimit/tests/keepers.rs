//! What keepers say of a store that fails, and what requests don't wait for.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{
    Clock as _, Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, Store, yield_now,
};
use sysd_ratelimit::{
    Decision, KeeperError, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, Outcome, Rule, RuleLimiter,
    RuleSet, SlidingLog, TokenBucket,
};
use sysd_storage::Memory;
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::clock;
use common::numbers::Numbers;

const EVERY: Duration = Duration::from_millis(20);

/// What becomes of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answers,
    Fails(ErrorKind, Effect),
    /// The first one, and those after it are answered.
    FailsOnce(ErrorKind, Effect),
    /// Those that would give back are never answered.
    HangsOnGiving,
    /// Those of every third key by the number in its name, after the others have begun, as all are answered then.
    FailsForThird,
    /// Those of one key, whose last bytes these are; those of the others are answered.
    FailsFor([u8; 2], ErrorKind, Effect),
}

#[derive(Clone)]
struct Scripted(Arc<Mutex<Does>>);

impl<S: Store> Overrides<S> for Scripted {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let does = {
            let mut does = self.0.lock().unwrap();
            let now = *does;
            if let Does::FailsOnce(..) = now {
                *does = Does::Answers;
            }
            now
        };
        match does {
            Does::Fails(kind, effect) | Does::FailsOnce(kind, effect) => {
                Err(Error::new(kind, effect, "the password of redis is s3cret").with_key(key))
            }
            Does::FailsFor(name, kind, effect) if key.partition().windows(2).any(|part| part == name) => {
                Err(Error::new(kind, effect, "not this one").with_key(key))
            }
            Does::FailsForThird => {
                // Twice, as `timeout` polls a call again at once.
                yield_now().await;
                yield_now().await;
                let digits = key.partition().iter().filter(|byte| byte.is_ascii_digit());
                if digits.fold(0, |number, digit| 10 * number + u32::from(digit - b'0')) % 3 == 0 {
                    return Err(Error::new(ErrorKind::Unavailable, Effect::None, "not this third").with_key(key));
                }
                store.update(key, procedure).await
            }
            Does::HangsOnGiving if procedure.name().contains("give") => std::future::pending().await,
            _ => store.update(key, procedure).await,
        }
    }
}

type Through = Overridden<Memory<ManualClock>, Scripted>;

fn scene() -> (ManualClock, Memory<ManualClock>, Through, Arc<Mutex<Does>>) {
    let (clock, does) = (clock(), Arc::new(Mutex::new(Does::Answers)));
    let memory = Memory::with_clock(clock.clone());
    let through = Overridden(memory.clone(), Scripted(Arc::clone(&does)));
    (clock, memory, through, does)
}

/// As far as it comes without waiting.
fn poll(future: Pin<&mut (impl Future<Output = ()> + ?Sized)>) -> Poll<()> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn bucket(burst: u32) -> Rule {
    Rule::new("all", TokenBucket::new("10/s".parse().unwrap(), burst).unwrap()).unwrap()
}

/// The series that keepers have beside those of decisions and calls.
fn of_keepers(numbers: &Numbers) -> Vec<String> {
    numbers.names().into_iter().filter(|name| name.starts_with("sysd_ratelimit_keeper")).collect()
}

type Keeper = Pin<Box<dyn Future<Output = ()>>>;

/// A limiter whose keeper has begun, and keeps every [`EVERY`].
fn leased(clock: &ManualClock, store: Through, rule: Rule) -> (LeasedLimiter<Through, ManualClock>, Keeper) {
    let config = LeaseConfig { hold_for: EVERY, ..LeaseConfig::new(64) };
    let (limiter, keeper) = LeasedLimiter::with_clock(store, "api", rule, config, clock.clone()).unwrap();
    let mut keeper: Keeper = Box::pin(keeper);
    assert!(poll(keeper.as_mut()).is_pending());
    (limiter, keeper)
}

/// Neither where the key is new, nor where others of it were decided, nor where there is no room for it.
#[test]
fn a_cost_above_the_limit_asks_no_store() {
    let (clock, _, store, does) = scene();
    let (lease, local) = (
        LeaseConfig { keys_max: 1, ..LeaseConfig::new(8) },
        LocalFirstConfig { keys_max: 1, ..LocalFirstConfig::default() },
    );
    let (leased, _keeper) =
        LeasedLimiter::with_clock(store.clone(), "leased", bucket(10), lease, clock.clone()).unwrap();
    let (local_first, _keeper) = LocalFirstLimiter::with_clock(store, "local", bucket(10), local, clock).unwrap();
    let is_never = |decision: Decision| decision.outcome() == Outcome::NeverAllowed && decision.limit() == 10;
    let outage = Does::Fails(ErrorKind::Unavailable, Effect::None);
    *does.lock().unwrap() = outage;
    assert!(is_never(block_on(leased.check("ann", 11)).unwrap()));
    assert_eq!(leased.keys(), 0);
    assert!(is_never(block_on(local_first.check("ann", 11)).unwrap()));
    *does.lock().unwrap() = Does::Answers;
    assert!(block_on(leased.check("ann", 10)).unwrap().is_allowed());
    assert!(block_on(local_first.check("ann", 10)).unwrap().is_allowed());
    *does.lock().unwrap() = outage;
    for key in ["ann", "bob"] {
        assert!(is_never(block_on(leased.check(key, 11)).unwrap()), "{key}");
        assert!(is_never(block_on(local_first.check(key, u32::MAX)).unwrap()), "{key}");
    }
    // Such a store is seen to fail where it is asked.
    assert!(block_on(leased.check("bob", 10)).is_err());
    assert!(block_on(local_first.check("bob", 10)).is_err());
}

#[test]
fn a_lease_that_could_not_be_given_back_is_told() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let (clock, _, store, does) = scene();
        let (limiter, mut keeper) = leased(&clock, store, bucket(100));
        for _ in 0..4 {
            assert!(block_on(limiter.check("a customer", 1)).unwrap().is_allowed());
        }
        assert_eq!((limiter.in_hand("a customer"), limiter.last_error()), (3, None));
        *does.lock().unwrap() = Does::Fails(ErrorKind::Denied, Effect::None);
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
        let error = limiter.last_error().unwrap();
        let expected = KeeperError { kind: ErrorKind::Denied, effect: Effect::None, at: clock.now(), count: 1 };
        assert_eq!(error, expected);
        let shown = format!("{error:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("customer"), "{shown}");
    });
    let series = "sysd_ratelimit_keeper_errors_total{limiter=api,mode=leased,kind=denied,effect=none}";
    let lost = "sysd_ratelimit_keeper_lost_tokens_total{limiter=api,mode=leased,effect=none}";
    assert_eq!(of_keepers(&numbers), [series.to_owned(), lost.to_owned()]);
    assert_eq!((numbers.count(series), numbers.count(lost)), (1, 3));
}

/// Where a store is away for long: what may still be given back is not lost, and what has no room any more is.
#[test]
fn tokens_that_are_lost_are_counted() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let (clock, _, store, does) = scene();
        let (limiter, mut keeper) = leased(&clock, store, bucket(100));
        let leave_one = |key: &str| {
            for _ in 0..2 {
                assert!(block_on(limiter.check(key, 1)).unwrap().is_allowed());
            }
            assert_eq!(limiter.in_hand(key), 1);
        };
        leave_one("ann");
        // Nothing has happened: a later round gives it back.
        *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::None);
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
        assert!(!numbers.names().iter().any(|name| name.contains("lost")));
        // Nobody knows.
        *does.lock().unwrap() = Does::Fails(ErrorKind::Timeout, Effect::Unknown);
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
        // Five rests, of which four wait: the last one of them is in hand first.
        *does.lock().unwrap() = Does::Answers;
        for _ in 0..6 {
            leave_one("bob");
            *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::None);
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_pending());
            *does.lock().unwrap() = Does::Answers;
        }
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
    });
    let lost = |effect: &str| {
        numbers.count(&format!("sysd_ratelimit_keeper_lost_tokens_total{{limiter=api,mode=leased,effect={effect}}}"))
    };
    assert_eq!((lost("unknown"), lost("none")), (1, 2));
}

#[test]
fn what_could_not_be_posted_is_told_until_all_of_it_is() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let (clock, memory, store, does) = scene();
        let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
        let made = LocalFirstLimiter::with_clock(store, "api", bucket(100), config, clock.clone()).unwrap();
        let (limiter, keeper) = made;
        let mut keeper = pin!(keeper);
        assert!(poll(keeper.as_mut()).is_pending());
        assert!(block_on(limiter.check("ann", 40)).unwrap().is_allowed());
        *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::Unknown);
        for round in 1..=3 {
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_pending());
            let error = limiter.last_error().unwrap();
            assert_eq!((error.kind, error.effect, error.count), (ErrorKind::Unavailable, Effect::Unknown, round));
        }
        *does.lock().unwrap() = Does::Answers;
        // The store is looked at first, as nobody knows what it has done.
        for _ in 0..2 {
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_pending());
        }
        assert_eq!((limiter.last_error().unwrap().count, limiter.lag()), (3, Duration::ZERO));
        let central = RuleLimiter::new(memory, "api", RuleSet::new([bucket(100)]).unwrap()).unwrap();
        assert!(block_on(central.check("ann", 0)).unwrap().decision().remaining() <= 61);
    });
    let series = "sysd_ratelimit_keeper_errors_total{limiter=api,mode=local_first,kind=unavailable,effect=unknown}";
    assert_eq!((of_keepers(&numbers), numbers.count(series)), (vec![series.to_owned()], 3));
}

#[test]
fn who_asks_for_a_batch_does_not_wait_for_the_rest_of_the_one_before() {
    let (clock, memory, store, does) = scene();
    let rule = Rule::new("all", SlidingLog::new("100/h".parse().unwrap()).unwrap()).unwrap();
    let (limiter, mut keeper) = leased(&clock, store, rule.clone());
    for _ in 0..4 {
        assert!(block_on(limiter.check("ann", 1)).unwrap().is_allowed());
    }
    // Of 1, 2 and 4 three are left; their time is over.
    assert_eq!(limiter.in_hand("ann"), 3);
    clock.advance(EVERY);
    *does.lock().unwrap() = Does::HangsOnGiving;
    let asked = {
        let mut check = pin!(limiter.check("ann", 1));
        check.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    let Poll::Ready(Ok(decision)) = asked else { panic!("it waits: {asked:?}") };
    assert!(decision.is_allowed());
    // The keeper gives it back.
    *does.lock().unwrap() = Does::Answers;
    assert!(poll(keeper.as_mut()).is_pending());
    let central = RuleLimiter::new(memory, "api", RuleSet::new([rule]).unwrap()).unwrap();
    assert_eq!(block_on(central.check("ann", 0)).unwrap().decision().remaining(), 100 - 5);
}

#[test]
fn a_greater_cost_than_one_that_is_denied_is_denied_without_a_call_and_waits_for_what_it_lacks_more() {
    let (clock, _, store, does) = scene();
    let (limiter, _keeper) =
        LeasedLimiter::with_clock(store, "api", bucket(10), LeaseConfig::new(8), clock.clone()).unwrap();
    assert!(block_on(limiter.check("ann", 9)).unwrap().is_allowed());
    assert_eq!(block_on(limiter.check("ann", 3)).unwrap().retry_after(), Some(Duration::from_millis(200)));
    *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::None);
    clock.advance(Duration::from_millis(50));
    let wait = |cost| block_on(limiter.check("ann", cost)).map(|decision| decision.retry_after());
    assert_eq!(wait(3).unwrap(), Some(Duration::from_millis(150)));
    assert_eq!(wait(5).unwrap(), Some(Duration::from_millis(350)));
    assert_eq!(wait(11).unwrap(), None, "it can never be");
    assert!(wait(1).is_err(), "a smaller one may pass: the store is asked");
    // Who waits so long is admitted.
    *does.lock().unwrap() = Does::Answers;
    clock.advance(Duration::from_millis(350));
    assert!(block_on(limiter.check("ann", 5)).unwrap().is_allowed());
}

/// How the others of so many keys fare, round by round, where the calls for one fail so: how many of them are done, after rounds.
fn done_beside_one_that_fails(
    kind: ErrorKind,
    rounds: u32,
    limiter: impl FnOnce(Through, ManualClock) -> Pin<Box<dyn Future<Output = ()>>>,
    is_done: impl Fn(&Memory<ManualClock>, [u8; 2]) -> bool,
) -> usize {
    let (clock, memory, store, does) = scene();
    let mut keeper = limiter(store, clock.clone());
    assert!(poll(keeper.as_mut()).is_pending());
    *does.lock().unwrap() = Does::FailsFor(name(77), kind, Effect::None);
    for _ in 0..rounds {
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
    }
    *does.lock().unwrap() = Does::Answers;
    (0..KEYS).filter(|&at| at != 77 && is_done(&memory, name(at))).count()
}

/// More than a round has under way at once.
const KEYS: u8 = 200;

/// No part of one is another one.
fn name(at: u8) -> [u8; 2] {
    [b'a' + at / 16, b'A' + at % 16]
}

fn leased_beside_one_that_fails(kind: ErrorKind, rounds: u32) -> usize {
    // A log gives back exactly, whenever.
    let rule = Rule::new("all", SlidingLog::new("100/h".parse().unwrap()).unwrap()).unwrap();
    let of_limiter = rule.clone();
    let limiter = |store: Through, clock: ManualClock| {
        let config = LeaseConfig { hold_for: EVERY, ..LeaseConfig::new(64) };
        let (limiter, keeper) = LeasedLimiter::with_clock(store, "", of_limiter, config, clock).unwrap();
        for at in 0..KEYS {
            for _ in 0..2 {
                assert!(block_on(limiter.check(name(at), 1)).unwrap().is_allowed());
            }
            assert_eq!(limiter.in_hand(name(at)), 1);
        }
        // It lives as long as its keeper is asked.
        Box::pin(async move {
            keeper.await;
            drop(limiter);
        }) as Pin<Box<dyn Future<Output = ()>>>
    };
    done_beside_one_that_fails(kind, rounds, limiter, |memory, name| {
        let central = RuleLimiter::new(memory.clone(), "", RuleSet::new([rule.clone()]).unwrap()).unwrap();
        block_on(central.check(name, 0)).unwrap().decision().remaining() == 98
    })
}

fn local_first_beside_one_that_fails(kind: ErrorKind, rounds: u32) -> usize {
    let rule = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 100).unwrap()).unwrap();
    let of_limiter = rule.clone();
    let limiter = |store: Through, clock: ManualClock| {
        let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
        let (limiter, keeper) = LocalFirstLimiter::with_clock(store, "", of_limiter, config, clock).unwrap();
        for at in 0..KEYS {
            assert!(block_on(limiter.check(name(at), 2)).unwrap().is_allowed());
        }
        Box::pin(async move {
            keeper.await;
            drop(limiter);
        }) as Pin<Box<dyn Future<Output = ()>>>
    };
    done_beside_one_that_fails(kind, rounds, limiter, |memory, name| {
        let central = RuleLimiter::new(memory.clone(), "", RuleSet::new([rule.clone()]).unwrap()).unwrap();
        block_on(central.check(name, 0)).unwrap().decision().remaining() == 98
    })
}

#[test]
fn a_key_that_fails_ends_no_round_for_the_others() {
    let others = usize::from(KEYS) - 1;
    assert_eq!(leased_beside_one_that_fails(ErrorKind::Denied, 1), others);
    assert_eq!(leased_beside_one_that_fails(ErrorKind::Contention, 1), others);
    assert_eq!(local_first_beside_one_that_fails(ErrorKind::Denied, 1), others);
    assert_eq!(local_first_beside_one_that_fails(ErrorKind::Contention, 1), others);
}

/// A round ends at a key for which the store does not answer; the next begins behind it.
#[test]
fn a_key_that_is_not_answered_keeps_none_from_its_turn() {
    let others = usize::from(KEYS) - 1;
    for kind in [ErrorKind::Timeout, ErrorKind::Unavailable] {
        assert_eq!(leased_beside_one_that_fails(kind, 2), others);
        assert_eq!(local_first_beside_one_that_fails(kind, 2), others);
    }
}

/// Part of a store is away, and with it a third of all keys: rounds end early, and each of the others has its turn soon, as each round tries as many as are
/// under way at once.
#[test]
fn keys_that_are_not_answered_keep_none_from_its_turn_however_many_they_are() {
    const MANY: u16 = 1_000;
    let name = |at: u16| format!("key {at}");
    let until_done = |mut keeper: Keeper, clock: &ManualClock, is_done: &dyn Fn(u16) -> bool| {
        let others = || (0..MANY).filter(|at| at % 3 != 0);
        (1..=200).find(|_| {
            clock.advance(EVERY);
            for _ in 0..200 {
                assert!(poll(keeper.as_mut()).is_pending());
            }
            others().all(is_done)
        })
    };

    let (clock, memory, store, does) = scene();
    let rule = Rule::new("all", SlidingLog::new("100/h".parse().unwrap()).unwrap()).unwrap();
    let (limiter, keeper) = leased(&clock, store, rule.clone());
    for at in 0..MANY {
        for _ in 0..2 {
            assert!(block_on(limiter.check(name(at), 1)).unwrap().is_allowed());
        }
        assert_eq!(limiter.in_hand(name(at)), 1);
    }
    *does.lock().unwrap() = Does::FailsForThird;
    let central = RuleLimiter::new(memory, "api", RuleSet::new([rule]).unwrap()).unwrap();
    let left = |at| block_on(central.check(name(at), 0)).unwrap().decision().remaining();
    let rounds = until_done(keeper, &clock, &|at| left(at) == 98).unwrap();
    // 32 at once are 32 rounds, and more where the last one that fails is not the last of those; which it is lies with the table's seed.
    // Rounds that begin behind the first one that fails are over 200.
    assert!((20..=100).contains(&rounds), "leased: {rounds} rounds");

    let (clock, memory, store, does) = scene();
    let rule = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 100).unwrap()).unwrap();
    let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
    let made = LocalFirstLimiter::with_clock(store, "api", rule.clone(), config, clock.clone()).unwrap();
    let (limiter, keeper) = made;
    let mut keeper: Keeper = Box::pin(keeper);
    assert!(poll(keeper.as_mut()).is_pending());
    for at in 0..MANY {
        assert!(block_on(limiter.check(name(at), 2)).unwrap().is_allowed());
    }
    *does.lock().unwrap() = Does::FailsForThird;
    let central = RuleLimiter::new(memory, "api", RuleSet::new([rule]).unwrap()).unwrap();
    let left = |at| block_on(central.check(name(at), 0)).unwrap().decision().remaining();
    let rounds = until_done(keeper, &clock, &|at| left(at) == 98).unwrap();
    assert!((10..=50).contains(&rounds), "local-first: {rounds} rounds");
}

/// What others give back is there for a process that was denied, as soon as it has forgotten that.
#[test]
fn a_denial_that_lasts_long_is_remembered_no_longer_than_a_batch_is_held() {
    let (clock, memory, store, _) = scene();
    let rule = Rule::new("all", SlidingLog::new("10/h".parse().unwrap()).unwrap()).unwrap();
    let config = LeaseConfig { hold_for: EVERY, ..LeaseConfig::new(8) };
    let make = |store| LeasedLimiter::with_clock(store, "api", rule.clone(), config, clock.clone()).unwrap();
    let ((denied, _keeper), (other, keeper)) = (make(store.clone()), make(store));
    let mut keeper = pin!(keeper);
    assert!(poll(keeper.as_mut()).is_pending());
    // Of 1, 2 and 4 it holds 3; then there are 3 left, which the other takes.
    for _ in 0..4 {
        assert!(block_on(other.check("ann", 1)).unwrap().is_allowed());
    }
    assert!(block_on(denied.check("ann", 3)).unwrap().is_allowed());
    assert_eq!(block_on(denied.check("ann", 1)).unwrap().retry_after(), Some(Duration::from_secs(3_600)));
    clock.advance(EVERY.saturating_sub(Duration::from_micros(1)));
    let wait = Duration::from_secs(3_600).saturating_sub(EVERY) + Duration::from_micros(1);
    assert_eq!(block_on(denied.check("ann", 1)).unwrap().retry_after(), Some(wait));
    clock.advance(Duration::from_micros(1));
    assert!(poll(keeper.as_mut()).is_pending());
    let central = RuleLimiter::new(memory, "api", RuleSet::new([rule.clone()]).unwrap()).unwrap();
    assert_eq!(block_on(central.check("ann", 0)).unwrap().decision().remaining(), 3);
    assert!(block_on(denied.check("ann", 1)).unwrap().is_allowed());
}

/// A right that is missing for a while: what was admitted is posted once it is there again, and until then nobody is let through unasked.
#[test]
fn what_the_store_refused_to_take_is_posted_again() {
    for effect in [Effect::None, Effect::Unknown] {
        let (clock, memory, store, does) = scene();
        let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
        let hourly = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 100).unwrap()).unwrap();
        let (limiter, keeper) =
            LocalFirstLimiter::with_clock(store, "api", hourly.clone(), config, clock.clone()).unwrap();
        let mut keeper = pin!(keeper);
        assert!(poll(keeper.as_mut()).is_pending());
        assert!(block_on(limiter.check("ann", 40)).unwrap().is_allowed());
        *does.lock().unwrap() = Does::Fails(ErrorKind::Denied, effect);
        for round in 1..=10 {
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_pending());
            // It is not as if it had been posted.
            assert_eq!(
                (limiter.last_error().unwrap().count, limiter.lag()),
                (round, EVERY * u32::try_from(round).unwrap())
            );
            let error = block_on(limiter.check("ann", 1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
        }
        *does.lock().unwrap() = Does::Answers;
        for _ in 0..2 {
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_pending());
        }
        let central = RuleLimiter::new(memory, "api", RuleSet::new([hourly]).unwrap()).unwrap();
        assert_eq!(block_on(central.check("ann", 0)).unwrap().decision().remaining(), 60);
        assert_eq!(limiter.lag(), Duration::ZERO);
        // It is decided within the process again.
        *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::None);
        assert_eq!(block_on(limiter.check("ann", 1)).unwrap().remaining(), 59);
    }
}

/// A store that refuses for ever is not asked for ever.
#[test]
fn what_the_store_refuses_64_times_is_forgotten() {
    let (clock, memory, store, does) = scene();
    let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
    let hourly = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 100).unwrap()).unwrap();
    let (limiter, keeper) = LocalFirstLimiter::with_clock(store, "api", hourly.clone(), config, clock.clone()).unwrap();
    let mut keeper = pin!(keeper);
    assert!(poll(keeper.as_mut()).is_pending());
    assert!(block_on(limiter.check("ann", 40)).unwrap().is_allowed());
    *does.lock().unwrap() = Does::Fails(ErrorKind::Corrupt, Effect::None);
    for _ in 0..80 {
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
    }
    assert_eq!(limiter.last_error().unwrap().count, 64);
    // Also then nobody is let through unasked.
    assert_eq!(block_on(limiter.check("ann", 1)).unwrap_err().kind(), ErrorKind::Corrupt);
    *does.lock().unwrap() = Does::Answers;
    assert_eq!(block_on(limiter.check("ann", 1)).unwrap().remaining(), 99);
    let central = RuleLimiter::new(memory, "api", RuleSet::new([hourly]).unwrap()).unwrap();
    assert_eq!(block_on(central.check("ann", 0)).unwrap().decision().remaining(), 99);
}

/// What a store does in a keeper's last round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Does(Does),
    /// It is never answered, and the keeper is dropped in the middle of it.
    IsCutOff,
    /// Broken: the keeper is dropped before.
    IsLeftOut,
}

/// What became of the tokens that a process held when its last limiter went.
#[derive(Debug, PartialEq, Eq)]
struct Accounts {
    held: u64,
    given_back: u64,
    lost: u64,
    /// They may have been given back.
    unknown: u64,
}

impl Accounts {
    const fn add_up(&self) -> bool {
        self.held == self.given_back + self.lost + self.unknown
    }
}

/// Of as many keys as a round has under way several times over, of each a token in hand and one that could not be given back before. The keeper sleeps when the
/// last limiter goes, so one more round comes first, for which what is in hand is not due.
fn last_round(last: Last) -> Accounts {
    let numbers = Numbers::default();
    let (held, given_back) = metrics::with_local_recorder(&numbers, || {
        let (clock, memory, store, does) = scene();
        // A log gives back exactly, whenever.
        let rule = Rule::new("all", SlidingLog::new("100/h".parse().unwrap()).unwrap()).unwrap();
        let (limiter, mut keeper) = leased(&clock, store, rule.clone());
        let ask_twice = || {
            for at in 0..KEYS {
                for _ in 0..2 {
                    assert!(block_on(limiter.check(name(at), 1)).unwrap().is_allowed());
                }
                assert_eq!(limiter.in_hand(name(at)), 1);
            }
        };
        ask_twice();
        *does.lock().unwrap() = Does::Fails(ErrorKind::Unavailable, Effect::None);
        clock.advance(EVERY);
        assert!(poll(keeper.as_mut()).is_pending());
        *does.lock().unwrap() = Does::Answers;
        clock.advance(EVERY / 2);
        ask_twice();
        let central = RuleLimiter::new(memory, "api", RuleSet::new([rule]).unwrap()).unwrap();
        let left = || -> u64 {
            let of_key = |at| u64::from(block_on(central.check(name(at), 0)).unwrap().decision().remaining());
            (0..KEYS).map(of_key).sum()
        };
        let before = left();
        drop(limiter);
        *does.lock().unwrap() = match last {
            Last::Does(does) => does,
            Last::IsCutOff => Does::HangsOnGiving,
            Last::IsLeftOut => Does::Answers,
        };
        if last == Last::IsLeftOut {
            drop(keeper);
            return (2 * u64::from(KEYS), left() - before);
        }
        clock.advance(EVERY / 2);
        if last == Last::IsCutOff || last == Last::Does(Does::HangsOnGiving) {
            // Each round waits for what is under way, and begins no other.
            assert!(poll(keeper.as_mut()).is_pending());
            clock.advance(LeaseConfig::new(1).call_wait_max);
            assert!(poll(keeper.as_mut()).is_pending());
            if last == Last::IsCutOff {
                drop(keeper);
            } else {
                clock.advance(LeaseConfig::new(1).call_wait_max);
                assert!(poll(keeper.as_mut()).is_ready());
            }
        } else {
            assert!(poll(keeper.as_mut()).is_ready(), "{last:?}");
        }
        (2 * u64::from(KEYS), left() - before)
    });
    let series = numbers.labelled("sysd_ratelimit_keeper_lost_tokens_total");
    let of = |effect| series.get(&format!("limiter=api,mode=leased,effect={effect}")).copied().unwrap_or(0);
    Accounts { held, given_back, lost: of("none"), unknown: of("unknown") }
}

#[test]
fn what_the_last_round_can_not_give_back_is_counted_as_lost() {
    let held = 2 * u64::from(KEYS);
    // So many are under way at once, in each of two rounds.
    let sent = 2 * 32;
    let fails = |kind, effect| Last::Does(Does::Fails(kind, effect));
    for (last, [given_back, lost, unknown]) in [
        (Last::Does(Does::Answers), [held, 0, 0]),
        // The first of each round tells that nobody is answered; the others are not tried.
        (fails(ErrorKind::Unavailable, Effect::None), [0, held, 0]),
        (fails(ErrorKind::Timeout, Effect::Unknown), [0, held - 2, 2]),
        // Each is tried.
        (fails(ErrorKind::Denied, Effect::None), [0, held, 0]),
        (fails(ErrorKind::Contention, Effect::Unknown), [0, 0, held]),
        (Last::Does(Does::HangsOnGiving), [0, held - sent, sent]),
        (Last::IsCutOff, [0, held - sent, sent]),
        (Last::Does(Does::FailsFor(name(77), ErrorKind::Denied, Effect::None)), [held - 2, 2, 0]),
    ] {
        let accounts = last_round(last);
        assert_eq!(accounts, Accounts { held, given_back, lost, unknown }, "{last:?}");
        assert!(accounts.add_up());
    }
    let left_out = last_round(Last::IsLeftOut);
    assert!(!left_out.add_up(), "nobody noticed that there was none: {left_out:?}");
}

/// The same of what was admitted and not posted: it is posted, or told. The keeper sleeps when the last limiter goes, so one more round comes
/// before the last.
#[test]
fn what_the_last_round_can_not_post_is_told() {
    const ADMITTED: u32 = 40;
    let hourly = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 100).unwrap()).unwrap();
    for (last, forgotten, errors) in [
        (Does::Answers, 0, 0),
        // The last round looks, and posts.
        (Does::FailsOnce(ErrorKind::Timeout, Effect::Unknown), 0, 1),
        (Does::FailsOnce(ErrorKind::Unavailable, Effect::None), 0, 1),
        (Does::Fails(ErrorKind::Timeout, Effect::Unknown), ADMITTED, 2),
        (Does::Fails(ErrorKind::Unavailable, Effect::None), ADMITTED, 2),
        (Does::Fails(ErrorKind::Denied, Effect::None), ADMITTED, 2),
    ] {
        let numbers = Numbers::default();
        metrics::with_local_recorder(&numbers, || {
            let (clock, memory, store, does) = scene();
            let config = LocalFirstConfig { flush_every: EVERY, ..LocalFirstConfig::default() };
            let made = LocalFirstLimiter::with_clock(store, "api", hourly.clone(), config, clock.clone()).unwrap();
            let (limiter, keeper) = made;
            let mut keeper = pin!(keeper);
            assert!(poll(keeper.as_mut()).is_pending());
            assert!(block_on(limiter.check("ann", ADMITTED)).unwrap().is_allowed());
            drop(limiter);
            *does.lock().unwrap() = last;
            clock.advance(EVERY);
            assert!(poll(keeper.as_mut()).is_ready());
            *does.lock().unwrap() = Does::Answers;
            let central = RuleLimiter::new(memory, "api", RuleSet::new([hourly.clone()]).unwrap()).unwrap();
            let remaining = block_on(central.check("ann", 0)).unwrap().decision().remaining();
            assert_eq!(remaining, 100 - ADMITTED + forgotten, "{last:?}");
        });
        let told: u64 = numbers.labelled("sysd_ratelimit_keeper_errors_total").values().sum();
        assert_eq!(told, errors, "{last:?}");
    }
}
