//! A plain map with a lock, and places where it can go wrong.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use sysd_core::procedure::{RecordChange, apply_to_record};
use sysd_core::{
    Change, Clock, Effect, ErasedProcedure, Error, ErrorKind, Expect, Keep, Key, Limits, Order, Outcome, OutputBytes,
    Page, Record, Result, Row, Scan, Store, Timestamp, Trim, Trimmed, Version, Write,
};

use super::{Fault, Mutation};

/// Space, partition, sort.
type Name = (&'static str, Vec<u8>, Vec<u8>);
type Records = BTreeMap<Name, Record>;

/// A store with one fault, or with none.
#[derive(Debug)]
pub struct Mutant<C> {
    clock: C,
    limits: Limits,
    fault: Option<Fault>,
    records: Arc<Mutex<Records>>,
    /// The value that a version had, for those who compare values; the record before the last write, for stale readers.
    past: Arc<Mutex<BTreeMap<u128, Bytes>>>,
    stale: Arc<Mutex<Records>>,
    /// What this connection read, and did not change since.
    cache: Mutex<Records>,
    reads: AtomicU64,
    is_busy: AtomicBool,
}

/// Waits once.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs when a future is dropped before it has ended.
struct OnDrop<F: FnMut()> {
    run: F,
    has_ended: bool,
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if !self.has_ended {
            (self.run)();
        }
    }
}

impl<C: Clock> Mutant<C> {
    /// With a fault; without one it is right, and must pass.
    pub fn new(fault: Option<Fault>, clock: C) -> Self {
        let mut limits = Limits::PROCESS;
        // Small ones are reached sooner.
        limits.value_bytes_max = 1 << 16;
        limits.page_rows_max = 50;
        Self {
            clock,
            limits,
            fault,
            records: Arc::default(),
            past: Arc::default(),
            stale: Arc::default(),
            cache: Mutex::default(),
            reads: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
        }
    }

    /// Another connection to the same records.
    #[must_use]
    pub fn again(&self) -> Self
    where
        C: Clone,
    {
        Self {
            records: Arc::clone(&self.records),
            past: Arc::clone(&self.past),
            stale: Arc::clone(&self.stale),
            ..Self::new(self.fault, self.clock.clone())
        }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.fault.is_some_and(|fault| fault.mutation == mutation)
    }

    /// Goes wrong for good if the caller drops the future in this pause.
    async fn awaited(&self) -> Result<()> {
        if self.is(Mutation::StaysBusyWhenDropped) {
            if self.is_busy.swap(true, Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, Effect::None, "busy"));
            }
            pause().await;
            self.is_busy.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    fn name(&self, key: Key<'_>) -> Name {
        if self.is(Mutation::ConcatenatesKeys) && !key.is_lone() {
            let name = [key.partition(), key.sort()].concat();
            return (key.space().name(), name, b"row".to_vec());
        }
        (key.space().name(), key.partition().to_vec(), key.sort().to_vec())
    }

    fn has_expired(&self, record: &Record, unless: Mutation) -> bool {
        !self.is(unless) && record.is_expired(self.clock.now())
    }

    fn check(&self, check: Result<()>) -> Result<()> {
        match check {
            Err(error) if error.kind() == ErrorKind::TooLarge && self.is(Mutation::TakesAnySize) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Invalid && self.is(Mutation::TakesBadArguments) => Ok(()),
            other => other,
        }
    }

    fn find(&self, key: Key<'_>, unless: Mutation) -> Result<Option<Record>> {
        self.check(self.limits.check_key(key))?;
        let name = self.name(key);
        let is_stale = self.is(Mutation::ReadsStale) && self.reads.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        let record = if is_stale {
            lock(&self.stale).get(&name).cloned()
        } else if self.is(Mutation::CachesReads) {
            self.cached(&name)
        } else {
            lock(&self.records).get(&name).cloned()
        };
        Ok(record.filter(|record| !self.has_expired(record, unless)))
    }

    fn cached(&self, name: &Name) -> Option<Record> {
        let mut cache = lock(&self.cache);
        if !cache.contains_key(name) {
            let record = lock(&self.records).get(name).cloned()?;
            cache.insert(name.clone(), record);
        }
        cache.get(name).cloned()
    }

    /// Called when a record was changed by this connection, and not under the lock of the records.
    fn forget(&self, key: Key<'_>) {
        lock(&self.cache).remove(&self.name(key));
    }

    fn put(&self, records: &mut Records, key: Key<'_>, mut record: Record) {
        let name = self.name(key);
        if self.is(Mutation::RoundsExpiry) {
            let round = |at: Timestamp| Timestamp::from_micros_saturating(at.as_micros().div_ceil(1_000) * 1_000);
            record.expires_at = record.expires_at.map(round);
        }
        let before = records.get(&name).cloned();
        if self.is(Mutation::KeepsExpiry) && record.expires_at.is_none() {
            record.expires_at = before.as_ref().and_then(|before| before.expires_at);
        }
        if self.is(Mutation::ComparesValues) {
            lock(&self.past).insert(record.version.as_u128(), record.value.clone());
        }
        if self.is(Mutation::LosesPlainRows) && !key.space().is_conditional() && before.is_some() {
            return;
        }
        self.remember(&name, before);
        if self.is(Mutation::TakesEmptyForAbsent) && record.value.is_empty() {
            records.remove(&name);
        } else {
            records.insert(name, record);
        }
    }

    fn remember(&self, name: &Name, before: Option<Record>) {
        if self.is(Mutation::ReadsStale) {
            let mut stale = lock(&self.stale);
            match before {
                Some(before) => stale.insert(name.clone(), before),
                None => stale.remove(name),
            };
        }
    }

    fn holds(&self, expect: Expect, found: Option<&Record>) -> bool {
        match (expect, found) {
            (Expect::Any, Some(_)) => !self.is(Mutation::RefusesToReplace),
            (Expect::Any | Expect::Absent, None) => true,
            (Expect::Absent, Some(_)) => self.is(Mutation::IgnoresAbsent),
            (Expect::Is(version), Some(found)) => {
                let is_same = self.is(Mutation::ComparesValues)
                    && lock(&self.past).get(&version.as_u128()).is_some_and(|value| *value == found.value);
                found.version == version || is_same || self.is(Mutation::IgnoresVersions)
            }
            (Expect::Is(_), None) => false,
        }
    }

    /// Decides: the outcome if the condition fails.
    fn decide(&self, records: &Records, write: &Write<'_>) -> Option<Outcome> {
        let found = records.get(&self.name(write.key)).cloned();
        let found = found.filter(|found| !self.has_expired(found, Mutation::ComparesExpired));
        let is_own = write.version().is_some() && found.as_ref().map(|found| found.version) == write.version();
        if self.holds(write.expect, found.as_ref()) {
            return None;
        }
        Some(if is_own && self.is(Mutation::ForgetsItself) {
            Outcome::Conflict { found }
        } else if self.is(Mutation::HidesConflicts) && !is_own {
            Outcome::Conflict { found: None }
        } else {
            write.lost_to(found)
        })
    }

    fn change(&self, records: &mut Records, write: &Write<'_>) {
        match &write.change {
            Change::Put { value, version, expires_at } => {
                let record = Record { value: value.clone(), version: *version, expires_at: *expires_at };
                self.put(records, write.key, record);
            }
            Change::Delete => {
                let before = records.remove(&self.name(write.key));
                self.remember(&self.name(write.key), before);
            }
        }
    }

    async fn write_one(&self, write: &Write<'_>) -> Result<Outcome> {
        self.check(self.limits.check_write(write, self.clock.now()))?;
        if self.is(Mutation::LosesIncrements) {
            let lost = self.decide(&lock(&self.records), write);
            pause().await;
            if lost.is_none() {
                self.change(&mut lock(&self.records), write);
            }
            return Ok(lost.unwrap_or(Outcome::Applied));
        }
        let is_in_steps = self.is(Mutation::WritesInTwoSteps) || self.is(Mutation::TearsRecords);
        {
            let mut records = lock(&self.records);
            if let Some(lost) = self.decide(&records, write) {
                return Ok(lost);
            }
            if !is_in_steps {
                self.change(&mut records, write);
                return Ok(Outcome::Applied);
            }
            if self.is(Mutation::WritesInTwoSteps) {
                records.remove(&self.name(write.key));
            } else if let (Change::Put { value, .. }, Some(record)) =
                (&write.change, records.get_mut(&self.name(write.key)))
            {
                record.value = value.clone();
            }
        }
        std::thread::yield_now();
        pause().await;
        self.change(&mut lock(&self.records), write);
        Ok(Outcome::Applied)
    }

    fn run(&self, records: &mut Records, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let mut now = self.clock.now();
        let name = self.name(key);
        let found = records.get(&name).cloned().filter(|found| !self.has_expired(found, Mutation::UpdatesExpired));
        let found = found.map(|mut found| {
            if self.is(Mutation::UpdatesExpired) {
                found.expires_at = None;
            }
            found
        });
        if self.is(Mutation::RoundsTime) {
            now = Timestamp::from_micros_saturating(now.as_micros() / 100 * 100);
        }
        let mut output = OutputBytes::new();
        let change = apply_to_record(procedure, key, found.as_ref(), now, &mut output);
        if change.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt)
            && self.is(Mutation::ClearsUndecodable)
        {
            records.remove(&name);
        }
        match change? {
            RecordChange::Keep => {}
            RecordChange::Delete => {
                let before = records.remove(&name);
                self.remember(&name, before);
            }
            RecordChange::Put { value, expires_at } => {
                let kept = found.filter(|_| self.is(Mutation::KeepsVersions)).map(|found| found.version);
                let version = kept.unwrap_or_else(Version::random);
                let expires_at = expires_at.filter(|_| !self.is(Mutation::ForgetsLifetimes));
                self.put(records, key, Record { value, version, expires_at });
            }
        }
        Ok(output)
    }

    /// The rows of a partition in order, expired ones too.
    fn rows(&self, space: &'static str, partition: &[u8]) -> Vec<(Vec<u8>, Record)> {
        let shows_lone = self.is(Mutation::ListsLoneRecords);
        let is_ours =
            |(name, _): &(&Name, &Record)| name.0 == space && name.1 == partition && (shows_lone || !name.2.is_empty());
        let records = lock(&self.records);
        let mut rows: Vec<_> = if self.is(Mutation::ConcatenatesKeys) {
            let is_ours =
                |(name, _): &(&Name, &Record)| name.0 == space && name.1.starts_with(partition) && name.2 == b"row";
            let sort = |name: &Name| name.1[partition.len()..].to_vec();
            records.iter().filter(is_ours).map(|(name, record)| (sort(name), record.clone())).collect()
        } else {
            records.iter().filter(is_ours).map(|(name, record)| (name.2.clone(), record.clone())).collect()
        };
        if self.is(Mutation::OrdersSignedBytes) {
            rows.sort_by_key(|(sort, _)| sort.iter().map(|byte| byte.cast_signed()).collect::<Vec<_>>());
        }
        rows
    }

    fn page(&self, scan: &Scan<'_>) -> Page {
        let mut scan = *scan;
        let mut skipped = 0;
        if self.is(Mutation::CountsForCursors) {
            let cursor = match (scan.order, scan.start, scan.end) {
                (Order::Ascending, Bound::Excluded(cursor), _) | (Order::Descending, _, Bound::Excluded(cursor)) => {
                    cursor
                }
                _ => &[],
            };
            if let Some(count) =
                cursor.strip_prefix(b"#").and_then(|count| count.try_into().ok()).map(u32::from_be_bytes)
            {
                skipped = count as usize;
                (scan.start, scan.end) = (Bound::Unbounded, Bound::Unbounded);
            }
        }
        if let (Bound::Excluded(end), true) = (scan.end, self.is(Mutation::IncludesExcludedEnds)) {
            scan.end = Bound::Included(end);
        }
        let mut rows = self.rows(scan.space.name(), scan.partition);
        rows.retain(|(sort, record)| scan.contains(sort) && !self.has_expired(record, Mutation::ScansExpired));
        let rows_max = scan.limit.min(self.limits.page_rows_max);
        if scan.order == Order::Descending {
            if self.is(Mutation::DescendsFromTheStart) {
                rows.truncate(rows_max);
            }
            rows.reverse();
        }
        rows.drain(..skipped.min(rows.len()));
        let has_more = rows.len() > rows_max;
        let lost = usize::from(self.is(Mutation::SkipsAtPageEnds) && has_more);
        let cursor = rows.get((rows_max + lost).saturating_sub(1)).map(|(sort, _)| Bytes::from(sort.clone()));
        rows.truncate(rows_max);
        let mut next = cursor.filter(|_| has_more);
        if self.is(Mutation::CountsForCursors) && has_more {
            let count = u32::try_from(skipped + rows_max).unwrap_or(u32::MAX);
            next = Some([b"#".as_slice(), &count.to_be_bytes()].concat().into());
        }
        let strip = self.is(Mutation::ScansWithoutExpiry);
        let row = |(sort, mut record): (Vec<u8>, Record)| {
            if strip {
                record.expires_at = None;
            }
            Row { sort: sort.into(), record }
        };
        Page { rows: rows.into_iter().map(row).collect(), next }
    }

    fn cut(&self, trim: &Trim<'_>) -> Trimmed {
        let mut rows = self.rows(trim.space.name(), trim.partition);
        let (keep, mut is_first) = match trim.keep {
            Keep::First(keep) => (keep, true),
            Keep::Last(keep) => (keep, false),
        };
        if self.is(Mutation::TrimsTheOtherEnd) {
            is_first = !is_first;
        }
        if !is_first {
            rows.reverse();
        }
        let bound = if self.is(Mutation::TrimsWithoutBound) { usize::MAX } else { self.limits.page_rows_max };
        let (mut kept, mut trimmed) = (0, Trimmed::default());
        let mut records = lock(&self.records);
        for (sort, record) in rows {
            let is_dead = self.is(Mutation::TrimsKeys) && record.value.is_empty();
            if kept < keep && !is_dead && !self.has_expired(&record, Mutation::TrimsByExpired) {
                kept += 1;
                continue;
            }
            if trimmed.removed == bound {
                trimmed.more = true;
                break;
            }
            records.remove(&self.name(Key::row(trim.space, trim.partition, &sort)));
            trimmed.removed += 1;
        }
        if self.is(Mutation::TrimsLoneRecords) {
            records.remove(&self.name(Key::lone(trim.space, trim.partition)));
        }
        trimmed
    }
}

impl<C: Clock> Store for Mutant<C> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.awaited().await?;
        self.find(key, Mutation::GetsExpired)
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut answers: Vec<_> = keys.iter().map(|&key| self.find(key, Mutation::GetsManyExpired)).collect();
        if self.is(Mutation::AnswersBackwards) {
            answers.reverse();
        }
        answers
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let outcome = self.write_one(&write).await;
        self.forget(write.key);
        outcome
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let now = self.clock.now();
        let bad = writes.iter().find_map(|write| self.limits.check_write(write, now).err());
        if let (Some(error), true) = (bad, self.is(Mutation::FailsWholeBatches)) {
            return writes.iter().map(|_| Err(error.share())).collect();
        }
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            let mut write = write.clone();
            if self.is(Mutation::IgnoresConditionsInBatches) {
                write.expect = Expect::Any;
            }
            outcomes.push(self.write_one(&write).await);
            self.forget(write.key);
        }
        outcomes
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.check(self.limits.check_scan(&scan))?;
        Ok(self.page(&scan))
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.check(self.limits.check_trim(&trim))?;
        let trimmed = self.cut(&trim);
        lock(&self.cache).clear();
        Ok(trimmed)
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.check(self.limits.check_update(key))?;
        if self.is(Mutation::UpdatesUnlocked) {
            let mut copy = lock(&self.records).clone();
            let output = self.run(&mut copy, key, procedure)?;
            pause().await;
            let name = self.name(key);
            let mut records = lock(&self.records);
            match copy.remove(&name) {
                Some(record) => records.insert(name, record),
                None => records.remove(&name),
            };
            return Ok(output);
        }
        let output = self.run(&mut lock(&self.records), key, procedure)?;
        self.forget(key);
        if self.is(Mutation::UpdatesAgainWhenDropped) {
            let again = || drop(self.run(&mut lock(&self.records), key, procedure));
            let mut guard = OnDrop { run: again, has_ended: false };
            pause().await;
            guard.has_ended = true;
        }
        Ok(output)
    }
}
