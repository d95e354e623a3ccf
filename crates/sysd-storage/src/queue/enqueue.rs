//! Adding jobs: the mark first, where the id is the caller's, then the row.

use bytes::Bytes;
use sysd_core::queue::{Enqueued, JOB_ID_BYTES_MAX, JobId, NewJob};
use sysd_core::{Error, Expect, Outcome, Result, Store, Timestamp, Version, Write};

use super::Shared;
use super::schema::{Fate, JobRow, Mark, Place};
use super::state::Ticket;

/// A row to be written, and whose answer it is.
struct Planned {
    at: usize,
    place: Place,
    id: JobId,
    value: Bytes,
    is_marked: bool,
}

impl<S: Store> Shared<S> {
    fn check(&self, job: &NewJob) -> Result<()> {
        let bytes_max = self.payload_bytes_max();
        if job.payload.len() > bytes_max {
            return Err(Error::too_large("payload", job.payload.len(), bytes_max));
        }
        if job.lane >= self.lanes {
            return Err(Error::invalid("lane", format!("this queue has {} lanes, counted from 0", self.lanes)));
        }
        match job.id.as_ref().map(JobId::len) {
            Some(0) => Err(Error::invalid("id", "an id has at least one byte")),
            Some(size) if size > JOB_ID_BYTES_MAX => Err(Error::too_large("id", size, JOB_ID_BYTES_MAX)),
            _ => Ok(()),
        }
    }

    pub(super) async fn enqueue_many(&self, jobs: &[NewJob]) -> Vec<Result<Enqueued>> {
        let now = self.calls.now();
        let mut answers: Vec<Option<Result<Enqueued>>> = Vec::with_capacity(jobs.len());
        let mut planned = Vec::with_capacity(jobs.len());
        for (at, job) in jobs.iter().enumerate() {
            let answer = match self.plan(job, now).await {
                Ok(Ok((ticket, is_marked))) => {
                    let place = self.schema.row(self.shard_of(&ticket.id), &ticket);
                    let row = JobRow { attempts: 0, is_marked, payload: job.payload.clone() };
                    planned.push(Planned { at, place, id: ticket.id, value: row.encode(), is_marked });
                    None
                }
                Ok(Err(settled)) => Some(Ok(settled)),
                Err(error) => Some(Err(error)),
            };
            answers.push(answer);
        }
        let writes: Vec<_> = planned
            .iter()
            .map(|planned| {
                // A second row of an id would be the same one; the first stays.
                let expect = if planned.is_marked { Expect::Absent } else { Expect::Any };
                let write = Write::put(planned.place.key(), planned.value.clone());
                write.with_version(self.calls.mint()).expect(expect)
            })
            .collect();
        let outcomes = self.calls.write_many(&writes).await;
        for (planned, outcome) in planned.iter().zip(outcomes) {
            answers[planned.at] = Some(outcome.map(|_| Enqueued::Queued(planned.id.clone())));
        }
        let none = || Err(super::unsettled());
        answers.into_iter().map(|answer| answer.unwrap_or_else(none)).collect()
    }

    /// Where a job's row is to lie, and whether it has a mark; `Err`: it was settled already.
    async fn plan(&self, job: &NewJob, now: Timestamp) -> Result<Result<(Ticket, bool), Enqueued>> {
        self.check(job)?;
        let due = now.checked_add(job.delay);
        let due = due.ok_or_else(|| Error::invalid("delay", "it ends beyond the year 2255"))?;
        let Some(id) = &job.id else {
            let id = JobId::from_slice(&Version::mint(&self.calls.entropy).to_bytes());
            return Ok(Ok((Ticket { lane: job.lane, due, id }, false)));
        };
        let place = self.schema.mark(id);
        let mark = Mark { fate: Fate::Open, lane: job.lane, due };
        let write = Write::put(place.key(), mark.encode()).with_version(self.calls.mint()).expect(Expect::Absent);
        let mark = match self.calls.write(&write).await?.outcome {
            Outcome::Conflict { found: Some(record) } => Mark::decode(place.key(), &record.value)?,
            Outcome::Applied | Outcome::Conflict { found: None } => mark,
        };
        match mark.fate {
            Fate::Open => Ok(Ok((Ticket { lane: mark.lane, due: mark.due, id: id.clone() }, true))),
            Fate::Done | Fate::Dead => Ok(Err(Enqueued::Settled(id.clone()))),
        }
    }
}
