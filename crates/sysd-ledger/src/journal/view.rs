//! The journal at one moment: what the store has, and the end of it, which was in memory then.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;
use sysd_core::{Error, Order, Result, Scan, Store};

use super::calls::Calls;
use crate::logic::{Books, Chunk};
use crate::model::{AccountId, Change, JournalEntry};
use crate::schema::entry::{Entries, ReadEntry, Trail};
use crate::schema::journal::{self, ChunkHash, Schema};

/// How often a chunk is looked for that a scan did not find.
const LOOKS_MAX: u32 = 3;

/// The end of the journal as it was in memory.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The last number that the store had.
    pub(super) written: u64,
    pub(super) hash: ChunkHash,
    pub(super) last: u64,
    chunks: Vec<Chunk>,
}

impl End {
    pub(crate) fn of(books: &Books) -> Self {
        let tail = books.tail();
        Self { written: tail.written, hash: tail.hash, last: tail.last, chunks: tail.chunks().collect() }
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    fn find(&self, number: u64) -> Option<&Chunk> {
        let at = self.chunks.partition_point(|chunk| chunk.last < number);
        self.chunks.get(at).filter(|chunk| chunk.first <= number)
    }
}

/// Chunks that were read lately, by their first numbers, with their last. None ever changes.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<BTreeMap<u64, (u64, Bytes)>>);

impl Cache {
    /// The chunk that holds that number.
    fn find(&self, number: u64) -> Option<Bytes> {
        let chunks = self.0.lock();
        let (_, (last, body)) = chunks.range(..=number).next_back()?;
        (number <= *last).then(|| body.clone())
    }

    fn put(&self, first: u64, last: u64, body: Bytes, chunks_max: usize) {
        let mut chunks = self.0.lock();
        while chunks.len() >= chunks_max.max(1) {
            // Whoever reads, reads on: those farthest away are needed last.
            let (low, high) = (chunks.first_key_value(), chunks.last_key_value());
            let Some((low, high)) = low.zip(high).map(|(low, high)| (*low.0, *high.0)) else { break };
            let farthest = if first.abs_diff(low) > first.abs_diff(high) { low } else { high };
            chunks.remove(&farthest);
        }
        chunks.insert(first, (last, body));
    }
}

/// A change of an account, and the entry that it is of.
pub(super) struct Line {
    pub(super) entry: JournalEntry,
    pub(super) change: Change,
    pub(super) trail: Trail,
}

/// Reads the journal as it was at one moment.
pub(super) struct View<'a, S> {
    pub(super) calls: &'a Calls<S>,
    pub(super) schema: &'a Schema,
    pub(super) cache: &'a Cache,
    pub(super) end: End,
}

fn read_entry(body: &[u8], number: u64) -> Result<Option<ReadEntry>, &'static str> {
    let mut entries = Entries::of(body)?;
    while entries.next_number() < number {
        if entries.skip()?.is_none() {
            return Ok(None);
        }
    }
    if entries.next_number() == number { entries.next() } else { Ok(None) }
}

impl<S: Store> View<'_, S> {
    /// The number must have been recorded.
    ///
    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key; those of reading the store.
    pub(super) async fn entry(&self, number: u64) -> Result<ReadEntry> {
        let corrupt = |what| Error::corrupt(self.schema.chunk(number).key(), what);
        let body = self.body_with(number).await?;
        read_entry(&body, number).map_err(corrupt)?.ok_or_else(|| corrupt("the journal has a gap"))
    }

    /// The body of the chunk that holds that number, which must have been recorded.
    pub(super) async fn body_with(&self, number: u64) -> Result<Bytes> {
        if let Some(chunk) = self.end.find(number) {
            return Ok(chunk.body.clone());
        }
        if let Some(body) = self.cache.find(number) {
            return Ok(body);
        }
        for _ in 0..LOOKS_MAX {
            if let Some(chunk) = self.chunk_before(number).await?
                && chunk.last >= number
            {
                self.cache.put(chunk.first, chunk.last, chunk.body.clone(), self.calls.config.chunks_cached);
                return Ok(chunk.body);
            }
        }
        Err(Error::corrupt(self.schema.chunk(number).key(), "a chunk of the journal is missing"))
    }

    /// The chunk that begins at that number, or last before it in its segment.
    async fn chunk_before(&self, number: u64) -> Result<Option<Chunk>> {
        let place = self.schema.chunk(number);
        let mut end = Bound::Included(place.sort.to_vec());
        loop {
            let scan = Scan::partition(journal::CHUNKS, &place.partition, 1)
                .range(Bound::Unbounded, end.as_ref().map(Vec::as_slice))
                .order(Order::Descending);
            let page = self.calls.scan(scan).await?;
            if let Some(row) = page.rows.first() {
                let first = journal::number_of(&row.sort);
                let first =
                    first.ok_or_else(|| Error::corrupt(place.key(), "a chunk of the journal without a number"))?;
                return self.unseal(first, &row.record.value).map(|(chunk, _)| Some(chunk));
            }
            // A page may be empty though more follows.
            match page.next {
                Some(next) => end = Bound::Excluded(next.to_vec()),
                None => return Ok(None),
            }
        }
    }

    /// A chunk as it is stored, with the hash of the one before and its own.
    fn unseal(&self, first: u64, value: &Bytes) -> Result<(Chunk, [ChunkHash; 2])> {
        let place = self.schema.chunk(first);
        let corrupt = |what| Error::corrupt(place.key(), what);
        let (body, before, hash) = journal::unseal(place.key(), value)?;
        let mut entries = Entries::of(&body).map_err(corrupt)?;
        if entries.next_number() != first {
            return Err(corrupt("a chunk of the journal has another's numbers"));
        }
        while entries.skip().map_err(corrupt)?.is_some() {}
        let last = entries.next_number() - 1;
        Ok((Chunk { first, last, is_indexed: false, body }, [before, hash]))
    }

    /// The change of an account by the entry of that number.
    pub(super) async fn line(&self, account: AccountId, number: u64) -> Result<Line> {
        let ReadEntry { entry, trails } = self.entry(number).await?;
        let found = entry.changes.iter().zip(trails).find(|(change, _)| change.account == account);
        let found = found.map(|(change, trail)| (*change, trail));
        let (change, trail) = found.ok_or_else(|| {
            Error::corrupt(self.schema.chunk(number).key(), "an account's trail leads to an entry that is not its own")
        })?;
        Ok(Line { entry, change, trail })
    }

    /// The change of an account of that ordinal, which is before where `from` leads on.
    pub(super) async fn line_at(&self, account: AccountId, mut from: Trail, ordinal: u64) -> Result<Line> {
        loop {
            let line = self.line(account, step_towards(&from, ordinal)).await?;
            if line.trail.ordinal <= ordinal || line.trail.ordinal >= from.ordinal {
                return if line.trail.ordinal == ordinal { Ok(line) } else { Err(self.astray(line.entry.number)) };
            }
            from = line.trail;
        }
    }

    pub(super) fn astray(&self, number: u64) -> Error {
        Error::corrupt(self.schema.chunk(number).key(), "an account's trail leads astray")
    }

    /// The last change of an account, before where `from` leads on, of which `is_wanted` is true; it is true of all before
    /// one of which it is.
    pub(super) async fn last_line(
        &self,
        account: AccountId,
        mut from: Trail,
        is_wanted: impl Fn(&JournalEntry) -> bool + Send,
    ) -> Result<Option<Line>> {
        let mut steps = from.len;
        while let Some(step) = steps.checked_sub(1) {
            let number = from.back.get(step).copied().unwrap_or(0);
            let line = self.line(account, number).await?;
            if !is_wanted(&line.entry) {
                // The same step is tried from there.
                if line.trail.ordinal >= from.ordinal {
                    return Err(self.astray(number));
                }
                from = line.trail;
                steps = steps.min(from.len);
            } else if step == 0 {
                return Ok(Some(line));
            } else {
                steps = step;
            }
        }
        Ok(None)
    }

    /// Some chunks from that number on, which is the first of one, each with the hash before it and its own; the last are those
    /// that were in memory, which have none. None if there is nothing more.
    pub(super) async fn chunks(&self, first: u64) -> Result<Vec<(Chunk, Option<[ChunkHash; 2]>)>> {
        if first > self.end.written {
            let rest = self.end.chunks.iter().filter(|chunk| chunk.first >= first);
            return Ok(rest.map(|chunk| (chunk.clone(), None)).collect());
        }
        let place = self.schema.chunk(first);
        let mut start = Bound::Included(place.sort.to_vec());
        loop {
            let bound = start.as_ref().map(Vec::as_slice);
            let scan =
                Scan::partition(journal::CHUNKS, &place.partition, CHUNKS_AT_ONCE).range(bound, Bound::Unbounded);
            let page = self.calls.scan(scan).await?;
            if page.rows.is_empty() {
                match page.next {
                    Some(next) => start = Bound::Excluded(next.to_vec()),
                    None => return Err(Error::corrupt(place.key(), "a chunk of the journal is missing")),
                }
                continue;
            }
            let mut chunks = Vec::with_capacity(page.rows.len());
            let mut next = first;
            for row in &page.rows {
                // A scan is no snapshot: it may have passed one over that was written meanwhile. What was in memory is read there.
                if journal::number_of(&row.sort) != Some(next) || next > self.end.written {
                    break;
                }
                let (chunk, hashes) = self.unseal(next, &row.record.value)?;
                next = chunk.last + 1;
                chunks.push((chunk, Some(hashes)));
            }
            if chunks.is_empty() {
                return Err(Error::corrupt(place.key(), "a chunk of the journal is missing"));
            }
            return Ok(chunks);
        }
    }
}

/// So many chunks are read at once.
const CHUNKS_AT_ONCE: usize = 32;

/// The number to go to next from a change towards that ordinal, which is less than its own: as far as possible, not beyond.
fn step_towards(from: &Trail, ordinal: u64) -> u64 {
    let before = from.ordinal.saturating_sub(1);
    let reaches = |step: usize| (before >> (3 * step)) << (3 * step);
    let farthest = (0..from.len).rev().find(|step| reaches(*step) >= ordinal).unwrap_or(0);
    from.back.get(farthest).copied().unwrap_or(0)
}
