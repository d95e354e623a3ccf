#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::model::SLOTS_MAX;
use crate::procedure::stored;

const START_US: u64 = 1_700_000_000_000_000;

/// How far the clock moves, who asks, and what.
type Call = (i64, u128, SlotAsk);

fn histories() -> impl Strategy<Value = (u32, Vec<Call>)> {
    let hold = || prop_oneof![4 => 1_u64..=20, 1 => Just(60)];
    let asks = prop_oneof![
        6 => (1_u32..=3, hold()).prop_map(|(cost, hold_us)| SlotAsk::Acquire { cost, hold_us }),
        2 => hold().prop_map(|hold_us| SlotAsk::Renew { hold_us }),
        2 => Just(SlotAsk::Release),
        1 => Just(SlotAsk::Look),
    ];
    let steps = prop_oneof![4 => Just(0_i64), 4 => 0..=6_i64, 1 => 0..=40_i64, 1 => -8..=0_i64];
    (1_u32..=5, proptest::collection::vec((steps, 1..=6_u128, asks), 1..40))
}

/// How one asks: on the state as it is stored, which is none when it has expired.
type Ask = fn(&mut stored::State, &AskSlots, Timestamp) -> SlotsFound;

fn honest(state: &mut stored::State, ask: &AskSlots, now: Timestamp) -> SlotsFound {
    let found = stored::run(state, ask, now);
    let mut bytes = OutputBytes::new();
    ask.encode_output(&found, &mut bytes);
    assert_eq!(ask.decode_output(&bytes).unwrap(), found);
    found
}

/// A naive model: it keeps every slot that was ever granted, and counts those that are live at a time that never goes back while
/// somebody holds one.
#[derive(Default)]
struct Model {
    at_us: u64,
    /// Holder, cost, deadline.
    granted: Vec<(u128, u32, u64)>,
}

impl Model {
    fn live(&self) -> impl Iterator<Item = (usize, (u128, u32, u64))> {
        let at_us = self.at_us;
        self.granted.iter().copied().enumerate().filter(move |(_, (_, _, until_us))| *until_us > at_us)
    }

    fn in_use(&self) -> u32 {
        self.live().map(|(_, (_, cost, _))| cost).sum()
    }
}

fn as_the_model(limit: u32, calls: &[Call], ask_as: Ask) -> Result<(), TestCaseError> {
    let limit = Concurrency::new(limit).unwrap();
    let (mut state, mut model): (stored::State, Model) = (None, Model::default());
    let (mut now_us, mut latest_us) = (START_US, 0);
    for &(step, holder, asked) in calls {
        now_us = now_us.saturating_add_signed(step);
        let now = Timestamp::from_micros(now_us).unwrap();
        // What is stored keeps the time of the last write; what has expired keeps nothing.
        let kept = state.as_ref().filter(|&&(_, expires_us)| expires_us > now_us);
        let written_us = kept.map_or(0, |(bytes, _)| schema::decode_state(bytes).unwrap().at_us);
        if kept.is_none() {
            // Were the clock to go back, they would not come back.
            prop_assert_eq!(
                model.granted.iter().filter(|(_, _, until_us)| *until_us > latest_us.max(now_us)).count(),
                0
            );
            model.granted.clear();
        }
        latest_us = latest_us.max(now_us);
        model.at_us = now_us.max(written_us);
        let own = model.live().find(|(_, (other, _, _))| *other == holder).map(|(at, _)| at);
        let before = model.in_use();
        let ask = AskSlots::new(limit, HolderId::from_u128(holder).unwrap(), asked);
        let found = ask_as(&mut state, &ask, now);
        let is_held = found.answer == SlotAnswer::Held;
        match asked {
            SlotAsk::Acquire { cost, hold_us } => {
                prop_assert_eq!(is_held, own.is_some() || before + cost <= limit.slots(), "{} of {}", cost, before);
                let until_us = model.at_us + hold_us;
                match own {
                    Some(own) => model.granted[own].2 = model.granted[own].2.max(until_us),
                    None if is_held => model.granted.push((holder, cost, until_us)),
                    None => {
                        let outcome = ask.acquired(&found);
                        let never = matches!(outcome, SlotOutcome::NeverAllowed { .. });
                        prop_assert_eq!(never, cost > limit.slots());
                        if let SlotOutcome::Denied { retry_after, .. } = outcome {
                            let fits = |at_us| {
                                let left = model.live().filter(|(_, (_, _, until_us))| *until_us > at_us);
                                left.map(|(_, (_, cost, _))| cost).sum::<u32>() + cost <= limit.slots()
                            };
                            let back_us = now_us + u64::try_from(retry_after.as_micros()).unwrap();
                            prop_assert!(fits(back_us) && !fits(back_us - 1), "who waits finds enough, not earlier");
                        }
                    }
                }
            }
            SlotAsk::Renew { hold_us } => {
                prop_assert_eq!(is_held, own.is_some());
                if let Some(own) = own {
                    model.granted[own].2 = model.granted[own].2.max(model.at_us + hold_us);
                }
            }
            SlotAsk::Release => {
                prop_assert_eq!(is_held, own.is_some());
                if let Some(own) = own {
                    model.granted.remove(own);
                }
            }
            SlotAsk::Look => prop_assert_eq!(found.answer, SlotAnswer::Lost),
        }
        prop_assert!(model.in_use() <= limit.slots());
        prop_assert_eq!(found.in_use, model.in_use());
        prop_assert_eq!(found.holders as usize, model.live().count());
        if let (true, false, Some(own)) =
            (is_held, asked == SlotAsk::Release, model.live().find(|(_, it)| it.0 == holder))
        {
            let slot = ask.slot(&found).unwrap();
            let (_, (_, cost, until_us)) = own;
            prop_assert_eq!(
                (slot.cost, slot.until.as_micros(), found.until_us),
                (cost, until_us, now_us + u64::try_from(slot.left.as_micros()).unwrap())
            );
        }
    }
    Ok(())
}

fn certify(ask: Ask) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { cases: 6_000, failure_persistence: None, ..Config::default() });
    runner.run(&histories(), |(limit, calls)| as_the_model(limit, &calls, ask)).map_err(|error| error.to_string())
}

#[test]
fn slots_are_as_a_naive_model_has_them() {
    if let Err(error) = certify(honest) {
        panic!("{error}");
    }
}

/// The state, changed by hand before it is asked.
fn changed(state: &mut stored::State, change: impl FnOnce(&mut State)) {
    if let Some((bytes, expires_us)) = state.take() {
        let mut decoded = schema::decode_state(&bytes).unwrap();
        change(&mut decoded);
        if let Some(last) = decoded.held.iter().map(|held| held.until_us).max() {
            decoded.held.sort_by_key(|held| held.until_us);
            *state = Some((schema::encode_state(&decoded), expires_us.max(last)));
        }
    }
}

#[test]
fn broken_slots_are_found() {
    let broken: [(&str, Ask); 8] = [
        ("never returns what is leaked", |state, ask, now| {
            changed(state, |state| state.held.iter_mut().for_each(|held| held.until_us += 1_000));
            honest(state, ask, now)
        }),
        ("returns it early", |state, ask, now| {
            let early = now.checked_add(Duration::from_micros(1)).unwrap();
            SlotsFound { now_us: now.as_micros(), ..honest(state, ask, early) }
        }),
        ("trusts a clock that goes back", |state, ask, now| {
            changed(state, |state| state.at_us = state.at_us.min(now.as_micros()));
            honest(state, ask, now)
        }),
        ("takes again when asked again", |state, ask, now| {
            let again = AskSlots { holder: ask.holder + (u128::from(now.as_micros()) << 64), ..*ask };
            let is_acquiring = matches!(ask.ask, SlotAsk::Acquire { .. });
            honest(state, if is_acquiring { &again } else { ask }, now)
        }),
        ("shortens what is asked again", |state, ask, now| {
            if let SlotAsk::Renew { .. } | SlotAsk::Acquire { .. } = ask.ask {
                let first = now.as_micros() + 1;
                changed(state, |state| {
                    let at_us = state.at_us.max(now.as_micros());
                    for held in &mut state.held {
                        if held.holder == ask.holder && held.until_us > at_us {
                            held.until_us = first.max(at_us + 1);
                        }
                    }
                });
            }
            honest(state, ask, now)
        }),
        ("admits one too many", |state, ask, now| {
            let limit = Concurrency::new(ask.limit.slots() + 1).unwrap();
            honest(state, &AskSlots { limit, ..*ask }, now)
        }),
        ("releases what others hold", |state, ask, now| {
            let found = honest(state, ask, now);
            if ask.ask == SlotAsk::Release && found.answer == SlotAnswer::Lost {
                changed(state, |state| {
                    state.held.pop();
                });
            }
            found
        }),
        ("revives what was lost by renewing", |state, ask, now| match ask.ask {
            SlotAsk::Renew { hold_us } => {
                honest(state, &AskSlots { ask: SlotAsk::Acquire { cost: 1, hold_us }, ..*ask }, now)
            }
            _ => honest(state, ask, now),
        }),
    ];
    for (name, broken) in broken {
        assert!(certify(broken).is_err(), "one that {name} passed");
    }
}

#[test]
fn a_key_has_as_many_holders_as_slots_and_no_more() {
    let limit = Concurrency::new(SLOTS_MAX).unwrap();
    let now = Timestamp::from_micros(START_US).unwrap();
    let mut state: stored::State = None;
    let acquire = |holder: u64, hold_us| {
        AskSlots::new(limit, HolderId::from_u128(holder.into()).unwrap(), SlotAsk::Acquire { cost: 1, hold_us })
    };
    for holder in 1..=1_000 {
        assert_eq!(stored::run(&mut state, &acquire(holder, 2_000 - holder), now).answer, SlotAnswer::Held);
    }
    let denied = acquire(1_001, 5);
    let found = stored::run(&mut state, &denied, now);
    assert_eq!((found.answer, found.holders, found.until_us), (SlotAnswer::Denied, 1_000, START_US + 1_000));
    let later = Timestamp::from_micros(START_US + 1_000).unwrap();
    assert_eq!(stored::run(&mut state, &denied, later).answer, SlotAnswer::Held);
}

#[test]
fn the_last_moments_are_no_trap() {
    let limit = Concurrency::new(1).unwrap();
    let acquire =
        |hold_us| AskSlots::new(limit, HolderId::from_u128(1).unwrap(), SlotAsk::Acquire { cost: 1, hold_us });
    let mut state: stored::State = None;
    assert_eq!(stored::run(&mut state, &acquire(u64::MAX), Timestamp::MAX).answer, SlotAnswer::Denied);
    let before = Timestamp::from_micros(Timestamp::MAX.as_micros() - 1).unwrap();
    let found = stored::run(&mut state, &acquire(u64::MAX), before);
    assert_eq!((found.answer, found.until_us), (SlotAnswer::Held, Timestamp::MAX.as_micros()));
    assert_eq!(stored::run(&mut state, &acquire(u64::MAX), before).until_us, Timestamp::MAX.as_micros());
}

#[test]
fn limits_that_are_none_are_refused() {
    use crate::error::RateLimitError;
    for count in [0, SLOTS_MAX + 1, u32::MAX] {
        let error = Concurrency::new(count).unwrap_err();
        assert_eq!(error, RateLimitError::SlotCount { count });
        assert!(error.to_string().starts_with("slots: "), "{error}");
    }
    assert!(AskSlots::look(Concurrency::new(1).unwrap()).apply(Some(b"no record"), Timestamp::MAX).is_err());
}
