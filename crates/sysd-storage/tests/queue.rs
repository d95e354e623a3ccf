//! A queue on memory, by a clock that is moved by hand: how many jobs are in flight, what is found, how writes are tried again.
#![cfg(all(feature = "memory", feature = "seeded-bugs"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use sysd_core::queue::{Held, JobId, LeasedJob, NewJob, Queue as _, QueueExt as _, Settlement};
use sysd_core::{Clock as _, Effect, Error, ErrorKind, ManualClock, RetryPolicy, SeededEntropy, Timestamp};
use sysd_storage::layer::{Answer, Interceptor, LayerExt as _, Layered, Method, Operation};
use sysd_storage::queue::Bug;
use sysd_storage::{Memory, QueueConfig, RecordQueue};

type TestQueue = RecordQueue<Layered<Memory<ManualClock>, Arc<Watch>>>;

/// What happens beside the calls.
#[derive(Default)]
struct Watch {
    /// How far the clock moves during the next scan.
    scan_takes: Mutex<Option<Duration>>,
    /// Of each batch of writes to come, the places that fail.
    failing: Mutex<Vec<Vec<usize>>>,
    /// The writes that came: how many in each call.
    writes: Mutex<Vec<usize>>,
    clock: Mutex<Option<ManualClock>>,
}

impl Interceptor for Watch {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let mut answer = call.await;
        if operation.method == Method::Scan
            && let (Some(by), Some(clock)) = (self.scan_takes.lock().unwrap().take(), &*self.clock.lock().unwrap())
        {
            clock.advance(by);
        }
        if matches!(operation.method, Method::Write | Method::WriteMany) {
            self.writes.lock().unwrap().push(operation.answers);
            let mut failing = self.failing.lock().unwrap();
            let places = if failing.is_empty() { Vec::new() } else { failing.remove(0) };
            for at in places {
                answer.spoil(at, Error::new(ErrorKind::Throttled, Effect::Unknown, "scripted"));
            }
        }
        answer
    }
}

fn open(change: impl FnOnce(&mut QueueConfig)) -> (TestQueue, ManualClock, Arc<Watch>) {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let mut config = QueueConfig {
        shards: 1,
        attempts_max: u32::MAX,
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(1)),
        ..QueueConfig::default()
    };
    change(&mut config);
    let watch = Arc::new(Watch { clock: Mutex::new(Some(clock.clone())), ..Watch::default() });
    let store = Memory::with_clock(clock.clone()).layer(Arc::clone(&watch));
    let queue = block_on(RecordQueue::open(store, "q", config)).unwrap();
    watch.writes.lock().unwrap().clear();
    (queue, clock, watch)
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue { lane: u8, count: usize },
    Lease { jobs_max: usize, hold_ms: u64, is_other: bool },
    Settle { which: usize, is_release: bool },
    Wait { by_ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..2_u8, 1..4_usize).prop_map(|(lane, count)| Step::Enqueue { lane, count }),
        4 => (1..5_usize, 1..40_u64, any::<bool>())
            .prop_map(|(jobs_max, hold_ms, is_other)| Step::Lease { jobs_max, hold_ms, is_other }),
        2 => (0..8_usize, any::<bool>()).prop_map(|(which, is_release)| Step::Settle { which, is_release }),
        2 => (1..30_u64).prop_map(|by_ms| Step::Wait { by_ms }),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Two processes at one queue. At every moment, so many leases at most; and what has expired is handed out again though the
/// lower lane never runs dry and nobody settles anything.
fn in_flight_is_bounded(steps: Vec<Step>, in_flight_max: usize, bug: Option<Bug>) -> TestCaseResult {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let store = Memory::with_clock(clock.clone());
    let open = |seed| {
        let config = QueueConfig {
            shards: 1,
            lanes: 2,
            attempts_max: u32::MAX,
            in_flight_max,
            late_max: Duration::from_millis(20),
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            bug,
            ..QueueConfig::default()
        };
        block_on(RecordQueue::open(store.clone(), "q", config)).unwrap()
    };
    // One remembers what the other changes.
    let queues = [open(1), open(2)];
    let mut held: BTreeMap<JobId, LeasedJob> = BTreeMap::new();
    let add = |lane: u8, count: usize| {
        let jobs = vec![NewJob::new("x").lane(lane); count];
        assert!(block_on(queues[0].enqueue_many(&jobs)).iter().all(Result::is_ok));
    };
    let lease = |held: &mut BTreeMap<_, _>, which: usize, jobs_max: usize, hold_ms: u64| {
        let jobs = block_on(queues[which].lease(jobs_max, Duration::from_millis(hold_ms))).unwrap();
        held.extend(jobs.iter().map(|job| (job.lease.id.clone(), job.clone())));
        let live = held.values().filter(|job: &&LeasedJob| job.until > clock.now()).count();
        prop_assert!(live <= in_flight_max, "{live} jobs are in flight, and {in_flight_max} may be");
        Ok(jobs)
    };
    for step in steps {
        match step {
            Step::Enqueue { lane, count } => add(lane, count),
            Step::Lease { jobs_max, hold_ms, is_other } => {
                lease(&mut held, usize::from(is_other), jobs_max, hold_ms)?;
            }
            Step::Settle { which, is_release } => {
                let Some(job) = held.values().nth(which).cloned() else { continue };
                let settlement = if is_release { Settlement::Release(Duration::ZERO) } else { Settlement::Ack };
                let _ = block_on(queues[0].settle(&job.lease, settlement)).unwrap();
                held.remove(&job.lease.id);
            }
            Step::Wait { by_ms } => clock.advance(Duration::from_millis(by_ms)),
        }
    }
    // All leases run out, new jobs of the lower lane keep coming, and nobody who takes one lets go of it.
    clock.advance(Duration::from_millis(100));
    let mut waiting: Vec<JobId> = held.keys().cloned().collect();
    for turn in 0..20 {
        if waiting.is_empty() {
            return Ok(());
        }
        add(0, 2);
        let jobs = lease(&mut held, turn % 2, 2, 3_600_000)?;
        waiting.retain(|id| jobs.iter().all(|job| job.lease.id != *id));
    }
    Err(TestCaseError::fail(format!("{waiting:?} expired, and nobody took them over")))
}

fn run(bug: Option<Bug>) -> Result<(), String> {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(256) });
    let cases = (steps(), 1..5_usize);
    let answer = runner.run(&cases, |(steps, in_flight_max)| in_flight_is_bounded(steps, in_flight_max, bug));
    answer.map_err(|error| error.to_string())
}

#[test]
fn no_more_are_in_flight_than_there_may_be_and_expired_leases_are_taken_over() {
    run(None).unwrap();
}

#[test]
fn one_job_too_many_is_seen() {
    let seen = run(Some(Bug::Overfill)).unwrap_err();
    assert!(seen.contains("jobs are in flight"), "{seen}");
}

#[test]
fn an_expired_lease_that_nobody_takes_over_is_seen() {
    let seen = run(Some(Bug::LeaveExpired)).unwrap_err();
    assert!(seen.contains("nobody took them over"), "{seen}");
}

/// A full record that is remembered says nothing of the one that is stored: before it says "nothing", it is read again.
#[test]
fn a_process_that_remembers_a_full_record_looks_again() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000_000));
    let store = Memory::with_clock(clock.clone());
    let config =
        || QueueConfig { shards: 1, in_flight_max: 1, clock: Arc::new(clock.clone()), ..QueueConfig::default() };
    let queues = [0, 1].map(|_| block_on(RecordQueue::open(store.clone(), "q", config())).unwrap());
    block_on(queues[0].enqueue_many(&[NewJob::new("a"), NewJob::new("b")]));
    let first = block_on(queues[0].lease(1, Duration::from_secs(60))).unwrap();
    assert!(block_on(queues[1].lease(1, Duration::from_secs(60))).unwrap().is_empty(), "there is no room");
    assert_eq!(block_on(queues[1].ack(&first[0].lease)).unwrap(), Held::Held);
    assert_eq!(block_on(queues[0].lease(1, Duration::from_secs(60))).unwrap().len(), 1);
}

#[test]
fn a_queue_that_could_hand_nothing_out_is_refused() {
    let config = QueueConfig { in_flight_max: 0, ..QueueConfig::default() };
    let error = block_on(RecordQueue::open(Memory::new(), "q", config)).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("in_flight_max")));
    // More than a record has room for.
    let config = QueueConfig { in_flight_max: 1_000_000, ..QueueConfig::default() };
    let error = block_on(RecordQueue::open(Memory::new(), "q", config)).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("in_flight_max")));
}

/// A look that takes long saw nothing of what fell due meanwhile: scans to come must not begin behind that.
#[test]
fn what_falls_due_while_others_look_is_found_at_once() {
    let (queue, clock, watch) = open(|config| config.late_max = Duration::from_secs(1));
    let hold = Duration::from_secs(60);
    assert!(block_on(queue.lease(1, hold)).unwrap().is_empty());
    block_on(queue.enqueue(NewJob::new("later").delay(Duration::from_secs(4)))).unwrap();
    clock.advance(Duration::from_secs(2));
    *watch.scan_takes.lock().unwrap() = Some(Duration::from_secs(10));
    // A look at all rows, after which the record is written.
    assert!(block_on(queue.lease(1, hold)).unwrap().is_empty());
    assert_eq!(block_on(queue.lease(1, hold)).unwrap().len(), 1, "what fell due during the look is passed over");
}

/// Rows that failed go together once more: a round for all of them, not one after the other, each with a wait of its own.
#[test]
fn writes_that_failed_are_sent_again_together() {
    let jobs = vec![NewJob::new("x"); 64];
    let retry = RetryPolicy { wait_base: Duration::ZERO, attempts_max: 3, ..RetryPolicy::default() };
    let (queue, _, watch) = open(|config| config.retry = retry);
    *watch.failing.lock().unwrap() = vec![(0..40).collect(), (0..7).collect()];
    let answers = block_on(queue.enqueue_many(&jobs));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(*watch.writes.lock().unwrap(), [64, 40, 7]);
    // As often as the policy lets it, for all of them once; then what is left has failed, with the worst effect of all.
    *watch.failing.lock().unwrap() = vec![(0..40).collect(), (0..20).collect(), (0..3).collect()];
    watch.writes.lock().unwrap().clear();
    let answers = block_on(queue.enqueue_many(&jobs));
    assert_eq!(*watch.writes.lock().unwrap(), [64, 40, 20]);
    let failed: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(Error::effect)).collect();
    assert_eq!(failed, [vec![Some(Effect::Unknown); 3], vec![None; 61]].concat());
}
