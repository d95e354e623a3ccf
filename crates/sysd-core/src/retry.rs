//! Trying again: exponential backoff with full jitter, a budget, and respect for the effect.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::entropy::{Entropy, below};
use crate::{Clock, Error};

/// Whether doing an operation twice is the same as doing it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idempotence {
    /// It is: reads, and writes under one token. Errors of unknown effect may be retried.
    Idempotent,
    /// It is not, or nobody knows: only errors without effect are retried.
    Unknown,
}

/// How often and how fast to try again.
///
/// The wait before retry *n* is uniform between zero and `min(wait_max, wait_base * 2^n)`: "full jitter", as in Marc
/// Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most calls, the first one included; at least 1 is made.
    pub attempts_max: u32,
    /// The bound of the first wait.
    pub wait_base: Duration,
    /// The bound of every wait.
    pub wait_max: Duration,
    /// The longest time from the first call to the start of the last.
    pub total_max: Duration,
}

impl Default for RetryPolicy {
    /// Four calls within two seconds, waits up to 10, 20, 40 milliseconds.
    fn default() -> Self {
        Self {
            attempts_max: 4,
            wait_base: Duration::from_millis(10),
            wait_max: Duration::from_millis(500),
            total_max: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// Decides, after `attempts` calls (at least 1) in `elapsed`, the last of which failed with `error`: how long to wait
    /// before the next, or `None` to give up. Pure.
    pub fn decide(
        &self,
        attempts: u32,
        elapsed: Duration,
        error: &Error,
        idempotence: Idempotence,
        entropy: &(impl Entropy + ?Sized),
    ) -> Option<Duration> {
        let allowed = match idempotence {
            Idempotence::Idempotent => error.kind().is_transient(),
            Idempotence::Unknown => error.is_retryable(),
        };
        if !allowed || attempts >= self.attempts_max {
            return None;
        }
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let bound = self.wait_base.saturating_mul(factor).min(self.wait_max);
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(below(entropy, bound_us.saturating_add(1)));
        (elapsed.saturating_add(wait) <= self.total_max).then_some(wait)
    }
}

/// A budget that many calls share, so that retries can't multiply an outage: a retry takes, a success gives a little back.
///
/// With the default of 100 tokens, 10 a retry and 1 back a success, retries are at most a tenth of the traffic in the long
/// run, and ten in a row at once. The idea is that of the AWS SDKs' retry quota.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: AtomicU32,
    tokens_max: u32,
    retry_cost: u32,
    success_gain: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(100, 10, 1)
    }
}

impl RetryBudget {
    /// A full budget of `tokens_max`; a retry costs `retry_cost`, a success gives `success_gain` back.
    pub const fn new(tokens_max: u32, retry_cost: u32, success_gain: u32) -> Self {
        Self { tokens: AtomicU32::new(tokens_max), tokens_max, retry_cost, success_gain }
    }

    /// Takes the cost of a retry; `false`, and nothing taken, if too little is left.
    pub fn try_take(&self) -> bool {
        self.tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| tokens.checked_sub(self.retry_cost))
            .is_ok()
    }

    /// Gives a success's gain back.
    pub fn on_success(&self) {
        // Most calls find it full: a read costs no cache line of other cores.
        if self.tokens.load(Ordering::Relaxed) < self.tokens_max {
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                Some(tokens.saturating_add(self.success_gain).min(self.tokens_max))
            });
        }
    }
}

/// Calls `operation` until it succeeds or the policy or budget says stop; answers the last error then.
///
/// # Errors
/// The operation's last one. After an error of unknown effect, a later one still means that an earlier call may have
/// happened: the effect answered is the worst of all.
///
/// # Cancel safety
/// As the operation's.
pub async fn retry<T, F, Fut>(
    policy: &RetryPolicy,
    budget: &RetryBudget,
    clock: &impl Clock,
    entropy: &impl Entropy,
    idempotence: Idempotence,
    mut operation: F,
) -> Result<T, Error>
where
    T: Send,
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T, Error>> + Send,
{
    // By time that never steps: a wall clock that is set back must not give more of it.
    let start = clock.steady();
    let mut attempts = 0;
    let mut effect = crate::Effect::None;
    loop {
        let error = match operation().await {
            Ok(value) => {
                budget.on_success();
                return Ok(value);
            }
            Err(error) => error,
        };
        attempts += 1;
        if error.effect() == crate::Effect::Unknown {
            effect = crate::Effect::Unknown;
        }
        let elapsed = clock.steady().saturating_sub(start);
        match policy.decide(attempts, elapsed, &error, idempotence, entropy) {
            Some(wait) if budget.try_take() => {
                clock.sleep_until(clock.now().saturating_add(wait)).await;
            }
            _ => return Err(error.with_effect(effect)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::{Effect, ErrorKind, ManualClock, Timestamp};
    use futures::executor::block_on;
    use proptest::prelude::*;

    fn error(kind: ErrorKind, effect: Effect) -> Error {
        Error::new(kind, effect, "test")
    }

    const NOW_WAITS: RetryPolicy = RetryPolicy {
        attempts_max: 3,
        wait_base: Duration::ZERO,
        wait_max: Duration::ZERO,
        total_max: Duration::from_secs(1),
    };

    #[test]
    fn an_unknown_effect_is_retried_only_where_that_is_safe() {
        let decide = |effect, idempotence| {
            let error = error(ErrorKind::Timeout, effect);
            NOW_WAITS.decide(1, Duration::ZERO, &error, idempotence, &SeededEntropy::new(1)).is_some()
        };
        assert!(decide(Effect::None, Idempotence::Unknown));
        assert!(!decide(Effect::Unknown, Idempotence::Unknown));
        assert!(decide(Effect::Unknown, Idempotence::Idempotent));
        let denied = error(ErrorKind::Denied, Effect::None);
        let entropy = SeededEntropy::new(1);
        assert!(NOW_WAITS.decide(1, Duration::ZERO, &denied, Idempotence::Idempotent, &entropy).is_none());
    }

    proptest! {
        #[test]
        fn waits_stay_in_their_bounds(attempts in 1..40u32, elapsed_ms in 0..3_000u64, seed: u64) {
            let policy = RetryPolicy { attempts_max: 30, ..RetryPolicy::default() };
            let elapsed = Duration::from_millis(elapsed_ms);
            let error = error(ErrorKind::Throttled, Effect::None);
            let entropy = SeededEntropy::new(seed);
            match policy.decide(attempts, elapsed, &error, Idempotence::Unknown, &entropy) {
                Some(wait) => {
                    let bound = policy.wait_base.saturating_mul(2u32.saturating_pow(attempts - 1)).min(policy.wait_max);
                    prop_assert!(attempts < 30 && wait <= bound && elapsed + wait <= policy.total_max);
                }
                None => prop_assert!(attempts >= 30 || elapsed + policy.wait_max > policy.total_max),
            }
        }
    }

    #[test]
    fn remembers_that_an_earlier_call_may_have_happened() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let mut calls = 0;
        let answer: Result<(), Error> = block_on(retry(
            &NOW_WAITS,
            &RetryBudget::default(),
            &clock,
            &SeededEntropy::new(1),
            Idempotence::Idempotent,
            || {
                calls += 1;
                let effect = if calls == 1 { Effect::Unknown } else { Effect::None };
                async move { Err(error(ErrorKind::Unavailable, effect)) }
            },
        ));
        assert_eq!(answer.err().map(|error| error.effect()), Some(Effect::Unknown));
        assert_eq!(calls, 3);
    }

    #[test]
    fn the_budget_bounds_retries_and_refills() {
        let budget = RetryBudget::new(20, 10, 1);
        assert!(budget.try_take() && budget.try_take() && !budget.try_take());
        for _ in 0..9 {
            budget.on_success();
        }
        assert!(!budget.try_take());
        budget.on_success();
        assert!(budget.try_take());
    }
}
