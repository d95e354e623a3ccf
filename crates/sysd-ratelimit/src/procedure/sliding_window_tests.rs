//! The sliding window held to the laws, and to its approximation.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::procedure::laws::{Decided, Promise, Sample, at, certify};

/// The share of the window before that is still covered, in steps of a 2^18th.
fn weighed(sample: &Sample, admitted: &[(u64, u32)], now_us: u64, cost: u32) -> bool {
    let window_us = u128::from(sample.window_us);
    let step_us = window_us.div_ceil(1 << 18);
    let steps = window_us.div_ceil(step_us);
    let (window, into_us) = (u128::from(now_us) / window_us, u128::from(now_us) % window_us);
    let sum = |of: u128| -> u128 {
        admitted
            .iter()
            .filter(|(at_us, _)| u128::from(*at_us) / window_us == of)
            .map(|(_, cost)| u128::from(*cost))
            .sum()
    };
    let covered = (window_us - into_us).div_ceil(step_us);
    (sum(window) + u128::from(cost)) * steps + sum(window - 1) * covered <= u128::from(sample.limit) * steps
}

#[test]
fn laws() {
    certify(&Promise {
        make: |sample| {
            let limit = SlidingWindow::new(sample.rate());
            Box::new(move |state: Option<&State>, now_us, cost| {
                let (verdict, state) = decide(&limit, state.copied(), at(now_us), cost);
                let write = state.map(|state| (state, time_to_live(&limit, &verdict, at(now_us))));
                Decided { decision: TakeSliding::new(limit, cost).decision(&verdict), write }
            })
        },
        reference: weighed,
        limits_in_a_window: 2,
        set_time: |state, now_us| state.at_us = now_us,
    });
}

/// Ten windows of even traffic at twice the limit: what is admitted in any window is the limit, and one more for the step.
#[test]
fn even_traffic_gets_the_limit() {
    let limit = SlidingWindow::new("100/s".parse().unwrap());
    let (mut state, mut admitted) = (None, Vec::new());
    for now_us in (0..10_000_000).step_by(5_000) {
        let (verdict, new) = decide(&limit, state, at(now_us), 1);
        if verdict.allowed {
            state = new;
            admitted.push(now_us);
        }
    }
    // After the first window, which begins with a burst.
    for first in admitted.iter().filter(|&&first| first >= 2_000_000) {
        let count = admitted.iter().filter(|&&at_us| at_us >= *first && at_us - first < 1_000_000).count();
        assert!(count <= 101, "{count} in a second");
    }
    assert!(admitted.len() >= 950, "{} in ten seconds", admitted.len());
}

/// What the docs call the worst: a burst at the end of one window, and the next window used as it is given.
#[test]
fn the_worst_case_stays_below_twice_the_limit() {
    let limit = SlidingWindow::new("1000/s".parse().unwrap());
    let (_, mut state) = decide(&limit, None, at(1_999_999), 1_000);
    let mut admitted = 1_000;
    for now_us in (2_000_000..2_999_999).step_by(97) {
        let (verdict, new) = decide(&limit, state, at(now_us), 1);
        if verdict.allowed {
            (state, admitted) = (new, admitted + 1);
        }
    }
    assert!((1_900..2_000).contains(&admitted), "{admitted}");
}

#[test]
fn the_last_moments_of_time() {
    let limit = SlidingWindow::new("4294967295/w".parse().unwrap());
    let (verdict, state) = decide(&limit, None, Timestamp::MAX, u32::MAX);
    assert!(verdict.allowed && state.is_some());
    assert_eq!(time_to_live(&limit, &verdict, Timestamp::MAX), None);
    let take = TakeSliding::new(limit, 1);
    assert!(take.decision(&decide(&limit, state, at(0), 1).0).retry_after().is_some());
}
