//! Storage calls of protocols that are made of records: each with a deadline, and tried again where that is safe.

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{
    Clock, Effect, Entropy, Error, ErrorKind, Idempotence, Key, Outcome, Page, Record, Result, RetryPolicy, Scan,
    Store, Timestamp, Version, Write, timeout,
};

/// A store, and how it is called.
#[derive(Clone)]
pub(crate) struct Calls<S> {
    pub(crate) store: S,
    pub(crate) wait_max: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// What came of a write, and whether an attempt before may have happened unseen.
pub(crate) struct Written {
    pub(crate) outcome: Outcome,
    pub(crate) is_again: bool,
}

fn timed_out(effect: Effect) -> Error {
    Error::new(ErrorKind::Timeout, effect, "the store gave no answer in time")
}

/// Counts the attempts of one call.
struct Attempts {
    count: u32,
    start: Duration,
    effect: Effect,
}

impl<S: Store> Calls<S> {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn mint(&self) -> Version {
        Version::mint(&self.entropy)
    }

    fn attempts(&self) -> Attempts {
        Attempts { count: 0, start: self.clock.steady(), effect: Effect::None }
    }

    /// Waits before the next attempt, or gives up with the worst effect of all.
    async fn again(&self, attempts: &mut Attempts, error: Error) -> Result<()> {
        attempts.count += 1;
        if error.effect() == Effect::Unknown {
            attempts.effect = Effect::Unknown;
        }
        let elapsed = self.clock.steady().saturating_sub(attempts.start);
        match self.retry.decide(attempts.count, elapsed, &error, Idempotence::Idempotent, &self.entropy) {
            Some(wait) => {
                self.clock.sleep_until(self.now().saturating_add(wait)).await;
                Ok(())
            }
            None => Err(error.with_effect(attempts.effect)),
        }
    }

    /// Sends the same write, which recognises itself, until there is an answer.
    pub(crate) async fn write(&self, write: &Write<'_>) -> Result<Written> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.write(write.clone())).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::Unknown))) {
                Ok(outcome) => return Ok(Written { outcome, is_again: attempts.effect == Effect::Unknown }),
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    /// As [`write`](Self::write), for many.
    pub(crate) async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        if writes.is_empty() {
            return Vec::new();
        }
        let answers = timeout(&self.clock, self.wait_max, self.store.write_many(writes)).await;
        let Ok(mut answers) = answers else {
            return writes.iter().map(|_| Err(timed_out(Effect::Unknown))).collect();
        };
        for (write, answer) in writes.iter().zip(&mut answers) {
            let error = match std::mem::replace(answer, Ok(Outcome::Applied)) {
                Ok(outcome) => {
                    *answer = Ok(outcome);
                    continue;
                }
                Err(error) => error,
            };
            let mut attempts = self.attempts();
            *answer = match self.again(&mut attempts, error).await {
                Ok(()) => self.write(write).await.map(|written| written.outcome),
                Err(error) => Err(error),
            };
        }
        answers
    }

    pub(crate) async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.get(key)).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(record) => return Ok(record),
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    pub(crate) async fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Record>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut attempts = self.attempts();
        loop {
            let answers = timeout(&self.clock, self.wait_max, self.store.get_many(keys)).await;
            let answers = answers.unwrap_or_else(|_| vec![Err(timed_out(Effect::None))]);
            match answers.into_iter().collect::<Result<Vec<_>>>() {
                Ok(records) => return Ok(records),
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    pub(crate) async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.scan(scan)).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(page) => return Ok(page),
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }
}
