//! The fixed window held to the laws, and to its windows.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::procedure::laws::{Decided, Promise, Sample, at, certify};

fn count_in_window(sample: &Sample, admitted: &[(u64, u32)], now_us: u64, cost: u32) -> bool {
    let window = now_us / sample.window_us;
    let used: u32 = admitted.iter().filter(|(at_us, _)| at_us / sample.window_us == window).map(|(_, cost)| cost).sum();
    used + cost <= sample.limit
}

#[test]
fn laws() {
    certify(&Promise {
        make: |sample| {
            let limit = FixedWindow::new(sample.rate());
            Box::new(move |state: Option<&State>, now_us, cost| {
                let (verdict, state) = decide(&limit, state.copied(), at(now_us), cost);
                let write = state.map(|state| (state, time_to_live(&limit, &verdict, at(now_us))));
                Decided { decision: TakeFixed::new(limit, cost).decision(&verdict), write }
            })
        },
        reference: count_in_window,
        limits_in_a_window: 2,
        set_time: |state, now_us| state.at_us = now_us,
    });
}

#[test]
fn another_limit_or_window_keeps_what_was_counted() {
    let limit = |rate: &str| FixedWindow::new(rate.parse().unwrap());
    let (_, state) = decide(&limit("10/m"), None, at(120_000_000), 7);
    let count = |rate, now_us| decide(&limit(rate), state, at(now_us), 0).0.count;
    assert_eq!(count("5/m", 130_000_000), 7);
    assert!(!decide(&limit("5/m"), state, at(130_000_000), 1).0.allowed);
    assert_eq!(
        TakeFixed::new(limit("5/m"), 0).decision(&decide(&limit("5/m"), state, at(130_000_000), 0).0).remaining(),
        0
    );
    assert_eq!(count("10/h", 190_000_000), 7, "the hour holds that minute");
    assert_eq!(count("10/s", 120_500_000), 7, "so does that second");
    assert_eq!(count("10/s", 121_000_000), 0);
}

#[test]
fn the_last_moments_of_time() {
    let limit = FixedWindow::new("10/w".parse().unwrap());
    let (verdict, state) = decide(&limit, None, Timestamp::MAX, 3);
    assert!(verdict.allowed && state.is_some());
    assert_eq!(time_to_live(&limit, &verdict, Timestamp::MAX), None);
}
