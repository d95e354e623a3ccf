//! Between a policy's limiter and a store that may be slow or down: a deadline, a circuit breaker, a stand-in.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use sysd_core::breaker::{BreakerConfig, Circuit, Ticket, Verdict, is_failure};
use sysd_core::tuple::KeyBytes;
use sysd_core::{AnyStore, Clock, Effect, Error, ErrorKind, Key, Procedure, Result, Store, StoreExt as _, timeout};

use crate::joint::{Records, is_outage};
use crate::procedure::GiveAll;

/// How long a request waits for the store where neither policy nor limiter says otherwise.
pub const DEADLINE: Duration = Duration::from_millis(5);

/// What a limiter does about its store, and what it has seen of it.
pub(crate) struct Guard {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) deadline: Duration,
    pub(crate) stand_in: Option<AnyStore>,
    circuit: Mutex<Circuit>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clock: _, deadline, stand_in, circuit } = self;
        let has_stand_in = stand_in.is_some();
        f.debug_struct("Guard")
            .field("deadline", deadline)
            .field("has_stand_in", &has_stand_in)
            .field("circuit", circuit)
            .finish()
    }
}

impl Guard {
    pub(crate) fn new(clock: impl Clock) -> Self {
        let circuit = Mutex::new(Circuit::new(BreakerConfig::default()));
        Self { clock: Arc::new(clock), deadline: DEADLINE, stand_in: None, circuit }
    }

    pub(crate) fn set_breaker(&mut self, config: BreakerConfig) {
        self.circuit = Mutex::new(Circuit::new(config));
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.circuit().is_closed()
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call to the store; a dropped one shows nothing.
struct Call<'a> {
    guard: &'a Guard,
    ticket: Ticket,
    verdict: Verdict,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let now = self.guard.clock.now();
        self.guard.circuit().settle(now, self.ticket, self.verdict);
    }
}

/// The records of one request: what it asks the store, in the time that it has.
///
/// A key that the store could not be asked about is the stand-in's from then on, if there is one that may speak for it: takes and
/// what is given back go to the same place, and nothing that may have happened is sent again.
pub(crate) struct Asking<'a, S> {
    store: &'a S,
    guard: &'a Guard,
    wait_max: Duration,
    /// Of the keys that no stand-in speaks for.
    closed: &'a [KeyBytes],
    state: Mutex<Asked>,
}

/// What has happened so far.
#[derive(Default)]
struct Asked {
    /// For what is asked, and for what is given back.
    waited: [Waited; 2],
    stood_in: Vec<KeyBytes>,
    has_stand_in_decided: bool,
    errors: Vec<Error>,
}

/// What a request waits for.
#[derive(Clone, Copy)]
enum Purpose {
    Ask,
    Give,
}

/// For how long it has waited. Only that counts: a process that gets no turn has not waited for its store.
#[derive(Clone, Copy, Default)]
struct Waited {
    /// Until nobody waited any more.
    before: Duration,
    /// How many calls wait, and since when, by what is steady of the clock.
    waiting: usize,
    since: Duration,
}

impl Waited {
    fn until(self, now: Duration) -> Duration {
        let since = if self.waiting > 0 { now.saturating_sub(self.since) } else { Duration::ZERO };
        self.before.saturating_add(since)
    }
}

/// A call that waits.
struct Waiting<'a> {
    clock: &'a dyn Clock,
    state: &'a Mutex<Asked>,
    purpose: Purpose,
}

impl<'a> Waiting<'a> {
    fn begin(clock: &'a dyn Clock, state: &'a Mutex<Asked>, purpose: Purpose) -> Self {
        let now = clock.steady();
        let waited = &mut locked(state).waited[purpose as usize];
        if waited.waiting == 0 {
            waited.since = now;
        }
        waited.waiting += 1;
        Self { clock, state, purpose }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.clock.steady();
        let waited = &mut locked(self.state).waited[self.purpose as usize];
        if waited.waiting == 1 {
            waited.before = waited.until(now);
        }
        waited.waiting = waited.waiting.saturating_sub(1);
    }
}

fn locked(state: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, S: Store> Asking<'a, S> {
    /// For a request that waits at most so long, and as long again to give back. `closed` are the partitions of rules that fail closed.
    pub(crate) fn new(store: &'a S, guard: &'a Guard, wait_max: Duration, closed: &'a [KeyBytes]) -> Self {
        Self { store, guard, wait_max, closed, state: Mutex::default() }
    }

    /// Whether the stand-in has decided about a key, and why it was asked.
    pub(crate) fn into_stood_in(self) -> (bool, Vec<Error>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.has_stand_in_decided, state.errors)
    }

    fn state(&self) -> MutexGuard<'_, Asked> {
        locked(&self.state)
    }

    fn left(&self, purpose: Purpose) -> Duration {
        let now = self.guard.clock.steady();
        self.wait_max.saturating_sub(self.state().waited[purpose as usize].until(now))
    }

    fn stand_in(&self, key: Key<'_>) -> Option<&'a AnyStore> {
        let is_closed = || self.closed.iter().any(|closed| closed[..] == *key.partition());
        self.guard.stand_in.as_ref().filter(|_| !is_closed())
    }

    fn has_stood_in(&self, key: Key<'_>) -> bool {
        self.state().stood_in.iter().any(|partition| partition[..] == *key.partition())
    }

    /// Asks the stand-in, which has what is left of the time, and is asked once also if nothing is.
    async fn ask_stand_in<P: Procedure>(
        &self,
        stand_in: &AnyStore,
        purpose: Purpose,
        key: Key<'_>,
        procedure: &P,
    ) -> Result<P::Output> {
        let answer = timeout(&self.guard.clock, self.left(purpose), stand_in.run(key, procedure)).await;
        let late = |_| Err(Error::new(ErrorKind::Timeout, Effect::Unknown, "the stand-in gave no answer in time"));
        let answer = answer.unwrap_or_else(late);
        self.state().has_stand_in_decided |= answer.is_ok();
        answer
    }

    /// Asks the store, once.
    async fn ask_store<P: Procedure>(&self, purpose: Purpose, key: Key<'_>, procedure: &P) -> Result<P::Output> {
        let clock = &self.guard.clock;
        let left = self.left(purpose);
        if left.is_zero() {
            let message = "not asked: the request's time for the store was over";
            return Err(Error::new(ErrorKind::Timeout, Effect::None, message));
        }
        let ticket = self.guard.circuit().admit(clock.now());
        let Some(ticket) = ticket else {
            let message = "not asked: the store kept failing, and is left alone for a while";
            return Err(Error::new(ErrorKind::Unavailable, Effect::None, message));
        };
        let mut call = Call { guard: self.guard, ticket, verdict: Verdict::Unknown };
        let mut run = pin!(self.store.run(key, procedure));
        if let Poll::Ready(answer) = futures::poll!(run.as_mut()) {
            call.verdict = verdict(&answer);
            return answer;
        }
        let _waiting = Waiting::begin(clock, &self.state, purpose);
        let answer = timeout(clock, left, run).await.unwrap_or_else(|_| {
            let message = format!("the store gave no answer within {} ms", self.wait_max.as_millis());
            Err(Error::new(ErrorKind::Timeout, Effect::Unknown, message))
        });
        // Who had less time than a request has, as shadow rules do, can't say that the store was slow.
        let was_cut_short =
            left < self.wait_max && answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout);
        call.verdict = if was_cut_short { Verdict::Unknown } else { verdict(&answer) };
        answer
    }
}

fn verdict<T>(answer: &Result<T>) -> Verdict {
    if answer.as_ref().is_err_and(|error| is_failure(error.kind())) { Verdict::Failed } else { Verdict::Well }
}

impl<S: Store> Records for Asking<'_, S> {
    async fn ask<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> Result<P::Output> {
        let stand_in = self.stand_in(key);
        if let Some(stand_in) = stand_in.filter(|_| self.has_stood_in(key)) {
            return self.ask_stand_in(stand_in, Purpose::Ask, key, procedure).await;
        }
        let (stand_in, error) = match (self.ask_store(Purpose::Ask, key, procedure).await, stand_in) {
            (Err(error), Some(stand_in)) if is_outage(&error) => (stand_in, error),
            (answer, _) => return answer,
        };
        {
            let mut state = self.state();
            state.stood_in.push(KeyBytes::from_slice(key.partition()));
            state.errors.push(error);
        }
        self.ask_stand_in(stand_in, Purpose::Ask, key, procedure).await
    }

    async fn give(&self, key: Key<'_>, give: &GiveAll) -> Result<u8> {
        match self.stand_in(key).filter(|_| self.has_stood_in(key)) {
            Some(stand_in) => self.ask_stand_in(stand_in, Purpose::Give, key, give).await,
            None => self.ask_store(Purpose::Give, key, give).await,
        }
    }
}
