//! The oracle itself: it accepts what real objects do, and rejects made-up violations.

use proptest::prelude::*;
use sysd_core::{Expect, Version};
use sysd_testkit::oracle::{Call, History, RecordSpec, Reply, RewindCall, RewindSpec, Specification, check};

const fn version(token: u128) -> Version {
    Version::from_u128(token)
}

fn found(token: u128) -> Reply {
    Reply::Found(Some(version(token)))
}

const fn write(expect: Expect, token: u128) -> Call {
    Call::Write { expect, version: Some(version(token)) }
}

/// Calls one after the other; no reply: lost.
fn sequential(calls: Vec<(Call, Option<Reply>)>) -> History<RecordSpec> {
    let mut history = History::new();
    for (call, reply) in calls {
        let id = history.invoke(call);
        match reply {
            Some(reply) => history.complete(id, reply),
            None => history.lose(id),
        }
    }
    history
}

/// Two puts, a time in which the store may go back, and what is seen then and after it.
fn is_explained(meanwhile: Vec<(Call, Reply)>, after: Vec<(Call, Reply)>, may_go_back: bool) -> bool {
    let puts = [1, 2].map(|token| (RewindCall::Record(Call::put(version(token))), Reply::Applied));
    let record = |(call, reply)| (RewindCall::Record(call), reply);
    let mut calls = Vec::from(puts);
    calls.extend(may_go_back.then_some((RewindCall::Loosen, Reply::Applied)));
    calls.extend(meanwhile.into_iter().map(record));
    calls.extend(may_go_back.then_some((RewindCall::Fasten, Reply::Applied)));
    calls.extend(after.into_iter().map(record));
    let mut history: History<RewindSpec> = History::new();
    for (call, reply) in calls {
        let id = history.invoke(call);
        history.complete(id, reply);
    }
    check(&history).is_ok()
}

#[test]
fn a_record_that_may_go_back_in_time_does_nothing_else() {
    let get = |token| (Call::Get, found(token));
    let absent = || (Call::Get, Reply::Found(None));
    let put = |expect: u128, token| (write(Expect::Is(version(expect)), token), Reply::Applied);
    // What came since is there or not, more than once; then it stays so.
    let meanwhile = vec![put(2, 3), get(3), get(2), get(3), put(2, 4), get(3)];
    for after in [vec![get(2)], vec![get(3), get(3)], vec![get(4)], vec![put(2, 5), get(5)], vec![put(3, 5), get(5)]] {
        assert!(is_explained(meanwhile.clone(), after.clone(), true), "{after:?}");
        assert!(!is_explained(meanwhile.clone(), after, false));
    }
    // Not behind what it was when that began.
    for before in [get(1), absent(), put(1, 5)] {
        assert!(!is_explained(vec![], vec![before.clone()], true), "{before:?}");
        assert!(!is_explained(vec![put(2, 3), before], vec![], true));
    }
    assert!(!is_explained(meanwhile.clone(), vec![get(2), get(3)], true));
    assert!(!is_explained(meanwhile, vec![get(1)], true));
    // It does not go back at any other time, nor become what it never was, nor decide on that.
    assert!(!is_explained(vec![], vec![get(1)], false));
    assert!(!is_explained(vec![get(1)], vec![], false));
    assert!(!is_explained(vec![], vec![get(2), get(1)], true));
    assert!(!is_explained(vec![], vec![put(1, 3), get(2)], true));
    assert!(!is_explained(vec![], vec![put(1, 3), put(1, 4)], true));
    assert!(!is_explained(vec![get(9)], vec![], true));
    assert!(!is_explained(vec![put(9, 3)], vec![], true));
    assert!(!is_explained(vec![], vec![get(9)], true));
}

#[test]
fn rejects_a_stale_read() {
    let calls = vec![
        (Call::put(version(1)), Some(Reply::Applied)),
        (Call::put(version(2)), Some(Reply::Applied)),
        (Call::Get, Some(found(1))),
    ];
    let violation = check(&sequential(calls)).err().map(|violation| (violation.explained.len(), violation.stuck.len()));
    assert_eq!(violation, Some((2, 1)));
}

#[test]
fn rejects_two_winners_of_one_condition() {
    let mut history: History<RecordSpec> = History::new();
    let (a, b) = (history.invoke(write(Expect::Absent, 1)), history.invoke(write(Expect::Absent, 2)));
    history.complete(a, Reply::Applied);
    history.complete(b, Reply::Applied);
    assert!(check(&history).is_err());
}

#[test]
fn rejects_a_conflict_with_what_was_never_there() {
    let calls = vec![(write(Expect::Absent, 1), Some(Reply::Conflict(Some(version(9)))))];
    assert!(check(&sequential(calls)).is_err());
}

#[test]
fn rejects_a_write_that_failed_without_effect_and_is_read() {
    let mut history: History<RecordSpec> = History::new();
    let put = history.invoke(Call::put(version(1)));
    history.fail(put);
    let get = history.invoke(Call::Get);
    history.complete(get, found(1));
    assert!(check(&history).is_err());
}

#[test]
fn a_lost_write_may_happen_late_or_never_but_not_come_and_go() {
    let put = (Call::put(version(1)), None);
    let absent = (Call::Get, Some(Reply::Found(None)));
    let there = (Call::Get, Some(found(1)));
    let explained =
        |calls: &[&(Call, Option<Reply>)]| check(&sequential(calls.iter().map(|&call| call.clone()).collect())).is_ok();
    assert!(explained(&[&put, &absent, &there]), "late");
    assert!(explained(&[&put, &absent, &absent]), "never");
    assert!(!explained(&[&put, &there, &absent]), "gone again");
}

#[test]
fn a_write_sent_again_is_applied_once() {
    let lost = (write(Expect::Absent, 1), None);
    let again = (write(Expect::Absent, 1), Some(Reply::Applied));
    assert!(check(&sequential(vec![lost, again, (Call::Get, Some(found(1)))])).is_ok());
}

#[test]
fn order_in_real_time_is_kept_but_overlaps_are_free() {
    let mut history: History<RecordSpec> = History::new();
    let put = history.invoke(Call::put(version(1)));
    let get = history.invoke(Call::Get);
    history.complete(get, Reply::Found(None));
    let get = history.invoke(Call::Get);
    history.complete(put, Reply::Applied);
    history.complete(get, found(1));
    assert!(check(&history).is_ok());
    let get = history.invoke(Call::Get);
    history.complete(get, Reply::Found(None));
    assert!(check(&history).is_err());
}

/// One caller's step: which call, and how many moments it takes before and after its effect.
#[derive(Clone, Debug)]
struct Plan {
    call: Call,
    begin: u32,
    effect: u32,
    end: u32,
    lost: bool,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let call = prop_oneof![
        Just(Call::Get),
        (0..4_u128, 0..4_u128).prop_map(|(expect, token)| Call::Write {
            expect: match expect {
                0 => Expect::Any,
                1 => Expect::Absent,
                held => Expect::Is(version(held + 8)),
            },
            version: (token > 0).then_some(version(token + 9)),
        }),
    ];
    let plan = (call, 0..12_u32, 0..6_u32, 0..6_u32, prop::bool::weighted(0.2)).prop_map(
        |(call, begin, before, after, lost)| Plan {
            call,
            begin,
            effect: begin + before,
            end: begin + before + after,
            lost,
        },
    );
    prop::collection::vec(plan, 0..9)
}

/// Plays the plans on an object that does each call at one moment between its begin and end.
fn play(plans: &[Plan]) -> (History<RecordSpec>, usize) {
    let mut events: Vec<(u32, u8, usize)> = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        events.extend([(plan.begin, 0, at), (plan.effect, 1, at), (plan.end, 2, at)]);
    }
    events.sort_unstable();
    let mut history = History::new();
    let mut state = RecordSpec::initial();
    let (mut ids, mut replies, mut completed) = (vec![None; plans.len()], vec![None; plans.len()], 0);
    for (_, phase, at) in events {
        let call = &plans[at].call;
        match phase {
            0 => ids[at] = Some(history.invoke(call.clone())),
            1 => {
                let candidates = [Reply::Found(state), Reply::Applied, Reply::Conflict(state)];
                let answer = candidates
                    .into_iter()
                    .find_map(|reply| RecordSpec::step(&state, call, Some(&reply)).map(|next| (reply, next)));
                if let Some((reply, next)) = answer {
                    replies[at] = Some(reply);
                    state = next;
                }
            }
            _ => {
                if let (Some(id), Some(reply), false) = (ids[at], replies[at].take(), plans[at].lost) {
                    history.complete(id, reply);
                    completed += 1;
                }
            }
        }
    }
    (history, completed)
}

proptest! {
    #[test]
    fn what_an_atomic_object_does_is_explained(plans in plans()) {
        let (history, completed) = play(&plans);
        prop_assert!(completed <= history.len());
        prop_assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_read_of_what_nobody_wrote_is_rejected(plans in plans()) {
        let (mut history, _) = play(&plans);
        let get = history.invoke(Call::Get);
        history.complete(get, found(99));
        prop_assert!(check(&history).is_err());
    }
}
