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

/// Runs `procedure` on the record `key` of `store`, whose time is `clock`.
///
/// A conflict brings what is there, so only the first round reads. Between rounds it waits with full jitter, in the time of
/// the network, not of the records. A write that may have happened is not sent again: its error goes to the caller.
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
