//! What waits for the driver: commands in batches, encoded by their callers, and the few other requests.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use sysd_core::{Effect, Error, ErrorKind, Result, StateMachine};

use super::config::ReplicaConfig;
use super::entry::{self, COMMAND_OVERHEAD_BYTES, OVERHEAD_BYTES};

/// A command and who waits for its reply; nobody, once it was answered.
struct Waiting<M: StateMachine> {
    command: M::Command,
    /// By the clock's [steady](sysd_core::Clock::steady) time, as all deadlines here.
    deadline: Duration,
    reply: Option<oneshot::Sender<Result<M::Reply>>>,
}

/// Commands that will share an entry.
pub(super) struct Batch<M: StateMachine> {
    /// As an entry stores them.
    pub(super) body: Vec<u8>,
    waiting: Vec<Waiting<M>>,
}

impl<M: StateMachine> Default for Batch<M> {
    fn default() -> Self {
        Self { body: Vec::new(), waiting: Vec::new() }
    }
}

impl<M: StateMachine> Batch<M> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the body holds one command for each who waits: nothing else may be sent, for nobody could read it.
    pub(super) fn is_whole(&self) -> bool {
        entry::count(&self.body) == Some(self.len())
    }

    pub(super) fn commands(&self) -> impl Iterator<Item = &M::Command> {
        self.waiting.iter().map(|waiting| &waiting.command)
    }

    /// Whether nobody waits any more.
    pub(super) fn is_answered(&self) -> bool {
        self.waiting.iter().all(|waiting| waiting.reply.is_none())
    }

    /// Answers all with their replies, in order.
    pub(super) fn answer(&mut self, replies: &mut Vec<M::Reply>) {
        for (waiting, reply) in self.waiting.iter_mut().zip(replies.drain(..)) {
            if let Some(caller) = waiting.reply.take() {
                // A caller that is gone asked for nothing more.
                let _ = caller.send(Ok(reply));
            }
        }
    }

    /// Answers those whose deadline has passed (`None`: all) with `error`.
    pub(super) fn fail(&mut self, due: Option<Duration>, error: &Error) {
        for waiting in &mut self.waiting {
            if due.is_none_or(|now| waiting.deadline <= now)
                && let Some(caller) = waiting.reply.take()
            {
                let _ = caller.send(Err(error.share()));
            }
        }
    }

    /// Drops the commands whose deadline has passed, which have not happened and never will, and answers them with `error`.
    pub(super) fn expire(&mut self, now: Duration, error: &Error) {
        if self.waiting.iter().all(|waiting| waiting.deadline > now) {
            return;
        }
        let body = std::mem::take(&mut self.body);
        let mut rest = body.as_slice();
        self.waiting.retain_mut(|waiting| {
            let size = rest.first_chunk::<COMMAND_OVERHEAD_BYTES>().map_or(0, |size| u32::from_be_bytes(*size));
            let (command, behind) = rest.split_at(rest.len().min(COMMAND_OVERHEAD_BYTES + size as usize));
            rest = behind;
            if waiting.deadline > now {
                self.body.extend_from_slice(command);
                return true;
            }
            if let Some(caller) = waiting.reply.take() {
                let _ = caller.send(Err(error.share()));
            }
            false
        });
    }

    fn clear(&mut self) {
        self.body.clear();
        self.waiting.clear();
    }
}

/// What else can be asked of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Make the state at least as new as now; answers the next number.
    Latest,
    /// Take the log over; answers the epoch.
    Fence,
    /// Let the log go; answers the epoch.
    Release,
}

/// A request and who waits for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) deadline: Duration,
    pub(super) reply: Option<oneshot::Sender<Result<u64>>>,
}

impl Call {
    pub(super) fn answer(&mut self, answer: Result<u64>) {
        if let Some(caller) = self.reply.take() {
            let _ = caller.send(answer);
        }
    }
}

/// What the driver takes at once.
pub(super) struct Work<M: StateMachine> {
    pub(super) batch: Option<Batch<M>>,
    pub(super) calls: Vec<Call>,
}

struct Inner<M: StateMachine> {
    batches: VecDeque<Batch<M>>,
    /// An emptied batch, for its buffers.
    spare: Option<Batch<M>>,
    commands: usize,
    bytes: usize,
    calls: Vec<Call>,
    handles: usize,
    stopped: Option<Error>,
}

/// The queue between the handles and the driver. Bounded; what does not fit is refused.
pub(super) struct Queue<M: StateMachine> {
    inner: Mutex<Inner<M>>,
    driver: AtomicWaker,
    commands_max: usize,
    bytes_max: usize,
    batch_commands_max: usize,
    batch_bytes_max: usize,
}

const CALLS_MAX: usize = 1 << 16;
/// Buffers that grew beyond this are given back.
const SPARE_BYTES_MAX: usize = 4 << 20;

thread_local! {
    /// Where callers encode their commands: by themselves, so that one that panics half-way, or writes over what was there,
    /// spoils nobody else's.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that grew beyond this is not kept by its thread.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// A command's bytes, in this thread's buffer.
fn encode<M: StateMachine>(command: &M::Command) -> Vec<u8> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    M::encode_command(command, &mut scratch);
    scratch
}

fn full() -> Error {
    Error::new(ErrorKind::Throttled, Effect::None, "the replica's queue is full; submit less at once")
}

impl<M: StateMachine> Queue<M> {
    /// `value_bytes_max` is the store's.
    pub(super) fn new(config: &ReplicaConfig, value_bytes_max: usize) -> Self {
        let inner = Inner {
            batches: VecDeque::new(),
            spare: None,
            commands: 0,
            bytes: 0,
            calls: Vec::new(),
            handles: 1,
            stopped: None,
        };
        Self {
            inner: Mutex::new(inner),
            driver: AtomicWaker::new(),
            commands_max: config.queue_commands_max.max(1),
            bytes_max: config.queue_bytes_max,
            batch_commands_max: config.batch_commands_max.max(1),
            batch_bytes_max: config.batch_bytes_max.min(value_bytes_max).saturating_sub(OVERHEAD_BYTES),
        }
    }

    /// Queues a command.
    ///
    /// # Errors
    /// Nothing happened: [`TooLarge`](ErrorKind::TooLarge) naming `command`, [`Throttled`](ErrorKind::Throttled), or why
    /// the driver stopped.
    ///
    /// # Panics
    /// As the machine's encoder; nothing happened then.
    pub(super) fn push(&self, command: M::Command, deadline: Duration) -> Result<oneshot::Receiver<Result<M::Reply>>> {
        let (reply, receiver) = oneshot::channel();
        let scratch = encode::<M>(&command);
        let queued = self.push_encoded(&scratch, Waiting { command, deadline, reply: Some(reply) });
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            SCRATCH.set(scratch);
        }
        queued?;
        self.driver.wake();
        Ok(receiver)
    }

    fn push_encoded(&self, command: &[u8], waiting: Waiting<M>) -> Result<()> {
        let size = COMMAND_OVERHEAD_BYTES + command.len();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let Some(error) = &inner.stopped {
            return Err(error.share());
        }
        let too_large = || {
            let size_max = self.batch_bytes_max.saturating_sub(COMMAND_OVERHEAD_BYTES);
            Error::too_large("command", command.len(), size_max)
        };
        if size > self.batch_bytes_max {
            return Err(too_large());
        }
        if inner.commands >= self.commands_max || inner.bytes + size > self.bytes_max {
            return Err(full());
        }
        let has_room =
            |batch: &Batch<M>| batch.len() < self.batch_commands_max && batch.body.len() + size <= self.batch_bytes_max;
        if !inner.batches.back().is_some_and(has_room) {
            inner.batches.push_back(inner.spare.take().unwrap_or_default());
        }
        let Some(batch) = inner.batches.back_mut() else { return Err(full()) };
        entry::push_command(&mut batch.body, command).ok_or_else(too_large)?;
        batch.waiting.push(waiting);
        inner.commands += 1;
        inner.bytes += size;
        Ok(())
    }

    /// Queues a request.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub(super) fn call(&self, request: Request, deadline: Duration) -> Result<oneshot::Receiver<Result<u64>>> {
        let (reply, receiver) = oneshot::channel();
        {
            let mut inner = self.inner.lock();
            if let Some(error) = &inner.stopped {
                return Err(error.share());
            }
            if inner.calls.len() >= CALLS_MAX {
                return Err(full());
            }
            inner.calls.push(Call { request, deadline, reply: Some(reply) });
        }
        self.driver.wake();
        Ok(receiver)
    }

    /// Waits for work; `None` once all handles are gone and nothing is left.
    pub(super) async fn take(&self) -> Option<Work<M>> {
        poll_fn(|context| {
            self.driver.register(context.waker());
            let mut inner = self.inner.lock();
            let batch = inner.batches.pop_front();
            if let Some(batch) = &batch {
                inner.commands -= batch.len();
                inner.bytes -= batch.body.len();
            }
            let calls = std::mem::take(&mut inner.calls);
            if batch.is_some() || !calls.is_empty() {
                return Poll::Ready(Some(Work { batch, calls }));
            }
            if inner.handles == 0 { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// Takes a batch's buffers back.
    pub(super) fn recycle(&self, mut batch: Batch<M>) {
        if batch.body.capacity() <= SPARE_BYTES_MAX {
            batch.clear();
            self.inner.lock().spare = Some(batch);
        }
    }

    /// Answers what has waited too long; none of it was sent.
    pub(super) fn expire(&self, now: Duration) {
        let error = Error::new(ErrorKind::Timeout, Effect::None, "the command waited too long and was not sent");
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.batches.retain_mut(|batch| {
            batch.expire(now, &error);
            batch.len() > 0
        });
        inner.commands = inner.batches.iter().map(Batch::len).sum();
        inner.bytes = inner.batches.iter().map(|batch| batch.body.len()).sum();
        for call in inner.calls.iter_mut().filter(|call| call.deadline <= now) {
            call.answer(Err(error.share()));
        }
        inner.calls.retain(|call| call.reply.is_some());
    }

    /// Refuses everything from now on with `error`, what waits too; none of it was sent.
    pub(super) fn stop(&self, error: &Error) {
        let (batches, calls) = {
            let mut inner = self.inner.lock();
            if inner.stopped.is_none() {
                inner.stopped = Some(error.share());
            }
            (inner.commands, inner.bytes) = (0, 0);
            (std::mem::take(&mut inner.batches), std::mem::take(&mut inner.calls))
        };
        for mut batch in batches {
            batch.fail(None, error);
        }
        for mut call in calls {
            call.answer(Err(error.share()));
        }
    }

    pub(super) fn add_handle(&self) {
        self.inner.lock().handles += 1;
    }

    pub(super) fn drop_handle(&self) {
        self.inner.lock().handles -= 1;
        self.driver.wake();
    }

    /// Whether nobody can ask for anything any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.inner.lock().handles == 0
    }
}
