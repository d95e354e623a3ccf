//! Procedures by compare-and-set, for backends that run none of our code: read, decide, write on condition, again while
//! others win.

use std::time::Duration;

use sysd_core::entropy::{SystemEntropy, below};
use sysd_core::procedure::{RecordChange, apply_to_record};
use sysd_core::{
    Clock, Effect, ErasedProcedure, Error, ErrorKind, Expect, Key, Outcome, OutputBytes, Result, Store, Write,
};

/// Rounds before the caller is told that others keep winning.
const ROUNDS_MAX: u32 = 64;
/// The bounds of the first wait between two rounds, and of every wait.
const WAIT_BASE: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(100);
/// After so many rounds the waits are as long as others need for several of theirs: what the conflict brought is old by then.
const ROUNDS_FRESH: u32 = 3;

/// Runs `procedure` on the record `key` of `store`, whose time is `clock`.
///
/// A conflict brings what is there, so only the first round reads, and those after long waits. Between rounds it waits with full
/// jitter, in the time of the network, not of the records. A write that may have happened is not sent again: its error goes to the caller.
///
/// # Errors
/// As the store's `get` and `write`; [`Contention`](ErrorKind::Contention), without effect, after 64 lost rounds.
///
/// # Cancel safety
/// As one write: dropped, the procedure ran once or not.
pub(crate) async fn update(
    store: &impl Store,
    clock: &impl Clock,
    key: Key<'_>,
    procedure: &dyn ErasedProcedure,
) -> Result<OutputBytes> {
    store.limits().check_update(key)?;
    let mut record = store.get(key).await?;
    for round in 0..ROUNDS_MAX {
        let now = clock.now();
        let record_now = record.take().filter(|record| !record.is_expired(now));
        let mut output = OutputBytes::new();
        let write = match apply_to_record(procedure, key, record_now.as_ref(), now, &mut output)? {
            RecordChange::Keep => return Ok(output),
            // There is nothing, and nothing is to be.
            RecordChange::Delete if record_now.is_none() => return Ok(output),
            RecordChange::Delete => Write::delete(key),
            RecordChange::Put { value, expires_at } => {
                let write = Write::put(key, value);
                match expires_at {
                    Some(at) => write.expires_at(at),
                    None => write,
                }
            }
        };
        let expect = record_now.map_or(Expect::Absent, |record| Expect::Is(record.version));
        match store.write(write.expect(expect)).await? {
            Outcome::Applied => return Ok(output),
            Outcome::Conflict { found } => record = found,
        }
        pause(round).await;
        if round >= ROUNDS_FRESH {
            record = store.get(key).await?;
        }
    }
    let message = "other writers won every round; spread the load over more keys, or try again";
    Err(Error::new(ErrorKind::Contention, Effect::None, message).with_key(key))
}

#[expect(clippy::disallowed_methods, reason = "a wait of the network, which the records' clock may not measure")]
async fn pause(round: u32) {
    let bound = WAIT_BASE.saturating_mul(2_u32.saturating_pow(round)).min(WAIT_MAX);
    let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_micros(below(&SystemEntropy, bound_us + 1))).await;
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::sync::atomic::{AtomicBool, Ordering};

    use sysd_core::{
        Procedure, Record, Space, StateBytes, StateChange, Step, StoreExt as _, SystemClock, Timestamp, Undecodable,
    };
    use sysd_testkit::{Overridden, Overrides};

    use super::*;
    use crate::Memory;

    const KEY: Key<'_> = Key::lone(Space::conditional("s"), b"a");

    /// Adds one; answers how many there are.
    struct Count;

    impl Procedure for Count {
        type Output = u64;

        fn name(&self) -> &'static str {
            "count"
        }

        fn apply(&self, state: Option<&[u8]>, _: Timestamp) -> Result<Step<u64>, Undecodable> {
            let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
            let state = StateBytes::from_slice(&count.to_be_bytes());
            Ok(Step { change: StateChange::Put { state, ttl: None }, output: count })
        }

        fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
            out.extend_from_slice(&output.to_be_bytes());
        }

        fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
            let error = Undecodable { procedure: "count", what: "state" };
            Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| error)?))
        }
    }

    /// A store that runs none of our code, a millisecond away.
    struct Afar;

    impl Overrides<Memory> for Afar {
        async fn get(&self, store: &Memory, key: Key<'_>) -> Result<Option<Record>> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.get(key).await
        }

        async fn write(&self, store: &Memory, write: Write<'_>) -> Result<Outcome> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.write(write).await
        }

        async fn update(&self, store: &Memory, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
            update(&Overridden(store.clone(), Self), &SystemClock, key, procedure).await
        }
    }

    /// Somebody writes all the time. A caller that waits longer and longer, and then tries what it saw before the wait, never wins.
    #[tokio::test(start_paused = true)]
    async fn who_lost_often_wins_against_one_that_never_waits() {
        let store = Overridden(Memory::new(), Afar);
        let is_over = AtomicBool::new(false);
        let rival = async {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                store.run(KEY, &Count).await.unwrap();
                count += 1;
            }
            count
        };
        let caller = async {
            for _ in 0..100 {
                store.run(KEY, &Count).await.unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        };
        let (rivals, ()) = futures::join!(rival, caller);
        assert!(rivals > 100, "{rivals}");
        assert_eq!(store.run(KEY, &Count).await.unwrap(), rivals + 101);
    }
}
