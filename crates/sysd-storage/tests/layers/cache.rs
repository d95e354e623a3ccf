//! What a cache may answer, and what it must not.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{ErrorKind, Expect, Keep, Key, ManualClock, Record, Result, Space, Store, StoreExt as _, Trim, Write};
use sysd_storage::layer::{Bug, Cache, CacheConfig, Cached, LayerExt as _};

use crate::script::{Fault, PLAIN, SPACE, Scripted, gate, scripted};

const KEY: Key<'static> = Key::lone(PLAIN, b"k");
const ROW: Key<'static> = Key::row(PLAIN, b"p", b"row");

type Below = sysd_storage::layer::Layered<sysd_storage::Memory<ManualClock>, std::sync::Arc<crate::script::Script>>;
type Store1 = Cached<Below, ManualClock>;
type Get = Pin<Box<dyn Future<Output = Result<Option<Record>>> + Send>>;

fn config() -> CacheConfig {
    CacheConfig { ttl: Duration::from_millis(10), absent_ttl: Duration::from_millis(3), ..CacheConfig::default() }
}

fn cached(scripted: &Scripted, bug: Option<Bug>) -> Store1 {
    let cache = Cache::with_clock(config(), scripted.clock.clone());
    scripted.store.clone().layer(bug.into_iter().fold(cache, Cache::with_bug))
}

fn get(store: &Store1, key: Key<'static>) -> Get {
    let store = store.clone();
    Box::pin(async move { store.get(key).await })
}

fn value(answer: Result<Option<Record>>) -> Option<Bytes> {
    answer.unwrap().map(|record| record.value)
}

fn read(store: &impl Store, key: Key<'_>) -> Option<Bytes> {
    value(block_on(store.get(key)))
}

#[test]
fn a_record_is_kept_for_its_time_and_its_absence_for_less() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    for (ttl, there) in [(10, Some(Bytes::from("x"))), (3, None)] {
        match there {
            Some(_) => block_on(scripted.truth.put(KEY, "x")).unwrap(),
            None => block_on(scripted.truth.delete(KEY)).unwrap(),
        }
        scripted.clock.advance(Duration::from_millis(20));
        assert_eq!(read(&store, KEY), there);
        // Another process writes.
        block_on(scripted.truth.put(KEY, "another's")).unwrap();
        scripted.script.take_count();
        scripted.clock.advance(Duration::from_micros(ttl * 1_000 - 1));
        assert_eq!((read(&store, KEY), scripted.script.take_count()), (there.clone(), 0));
        scripted.clock.advance(Duration::from_micros(1));
        assert_eq!((read(&store, KEY), scripted.script.take_count()), (Some("another's".into()), 1));
        // The clock is set back: what was read in the future is not trusted.
        scripted.clock.set(sysd_core::Timestamp::from_micros_saturating(scripted.clock_us() - 5));
        assert_eq!((read(&store, KEY), scripted.script.take_count()), (Some("another's".into()), 1));
    }
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.records), (2, 6, 1));
}

#[test]
fn only_plain_spaces_and_named_ones_are_cached() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    let key = Key::lone(SPACE, b"k");
    assert_eq!((read(&store, key), read(&store, key), scripted.script.take_count()), (None, None, 2));
    let named = CacheConfig { conditional_spaces: vec![SPACE], ..config() };
    let store = scripted.store.clone().layer(Cache::with_clock(named, scripted.clock.clone()));
    assert_eq!((read(&store, key), read(&store, key), scripted.script.take_count()), (None, None, 1));
    // Conditions are the store's: absent is what is kept, and not what is there.
    block_on(scripted.truth.put(key, "another's")).unwrap();
    assert!(!block_on(store.put_if_absent(key, "x")).unwrap().is_applied());
    assert_eq!(read(&store, key), Some("another's".into()), "and a conflict forgets it");
    let other = Key::lone(const { Space::conditional("other") }, b"k");
    assert_eq!((read(&store, other), read(&store, other)), (None, None));
    let held = block_on(store.get(key)).unwrap().unwrap();
    assert!(block_on(store.write(Write::delete(key).expect(Expect::Is(held.version)))).unwrap().is_applied());
    assert_eq!(read(&store, key), None);
}

/// Whether an expired record is gone.
fn expires(bug: Option<Bug>) -> bool {
    let scripted = scripted();
    let store = cached(&scripted, bug);
    let expires_at = sysd_core::Timestamp::from_micros_saturating(scripted.clock_us() + 5);
    assert!(block_on(scripted.truth.write(Write::put(KEY, "x").expires_at(expires_at))).unwrap().is_applied());
    assert!(read(&store, KEY).is_some());
    scripted.clock.advance(Duration::from_micros(4));
    assert!(read(&store, KEY).is_some());
    scripted.clock.advance(Duration::from_micros(1));
    read(&store, KEY).is_none() && block_on(store.get_many(&[KEY])).remove(0).unwrap().is_none()
}

#[test]
fn expiry_is_exact() {
    assert!(expires(None));
    assert!(!expires(Some(Bug::ForgetExpiry)));
}

/// The kinds of write that must be seen at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Write,
    Batch,
    Trim,
}

/// A read of the old record is on its way (its call made `before` or during the write) while the record is changed;
/// answers what is read after that.
fn after_a_race(bug: Option<Bug>, change: Change, begins_before: bool) -> Option<Bytes> {
    let scripted = scripted();
    let store = cached(&scripted, bug);
    block_on(scripted.truth.put(ROW, "old")).unwrap();
    let ((open_read, held_read), (open_write, held_write)) = (gate(), gate());
    let write = async {
        match change {
            Change::Write => drop(store.write(Write::put(ROW, "new")).await.unwrap()),
            Change::Batch => drop(store.write_many(&[Write::put(ROW, "new")]).await),
            Change::Trim => drop(store.trim(Trim { space: PLAIN, partition: b"p", keep: Keep::First(0) }).await),
        }
    };
    let mut write = pin!(write);
    let mut slow = get(&store, ROW);
    let mut follower = get(&store, ROW);
    if begins_before {
        scripted.script.play([Fault::HoldReply(held_read), Fault::HoldCall(held_write)]);
        assert!((&mut slow).now_or_never().is_none() && (&mut follower).now_or_never().is_none());
        assert!(write.as_mut().now_or_never().is_none());
    } else {
        scripted.script.play([Fault::HoldCall(held_write), Fault::HoldReply(held_read)]);
        assert!(write.as_mut().now_or_never().is_none());
        assert!((&mut slow).now_or_never().is_none());
    }
    // The read has seen the old record; the write happens and is answered; then the read's reply arrives.
    open_write.send(()).unwrap();
    block_on(write);
    open_read.send(()).unwrap();
    block_on(slow).unwrap();
    let _ = block_on(follower);
    read(&store, ROW)
}

#[test]
fn a_read_on_its_way_brings_nothing_old_back() {
    for change in [Change::Write, Change::Batch, Change::Trim] {
        let expected = (change != Change::Trim).then(|| Bytes::from("new"));
        for begins_before in [true, false] {
            assert_eq!(after_a_race(None, change, begins_before), expected, "{change:?}, read first: {begins_before}");
        }
    }
    let old = Some(Bytes::from("old"));
    assert_eq!(after_a_race(Some(Bug::FillStale), Change::Write, true), old);
    assert_eq!(after_a_race(Some(Bug::FillStale), Change::Batch, true), old);
    assert_eq!(after_a_race(Some(Bug::FillWhileWritten), Change::Write, false), old);
    assert_eq!(after_a_race(Some(Bug::ForgetTrims), Change::Trim, true), old);
}

#[test]
fn writes_updates_and_trims_are_seen_at_once_also_when_they_fail() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    block_on(store.put(ROW, "1")).unwrap();
    assert_eq!((read(&store, ROW), read(&store, ROW)), (Some("1".into()), Some("1".into())));
    scripted.script.play([Fault::LoseReply(ErrorKind::Timeout)]);
    assert!(block_on(store.put(ROW, "2")).is_err());
    assert_eq!(read(&store, ROW), Some("2".into()));
    // Dropped after it happened.
    let (_open, held) = gate();
    scripted.script.play([Fault::HoldReply(held)]);
    assert!(pin!(store.put(ROW, "3")).now_or_never().is_none());
    assert_eq!(read(&store, ROW), Some("3".into()));
    assert_eq!(block_on(store.trim_all(Trim { space: PLAIN, partition: b"p", keep: Keep::First(0) })).unwrap(), 1);
    assert_eq!(read(&store, ROW), None);
    // A lone record is no row: a trim leaves it, and what is kept of it.
    block_on(store.put(Key::lone(PLAIN, b"p"), "lone")).unwrap();
    assert!(read(&store, Key::lone(PLAIN, b"p")).is_some());
    scripted.script.take_count();
    block_on(store.trim_all(Trim { space: PLAIN, partition: b"p", keep: Keep::First(0) })).unwrap();
    assert!(read(&store, Key::lone(PLAIN, b"p")).is_some());
    assert_eq!(scripted.script.take_count(), 1, "the trim alone");
}

#[test]
fn a_missing_record_is_read_once_and_a_dropped_reader_is_replaced() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    block_on(scripted.truth.put(KEY, "x")).unwrap();
    for drops_reader in [false, true] {
        let (open, held) = gate();
        scripted.script.play([Fault::HoldCall(held)]);
        let mut calls: Vec<_> = (0..64).map(|_| get(&store, KEY)).collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        if drops_reader {
            drop(calls.remove(0));
        }
        let _ = open.send(());
        for found in block_on(futures::future::join_all(calls)) {
            assert_eq!(value(found), Some("x".into()));
        }
        assert_eq!(scripted.script.take_count(), 1 + usize::from(drops_reader));
        block_on(store.put(KEY, "x")).unwrap();
        scripted.script.take_count();
    }
    // An error is told to all, and not kept.
    let (open, held) = gate();
    scripted.script.play([Fault::HoldCall(held)]);
    let (mut first, mut second) = (get(&store, Key::lone(PLAIN, b"")), get(&store, Key::lone(PLAIN, b"")));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    open.send(()).unwrap();
    assert_eq!(block_on(first).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(block_on(second).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.stats().records, 0);
}

#[test]
fn batches_are_answered_from_both() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    let names: Vec<[u8; 1]> = (0..6).map(|at| [at]).collect();
    let keys: Vec<_> = names.iter().map(|name| Key::lone(PLAIN, name)).collect();
    for key in &keys[..5] {
        block_on(scripted.truth.put(*key, key.partition().to_vec())).unwrap();
    }
    assert!(read(&store, keys[1]).is_some() && read(&store, keys[3]).is_some());
    scripted.script.take_seen();
    let asked = [keys[0], keys[1], keys[0], keys[3], keys[5], Key::lone(SPACE, b"uncached")];
    let found: Vec<_> = block_on(store.get_many(&asked)).into_iter().map(value).collect();
    let expected = [Some(vec![0]), Some(vec![1]), Some(vec![0]), Some(vec![3]), None, None];
    assert_eq!(found, expected.map(|value| value.map(Bytes::from)));
    // What is asked for twice is read once.
    assert_eq!(scripted.script.take_seen()[0].answers, 3);
    block_on(store.get_many(&asked[..5]));
    assert_eq!(scripted.script.take_count(), 0, "all are kept now");
}

#[test]
fn memory_is_bounded_by_bytes() {
    let scripted = scripted();
    let small = CacheConfig { bytes_max: 1 << 20, ..config() };
    let store = scripted.store.clone().layer(Cache::with_clock(small, scripted.clock.clone()));
    for name in 0..4_000_u32 {
        let name = name.to_be_bytes();
        let key = Key::lone(PLAIN, &name);
        block_on(scripted.truth.put(key, vec![7; 1_000])).unwrap();
        assert!(read(&store, key).is_some());
    }
    let stats = store.stats();
    assert!(stats.bytes <= 1 << 20 && stats.records > 300, "{stats:?}");
    // A value larger than the whole is read and not kept.
    block_on(scripted.truth.put(KEY, vec![7; 2 << 20])).unwrap();
    assert!(read(&store, KEY).is_some() && store.stats().bytes <= 1 << 20);
}

/// What the store below is asked, in records, while a read of `KEY` is on its way and a batch wants it too, twice, with another record;
/// and what the batch answers once the read is answered, or (`is_dropped`) dropped.
fn batch_beside_a_read(bug: Option<Bug>, is_dropped: bool) -> (Vec<usize>, Vec<Option<Bytes>>) {
    let scripted = scripted();
    let store = cached(&scripted, bug);
    block_on(scripted.truth.put(KEY, "x")).unwrap();
    block_on(scripted.truth.put(ROW, "row")).unwrap();
    let (open, held) = gate();
    scripted.script.play([Fault::HoldReply(held)]);
    let mut slow = get(&store, KEY);
    assert!((&mut slow).now_or_never().is_none());
    let keys = [KEY, ROW, KEY];
    let mut batch = pin!(store.get_many(&keys));
    let early = batch.as_mut().now_or_never();
    // What it read itself it has told, though it waits for the rest.
    if early.is_none() {
        assert_eq!(read(&store, ROW), Some("row".into()));
    }
    if is_dropped {
        drop(slow);
    } else {
        open.send(()).unwrap();
        assert_eq!(value(block_on(slow)), Some("x".into()));
    }
    let answers = early.unwrap_or_else(|| block_on(batch)).into_iter().map(value).collect();
    (scripted.script.take_seen().iter().map(|operation| operation.answers).collect(), answers)
}

#[test]
fn a_batch_waits_for_what_another_call_is_reading_and_reads_the_rest_in_one() {
    let there: Vec<Option<Bytes>> = vec![Some("x".into()), Some("row".into()), Some("x".into())];
    assert_eq!(batch_beside_a_read(None, false), (vec![1, 1], there.clone()));
    // Nobody reads it any more: the batch does, once for both places.
    assert_eq!(batch_beside_a_read(None, true), (vec![1, 1, 1], there.clone()));
    assert_eq!(batch_beside_a_read(Some(Bug::ReadTwice), false), (vec![1, 3], there));
}

#[test]
fn batches_that_want_what_the_other_reads_do_not_wait_in_a_circle() {
    let scripted = scripted();
    let store = cached(&scripted, None);
    block_on(scripted.truth.put(KEY, "x")).unwrap();
    block_on(scripted.truth.put(ROW, "row")).unwrap();
    let ((open_first, first_held), (open_second, second_held)) = (gate(), gate());
    scripted.script.play([Fault::HoldReply(first_held), Fault::HoldReply(second_held)]);
    let (mut slow, other) = (get(&store, ROW), Key::lone(PLAIN, b"other"));
    assert!((&mut slow).now_or_never().is_none());
    // The first reads one record and follows another; the second reads a third, and follows both.
    let (keys, more) = ([KEY, ROW], [ROW, KEY, other]);
    let (mut first, mut second) = (pin!(store.get_many(&keys)), pin!(store.get_many(&more)));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    open_second.send(()).unwrap();
    open_first.send(()).unwrap();
    assert!(first.as_mut().now_or_never().is_none(), "nobody has told the row yet");
    block_on(slow).unwrap();
    let values = |answers: Vec<Result<Option<Record>>>| answers.into_iter().map(value).collect::<Vec<_>>();
    assert_eq!(values(block_on(first)), [Some("x".into()), Some("row".into())]);
    assert_eq!(values(block_on(second)), [Some("row".into()), Some("x".into()), None]);
    assert_eq!(scripted.script.take_count(), 3);
}
