//! Laws of the token bucket, each held against the decision, and against broken ones that it must reject.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::model::{Outcome, Rate};

#[path = "two_fields_tests.rs"]
mod two_fields;

type Decide = fn(&TokenBucket, Option<BucketState>, Timestamp, u32) -> (Verdict, Option<BucketState>);

fn at(us: u64) -> Timestamp {
    Timestamp::from_micros(us).unwrap()
}

fn bucket(rate: &str, burst: u32) -> TokenBucket {
    TokenBucket::new(rate.parse().unwrap(), burst).unwrap()
}

/// A bucket, driven through time.
struct Driven {
    decide: Decide,
    bucket: TokenBucket,
    state: Option<BucketState>,
}

impl Driven {
    fn new(decide: Decide, bucket: TokenBucket) -> Self {
        Self { decide, bucket, state: None }
    }

    fn take(&mut self, now_us: u64, cost: u32) -> Decision {
        let (verdict, state) = (self.decide)(&self.bucket, self.state, at(now_us), cost);
        if state.is_some() {
            self.state = state;
        }
        Take::new(self.bucket, cost).decision(&verdict)
    }

    fn peek(&self, now_us: u64, cost: u32) -> Decision {
        let (verdict, _) = (self.decide)(&self.bucket, self.state, at(now_us), cost);
        Take::new(self.bucket, cost).decision(&verdict)
    }
}

/// The textbook bucket: tokens that are added up, in exact fractions. It shares no code with the one under test.
struct Textbook {
    count: u128,
    period_us: u128,
    capacity: u128,
    /// Tokens times `period_us`.
    level: u128,
    last_us: u64,
}

impl Textbook {
    fn new(bucket: &TokenBucket) -> Self {
        let (count, period_us) = (u128::from(bucket.rate().count()), bucket.rate().period().as_micros());
        let capacity = u128::from(bucket.burst()) * period_us;
        Self { count, period_us, capacity, level: capacity, last_us: 0 }
    }

    fn take(&mut self, now_us: u64, cost: u32) -> (bool, u128) {
        let now_us = now_us.max(self.last_us);
        let refill = u128::from(now_us - self.last_us) * self.count;
        self.level = self.capacity.min(self.level + refill);
        self.last_us = now_us;
        let price = u128::from(cost) * self.period_us;
        let allowed = price <= self.level;
        if allowed {
            self.level -= price;
        }
        (allowed, self.level / self.period_us)
    }
}

#[derive(Debug, Clone)]
struct History {
    bucket: TokenBucket,
    /// By how much the clock moves, and the cost.
    calls: Vec<(i64, u32)>,
}

fn buckets() -> impl Strategy<Value = TokenBucket> {
    let counts = prop_oneof![1_u32..=12, Just(9_999_991), Just(10_000_000), 1_u32..];
    let periods = prop_oneof![1_u64..=30, Just(1_000_000), Just(2_592_000_000_000), 1_u64..=3_155_760_000_000_000];
    let bursts = prop_oneof![1_u32..=12, Just(1_000), 1_u32..];
    (counts, periods, bursts).prop_filter_map("refills in time", |(count, period_us, burst)| {
        TokenBucket::new(Rate::new(count, Duration::from_micros(period_us)).ok()?, burst).ok()
    })
}

/// Histories whose steps lie about the bucket's own measures, where decisions change.
fn histories() -> impl Strategy<Value = History> {
    buckets().prop_flat_map(|bucket| {
        let interval = i64::try_from(bucket.price(1).unwrap().ceil_us()).unwrap();
        let full = i64::try_from(bucket.capacity().ceil_us()).unwrap();
        let steps = prop_oneof![
            3 => Just(0),
            3 => 0..=2_i64,
            4 => (interval - 1)..=(interval + 1),
            1 => (full - 1)..=(full + 1),
            2 => 0..=full,
            1 => -full..=0,
        ];
        let burst = bucket.burst();
        let costs = prop_oneof![6 => Just(1), 1 => Just(0), 2 => 0..=burst.min(5), 1 => Just(burst), 1 => 0_u32..];
        proptest::collection::vec((steps, costs), 1..40).prop_map(move |calls| History { bucket, calls })
    })
}

/// Moves as a clock does, and stays where timestamps are exact.
fn moved(now_us: u64, step_us: i64) -> u64 {
    now_us.saturating_add_signed(step_us).min(Timestamp::MAX.as_micros())
}

const START_US: u64 = 1_800_000_000_000_000;

fn ensure(law: bool, message: impl FnOnce() -> String) -> Result<(), TestCaseError> {
    if law { Ok(()) } else { Err(TestCaseError::fail(message())) }
}

/// Every answer is the textbook's, also when the clock goes back.
fn agrees_with_the_textbook(decide: Decide, history: &History) -> Result<(), TestCaseError> {
    let mut driven = Driven::new(decide, history.bucket);
    let mut textbook = Textbook::new(&history.bucket);
    let mut now_us = START_US;
    for &(step_us, cost) in &history.calls {
        now_us = moved(now_us, step_us);
        // What does not write does not move the bucket's time; the textbook must not either.
        let before = (textbook.level, textbook.last_us);
        let (allowed, remaining) = textbook.take(now_us, cost);
        if !allowed || cost == 0 {
            (textbook.level, textbook.last_us) = before;
        }
        let decision = driven.take(now_us, cost);
        ensure(decision.is_allowed() == allowed && u128::from(decision.remaining()) == remaining, || {
            format!("at {now_us} cost {cost}: {decision:?}, not {allowed} with {remaining} left")
        })?;
    }
    Ok(())
}

/// Who waits as told is admitted, and not a microsecond before.
fn retry_after_is_exact(decide: Decide, history: &History) -> Result<(), TestCaseError> {
    let mut driven = Driven::new(decide, history.bucket);
    let mut now_us = START_US;
    for &(step_us, cost) in &history.calls {
        now_us = moved(now_us, step_us);
        let decision = driven.take(now_us, cost);
        let Outcome::Denied { retry_after } = decision.outcome() else {
            let never = cost > history.bucket.burst();
            ensure(never == (decision.outcome() == Outcome::NeverAllowed), || format!("cost {cost}: {decision:?}"))?;
            continue;
        };
        let retry_at_us = now_us + u64::try_from(retry_after.as_micros()).unwrap();
        if retry_at_us > Timestamp::MAX.as_micros() {
            continue;
        }
        ensure(!retry_after.is_zero() && !driven.peek(retry_at_us - 1, cost).is_allowed(), || {
            format!("cost {cost}, told {retry_after:?}, was admitted earlier")
        })?;
        ensure(driven.peek(retry_at_us, cost).is_allowed(), || format!("cost {cost}, waited {retry_after:?} in vain"))?;
    }
    Ok(())
}

/// A state that expired when it said leaves the same decisions as one that stayed.
fn a_full_bucket_may_vanish(decide: Decide, history: &History) -> Result<(), TestCaseError> {
    may_vanish_after(time_to_live, decide, history)
}

type TimeToLive = fn(&BucketState, Timestamp) -> Option<Duration>;

fn may_vanish_after(time_to_live: TimeToLive, decide: Decide, history: &History) -> Result<(), TestCaseError> {
    let mut driven = Driven::new(decide, history.bucket);
    let mut now_us = START_US;
    for &(step_us, cost) in &history.calls {
        now_us = moved(now_us, step_us);
        driven.take(now_us, cost);
        let Some(state) = driven.state else { continue };
        let Some(ttl) = time_to_live(&state, at(now_us)) else { continue };
        let gone_us = now_us + u64::try_from(ttl.as_micros()).unwrap();
        let absent = Driven::new(decide, history.bucket);
        for cost in [0, 1, history.bucket.burst()] {
            let (stayed, vanished) = (driven.peek(gone_us, cost), absent.peek(gone_us, cost));
            ensure(stayed == vanished, || format!("after {ttl:?}: {stayed:?}, not {vanished:?}"))?;
        }
    }
    Ok(())
}

/// What is reset is full: not earlier than told, and not later.
fn reset_after_is_exact(decide: Decide, history: &History) -> Result<(), TestCaseError> {
    let mut driven = Driven::new(decide, history.bucket);
    let mut now_us = START_US;
    for &(step_us, cost) in &history.calls {
        now_us = moved(now_us, step_us);
        let reset_us = u64::try_from(driven.take(now_us, cost).reset_after().as_micros()).unwrap();
        let full_us = now_us + reset_us;
        if full_us > Timestamp::MAX.as_micros() {
            continue;
        }
        let limit = history.bucket.burst();
        ensure(driven.peek(full_us, 0).remaining() == limit, || format!("not full after {reset_us} us"))?;
        ensure(reset_us == 0 || driven.peek(full_us - 1, 0).remaining() < limit, || {
            format!("full before {reset_us} us")
        })?;
    }
    Ok(())
}

type Law = fn(Decide, &History) -> Result<(), TestCaseError>;

fn run(cases: u32, decide: Decide, law: Law) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&histories(), |history| law(decide, &history)).map_err(|error| error.to_string())
}

const LAWS: [(&str, Law); 4] = [
    ("textbook", agrees_with_the_textbook),
    ("retry_after", retry_after_is_exact),
    ("vanish", a_full_bucket_may_vanish),
    ("reset_after", reset_after_is_exact),
];

#[test]
fn the_laws_hold() {
    for (name, law) in LAWS {
        run(4_000, decide, law).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Seeded bugs: each must break the law it is listed with.
#[test]
fn broken_buckets_are_rejected() {
    for (name, broken, law) in [
        ("rounds the refill up", rounds_refill_up as Decide, agrees_with_the_textbook as Law),
        ("drops the parts", drops_the_parts, agrees_with_the_textbook),
        ("forgets to clamp to the burst", forgets_to_clamp, agrees_with_the_textbook),
        ("trusts a clock that goes back", trusts_the_clock, agrees_with_the_textbook),
        ("takes from the refused", takes_from_the_refused, agrees_with_the_textbook),
        ("admits one token too many", admits_at_empty, agrees_with_the_textbook),
        ("admits late", admits_late, retry_after_is_exact),
        ("starts empty", starts_empty, reset_after_is_exact),
    ] {
        assert!(run(4_000, broken, law).is_err(), "a bucket that {name} passed");
    }
}

#[test]
fn an_early_expiry_is_rejected() {
    let rounds_down: Law =
        |decide, history| may_vanish_after(|state, now| expiry_of(state.at_us + state.debt.us, now), decide, history);
    let forgets_the_skew: Law = |decide, history| {
        may_vanish_after(|state, now| expiry_of(now.as_micros() + state.debt.ceil_us(), now), decide, history)
    };
    assert!(run(4_000, decide, rounds_down).is_err());
    assert!(run(4_000, decide, forgets_the_skew).is_err());
}

fn expiry_of(us: u64, now: Timestamp) -> Option<Duration> {
    Some(Timestamp::from_micros(us).ok()?.saturating_since(now))
}

fn rounds_refill_up(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let state = state.map(|state| BucketState { debt: Span { part: 0, ..state.debt }, ..state });
    decide(bucket, state, now, cost)
}

fn drops_the_parts(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let (mut verdict, mut state) = decide(bucket, state, now, cost);
    verdict.debt = Span { us: verdict.debt.ceil_us(), part: 0 };
    if let Some(state) = &mut state {
        state.debt = verdict.debt;
    }
    (verdict, state)
}

/// Idle time is saved up, if only a microsecond of it.
fn forgets_to_clamp(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let saved = state.filter(|state| state.at_us.saturating_add(state.debt.ceil_us()) < now.as_micros());
    let (verdict, next) = decide(bucket, state, now, cost);
    match (saved, next) {
        (Some(_), Some(next)) => {
            let debt = next.debt.minus_us(1);
            (Verdict { debt, ..verdict }, Some(BucketState { debt, ..next }))
        }
        _ => (verdict, next),
    }
}

fn trusts_the_clock(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let (mut verdict, mut next) = decide(bucket, state, now, cost);
    verdict.skew_us = 0;
    if let Some(next) = &mut next {
        next.at_us = now.as_micros();
    }
    (verdict, next)
}

fn takes_from_the_refused(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let (verdict, next) = decide(bucket, state, now, cost);
    if verdict.allowed {
        return (verdict, next);
    }
    let debt = bucket.capacity();
    let denominator = bucket.denominator();
    (Verdict { debt, ..verdict }, Some(BucketState { at_us: now.as_micros() + verdict.skew_us, debt, denominator }))
}

fn admits_at_empty(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let (verdict, next) = decide(bucket, state, now, cost);
    let allowed = verdict.allowed || (cost == 1 && verdict.debt == bucket.capacity());
    (Verdict { allowed, ..verdict }, next)
}

fn admits_late(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let (verdict, next) = decide(bucket, state, now, cost);
    let exact = cost > 0 && verdict.debt == bucket.capacity() && state.is_some();
    if exact { (Verdict { allowed: false, ..verdict }, None) } else { (verdict, next) }
}

fn starts_empty(
    bucket: &TokenBucket,
    state: Option<BucketState>,
    now: Timestamp,
    cost: u32,
) -> (Verdict, Option<BucketState>) {
    let empty = BucketState { at_us: now.as_micros(), debt: bucket.capacity(), denominator: bucket.denominator() };
    decide(bucket, Some(state.unwrap_or(empty)), now, cost)
}

/// One a month: a bucket of one, asked every day for ten years, is granted exactly every 30 days.
#[test]
fn one_a_month_does_not_drift() {
    let mut driven = Driven::new(decide, bucket("1/mo", 1));
    let day_us = 86_400_000_000;
    for day in 0..3_650_u64 {
        let decision = driven.take(START_US + day * day_us, 1);
        assert_eq!(decision.is_allowed(), day % 30 == 0, "day {day}");
    }
}

/// Ten million a second, and a prime number a second: over a second of single microseconds the grants are
/// the burst and the rate, not one token more or less.
#[test]
fn millions_a_second_do_not_drift() {
    for count in [10_000_000_u32, 9_999_991, 7, 333_333] {
        let mut driven = Driven::new(decide, TokenBucket::new(Rate::per_second(count).unwrap(), 20).unwrap());
        let (mut granted, mut now_us) = (0_u64, START_US);
        while driven.take(now_us, 1).is_allowed() {
            granted += 1;
        }
        for _ in 0..1_000_000 {
            now_us += 1;
            while driven.take(now_us, 1).is_allowed() {
                granted += 1;
            }
        }
        assert_eq!(granted, 20 + u64::from(count), "{count}/s");
    }
}

#[test]
fn a_cost_above_the_burst_is_never_allowed_and_takes_nothing() {
    let mut driven = Driven::new(decide, bucket("5/s", 10));
    let decision = driven.take(START_US, 11);
    assert_eq!(decision.outcome(), Outcome::NeverAllowed);
    assert_eq!((decision.remaining(), decision.retry_after(), driven.state), (10, None, None));
    assert!(driven.take(START_US, 10).is_allowed());
    assert_eq!(driven.take(START_US, 11).outcome(), Outcome::NeverAllowed);
}

#[test]
fn a_clock_that_goes_back_gives_nothing_and_costs_nothing() {
    let mut driven = Driven::new(decide, bucket("1/s", 3));
    driven.take(START_US, 1);
    let hour_ago = START_US - 3_600_000_000;
    assert_eq!(driven.take(hour_ago, 0).remaining(), 2);
    assert!(driven.take(hour_ago, 2).is_allowed());
    let denied = driven.take(hour_ago, 1);
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(3_601)));
    assert!(!driven.peek(START_US + 999_999, 1).is_allowed());
    assert!(driven.take(START_US + 1_000_000, 1).is_allowed());
}

/// A lowered burst, or another rate, over a state that was written before: no panic, no gift.
#[test]
fn a_changed_limit_keeps_what_is_owed() {
    let mut driven = Driven::new(decide, bucket("7/10us", 7));
    driven.take(START_US, 7);
    driven.bucket = bucket("7/10us", 2);
    assert_eq!(driven.peek(START_US, 0).remaining(), 0);
    assert!(driven.peek(START_US, 0).is_allowed());
    assert!(!driven.peek(START_US + 7, 1).is_allowed());
    driven.bucket = bucket("3/10us", 3);
    let looked = driven.peek(START_US + 1, 0);
    assert_eq!(looked.reset_after(), Duration::from_micros(9));
}

#[test]
fn a_state_at_the_end_of_time_lives_for_ever() {
    let mut driven = Driven::new(decide, bucket("1/s", 3));
    let last_us = Timestamp::MAX.as_micros();
    driven.take(last_us - 1_000_000, 1);
    assert_eq!(time_to_live(&driven.state.unwrap(), at(last_us - 1_000_000)), Some(Duration::from_secs(1)));
    driven.take(last_us - 999_999, 1);
    assert_eq!(time_to_live(&driven.state.unwrap(), at(last_us - 999_999)), None);
}

#[test]
fn foreign_bytes_are_corrupt_and_change_nothing() {
    let take = Take::new(bucket("1/s", 3), 1);
    for bytes in [&b""[..], b"garbage", &[0xFF; 23], &[1; 24]] {
        let error = Procedure::apply(&take, Some(bytes), at(START_US)).unwrap_err();
        assert_eq!(error.what, "state");
    }
}
