//! Storage calls of a log: each with a deadline, and tried again where that is safe.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use sysd_core::{
    Clock as _, Effect, Error, ErrorKind, Idempotence, Outcome, Pace, Page, Record, Result, Scan, Store, Timestamp,
    Write, timeout,
};

use super::config::ReplicaConfig;
use super::entry::{self, Entry};
use super::schema::{self, Place, Schema};
use crate::attempts::{Attempts, timed_out};

/// How many entries a page of the log holds at most.
const PAGE_ENTRIES: usize = 64;
/// How many records are read by their keys at once.
const RECORDS_AT_ONCE: usize = 16;

/// A log's store, and how it is called.
#[derive(Debug)]
pub(super) struct Calls<S> {
    pub(super) store: S,
    pub(super) schema: Schema,
    pub(super) config: ReplicaConfig,
    page: Pace,
    records: Pace,
}

impl<S: Store> Calls<S> {
    pub(super) const fn new(store: S, schema: Schema, config: ReplicaConfig) -> Self {
        Self { store, schema, config, page: Pace::new(PAGE_ENTRIES, 2), records: Pace::new(RECORDS_AT_ONCE, 2) }
    }

    /// For deadlines, and for how long something took.
    pub(super) fn steady(&self) -> Duration {
        self.config.clock.steady()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    /// Writes once.
    pub(super) async fn write_once(&self, write: Write<'_>) -> Result<Outcome> {
        let answer = timeout(&self.config.clock, self.config.call_wait_max, self.store.write(write)).await;
        answer.unwrap_or_else(|_| Err(timed_out(Effect::Unknown)))
    }

    /// Waits before attempt `attempts + 1`, whatever the policy thinks of how many there were.
    pub(super) async fn pause(&self, attempts: u32) {
        let error = timed_out(Effect::Unknown);
        let policy = sysd_core::RetryPolicy { attempts_max: u32::MAX, ..self.config.retry };
        let elapsed = Duration::ZERO;
        let wait = policy.decide(attempts, elapsed, &error, Idempotence::Idempotent, &self.config.entropy);
        let wait = wait.unwrap_or(self.config.retry.wait_max);
        self.config.clock.sleep_until(self.now().saturating_add(wait)).await;
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.config.retry, &self.config.clock, &self.config.entropy)
    }

    /// Writes until there is an answer; sends the same write again, which recognises itself.
    pub(super) async fn write(&self, write: &Write<'_>) -> Result<Outcome> {
        let mut attempts = self.attempts();
        loop {
            match self.write_once(write.clone()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    pub(super) async fn get(&self, place: &Place) -> Result<Option<Record>> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.config.clock, self.config.call_wait_max, self.store.get(place.key())).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(record) => return Ok(record),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Reads records by their keys, as many at once as the link carries.
    pub(super) async fn get_many(&self, places: &[Place]) -> Result<Vec<Option<Record>>> {
        let keys: Vec<_> = places.iter().map(Place::key).collect();
        let mut records = Vec::with_capacity(keys.len());
        let mut attempts = self.attempts();
        while records.len() < keys.len() {
            let rest = &keys[records.len()..];
            let asked = &rest[..rest.len().min(self.records.now())];
            let answer = timeout(&self.config.clock, self.config.call_wait_max, self.store.get_many(asked)).await;
            let answer = answer.unwrap_or_else(|_| vec![Err(timed_out(Effect::None))]);
            match answer.into_iter().collect::<Result<Vec<_>>>() {
                Ok(found) => {
                    if found.len() != asked.len() {
                        let message =
                            "the store answered fewer records than were asked for; certify it with sysd-testkit";
                        return Err(Error::new(ErrorKind::Internal, Effect::None, message));
                    }
                    self.records.answered();
                    records.extend(found);
                    attempts = self.attempts();
                }
                Err(error) if self.records.slow_down(asked.len(), &error) => attempts.restart(),
                Err(error) => attempts.again(error).await?,
            }
        }
        Ok(records)
    }

    /// Scans a page of entries, of at most as many as the link carries.
    async fn scan(&self, mut scan: Scan<'_>) -> Result<Page> {
        let mut attempts = self.attempts();
        loop {
            scan.limit = self.page.now();
            let answer = timeout(&self.config.clock, self.config.call_wait_max, self.store.scan(scan)).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(page) => {
                    self.page.answered();
                    return Ok(page);
                }
                Err(error) if self.page.slow_down(scan.limit, &error) => attempts.restart(),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Reads the entry of a number, if it was written.
    pub(super) async fn entry(&self, number: u64) -> Result<Option<(Entry, usize)>> {
        let place = self.schema.entry(number);
        let Some(record) = self.get(&place).await? else { return Ok(None) };
        Ok(Some((entry::decode(place.key(), number, &record.value)?, record.value.len())))
    }

    /// Reads some entries from `number` on, without a gap; none if there is none yet. With each its size in bytes.
    pub(super) async fn entries(&self, number: u64) -> Result<Vec<(Entry, usize)>> {
        let first = self.schema.entry(number);
        let mut cursor: Option<Bytes> = None;
        loop {
            let start = match &cursor {
                Some(cursor) => Bound::Excluded(cursor.as_ref()),
                None => Bound::Included(first.key().sort()),
            };
            let scan = Scan::partition(schema::SPACE, first.key().partition(), PAGE_ENTRIES);
            let page = self.scan(scan.range(start, Bound::Unbounded)).await?;
            if page.rows.is_empty() && page.next.is_some() {
                cursor = page.next;
                continue;
            }
            let mut entries = Vec::with_capacity(page.rows.len());
            for (row, number) in page.rows.iter().zip(number..) {
                // A scan is no snapshot: it may have missed a row and seen its successor. That row is read by itself.
                if schema::number_of(&row.sort) != Some(number) {
                    break;
                }
                let entry = entry::decode(self.schema.entry(number).key(), number, &row.record.value)?;
                entries.push((entry, row.record.value.len()));
            }
            if entries.is_empty() && !page.rows.is_empty() {
                let entry = self.entry(number).await?;
                return match entry {
                    Some(entry) => Ok(vec![entry]),
                    None => Err(Error::corrupt(first.key(), "the log has a gap: this entry is missing")),
                };
            }
            return Ok(entries);
        }
    }
}
