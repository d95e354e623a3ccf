#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::model::Rule;
use crate::procedure::stored::{State, limit, run};

/// A limit, and requests: how far the clock moves, the cost, and after how many requests it is given back, if ever.
#[derive(Debug, Clone)]
struct Sample {
    limit: Limit,
    requests: Vec<(u64, u32, Option<usize>)>,
}

fn samples() -> impl Strategy<Value = Sample> {
    let limits = (0..5_usize, 1_u32..=6, 1_u64..=20).prop_map(|(at, count, period_us)| limit(at, count, period_us));
    let steps = prop_oneof![4 => Just(0_u64), 4 => 0..=4_u64, 1 => 0..=40_u64];
    let given = prop_oneof![2 => Just(None), 3 => (0..6_usize).prop_map(Some)];
    let requests = proptest::collection::vec((steps, 0..=4_u32, given), 1..40);
    (limits, requests).prop_map(|(limit, requests)| Sample { limit, requests })
}

/// Gives back.
type Give = fn(&mut State, &GiveAll, Timestamp);

/// What stays taken would have been admitted had nothing else ever been taken.
fn admits_no_more(sample: &Sample, give: Give) -> Result<(), TestCaseError> {
    let rule = Rule::new("rule", sample.limit).unwrap();
    let mut state: State = None;
    let mut now_us = 1_700_000_000_000_000_u64;
    let mut kept = Vec::new();
    let mut due: Vec<(usize, GiveAll)> = Vec::new();
    for (at, &(step, cost, given)) in sample.requests.iter().enumerate() {
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        let take = TakeAll::new([(&rule, cost)]);
        let verdict = run(&mut state, &take, now);
        if let Some(back) = GiveAll::of(&take, &verdict) {
            match given {
                Some(later) => due.push((at + later, back)),
                None => kept.push((now, cost)),
            }
        }
        for (_, back) in due.extract_if(.., |(when, _)| *when <= at) {
            give(&mut state, &back, now);
        }
    }
    let mut alone: State = None;
    for (now, cost) in kept {
        let take = TakeAll::new([(&rule, cost)]);
        prop_assert!(run(&mut alone, &take, now).is_allowed(), "{} at {}", cost, now.as_micros());
    }
    Ok(())
}

fn certify(give: Give) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 6_000, failure_persistence: None, ..Config::default() });
    runner.run(&samples(), |sample| admits_no_more(&sample, give)).map_err(|error| error.to_string())
}

fn honest(state: &mut State, give: &GiveAll, now: Timestamp) {
    run(state, give, now);
}

#[test]
fn what_is_given_back_admits_no_more() {
    if let Err(error) = certify(honest) {
        panic!("{error}");
    }
}

#[test]
fn giving_too_much_is_found() {
    let broken: [(&str, Give); 3] = [
        ("gives twice", |state, give, now| {
            honest(state, give, now);
            honest(state, give, now);
        }),
        ("gives as if it had been taken just now", |state, give, now| {
            let mut give = give.clone();
            for taken in &mut give.taken {
                taken.at_us = now.as_micros();
            }
            honest(state, &give, now);
        }),
        ("gives all that was ever taken", |state, _, _| *state = None),
    ];
    for (name, broken) in broken {
        assert!(certify(broken).is_err(), "one that {name} passed");
    }
}

#[test]
fn what_is_given_back_at_once_was_never_taken() {
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&samples(), |sample| {
        let rule = Rule::new("rule", sample.limit).unwrap();
        let mut state: State = None;
        let mut now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        for (step, cost, given) in sample.requests {
            now = now.checked_add(Duration::from_micros(step)).unwrap();
            let look = TakeAll::new([(&rule, 0)]);
            let before = look.decision(&run(&mut state, &look, now));
            let take = TakeAll::new([(&rule, cost)]);
            let verdict = run(&mut state, &take, now);
            if let Some(back) = GiveAll::of(&take, &verdict).filter(|_| given.is_some()) {
                prop_assert_eq!(run(&mut state, &back, now), 1);
                let after = look.decision(&run(&mut state, &look, now));
                prop_assert_eq!(after.decision().remaining(), before.decision().remaining());
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn what_was_not_taken_is_not_given() {
    let rule = Rule::new("rule", limit(2, 5, 1_000_000)).unwrap();
    let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    for cost in [0, 6] {
        let take = TakeAll::new([(&rule, cost)]);
        assert_eq!(GiveAll::of(&take, &run(&mut None, &take, now)), None);
    }
    let take = TakeAll::new([(&rule, 5)]);
    let give = GiveAll::of(&take, &run(&mut None, &take, now)).unwrap();
    assert_eq!(run(&mut None, &give, now), 0, "the store has lost it");
    let mut other: State = None;
    let earlier = Timestamp::from_micros(now.as_micros() - 9).unwrap();
    run(&mut other, &take, earlier);
    assert_eq!(run(&mut other.clone(), &give, now), 0, "the store has another");
    assert!(give.apply(Some(b"no record"), now).is_err());
}

#[test]
fn what_was_taken_from_windows_cut_otherwise_is_not_given() {
    // Ten seconds before the change, three after it: both began where the clock is.
    for algorithm in [2, 3] {
        let before = Rule::new("rule", limit(algorithm, 5, 10_000_000)).unwrap();
        let after = Rule::new("rule", limit(algorithm, 5, 3_000_000)).unwrap();
        let time = |us: u64| Timestamp::from_micros(1_700_000_010_000_000 + us).unwrap();
        let (mut state, take) = (None, TakeAll::new([(&before, 2)]));
        let give = GiveAll::of(&take, &run(&mut state, &take, time(0))).unwrap();
        // Two windows later nothing is left of it; five are taken.
        let full = TakeAll::new([(&after, 5)]);
        assert!(run(&mut state, &full, time(9_000_000)).is_allowed(), "{algorithm}");
        assert_eq!(run(&mut state, &give, time(9_000_000)), 0, "{algorithm}");
        assert!(!run(&mut state, &TakeAll::new([(&after, 1)]), time(9_000_001)).is_allowed(), "{algorithm}");
    }
}

#[test]
fn a_clock_that_goes_back_before_it_is_given_back_gives_nothing() {
    let time = |seconds: u64| Timestamp::from_micros(1_700_000_040_000_000 + seconds * 1_000_000).unwrap();
    // The clock is ahead for one request, which is given back after it has gone back, or before.
    for (algorithm, given_at) in [(0, 55), (1, 55), (2, 55), (3, 55), (4, 55), (2, 170), (3, 170)] {
        let rule = Rule::new("rule", limit(algorithm, 5, 60_000_000)).unwrap();
        let (mut state, one) = (None, TakeAll::new([(&rule, 1)]));
        let admitted = |state: &mut State, at| (0..9).filter(|_| run(state, &one, time(at)).is_allowed()).count();
        let most = admitted(&mut state, 50);
        let take = TakeAll::new([(&rule, 1)]);
        let give = GiveAll::of(&take, &run(&mut state, &take, time(170))).unwrap();
        run(&mut state, &give, time(given_at));
        let after = admitted(&mut state, 55) + admitted(&mut state, 170);
        assert!(after <= most, "{algorithm} given back at {given_at}: {after}");
    }
}
