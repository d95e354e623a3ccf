//! A breaker around a store; its decisions are tested beside them.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{Effect, ErrorKind, Key, ManualClock, Store as _, Write};
use sysd_storage::layer::{Breaker, BreakerConfig, Bug, LayerExt as _};

use crate::script::{Fault, SPACE, Scripted, gate, scripted};

const KEY: Key<'static> = Key::lone(SPACE, b"k");
const CONFIG: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(1),
    calls_min: 4,
    failures_percent: 50,
    open_for: Duration::from_secs(1),
    probes: 1,
};

fn breaker(scripted: &Scripted) -> Breaker<ManualClock> {
    Breaker::with_clock(CONFIG, scripted.clock.clone())
}

#[test]
fn opens_by_what_a_store_answers_and_lets_nothing_through() {
    for (kind, opens) in ErrorKind::ALL
        .map(|kind| (kind, matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled)))
    {
        let scripted = scripted();
        let breaker = breaker(&scripted);
        let store = scripted.store.clone().layer(breaker.clone());
        scripted.script.play((0..4).map(|_| Fault::Refuse(kind)));
        for _ in 0..4 {
            assert_eq!(block_on(store.get(KEY)).unwrap_err().kind(), kind);
        }
        assert_eq!(breaker.is_open(), opens, "{kind}");
        scripted.script.take_count();
        let outcome = block_on(store.write(Write::put(KEY, "x")));
        if opens {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
            assert_eq!(block_on(store.get_many(&[KEY, KEY])).len(), 2);
            assert_eq!(scripted.script.take_count(), 0);
        } else {
            assert!(outcome.is_ok());
        }
    }
}

#[test]
fn a_batch_counts_as_most_of_its_answers() {
    let scripted = scripted();
    let breaker = breaker(&scripted);
    let store = scripted.store.clone().layer(breaker.clone());
    scripted.script.play((0..8).map(|_| Fault::Spoil(vec![0], Effect::None)));
    (0..4).for_each(|_| drop(block_on(store.get_many(&[KEY, KEY]))));
    assert!(!breaker.is_open(), "half of each");
    (0..4).for_each(|_| drop(block_on(store.get_many(&[KEY]))));
    assert!(breaker.is_open());
}

/// Drops a probe; answers whether the next one is let through.
fn survives_a_dropped_probe(make: fn(&Scripted) -> Breaker<ManualClock>) -> bool {
    let scripted = scripted();
    let store = scripted.store.clone().layer(make(&scripted));
    scripted.script.play((0..4).map(|_| Fault::Refuse(ErrorKind::Timeout)));
    (0..4).for_each(|_| drop(block_on(store.get(KEY))));
    scripted.clock.advance(CONFIG.open_for);
    let (_open, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    {
        let mut probe = pin!(store.get(KEY));
        assert!(probe.as_mut().now_or_never().is_none());
        assert_eq!(block_on(store.get(KEY)).unwrap_err().kind(), ErrorKind::Unavailable, "one probe at a time");
    }
    block_on(store.get(KEY)).is_ok()
}

#[test]
fn a_dropped_probe_is_made_again() {
    assert!(survives_a_dropped_probe(breaker));
    assert!(!survives_a_dropped_probe(|scripted| breaker(scripted).with_bug(Bug::LeakProbe)));
}
