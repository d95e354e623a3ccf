//! What can be read of the books beside the books themselves: how they were, and what happened.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::pin::pin;

use foldhash::fast::RandomState;
use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use sysd_core::{Error, KeyBytes, Result, Store, Timestamp};

use super::view::{End, Line, View};
use super::{Journal, writer};
use crate::logic::{Books, Looked};
use crate::model::{AccountId, Balance, Change, Date, JournalEntry, Side, Transaction, TransactionId};
use crate::schema::entry::{Entries, Trail};
use crate::schema::journal::{self, Dated};

/// As of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// By what was recorded until then, that moment included.
    Recorded(Timestamp),
    /// By what counts for that day or one before it, as far as it is known now. Nothing is held as of a day.
    Effective(Date),
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The newest first.
    Newest,
    /// The newest before that ordinal first.
    Before(u64),
    /// The oldest after that ordinal first; after zero: from the beginning.
    After(u64),
}

/// A change of an account, with what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementLine {
    /// What was changed, with the balance just after it, and its ordinal, which the next [`Page`] names.
    pub change: Change,
    /// What changed it.
    pub entry: JournalEntry,
}

impl From<Line> for StatementLine {
    fn from(line: Line) -> Self {
        Self { change: line.change, entry: line.entry }
    }
}

/// What reads of an account begin with.
pub(crate) struct Head {
    end: End,
    /// As if of a change that comes next.
    trail: Trail,
}

impl Head {
    pub(crate) fn of(books: &Books, account: AccountId) -> Option<Self> {
        Some(Self { end: End::of(books), trail: books.trail_of(account)? })
    }
}

impl<S: Store> Journal<S> {
    /// The sums of an account as of a recorded time.
    pub(crate) async fn balance_recorded(&self, account: AccountId, head: Head, at: Timestamp) -> Result<Balance> {
        let view = self.view(head.end);
        let line = view.last_line(account, head.trail, |entry| entry.recorded_at <= at).await?;
        Ok(line.map_or_else(Balance::default, |line| line.change.balance))
    }

    /// What was posted in an account that counts for a day or one before it.
    pub(crate) async fn balance_effective(&self, account: AccountId, head: Head, day: Date) -> Result<Balance> {
        let view = self.view(head.end);
        let by_then = |entry: &JournalEntry| Date::of(entry.recorded_at) <= day;
        let line = view.last_line(account, head.trail, by_then).await?;
        let recorded = line.map_or_else(Balance::default, |line| line.change.balance);
        let mut sums = [recorded.debits_posted, recorded.credits_posted];
        let mut count = |dated: &Dated| {
            let sum = &mut sums[usize::from(dated.side == Side::Credit)];
            match (dated.recorded_on <= day, dated.effective <= day) {
                (false, true) => *sum = sum.saturating_add(dated.posted),
                (true, false) => *sum = sum.saturating_sub(dated.posted),
                _ => {}
            }
        };
        view.dated(account, &mut count).await?;
        let [debits_posted, credits_posted] = sums;
        Ok(Balance { debits_posted, credits_posted, ..Balance::default() })
    }

    /// Changes of an account.
    pub(crate) async fn statement(
        &self,
        account: AccountId,
        head: Head,
        page: Page,
        limit: usize,
    ) -> Result<Vec<StatementLine>> {
        let view = self.view(head.end);
        let newest = head.trail.ordinal.saturating_sub(1);
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let (first, last) = match page {
            Page::Newest => (newest.saturating_sub(limit) + 1, newest),
            Page::Before(ordinal) => {
                let last = newest.min(ordinal.saturating_sub(1));
                (last.saturating_sub(limit) + 1, last)
            }
            Page::After(ordinal) => (ordinal.saturating_add(1), newest.min(ordinal.saturating_add(limit))),
        };
        let mut lines = Vec::new();
        if first > last || limit == 0 {
            return Ok(lines);
        }
        let mut line = view.line_at(account, head.trail, last).await?;
        loop {
            let (ordinal, before) = (line.trail.ordinal, line.trail.back[0]);
            lines.push(StatementLine::from(line));
            if ordinal <= first {
                break;
            }
            line = view.line(account, before).await?;
            if line.trail.ordinal != ordinal - 1 {
                return Err(view.astray(before));
            }
        }
        if matches!(page, Page::After(_)) {
            lines.reverse();
        }
        Ok(lines)
    }

    /// Entries after a number, some of them; none if there are no more.
    pub(crate) async fn entries(&self, end: End, after: u64, limit: usize) -> Result<Vec<JournalEntry>> {
        let view = self.view(end);
        let (first, mut found) = (after.saturating_add(1), Vec::new());
        if first > view.end.last || limit == 0 {
            return Ok(found);
        }
        // The chunk that it is in, then those behind it.
        let mut next = first;
        while found.len() < limit && next <= view.end.last {
            let body = view.body_with(next).await?;
            let corrupt = |what| Error::corrupt(view.schema.chunk(next).key(), what);
            let mut entries = Entries::of(&body).map_err(corrupt)?;
            while entries.next_number() < next && entries.skip().map_err(corrupt)?.is_some() {}
            while found.len() < limit
                && let Some(read) = entries.next().map_err(corrupt)?
            {
                found.push(read.entry);
            }
            next = entries.next_number();
        }
        Ok(found)
    }

    /// The entry of a number.
    pub(crate) async fn entry(&self, end: End, number: u64) -> Result<Option<JournalEntry>> {
        if number == 0 || number > end.last {
            return Ok(None);
        }
        self.view(end).entry(number).await.map(|read| Some(read.entry))
    }

    /// Transactions with that metadata, after a number, by their numbers.
    pub(crate) async fn find_by_metadata(
        &self,
        end: End,
        key: &str,
        value: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<JournalEntry>> {
        let view = self.view(end);
        let mut found = Vec::new();
        for number in view.tagged(key, value, after, limit).await? {
            found.push(view.entry(number).await?.entry);
        }
        let after = found.last().map_or(after, |entry| entry.number);
        let is_it = |entry: &JournalEntry| {
            let details = entry.transaction().and_then(|transaction| transaction.details.as_ref());
            details.is_some_and(|details| details.metadata().iter().any(|(k, v)| (&**k, &**v) == (key, value)))
        };
        view.in_memory(|entry| {
            if found.len() < limit && entry.number > after && is_it(entry) {
                found.push(entry.clone());
            }
        })?;
        Ok(found)
    }

    /// The entries of those numbers that were recorded.
    pub(crate) async fn entries_of(&self, end: End, numbers: BTreeSet<u64>) -> Result<BTreeMap<u64, JournalEntry>> {
        let (last, view) = (end.last, self.view(end));
        let mut numbers = numbers.range(1..=last).copied().peekable();
        let mut found = BTreeMap::new();
        while let Some(first) = numbers.peek().copied() {
            let body = view.body_with(first).await?;
            let corrupt = |what| Error::corrupt(self.schema.chunk(first).key(), what);
            let mut entries = Entries::of(&body).map_err(corrupt)?;
            // All that are in one chunk, read once.
            loop {
                if numbers.peek() != Some(&entries.next_number()) {
                    if numbers.peek().is_none() || entries.skip().map_err(corrupt)?.is_none() {
                        break;
                    }
                } else if let Some(read) = entries.next().map_err(corrupt)? {
                    found.insert(read.entry.number, read.entry);
                    numbers.next();
                } else {
                    break;
                }
            }
            if numbers.peek() == Some(&first) {
                return Err(corrupt("the journal has a gap"));
            }
        }
        Ok(found)
    }

    /// What the books know of the ids of some transactions, and what the store says of the others.
    pub(crate) async fn look_up(&self, transactions: &[Transaction], known: Looked) -> Result<Looked> {
        let (mut ids, mut reversed) = (Vec::new(), Vec::new());
        for transaction in transactions {
            ids.extend([Some(transaction.id), transaction.reverses].into_iter().flatten());
            reversed.extend(transaction.reverses);
        }
        ids.retain(|id| known.number(*id).is_none());
        reversed.retain(|id| known.reversed_by(*id).is_none());
        let numbers = self.numbers_of(ids).await?;
        let look = |id| async move { Ok::<_, Error>((id, self.reversed_on_store(id).await?)) };
        let looks: Vec<_> = reversed.into_iter().map(look).collect();
        let reversed: Vec<_> = iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        let reversed = reversed.into_iter().filter_map(|(id, by)| by.map(|by| (id, by))).collect();
        Ok(Looked::all([known, Looked::new(u64::MAX, numbers, reversed)]))
    }

    /// The numbers of those ids that have left memory. Those that lie together are looked up together: many were minted within a second
    /// or two.
    pub(crate) async fn numbers_of(
        &self,
        ids: impl IntoIterator<Item = TransactionId> + Send,
    ) -> Result<Vec<(TransactionId, u64)>> {
        let mut together = BTreeMap::<_, HashSet<_, RandomState>>::new();
        for id in ids {
            together.entry(self.schema.ids(id, 0).partition).or_default().insert(id);
        }
        let looks =
            together.into_iter().map(|(partition, ids)| self.numbers_on_store(partition, ids)).collect::<Vec<_>>();
        let numbers: Vec<_> = iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(numbers.into_iter().flatten().collect())
    }

    /// By which number an id was reversed, if that has left memory.
    pub(crate) async fn reversed_on_store(&self, id: TransactionId) -> Result<Option<u64>> {
        let place = self.schema.reversal(id);
        let record = self.calls.get(place.key()).await?;
        record.map(|record| journal::decode_reversal(place.key(), &record.value)).transpose()
    }

    /// The number of an id that has left memory.
    pub(crate) async fn number_on_store(&self, id: TransactionId) -> Result<Option<u64>> {
        let found = self.numbers_of([id]).await?;
        Ok(found.first().map(|(_, number)| *number))
    }

    /// The numbers of those ids of one partition that have left memory.
    async fn numbers_on_store(
        &self,
        partition: KeyBytes,
        mut ids: HashSet<TransactionId, RandomState>,
    ) -> Result<Vec<(TransactionId, u64)>> {
        let mut found = Vec::new();
        let mut pages = pin!(self.calls.rows(&partition, (Bound::Unbounded, Bound::Unbounded), PAGES_AT_ONCE));
        while let Some((page, record)) = pages.try_next().await? {
            let first = page.number("a page of ids without a number")?;
            journal::take_from_page(page.key(), first, &record.value, &mut ids, &mut found)?;
            if ids.is_empty() {
                break;
            }
        }
        Ok(found)
    }
}

/// So many partitions of ids are looked at at once.
const LOOKS_AT_ONCE: usize = 64;
const TAGS_AT_ONCE: usize = 256;
const PAGES_AT_ONCE: usize = 256;
const DAYS_AT_ONCE: usize = 1_024;

impl<S: Store> View<'_, S> {
    /// The numbers on the store with that metadata, after a number.
    async fn tagged(&self, key: &str, value: &str, after: u64, limit: usize) -> Result<Vec<u64>> {
        let (mut found, written) = (Vec::new(), self.end.written);
        if after >= written {
            return Ok(found);
        }
        for first in journal::stretches(after + 1, written) {
            let partition = self.schema.tag(key, value, first).partition;
            let start = Bound::Excluded(self.schema.tag(key, value, after).sort.to_vec());
            let to = self.schema.tag(key, value, written).sort;
            let left = limit - found.len();
            let range = (start, Bound::Included(&*to));
            let mut rows = pin!(self.calls.rows(&partition, range, left.clamp(1, TAGS_AT_ONCE)).take(left));
            while let Some((row, _)) = rows.try_next().await? {
                found.push(row.number("an entry by metadata without a number")?);
            }
        }
        Ok(found)
    }

    /// All that was posted in an account for another day than that on which it was recorded.
    async fn dated(&self, account: AccountId, count: &mut (impl FnMut(&Dated) + Send)) -> Result<()> {
        for first in journal::stretches(0, self.end.written) {
            let partition = self.schema.day(account, Date(0), first).partition;
            let range = (Bound::Unbounded, Bound::Unbounded);
            let mut rows = pin!(self.calls.rows(&partition, range, DAYS_AT_ONCE));
            while let Some((row, record)) = rows.try_next().await? {
                let (number, dated) = journal::decode_dated(row.key(), &record.value)?;
                // What was written meanwhile is read in memory.
                if number <= self.end.written {
                    count(&dated);
                }
            }
        }
        self.in_memory(|entry| {
            writer::dated(entry).filter(|(of, _)| *of == account).for_each(|(_, dated)| count(&dated));
        })
    }

    /// All entries that were in memory, in order.
    fn in_memory(&self, mut each: impl FnMut(&JournalEntry)) -> Result<()> {
        for chunk in self.end.chunks() {
            let corrupt = |what| Error::corrupt(self.schema.chunk(chunk.first).key(), what);
            let mut entries = Entries::of(&chunk.body).map_err(corrupt)?;
            while let Some(read) = entries.next().map_err(corrupt)? {
                each(&read.entry);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use sysd_core::StoreExt as _;
    use sysd_storage::Memory;

    use super::*;
    use crate::journal::JournalConfig;

    /// The books would need millions of entries; the rows that lead to them are enough.
    #[tokio::test]
    async fn what_lies_in_several_partitions_is_found_in_order() {
        let store = Memory::new();
        let journal = Journal::new(store.clone(), "books", JournalConfig::default(), true).unwrap();
        let numbers = [1, (1 << 22) - 1, 1 << 22, (1 << 22) + 1, 5 << 22, (5 << 22) + 9];
        let day = Date(20_000);
        let dated = Dated { recorded_on: Date(20_001), effective: day, side: Side::Debit, posted: 1 };
        for number in numbers {
            let places = [
                (journal.schema.tag("order", "7", number), Bytes::new()),
                (journal.schema.tag("order", "8", number), Bytes::new()),
                (journal.schema.day(AccountId(3), day, number), journal::encode_dated(&dated)),
            ];
            for (place, value) in places {
                store.put(place.key(), value).await.unwrap();
            }
        }
        let (mut end, end_written) = (End::of(&Books::default()), (5 << 22) + 8);
        end.written = end_written;
        let view = journal.view(end);
        assert_eq!(view.tagged("order", "7", 0, 100).await.unwrap(), numbers[..5]);
        assert_eq!(view.tagged("order", "7", 1, 3).await.unwrap(), numbers[1..4]);
        assert_eq!(view.tagged("order", "7", 1 << 22, 100).await.unwrap(), numbers[3..5]);
        for after in [end_written, end_written + 1, 1 << 30, u64::MAX] {
            assert!(view.tagged("order", "7", after, 100).await.unwrap().is_empty());
        }
        let mut count = 0;
        view.dated(AccountId(3), &mut |dated| count += dated.posted).await.unwrap();
        assert_eq!(count, 5);
    }
}
