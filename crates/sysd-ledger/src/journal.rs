//! The journal on the store: written behind the books, read beside them.
//!
//! The books answer from memory; what they recorded goes to the store in chunks, which a future of the caller's writes. Until then it is
//! part of the books, so of the log and its snapshots, and is read there: a read sees everything, wherever it is.
//!
//! Cut off after any step, the writer's work is done again by whoever comes next, with the same bytes: it says to the log that a
//! chunk is on the store, or that ids are, only once they are.

mod audit;
mod auditor;
mod calls;
mod reads;
mod view;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use audit::Claim;
pub use audit::{Audit, AuditError};
pub(crate) use reads::Head;
pub use reads::{AsOf, Page, StatementLine};
use sysd_core::{Clock, Effect, Entropy, Error, ErrorKind, Result, RetryPolicy, Store, SystemClock, SystemEntropy};
pub use writer::JournalWriter;

use self::calls::Calls;
pub(crate) use self::view::End;
use self::view::{Cache, View};
use crate::logic::TAIL_BYTES_MAX;
use crate::schema::journal::Schema;

/// How the journal is written and read. Start from the default.
#[derive(Clone)]
pub struct JournalConfig {
    /// How many ids of transactions stay in memory, about 30 bytes each; older ones are asked of the store. A transaction under an
    /// id that might be so old costs a read and an append more; UUIDs of version 7 say that they are not, if they were minted after all
    /// that has left was recorded.
    ///
    /// Older ones leave 2^20 together (fewer at first), so as many more are in memory. If 2^23 more are because the store is too slow,
    /// transactions are refused with [`Throttled`](ErrorKind::Throttled) where the writer runs.
    pub ids_in_memory: u64,
    /// How often the writer looks for what is to be written.
    pub write_every: Duration,
    /// How many chunks, of 32 KiB or a little more, reads keep in memory.
    pub chunks_cached: usize,
    /// How long one storage call may take, be it of many records or of one: if those are too many, the next call has fewer. And how long a
    /// transaction waits while more than 32 MiB of the journal wait for the store.
    pub call_wait_max: Duration,
    /// When calls of the store are tried again.
    pub retry: RetryPolicy,
    /// The time, of deadlines and waits.
    pub clock: Arc<dyn Clock>,
    /// Chance, for waits.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for JournalConfig {
    /// Four million ids, a look every 20 ms, 256 chunks, calls of 2 s, by the system's clock.
    fn default() -> Self {
        Self {
            ids_in_memory: 4 << 20,
            write_every: Duration::from_millis(20),
            chunks_cached: 256,
            call_wait_max: Duration::from_secs(2),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl fmt::Debug for JournalConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalConfig")
            .field("ids_in_memory", &self.ids_in_memory)
            .field("write_every", &self.write_every)
            .field("chunks_cached", &self.chunks_cached)
            .field("call_wait_max", &self.call_wait_max)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// When more of the journal waits than this, transactions wait too: half of what may.
const BEHIND_BYTES: usize = TAIL_BYTES_MAX / 2;

/// A ledger's journal on its store.
#[derive(Debug)]
pub(crate) struct Journal<S> {
    calls: Calls<S>,
    schema: Schema,
    cache: Cache,
    /// How many bytes waited for the store when the writer last looked.
    behind: AtomicUsize,
    /// Whether too many ids wait to leave memory, as it saw it then.
    are_ids_behind: AtomicBool,
}

impl<S: Store> Journal<S> {
    /// `may_forget`: the store may have forgotten what it had, so what is there may be written over.
    pub(crate) fn new(store: S, name: &str, config: JournalConfig, may_forget: bool) -> Result<Self> {
        if config.write_every.is_zero() {
            return Err(Error::invalid("write_every", "it is more than zero"));
        }
        Ok(Self {
            calls: Calls::new(store, config, may_forget),
            schema: Schema::new(name)?,
            cache: Cache::default(),
            behind: AtomicUsize::new(0),
            are_ids_behind: AtomicBool::new(false),
        })
    }

    /// Waits while too much of the journal waits for the store, as long as a call of it may take; then the books decide.
    ///
    /// # Cancel safety
    /// Nothing was done.
    pub(crate) async fn room(&self) {
        if self.behind.load(Ordering::Relaxed) <= BEHIND_BYTES {
            return;
        }
        let JournalConfig { clock, write_every, call_wait_max, .. } = &self.calls.config;
        let deadline = clock.now().saturating_add(*call_wait_max);
        while self.behind.load(Ordering::Relaxed) > BEHIND_BYTES && clock.now() < deadline {
            clock.sleep_until(clock.now().saturating_add(*write_every).min(deadline)).await;
        }
    }

    /// So many ids are in memory that need not be.
    pub(crate) fn ids_wait(&self, count: u64) {
        self.are_ids_behind.store(count > writer::IDS_WAITING_MAX, Ordering::Relaxed);
    }

    /// Whether to record more now would fill memory with ids that the store does not take as fast.
    ///
    /// # Errors
    /// [`Throttled`](ErrorKind::Throttled).
    pub(crate) fn takes_ids(&self) -> Result<()> {
        if !self.are_ids_behind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = "millions of ids wait to leave memory, which the store takes slower than they come; ask for less at once, \
                       use UUIDs of version 7, or keep more ids in memory";
        Err(Error::new(ErrorKind::Throttled, Effect::None, message))
    }

    fn view(&self, end: End) -> View<'_, S> {
        View { calls: &self.calls, schema: &self.schema, cache: &self.cache, end }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sysd_storage::Memory;

    use super::*;

    #[test]
    fn who_asks_is_held_back_while_too_many_ids_wait() {
        let journal = Journal::new(Memory::new(), "books", JournalConfig::default(), true).unwrap();
        for (waiting, is_held_back) in
            [(writer::IDS_WAITING_MAX, false), (writer::IDS_WAITING_MAX + 1, true), (0, false)]
        {
            journal.ids_wait(waiting);
            let asked = journal.takes_ids().map_err(|error| (error.kind(), error.effect()));
            assert_eq!(asked, if is_held_back { Err((ErrorKind::Throttled, Effect::None)) } else { Ok(()) });
        }
    }
}
