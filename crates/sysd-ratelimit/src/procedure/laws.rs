//! Laws of every algorithm that counts requests in windows, and broken algorithms that they must reject.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sysd_core::Timestamp;

use crate::model::{Decision, Outcome, Rate};

/// What one decision came to.
#[derive(Clone, Debug)]
pub(crate) struct Decided<S> {
    pub(crate) decision: Decision,
    /// The state to write, and how long it lives.
    pub(crate) write: Option<(S, Option<Duration>)>,
}

/// An algorithm under test: decides at a time, in microseconds, on a cost.
pub(crate) type Decide<S> = Box<dyn Fn(Option<&S>, u64, u32) -> Decided<S>>;

/// Says whether a request is admitted, slowly and from all that was admitted before: pairs of time and cost.
pub(crate) type Reference = fn(&Sample, &[(u64, u32)], u64, u32) -> bool;

/// A limit, and requests.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) limit: u32,
    pub(crate) window_us: u64,
    start_us: u64,
    /// By how much the clock moves, and the cost.
    requests: Vec<(i64, u32)>,
}

impl Sample {
    pub(crate) fn rate(&self) -> Rate {
        Rate::new(self.limit, Duration::from_micros(self.window_us)).unwrap()
    }
}

pub(crate) fn at(us: u64) -> Timestamp {
    Timestamp::from_micros(us).unwrap()
}

/// What an algorithm promises beyond the laws of all.
pub(crate) struct Promise<S> {
    pub(crate) make: fn(&Sample) -> Decide<S>,
    pub(crate) reference: Reference,
    /// How many limits a stretch as long as a window may hold.
    pub(crate) limits_in_a_window: u64,
    /// Sets the time of a state.
    pub(crate) set_time: fn(&mut S, u64),
}

fn samples() -> impl Strategy<Value = Sample> {
    let limits = prop_oneof![4 => 1_u32..=9, 1 => Just(1_000)];
    let windows = prop_oneof![
        4 => 1_u64..=40,
        2 => Just(60_000_000),
        1 => Just(2_592_000_000_000),
        1 => Just(3_155_760_000_000_000),
        2 => 262_100_u64..=262_200,
        1 => 524_200_u64..=524_400,
    ];
    let starts =
        prop_oneof![1_700_000_000_000_000..1_700_000_000_000_100_u64, 100_000_000_000_000..=100_000_000_000_009_u64];
    (limits, windows, starts).prop_flat_map(|(limit, window_us, start_us)| {
        let window = i64::try_from(window_us).unwrap();
        let steps = prop_oneof![
            3 => Just(0_i64),
            4 => 0..=window / 3 + 1,
            2 => 0..=2 * window,
            1 => window - 1..=window + 1,
            1 => -window - 1..=0,
        ];
        let costs = prop_oneof![1 => Just(0_u32), 5 => Just(1_u32), 3 => 1..=limit + 1];
        let requests = proptest::collection::vec((steps, costs), 1..40);
        requests.prop_map(move |requests| Sample { limit, window_us, start_us, requests })
    })
}

fn ensure(holds: bool, law: &str, what: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{law}: {what:?}")) }
}

/// The numbers of a decision, each put to the test.
fn numbers_hold<S>(
    decide: &Decide<S>,
    before: Option<&S>,
    after: Option<&S>,
    now_us: u64,
    cost: u32,
    decision: &Decision,
) -> Result<(), String> {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
    let allowed = |state, now_us, cost| decide(state, now_us, cost).decision.is_allowed();
    if let Outcome::Denied { retry_after } = decision.outcome() {
        let retry_us = micros(retry_after);
        ensure(retry_us > 0 && allowed(before, now_us + retry_us, cost), "who waits is admitted", decision)?;
        ensure(!allowed(before, now_us + retry_us - 1, cost), "a microsecond earlier is too early", decision)?;
    }
    let remaining = decision.remaining();
    ensure(remaining <= decision.limit(), "no more remains than the limit", decision)?;
    ensure(remaining == 0 || allowed(after, now_us, remaining), "what remains can be taken", decision)?;
    ensure(!allowed(after, now_us, remaining + 1), "no more can be taken than what remains", decision)?;
    let reset_us = micros(decision.reset_after());
    let left = |now_us| decide(after, now_us, 0).decision.remaining();
    ensure(left(now_us + reset_us) == decision.limit(), "all is there after the reset", decision)?;
    ensure(reset_us == 0 || left(now_us + reset_us - 1) < decision.limit(), "and not earlier", decision)
}

/// Drives an algorithm through a sample, and holds it to every law.
fn laws_hold<S: Clone + PartialEq + std::fmt::Debug>(
    promise: &Promise<S>,
    decide: &Decide<S>,
    sample: &Sample,
) -> Result<(), String> {
    let mut state: Option<S> = None;
    // The same, as a store keeps it that forgets what has expired.
    let (mut kept, mut expires_us) = (None::<S>, u64::MAX);
    let mut admitted: Vec<(u64, u32)> = Vec::new();
    let (mut now_us, mut latest_us) = (sample.start_us, 0);
    for &(step, cost) in &sample.requests {
        now_us = now_us.saturating_add_signed(step);
        if now_us + 3 * sample.window_us > Timestamp::MAX.as_micros() {
            // Time ends here.
            break;
        }
        if now_us >= expires_us {
            kept = None;
        }
        let decided = decide(state.as_ref(), now_us, cost);
        let decision = decided.decision;
        // A store whose clock goes back may have forgotten more.
        let is_back = now_us < latest_us;
        latest_us = latest_us.max(now_us);
        ensure(
            is_back || decide(kept.as_ref(), now_us, cost).decision == decision,
            "what expires is not missed",
            (now_us, cost),
        )?;
        // Time does not go back behind what was admitted.
        let seen_us = admitted.last().map_or(now_us, |&(last_us, _)| last_us.max(now_us));
        let expected = cost == 0 || cost <= sample.limit && (promise.reference)(sample, &admitted, seen_us, cost);
        ensure(decision.is_allowed() == expected, "as the reference", (now_us, cost, &admitted, &decision))?;
        ensure((decision.outcome() == Outcome::NeverAllowed) == (cost > sample.limit), "never means never", decision)?;
        ensure(decided.write.is_some() == (expected && cost > 0), "what takes nothing writes nothing", decision)?;
        let before = state.clone();
        if let Some((new, ttl)) = decided.write {
            expires_us = ttl.map_or(u64::MAX, |ttl| now_us + u64::try_from(ttl.as_micros()).unwrap());
            (state, kept) = (Some(new.clone()), Some(new));
            admitted.push((seen_us, cost));
        }
        numbers_hold(decide, before.as_ref(), state.as_ref(), now_us, cost, &decision)?;
    }
    let most = promise.limits_in_a_window * u64::from(sample.limit);
    for (index, (first_us, _)) in admitted.iter().enumerate() {
        let window = admitted[index..].iter().take_while(|(at_us, _)| at_us - first_us < sample.window_us);
        ensure(window.map(|(_, cost)| u64::from(*cost)).sum::<u64>() <= most, "no window holds too much", &admitted)?;
    }
    Ok(())
}

fn run<S: Clone + PartialEq + std::fmt::Debug + 'static>(
    promise: &Promise<S>,
    cases: u32,
    break_it: Break<S>,
) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&samples(), |sample| {
        let decide = break_it(promise, (promise.make)(&sample));
        laws_hold(promise, &decide, &sample).map_err(TestCaseError::fail)
    });
    outcome.map_err(|error| error.to_string())
}

/// Makes an algorithm that breaks a law.
type Break<S> = fn(&Promise<S>, Decide<S>) -> Decide<S>;

/// The laws hold, and each broken variant breaks one.
pub(crate) fn certify<S: Clone + PartialEq + std::fmt::Debug + 'static>(promise: &Promise<S>) {
    if let Err(error) = run(promise, 4_000, |_, decide| decide) {
        panic!("{error}");
    }
    let mutants: [(&str, Break<S>); 7] = [
        ("forgets what it admitted", |_, decide| Box::new(move |_, now_us, cost| decide(None, now_us, cost))),
        ("trusts a clock that goes back", |promise, decide| {
            let set_time = promise.set_time;
            Box::new(move |state, now_us, cost| {
                let mut state = state.cloned();
                if let Some(state) = &mut state {
                    let written = decide(None, now_us, 1).write.unwrap().0;
                    // Only if that is earlier: a later time is what any state gets.
                    if decide(Some(state), now_us, 1).write.is_some_and(|(new, _)| new != written) {
                        set_time(state, now_us);
                    }
                }
                decide(state.as_ref(), now_us, cost)
            })
        }),
        ("admits one too many", |_, decide| {
            Box::new(move |state, now_us, cost| {
                let decided = decide(state, now_us, cost);
                match decided.decision.outcome() {
                    Outcome::Denied { .. } if cost == decided.decision.remaining() + 1 => decide(None, now_us, cost),
                    _ => decided,
                }
            })
        }),
        ("takes half of what is there", |_, decide| {
            Box::new(move |state, now_us, cost| {
                let decided = decide(state, now_us, cost);
                match decided.decision.outcome() {
                    Outcome::Denied { .. } => decide(state, now_us, decided.decision.remaining()),
                    _ => decided,
                }
            })
        }),
        ("expires too early", |_, decide| {
            Box::new(move |state, now_us, cost| {
                let mut decided = decide(state, now_us, cost);
                if let Some((_, Some(ttl))) = &mut decided.write {
                    *ttl /= 2;
                }
                decided
            })
        }),
        ("sends back too early", |_, decide| later(decide, -1)),
        ("sends back too late", |_, decide| later(decide, 1)),
    ];
    for (name, break_it) in mutants {
        assert!(run(promise, 4_000, break_it).is_err(), "it {name}, and no law is broken");
    }
}

/// Another time to come back.
fn later<S: 'static>(decide: Decide<S>, by_us: i64) -> Decide<S> {
    Box::new(move |state, now_us, cost| {
        let mut decided = decide(state, now_us, cost);
        if let Outcome::Denied { retry_after } = decided.decision.outcome() {
            let us = u64::try_from(retry_after.as_micros()).unwrap().saturating_add_signed(by_us);
            let (limit, remaining) = (decided.decision.limit(), decided.decision.remaining());
            let reset_us = u64::try_from(decided.decision.reset_after().as_micros()).unwrap();
            let outcome = Outcome::Denied { retry_after: Duration::from_micros(us) };
            decided.decision = Decision::new(outcome, limit, remaining, reset_us);
        }
        decided
    })
}
