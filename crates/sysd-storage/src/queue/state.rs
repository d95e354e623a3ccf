//! What a shard's record says, and how it is decided upon. Pure.
//!
//! Of each job in flight: which lease holds it, or how it was settled. A row without an entry is a job that waits. The
//! rules are in the module's docs.

use std::collections::BTreeMap;
use std::time::Duration;

use sysd_core::queue::{Held, JOB_ID_BYTES_MAX, JobId, JobLease};
use sysd_core::{Error, Key, Result, Timestamp, Version};

use super::config::Bug;

const FORMAT: u8 = 1;

/// Why a row that nobody can read is given up.
const BROKEN: &str = "its row makes no sense; the payload is what was stored";

const LEASED: u8 = 0;
const DONE: u8 = 1;
const MOVED: u8 = 2;
const DEAD: u8 = 3;
/// Beside the status: there is a mark.
const MARKED: u8 = 0x80;

/// Where a job's row lies in its shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) lane: u8,
    pub(super) due: Timestamp,
    pub(super) id: JobId,
}

/// Where a job in flight stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Handed out under a token, until a time.
    Leased { token: u64, until: Timestamp },
    /// Done; its row is to go.
    Done { token: u64 },
    /// Given back: its row is to move to a later time.
    Moved { token: u64, due: Timestamp },
    /// Given up: its row is to move among the dead letters.
    Dead { token: u64, at: Timestamp, reason: String },
}

/// A job in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) lane: u8,
    pub(super) due: Timestamp,
    pub(super) attempts: u32,
    /// The version of its mark, if its id is the caller's.
    pub(super) mark: Option<Version>,
    pub(super) status: Status,
}

/// A row that might be handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) ticket: Ticket,
    pub(super) attempts: u32,
    pub(super) mark: Option<Version>,
}

/// A shard's record.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Rises whenever entries are dropped: what was scanned before says nothing any more.
    pub(super) generation: u64,
    /// From when on all rows are looked at once more.
    pub(super) full_at: Timestamp,
    /// For each lane, the due time before which rows lie only if they were written late.
    pub(super) floors: Vec<Timestamp>,
    pub(super) entries: BTreeMap<JobId, Entry>,
}

/// What a settlement leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Moved(Timestamp),
    Dead(Timestamp, String),
}

impl Status {
    pub(super) const fn token(&self) -> u64 {
        match self {
            Self::Leased { token, .. }
            | Self::Done { token }
            | Self::Moved { token, .. }
            | Self::Dead { token, .. } => *token,
        }
    }

    pub(super) const fn is_leased(&self) -> bool {
        matches!(self, Self::Leased { .. })
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// How many jobs are handed out, and on what terms.
#[derive(Clone, Copy)]
pub(super) struct Grant {
    pub(super) jobs_max: usize,
    /// How many entries there may be.
    pub(super) in_flight_max: usize,
    pub(super) token: u64,
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
}

/// A question to a lease.
pub(super) struct Asked<'a> {
    pub(super) lease: &'a JobLease,
    /// Whether an earlier attempt of the same question may have been answered and forgotten.
    pub(super) is_again: bool,
    pub(super) attempts_max: u32,
    pub(super) now: Timestamp,
    pub(super) bug: Option<Bug>,
}

/// The most bytes of an entry with a reason that is given here: a longer one of a caller's waits for room.
pub(super) const ENTRY_BYTES_MAX: usize = 1 + JOB_ID_BYTES_MAX + 1 + 8 + 4 + 1 + 16 + 8 + 8 + 2 + 64;

impl State {
    /// Gives up jobs that were handed out `attempts_max` times and whose last lease has run out.
    pub(super) fn bury_expired(&mut self, now: Timestamp, attempts_max: u32) {
        for entry in self.entries.values_mut() {
            if let Status::Leased { token, until } = entry.status
                && until <= now
                && entry.attempts >= attempts_max
            {
                let reason = format!("its lease ran out {} times", entry.attempts);
                entry.status = Status::Dead { token, at: now.max(entry.due), reason };
            }
        }
    }

    /// Gives up jobs whose rows nobody can read, as far as there is room.
    pub(super) fn bury_broken(&mut self, broken: &[Candidate], grant: &Grant) {
        for Candidate { ticket, attempts, mark } in broken {
            let entry = self.entries.get(&ticket.id);
            if !self.is_free(ticket, grant.now) || entry.is_none() && self.entries.len() >= grant.in_flight_max {
                continue;
            }
            let attempts = entry.map_or(*attempts, |entry| entry.attempts);
            let at = grant.now.max(ticket.due);
            let status = Status::Dead { token: grant.token, at, reason: BROKEN.to_owned() };
            let entry = Entry { lane: ticket.lane, due: ticket.due, attempts, mark: *mark, status };
            self.entries.insert(ticket.id.clone(), entry);
        }
    }

    /// Whether a job is in flight in this very row.
    pub(super) fn has_entry_of(&self, ticket: &Ticket) -> bool {
        self.entries.get(&ticket.id).is_some_and(|entry| entry.is_of(ticket))
    }

    /// Whether this row may be handed out at `now`.
    pub(super) fn is_free(&self, ticket: &Ticket, now: Timestamp) -> bool {
        self.entries.get(&ticket.id).is_none_or(|entry| entry.is_free(now))
    }

    /// How many more jobs may be handed out: those that are settled make room as soon as that is carried out.
    pub(super) fn room(&self, in_flight_max: usize) -> usize {
        in_flight_max.saturating_sub(self.entries.values().filter(|entry| entry.status.is_leased()).count())
    }

    /// Where up to `jobs_max` of the jobs lie whose last lease has run out, and which may be handed out once more: those that
    /// have waited longest, whatever their lane, so that each has its turn.
    pub(super) fn expired(&self, now: Timestamp, attempts_max: u32, jobs_max: usize) -> Vec<Ticket> {
        let expired = self.entries.iter().filter_map(|(id, entry)| match entry.status {
            Status::Leased { until, .. } if until <= now && entry.attempts < attempts_max => {
                Some((until, Ticket { lane: entry.lane, due: entry.due, id: id.clone() }))
            }
            _ => None,
        });
        let mut expired: Vec<_> = expired.collect();
        expired.sort_unstable();
        expired.into_iter().take(jobs_max).map(|(_, ticket)| ticket).collect()
    }

    /// Hands candidates out, as long as there is room; an expired lease is taken over in its place. Answers which, with the
    /// attempt.
    pub(super) fn decide_lease(&mut self, candidates: &[Candidate], grant: &Grant) -> Vec<(usize, u32)> {
        let mut handed = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            if handed.len() == grant.jobs_max {
                break;
            }
            let ticket = &candidate.ticket;
            let entry = self.entries.get(&ticket.id);
            if !self.is_free(ticket, grant.now) || entry.is_none() && self.entries.len() >= grant.in_flight_max {
                continue;
            }
            let attempts = entry.map_or(candidate.attempts, |entry| entry.attempts).saturating_add(1);
            let status = Status::Leased { token: grant.token, until: grant.until };
            let entry = Entry { lane: ticket.lane, due: ticket.due, attempts, mark: candidate.mark, status };
            self.entries.insert(ticket.id.clone(), entry);
            handed.push((at, attempts));
        }
        handed
    }

    /// Settles a job if the lease still counts. `None`: nobody can tell any more.
    pub(super) fn decide_settle(&mut self, asked: &Asked<'_>, verdict: Verdict) -> Option<Held> {
        let token = asked.lease.token;
        let Some(entry) = self.entries.get_mut(&asked.lease.id) else {
            return if asked.is_again { None } else { Some(Held::Lost) };
        };
        if entry.status.token() != token && asked.bug != Some(Bug::AckAnyToken) {
            return if asked.is_again { None } else { Some(Held::Lost) };
        }
        if !entry.status.is_leased() {
            // This very settlement, whose answer was lost, or another under the same token.
            let is_same = match (&entry.status, &verdict) {
                (Status::Done { .. }, Verdict::Done)
                | (Status::Moved { .. } | Status::Dead { .. }, Verdict::Moved(_)) => true,
                (Status::Dead { reason, .. }, Verdict::Dead(_, wanted)) => reason == wanted,
                _ => false,
            };
            return Some(if is_same { Held::Held } else { Held::Lost });
        }
        entry.status = match verdict {
            Verdict::Done => Status::Done { token },
            Verdict::Moved(_) if entry.attempts >= asked.attempts_max => {
                let reason = format!("it was given back after {} attempts", entry.attempts);
                Status::Dead { token, at: asked.now.max(entry.due), reason }
            }
            // Later than its row in any case, so that the two differ.
            Verdict::Moved(due) => {
                let later = entry.due.as_micros().saturating_add(1);
                Status::Moved { token, due: due.max(Timestamp::from_micros_saturating(later)) }
            }
            // Not before its row, so that whatever it is put back as is later than that.
            Verdict::Dead(at, reason) => Status::Dead { token, at: at.max(entry.due), reason },
        };
        Some(Held::Held)
    }

    /// Holds a job longer if the lease still counts.
    pub(super) fn decide_extend(&mut self, lease: &JobLease, until: Timestamp) -> Held {
        match self.entries.get_mut(&lease.id).map(|entry| &mut entry.status) {
            Some(Status::Leased { token, until: held }) if *token == lease.token => {
                *held = until.max(*held);
                Held::Held
            }
            _ => Held::Lost,
        }
    }

    /// Forgets entries whose settlement has been carried out, if they are still as they were then.
    pub(super) fn drop_settled(&mut self, then: &Self, settled: &[JobId]) {
        let before = self.entries.len();
        for id in settled {
            if self.entries.get(id) == then.entries.get(id) {
                self.entries.remove(id);
            }
        }
        if self.entries.len() < before {
            self.generation += 1;
        }
    }

    /// Raises the floors to what a scan saw: the due time of the first row of each lane that it came to, `None` where there
    /// was none. `is_full`: it began at the very first row. `before`: the record when it began; what was moved since may
    /// not have been seen.
    pub(super) fn raise_floors(
        &mut self,
        before: &Self,
        firsts: &[Option<Timestamp>],
        is_full: bool,
        lanes: u8,
        now: Timestamp,
        late_max: Duration,
    ) {
        let late_us = u64::try_from(late_max.as_micros()).unwrap_or(u64::MAX);
        let latest = Timestamp::from_micros_saturating(now.as_micros().saturating_sub(late_us));
        self.floors.resize(lanes.into(), Timestamp::UNIX_EPOCH);
        for (lane, floor) in self.floors.iter_mut().enumerate() {
            let first = firsts.get(lane).map(|first| first.map_or(latest, |due| due.min(latest)));
            *floor = match first {
                Some(first) if is_full => first,
                Some(first) => first.max(*floor),
                // It did not come so far.
                None if is_full => Timestamp::UNIX_EPOCH,
                None => *floor,
            };
        }
        for entry in self.entries.values().chain(before.entries.values()) {
            if let (Status::Moved { due, .. }, Some(floor)) =
                (&entry.status, self.floors.get_mut(usize::from(entry.lane)))
            {
                *floor = (*floor).min(*due);
            }
        }
        if is_full {
            self.full_at = now.saturating_add(late_max);
        }
    }

    /// Format (1), generation (8), when all rows are looked at (8), how many lanes (1), their floors (8 each), count (4); of
    /// each entry the id's length (1), the id, lane (1), due (8), attempts (4), status (1, and `MARKED` if there is a mark), the
    /// mark (16), token (8); unless it is done, its time (8); if it is dead, the reason's length (2) and the reason.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.floors.len() * 8 + self.entries.len() * 64);
        out.push(FORMAT);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.full_at.as_micros().to_be_bytes());
        out.push(u8::try_from(self.floors.len()).unwrap_or(u8::MAX));
        self.floors.iter().for_each(|floor| out.extend_from_slice(&floor.as_micros().to_be_bytes()));
        out.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (id, entry) in &self.entries {
            out.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(id);
            entry.encode(&mut out);
        }
        out
    }

    /// How many bytes [`encode`](Self::encode) makes.
    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.iter().map(|(id, entry)| 1 + id.len() + entry.bytes()).sum::<usize>();
        1 + 8 + 8 + 1 + self.floors.len() * 8 + 4 + entries
    }

    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
    pub(super) fn decode(key: Key<'_>, bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::corrupt(key, "the record of a queue's shard makes no sense"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.u8()? != FORMAT {
            return None;
        }
        let generation = input.u64()?;
        let full_at = input.time()?;
        let lanes = input.u8()?;
        let floors = (0..lanes).map(|_| input.time()).collect::<Option<Vec<_>>>()?;
        let count = u32::from_be_bytes(*input.array()?);
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let length = input.u8()?.into();
            let id = JobId::from_slice(input.bytes(length)?);
            entries.insert(id, Entry::read(&mut input)?);
        }
        let is_all = input.0.is_empty() && entries.len() == count as usize;
        is_all.then_some(Self { generation, full_at, floors, entries })
    }
}

impl Entry {
    /// Whether its job may be handed out at `now`.
    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        matches!(self.status, Status::Leased { until, .. } if until <= now)
    }

    /// Whether it is of this very row.
    pub(super) fn is_of(&self, ticket: &Ticket) -> bool {
        (self.lane, self.due) == (ticket.lane, ticket.due)
    }

    fn bytes(&self) -> usize {
        let mark = if self.mark.is_some() { 16 } else { 0 };
        let more = match &self.status {
            Status::Done { .. } => 0,
            Status::Leased { .. } | Status::Moved { .. } => 8,
            Status::Dead { reason, .. } => 8 + 2 + reason.len(),
        };
        1 + 8 + 4 + 1 + mark + 8 + more
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.lane);
        out.extend_from_slice(&self.due.as_micros().to_be_bytes());
        out.extend_from_slice(&self.attempts.to_be_bytes());
        let (tag, time) = match &self.status {
            Status::Leased { until, .. } => (LEASED, Some(until)),
            Status::Done { .. } => (DONE, None),
            Status::Moved { due, .. } => (MOVED, Some(due)),
            Status::Dead { at, .. } => (DEAD, Some(at)),
        };
        out.push(if self.mark.is_some() { tag | MARKED } else { tag });
        if let Some(mark) = self.mark {
            out.extend_from_slice(&mark.to_bytes());
        }
        out.extend_from_slice(&self.status.token().to_be_bytes());
        if let Some(time) = time {
            out.extend_from_slice(&time.as_micros().to_be_bytes());
        }
        if let Status::Dead { reason, .. } = &self.status {
            out.extend_from_slice(&u16::try_from(reason.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(reason.as_bytes());
        }
    }

    fn read(input: &mut Input<'_>) -> Option<Self> {
        let lane = input.u8()?;
        let due = input.time()?;
        let attempts = u32::from_be_bytes(*input.array()?);
        let tag = input.u8()?;
        let mark = if tag & MARKED == 0 { None } else { Some(Version::from_bytes(*input.array()?)) };
        let token = input.u64()?;
        let status = match tag & !MARKED {
            LEASED => Status::Leased { token, until: input.time()? },
            DONE => Status::Done { token },
            MOVED => Status::Moved { token, due: input.time()? },
            DEAD => {
                let at = input.time()?;
                let length = u16::from_be_bytes(*input.array()?).into();
                let reason = std::str::from_utf8(input.bytes(length)?).ok()?.to_owned();
                Status::Dead { token, at, reason }
            }
            _ => return None,
        };
        Some(Self { lane, due, attempts, mark, status })
    }
}

/// What is left to read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|byte| byte[0])
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub(super) fn time(&mut self) -> Option<Timestamp> {
        Timestamp::from_micros(self.u64()?).ok()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
