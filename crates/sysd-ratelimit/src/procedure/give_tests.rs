#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::algorithm::Limit;
use crate::model::{Rule, Span, TokenBucket};
use crate::procedure::stored::{State, limit, run};
use crate::schema::taken::Weight;

/// After how many requests how much is given back, if ever.
type Back = Option<(usize, u32)>;

/// Limits, and requests: how far the clock moves, the cost, and after how many requests how much of it is given back, if ever. The
/// second limit comes in force in the middle; of windows it is the first.
#[derive(Debug, Clone)]
struct Sample {
    limits: [Limit; 2],
    requests: Vec<(u64, u32, Back)>,
}

fn samples() -> impl Strategy<Value = Sample> {
    let limits = (0..5_usize, 1_u32..=6, 1_u64..=20, prop_oneof![Just(None), (1_u32..=6, 1_u64..=20).prop_map(Some)]);
    let limits = limits.prop_map(|(at, count, period_us, other)| {
        let (other_count, other_us) = other.filter(|_| at < 2).unwrap_or((count, period_us));
        [limit(at, count, period_us), limit(at, other_count, other_us)]
    });
    let steps = prop_oneof![4 => Just(0_u64), 4 => 0..=4_u64, 1 => 0..=40_u64];
    let unused = prop_oneof![3 => Just(u32::MAX), 1 => 1..=3_u32];
    let given = prop_oneof![2 => Just(None), 3 => (0..6_usize, unused).prop_map(Some)];
    let requests = proptest::collection::vec((steps, 0..=4_u32, given), 1..40);
    (limits, requests).prop_map(|(limits, requests)| Sample { limits, requests })
}

impl Sample {
    fn rules(&self) -> [Rule; 2] {
        self.limits.map(|limit| Rule::new("rule", limit).unwrap())
    }

    /// Which rule is in force for a request.
    fn rule<'a>(&self, rules: &'a [Rule; 2], at: usize) -> &'a Rule {
        &rules[usize::from(at > self.requests.len() / 2)]
    }
}

/// Gives back.
type Give = fn(&mut State, &GiveAll, Timestamp);

/// What stays taken would have been admitted had nothing else ever been taken.
fn admits_no_more(sample: &Sample, give: Give) -> Result<(), TestCaseError> {
    let rules = sample.rules();
    let mut state: State = None;
    let mut now_us = 1_700_000_000_000_000_u64;
    let mut kept = Vec::new();
    let mut due: Vec<(usize, GiveAll)> = Vec::new();
    for (at, &(step, cost, given)) in sample.requests.iter().enumerate() {
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        let rule = sample.rule(&rules, at);
        let take = TakeAll::new([(rule, cost)]);
        let verdict = run(&mut state, &take, now);
        if verdict.is_allowed() {
            let (later, unused) = given.unwrap_or_default();
            due.extend(GiveAll::part_of(&take, &verdict, |_| unused).map(|back| (at + later, back)));
            kept.push((now, rule, cost.saturating_sub(unused)));
        }
        for (_, back) in due.extract_if(.., |(when, _)| *when <= at) {
            give(&mut state, &back, now);
        }
    }
    let mut alone: State = None;
    for (now, rule, cost) in kept {
        let take = TakeAll::new([(rule, cost)]);
        prop_assert!(run(&mut alone, &take, now).is_allowed(), "{} at {}", cost, now.as_micros());
    }
    Ok(())
}

fn bucket(limit: &Limit) -> Option<TokenBucket> {
    match limit {
        Limit::TokenBucket(bucket) => Some(*bucket),
        Limit::LeakyBucket(queue) => Some(*queue.bucket()),
        _ => None,
    }
}

/// A bucket whose debt, as the take found it, has not run down gets back exactly the price, if nobody else was given any; a queue nothing, if
/// somebody has a place behind it.
fn gives_the_price(sample: &Sample, give: Give) -> Result<(), TestCaseError> {
    let rules = sample.rules();
    let mut state: State = None;
    let mut now_us = 1_700_000_000_000_000_u64;
    let mut held: Option<(usize, GiveAll)> = None;
    let mut is_last = true;
    for (at, &(step, cost, given)) in sample.requests.iter().enumerate() {
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        let Some(bucket) = bucket(&rules[0].limit()) else { return Ok(()) };
        let take = TakeAll::new([(&rules[0], cost)]);
        let verdict = run(&mut state, &take, now);
        is_last &= held.is_none() || !verdict.is_allowed() || cost == 0;
        if let (None, Some((later, unused))) = (&held, given) {
            is_last = true;
            held = GiveAll::part_of(&take, &verdict, |_| unused).map(|back| (at + later, back));
        }
        if let Some((_, back)) = held.take_if(|(when, _)| *when <= at) {
            let look = TakeAll::new([(&rules[0], 0)]);
            let taken = back.taken[0];
            let Weight::Bucket { price, debt, .. } = taken.weight else { panic!("it is a bucket") };
            prop_assert_eq!(Some(price), bucket.price(taken.cost));
            let before = run(&mut state, &look, now).each[0].debt();
            give(&mut state, &back, now);
            let after = run(&mut state, &look, now).each[0].debt();
            let lessened = before.minus(after, bucket.denominator());
            prop_assert!(lessened <= price);
            if matches!(rules[0].limit(), Limit::LeakyBucket(_)) && !is_last {
                prop_assert_eq!(lessened, Span::ZERO, "somebody is behind it");
            } else if debt.minus(price, bucket.denominator()).us >= now_us - taken.at_us {
                prop_assert_eq!(lessened, price);
            }
        }
    }
    Ok(())
}

/// Of what a queue has let in and was not given back, the next goes when those before it have had their time.
fn goes_one_by_one(sample: &Sample, give: Give) -> Result<(), TestCaseError> {
    let Limit::LeakyBucket(queue) = sample.limits[0] else { return Ok(()) };
    let (rule, mut state): (_, State) = (Rule::new("rule", queue).unwrap(), None);
    let mut now_us = 1_700_000_000_000_000_u64;
    let mut goes: Vec<(u64, u32)> = Vec::new();
    let mut due: Vec<(usize, GiveAll)> = Vec::new();
    for (at, &(step, cost, given)) in sample.requests.iter().enumerate() {
        now_us += step;
        let now = Timestamp::from_micros(now_us).unwrap();
        let take = TakeAll::new([(&rule, cost)]);
        let verdict = run(&mut state, &take, now);
        if verdict.is_allowed() && cost > 0 {
            let wait_us = u64::try_from(take.decision(&verdict).wait().as_micros()).unwrap();
            let (later, unused) = given.unwrap_or_default();
            due.extend(GiveAll::part_of(&take, &verdict, |_| unused).map(|back| (at + later, back)));
            goes.push((now_us + wait_us, cost.saturating_sub(unused)));
        }
        for (_, back) in due.extract_if(.., |(when, _)| *when <= at) {
            give(&mut state, &back, now);
        }
    }
    goes.retain(|(_, cost)| *cost > 0);
    goes.sort_unstable();
    for pair in goes.windows(2) {
        let [(before_us, cost), (after_us, _)] = pair else { panic!("two") };
        // When it goes was rounded up.
        let time_us = queue.bucket().price(*cost).unwrap().us;
        prop_assert!(
            after_us + 1 >= before_us + time_us,
            "{} costs {} and is followed by {}",
            before_us,
            cost,
            after_us
        );
    }
    Ok(())
}

type Law = fn(&Sample, Give) -> Result<(), TestCaseError>;

fn certify(law: Law, give: Give) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 6_000, failure_persistence: None, ..Config::default() });
    runner.run(&samples(), |sample| law(&sample, give)).map_err(|error| error.to_string())
}

fn honest(state: &mut State, give: &GiveAll, now: Timestamp) {
    run(state, give, now);
}

/// With its notes of the take changed.
fn noted(state: &mut State, give: &GiveAll, now: Timestamp, change: impl Fn(&mut Taken)) {
    let mut give = give.clone();
    give.taken.iter_mut().for_each(change);
    honest(state, &give, now);
}

/// With what it notes of buckets changed: the debt, and what had been given back.
fn weighed(state: &mut State, give: &GiveAll, now: Timestamp, change: impl Fn(&mut Span, &mut u64)) {
    noted(state, give, now, |taken| {
        if let Weight::Bucket { debt, given_us, .. } = &mut taken.weight {
            change(debt, given_us);
        }
    });
}

#[test]
fn what_is_given_back_admits_no_more() {
    if let Err(error) = certify(admits_no_more, honest) {
        panic!("{error}");
    }
}

#[test]
fn a_bucket_that_would_not_be_full_gets_back_the_price() {
    if let Err(error) = certify(gives_the_price, honest) {
        panic!("{error}");
    }
}

#[test]
fn a_queue_lets_one_go_at_a_time_whatever_is_given_back() {
    if let Err(error) = certify(goes_one_by_one, honest) {
        panic!("{error}");
    }
    // As if nobody was behind it.
    let overtaken: Give = |state, give, now| {
        let last = state.as_ref().map(|(bytes, _)| schema::decode_state(bytes).unwrap()[0].state.to_vec());
        let last = last.and_then(|state| crate::schema::token_bucket::decode_state(&state));
        noted(state, give, now, |taken| {
            if let (Some(last), Weight::Bucket { debt, .. }) = (&last, &mut taken.weight) {
                (taken.at_us, *debt) = (last.at_us, last.debt);
            }
        });
    };
    assert!(certify(goes_one_by_one, overtaken).is_err(), "one that gives back any place passed");
}

/// What windows whose length has changed admit too much where what was taken before is given back: at most that, once.
#[test]
fn windows_that_end_at_the_same_moment_may_be_given_what_they_have_not_counted_and_no_more() {
    let mut most = 0;
    for (algorithm, before_s, after_s, taken_at, kept_at) in
        [(2, 60, 30, 10, 45), (2, 60, 20, 30, 59), (3, 60, 30, 10, 75), (3, 60, 45, 10, 75), (2, 60, 30, 40, 45)]
    {
        for (cost, kept) in [(5, 1), (2, 3), (1, 5)] {
            let rule = |seconds: u64| Rule::new("rule", limit(algorithm, 5, seconds * 1_000_000)).unwrap();
            let time =
                |seconds: u64| Timestamp::from_micros((1_700_000_100 / 180 * 180 + seconds) * 1_000_000).unwrap();
            let (before, after, mut state) = (rule(before_s), rule(after_s), None);
            let take = TakeAll::new([(&before, cost)]);
            let back = GiveAll::of(&take, &run(&mut state, &take, time(taken_at))).unwrap();
            let mut admitted = 0;
            let one = TakeAll::new([(&after, 1)]);
            let mut ask = |state: &mut State, times| {
                admitted += (0..times).filter(|_| run(state, &one, time(kept_at)).is_allowed()).count();
            };
            ask(&mut state, kept);
            run(&mut state, &back, time(kept_at));
            ask(&mut state, 20);
            let over = i64::try_from(admitted).unwrap() - 5;
            assert!(over <= i64::from(cost), "{algorithm} {before_s} {after_s}: {over} for {cost}");
            most = most.max(over);
        }
    }
    assert!(most > 0, "then it can be given no more than was counted, and the docs say too little");
}

#[test]
fn giving_too_much_is_found() {
    let broken: [(&str, Give); 5] = [
        ("gives twice", |state, give, now| {
            honest(state, give, now);
            honest(state, give, now);
        }),
        ("gives as if it had been taken just now", |state, give, now| {
            noted(state, give, now, |taken| taken.at_us = now.as_micros());
        }),
        ("gives the price, however nearly full the bucket was", |state, give, now| {
            weighed(state, give, now, |debt, _| debt.us += 1_000);
        }),
        ("does not count what others were given", |state, give, now| {
            let counted = state.as_ref().map_or(0, |(bytes, _)| schema::decode_state(bytes).unwrap()[0].given_us);
            weighed(state, give, now, |_, given_us| *given_us = counted);
        }),
        ("gives all that was ever taken", |state, _, _| *state = None),
    ];
    for (name, broken) in broken {
        assert!(certify(admits_no_more, broken).is_err(), "one that {name} passed");
    }
}

#[test]
fn giving_too_little_is_found() {
    let broken: [(&str, Give); 3] = [
        ("gives nothing", |_, _, _| {}),
        ("gives the price less the time since", |state, give, now| {
            weighed(state, give, now, |debt, _| *debt = Span::ZERO);
        }),
        ("counts what was given before the take", |state, give, now| {
            weighed(state, give, now, |_, given_us| *given_us = 0);
        }),
    ];
    for (name, broken) in broken {
        assert!(certify(gives_the_price, broken).is_err(), "one that {name} passed");
    }
}

#[test]
fn what_is_given_back_at_once_was_never_taken() {
    let mut runner = TestRunner::new(Config { cases: 3_000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&samples(), |sample| {
        let [rule, _] = sample.rules();
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
