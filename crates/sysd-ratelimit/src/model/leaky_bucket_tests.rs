//! The leaky bucket held to what its docs say, and broken ones that are told from it.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sysd_core::{Procedure as _, StateChange, Timestamp};

use super::*;
use crate::algorithm::Algorithm as _;

/// When requests went on, from the waits that they were told, and the longest of these.
fn turns(limit: &LeakyBucket, requests: &[(u64, u32)], told: fn(u64) -> u64) -> (Vec<(u64, u32)>, u64) {
    let (mut state, mut now_us) = (None::<Vec<u8>>, 1_700_000_000_000_000);
    let (mut turns, mut longest_us) = (Vec::new(), 0);
    for &(step_us, cost) in requests {
        now_us += step_us;
        let take = limit.take(cost);
        let step = take.apply(state.as_deref(), Timestamp::from_micros(now_us).unwrap()).unwrap();
        let decision = limit.decision(&take, &step.output);
        if let StateChange::Put { state: new, .. } = step.change {
            state = Some(new.to_vec());
        }
        if decision.is_allowed() && cost > 0 {
            let wait_us = told(u64::try_from(decision.wait().as_micros()).unwrap());
            turns.push((now_us + wait_us, cost));
            longest_us = longest_us.max(wait_us);
        }
    }
    (turns, longest_us)
}

/// In their order, none waits longer than the longest wait, and no stretch as long as the period holds more than the rate, but for
/// what the last of it costs beyond one.
fn law(told: fn(u64) -> u64) -> Result<(), String> {
    let samples = (1_u32..=9, 1_u64..=40, 0_u32..=5).prop_flat_map(|(count, period_us, queue)| {
        let requests = proptest::collection::vec((0..=period_us / 3 + 1, 0..=queue + 1), 1..40);
        (Just((count, period_us, queue)), requests)
    });
    let config = Config { cases: 4_000, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&samples, |((count, period_us, queue), requests)| {
        let limit = LeakyBucket::new(Rate::new(count, Duration::from_micros(period_us)).unwrap(), queue).unwrap();
        let (turns, longest_us) = turns(&limit, &requests, told);
        prop_assert!(turns.is_sorted_by_key(|(at_us, _)| *at_us), "{turns:?}");
        prop_assert!(longest_us <= u64::try_from(limit.longest_wait().as_micros()).unwrap(), "{longest_us}");
        for first in 0..turns.len() {
            let within: Vec<_> =
                turns[first..].iter().take_while(|(at_us, _)| at_us - turns[first].0 < period_us).collect();
            let sum: u32 = within.iter().map(|(_, cost)| cost).sum();
            let beyond = within.last().map_or(0, |(_, cost)| cost - 1);
            prop_assert!(sum <= count + beyond, "{within:?}");
        }
        Ok(())
    });
    outcome.map_err(|error| error.to_string())
}

#[test]
fn requests_go_on_evenly() {
    law(|wait_us| wait_us).unwrap();
}

#[test]
fn waits_that_are_wrong_break_the_law() {
    assert!(law(|_| 0).is_err());
    assert!(law(|wait_us| wait_us.saturating_sub(1)).is_err());
    assert!(law(|wait_us| wait_us + 1).is_err());
}

#[test]
fn a_full_queue_refuses_and_the_longest_wait_is_reached() {
    // One each 1.4 microseconds.
    let limit = LeakyBucket::new(Rate::new(5, Duration::from_micros(7)).unwrap(), 1).unwrap();
    let (turns, longest_us) = turns(&limit, &[(0, 1), (0, 1), (0, 1), (1, 1)], |wait_us| wait_us);
    assert_eq!(turns.len(), 2);
    assert_eq!((limit.queue(), limit.longest_wait()), (1, Duration::from_micros(longest_us)));
    assert_eq!(longest_us, 2);
    let none = LeakyBucket::new(Rate::per_second(1).unwrap(), 0).unwrap();
    assert_eq!(none.longest_wait(), Duration::ZERO);
}
