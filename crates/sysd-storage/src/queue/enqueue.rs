//! Adding jobs: the mark first, where the id is the caller's, then the row.

use sysd_core::queue::{Enqueued, JOB_ID_BYTES_MAX, JobId, NewJob};
use sysd_core::{Change, Error, Expect, Key, KeyBytes, Outcome, Result, Store, Timestamp, Write};

use super::Shared;
use super::schema::{self, Fate, JobRow, Mark, Minter, Place, SPACE};
use super::state::Ticket;

/// What is to come of a job.
struct Plan {
    ticket: Ticket,
    is_marked: bool,
    /// Its mark says that there is nothing to do.
    is_settled: bool,
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
        let (now, mut minter) = (self.calls.now(), Minter::default());
        let mut plans: Vec<_> = jobs.iter().map(|job| self.plan(job, now, &mut minter)).collect();
        self.write_marks(&mut plans).await;
        let is_open = |plan: &&Plan| !plan.is_settled;
        let sorts: Vec<KeyBytes> =
            plans.iter().flatten().filter(is_open).map(|plan| schema::sort(&plan.ticket)).collect();
        let open = plans.iter().zip(jobs).filter_map(|(plan, job)| Some((plan.as_ref().ok().filter(is_open)?, job)));
        let writes: Vec<_> = open
            .zip(&sorts)
            .map(|((plan, job), sort)| {
                let row = JobRow { attempts: 0, is_marked: plan.is_marked, payload: job.payload.clone() };
                let key = Key::row(SPACE, self.schema.rows(self.schema.shard_of(&plan.ticket.id)), sort);
                // A second row of an id would be the same one; the first stays.
                let expect = if plan.is_marked { Expect::Absent } else { Expect::Any };
                let change = Change::Put { value: row.encode(), version: self.calls.mint(), expires_at: None };
                Write { key, change, expect }
            })
            .collect();
        let mut outcomes = self.calls.write_many(&writes).await.into_iter();
        let mut answer = |plan: Result<Plan>| {
            let plan = plan?;
            if plan.is_settled {
                return Ok(Enqueued::Settled(plan.ticket.id));
            }
            // A conflict: the row of this id is there.
            let outcome = outcomes.next().unwrap_or_else(|| Err(super::unsettled()));
            outcome.map(|_| Enqueued::Queued(plan.ticket.id))
        };
        plans.into_iter().map(&mut answer).collect()
    }

    /// Where a job's row is to lie, if it has no mark yet.
    fn plan(&self, job: &NewJob, now: Timestamp, minter: &mut Minter) -> Result<Plan> {
        self.check(job)?;
        let due = now.checked_add(job.delay);
        let due = due.ok_or_else(|| Error::invalid("delay", "it ends beyond the year 2255"))?;
        let id = job.id.clone().unwrap_or_else(|| minter.mint(&self.calls.entropy));
        Ok(Plan { ticket: Ticket { lane: job.lane, due, id }, is_marked: job.id.is_some(), is_settled: false })
    }

    /// Writes the marks of callers' ids; where there is one, its job is as that says.
    async fn write_marks(&self, plans: &mut [Result<Plan>]) {
        let marked = plans.iter_mut().filter(|plan| plan.as_ref().is_ok_and(|plan| plan.is_marked));
        let mut marked: Vec<_> = marked.collect();
        let places: Vec<_> = marked.iter().flat_map(|plan| plan.iter()).map(|plan| self.mark_of(plan)).collect();
        let writes: Vec<_> = places
            .iter()
            .map(|(place, mark)| {
                let change = Change::Put { value: mark.encode(), version: self.calls.mint(), expires_at: None };
                Write { key: place.key(), change, expect: Expect::Absent }
            })
            .collect();
        let mut outcomes = self.calls.write_many(&writes).await.into_iter();
        for (plan, (place, _)) in marked.iter_mut().zip(&places) {
            let outcome = outcomes.next().unwrap_or_else(|| Err(super::unsettled()));
            let found = outcome.and_then(|outcome| match outcome {
                Outcome::Conflict { found: Some(record) } => Mark::decode(place.key(), &record.value).map(Some),
                Outcome::Applied | Outcome::Conflict { found: None } => Ok(None),
            });
            match (found, plan.as_mut()) {
                (Ok(Some(mark)), Ok(plan)) => {
                    (plan.ticket.lane, plan.ticket.due) = (mark.lane, mark.due);
                    plan.is_settled = mark.fate != Fate::Open;
                }
                (Err(error), _) => **plan = Err(error),
                (Ok(None), _) | (_, Err(_)) => {}
            }
        }
    }

    fn mark_of(&self, plan: &Plan) -> (Place, Mark) {
        let Ticket { lane, due, id } = &plan.ticket;
        (self.schema.mark(id), Mark::open(*lane, *due))
    }
}
