//! The Lua twin of several rules against the Rust one, as in `lua_twin.rs`.
#![cfg(feature = "calendar")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sysd_core::{Procedure as _, StateChange, Timestamp};
use sysd_ratelimit::{CalendarUnit, Rule, TakeAll};

mod twin;

use twin::{History, Twin, compare, given, reject_slips, starts, with_given};

/// So long that a bucket of six still refills in time.
const LONG_US: u64 = 500_000_000_000_000;

fn rule(at: usize, algorithm: usize, count: u32, period_us: u64, now_us: u64) -> Rule {
    twin::rule(at, algorithm, (count, period_us), CalendarUnit::Month, now_us)
}

/// A call: how far the clock moves; whether it takes; the first of the rules that are in force, of 66; for each rule that is asked its place, algorithm, limit, window and cost.
type Call = (i64, bool, usize, Vec<(usize, usize, u32, u64, u32)>);

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let costs = prop_oneof![1 => Just(0_u32), 6 => Just(1_u32), 2 => 0..=6_u32];
    // Mostly the algorithm that a rule of this place has.
    let kinds = prop_oneof![12 => Just(None), 1 => (0..6_usize).prop_map(Some)];
    let asked = (proptest::sample::subsequence((0..6_usize).collect::<Vec<_>>(), 1..=4), any::<bool>()).prop_flat_map(
        move |(places, is_back)| {
            let each = (kinds.clone(), 1_u32..=5, prop_oneof![1_u64..=20, Just(LONG_US)], costs.clone());
            proptest::collection::vec(each, places.len()).prop_map(move |each| {
                let ask = |(&at, (kind, count, period_us, cost)): (&usize, (Option<usize>, u32, u64, u32))| {
                    (at, kind.unwrap_or(at % 6), count, period_us, cost)
                };
                let mut asked: Vec<_> = places.iter().zip(each).map(ask).collect();
                if is_back {
                    asked.reverse();
                }
                asked
            })
        },
    );
    let steps = prop_oneof![4 => Just(0_i64), 4 => 0..=4_i64, 1 => 0..=40_i64, 1 => -10..=0_i64];
    let takes = prop_oneof![4 => Just(true), 1 => Just(false)];
    let in_force = prop_oneof![Just(66_usize), Just(0_usize), 0..66_usize];
    proptest::collection::vec((steps, takes, in_force, asked), 1..25)
}

fn take(asked: &[(usize, usize, u32, u64, u32)], now_us: u64) -> TakeAll {
    let rules: Vec<_> = asked
        .iter()
        .map(|&(at, algorithm, count, period_us, cost)| (rule(at, algorithm, count, period_us, now_us), cost))
        .collect();
    TakeAll::new(rules.iter().map(|(rule, cost)| (rule, *cost)))
}

/// Records as they are stored, nearly.
fn states() -> impl Strategy<Value = Vec<u8>> {
    let whole = |rules: usize| {
        let mut state: Option<Vec<u8>> = None;
        for at in (0..rules).chain(0..rules.min(2)) {
            let take = take(&[(at, at % 6, 5, LONG_US, 1)], 1_700_000_000_000_000);
            let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
            if let StateChange::Put { state: new, .. } = take.apply(state.as_deref(), now).unwrap().change {
                state = Some(new.to_vec());
            }
        }
        state.unwrap_or_default()
    };
    let given = prop_oneof![2 => Just(None), 1 => given().prop_map(Some), 1 => Just(Some(0))];
    let counts = prop_oneof![1..=66_usize, 63..=66_usize];
    let near = (counts, any::<prop::sample::Index>(), any::<u8>(), 0..=3_usize, any::<bool>(), 0..=4_u8, given);
    let near = near.prop_map(move |(rules, at, byte, cut, is_whole, tail, given)| {
        let mut bytes = whole(rules);
        if let Some(given_us) = given {
            bytes = with_given(&bytes, given_us);
        }
        match tail {
            // Of two states of one rule the first counts; the second is of its first call alone.
            0 => bytes.extend_from_slice(&whole(1)[1..]),
            // An entry without a state.
            1 => bytes.extend_from_slice(b"\0\0\0\x01\x03\0\0\0\0\0\0\0\0\0"),
            // The first never expires.
            2 => bytes[6..13].fill(0),
            // Or days later.
            3 => bytes[7] = bytes[7].wrapping_add(1),
            _ => {}
        }
        if !is_whole {
            let index = at.index(bytes.len().min(24));
            bytes[index] = byte;
            bytes.truncate(bytes.len() - cut);
        }
        bytes
    });
    prop_oneof![6 => Just(vec![]), 4 => near, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

fn histories() -> impl Strategy<Value = History<TakeAll>> {
    (states(), starts(), calls()).prop_map(|(state, start_us, calls)| {
        let mut now_us = start_us;
        let calls = calls
            .into_iter()
            .map(|(step, takes, in_force, asked)| {
                now_us = now_us.saturating_add_signed(step).min(Timestamp::MAX.as_micros());
                // One that is asked and one that a record has twice are among them, or not.
                let in_force: Vec<_> = (in_force..66).map(|at| rule(at, 2, 1, 1, now_us)).collect();
                let take = take(&asked, now_us).beside(&in_force);
                (Timestamp::from_micros(now_us).unwrap(), if takes { take } else { take.look() })
            })
            .collect();
        History { state, calls }
    })
}

fn any_take() -> TakeAll {
    take(&[(0, 0, 1, 1, 1)], 0)
}

#[test]
fn twins_agree() {
    if let Err(error) = compare(Twin::of(&any_take()), &histories(), 2_000, 2_000) {
        panic!("{error}");
    }
}

#[test]
fn slips_are_found() {
    reject_slips(
        &any_take(),
        &histories(),
        &[
            ("if denied and byte(output) == 1 then", "if false then"),
            ("answer_of(asked, denied or not takes)", "answer_of(asked, denied)"),
            ("if denied or not takes or not writes then", "if not takes or not writes then"),
            ("if denied or not takes or not writes then", "if denied or not writes then"),
            ("string.rep('\\0', COST_BYTES[code])", "string.rep('\\1', COST_BYTES[code])"),
            ("entry[2] == code and (entry[3] == 0 or entry[3] > now)", "(entry[3] == 0 or entry[3] > now)"),
            ("by_id[id] = by_id[id] or entries[count]", "by_id[id] = entries[count]"),
            ("local is_kept = entry[3] == 0 or entry[3] > now", "local is_kept = true"),
            ("ttl and now + ttl or 0", "ttl and now + ttl - 1 or 0"),
            ("if entry[3] == 0 then expires = 0 elseif expires ~= 0 then", "if expires ~= 0 then"),
            ("expires = 0 elseif expires ~= 0 then", "expires = 0 else"),
            ("expires = math.max(entry[3], expires)", ""),
            ("entry[6] = rule[7] and entry[6] or ''", "entry[6] = entry[6] or ''"),
            ("entry[6] = rule[7] and entry[6] or ''", "entry[6] = ''"),
            ("entry and entry[6] ~= '' and entry[6] or NOTHING", "NOTHING"),
            ("if code <= 2 then answer", "if code <= 3 then answer"),
            ("given == NOTHING or", ""),
            ("last = last and entry[3] ~= 0 and math.max(last, entry[3])", "last = entry[3]"),
            ("if excess > 0 and not entry[5] and", "if excess > 0 and"),
            ("(pass == 2 or not in_force[entry[1]])", "true"),
            ("(pass == 2 or not in_force[entry[1]])", "not in_force[entry[1]]"),
            ("for _, rule in ipairs(asked) do in_force[rule[1]] = true end", ""),
            ("4 * other - 1", "4 * other + 3"),
            ("3 + 4 * others", "3"),
            ("live - ENTRIES_MAX", "live - ENTRIES_MAX - 1"),
            ("expires > LAST_TIME or ", ""),
            ("length == 0 or ", ""),
            (" or count == ENTRIES_MAX then", " then"),
            ("if size < 2 or byte(state) ~= 1 then", "if size < 2 then"),
        ],
    );
}
