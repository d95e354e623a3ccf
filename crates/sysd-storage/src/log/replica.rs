//! The handles: what an application holds of a log.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use sysd_core::{
    Clock as _, Durability, Effect, Error, ErrorKind, Followed, Outcome, Replicated, Result, StateMachine, Store,
    Version, Write,
};

use super::calls::Calls;
use super::config::ReplicaConfig;
use super::driver::{Driver, Engine};
use super::queue::{Queue, Request};
use super::schema::Schema;
use super::state::State;
use super::{Status, WriterId};

/// What handles and driver share.
pub(super) struct Shared<M: StateMachine> {
    pub(super) queue: Queue<M>,
    pub(super) state: RwLock<State<M>>,
    pub(super) snapshots: Snapshots,
    /// By the clock's steady time.
    confirmed_at_us: AtomicU64,
    writer: WriterId,
    durability: Durability,
    config: ReplicaConfig,
}

impl<M: StateMachine> Shared<M> {
    /// Everything that was appended before `at` has been applied.
    pub(super) fn confirmed(&self, at: Duration) {
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.confirmed_at_us.fetch_max(at_us, Ordering::Relaxed);
    }
}

/// More callers than this make no sense: they all get the same snapshot.
const CALLERS_MAX: usize = 1 << 10;

/// When to take a snapshot, and who waits for one.
#[derive(Default)]
pub(super) struct Snapshots {
    /// Bytes of entries that the newest snapshot known here does not cover.
    pub(super) log_bytes: AtomicU64,
    size: AtomicU64,
    next: AtomicU64,
    is_due: AtomicBool,
    callers: Mutex<Option<Vec<oneshot::Sender<Result<u64>>>>>,
    driver: AtomicWaker,
}

/// A snapshot is due at the earliest after so many times the bytes of the last one of the log: so all of them together add at most a third to
/// that, and once the bytes of the last. Who opens a log reads the last snapshot, and three times its bytes (or
/// [`snapshot_log_bytes`](ReplicaConfig::snapshot_log_bytes)), and what came while the next was written.
const LOG_PER_SNAPSHOT: u64 = 3;

impl Snapshots {
    fn new(next: u64, size: u64) -> Self {
        let callers = Mutex::new(Some(Vec::new()));
        Self { size: AtomicU64::new(size), next: AtomicU64::new(next), callers, ..Self::default() }
    }

    pub(super) fn request_if_due(&self, config: &ReplicaConfig) {
        let Some(bytes) = config.snapshot_log_bytes else { return };
        let size = self.size.load(Ordering::Relaxed);
        if self.log_bytes.load(Ordering::Relaxed) >= bytes.max(size.saturating_mul(LOG_PER_SNAPSHOT)) {
            self.is_due.store(true, Ordering::SeqCst);
            self.driver.wake();
        }
    }

    /// Asks for another snapshot only if what was appended meanwhile is reason enough.
    pub(super) fn reconsider(&self, config: &ReplicaConfig) {
        self.is_due.store(false, Ordering::SeqCst);
        self.request_if_due(config);
    }

    /// Queues somebody who wants a snapshot.
    fn call(&self) -> Result<oneshot::Receiver<Result<u64>>> {
        let (sender, receiver) = oneshot::channel();
        match self.callers.lock().as_mut() {
            Some(callers) if callers.len() < CALLERS_MAX => callers.push(sender),
            Some(_) => {
                let message = "too many wait for a snapshot already";
                return Err(Error::new(ErrorKind::Throttled, Effect::None, message));
            }
            None => return Err(lost().with_effect(Effect::None)),
        }
        self.driver.wake();
        Ok(receiver)
    }

    /// Waits until a snapshot is due; answers who asked for it.
    pub(super) async fn wait(&self) -> Vec<oneshot::Sender<Result<u64>>> {
        poll_fn(|context| {
            self.driver.register(context.waker());
            let callers = self.callers.lock().as_mut().map(std::mem::take).unwrap_or_default();
            if self.is_due.swap(false, Ordering::SeqCst) || !callers.is_empty() {
                return Poll::Ready(callers);
            }
            Poll::Pending
        })
        .await
    }

    pub(super) fn done(&self, next: u64, size: u64, log_bytes: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        self.log_bytes.fetch_sub(log_bytes, Ordering::Relaxed);
    }

    /// Nobody will take one any more.
    pub(super) fn stop(&self) {
        self.callers.lock().take();
    }
}

/// A state machine that a log keeps durable on a store. Clones share it.
///
/// See the [module](super) for the protocol, its guarantees and an example.
pub struct Replica<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

/// A state machine that follows a log and serves reads. Clones share it.
pub struct Follower<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

async fn open<M: StateMachine + Default, S: Store>(
    store: S,
    name: &str,
    config: ReplicaConfig,
) -> Result<(Arc<Shared<M>>, Driver)> {
    let schema = Schema::new(name, config.segment_entries())?;
    config.check()?;
    let (value_bytes_max, durability) = (store.limits().value_bytes_max, store.limits().durability);
    let calls = Calls::new(store, schema, config.clone());
    open_head::<M, S>(&calls).await?;
    let (state, size) = calls.read_snapshot().await?.unwrap_or_default();
    // Zero stands for nobody where a writer is stored.
    let writer = WriterId(Version::mint(&config.entropy).as_u128() | 1);
    let shared = Arc::new(Shared {
        queue: Queue::new(&config, value_bytes_max),
        snapshots: Snapshots::new(state.next, size),
        state: RwLock::new(state),
        confirmed_at_us: AtomicU64::new(0),
        writer,
        durability,
        config,
    });
    let engine = Engine::new(Arc::clone(&shared), calls, writer);
    engine.confirm().await?;
    Ok((shared, Driver::new(engine)))
}

/// Makes the log if it is new; refuses another machine's.
async fn open_head<M: StateMachine, S: Store>(calls: &Calls<S>) -> Result<()> {
    const FORMAT: u8 = 1;
    let place = calls.schema.head();
    let ours = [&[FORMAT], M::NAME.as_bytes()].concat();
    let found = if let Some(record) = calls.get(&place).await? {
        record
    } else {
        let write = Write::put(place.key(), ours.clone())
            .with_version(Version::mint(&calls.config.entropy))
            .expect(sysd_core::Expect::Absent);
        match calls.write(&write).await? {
            Outcome::Conflict { found: Some(record) } => record,
            Outcome::Applied | Outcome::Conflict { found: None } => return Ok(()),
        }
    };
    if found.value == ours {
        return Ok(());
    }
    match found.value.split_first() {
        Some((&FORMAT, name)) => {
            let message = format!("this log is of the machine {}, not of {}", name.escape_ascii(), M::NAME);
            Err(Error::new(ErrorKind::Config, Effect::None, message).with_key(place.key()))
        }
        _ => Err(Error::corrupt(place.key(), "the log's head can't be read; was it written by a newer version?")),
    }
}

/// What a caller gets whose driver was dropped while the answer was on its way.
fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the replica's driver was dropped")
}

impl<M: StateMachine> Shared<M> {
    fn deadline(&self) -> Duration {
        self.config.clock.steady().saturating_add(self.config.submit_wait_max)
    }

    async fn call(&self, request: Request) -> Result<u64> {
        let receiver = self.queue.call(request, self.deadline())?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn snapshot(&self) -> Result<u64> {
        self.snapshots.call()?.await.unwrap_or_else(|_| Err(lost()))
    }

    fn read<R>(&self, read: impl FnOnce(&M) -> R) -> R {
        read(&self.state.read().machine)
    }

    async fn read_latest<R>(&self, read: impl FnOnce(&M) -> R + Send) -> Result<R> {
        self.call(Request::Latest).await.map_err(|error| error.with_effect(Effect::None))?;
        Ok(self.read(read))
    }

    fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&M) -> R) -> Result<R> {
        let state = self.state.read();
        let staleness = self.staleness();
        if staleness > staleness_max {
            let message = format!("the log was last seen {staleness:?} ago, {staleness_max:?} are allowed");
            drop(state);
            return Err(Error::new(ErrorKind::Unavailable, Effect::None, message));
        }
        Ok(read(&state.machine))
    }

    /// Measured by what does not step: a wall clock that is set back makes no old state fresh.
    fn staleness(&self) -> Duration {
        let confirmed_at = Duration::from_micros(self.confirmed_at_us.load(Ordering::Relaxed));
        self.config.clock.steady().saturating_sub(confirmed_at)
    }

    fn status(&self) -> Status {
        let state = self.state.read();
        Status {
            next: state.next,
            log_now: state.now,
            epoch: state.epoch,
            owner: state.owner,
            snapshot_next: self.snapshots.next.load(Ordering::Relaxed),
            staleness: self.staleness(),
        }
    }
}

macro_rules! handle {
    ($name:ident) => {
        impl<M: StateMachine> $name<M> {
            /// Reads the state as it is here: at least as new as every reply that was received from this handle, and as
            /// every [`read_latest`](Self::read_latest) before. Keep `read` short: nothing is applied meanwhile.
            pub fn read<R>(&self, read: impl FnOnce(&M) -> R) -> R {
                self.shared.read(read)
            }

            /// Reads the state, with everything in it that was appended anywhere before this was called (linearizable).
            ///
            /// # Errors
            /// Of reading the store; nothing is changed by any.
            ///
            /// # Cost
            /// One `get` if nothing is being appended; calls at the same time share it.
            ///
            /// # Cancel safety
            /// Dropping it changes nothing.
            pub async fn read_latest<R>(&self, read: impl FnOnce(&M) -> R + Send) -> Result<R> {
                self.shared.read_latest(read).await
            }

            /// Reads the state if everything is in it that was appended until `staleness_max` ago, by the clock's
            /// [steady](sysd_core::Clock::steady) time: setting the wall clock back makes no state fresher.
            ///
            /// # Errors
            /// [`Unavailable`](ErrorKind::Unavailable) if the log was not seen so recently, saying how long ago it was.
            pub fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&M) -> R) -> Result<R> {
                self.shared.read_within(staleness_max, read)
            }

            /// Where it stands.
            pub fn status(&self) -> Status {
                self.shared.status()
            }

            /// Takes a snapshot now; answers the number of the first entry that the newest snapshot does not cover. Appends
            /// go on meanwhile, but for the moment in which the state is encoded.
            ///
            /// # Errors
            /// Of writing to the store. What was written by then is removed by a later snapshot.
            ///
            /// # Cost
            /// The state's bytes once more in memory; a write a chunk of up to 256 KiB, and a handful more.
            ///
            /// # Cancel safety
            /// The snapshot is taken all the same.
            pub async fn snapshot(&self) -> Result<u64> {
                self.shared.snapshot().await
            }
        }

        impl<M: StateMachine> Followed<M> for $name<M> {
            /// The store's.
            fn durability(&self) -> Durability {
                self.shared.durability
            }

            async fn read_latest<R, F>(&self, read: F) -> Result<R>
            where
                R: Send,
                F: FnOnce(&M) -> R + Send,
            {
                self.shared.read_latest(read).await
            }

            fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&M) -> R) -> Result<R> {
                self.shared.read_within(staleness_max, read)
            }
        }

        impl<M: StateMachine> Clone for $name<M> {
            fn clone(&self) -> Self {
                self.shared.queue.add_handle();
                Self { shared: Arc::clone(&self.shared) }
            }
        }

        impl<M: StateMachine> Drop for $name<M> {
            fn drop(&mut self) {
                self.shared.queue.drop_handle();
            }
        }

        impl<M: StateMachine> fmt::Debug for $name<M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("machine", &M::NAME).field("status", &self.status()).finish()
            }
        }
    };
}

handle!(Replica);
handle!(Follower);

impl<M: StateMachine + Default> Replica<M> {
    /// Opens the log `name` (1 to 256 bytes), makes it if it is new, and reads it to its end. Spawn the driver.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) or [`TooLarge`](ErrorKind::TooLarge) naming `name` or `poll_every`; [`Config`](ErrorKind::Config) if
    /// the log is another machine's; [`Corrupt`](ErrorKind::Corrupt) with the key of what can't be read; those of reading
    /// the store.
    ///
    /// # Cost
    /// Reads the newest snapshot and all entries behind it.
    ///
    /// # Cancel safety
    /// At most the log was made.
    pub async fn open<S: Store>(store: S, name: &str, config: ReplicaConfig) -> Result<(Self, Driver)> {
        let (shared, driver) = open(store, name, config).await?;
        Ok((Self { shared }, driver))
    }
}

impl<M: StateMachine> Replicated<M> for Replica<M> {
    async fn submit(&self, command: M::Command) -> Result<M::Reply> {
        Self::submit(self, command).await
    }
}

impl<M: StateMachine> Replica<M> {
    /// Appends a command, applies it, and answers the machine's reply.
    ///
    /// Commands of one caller that waits for each reply are applied in that order; those in flight at the same time in the
    /// order in which they were submitted, but for those that the queue had no room for.
    ///
    /// # Errors
    /// Without effect: [`TooLarge`](ErrorKind::TooLarge) naming `command`; [`Throttled`](ErrorKind::Throttled) if the queue
    /// is full; [`Fenced`](ErrorKind::Fenced) if another writer has taken over; [`Timeout`](ErrorKind::Timeout) if it was
    /// not sent in time; [`Contention`](ErrorKind::Contention) if other writers kept winning; the store's, where they are
    /// certain. With an unknown effect it may be applied once, now or later, and never twice.
    ///
    /// # Cost
    /// One conditional write for all commands that were submitted while the last one was on its way.
    ///
    /// # Cancel safety
    /// The command may be applied all the same.
    ///
    /// # Panics
    /// If the machine's encoder does; nothing was submitted then.
    pub async fn submit(&self, command: M::Command) -> Result<M::Reply> {
        let receiver = self.shared.queue.push(command, self.shared.deadline())?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Takes the log over: from here on every other writer is refused with [`Fenced`](ErrorKind::Fenced), until it takes
    /// over itself or this one [lets go](Self::release). Answers the epoch, which rises with every takeover: a fencing
    /// token.
    ///
    /// Not needed for correctness, writers never overwrite each other; it keeps two of them from contending, and an old one
    /// from adding to a log that a new one answers for.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Cancel safety
    /// The log may be taken over all the same.
    pub async fn fence(&self) -> Result<u64> {
        self.shared.call(Request::Fence).await
    }

    /// Lets the log go, if it is this writer's: everybody may append again. Answers the epoch.
    ///
    /// # Errors
    /// [`Fenced`](ErrorKind::Fenced) if it is not this writer's; else as [`submit`](Self::submit).
    ///
    /// # Cancel safety
    /// The log may be let go all the same.
    pub async fn release(&self) -> Result<u64> {
        self.shared.call(Request::Release).await
    }

    /// The name under which this replica appends, fresh for each that is opened.
    pub fn writer(&self) -> WriterId {
        self.shared.writer
    }
}

impl<M: StateMachine + Default> Follower<M> {
    /// Opens the log `name` to read it. Spawn the driver, which looks for new entries every
    /// [`poll_every`](ReplicaConfig::poll_every).
    ///
    /// # Errors
    /// As [`Replica::open`].
    ///
    /// # Cost
    /// As [`Replica::open`]; then one `get` a poll.
    pub async fn open<S: Store>(store: S, name: &str, config: ReplicaConfig) -> Result<(Self, Driver)> {
        let (shared, driver) = open(store, name, config).await?;
        Ok((Self { shared }, driver))
    }
}
