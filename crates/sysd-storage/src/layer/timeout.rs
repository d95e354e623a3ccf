//! Calls that take too long are given up.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, select};
use sysd_core::{Clock, Error, ErrorKind, SystemClock};

use super::{Answer, Interceptor, Method, Operation};

/// How long each class of calls may take; for ever, if the end lies beyond [`Timestamp::MAX`](sysd_core::Timestamp::MAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutConfig {
    /// `get` and `get_many`.
    pub read_max: Duration,
    /// `write`, `write_many` and `update`.
    pub write_max: Duration,
    /// `scan` and `trim`, which may touch many rows.
    pub range_max: Duration,
}

impl Default for TimeoutConfig {
    /// A second for reads and writes, five for ranges.
    fn default() -> Self {
        Self { read_max: Duration::from_secs(1), write_max: Duration::from_secs(1), range_max: Duration::from_secs(5) }
    }
}

/// Gives up calls that take too long: [`ErrorKind::Timeout`], for a read without effect, for a write always of unknown
/// effect, for it may have been sent.
///
/// The time is that of one call below. Under [`Retry`](super::Retry) it is that of one attempt; `total_max` of its policy
/// bounds them all.
///
/// # Cost
/// A call that is ready at once neither reads the clock nor makes a timer.
///
/// # Cancel safety
/// As the store's below; a call that is given up is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Timeout<C = SystemClock> {
    config: TimeoutConfig,
    clock: C,
}

impl Default for Timeout {
    fn default() -> Self {
        Self::new(TimeoutConfig::default())
    }
}

impl Timeout {
    /// By the system's clock.
    pub const fn new(config: TimeoutConfig) -> Self {
        Self::with_clock(config, SystemClock)
    }
}

impl<C: Clock> Timeout<C> {
    /// By `clock`.
    pub const fn with_clock(config: TimeoutConfig, clock: C) -> Self {
        Self { config, clock }
    }

    const fn wait_max(&self, method: Method) -> Duration {
        match method {
            Method::Get | Method::GetMany => self.config.read_max,
            Method::Write | Method::WriteMany | Method::Update => self.config.write_max,
            Method::Scan | Method::Trim => self.config.range_max,
        }
    }
}

impl<C: Clock> Interceptor for Timeout<C> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        let mut call = pin!(call);
        // Polled once before the clock is read: most calls to a store in the process are done by then.
        if let Poll::Ready(answer) = futures::poll!(call.as_mut()) {
            return answer;
        }
        let wait_max = self.wait_max(operation.method);
        let Some(deadline) = self.clock.now().checked_add(wait_max) else { return call.await };
        match select(call, self.clock.sleep_until(deadline)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                let message = format!("the store took longer than {} ms", wait_max.as_millis());
                let error = Error::new(ErrorKind::Timeout, operation.method.effect_unanswered(), message);
                A::failed(operation.answers, error)
            }
        }
    }
}
