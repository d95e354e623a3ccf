//! Turns at a partition, and at a record.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use sysd_core::{Effect, Key, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::carry::{Caller, nobody};
use super::error::overdue;
use crate::cas::Turns;

/// Partitions, or records, share so many gates: two of 64 calls on different ones meet at one now and then, and then one waits for
/// the other.
const GATES: usize = 4_096;

/// Lets so many conditional calls of this store at a partition at once, or rounds of its procedures at a record, in the order in
/// which they came.
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

    /// Waits for a turn, which ends when the permit is dropped, as long as the caller does.
    ///
    /// # Errors
    /// [`Timeout`](sysd_core::ErrorKind::Timeout), without effect; one that nobody hears if the caller has left.
    pub(super) async fn enter(&self, key: Key<'_>, caller: &mut Caller) -> Result<SemaphorePermit<'_>> {
        self.enter_at((key.space().name(), key.partition(), key.is_lone()), key, caller).await
    }

    async fn enter_at(&self, place: impl Hash, key: Key<'_>, caller: &mut Caller) -> Result<SemaphorePermit<'_>> {
        let at = usize::try_from(self.hasher.hash_one(place) % GATES as u64).unwrap_or_default();
        let turn = async {
            // Whoever waits is served before those who come: what is free now is free for this one.
            match self.all[at].try_acquire() {
                Ok(permit) => Ok(Ok(permit)),
                Err(_) => tokio::time::timeout(self.patience, self.all[at].acquire()).await,
            }
        };
        // In this order: nobody is to be served whose caller has left.
        match select(pin!(caller.left()), pin!(turn)).await {
            Either::Left(_) => Err(nobody().with_key(key)),
            Either::Right((Ok(Ok(permit)), _)) => Ok(permit),
            // They are never closed.
            Either::Right((Ok(Err(_)) | Err(_), _)) => Err(overdue(Effect::None).with_key(key)),
        }
    }
}

/// At a record: procedures on others of its partition are no rivals, and their statements have turns at the partition.
impl Turns for Gates {
    type Turn<'a> = SemaphorePermit<'a>;

    async fn next<'a>(&'a self, key: Key<'_>) -> Result<SemaphorePermit<'a>> {
        let place = (key.space().name(), key.partition(), key.is_lone(), key.sort());
        self.enter_at(place, key, &mut Caller::who_polls()).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt as _;
    use sysd_core::{ErrorKind, Space};

    const SPACE: Space = Space::conditional("s");

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_is_a_timeout_without_effect() {
        let gates = Gates::new(1, Duration::from_secs(1));
        let key = Key::row(SPACE, b"p", b"a");
        let turn = gates.enter(key, &mut Caller::who_polls()).await.unwrap();
        let error = gates.enter(Key::row(SPACE, b"p", b"b"), &mut Caller::who_polls()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None));
        drop(turn);
        assert!(gates.enter(key, &mut Caller::who_polls()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn procedures_have_turns_at_their_record() {
        let gates = Gates::new(1, Duration::from_secs(1));
        let key = Key::row(SPACE, b"p", b"a");
        let _turn = gates.next(key).await.unwrap();
        let error = gates.next(key).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None));
        // Two records may share a gate, but not this one with all of these.
        let is_free = |sort: &u8| gates.next(Key::row(SPACE, b"p", &[*sort])).now_or_never().is_some();
        assert!((b'b'..=b'z').filter(is_free).count() > 20);
    }
}
