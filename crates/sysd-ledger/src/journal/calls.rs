//! Calls of the store: each with a deadline, and tried again where that is safe, which it always is here.

use std::future::Future;
use std::ops::Bound;

use futures::Stream;
use futures::stream::{TryStreamExt as _, iter, try_unfold};

use sysd_core::{
    Effect, Error, ErrorKind, Expect, Idempotence, Key, Outcome, Pace, Page, Record, Result, RetryBudget, Scan, Store,
    Write, retry, timeout,
};

use super::JournalConfig;
use crate::schema::journal::{INDEX, Place};

/// So many records are read or written at once.
const RECORDS_AT_ONCE: usize = 256;

/// Storage calls.
#[derive(Debug)]
pub(super) struct Calls<S> {
    pub(super) store: S,
    pub(super) config: JournalConfig,
    budget: RetryBudget,
    may_forget: bool,
    reads: Pace,
    writes: Pace,
}

impl<S: Store> Calls<S> {
    pub(super) fn new(store: S, config: JournalConfig, may_forget: bool) -> Self {
        let at_once = store.limits().batch_records_max.clamp(1, RECORDS_AT_ONCE);
        let (reads, writes) = (Pace::new(at_once, 4), Pace::new(at_once, 4));
        Self { store, config, budget: RetryBudget::default(), may_forget, reads, writes }
    }

    async fn within<T: Send>(&self, effect: Effect, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let answer = timeout(&self.config.clock, self.config.call_wait_max, call).await;
        answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, effect, "the store gave no answer in time")))
    }

    async fn again<T, Fut>(&self, call: impl FnMut() -> Fut + Send) -> Result<T>
    where
        T: Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let JournalConfig { retry: policy, clock, entropy, .. } = &self.config;
        retry(policy, &self.budget, clock, entropy, Idempotence::Idempotent, call).await
    }

    pub(super) async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.again(|| self.within(Effect::None, self.store.get(key))).await
    }

    /// Reads records, as many at once as the store answers in time; alone, and again, those whose read failed.
    pub(super) async fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Record>>> {
        let mut records = Vec::with_capacity(keys.len());
        while records.len() < keys.len() {
            let asked = self.reads.of(&keys[records.len()..]);
            let all = async { Ok(self.store.get_many(asked).await) };
            let answers = match self.within(Effect::None, all).await {
                Err(error) if self.reads.slow_down(asked.len(), &error) => continue,
                Err(error) => vec![Err(error)],
                Ok(answers) if answers.len() != asked.len() => return Err(miscounted(Effect::None)),
                Ok(answers) => {
                    self.reads.answered();
                    answers
                }
            };
            for (key, answer) in asked.iter().zip(answers) {
                records.push(match answer {
                    Err(error) if error.kind().is_transient() => self.get(*key).await?,
                    answer => answer?,
                });
            }
        }
        Ok(records)
    }

    pub(super) async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.again(|| self.within(Effect::None, self.store.scan(scan))).await
    }

    /// The rows of a partition of the index in a range, in order, so many at a time: the place and the record of each.
    pub(super) fn rows<'a>(
        &'a self,
        partition: &'a [u8],
        (from, to): (Bound<Vec<u8>>, Bound<&'a [u8]>),
        at_once: usize,
    ) -> impl Stream<Item = Result<(Place, Record)>> + Send + 'a {
        let pages = try_unfold(Some(from), move |from| async move {
            let Some(from) = from else { return Ok(None) };
            let scan = Scan::partition(INDEX, partition, at_once).range(from.as_ref().map(Vec::as_slice), to);
            let page = self.scan(scan).await?;
            let rows = page.rows.into_iter().map(|row| {
                Ok((Place { space: INDEX, partition: partition.into(), sort: row.sort.as_ref().into() }, row.record))
            });
            // A page may be short, even empty, though more follows.
            Ok::<_, Error>(Some((iter(rows), page.next.map(|next| Bound::Excluded(next.to_vec())))))
        });
        pages.try_flatten()
    }

    /// Writes records that are the same whoever writes them, as many at once as the store answers in time; alone, and again, those
    /// that failed.
    ///
    /// # Errors
    /// Some may have been written. [`Corrupt`](ErrorKind::Corrupt) with the key if there is another there, which stays: two ledgers have
    /// one name.
    pub(super) async fn put_all(&self, records: &[(Place, bytes::Bytes)]) -> Result<()> {
        let expect = if self.may_forget { Expect::Any } else { Expect::Absent };
        let mut rest = records;
        while !rest.is_empty() {
            let some = self.writes.of(rest);
            let writes: Vec<_> =
                some.iter().map(|(place, value)| Write::put(place.key(), value.clone()).expect(expect)).collect();
            let all = async { Ok(self.store.write_many(&writes).await) };
            let outcomes = match self.within(Effect::Unknown, all).await {
                Err(error) if self.writes.slow_down(some.len(), &error) => continue,
                Err(error) => vec![Err(error)],
                Ok(outcomes) if outcomes.len() != some.len() => return Err(miscounted(Effect::Unknown)),
                Ok(outcomes) => {
                    self.writes.answered();
                    outcomes
                }
            };
            for ((outcome, write), (place, value)) in outcomes.into_iter().zip(&writes).zip(some) {
                let outcome = match outcome {
                    Err(error) if error.kind().is_transient() => {
                        self.again(|| self.within(Effect::Unknown, self.store.write(write.clone()))).await?
                    }
                    outcome => outcome?,
                };
                is_there(outcome, place, value)?;
            }
            rest = &rest[some.len()..];
        }
        Ok(())
    }
}

/// Whether that record is there now.
fn is_there(outcome: Outcome, place: &Place, value: &bytes::Bytes) -> Result<()> {
    match outcome {
        Outcome::Applied => Ok(()),
        // Written before.
        Outcome::Conflict { found: Some(found) } if found.value == *value => Ok(()),
        Outcome::Conflict { found: Some(_) } => {
            let what = "another ledger's journal is there; give each ledger a name of its own";
            Err(Error::corrupt(place.key(), what))
        }
        Outcome::Conflict { found: None } => {
            let message = "the store refuses to insert where nothing is; certify it with sysd-testkit";
            Err(Error::new(ErrorKind::Internal, Effect::Unknown, message))
        }
    }
}

fn miscounted(effect: Effect) -> Error {
    let message = "the store did not answer a batch one by one; certify it with sysd-testkit";
    Error::new(ErrorKind::Internal, effect, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use futures::channel::oneshot;
    use sysd_testkit::sim::{Faults, Node, Simulation};

    use super::*;
    use crate::model::TransactionId;
    use crate::schema::journal::Schema;

    /// What was written and read of so many records, by a store that answers one after the other.
    fn written_and_read(seed: u64, faults: Faults, attempts_max: u32) -> Result<Vec<Option<Record>>> {
        let simulation = Simulation::new(seed);
        simulation.set_faults(faults);
        let mut config = JournalConfig { call_wait_max: Duration::from_millis(10), ..JournalConfig::default() };
        config.retry.attempts_max = attempts_max;
        (config.clock, config.entropy) = (Arc::new(simulation.clock()), simulation.entropy());
        let calls = Calls::new(simulation.store(Node(0)), config, true);
        let schema = Schema::new("books").unwrap();
        let value = bytes::Bytes::from_static(b"1");
        let records: Vec<_> = (0..300).map(|id| (schema.reversal(TransactionId(id)), value.clone())).collect();
        let (done, answer) = oneshot::channel();
        simulation.spawn(Node(0), async move {
            let keys: Vec<_> = records.iter().map(|(place, _)| place.key()).collect();
            let read = match calls.put_all(&records).await {
                Ok(()) => calls.get_many(&keys).await,
                Err(error) => Err(error),
            };
            let _ = done.send(read);
        });
        simulation.run_for(Duration::from_secs(60)).unwrap();
        futures::executor::block_on(answer).unwrap()
    }

    /// An audit in the simulation asked for 25 rows at once, which the store could not answer in the time of one call, however often.
    #[test]
    fn a_store_is_asked_for_no_more_than_it_answers_in_time() {
        for seed in 0..20 {
            let read = written_and_read(seed, Faults::NONE, 1).unwrap();
            assert!(read.len() == 300 && read.iter().all(Option::is_some), "seed {seed}");
        }
    }

    /// One in forty fails, so hardly ever 25 succeed together.
    #[test]
    fn what_fails_of_a_batch_is_only_its_own() {
        for seed in 0..20 {
            let read = written_and_read(seed, Faults { refused: 25, ..Faults::NONE }, 4).unwrap();
            assert!(read.len() == 300 && read.iter().all(Option::is_some), "seed {seed}");
        }
    }

    #[test]
    fn who_never_answers_is_not_waited_for_long() {
        let silent = Faults { reply_never: 1_000, ..Faults::NONE };
        assert_eq!(written_and_read(1, silent, 4).unwrap_err().kind(), ErrorKind::Timeout);
    }
}
