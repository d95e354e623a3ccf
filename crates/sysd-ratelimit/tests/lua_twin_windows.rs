//! The Lua twins of the algorithms that count in windows against the Rust ones, as in `lua_twin.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use sysd_core::Timestamp;
use sysd_ratelimit::{FixedWindow, Rate, SlidingLog, SlidingWindow, TakeFixed, TakeLogged, TakeSliding};

mod twin;

use twin::{History, Twin, compare, reject_slips, starts};

/// A limit and its window, as far as all three go.
fn rates(limits: impl Strategy<Value = u32>) -> impl Strategy<Value = Rate> {
    let longest_us = 3_155_760_000_000_000_u64;
    let windows = prop_oneof![
        3 => 1_u64..=30,
        1 => Just(1_000_000),
        1 => Just(2_592_000_000_000),
        2 => 262_140..=262_150_u64,
        1 => 524_280..=524_300_u64,
        1 => 1..=longest_us,
        1 => longest_us - 9..=longest_us,
    ];
    (limits, windows).prop_map(|(limit, window_us)| Rate::new(limit, Duration::from_micros(window_us)).unwrap())
}

fn histories<P: Clone + std::fmt::Debug>(
    limits: impl Strategy<Value = u32> + Clone,
    states: impl Strategy<Value = Vec<u8>> + Clone,
    take: fn(Rate, u32) -> P,
) -> impl Strategy<Value = History<P>> {
    (rates(limits.clone()), rates(limits), starts()).prop_flat_map(move |(rate, other, start_us)| {
        let window = i64::try_from(rate.period().as_micros()).unwrap();
        let steps = prop_oneof![
            3 => Just(0),
            3 => 0..=2_i64,
            3 => 0..=window / 3 + 1,
            3 => (window - 2)..=(window + 2),
            2 => (2 * window - 2)..=(2 * window + 2),
            1 => -window..=0,
            1 => -3..=0_i64,
        ];
        let limit = rate.count();
        let costs = prop_oneof![6 => Just(1), 1 => Just(0), 2 => 0..=limit.min(5), 2 => Just(limit), 1 => 0_u32..];
        // One call in twelve comes from somebody configured otherwise.
        let rates = prop_oneof![11 => Just(rate), 1 => Just(other)];
        let calls = proptest::collection::vec((steps, costs, rates), 1..30);
        (calls, states.clone()).prop_map(move |(calls, state)| {
            let mut now_us = start_us;
            let calls = calls
                .into_iter()
                .map(|(step_us, cost, rate)| {
                    now_us = now_us.saturating_add_signed(step_us).min(Timestamp::MAX.as_micros());
                    (Timestamp::from_micros(now_us).unwrap(), take(rate, cost))
                })
                .collect();
            History { state, calls }
        })
    })
}

/// Times at the edges of what is valid.
fn times() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        0..=2_u64,
        1_700_000_000_000_000..1_700_000_000_000_009_u64,
        ((1 << 53) - 2)..=((1_u64 << 53) + 2),
        0..(1_u64 << 56),
    ]
}

/// Mostly absent; else a byte, a time and so many counts, nearly as they are stored.
fn counters(counts: usize) -> impl Strategy<Value = Vec<u8>> + Clone {
    let size = 8 + 4 * counts;
    let count = prop_oneof![0..=9_u32, 0_u32..];
    let near = (0..=2_u8, times(), proptest::collection::vec(count, counts), size - 1..=size + 1, any::<bool>());
    let near = near.prop_map(|(version, at_us, counts, length, is_whole)| {
        let mut bytes = vec![version];
        bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
        for count in counts {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        if !is_whole {
            bytes.resize(length, 0);
        }
        bytes
    });
    prop_oneof![6 => Just(vec![]), 3 => near, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

/// The same for a log: entries that are nearly in order.
fn logs() -> impl Strategy<Value = Vec<u8>> + Clone {
    let entry = (0..=3_u64, prop_oneof![8 => 1..=5_u32, 1 => Just(0_u32), 1 => 999..=1_001_u32]);
    let near = (0..=2_u8, times(), proptest::collection::vec(entry, 0..6), 0..=11_usize, any::<bool>());
    let near = near.prop_map(|(version, mut at_us, entries, cut, is_whole)| {
        let mut bytes = vec![version];
        for (later_us, cost) in entries {
            at_us += later_us;
            bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
            bytes.extend_from_slice(&cost.to_be_bytes());
        }
        if !is_whole {
            bytes.truncate(bytes.len().saturating_sub(cut));
        }
        bytes
    });
    prop_oneof![6 => Just(vec![]), 4 => near, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

fn limits() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![1_u32..=12, Just(1_000), 1_u32.., Just(u32::MAX)]
}

fn fixed() -> impl Strategy<Value = History<TakeFixed>> {
    histories(limits(), counters(1), |rate, cost| TakeFixed::new(FixedWindow::new(rate), cost))
}

fn sliding() -> impl Strategy<Value = History<TakeSliding>> {
    histories(limits(), counters(2), |rate, cost| TakeSliding::new(SlidingWindow::new(rate), cost))
}

fn logged() -> impl Strategy<Value = History<TakeLogged>> {
    let limits = prop_oneof![4 => 1_u32..=9, 1 => Just(1_000)];
    histories(limits, logs(), |rate, cost| TakeLogged::new(SlidingLog::new(rate).unwrap(), cost))
}

fn second() -> Rate {
    Rate::per_second(1).unwrap()
}

#[test]
fn fixed_windows_are_equal() {
    let take = TakeFixed::new(FixedWindow::new(second()), 1);
    compare(Twin::of(&take), &fixed(), 6_000, 4_096).unwrap_or_else(|error| panic!("{error}"));
    reject_slips(
        &take,
        &fixed(),
        &[
            ("at % window", "(at + 1) % window"),
            ("at - stored_at > into", "at - stored_at >= into"),
            ("if stored_at > now then at = stored_at end", ""),
            ("used + cost <= limit", "used + cost < limit"),
            ("window - into <= LAST_TIME - at", "window - into < LAST_TIME - at"),
            ("(at - now) + (window - into) end", "window - into end"),
            ("version ~= VERSION", "false"),
            ("stored_at > LAST_TIME", "stored_at > LAST_TIME + 1"),
            ("#state ~= 12", "#state < 12"),
            ("cost == 0 or not allowed", "not allowed"),
        ],
    );
}

#[test]
fn sliding_windows_are_equal() {
    let take = TakeSliding::new(SlidingWindow::new(second()), 1);
    compare(Twin::of(&take), &sliding(), 6_000, 4_096).unwrap_or_else(|error| panic!("{error}"));
    reject_slips(
        &take,
        &sliding(),
        &[
            ("at % window", "(at + 1) % window"),
            ("at - stored_at > into then", "at - stored_at >= into then"),
            ("at - stored_at <= into + window", "at - stored_at < into + window"),
            ("if over > 0 then covered = covered + 1 end", ""),
            ("<= limit * steps", "< limit * steps"),
            ("cost == 0 or (used", "(used"),
            ("if stored_at > now then at = stored_at end", ""),
            ("left + window <= LAST_TIME - at", "left + window < LAST_TIME - at"),
            ("used, previous = 0, used else", "used, previous = 0, 0 else"),
            ("version ~= VERSION", "false"),
            ("#state ~= 16", "#state < 16"),
        ],
    );
}

#[test]
fn sliding_logs_are_equal() {
    let take = TakeLogged::new(SlidingLog::new(second()).unwrap(), 1);
    compare(Twin::of(&take), &logged(), 6_000, 4_096).unwrap_or_else(|error| panic!("{error}"));
    reject_slips(
        &take,
        &logged(),
        &[
            ("at - times[first] >= window", "at - times[first] > window"),
            ("used + cost <= limit then\n  local log", "used + cost < limit then\n  local log"),
            ("times[count] == at then", "false then"),
            ("time <= before", "time < before"),
            ("taken == 0", "false"),
            ("taken > ENTRIES_MAX", "false"),
            ("count < 1", "false"),
            ("size % 11 ~= 0", "false"),
            ("math.max(times[count], now)", "now"),
            ("window <= LAST_TIME - at", "window < LAST_TIME - at"),
            ("used - freed + cost <= limit", "used - freed <= limit"),
            ("string.byte(state) ~= VERSION", "false"),
        ],
    );
}
