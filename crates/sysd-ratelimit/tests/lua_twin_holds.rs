//! The Lua twin of holds against the Rust one, as in `lua_twin.rs`.
#![cfg(feature = "calendar")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sysd_core::{Procedure as _, StateChange, Timestamp};
use sysd_ratelimit::{AskHolds, CalendarUnit, HoldAsk, HoldId, Rule};

mod twin;

use twin::{History, Twin, compare, reject_slips, starts};

/// So long that numbers grow large.
const LONG_US: u64 = 500_000_000_000_000;

/// How far the clock moves; for each rule that is asked its place, limit and window; what is asked.
type Call = (i64, Vec<(usize, u32, u64)>, HoldAsk);

fn call() -> impl Strategy<Value = Call> {
    let costs =
        || prop_oneof![8 => 0_u32..=3, 1 => 0..=9_u32, 1 => Just(2_000), 1 => Just(u32::MAX), 1 => any::<u32>()];
    let ids = || prop_oneof![8 => 0..4_u128, 1 => Just(u128::MAX)].prop_map(HoldId::from_u128);
    let holds = prop_oneof![8 => 1_u64..=20, 1 => Just(u64::MAX), 1 => 0_u64..=LONG_US];
    let asks = prop_oneof![
        3 => costs().prop_map(|cost| HoldAsk::Take { cost }),
        6 => (ids(), 1_u32..=3, holds).prop_map(|(id, cost, hold_us)| HoldAsk::Reserve { id, cost, hold_us }),
        5 => (ids(), costs()).prop_map(|(id, cost)| HoldAsk::Settle { id, cost }),
        1 => Just(HoldAsk::Look),
    ];
    let steps =
        prop_oneof![4 => Just(0_i64), 4 => 0..=4_i64, 1 => 0..=40_i64, 1 => 0..=70_000_000_i64, 1 => -10..=0_i64];
    let windows = prop_oneof![3 => Just(7_u64), 2 => 1_u64..=20, 3 => Just(LONG_US)];
    let some = proptest::sample::subsequence((0..6_usize).collect::<Vec<_>>(), 1..=3);
    let asked = some.prop_flat_map(move |places| {
        let each = proptest::collection::vec((2_u32..=9, windows.clone()), places.len());
        each.prop_map(move |each| places.iter().zip(each).map(|(&at, (count, us))| (at, count, us)).collect::<Vec<_>>())
    });
    (steps, asked, asks)
}

fn ask(asked: &[(usize, u32, u64)], what: HoldAsk, now_us: u64) -> AskHolds {
    let rule = |&(at, count, us): &(usize, u32, u64)| twin::rule(at, at % 6, (count, us), CalendarUnit::Minute, now_us);
    let rules: Vec<Rule> = asked.iter().map(rule).collect();
    AskHolds::new(&rules, what)
}

/// The Rust twin makes the first states; some bytes of the last are changed.
fn histories() -> impl Strategy<Value = History<AskHolds>> {
    let bytes = prop_oneof![2 => any::<u8>(), 1 => Just(0), 1 => Just(0xFF)];
    let broken = prop_oneof![
        8 => Just(None),
        8 => (any::<prop::sample::Index>(), bytes, 0..=7_u8).prop_map(|(at, byte, cut)| Some((at, byte, cut)))
    ];
    let before = proptest::collection::vec(call(), 0..10);
    let calls = proptest::collection::vec(call(), 1..25);
    let many = prop_oneof![9 => Just(0_u128), 1 => 2..=4_u128, 1 => 60..=64_u128];
    (starts(), many, before, broken, calls).prop_map(|(start_us, many, before, broken, calls)| {
        let time = |us: u64| Timestamp::from_micros(us.min(Timestamp::MAX.as_micros())).unwrap();
        let mut now_us = start_us;
        let mut state: Option<Vec<u8>> = None;
        let mut run = |ask: AskHolds, now_us: u64| match ask.apply(state.as_deref(), time(now_us)).unwrap().change {
            StateChange::Put { state: new, .. } => state = Some(new.to_vec()),
            StateChange::Delete => state = None,
            StateChange::Keep => {}
        };
        for id in 0..many {
            let reserve = HoldAsk::Reserve { id: HoldId::from_u128(id), cost: 1, hold_us: 30 };
            run(ask(&[(2, 1_000, LONG_US)], reserve, now_us), now_us);
        }
        for (step, asked, what) in before {
            now_us = now_us.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
            run(ask(&asked, what, now_us), now_us);
        }
        let mut state = state.unwrap_or_default();
        if let Some((at, byte, cut)) = broken.filter(|_| !state.is_empty()) {
            let (first_hold, at) = (at.index(state.len().min(100)), at.index(state.len()));
            match cut {
                0 => state.truncate(at),
                // The time is the first deadline.
                1 if state[8] > 0 => state.copy_within(25..32, 1),
                // One more hold, of nothing, which ends with the first.
                2 if state[8] > 0 && state[8] < 64 => {
                    state[8] += 1;
                    let mut hold = vec![byte; 16];
                    hold.extend_from_slice(&state[25..32]);
                    hold.push(0);
                    state.splice(9..9, hold);
                }
                // The second goes by the number of the first: those are 47 bytes each.
                3 if many > 0 && state[8] > 1 => state.copy_within(9..25, 9 + 47),
                4 => state[at] = byte,
                // The first hold took nothing; or of a bucket, the debt was longer than any.
                5 if state[8] > 0 => state[38..42].fill(0),
                6 if state[8] > 0 && state[37] <= 2 => state[64..71].fill(0xFF),
                _ => state[first_hold] = byte,
            }
        }
        let calls = calls.into_iter().map(|(step, asked, what)| {
            now_us = now_us.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
            (time(now_us), ask(&asked, what, now_us))
        });
        History { state, calls: calls.collect() }
    })
}

fn any_ask() -> AskHolds {
    ask(&[(0, 1, 1)], HoldAsk::Look, 0)
}

#[test]
fn twins_agree() {
    if let Err(error) = compare(Twin::of(&any_ask()), &histories(), 4_000, 2_000) {
        panic!("{error}");
    }
}

#[test]
fn slips_are_found() {
    reject_slips(
        &any_ask(),
        &histories(),
        &[
            // What was taken.
            ("if taken.cost == 0 or", "if"),
            ("local is_above = ", "local is_above = false and "),
            (" or taken.debt > LONGEST or", " or"),
            // The holds.
            ("held_at = math.max(earliest, now)", "held_at = now"),
            ("  earliest = earliest + 1\n", ""),
            ("if till < earliest or", "if"),
            ("parts == 0 or", ""),
            ("holds[1].till <= held_at", "holds[1].till < held_at"),
            ("give_back(taken, due.till)", "give_back(taken, now)"),
            ("own = own or index", "own = index"),
            ("holds[place].till <= new.till", "holds[place].till < new.till"),
            ("if longer > till then", "if longer >= till then"),
            ("#holds >= HOLDS_MAX or longer <= held_at", "#holds > HOLDS_MAX or longer <= held_at"),
            ("#holds >= HOLDS_MAX or longer <= held_at", "#holds >= HOLDS_MAX"),
            ("if hold_for < LAST_TIME - held_at then", "if true then"),
            ("last = last and math.max(last, held.till)", ""),
            ("if #holds == 0 and record == '' then", "if #holds == 0 then"),
            ("and entry[4] ~= '' then return entry", "then return entry"),
            ("takes, tag, till = false, KEPT", "takes, tag, till = false, DONE"),
            // Settling.
            ("if real == 0 then return give_back(taken, now) end", ""),
            ("if not rule then return false end", "if not rule then return give_back(taken, now) end"),
            ("if price_part > 0 then price, price_part = price + 1, 0 end", ""),
            ("    held_part = 0\n", ""),
            ("price, price_part = price - 1, price_part + parts", "price, price_part = price, 0"),
            ("taken.price - 1, taken.price_part + taken.parts", "taken.price, 0"),
            // Charging.
            ("if debt >= LONGEST then debt, part = LONGEST, 0 end", ""),
            ("if part >= denominator then debt", "if part > denominator then debt"),
            ("used = current + previous", "used = current"),
            ("extra = math.min(extra, 1000 - noted)", ""),
            ("extra = math.min(extra, MOST - used)", ""),
            (
                "rule[5], rule[6], rule[7] = new_state, expiry_of(entry, code, ttl), entry",
                "rule[5], rule[6], rule[7] = new_state, ttl and now + ttl or 0, entry",
            ),
        ],
    );
}
