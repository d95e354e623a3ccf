#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::thread;

use futures::FutureExt as _;
use futures::executor::block_on;

use super::super::layout;
use super::super::removal::remove;
use super::super::tree::Victim;
use super::*;
use sysd_core::Version;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk with a cache that a crash empties: what is written is shown once it is synced, and only then survives.
#[derive(Default)]
struct Disk {
    durable: Mutex<Records>,
    commits: AtomicUsize,
    /// Held by a test to keep a batch in flight.
    hold: Mutex<()>,
    /// The same for the second batch only.
    second: Mutex<()>,
    fails: Mutex<Option<Error>>,
    panics: Mutex<bool>,
}

impl Disk {
    fn get(&self, key: &[u8]) -> Image {
        self.durable.lock().get(key).map(|value| Slice::new(value))
    }
}

impl Tree for Arc<Disk> {
    fn commit(&self, batch: &Batch) -> Result<()> {
        let before = self.commits.fetch_add(1, Ordering::SeqCst);
        let _held = self.hold.lock();
        let _second = (before == 1).then(|| self.second.lock());
        assert!(!*self.panics.lock(), "on purpose");
        if let Some(error) = self.fails.lock().take() {
            return Err(error);
        }
        let mut durable = self.durable.lock();
        for (_, key, image) in batch.images() {
            match image {
                Some(image) => durable.insert(key.to_vec(), image.to_vec()),
                None => durable.remove(&key[..]),
            };
        }
        Ok(())
    }
}

type OnDisk = Group<Arc<Disk>>;

/// A group whose committer is `run`, closed at the end.
fn with_group<T>(run: fn(&OnDisk), test: impl FnOnce(&Arc<OnDisk>, &Arc<Disk>) -> T) -> T {
    let disk = Arc::new(Disk::default());
    let group = Arc::new(Group::new(Arc::clone(&disk)));
    let committer = thread::spawn({
        let group = Arc::clone(&group);
        move || run(&group)
    });
    let outcome = test(&group, &disk);
    group.close();
    drop(committer.join());
    outcome
}

fn put(group: &OnDisk, key: &[u8], value: &[u8]) -> Result<Ticket> {
    let decide = |_: Option<&Slice>| Ok(Decision { change: Some(Some(Slice::new(value))), output: () });
    match group.stage(Family::Lone, &Slice::new(key), Basis::Blind, decide)? {
        Staged::Decided((), Some(ticket)) => Ok(ticket),
        _ => unreachable!("a blind write is staged"),
    }
}

/// Whether it was inserted, and what to wait for.
fn insert(group: &OnDisk, key: &[u8], value: &[u8]) -> (bool, Option<Ticket>) {
    let decide = |found: Option<&Slice>| {
        let change = found.is_none().then(|| Some(Slice::new(value)));
        Ok(Decision { change, output: found.is_none() })
    };
    let look = group.look(Family::Lone, &Slice::new(key));
    let found = group.tree.get(key);
    match group.stage(Family::Lone, &Slice::new(key), look.basis(found.as_ref()), decide).unwrap() {
        Staged::Decided(is_in, ticket) => (is_in, ticket),
        _ => unreachable!("what is read during a look is never stale"),
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    while !holds() {
        thread::yield_now();
    }
}

/// Puts from four threads; fails if the disk lost a single acknowledged one, looked at the moment it was acknowledged.
fn acknowledged_is_durable(run: fn(&OnDisk)) -> std::result::Result<(), String> {
    with_group(run, |group, disk| {
        let writers = (0..4_u8).map(|writer| {
            let (group, disk) = (Arc::clone(group), Arc::clone(disk));
            thread::spawn(move || {
                for at in 0..200_u8 {
                    let key = [writer, at];
                    block_on(put(&group, &key, b"x").unwrap()).unwrap();
                    // The machine crashes here: this is what is left.
                    if !disk.durable.lock().contains_key(&key[..]) {
                        return Err(format!("{key:?} was acknowledged and is lost"));
                    }
                }
                Ok(())
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().try_for_each(|writer| writer.join().unwrap())
    })
}

#[test]
fn what_is_acknowledged_is_on_the_disk() {
    acknowledged_is_durable(Group::run).unwrap();
}

/// The mutant: it lets callers go before the disk has their batch.
#[test]
fn acknowledging_before_the_sync_is_caught() {
    let hasty = |group: &OnDisk| {
        while let Some(batch) = group.take(&mut Landed::default(), &mut Linger::default()) {
            batch.completion.finish(Ok(()));
            batch.completion.release();
            thread::yield_now();
            group.tree.commit(&batch).unwrap();
            group.land();
        }
    };
    acknowledged_is_durable(hasty).unwrap_err();
}

#[test]
fn of_two_inserts_one_wins_wherever_the_other_is() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        let (first, landed) = insert(group, b"k", b"1");
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        // The first is in flight; then both wait in the forming batch.
        let (second, told) = insert(group, b"k", b"2");
        let (other, _) = insert(group, b"l", b"1");
        let (again, told_again) = insert(group, b"l", b"2");
        assert_eq!([first, second, other, again], [true, false, true, false]);
        // The losers tell of records that a crash may still take back: they wait.
        let (mut told, mut told_again) = (told.unwrap(), told_again.unwrap());
        assert!((&mut told).now_or_never().is_none() && (&mut told_again).now_or_never().is_none());
        drop(held);
        block_on(landed.unwrap()).unwrap();
        block_on(told).unwrap();
        block_on(told_again).unwrap();
        assert_eq!(disk.durable.lock()[&b"k"[..]], b"1");
    });
}

#[test]
fn what_was_seen_before_a_batch_landed_is_stale() {
    with_group(Group::run, |group, _| {
        let seen = Seen { image: None, epoch: group.epoch() };
        block_on(put(group, b"k", b"1").unwrap()).unwrap();
        let decide = |_: Option<&Slice>| Ok(Decision { change: Some(None), output: () });
        let staged = group.stage(Family::Lone, &Slice::new(b"k"), Basis::Seen(&seen), decide).unwrap();
        assert!(matches!(staged, Staged::Stale));
    });
}

/// Once it was read again under the lock: a disk that hung then held up everybody, also who would have been told of it.
#[test]
fn what_lands_during_a_look_is_what_is_decided_on() {
    with_group(Group::run, |group, disk| {
        let key = Slice::new(b"k");
        let sees = |look: &Look<'_, _>, read: &Image| {
            let decide = |found: Option<&Slice>| Ok(Decision { change: None, output: found.cloned() });
            match group.stage(Family::Lone, &key, look.basis(read.as_ref()), decide).unwrap() {
                Staged::Decided(found, _) => found,
                _ => unreachable!("what is read during a look is never stale"),
            }
        };
        let look = group.look(Family::Lone, &key);
        let read = disk.get(b"k");
        assert_eq!(sees(&look, &read), None);
        // Another record, then this one: a write, and its end.
        block_on(put(group, b"other", b"x").unwrap()).unwrap();
        assert_eq!(sees(&look, &read), None);
        block_on(put(group, b"k", b"1").unwrap()).unwrap();
        assert_eq!(sees(&look, &read).as_deref(), Some(&b"1"[..]));
        let delete = |_: Option<&Slice>| Ok(Decision { change: Some(None), output: () });
        let Staged::Decided((), Some(gone)) = group.stage(Family::Lone, &key, Basis::Blind, delete).unwrap() else {
            unreachable!("a blind write is staged")
        };
        block_on(gone).unwrap();
        assert_eq!(sees(&look, &Some(Slice::new(b"1"))), None);
        // What is kept for it goes with it.
        drop(look);
        assert!(group.state.lock().looks.is_empty());
    });
}

#[test]
fn many_writes_of_one_record_are_one_put_and_what_forms_is_bounded() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        let first = put(group, b"other", b"x").unwrap();
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        let tickets: Vec<_> = (0..1_000_u32).map(|at| put(group, b"hot", &at.to_be_bytes()).unwrap()).collect();
        assert_eq!(group.state.lock().forming.len(), 1);
        for at in 1..u32::try_from(BATCH_RECORDS_MAX).unwrap() {
            drop(put(group, &at.to_be_bytes(), b"x").unwrap());
        }
        let blind = |_: Option<&Slice>| Ok(Decision { change: Some(None), output: () });
        let staged = group.stage(Family::Lone, &Slice::new(b"more"), Basis::Blind, blind).unwrap();
        let Staged::NoRoom(room) = staged else { unreachable!("a full batch takes no more") };
        drop(held);
        block_on(first).unwrap();
        block_on(room).unwrap();
        for ticket in tickets {
            block_on(ticket).unwrap();
        }
        assert_eq!(disk.commits.load(Ordering::SeqCst), 2);
        assert_eq!(disk.durable.lock()[&b"hot"[..]], 999_u32.to_be_bytes());
    });
}

#[test]
fn after_a_failed_batch_nothing_more_is_taken() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        *disk.fails.lock() = Some(Error::new(ErrorKind::Full, Effect::Unknown, "no room"));
        let flying = put(group, b"k", b"1").unwrap();
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        let forming = put(group, b"k", b"2").unwrap();
        drop(held);
        let error = block_on(flying).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::Unknown));
        // It was never written.
        let error = block_on(forming).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None));
        let error = put(group, b"k", b"3").unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None));
        assert_eq!(disk.commits.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_committer_that_panics_answers_its_callers() {
    with_group(Group::run, |group, disk| {
        *disk.panics.lock() = true;
        let error = block_on(put(group, b"k", b"1").unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Internal, Effect::Unknown));
        assert_eq!(put(group, b"k", b"1").unwrap_err().effect(), Effect::None);
    });
}

#[test]
fn what_was_staged_before_the_end_is_written() {
    let disk = with_group(Group::run, |group, disk| {
        for key in 0..100_u8 {
            drop(put(group, &[key], b"x").unwrap());
        }
        Arc::clone(disk)
    });
    assert_eq!(disk.durable.lock().len(), 100);
}

/// What comes while the disk hangs once joined the batch that was given up: it was told that it may have happened, and had.
#[test]
fn callers_of_a_disk_that_hangs_are_told_and_nothing_more_is_taken() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        let second = disk.second.lock();
        let flying = put(group, b"k", b"1").unwrap();
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        let mut forming = put(group, b"k", b"2").unwrap();
        group.give_up_after(Duration::from_secs(3_600));
        assert!((&mut forming).now_or_never().is_none());
        let refused = || {
            let error = put(group, b"k", b"3").unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
        };
        for _ in 0..2 {
            group.give_up_after(Duration::ZERO);
            refused();
        }
        for ticket in [flying, forming] {
            let error = block_on(ticket).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
        }
        drop(held);
        // It was slow, not broken: it goes on. What was given up is on its way, and what comes has a batch of its own.
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 2);
        let mut fresh = put(group, b"l", b"4").unwrap();
        group.give_up_after(Duration::from_secs(3_600));
        assert!((&mut fresh).now_or_never().is_none());
        drop(second);
        block_on(fresh).unwrap();
        let durable = disk.durable.lock();
        assert_eq!((&durable[&b"k"[..]][..], &durable[&b"l"[..]][..]), (&b"2"[..], &b"4"[..]));
    });
}

#[test]
fn a_disk_that_hung_while_nobody_waited_behind_takes_more_once_it_goes_on() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        let flying = put(group, b"k", b"1").unwrap();
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        group.give_up_after(Duration::ZERO);
        assert_eq!(put(group, b"k", b"2").unwrap_err().effect(), Effect::None);
        assert_eq!(block_on(flying).unwrap_err().effect(), Effect::Unknown);
        drop(held);
        wait_until(|| disk.get(b"k").is_some());
        let ticket = loop {
            match put(group, b"k", b"3") {
                Ok(ticket) => break ticket,
                Err(error) => assert_eq!(error.effect(), Effect::None),
            }
        };
        block_on(ticket).unwrap();
        assert_eq!(disk.commits.load(Ordering::SeqCst), 2, "what was refused was not written");
    });
}

#[test]
fn a_caller_that_is_woken_and_does_not_come_holds_up_no_other() {
    with_group(Group::run, |group, disk| {
        let held = disk.hold.lock();
        drop(put(group, b"first", b"x").unwrap());
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        let other = thread::spawn({
            let ticket = put(group, b"other", b"x").unwrap();
            move || block_on(ticket).is_ok()
        });
        // Polled once, the last before the batch lands, and never again.
        let mut lazy = put(group, b"lazy", b"x").unwrap();
        // real-time: the other thread is to wait by then; the test holds if it does not.
        thread::sleep(Duration::from_millis(20));
        assert!((&mut lazy).now_or_never().is_none());
        drop(held);
        assert!(other.join().unwrap());
        drop(lazy);
    });
}

/// So many rows, as they are stored, and as a trim met them.
fn rows(disk: &Disk, count: u32) -> Vec<Victim> {
    let victim = |at: u32| {
        let (key, version) = (at.to_be_bytes().to_vec(), Version::from_u128(at.into()));
        let image = layout::encode(b"x", version, None);
        disk.durable.lock().insert(key.clone(), image.to_vec());
        Victim { key: Slice::new(&key), image, version }
    };
    (0..count).map(victim).collect()
}

async fn removes(group: &OnDisk, victims: Vec<Victim>) -> Result<usize> {
    let read = |_: Family, key: Slice| async move { Ok(group.tree.get(&key)) };
    remove(group, Family::Rows, victims, group.epoch(), read).await
}

fn a_failure() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the disk broke")
}

/// What a removal of so many rows answers, whose rows all wait behind a batch of others when that one lands or fails; as
/// `is_second`, the batch behind it fails, while more rows wait behind that.
fn removed(count: usize, is_second: bool) -> Result<usize> {
    with_group(Group::run, |group, disk| {
        let victims = rows(disk, u32::try_from(count).unwrap());
        let (held, second) = (disk.hold.lock(), disk.second.lock());
        drop(put(group, b"other", b"x").unwrap());
        wait_until(|| disk.commits.load(Ordering::SeqCst) == 1);
        let removing = thread::spawn({
            let group = Arc::clone(group);
            move || block_on(removes(&group, victims))
        });
        let staged = |calls| wait_until(|| group.state.lock().forming.calls == calls);
        staged(count.min(BATCH_RECORDS_MAX));
        if is_second {
            drop(held);
            // Or they wait for the second batch, if they were let go before it was sent off: it has one ticket of theirs, and another then.
            let wait_for_it = |state: &State| {
                state.flying.as_ref().is_some_and(|flying| {
                    flying.calls == BATCH_RECORDS_MAX && Arc::strong_count(&flying.completion) > 2
                })
            };
            wait_until(|| {
                let state = group.state.lock();
                state.forming.calls == count - BATCH_RECORDS_MAX || wait_for_it(&state)
            });
            *disk.fails.lock() = Some(a_failure());
        } else {
            *disk.fails.lock() = Some(a_failure());
            drop(held);
        }
        drop(second);
        removing.join().unwrap()
    })
}

#[test]
fn a_removal_that_failed_half_way_may_have_happened() {
    // What is refused behind a batch that may have landed did not happen; a part of the removal lies in that batch.
    let error = removed(BATCH_RECORDS_MAX + 10, true).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    // All of it was refused.
    let error = removed(10, false).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
}

#[test]
fn a_removal_of_more_than_a_batch_removes_all() {
    with_group(Group::run, |group, disk| {
        let victims = rows(disk, u32::try_from(BATCH_RECORDS_MAX + 10).unwrap());
        assert_eq!(block_on(removes(group, victims)).unwrap(), BATCH_RECORDS_MAX + 10);
        assert!(disk.durable.lock().is_empty());
        let stale = Victim { key: Slice::new(b"k"), image: Slice::new(b""), version: Version::from_u128(1) };
        assert_eq!(block_on(removes(group, vec![stale])).unwrap(), 0);
    });
}
