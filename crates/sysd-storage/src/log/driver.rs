//! The future that does a replica's work: appends, applies, answers, follows.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, select};
use sysd_core::{
    Clock as _, Effect, Error, ErrorKind, Expect, Outcome, Record, Result, Sleep, StateMachine, Store, Version, Write,
    timeout, yield_now,
};

use super::WriterId;
use super::calls::Calls;
use super::config::Bug;
use super::entry::{self, Entry, Header, Kind};
use super::queue::{Batch, Call, Request, Work};
use super::replica::Shared;
use super::state::State;

/// Does the work of a [`Replica`](super::Replica) or [`Follower`](super::Follower): spawn it.
///
/// It ends with `Ok` when all handles are gone and nothing waits, and with the error when the log can't be read
/// ([`Corrupt`](ErrorKind::Corrupt)).
///
/// # Cancel safety
/// When it is dropped, commands that were not sent are answered with [`Unavailable`](ErrorKind::Unavailable) and no effect,
/// those of the entry on its way with an unknown effect. Nothing that was answered is lost.
#[must_use = "a replica does nothing until its driver is spawned"]
pub struct Driver {
    future: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

impl Driver {
    pub(super) fn new<M: StateMachine, S: Store>(engine: Engine<M, S>) -> Self {
        Self { future: Box::pin(engine.run()) }
    }
}

impl Future for Driver {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(context)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// Refuses what waits when the driver ends, however it ends, polled or not.
struct StopOnDrop<M: StateMachine>(Arc<Shared<M>>);

impl<M: StateMachine> Drop for StopOnDrop<M> {
    fn drop(&mut self) {
        self.0.queue.stop(&Error::new(ErrorKind::Unavailable, Effect::None, "the replica's driver has ended"));
        self.0.snapshots.stop();
    }
}

/// Let others run after so many turns without a wait.
const TURNS_MAX: u32 = 64;

pub(super) struct Engine<M: StateMachine, S> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) calls: Calls<S>,
    pub(super) writer: WriterId,
    /// Held, not used: it goes with the engine, so with its driver.
    _stop: StopOnDrop<M>,
}

/// What is to be appended, and who waits for it.
struct Proposal<M: StateMachine> {
    kind: Kind,
    batch: Batch<M>,
    call: Option<Call>,
}

impl<M: StateMachine> Proposal<M> {
    /// Answers those whose deadline has passed (`None`: all) with `error`.
    fn fail(&mut self, due: Option<Duration>, error: &Error) {
        self.batch.fail(due, error);
        if let Some(call) = &mut self.call
            && due.is_none_or(|now| call.deadline <= now)
        {
            call.answer(Err(error.share()));
        }
    }

    /// Answers those whose deadline has passed with `error`, and drops their commands: nothing of this was sent, or what was
    /// sent is certain not to have happened.
    fn expire(&mut self, now: Duration, error: &Error) {
        self.batch.expire(now, error);
        self.fail(Some(now), error);
    }

    fn is_answered(&self) -> bool {
        self.batch.is_answered() && self.call.as_ref().is_none_or(|call| call.reply.is_none())
    }
}

/// How an append at one number ended.
enum Settled {
    /// It is there.
    Own,
    /// Another entry is there, so this one never will be.
    Other(Record),
    /// Nothing has happened, and some have waited too long: what is left is to be sent.
    Again,
    /// Nobody waits for it any more, all were answered.
    Refused,
}

impl<M: StateMachine, S: Store> Engine<M, S> {
    pub(super) fn new(shared: Arc<Shared<M>>, calls: Calls<S>, writer: WriterId) -> Self {
        let stop = StopOnDrop(Arc::clone(&shared));
        Self { shared, calls, writer, _stop: stop }
    }

    /// Everything, until there is nothing left to do.
    async fn run(self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let calls = &self.calls;
        let snapshots = pin!(take_snapshots(&shared, calls));
        let result = match select(pin!(self.append_and_follow()), snapshots).await {
            Either::Left((result, _)) => result,
            Either::Right(((), _)) => Ok(()),
        };
        if let Err(error) = &result {
            shared.queue.stop(error);
        }
        result
    }

    async fn append_and_follow(&self) -> Result<()> {
        let mut turns = 0;
        let mut replies = Vec::new();
        let mut poll = self.next_poll();
        loop {
            // Work first: a timer that is due must not hold it up.
            match select(pin!(self.shared.queue.take()), &mut poll).await {
                Either::Left((Some(work), _)) => self.work(work, &mut replies).await?,
                Either::Left((None, _)) => return Ok(()),
                Either::Right(((), _)) => {
                    self.poll().await?;
                    poll = self.next_poll();
                }
            }
            turns += 1;
            if turns % TURNS_MAX == 0 {
                yield_now().await;
            }
        }
    }

    /// Ready when it is time to look for entries of others.
    fn next_poll(&self) -> Sleep {
        match self.calls.config.poll_every {
            Some(wait) => self.calls.config.clock.sleep_until(self.calls.now().saturating_add(wait)),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Looks for entries of others. A store that can't be reached is met again soon.
    async fn poll(&self) -> Result<()> {
        match self.confirm().await {
            Err(error) if error.kind() != ErrorKind::Corrupt => {
                tracing::warn!(%error, "a replica could not follow its log");
                self.shared.queue.expire(self.calls.steady());
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn work(&self, work: Work<M>, replies: &mut Vec<M::Reply>) -> Result<()> {
        let mut confirmed = None;
        if let Some(batch) = work.batch {
            let mut proposal = Proposal { kind: Kind::Commands, batch, call: None };
            confirmed = self.append(&mut proposal, replies).await?;
            self.shared.queue.recycle(proposal.batch);
        }
        // One look at the store is new enough for all that waited before it.
        let mut latest = confirmed.map(Ok);
        for mut call in work.calls {
            let kind = match call.request {
                Request::Latest => {
                    if latest.is_none() {
                        latest = Some(self.latest().await?);
                    }
                    call.answer(
                        latest.as_ref().map_or(Ok(0), |next| next.as_ref().map(|next| *next).map_err(Error::share)),
                    );
                    continue;
                }
                Request::Fence => Kind::Fence,
                Request::Release => Kind::Release,
            };
            let mut proposal = Proposal { kind, batch: Batch::default(), call: Some(call) };
            if self.append(&mut proposal, replies).await?.is_some() {
                let epoch = self.shared.state.read().epoch;
                proposal.call.iter_mut().for_each(|call| call.answer(Ok(epoch)));
            }
        }
        Ok(())
    }

    /// The next number after everything that was appended before, or why that can't be known now.
    ///
    /// # Errors
    /// The log can't be read, ever.
    async fn latest(&self) -> Result<Result<u64>> {
        if self.calls.config.has(Bug::ReadUnconfirmed) {
            return Ok(Ok(self.shared.state.read().next));
        }
        match self.confirm().await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(error),
            other => Ok(other),
        }
    }

    /// Appends at the first free number, applies, and answers. The next number if it did, `None` if all who waited were
    /// refused.
    ///
    /// # Errors
    /// The log can't be read; who waited was told.
    async fn append(&self, proposal: &mut Proposal<M>, replies: &mut Vec<M::Reply>) -> Result<Option<u64>> {
        loop {
            if !proposal.batch.is_whole() {
                let message = "the batch does not hold the commands that it counts; nothing was sent";
                proposal.fail(None, &Error::new(ErrorKind::Internal, Effect::None, message));
                return Ok(None);
            }
            let Some((number, header)) = self.next_header(proposal) else { return Ok(None) };
            let place = self.calls.schema.entry(number);
            let value = entry::encode(number, &header, &proposal.batch.body);
            let size = value.len();
            let expect = if self.calls.config.has(Bug::SkipCondition) { Expect::Any } else { Expect::Absent };
            let version = Version::mint(&self.calls.config.entropy);
            let write = Write::put(place.key(), value).with_version(version).expect(expect);
            let applied_early = self.calls.config.has(Bug::ApplyBeforeAppend);
            if applied_early {
                self.apply_own(&header, proposal, replies, size);
            }
            let begun = self.calls.steady();
            match self.settle(&write, version, proposal).await {
                Settled::Own => {
                    if !applied_early {
                        self.apply_own(&header, proposal, replies, size);
                    }
                    self.shared.confirmed(begun);
                    proposal.batch.answer(replies);
                    self.shared.snapshots.request_if_due(&self.calls.config);
                    return Ok(Some(number + 1));
                }
                Settled::Other(record) => {
                    tracing::debug!(number, "another writer was faster; proposing again behind its entry");
                    let read = entry::decode(place.key(), number, &record.value);
                    let applied = read.and_then(|entry| self.apply(number, &entry, record.value.len()));
                    if let Err(error) = applied {
                        proposal.fail(None, &error);
                        return Err(error);
                    }
                }
                Settled::Again => {}
                Settled::Refused => return Ok(None),
            }
            let late = Error::new(ErrorKind::Contention, Effect::None, "other writers kept winning until the deadline");
            self.expire(proposal, &late);
            if proposal.is_answered() {
                return Ok(None);
            }
        }
    }

    /// The next number and what to append there; `None`, and all are answered, if the log belongs to another writer.
    fn next_header(&self, proposal: &mut Proposal<M>) -> Option<(u64, Header)> {
        let state = self.shared.state.read();
        if !state.admits(self.writer, proposal.kind) {
            let (epoch, message) = (state.epoch, "another writer has taken the log over");
            drop(state);
            let error = Error::new(ErrorKind::Fenced, Effect::None, format!("{message}, in epoch {epoch}"));
            proposal.fail(None, &error);
            return None;
        }
        let now = self.calls.now();
        let header = Header {
            kind: proposal.kind,
            machine_format: M::FORMAT,
            writer: self.writer,
            // A clock may step back, a log does not.
            now: if self.calls.config.has(Bug::ForgetLogTime) { now } else { now.max(state.now) },
            epoch: state.epoch + u64::from(proposal.kind == Kind::Fence),
            count: u32::try_from(proposal.batch.len()).unwrap_or(u32::MAX),
        };
        Some((state.next, header))
    }

    /// Sends one write until it is certain what stands at its number.
    ///
    /// An attempt without an answer may still happen, at any time. Only an entry at that number, its own or another's, rules
    /// that out; so nothing else is sent, and nobody is told "it did not happen", before there is one.
    async fn settle(&self, write: &Write<'_>, version: Version, proposal: &mut Proposal<M>) -> Settled {
        let mut effect = Effect::None;
        let (mut attempts, mut unknown) = (0, 0);
        loop {
            let mut attempt = write.clone();
            if self.calls.config.has(Bug::ForgetNonce) {
                attempt = attempt.with_version(Version::mint(&self.calls.config.entropy));
            }
            let error = match self.calls.write_once(attempt).await {
                Ok(Outcome::Applied) => return Settled::Own,
                Ok(Outcome::Conflict { found: Some(record) }) => {
                    // The store has looked at this too; who reads the log must not depend on it.
                    return if record.version == version { Settled::Own } else { Settled::Other(record) };
                }
                Ok(Outcome::Conflict { found: None }) => {
                    let message =
                        "the store says that nothing is there, yet refuses to insert; certify it with sysd-testkit";
                    Error::new(ErrorKind::Internal, Effect::Unknown, message)
                }
                Err(error) => error,
            };
            attempts += 1;
            if error.effect() == Effect::Unknown {
                effect = Effect::Unknown;
                unknown += 1;
                if unknown == 3 && self.calls.config.has(Bug::HangUnsettled) {
                    std::future::pending::<()>().await;
                }
            }
            let is_forgotten = self.calls.config.has(Bug::ForgetUnsettled);
            let error = error.with_effect(if is_forgotten { Effect::None } else { effect });
            if is_forgotten || effect == Effect::None && !error.kind().is_transient() {
                proposal.fail(None, &error);
                return Settled::Refused;
            }
            self.shared.queue.expire(self.calls.steady());
            if effect == Effect::None {
                let before = proposal.batch.len();
                self.expire(proposal, &error);
                if proposal.is_answered() {
                    return Settled::Refused;
                }
                self.calls.pause(attempts).await;
                if proposal.batch.len() < before {
                    return Settled::Again;
                }
                continue;
            }
            proposal.fail(Some(self.calls.steady()), &error);
            if proposal.is_answered() && self.shared.queue.is_abandoned() {
                return Settled::Refused;
            }
            self.calls.pause(attempts).await;
        }
    }

    fn expire(&self, proposal: &mut Proposal<M>, error: &Error) {
        let now = self.calls.steady();
        if self.calls.config.has(Bug::KeepExpired) {
            proposal.fail(Some(now), error);
        } else {
            proposal.expire(now, error);
        }
    }

    fn apply_own(&self, header: &Header, proposal: &Proposal<M>, replies: &mut Vec<M::Reply>, size: usize) {
        replies.clear();
        let mut state = self.shared.state.write();
        state.apply_own(header, proposal.batch.commands(), replies);
        self.forget_fence(&mut state);
        drop(state);
        self.shared.snapshots.log_bytes.fetch_add(size as u64, Ordering::Relaxed);
    }

    fn apply(&self, number: u64, entry: &Entry, size: usize) -> Result<()> {
        let mut state = self.shared.state.write();
        state.apply(self.calls.schema.entry(number).key(), entry)?;
        self.forget_fence(&mut state);
        drop(state);
        self.shared.snapshots.log_bytes.fetch_add(size as u64, Ordering::Relaxed);
        Ok(())
    }

    fn forget_fence(&self, state: &mut State<M>) {
        if self.calls.config.has(Bug::ForgetFence) {
            state.owner = None;
        }
    }

    /// Applies everything that was appended before it was called; answers the next number.
    pub(super) async fn confirm(&self) -> Result<u64> {
        loop {
            let next = self.shared.state.read().next;
            let begun = self.calls.steady();
            match self.calls.entry(next).await? {
                None => {
                    self.shared.confirmed(begun);
                    return Ok(next);
                }
                Some((entry, size)) => self.apply(next, &entry, size)?,
            }
            self.catch_up().await?;
        }
    }

    /// Applies what a scan sees.
    async fn catch_up(&self) -> Result<()> {
        loop {
            let next = self.shared.state.read().next;
            let entries = self.calls.entries(next).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for ((entry, size), number) in entries.iter().zip(next..) {
                self.apply(number, entry, *size)?;
            }
            yield_now().await;
        }
    }
}

/// Takes snapshots when they are asked for or due. Never ends.
async fn take_snapshots<M: StateMachine, S: Store>(shared: &Shared<M>, calls: &Calls<S>) {
    loop {
        let mut callers = shared.snapshots.wait().await;
        let taken = timeout(&calls.config.clock, calls.config.snapshot_wait_max, take_snapshot(shared, calls)).await;
        let taken = taken.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, Effect::Unknown, "the snapshot was not written in time"))
        });
        for caller in callers.drain(..) {
            let _ = caller.send(taken.as_ref().map(|next| *next).map_err(Error::share));
        }
        match taken {
            Ok(_) => shared.snapshots.reconsider(&calls.config),
            Err(error) => {
                tracing::warn!(%error, "a replica could not take a snapshot");
                calls.pause(1).await;
            }
        }
    }
}

async fn take_snapshot<M: StateMachine, S: Store>(shared: &Shared<M>, calls: &Calls<S>) -> Result<u64> {
    let log_bytes = shared.snapshots.log_bytes.load(Ordering::Relaxed);
    let (next, bytes) = {
        let state = shared.state.read();
        (state.next, state.encode())
    };
    let (covered, size) = calls.write_snapshot(next, bytes.into()).await?;
    shared.snapshots.done(covered, size, log_bytes);
    Ok(covered)
}
