//! Puts requests to the limiter, at the times they have, and counts.
//!
//! Requests are dealt out to lanes by their keys. A lane decides one request after another, its clock set to each one's
//! time; lanes go side by side. So every request meets the same states at the same time on every store, however many
//! lanes hide the way to it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, TryStreamExt as _};
use hdrhistogram::Histogram;
use sysd::core::{ManualClock, Result, Store, Timestamp};
use tokio::sync::mpsc;

use super::feed::Batch;
use super::judge::{Judge, Judged, Verdict};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) denied_by_key: HashMap<Box<[u8]>, u64>,
    /// By the place of the rule; see [`Verdict`].
    pub(crate) denied_by_cause: HashMap<usize, u64>,
    /// What shadow rules would have denied, by their places.
    pub(crate) would_deny: HashMap<usize, u64>,
    /// What the other policy denies and the first does not.
    pub(crate) newly_denied: Changed,
    /// What the other policy allows and the first does not.
    pub(crate) newly_allowed: Changed,
    /// How long decisions took, nanoseconds.
    pub(crate) latency_ns: Histogram<u64>,
    /// From the first decision to the last; with a speed, waiting for the log's time too.
    pub(crate) elapsed: Duration,
}

/// Requests that two policies decide differently.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) by_client: HashMap<Box<[u8]>, u64>,
    /// By the place of the rule that denies it, in the policy that does.
    pub(crate) by_cause: HashMap<usize, u64>,
}

impl Changed {
    fn count(&mut self, client: &[u8], cause: Option<usize>) {
        count(&mut self.by_client, client);
        if let Some(cause) = cause {
            *self.by_cause.entry(cause).or_default() += 1;
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.by_client.values().sum()
    }
}

fn count(by_client: &mut HashMap<Box<[u8]>, u64>, client: &[u8]) {
    if let Some(requests) = by_client.get_mut(client) {
        *requests += 1;
    } else {
        by_client.insert(client.into(), 1);
    }
}

/// Who decides, and the clock that it goes by.
#[derive(Debug)]
pub(crate) struct Lane<S> {
    judge: Judge<S>,
    clock: ManualClock,
}

impl<S: Store> Lane<S> {
    /// `clock` must be that of the judge's store, and of no other lane's.
    pub(crate) fn new(judge: Judge<S>, clock: ManualClock) -> Self {
        Self { judge, clock }
    }
}

/// A decision that was made.
struct Made {
    /// Of the request, in its batch.
    index: usize,
    judged: Judged,
}

/// Replays all batches at `speed` times real time, or as fast as can be. `on_batch` is given what became of each request, and what the
/// other policy, if there is one, says.
///
/// # Errors
/// The first of the store.
pub(crate) async fn replay<S: Store>(
    lanes: &[Lane<S>],
    batches: &mut mpsc::Receiver<Batch>,
    speed: Option<f64>,
    mut on_batch: impl FnMut(&[(bool, Option<bool>)]) + Send,
) -> Result<Tally> {
    let mut tally = Tally {
        allowed: 0,
        denied: 0,
        denied_by_key: HashMap::new(),
        denied_by_cause: HashMap::new(),
        would_deny: HashMap::new(),
        newly_denied: Changed::default(),
        newly_allowed: Changed::default(),
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
        verdicts.resize(batch.len(), (false, None));
        for made in made {
            let candidate = made.judged.candidate.map(|verdict| verdict.is_allowed);
            verdicts[made.index] = (made.judged.verdict.is_allowed, candidate);
            tally.count(batch.key(made.index), &made.judged);
        }
        on_batch(&verdicts);
    }
    Ok(tally)
}

async fn decide_batch<S: Store>(lanes: &[Lane<S>], batch: &Batch, pacer: Option<&Pacer>) -> Result<Vec<Made>> {
    if let [lane] = lanes {
        return decide_in_order(lane, batch, 0..batch.len(), pacer).await;
    }
    let dealt = lanes.first().map(|lane| lane.judge.deal(batch, lanes.len())).unwrap_or_default();
    let under_way: FuturesUnordered<_> =
        lanes.iter().zip(dealt).map(|(lane, indexes)| decide_in_order(lane, batch, indexes, pacer)).collect();
    under_way.try_concat().await
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
        made.push(Made { index, judged: lane.judge.judge(batch, index).await? });
    }
    Ok(made)
}

impl Tally {
    fn count(&mut self, key: &[u8], judged: &Judged) {
        self.latency_ns.saturating_record(u64::try_from(judged.took.as_nanos()).unwrap_or(u64::MAX));
        let Verdict { is_allowed, cause } = judged.verdict;
        for shadow in &judged.would_deny {
            *self.would_deny.entry(*shadow).or_default() += 1;
        }
        match judged.candidate {
            Some(candidate) if is_allowed && !candidate.is_allowed => self.newly_denied.count(key, candidate.cause),
            Some(candidate) if !is_allowed && candidate.is_allowed => self.newly_allowed.count(key, cause),
            _ => {}
        }
        if is_allowed {
            self.allowed += 1;
            return;
        }
        self.denied += 1;
        count(&mut self.denied_by_key, key);
        if let Some(cause) = cause {
            *self.denied_by_cause.entry(cause).or_default() += 1;
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
