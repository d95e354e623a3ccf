//! A queue on any store: rows that hold the jobs, and for each shard one record that says which of them are in flight.
//!
//! ```
//! use std::time::Duration;
//! use sysd_core::queue::{Held, NewJob, Queue, QueueExt, Settlement};
//! use sysd_storage::{Memory, QueueConfig, RecordQueue};
//!
//! # futures::executor::block_on(async {
//! let queue = RecordQueue::open(Memory::new(), "mail", QueueConfig::default()).await?;
//! // Under an id of the caller's: enqueueing again adds nothing.
//! queue.enqueue(NewJob::new("hello").id(b"order 7")).await?;
//! queue.enqueue(NewJob::new("hello").id(b"order 7")).await?;
//!
//! let jobs = queue.lease(10, Duration::from_secs(30)).await?;
//! assert_eq!((jobs.len(), jobs[0].payload.as_ref()), (1, &b"hello"[..]));
//! let buried = queue.settle(&jobs[0].lease, Settlement::Bury("no such address".to_owned())).await?;
//! assert_eq!(buried, Held::Held);
//!
//! // Whoever leases next carries out what was settled.
//! assert!(queue.lease(10, Duration::from_secs(30)).await?.is_empty());
//! let letters = queue.dead_letters(None, 10).await?;
//! assert_eq!(letters[0].reason, "no such address");
//! assert!(queue.replay(&letters[0]).await?);
//! let jobs = queue.lease(10, Duration::from_secs(30)).await?;
//! assert_eq!(queue.ack(&jobs[0].lease).await?, Held::Held);
//! assert!(queue.lease(10, Duration::from_secs(30)).await?.is_empty());
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Why like this
//! One record a job that is claimed in place would make every consumer read past what others hold, payloads included, and
//! fight for the first row. So the rows are written once and removed once; who holds what is in one small record a
//! *shard*, written conditionally once for a whole batch. A job costs two writes and its share of two more. Consumers walk
//! the shards from different starts, and whoever loses a shard's condition has the newer record in hand. A backlog is rows
//! that nobody reads before their turn.
//!
//! Ids that are minted come in runs of 64, which lie in one shard: a store writes such rows at once, and so removes them (one
//! call on Redis). A caller's ids go where each one's hash says.
//!
//! The queue could have been a state machine on the [shared log](crate::log): one insert for thousands of commands, faster
//! where one process serves all. It was not chosen: every process that consumes would replay every payload and contend for
//! the log's next number, and a backlog would lie in each one's memory and in every snapshot. Records need no leader: any
//! number of processes enqueue and lease. What it costs: batches. One job at a time pays the shard's record alone.
//!
//! # States of a job
//! | row | entry in the shard's record | the job |
//! |---|---|---|
//! | there | none | waits, from its due time on |
//! | there | leased, before its time | is held under a token |
//! | there | leased, at or past its time | waits again, the attempt counted, and still takes its room |
//! | gone | leased, at or past its time | was lost by the store; the entry is dropped once there is no room |
//! | there | done, moved, dead | is settled: the row is to go (and to be written elsewhere before) |
//! | gone | done, moved, dead | the same, carried out; the entry is to be dropped |
//! | gone | none | is no more |
//!
//! # Marks
//! A job under an id of the caller's has a *mark*, which is written before its row, and says which row is the job's: the due
//! times of one id's rows rise, so no row comes twice. Each step is a conditional write of the mark over its last version,
//! and comes *before* what it tells of:
//!
//! | the mark says | and then comes | from |
//! |---|---|---|
//! | open, in the row of this due time | that row | enqueueing; giving back, over "open, in the row before"; replaying, over "dead" |
//! | dead | the dead letter | giving up, over "open" |
//! | done, for a while | nothing | an ack, over "open" |
//!
//! So who enqueues an id again finds the row that the job has or is about to have; who replays a dead letter finds a mark that says
//! dead. Who carries a settlement out and finds that the mark says more than it was about to say (the dead letter was replayed, the
//! job was handed out again) was overtaken: all of it has been done, and only the old row is to go. A row that the mark does
//! not name is a late *echo*, or one whose settlement is being carried out. The shard's record, read after the mark,
//! tells which: as long as the settlement's entry stands, the row is not touched.
//!
//! # Invariants
//! - A row is removed only after the shard's record says that the job is settled, and after what replaces it (the mark, then the
//!   row of a later time or the dead letter) is written. An entry is dropped only after that.
//! - A job is handed out, extended and settled by a conditional write of its shard's record, so for all of these the last
//!   token counts, and one lease at a time.
//! - A row that was scanned says something only as long as no entry was dropped since: a lease is written on the record as it was
//!   before the scan, or on one whose generation is the same.
//! - A shard's record has at most [`QueueConfig::in_flight_max`] entries. A new job needs room there, an expired lease is taken over
//!   in its place: where there is no room, expired leases are looked up by their keys, whatever lies before them.
//! - A row with a mark is handed out only if the mark names it. An echo is removed once the shard's record, as it is after the mark was
//!   read, has no entry of it.
//! - A dead letter that was put back leaves a note in its place for [`QueueConfig::remember_for`], so that whoever is slow to
//!   carry the burial out does not write it once more.
//!
//! # Cut off after every step
//! | cut off after | what is left | what comes of it |
//! |---|---|---|
//! | the mark | a mark without a row | enqueueing was not answered; again under this id, it writes the row |
//! | the row | a job | it is handed out |
//! | a lease's write | a lease that nobody knows of | it ends with its time |
//! | a settlement's write | an entry, settled | whoever leases from this shard next carries it out |
//! | its mark | the row, an entry; the mark names another row, or none | the mark says so already, so the rest is written; enqueueing again writes the row of the later time too, which is the same job |
//! | the dead letter, or the row of a later time | both rows, an entry | the same writes again, then the removal |
//! | the row's removal | an entry | it is dropped with the next write of the record |
//! | replay's time, in the dead letter | a dead letter | replaying again goes on to the same row |
//! | replay's mark | a dead letter, a mark without a row | replaying again, or enqueueing again, writes the row |
//! | replay's row | a job and its dead letter | replaying again writes the same row, or finds that the job has gone on, and closes the dead letter |
//!
//! # What can't be read
//! A row whose bytes make no sense is given up as a job is, and becomes a dead letter with these bytes as its payload. A row whose
//! key makes no sense, or whose mark, and one in the format of a later version stay where they are; they are passed over, warned of
//! and counted by [`depth`](Queue::depth). A shard's record that makes no sense stops this shard, for nobody can tell who holds
//! what.
//!
//! # A shard that fails
//! What is wrong with one shard (its record makes no sense, the store refuses to write it) stops no other: leasing goes on to the next, and
//! answers the error when none has a job. Where a store is out of reach or overloaded, the error is answered at once.
//!
//! A shard's record is one record of the store, and has a limit. A batch of settlements that it has no room for, such as hundreds of
//! burials with long reasons, is cut in parts, each carried out before the next is written.
//!
//! # Clocks
//! Due times and leases are by each caller's clock. One whose clock is ahead by more than a lease lasts takes jobs that
//! others hold; these then settle nothing.
//!
//! # Limits
//! Removed rows are tombstones on a store made of sorted files. So a shard's record says for each lane from which due time on
//! rows may be, at most [`QueueConfig::late_max`] ago, and scans start there. A row that is written later than that after
//! its due time (a writer's clock far behind, a store that was long in coming) is found by a scan from the very start,
//! which is made once in `late_max`: on Cassandra let `gc_grace_seconds` be such that it can be. Lanes are strict: a lane waits as long as there is work in a
//! lower one of the same shard; only where there is no room, expired leases are taken over whatever their lane.

mod config;
mod enqueue;
mod graves;
mod lease;
mod schema;
mod settle;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sysd_core::queue::{DeadLetter, Depth, Enqueued, Held, JobLease, LeasedJob, NewJob, Queue, Settlement};
use sysd_core::{Change, Effect, Error, ErrorKind, Expect, Outcome, Result, Store, Version, Write};

#[doc(hidden)]
pub use config::Bug;
pub use config::QueueConfig;

use crate::calls::Calls;
use schema::Schema;
use state::State;

/// How often a shard's record that others keep changing is tried.
const CONTENTION_MAX: u32 = 32;

/// A queue on a store. Clones share it; each starts at another shard.
#[derive(Debug)]
pub struct RecordQueue<S> {
    shared: Arc<Shared<S>>,
    /// The shard to lease from next.
    next: AtomicUsize,
}

struct Shared<S> {
    calls: Calls<S>,
    schema: Schema,
    config: QueueConfig,
    shards: u16,
    lanes: u8,
    clones: AtomicUsize,
    /// Each shard's record as it was last seen: its condition decides, so it may be stale.
    seen: Box<[Mutex<Option<Seen>>]>,
}

impl<S> std::fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("schema", &self.schema).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A shard's record; no version: it was never written.
#[derive(Clone, Debug, Default)]
struct Seen {
    version: Option<Version>,
    state: Arc<State>,
}

impl<S> Clone for RecordQueue<S> {
    fn clone(&self) -> Self {
        // Apart by a number that has no factor in common with most, so that a few clones are far apart.
        let clone = self.shared.clones.fetch_add(1, Ordering::Relaxed).wrapping_mul(7);
        let next = AtomicUsize::new(self.next.load(Ordering::Relaxed).wrapping_add(clone));
        Self { shared: Arc::clone(&self.shared), next }
    }
}

impl<S: Store> RecordQueue<S> {
    /// Opens the queue of this name on `store`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming `name`, `in_flight_max`, `remember_for`, `shards` or `lanes`: these two also if the queue
    /// was made with others.
    ///
    /// # Cost
    /// One write.
    pub async fn open(store: S, name: &str, config: QueueConfig) -> Result<Self> {
        let counts = [
            ("shards", config.shards == 0),
            ("lanes", config.lanes == 0),
            ("in_flight_max", config.in_flight_max == 0),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::invalid(field, "a queue has at least one"));
        }
        let entries_max = store.limits().value_bytes_max / state::ENTRY_BYTES_MAX;
        if config.in_flight_max > entries_max {
            let message =
                format!("a shard's record has room for {entries_max} jobs in flight on this store; use more shards");
            return Err(Error::invalid("in_flight_max", message));
        }
        if config.remember_for.is_zero() {
            return Err(Error::invalid("remember_for", "what is done is remembered for longer than no time"));
        }
        let schema = Schema::new(name, config.shards)?;
        let calls = Calls {
            store,
            wait_max: config.call_wait_max,
            retry: config.retry,
            clock: Arc::clone(&config.clock),
            entropy: Arc::clone(&config.entropy),
        };
        let (shards, lanes) = (config.shards, config.lanes);
        let head = schema.head();
        let write = Write::put(head.key(), schema::encode_head(shards, lanes)).with_version(calls.mint());
        if let Outcome::Conflict { found } = calls.write(&write.expect(Expect::Absent)).await?.outcome {
            let bytes = found.map(|record| record.value).unwrap_or_default();
            let made = schema::decode_head(head.key(), &bytes)?;
            for (field, made, asked) in [("shards", made.0, shards), ("lanes", made.1.into(), lanes.into())] {
                if made != asked {
                    return Err(Error::invalid(field, format!("this queue was made with {made}, not {asked}")));
                }
            }
        }
        let next = usize::try_from(config.entropy.next_u64() % u64::from(shards)).unwrap_or_default();
        let seen = (0..shards).map(|_| Mutex::default()).collect();
        let shared = Shared { calls, schema, config, shards, lanes, clones: AtomicUsize::new(1), seen };
        Ok(Self { shared: Arc::new(shared), next: AtomicUsize::new(next) })
    }

    /// The longest payload, bytes: a value's limit, less what a dead letter says besides.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.payload_bytes_max()
    }
}

impl<S: Store> Shared<S> {
    fn payload_bytes_max(&self) -> usize {
        self.calls.store.limits().value_bytes_max.saturating_sub(schema::ROW_BYTES)
    }

    fn known(&self, shard: u16) -> Option<Seen> {
        self.seen[usize::from(shard)].lock().clone()
    }

    fn remember(&self, shard: u16, seen: &Seen) {
        let before = self.seen[usize::from(shard)].lock().replace(seen.clone());
        // Not under the lock: it may be the last of a large record.
        drop(before);
    }

    /// Reads a shard's record.
    async fn read(&self, shard: u16) -> Result<Seen> {
        let place = self.schema.shard(shard);
        let found = self.calls.get(place.key()).await?;
        let seen = match found {
            Some(record) => {
                let state = Arc::new(State::decode(place.key(), &record.value)?);
                Seen { version: Some(record.version), state }
            }
            None => Seen::default(),
        };
        self.remember(shard, &seen);
        Ok(seen)
    }

    /// Writes a shard's record over `before`; answers what is written. `Err`: the newer one, and whether this write may have
    /// happened before it.
    async fn replace(&self, shard: u16, before: &Seen, state: State) -> Result<Result<Arc<State>, (Seen, bool)>> {
        let place = self.schema.shard(shard);
        let version = self.calls.mint();
        let expect = match before.version {
            _ if self.config.has(Bug::LeaseAnyway) => Expect::Any,
            Some(version) => Expect::Is(version),
            None => Expect::Absent,
        };
        let change = Change::Put { value: state.encode().into(), version, expires_at: None };
        let written = self.calls.write(&Write { key: place.key(), change, expect }).await?;
        match written.outcome {
            Outcome::Applied => {
                let state = Arc::new(state);
                self.remember(shard, &Seen { version: Some(version), state: Arc::clone(&state) });
                Ok(Ok(state))
            }
            Outcome::Conflict { found } => {
                let seen = match found {
                    Some(record) => {
                        let state = Arc::new(State::decode(place.key(), &record.value)?);
                        Seen { version: Some(record.version), state }
                    }
                    None => Seen::default(),
                };
                self.remember(shard, &seen);
                Ok(Err((seen, written.is_again)))
            }
        }
    }
}

fn contended() -> Error {
    let message = "others kept changing this shard; use more shards, or larger batches";
    Error::new(ErrorKind::Contention, Effect::None, message)
}

fn unsettled() -> Error {
    let message = "the shard has moved on since an attempt whose reply was lost";
    Error::new(ErrorKind::Unavailable, Effect::Unknown, message)
}

impl<S: Store> Queue for RecordQueue<S> {
    async fn enqueue_many(&self, jobs: &[NewJob]) -> Vec<Result<Enqueued>> {
        self.shared.enqueue_many(jobs).await
    }

    async fn lease(&self, jobs_max: usize, hold: Duration) -> Result<Vec<LeasedJob>> {
        if jobs_max == 0 || hold < Duration::from_micros(1) {
            let field = if jobs_max == 0 { "jobs_max" } else { "hold" };
            return Err(Error::invalid(field, "it is at least one"));
        }
        let shards = usize::from(self.shared.shards);
        let mut failed: Option<Error> = None;
        for _ in 0..shards {
            let shard = self.next.fetch_add(1, Ordering::Relaxed) % shards;
            let shard = u16::try_from(shard).unwrap_or_default();
            match self.shared.lease(shard, jobs_max, hold).await {
                Ok(jobs) if jobs.is_empty() => {}
                Ok(jobs) => {
                    if let Some(error) = failed {
                        tracing::warn!(%error, "a shard of a queue hands nothing out");
                    }
                    return Ok(jobs);
                }
                // Of this shard alone, as far as is known, and trying again won't mend it. An outage is of all of them.
                Err(error) if !error.kind().is_transient() && error.kind() != ErrorKind::Invalid => {
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        failed.map_or_else(|| Ok(Vec::new()), Err)
    }

    async fn settle_many(&self, jobs: &[(JobLease, Settlement)]) -> Vec<Result<Held>> {
        self.shared.settle_many(jobs).await
    }

    async fn extend_many(&self, jobs: &[JobLease], hold: Duration) -> Vec<Result<Held>> {
        self.shared.extend_many(jobs, hold).await
    }

    async fn dead_letters(&self, after: Option<&DeadLetter>, letters_max: usize) -> Result<Vec<DeadLetter>> {
        self.shared.dead_letters(after, letters_max).await
    }

    async fn replay(&self, letter: &DeadLetter) -> Result<bool> {
        self.shared.replay(letter).await
    }

    async fn depth(&self, jobs_max: usize) -> Result<Depth> {
        self.shared.depth(jobs_max).await
    }
}
