//! What the clients of a simulated log saw, and the check of all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sysd_core::{Effect, Error, StateMachine as _};
use sysd_testkit::Counters;
use sysd_testkit::counters::{Add, Added};
use sysd_testkit::oracle::log::{
    Answer, LatestRead, Submission, Takeover, acknowledged, fencing, once, reads, real_time, replies, time,
};

#[derive(Default)]
pub(crate) struct Seen {
    moment: u64,
    next_id: u64,
    next_writer: u64,
    submissions: Vec<Submission<Added>>,
    takeovers: Vec<Takeover>,
    reads: Vec<LatestRead>,
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

    pub(crate) fn next_writer(&self) -> u64 {
        self.with(|seen, _| {
            seen.next_writer += 1;
            seen.next_writer
        })
    }

    pub(crate) fn begin(&self, writer: u64) -> Add {
        self.with(|seen, begun| {
            seen.next_id += 1;
            let id = seen.next_id;
            seen.submissions.push(Submission { id, writer, begun, ended: None, answer: Answer::Unknown });
            Add { id, counter: u32::try_from(id % 3).unwrap(), amount: i64::try_from(id).unwrap() }
        })
    }

    pub(crate) fn end(&self, command: Add, answer: Result<Added, Error>) {
        self.with(|seen, moment| {
            let submission = &mut seen.submissions[usize::try_from(command.id).unwrap() - 1];
            submission.ended = Some(moment);
            submission.answer = match answer {
                Ok(reply) => Answer::Reply(reply),
                Err(error) if error.effect() == Effect::None => Answer::NotApplied,
                Err(_) => Answer::Unknown,
            };
        });
    }

    pub(crate) fn begin_takeover(&self, writer: u64) -> usize {
        self.with(|seen, begun| {
            seen.takeovers.push(Takeover { writer, begun, ended: None, epoch: None });
            seen.takeovers.len() - 1
        })
    }

    /// `epoch`: if it took over. One that nobody knows the end of has none.
    pub(crate) fn end_takeover(&self, at: usize, epoch: Option<u64>, is_certain: bool) {
        self.with(|seen, moment| {
            seen.takeovers[at].epoch = epoch;
            seen.takeovers[at].ended = is_certain.then_some(moment);
        });
    }

    pub(crate) fn moment(&self) -> u64 {
        self.with(|_, moment| moment)
    }

    pub(crate) fn read(&self, begun: u64, seen_commands: usize) {
        self.with(|seen, ended| seen.reads.push(LatestRead { begun, ended, seen: seen_commands as u64 }));
    }

    pub(crate) fn acknowledged_count(&self) -> usize {
        let seen = self.0.lock().unwrap();
        seen.submissions.iter().filter(|submission| matches!(submission.answer, Answer::Reply(_))).count()
    }

    /// Every invariant, against the log as it is in the end.
    pub(crate) fn check(&self, last: &Counters) -> Result<(), String> {
        let seen = self.0.lock().unwrap();
        let journal: Vec<u64> = last.journal().iter().map(|(_, command)| command.id).collect();
        let times: Vec<_> = last.journal().iter().map(|(now, _)| *now).collect();
        let mut replay = Counters::default();
        let replayed: BTreeMap<u64, Added> =
            last.journal().iter().map(|(now, command)| (command.id, replay.apply(*now, command))).collect();
        let all = [
            once(&journal),
            acknowledged(&seen.submissions, &journal),
            replies(&seen.submissions, &replayed),
            real_time(&seen.submissions, &journal),
            time(&times),
            fencing(&seen.takeovers, &seen.submissions),
            reads(&seen.reads, &seen.submissions, &journal),
        ];
        all.into_iter().collect::<Result<(), _>>().map_err(|violation| violation.to_string())?;
        if replay == *last { Ok(()) } else { Err("the state is not what its journal replays to".to_owned()) }
    }
}
