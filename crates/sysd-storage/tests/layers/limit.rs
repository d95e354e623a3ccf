//! Never more at once, and no place is ever lost.

use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::entropy::below;
use sysd_core::{Effect, ErrorKind, Key, ManualClock, Record, Result, SeededEntropy, Store as _};
use sysd_storage::layer::{Bug, LayerExt as _, Limit, LimitConfig};

use crate::script::{Fault, SPACE, Scripted, gate, scripted};

const KEY: Key<'static> = Key::lone(SPACE, b"k");
const CONFIG: LimitConfig = LimitConfig { concurrent_max: 2, queue_max: 2, wait_max: Duration::from_millis(10) };

type Get = Pin<Box<dyn Future<Output = Result<Option<Record>>> + Send>>;

fn limit(scripted: &Scripted) -> Limit<ManualClock> {
    Limit::with_clock(CONFIG, scripted.clock.clone())
}

fn get(scripted: &Scripted, limit: &Limit<ManualClock>) -> Get {
    let store = scripted.store.clone().layer(limit.clone());
    Box::pin(async move { store.get(KEY).await })
}

fn is_refused(answer: Option<Result<Option<Record>>>) -> bool {
    matches!(answer, Some(Err(error)) if (error.kind(), error.effect()) == (ErrorKind::Throttled, Effect::None))
}

#[test]
fn first_come_first_served_within_the_queue_and_the_wait() {
    let scripted = scripted();
    let limit = limit(&scripted);
    let (first_gate, second_gate) = (gate(), gate());
    scripted.script.play([Fault::HoldCall(first_gate.1), Fault::HoldCall(second_gate.1)]);
    let mut calls: Vec<_> = (0..5).map(|_| get(&scripted, &limit)).collect();
    for call in &mut calls[..4] {
        assert!(call.now_or_never().is_none());
    }
    assert_eq!((scripted.script.take_count(), limit.waiting()), (2, 2));
    assert!(is_refused((&mut calls[4]).now_or_never()), "the queue is full");
    first_gate.0.send(()).unwrap();
    assert!(block_on(&mut calls[0]).is_ok());
    assert!((&mut calls[3]).now_or_never().is_none(), "the third is next");
    assert!(block_on(&mut calls[2]).is_ok());
    assert!(block_on(&mut calls[3]).is_ok());
    // The second still holds its place; another goes, and a queue that waits too long is refused.
    let third_gate = gate();
    scripted.script.play([Fault::HoldCall(third_gate.1)]);
    let (mut held, mut late) = (get(&scripted, &limit), get(&scripted, &limit));
    assert!((&mut held).now_or_never().is_none() && (&mut late).now_or_never().is_none());
    scripted.clock.advance(CONFIG.wait_max);
    assert!(is_refused((&mut late).now_or_never()), "it waited too long");
    assert_eq!(limit.waiting(), 0);
}

/// Calls begun, polled, let go on and dropped at random; fails if more are under way than may be, or a place is lost.
fn random_drops(seed: u64, make: fn(&Scripted) -> Limit<ManualClock>) -> std::result::Result<(), String> {
    let (scripted, entropy) = (scripted(), SeededEntropy::new(seed));
    let limit = make(&scripted);
    let pick = |bound: usize| usize::try_from(below(&entropy, bound as u64)).unwrap();
    let (mut calls, mut gates) = (Vec::<Get>::new(), Vec::new());
    for _ in 0..60 {
        match pick(5) {
            0 | 1 if calls.len() < 6 => {
                let (open, gate) = gate();
                scripted.script.play([Fault::HoldCall(gate)]);
                gates.push(open);
                calls.push(get(&scripted, &limit));
            }
            2 if !gates.is_empty() => drop(gates.remove(pick(gates.len())).send(())),
            3 if !calls.is_empty() => drop(calls.swap_remove(pick(calls.len()))),
            _ if !calls.is_empty() => {
                let at = pick(calls.len());
                if (&mut calls[at]).now_or_never().is_some() {
                    drop(calls.swap_remove(at));
                }
            }
            _ => {}
        }
        if limit.waiting() > CONFIG.queue_max {
            return Err(format!("{} wait", limit.waiting()));
        }
    }
    drop((calls, gates));
    // All gone: there is room for just so many again.
    let mut again: Vec<_> = (0..3).map(|_| (gate(), get(&scripted, &limit))).collect();
    scripted.script.take_count();
    scripted.script.clear();
    let mut opened = Vec::new();
    for ((open, gate), call) in &mut again {
        let (_, closed) = crate::script::gate();
        scripted.script.play([Fault::HoldCall(std::mem::replace(gate, closed))]);
        opened.push(open);
        let _ = call.now_or_never();
    }
    let under_way = scripted.script.take_count();
    if (under_way, limit.waiting()) == (2, 1) { Ok(()) } else { Err(format!("{under_way} of 2 places are left")) }
}

#[test]
fn no_place_is_lost_however_calls_are_dropped() {
    for seed in 0..2_000 {
        if let Err(what) = random_drops(seed, limit) {
            panic!("seed {seed}: {what}");
        }
    }
    let caught = (0..100).any(|seed| random_drops(seed, |scripted| limit(scripted).with_bug(Bug::LeakPlace)).is_err());
    assert!(caught, "a limit that leaks went unseen");
}
