//! The bucket as a debt in time, held against its classic form of two fields, tokens and the time of the last refill; and over 10^9
//! decisions, which are not made one by one: a bucket that is asked evenly comes back to a debt that it had, and from there on all repeats.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::*;
use super::{Decide, Driven, History, START_US, ensure, histories, moved};
use crate::model::Rate;

/// What the two fields are made of.
trait Number: Copy + PartialOrd {
    fn of(tokens: u128, bucket: &TokenBucket) -> Self;
    fn refill(self, elapsed_us: u64, bucket: &TokenBucket) -> Self;
    fn less(self, other: Self) -> Self;
    fn whole(self, bucket: &TokenBucket) -> u128;
}

fn parts(bucket: &TokenBucket) -> u128 {
    bucket.rate().period().as_micros()
}

/// Fractions: tokens times the period in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Exact(u128);

impl Number for Exact {
    fn of(tokens: u128, bucket: &TokenBucket) -> Self {
        Self(tokens * parts(bucket))
    }
    fn refill(self, elapsed_us: u64, bucket: &TokenBucket) -> Self {
        Self(self.0 + u128::from(elapsed_us) * u128::from(bucket.rate().count()))
    }
    fn less(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
    fn whole(self, bucket: &TokenBucket) -> u128 {
        self.0 / parts(bucket)
    }
}

/// Doubles, as scripts have them.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Double(f64);

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is it")]
impl Number for Double {
    fn of(tokens: u128, _: &TokenBucket) -> Self {
        Self(tokens as f64)
    }
    fn refill(self, elapsed_us: u64, bucket: &TokenBucket) -> Self {
        let per_us = f64::from(bucket.rate().count()) / parts(bucket) as f64;
        Self(self.0 + elapsed_us as f64 * per_us)
    }
    fn less(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
    fn whole(self, _: &TokenBucket) -> u128 {
        self.0 as u128
    }
}

/// `tokens` and `last`, both written by every call, a refused one too: refilled by the time since `last`, no more than the burst.
#[derive(Debug, Clone, Copy)]
struct TwoFields<N> {
    tokens: N,
    last_us: u64,
}

impl<N: Number> TwoFields<N> {
    fn new(bucket: &TokenBucket, now_us: u64) -> Self {
        Self { tokens: N::of(bucket.burst().into(), bucket), last_us: now_us }
    }

    fn take(&mut self, bucket: &TokenBucket, now_us: u64, cost: u32) -> (bool, u128) {
        let full = N::of(bucket.burst().into(), bucket);
        let filled = self.tokens.refill(now_us.saturating_sub(self.last_us), bucket);
        self.tokens = if filled > full { full } else { filled };
        self.last_us = self.last_us.max(now_us);
        let price = N::of(cost.into(), bucket);
        let is_allowed = price <= self.tokens;
        if is_allowed {
            self.tokens = self.tokens.less(price);
        }
        (is_allowed, self.tokens.whole(bucket))
    }
}

/// Every answer is that of the two fields. They are written by refused requests too, which only matters where a clock goes back: then a
/// refusal keeps their time, so here it does not go back.
fn agrees_with_two_fields<N: Number>(decide: Decide, history: &History) -> Result<(), TestCaseError> {
    let bucket = &history.bucket;
    let (mut driven, mut fields) = (Driven::new(decide, *bucket), TwoFields::<N>::new(bucket, START_US));
    let mut now_us = START_US;
    for &(step_us, cost) in &history.calls {
        now_us = moved(now_us, step_us.max(0));
        let (is_allowed, remaining) = fields.take(bucket, now_us, cost);
        let decision = driven.take(now_us, cost);
        ensure(decision.is_allowed() == is_allowed && u128::from(decision.remaining()) == remaining, || {
            format!("at {now_us} cost {cost}: {decision:?}, not {is_allowed} with {remaining} left")
        })?;
    }
    Ok(())
}

fn run(law: impl Fn(&History) -> Result<(), TestCaseError>) -> Result<(), String> {
    let config = Config { cases: 6_000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&histories(), |history| law(&history)).map_err(|error| error.to_string())
}

#[test]
fn a_debt_in_time_and_two_fields_are_the_same_bucket() {
    run(|history| agrees_with_two_fields::<Exact>(decide, history)).unwrap();
}

#[test]
fn two_fields_of_doubles_are_another_bucket_and_that_is_found() {
    assert!(run(|history| agrees_with_two_fields::<Double>(decide, history)).is_err());
}

const MANY: u64 = 1_000_000_000;

/// What `MANY` requests of one token, one every `step_us`, came to: how many were granted, and what is owed after the last. The state
/// is a debt at a time, and nothing else of the time counts (a law of its own, below), so once a debt comes again the rest repeats.
fn ask_evenly(decide: Decide, bucket: TokenBucket, step_us: u64) -> (u64, Span) {
    let mut driven = Driven::new(decide, bucket);
    let mut seen: HashMap<Span, (u64, u64)> = HashMap::new();
    let (mut granted, mut asked) = (0, 0);
    let mut left = MANY;
    let mut has_jumped = false;
    while left > 0 {
        // Asked so often, all of it shifted to where the debt was told for.
        let now_us = START_US + asked % 1_000_000 * step_us;
        if asked > 0 && asked % 1_000_000 == 0 {
            let state = driven.state.as_mut().unwrap();
            let owed = state.debt.minus_us(START_US + 1_000_000 * step_us - state.at_us);
            *state = BucketState { at_us: START_US, debt: owed, ..*state };
        }
        granted += u64::from(driven.take(now_us, 1).is_allowed());
        (asked, left) = (asked + 1, left - 1);
        let state = driven.state.unwrap();
        let debt = state.debt.minus_us(now_us - state.at_us);
        if has_jumped {
            continue;
        }
        if let Some((before, granted_before)) = seen.insert(debt, (asked, granted)) {
            let (length, of_length) = (asked - before, granted - granted_before);
            granted += left / length * of_length;
            left %= length;
            has_jumped = true;
        }
    }
    let state = driven.state.unwrap();
    (granted, state.debt.minus_us(START_US + (asked - 1) % 1_000_000 * step_us - state.at_us))
}

/// As many as are asked for, or the burst and what came back by the last of them; and what is owed is the difference.
fn expected(bucket: &TokenBucket, step_us: u64) -> (u64, Span) {
    let (count, period_us) = (u128::from(bucket.rate().count()), bucket.rate().period().as_micros());
    let passed_us = u128::from(MANY - 1) * u128::from(step_us);
    let granted = u128::from(MANY).min(u128::from(bucket.burst()) + passed_us * count / period_us);
    // Taken and not come back, in time: `granted * period / count - passed`.
    let owed = (granted * period_us).saturating_sub(passed_us * count);
    let denominator = u128::from(bucket.denominator());
    let parts = owed * denominator / count;
    let span =
        Span { us: u64::try_from(parts / denominator).unwrap(), part: u32::try_from(parts % denominator).unwrap() };
    (u64::try_from(granted).unwrap(), span)
}

/// Buckets that are asked more often than they refill: rates from one a month to ten million a second, whole and not.
fn asked_evenly() -> Vec<(TokenBucket, u64)> {
    let rates: [(u32, u64, u32, u64); 9] = [
        (1, 2_592_000_000_000, 1, 86_400_000_000),
        (1, 2_592_000_000_000, 3, 1_000_000_000),
        (10_000_000, 1_000_000, 20, 0),
        (333_333, 1_000_000, 20, 1),
        (999_983, 1_000_000, 7, 1),
        (7, 1_000_000, 20, 100_003),
        (1_000, 60_000_000, 3, 59_999),
        (3, 10, 5, 3),
        (104_729, 3_600_000_000, 100, 34_000),
    ];
    let bucket = |(count, period_us, burst, step_us)| {
        let rate = Rate::new(count, Duration::from_micros(period_us)).unwrap();
        (TokenBucket::new(rate, burst).unwrap(), step_us)
    };
    rates.into_iter().map(bucket).collect()
}

#[test]
fn a_thousand_million_decisions_do_not_drift() {
    for (bucket, step_us) in asked_evenly() {
        let (granted, owed) = expected(&bucket, step_us);
        assert_eq!(ask_evenly(decide, bucket, step_us), (granted, owed), "{bucket:?} every {step_us} us");
    }
}

#[test]
fn buckets_that_drift_are_found() {
    let is_found = |broken: Decide| {
        asked_evenly()
            .into_iter()
            .any(|(bucket, step_us)| ask_evenly(broken, bucket, step_us) != expected(&bucket, step_us))
    };
    assert!(is_found(super::rounds_refill_up) && is_found(super::drops_the_parts));
}

/// Nothing counts of the time but what has passed: that is why a debt that comes again may stand for the time in which it came before.
#[test]
fn a_history_at_another_time_is_the_same_history() {
    let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
    let law = |(history, shift_us): (History, u64)| {
        let (mut here, mut there) = (Driven::new(decide, history.bucket), Driven::new(decide, history.bucket));
        let mut now_us = START_US;
        for &(step_us, cost) in &history.calls {
            now_us = now_us.saturating_add_signed(step_us).min(START_US * 2);
            let (one, other) = (here.take(now_us, cost), there.take(now_us + shift_us, cost));
            prop_assert_eq!(one, other);
        }
        Ok(())
    };
    TestRunner::new(config).run(&(histories(), 0..1_u64 << 51), law).unwrap();
}
