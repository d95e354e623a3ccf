//! Gathered reads: what goes out together, whose answer is whose, and who survives whom.

use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{Effect, ErrorKind, Key, ManualClock, Record, Result, Store as _, StoreExt as _};
use sysd_storage::Memory;
use sysd_storage::layer::{Batch, BatchConfig, Batched, Bug, LayerExt as _, Layered, Method};

use crate::script::{Fault, SPACE, Script, Scripted, gate, scripted};

type Get = Pin<Box<dyn Future<Output = Result<Option<Record>>> + Send>>;
type Gathering = Batched<Layered<Memory<ManualClock>, Arc<Script>>>;

fn gathering(scripted: &Scripted, in_flight_max: usize, bug: Option<Bug>) -> Gathering {
    for at in 0..64_u8 {
        block_on(scripted.truth.put(Key::lone(SPACE, &[at]), vec![at])).unwrap();
    }
    let batch = Batch::new(BatchConfig { in_flight_max, records_max: 10 });
    scripted.store.clone().layer(bug.into_iter().fold(batch, Batch::with_bug))
}

fn get(store: &Gathering, at: u8) -> Get {
    let store = store.clone();
    Box::pin(async move { store.get(Key::lone(SPACE, &[at])).await })
}

fn is_own(at: u8, answer: Option<Result<Option<Record>>>) -> bool {
    matches!(answer, Some(Ok(Some(record))) if record.value[..] == [at])
}

/// Polls each so often that all go where they can.
fn poll(calls: &mut [Get]) {
    for _ in 0..3 {
        for call in &mut *calls {
            assert!(call.now_or_never().is_none());
        }
    }
}

fn seen(script: &Script) -> Vec<(Method, usize)> {
    script.take_seen().into_iter().map(|operation| (operation.method, operation.answers)).collect()
}

#[test]
fn the_first_go_alone_and_those_that_come_meanwhile_together() {
    let scripted = scripted();
    let store = gathering(&scripted, 2, None);
    // Each by itself, one after the other: nothing is held back, nothing gathers.
    for at in 0..3 {
        assert!(is_own(at, get(&store, at).now_or_never()));
    }
    assert_eq!(seen(&scripted.script), [(Method::Get, 1); 3]);
    let ((open, held), (open_second, held_second)) = (gate(), gate());
    scripted.script.play([Fault::HoldCall(held), Fault::HoldCall(held_second)]);
    let mut calls = vec![get(&store, 0)];
    poll(&mut calls);
    calls.push(get(&store, 1));
    poll(&mut calls);
    assert_eq!(seen(&scripted.script), [(Method::Get, 1); 2]);
    // Full batches don't wait, whatever is under way; the others wait for one call to end.
    let mut rest: Vec<_> = (2..27).map(|at| get(&store, at)).collect();
    let mut answers: Vec<_> = rest.iter_mut().map(futures::FutureExt::now_or_never).collect();
    assert!(answers.iter().all(Option::is_none));
    for _ in 0..2 {
        for (call, answer) in rest.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                *answer = call.now_or_never();
            }
        }
    }
    assert_eq!(seen(&scripted.script), [(Method::GetMany, 10); 2]);
    assert_eq!(answers.iter().filter(|answer| answer.is_some()).count(), 20);
    open_second.send(()).unwrap();
    for (call, answer) in rest.iter_mut().zip(&mut answers) {
        if answer.is_none() {
            *answer = Some(block_on(call));
        }
    }
    assert_eq!(seen(&scripted.script), [(Method::GetMany, 5)]);
    open.send(()).unwrap();
    let answers = block_on(futures::future::join_all(calls)).into_iter().map(Some).chain(answers);
    assert!((0..).zip(answers).all(|(at, answer)| is_own(at, answer)));
}

/// What three reads answer that go out together, in a call that goes wrong so.
fn together(fault: Fault, bug: Option<Bug>) -> Vec<Result<Option<Record>>> {
    let scripted = scripted();
    let store = gathering(&scripted, 1, bug);
    let (open, held) = gate();
    scripted.script.play([Fault::HoldCall(held), fault]);
    let mut calls: Vec<_> = (0..4).map(|at| get(&store, at)).collect();
    poll(&mut calls);
    open.send(()).unwrap();
    let mut answers = block_on(futures::future::join_all(calls));
    assert_eq!(seen(&scripted.script), [(Method::Get, 1), (Method::GetMany, 3)]);
    answers.split_off(1)
}

#[test]
fn everybody_has_their_own_answer_and_error() {
    let are_own = |answers: Vec<Result<_>>| (1..).zip(answers).all(|(at, answer)| is_own(at, Some(answer)));
    assert!(are_own(together(Fault::Pass, None)));
    assert!(!are_own(together(Fault::Pass, Some(Bug::MixAnswers))));
    let kinds = |answers: Vec<Result<_>>| -> Vec<_> {
        answers.into_iter().map(|answer| answer.err().map(|error| error.kind())).collect()
    };
    let spoilt = kinds(together(Fault::Spoil(vec![1], Effect::None), None));
    assert_eq!(spoilt, [None, Some(ErrorKind::Throttled), None]);
    assert_eq!(kinds(together(Fault::Refuse(ErrorKind::Denied), None)), [Some(ErrorKind::Denied); 3]);
}

/// Drops all callers but one at some point, twice; answers whether that one is served each time.
fn one_survives(left: usize, polls: usize, bug: Option<Bug>) -> bool {
    let scripted = scripted();
    let store = gathering(&scripted, 1, bug);
    (0..2).all(|_| {
        let (open, held) = gate();
        scripted.script.play([Fault::HoldCall(held)]);
        let mut calls: Vec<_> = (0..4).map(|at| get(&store, at)).collect();
        for _ in 0..polls {
            for call in &mut calls {
                assert!(call.now_or_never().is_none());
            }
        }
        let mut last = calls.swap_remove(left);
        drop(calls);
        let _ = open.send(());
        let at = u8::try_from(left).unwrap();
        (0..8).any(|_| (&mut last).now_or_never().is_some_and(|answer| is_own(at, Some(answer))))
    })
}

#[test]
fn dropping_callers_harms_no_other() {
    for left in 0..4 {
        for polls in 0..4 {
            assert!(one_survives(left, polls, None), "caller {left}, {polls} polls");
        }
    }
    assert!(!one_survives(3, 3, Some(Bug::LeakPlace)));
}

/// As when the first is kept in a stream that is asked for no more before the second is done.
fn second_is_served(bug: Option<Bug>) -> bool {
    let scripted = scripted();
    let store = gathering(&scripted, 1, bug);
    let (open, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    let (mut kept, mut second) = (get(&store, 0), get(&store, 1));
    assert!((&mut kept).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    open.send(()).unwrap();
    let is_served = (0..8).any(|_| (&mut second).now_or_never().is_some_and(|answer| is_own(1, Some(answer))));
    is_served && is_own(0, Some(block_on(kept)))
}

#[test]
fn callers_that_are_not_polled_keep_nobody_waiting() {
    assert!(second_is_served(None));
    assert!(!second_is_served(Some(Bug::LeaveToCallers)));
}

#[test]
fn a_call_that_all_have_left_is_not_waited_for() {
    let scripted = scripted();
    let store = gathering(&scripted, 1, None);
    let (_never, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    let (mut hung, mut second) = (get(&store, 0), get(&store, 1));
    assert!((&mut hung).now_or_never().is_none());
    for _ in 0..3 {
        assert!((&mut second).now_or_never().is_none());
    }
    drop(hung);
    assert!(is_own(1, Some(block_on(second))));
}
