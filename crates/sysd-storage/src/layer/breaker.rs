//! A store that fails is left alone for a while.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use sysd_core::breaker::{BreakerConfig, Circuit, Ticket, Verdict, is_failure};
use sysd_core::{Clock, Effect, Error, ErrorKind, SystemClock, Timestamp};

use super::bug::{Bug, Bugs};
use super::{Answer, Interceptor, Operation};

/// Refuses calls while the store below keeps failing: [`ErrorKind::Unavailable`], and nothing happened.
///
/// A failure is an answer of [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) or
/// [`Throttled`](ErrorKind::Throttled), in a batch most of them. Any other answer shows that the store is well. A call that
/// is dropped shows nothing. Clones share what they have seen.
///
/// With the feature `metrics` the gauge `sysd_store_breakers_open` says how many breakers of the process are open.
///
/// It goes around [`Timeout`](super::Timeout): a probe that never ends would keep it half open.
///
/// # Cancel safety
/// A call that is dropped gives back its probe.
#[derive(Clone, Debug)]
pub struct Breaker<C = SystemClock> {
    clock: C,
    shared: Arc<Shared>,
    bugs: Bugs,
}

/// Of all clones; it is told by one gauge how many are open.
#[derive(Debug)]
struct Shared {
    circuit: Mutex<Circuit>,
}

impl Shared {
    fn settle(&self, now: Timestamp, ticket: Ticket, verdict: Verdict) {
        let (was_closed, is_closed) = {
            let mut circuit = self.circuit.lock();
            let was_closed = circuit.is_closed();
            circuit.settle(now, ticket, verdict);
            (was_closed, circuit.is_closed())
        };
        if was_closed != is_closed {
            Self::tell(!is_closed);
        }
    }

    /// One more is open, or one less. That is rare: the gauge is looked up by name.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "it is told by a gauge"))]
    fn tell(is_open: bool) {
        #[cfg(feature = "metrics")]
        if is_open {
            metrics::gauge!(OPEN).increment(1.0);
        } else {
            metrics::gauge!(OPEN).decrement(1.0);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.circuit.get_mut().is_closed() {
            Self::tell(false);
        }
    }
}

#[cfg(feature = "metrics")]
const OPEN: &str = "sysd_store_breakers_open";

impl Default for Breaker {
    fn default() -> Self {
        Self::new(BreakerConfig::default())
    }
}

impl Breaker {
    /// By the system's clock.
    pub fn new(config: BreakerConfig) -> Self {
        Self::with_clock(config, SystemClock)
    }
}

impl<C: Clock> Breaker<C> {
    /// By `clock`.
    pub fn with_clock(config: BreakerConfig, clock: C) -> Self {
        #[cfg(feature = "metrics")]
        metrics::describe_gauge!(OPEN, "Circuit breakers that leave their stores alone, or only try them.");
        let shared = Arc::new(Shared { circuit: Mutex::new(Circuit::new(config)) });
        Self { clock, shared, bugs: Bugs::NONE }
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub const fn with_bug(mut self, bug: Bug) -> Self {
        self.bugs.bug = Some(bug);
        self
    }

    /// Whether it refuses calls, or all but the probes.
    pub fn is_open(&self) -> bool {
        !self.shared.circuit.lock().is_closed()
    }
}

/// One call under way; a dropped one shows nothing.
struct Call<'a, C: Clock> {
    breaker: &'a Breaker<C>,
    ticket: Ticket,
    verdict: Verdict,
}

impl<C: Clock> Drop for Call<'_, C> {
    fn drop(&mut self) {
        if self.verdict == Verdict::Unknown && self.breaker.bugs.has(Bug::LeakProbe) {
            return;
        }
        let now = self.breaker.clock.now();
        self.breaker.shared.settle(now, self.ticket, self.verdict);
    }
}

fn verdict(answer: &impl Answer) -> Verdict {
    let failures = answer.errors().filter(|error| is_failure(error.kind())).count();
    if 2 * failures > answer.count() { Verdict::Failed } else { Verdict::Well }
}

impl<C: Clock> Interceptor for Breaker<C> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let now = self.clock.now();
        let ticket = self.shared.circuit.lock().admit(now);
        let Some(ticket) = ticket else {
            let message = "the circuit breaker is open: the store below kept failing";
            return A::failed(operation.answers, Error::new(ErrorKind::Unavailable, Effect::None, message));
        };
        let mut under_way = Call { breaker: self, ticket, verdict: Verdict::Unknown };
        let answer = call.await;
        under_way.verdict = verdict(&answer);
        drop(under_way);
        answer
    }
}
