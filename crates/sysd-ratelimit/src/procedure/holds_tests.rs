#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::procedure::stored::{State, limit, run};

const START_US: u64 = 1_700_000_000_000_000;

/// Rules, and requests: how far the clock moves, and what is asked.
#[derive(Debug, Clone)]
struct Sample {
    rules: Vec<Rule>,
    requests: Vec<(u64, HoldAsk)>,
}

fn samples() -> impl Strategy<Value = Sample> {
    let rules = proptest::collection::vec((0..5_usize, 1_u32..=6, 1_u64..=30), 1..=2);
    let costs = || prop_oneof![5 => 1_u32..=3, 1 => 0..=9_u32];
    let ids = || (0..5_u128).prop_map(HoldId::from_u128);
    let asks = prop_oneof![
        3 => costs().prop_map(|cost| HoldAsk::Take { cost }),
        5 => (ids(), 1_u32..=4, 1_u64..=30).prop_map(|(id, cost, hold_us)| HoldAsk::Reserve { id, cost, hold_us }),
        4 => (ids(), costs()).prop_map(|(id, cost)| HoldAsk::Settle { id, cost }),
        1 => Just(HoldAsk::Look),
    ];
    let steps = prop_oneof![4 => Just(0_u64), 4 => 0..=5_u64, 1 => 0..=40_u64];
    (rules, proptest::collection::vec((steps, asks), 1..40)).prop_map(|(rules, requests)| {
        let rule = |(at, (algorithm, count, period_us))| {
            Rule::new(&format!("rule {at}"), limit(algorithm, count, period_us)).unwrap()
        };
        Sample { rules: rules.into_iter().enumerate().map(rule).collect(), requests }
    })
}

/// How one asks.
type AskAs = fn(&mut State, &[Rule], HoldAsk, Timestamp) -> (HoldsFound, JointDecision);

fn honest(state: &mut State, rules: &[Rule], ask: HoldAsk, now: Timestamp) -> (HoldsFound, JointDecision) {
    let ask = AskHolds::new(rules, ask);
    let found = run(state, &ask, now);
    let mut bytes = OutputBytes::new();
    ask.encode_output(&found, &mut bytes);
    assert_eq!(ask.decode_output(&bytes).unwrap(), found);
    let decision = ask.decision(&found);
    (found, decision)
}

/// Who is held, by a naive model: its place among what was taken, how much, and until when.
type Holds = BTreeMap<u128, (usize, u32, u64)>;

/// What stays taken would have been admitted had nothing else ever been taken; what is held is known, and nothing else; what is charged
/// beyond is missing from what remains.
fn keeps_the_laws(sample: &Sample, ask_as: AskAs) -> Result<(), TestCaseError> {
    let rules = &sample.rules[..];
    let (mut state, mut now_us): (State, u64) = (None, START_US);
    let mut taken: Vec<(Timestamp, u32)> = Vec::new();
    let mut holds = Holds::new();
    for &(step, ask) in &sample.requests {
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        for (at, ..) in holds.extract_if(.., |_, (_, _, until_us)| *until_us <= now_us).map(|(_, hold)| hold) {
            taken[at].1 = 0;
        }
        let (_, before) = ask_as(&mut state.clone(), rules, HoldAsk::Look, now);
        let (found, decision) = ask_as(&mut state, rules, ask, now);
        match ask {
            HoldAsk::Look => prop_assert_eq!(found.answer, Answer::Done),
            HoldAsk::Take { cost } => {
                prop_assert_eq!(decision.is_allowed(), found.answer == Answer::Done);
                if decision.is_allowed() {
                    taken.push((now, cost));
                }
            }
            HoldAsk::Reserve { id, cost, hold_us } => match holds.get_mut(&id.as_u128()) {
                Some((_, _, until_us)) => {
                    *until_us = (now_us + hold_us).max(*until_us);
                    prop_assert_eq!((found.answer, found.until_us), (Answer::Kept, *until_us));
                }
                None if decision.is_allowed() => {
                    prop_assert_eq!((found.answer, found.until_us), (Answer::Done, now_us + hold_us));
                    holds.insert(id.as_u128(), (taken.len(), cost, now_us + hold_us));
                    taken.push((now, cost));
                }
                None => prop_assert_eq!(found.answer, Answer::Denied),
            },
            HoldAsk::Settle { id, cost: real } => match holds.remove(&id.as_u128()) {
                None => prop_assert_eq!(found.answer, Answer::NotHeld),
                Some((at, cost, _)) => {
                    prop_assert_eq!(found.answer, Answer::Done);
                    taken[at].1 = cost.min(real);
                    for (before, after) in before.each().iter().zip(decision.each()).filter(|_| real >= cost) {
                        prop_assert_eq!(after.remaining(), before.remaining().saturating_sub(real - cost));
                    }
                }
            },
        }
    }
    let mut alone: State = None;
    for (now, cost) in taken {
        let (_, decision) = honest(&mut alone, rules, HoldAsk::Take { cost }, now);
        prop_assert!(decision.is_allowed(), "{} at {}", cost, now.as_micros());
    }
    Ok(())
}

fn certify(ask_as: AskAs) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 6_000, failure_persistence: None, ..Config::default() });
    runner.run(&samples(), |sample| keeps_the_laws(&sample, ask_as)).map_err(|error| error.to_string())
}

#[test]
fn holds_keep_the_laws() {
    if let Err(error) = certify(honest) {
        panic!("{error}");
    }
}

/// The holds of a record, changed by hand.
fn changed(state: &mut State, change: impl FnOnce(&mut Vec<Held>)) {
    if let Some((bytes, expires_us)) = state {
        let old = bytes.clone();
        let mut record = schema::decode_state(&old).unwrap();
        change(&mut record.holds);
        record.holds.sort_by_key(|hold| hold.until_us);
        if record.holds.is_empty() && record.entries.is_empty() {
            *state = None;
            return;
        }
        *expires_us = record.holds.last().map_or(*expires_us, |last| last.until_us.max(*expires_us));
        *bytes = schema::encode_state(record.at_us, &record.holds, record.entries.into_iter());
    }
}

#[test]
fn broken_holds_are_found() {
    let broken: [(&str, AskAs); 8] = [
        ("settles for nothing", |state, rules, ask, now| match ask {
            HoldAsk::Settle { id, .. } => honest(state, rules, HoldAsk::Settle { id, cost: 0 }, now),
            _ => honest(state, rules, ask, now),
        }),
        ("charges nothing beyond the hold", |state, rules, ask, now| match ask {
            HoldAsk::Settle { id, cost } => honest(state, rules, HoldAsk::Settle { id, cost: cost.min(1) }, now),
            _ => honest(state, rules, ask, now),
        }),
        ("takes again when asked again", |state, rules, ask, now| match ask {
            HoldAsk::Reserve { id, cost, hold_us } => {
                let id = HoldId::from_u128(id.as_u128() + (u128::from(now.as_micros()) << 64));
                honest(state, rules, HoldAsk::Reserve { id, cost, hold_us }, now)
            }
            _ => honest(state, rules, ask, now),
        }),
        ("gives back what is held, and holds it still", |state, rules, ask, now| {
            let before = state.clone();
            let answer = honest(state, rules, ask, now);
            if let (HoldAsk::Look, Some((bytes, _))) = (ask, before) {
                let held = schema::decode_state(&bytes).unwrap().holds;
                let due = held.into_iter().filter(|hold| hold.until_us <= now.as_micros());
                let again = due.map(|hold| Held { until_us: now.as_micros() + 1, ..hold });
                changed(state, |holds| holds.extend(again));
            }
            answer
        }),
        ("never gives back", |state, rules, ask, now| {
            changed(state, |holds| holds.iter_mut().for_each(|hold| hold.until_us += 1_000));
            honest(state, rules, ask, now)
        }),
        ("gives back early", |state, rules, ask, now| {
            changed(state, |holds| {
                for hold in holds.iter_mut().filter(|hold| hold.until_us > now.as_micros() + 1) {
                    hold.until_us -= 1;
                }
            });
            honest(state, rules, ask, now)
        }),
        ("forgets its holds", |state, rules, ask, now| {
            changed(state, Vec::clear);
            honest(state, rules, ask, now)
        }),
        ("gives what buckets have refilled meanwhile", |state, rules, ask, now| {
            changed(state, |holds| {
                for part in holds.iter_mut().flat_map(|hold| &mut hold.parts) {
                    if let Weight::Bucket { debt, .. } = &mut part.weight {
                        debt.us += 1_000;
                    }
                }
            });
            honest(state, rules, ask, now)
        }),
    ];
    for (name, broken) in broken {
        assert!(certify(broken).is_err(), "one that {name} passed");
    }
}

fn at(us: u64) -> Timestamp {
    Timestamp::from_micros(START_US + us).unwrap()
}

fn reserve(id: u128, cost: u32, hold_us: u64) -> HoldAsk {
    HoldAsk::Reserve { id: HoldId::from_u128(id), cost, hold_us }
}

fn settle(id: u128, cost: u32) -> HoldAsk {
    HoldAsk::Settle { id: HoldId::from_u128(id), cost }
}

#[test]
fn what_expires_comes_back_as_at_its_deadline() {
    // One a second: five are held for three seconds, and nobody asks until the tenth, but somebody took five at the second.
    let rules = [Rule::new("rule", limit(0, 20, 20_000_000)).unwrap()];
    let mut state: State = None;
    honest(&mut state, &rules, reserve(1, 5, 3_000_000), at(0));
    honest(&mut state, &rules, HoldAsk::Take { cost: 15 }, at(2_000_000));
    let (_, left) = honest(&mut state, &rules, HoldAsk::Look, at(10_000_000));
    // At the deadline 17 are owed; of the five three have been refilled, two come back; 15 less seven.
    assert_eq!(left.decision().remaining(), 20 - (17 - 2 - 7));
}

#[test]
fn an_overrun_is_repaid_by_time() {
    let now = at(0);
    for algorithm in 0..5 {
        let rules = [Rule::new("rule", limit(algorithm, 10, 10_000_000)).unwrap()];
        let mut state: State = None;
        assert!(honest(&mut state, &rules, reserve(1, 5, 1_000_000), now).1.is_allowed());
        let (found, left) = honest(&mut state, &rules, settle(1, 25), now);
        assert_eq!((found.answer, left.decision().remaining()), (Answer::Done, 0), "{algorithm}");
        let one = HoldAsk::Take { cost: 1 };
        let (_, denied) = honest(&mut state, &rules, one, now);
        let wait = denied.decision().retry_after().unwrap();
        let later = |wait| now.checked_add(wait).unwrap();
        let early = later(wait.checked_sub(Duration::from_micros(1)).unwrap());
        assert!(!honest(&mut state, &rules, one, early).1.is_allowed(), "{algorithm}");
        assert!(honest(&mut state, &rules, one, later(wait)).1.is_allowed(), "{algorithm}");
        if let Some(bucket) = rules[0].limit().as_bucket() {
            // 25 seconds of debt, and one is there again when all but one of what it holds are owed.
            assert_eq!(wait, Duration::from_secs(26 - u64::from(bucket.burst())));
        }
    }
}

#[test]
fn an_overrun_beyond_all_measure_is_a_long_debt_and_no_overflow() {
    for algorithm in 0..5 {
        let rules = [Rule::new("rule", limit(algorithm, 10, 2_800_000_000_000_000)).unwrap()];
        let mut state: State = None;
        for id in 0..3 {
            honest(&mut state, &rules, HoldAsk::Settle { id: HoldId::from_u128(9), cost: 0 }, at(0));
            honest(&mut state, &rules, reserve(id, 1, 1_000_000), at(0));
            honest(&mut state, &rules, settle(id, u32::MAX), at(0));
            let (_, denied) = honest(&mut state, &rules, HoldAsk::Take { cost: 1 }, at(1));
            assert!(!denied.is_allowed(), "{algorithm}");
        }
    }
}

#[test]
fn another_rate_settles_without_a_gift_and_another_algorithm_leaves_it() {
    let rule = |algorithm, count| [Rule::new("rule", limit(algorithm, count, 10_000_000)).unwrap()];
    let mut state: State = None;
    // Three in ten seconds: 3.33 s each; then seven: 1.43 s each.
    honest(&mut state, &rule(0, 3), reserve(1, 3, 1_000_000), at(0));
    let (_, left) = honest(&mut state, &rule(0, 7), settle(1, 1), at(0));
    assert_eq!(left.decision().remaining(), 5, "one of the new price, rounded up");
    honest(&mut state, &rule(0, 7), reserve(2, 2, 1_000_000), at(0));
    let (found, left) = honest(&mut state, &rule(2, 7), settle(2, 1), at(0));
    assert_eq!((found.answer, left.decision().remaining()), (Answer::Done, 7), "a window begins anew");
}

#[test]
fn a_key_has_so_many_holds_and_no_more() {
    let rules = [Rule::new("rule", limit(2, 1_000, 10_000_000)).unwrap()];
    let mut state: State = None;
    for id in 0..64 {
        assert_eq!(honest(&mut state, &rules, reserve(u128::from(id), 1, 5_000 - id), at(0)).0.answer, Answer::Done);
    }
    let more = reserve(1 << 100, 1, 5_000);
    let (found, _) = honest(&mut state, &rules, more, at(0));
    assert_eq!((found.answer, found.until_us), (Answer::Full, START_US + 5_000 - 63));
    let ask = AskHolds::new(&rules, more);
    assert_eq!(ask.reserved(&found), Reservation::Full { retry_after: Duration::from_micros(5_000 - 63) });
    assert_eq!(honest(&mut state, &rules, more, at(5_000 - 63)).0.answer, Answer::Done);
}

#[test]
fn a_clock_that_goes_back_ends_no_hold_early() {
    let rules = [Rule::new("rule", limit(2, 9, 10_000_000)).unwrap()];
    let mut state: State = None;
    honest(&mut state, &rules, reserve(1, 1, 100), at(1_000));
    let (found, _) = honest(&mut state, &rules, reserve(2, 1, 100), at(500));
    assert_eq!(found.until_us, START_US + 1_100);
    assert_eq!(honest(&mut state, &rules, settle(2, 1), at(1_099)).0.answer, Answer::Done);
    assert_eq!(honest(&mut state, &rules, settle(1, 1), at(1_100)).0.answer, Answer::NotHeld);
}

#[test]
fn bytes_that_are_no_record_are_refused() {
    let rules = [Rule::new("rule", limit(2, 9, 10_000_000)).unwrap()];
    let ask = AskHolds::new(&rules, HoldAsk::Look);
    for bytes in [&b""[..], b"\x01", b"\x01\0\0\0\0\0\0\0\0", b"no record at all"] {
        assert_eq!(ask.apply(Some(bytes), at(0)), Err(undecodable("state")), "{bytes:?}");
    }
    for bytes in [&b""[..], b"\x05", &[0; 9], &[9; 40]] {
        assert!(ask.decode_output(bytes).is_err(), "{bytes:?}");
    }
}
