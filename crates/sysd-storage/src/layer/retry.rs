//! Calls that failed in passing are made again.

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{
    Change, Clock, Effect, Entropy, ErasedProcedure, Error, Expect, Idempotence, Key, Limits, Outcome, OutputBytes,
    Page, Record, Result, RetryBudget, RetryPolicy, Scan, Space, Store, SystemClock, SystemEntropy, Trim, Trimmed,
    Write,
};

use super::Layer;
use super::bug::{Bug, Bugs};

/// Makes calls again that failed in passing, where that is safe.
///
/// | call | made again after an error that is transient and |
/// |---|---|
/// | `get`, `get_many`, `scan` | whatever it says: a read has no effect |
/// | `write` of a put that expects a version | whatever its effect: it recognises itself, and that version never comes back |
/// | `write` of a put that expects `Absent` | had no effect; in spaces of [`Retry::resend_inserts`] whatever its effect |
/// | `write` of a put that expects `Any`, of a delete | had no effect |
/// | `update`, `trim` | had no effect |
/// | `write_many` | as each of its writes; those that were answered are not sent again |
///
/// An unconditional put that may have happened is not sent again: meanwhile somebody else may have written, and would be
/// overwritten. An insert is not, for meanwhile somebody else may have deleted the record, and it would be there again. A
/// delete has no token to know itself by.
///
/// # Guarantees
/// - The effect that is answered is the worst of all attempts'.
/// - A write that may have happened, and on being sent again meets a conflict, is answered with an error of unknown effect:
///   it may have been written and then replaced, so "nothing happened" would be a guess.
/// - Retries of all clones together stay within the [`RetryBudget`]; a round of a batch counts as one.
///
/// # Cost
/// One read of the clock a call; one clone of a write, which shares its value.
///
/// # Cancel safety
/// As the store's below. Dropping it while it waits makes no more attempts.
#[derive(Clone, Debug)]
pub struct Retry<C = SystemClock, E = SystemEntropy> {
    policy: RetryPolicy,
    budget: Arc<RetryBudget>,
    clock: C,
    entropy: E,
    inserts: Arc<[Space]>,
    bugs: Bugs,
}

impl Default for Retry {
    fn default() -> Self {
        Self::new(RetryPolicy::default())
    }
}

impl Retry {
    /// By the system's clock, with a budget of its own.
    pub fn new(policy: RetryPolicy) -> Self {
        Self::with_clock(policy, SystemClock, SystemEntropy)
    }
}

impl<C: Clock, E: Entropy> Retry<C, E> {
    /// By `clock`, waiting as `entropy` says.
    pub fn with_clock(policy: RetryPolicy, clock: C, entropy: E) -> Self {
        Self { policy, budget: Arc::default(), clock, entropy, inserts: Arc::new([]), bugs: Bugs::NONE }
    }

    /// Within a budget that others share.
    #[must_use]
    pub fn budget(mut self, budget: Arc<RetryBudget>) -> Self {
        self.budget = budget;
        self
    }

    /// Sends inserts (puts that expect `Absent`) into these spaces again also when they may have happened.
    ///
    /// Right where a record, once made, is neither deleted nor expires while its maker may still be trying: then an insert
    /// that did happen finds itself. Elsewhere it could make a record for a second time.
    #[must_use]
    pub fn resend_inserts(mut self, spaces: &[Space]) -> Self {
        self.inserts = spaces.into();
        self
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub const fn with_bug(mut self, bug: super::Bug) -> Self {
        self.bugs.bug = Some(bug);
        self
    }

    /// Whether a write may be sent again when nobody knows what came of it.
    fn idempotence(&self, write: &Write<'_>) -> Idempotence {
        let is_safe = match (&write.change, write.expect) {
            (Change::Put { .. }, Expect::Is(_)) => true,
            (Change::Put { .. }, Expect::Absent) => self.inserts.contains(&write.key.space()),
            (Change::Put { .. }, Expect::Any) | (Change::Delete, _) => false,
        };
        if is_safe || self.bugs.has(Bug::ResendAll) { Idempotence::Idempotent } else { Idempotence::Unknown }
    }

    fn attempts(&self) -> Attempts<'_, C, E> {
        Attempts { retry: self, start: self.clock.steady(), made: 0 }
    }
}

impl<S: Store, C: Clock, E: Entropy> Layer<S> for Retry<C, E> {
    type Store = Retried<S, C, E>;

    fn wrap(self, store: S) -> Self::Store {
        Retried { inner: store, retry: self }
    }
}

/// A store under [`Retry`].
#[derive(Clone, Debug)]
pub struct Retried<S, C = SystemClock, E = SystemEntropy> {
    inner: S,
    retry: Retry<C, E>,
}

/// The attempts at one call.
struct Attempts<'a, C, E> {
    retry: &'a Retry<C, E>,
    start: Duration,
    made: u32,
}

impl<C: Clock, E: Entropy> Attempts<'_, C, E> {
    fn decide(&self, error: &Error, idempotence: Idempotence) -> Option<Duration> {
        let elapsed = self.retry.clock.steady().saturating_sub(self.start);
        self.retry.policy.decide(self.made, elapsed, error, idempotence, &self.retry.entropy)
    }

    /// Waits if the budget allows one more attempt.
    async fn wait(&self, wait: Duration) -> bool {
        let Retry { budget, clock, .. } = self.retry;
        if !budget.try_take() {
            return false;
        }
        clock.sleep_until(clock.now().saturating_add(wait)).await;
        true
    }

    /// Waits after an attempt that failed so; answers whether to make another.
    async fn again(&mut self, error: &Error, idempotence: Idempotence) -> bool {
        self.made += 1;
        match self.decide(error, idempotence) {
            Some(wait) => self.wait(wait).await,
            None => false,
        }
    }

    /// Which of the `open` places of a batch to ask again, after the wait; none: not at all.
    async fn again_many<T: Send + Sync>(
        &mut self,
        answers: &[Result<T>],
        open: &[usize],
        idempotence: impl Fn(usize) -> Idempotence + Send,
    ) -> Vec<usize> {
        self.made += 1;
        let mut wait = None;
        let mut places = Vec::new();
        for &at in open {
            let Some(Err(error)) = answers.get(at) else { continue };
            if let Some(decided) = self.decide(error, idempotence(at)) {
                wait.get_or_insert(decided);
                places.push(at);
            }
        }
        match wait {
            Some(wait) if self.wait(wait).await => places,
            _ => Vec::new(),
        }
    }

    /// A later attempt's error, with the worst effect of all attempts.
    fn worst(&self, before: Option<&Error>, error: Error) -> Error {
        let was_unknown = before.is_some_and(|before| before.effect() == Effect::Unknown);
        let forgets = self.retry.bugs.has(Bug::ForgetEffect);
        error.after_part(was_unknown && !forgets)
    }

    /// What an attempt's outcome means after an error: a conflict proves nothing if it may have happened before.
    fn outcome(&self, before: Option<&Error>, key: Key<'_>, outcome: Outcome) -> Result<Outcome> {
        match before {
            Some(before)
                if before.effect() == Effect::Unknown
                    && !outcome.is_applied()
                    && !self.retry.bugs.has(Bug::TrustConflict) =>
            {
                let message = "an attempt got no answer, and by now the record is another: read it";
                let error = Error::new(before.kind(), Effect::Unknown, message);
                Err(error.with_key(key).with_source(before.share()))
            }
            _ => Ok(outcome),
        }
    }

    fn end<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.is_ok() {
            self.retry.budget.on_success();
        }
        answer
    }
}

fn failed<T>(answers: &[Result<T>]) -> Vec<usize> {
    answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(at, _)| at).collect()
}

impl<S: Store, C: Clock, E: Entropy> Store for Retried<S, C, E> {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let mut attempts = self.retry.attempts();
        loop {
            match self.inner.get(key).await {
                Err(error) if attempts.again(&error, Idempotence::Idempotent).await => {}
                answer => return attempts.end(answer),
            }
        }
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut attempts = self.retry.attempts();
        let mut answers = self.inner.get_many(keys).await;
        let mut open = failed(&answers);
        while !open.is_empty() {
            open = attempts.again_many(&answers, &open, |_| Idempotence::Idempotent).await;
            if open.is_empty() {
                return answers;
            }
            let again: Vec<_> = open.iter().map(|&at| keys[at]).collect();
            for (&at, answer) in open.iter().zip(self.inner.get_many(&again).await) {
                answers[at] = answer;
            }
            open.retain(|&at| answers[at].is_err());
        }
        self.retry.budget.on_success();
        answers
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let idempotence = self.retry.idempotence(&write);
        let mut attempts = self.retry.attempts();
        let mut before: Option<Error> = None;
        loop {
            let error = match self.inner.write(write.clone()).await {
                Ok(outcome) => return attempts.end(attempts.outcome(before.as_ref(), write.key, outcome)),
                Err(error) => attempts.worst(before.as_ref(), error),
            };
            if !attempts.again(&error, idempotence).await {
                return Err(error);
            }
            before = Some(error);
        }
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let mut attempts = self.retry.attempts();
        let mut answers = self.inner.write_many(writes).await;
        let mut open = failed(&answers);
        while !open.is_empty() {
            open = attempts.again_many(&answers, &open, |at| self.retry.idempotence(&writes[at])).await;
            if open.is_empty() {
                return answers;
            }
            if self.retry.bugs.has(Bug::ResendBatch) {
                open = (0..writes.len()).collect();
            }
            let again: Vec<_> = open.iter().map(|&at| writes[at].clone()).collect();
            let mut still_open = Vec::new();
            for (&at, answer) in open.iter().zip(self.inner.write_many(&again).await) {
                let before = answers[at].as_ref().err();
                answers[at] = match answer {
                    Err(error) => {
                        still_open.push(at);
                        Err(attempts.worst(before, error))
                    }
                    Ok(outcome) => attempts.outcome(before, writes[at].key, outcome),
                };
            }
            open = still_open;
        }
        self.retry.budget.on_success();
        answers
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let mut attempts = self.retry.attempts();
        loop {
            match self.inner.scan(scan).await {
                Err(error) if attempts.again(&error, Idempotence::Idempotent).await => {}
                answer => return attempts.end(answer),
            }
        }
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        let mut attempts = self.retry.attempts();
        loop {
            match self.inner.trim(trim).await {
                Err(error) if attempts.again(&error, Idempotence::Unknown).await => {}
                answer => return attempts.end(answer),
            }
        }
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let mut attempts = self.retry.attempts();
        loop {
            match self.inner.update(key, procedure).await {
                Err(error) if attempts.again(&error, Idempotence::Unknown).await => {}
                answer => return attempts.end(answer),
            }
        }
    }
}
