//! A limiter whose store is slow or down: the table of docs/ratelimit.md, "A store that is slow or down", by a clock that is driven.
#![cfg(feature = "policy")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use sysd_core::breaker::BreakerConfig;
use sysd_core::{Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, Store};
use sysd_ratelimit::policy::{Policy, PolicyLimiter, Reason, RequestView, Ruling};
use sysd_storage::Memory;
use sysd_testkit::{Overridden, Overrides};

mod common;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// It never happens, and nothing is heard of it.
    Hangs,
    /// It happens, and nothing is heard of it.
    Silent,
    /// An error that says that nothing happened.
    Errs(ErrorKind),
}

/// How the store is: for each of the next calls, then for all.
#[derive(Clone, Default)]
struct Patient {
    next: Arc<Mutex<VecDeque<Health>>>,
    then: Arc<Mutex<Option<Health>>>,
    calls: Arc<AtomicUsize>,
}

impl Patient {
    fn is(&self, health: Health) {
        *self.then.lock().unwrap() = Some(health);
    }

    fn plays(&self, healths: impl IntoIterator<Item = Health>) {
        self.next.lock().unwrap().extend(healths);
    }

    fn take_calls(&self) -> usize {
        self.calls.swap(0, Ordering::Relaxed)
    }
}

impl<S: Store> Overrides<S> for Patient {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = self.next.lock().unwrap().pop_front();
        let health = next.or(*self.then.lock().unwrap()).unwrap_or(Health::Well);
        match health {
            Health::Well => store.update(key, procedure).await,
            Health::Hangs => std::future::pending().await,
            Health::Silent => {
                store.update(key, procedure).await?;
                std::future::pending().await
            }
            Health::Errs(kind) => Err(Error::new(kind, Effect::None, "scripted")),
        }
    }
}

type Sick = Overridden<Memory<ManualClock>, Patient>;

const MS: Duration = Duration::from_millis(1);
/// It never opens.
const NO_BREAKER: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(1),
    calls_min: u32::MAX,
    failures_percent: 100,
    open_for: Duration::from_secs(1),
    probes: 1,
};
/// It opens at the first failure.
const EAGER: BreakerConfig = BreakerConfig { calls_min: 1, failures_percent: 1, ..NO_BREAKER };

struct Ward {
    clock: ManualClock,
    patient: Patient,
    truth: Memory<ManualClock>,
    stand_in: Memory<ManualClock>,
    limiter: PolicyLimiter<Sick>,
}

/// Each user three an hour, all together a hundred, which is asked second.
fn limits(on_error: &str, shared_on_error: Option<&str>) -> String {
    let rule = |name: &str, key: &str, rate: &str, on_error: &str| {
        let counted = format!("key = \"{key}\"\nalgorithm = \"fixed_window\"\nrate = \"{rate}\"");
        format!("[[rules]]\nname = \"{name}\"\n{counted}\non_error = \"{on_error}\"\n")
    };
    let shared = shared_on_error.map(|on_error| rule("all", "global", "100/h", on_error));
    format!("name = \"api\"\n{}{}", rule("each", "user", "3/h", on_error), shared.unwrap_or_default())
}

fn ward(text: &str, has_stand_in: bool, breaker: BreakerConfig) -> Ward {
    let clock = common::clock();
    let memory = || Memory::with_clock(clock.clone());
    let (patient, truth, stand_in) = (Patient::default(), memory(), memory());
    let policy = Policy::from_toml("limits.toml", text).unwrap();
    let store = Overridden(truth.clone(), patient.clone());
    let mut limiter = PolicyLimiter::new(store, policy).unwrap().with_clock(clock.clone()).with_breaker(breaker);
    if has_stand_in {
        limiter = limiter.with_stand_in(stand_in.clone()).unwrap();
    }
    Ward { clock, patient, truth, stand_in, limiter }
}

const NO_HEADERS: &[(&str, &str)] = &[];
const REQUEST: RequestView<'static> =
    RequestView { method: "GET", path: "/", peer: None, user: Some("ann"), headers: &NO_HEADERS };

impl Ward {
    /// Asks, and moves the clock on by a millisecond at a time until there is an answer; how many that were.
    fn ask(&self) -> (Ruling, u32) {
        let mut ruling = pin!(self.limiter.check(&REQUEST));
        for waited_ms in 0..100 {
            if let Some(ruling) = ruling.as_mut().now_or_never() {
                return (ruling, waited_ms);
            }
            self.clock.advance(MS);
        }
        panic!("no ruling after 100 ms")
    }

    /// What is left of `each` in a store.
    fn left(&self, store: &Memory<ManualClock>) -> u32 {
        let limiter = PolicyLimiter::new(store.clone(), self.limiter.policy()).unwrap();
        let key = limiter.keys_of(&REQUEST).remove(0);
        futures::executor::block_on(limiter.inspect(&key)).unwrap()[0].decision.remaining()
    }
}

/// Four requests of a user who may make three: which of them pass, why the last did not or did, and how long each waited.
fn row(health: Health, on_error: &str, has_stand_in: bool) -> (Vec<bool>, Reason, Vec<u32>) {
    let ward = ward(&limits(on_error, None), has_stand_in, NO_BREAKER);
    ward.patient.is(health);
    let answers: Vec<_> = (0..4).map(|_| ward.ask()).collect();
    assert_eq!(ward.patient.take_calls(), 4, "each is sent once: {health:?} {on_error} {has_stand_in}");
    let passes = answers.iter().map(|(ruling, _)| ruling.is_allowed()).collect();
    let waits = answers.iter().map(|(_, waited_ms)| *waited_ms).collect();
    for (ruling, _) in &answers {
        let stood_in =
            has_stand_in && on_error == "allow" && health != Health::Well && *ruling.reason() == Reason::Rules;
        assert_eq!(ruling.has_stand_in_decided(), stood_in);
        assert_eq!(ruling.errors().is_empty(), health == Health::Well);
    }
    (passes, answers[3].0.reason().clone(), waits)
}

const LIMITED: [bool; 4] = [true, true, true, false];

#[test]
fn a_store_that_answers_decides() {
    for on_error in ["allow", "deny"] {
        for has_stand_in in [false, true] {
            let found = row(Health::Well, on_error, has_stand_in);
            assert_eq!(found, (LIMITED.to_vec(), Reason::Rules, vec![0; 4]));
        }
    }
}

#[test]
fn a_store_that_is_slow_or_down_opens_closes_or_is_stood_in_for() {
    let outages =
        [ErrorKind::Unavailable, ErrorKind::Throttled, ErrorKind::Timeout, ErrorKind::Contention, ErrorKind::Full];
    let outages = outages.map(|kind| (Health::Errs(kind), 0));
    for (health, waits_ms) in outages.into_iter().chain([(Health::Hangs, 5), (Health::Silent, 5)]) {
        let waits = vec![waits_ms; 4];
        assert_eq!(row(health, "allow", false), (vec![true; 4], Reason::Rules, waits.clone()), "{health:?}");
        assert_eq!(row(health, "allow", true), (LIMITED.to_vec(), Reason::Rules, waits.clone()), "{health:?}");
        for has_stand_in in [false, true] {
            let found = row(health, "deny", has_stand_in);
            assert_eq!(found, (vec![false; 4], Reason::Unavailable, waits.clone()), "{health:?}");
        }
    }
}

#[test]
fn a_mistake_refuses_whatever_stands_by() {
    for kind in [ErrorKind::Corrupt, ErrorKind::Denied, ErrorKind::Config, ErrorKind::Unsupported, ErrorKind::Internal]
    {
        for (on_error, has_stand_in) in [("allow", false), ("allow", true), ("deny", true)] {
            let found = row(Health::Errs(kind), on_error, has_stand_in);
            assert_eq!(found, (vec![false; 4], Reason::Failed, vec![0; 4]), "{kind}");
        }
    }
}

#[test]
fn an_open_breaker_asks_nobody_and_a_store_that_is_well_again_is_found() {
    for (on_error, has_stand_in) in [("allow", false), ("allow", true), ("deny", false), ("deny", true)] {
        let ward = ward(&limits(on_error, None), has_stand_in, EAGER);
        ward.patient.is(Health::Hangs);
        assert_eq!((ward.ask().1, ward.patient.take_calls()), (5, 1));
        assert!(ward.limiter.is_breaker_open());
        let (ruling, waited_ms) = ward.ask();
        assert_eq!((ruling.is_allowed(), waited_ms, ward.patient.take_calls()), (on_error == "allow", 0, 0));
        let error = &ruling.errors()[0];
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
        // Still sick after a second: one probe, then it is left alone again.
        ward.clock.advance(EAGER.open_for);
        assert_eq!((ward.ask().1, ward.patient.take_calls()), (5, 1));
        assert_eq!((ward.ask().1, ward.patient.take_calls()), (0, 0));
        ward.patient.is(Health::Well);
        ward.clock.advance(EAGER.open_for);
        let (ruling, _) = ward.ask();
        assert!(ruling.is_allowed() && !ruling.has_stand_in_decided() && !ward.limiter.is_breaker_open());
        // By the store's own count, which knows nothing of what the stand-in admitted.
        assert_eq!(ruling.decision().unwrap().remaining(), 2);
        assert_eq!((ward.ask().1, ward.patient.take_calls()), (0, 2));
    }
}

#[test]
fn a_probe_whose_caller_is_gone_is_made_again() {
    let ward = ward(&limits("deny", None), false, EAGER);
    ward.patient.is(Health::Hangs);
    ward.ask();
    ward.clock.advance(EAGER.open_for);
    assert!(ward.limiter.check(&REQUEST).now_or_never().is_none(), "dropped here");
    ward.patient.is(Health::Well);
    assert!(ward.ask().0.is_allowed());
    assert_eq!(ward.clock.next_deadline(), None);
}

#[test]
fn a_take_that_may_have_happened_is_counted_at_most_once() {
    let ward = ward(&limits("allow", None), true, NO_BREAKER);
    ward.patient.is(Health::Silent);
    assert!(ward.ask().0.is_allowed());
    let (ruling, _) = ward.ask();
    assert_eq!(ruling.errors()[0].effect(), Effect::Unknown);
    // Each in the store, where nobody heard of it, and in the stand-in, which decided.
    assert_eq!((ward.left(&ward.truth), ward.left(&ward.stand_in)), (1, 1));
}

/// Takes from `each`, and then `all` can't be asked and fails closed.
const TAKEN: [Health; 1] = [Health::Well];

#[test]
fn all_keys_together_wait_no_longer_than_one_and_so_does_giving_back() {
    let ward = ward(&limits("allow", Some("allow")), false, NO_BREAKER);
    ward.patient.is(Health::Hangs);
    let (ruling, waited_ms) = ward.ask();
    assert_eq!((ruling.is_allowed(), waited_ms, ruling.errors().len()), (true, 5, 2));
    let ward = self::ward(&limits("allow", Some("deny")), false, NO_BREAKER);
    ward.patient.plays(TAKEN);
    ward.patient.is(Health::Hangs);
    let (ruling, waited_ms) = ward.ask();
    assert_eq!((ruling.reason(), waited_ms), (&Reason::Unavailable, 10));
    // Nobody knows whether it was given back: it was not.
    assert_eq!(ward.left(&ward.truth), 2);
}

#[test]
fn what_was_taken_is_given_back_where_it_was_taken() {
    // `each` is the stand-in's, and `all` fails closed.
    let ward = ward(&limits("allow", Some("deny")), true, NO_BREAKER);
    ward.patient.plays([Health::Errs(ErrorKind::Unavailable), Health::Errs(ErrorKind::Unavailable)]);
    let (ruling, _) = ward.ask();
    assert_eq!(ruling.reason(), &Reason::Unavailable);
    assert_eq!(ward.patient.take_calls(), 2, "one take each; what is given back is asked of nobody else");
    assert_eq!((ward.left(&ward.truth), ward.left(&ward.stand_in)), (3, 3));
    // The other way round: taken from the store, and given back to it.
    ward.patient.plays(TAKEN.into_iter().chain([Health::Errs(ErrorKind::Unavailable)]));
    assert_eq!(ward.ask().0.reason(), &Reason::Unavailable);
    assert_eq!((ward.left(&ward.truth), ward.left(&ward.stand_in)), (3, 3));
}

#[test]
fn how_long_to_wait_is_said_by_the_policy_or_else_by_the_limiter() {
    let waits = |text: &str, deadline_ms: Option<u64>| {
        let mut ward = ward(text, false, NO_BREAKER);
        if let Some(ms) = deadline_ms {
            ward.limiter = ward.limiter.with_deadline(Duration::from_millis(ms));
        }
        ward.patient.is(Health::Hangs);
        ward.ask().1
    };
    let text = limits("allow", None);
    let set = format!("deadline_ms = 7\n{text}");
    assert_eq!([waits(&text, None), waits(&text, Some(20)), waits(&set, None), waits(&set, Some(20))], [5, 20, 7, 7]);
    for bad in ["0", "60001", "-1", "\"5ms\""] {
        let error = Policy::from_toml("limits.toml", &format!("name = \"api\"\ndeadline_ms = {bad}\n")).unwrap_err();
        assert_eq!((error.line(), error.field()), (Some(2), "deadline_ms"), "{error}");
    }
}

#[test]
fn a_stand_in_that_hangs_is_given_up_too() {
    let mut ward = ward(&limits("allow", None), false, NO_BREAKER);
    let second = Patient::default();
    second.is(Health::Hangs);
    let stand_in = Overridden(ward.stand_in.clone(), second);
    ward.limiter = ward.limiter.with_stand_in(stand_in).unwrap();
    ward.patient.is(Health::Hangs);
    let (ruling, waited_ms) = ward.ask();
    assert_eq!((ruling.is_allowed(), waited_ms), (true, 5));
    ward.patient.is(Health::Errs(ErrorKind::Unavailable));
    let (ruling, waited_ms) = ward.ask();
    assert_eq!((ruling.is_allowed(), waited_ms), (true, 5));
}
