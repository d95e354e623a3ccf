//! What the clients of a simulated queue saw.

use std::sync::{Arc, Mutex};

use sysd_core::queue::{DeadLetter, Held, LeasedJob};
use sysd_core::{Effect, Result, Timestamp};
use sysd_testkit::oracle::queue::{
    Delivery, Ending, Job, Letter, QueueHistory, attempts, exclusive, invented, lost, once, replayed, rising, stale,
};

pub(crate) const ATTEMPTS_MAX: u32 = 4;

#[derive(Default)]
struct Seen {
    moment: u64,
    next_job: u64,
    history: QueueHistory,
}

/// Everything that clients saw, in one order of moments. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Seen>>);

impl Record {
    fn with<T>(&self, change: impl FnOnce(&mut Seen, u64) -> T) -> T {
        let mut seen = self.0.lock().unwrap();
        seen.moment += 1;
        let moment = seen.moment;
        change(&mut seen, moment)
    }

    pub(crate) fn moment(&self) -> u64 {
        self.with(|_, moment| moment)
    }

    pub(crate) fn begin_job(&self, is_named: bool) -> u64 {
        self.with(|seen, _| {
            seen.next_job += 1;
            let number = seen.next_job;
            seen.history.jobs.insert(number, Job { is_acknowledged: false, is_named });
            number
        })
    }

    pub(crate) fn acknowledge(&self, number: u64) {
        self.with(|seen, _| seen.history.jobs.get_mut(&number).unwrap().is_acknowledged = true);
    }

    /// A job was handed out; answers which delivery it is.
    pub(crate) fn deliver(&self, job: &LeasedJob, begun: u64, given_at: Timestamp) -> usize {
        self.with(|seen, given| {
            seen.history.deliveries.push(Delivery {
                job: number_of(&job.payload),
                begun,
                given,
                given_at,
                until: job.until,
                attempt: job.attempt,
                ending: Ending::Open,
                settled: None,
            });
            seen.history.deliveries.len() - 1
        })
    }

    pub(crate) fn extend(&self, at: usize, until: Timestamp) {
        self.with(|seen, _| seen.history.deliveries[at].until = until);
    }

    /// From now on its holder may have let go.
    pub(crate) fn begin_settling(&self, at: usize) {
        self.with(|seen, asked| {
            let delivery = &mut seen.history.deliveries[at];
            delivery.settled = Some((asked, u64::MAX));
            delivery.ending = Ending::Unknown;
        });
    }

    pub(crate) fn end_settling(&self, at: usize, as_what: Ending, answer: Result<Held>) {
        self.with(|seen, answered| {
            let delivery = &mut seen.history.deliveries[at];
            let asked = delivery.settled.map_or(answered, |(asked, _)| asked);
            delivery.settled = Some((asked, answered));
            delivery.ending = match answer {
                Ok(Held::Held) => as_what,
                Ok(Held::Lost) => Ending::Lost,
                Err(error) if error.effect() == Effect::None => {
                    delivery.settled = None;
                    Ending::Open
                }
                Err(_) => Ending::Unknown,
            };
        });
    }

    pub(crate) fn begin_replay(&self, letter: &DeadLetter) {
        self.with(|seen, _| *seen.history.replays.entry(number_of(&letter.payload)).or_default() += 1);
    }

    pub(crate) fn end_replay(&self, letter: &DeadLetter, answer: &Result<bool>) {
        if answer.is_ok() {
            self.with(|seen, _| seen.history.put_back.push(letter_of(letter)));
        }
    }

    /// Every invariant, once the queue is empty but for these dead letters.
    pub(crate) fn check(&self, dead: &[DeadLetter]) -> Result<(), String> {
        let mut history = self.0.lock().unwrap().history.clone();
        history.dead = dead.iter().map(letter_of).collect();
        let all = [
            lost(&history),
            invented(&history),
            exclusive(&history),
            stale(&history),
            once(&history),
            replayed(&history),
            rising(&history),
            attempts(&history, ATTEMPTS_MAX),
        ];
        all.into_iter().collect::<Result<(), _>>().map_err(|violation| violation.to_string())
    }
}

fn letter_of(letter: &DeadLetter) -> Letter {
    Letter { job: number_of(&letter.payload), at: letter.at }
}

fn number_of(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}
