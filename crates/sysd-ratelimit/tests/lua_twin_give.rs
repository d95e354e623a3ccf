//! The Lua twin of giving back against the Rust one, as in `lua_twin.rs`.
#![cfg(feature = "calendar")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sysd_core::{Procedure as _, StateChange, Timestamp};
use sysd_ratelimit::{CalendarUnit, GiveAll, Rule, TakeAll};

mod twin;

use twin::{History, Twin, compare, given, reject_slips, starts, with_given};

fn rule(at: usize, count: u32, period_us: u64, now_us: u64) -> Rule {
    twin::rule(at, at % 6, (count, period_us), CalendarUnit::Minute, now_us)
}

/// How far the clock moves; for each rule that is asked its place, limit, window and cost.
type Call = (i64, Vec<(usize, u32, u64, u32)>);

fn call() -> impl Strategy<Value = Call> {
    let steps =
        prop_oneof![4 => Just(0_i64), 4 => 0..=4_i64, 1 => 0..=40_i64, 1 => 0..=70_000_000_i64, 1 => -10..=0_i64];
    // Mostly the same, so that one state is taken from often.
    let windows = prop_oneof![4 => Just(7_u64), 1 => 1_u64..=20, 2 => Just(500_000_000_000_000)];
    let some = proptest::sample::subsequence((0..6_usize).collect::<Vec<_>>(), 1..=4);
    let asked = some.prop_flat_map(move |places| {
        let each = proptest::collection::vec((2_u32..=5, windows.clone(), 0..=3_u32), places.len());
        each.prop_map(move |each| {
            places.iter().zip(each).map(|(&at, (count, us, cost))| (at, count, us, cost)).collect::<Vec<_>>()
        })
    });
    (steps, asked)
}

/// Takes are made by the Rust twin; what they took is given back later, in another order, some of it twice, some by bytes that
/// are nearly the state.
fn histories() -> impl Strategy<Value = History<GiveAll>> {
    let broken = prop_oneof![8 => Just(None), 2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some)];
    let back = proptest::collection::vec(
        (any::<prop::sample::Index>(), prop_oneof![0..=30_i64, 5..=9_i64], any::<u32>()),
        1..8,
    );
    let before = prop_oneof![3 => Just(None), 2 => (0..12_usize, given()).prop_map(Some)];
    let never = prop_oneof![30 => Just(None), 1 => prop_oneof![Just(0), Just(0xFFFF_FFFF_0000_0001)].prop_map(Some)];
    let all = (starts(), proptest::collection::vec(call(), 1..12), back, broken, before, never);
    all.prop_map(|(start_us, calls, back, broken, before, never)| {
        let time = |us: u64| Timestamp::from_micros(us.min(Timestamp::MAX.as_micros())).unwrap();
        let mut now_us = start_us;
        let (mut state, mut taken): (Option<Vec<u8>>, Vec<_>) = (None, Vec::new());
        for (at, (step, asked)) in calls.into_iter().enumerate() {
            if let (Some(state), Some((_, given_us))) = (&mut state, before.filter(|&(when, _)| when == at)) {
                *state = with_given(state, given_us);
            }
            now_us = now_us.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
            let rules: Vec<_> =
                asked.into_iter().map(|(at, count, us, cost)| (rule(at, count, us, now_us), cost)).collect();
            let take = TakeAll::new(rules.iter().map(|(rule, cost)| (rule, *cost)));
            let done = take.apply(state.as_deref(), time(now_us)).unwrap();
            if let StateChange::Put { state: new, .. } = done.change {
                state = Some(new.to_vec());
            }
            if GiveAll::of(&take, &done.output).is_some() {
                taken.push((take, done.output));
            }
        }
        let mut state = state.unwrap_or_default();
        if let Some(given_us) = never.filter(|_| !state.is_empty()) {
            state = with_given(&state, given_us);
        }
        if let Some((at, byte)) = broken.filter(|_| !state.is_empty()) {
            let at = at.index(state.len());
            state[at] = byte;
        }
        if taken.is_empty() {
            let rule = rule(0, 5, 7, 0);
            let take = TakeAll::new([(&rule, 1)]);
            let verdict = take.apply(None, time(now_us)).unwrap().output;
            taken.push((take, verdict));
        }
        let calls = back.into_iter().map(|(which, later, unused)| {
            now_us = now_us.saturating_add_signed(later - 4).min(Timestamp::MAX.as_micros());
            let (take, verdict) = which.get(&taken);
            // All of it mostly, else some.
            let unused = |rule: usize| if unused % 8 > 0 { u32::MAX } else { unused >> (3 + rule) & 3 };
            Some((time(now_us), GiveAll::part_of(take, verdict, unused)?))
        });
        let calls = calls.flatten().collect();
        History { state, calls }
    })
}

fn any_give() -> GiveAll {
    let rule = rule(0, 5, 7, 0);
    let take = TakeAll::new([(&rule, 1)]);
    GiveAll::of(&take, &take.apply(None, Timestamp::UNIX_EPOCH).unwrap().output).unwrap()
}

#[test]
fn twins_agree() {
    if let Err(error) = compare(Twin::of(&any_give()), &histories(), 4_000, 2_000) {
        panic!("{error}");
    }
}

#[test]
fn slips_are_found() {
    reject_slips(
        &any_give(),
        &histories(),
        &[
            ("math.max(at, moment) - taken.at", "moment - taken.at"),
            ("if at < taken.at then return false end", ""),
            ("parts == taken.parts and at - taken.at", "at - taken.at"),
            ("at - taken.at == taken.debt - debt and", ""),
            (" and part == taken.debt_part", ""),
            ("if taken.code == 2 and not is_last", "if not is_last"),
            ("if taken.code == 2 and not is_last", "if false"),
            ("taken.debt - given_since(entry, taken.high, taken.low)", "taken.debt"),
            ("(now_low - low)", "now_low"),
            ("if since < 0 or", "if"),
            (" or now_high == NOBODY_KNOWS then", " then"),
            ("if weighs < price or (weighs == price and weighs_part < price_part)", "if false"),
            ("(weighs == price and weighs_part < price_part)", "weighs == price"),
            ("(owed == price and owed_part > price_part)", "false"),
            ("if owed < 0 or", "if"),
            ("    owed_part = 0\n", ""),
            ("(owed == 0 and owed_part == 0)", "owed == 0"),
            ("(debt == owed and part <= owed_part)", "false"),
            ("owed_part > 0 and owed + 1 or owed", "owed"),
            ("    low = low + us\n", ""),
            ("(low - low % 4294967296) / 4294967296", "0"),
            ("if high >= NOBODY_KNOWS then", "if false then"),
            ("given == NOTHING or", ""),
            ("(high == NOBODY_KNOWS and low > 0)", "false"),
            ("part + denominator end", "part end"),
            ("if at < taken.at or entry[3] ~= taken.ends then", "if entry[3] ~= taken.ends then"),
            ("if at < taken.at or entry[3] ~= taken.ends then", "if at < taken.at then"),
            ("math.max(count - taken.cost, 0)", "count - taken.cost"),
            ("  if entry[3] == taken.ends then", "  if true then"),
            (
                "elseif taken.ends > 0 and entry[3] == expiry(taken.ends + taken.window) then",
                "elseif taken.ends > 0 then",
            ),
            ("elseif taken.ends > 0 and entry[3] == expiry(taken.ends + taken.window) then", "elseif false then"),
            ("previous = math.max(previous - taken.cost, 0)", "previous = 0"),
            ("if noted > taken.cost then return", "if noted >= taken.cost then return"),
            ("return ends <= LAST_TIME and ends or 0", "return ends"),
            ("if found == length and taken.at > now then return false end", ""),
            ("if time == taken.at then", "if time >= taken.at then"),
            ("entry[2] == code and ", ""),
            ("if entry[5] then is_kept = entry[4] ~= '' end", ""),
            ("if record == '' then", "if false then"),
        ],
    );
}
