//! What is sent again, and what is not.

use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{
    Effect, ErrorKind, Expect, Key, ManualClock, OutputBytes, Procedure, Result, RetryBudget, RetryPolicy,
    SeededEntropy, Space, StateChange, Step, Store, StoreExt as _, Timestamp, Trim, Undecodable, Write,
};
use sysd_storage::layer::{Bug, LayerExt as _, Retry};

use crate::script::{Fault, SPACE, Scripted, scripted};

type TestRetry = Retry<ManualClock, std::sync::Arc<SeededEntropy>>;

/// Waits of nothing: the clock stands.
const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    wait_base: Duration::ZERO,
    wait_max: Duration::ZERO,
    total_max: Duration::from_secs(1),
};

fn retry(scripted: &Scripted) -> TestRetry {
    Retry::with_clock(POLICY, scripted.clock.clone(), std::sync::Arc::new(SeededEntropy::new(1)))
}

struct Nothing;

impl Procedure for Nothing {
    type Output = ();

    fn name(&self) -> &'static str {
        "nothing"
    }

    fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> std::result::Result<Step<()>, Undecodable> {
        Ok(Step { change: StateChange::Keep, output: () })
    }

    fn encode_output(&self, (): &(), _: &mut OutputBytes) {}

    fn decode_output(&self, _: &[u8]) -> std::result::Result<(), Undecodable> {
        Ok(())
    }
}

const KEY: Key<'static> = Key::lone(SPACE, b"k");

/// How often each call is sent when the first attempt ends in `fault`: get, scan, three puts, two deletes, update, trim.
fn sent(retry: impl Fn(&Scripted) -> TestRetry, fault: fn(ErrorKind) -> Fault, kind: ErrorKind) -> [usize; 9] {
    let scripted = scripted();
    let store = scripted.store.clone().layer(retry(&scripted));
    let counted = |call: &mut dyn FnMut()| {
        scripted.script.take_count();
        scripted.script.play([fault(kind)]);
        call();
        scripted.script.take_count()
    };
    let write = |write: Write<'static>| counted(&mut || drop(block_on(store.write(write.clone()))));
    let held = Write::put(KEY, "held");
    let version = held.version().unwrap();
    let get = counted(&mut || drop(block_on(store.get(KEY))));
    let scan = counted(&mut || drop(block_on(store.scan_rows(sysd_core::Scan::partition(SPACE, b"p", 1)))));
    let insert = write(Write::put(KEY, "x").expect(Expect::Absent));
    let put = write(held);
    let replace = write(Write::put(KEY, "x").expect(Expect::Is(version)));
    let delete_held = write(Write::delete(KEY).expect(Expect::Is(version)));
    let delete = write(Write::delete(KEY));
    let update = counted(&mut || drop(block_on(store.run(KEY, &Nothing))));
    let trim = Trim { space: SPACE, partition: b"p", keep: sysd_core::Keep::First(0) };
    let trim = counted(&mut || drop(block_on(store.trim(trim))));
    [get, scan, insert, put, replace, delete_held, delete, update, trim]
}

#[test]
fn what_had_no_effect_is_sent_again_if_it_is_transient() {
    for kind in ErrorKind::ALL {
        let expected = if kind.is_transient() { 2 } else { 1 };
        assert_eq!(sent(retry, Fault::Refuse, kind), [expected; 9], "{kind}");
    }
}

#[test]
fn of_what_may_have_happened_only_reads_and_replacements_are_sent_again() {
    for kind in [ErrorKind::Timeout, ErrorKind::Unavailable] {
        assert_eq!(sent(retry, Fault::LoseReply, kind), [2, 2, 1, 1, 2, 1, 1, 1, 1], "{kind}");
    }
    let inserts = |scripted: &Scripted| retry(scripted).resend_inserts(&[SPACE]);
    assert_eq!(sent(inserts, Fault::LoseReply, ErrorKind::Timeout), [2, 2, 2, 1, 2, 1, 1, 1, 1]);
    let elsewhere = |scripted: &Scripted| retry(scripted).resend_inserts(&[const { Space::conditional("other") }]);
    assert_eq!(sent(elsewhere, Fault::LoseReply, ErrorKind::Timeout), [2, 2, 1, 1, 2, 1, 1, 1, 1]);
}

/// A write whose reply is lost, and which is overtaken before it is sent again.
fn overtaken(scripted: &Scripted, retry: TestRetry) -> Result<bool> {
    let store = scripted.store.clone().layer(retry);
    let held = Write::put(KEY, "held");
    let replace = Write::put(KEY, "mine").expect(Expect::Is(held.version().unwrap()));
    let (open, gate) = crate::script::gate();
    scripted.script.play([Fault::Pass, Fault::LoseReply(ErrorKind::Timeout), Fault::HoldCall(gate)]);
    block_on(async {
        assert!(store.write(held).await?.is_applied());
        let other = async {
            scripted.truth.put(KEY, "another's").await.unwrap();
            open.send(()).unwrap();
        };
        futures::join!(store.write(replace), other).0.map(|outcome| outcome.is_applied())
    })
}

#[test]
fn a_conflict_after_a_lost_reply_proves_nothing() {
    let scripted_store = scripted();
    let error = overtaken(&scripted_store, retry(&scripted_store)).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
    assert_eq!(scripted_store.script.take_count(), 3, "a conflict is not worth another attempt");
    // The bug says that nothing happened, though the write was there for a while.
    let scripted_store = scripted();
    assert!(!overtaken(&scripted_store, retry(&scripted_store).with_bug(Bug::TrustConflict)).unwrap());
}

fn worst(bug: Option<Bug>) -> Option<Effect> {
    let scripted = scripted();
    let retry = bug.into_iter().fold(retry(&scripted), Retry::with_bug);
    let store = scripted.store.clone().layer(retry);
    scripted.script.play([Fault::LoseReply(ErrorKind::Timeout), Fault::Refuse(ErrorKind::Denied)]);
    let replace = Write::put(KEY, "x").expect(Expect::Is(sysd_core::Version::from_u128(1)));
    block_on(store.write(replace)).err().map(|error| error.effect())
}

#[test]
fn the_worst_effect_of_all_attempts_is_answered() {
    assert_eq!(worst(None), Some(Effect::Unknown));
    assert_eq!(worst(Some(Bug::ForgetEffect)), Some(Effect::None));
}

/// How long the batches are that reach the store, and whether all its writes came through.
fn batch(effect: Effect, bug: Option<Bug>) -> (Vec<usize>, Vec<bool>) {
    let scripted = scripted();
    let retry = bug.into_iter().fold(retry(&scripted), Retry::with_bug);
    let store = scripted.store.clone().layer(retry);
    let held = Write::put(Key::lone(SPACE, b"b"), "held");
    let version = held.version().unwrap();
    assert!(block_on(scripted.truth.write(held)).unwrap().is_applied());
    scripted.script.play([Fault::Spoil(vec![1, 2], effect), Fault::Spoil(vec![0], Effect::None)]);
    let writes = [
        Write::put(Key::lone(SPACE, b"a"), "x"),
        Write::put(Key::lone(SPACE, b"b"), "x").expect(Expect::Is(version)),
        Write::put(Key::lone(SPACE, b"c"), "x"),
    ];
    let outcomes = block_on(store.write_many(&writes));
    let lengths = scripted.script.take_seen().iter().map(|operation| operation.answers).collect();
    (lengths, outcomes.iter().map(Result::is_ok).collect())
}

#[test]
fn of_a_batch_only_what_failed_is_sent_again() {
    assert_eq!(batch(Effect::None, None), (vec![3, 2, 1], vec![true; 3]));
    // The unconditional put may have happened: it stays failed.
    assert_eq!(batch(Effect::Unknown, None), (vec![3, 1, 1], vec![true, true, false]));
    assert_ne!(batch(Effect::None, Some(Bug::ResendBatch)).0, [3, 2, 1]);

    let scripted = scripted();
    let store = scripted.store.clone().layer(retry(&scripted));
    scripted.script.play([Fault::Spoil(vec![0, 3], Effect::None), Fault::Spoil(vec![1], Effect::None)]);
    let names: Vec<[u8; 1]> = (0..5).map(|at| [at]).collect();
    let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
    for key in &keys {
        block_on(scripted.truth.put(*key, key.partition().to_vec())).unwrap();
    }
    let found = block_on(store.get_many(&keys)).into_iter().map(|found| found.unwrap().unwrap().value.to_vec());
    assert_eq!(found.collect::<Vec<_>>(), names);
    assert_eq!(scripted.script.take_seen().iter().map(|operation| operation.answers).collect::<Vec<_>>(), [5, 2, 1]);
}

#[test]
fn attempts_and_budget_bound_it() {
    let scripted = scripted();
    let store = scripted.store.clone().layer(retry(&scripted));
    scripted.script.play((0..9).map(|_| Fault::Refuse(ErrorKind::Throttled)));
    assert_eq!(block_on(store.get(KEY)).unwrap_err().kind(), ErrorKind::Throttled);
    assert_eq!(scripted.script.take_count(), 3);

    let budget = std::sync::Arc::new(RetryBudget::new(1, 1, 1));
    let store = scripted.store.clone().layer(retry(&scripted).budget(budget));
    let clone = store.clone();
    assert!(block_on(store.get(KEY)).is_err() && block_on(clone.get(KEY)).is_err());
    assert_eq!(scripted.script.take_count(), 3, "two calls, one retry between them");
}

#[test]
fn it_waits_by_the_clock_and_stops_when_it_is_dropped() {
    let scripted = scripted();
    let policy = RetryPolicy { wait_base: Duration::from_secs(1), wait_max: Duration::from_secs(1), ..POLICY };
    let retry = Retry::with_clock(policy, scripted.clock.clone(), std::sync::Arc::new(SeededEntropy::new(1)));
    let store = scripted.store.clone().layer(retry);
    scripted.script.play([Fault::Refuse(ErrorKind::Throttled)]);
    {
        let mut call = std::pin::pin!(store.get(KEY));
        assert!(futures::FutureExt::now_or_never(call.as_mut()).is_none());
        assert!(scripted.clock.next_deadline().is_some());
    }
    assert_eq!(scripted.clock.next_deadline(), None);
    scripted.clock.advance(Duration::from_secs(2));
    assert_eq!(scripted.script.take_count(), 1);
}
