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
/// After so many lost rounds the waits are as long as others need for several of theirs: what the conflict brought is old by then.
const ROUNDS_FRESH: u32 = 3;

/// Turns of the callers in one process, one at a time for each record: they would only make each other lose rounds.
pub(crate) trait Turns: Sync {
    /// Ends the turn when it is dropped.
    type Turn<'a>: Send
    where
        Self: 'a;

    /// Waits for a turn at the record `key`, for a bounded time.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), without effect.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the line.
    fn next<'a>(&'a self, key: Key<'_>) -> impl Future<Output = Result<Self::Turn<'a>>> + Send;
}

/// Nobody waits.
#[cfg(any(feature = "dynamodb", test))]
pub(crate) struct AllAtOnce;

#[cfg(any(feature = "dynamodb", test))]
impl Turns for AllAtOnce {
    type Turn<'a> = ();

    async fn next(&self, _: Key<'_>) -> Result<()> {
        Ok(())
    }
}

/// Runs `procedure` on the record `key` of `store`, whose time is `clock`.
///
/// Each round (read, decide, write) is in a turn of its own, which ends before the wait for the next round. A conflict brings
/// what is there, so only the first round reads, and those after three lost ones. Between rounds it waits with full jitter, in
/// the time of the network, not of the records. A write that may have happened is not sent again: its error goes to the caller.
///
/// # Errors
/// As the store's `get` and `write`, and as `turns`; [`Contention`](ErrorKind::Contention), without effect, after 64 lost rounds.
///
/// # Cancel safety
/// As one write: dropped, the procedure ran once or not. Kept and not polled where it has its turn, or is in line for it, it
/// holds up others at the record; in a wait between rounds it holds up nobody.
pub(crate) async fn update(
    store: &impl Store,
    clock: &impl Clock,
    turns: &impl Turns,
    key: Key<'_>,
    procedure: &dyn ErasedProcedure,
) -> Result<OutputBytes> {
    store.limits().check_update(key)?;
    let mut record = None;
    for lost in 0..ROUNDS_MAX {
        if lost > 0 {
            pause(lost).await;
        }
        let _turn = turns.next(key).await?;
        if lost == 0 || lost >= ROUNDS_FRESH {
            record = store.get(key).await?;
        }
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
    }
    let message = "other writers won every round; spread the load over more keys, or try again";
    Err(Error::new(ErrorKind::Contention, Effect::None, message).with_key(key))
}

/// After so many lost rounds, one at least.
#[expect(clippy::disallowed_methods, reason = "a wait of the network, which the records' clock may not measure")]
async fn pause(lost: u32) {
    let bound = WAIT_BASE.saturating_mul(2_u32.saturating_pow(lost - 1)).min(WAIT_MAX);
    let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    tokio::time::sleep(Duration::from_micros(below(&SystemEntropy, bound_us + 1))).await;
}

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use futures::future::join_all;
    use sysd_core::{
        Procedure, Record, Space, StateBytes, StateChange, Step, StoreExt as _, SystemClock, Timestamp, Undecodable,
    };
    use sysd_testkit::{Overridden, Overrides};
    use tokio::sync::{Semaphore, SemaphorePermit};

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

    /// One at a time, whatever the record.
    struct OneByOne(Semaphore);

    impl Turns for OneByOne {
        type Turn<'a> = SemaphorePermit<'a>;

        async fn next<'a>(&'a self, _: Key<'_>) -> Result<SemaphorePermit<'a>> {
            Ok(self.0.acquire().await.unwrap())
        }
    }

    fn one_by_one() -> OneByOne {
        OneByOne(Semaphore::new(1))
    }

    #[derive(Default)]
    struct Calls {
        reads: AtomicU32,
        writes: AtomicU32,
        conflicts: AtomicU32,
    }

    impl Calls {
        /// Reads, writes, and of these the conflicts.
        fn counts(&self) -> [u32; 3] {
            [&self.reads, &self.writes, &self.conflicts].map(|count| count.load(Ordering::Relaxed))
        }
    }

    /// A store that runs none of our code, so far away.
    struct Afar<T> {
        turns: Arc<T>,
        calls: Arc<Calls>,
        distance: Duration,
        /// Every write loses.
        is_lost: bool,
    }

    impl<T> Clone for Afar<T> {
        fn clone(&self) -> Self {
            let (turns, calls) = (Arc::clone(&self.turns), Arc::clone(&self.calls));
            Self { turns, calls, distance: self.distance, is_lost: self.is_lost }
        }
    }

    impl<T: Turns + Send + 'static> Overrides<Memory> for Afar<T> {
        async fn get(&self, store: &Memory, key: Key<'_>) -> Result<Option<Record>> {
            travel(self.distance).await;
            self.calls.reads.fetch_add(1, Ordering::Relaxed);
            store.get(key).await
        }

        async fn write(&self, store: &Memory, write: Write<'_>) -> Result<Outcome> {
            travel(self.distance).await;
            self.calls.writes.fetch_add(1, Ordering::Relaxed);
            let outcome = if self.is_lost { Outcome::Conflict { found: None } } else { store.write(write).await? };
            if matches!(outcome, Outcome::Conflict { .. }) {
                self.calls.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            Ok(outcome)
        }

        async fn update(&self, store: &Memory, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
            update(&Overridden(store.clone(), self.clone()), &SystemClock, &*self.turns, key, procedure).await
        }
    }

    async fn travel(distance: Duration) {
        if !distance.is_zero() {
            tokio::time::sleep(distance).await;
        }
    }

    /// A millisecond away.
    fn afar<T>(turns: T) -> Afar<T> {
        Afar { turns: Arc::new(turns), calls: Arc::default(), distance: Duration::from_millis(1), is_lost: false }
    }

    /// Where others win every round, and every call is answered at once.
    fn lost<T>(turns: T) -> Afar<T> {
        Afar { distance: Duration::ZERO, is_lost: true, ..afar(turns) }
    }

    /// Somebody writes every two milliseconds and never loses. A conflict comes too late to be tried, for a pause and a way take two
    /// at least: a caller that does not read again never wins.
    #[tokio::test(start_paused = true)]
    async fn who_lost_often_wins_against_one_that_never_waits() {
        let memory = Memory::new();
        let store = Overridden(memory.clone(), afar(AllAtOnce));
        let is_over = AtomicBool::new(false);
        let rival = async {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                memory.run(KEY, &Count).await.unwrap();
                count += 1;
            }
            count
        };
        let caller = async {
            for _ in 0..100 {
                // Or it would go on in the rival's step, always just behind it.
                tokio::time::sleep(Duration::from_millis(1)).await;
                store.run(KEY, &Count).await.unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        };
        let (rivals, ()) = futures::join!(rival, caller);
        let [_, _, conflicts] = store.1.calls.counts();
        assert!(conflicts > 100, "{conflicts}");
        assert_eq!(store.run(KEY, &Count).await.unwrap(), rivals + 101);
    }

    /// 32 callers who each run four procedures on one record: reads, writes and conflicts.
    async fn crowd<T: Turns + Send + 'static>(turns: T) -> [u32; 3] {
        let afar = afar(turns);
        let calls = Arc::clone(&afar.calls);
        let store = Overridden(Memory::new(), afar);
        let caller = async || {
            for _ in 0..4 {
                store.run(KEY, &Count).await.unwrap();
            }
        };
        join_all((0..32).map(|_| caller())).await;
        let counts = calls.counts();
        assert_eq!(store.run(KEY, &Count).await.unwrap(), 129);
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn callers_who_take_turns_lose_no_round() {
        assert_eq!(crowd(one_by_one()).await, [128, 128, 0]);
        // Without turns they make each other lose.
        let [_, writes, conflicts] = crowd(AllAtOnce).await;
        assert!(writes == 128 + conflicts && conflicts > 128, "{writes} {conflicts}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_pauses_and_is_not_polled_holds_up_nobody() {
        let (turns, memory) = (one_by_one(), Memory::new());
        let store = Overridden(memory.clone(), lost(AllAtOnce));
        let mut paused = Box::pin(update(&store, &SystemClock, &turns, KEY, &Count));
        // Calls are answered at once: what is pending is a pause.
        assert!(futures::poll!(paused.as_mut()).is_pending());
        assert!(store.1.calls.counts()[2] > 0);
        let other = update(&memory, &SystemClock, &turns, KEY, &Count);
        assert!(tokio::time::timeout(Duration::from_secs(60), other).await.unwrap().is_ok());
        assert_eq!(paused.await.unwrap_err().kind(), ErrorKind::Contention);
    }

    #[tokio::test(start_paused = true)]
    async fn who_lost_three_rounds_reads_before_each_and_after_the_last_there_is_neither_pause_nor_read() {
        let store = Overridden(Memory::new(), lost(one_by_one()));
        let mut call = Box::pin(store.run(KEY, &Count));
        let calls = Arc::clone(&store.1.calls);
        let mut seen = Vec::new();
        let error = loop {
            // No further than the next pause.
            let ended = futures::poll!(call.as_mut());
            seen.push(calls.counts());
            if let std::task::Poll::Ready(result) = ended {
                break result.unwrap_err();
            }
            tokio::time::advance(WAIT_MAX).await;
        };
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Contention, Effect::None));
        assert_eq!(seen.iter().filter(|[_, writes, _]| *writes == ROUNDS_MAX).count(), 1, "a pause after the last");
        for [reads, writes, conflicts] in seen {
            // The first, and those after three that were lost.
            let wanted = 1 + writes.saturating_sub(ROUNDS_FRESH);
            assert!(reads == wanted && conflicts == writes, "{reads} reads, {writes} writes");
        }
        assert_eq!(calls.counts(), [1 + 64 - 3, 64, 64]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_be_updated_waits_for_no_turn() {
        let turns = one_by_one();
        let _held = turns.0.acquire().await.unwrap();
        let plain = Key::lone(Space::plain("s"), b"a");
        let error = update(&Memory::new(), &SystemClock, &turns, plain, &Count).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None));
    }
}
