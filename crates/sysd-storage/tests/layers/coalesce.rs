//! Shared calls: how many there are, what they may have read, and who survives whom.

use std::pin::Pin;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{ErrorKind, Key, Record, Result, Store as _, StoreExt as _};
use sysd_storage::layer::{Bug, Coalesce, Coalesced, LayerExt as _};

use crate::script::{Fault, SPACE, Scripted, gate, scripted};

const KEY: Key<'static> = Key::lone(SPACE, b"k");

type Get = Pin<Box<dyn Future<Output = Result<Option<Record>>> + Send>>;
type Shared = Coalesced<
    sysd_storage::layer::Layered<sysd_storage::Memory<sysd_core::ManualClock>, std::sync::Arc<crate::script::Script>>,
>;

fn shared(scripted: &Scripted) -> Shared {
    scripted.store.clone().layer(Coalesce::new())
}

fn get(store: &Shared) -> Get {
    let store = store.clone();
    Box::pin(async move { store.get(KEY).await })
}

fn value(answer: Option<Result<Option<Record>>>) -> Option<Vec<u8>> {
    answer.map(|answer| answer.unwrap().map(|record| record.value.to_vec()).unwrap_or_default())
}

#[test]
fn any_number_of_callers_make_two_calls() {
    let scripted = scripted();
    let store = shared(&scripted);
    block_on(scripted.truth.put(KEY, "x")).unwrap();
    let (open, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    let mut calls: Vec<_> = (0..64).map(|_| get(&store)).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    open.send(()).unwrap();
    for found in block_on(futures::future::join_all(calls)) {
        assert_eq!(found.unwrap().unwrap().value, "x");
    }
    assert_eq!(scripted.script.take_count(), 2);
    // Errors are shared too; other records are not waited for.
    let (open, held) = gate();
    scripted.script.play([Fault::HoldCall(held), Fault::Pass, Fault::Refuse(ErrorKind::Denied)]);
    let mut calls: Vec<_> = (0..3).map(|_| get(&store)).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    assert!(block_on(store.get(Key::lone(SPACE, b"other"))).is_ok());
    open.send(()).unwrap();
    let kinds = block_on(futures::future::join_all(calls)).into_iter().map(|found| found.map_err(|error| error.kind()));
    assert_eq!(kinds.map(Result::err).collect::<Vec<_>>(), [None, Some(ErrorKind::Denied), Some(ErrorKind::Denied)]);
}

/// What a call answers that begins after a write was answered, while an older read's reply is still on its way.
fn late_caller(store: &Shared, scripted: &Scripted) -> Option<Vec<u8>> {
    block_on(scripted.truth.put(KEY, "old")).unwrap();
    let ((open_first, held_first), (open_second, held_second)) = (gate(), gate());
    scripted.script.play([Fault::HoldReply(held_first), Fault::HoldReply(held_second)]);
    let (mut first, mut second) = (get(store), get(store));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    block_on(scripted.truth.put(KEY, "new")).unwrap();
    let mut late = get(store);
    assert!((&mut late).now_or_never().is_none());
    let _ = (open_first.send(()), open_second.send(()));
    block_on(first).unwrap();
    let _ = block_on(second);
    value(Some(block_on(late)))
}

#[test]
fn a_call_that_had_begun_is_not_joined() {
    let ours = scripted();
    assert_eq!(late_caller(&shared(&ours), &ours), Some(b"new".to_vec()));
    // The bug lets the second call begin while the first is under way, and others join it.
    let ours = scripted();
    let broken = ours.store.clone().layer(Coalesce::new().with_bug(Bug::BeginAtOnce));
    assert_eq!(late_caller(&broken, &ours), Some(b"old".to_vec()));
}

/// Drops each of four callers while the first call is held; answers whether the others are served.
fn others_survive(dropped: usize, polls_after: bool, make: fn(&Scripted) -> Shared) -> bool {
    let scripted = scripted();
    let store = make(&scripted);
    block_on(scripted.truth.put(KEY, "x")).unwrap();
    let ((open, held), (open_next, held_next)) = (gate(), gate());
    scripted.script.play([Fault::HoldCall(held), Fault::HoldCall(held_next)]);
    let mut calls: Vec<_> = (0..4).map(|_| Some(get(&store))).collect();
    for call in calls.iter_mut().flatten() {
        assert!(call.now_or_never().is_none());
    }
    if polls_after {
        // The first ends, and the second's call begins, before one is dropped.
        let _ = open.send(());
        for call in &mut calls {
            if call.as_mut().is_some_and(|call| call.now_or_never().is_some()) {
                *call = None;
            }
        }
        calls[dropped] = None;
        let _ = open_next.send(());
    } else {
        calls[dropped] = None;
        let _ = open.send(());
        let _ = open_next.send(());
    }
    for _ in 0..8 {
        for call in &mut calls {
            if call.as_mut().is_some_and(|call| value(call.now_or_never()) == Some(b"x".to_vec())) {
                *call = None;
            }
        }
    }
    calls.iter().all(Option::is_none) && value(get(&store).now_or_never()).is_some()
}

#[test]
fn dropping_any_caller_harms_no_other() {
    for dropped in 0..4 {
        for polls_after in [false, true] {
            assert!(others_survive(dropped, polls_after, shared), "caller {dropped}, {polls_after}");
        }
    }
    let broken = |scripted: &Scripted| scripted.store.clone().layer(Coalesce::new().with_bug(Bug::LoseOthers));
    assert!(!others_survive(1, false, broken) && !others_survive(1, true, broken));
}
