//! Handing jobs out, and carrying settlements out on the way.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use sysd_core::queue::{JobId, JobLease, LeasedJob};
use sysd_core::{Entropy as _, Error, Key, Record, Result, Row, Scan, Store, Timestamp, Write};

use super::config::Bug;
use super::schema::{self, Fate, JobRow, Mark, Place, SPACE};
use super::state::{Candidate, Grant, State, Status, Ticket};
use super::{CONTENTION_MAX, Seen, Shared};

/// What a scan found that might be handed out.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    payloads: Vec<Bytes>,
    /// Rows of jobs that are settled: late echoes.
    echoes: Vec<Place>,
    /// Jobs that were handed out once and have no row any more: there is nothing to do.
    gone: Vec<JobId>,
    /// The due time of the first row of each lane, as far as it came.
    firsts: Vec<Option<Timestamp>>,
    /// Whether it began at the very first row.
    is_full: bool,
    /// Whether rows were passed over because the record says that they are in flight.
    has_skipped: bool,
}

impl<S: Store> Shared<S> {
    pub(super) async fn lease(&self, shard: u16, jobs_max: usize, hold: Duration) -> Result<Vec<LeasedJob>> {
        let (mut seen, mut is_fresh) = match self.known(shard) {
            Some(seen) => (seen, false),
            None => (self.read(shard).await?, true),
        };
        let token = self.calls.entropy.next_u64();
        for _ in 0..CONTENTION_MAX {
            let mut state = State::clone(&seen.state);
            let looked_at = self.calls.now();
            let carried = self.carry_out(shard, &seen.state);
            let (settled, found) = join(carried, self.look(shard, &seen.state, jobs_max, looked_at)).await;
            let (settled, found) = (settled?, found?);
            state.drop_settled(&seen.state, &settled);
            state.drop_settled(&seen.state, &found.gone);
            // Looking took time: a lease begins now.
            let grant = self.grant(jobs_max, token, hold)?;
            state.bury_expired(grant.now, self.config.attempts_max);
            let handed = state.decide_lease(&found.candidates, &grant);
            if handed.is_empty() && found.has_skipped && !is_fresh {
                // What is in flight by this record may have been given back since.
                (seen, is_fresh) = (self.read(shard).await?, true);
                continue;
            }
            let is_changed = state != *seen.state;
            if is_changed || found.is_full {
                let (lanes, late_max) = (self.lanes, self.config.late_max);
                // By the time of the look: what fell due since was not looked for.
                state.raise_floors(&found.firsts, found.is_full, lanes, looked_at, late_max);
            }
            if state == *seen.state {
                self.remove_echoes(&found).await;
                return Ok(Vec::new());
            }
            match self.replace_leased(shard, &mut seen, state, &found, &grant, hold).await? {
                Some(jobs) => {
                    self.remove_echoes(&found).await;
                    return Ok(jobs);
                }
                None => is_fresh = true,
            }
        }
        // Others are busy here: not this shard's turn.
        Ok(Vec::new())
    }

    /// Writes a lease over `seen`. On a conflict tries once more on the newer record if what was scanned still counts;
    /// otherwise leaves that in `seen`, and answers `None`.
    async fn replace_leased(
        &self,
        shard: u16,
        seen: &mut Seen,
        mut state: State,
        found: &Found,
        &Grant { jobs_max, token, .. }: &Grant,
        hold: Duration,
    ) -> Result<Option<Vec<LeasedJob>>> {
        let generation = seen.state.generation;
        for _ in 0..4 {
            match self.replace(shard, seen, state).await? {
                Ok(state) => return Ok(Some(leased(&state, found, token))),
                Err((newer, _)) => *seen = newer,
            }
            if holds_token(&seen.state, token) {
                // This very lease, whose reply was lost, and others since.
                return Ok(Some(leased(&seen.state, found, token)));
            }
            if seen.state.generation != generation && !self.config.has(Bug::KeepScan) {
                return Ok(None);
            }
            state = State::clone(&seen.state);
            let grant = self.grant(jobs_max, token, hold)?;
            state.bury_expired(grant.now, self.config.attempts_max);
            if state.decide_lease(&found.candidates, &grant).is_empty() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The terms of a lease that begins now.
    fn grant(&self, jobs_max: usize, token: u64, hold: Duration) -> Result<Grant> {
        let now = self.calls.now();
        let until = now.checked_add(hold).ok_or_else(|| Error::invalid("hold", "it ends beyond the year 2255"))?;
        let in_flight_max = self.config.in_flight_max + usize::from(self.config.has(Bug::Overfill));
        Ok(Grant { jobs_max, in_flight_max, token, now, until })
    }

    /// Looks for what may be handed out: where there is no room, only for what needs none.
    async fn look(&self, shard: u16, state: &State, jobs_max: usize, now: Timestamp) -> Result<Found> {
        let room = state.room(self.config.in_flight_max + usize::from(self.config.has(Bug::Overfill)));
        if room > 0 {
            let needless = || state.expired(now, self.config.attempts_max, jobs_max - room).len();
            let wanted = if jobs_max <= room { jobs_max } else { room + needless() };
            return self.find(shard, state, wanted, now).await;
        }
        if self.config.has(Bug::LeaveExpired) {
            return Ok(Found { has_skipped: true, ..Found::default() });
        }
        self.find_expired(shard, state, jobs_max, now).await
    }

    /// Finds the rows of expired leases, wherever they lie: before them may lie any number that there is no room for.
    async fn find_expired(&self, shard: u16, state: &State, jobs_max: usize, now: Timestamp) -> Result<Found> {
        let mut found = Found { has_skipped: true, ..Found::default() };
        let tickets = state.expired(now, self.config.attempts_max, jobs_max);
        let partition = self.schema.rows(shard);
        let sorts: Vec<_> = tickets.iter().map(schema::sort).collect();
        let keys: Vec<_> = sorts.iter().map(|sort| Key::row(SPACE, partition, sort)).collect();
        let mut rows = Vec::with_capacity(keys.len());
        for ((record, sort), Ticket { id, .. }) in
            self.calls.get_many(&keys).await?.into_iter().zip(&sorts).zip(tickets)
        {
            match record {
                Some(record) => rows.push(Row { sort: Bytes::copy_from_slice(sort), record }),
                None => found.gone.push(id),
            }
        }
        self.sift(state, partition, rows, now, &mut found).await?;
        Ok(found)
    }

    /// Finds rows that may be handed out by this record, lane by lane, in order.
    async fn find(&self, shard: u16, state: &State, wanted: usize, now: Timestamp) -> Result<Found> {
        let is_full = now >= state.full_at && (state.floors.is_empty() || !self.config.has(Bug::ForgetLate));
        let mut found = Found { is_full, ..Found::default() };
        let partition = self.schema.rows(shard);
        for lane in 0..self.lanes {
            if found.candidates.len() >= wanted {
                break;
            }
            let floor = if is_full { None } else { state.floors.get(usize::from(lane)) };
            let (start, end) = schema::due_bounds(lane, floor.copied().unwrap_or_default(), now);
            found.firsts.push(None);
            let mut cursor: Option<Bytes> = None;
            while found.candidates.len() < wanted {
                let from = cursor.as_deref().map_or(Bound::Included(start.as_slice()), Bound::Excluded);
                if cursor.as_deref().is_some_and(|cursor| cursor >= end.as_slice()) {
                    break;
                }
                // Rows in flight lie first: room for as many as there may be.
                let limit = (wanted - found.candidates.len()).saturating_add(state.entries.len());
                let scan = Scan::partition(SPACE, partition, limit).range(from, Bound::Excluded(&end));
                let page = self.calls.scan(scan).await?;
                if let (Some(first @ None), Some(row)) = (found.firsts.last_mut(), page.rows.first()) {
                    *first = schema::ticket_of(&row.sort).map(|ticket| ticket.due);
                }
                self.sift(state, partition, page.rows, now, &mut found).await?;
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    async fn sift(
        &self,
        state: &State,
        partition: &[u8],
        rows: Vec<Row>,
        now: Timestamp,
        found: &mut Found,
    ) -> Result<()> {
        let (mut jobs, mut marks) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let key = Key::row(SPACE, partition, &row.sort);
            let ticket = schema::ticket_of(&row.sort).ok_or_else(|| schema::corrupt(key))?;
            if !state.is_free(&ticket, now) {
                found.has_skipped = true;
                continue;
            }
            let job = JobRow::decode(key, &row.record.value)?;
            if job.is_marked {
                marks.push(self.schema.mark(&ticket.id));
            }
            jobs.push((row.sort, ticket, job));
        }
        let keys: Vec<_> = marks.iter().map(Place::key).collect();
        let mut records = marks.iter().zip(self.calls.get_many(&keys).await?);
        for (sort, ticket, job) in jobs {
            let mark = if job.is_marked { records.next() } else { None };
            match mark.map(|(place, record)| read_mark(place, record)).transpose()? {
                Some(None) if !self.config.has(Bug::ForgetMark) => {
                    found.echoes.push(Place { partition: partition.into(), sort: sort.as_ref().into() });
                }
                mark => {
                    let mark = mark.flatten();
                    found.candidates.push(Candidate { ticket, attempts: job.attempts, mark });
                    found.payloads.push(job.payload);
                }
            }
        }
        Ok(())
    }

    /// Late echoes are removed once it is certain that nothing else is to be said about their jobs. Failing is no harm.
    async fn remove_echoes(&self, found: &Found) {
        let writes: Vec<_> = found.echoes.iter().map(|place| Write::delete(place.key())).collect();
        drop(self.calls.write_many(&writes).await);
    }
}

/// The version of a mark that says that its job is open; `None` if it says anything else.
fn read_mark(place: &Place, record: Option<Record>) -> Result<Option<sysd_core::Version>> {
    let Some(record) = record else { return Ok(None) };
    let mark = Mark::decode(place.key(), &record.value)?;
    Ok((mark.fate == Fate::Open).then_some(record.version))
}

fn holds_token(state: &State, token: u64) -> bool {
    state.entries.values().any(|entry| entry.status.is_leased() && entry.status.token() == token)
}

/// The jobs that a record says are held under `token`.
fn leased(state: &State, found: &Found, token: u64) -> Vec<LeasedJob> {
    let jobs = found.candidates.iter().zip(&found.payloads);
    jobs.filter_map(|(Candidate { ticket, .. }, payload)| {
        let entry = state.entries.get(&ticket.id)?;
        let Status::Leased { token: held, until } = entry.status else { return None };
        if held != token || entry.due != ticket.due {
            return None;
        }
        let lease = JobLease { id: JobId::from_slice(&ticket.id), token };
        Some(LeasedJob { lease, payload: payload.clone(), attempt: entry.attempts, until })
    })
    .collect()
}
