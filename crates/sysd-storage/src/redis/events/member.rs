//! A member of a group: which partitions it owns, and how far it has read there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sysd_core::event::{Batch, Committed, Gap, GroupMember, Position};
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::super::error::Access;
use super::log::Shared;
use super::wire::{Commit, Head, Mine, Read, Want, read_events, read_names, read_number};
use crate::events::is_assigned;

/// A read ends when it has so many bytes.
const READ_BYTES: usize = 4 << 20;
/// A member says at least so often that it is alive, and learns of others that came.
const ENROLL_EVERY: Duration = Duration::from_secs(1);

/// A partition that is owned.
#[derive(Clone, Copy)]
struct Owned {
    token: u64,
    /// The last event that was read: its number and head.
    cursor: Option<(u64, Head)>,
    /// The highest number that was committed.
    committed: Option<u64>,
    /// What was handed out before and not committed may lie under other numbers now: whoever commits next is told so.
    is_torn: bool,
}

impl Owned {
    /// Whether something was read that is not committed.
    fn is_behind(&self) -> bool {
        self.cursor.is_some_and(|(last, _)| self.committed.is_none_or(|committed| committed < last))
    }

    /// Whether a read went on where the one before ended.
    fn is_followed_by(&self, mine: &Mine) -> bool {
        self.token == mine.token && self.cursor.is_none_or(|(last, _)| mine.from == last + 1)
    }
}

/// A member of a group of a [`RedisEvents`](super::RedisEvents).
///
/// Dropped without [`leave`](GroupMember::leave), its partitions are free when its session ends.
pub struct RedisMember {
    shared: Arc<Shared>,
    group: String,
    id: String,
    owned: BTreeMap<u32, Owned>,
    assigned: Vec<u32>,
    /// When it last said that it is alive, by the steady clock.
    enrolled_at: Option<Duration>,
    /// Read and not handed out yet: what a dropped read leaves.
    ready: Batch,
    turn: usize,
}

impl fmt::Debug for RedisMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisMember")
            .field("group", &self.group)
            .field("id", &self.id)
            .field("owned", &self.owned.keys())
            .finish_non_exhaustive()
    }
}

impl RedisMember {
    pub(super) fn new(shared: Arc<Shared>, group: String, id: String) -> Self {
        let (owned, assigned, ready) = (BTreeMap::new(), Vec::new(), Batch::default());
        Self { shared, group, id, owned, assigned, enrolled_at: None, ready, turn: 0 }
    }

    /// Says that it is alive, and learns which partitions are its own.
    async fn enroll(&mut self) -> Result<()> {
        let config = &self.shared.config;
        let now = config.clock.steady();
        let every = ENROLL_EVERY.min(config.session / 3);
        if self.enrolled_at.is_some_and(|at| now.saturating_sub(at) < every) {
            return Ok(());
        }
        let call = self.shared.wire.enroll(&self.group, &self.id, config.session_us());
        let mut members = read_names(self.shared.ask(&call, Access::Read).await?)?;
        members.sort_unstable();
        self.assigned = (0..config.partitions).filter(|&at| is_assigned(at, &members, &self.id)).collect();
        self.enrolled_at = Some(now);
        // Part of a read, which has no effect on what anybody is handed: one that fails is free when its session ends.
        self.release(Access::Read).await
    }

    /// Gives up what is assigned to others.
    async fn release(&mut self, access: Access) -> Result<()> {
        let stray = |at: &u32| self.assigned.binary_search(at).is_err();
        let released: Vec<u32> = self.owned.keys().copied().filter(stray).collect();
        let shared = Arc::clone(&self.shared);
        let mut calls = Vec::new();
        for at in released {
            if let Some(owned) = self.disown(at) {
                calls.push(shared.wire.release(at, &self.group, &self.id, owned.token));
            }
        }
        if calls.is_empty() {
            return Ok(());
        }
        shared.ask_many(calls, access).await.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }

    /// Forgets a partition, and what of it was not handed out.
    fn disown(&mut self, partition: u32) -> Option<Owned> {
        self.ready.events.retain(|delivered| delivered.position.partition != partition);
        self.ready.gaps.retain(|gap| gap.partition != partition);
        self.owned.remove(&partition)
    }

    /// Reads what there is, up to so many events, into `ready`.
    async fn fetch(&mut self, limit: usize) -> Result<()> {
        // Each time with another partition first, so that each has its turn.
        self.turn = self.turn.wrapping_add(1);
        let mut active = self.assigned.clone();
        let turn = self.turn.checked_rem(active.len()).unwrap_or_default();
        active.rotate_left(turn);
        let (mut bytes, mut error) = (0, None);
        while self.ready.events.len() < limit && bytes < READ_BYTES && !active.is_empty() {
            let left = limit - self.ready.events.len();
            let count = active.len().min(left);
            let shared = Arc::clone(&self.shared);
            let call = |&at: &u32| {
                let owned = self.owned.get(&at);
                let want = Want {
                    member: &self.id,
                    session_us: shared.config.session_us(),
                    token: owned.map_or(0, |owned| owned.token),
                    cursor: owned.and_then(|owned| owned.cursor),
                    events_max: left / count,
                    bytes_max: READ_BYTES / count,
                };
                shared.wire.read(at, &self.group, &want)
            };
            let calls = active[..count].iter().map(call).collect();
            let answers = shared.ask_many(calls, Access::Read).await;
            let mut rest = active.split_off(count);
            for (at, answer) in active.into_iter().zip(answers) {
                match answer.and_then(|answer| read_events(at, answer)) {
                    Ok(Read::Mine(mine)) => {
                        let is_full = mine.is_cut || mine.events.len() >= left / count;
                        bytes += self.take(at, mine);
                        if is_full {
                            rest.push(at);
                        }
                    }
                    Ok(Read::Taken) => drop(self.disown(at)),
                    Ok(Read::NoGroup) => error = Some(no_group()),
                    Err(failed) => error = Some(failed),
                }
            }
            active = rest;
        }
        match error {
            Some(error) if self.ready == Batch::default() => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds what was read to `ready`; answers how many bytes it is.
    fn take(&mut self, partition: u32, mine: Mine) -> usize {
        if self.owned.get(&partition).is_none_or(|owned| !owned.is_followed_by(&mine)) {
            let is_torn = self.disown(partition).is_some_and(|owned| owned.is_torn || owned.is_behind());
            self.owned.insert(partition, Owned { token: mine.token, cursor: None, committed: None, is_torn });
        }
        let Some(first) = mine.events.first() else { return 0 };
        let number = first.position.number;
        if number > mine.from {
            self.ready.gaps.push(Gap { partition, from: mine.from, to: number });
        }
        if let (Some(owned), Some(last), Some(head)) = (self.owned.get_mut(&partition), mine.events.last(), mine.last) {
            owned.cursor = Some((last.position.number, head));
        }
        let bytes = mine.events.iter().map(|delivered| delivered.event.key.len() + delivered.event.bytes.len()).sum();
        self.ready.events.extend(mine.events);
        bytes
    }

    /// What is ready, `limit` events at most.
    fn hand_out(&mut self, limit: usize) -> Batch {
        let count = self.ready.events.len().min(limit);
        let rest = self.ready.events.split_off(count);
        Batch { events: std::mem::replace(&mut self.ready.events, rest), gaps: std::mem::take(&mut self.ready.gaps) }
    }
}

fn no_group() -> Error {
    Error::new(ErrorKind::Config, Effect::None, "the group's record was removed from Redis; join again")
}

impl GroupMember for RedisMember {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        if limit == 0 {
            return Err(Error::invalid("limit", "read at least one event"));
        }
        let clock = Arc::clone(&self.shared.config.clock);
        let start = clock.steady();
        loop {
            self.enroll().await?;
            if self.ready == Batch::default() {
                self.fetch(limit).await?;
            }
            let left = wait_max.saturating_sub(clock.steady().saturating_sub(start));
            if self.ready != Batch::default() || left.is_zero() {
                return Ok(self.hand_out(limit));
            }
            clock.sleep_until(clock.now().saturating_add(left.min(self.shared.config.poll_every))).await;
        }
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for position in positions {
            if position.partition >= self.shared.config.partitions {
                return Err(Error::invalid("positions", "the log has no such partition"));
            }
            let end = ends.entry(position.partition).or_default();
            *end = position.number.max(*end);
        }
        let (mut lost, mut asked, mut calls) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (partition, number) in ends {
            match self.owned.get(&partition) {
                Some(Owned { is_torn: true, .. }) => {
                    // The next read hands it out again, from what is committed on.
                    self.disown(partition);
                    lost.insert(partition);
                }
                Some(Owned { token, cursor: Some(cursor), .. }) if number <= cursor.0 => {
                    let (at, session_us) = (Position { partition, number }, self.shared.config.session_us());
                    let commit = Commit { member: &self.id, session_us, token: *token, cursor: *cursor };
                    calls.push(self.shared.wire.commit(at, &self.group, &commit));
                    asked.push((partition, number));
                }
                _ => drop(lost.insert(partition)),
            }
        }
        let answers = self.shared.ask_many(calls, Access::Write).await;
        for ((partition, number), answer) in asked.into_iter().zip(answers) {
            if read_number(&answer?)? == 0 {
                self.disown(partition);
                lost.insert(partition);
            } else if let Some(owned) = self.owned.get_mut(&partition) {
                owned.committed = owned.committed.max(Some(number));
            }
        }
        Ok(if lost.is_empty() { Committed::All } else { Committed::Lost { partitions: lost.into_iter().collect() } })
    }

    async fn leave(mut self) -> Result<()> {
        self.assigned.clear();
        let released = self.release(Access::Write).await;
        self.shared.ask(&self.shared.wire.retire(&self.group, &self.id), Access::Write).await?;
        released
    }
}
