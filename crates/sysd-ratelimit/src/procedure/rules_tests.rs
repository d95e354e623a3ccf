#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sysd_core::Timestamp;

use super::*;
use crate::model::{Decision, Outcome};
use crate::procedure::stored::{State, limit, run};

const ALGORITHMS: usize = 5;

/// Rules, and requests: how far the clock moves, which rules are asked, and for how much.
#[derive(Debug, Clone)]
struct Sample {
    rules: Vec<Rule>,
    requests: Vec<(u64, Vec<(usize, u32)>)>,
}

fn samples() -> impl Strategy<Value = Sample> {
    let rule = (0..ALGORITHMS, 1_u32..=5, 1_u64..=20);
    proptest::collection::vec(rule, 1..=4).prop_flat_map(|rules| {
        let count = rules.len();
        let name = |(at, (algorithm, limit_, period_us))| {
            Rule::new(&format!("rule {at}"), limit(algorithm, limit_, period_us)).unwrap()
        };
        let rules: Vec<_> = rules.into_iter().enumerate().map(name).collect();
        let some = proptest::sample::subsequence((0..count).collect::<Vec<_>>(), 1..=count);
        let asked = some.prop_flat_map(|some| {
            let costs =
                proptest::collection::vec(prop_oneof![1 => Just(0_u32), 6 => Just(1), 2 => 0..=6_u32], some.len());
            costs.prop_map(move |costs| some.iter().copied().zip(costs).collect::<Vec<_>>())
        });
        let steps = prop_oneof![4 => Just(0_u64), 4 => 0..=4_u64, 1 => 0..=40_u64];
        proptest::collection::vec((steps, asked), 1..40)
            .prop_map(move |requests| Sample { rules: rules.clone(), requests })
    })
}

/// Decides on a request for some rules, on one record.
type Joint = fn(&mut State, &[(&Rule, u32)], Timestamp) -> Vec<Decision>;

fn joint(state: &mut State, asked: &[(&Rule, u32)], now: Timestamp) -> Vec<Decision> {
    let take = TakeAll::new(asked.iter().copied());
    let output = run(state, &take, now);
    let mut bytes = OutputBytes::new();
    take.encode_output(&output, &mut bytes);
    assert_eq!(take.decode_output(&bytes).unwrap(), output);
    take.decision(&output).each().to_vec()
}

/// One record decides as records of their own do, asked first whether all of them would.
fn as_apart(sample: &Sample, joint: Joint) -> Result<(), TestCaseError> {
    let mut together: State = None;
    let mut apart: Vec<State> = vec![None; sample.rules.len()];
    let mut now_us = 1_700_000_000_000_000_u64;
    for (step, asked) in &sample.requests {
        // Were the clock to go back, what expired before would be forgotten: here earlier, there later.
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        let mut ask = |at: usize, cost: u32, takes: bool| {
            let limit = &sample.rules[at].limit();
            let take = limit.take(cost);
            let mut state = apart[at].clone();
            let output = run(&mut state, &take, now);
            if takes {
                apart[at] = state;
            }
            limit.decision(&take, &output)
        };
        let allowed = asked.iter().all(|&(at, cost)| ask(at, cost, false).is_allowed());
        let expected: Vec<_> = asked
            .iter()
            .map(|&(at, cost)| match ask(at, cost, allowed) {
                decision if !allowed && decision.is_allowed() => ask(at, 0, false),
                decision => decision,
            })
            .collect();
        let rules: Vec<_> = asked.iter().map(|&(at, cost)| (&sample.rules[at], cost)).collect();
        prop_assert_eq!(joint(&mut together, &rules, now), expected, "{:?} at {}", asked, now_us);
    }
    Ok(())
}

fn certify(joint: Joint) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    runner.run(&samples(), |sample| as_apart(&sample, joint)).map_err(|error| error.to_string())
}

#[test]
fn one_record_decides_as_records_of_their_own() {
    if let Err(error) = certify(joint) {
        panic!("{error}");
    }
}

#[test]
fn broken_records_are_found() {
    let broken: [(&str, Joint); 5] = [
        ("takes from those that have enough", |state, asked, now| {
            asked.iter().flat_map(|&rule| joint(state, &[rule], now)).collect()
        }),
        ("takes nothing", |state, asked, now| joint(&mut state.clone(), asked, now)),
        ("forgets the rules that are not asked", |state, asked, now| {
            let mut own = state.clone();
            if let Some((bytes, _)) = &mut own {
                let asked = |entry: &Entry<'_>| asked.iter().any(|(rule, _)| rule.id() == entry.id);
                *bytes = schema::encode_state(schema::decode_state(&bytes.clone()).unwrap().into_iter().filter(asked));
            }
            let own = &mut own.filter(|(bytes, _)| bytes.len() > 1);
            let each = joint(own, asked, now);
            state.clone_from(own);
            each
        }),
        ("expires with the first of them", |state, asked, now| {
            let each = joint(state, asked, now);
            if let Some((bytes, expires_us)) = state {
                let ends = schema::decode_state(bytes).unwrap().into_iter().map(|entry| entry.expires_us);
                *expires_us = ends.min().unwrap();
            }
            each
        }),
        ("says what a denied request would have left", |state, asked, now| {
            let each = joint(state, asked, now);
            if each.iter().all(Decision::is_allowed) {
                return each;
            }
            asked.iter().flat_map(|&rule| joint(&mut state.clone(), &[rule], now)).collect()
        }),
    ];
    for (name, broken) in broken {
        assert!(certify(broken).is_err(), "one that {name} passed");
    }
}

/// Asks whether the request would be allowed: what the take says that follows it, but of an allowed one, what is there.
type Look = fn(&mut State, &TakeAll, Timestamp) -> JointDecision;

fn look(state: &mut State, take: &TakeAll, now: Timestamp) -> JointDecision {
    let look = take.clone().look();
    let output = run(state, &look, now);
    let mut bytes = OutputBytes::new();
    look.encode_output(&output, &mut bytes);
    assert_eq!(look.decode_output(&bytes).unwrap(), output);
    assert_eq!(crate::procedure::GiveAll::of(&look, &output), None, "a look took something");
    look.decision(&output)
}

fn certify_look(look: Look) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&samples(), |sample| {
        let mut state: State = None;
        let mut now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        for (step, asked) in &sample.requests {
            now = now.checked_add(Duration::from_micros(*step)).unwrap();
            let rules = |cost_of: fn(u32) -> u32| {
                TakeAll::new(asked.iter().map(|&(at, cost)| (&sample.rules[at], cost_of(cost))))
            };
            let (take, peek) = (rules(|cost| cost), rules(|_| 0));
            let there = peek.decision(&run(&mut state.clone(), &peek, now));
            let seen = look(&mut state, &take, now);
            let taken = take.decision(&run(&mut state, &take, now));
            let expected = if taken.is_allowed() { &there } else { &taken };
            prop_assert_eq!(&seen, expected);
        }
        Ok(())
    });
    outcome.map_err(|error| error.to_string())
}

#[test]
fn a_look_is_denied_exactly_when_the_take_would_be_and_takes_nothing() {
    if let Err(error) = certify_look(look) {
        panic!("{error}");
    }
}

#[test]
fn looks_that_take_or_that_ask_for_less_are_found() {
    let broken: [(&str, Look); 2] = [
        ("takes", |state, take, now| take.decision(&run(state, take, now))),
        ("asks for nothing", |state, take, now| {
            let mut take = take.clone();
            take.asked.iter_mut().for_each(|asked| asked.cost = 0);
            look(state, &take, now)
        }),
    ];
    for (name, broken) in broken {
        assert!(certify_look(broken).is_err(), "one that {name} passed");
    }
}

#[test]
fn who_waits_is_admitted_by_all() {
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&samples(), |sample| {
        let mut state: State = None;
        let mut now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        for (step, asked) in &sample.requests {
            now = now.checked_add(Duration::from_micros(*step)).unwrap();
            let take = TakeAll::new(asked.iter().map(|&(at, cost)| (&sample.rules[at], cost)));
            let decision = take.decision(&run(&mut state, &take, now));
            if let Outcome::Denied { retry_after } = decision.decision().outcome() {
                let at = |wait| now.checked_add(wait).unwrap();
                let again = |wait| take.decision(&run(&mut state.clone(), &take, at(wait))).is_allowed();
                prop_assert!(again(retry_after));
                prop_assert!(!again(retry_after.checked_sub(Duration::from_micros(1)).unwrap()));
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn another_rate_keeps_the_state_and_another_algorithm_begins_anew() {
    let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    let rule = |limit: Limit| Rule::new("daily", limit).unwrap();
    let mut state: State = None;
    let mut ask = |limit, cost| joint(&mut state, &[(&rule(limit), cost)], now)[0];
    assert_eq!(ask(limit(2, 5, 1_000_000), 4).remaining(), 1);
    assert_eq!(ask(limit(2, 7, 1_000_000), 0).remaining(), 3, "neither reset nor a gift");
    assert_eq!(ask(limit(3, 5, 1_000_000), 1).remaining(), 4);
}

#[test]
fn states_of_rules_that_are_gone_do_not_pile_up() {
    let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    let mut state: State = None;
    let last = format!("rule {}", 3 * ENTRIES_MAX);
    for at in 0..=3 * ENTRIES_MAX {
        let rule = Rule::new(&format!("rule {at}"), limit(2, 5, 1_000_000)).unwrap();
        joint(&mut state, &[(&rule, 1)], now);
    }
    let (bytes, _) = state.clone().unwrap();
    assert_eq!(schema::decode_state(&bytes).unwrap().len(), ENTRIES_MAX);
    let rule = Rule::new(&last, limit(2, 5, 1_000_000)).unwrap();
    assert_eq!(joint(&mut state, &[(&rule, 0)], now)[0].remaining(), 4, "the latest is there");
}

#[test]
fn states_of_rules_in_force_stay_when_those_that_are_gone_are_too_many() {
    let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    let rule = |name: &str| Rule::new(name, limit(2, 5, 1_000_000)).unwrap();
    // Some are asked, some are in force only; they are older than those that are gone.
    let kept: Vec<_> = (0..40).map(|at| rule(&format!("in force {at}"))).collect();
    let left_of = |knows: bool| {
        let mut state: State = None;
        for one in &kept {
            joint(&mut state, &[(one, 1)], now);
        }
        for at in 0..3 * ENTRIES_MAX {
            let gone = rule(&format!("gone {at}"));
            let take = TakeAll::new([(&gone, 1), (&kept[0], 0)]);
            let take = if knows { take.beside(&kept) } else { take };
            assert!(run(&mut state, &take, now).is_allowed());
            let (bytes, _) = state.as_ref().unwrap();
            assert!(schema::decode_state(bytes).unwrap().len() <= ENTRIES_MAX);
        }
        kept.iter().map(|one| joint(&mut state, &[(one, 0)], now)[0].remaining()).collect::<Vec<_>>()
    };
    assert_eq!(left_of(true), [4; 40]);
    // Who does not know of them drops the oldest, but for those it asks.
    let forgotten = left_of(false);
    assert!(forgotten[0] == 4 && forgotten[1..].iter().all(|left| *left == 5), "{forgotten:?}");
}

#[test]
fn bytes_that_are_no_record_are_refused() {
    let rule = Rule::new("a", limit(2, 5, 1_000_000)).unwrap();
    let take = TakeAll::new([(&rule, 1)]);
    let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
    let entry = Entry { id: rule.id(), code: 3, expires_us: 0, state: b"no window", given_us: 0 };
    for bytes in [&b""[..], b"\x01", b"\x02abc", &schema::encode_state([entry].into_iter())] {
        assert_eq!(take.apply(Some(bytes), now), Err(undecodable("state")), "{bytes:?}");
    }
    for bytes in [&b""[..], b"\x01", &[0; 8], b"\0\0\0\0\0\0\0\0\x14", &[20; 22], &[&[0; 8][..], &[20; 22]].concat()] {
        assert!(take.decode_output(bytes).is_err(), "{bytes:?}");
    }
}
