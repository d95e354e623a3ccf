//! What the callers of a simulated ledger saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sysd_core::{Effect, Error, ErrorKind};
use sysd_ledger::{Books, Command, JournalEntry, Reply, TransactionId};
use sysd_testkit::oracle::log::{Answer, LatestRead, Submission};

use crate::check;
use crate::machine::{Kept, encoded};
use crate::scenario::Audited;
use crate::support::naive::receipts;

#[derive(Default)]
pub(crate) struct Seen {
    moment: u64,
    next_writer: u64,
    pub(crate) submissions: Vec<Submission<Reply>>,
    /// What was asked, in the order of the above.
    pub(crate) asked: Vec<Command>,
    /// What was read of the journal.
    pub(crate) entries: Vec<Vec<JournalEntry>>,
    pub(crate) reads: Vec<LatestRead>,
    /// States of replicas: how many commands they had applied, and their bytes.
    pub(crate) states: Vec<(u64, Vec<u8>)>,
    /// Under which number somebody was told that a transaction is recorded.
    pub(crate) numbers: BTreeMap<TransactionId, u64>,
    /// How often the log was told that the store has more of the journal.
    pub(crate) chunks: u64,
    /// How many transactions the log's replay recorded on the short way of plain transfers.
    pub(crate) pairs: u64,
    /// Audits during which something was recorded.
    pub(crate) overtaken: u64,
    /// What was wrong when it was seen.
    pub(crate) wrong: Option<String>,
}

impl Seen {
    fn note(&mut self, checked: Result<(), String>) {
        if let Err(what) = checked {
            self.wrong.get_or_insert(what);
        }
    }

    /// An id has one number, for ever.
    fn number(&mut self, id: TransactionId, number: u64) {
        let known = *self.numbers.entry(id).or_insert(number);
        if known != number {
            self.note(Err(format!("{id} is number {number}, and was {known}")));
        }
    }
}

/// Everything that callers saw, in one order of moments. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Seen>>);

impl Record {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Seen, u64) -> T) -> T {
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

    pub(crate) fn moment(&self) -> u64 {
        self.with(|_, moment| moment)
    }

    /// Somebody asks something: which asking that is, from 1 on.
    pub(crate) fn begin(&self, writer: u64, command: &Command) -> u64 {
        self.with(|seen, begun| {
            seen.asked.push(command.clone());
            let id = seen.submissions.len() as u64 + 1;
            seen.submissions.push(Submission { id, writer, begun, ended: None, answer: Answer::Unknown });
            id
        })
    }

    pub(crate) fn end(&self, asking: u64, answer: &Result<Reply, Error>) {
        self.with(|seen, moment| {
            let submission = &mut seen.submissions[usize::try_from(asking).unwrap() - 1];
            submission.ended = Some(moment);
            submission.answer = match answer {
                Ok(reply) => Answer::Reply(reply.clone()),
                Err(error) if error.effect() == Effect::None => Answer::NotApplied,
                Err(_) => Answer::Unknown,
            };
            match answer {
                Err(error) => seen.note(only_away(error)),
                Ok(Reply::Conflict(conflict)) => seen.number(conflict.asked.id, conflict.recorded.number),
                Ok(reply) => receipts(reply).iter().for_each(|receipt| seen.number(receipt.id, receipt.number)),
            }
        });
    }

    /// Keeps the first that is wrong.
    pub(crate) fn note(&self, checked: Result<(), String>) {
        self.with(|seen, _| seen.note(checked));
    }

    /// Somebody read the whole journal.
    pub(crate) fn read_journal(&self, entries: Result<Vec<JournalEntry>, Error>) {
        self.with(|seen, _| match entries {
            Ok(entries) => seen.entries.push(entries),
            Err(error) => seen.note(only_away(&error)),
        });
    }

    /// What somebody must find who looks now.
    pub(crate) fn numbers(&self) -> BTreeMap<TransactionId, u64> {
        self.with(|seen, _| seen.numbers.clone())
    }

    /// Somebody looked at books that must have these numbers.
    pub(crate) fn looked(&self, books: &Books, numbers: &BTreeMap<TransactionId, u64>) {
        let mut checked = check::laws(books);
        for (id, number) in numbers {
            if books.number(*id) != Some(*number) {
                checked = Err(format!("{id} was answered with number {number}, and is {:?} now", books.number(*id)));
            }
        }
        self.with(|seen, _| seen.note(checked));
    }

    /// Somebody had the journal verified.
    pub(crate) fn audited(&self, audited: Audited) {
        let Audited { entries, before, after } = audited;
        let is_of_then = (before..=after).contains(&entries);
        let what =
            || format!("an audit proved {entries} entries, of {before} when it began and {after} when it was done");
        self.with(|seen, _| {
            seen.overtaken += u64::from(audited.is_overtaken());
            seen.note(if is_of_then { Ok(()) } else { Err(what()) });
        });
    }

    /// Somebody read the latest state, from `begun` until now.
    pub(crate) fn read(&self, begun: u64, (applied, bytes): (u64, Vec<u8>)) {
        self.with(|seen, ended| {
            seen.reads.push(LatestRead { begun, ended, seen: applied });
            seen.states.push((applied, bytes));
        });
    }
}

pub(crate) fn state(kept: &Kept) -> (u64, Vec<u8>) {
    (kept.applied, encoded(kept))
}

/// A store that is away is to be expected, books or a journal that make no sense are not.
pub(crate) fn only_away(error: &Error) -> Result<(), String> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Internal | ErrorKind::Invalid => Err(format!("a caller was told: {error}")),
        _ => Ok(()),
    }
}
