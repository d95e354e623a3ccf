//! Puts requests to the limiter, at the times they have, and counts.
//!
//! The clock is set to each request's time before it is decided. Requests of the same moment are decided together where
//! the store is far away, those of one key in their order, so every request meets the same bucket on every store.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;
use sysd::core::{ManualClock, Result, Store, Timestamp};
use sysd::ratelimit::RateLimiter;
use tokio::sync::mpsc;

use super::feed::Batch;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) denied_by_key: HashMap<Box<[u8]>, u64>,
    /// How long decisions took, nanoseconds.
    pub(crate) latency_ns: Histogram<u64>,
    /// From the first decision to the last, waiting for the log's time left out.
    pub(crate) elapsed: Duration,
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Times real time; `None`: as fast as can be.
    pub(crate) speed: Option<f64>,
    /// How many decisions of one moment are under way together.
    pub(crate) concurrency: usize,
}

/// A decision that was made.
struct Made {
    /// Of the request, in its batch.
    index: usize,
    is_allowed: bool,
    took: Duration,
}

/// Replays all batches. `on_batch` is told how many requests are done.
///
/// # Errors
/// The first of the store.
pub(crate) async fn replay<S: Store>(
    limiter: &RateLimiter<S>,
    clock: &ManualClock,
    batches: &mut mpsc::Receiver<Batch>,
    pace: Pace,
    mut on_batch: impl FnMut(usize, &[bool]) + Send,
) -> Result<Tally> {
    let mut tally = Tally {
        allowed: 0,
        denied: 0,
        denied_by_key: HashMap::new(),
        latency_ns: latency_histogram(),
        elapsed: Duration::ZERO,
    };
    let mut pacer = Pacer { speed: pace.speed, start: None };
    let mut verdicts = Vec::new();
    while let Some(batch) = batches.recv().await {
        verdicts.clear();
        let mut first = 0;
        while first < batch.len() {
            let at = batch.at(first);
            let mut end = first + 1;
            while end < batch.len() && batch.at(end) == at {
                end += 1;
            }
            pacer.wait_for(at).await;
            clock.set(at);
            let start = Instant::now();
            let made = decide_moment(limiter, &batch, first..end, pace.concurrency).await?;
            tally.elapsed += start.elapsed();
            verdicts.resize(end, false);
            for made in made {
                verdicts[made.index] = made.is_allowed;
                tally.count(batch.key(made.index), &made);
            }
            first = end;
        }
        on_batch(batch.len(), &verdicts);
    }
    Ok(tally)
}

/// Decides the requests of one moment.
async fn decide_moment<S: Store>(
    limiter: &RateLimiter<S>,
    batch: &Batch,
    range: std::ops::Range<usize>,
    concurrency: usize,
) -> Result<Vec<Made>> {
    if concurrency <= 1 || range.len() == 1 {
        return decide_in_order(limiter, batch, range).await;
    }
    let mut by_key: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for index in range {
        by_key.entry(batch.key(index)).or_default().push(index);
    }
    let made = stream::iter(by_key.into_values().map(|indexes| decide_in_order(limiter, batch, indexes)))
        .buffer_unordered(concurrency);
    made.try_concat().await
}

async fn decide_in_order<S: Store>(
    limiter: &RateLimiter<S>,
    batch: &Batch,
    indexes: impl IntoIterator<Item = usize, IntoIter: Send> + Send,
) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for index in indexes {
        let start = Instant::now();
        let decision = limiter.check(batch.key(index), 1).await?;
        made.push(Made { index, is_allowed: decision.is_allowed(), took: start.elapsed() });
    }
    Ok(made)
}

impl Tally {
    fn count(&mut self, key: &[u8], made: &Made) {
        self.latency_ns.saturating_record(u64::try_from(made.took.as_nanos()).unwrap_or(u64::MAX));
        if made.is_allowed {
            self.allowed += 1;
            return;
        }
        self.denied += 1;
        if let Some(denied) = self.denied_by_key.get_mut(key) {
            *denied += 1;
        } else {
            self.denied_by_key.insert(key.into(), 1);
        }
    }
}

/// Two digits, from a nanosecond to a minute.
fn latency_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 60_000_000_000, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

/// Waits for the log's time to come.
struct Pacer {
    speed: Option<f64>,
    start: Option<(Instant, Timestamp)>,
}

impl Pacer {
    async fn wait_for(&mut self, at: Timestamp) {
        let Some(speed) = self.speed else { return };
        let (start, first) = *self.start.get_or_insert_with(|| (Instant::now(), at));
        let due = start.checked_add(scaled(at.saturating_since(first), speed));
        match due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// How long `duration` of the log lasts at `speed`.
fn scaled(duration: Duration, speed: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() / speed).unwrap_or(Duration::MAX)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
