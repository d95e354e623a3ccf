//! Puts requests to the limiter, at the times they have, and counts.
//!
//! Requests are dealt out to lanes by their key. A lane decides one request after another, its clock set to each one's
//! time; lanes go side by side. So every request meets the same bucket at the same time on every store, however many
//! lanes hide the way to it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, TryStreamExt as _};
use hdrhistogram::Histogram;
use sysd::core::{ManualClock, Result, Store, Timestamp};
use sysd::ratelimit::{Limit, RateLimiter};
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
    /// From the first decision to the last; with a speed, waiting for the log's time too.
    pub(crate) elapsed: Duration,
}

/// A limiter, and the clock that it goes by.
#[derive(Debug)]
pub(crate) struct Lane<S> {
    limiter: RateLimiter<S, Limit>,
    clock: ManualClock,
}

impl<S: Store> Lane<S> {
    /// `clock` must be that of the limiter's store, and of no other lane's.
    pub(crate) fn new(limiter: RateLimiter<S, Limit>, clock: ManualClock) -> Self {
        Self { limiter, clock }
    }
}

/// A decision that was made.
struct Made {
    /// Of the request, in its batch.
    index: usize,
    is_allowed: bool,
    took: Duration,
}

/// Replays all batches at `speed` times real time, or as fast as can be. `on_batch` is given what became of each request.
///
/// # Errors
/// The first of the store.
pub(crate) async fn replay<S: Store>(
    lanes: &[Lane<S>],
    batches: &mut mpsc::Receiver<Batch>,
    speed: Option<f64>,
    mut on_batch: impl FnMut(&[bool]) + Send,
) -> Result<Tally> {
    let mut tally = Tally {
        allowed: 0,
        denied: 0,
        denied_by_key: HashMap::new(),
        latency_ns: latency_histogram(),
        elapsed: Duration::ZERO,
    };
    let mut pacer = None;
    let mut verdicts = Vec::new();
    while let Some(batch) = batches.recv().await {
        if let Some(speed) = speed {
            pacer.get_or_insert_with(|| Pacer { speed, start: Instant::now(), first: batch.at(0) });
        }
        let start = Instant::now();
        let made = decide_batch(lanes, &batch, pacer.as_ref()).await?;
        tally.elapsed += start.elapsed();
        verdicts.clear();
        verdicts.resize(batch.len(), false);
        for made in made {
            verdicts[made.index] = made.is_allowed;
            tally.count(batch.key(made.index), &made);
        }
        on_batch(&verdicts);
    }
    Ok(tally)
}

async fn decide_batch<S: Store>(lanes: &[Lane<S>], batch: &Batch, pacer: Option<&Pacer>) -> Result<Vec<Made>> {
    if let [lane] = lanes {
        return decide_in_order(lane, batch, 0..batch.len(), pacer).await;
    }
    let mut dealt = vec![Vec::new(); lanes.len()];
    for index in 0..batch.len() {
        dealt[lane_of(batch.key(index), lanes.len())].push(index);
    }
    let under_way: FuturesUnordered<_> =
        lanes.iter().zip(dealt).map(|(lane, indexes)| decide_in_order(lane, batch, indexes, pacer)).collect();
    under_way.try_concat().await
}

/// Always the same for a key.
fn lane_of(key: &[u8], lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or_default()
}

async fn decide_in_order<S: Store>(
    lane: &Lane<S>,
    batch: &Batch,
    indexes: impl IntoIterator<Item = usize, IntoIter: Send> + Send,
    pacer: Option<&Pacer>,
) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    for index in indexes {
        let at = batch.at(index);
        if let Some(pacer) = pacer {
            pacer.wait_for(at).await;
        }
        lane.clock.set(at);
        let start = Instant::now();
        let decision = lane.limiter.check(batch.key(index), 1).await?;
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

/// Three digits, from a nanosecond to a minute.
fn latency_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 60_000_000_000, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

/// Waits for the log's time to come.
struct Pacer {
    speed: f64,
    start: Instant,
    first: Timestamp,
}

impl Pacer {
    async fn wait_for(&self, at: Timestamp) {
        match self.start.checked_add(scaled(at.saturating_since(self.first), self.speed)) {
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
