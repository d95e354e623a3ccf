//! Handing jobs out, and carrying settlements out on the way.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use sysd_core::queue::{JobId, JobLease, LeasedJob};
use sysd_core::{Entropy as _, Error, Key, Record, Result, Row, Scan, Store, Timestamp, Version, Write};

use super::config::Bug;
use super::schema::{self, Fate, JobRow, Mark, Place, SPACE, Unreadable};
use super::state::{Candidate, Grant, State, Status, Ticket};
use super::{CONTENTION_MAX, Seen, Shared};

/// What a scan found that might be handed out.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    payloads: Vec<Bytes>,
    /// Rows whose bytes nobody can read.
    broken: Vec<Candidate>,
    /// Rows that their marks do not name: late echoes, if the shard's record does not say otherwise.
    echoes: Vec<Ticket>,
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
            let ((settled, trouble), found) = join(carried, self.look(shard, &seen.state, jobs_max, looked_at)).await;
            let found = found?;
            state.drop_settled(&seen.state, &settled);
            state.drop_settled(&seen.state, &found.gone);
            // Looking took time: a lease begins now.
            let grant = self.grant(jobs_max, token, hold)?;
            state.bury_expired(grant.now, self.config.attempts_max);
            let handed = state.decide_lease(&found.candidates, &grant);
            state.bury_broken(&found.broken, &grant);
            if handed.is_empty() && found.has_skipped && !is_fresh {
                // What is in flight by this record may have been given back since.
                (seen, is_fresh) = (self.read(shard).await?, true);
                continue;
            }
            let is_changed = state != *seen.state;
            if is_changed || found.is_full {
                let (lanes, late_max) = (self.lanes, self.config.late_max);
                // By the time of the look: what fell due since was not looked for.
                state.raise_floors(&seen.state, &found.firsts, found.is_full, lanes, looked_at, late_max);
            }
            if state == *seen.state {
                self.remove_echoes(shard, &found, None).await;
                return trouble.map_or_else(|| Ok(Vec::new()), Err);
            }
            match self.replace_leased(shard, &mut seen, state, &found, &grant, hold).await? {
                Some((jobs, state)) => {
                    self.remove_echoes(shard, &found, Some(state)).await;
                    return match trouble {
                        Some(error) if jobs.is_empty() => Err(error),
                        Some(error) => {
                            tracing::warn!(%error, "a settlement of a queue could not be carried out");
                            Ok(jobs)
                        }
                        None => Ok(jobs),
                    };
                }
                None => is_fresh = true,
            }
        }
        // Others are busy here: not this shard's turn.
        Ok(Vec::new())
    }

    /// Writes a lease over `seen`; answers the jobs, and the record as it is then. On a conflict tries once more on the newer record
    /// if what was scanned still counts; otherwise leaves that in `seen`, and answers `None`.
    async fn replace_leased(
        &self,
        shard: u16,
        seen: &mut Seen,
        mut state: State,
        found: &Found,
        &Grant { jobs_max, token, .. }: &Grant,
        hold: Duration,
    ) -> Result<Option<(Vec<LeasedJob>, Arc<State>)>> {
        let generation = seen.state.generation;
        for _ in 0..4 {
            match self.replace(shard, seen, state).await? {
                Ok(state) => return Ok(Some((leased(&state, found, token), state))),
                Err((newer, _)) => *seen = newer,
            }
            if holds_token(&seen.state, token) {
                // This very lease, whose reply was lost, and others since.
                return Ok(Some((leased(&seen.state, found, token), Arc::clone(&seen.state))));
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
                if let Some(first @ None) = found.firsts.last_mut() {
                    // Keys that can't be read lie among them.
                    *first = page.rows.iter().find_map(|row| schema::ticket_of(&row.sort)).map(|ticket| ticket.due);
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

    /// Sorts rows out: what may be handed out, what is to be given up, what is to go.
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
            let Some(ticket) = schema::ticket_of(&row.sort) else {
                // It can't be named, so it stays.
                unreadable(&schema::corrupt(key));
                continue;
            };
            let entry = state.entries.get(&ticket.id);
            if entry.is_some_and(|entry| !entry.is_free(now)) {
                found.has_skipped = true;
                continue;
            }
            let job = match JobRow::decode(&row.record.value) {
                Ok(job) => Some(job),
                Err(Unreadable::Broken) => None,
                Err(Unreadable::Newer) => {
                    unreadable(&schema::corrupt(key));
                    continue;
                }
            };
            let mark = match entry.filter(|entry| entry.is_of(&ticket)) {
                // It was looked at when the job was first handed out.
                Some(entry) => Marked::By(entry.mark),
                // Whether a broken one has a mark only the mark tells.
                None if job.as_ref().is_none_or(|job| job.is_marked) => {
                    marks.push(self.schema.mark(&ticket.id));
                    Marked::Ask
                }
                None => Marked::By(None),
            };
            jobs.push((ticket, job, mark));
        }
        let keys: Vec<_> = marks.iter().map(Place::key).collect();
        let mut records = marks.iter().zip(self.calls.get_many(&keys).await?);
        for (ticket, job, mark) in jobs {
            let mark = match mark {
                Marked::By(mark) => mark,
                Marked::Ask => match records.next().map(|(place, record)| self.read_mark(place, record, &ticket)) {
                    Some(Ok(Named::Yes(version))) => Some(version),
                    // Minted ids have none.
                    Some(Ok(Named::None)) if job.is_none() && schema::may_be_minted(&ticket.id) => None,
                    _ if self.config.has(Bug::ForgetMark) => None,
                    Some(Err(error)) => {
                        unreadable(&error);
                        continue;
                    }
                    Some(Ok(Named::None | Named::No)) | None => {
                        found.echoes.push(ticket);
                        continue;
                    }
                },
            };
            match job {
                Some(job) => {
                    found.candidates.push(Candidate { ticket, attempts: job.attempts, mark });
                    found.payloads.push(job.payload);
                }
                None => found.broken.push(Candidate { ticket, attempts: 0, mark }),
            }
        }
        Ok(())
    }

    /// Whether a mark names this row.
    fn read_mark(&self, place: &Place, record: Option<Record>, ticket: &Ticket) -> Result<Named> {
        let Some(record) = record else { return Ok(Named::None) };
        let mark = Mark::decode(place.key(), &record.value)?;
        let is_any = self.config.has(Bug::AnyRow) && mark.fate == Fate::Open;
        Ok(if is_any || mark.names(ticket) { Named::Yes(record.version) } else { Named::No })
    }

    /// Removes rows that their marks do not name, unless the shard's record, as it was *after* the marks were read, has an entry
    /// of theirs: then they are what a settlement that is being carried out has not copied yet. Failing is no harm.
    async fn remove_echoes(&self, shard: u16, found: &Found, after: Option<Arc<State>>) {
        if found.echoes.is_empty() {
            return;
        }
        let state = match after {
            Some(state) => state,
            None => match self.read(shard).await {
                Ok(seen) => seen.state,
                Err(_) => return,
            },
        };
        let is_idle = |ticket: &&Ticket| !state.has_entry_of(ticket) || self.config.has(Bug::RemoveUnseen);
        let places: Vec<_> = found.echoes.iter().filter(is_idle).map(|ticket| self.schema.row(shard, ticket)).collect();
        let writes: Vec<_> = places.iter().map(|place| Write::delete(place.key())).collect();
        drop(self.calls.write_many(&writes).await);
    }
}

/// Whether a row has a mark.
enum Marked {
    /// The shard's record says so: the version.
    By(Option<Version>),
    /// It has to be read.
    Ask,
}

/// Whether a mark names a row.
enum Named {
    /// It does, under this version.
    Yes(Version),
    /// It says anything else.
    No,
    /// There is none.
    None,
}

fn unreadable(error: &Error) {
    tracing::warn!(%error, "a row of a queue, or its mark, can't be read and is left where it is");
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
