//! The Lua twin of the token bucket against the Rust one, on a real Redis: random histories, aimed at
//! where doubles could go wrong, must give the same verdicts, the same stored bytes and the same times to live.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use sysd_core::Timestamp;
use sysd_ratelimit::{Rate, Take, TokenBucket};

mod twin;

use twin::{History, Twin, compare, reject_slips, starts};

fn buckets() -> impl Strategy<Value = TokenBucket> {
    let counts = prop_oneof![1_u32..=12, Just(9_999_991), Just(10_000_000), 1_u32.., Just(u32::MAX)];
    let longest_us = 3_155_760_000_000_000_u64;
    let periods =
        prop_oneof![1_u64..=30, Just(1_000_000), Just(2_592_000_000_000), 1..=longest_us, longest_us - 9..=longest_us];
    let bursts = prop_oneof![1_u32..=12, Just(1_000), 1_u32.., Just(u32::MAX)];
    (counts, periods, bursts).prop_filter_map("refills in time", |(count, period_us, burst)| {
        TokenBucket::new(Rate::new(count, Duration::from_micros(period_us)).ok()?, burst).ok()
    })
}

fn histories() -> impl Strategy<Value = History<Take>> {
    (buckets(), buckets(), starts()).prop_flat_map(|(bucket, other, start_us)| {
        let full = i64::try_from(bucket.refill_time().as_micros()).unwrap();
        let interval = full / i64::from(bucket.burst());
        let steps = prop_oneof![
            2 => Just(0),
            3 => 0..=2_i64,
            4 => (interval - 1)..=(interval + 2),
            2 => (full - 2)..=(full + 2),
            2 => 0..=full,
            1 => -full..=0,
            1 => -3..=0_i64,
        ];
        let burst = bucket.burst();
        let costs = prop_oneof![6 => Just(1), 1 => Just(0), 2 => 0..=burst.min(5), 2 => Just(burst), 1 => 0_u32..];
        // One call in twelve comes from somebody configured otherwise.
        let limits = prop_oneof![11 => Just(bucket), 1 => Just(other)];
        let calls = proptest::collection::vec((steps, costs, limits), 1..30);
        (calls, states()).prop_map(move |(calls, state)| {
            let mut now_us = start_us;
            let calls = calls
                .into_iter()
                .map(|(step_us, cost, bucket)| {
                    now_us = now_us.saturating_add_signed(step_us).min(Timestamp::MAX.as_micros());
                    (Timestamp::from_micros(now_us).unwrap(), Take::new(bucket, cost))
                })
                .collect();
            History { state, calls }
        })
    })
}

/// Mostly absent; else bytes that are nearly a state, at the edges of what is valid.
fn states() -> impl Strategy<Value = Vec<u8>> {
    let edges = || {
        prop_oneof![
            0..=2_u64,
            Just(1_800_000_000_000_000),
            Just(3_155_760_000_000_000),
            Just(3_155_760_000_000_001),
            ((1 << 53) - 2)..=((1_u64 << 53) + 2),
            0..(1_u64 << 56),
        ]
    };
    let near = (0..=2_u8, edges(), edges(), 0..=3_u32, 0..=3_u32, 21..=24_usize, any::<bool>()).prop_map(
        |(version, at_us, debt_us, part, parts, length, is_whole)| {
            let mut bytes = vec![version];
            bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
            bytes.extend_from_slice(&debt_us.to_be_bytes()[1..]);
            bytes.extend_from_slice(&part.to_be_bytes());
            bytes.extend_from_slice(&parts.to_be_bytes());
            if !is_whole {
                bytes.resize(length, 0);
            }
            bytes
        },
    );
    prop_oneof![6 => Just(vec![]), 3 => near, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

fn any_take() -> Take {
    Take::new(TokenBucket::new(Rate::per_second(1).unwrap(), 1).unwrap(), 1)
}

#[test]
fn lua_and_rust_are_equal() {
    compare(Twin::of(&any_take()), &histories(), 6_000, 4_096).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn broken_twins_are_rejected() {
    let slips = [
        ("if stored_at > now then", "if false then"),
        ("now - stored_at > debt", "now - stored_at >= debt"),
        ("after == capacity and after_part > capacity_part", "after == capacity and after_part >= capacity_part"),
        ("if after_part >= denominator then", "if after_part > denominator then"),
        ("if after_part > 0 then full_in", "if false then full_in"),
        ("at <= LAST_TIME - full_in", "at + full_in <= LAST_TIME + 1"),
        ("ttl = skew + full_in", "ttl = full_in"),
        ("if price == 0 and price_part == 0 then", "if false then"),
        ("part >= parts", "part > parts"),
        ("at > LAST_TIME", "at > LAST_TIME + 1"),
        ("debt > LONGEST", "debt > LONGEST + 1"),
        ("#state ~= 23", "#state < 23"),
        ("version ~= VERSION", "false"),
        ("if parts ~= denominator and part > 0", "if false"),
        ("'>BI7I7I4I4', VERSION, at,", "'>BI7I7I4I4', VERSION, tonumber(tostring(at)),"),
    ];
    reject_slips(&any_take(), &histories(), &slips);
}
