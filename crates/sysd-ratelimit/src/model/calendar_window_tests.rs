#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use sysd_core::ManualClock;

use super::*;

fn micros(text: &str) -> u64 {
    let at: jiff::Timestamp = text.parse().unwrap();
    u64::try_from(at.as_microsecond()).unwrap()
}

fn window(unit: CalendarUnit, zone: &str, now_us: u64) -> CalendarWindow {
    let clock = ManualClock::new(Timestamp::from_micros(now_us).unwrap());
    CalendarWindow::new(5, unit, zone, clock).unwrap()
}

fn around(unit: CalendarUnit, zone: &str, now: &str) -> (u64, u64) {
    window(unit, zone, micros(now)).span().around(micros(now)).unwrap()
}

#[test]
fn windows_are_those_of_the_calendar() {
    use CalendarUnit::{Day, Hour, Minute, Month};
    for (unit, zone, now, begin, end) in [
        (Minute, "UTC", "2026-11-24T22:31:59.999999Z", "2026-11-24T22:31:00Z", "2026-11-24T22:32:00Z"),
        (Hour, "Asia/Kolkata", "2026-11-24T22:31:00Z", "2026-11-24T22:30:00Z", "2026-11-24T23:30:00Z"),
        (Day, "UTC", "2026-11-24T00:00:00Z", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
        (Day, "Asia/Tokyo", "2026-11-24T14:59:59Z", "2026-11-23T15:00:00Z", "2026-11-24T15:00:00Z"),
        // Clocks are changed: a day of 23 hours, and one of 25.
        (Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        (Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        // A day that begins at one o'clock.
        (Day, "America/Asuncion", "2023-10-01T12:00:00Z", "2023-10-01T04:00:00Z", "2023-10-02T03:00:00Z"),
        (Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Month, "America/New_York", "2026-11-24T22:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
    ] {
        assert_eq!(around(unit, zone, now), (micros(begin), micros(end)), "{unit:?} in {zone} at {now}");
    }
}

#[test]
fn bad_input_is_named() {
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    let zero = CalendarWindow::new(0, CalendarUnit::Day, "UTC", clock.clone()).unwrap_err();
    assert_eq!(zero, RateLimitError::ZeroRate);
    let unknown = CalendarWindow::new(1, CalendarUnit::Day, "Europe/Atlantis", clock).unwrap_err();
    assert_eq!(unknown, RateLimitError::UnknownZone { name: "Europe/Atlantis".to_owned() });
}

#[test]
fn the_first_and_the_last_moments_have_windows() {
    let last_us = Timestamp::MAX.as_micros();
    for unit in [CalendarUnit::Minute, CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Month] {
        for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
            let (begin_us, end_us) = window(unit, zone, 0).span().around(0).unwrap();
            assert!(begin_us == 0 && end_us > 0);
            let span = window(unit, zone, last_us - 1).span();
            assert!(span.around(last_us - 1).is_some_and(|(begin_us, end_us)| begin_us < end_us && end_us <= last_us));
        }
    }
}

proptest! {
    #[test]
    fn all_who_ask_within_reach_see_the_same_windows(
        now_us in micros("2020-01-01T00:00:00Z")..micros("2040-01-01T00:00:00Z"),
        apart_us in 0_u64..(3 * 86_400_000_000),
        unit in prop_oneof![Just(CalendarUnit::Minute), Just(CalendarUnit::Hour), Just(CalendarUnit::Day), Just(CalendarUnit::Month)],
        zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/Sao_Paulo"), Just("Asia/Kathmandu"), Just("Africa/Casablanca"), Just("Australia/Lord_Howe")],
    ) {
        let (one, other) = (window(unit, zone, now_us).span(), window(unit, zone, now_us + apart_us).span());
        prop_assert!(one.bounds_us().is_sorted());
        let (begin_us, end_us) = one.around(now_us).unwrap();
        prop_assert!(begin_us <= now_us && now_us < end_us);
        if let (Some(here), Some(there)) = (one.around(now_us + apart_us), other.around(now_us + apart_us)) {
            prop_assert_eq!(here, there);
        }
        if unit == CalendarUnit::Day || unit == CalendarUnit::Month {
            prop_assert!(one.around(now_us + apart_us).is_some(), "three windows further");
        }
    }
}

#[test]
fn an_hour_that_is_repeated_by_half_is_the_same_for_all_who_ask() {
    // Clocks go back by thirty minutes, and forth.
    for change in ["2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"] {
        let change_us = micros(change);
        let minute_us = 60_000_000;
        for at in 0..180 {
            let now_us = change_us - 90 * minute_us + at * minute_us;
            let seen = |from_us| window(CalendarUnit::Hour, "Australia/Lord_Howe", from_us).span().around(now_us);
            let own = seen(now_us).unwrap();
            for other in 0..180 {
                let there = seen(change_us - 90 * minute_us + other * minute_us);
                assert!(there.is_none_or(|there| there == own), "{at} {other} {own:?} {there:?}");
            }
        }
    }
}
