//! The sliding log held to the laws: no window at all holds more than the limit.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::procedure::laws::{Decided, Promise, Sample, at, certify};

fn count_in_any_window(sample: &Sample, admitted: &[(u64, u32)], now_us: u64, cost: u32) -> bool {
    let recent = admitted.iter().filter(|(at_us, _)| now_us - at_us < sample.window_us);
    recent.map(|(_, cost)| cost).sum::<u32>() + cost <= sample.limit
}

#[test]
fn laws() {
    certify(&Promise {
        make: |sample| {
            let limit = SlidingLog::new(sample.rate()).unwrap();
            Box::new(move |state: Option<&Entries>, now_us, cost| {
                let log = state.cloned().unwrap_or_default();
                let (verdict, log) = decide(&limit, &log, at(now_us), cost);
                let write = log.map(|log| (log, time_to_live(&verdict, at(now_us))));
                Decided { decision: TakeLogged::new(limit, cost).decision(&verdict), write }
            })
        },
        reference: count_in_any_window,
        limits_in_a_window: 1,
        set_time: |log, now_us| log.iter_mut().for_each(|entry| entry.at_us = now_us),
    });
}

#[test]
fn a_log_is_never_longer_than_its_limit() {
    let limit = SlidingLog::new("1000/h".parse().unwrap()).unwrap();
    let mut log = Entries::new();
    for now_us in 0..3_000 {
        if let (_, Some(new)) = decide(&limit, &log, at(now_us), 1) {
            log = new;
        }
    }
    assert_eq!(log.len(), 1_000);
    assert!(SlidingLog::new("1001/h".parse().unwrap()).is_err());
}

#[test]
fn the_last_moments_of_time() {
    let limit = SlidingLog::new("10/w".parse().unwrap()).unwrap();
    let (verdict, log) = decide(&limit, &Entries::new(), Timestamp::MAX, 3);
    assert!(verdict.allowed && log.is_some());
    assert_eq!(time_to_live(&verdict, Timestamp::MAX), None);
}
