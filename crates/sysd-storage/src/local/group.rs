//! Group commit: what is decided while a batch is on its way to the disk forms the next one.
//!
//! A caller decides its own write (a condition, a procedure), under a lock that no wait and no disk ever holds, against what
//! will be there: the forming batch, else the batch in flight, else what is stored, which it has read before. So no two conditional writes of a
//! record both win, and many updates of one record are one put. It is answered when the batch that holds it is durable. An
//! answer that tells of another's write waits for that one's batch too.
//!
//! The committer, a thread of the store's own, takes the forming batch, makes it durable and lets its callers go. Only then
//! do readers see it: what they are shown no crash takes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fjall::Slice;
use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex, MutexGuard};
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::completion::{Completion, Ticket};
use super::error::refused;
use super::layout::{Family, Image};

/// A batch that is as large takes no more: callers wait for the one in flight.
const BATCH_RECORDS_MAX: usize = 8_192;
const BATCH_BYTES_MAX: usize = 16 << 20;

/// How long at most the committer waits for callers to come back: a part of what a batch takes, and no longer than this.
const LINGER_PART: u32 = 8;
const LINGER_MAX: Duration = Duration::from_millis(1);
/// How many batches go without that wait after one in which it was in vain.
const LINGER_PAUSE: u32 = 64;

/// Where batches go.
pub(super) trait Tree: Send + Sync + 'static {
    /// Writes a batch, whole or not at all. When it returns, the batch is as durable as the store promises; only then is any of
    /// it shown to who reads what is stored.
    fn commit(&self, batch: &Batch) -> Result<()>;
}

/// Records to be written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    images: [HashMap<Slice, Image, RandomState>; 2],
    bytes: usize,
    /// How many calls it answers.
    calls: usize,
    /// Its callers were told that the disk takes too long: it takes no more.
    is_given_up: bool,
    completion: Arc<Completion>,
}

impl Batch {
    fn get(&self, family: Family, key: &Slice) -> Option<&Image> {
        self.images[family.index()].get(key)
    }

    pub(super) fn images(&self) -> impl Iterator<Item = (Family, &Slice, &Image)> {
        Family::ALL
            .into_iter()
            .flat_map(|family| self.images[family.index()].iter().map(move |(key, image)| (family, key, image)))
    }

    pub(super) fn len(&self) -> usize {
        self.images.iter().map(HashMap::len).sum()
    }

    fn is_full(&self) -> bool {
        self.len() >= BATCH_RECORDS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    fn put(&mut self, family: Family, key: &Slice, image: Image) {
        self.bytes += key.len() + image.as_ref().map_or(0, |image| image.len());
        self.calls += 1;
        self.images[family.index()].insert(key.clone(), image);
    }
}

/// What was stored when it was looked at.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) image: Image,
    /// How many batches had landed before.
    pub(super) epoch: u64,
}

/// What a decision rests on, where no batch has the record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Basis<'a> {
    /// On nothing.
    Blind,
    /// On this, if it is still so.
    Seen(&'a Seen),
    /// On this, which was read during that look: it is never stale.
    Looked(u64, Option<&'a Slice>),
}

/// While it lasts, what lands at a record is kept for who reads it.
pub(super) struct Look<'a, T: Tree> {
    group: &'a Group<T>,
    number: u64,
}

impl<T: Tree> Look<'_, T> {
    /// Decides on what was read since this look began.
    pub(super) fn basis<'a>(&self, image: Option<&'a Slice>) -> Basis<'a> {
        Basis::Looked(self.number, image)
    }
}

impl<T: Tree> Drop for Look<'_, T> {
    fn drop(&mut self) {
        self.group.state.lock().looks.remove(&self.number);
    }
}

/// What somebody looks at.
#[derive(Debug)]
struct Looked {
    family: Family,
    key: Slice,
    landed: Option<Image>,
}

/// What a caller decided.
pub(super) struct Decision<T> {
    /// What it writes, if it does.
    pub(super) change: Option<Image>,
    pub(super) output: T,
}

pub(super) enum Staged<T> {
    /// To be answered when the ticket says so.
    Decided(T, Option<Ticket>),
    /// What the caller saw may have changed: look again.
    Stale,
    /// There is no room: wait, then try again.
    NoRoom(Ticket),
}

#[derive(Debug)]
pub(super) struct Group<T> {
    pub(super) tree: T,
    state: Mutex<State>,
    work: Condvar,
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    forming: Batch,
    flying: Option<Arc<Batch>>,
    /// When that one was sent off.
    since: Option<Instant>,
    /// Its callers were told that the disk takes too long.
    is_hanging: bool,
    /// At most one for each caller.
    looks: HashMap<u64, Looked, RandomState>,
    looks_begun: u64,
    /// Why no more is taken.
    refusal: Option<Error>,
    is_closing: bool,
    /// How many calls the forming batch must have to wake the committer; none while it is busy.
    wanted: Option<usize>,
}

impl<T: Tree> Group<T> {
    pub(super) fn new(tree: T) -> Self {
        Self { tree, state: Mutex::default(), work: Condvar::new(), epoch: AtomicU64::new(0) }
    }

    /// How many batches have landed: to be read before what is stored.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Begins to look at a record: before it is read.
    pub(super) fn look(&self, family: Family, key: &Slice) -> Look<'_, T> {
        let mut state = self.state.lock();
        state.looks_begun += 1;
        let number = state.looks_begun;
        state.looks.insert(number, Looked { family, key: key.clone(), landed: None });
        Look { group: self, number }
    }

    /// Decides, and puts what is to be written into the forming batch.
    ///
    /// # Errors
    /// That of the decision; nothing was staged. The failure that stopped the store, without effect.
    /// [`Unavailable`](ErrorKind::Unavailable), without effect, while the disk hangs.
    pub(super) fn stage<O>(
        &self,
        family: Family,
        key: &Slice,
        basis: Basis<'_>,
        decide: impl FnOnce(Option<&Slice>) -> Result<Decision<O>>,
    ) -> Result<Staged<O>> {
        let mut state = self.state.lock();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.share());
        }
        // What is staged now would join callers who have been told already, or wait behind a batch that may never land.
        if state.is_hanging || state.forming.is_given_up {
            return Err(Error::new(
                ErrorKind::Unavailable,
                Effect::None,
                "the disk hangs; nothing more is taken until it goes on",
            ));
        }
        if state.forming.is_full() {
            let first = state.flying.as_ref().map_or(&state.forming.completion, |flying| &flying.completion);
            return Ok(Staged::NoRoom(Ticket::new(first)));
        }
        let State { forming, flying, looks, .. } = &mut *state;
        let (image, awaited) = if let Some(image) = forming.get(family, key) {
            (image.as_ref(), Some(&forming.completion))
        } else if let Some((image, batch)) =
            flying.as_ref().and_then(|batch| batch.get(family, key).map(|image| (image, batch)))
        {
            (image.as_ref(), Some(&batch.completion))
        } else {
            match basis {
                Basis::Blind => (None, None),
                Basis::Seen(seen) if seen.epoch == self.epoch.load(Ordering::Relaxed) => (seen.image.as_ref(), None),
                Basis::Seen(_) => return Ok(Staged::Stale),
                Basis::Looked(number, read) => {
                    let landed = looks.get(&number).and_then(|looked| looked.landed.as_ref());
                    (landed.map_or(read, Option::as_ref), None)
                }
            }
        };
        let decision = decide(image)?;
        let ticket = match decision.change {
            None => awaited.map(Ticket::new),
            Some(change) => {
                forming.put(family, key, change);
                Some(Ticket::new(&forming.completion))
            }
        };
        if state.wanted.is_some_and(|wanted| state.forming.calls >= wanted) {
            state.wanted = None;
            self.work.notify_one();
        }
        Ok(Staged::Decided(decision.output, ticket))
    }

    /// The committer: runs until [`Group::close`].
    pub(super) fn run(&self) {
        let _stops = StopOnPanic(self);
        let (mut landed, mut linger) = (Landed::default(), Linger::default());
        while let Some(batch) = self.take(&mut landed, &mut linger) {
            let start = Instant::now();
            let verdict = self.tree.commit(&batch);
            linger.commit = start.elapsed();
            landed.release();
            match verdict {
                Ok(()) => {
                    self.land();
                    batch.completion.finish(Ok(()));
                    landed.0 = Some(batch);
                }
                Err(error) => self.stop(&error),
            }
        }
    }

    /// Lets the committer end, once it has written what was staged.
    pub(super) fn close(&self) {
        self.state.lock().is_closing = true;
        self.work.notify_one();
    }

    /// Answers the callers of a batch that is longer under way than that, and those behind it. Both may still land; until the first
    /// does, nothing more is taken.
    pub(super) fn give_up_after(&self, wait_max: Duration) {
        let mut state = self.state.lock();
        if state.since.is_none_or(|since| since.elapsed() < wait_max) {
            return;
        }
        let overdue = || Error::new(ErrorKind::Timeout, Effect::Unknown, "the disk takes too long");
        state.is_hanging = true;
        state.forming.is_given_up = state.forming.calls > 0;
        let forming = state.forming.is_given_up.then_some(&state.forming);
        let batches = state.flying.as_deref().into_iter().chain(forming);
        let waiting: Vec<_> = batches.map(|batch| Arc::clone(&batch.completion)).collect();
        drop(state);
        for completion in waiting {
            completion.finish(Err(Arc::new(overdue())));
            completion.release();
        }
    }

    /// Waits for the next batch, and sends it off.
    fn take(&self, landed: &mut Landed, linger: &mut Linger) -> Option<Arc<Batch>> {
        let back = landed.0.as_ref().map_or(0, |batch| batch.calls);
        let mut state = self.state.lock();
        if state.forming.calls == 0 || linger.pause == 0 {
            // There is time.
            drop(state);
            landed.release();
            state = self.state.lock();
        }
        linger.wait(&self.work, &mut state, back);
        while state.forming.calls == 0 {
            if state.is_closing {
                return None;
            }
            state.wanted = Some(1);
            self.work.wait(&mut state);
        }
        state.wanted = None;
        let batch = Arc::new(std::mem::take(&mut state.forming));
        state.flying = Some(Arc::clone(&batch));
        state.since = Some(Instant::now());
        Some(batch)
    }

    fn land(&self) {
        let mut state = self.state.lock();
        // Under the lock: who finds no batch with its record there knows by the epoch whether one was.
        self.epoch.fetch_add(1, Ordering::Release);
        let landed = state.flying.take();
        if let Some(batch) = &landed {
            for looked in state.looks.values_mut() {
                if let Some(image) = batch.get(looked.family, &looked.key) {
                    looked.landed = Some(image.clone());
                }
            }
        }
        (state.since, state.is_hanging) = (None, false);
        drop(state);
        drop(landed);
    }

    /// Whether the batch in flight is on the disk is not known, and what was decided behind it rests on it: nothing more is
    /// taken.
    fn stop(&self, error: &Error) {
        let mut state = self.state.lock();
        self.epoch.fetch_add(1, Ordering::Release);
        state.refusal = Some(refused(error));
        (state.since, state.is_hanging) = (None, false);
        let (flying, forming) = (state.flying.take(), std::mem::take(&mut state.forming));
        drop(state);
        if let Some(flying) = flying {
            flying.completion.finish(Err(Arc::new(error.share())));
            flying.completion.release();
        }
        forming.completion.finish(Err(Arc::new(refused(error))));
        forming.completion.release();
    }
}

/// The batch that landed last, some of whose callers may still sleep. They do not when it goes, whatever happens.
#[derive(Default)]
struct Landed(Option<Arc<Batch>>);

impl Landed {
    fn release(&mut self) {
        if let Some(batch) = self.0.take() {
            batch.completion.release();
        }
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        self.release();
    }
}

/// The committer's wait for the callers that it has just let go: they often come back at once, and a batch without them is a
/// sync for few.
#[derive(Debug, Default)]
struct Linger {
    /// How long the last batch took.
    commit: Duration,
    pause: u32,
}

impl Linger {
    fn wait(&mut self, work: &Condvar, state: &mut MutexGuard<'_, State>, back: usize) {
        let wanted = (back + state.forming.calls) * 7 / 8;
        let is_open = !state.is_closing && !state.forming.is_given_up;
        if self.pause > 0 || back < 2 || !is_open || state.forming.calls >= wanted {
            self.pause = self.pause.saturating_sub(1);
            return;
        }
        let end = Instant::now() + (self.commit / LINGER_PART).min(LINGER_MAX);
        while state.forming.calls < wanted && !state.is_closing {
            state.wanted = Some(wanted);
            if work.wait_until(state, end).timed_out() {
                self.pause = LINGER_PAUSE;
                return;
            }
        }
    }
}

/// A committer that dies answers its callers.
struct StopOnPanic<'a, T: Tree>(&'a Group<T>);

impl<T: Tree> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(&Error::new(
                ErrorKind::Internal,
                Effect::Unknown,
                "the committer panicked; open the store again",
            ));
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
