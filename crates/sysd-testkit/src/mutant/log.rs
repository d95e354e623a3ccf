//! Event logs with one deliberate fault each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sysd_core::event::{
    Batch, Committed, Event, EventLimits, EventLog, EventSink, GroupMember, Lag, Position, Sought, Start,
};
use sysd_core::{Effect, Error, ErrorKind, KeyBytes, Result};
use sysd_storage::events::MemoryMember;
use sysd_storage::{MemoryEvents, MemoryEventsConfig};

faults! {
    /// One deliberate fault of a log, which breaks a clause of `docs/events.md`.
    LogFault,
    /// Every fault of a log, in the order of the clauses.
    LOG_FAULTS;
    "L1" ForgetsEmptyEvents: "Takes an event without bytes for none.";
    "L2" ScattersKeys: "Places events by more than their key.";
    "L3" CutsLongEvents: "Appends the beginning of what is too large.";
    "L3" FailsWholeBatches: "Fails all events of a batch with one of them.";
    "L4" SharesPositions: "Has one position for all groups.";
    "L5" HandsToAll: "Gives every event to every member.";
    "L6" CommitsBeforeHandingOut: "Commits what it reads, so that a death loses it.";
    "L6" ClaimsOutOfOrder: "Hands out a batch from behind.";
    "L7" ForgetsCommits: "Says that it has committed.";
    "L8" CommitsForStrangers: "Says so though another owns the partition.";
    "L9" ShowsNoLag: "Says that nothing waits.";
    "L10" StartsAtTheOldest: "Begins every group at the oldest event.";
    "L11" SeeksNowhere: "Says that it has moved a group.";
    "L12" LosesDroppedReads: "Reads, waits a moment, hands out.";
    "L13" TakesAnyName: "Makes a good name of a bad one.";
    "L14" AnswersAtOnce: "Waits for no event.";
    "L15" DropsWhenBusy: "Acknowledges every fiftieth event and drops it.";
}

/// A log in memory with a fault, or without.
#[derive(Clone, Debug)]
pub struct MutantLog {
    log: MemoryEvents,
    mutation: Option<Mutation>,
    count: Arc<AtomicU32>,
}

impl MutantLog {
    /// An empty log.
    ///
    /// # Errors
    /// None.
    pub fn new(fault: Option<LogFault>) -> Result<Self> {
        let log = MemoryEvents::new(MemoryEventsConfig::default())?;
        Ok(Self { log, mutation: fault.map(|fault| fault.mutation), count: Arc::default() })
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn group(&self, name: &str) -> String {
        match self.mutation {
            Some(Mutation::SharesPositions) => "the-group".to_owned(),
            Some(Mutation::HandsToAll) => format!("{name}-{}", self.count.fetch_add(1, Ordering::Relaxed)),
            Some(Mutation::TakesAnyName) => format!("g{}", name.len()),
            _ => name.to_owned(),
        }
    }
}

impl EventSink for MutantLog {
    fn limits(&self) -> EventLimits {
        self.log.limits()
    }

    async fn append(&self, event: &Event) -> Result<()> {
        let mut event = event.clone();
        match self.mutation {
            Some(Mutation::ForgetsEmptyEvents) if event.bytes.is_empty() => return Ok(()),
            Some(Mutation::ScattersKeys) => {
                event.key.extend_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            }
            Some(Mutation::CutsLongEvents) => event.bytes.truncate(self.limits().event_bytes_max),
            Some(Mutation::DropsWhenBusy) if self.count.fetch_add(1, Ordering::Relaxed) % 50 == 49 => return Ok(()),
            _ => {}
        }
        self.log.append(&event).await
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        if self.is(Mutation::FailsWholeBatches) && events.iter().any(|event| self.limits().check(event).is_err()) {
            let failed = || Err(Error::new(ErrorKind::TooLarge, Effect::None, "one of them is"));
            return events.iter().map(|_| failed()).collect();
        }
        let mut answers = Vec::new();
        for event in events {
            answers.push(self.append(event).await);
        }
        answers
    }
}

impl EventLog for MutantLog {
    type Member = MutantMember;

    async fn join(&self, group: &str, start: Start) -> Result<MutantMember> {
        let start = if self.is(Mutation::StartsAtTheOldest) { Start::Oldest } else { start };
        let member = self.log.join(&self.group(group), start).await?;
        Ok(MutantMember { member, mutation: self.mutation })
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        let mut lags = self.log.lag(group).await?;
        if self.is(Mutation::ShowsNoLag) {
            for lag in &mut lags {
                lag.events = 0;
            }
        }
        Ok(lags)
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        if self.is(Mutation::SeeksNowhere) {
            return Ok(Sought::Moved);
        }
        self.log.seek(group, to).await
    }
}

/// A member of a group of a [`MutantLog`].
#[derive(Debug)]
pub struct MutantMember {
    member: MemoryMember,
    mutation: Option<Mutation>,
}

impl GroupMember for MutantMember {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        let wait_max = if self.mutation == Some(Mutation::AnswersAtOnce) { Duration::ZERO } else { wait_max };
        let mut batch = self.member.read(limit, wait_max).await?;
        match self.mutation {
            Some(Mutation::ScattersKeys) => {
                for delivered in &mut batch.events {
                    let length = delivered.event.key.len() - 4;
                    delivered.event.key = KeyBytes::from_slice(&delivered.event.key[..length]);
                }
            }
            Some(Mutation::CommitsBeforeHandingOut) => drop(self.member.commit(&batch.ends()).await?),
            Some(Mutation::ClaimsOutOfOrder) => batch.events.reverse(),
            Some(Mutation::LosesDroppedReads) => {
                let mut is_second = false;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut is_second, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            }
            _ => {}
        }
        Ok(batch)
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        match self.mutation {
            Some(Mutation::ForgetsCommits) => Ok(Committed::All),
            Some(Mutation::CommitsForStrangers) => self.member.commit(positions).await.map(|_| Committed::All),
            _ => self.member.commit(positions).await,
        }
    }

    async fn leave(self) -> Result<()> {
        self.member.leave().await
    }
}
