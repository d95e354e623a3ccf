//! What others do to a queue between any two storage calls of whoever settles jobs or carries that out; rows that nobody can read; shards that fail.
#![cfg(all(feature = "memory", feature = "seeded-bugs"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use futures::future::BoxFuture;
use sysd_core::queue::{Enqueued, Held, LeasedJob, NewJob, Queue as _, QueueExt as _, Settlement};
use sysd_core::{
    Effect, Error, ErrorKind, Key, KeyBytes, ManualClock, Outcome, RetryPolicy, Scan, SeededEntropy, Space, Store,
    StoreExt as _, Timestamp, Write, tuple,
};
use sysd_storage::layer::{Answer, Interceptor, LayerExt as _, Layered, Operation};
use sysd_storage::queue::Bug;
use sysd_storage::{Memory, QueueConfig, RecordQueue};
use sysd_testkit::{Limited, Overridden, Overrides};

const SPACE: Space = Space::conditional("queue");
const HOLD: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// Lets something else happen before one of the calls that come.
#[derive(Default)]
struct Meanwhile(Mutex<Option<(usize, BoxFuture<'static, ()>)>>);

impl Meanwhile {
    fn happens_before(&self, call: usize, what: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap() = Some((call, Box::pin(what)));
    }

    /// Whether there were fewer calls than that.
    fn is_left(&self) -> bool {
        self.0.lock().unwrap().take().is_some()
    }
}

impl Interceptor for Meanwhile {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, _: Operation, call: F) -> A {
        let due = {
            let mut planned = self.0.lock().unwrap();
            match planned.take() {
                Some((0, what)) => Some(what),
                Some((calls, what)) => {
                    *planned = Some((calls - 1, what));
                    None
                }
                None => None,
            }
        };
        if let Some(what) = due {
            what.await;
        }
        call.await
    }
}

type Watched = RecordQueue<Layered<Memory<ManualClock>, Arc<Meanwhile>>>;

struct Scene {
    clock: ManualClock,
    store: Memory<ManualClock>,
    meanwhile: Arc<Meanwhile>,
    /// Its calls can be interrupted.
    queue: Watched,
    /// Another process.
    other: Arc<RecordQueue<Memory<ManualClock>>>,
}

fn scene(bug: Option<Bug>) -> Scene {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let store = Memory::with_clock(clock.clone());
    let config = |seed| QueueConfig {
        shards: 1,
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        bug,
        ..QueueConfig::default()
    };
    let meanwhile = Arc::new(Meanwhile::default());
    let watched = store.clone().layer(Arc::clone(&meanwhile));
    let queue = block_on(RecordQueue::open(watched, "q", config(1))).unwrap();
    let other = Arc::new(block_on(RecordQueue::open(store.clone(), "q", config(2))).unwrap());
    Scene { clock, store, meanwhile, queue, other }
}

impl Scene {
    fn lease(&self) -> Vec<LeasedJob> {
        block_on(self.queue.lease(10, HOLD)).unwrap()
    }

    fn settle(&self, job: &LeasedJob, settlement: Settlement) {
        assert_eq!(block_on(self.queue.settle(&job.lease, settlement)).unwrap(), Held::Held);
    }

    /// The keys of the rows of the only shard.
    fn rows(&self) -> Vec<KeyBytes> {
        let partition = tuple::encode(&("q", 2_u8, 0_u16));
        let rows = block_on(self.store.scan_rows(Scan::partition(SPACE, &partition, 100))).unwrap();
        rows.into_iter().map(|row| KeyBytes::from_slice(&row.sort)).collect()
    }

    fn put_row(&self, sort: &[u8], value: &'static [u8]) {
        let partition = tuple::encode(&("q", 2_u8, 0_u16));
        block_on(self.store.put(Key::row(SPACE, &partition, sort), value)).unwrap();
    }

    /// The jobs that come until none comes, all of them acked; and the dead letters that are left.
    fn drain(&self) -> (Vec<LeasedJob>, Vec<Vec<u8>>) {
        let mut all = Vec::new();
        for _ in 0..4 {
            self.clock.advance(Duration::from_millis(1));
            let jobs = self.lease();
            for job in &jobs {
                self.settle(job, Settlement::Ack);
            }
            all.extend(jobs);
        }
        let letters = block_on(self.queue.dead_letters(None, 100)).unwrap();
        (all, letters.into_iter().map(|letter| letter.payload.to_vec()).collect())
    }
}

/// A job is given up, and put back by somebody else between two of the calls that carry this out: it comes again, once.
fn replayed_before(call: usize, is_named: bool, bug: Option<Bug>) -> Result<bool, String> {
    let scene = scene(bug);
    let job = NewJob::new("letter");
    let job = if is_named { job.id(b"order 7") } else { job };
    block_on(scene.queue.enqueue(job)).unwrap();
    let jobs = scene.lease();
    scene.settle(&jobs[0], Settlement::Bury("no".to_owned()));
    let (other, is_replayed) = (Arc::clone(&scene.other), Arc::new(Mutex::new(false)));
    let replayed = Arc::clone(&is_replayed);
    scene.meanwhile.happens_before(call, async move {
        for letter in other.dead_letters(None, 10).await.unwrap() {
            *replayed.lock().unwrap() |= other.replay(&letter).await.unwrap();
            assert!(!other.replay(&letter).await.unwrap(), "it was put back already");
        }
    });
    assert!(scene.lease().is_empty());
    let is_past = scene.meanwhile.is_left();
    let is_replayed = *is_replayed.lock().unwrap();
    let (jobs, letters) = scene.drain();
    let wanted = if is_replayed { (1, 0) } else { (0, 1) };
    if (jobs.len(), letters.len()) != wanted {
        let got = (jobs.len(), letters.len());
        return Err(format!("before call {call}, named {is_named}, replayed {is_replayed}: {got:?}, not {wanted:?}"));
    }
    Ok(is_past)
}

/// The first failure of all places, to the last call.
fn everywhere(mut run: impl FnMut(usize) -> Result<bool, String>) -> Result<(), String> {
    for call in 0..100 {
        if run(call)? {
            assert!(call > 3, "only {call} calls");
            return Ok(());
        }
    }
    panic!("no end");
}

#[test]
fn a_replay_between_any_two_calls_loses_nothing_and_leaves_no_ghost() {
    everywhere(|call| replayed_before(call, true, None)).unwrap();
    everywhere(|call| replayed_before(call, false, None)).unwrap();
}

#[test]
fn a_dead_letter_before_its_mark_is_seen() {
    let seen = everywhere(|call| replayed_before(call, true, Some(Bug::GraveFirst))).unwrap_err();
    assert!(seen.contains("(0, 0), not"), "{seen}");
}

/// A named job is given back for a minute, and enqueued again meanwhile: it comes after the minute, once, as the second attempt.
fn enqueued_again_before(call: usize, bug: Option<Bug>) -> Result<bool, String> {
    let scene = scene(bug);
    let job = NewJob::new("job").id(b"order 7");
    block_on(scene.queue.enqueue(job.clone())).unwrap();
    let jobs = scene.lease();
    scene.settle(&jobs[0], Settlement::Release(MINUTE));
    let other = Arc::clone(&scene.other);
    scene.meanwhile.happens_before(call, async move {
        assert!(matches!(other.enqueue(job).await.unwrap(), Enqueued::Queued(_)));
    });
    for _ in 0..3 {
        if let [early, ..] = scene.lease().as_slice() {
            return Err(format!("before call {call}: attempt {} comes before the minute is over", early.attempt));
        }
        scene.clock.advance(Duration::from_millis(1));
    }
    let is_past = scene.meanwhile.is_left();
    scene.clock.advance(MINUTE);
    let (jobs, _) = scene.drain();
    let attempts: Vec<_> = jobs.iter().map(|job| job.attempt).collect();
    if attempts != [2] {
        return Err(format!("before call {call}: attempts {attempts:?} come after the minute, not the second alone"));
    }
    Ok(is_past)
}

#[test]
fn enqueueing_again_what_was_given_back_makes_no_second_job() {
    everywhere(|call| enqueued_again_before(call, None)).unwrap();
}

#[test]
fn a_second_job_is_seen() {
    let seen = everywhere(|call| enqueued_again_before(call, Some(Bug::LeaveMark))).unwrap_err();
    assert!(seen.contains("before call"), "{seen}");
}

/// Somebody who last looked before the job was handed out looks between two of the calls that carry its settlement out; then whoever
/// carried it out dies. What that one has not copied yet must still be there.
fn cut_off_before(call: usize, settlement: &Settlement, bug: Option<Bug>) -> Result<bool, String> {
    let scene = scene(bug);
    assert!(block_on(scene.other.lease(10, HOLD)).unwrap().is_empty());
    block_on(scene.queue.enqueue(NewJob::new("job").id(b"order 7"))).unwrap();
    let jobs = scene.lease();
    scene.settle(&jobs[0], settlement.clone());
    let other = Arc::clone(&scene.other);
    scene.meanwhile.happens_before(call, async move {
        drop(other.lease(10, HOLD).await);
        std::future::pending::<()>().await;
    });
    let is_past = scene.queue.lease(10, HOLD).now_or_never().is_some();
    let _ = scene.meanwhile.is_left();
    scene.clock.advance(2 * MINUTE);
    let (jobs, letters) = scene.drain();
    if jobs.len() + letters.len() != 1 {
        let (jobs, letters) = (jobs.len(), letters.len());
        return Err(format!("before call {call}, {settlement:?}: {jobs} jobs and {letters} letters"));
    }
    Ok(is_past)
}

#[test]
fn what_is_being_carried_out_is_no_late_echo() {
    for settlement in [Settlement::Release(Duration::from_secs(1)), Settlement::Bury("no".to_owned())] {
        everywhere(|call| cut_off_before(call, &settlement, None)).unwrap();
        let seen = everywhere(|call| cut_off_before(call, &settlement, Some(Bug::RemoveUnseen))).unwrap_err();
        assert!(seen.contains("0 jobs and 0 letters"), "{seen}");
    }
}

/// More is given up at once than the shard's record has room for, while somebody else leases between two of the calls: each job becomes
/// a dead letter, once, with its reason.
fn buried_at_once(call: usize, bug: Option<Bug>) -> Result<bool, String> {
    const JOBS: usize = 900;
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let store = Limited::new(Memory::with_clock(clock.clone()), clock.clone());
    let config = |seed| QueueConfig {
        shards: 1,
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        bug,
        ..QueueConfig::default()
    };
    let meanwhile = Arc::new(Meanwhile::default());
    let queue = block_on(RecordQueue::open(store.clone().layer(Arc::clone(&meanwhile)), "q", config(1))).unwrap();
    let other = block_on(RecordQueue::open(store, "q", config(2))).unwrap();
    assert!(block_on(queue.enqueue_many(&vec![NewJob::new("x"); JOBS])).iter().all(Result::is_ok));
    let jobs = block_on(queue.lease(JOBS, HOLD)).unwrap();
    assert_eq!(jobs.len(), JOBS);
    let reason = |at: usize| format!("{at:>1024}");
    let burials = jobs.into_iter().enumerate().map(|(at, job)| (job.lease, Settlement::Bury(reason(at))));
    let burials: Vec<_> = burials.collect();
    meanwhile.happens_before(call, async move {
        assert!(other.lease(10, HOLD).await.unwrap().is_empty(), "all are in flight");
    });
    let answers = block_on(queue.settle_many(&burials));
    let is_past = meanwhile.is_left();
    let held = answers.iter().filter(|answer| matches!(answer, Ok(Held::Held))).count();
    clock.advance(2 * MINUTE);
    let again = block_on(queue.lease(JOBS, HOLD)).unwrap().len();
    let letters = block_on(queue.dead_letters(None, 2 * JOBS)).unwrap();
    let mut reasons: Vec<_> = letters.into_iter().map(|letter| letter.reason).collect();
    reasons.sort();
    if (held, again) != (JOBS, 0) || reasons != (0..JOBS).map(reason).collect::<Vec<_>>() {
        return Err(format!("before call {call}: {held} buried, {} letters, {again} come again", reasons.len()));
    }
    Ok(is_past)
}

#[test]
fn more_burials_than_a_record_has_room_for_are_carried_out_part_by_part() {
    // The shard's record is written, its rows and letters go, it is written again, and so on: at the borders, and in between.
    let mut calls = (0..4).chain((1..9).map(|nth| nth * 97)).chain(std::iter::once(usize::MAX - 1));
    assert!(calls.any(|call| buried_at_once(call, None).unwrap()));
}

#[test]
fn burials_that_are_dropped_to_make_room_are_seen() {
    let seen = buried_at_once(usize::MAX - 1, Some(Bug::DropUnsettled)).unwrap_err();
    assert!(seen.contains("come again"), "{seen}");
}

/// Rows whose bytes or keys make no sense lie before a good one: it is handed out, and what can be named is a dead letter.
#[test]
fn a_broken_row_stops_nothing_and_is_set_aside() {
    for is_named in [false, true] {
        let scene = scene(None);
        let job = |payload: &'static str| {
            let job = NewJob::new(payload);
            if is_named { job.id(payload.as_bytes()) } else { job }
        };
        block_on(scene.queue.enqueue(job("broken"))).unwrap();
        scene.put_row(&scene.rows()[0], b"");
        // The first of all that a look meets.
        scene.put_row(b"\0\0\0\0\0\0\0\0\0\x01", b"no key of a job's");
        scene.clock.advance(Duration::from_millis(1));
        block_on(scene.queue.enqueue(job("good"))).unwrap();
        let jobs = scene.lease();
        assert_eq!(jobs.iter().map(|job| &job.payload[..]).collect::<Vec<_>>(), [b"good"]);
        scene.settle(&jobs[0], Settlement::Ack);
        assert!(scene.lease().is_empty());
        let letters = block_on(scene.queue.dead_letters(None, 10)).unwrap();
        assert_eq!(letters.len(), 1);
        assert!(letters[0].reason.contains("makes no sense"), "{letters:?}");
        assert_eq!(letters[0].payload, "");
        // What can't be named stays where it is.
        assert_eq!(scene.rows().len(), 1);
        let depth = block_on(scene.queue.depth(100)).unwrap();
        assert_eq!((depth.waiting, depth.unreadable), (0, 1));
    }
}

/// A row that breaks while its job is in flight: neither its settlement nor anybody else's waits for it.
#[test]
fn a_row_that_breaks_in_flight_stops_no_settlement() {
    for settlement in [Settlement::Release(Duration::ZERO), Settlement::Bury("no".to_owned())] {
        let scene = scene(None);
        block_on(scene.queue.enqueue(NewJob::new("broken").id(b"broken"))).unwrap();
        let broken = scene.lease();
        scene.put_row(&scene.rows()[0], b"\0?");
        block_on(scene.queue.enqueue(NewJob::new("other").id(b"other"))).unwrap();
        let other = scene.lease();
        scene.settle(&broken[0], settlement);
        scene.settle(&other[0], Settlement::Bury("no".to_owned()));
        let (jobs, mut letters) = scene.drain();
        letters.sort();
        assert!(jobs.is_empty(), "{jobs:?}");
        assert_eq!(letters, [b"\0?".to_vec(), b"other".to_vec()]);
    }
}

/// A row of a later version's format is left alone: one who knows the format hands it out.
#[test]
fn a_row_in_a_newer_format_is_left_where_it_is() {
    let scene = scene(None);
    block_on(scene.queue.enqueue(NewJob::new("newer"))).unwrap();
    scene.put_row(&scene.rows()[0], b"\xF0 who knows");
    scene.clock.advance(Duration::from_millis(1));
    block_on(scene.queue.enqueue(NewJob::new("good"))).unwrap();
    let (jobs, letters) = scene.drain();
    assert_eq!((jobs.len(), letters.len(), scene.rows().len()), (1, 0, 1));
    assert_eq!(block_on(scene.queue.depth(100)).unwrap().unreadable, 1);
}

/// A shard's record that makes no sense is told by its key; the jobs of the other shards come all the same.
#[test]
fn a_broken_shard_is_told_and_the_others_go_on() {
    let store = Memory::new();
    let config = QueueConfig { shards: 4, entropy: Arc::new(SeededEntropy::new(1)), ..QueueConfig::default() };
    let queue = block_on(RecordQueue::open(store.clone(), "q", config)).unwrap();
    let jobs: Vec<_> = (0..40_u8).map(|number| NewJob::new("x").id(&[number])).collect();
    assert!(block_on(queue.enqueue_many(&jobs)).iter().all(Result::is_ok));
    let shard = tuple::encode(&("q", 1_u8, 2_u16));
    let broken = Key::lone(SPACE, &shard);
    block_on(store.put(broken, "?")).unwrap();
    let mut leased = 0;
    loop {
        match block_on(queue.lease(100, HOLD)) {
            Ok(jobs) => leased += jobs.len(),
            Err(error) => {
                assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(broken)));
                break;
            }
        }
    }
    let here = |shard: u16| {
        let partition = tuple::encode(&("q", 2_u8, shard));
        block_on(store.scan_rows(Scan::partition(SPACE, &partition, 100))).unwrap().len()
    };
    assert_eq!(leased, here(0) + here(1) + here(3), "all but those of the broken shard");
    assert!(leased > 0 && here(2) > 0);
}

/// Refuses to write one record.
struct Refuses(KeyBytes, ErrorKind);

impl<S: Store> Overrides<S> for Refuses {
    async fn write(&self, store: &S, write: Write<'_>) -> sysd_core::Result<Outcome> {
        if write.key == Key::lone(SPACE, &self.0) {
            return Err(Error::new(self.1, Effect::None, "not this one").with_key(write.key));
        }
        store.write(write).await
    }
}

/// What the store refuses of one shard is told once no other has a job; an outage is told at once.
#[test]
fn a_shard_that_is_refused_is_told_and_the_others_go_on() {
    for kind in ErrorKind::ALL {
        let shard = tuple::encode(&("q", 1_u8, 2_u16));
        let store = Overridden(Memory::new(), Refuses(shard.clone(), kind));
        let config = QueueConfig {
            shards: 4,
            entropy: Arc::new(SeededEntropy::new(1)),
            retry: RetryPolicy { attempts_max: 1, ..RetryPolicy::default() },
            ..QueueConfig::default()
        };
        let queue = block_on(RecordQueue::open(store, "q", config)).unwrap();
        let jobs: Vec<_> = (0..40_u8).map(|number| NewJob::new("x").id(&[number])).collect();
        assert!(block_on(queue.enqueue_many(&jobs)).iter().all(Result::is_ok));
        let (mut leased, mut told) = (0, 0);
        for _ in 0..8 {
            match block_on(queue.lease(100, HOLD)) {
                Ok(jobs) => leased += usize::from(!jobs.is_empty()),
                Err(error) => {
                    assert_eq!((error.kind(), error.key()), (kind, Some(Key::lone(SPACE, &shard))));
                    assert!(leased == 3 || kind.is_transient() || kind == ErrorKind::Invalid, "{kind}: told early");
                    told += 1;
                }
            }
        }
        // In eight turns of four shards each is come to, whatever is told.
        assert!(leased == 3 && told > 0, "{kind}: of three shards {leased}, {told} errors");
    }
}

/// A letter that can't be read hides none of the others.
#[test]
fn a_broken_dead_letter_is_listed_with_its_bytes() {
    let scene = scene(None);
    for payload in ["first", "second"] {
        block_on(scene.queue.enqueue(NewJob::new(payload))).unwrap();
        let jobs = scene.lease();
        scene.settle(&jobs[0], Settlement::Bury("no".to_owned()));
        scene.clock.advance(Duration::from_secs(1));
        assert!(scene.lease().is_empty());
    }
    let partition = tuple::encode(&("q", 4_u8));
    let rows = block_on(scene.store.scan_rows(Scan::partition(SPACE, &partition, 10))).unwrap();
    block_on(scene.store.put(Key::row(SPACE, &partition, &rows[0].sort), "??")).unwrap();
    let letters = block_on(scene.queue.dead_letters(None, 10)).unwrap();
    let payloads: Vec<_> = letters.iter().map(|letter| &letter.payload[..]).collect();
    assert_eq!(payloads, [&b"??"[..], b"second"]);
    assert!(letters[0].reason.contains("makes no sense"));
    let error = block_on(scene.queue.replay(&letters[0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(block_on(scene.queue.dead_letters(None, 10)).unwrap().len(), 2, "it is kept");
}

/// Refuses all calls from one on, as if nothing had happened, which is so.
struct RefusesFrom(usize, AtomicUsize);

impl Interceptor for RefusesFrom {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        if self.1.fetch_add(1, Ordering::SeqCst) >= self.0 {
            return A::failed(operation.answers, Error::new(ErrorKind::Denied, Effect::None, "no more"));
        }
        call.await
    }
}

#[test]
fn a_replay_that_is_cut_off_says_that_nothing_happened_only_if_so() {
    for is_named in [false, true] {
        let mut ended = [0; 3];
        for call in 0..20 {
            let scene = scene(None);
            let job = NewJob::new("letter");
            block_on(scene.queue.enqueue(if is_named { job.id(b"order 7") } else { job })).unwrap();
            let jobs = scene.lease();
            scene.settle(&jobs[0], Settlement::Bury("no".to_owned()));
            assert!(scene.lease().is_empty());
            let letters = block_on(scene.queue.dead_letters(None, 10)).unwrap();
            let refusing = scene.store.clone().layer(RefusesFrom(call + 1, AtomicUsize::new(0)));
            let config = QueueConfig { shards: 1, clock: Arc::new(scene.clock.clone()), ..QueueConfig::default() };
            // Opening it is the first call.
            let queue = block_on(RecordQueue::open(refusing, "q", config)).unwrap();
            let replayed = block_on(queue.replay(&letters[0]));
            let came = scene.drain().0.len();
            match replayed {
                Ok(is_replayed) => {
                    assert!(is_replayed && came == 1);
                    ended[0] += 1;
                }
                Err(error) if error.effect() == Effect::None => {
                    assert_eq!(came, 0, "call {call}: it said that nothing happened");
                    ended[1] += 1;
                }
                Err(_) => ended[2] += 1,
            }
        }
        assert!(ended.iter().all(|count| *count > 0), "{ended:?}");
    }
}
