//! Threads for what waits for the disk, and the gate that says what need not go there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closing: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    closing: Condvar,
}

/// The threads. Dropping them waits for the jobs under way.
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    gate: Gate,
}

impl Readers {
    /// Starts them; about `watch.every` one of them looks whether the disk hangs.
    pub(super) fn start(threads: usize, is_always_cold: bool, watch: Watch) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut readers = Self { shared, threads: Vec::new(), gate: Gate::new(is_always_cold) };
        let watch = Arc::new(watch);
        // One more than was asked for, so that somebody watches where all others hang.
        for at in 0..=threads.max(1) {
            let (shared, watch) = (Arc::clone(&readers.shared), Arc::clone(&watch));
            let run = move || if at == 0 { shared.watch(&watch) } else { shared.run() };
            let thread = std::thread::Builder::new().name("sysd-local-read".to_owned()).spawn(run);
            readers.threads.push(thread.map_err(no_thread)?);
        }
        Ok(readers)
    }

    /// Does a read, here or on a thread, and tells the gate how long it took.
    ///
    /// # Errors
    /// The read's own; [`Throttled`](ErrorKind::Throttled) if too many wait already.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        in_place: impl FnOnce() -> Result<T>,
        on_thread: impl FnOnce() -> Box<dyn FnOnce() -> Result<T> + Send>,
    ) -> Result<T> {
        if self.gate.is_warm() {
            let start = Instant::now();
            let found = in_place();
            self.gate.note(start.elapsed());
            return found;
        }
        let (took, found) = self.on_thread(on_thread()).await?;
        self.gate.note(took);
        found
    }

    /// Does a job on a thread; says how long it took.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(Duration, T)> {
        let (answer, answered) = oneshot::channel();
        let timed = move || {
            let start = Instant::now();
            let found = job();
            // Who asked may have gone.
            drop(answer.send((start.elapsed(), found)));
        };
        {
            let mut queue = self.shared.queue.lock();
            if queue.jobs.len() >= JOBS_MAX {
                return Err(Error::new(ErrorKind::Throttled, Effect::None, "too many reads wait for the disk"));
            }
            queue.jobs.push_back(Box::new(timed));
        }
        self.shared.work.notify_one();
        answered.await.map_err(|_| Error::new(ErrorKind::Internal, Effect::None, "a read panicked"))
    }
}

/// What is looked at, and how often.
pub(super) struct Watch {
    pub(super) every: Duration,
    pub(super) look: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    fn watch(&self, watch: &Watch) {
        let mut queue = self.queue.lock();
        while !queue.is_closing {
            if self.closing.wait_for(&mut queue, watch.every).timed_out() {
                drop(queue);
                (watch.look)();
                queue = self.queue.lock();
            }
        }
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // Its caller hears of it: the answer's sender is dropped.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
                queue = self.queue.lock();
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
}

impl Gate {
    fn new(is_always_cold: bool) -> Self {
        // A store just opened has read nothing yet.
        Self { is_always_cold, cold: AtomicU32::new(COLD_READS) }
    }

    fn is_warm(&self) -> bool {
        !self.is_always_cold && self.cold.load(Ordering::Relaxed) == 0
    }

    fn note(&self, took: Duration) {
        if took > WAITED {
            self.cold.store(COLD_READS, Ordering::Relaxed);
        } else if self.cold.load(Ordering::Relaxed) > 0 {
            let less = |cold: u32| cold.checked_sub(1);
            let _ = self.cold.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
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

    #[test]
    fn jobs_answer_and_a_job_that_panics_takes_nobody_with_it() {
        let readers = Readers::start(1, true, Watch { every: Duration::from_secs(60), look: Box::new(|| {}) }).unwrap();
        let error = block_on(readers.on_thread(|| panic!("on purpose"))).map(|(_, ())| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        let here = std::thread::current().id();
        let read = readers.read(|| Ok(here), || Box::new(|| Ok(std::thread::current().id())));
        assert_ne!(block_on(read).unwrap(), here);
    }
}
