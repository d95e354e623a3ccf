//! Batches: what lies in one partition goes together, the rest side by side.

use std::collections::{BTreeMap, HashSet};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use sysd_core::{Change, Clock, Effect, Error, ErrorKind, Expect, Key, Outcome, Record, Result, Space, Write};

use super::carry::{Caller, OwnedWrite, carried};
use super::error::map;
use super::layout::{Answer, Values, read_answer};
use super::{ScyllaStore, access, bounded};

/// Writes in one statement.
pub(super) const BATCH_WRITES_MAX: usize = 100;
/// A batch ends when its values have so many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// The writes of one partition, by their places in the batch that was asked for: one group after the other.
type Groups = Vec<Vec<usize>>;

/// A partition as a group's name.
fn place(key: Key<'_>) -> (&'static str, &[u8], bool) {
    (key.space().name(), key.partition(), key.is_lone())
}

fn bytes(write: &Write<'_>) -> usize {
    match &write.change {
        Change::Put { value, .. } => value.len(),
        Change::Delete => 0,
    }
}

/// Cuts the writes of one partition into groups: unconditional ones together, no record twice in one (their timestamps would
/// be equal, and of two equal ones the greater value wins, column by column); the others alone.
fn group(writes: &[Write<'_>], members: &[usize]) -> Groups {
    let mut groups = Groups::new();
    let mut open: Vec<usize> = Vec::new();
    let mut sorts = HashSet::new();
    let mut size = 0;
    for &at in members {
        let write = &writes[at];
        if write.expect != Expect::Any {
            groups.push(vec![at]);
            continue;
        }
        size += bytes(write);
        if open.len() == BATCH_WRITES_MAX
            || (size > BATCH_BYTES && !open.is_empty())
            || sorts.contains(write.key.sort())
        {
            groups.push(std::mem::take(&mut open));
            sorts.clear();
            size = bytes(write);
        }
        sorts.insert(write.key.sort());
        open.push(at);
    }
    groups.extend((!open.is_empty()).then_some(open));
    groups
}

impl<C: Clock> ScyllaStore<C> {
    /// What a batch can't take from its statements.
    pub(super) fn set_up(&self, batch: &mut Batch, space: Space) {
        let config = &self.shared.config;
        if space.is_conditional() {
            let (serial, commit) = config.conditional_write();
            batch.set_serial_consistency(Some(serial));
            batch.set_consistency(commit);
            batch.set_is_idempotent(false);
        } else {
            batch.set_consistency(config.plain_consistency());
            batch.set_is_idempotent(true);
        }
    }

    pub(super) async fn write_groups(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let now = self.clock.now();
        let mut answers: Vec<Option<Result<Outcome>>> = Vec::with_capacity(writes.len());
        let mut members: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, write) in writes.iter().enumerate() {
            match self.limits.check_write(write, now) {
                Ok(()) => {
                    answers.push(None);
                    members.entry(place(write.key)).or_default().push(at);
                }
                Err(error) => answers.push(Some(Err(error))),
            }
        }
        let mut jobs = Vec::with_capacity(members.len());
        for members in members.into_values() {
            // Paxos takes the groups of a partition one by one; without it they need not wait for each other.
            if writes[members[0]].key.space().is_conditional() {
                jobs.push(self.write_partition(writes, members).boxed());
            } else {
                let groups = group(writes, &members);
                let write =
                    |group| async move { self.write_in_turn(writes, vec![group], &mut Caller::who_polls()).await };
                jobs.extend(groups.into_iter().map(|group| write(group).boxed()));
            }
        }
        let done = bounded(jobs, self.shared.config.batch_in_flight_max).await;
        for (at, answer) in done.into_iter().flatten() {
            answers[at] = Some(answer);
        }
        let missing = || Err(Error::new(ErrorKind::Internal, Effect::Unknown, "an answer is missing"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    /// Writes of one partition of a conditional space.
    async fn write_partition(&self, writes: &[Write<'_>], members: Vec<usize>) -> Vec<(usize, Result<Outcome>)> {
        let owned: Vec<_> = members.iter().map(|&at| OwnedWrite::of(&writes[at])).collect();
        let store = self.clone();
        let call = |mut caller: Caller| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let writes: Vec<_> = owned.iter().map(OwnedWrite::as_write).collect();
                let all: Vec<_> = (0..writes.len()).collect();
                store.write_in_turn(&writes, group(&writes, &all), &mut caller).await
            })
        };
        match carried(call).await {
            Ok(answers) => answers.into_iter().map(|(nth, answer)| (members[nth], answer)).collect(),
            Err(error) => members.into_iter().map(|at| (at, Err(error.share().with_key(writes[at].key)))).collect(),
        }
    }

    async fn write_in_turn(
        &self,
        writes: &[Write<'_>],
        groups: Groups,
        caller: &mut Caller,
    ) -> Vec<(usize, Result<Outcome>)> {
        let mut answers = Vec::new();
        for group in groups {
            if group.len() > 1 {
                match self.write_together(writes, &group, caller).await {
                    Ok(true) => {
                        answers.extend(group.into_iter().map(|at| (at, Ok(Outcome::Applied))));
                        continue;
                    }
                    Err(error) => {
                        let error = |at: usize| Err(error.share().with_key(writes[at].key));
                        answers.extend(group.into_iter().map(|at| (at, error(at))));
                        continue;
                    }
                    // One of them can't be: then each has its own answer.
                    Ok(false) => {}
                }
            }
            for at in group {
                answers.push((at, self.write_checked(&writes[at], caller).await));
            }
        }
        answers
    }

    /// Unconditional writes of one partition in one statement, all or none; by Paxos in a conditional space, where the first
    /// carries the condition that always holds. Answers whether they were applied.
    async fn write_together(&self, writes: &[Write<'_>], group: &[usize], caller: &mut Caller) -> Result<bool> {
        let key = writes[group[0]].key;
        let is_conditional = key.space().is_conditional();
        let table = self.table(key.space());
        let _turn = self.turn(key, caller).await?;
        let now = self.clock.now();
        let mut statements: Vec<BatchStatement> = Vec::with_capacity(group.len());
        let mut values: Vec<Values<'_>> = Vec::with_capacity(group.len());
        for (nth, &at) in group.iter().enumerate() {
            let is_put = matches!(writes[at].change, Change::Put { .. });
            let statement = match (is_conditional && nth == 0, is_put) {
                (true, true) => &table.put,
                (true, false) => &self.shared.statements.conditions.delete_always,
                (false, true) => &table.put_in_batch,
                (false, false) => &table.delete_in_batch,
            };
            statements.push(statement.clone().into());
            values.push(self.values(&writes[at], now));
        }
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        self.set_up(&mut batch, key.space());
        let done = self.shared.session.batch(&batch, values).await;
        let result = done.map_err(|error| map(&error, access(key.space())))?;
        Ok(!is_conditional || matches!(read_answer(result, key)?, Answer::Applied))
    }

    pub(super) async fn read_groups(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let jobs: Vec<_> = keys.iter().map(|&key| sysd_core::Store::get(self, key)).collect();
        bounded(jobs, self.shared.config.batch_in_flight_max).await
    }
}
