//! Gathering against shards that are played, with others beside it, lost replies and crashes; and broken ways to gather, which are found.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Answered,
    /// Nothing happened.
    Refused,
    /// It happened, and nobody knows.
    ReplyLost,
}

/// What befalls a request.
#[derive(Debug, Clone)]
struct Case {
    /// What the shards have.
    shards: Vec<u32>,
    cost: u32,
    /// What others take of the shards before each call, as far as it is there.
    others: Vec<(usize, u32)>,
    calls: Vec<Call>,
    /// After so many calls the process dies.
    dies_after: usize,
}

/// A deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    No,
    /// Counts a part whose reply was lost or that was refused as taken.
    TrustsLostReplies,
    /// Takes for given what a shard had less of.
    TrustsDenials,
    /// Sends again a giving back whose reply was lost.
    GivesAgain,
    /// Gives back the whole cost to the first shard.
    GivesAllToOne,
    /// Keeps the parts of what it does not admit.
    KeepsParts,
}

/// What came of it: tokens admitted, and left in the shards, of what there was less what others took.
#[derive(Debug)]
struct Told {
    admitted: u32,
    left: Vec<u64>,
    others: u64,
    lost: bool,
    is_interrupted: bool,
}

fn play(case: &Case, broken: Broken) -> Told {
    let mut left: Vec<u64> = case.shards.iter().map(|&tokens| tokens.into()).collect();
    let (mut others, mut step, mut lost) = (0, 0, false);
    let mut gather = Gather::new(case.cost, case.shards.iter().enumerate().map(|(at, &tokens)| Part { at, tokens }));
    let mut taken: Vec<Part> = Vec::new();
    // Others come, and the call's fate; nothing after the process died.
    let mut before_call = |left: &mut Vec<u64>, others: &mut u64| {
        if step == case.dies_after {
            return None;
        }
        if let Some(&(at, tokens)) = case.others.get(step) {
            let at = at % left.len();
            let took = left[at].min(tokens.into());
            left[at] -= took;
            *others += took;
        }
        let call = case.calls.get(step).copied().unwrap_or(Call::Answered);
        step += 1;
        Some(call)
    };
    loop {
        match gather.next() {
            Next::Admit => {
                return Told { admitted: case.cost, left, others, lost, is_interrupted: false };
            }
            Next::Take(parts) => {
                for part in parts {
                    let Some(call) = before_call(&mut left, &mut others) else {
                        return Told { admitted: 0, left, others, lost, is_interrupted: true };
                    };
                    let is_there = left[part.at] >= u64::from(part.tokens);
                    let happens = call != Call::Refused && is_there;
                    left[part.at] -= if happens { u64::from(part.tokens) } else { 0 };
                    let had = u32::try_from(left[part.at]).unwrap();
                    match call {
                        Call::Answered if is_there || broken == Broken::TrustsDenials => {
                            gather.took(part, had);
                            taken.push(part);
                        }
                        Call::Answered => gather.had_less(part, had),
                        Call::Refused | Call::ReplyLost => {
                            lost |= happens;
                            if broken == Broken::TrustsLostReplies {
                                gather.took(part, had);
                                taken.push(part);
                            } else {
                                gather.failed(part);
                            }
                        }
                    }
                }
            }
            Next::GiveUp => {
                if broken == Broken::GivesAllToOne {
                    taken = vec![Part { at: 0, tokens: case.cost }];
                }
                for part in taken.into_iter().filter(|_| broken != Broken::KeepsParts) {
                    let Some(call) = before_call(&mut left, &mut others) else {
                        return Told { admitted: 0, left, others, lost, is_interrupted: true };
                    };
                    let again = broken == Broken::GivesAgain && call == Call::ReplyLost;
                    let happens = u64::from(call != Call::Refused) + u64::from(again);
                    left[part.at] += happens * u64::from(part.tokens);
                    lost |= happens == 0;
                }
                return Told { admitted: 0, left, others, lost, is_interrupted: false };
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let calls = prop_oneof![6 => Just(Call::Answered), 1 => Just(Call::Refused), 1 => Just(Call::ReplyLost)];
    let quiet = prop_oneof![1 => Just(0_usize), 2 => Just(12)];
    (1..=6_usize, quiet, 0..=40_usize).prop_flat_map(move |(shards, disturbed, dies_after)| {
        let shards = proptest::collection::vec(0..=9_u32, shards);
        let others = proptest::collection::vec((0..6_usize, prop_oneof![Just(0_u32), 1..=4_u32]), 0..=disturbed);
        let calls = proptest::collection::vec(calls.clone(), 0..=disturbed);
        (shards, 1..=30_u32, others, calls).prop_map(move |(shards, cost, others, calls)| Case {
            shards,
            cost,
            others,
            calls,
            dies_after,
        })
    })
}

/// Tokens are never made; none are lost without a fault; and who is denied though nobody was in the way had too little.
fn laws(case: &Case, broken: Broken) -> Result<(), TestCaseError> {
    let told = play(case, broken);
    let there: u64 = case.shards.iter().map(|&tokens| u64::from(tokens)).sum();
    let after = u64::from(told.admitted) + told.others + told.left.iter().sum::<u64>();
    prop_assert!(after <= there, "{} tokens were made: {told:?}", after - there);
    for (&left, &had) in told.left.iter().zip(&case.shards) {
        prop_assert!(left <= u64::from(had), "a shard has more than before: {told:?}");
    }
    if !told.lost && !told.is_interrupted {
        prop_assert!(after == there, "{} tokens were lost: {told:?}", there - after);
    }
    let is_alone = case.calls.iter().all(|call| *call == Call::Answered)
        && case.others.iter().all(|(_, tokens)| *tokens == 0)
        && !told.is_interrupted;
    if is_alone {
        prop_assert!((told.admitted > 0) == (there >= u64::from(case.cost)), "{told:?}");
    }
    Ok(())
}

fn run(broken: Broken) -> Result<(), String> {
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&cases(), |case| laws(&case, broken)).map_err(|error| error.to_string())
}

#[test]
fn no_token_is_made_and_none_is_denied_that_is_there() {
    run(Broken::No).unwrap();
}

#[test]
fn broken_ways_to_gather_are_found() {
    for broken in [
        Broken::TrustsLostReplies,
        Broken::TrustsDenials,
        Broken::GivesAgain,
        Broken::GivesAllToOne,
        Broken::KeepsParts,
    ] {
        assert!(run(broken).is_err(), "{broken:?} passed");
    }
}

#[test]
fn the_fewest_shards_are_asked() {
    let levels = [3, 9, 5, 0].into_iter().enumerate().map(|(at, tokens)| Part { at, tokens });
    for (cost, expected) in
        [(1, vec![(1, 1)]), (9, vec![(1, 9)]), (10, vec![(1, 9), (2, 1)]), (17, vec![(1, 9), (2, 5), (0, 3)])]
    {
        let parts = expected.into_iter().map(|(at, tokens)| Part { at, tokens }).collect();
        assert_eq!(Gather::new(cost, levels.clone()).next(), Next::Take(parts), "cost {cost}");
    }
    assert_eq!(Gather::new(18, levels).next(), Next::GiveUp);
}

#[test]
fn it_ends_where_others_are_always_faster() {
    let mut gather = Gather::new(1, (0..64).map(|at| Part { at, tokens: 1 }));
    for _ in 0..ROUNDS_MAX {
        let Next::Take(parts) = gather.next() else { panic!("it ended early") };
        gather.had_less(parts[0], 1);
    }
    assert_eq!(gather.next(), Next::GiveUp);
}

proptest! {
    #[test]
    fn the_first_time_at_which_there_is_enough(rates in proptest::collection::vec((1..=50_u64, 0..=99_u64), 1..5), cost in 1..=30_u32) {
        let tokens = |us: u64| rates.iter().map(|(interval, begun)| ((us + begun) / interval).min(8)).sum::<u64>();
        let naive = (0..=400).find(|us| tokens(*us) >= u64::from(cost));
        prop_assert_eq!(enough_after(cost, 400, tokens), naive);
    }
}
