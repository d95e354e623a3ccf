//! Concurrent reads of different records go out together.

use std::mem;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _, Shared, WeakShared, poll_fn};
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use sysd_core::{
    Effect, ErasedProcedure, Error, ErrorKind, Key, KeyBuf, Limits, Outcome, OutputBytes, Page, Record, Result, Scan,
    Store, Trim, Trimmed, Write,
};

use super::Layer;
use super::bug::{Bug, Bugs};

/// When reads gather, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// While so many calls are under way, reads that come gather; at least 1.
    pub in_flight_max: usize,
    /// So many go out together at most, and then at once, whatever is under way; at least 1. More than
    /// [`Limits::batch_records_max`] are never taken.
    pub records_max: usize,
}

impl Default for BatchConfig {
    /// Two calls, 100 records.
    fn default() -> Self {
        Self { in_flight_max: 2, records_max: 100 }
    }
}

/// Lets concurrent `get`s go to the store below together, as one `get_many`.
///
/// A read that comes while no other is under way goes out at once and alone. Those that come while
/// [`in_flight_max`](BatchConfig::in_flight_max) calls are under way gather, and go out together as soon as one of these
/// ends, or as there are [`records_max`](BatchConfig::records_max) of them. Nothing waits for company: there is no delay and
/// no timer. A batch begins after each of its reads did, so reads stay as strong as the store's.
///
/// Each read has its own answer, and its own error. Other methods pass. Clones gather together.
///
/// # Cost
/// Two allocations and two short locks a call. A batch is answered when the slowest of its records is. It pays where a batch
/// costs the store less than its parts: a call of DynamoDB is a request by HTTP, and a batch of a hundred is one too.
///
/// # Cancel safety
/// Dropping a read harms no other: whoever waits for a batch moves it on. One that all have left is dropped, and others no
/// longer wait for it. Reads that are kept and not polled keep nobody waiting: who waits moves on what is in front of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    config: BatchConfig,
    bugs: Bugs,
}

impl Batch {
    /// Gathers reads.
    pub const fn new(config: BatchConfig) -> Self {
        Self { config, bugs: Bugs::NONE }
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub const fn with_bug(mut self, bug: Bug) -> Self {
        self.bugs.bug = Some(bug);
        self
    }
}

impl<S: Store> Layer<S> for Batch {
    type Store = Batched<S>;

    fn wrap(self, store: S) -> Self::Store {
        let records_max = self.config.records_max.min(store.limits().batch_records_max).max(1);
        let config = BatchConfig { in_flight_max: self.config.in_flight_max.max(1), records_max };
        Batched { lane: Arc::new(Lane { inner: store, config, reads: Mutex::default(), bugs: self.bugs }) }
    }
}

/// A store under [`Batch`].
#[derive(Debug)]
pub struct Batched<S> {
    lane: Arc<Lane<S>>,
}

impl<S> Clone for Batched<S> {
    fn clone(&self) -> Self {
        Self { lane: Arc::clone(&self.lane) }
    }
}

type Answer = Result<Option<Record>>;
type Call = Shared<BoxFuture<'static, ()>>;
type WeakCall = WeakShared<BoxFuture<'static, ()>>;

#[derive(Debug)]
struct Lane<S> {
    inner: S,
    config: BatchConfig,
    reads: Mutex<Reads>,
    bugs: Bugs,
}

#[derive(Debug, Default)]
struct Reads {
    last_batch: u64,
    last_place: u64,
    /// Those under way, in the order in which they went out. Weak: a batch that nobody waits for any more is no more.
    in_flight: Vec<(u64, WeakCall)>,
    /// The one that gathers.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    id: u64,
    batch: Weak<Gathered>,
    /// Wakes it when there may be a place for it.
    waker: Option<Waker>,
}

/// A batch, as those who wait for it hold it.
#[derive(Debug)]
struct Gathered {
    contents: Arc<Contents>,
    call: Call,
    abort: AbortHandle,
}

/// The last has left: others that wait for the batch's place may hold its call still.
impl Drop for Gathered {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

#[derive(Debug, Default)]
struct Contents {
    /// What is read, until it goes out.
    keys: Mutex<Vec<KeyBuf>>,
    /// What came of it, each until it is taken.
    answers: Mutex<Vec<Option<Answer>>>,
    call: OnceLock<WeakCall>,
}

/// A caller's part in a batch.
struct Part {
    batch: Arc<Gathered>,
    at: usize,
    /// Nothing else is under way.
    is_alone: bool,
}

impl<S: Store> Lane<S> {
    fn join(self: &Arc<Self>, key: Key<'_>) -> Part {
        let (part, waker) = {
            let mut reads = self.reads.lock();
            let gathering = reads.open.as_ref().and_then(|open| open.batch.upgrade());
            let is_alone = gathering.is_none() && reads.in_flight.is_empty();
            let batch = gathering.unwrap_or_else(|| self.open(&mut reads));
            let count = {
                let mut keys = batch.contents.keys.lock();
                keys.push(key.to_owned());
                keys.len()
            };
            let closed = if count == self.config.records_max { reads.open.take() } else { None };
            (Part { batch, at: count - 1, is_alone }, closed.and_then(|open| open.waker))
        };
        // Not under the lock: it is full, and goes out.
        waker.into_iter().for_each(Waker::wake);
        part
    }

    fn open(self: &Arc<Self>, reads: &mut Reads) -> Arc<Gathered> {
        reads.last_batch += 1;
        let (id, contents) = (reads.last_batch, Arc::new(Contents::default()));
        let (abort, registration) = AbortHandle::new_pair();
        let call = Abortable::new(send(Arc::clone(self), id, Arc::clone(&contents)), registration);
        let call = call.map(|_| ()).boxed().shared();
        if let Some(weak) = call.downgrade() {
            let _ = contents.call.set(weak);
        }
        let batch = Arc::new(Gathered { contents, call, abort });
        reads.open = Some(Open { id, batch: Arc::downgrade(&batch), waker: None });
        batch
    }

    /// A place in flight for a batch: as soon as there is one, or the batch is full.
    async fn place(self: &Arc<Self>, id: u64, contents: &Contents) -> Place<S> {
        // Those in front, moved on from here: their own callers may not be polled.
        let (mut ahead, mut seen) = (FuturesUnordered::new(), 0);
        poll_fn(|context| {
            loop {
                let fresh = match self.try_place(id, contents, seen, context) {
                    Ok(place) => return Poll::Ready(place),
                    Err(fresh) => fresh,
                };
                if let Some((last, _)) = fresh.last() {
                    seen = *last;
                }
                // Not under the lock: a call that is dropped here gives its place back.
                ahead.extend(fresh.iter().filter_map(|(_, call)| call.upgrade()));
                if !matches!(ahead.poll_next_unpin(context), Poll::Ready(Some(()))) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// A place, or who is in flight since `seen`.
    fn try_place(
        self: &Arc<Self>,
        id: u64,
        contents: &Contents,
        seen: u64,
        context: &Context<'_>,
    ) -> std::result::Result<Place<S>, Vec<(u64, WeakCall)>> {
        // Outlives the lock: dropping a waker may run anything.
        let _old_waker;
        let mut reads = self.reads.lock();
        let has_room = reads.in_flight.len() < self.config.in_flight_max;
        match reads.open.as_mut().filter(|open| open.id == id) {
            Some(open) if !has_room => {
                _old_waker = open.waker.replace(context.waker().clone());
                let leaves = self.bugs.has(Bug::LeaveToCallers);
                let fresh = reads.in_flight.iter().filter(|(place, _)| *place > seen && !leaves);
                return Err(fresh.cloned().collect());
            }
            Some(_) => _old_waker = reads.open.take().and_then(|open| open.waker),
            // It is full.
            None => _old_waker = None,
        }
        reads.last_place += 1;
        let place = reads.last_place;
        reads.in_flight.extend(contents.call.get().map(|call| (place, call.clone())));
        Ok(Place { lane: Arc::clone(self), place })
    }
}

/// A place in flight, given back when it is dropped.
struct Place<S> {
    lane: Arc<Lane<S>>,
    place: u64,
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        let waker = {
            let mut reads = self.lane.reads.lock();
            if !self.lane.bugs.has(Bug::LeakPlace) {
                reads.in_flight.retain(|(place, _)| *place != self.place);
            }
            reads.open.as_mut().and_then(|open| open.waker.take())
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Sends a batch when its time has come.
async fn send<S: Store>(lane: Arc<Lane<S>>, id: u64, contents: Arc<Contents>) {
    let _place = lane.place(id, &contents).await;
    let keys = mem::take(&mut *contents.keys.lock());
    let mut answers = match &keys[..] {
        [key] => vec![lane.inner.get(key.as_key()).await],
        keys => {
            let keys: Vec<_> = keys.iter().map(KeyBuf::as_key).collect();
            lane.inner.get_many(&keys).await
        }
    };
    if lane.bugs.has(Bug::MixAnswers) {
        answers.reverse();
    }
    *contents.answers.lock() = answers.into_iter().map(Some).collect();
}

/// Goes to the end of the queue of what is ready to run, once.
async fn once_more() {
    let mut is_done = false;
    poll_fn(|context| {
        if mem::replace(&mut is_done, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<S: Store> Store for Batched<S> {
    fn limits(&self) -> &Limits {
        self.lane.inner.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let part = self.lane.join(key);
        if !part.is_alone {
            // Whoever else is ready to run joins before the first of them moves the batch on.
            once_more().await;
        }
        part.batch.call.clone().await;
        let answer = part.batch.contents.answers.lock().get_mut(part.at).and_then(Option::take);
        answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, Effect::None, "an answer is missing")))
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.lane.inner.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.lane.inner.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.lane.inner.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.lane.inner.scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.lane.inner.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.lane.inner.update(key, procedure).await
    }
}
