//! Checks what producers and consumers of a queue saw. One file an invariant.
//!
//! Moments are numbers that rise with everything that happens.

mod attempts;
mod exclusive;
mod invented;
mod lost;
mod once;
mod replayed;
mod rising;
mod stale;

use std::collections::BTreeMap;

use sysd_core::Timestamp;

pub use super::Violation;
pub use attempts::attempts;
pub use exclusive::exclusive;
pub use invented::invented;
pub use lost::lost;
pub use once::once;
pub use replayed::replayed;
pub use rising::rising;
pub use stale::stale;

/// A job, as its producer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Whether enqueueing it was answered.
    pub is_acknowledged: bool,
    /// Whether its id is the caller's.
    pub is_named: bool,
}

/// How a holder let go of a job, if anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has not, or it crashed.
    Open,
    /// Done.
    Acked,
    /// Given back, or given up.
    Returned,
    /// It was told that its lease is lost.
    Lost,
    /// Settled with an unknown effect.
    Unknown,
}

/// One time that a job was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which job, by the number in its payload.
    pub job: u64,
    /// When the consumer asked.
    pub begun: u64,
    /// When it was given.
    pub given: u64,
    /// When that was by the consumer's own clock, at the latest.
    pub given_at: Timestamp,
    /// Until when it is held, by the same clock.
    pub until: Timestamp,
    /// The how manieth time.
    pub attempt: u32,
    /// How it ended.
    pub ending: Ending,
    /// When its settlement was asked for and answered.
    pub settled: Option<(u64, u64)>,
}

/// A queue's history.
#[derive(Clone, Debug, Default)]
pub struct QueueHistory {
    /// Jobs by number.
    pub jobs: BTreeMap<u64, Job>,
    /// Deliveries in the order in which they were given.
    pub deliveries: Vec<Delivery>,
    /// How often somebody began to put a job back that was given up.
    pub replays: BTreeMap<u64, usize>,
    /// The dead letters of which this was answered.
    pub put_back: Vec<Letter>,
    /// The dead letters in the end.
    pub dead: Vec<Letter>,
}

/// A dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Of which job.
    pub job: u64,
    /// When it was buried.
    pub at: Timestamp,
}

impl QueueHistory {
    fn deliveries_of(&self, job: u64) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter().filter(move |delivery| delivery.job == job)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn delivery(job: u64, given: u64, attempt: u32, ending: Ending) -> Delivery {
        let at = Timestamp::from_micros_saturating;
        let settled = (ending != Ending::Open).then_some((given + 2, given + 3));
        Delivery { job, begun: given - 1, given, given_at: at(given), until: at(given + 5), attempt, ending, settled }
    }

    pub(crate) fn history(deliveries: Vec<Delivery>, dead: Vec<u64>) -> QueueHistory {
        let dead = dead.into_iter().map(|job| Letter { job, at: Timestamp::UNIX_EPOCH }).collect();
        let job = Job { is_acknowledged: true, is_named: true };
        QueueHistory {
            jobs: BTreeMap::from([(1, job), (2, Job { is_acknowledged: false, is_named: false })]),
            deliveries,
            dead,
            ..QueueHistory::default()
        }
    }
}
