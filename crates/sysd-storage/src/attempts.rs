//! Asking a store again: the one rule for all that is made of storage calls.

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock, Effect, Entropy, Error, ErrorKind, Idempotence, Result, RetryPolicy};

/// An answer that did not come in time.
pub(crate) fn timed_out(effect: Effect) -> Error {
    Error::new(ErrorKind::Timeout, effect, "the store gave no answer in time")
}

/// The attempts of one call, which is idempotent.
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    clock: &'a Arc<dyn Clock>,
    entropy: &'a Arc<dyn Entropy>,
    count: u32,
    start: Duration,
    effect: Effect,
}

impl<'a> Attempts<'a> {
    /// Time runs from here.
    pub(crate) fn new(policy: &'a RetryPolicy, clock: &'a Arc<dyn Clock>, entropy: &'a Arc<dyn Entropy>) -> Self {
        Self { policy, clock, entropy, count: 0, start: clock.steady(), effect: Effect::None }
    }

    /// The worst effect of those that failed: what an earlier one may have done, a later one does not undo.
    pub(crate) const fn effect(&self) -> Effect {
        self.effect
    }

    /// Time runs anew: what was asked for last was another thing.
    pub(crate) fn restart(&mut self) {
        self.start = self.clock.steady();
    }

    /// Waits before the next attempt, or gives up, with the worst effect of all.
    pub(crate) async fn again(&mut self, error: Error) -> Result<()> {
        self.count += 1;
        if error.effect() == Effect::Unknown {
            self.effect = Effect::Unknown;
        }
        let elapsed = self.clock.steady().saturating_sub(self.start);
        match self.policy.decide(self.count, elapsed, &error, Idempotence::Idempotent, self.entropy) {
            Some(wait) => {
                self.clock.sleep_until(self.clock.now().saturating_add(wait)).await;
                Ok(())
            }
            None => Err(error.with_effect(self.effect)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::executor::block_on;
    use sysd_core::{FastClock, SystemEntropy};

    #[test]
    fn the_error_of_the_last_attempt_says_what_an_earlier_one_may_have_done() {
        let policy = RetryPolicy { attempts_max: 2, wait_base: Duration::ZERO, ..RetryPolicy::default() };
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(FastClock::new()), Arc::new(SystemEntropy));
        let mut attempts = Attempts::new(&policy, &clock, &entropy);
        block_on(attempts.again(timed_out(Effect::Unknown))).unwrap();
        assert_eq!(attempts.effect(), Effect::Unknown);
        let refused = Error::new(ErrorKind::Throttled, Effect::None, "later");
        let error = block_on(attempts.again(refused)).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Throttled, Effect::Unknown));
        // What can't get better is given up at once.
        let mut attempts = Attempts::new(&policy, &clock, &entropy);
        let denied = Error::new(ErrorKind::Denied, Effect::None, "no");
        assert_eq!(block_on(attempts.again(denied)).unwrap_err().effect(), Effect::None);
    }
}
