//! Laws of a set that more keys share than it has places, each held against sets that break one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::*;
use crate::procedure::token_bucket::decide;
use crate::schema::token_bucket::BucketState;

type TakeFn = fn(&mut Set, u64, &TokenBucket, Timestamp, u32) -> Verdict;
type ForgetFn = fn(&mut Set, u64);

#[derive(Debug, Clone)]
enum Op {
    Take { key: u64, cost: u32 },
    Wait { us: u64 },
    Forget { key: u64 },
}

/// Histories in which `keys` keys meet, at the pace of the bucket's own measures.
fn histories(keys: u64, resets: bool) -> impl Strategy<Value = (TokenBucket, Vec<Op>)> {
    let bucket = (1_u32..=9, 1_u64..=50, 1_u32..=6).prop_map(|(count, period_us, burst)| {
        let rate = crate::Rate::new(count, std::time::Duration::from_micros(period_us)).unwrap();
        TokenBucket::new(rate, burst).unwrap()
    });
    let op = prop_oneof![
        12 => (1..=keys, 0_u32..=3).prop_map(|(key, cost)| Op::Take { key, cost }),
        4 => (0_u64..=12).prop_map(|us| Op::Wait { us }),
        1 => (1..=keys).prop_map(move |key| if resets { Op::Forget { key } } else { Op::Wait { us: 1 } }),
    ];
    (bucket, proptest::collection::vec(op, 1..120))
}

/// Buckets of their own, which know of each key what it took.
#[derive(Default)]
struct Exact(BTreeMap<u64, BucketState>);

impl Exact {
    fn take(&mut self, key: u64, bucket: &TokenBucket, now: Timestamp, cost: u32) -> Verdict {
        let (verdict, state) = decide(bucket, self.0.get(&key).copied(), now, cost);
        self.0.extend(state.map(|state| (key, state)));
        verdict
    }
}

fn run(
    (bucket, ops): (TokenBucket, Vec<Op>),
    take: TakeFn,
    forget: ForgetFn,
    is_exact: bool,
) -> Result<(), TestCaseError> {
    let (mut set, mut exact, mut taken) = (Set::default(), Exact::default(), Vec::new());
    let (denominator, capacity) = (bucket.denominator(), bucket.capacity());
    let sum = |spans: &[Span]| spans.iter().fold(Span::ZERO, |sum, span| sum.plus(*span, denominator));
    let (mut now_us, mut taken_most) = (1_000_000_u64, Span::ZERO);
    for op in ops {
        let now = Timestamp::from_micros(now_us).unwrap();
        match op {
            Op::Wait { us } => now_us += us,
            Op::Forget { key } => {
                forget(&mut set, key);
                exact.0.remove(&key);
            }
            Op::Take { key, cost } => {
                // What it owes for others is a sixth of what was taken in some refill time.
                let (looked, owes) = (take(&mut set, key, &bucket, now, 0), exact.take(key, &bucket, now, 0));
                prop_assert!(looked.debt >= owes.debt, "{} owes less than it took", key);
                let for_others = sum(&[looked.debt.minus(owes.debt, denominator); WAYS]);
                prop_assert!(for_others <= taken_most, "{} owes {:?} for others, of {:?}", key, for_others, taken_most);
                let before = exact.0.get(&key).copied();
                let found = take(&mut set, key, &bucket, now, cost);
                let would = exact.take(key, &bucket, now, cost);
                if is_exact {
                    prop_assert_eq!(found, would);
                }
                prop_assert!(!found.allowed || would.allowed, "{} got more than it has", key);
                if found.allowed {
                    taken.push((now_us, bucket.price(cost).unwrap()));
                    taken.retain(|(at_us, _)| at_us + capacity.ceil_us() >= now_us);
                    taken_most = taken_most.max(sum(&taken.iter().map(|(_, price)| *price).collect::<Vec<_>>()));
                } else {
                    // What is not granted was not taken.
                    exact.0.remove(&key);
                    exact.0.extend(before.map(|state| (key, state)));
                }
            }
        }
    }
    Ok(())
}

fn holds(keys: u64, take: TakeFn, forget: ForgetFn, is_exact: bool) -> bool {
    let config = Config { cases: 4_000, failure_persistence: None, ..Config::default() };
    let histories = histories(keys, !is_exact);
    let outcome =
        TestRunner::new_with_rng(config, seeded()).run(&histories, |history| run(history, take, forget, is_exact));
    if let Err(TestError::Fail(reason, history)) = &outcome {
        println!("{reason}: {history:?}");
    }
    outcome.is_ok()
}

fn seeded() -> proptest::test_runner::TestRng {
    proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha)
}

#[test]
fn as_many_keys_as_ways_are_exact() {
    assert!(holds(WAYS as u64, Set::take, Set::forget, true));
}

#[test]
fn more_keys_are_never_granted_more_and_denied_within_the_bound() {
    for keys in [7, 9, 30] {
        assert!(holds(keys, Set::take, Set::forget, false), "{keys} keys");
    }
}

#[test]
fn who_owes_more_than_the_least_is_exact() {
    let bucket = TokenBucket::new("1/s".parse().unwrap(), 100).unwrap();
    let (mut set, mut exact) = (Set::default(), Exact::default());
    for step in 0..10_000_u64 {
        let now = Timestamp::from_micros(1_000_000 + step * 100_000).unwrap();
        // One is hot; of the others each comes once.
        assert_eq!(set.take(1, &bucket, now, 1), exact.take(1, &bucket, now, 1), "step {step}");
        set.take(1_000 + step, &bucket, now, 1);
    }
}

/// Sets that break a law, and are found.
#[test]
fn broken_sets_are_found() {
    // The place is lent without its debt.
    let forgetful: TakeFn = |set, hash, bucket, now, cost| {
        let way = set.way_of(hash).unwrap_or_else(|| {
            let least = set.least();
            (set.full_us[least], set.parts[least]) = (0, 0);
            least
        });
        set.take_by(way, hash, bucket, now, cost)
    };
    assert!(!holds(9, forgetful, Set::forget, false), "forgetful");
    // The parts of a microsecond are left behind.
    let coarse: TakeFn = |set, hash, bucket, now, cost| {
        let verdict = set.take(hash, bucket, now, cost);
        set.parts = [0; WAYS];
        verdict
    };
    assert!(!holds(WAYS as u64, coarse, Set::forget, true), "coarse");
    // Who owes most gives way, so that those who come pay for it.
    let greedy: TakeFn = |set, hash, bucket, now, cost| {
        let most = (0..WAYS).max_by_key(|&way| (set.full_us[way], set.parts[way])).unwrap();
        let way = set.way_of(hash).unwrap_or(most);
        set.take_by(way, hash, bucket, now, cost)
    };
    assert!(!holds(9, greedy, Set::forget, false), "greedy");
    // A reset lets the least fall, and with it what those owe who lost their way.
    let generous: ForgetFn = |set, hash| {
        if let Some(way) = set.way_of(hash) {
            (set.full_us[way], set.parts[way]) = (0, 0);
        }
    };
    assert!(!holds(9, Set::take, generous, false), "generous");
}
