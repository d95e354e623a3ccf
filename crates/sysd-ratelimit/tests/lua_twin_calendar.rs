//! The Lua twin of the calendar's windows against the Rust one, as in `lua_twin.rs`.
#![cfg(feature = "calendar")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sysd_core::{ManualClock, Timestamp};
use sysd_ratelimit::{Algorithm as _, CalendarUnit, CalendarWindow, TakeCalendar};

mod twin;

use twin::{History, Twin, compare, reject_slips, starts};

const MINUTE: i64 = 60_000_000;

/// The windows that a caller sees whose clock says `at_us`.
fn take(unit: CalendarUnit, limit: u32, at_us: u64, cost: u32) -> TakeCalendar {
    let clock = ManualClock::new(Timestamp::from_micros(at_us.min(Timestamp::MAX.as_micros())).unwrap());
    CalendarWindow::new(limit, unit, "Europe/Berlin", clock).unwrap().take(cost)
}

/// A window as it is stored, nearly; mostly absent.
fn states() -> impl Strategy<Value = Vec<u8>> {
    let times = prop_oneof![0..=2_u64, ((1 << 53) - 2)..=((1_u64 << 53) + 2), 0..(1_u64 << 56)];
    let near = (0..=2_u8, times, 0..=9_u32, 11..=13_usize).prop_map(|(version, at_us, count, length)| {
        let mut bytes = vec![version];
        bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.resize(length, 0);
        bytes
    });
    prop_oneof![6 => Just(vec![]), 3 => near]
}

fn histories() -> impl Strategy<Value = History<TakeCalendar>> {
    let steps = prop_oneof![3 => Just(0), 3 => 0..=2_i64, 3 => 0..=MINUTE, 2 => 0..=9 * MINUTE, 1 => -9 * MINUTE..=0];
    // How far the caller's clock is off, and where a window begins or ends nearby.
    let off = prop_oneof![6 => Just(0), 2 => -4 * MINUTE..=4 * MINUTE];
    let at_edge = prop_oneof![4 => Just(None), 1 => (-1..=1_i64).prop_map(Some)];
    let costs = prop_oneof![6 => Just(1_u32), 1 => Just(0), 2 => 0..=5_u32, 1 => 0_u32..];
    let call = (steps, off, at_edge, costs, 1..=5_u32);
    (starts(), proptest::collection::vec(call, 1..25), states(), any::<bool>()).prop_map(
        |(start_us, calls, state, is_minute)| {
            let unit = if is_minute { CalendarUnit::Minute } else { CalendarUnit::Month };
            let last_us = Timestamp::MAX.as_micros();
            let mut now_us = start_us;
            let calls = calls
                .into_iter()
                .map(|(step, off, at_edge, cost, limit)| {
                    now_us = now_us.saturating_add_signed(step).min(last_us);
                    if let Some(by) = at_edge {
                        let minute_us = now_us - now_us % 60_000_000;
                        now_us = minute_us.saturating_add_signed(by).min(last_us);
                    }
                    let take = take(unit, limit, now_us.saturating_add_signed(off), cost);
                    (Timestamp::from_micros(now_us).unwrap(), take)
                })
                .collect();
            History { state, calls }
        },
    )
}

fn any_take() -> TakeCalendar {
    take(CalendarUnit::Minute, 1, 0, 1)
}

#[test]
fn twins_agree() {
    if let Err(error) = compare(Twin::of(&any_take()), &histories(), 4_000, 2_000) {
        panic!("{error}");
    }
}

#[test]
fn slips_are_found() {
    reject_slips(
        &any_take(),
        &histories(),
        &[
            ("math.max(stored_at, now)", "now"),
            ("if bound <= at and at < next_bound", "if bound < at and at < next_bound"),
            ("at < next_bound then", "at <= next_bound then"),
            ("for index = 2, BOUNDS do", "for index = 2, BOUNDS - 1 do"),
            ("math.max(second - first, 1), limit)", "math.max(second - first, 1), used)"),
            ("if stored_at and stored_at < begin then", "if stored_at and stored_at <= begin then"),
            ("used + cost <= limit\n", "used + cost < limit\n"),
            ("cost == 0 or used", "used"),
            ("if ends <= LAST_TIME then ttl = skew + (ends - at) end", "ttl = ends - at"),
            ("stored_at > LAST_TIME", "stored_at > LAST_TIME + 1"),
        ],
    );
}
