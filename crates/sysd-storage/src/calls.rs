//! Storage calls of protocols that are made of records: each with a deadline, and tried again where that is safe.

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{
    Clock, Effect, Entropy, Error, Key, Outcome, Page, Record, Result, RetryPolicy, Scan, Store, Timestamp, Version,
    Write, timeout,
};

use crate::attempts::{Attempts, timed_out};

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

fn effect_of(answer: &Result<Outcome>) -> Effect {
    answer.as_ref().err().map_or(Effect::None, Error::effect)
}

impl<S: Store> Calls<S> {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn mint(&self) -> Version {
        Version::mint(&self.entropy)
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.retry, &self.clock, &self.entropy)
    }

    /// Sends the same write, which recognises itself, until there is an answer.
    pub(crate) async fn write(&self, write: &Write<'_>) -> Result<Written> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.write(write.clone())).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::Unknown))) {
                Ok(outcome) => return Ok(Written { outcome, is_again: attempts.effect() == Effect::Unknown }),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// As [`write`](Self::write), for many: those that failed and may succeed go together once more, round by round.
    pub(crate) async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let mut answers: Vec<Result<Outcome>> = self.write_round(writes).await;
        let mut attempts = self.attempts();
        let mut effects: Vec<Effect> = answers.iter().map(effect_of).collect();
        loop {
            let is_open = |at: &usize| answers[*at].as_ref().is_err_and(|error| error.kind().is_transient());
            let open: Vec<usize> = (0..answers.len()).filter(is_open).collect();
            let Some(Err(error)) = open.first().map(|&at| &answers[at]) else { break };
            if attempts.again(error.share()).await.is_err() {
                break;
            }
            let round: Vec<_> = open.iter().map(|&at| writes[at].clone()).collect();
            for (at, answer) in open.into_iter().zip(self.write_round(&round).await) {
                if effect_of(&answer) == Effect::Unknown {
                    effects[at] = Effect::Unknown;
                }
                answers[at] = answer;
            }
        }
        answers.into_iter().zip(effects).map(|(answer, effect)| answer.map_err(|it| it.with_effect(effect))).collect()
    }

    /// Writes each once.
    async fn write_round(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        if writes.is_empty() {
            return Vec::new();
        }
        let answers = timeout(&self.clock, self.wait_max, self.store.write_many(writes)).await;
        answers.unwrap_or_else(|_| writes.iter().map(|_| Err(timed_out(Effect::Unknown))).collect())
    }

    pub(crate) async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.get(key)).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(record) => return Ok(record),
                Err(error) => attempts.again(error).await?,
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
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    pub(crate) async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let mut attempts = self.attempts();
        loop {
            let answer = timeout(&self.clock, self.wait_max, self.store.scan(scan)).await;
            match answer.unwrap_or_else(|_| Err(timed_out(Effect::None))) {
                Ok(page) => return Ok(page),
                Err(error) => attempts.again(error).await?,
            }
        }
    }
}
