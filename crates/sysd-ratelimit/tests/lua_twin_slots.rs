//! The Lua twin of slots against the Rust one, as in `lua_twin.rs`.
#![cfg(feature = "calendar")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sysd_core::Timestamp;
use sysd_core::lease::HolderId;
use sysd_ratelimit::{AskSlots, Concurrency, SlotAsk};

mod twin;

use twin::{History, Twin, compare, reject_slips, starts};

fn asks() -> impl Strategy<Value = AskSlots> {
    let hold = || prop_oneof![6 => 0_u64..=30, 1 => Just(u64::MAX), 1 => Just(3_155_760_000_000_000)];
    let costs = || prop_oneof![6 => 1_u32..=3, 1 => Just(1_000), 1 => any::<u32>()];
    let asks = prop_oneof![
        6 => (costs(), hold()).prop_map(|(cost, hold_us)| SlotAsk::Acquire { cost, hold_us }),
        2 => hold().prop_map(|hold_us| SlotAsk::Renew { hold_us }),
        2 => Just(SlotAsk::Release),
        1 => Just(SlotAsk::Look),
    ];
    let limits = prop_oneof![6 => 1_u32..=6, 1 => Just(1_000)];
    let holders = prop_oneof![8 => 1..=7_u128, 1 => Just(u128::MAX), 1 => Just(1 << 120)];
    (limits, holders, asks).prop_map(|(limit, holder, ask)| {
        AskSlots::new(Concurrency::new(limit).unwrap(), HolderId::from_u128(holder).unwrap(), ask)
    })
}

/// Records as they are stored, nearly.
fn states(start_us: u64) -> impl Strategy<Value = Vec<u8>> {
    let near = (1..=9_u64, 0..=40_u64, any::<prop::sample::Index>(), any::<u8>(), 0..=11_u8);
    let near = near.prop_map(move |(few, before_us, at, byte, how)| {
        // As many as there may be, and one too many.
        let count = match how {
            10 => 1_000,
            11 => 1_001,
            _ => few,
        };
        let at_us = start_us.saturating_sub(before_us);
        let mut bytes = vec![1];
        bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
        for holder in 1..=count {
            bytes.extend_from_slice(&u128::from(holder).to_be_bytes());
            let (slots, till_us) = if count < 50 { (1 + holder % 3, 1 + holder) } else { (1, 1 + holder / 20) };
            bytes.extend_from_slice(&u16::try_from(slots).unwrap().to_be_bytes());
            bytes.extend_from_slice(&(at_us + till_us).to_be_bytes()[1..]);
        }
        match how {
            0 | 4 => {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            // Nobody, once, twice.
            1 => bytes[8..24].fill(0),
            2 => {
                let last_till = bytes.len() - 7..bytes.len();
                bytes.extend_from_within(8..26);
                bytes.extend_from_within(last_till);
            }
            3 => bytes.truncate(at.index(bytes.len())),
            // Of nothing.
            5 => bytes[24..26].fill(0),
            // Until the record was written, which is over; for ever.
            6 => bytes.copy_within(1..8, 26),
            7 => bytes[26..33].fill(0xFF),
            _ => {}
        }
        bytes
    });
    prop_oneof![6 => Just(vec![]), 4 => near]
}

fn histories() -> impl Strategy<Value = History<AskSlots>> {
    let steps = prop_oneof![4 => Just(0_i64), 4 => 0..=6_i64, 1 => 0..=40_i64, 1 => -8..=0_i64];
    let calls = proptest::collection::vec((steps, asks()), 1..25);
    let both = starts().prop_flat_map(|start_us| (Just(start_us), states(start_us)));
    (both, calls).prop_map(|((start_us, state), calls)| {
        let mut now_us = start_us;
        let calls = calls.into_iter().map(|(step, ask)| {
            now_us = now_us.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
            (Timestamp::from_micros(now_us).unwrap(), ask)
        });
        History { state, calls: calls.collect() }
    })
}

fn any_ask() -> AskSlots {
    AskSlots::look(Concurrency::new(1).unwrap())
}

#[test]
fn twins_agree() {
    if let Err(error) = compare(Twin::of(&any_ask()), &histories(), 3_000, 2_000) {
        panic!("{error}");
    }
}

#[test]
fn slips_are_found() {
    reject_slips(
        &any_ask(),
        &histories(),
        &[
            ("math.max(written, now)", "now"),
            ("count > HOLDERS_MAX", "false"),
            ("whose == NOBODY or", ""),
            ("slots == 0 or", ""),
            ("or till < earliest", ""),
            ("local earliest = written + 1", "local earliest = written"),
            ("or till > LAST_TIME then", "then"),
            ("if till > at then", "if till >= at then"),
            ("own = own or #held", "own = #held"),
            ("in_use + cost > limit", "in_use + cost >= limit"),
            ("or till <= at) then", ") then"),
            ("in_use - freed + cost <= limit", "in_use - freed < limit"),
            ("      break\n", ""),
            ("if hold < LAST_TIME - at then", "if hold <= LAST_TIME - at + 1 then"),
            ("mine[3] = math.max(mine[3], till)", "mine[3] = till"),
            ("held[place][3] <= mine[3]", "held[place][3] < mine[3]"),
            ("if #held == 0 then return 'delete', output end", ""),
            ("in_use = in_use - gone[2]", ""),
            ("(not own and ask > 0)", "false"),
        ],
    );
}
