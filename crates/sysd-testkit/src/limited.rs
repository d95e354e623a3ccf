//! The sizes and pages of a stricter backend, on any store.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::ops::Bound;

use bytes::Bytes;
use sysd_core::{
    Clock, ErasedProcedure, Key, Limits, Order, Outcome, OutputBytes, Page, Record, Result, Scan, Store, Trim, Trimmed,
    Write,
};

/// DynamoDB's item: value, key and attribute names together.
const ITEM_BYTES_MAX: usize = 400 << 10;
const PARTITION_BYTES_MAX: usize = 2_048;
const SORT_BYTES_MAX: usize = 1_024;
/// For the names of attributes, the version and the expiry.
const ATTRIBUTE_BYTES: usize = 128;
const READ_BATCH_MAX: usize = 100;
const WRITE_BATCH_MAX: usize = 25;
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Imposes DynamoDB's sizes on a store, and pages as short as any backend's: empty ones too, with a cursor behind them.
///
/// What works under it does not lean on the generosity of the store below. Which pages are cut, and where, follows from the
/// scan alone: the same scan of the same rows gives the same page.
///
/// ```
/// use sysd_core::{Store, SystemClock};
/// use sysd_storage::Memory;
/// use sysd_testkit::Limited;
/// let store = Limited::new(Memory::new(), SystemClock);
/// assert!(store.limits().value_bytes_max < 400 << 10);
/// ```
#[derive(Clone, Debug)]
pub struct Limited<S, C> {
    inner: S,
    clock: C,
    limits: Limits,
}

impl<S: Store, C: Clock> Limited<S, C> {
    /// Wraps a store; the clock should be its own.
    pub fn new(inner: S, clock: C) -> Self {
        let mut limits = *inner.limits();
        limits.partition_bytes_max = limits.partition_bytes_max.min(PARTITION_BYTES_MAX);
        limits.sort_bytes_max = limits.sort_bytes_max.min(SORT_BYTES_MAX);
        let value_bytes_max = ITEM_BYTES_MAX - PARTITION_BYTES_MAX - SORT_BYTES_MAX - ATTRIBUTE_BYTES;
        limits.value_bytes_max = limits.value_bytes_max.min(value_bytes_max);
        limits.batch_records_max = limits.batch_records_max.min(WRITE_BATCH_MAX);
        Self { inner, clock, limits }
    }

    async fn cut_scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.limits.check_scan(&scan)?;
        let mut page = self.inner.scan(scan).await?;
        let chance = chance(&scan);
        if let Some(first) = page.rows.first()
            && chance.is_multiple_of(3)
            && let Some(cursor) = before(&first.sort, scan.order)
            && !starts_at(&scan, &cursor)
        {
            return Ok(Page { rows: Vec::new(), next: Some(cursor) });
        }
        let mut bytes = 0;
        let fit = page.rows.iter().take_while(|row| {
            bytes += row.sort.len() + row.record.value.len();
            bytes <= PAGE_BYTES_MAX
        });
        // A row larger than a page comes alone.
        let fit = fit.count().max(1);
        let wanted = if chance.is_multiple_of(2) { page.rows.len().div_ceil(2) } else { page.rows.len() };
        let kept = fit.min(wanted);
        if kept < page.rows.len() {
            page.rows.truncate(kept);
            page.next = page.rows.last().map(|row| row.sort.clone());
        }
        Ok(page)
    }
}

fn chance(scan: &Scan<'_>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((scan.partition, scan.start, scan.end, scan.limit)) >> 8
}

/// The cursor just before a row: no other row can lie between.
fn before(sort: &[u8], order: Order) -> Option<Bytes> {
    if order == Order::Descending {
        return Some([sort, &[0]].concat().into());
    }
    let (last, rest) = sort.split_last()?;
    let Some(less) = last.checked_sub(1) else { return Some(Bytes::copy_from_slice(rest)) };
    let mut cursor = [rest, &[less]].concat();
    cursor.resize(SORT_BYTES_MAX, 0xFF);
    Some(cursor.into())
}

/// Whether the scan goes on from this cursor: then it has had its empty page.
fn starts_at(scan: &Scan<'_>, cursor: &[u8]) -> bool {
    match scan.order {
        Order::Ascending => scan.start == Bound::Excluded(cursor),
        Order::Descending => scan.end == Bound::Excluded(cursor),
    }
}

impl<S: Store, C: Clock> Store for Limited<S, C> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.limits.check_key(key)?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut answers = Vec::with_capacity(keys.len());
        for batch in keys.chunks(READ_BATCH_MAX) {
            let good: Vec<_> = batch.iter().copied().filter(|&key| self.limits.check_key(key).is_ok()).collect();
            let mut found = self.inner.get_many(&good).await.into_iter();
            for &key in batch {
                answers.push(match self.limits.check_key(key) {
                    Ok(()) => found.next().unwrap_or_else(|| Err(unanswered(key))),
                    Err(error) => Err(error),
                });
            }
        }
        answers
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.limits.check_write(&write, self.clock.now())?;
        self.inner.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        for batch in writes.chunks(WRITE_BATCH_MAX) {
            let now = self.clock.now();
            let checked: Vec<_> = batch.iter().map(|write| self.limits.check_write(write, now)).collect();
            let good = batch.iter().zip(&checked).filter(|(_, check)| check.is_ok());
            let good: Vec<_> = good.map(|(write, _)| write.clone()).collect();
            let mut applied = self.inner.write_many(&good).await.into_iter();
            for (write, check) in batch.iter().zip(checked) {
                outcomes.push(match check {
                    Ok(()) => applied.next().unwrap_or_else(|| Err(unanswered(write.key))),
                    Err(error) => Err(error),
                });
            }
        }
        outcomes
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.cut_scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.limits.check_trim(&trim)?;
        self.inner.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.limits.check_update(key)?;
        self.inner.update(key, procedure).await
    }
}

fn unanswered(key: Key<'_>) -> sysd_core::Error {
    let effect = sysd_core::Effect::Unknown;
    sysd_core::Error::new(sysd_core::ErrorKind::Internal, effect, "a batch has too few answers").with_key(key)
}
