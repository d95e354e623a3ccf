//! Turns at a partition.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use sysd_core::{Effect, Key, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::overdue;

/// Partitions share so many gates: two of 64 calls on different partitions meet at one now and then, and then one waits for
/// the other.
const GATES: usize = 4_096;

/// Lets so many conditional calls of this store at a partition at once, in the order in which they came.
///
/// Paxos orders the calls on a partition one by one anyway. Rivals from one process would only outbid each other's rounds,
/// and the loser would learn of a timeout, which says nothing. Waiting here says that nothing was sent.
pub(super) struct Gates {
    all: Box<[Semaphore]>,
    hasher: RandomState,
    patience: Duration,
}

impl Gates {
    pub(super) fn new(width: usize, patience: Duration) -> Self {
        let all = (0..GATES).map(|_| Semaphore::new(width.min(Semaphore::MAX_PERMITS))).collect();
        Self { all, hasher: RandomState::new(), patience }
    }

    /// Waits for a turn, which ends when the permit is dropped.
    ///
    /// # Errors
    /// [`Timeout`](sysd_core::ErrorKind::Timeout), without effect.
    pub(super) async fn enter(&self, key: Key<'_>) -> Result<SemaphorePermit<'_>> {
        let place = (key.space().name(), key.partition(), key.is_lone());
        let at = usize::try_from(self.hasher.hash_one(place) % GATES as u64).unwrap_or_default();
        // Whoever waits is served before those who come: what is free now is free for this one.
        if let Ok(permit) = self.all[at].try_acquire() {
            return Ok(permit);
        }
        match tokio::time::timeout(self.patience, self.all[at].acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // They are never closed.
            Ok(Err(_)) | Err(_) => Err(overdue(Effect::None).with_key(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::{ErrorKind, Space};

    const SPACE: Space = Space::conditional("s");

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_is_a_timeout_without_effect() {
        let gates = Gates::new(1, Duration::from_secs(1));
        let key = Key::row(SPACE, b"p", b"a");
        let turn = gates.enter(key).await.unwrap();
        let error = gates.enter(Key::row(SPACE, b"p", b"b")).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None));
        drop(turn);
        assert!(gates.enter(key).await.is_ok());
    }
}
