//! The end of the journal, which the store does not have yet.

use std::collections::VecDeque;

use bytes::Bytes;
use sysd_core::Timestamp;

use super::resolve::Change;
use crate::model::{Balance, Posting, Transaction, TransactionId};
use crate::schema::entry::{self, OpenBody, PairEntry};
use crate::schema::journal::{CHUNK_BYTES, ChunkHash, SEGMENT_NUMBERS};

/// A part of the journal that is full: it will never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Whether some entry of it is to be found by its day or its metadata.
    pub(crate) is_indexed: bool,
    /// See [`entry`].
    pub(crate) body: Bytes,
}

/// Entries in the order of their numbers: full chunks, and one that is being filled.
///
/// Where a chunk ends depends on its entries alone, so every replica has the same.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// The last number that the store has.
    pub(crate) written: u64,
    /// The hash of the chunk that ends there, and so of everything before it.
    pub(crate) hash: ChunkHash,
    pub(crate) full: VecDeque<Chunk>,
    /// The body of the one that is being filled; empty if nothing is in it.
    pub(crate) open: OpenBody,
    pub(crate) open_first: u64,
    pub(crate) is_open_indexed: bool,
    pub(crate) last: u64,
    pub(crate) last_at: Timestamp,
    full_bytes: usize,
    /// The entry that is being written.
    line: Vec<u8>,
}

/// What is recorded under a number.
#[derive(Clone, Copy)]
pub(super) enum Recorded<'a> {
    Transaction(&'a Transaction),
    HoldEnded(TransactionId),
}

impl Tail {
    /// With nothing behind that number, which the store has.
    pub(crate) fn after(written: u64, hash: ChunkHash) -> Self {
        Self { written, hash, ..Self::default() }
    }

    /// All that the store may not have yet, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let open = (!self.open.is_empty()).then(|| Chunk {
            first: self.open_first,
            last: self.last,
            is_indexed: self.is_open_indexed,
            body: Bytes::copy_from_slice(&self.open),
        });
        self.full.iter().cloned().chain(open)
    }

    /// How many bytes wait for the store.
    pub(crate) fn bytes(&self) -> usize {
        self.full_bytes + self.open.len()
    }

    /// Begins the entry of the next number: answers how many microseconds it is after the one before.
    #[inline]
    fn next(&mut self, now: Timestamp) -> u64 {
        let number = self.last + 1;
        if self.open.is_empty() {
            self.open_first = number;
            self.last_at = now;
            self.open.begin(number, now);
        }
        self.last = number;
        let elapsed = now.as_micros().saturating_sub(self.last_at.as_micros());
        self.last_at = now;
        elapsed
    }

    /// Begins the entry of the next number, of a transaction with these two postings and nothing else.
    #[inline]
    pub(super) fn begin_pair(&mut self, now: Timestamp, id: TransactionId, postings: &[Posting; 2]) -> PairEntry<'_> {
        let elapsed = self.next(now);
        self.open.begin_pair(elapsed, id, postings)
    }

    #[inline]
    pub(super) fn end_pair(&mut self, bytes: usize) {
        self.open.end_pair(bytes);
        self.close_if_full();
    }

    /// Begins the entry of the next number, which has so many changes; [`end`](Self::end) ends it. Answers whether its changes are to
    /// be written whole.
    #[inline]
    pub(super) fn begin(&mut self, now: Timestamp, recorded: Recorded<'_>, count: usize) -> bool {
        let elapsed = self.next(now);
        self.line.clear();
        match recorded {
            Recorded::Transaction(transaction) => {
                self.is_open_indexed |= transaction.effective.is_some() || transaction.details.is_some();
                entry::put_transaction_entry(elapsed, transaction, count, &mut self.line)
            }
            Recorded::HoldEnded(hold) => {
                entry::put_hold_ended_entry(elapsed, hold, count, &mut self.line);
                true
            }
        }
    }

    #[inline]
    pub(super) fn put_change(
        &mut self,
        is_whole: bool,
        change: &Change,
        row: &super::accounts::Row,
        balance: &Balance,
        trail: &entry::Trail,
    ) {
        if is_whole {
            let amounts = [change.posted, change.held, change.freed];
            entry::put_whole_change(row.id, row.currency, change.side, amounts, &mut self.line);
        }
        entry::put_after(balance, self.last, trail, &mut self.line);
    }

    #[inline]
    pub(super) fn end(&mut self) {
        self.open.put_sized(&self.line);
        self.close_if_full();
    }

    #[inline]
    fn close_if_full(&mut self) {
        if self.open.len() >= CHUNK_BYTES || self.last.is_multiple_of(SEGMENT_NUMBERS) {
            self.close();
        }
    }

    #[cold]
    fn close(&mut self) {
        let body = self.open.take();
        self.full_bytes += body.len();
        let is_indexed = std::mem::take(&mut self.is_open_indexed);
        self.full.push_back(Chunk { first: self.open_first, last: self.last, is_indexed, body });
    }

    /// The store has everything through that number, the last of a chunk, whose hash is given. What is no such number changes nothing.
    pub(super) fn wrote(&mut self, through: u64, hash: ChunkHash) {
        let Some(count) = self.full.iter().position(|chunk| chunk.last == through) else { return };
        for chunk in self.full.drain(..=count) {
            self.full_bytes -= chunk.body.len();
        }
        self.written = through;
        self.hash = hash;
    }

    /// Puts a full chunk behind the others, as a snapshot had it.
    pub(crate) fn push_full(&mut self, chunk: Chunk) {
        self.full_bytes += chunk.body.len();
        self.full.push_back(chunk);
    }
}
