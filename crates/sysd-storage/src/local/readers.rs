//! Threads for what waits for the disk, and the gate that says what need not go there.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};
use sysd_core::{Effect, Error, ErrorKind, Result};

/// How many jobs may wait for a thread.
const JOBS_MAX: usize = 16_384;

/// A read that takes longer has waited for the disk.
const WAITED: Duration = Duration::from_micros(200);
/// After one that waited, so many reads must not have waited before one is done in place again.
const COLD_READS: u32 = 64;
/// How often, at least, somebody looks whether a read in place hangs.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Places for threads that read in place.
const PLACES: usize = 64;

/// What a thread does, and who waits for it.
trait Job: Send + Sync {
    fn run(&self);
    /// Answers in its stead. If nobody has begun it, nobody will.
    fn give_up(&self);
}

type Answer<T> = oneshot::Sender<Result<(Duration, T)>>;

struct Timed<F, T> {
    job: Mutex<Option<F>>,
    answer: Mutex<Option<Answer<T>>>,
}

impl<F: FnOnce() -> T + Send, T: Send> Job for Timed<F, T> {
    fn run(&self) {
        let Some(job) = self.job.lock().take() else { return };
        let start = Instant::now();
        let found = job();
        self.answer(Ok((start.elapsed(), found)));
    }

    fn give_up(&self) {
        drop(self.job.lock().take());
        self.answer(Err(Error::new(ErrorKind::Timeout, Effect::None, "the disk takes too long to read")));
    }
}

impl<F, T> Timed<F, T> {
    fn answer(&self, found: Result<(Duration, T)>) {
        let answer = self.answer.lock().take();
        // Who asked may have gone, or have been answered.
        if let Some(answer) = answer {
            drop(answer.send(found));
        }
    }
}

/// A job, and when it was asked for.
type Asked = (Instant, Arc<dyn Job>);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Asked>,
    /// A place for each thread.
    under_way: Vec<Option<Asked>>,
    is_closing: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    closing: Condvar,
    gate: Gate,
    places: Places,
}

/// The threads. Dropping them waits for the jobs under way.
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts them; about `watch.every` one of them looks whether the disk hangs.
    pub(super) fn start(threads: usize, is_always_cold: bool, watch: Watch) -> Result<Self> {
        let threads = threads.max(1);
        let under_way = (0..threads).map(|_| None).collect();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { under_way, ..Queue::default() }),
            work: Condvar::new(),
            closing: Condvar::new(),
            gate: Gate::new(is_always_cold),
            places: Places::new(),
        });
        let mut readers = Self { shared, threads: Vec::new() };
        let mut watch = Some(watch);
        // One more than was asked for, so that somebody watches where all others hang.
        for at in 0..=threads {
            let (shared, watch) = (Arc::clone(&readers.shared), watch.take());
            let run = move || match watch {
                Some(watch) => shared.watch(&watch),
                None => shared.run(at - 1),
            };
            let thread = std::thread::Builder::new().name("sysd-local-read".to_owned()).spawn(run);
            readers.threads.push(thread.map_err(no_thread)?);
        }
        Ok(readers)
    }

    /// Does a read, here or on a thread, and tells the gate how long it took.
    ///
    /// # Errors
    /// The read's own, and those of [`Readers::on_thread`].
    pub(super) async fn read<T: Send + 'static>(
        &self,
        in_place: impl FnOnce() -> Result<T>,
        on_thread: impl FnOnce() -> Box<dyn FnOnce() -> Result<T> + Send>,
    ) -> Result<T> {
        if self.shared.gate.is_warm() {
            let start = Instant::now();
            let place = self.shared.places.take();
            let found = in_place();
            drop(place);
            self.shared.gate.note(start.elapsed());
            return found;
        }
        let (took, found) = self.on_thread(on_thread()).await?;
        self.shared.gate.note(took);
        found
    }

    /// Does a job on a thread; says how long it took.
    ///
    /// # Errors
    /// Without effect. [`Throttled`](ErrorKind::Throttled) if too many wait already; [`Timeout`](ErrorKind::Timeout) after
    /// `watch.wait_max`.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(Duration, T)> {
        let (answer, answered) = oneshot::channel();
        let job = Arc::new(Timed { job: Mutex::new(Some(job)), answer: Mutex::new(Some(answer)) });
        {
            let mut queue = self.shared.queue.lock();
            if queue.jobs.len() >= JOBS_MAX {
                return Err(Error::new(ErrorKind::Throttled, Effect::None, "too many reads wait for the disk"));
            }
            queue.jobs.push_back((Instant::now(), job));
        }
        self.shared.work.notify_one();
        answered.await.map_err(|_| Error::new(ErrorKind::Internal, Effect::None, "a read panicked"))?
    }
}

/// What is looked at, and how often.
pub(super) struct Watch {
    pub(super) every: Duration,
    /// How long a job may take, with its wait for a thread.
    pub(super) wait_max: Duration,
    pub(super) look: Box<dyn Fn() + Send>,
}

impl Shared {
    fn watch(&self, watch: &Watch) {
        let (every, mut looked, mut before) = (watch.every.min(LOOK_EVERY), Instant::now(), [0; PLACES]);
        let mut queue = self.queue.lock();
        while !queue.is_closing {
            if self.closing.wait_for(&mut queue, every).timed_out() {
                drop(queue);
                self.gate.hold(self.places.has_waiting(&mut before));
                if looked.elapsed() >= watch.every {
                    looked = Instant::now();
                    self.give_up_after(watch.wait_max);
                    (watch.look)();
                }
                queue = self.queue.lock();
            }
        }
    }

    /// Answers who waits for longer than that.
    fn give_up_after(&self, wait_max: Duration) {
        let is_overdue = |asked: &Asked| asked.0.elapsed() >= wait_max;
        let mut overdue = Vec::new();
        {
            let mut queue = self.queue.lock();
            overdue.extend(queue.under_way.iter_mut().filter_map(|asked| asked.take_if(|asked| is_overdue(asked))));
            // They were asked for one after another.
            while queue.jobs.front().is_some_and(is_overdue) {
                overdue.extend(queue.jobs.pop_front());
            }
        }
        if !overdue.is_empty() {
            // Who reads in place now would wait for the disk there.
            self.gate.shut();
        }
        for (_, job) in overdue {
            job.give_up();
        }
    }

    fn run(&self, thread: usize) {
        let mut queue = self.queue.lock();
        loop {
            if let Some((since, job)) = queue.jobs.pop_front() {
                queue.under_way[thread] = Some((since, Arc::clone(&job)));
                drop(queue);
                let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.run()));
                // Its caller hears of it: the answer's sender is dropped with the job.
                drop((ran, job));
                queue = self.queue.lock();
                queue.under_way[thread] = None;
            } else if queue.is_closing {
                return;
            } else {
                self.work.wait(&mut queue);
            }
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closing = true;
        self.shared.work.notify_all();
        self.shared.closing.notify_all();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

pub(super) fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, "no thread could be started").with_source(error)
}

/// Whether reads lie in memory, judged by how long the last ones took.
#[derive(Debug)]
struct Gate {
    is_always_cold: bool,
    /// How many reads must still not wait before the gate is warm.
    cold: AtomicU32,
    /// A read in place waits for the disk still: quick ones meanwhile say nothing of the next that would go there.
    is_held: AtomicBool,
}

impl Gate {
    fn new(is_always_cold: bool) -> Self {
        // A store just opened has read nothing yet.
        Self { is_always_cold, cold: AtomicU32::new(COLD_READS), is_held: AtomicBool::new(false) }
    }

    fn is_warm(&self) -> bool {
        !self.is_always_cold && self.cold.load(Ordering::Relaxed) == 0
    }

    fn shut(&self) {
        self.cold.store(COLD_READS, Ordering::Relaxed);
    }

    /// Shuts it, and keeps it so until this is called again.
    fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        if is_held {
            self.shut();
        }
    }

    fn note(&self, took: Duration) {
        if took > WAITED {
            self.shut();
        } else if self.cold.load(Ordering::Relaxed) > 0 && !self.is_held.load(Ordering::Relaxed) {
            let less = |cold: u32| cold.checked_sub(1);
            let _ = self.cold.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Where threads say that they read in place, so that one that hangs is seen. Each has a place of its own, as long as there are no
/// more of them than places; of those that share one, only one at a time is seen.
struct Places(Box<[Place]>);

/// The number of the read that is under way, by its thread's count; zero: none. Apart from each other, so that no thread waits for
/// another's.
#[derive(Default)]
#[repr(align(128))]
struct Place(AtomicU64);

/// A read in place, until it is dropped.
struct Taken<'a>(Option<&'a Place>);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.0.store(0, Ordering::Relaxed);
        }
    }
}

impl Places {
    fn new() -> Self {
        Self((0..PLACES).map(|_| Place::default()).collect())
    }

    /// Costs a few nanoseconds, so neither the time is asked for nor a place taken for sure.
    fn take(&self) -> Taken<'_> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % PLACES;
            static READS: Cell<u64> = const { Cell::new(0) };
        }
        let place = &self.0[PLACE.with(|place| *place)];
        if place.0.load(Ordering::Relaxed) != 0 {
            return Taken(None);
        }
        let number = READS.get().wrapping_add(1).max(1);
        READS.set(number);
        place.0.store(number, Ordering::Relaxed);
        Taken(Some(place))
    }

    /// Whether a read has been under way since `before`, which is what this saw the last time.
    fn has_waiting(&self, before: &mut [u64; PLACES]) -> bool {
        let mut has_waiting = false;
        for (place, before) in self.0.iter().zip(before) {
            let number = place.0.load(Ordering::Relaxed);
            has_waiting |= number > 0 && number == *before;
            *before = number;
        }
        has_waiting
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::executor::block_on;

    #[test]
    fn the_gate_opens_after_quick_reads_and_shuts_after_a_slow_one() {
        let gate = Gate::new(false);
        for _ in 0..COLD_READS {
            assert!(!gate.is_warm());
            gate.note(WAITED);
        }
        assert!(gate.is_warm());
        gate.note(WAITED + Duration::from_nanos(1));
        assert!(!gate.is_warm());
    }

    fn readers(threads: usize, wait_max: Duration) -> Readers {
        let watch = Watch { every: Duration::from_millis(5), wait_max, look: Box::new(|| {}) };
        Readers::start(threads, true, watch).unwrap()
    }

    /// While one read in place hangs, others go to the threads, however quick they are; once it has ended, not for long.
    #[test]
    fn a_read_in_place_that_hangs_sends_others_to_the_threads() {
        let watch =
            Watch { every: Duration::from_secs(3_600), wait_max: Duration::from_secs(60), look: Box::new(|| {}) };
        let readers = Readers::start(2, false, watch).unwrap();
        let here = || std::thread::current().id();
        let read = || block_on(readers.read(|| Ok(here()), || Box::new(|| Ok(std::thread::current().id())))).unwrap();
        // A busy machine may take a read that did not wait for one that did.
        let until = |is_in_place: bool| {
            let start = Instant::now();
            while (read() == here()) != is_in_place {
                assert!(start.elapsed() < Duration::from_secs(30), "reads in place: {}", !is_in_place);
            }
        };
        until(true);
        let (disk, is_there) = (Mutex::new(()), AtomicBool::new(false));
        let held = disk.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hang = || {
                    is_there.store(true, Ordering::SeqCst);
                    drop(disk.lock());
                    Ok(())
                };
                while !is_there.load(Ordering::SeqCst) {
                    block_on(readers.read(hang, || Box::new(|| Ok(())))).unwrap();
                }
            });
            while !is_there.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // A slow read shuts the gate as well, but does not keep it shut.
            let (start, gate) = (Instant::now(), &readers.shared.gate);
            while !gate.is_held.load(Ordering::Relaxed) {
                assert!(start.elapsed() < Duration::from_secs(30), "nobody sees that it hangs");
                std::thread::yield_now();
            }
            until(false);
            for _ in 0..2 * COLD_READS {
                assert_ne!(read(), here(), "it would hang");
            }
            drop(held);
        });
        until(true);
    }

    #[test]
    fn a_read_that_is_under_way_at_two_looks_is_seen() {
        let (places, mut before) = (Places::new(), [0; PLACES]);
        for _ in 0..3 {
            // Another one each time.
            let _read = places.take();
            assert!(!places.has_waiting(&mut before));
        }
        let hung = places.take();
        assert!(!places.has_waiting(&mut before));
        // Of a thread that shares its place.
        drop(places.take());
        assert!(places.has_waiting(&mut before) && places.has_waiting(&mut before));
        drop(hung);
        assert!(!places.has_waiting(&mut before));
    }

    #[test]
    fn jobs_answer_and_a_job_that_panics_takes_nobody_with_it() {
        let readers = readers(1, Duration::from_secs(60));
        let error = block_on(readers.on_thread(|| panic!("on purpose"))).map(|(_, ())| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        let here = std::thread::current().id();
        let read = readers.read(|| Ok(here), || Box::new(|| Ok(std::thread::current().id())));
        assert_ne!(block_on(read).unwrap(), here);
    }

    #[test]
    fn a_job_that_hangs_and_those_behind_it_time_out_without_effect() {
        const THREADS: usize = 2;
        let readers = readers(THREADS, Duration::from_millis(50));
        let (disk, late) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
        let held = disk.lock();
        for _ in 0..COLD_READS {
            readers.shared.gate.note(Duration::ZERO);
        }
        let hanging = (0..THREADS).map(|_| {
            let disk = Arc::clone(&disk);
            readers.on_thread(move || drop(disk.lock()))
        });
        let waiting = (0..5).map(|_| {
            let late = Arc::clone(&late);
            readers.on_thread(move || {
                late.fetch_add(1, Ordering::SeqCst);
            })
        });
        let (hanging, waiting) = (futures::future::join_all(hanging), futures::future::join_all(waiting));
        let (hanging, waiting) = block_on(async { futures::join!(hanging, waiting) });
        for answer in hanging.into_iter().chain(waiting) {
            let error = answer.map(drop).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None), "{error}");
        }
        assert_eq!(readers.shared.gate.cold.load(Ordering::Relaxed), COLD_READS, "others would hang in place");
        drop(held);
        // It was slow, not broken. What nobody waits for any more was not done.
        assert_eq!(block_on(readers.on_thread(|| 7)).unwrap().1, 7);
        assert_eq!(late.load(Ordering::SeqCst), 0);
    }
}
