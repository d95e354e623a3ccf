#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use sysd_core::Space;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros_saturating(micros)
}

fn candidate(id: u8) -> Candidate {
    let ticket = Ticket { lane: 0, due: at(1), id: JobId::from_slice(&[id]) };
    Candidate { ticket, attempts: 0, mark: None }
}

fn grant(jobs_max: usize, token: u64, now: Timestamp, until: Timestamp) -> Grant {
    Grant { jobs_max, in_flight_max: 100, token, now, until }
}

fn lease(id: u8, token: u64) -> JobLease {
    JobLease { id: JobId::from_slice(&[id]), token }
}

fn settle(state: &mut State, id: u8, token: u64, verdict: Verdict) -> Option<Held> {
    let lease = lease(id, token);
    let asked = Asked { lease: &lease, is_again: false, attempts_max: 3, now: at(50), bug: None };
    state.decide_settle(&asked, verdict)
}

#[test]
fn a_lease_ends_at_the_very_microsecond() {
    let mut state = State::default();
    assert_eq!(state.decide_lease(&[candidate(1)], &grant(1, 7, at(10), at(20))), [(0, 1)]);
    assert_eq!(state.clone().decide_lease(&[candidate(1)], &grant(1, 8, at(19), at(30))), []);
    assert_eq!(state.decide_lease(&[candidate(1)], &grant(1, 8, at(20), at(30))), [(0, 2)]);
    assert_eq!(settle(&mut state, 1, 7, Verdict::Done), Some(Held::Lost), "a stale holder");
    assert_eq!(settle(&mut state, 1, 8, Verdict::Done), Some(Held::Held));
    assert_eq!(settle(&mut state, 1, 8, Verdict::Done), Some(Held::Held), "the same question again");
    assert_eq!(settle(&mut state, 1, 8, Verdict::Dead(at(1), String::new())), Some(Held::Lost), "another question");
}

#[test]
fn a_late_ack_counts_while_nobody_else_has_the_job() {
    let mut state = State::default();
    state.decide_lease(&[candidate(1)], &grant(1, 7, at(10), at(20)));
    assert_eq!(settle(&mut state, 1, 7, Verdict::Done), Some(Held::Held));
}

#[test]
fn what_is_handed_out_too_often_is_given_up() {
    let mut state = State::default();
    for attempt in 1..=3 {
        let now = at(100 * attempt);
        state.bury_expired(now, 3);
        assert_eq!(state.decide_lease(&[candidate(1)], &grant(1, attempt, now, at(100 * attempt + 50))).len(), 1);
    }
    state.bury_expired(at(349), 3);
    assert!(state.entries.values().all(|entry| entry.status.is_leased()));
    state.bury_expired(at(350), 3);
    assert!(matches!(state.entries.values().next().unwrap().status, Status::Dead { .. }));
    assert!(state.decide_lease(&[candidate(1)], &grant(1, 9, at(400), at(500))).is_empty());
    // Given back for the last time.
    let mut state = State::default();
    state.decide_lease(&[Candidate { attempts: 2, ..candidate(1) }], &grant(1, 7, at(10), at(20)));
    assert_eq!(settle(&mut state, 1, 7, Verdict::Moved(at(90))), Some(Held::Held));
    assert!(matches!(state.entries.values().next().unwrap().status, Status::Dead { .. }));
}

#[test]
fn dropping_is_of_what_was_carried_out_only_and_is_seen() {
    let mut state = State::default();
    state.decide_lease(&[candidate(1), candidate(2)], &grant(2, 7, at(10), at(20)));
    assert_eq!(settle(&mut state, 1, 7, Verdict::Done), Some(Held::Held));
    let then = state.clone();
    let settled: Vec<_> = then.entries.keys().cloned().collect();
    assert_eq!(settle(&mut state, 2, 7, Verdict::Moved(at(90))), Some(Held::Held));
    state.drop_settled(&then, &settled);
    assert_eq!((state.entries.len(), state.generation), (1, 1));
    state.drop_settled(&then, &settled);
    assert_eq!(state.generation, 1);
}

#[test]
fn what_nobody_can_tell_is_not_told() {
    let lease = lease(1, 7);
    let ask = |is_again| Asked { lease: &lease, is_again, attempts_max: 3, now: at(1), bug: None };
    assert_eq!(State::default().decide_settle(&ask(false), Verdict::Done), Some(Held::Lost));
    assert_eq!(State::default().decide_settle(&ask(true), Verdict::Done), None);
}

/// A look that began before a job was given back, and did not see its new row, leaves it in sight of the next.
#[test]
fn what_was_moved_during_a_look_stays_in_sight() {
    let mut before = State::default();
    before.decide_lease(&[candidate(1)], &grant(1, 7, at(10), at(20)));
    assert_eq!(settle(&mut before, 1, 7, Verdict::Moved(at(90))), Some(Held::Held));
    let mut after = before.clone();
    after.drop_settled(&before, &[JobId::from_slice(&[1])]);
    after.raise_floors(&before, &[None], true, 1, at(10_000), Duration::from_micros(100));
    assert_eq!(after.floors, [at(90)]);
    // Without it: rows that come so late are not looked for.
    after.raise_floors(&State::default(), &[None], true, 1, at(10_000), Duration::from_micros(100));
    assert_eq!(after.floors, [at(9_900)]);
}

#[test]
fn what_is_given_up_is_so_when_its_row_was_due_or_later() {
    let late = Candidate { ticket: Ticket { lane: 0, due: at(500), id: JobId::from_slice(&[1]) }, ..candidate(1) };
    let buried_at = |state: &State| match state.entries.values().next().unwrap().status {
        Status::Dead { at, .. } => at,
        _ => panic!("it is not dead"),
    };
    // By the clock of whoever buries, which is behind.
    let mut state = State::default();
    state.decide_lease(std::slice::from_ref(&late), &grant(1, 7, at(10), at(20)));
    assert_eq!(settle(&mut state, 1, 7, Verdict::Dead(at(50), "no".to_owned())), Some(Held::Held));
    assert_eq!(buried_at(&state), at(500));
    let mut state = State::default();
    state.decide_lease(&[Candidate { attempts: 2, ..late.clone() }], &grant(1, 7, at(10), at(20)));
    assert_eq!(settle(&mut state, 1, 7, Verdict::Moved(at(60))), Some(Held::Held));
    assert_eq!(buried_at(&state), at(500));
    let mut state = State::default();
    state.decide_lease(std::slice::from_ref(&late), &grant(1, 7, at(10), at(20)));
    state.bury_expired(at(30), 1);
    assert_eq!(buried_at(&state), at(500));
    let mut state = State::default();
    state.bury_broken(&[late], &grant(1, 7, at(30), at(40)));
    assert_eq!(buried_at(&state), at(500));
}

#[test]
fn what_is_broken_is_given_up_where_there_is_room_and_nobody_has_it() {
    let mut state = State::default();
    state.decide_lease(&[candidate(1)], &grant(1, 7, at(10), at(20)));
    let held = state.clone();
    state.bury_broken(&[candidate(1)], &grant(1, 8, at(19), at(30)));
    assert_eq!(state, held, "it is held");
    let full = Grant { in_flight_max: 1, ..grant(1, 8, at(19), at(30)) };
    state.bury_broken(&[candidate(2)], &full);
    assert_eq!(state, held, "there is no room");
    state.bury_broken(&[candidate(1), candidate(2)], &grant(1, 8, at(20), at(30)));
    assert!(state.entries.values().all(|entry| matches!(entry.status, Status::Dead { token: 8, .. })));
    assert_eq!(state.entries.values().map(|entry| entry.attempts).collect::<Vec<_>>(), [1, 0]);
}

/// Pinned: stores have these bytes.
#[test]
fn the_stored_bytes_stay() {
    let entry = |lane, mark: Option<u128>, status| Entry {
        lane,
        due: at(1),
        attempts: 2,
        mark: mark.map(Version::from_u128),
        status,
    };
    let entries = [
        entry(0, None, Status::Leased { token: 3, until: at(4) }),
        entry(1, Some(9), Status::Done { token: 3 }),
        entry(2, None, Status::Moved { token: 3, due: at(5) }),
        entry(0, Some(9), Status::Dead { token: 3, at: at(6), reason: "no".to_owned() }),
    ];
    let entries = (b'a'..).zip(entries).map(|(id, entry)| (JobId::from_slice(&[id]), entry)).collect();
    let state = State { generation: 7, full_at: at(8), floors: vec![at(10), at(11)], entries };
    let golden = [
        "01 0000000000000007 0000000000000008 02 000000000000000a 000000000000000b 00000004",
        "01 61 00 0000000000000001 00000002 00 0000000000000003 0000000000000004",
        "01 62 01 0000000000000001 00000002 81 00000000000000000000000000000009 0000000000000003",
        "01 63 02 0000000000000001 00000002 02 0000000000000003 0000000000000005",
        "01 64 00 0000000000000001 00000002 83 00000000000000000000000000000009 0000000000000003",
        "0000000000000006 0002 6e6f",
    ];
    let hex = state.encode().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(hex, golden.concat().replace(' ', ""));
    assert_eq!(state.bytes(), state.encode().len());
}

#[derive(Clone, Debug)]
enum Step {
    Lease(Vec<u8>, u64),
    Settle(usize, u8),
    Extend(usize, u64),
    Drop,
    Move(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (proptest::collection::vec(0..6u8, 1..4), 1..60u64).prop_map(|(ids, hold)| Step::Lease(ids, hold)),
        (0..12usize, 0..3u8).prop_map(|(which, how)| Step::Settle(which, how)),
        (0..12usize, 1..60u64).prop_map(|(which, hold)| Step::Extend(which, hold)),
        Just(Step::Drop),
        (1..40u64).prop_map(Step::Move),
    ];
    proptest::collection::vec(step, 1..50)
}

proptest! {
    /// Against a model of who holds what: one holder of a job, the last token alone settles, bytes come back.
    #[test]
    fn one_holder_and_the_last_token_settles(steps in steps()) {
        let (mut state, mut now, mut token) = (State::default(), 1_000_u64, 0_u64);
        let mut handed: Vec<(u8, u64)> = Vec::new();
        let mut held: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Move(by) => now += by,
                Step::Lease(ids, hold) => {
                    token += 1;
                    let candidates: Vec<_> = ids.iter().map(|&id| candidate(id)).collect();
                    for (which, _) in state.decide_lease(&candidates, &grant(4, token, at(now), at(now + hold))) {
                        let id = ids[which];
                        prop_assert!(held.get(&id).is_none_or(|&(_, until)| until <= now));
                        held.insert(id, (token, now + hold));
                        handed.push((id, token));
                    }
                }
                Step::Extend(which, hold) => {
                    let Some(&(id, token)) = handed.get(which) else { continue };
                    let is_held = held.get(&id).is_some_and(|&(last, until)| last == token && until != u64::MAX);
                    let answer = state.decide_extend(&lease(id, token), at(now + hold));
                    prop_assert_eq!(answer == Held::Held, is_held);
                    if is_held {
                        let until = held[&id].1.max(now + hold);
                        held.insert(id, (token, until));
                    }
                }
                Step::Settle(which, how) => {
                    let Some(&(id, token)) = handed.get(which) else { continue };
                    let verdict = match how {
                        0 => Verdict::Done,
                        1 => Verdict::Moved(at(now)),
                        _ => Verdict::Dead(at(now), "no".to_owned()),
                    };
                    let is_last = held.get(&id).is_some_and(|&(last, _)| last == token);
                    let answer = settle(&mut state, id, token, verdict);
                    if is_last && held[&id].1 != u64::MAX {
                        prop_assert_eq!(answer, Some(Held::Held));
                        held.insert(id, (token, u64::MAX));
                    } else if !is_last {
                        prop_assert_eq!(answer, Some(Held::Lost));
                    }
                }
                Step::Drop => {
                    let then = state.clone();
                    let settled: Vec<_> = then.entries.iter()
                        .filter(|(_, entry)| !entry.status.is_leased())
                        .map(|(id, _)| id.clone())
                        .collect();
                    state.drop_settled(&then, &settled);
                    held.retain(|_, &mut (_, until)| until != u64::MAX);
                }
            }
            let key = Key::lone(const { Space::conditional("x") }, b"p");
            prop_assert_eq!(&State::decode(key, &state.encode()).unwrap(), &state);
            prop_assert_eq!(state.bytes(), state.encode().len());
        }
    }

    /// Whatever happens: no more entries than there may be, so no more leases; and where it is full, an expired one is taken over.
    #[test]
    fn no_more_are_in_flight_than_there_may_be(steps in steps(), in_flight_max in 1..5usize) {
        let (mut state, mut now, mut token) = (State::default(), 1_000_u64, 0_u64);
        for step in steps {
            match step {
                Step::Move(by) => now += by,
                Step::Lease(ids, hold) => {
                    token += 1;
                    let candidates: Vec<_> = ids.iter().map(|&id| candidate(id)).collect();
                    let room = state.room(in_flight_max);
                    let expired = state.expired(at(now), u32::MAX, 1);
                    let grant = Grant { jobs_max: 4, in_flight_max, token, now: at(now), until: at(now + hold) };
                    let handed = state.decide_lease(&candidates, &grant);
                    let is_known = |&(which, _): &(usize, u32)| expired.iter().any(|it| it.id == candidates[which].ticket.id);
                    prop_assert!(handed.len() <= 4 && (room > 0 || handed.is_empty() || !expired.is_empty()));
                    if let [ticket] = expired.as_slice() && candidates.iter().any(|candidate| candidate.ticket.id == ticket.id) {
                        prop_assert!(handed.iter().any(is_known), "{:?} waits on", ticket);
                    }
                }
                Step::Settle(which, how) => {
                    let Some((id, entry)) = state.entries.iter().nth(which) else { continue };
                    let (id, token) = (id[0], entry.status.token());
                    let verdict = if how == 0 { Verdict::Done } else { Verdict::Moved(at(now)) };
                    settle(&mut state, id, token, verdict);
                }
                Step::Extend(..) => {}
                Step::Drop => {
                    let then = state.clone();
                    let settled = then.entries.iter().filter(|(_, entry)| !entry.status.is_leased());
                    state.drop_settled(&then, &settled.map(|(id, _)| id.clone()).collect::<Vec<_>>());
                }
            }
            prop_assert!(state.entries.len() <= in_flight_max, "{} entries", state.entries.len());
        }
    }

    #[test]
    fn nothing_cut_is_decoded(cut in 1..80usize) {
        let mut state = State::default();
        state.decide_lease(&[candidate(1)], &grant(1, 7, at(10), at(20)));
        let bytes = state.encode();
        let key = Key::lone(const { Space::conditional("x") }, b"p");
        prop_assert!(State::decode(key, &bytes[..bytes.len().saturating_sub(cut)]).is_err());
    }
}
