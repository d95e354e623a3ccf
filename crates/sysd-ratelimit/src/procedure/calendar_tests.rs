#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::BOUNDS;
use crate::procedure::laws::{Decided, Promise, at, certify};

/// Windows of equal length, as a caller sees them whose clock is at `now_us`.
fn span(limit: u32, window_us: u64, now_us: u64) -> CalendarSpan {
    let begin_us = now_us - now_us % window_us;
    let bounds_us: [u64; BOUNDS] =
        std::array::from_fn(|index| (begin_us + index as u64 * window_us).saturating_sub(3 * window_us));
    CalendarSpan::new(limit, bounds_us)
}

#[test]
fn the_laws_hold() {
    certify(&Promise {
        make: |sample| {
            let (limit, window_us) = (sample.limit, sample.window_us);
            Box::new(move |state: Option<&State>, now_us, cost| {
                // The caller's clock is the one that is ahead.
                let span = span(limit, window_us, state.map_or(now_us, |state| state.at_us.max(now_us)));
                let (verdict, new) = decide(&span, state.copied(), at(now_us), cost);
                let decision = TakeCalendar::new(span, cost).decision(&verdict);
                Decided { decision, write: new.map(|new| (new, time_to_live(&verdict, at(now_us)))) }
            })
        },
        reference: |sample, admitted, now_us, cost| {
            let begin_us = now_us - now_us % sample.window_us;
            let used = admitted.iter().filter(|(at_us, _)| *at_us >= begin_us).map(|(_, cost)| u64::from(*cost));
            used.sum::<u64>() + u64::from(cost) <= u64::from(sample.limit)
        },
        limits_in_a_window: 2,
        set_time: |state, at_us| state.at_us = at_us,
    });
}

#[test]
fn beyond_the_windows_that_are_known_nothing_is_admitted() {
    let span = span(5, 1_000, 1_000_000);
    for now_us in [996_999, 1_004_000] {
        let take = TakeCalendar::new(span, 1);
        let (verdict, written) = decide(&span, None, at(now_us), 1);
        assert_eq!((take.decision(&verdict).is_allowed(), written), (false, None), "{now_us}");
        assert_eq!(take.decision(&verdict).remaining(), 0);
        assert!(decide(&span, None, at(now_us), 0).0.allowed, "a look is always allowed");
    }
    for now_us in [997_000, 1_003_999] {
        assert!(decide(&span, None, at(now_us), 1).0.allowed, "{now_us}");
    }
}

#[test]
fn what_is_no_output_is_refused() {
    let take = TakeCalendar::new(span(5, 1_000, 1_000_000), 1);
    let (verdict, _) = decide(&span(5, 1_000, 1_000_000), None, at(1_000_000), 1);
    let mut bytes = OutputBytes::new();
    take.encode_output(&verdict, &mut bytes);
    assert_eq!(take.decode_output(&bytes).unwrap(), verdict);
    assert!(take.decode_output(&bytes[1..]).is_err());
    bytes[0] = 2;
    assert!(take.decode_output(&bytes).is_err());
}
