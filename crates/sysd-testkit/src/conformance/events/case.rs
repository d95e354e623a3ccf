//! What every clause of logs works with.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures::future::join_all;
use sysd_core::event::{
    AnyEventLog, AnyMember, Committed, Delivered, Event, EventId, EventSink as _, GroupMember as _,
};
use sysd_core::{Clock as _, SystemClock, SystemEntropy, timeout};

use super::super::case::{Failure, Verdict, ensure};
use super::LogHarness;

/// No clause takes longer, on any log: what does is stuck.
const DEADLINE: Duration = Duration::from_secs(240);
/// How long one read waits.
pub(super) const MOMENT: Duration = Duration::from_millis(200);

pub(super) type BoxVerdict<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// A harness behind a pointer, so that the clauses are compiled once.
pub(super) trait LogBench: Send + Sync {
    fn run(&self, future: BoxVerdict<'_>) -> Verdict;
    fn open(&self) -> Verdict<LogCase>;
}

impl<H: LogHarness> LogBench for H {
    fn run(&self, future: BoxVerdict<'_>) -> Verdict {
        let stuck = || Err(Failure::new(format!("it did not end within {} s", DEADLINE.as_secs())));
        self.block_on(async { timeout(&SystemClock, DEADLINE, future).await.unwrap_or_else(|_| stuck()) })
    }

    fn open(&self) -> Verdict<LogCase> {
        let logs = self.block_on(async { LogHarness::open(self).await });
        let [log, other] = logs.map_err(|error| Failure::new(error.to_string()))?.map(AnyEventLog::new);
        Ok(LogCase { log, other, patience: self.patience() })
    }
}

/// One clause's log, through two handles.
pub(super) struct LogCase {
    pub(super) log: AnyEventLog,
    pub(super) other: AnyEventLog,
    pub(super) patience: Duration,
}

/// The event that is the how manieth of a key.
pub(super) fn event(key: u32, number: u32) -> Event {
    Event::mint(&SystemEntropy, format!("key {key}").as_bytes(), number.to_be_bytes().to_vec())
}

pub(super) fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> BTreeSet<EventId> {
    events.into_iter().map(|event| event.id).collect()
}

/// Waits for real.
pub(super) async fn pause(duration: Duration) {
    SystemClock.sleep_until(SystemClock.now().saturating_add(duration)).await;
}

/// Whether a time is over.
pub(super) struct Deadline {
    start: Duration,
    within: Duration,
}

impl Deadline {
    pub(super) fn after(within: Duration) -> Self {
        Self { start: SystemClock.steady(), within }
    }

    pub(super) fn is_over(&self) -> bool {
        SystemClock.steady().saturating_sub(self.start) > self.within
    }
}

/// Fails unless the events of each key, each where it is first seen, come in the order of their numbers, and none is missing.
pub(super) fn in_order(seen: &[Delivered], appended: &[Event]) -> Verdict {
    let mut expected: BTreeMap<&[u8], Vec<EventId>> = BTreeMap::new();
    for event in appended {
        expected.entry(&event.key).or_default().push(event.id);
    }
    let mut found: BTreeMap<&[u8], Vec<EventId>> = BTreeMap::new();
    for delivered in seen {
        let of_key = found.entry(&delivered.event.key).or_default();
        if !of_key.contains(&delivered.event.id) {
            of_key.push(delivered.event.id);
        }
    }
    for (key, expected) in expected {
        let found = found.remove(key).unwrap_or_default();
        let place = |id| expected.iter().position(|known| known == id);
        let places: Vec<_> = found.iter().map(place).collect();
        let key = key.escape_ascii();
        ensure!(found == expected, "the {} events of {key} were first read in the order {places:?}", expected.len());
    }
    Ok(())
}

impl LogCase {
    /// Appends so many events of each of so many keys, in batches; they must be taken.
    pub(super) async fn append(&self, keys: u32, from: u32, to: u32) -> Verdict<Vec<Event>> {
        let events: Vec<_> = (from..to).flat_map(|number| (0..keys).map(move |key| event(key, number))).collect();
        for batch in events.chunks(100) {
            for answer in self.log.append_many(batch).await {
                answer?;
            }
        }
        Ok(events)
    }

    /// Reads until all of these were seen; answers everything that was, in its order.
    pub(super) async fn read_all(&self, member: &mut AnyMember, wanted: &BTreeSet<EventId>) -> Verdict<Vec<Delivered>> {
        let (mut missing, mut seen) = (wanted.clone(), Vec::new());
        let deadline = Deadline::after(self.patience);
        while !missing.is_empty() {
            let batch = member.read(100, MOMENT).await?;
            ensure!(batch.gaps.is_empty(), "a gap where nothing was removed: {:?}", batch.gaps);
            for delivered in batch.events {
                missing.remove(&delivered.event.id);
                seen.push(delivered);
            }
            ensure!(!deadline.is_over(), "{} of {} events were never read", missing.len(), wanted.len());
        }
        Ok(seen)
    }

    /// One read by each of these, at the same time.
    pub(super) async fn read_each(&self, members: &mut [AnyMember]) -> Verdict<Vec<Vec<Delivered>>> {
        let batches = join_all(members.iter_mut().map(|member| member.read(100, MOMENT))).await;
        batches.into_iter().map(|batch| Ok(batch?.events)).collect()
    }

    /// Fails if anything comes within a moment that is not among these.
    pub(super) async fn only(&self, member: &mut AnyMember, allowed: &BTreeSet<EventId>) -> Verdict {
        for _ in 0..3 {
            for delivered in member.read(100, MOMENT).await?.events {
                ensure!(allowed.contains(&delivered.event.id), "{delivered:?} should not have been read");
            }
        }
        Ok(())
    }
}

/// Commits what must be taken.
pub(super) async fn commit(member: &mut AnyMember, seen: &[Delivered]) -> Verdict {
    let mut ends = BTreeMap::new();
    for delivered in seen {
        let end = ends.entry(delivered.position.partition).or_insert(delivered.position);
        *end = delivered.position.max(*end);
    }
    let ends: Vec<_> = ends.into_values().collect();
    let committed = member.commit(&ends).await?;
    ensure!(committed == Committed::All, "a commit of {ends:?} by the only member came to {committed:?}");
    Ok(())
}
