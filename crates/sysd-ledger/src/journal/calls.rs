//! Calls of the store: each with a deadline, and tried again where that is safe, which it always is here.

use std::future::Future;

use sysd_core::{
    Effect, Error, ErrorKind, Expect, Idempotence, Key, Outcome, Page, Record, Result, RetryBudget, Scan, Store, Write,
    retry, timeout,
};

use super::JournalConfig;
use crate::schema::journal::Place;

/// Storage calls.
#[derive(Debug)]
pub(super) struct Calls<S> {
    pub(super) store: S,
    pub(super) config: JournalConfig,
    budget: RetryBudget,
    may_forget: bool,
}

impl<S: Store> Calls<S> {
    pub(super) fn new(store: S, config: JournalConfig, may_forget: bool) -> Self {
        Self { store, config, budget: RetryBudget::default(), may_forget }
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

    pub(super) async fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Record>>> {
        let get = || async { self.store.get_many(keys).await.into_iter().collect::<Result<Vec<_>>>() };
        self.again(|| self.within(Effect::None, get())).await
    }

    pub(super) async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.again(|| self.within(Effect::None, self.store.scan(scan))).await
    }

    /// Writes records that are the same whoever writes them.
    ///
    /// # Errors
    /// Some may have been written. [`Corrupt`](ErrorKind::Corrupt) with the key if there is another there, which stays: two ledgers have
    /// one name.
    pub(super) async fn put_all(&self, records: &[(Place, bytes::Bytes)]) -> Result<()> {
        let batch = self.store.limits().batch_records_max.clamp(1, BATCH_RECORDS_MAX);
        for records in records.chunks(batch) {
            let expect = if self.may_forget { Expect::Any } else { Expect::Absent };
            let writes: Vec<_> =
                records.iter().map(|(place, value)| Write::put(place.key(), value.clone()).expect(expect)).collect();
            self.again(|| self.within(Effect::Unknown, self.put_once(records, &writes))).await?;
        }
        Ok(())
    }

    async fn put_once(&self, records: &[(Place, bytes::Bytes)], writes: &[Write<'_>]) -> Result<()> {
        for (outcome, (place, value)) in self.store.write_many(writes).await.into_iter().zip(records) {
            match outcome? {
                Outcome::Applied => {}
                // Written before.
                Outcome::Conflict { found: Some(found) } if found.value == *value => {}
                Outcome::Conflict { found: Some(_) } => {
                    let what = "another ledger's journal is there; give each ledger a name of its own";
                    return Err(Error::corrupt(place.key(), what));
                }
                Outcome::Conflict { found: None } => {
                    let message = "the store refuses to insert where nothing is; certify it with sysd-testkit";
                    return Err(Error::new(ErrorKind::Internal, Effect::Unknown, message));
                }
            }
        }
        Ok(())
    }
}

/// So many records are written at once.
const BATCH_RECORDS_MAX: usize = 256;
