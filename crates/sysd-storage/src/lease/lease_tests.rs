#![allow(clippy::unwrap_used, clippy::panic)]
use super::procedure::State;
use super::*;
use futures::FutureExt as _;
use futures::executor::block_on;
use proptest::prelude::*;
use sysd_core::lease::FencingToken;
use sysd_core::{ManualClock, Procedure as _, StateChange};

use crate::Memory;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros_saturating(micros)
}

fn asks(holder: u128, ask: Ask) -> AskLease {
    let holder = HolderId::from_u128(holder).unwrap();
    AskLease {
        holder,
        ask,
        keep_for: Duration::from_secs(60),
        #[cfg(feature = "seeded-bugs")]
        bug: None,
    }
}

const MS: Duration = Duration::from_millis(1);

/// Pinned: stores have these bytes.
#[test]
fn the_stored_bytes_stay() {
    let StateChange::Put { state, .. } = asks(1, Ask::Acquire(MS)).apply(None, at(5_000)).unwrap().change else {
        panic!()
    };
    let hex = state.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let golden = "01 0000000000001388 00000000000000000000000000000001 0000000000001770";
    assert_eq!(hex, golden.replace(' ', ""));
}

#[test]
fn it_ends_at_the_very_microsecond() {
    let (held, answer) = asks(1, Ask::Acquire(MS)).decide(None, at(5_000));
    let (state, Answer::Held(token)) = (held.unwrap(), answer) else { panic!() };
    let bob = |now| asks(2, Ask::Acquire(MS)).decide(Some(state), at(now)).1;
    let renew = |now| asks(1, Ask::Renew(token, MS)).decide(Some(state), at(now)).1;
    assert_eq!(bob(5_999), Answer::Taken(token, Duration::from_micros(1)));
    assert_eq!(renew(5_999), Answer::Held(token));
    assert_eq!(bob(6_000), Answer::Held(FencingToken::from_u64(6_000)));
    assert_eq!(renew(6_000), Answer::Lost(LeaseLost::Expired));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire(u128, u64),
    Renew(usize, u64),
    Release(usize),
    Move(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hold = 1..2_000u64;
    let step = prop_oneof![
        (1..4u128, hold.clone()).prop_map(|(holder, hold)| Step::Acquire(holder, hold)),
        (0..8usize, hold).prop_map(|(which, hold)| Step::Renew(which, hold)),
        (0..8usize).prop_map(Step::Release),
        (-300..3_000i64).prop_map(Step::Move),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// Tokens rise, and no two hold at once, though the clock steps back.
    #[test]
    fn one_holder_and_rising_tokens(steps in steps()) {
        let (mut now, mut state): (u64, Option<State>) = (1_000_000, None);
        let mut acquired: Vec<(u128, FencingToken)> = Vec::new();
        for step in steps {
            let ask = match step {
                Step::Move(by) => { now = now.saturating_add_signed(by); continue; }
                Step::Acquire(holder, hold) => asks(holder, Ask::Acquire(Duration::from_micros(hold))),
                Step::Renew(which, hold) => {
                    let Some(&(holder, token)) = acquired.get(which) else { continue };
                    asks(holder, Ask::Renew(token, Duration::from_micros(hold)))
                }
                Step::Release(which) => {
                    let Some(&(holder, token)) = acquired.get(which) else { continue };
                    asks(holder, Ask::Release(token))
                }
            };
            let before = state;
            let (next, answer) = ask.decide(state, at(now));
            state = next.or(state);
            match (ask.ask, answer) {
                (Ask::Acquire(_), Answer::Held(token)) => {
                    let last = acquired.iter().map(|&(_, token)| token).max();
                    let live = before.filter(|state| state.holder != 0 && at(now) < state.deadline);
                    match live {
                        Some(live) => prop_assert!(live.holder == ask.holder.as_u128() && Some(token) == last),
                        None => prop_assert!(Some(token) > last),
                    }
                    acquired.push((ask.holder.as_u128(), token));
                }
                (Ask::Renew(token, _), Answer::Held(_)) => {
                    prop_assert_eq!(before.map(|state| state.token), Some(token.as_u64()));
                    prop_assert!(before.is_some_and(|state| at(now) < state.deadline));
                }
                (_, Answer::Lost(LeaseLost::Released)) => prop_assert_eq!(state.map(|state| state.holder), Some(0)),
                _ => prop_assert_eq!(before, state),
            }
        }
    }
}

#[test]
fn the_record_outlives_its_lease_and_a_lost_one_does_not_lower_tokens() {
    let ask = asks(1, Ask::Acquire(MS));
    let step = ask.apply(None, at(10)).unwrap();
    let StateChange::Put { ttl, .. } = step.change else { panic!() };
    assert_eq!(ttl, Some(Duration::from_millis(60_001)));
    let clock = ManualClock::new(at(1_000));
    let config = LeaseConfig { clock: Arc::new(clock.clone()), ..LeaseConfig::default() };
    let acquire = || {
        // A store that forgot everything.
        let leases = RecordLeases::new(Memory::with_clock(clock.clone()), config.clone());
        block_on(leases.acquire(b"x", leases.mint_holder(), MS)).unwrap().held().unwrap().token
    };
    let first = acquire();
    clock.advance(MS);
    assert!(acquire() > first);
}

#[test]
fn bad_arguments_are_named() {
    let leases = RecordLeases::new(Memory::new(), LeaseConfig::default());
    let field = |name: &[u8], hold| block_on(leases.acquire(name, leases.mint_holder(), hold)).unwrap_err().field();
    assert_eq!(field(b"", MS), Some("name"));
    assert_eq!(field(&[7; 257], MS), Some("name"));
    assert_eq!(field(b"x", Duration::ZERO), Some("hold"));
}

#[test]
fn keep_alive_renews_and_says_why_it_ends() {
    let clock = ManualClock::new(at(1_000_000));
    let config = LeaseConfig { clock: Arc::new(clock.clone()), ..LeaseConfig::default() };
    let leases = RecordLeases::new(Memory::with_clock(clock.clone()), config);
    let hold = Duration::from_millis(30);
    let lease = block_on(leases.acquire(b"x", leases.mint_holder(), hold)).unwrap().held().unwrap();
    let mut alive = Box::pin(leases.keep_alive(lease.clone(), hold));
    for _ in 0..20 {
        assert!((&mut alive).now_or_never().is_none());
        clock.advance(Duration::from_millis(10));
    }
    assert!((&mut alive).now_or_never().is_none());
    let other = block_on(leases.acquire(b"x", leases.mint_holder(), hold)).unwrap();
    assert!(matches!(other, Acquired::Taken { .. }), "it was kept alive for 200 ms");
    assert_eq!(block_on(leases.release(&lease)).unwrap(), None);
    assert_eq!(block_on(leases.release(&lease)).unwrap(), None);
    clock.advance(Duration::from_millis(10));
    assert!(matches!((&mut alive).now_or_never(), Some(KeepAliveEnd::Lost(LeaseLost::Released))));
    // Nobody polls it in time: it does not go on believing.
    let lease = block_on(leases.acquire(b"x", leases.mint_holder(), hold)).unwrap().held().unwrap();
    let mut alive = Box::pin(leases.keep_alive(lease, hold));
    assert!((&mut alive).now_or_never().is_none());
    clock.advance(hold);
    assert!(matches!(alive.now_or_never(), Some(KeepAliveEnd::Unanswered(None))));
}
