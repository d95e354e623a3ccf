//! The future that brings the journal to the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, try_join_all};
use sysd_core::{Clock as _, Error, Replicated, Result, Store, yield_now};

use super::{Journal, JournalConfig};
use crate::logic::{Books, Chunk, Command};
use crate::model::{AccountId, Date, JournalEntry, TransactionId};
use crate::schema::entry::Entries;
use crate::schema::journal::{self, ChunkHash, Dated, Partitions, Place};

/// So many chunks are written at once.
const CHUNKS_AT_ONCE: usize = 64;

/// If so many more ids wait to leave memory than leave together, the store is too slow for what is asked.
pub(super) const IDS_WAITING_MAX: u64 = 8 << 20;

/// So many blocks of ids leave with one entry of the log: each holds up what is asked for about a millisecond.
const BLOCKS_AT_ONCE: usize = 4;

/// After an error the next look comes so many times later.
const WAITS_AFTER_ERROR: u32 = 16;

/// Brings what the books recorded to the store, and lets old ids leave memory: spawn it, in one process or in several. It never ends by
/// itself, and as long as it is there it holds the log open: drop it before waiting for the end of the log's driver. Without one, a ledger stops when 64 MiB of its journal wait.
///
/// # Cancel safety
/// It may be dropped at any time, and another made: what it had done is done again, with the same bytes.
#[must_use = "nothing is written until it is spawned"]
pub struct JournalWriter {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for JournalWriter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(context)
    }
}

impl std::fmt::Debug for JournalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalWriter").finish_non_exhaustive()
    }
}

impl JournalWriter {
    pub(crate) fn new<L: Replicated<Books>, S: Store>(log: L, journal: Arc<Journal<S>>) -> Self {
        Self { future: Box::pin(run(log, journal)) }
    }
}

/// Side by side: many ids leave together, and while they do the journal goes on.
async fn run<L: Replicated<Books>, S: Store>(log: L, journal: Arc<Journal<S>>) {
    let _watched = Watched(&journal);
    let chunks = again(&journal.calls.config, || journal.write_chunks(&log));
    let ids = again(&journal.calls.config, || journal.write_ids(&log));
    join(chunks, ids).await;
}

/// While it is there, what waits for the store is looked at again and again. Without a writer nobody waits for what it saw last: the
/// books decide.
struct Watched<'a, S>(&'a Journal<S>);

impl<S> Drop for Watched<'_, S> {
    fn drop(&mut self) {
        self.0.behind.store(0, Ordering::Relaxed);
        self.0.are_ids_behind.store(false, Ordering::Relaxed);
    }
}

/// Does it for ever: at once as long as there is something to do.
async fn again<Fut: Future<Output = Result<bool>> + Send>(config: &JournalConfig, write: impl Fn() -> Fut + Send) {
    loop {
        let wait = match write().await {
            Ok(true) => continue,
            Ok(false) => config.write_every,
            Err(error) => {
                tracing::warn!(%error, "the journal could not be written; it waits in memory");
                config.write_every.saturating_mul(WAITS_AFTER_ERROR)
            }
        };
        config.clock.sleep_until(config.clock.now().saturating_add(wait)).await;
    }
}

impl<S: Store> Journal<S> {
    /// Writes what waits, some of it; answers whether there may be more.
    ///
    /// # Errors
    /// Nothing is lost by any.
    pub(crate) async fn write_behind<L: Replicated<Books>>(&self, log: &L) -> Result<bool> {
        // What was written may let ids leave.
        let has_written = self.write_chunks(log).await?;
        Ok(self.write_ids(log).await? || has_written)
    }

    /// Writes all that waits now; not what comes meanwhile.
    ///
    /// # Errors
    /// Nothing is lost by any.
    pub(crate) async fn write_all<L: Replicated<Books>>(&self, log: &L) -> Result<()> {
        let ids_max = self.calls.config.ids_in_memory;
        let (full, count) = log.read_within(Duration::MAX, |books| (books.journal_full(), books.journal_len()))?;
        let is_done = |books: &Books| {
            let has_left = books.next_to_leave(ids_max).is_none_or(|(span, _)| span.before >= count);
            books.tail().written >= full && has_left
        };
        while self.write_behind(log).await? && !log.read_within(Duration::MAX, is_done)? {}
        Ok(())
    }

    /// Brings full chunks to the store; answers whether there were any.
    async fn write_chunks<L: Replicated<Books>>(&self, log: &L) -> Result<bool> {
        let (before, chunks) = log.read_within(Duration::MAX, |books| {
            let tail = books.tail();
            self.behind.store(tail.bytes(), Ordering::Relaxed);
            (tail.hash, tail.full.iter().take(CHUNKS_AT_ONCE).cloned().collect::<Vec<_>>())
        })?;
        let Some(last) = chunks.last() else { return Ok(false) };
        let (mut hash, mut records) = (before, Vec::with_capacity(chunks.len()));
        for chunk in &chunks {
            let value;
            (value, hash) = journal::seal(hash, &chunk.body);
            records.push((self.schema.chunk(chunk.first), value));
            if chunk.is_indexed {
                self.index_all(chunk, &mut records)?;
            }
        }
        // The first of all goes alone: by it another ledger of this name is found before anything else is written.
        let first = usize::from(before == ChunkHash::default()).min(records.len());
        self.calls.put_all(&records[..first]).await?;
        self.calls.put_all(&records[first..]).await?;
        log.submit(Command::Wrote { through: last.last, hash }).await?;
        Ok(true)
    }

    /// What finds the entries of a chunk by their day or their metadata.
    fn index_all(&self, chunk: &Chunk, records: &mut Vec<(Place, Bytes)>) -> Result<()> {
        let corrupt = |what| Error::corrupt(self.schema.chunk(chunk.first).key(), what);
        let mut entries = Entries::of(&chunk.body).map_err(corrupt)?;
        while let Some(read) = entries.next().map_err(corrupt)? {
            self.index(&read.entry, |_, place, value| records.push((place, value)));
        }
        Ok(())
    }

    /// What finds an entry by its day or its metadata: which of them, and the row.
    pub(super) fn index(&self, entry: &JournalEntry, mut each: impl FnMut(&'static str, Place, Bytes)) {
        let Some(transaction) = entry.transaction() else { return };
        for (change, dated) in dated(entry) {
            let place = self.schema.day(change, dated.effective, entry.number);
            each("its day", place, journal::encode_dated(&dated));
        }
        for (key, value) in transaction.details.iter().flat_map(|details| details.metadata()) {
            each("its metadata", self.schema.tag(key, value, entry.number), Bytes::new());
        }
    }

    /// The row that finds by which number an id was reversed.
    pub(super) fn reversal(&self, id: TransactionId, by: u64) -> (Place, Bytes) {
        (self.schema.reversal(id), journal::encode_reversal(by))
    }

    /// Lets ids leave that may; answers whether any did.
    async fn write_ids<L: Replicated<Books>>(&self, log: &L) -> Result<bool> {
        let ids_max = self.calls.config.ids_in_memory;
        let (next, waiting) =
            log.read_within(Duration::MAX, |books| (books.next_to_leave(ids_max), books.ids_waiting(ids_max)))?;
        self.ids_wait(waiting);
        let Some((span, forgotten)) = next else { return Ok(false) };
        // If some of them have left, the store has the pages of all.
        if forgotten == span.before {
            let (mut ids, mut reversals) = (Partitions::default(), Vec::new());
            for through in span.blocks(forgotten) {
                // Somebody else was faster.
                let Some(some) = log.read_within(Duration::MAX, |books| books.leaving(through))? else {
                    return Ok(true);
                };
                ids.extend(some.ids);
                reversals.extend(some.reversals.iter().map(|(id, by)| self.reversal(*id, *by)));
                yield_now().await;
            }
            let pages = self.schema.pages(&ids).into_iter().map(|(_, place, value)| (place, value));
            self.calls.put_all(&pages.chain(reversals).collect::<Vec<_>>()).await?;
        }
        let blocks: Vec<_> = span.blocks(forgotten).collect();
        for some in blocks.chunks(BLOCKS_AT_ONCE) {
            try_join_all(some.iter().map(|through| log.submit(Command::Forget { through: *through }))).await?;
        }
        Ok(true)
    }
}

/// What an entry posted for another day than its own.
pub(super) fn dated(entry: &JournalEntry) -> impl Iterator<Item = (AccountId, Dated)> + use<'_> {
    let (recorded_on, effective) = (Date::of(entry.recorded_at), entry.effective());
    let changes = entry.changes.iter().filter(move |change| recorded_on != effective && change.posted > 0);
    changes
        .map(move |change| (change.account, Dated { recorded_on, effective, side: change.side, posted: change.posted }))
}
