//! Queues: jobs handed out for a time, at least once, never lost.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::{KeyBytes, Result, Timestamp};

/// Names a job: given by the caller, or minted.
pub type JobId = KeyBytes;

/// The longest [`JobId`], bytes.
pub const JOB_ID_BYTES_MAX: usize = 128;
/// The longest reason of a dead letter, bytes.
pub const REASON_BYTES_MAX: usize = 1_024;

/// A job to be done.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NewJob {
    /// What is to be done.
    pub payload: Bytes,
    /// A name of the caller's own, which makes enqueueing idempotent; `None`: one is minted.
    pub id: Option<JobId>,
    /// Not to be handed out before this much time has passed.
    pub delay: Duration,
    /// Lower lanes are handed out first.
    pub lane: u8,
}

impl NewJob {
    /// A job for now, in lane 0, under a minted id.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Under this id.
    #[must_use]
    pub fn id(mut self, id: &[u8]) -> Self {
        self.id = Some(JobId::from_slice(id));
        self
    }

    /// After this much time.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// In this lane.
    #[must_use]
    pub const fn lane(mut self, lane: u8) -> Self {
        self.lane = lane;
        self
    }
}

/// What came of enqueueing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the queue, under this id.
    Queued(JobId),
    /// A job of this id was done, or lies among the dead letters: nothing was added.
    Settled(JobId),
}

/// The right to settle a job: the job's id, and the token of one lease of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLease {
    /// Which job.
    pub id: JobId,
    /// Which lease of it.
    pub token: u64,
}

/// A job that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedJob {
    /// What settles it.
    pub lease: JobLease,
    /// What is to be done.
    pub payload: Bytes,
    /// The how manieth time it is handed out, from 1.
    pub attempt: u32,
    /// From when on it may be handed out to somebody else.
    pub until: Timestamp,
}

/// How a holder settles a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// Not done: hand it out again, after this much time.
    Release(Duration),
    /// It can't be done: put it among the dead letters, for this reason.
    Bury(String),
}

/// Whether a lease still counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost lease is a value, not an error: look at it"]
pub enum Held {
    /// It did: what was asked for is so.
    Held,
    /// Its time had run out and somebody else has the job, or it was settled: nothing was changed.
    Lost,
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which job.
    pub id: JobId,
    /// When it was buried.
    pub at: Timestamp,
    /// How often it was handed out.
    pub attempts: u32,
    /// Why.
    pub reason: String,
    /// Its lane.
    pub lane: u8,
    /// What was to be done.
    pub payload: Bytes,
}

/// How much is in a queue. A count, not a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Depth {
    /// Jobs that could be handed out now.
    pub waiting: usize,
    /// Jobs whose time has not come.
    pub delayed: usize,
    /// Jobs that are handed out.
    pub leased: usize,
    /// Rows that can't be read: broken, or in the format of a later version.
    pub unreadable: usize,
    /// How long the oldest waiting job has waited.
    pub oldest: Duration,
    /// Whether all was counted; if not, there is more than this.
    pub is_all: bool,
}

/// A queue of jobs.
///
/// # Guarantees
/// - A job whose enqueueing was answered is handed out until somebody's ack or burial was answered, whatever crashes.
/// - While a lease is held, by the clocks of those who lease, nobody else is handed the job.
/// - A holder whose job was handed out since settles nothing.
/// - A job under an id of the caller's is not handed out again after its ack was answered, for as long as the queue
///   remembers it; one under a minted id is, if a write arrives after the ack: one whose reply was lost, or that of a process that stood still
///   while it gave the job back or replayed it.
/// - Lanes strictly; in a lane about in the order of the times from which on jobs may be handed out.
///
/// # Cancel safety
/// What was asked may have happened. Jobs that were leased for a dropped call come back when the lease ends.
pub trait Queue: Send + Sync + 'static {
    /// Adds jobs; one answer each, in order. After an error of unknown effect, enqueue again under the same id.
    fn enqueue_many(&self, jobs: &[NewJob]) -> impl Future<Output = Vec<Result<Enqueued>>> + Send;

    /// Hands out up to `jobs_max` jobs for `hold`; none if none is to be had now.
    ///
    /// # Errors
    /// As of the store's calls, if no job could be handed out: one part of a queue that fails stops no other, unless the store is out
    /// of reach.
    fn lease(&self, jobs_max: usize, hold: Duration) -> impl Future<Output = Result<Vec<LeasedJob>>> + Send;

    /// Settles jobs; one answer each, in order.
    fn settle_many(&self, jobs: &[(JobLease, Settlement)]) -> impl Future<Output = Vec<Result<Held>>> + Send;

    /// Holds jobs for `hold` from now; one answer each, in order.
    fn extend_many(&self, jobs: &[JobLease], hold: Duration) -> impl Future<Output = Vec<Result<Held>>> + Send;

    /// Dead letters, oldest first, behind one that was seen. One that was buried a moment ago may show only after the next
    /// [`lease`](Self::lease), which carries out what was settled. One that can't be read is listed with its bytes as payload.
    fn dead_letters(
        &self,
        after: Option<&DeadLetter>,
        letters_max: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>>> + Send;

    /// Puts a dead letter back into the queue, as if it had never been tried; `false` if it is not among them, or its job has been
    /// put back and has gone on since.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the key of a letter that can't be read: it stays.
    fn replay(&self, letter: &DeadLetter) -> impl Future<Output = Result<bool>> + Send;

    /// Counts up to `jobs_max` jobs. It reads them: for people and for alarms, not for each job.
    fn depth(&self, jobs_max: usize) -> impl Future<Output = Result<Depth>> + Send;
}

/// One job at a time.
pub trait QueueExt: Queue {
    /// Adds a job.
    fn enqueue(&self, job: NewJob) -> impl Future<Output = Result<Enqueued>> + Send {
        async move { one(self.enqueue_many(&[job]).await) }
    }

    /// The job is done.
    fn ack(&self, lease: &JobLease) -> impl Future<Output = Result<Held>> + Send {
        self.settle(lease, Settlement::Ack)
    }

    /// Settles a job.
    fn settle(&self, lease: &JobLease, settlement: Settlement) -> impl Future<Output = Result<Held>> + Send {
        let settlement = [(lease.clone(), settlement)];
        async move { one(self.settle_many(&settlement).await) }
    }

    /// Holds a job for `hold` from now.
    fn extend(&self, lease: &JobLease, hold: Duration) -> impl Future<Output = Result<Held>> + Send {
        let lease = [lease.clone()];
        async move { one(self.extend_many(&lease, hold).await) }
    }
}

impl<Q: Queue> QueueExt for Q {}

fn one<T>(answers: Vec<Result<T>>) -> Result<T> {
    let none = || {
        let message = "a queue gave no answer to one question; report it";
        Err(crate::Error::new(crate::ErrorKind::Internal, crate::Effect::Unknown, message))
    };
    answers.into_iter().next().unwrap_or_else(none)
}
