//! Settling jobs: one conditional write of the shard's record for all of a batch; then, by whoever leases next, the rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use sysd_core::queue::{DeadLetter, Held, JobId, JobLease, REASON_BYTES_MAX, Settlement};
use sysd_core::{Effect, Error, ErrorKind, Expect, Key, Outcome, Result, Store, Timestamp, Write};

use super::config::Bug;
use super::schema::{self, Fate, Grave, JobRow, Mark, Place, SPACE};
use super::state::{Asked, Entry, State, Status, Ticket, Verdict};
use super::{CONTENTION_MAX, Seen, Shared, contended, unsettled};

/// How many settlements are carried out side by side.
const AT_ONCE_MAX: usize = 64;

/// A shard that is asked, more than once if need be.
struct Talk {
    /// Its record as it was last heard of.
    seen: Option<Seen>,
    /// Whether that was read for this.
    is_fresh: bool,
    /// Whether a write may have happened unseen.
    is_again: bool,
    /// What the record said when its settlements were carried out to make room, and those that were.
    carried: Option<(Arc<State>, Vec<JobId>)>,
    /// Why others of them were not.
    trouble: Option<Error>,
}

impl Talk {
    fn hear(&mut self, seen: Seen) -> Seen {
        (self.seen, self.is_fresh) = (Some(seen.clone()), true);
        seen
    }

    /// Decides on the first of `open`, as many as the record has room for; answers what it is then.
    fn decide(
        &self,
        record: &State,
        open: &[usize],
        bytes_max: usize,
        decide: &impl Fn(&mut State, usize, bool) -> Option<Result<Held>>,
    ) -> (State, Vec<Result<Held>>) {
        let first = |count: usize| {
            let mut state = State::clone(record);
            if let Some((then, settled)) = &self.carried {
                state.drop_settled(then, settled);
            }
            let answer = |&at: &usize| decide(&mut state, at, self.is_again).unwrap_or_else(|| Err(unsettled()));
            let answers: Vec<_> = open[..count].iter().map(answer).collect();
            (state, answers)
        };
        let all = first(open.len());
        if all.0.bytes() <= bytes_max {
            return all;
        }
        let (mut fit, mut too_many) = (0, open.len());
        while too_many - fit > 1 {
            let middle = fit.midpoint(too_many);
            if first(middle).0.bytes() <= bytes_max { fit = middle } else { too_many = middle }
        }
        first(fit)
    }
}

impl<S: Store> Shared<S> {
    pub(super) async fn settle_many(&self, jobs: &[(JobLease, Settlement)]) -> Vec<Result<Held>> {
        let now = self.calls.now();
        let verdicts: Vec<Result<Verdict>> = jobs.iter().map(|(_, settlement)| verdict(settlement, now)).collect();
        self.ask_many(
            jobs.len(),
            |at| &jobs[at].0,
            |state, at, is_again| {
                let attempts_max = self.config.attempts_max;
                let asked = Asked { lease: &jobs[at].0, is_again, attempts_max, now, bug: self.config.bug() };
                match &verdicts[at] {
                    Ok(verdict) => state.decide_settle(&asked, verdict.clone()).map(Ok),
                    Err(error) => Some(Err(error.share())),
                }
            },
        )
        .await
    }

    pub(super) async fn extend_many(&self, jobs: &[JobLease], hold: Duration) -> Vec<Result<Held>> {
        let until = self.calls.now().checked_add(hold);
        let until = until.ok_or_else(|| Error::invalid("hold", "it ends beyond the year 2255"));
        self.ask_many(
            jobs.len(),
            |at| &jobs[at],
            |state, at, _| {
                Some(until.as_ref().map(|until| state.decide_extend(&jobs[at], *until)).map_err(Error::share))
            },
        )
        .await
    }

    /// Asks the shards of some leases, each once for all of its leases.
    async fn ask_many<'a>(
        &self,
        count: usize,
        lease: impl Fn(usize) -> &'a JobLease + Sync + Send,
        decide: impl Fn(&mut State, usize, bool) -> Option<Result<Held>> + Sync + Send,
    ) -> Vec<Result<Held>> {
        let mut shards: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for at in 0..count {
            shards.entry(self.schema.shard_of(&lease(at).id)).or_default().push(at);
        }
        let mut answers: Vec<Result<Held>> = (0..count).map(|_| Err(unsettled())).collect();
        for (shard, which) in shards {
            let some = self.ask(shard, &which, &decide).await;
            for (at, answer) in which.into_iter().zip(some) {
                answers[at] = answer;
            }
        }
        answers
    }

    /// Asks a shard, all of these at once. Where its record would become larger than the store takes: as many as fit, and then
    /// more, once what these left in the record has been carried out.
    async fn ask(
        &self,
        shard: u16,
        which: &[usize],
        decide: &(impl Fn(&mut State, usize, bool) -> Option<Result<Held>> + Sync + Send),
    ) -> Vec<Result<Held>> {
        let mut answers = Vec::with_capacity(which.len());
        let mut talk = Talk { seen: self.known(shard), is_fresh: false, is_again: false, carried: None, trouble: None };
        while answers.len() < which.len() {
            let open = &which[answers.len()..];
            match self.ask_some(shard, open, &mut talk, decide).await.map_err(|error| error.after_part(talk.is_again)) {
                Ok(some) => answers.extend(some),
                Err(error) => answers.extend(open.iter().map(|_| Err(error.share()))),
            }
        }
        answers
    }

    /// The answers of the first of these, of one or more.
    async fn ask_some(
        &self,
        shard: u16,
        open: &[usize],
        talk: &mut Talk,
        decide: &(impl Fn(&mut State, usize, bool) -> Option<Result<Held>> + Sync + Send),
    ) -> Result<Vec<Result<Held>>> {
        let bytes_max = self.calls.store.limits().value_bytes_max;
        for _ in 0..CONTENTION_MAX {
            let seen = match &talk.seen {
                Some(seen) => seen.clone(),
                None => talk.hear(self.read(shard).await?),
            };
            let (state, answers) = talk.decide(&seen.state, open, bytes_max, decide);
            if answers.is_empty() {
                if !talk.is_fresh {
                    talk.seen = None;
                    continue;
                }
                if talk.carried.as_ref().is_some_and(|(then, _)| Arc::ptr_eq(then, &seen.state)) {
                    // What could not be carried out now may be later: then there is room.
                    let error = talk.trouble.take().unwrap_or_else(no_room);
                    return Ok(vec![Err(error.with_effect(Effect::None).after_part(talk.is_again))]);
                }
                let (settled, trouble) = self.carry_out(shard, &seen.state).await;
                match trouble {
                    // What was asked here was not touched.
                    Some(error) if settled.is_empty() => return Err(error.with_effect(Effect::None)),
                    trouble => (talk.carried, talk.trouble) = (Some((seen.state, settled)), trouble),
                }
                continue;
            }
            if state == *seen.state {
                if talk.is_fresh {
                    return Ok(answers);
                }
                talk.seen = None;
                continue;
            }
            match self.replace(shard, &seen, state).await? {
                Ok(_) => {
                    (talk.seen, talk.is_fresh, talk.carried) = (self.known(shard), false, None);
                    // Nothing was sent yet for those that come next.
                    talk.is_again = false;
                    return Ok(answers);
                }
                Err((newer, maybe)) => {
                    talk.is_again |= maybe;
                    talk.hear(newer);
                }
            }
        }
        Err(contended())
    }

    /// Carries out what the record says is settled; answers whose entries may be dropped, and what went wrong with the others.
    pub(super) async fn carry_out(&self, shard: u16, state: &State) -> (Vec<JobId>, Option<Error>) {
        let settled = state.entries.iter().filter(|(_, entry)| !entry.status.is_leased());
        if self.config.has(Bug::DropUnsettled) {
            return (settled.map(|(id, _)| id.clone()).collect(), None);
        }
        let (bare, more): (Vec<_>, Vec<_>) =
            settled.partition(|(_, entry)| entry.mark.is_none() && entry.status.is_done());
        let replacing: Vec<_> = more.iter().map(|(id, entry)| self.replace_row(shard, id, entry)).collect();
        let replaced: Vec<_> = stream::iter(replacing).buffered(AT_ONCE_MAX).collect().await;
        // Where that failed the row and the entry stay, and the others don't wait for it.
        let mut trouble = None;
        let mut note = |error| _ = trouble.get_or_insert(error);
        let replaced = more.into_iter().zip(replaced);
        let replaced = replaced.filter_map(|(one, replaced)| replaced.map_err(&mut note).ok().map(|()| one));
        let settled = bare.into_iter().chain(replaced);
        let settled: Vec<_> = settled.map(|(id, entry)| (id, schema::sort(&ticket(id, entry)))).collect();
        let partition = self.schema.rows(shard);
        let writes: Vec<_> = settled.iter().map(|(_, sort)| Write::delete(Key::row(SPACE, partition, sort))).collect();
        let removed = self.calls.write_many(&writes).await;
        let removed = settled.iter().zip(removed).filter_map(|((id, _), removed)| {
            let _ = removed.map_err(&mut note).ok()?;
            Some(JobId::from_slice(id))
        });
        let removed = removed.collect();
        (removed, trouble)
    }

    /// Writes what a settled job leaves in place of its row: first its mark, then what the mark says.
    async fn replace_row(&self, shard: u16, id: &JobId, entry: &Entry) -> Result<()> {
        let mark = match &entry.status {
            Status::Leased { .. } => return Ok(()),
            Status::Done { .. } => {
                let done = Mark { fate: Fate::Done, lane: entry.lane, due: entry.due };
                return self.settle_mark(id, entry, done).await.map(|_| ());
            }
            Status::Moved { due, .. } => Mark::open(entry.lane, *due),
            Status::Dead { .. } => Mark { fate: Fate::Dead, lane: entry.lane, due: entry.due },
        };
        let row = self.schema.row(shard, &ticket(id, entry));
        // Gone: somebody was faster, and wrote what comes in its place before.
        let Some(record) = self.calls.get(row.key()).await? else { return Ok(()) };
        if self.config.has(Bug::DeleteFirst) {
            self.put_or_fail(&Write::delete(row.key())).await?;
        }
        if self.config.has(Bug::GraveFirst) {
            self.put_replacement(shard, id, entry, &record.value).await?;
        }
        if self.config.has(Bug::LeaveMark) && mark.fate == Fate::Open {
            return self.put_replacement(shard, id, entry, &record.value).await;
        }
        if self.settle_mark(id, entry, mark).await? && !self.config.has(Bug::GraveFirst) {
            self.put_replacement(shard, id, entry, &record.value).await?;
        }
        Ok(())
    }

    /// Writes the row of a later time, or the dead letter, of a job whose row has these bytes.
    async fn put_replacement(&self, shard: u16, id: &JobId, entry: &Entry, bytes: &Bytes) -> Result<()> {
        match &entry.status {
            Status::Moved { due, .. } => {
                let place = self.schema.row(shard, &Ticket { due: *due, ..ticket(id, entry) });
                // What nobody can read goes as it is: whoever comes to it there gives it up.
                let value = match JobRow::decode(bytes) {
                    Ok(job) => JobRow { attempts: entry.attempts, ..job }.encode(),
                    Err(_) => bytes.clone(),
                };
                self.put_or_fail(&Write::put(place.key(), value).with_version(self.calls.mint())).await
            }
            Status::Dead { at, reason, .. } => {
                let place = self.schema.grave(*at, id);
                let (is_marked, payload) = match JobRow::decode(bytes) {
                    Ok(job) => (job.is_marked, job.payload),
                    Err(_) => (entry.mark.is_some(), bytes.clone()),
                };
                let letter = DeadLetter {
                    id: id.clone(),
                    at: *at,
                    attempts: entry.attempts,
                    reason: reason.clone(),
                    lane: entry.lane,
                    payload,
                };
                let grave = Grave { is_marked, replay_at: None, letter };
                let write = Write::put(place.key(), grave.encode()).with_version(self.calls.mint());
                self.put_or_fail(&write.expect(Expect::Absent)).await
            }
            Status::Leased { .. } | Status::Done { .. } => Ok(()),
        }
    }

    async fn put_or_fail(&self, write: &Write<'_>) -> Result<()> {
        // A conflict: an earlier one wrote the same.
        self.calls.write(write).await.map(|_| ())
    }

    /// Has the mark of a job, if it has one, say this. `false`: it says more already, for all of this was carried out, and the
    /// job has gone on since.
    async fn settle_mark(&self, id: &JobId, entry: &Entry, mark: Mark) -> Result<bool> {
        let Some(version) = entry.mark else { return Ok(true) };
        let place: Place = self.schema.mark(id);
        let mut write = Write::put(place.key(), mark.encode()).with_version(self.calls.mint());
        if mark.fate == Fate::Done {
            write = write.expires_at(self.calls.now().saturating_add(self.config.remember_for));
        }
        Ok(match self.calls.write(&write.expect(Expect::Is(version))).await?.outcome {
            Outcome::Applied => true,
            // Lost, or broken, or forgotten: then the same is written once more than is needed.
            Outcome::Conflict { found } => {
                found.and_then(|record| Mark::decode(place.key(), &record.value).ok()).is_none_or(|found| found == mark)
            }
        })
    }
}

fn ticket(id: &JobId, entry: &Entry) -> Ticket {
    Ticket { lane: entry.lane, due: entry.due, id: id.clone() }
}

fn no_room() -> Error {
    let message = "the shard's record has no room for it; use a lower in_flight_max, or shorter reasons";
    Error::new(ErrorKind::TooLarge, Effect::None, message).with_field("reason")
}

fn verdict(settlement: &Settlement, now: Timestamp) -> Result<Verdict> {
    match settlement {
        Settlement::Ack => Ok(Verdict::Done),
        Settlement::Release(delay) => {
            let due = now.checked_add(*delay);
            due.map(Verdict::Moved).ok_or_else(|| Error::invalid("delay", "it ends beyond the year 2255"))
        }
        Settlement::Bury(reason) if reason.len() > REASON_BYTES_MAX => {
            Err(Error::too_large("reason", reason.len(), REASON_BYTES_MAX))
        }
        Settlement::Bury(reason) => Ok(Verdict::Dead(now, reason.clone())),
    }
}
