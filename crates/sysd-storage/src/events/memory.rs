//! A log in this process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use sysd_core::event::{
    Batch, Committed, Delivered, Event, EventLimits, EventLog, EventSink, Gap, GroupMember, Lag, Position, Sought,
    Start, check_name,
};
use sysd_core::{Clock, Effect, Error, ErrorKind, Result, SystemClock, Timestamp, timeout};

use super::{is_assigned, partition_of};

/// What happens when a partition has no room for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest make room; a group that has not read them is told of the gap.
    DropOldest,
    /// Those make room that every group has committed; where there are none, the event is refused:
    /// [`Full`](ErrorKind::Full). So it is while there is no group.
    Refuse,
}

/// How a [`MemoryEvents`] is made. Start from the default.
#[derive(Clone)]
pub struct MemoryEventsConfig {
    /// How many partitions there are.
    pub partitions: u32,
    /// How many events a partition keeps.
    pub events_max: usize,
    /// How many bytes of keys and events a partition keeps; none may be longer.
    pub bytes_max: usize,
    /// What happens when there is no room.
    pub when_full: WhenFull,
    /// The time: of waits, and of [`Delivered::appended_at`].
    pub clock: Arc<dyn Clock>,
}

impl Default for MemoryEventsConfig {
    /// 8 partitions of 100,000 events and 64 MiB each, the oldest of which make room; by the system's clock.
    fn default() -> Self {
        Self {
            partitions: 8,
            events_max: 100_000,
            bytes_max: 64 << 20,
            when_full: WhenFull::DropOldest,
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for MemoryEventsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEventsConfig")
            .field("partitions", &self.partitions)
            .field("events_max", &self.events_max)
            .field("bytes_max", &self.bytes_max)
            .field("when_full", &self.when_full)
            .finish_non_exhaustive()
    }
}

/// A log in this process. Clones share it.
///
/// A member is there until it leaves or is dropped: it needs no session. A group is remembered as long as the log.
///
/// # Cost
/// A lock a call, no copy of an event's bytes.
#[derive(Clone)]
pub struct MemoryEvents {
    shared: Arc<Shared>,
}

struct Shared {
    config: MemoryEventsConfig,
    limits: EventLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    partitions: Vec<Partition>,
    groups: BTreeMap<String, Group>,
    members: u64,
    /// Of members that wait for events.
    wakers: BTreeMap<u64, Waker>,
}

#[derive(Default)]
struct Partition {
    /// The number of the first event that is kept.
    first: u64,
    kept: VecDeque<Kept>,
    bytes: usize,
}

struct Kept {
    event: Event,
    at: Timestamp,
}

struct Group {
    progress: Vec<Progress>,
    members: BTreeSet<u64>,
}

/// How far a group is in a partition.
#[derive(Clone, Copy)]
struct Progress {
    /// The lowest number that is not committed.
    next: u64,
    owner: Option<u64>,
    /// The next that the owner is handed.
    cursor: u64,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.event.key.len() + self.event.bytes.len()
    }
}

impl Partition {
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.first += 1;
            self.bytes -= oldest.bytes();
        }
    }

    /// The number to begin at.
    fn resolve(&self, at: u32, start: &Start) -> Option<u64> {
        match start {
            Start::Oldest => Some(self.first),
            Start::Newest => Some(self.end()),
            Start::Time(time) => {
                let before = self.kept.iter().take_while(|kept| kept.at < *time).count();
                Some(self.first + before as u64)
            }
            Start::Positions(positions) => {
                let named = positions.iter().find(|position| position.partition == at);
                named.map(|position| position.number.min(self.end()))
            }
        }
    }
}

impl State {
    fn append(&mut self, config: &MemoryEventsConfig, event: &Event) -> Result<()> {
        let at = partition_of(&event.key, config.partitions);
        let kept = Kept { event: event.clone(), at: config.clock.now() };
        let read_by_all = self.groups.values().filter_map(|group| group.progress.get(at as usize)).map(|had| had.next);
        let read_by_all = read_by_all.min();
        let Some(partition) = self.partitions.get_mut(at as usize) else { return Err(no_partition("key")) };
        let is_full = |partition: &Partition| {
            partition.kept.len() >= config.events_max || partition.bytes + kept.bytes() > config.bytes_max
        };
        while is_full(partition) && !partition.kept.is_empty() {
            if config.when_full == WhenFull::Refuse && read_by_all.is_none_or(|next| next <= partition.first) {
                let message = "the partition is full of events that not every group has committed";
                return Err(Error::new(ErrorKind::Full, Effect::None, message));
            }
            partition.remove_oldest();
        }
        partition.bytes += kept.bytes();
        partition.kept.push_back(kept);
        Ok(())
    }

    /// The next events for a member; `None` if there are none.
    fn take(&mut self, name: &str, member: u64, turn: u32, limit: usize) -> Option<Batch> {
        let group = self.groups.get_mut(name)?;
        let members: Vec<u64> = group.members.iter().copied().collect();
        let (mut batch, mut released) = (Batch::default(), false);
        let count = u32::try_from(group.progress.len()).unwrap_or(u32::MAX);
        for at in (0..count).map(|offset| (turn.wrapping_add(offset)) % count) {
            let Some(progress) = group.progress.get_mut(at as usize) else { continue };
            let Some(partition) = self.partitions.get(at as usize) else { continue };
            let is_mine = is_assigned(at, &members, &member);
            if progress.owner == Some(member) && !is_mine {
                progress.owner = None;
                released = true;
            } else if progress.owner.is_none() && is_mine {
                (progress.owner, progress.cursor) = (Some(member), progress.next);
            }
            if progress.owner != Some(member) {
                continue;
            }
            let left = limit - batch.events.len();
            if left > 0 && progress.cursor < partition.first {
                batch.gaps.push(Gap { partition: at, from: progress.cursor, to: partition.first });
                progress.cursor = partition.first;
            }
            let skipped = usize::try_from(progress.cursor - partition.first.min(progress.cursor)).unwrap_or(usize::MAX);
            for kept in partition.kept.iter().skip(skipped).take(left) {
                let position = Position { partition: at, number: progress.cursor };
                batch.events.push(Delivered { event: kept.event.clone(), position, appended_at: kept.at });
                progress.cursor += 1;
            }
        }
        if released {
            self.wake();
        }
        (!batch.events.is_empty() || !batch.gaps.is_empty()).then_some(batch)
    }

    /// Whoever waits looks again.
    fn wake(&mut self) {
        for waker in std::mem::take(&mut self.wakers).into_values() {
            waker.wake();
        }
    }

    fn leave(&mut self, name: &str, member: u64) {
        self.wakers.remove(&member);
        let Some(group) = self.groups.get_mut(name) else { return };
        group.members.remove(&member);
        for progress in group.progress.iter_mut().filter(|progress| progress.owner == Some(member)) {
            progress.owner = None;
        }
        self.wake();
    }
}

fn no_partition(field: &'static str) -> Error {
    Error::invalid(field, "the log has no such partition")
}

impl fmt::Debug for MemoryEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEvents").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl MemoryEvents {
    /// An empty log.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) naming what is zero.
    pub fn new(config: MemoryEventsConfig) -> Result<Self> {
        let options = [
            ("partitions", config.partitions == 0),
            ("events_max", config.events_max == 0),
            ("bytes_max", config.bytes_max == 0),
        ];
        if let Some((option, _)) = options.into_iter().find(|(_, is_zero)| *is_zero) {
            let message = format!("{option} is zero, so there is room for no event");
            return Err(Error::new(ErrorKind::Config, Effect::None, message).with_field(option));
        }
        let mut limits = EventLimits::PROCESS;
        limits.key_bytes_max = limits.key_bytes_max.min(config.bytes_max / 2);
        limits.event_bytes_max = limits.event_bytes_max.min(config.bytes_max - limits.key_bytes_max);
        let partitions = (0..config.partitions).map(|_| Partition::default()).collect();
        let state = Mutex::new(State { partitions, ..State::default() });
        Ok(Self { shared: Arc::new(Shared { config, limits, state }) })
    }

    fn check_positions(&self, to: &Start) -> Result<()> {
        match to {
            Start::Positions(positions)
                if positions.iter().any(|position| position.partition >= self.shared.config.partitions) =>
            {
                Err(no_partition("positions"))
            }
            _ => Ok(()),
        }
    }
}

impl EventSink for MemoryEvents {
    fn limits(&self) -> EventLimits {
        self.shared.limits
    }

    async fn append(&self, event: &Event) -> Result<()> {
        self.shared.limits.check(event)?;
        let mut state = self.shared.state.lock();
        state.append(&self.shared.config, event)?;
        state.wake();
        Ok(())
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        let mut state = self.shared.state.lock();
        let append = |event| {
            self.shared.limits.check(event)?;
            state.append(&self.shared.config, event)
        };
        let answers = events.iter().map(append).collect();
        state.wake();
        answers
    }
}

impl EventLog for MemoryEvents {
    type Member = MemoryMember;

    async fn join(&self, group: &str, start: Start) -> Result<MemoryMember> {
        check_name("group", group)?;
        self.check_positions(&start)?;
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        state.members += 1;
        let (id, partitions) = (state.members, &state.partitions);
        let begin = || {
            let begin = |(at, partition): (u32, &Partition)| {
                let next = partition.resolve(at, &start).unwrap_or(partition.first);
                Progress { next, owner: None, cursor: next }
            };
            Group { progress: (0..).zip(partitions).map(begin).collect(), members: BTreeSet::new() }
        };
        state.groups.entry(group.to_owned()).or_insert_with(begin).members.insert(id);
        state.wake();
        Ok(MemoryMember { shared: Arc::clone(&self.shared), group: group.to_owned(), id, turn: 0 })
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        check_name("group", group)?;
        let state = self.shared.state.lock();
        let Some(group) = state.groups.get(group) else { return Ok(Vec::new()) };
        let lag = |(at, (partition, progress)): (u32, (&Partition, &Progress))| Lag {
            partition: at,
            next: progress.next,
            end: partition.end(),
            events: partition.end().saturating_sub(progress.next.max(partition.first)),
        };
        Ok((0..).zip(state.partitions.iter().zip(&group.progress)).map(lag).collect())
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        check_name("group", group)?;
        self.check_positions(&to)?;
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let Some(group) = state.groups.get_mut(group) else {
            return Err(Error::invalid("group", "there is no such group"));
        };
        if !group.members.is_empty() {
            return Ok(Sought::HasMembers);
        }
        for (at, (partition, progress)) in (0..).zip(state.partitions.iter().zip(&mut group.progress)) {
            progress.next = partition.resolve(at, &to).unwrap_or(progress.next);
        }
        Ok(Sought::Moved)
    }
}

/// A member of a group of a [`MemoryEvents`]. Dropping it is leaving.
pub struct MemoryMember {
    shared: Arc<Shared>,
    group: String,
    id: u64,
    /// With which partition the next read begins, so that each has its turn.
    turn: u32,
}

impl fmt::Debug for MemoryMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMember").field("group", &self.group).field("id", &self.id).finish_non_exhaustive()
    }
}

impl GroupMember for MemoryMember {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        if limit == 0 {
            return Err(Error::invalid("limit", "read at least one event"));
        }
        self.turn = self.turn.wrapping_add(1);
        let (shared, group, id, turn) = (&self.shared, &self.group, self.id, self.turn);
        let next = poll_fn(|context| {
            let mut state = shared.state.lock();
            if let Some(batch) = state.take(group, id, turn, limit) {
                return Poll::Ready(batch);
            }
            state.wakers.insert(id, context.waker().clone());
            Poll::Pending
        });
        Ok(timeout(&shared.config.clock, wait_max, next).await.unwrap_or_default())
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        let mut state = self.shared.state.lock();
        let mut lost = BTreeSet::new();
        for position in positions {
            let group = state.groups.get_mut(&self.group);
            match group.and_then(|group| group.progress.get_mut(position.partition as usize)) {
                Some(progress) if progress.owner == Some(self.id) && position.number < progress.cursor => {
                    progress.next = progress.next.max(position.number + 1);
                }
                Some(_) => drop(lost.insert(position.partition)),
                None => return Err(no_partition("positions")),
            }
        }
        Ok(if lost.is_empty() { Committed::All } else { Committed::Lost { partitions: lost.into_iter().collect() } })
    }

    async fn leave(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        self.shared.state.lock().leave(&self.group, self.id);
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
