//! Whether what callers saw is one history of right books.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::executor::block_on;
use sysd_core::{Key, ManualClock, Record as Stored, Result as CallResult, StateMachine, Store, Timestamp, tuple};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Command, Currency, Event, Funds, JournalEntry, Receipt, Reply, Side,
    Transaction, TransactionId,
};
use sysd_storage::{Follower, Memory, ReplicaConfig};
use sysd_testkit::oracle::log::{Answer, Submission, acknowledged, once, reads, real_time, time};
use sysd_testkit::{Overridden, Overrides};

use crate::machine::{Asked, History, Kept, MARK_BYTES, encoded};
use crate::record::Seen;
use crate::scenario::LOG;
use crate::support::naive::{Naive, answers, receipts};

/// The store without its snapshots: who opens a log on it reads all of it.
struct WholeLog;

impl Overrides<Memory<ManualClock>> for WholeLog {
    async fn get(&self, store: &Memory<ManualClock>, key: Key<'_>) -> CallResult<Option<Stored>> {
        // The record that names the newest snapshot.
        const MANIFEST: u8 = 2;
        if key.partition() == tuple::encode(&(LOG, MANIFEST)).as_slice() {
            return Ok(None);
        }
        store.get(key).await
    }
}

/// What the log holds, read from its beginning.
pub(crate) fn history(store: Memory<ManualClock>, config: ReplicaConfig) -> Result<History, String> {
    let opened = block_on(Follower::<History>::open(Overridden(store, WholeLog), LOG, config));
    let (follower, _driver) = opened.map_err(|error| format!("the log can't be read: {error}"))?;
    Ok(follower.read(|history| History { steps: history.steps.clone() }))
}

/// What holds of books at any time: currencies sum to zero, posted and held, and no account is beyond what it may be.
pub(crate) fn laws(books: &Books) -> Result<(), String> {
    books.verify().map_err(|why| why.to_string())?;
    for view in books.accounts() {
        let b = view.balance;
        let (within, overdraft, taken, there) = match view.account.funds {
            Funds::Unlimited => (true, 0, 0, 0),
            Funds::DebitsWithinCredits { overdraft } => {
                (false, overdraft, b.debits_posted + b.debits_held, b.credits_posted)
            }
            Funds::CreditsWithinDebits { overdraft } => {
                (false, overdraft, b.credits_posted + b.credits_held, b.debits_posted)
            }
        };
        if !within && taken > there + overdraft {
            return Err(format!("{taken} were taken of account {}, where {there} are there", view.account.id));
        }
        let (grown, shrunk) = match view.account.kind.normal_side() {
            Side::Debit => (b.debits_posted + b.debits_held, b.credits_posted),
            Side::Credit => (b.credits_posted + b.credits_held, b.debits_posted),
        };
        if view.account.balance_max.is_some_and(|max| grown > shrunk + max) {
            return Err(format!("account {} is over its balance_max", view.account.id));
        }
    }
    Ok(())
}

/// What one sequential history gives.
pub(crate) struct Replay {
    pub(crate) kept: Kept,
    /// The bytes of the state after so many commands.
    states: Vec<Vec<u8>>,
    /// What the books answered to each asking.
    replies: BTreeMap<u64, Reply>,
    /// What was recorded under each number; what is not here is the end of a hold.
    recorded: BTreeMap<u64, (Transaction, Receipt)>,
    numbers: BTreeMap<TransactionId, u64>,
    /// How often the log was told that the store has more of the journal.
    pub(crate) chunks: u64,
}

impl Replay {
    /// What a caller is told who was answered `reply` by the books: the first answer, if it was recorded before just so. `None`: of
    /// another content.
    fn first_answer(&self, command: &Command, reply: &Reply) -> Option<Reply> {
        let first = |transaction: &Transaction| {
            let (recorded, receipt) = self.recorded.get(self.numbers.get(&transaction.id)?)?;
            (recorded == transaction).then(|| receipt.clone())
        };
        match (command, reply) {
            (Command::Transact(transaction), Reply::Exists { .. }) => first(transaction).map(Reply::Recorded),
            (Command::Group(transactions), Reply::Exists { .. }) => {
                transactions.iter().map(first).collect::<Option<_>>().map(Reply::GroupRecorded)
            }
            (_, reply) => Some(reply.clone()),
        }
    }

    fn is_right(&self, command: &Command, reply: &Reply, answer: &Reply) -> bool {
        if let (Command::Batch(transactions), Reply::Batch(replies), Reply::Batch(answers)) = (command, reply, answer) {
            let all = transactions.iter().zip(replies).zip(answers);
            let each = |((transaction, reply), answer): ((&Transaction, &Reply), &Reply)| {
                self.is_right(&Command::Transact(transaction.clone()), reply, answer)
            };
            return transactions.len() == answers.len() && all.into_iter().all(each);
        }
        match (self.first_answer(command, reply), answer) {
            (Some(first), answer) => first == *answer,
            (None, Reply::Conflict(conflict)) => {
                let recorded = self.recorded.get(&conflict.recorded.number);
                let is_it = recorded.is_some_and(|(recorded, _)| conflict.recorded.transaction() == Some(recorded));
                is_it && conflict.asked.id == conflict.recorded.transaction().map_or(conflict.asked.id, |one| one.id)
            }
            (None, _) => false,
        }
    }

    /// Whether these are the first entries of the journal, as they must be.
    fn is_journal(&self, entries: &[JournalEntry]) -> Result<(), String> {
        for (number, entry) in (1..).zip(entries) {
            let wrong = |what: &str| Err(format!("the journal's entry {number}: {what}: {entry:?}"));
            let mut sums = BTreeMap::<Currency, (i128, i128)>::new();
            for change in &entry.changes {
                let signed = |amount: u128| i128::try_from(amount).unwrap();
                let sign = if change.side == Side::Debit { 1 } else { -1 };
                let (posted, held) = sums.entry(change.currency).or_default();
                *posted += sign * signed(change.posted);
                *held += sign * (signed(change.held) - signed(change.freed));
            }
            if entry.number != number || number > self.kept.books.journal_len() {
                return wrong("its number");
            }
            if sums.values().any(|sums| *sums != (0, 0)) {
                return wrong("it does not sum to zero");
            }
            match (&entry.event, self.recorded.get(&number)) {
                (Event::Transaction(transaction), Some((asked, receipt))) => {
                    if transaction != asked || entry.receipt().as_ref() != Some(receipt) {
                        return wrong(&format!("recorded was {asked:?}, answered {receipt:?}"));
                    }
                }
                (Event::HoldEnded { hold }, None) if self.numbers.contains_key(hold) => {}
                (_, recorded) => return wrong(&format!("recorded was {recorded:?}")),
            }
        }
        Ok(())
    }
}

/// Whether a command that changed nothing else left these bytes: the count of what was applied is one more, and holds may have ended.
fn is_changed_by_time_alone(before: &[u8], after: &[u8], now: Timestamp) -> Result<bool, String> {
    if before[MARK_BYTES..] == after[MARK_BYTES..] {
        return Ok(true);
    }
    let mut before = Kept::decode_snapshot(Kept::FORMAT, before).map_err(|error| error.to_string())?;
    before.apply(now, &Asked { number: 0, command: Command::Tick });
    Ok(encoded(&before) == after)
}

fn transactions(command: &Command) -> &[Transaction] {
    match command {
        Command::Transact(transaction) => std::slice::from_ref(transaction),
        Command::Group(transactions) => transactions,
        Command::Batch(transactions) => transactions,
        _ => &[],
    }
}

/// What of a command was recorded, with its receipt. By their places: of a batch two can have one id, and the first be rejected.
fn recorded_of<'a>(command: &'a Command, reply: &'a Reply) -> Vec<(&'a Transaction, &'a Receipt)> {
    let transactions = transactions(command).iter();
    match reply {
        Reply::Batch(replies) => {
            let each = transactions.zip(replies);
            each.flat_map(|(transaction, reply)| receipts(reply).into_iter().map(move |of| (transaction, of))).collect()
        }
        reply => transactions.zip(receipts(reply)).collect(),
    }
}

/// Applies the history from its beginning, beside the second implementation, and looks at everything after every step.
pub(crate) fn replay(history: &History) -> Result<Replay, String> {
    let (mut kept, mut naive) = (Kept::default(), Naive::default());
    let mut states = vec![encoded(&kept)];
    let (mut replies, mut recorded, mut numbers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (now, asked) in &history.steps {
        let (now, command) = (*now, &asked.command);
        let reply = kept.apply(now, asked);
        let differs = |what: String| Err(format!("{what}\nasking {}: {command:?}\n{reply:?}", asked.number));
        let (found, expected) = (answers(&reply), naive.apply(now, command));
        if found.as_ref() != Some(&expected) {
            return differs(format!("the second implementation answers {expected:?}"));
        }
        let of_command = recorded_of(command, &reply);
        if !of_command.iter().map(|(transaction, _)| transaction.id).eq(receipts(&reply).iter().map(|of| of.id)) {
            return differs("what was not asked was recorded".to_owned());
        }
        for (transaction, receipt) in of_command {
            recorded.insert(receipt.number, (transaction.clone(), receipt.clone()));
            if numbers.insert(receipt.id, receipt.number).is_some() {
                return differs("an id was recorded twice".to_owned());
            }
        }
        for id in naive.accounts.keys() {
            let (found, expected) = (kept.books.balance(*id), naive.balance(*id));
            if found != Some(expected) {
                return differs(format!("account {id} is {found:?}, and {expected:?} in the second implementation"));
            }
        }
        if (kept.books.holds_len(), kept.books.journal_len()) != (naive.holds.len(), naive.next) {
            return differs("the holds or numbers differ from those of the second implementation".to_owned());
        }
        for (account, balance) in receipts(&reply).last().into_iter().flat_map(|receipt| &receipt.balances) {
            if kept.books.balance(*account) != Some(*balance) {
                return differs(format!("the receipt says something else of account {account}"));
            }
        }
        if let Err(what) = laws(&kept.books) {
            return differs(what);
        }
        let bytes = encoded(&kept);
        if matches!(reply, Reply::Rejected(_)) {
            let before = states.last().map_or(&[][..], Vec::as_slice);
            if !is_changed_by_time_alone(before, &bytes, now)? {
                return differs("what was rejected changed something".to_owned());
            }
        }
        states.push(bytes);
        replies.insert(asked.number, reply);
    }
    let is_written = |asked: &Asked| matches!(asked.command, Command::Wrote { .. });
    let chunks = history.steps.iter().filter(|(_, asked)| is_written(asked)).count() as u64;
    Ok(Replay { kept, states, replies, recorded, numbers, chunks })
}

/// Everything that callers saw, against the log as it is in the end.
pub(crate) fn check(seen: &Seen, history: &History) -> Result<Replay, String> {
    if let Some(what) = &seen.wrong {
        return Err(what.clone());
    }
    let replay = replay(history)?;
    // What nobody asked is the journal's writer's; each has a name of its own here.
    let names = (1..).map(|at| u64::MAX - at);
    let all = history.steps.iter().zip(names);
    let all: Vec<u64> = all.map(|((_, asked), name)| if asked.number == 0 { name } else { asked.number }).collect();
    let journal: Vec<u64> = all.iter().copied().filter(|id| *id <= seen.asked.len() as u64).collect();
    let times: Vec<_> = history.steps.iter().map(|(now, _)| *now).collect();
    let submissions: Vec<_> = seen.submissions.iter().map(|submission| known_effect(submission, &replay)).collect();
    let log = [
        once(&journal),
        acknowledged(&submissions, &journal),
        real_time(&submissions, &journal),
        time(&times),
        reads(&seen.reads, &submissions, &all),
    ];
    log.into_iter().collect::<Result<(), _>>().map_err(|violation| violation.to_string())?;
    for (submission, command) in seen.submissions.iter().zip(&seen.asked) {
        let Answer::Reply(answer) = &submission.answer else { continue };
        let said = replay.replies.get(&submission.id).ok_or("it is not in the log")?;
        if !replay.is_right(command, said, answer) {
            return Err(format!("{command:?}\nwas answered {answer:?}\nwhere the log replays to {said:?}"));
        }
    }
    for (applied, bytes) in &seen.states {
        let replayed = usize::try_from(*applied).ok().and_then(|applied| replay.states.get(applied));
        if replayed != Some(bytes) {
            return Err(format!("a replica that had applied {applied} commands had other bytes than the log's replay"));
        }
    }
    let mut journals = seen.entries.iter().map(|entries| replay.is_journal(entries));
    journals.try_for_each(|checked| checked)?;
    recorded_once(seen, &replay.kept.books)?;
    Ok(replay)
}

/// An asking that was in the log and changed nothing there, for it was recorded before, may end without effect: who asks was not told
/// the first answer, because the journal could not be read.
fn known_effect(submission: &Submission<Reply>, replay: &Replay) -> Submission<Reply> {
    let mut submission = submission.clone();
    let changed_nothing = match replay.replies.get(&submission.id) {
        Some(Reply::Exists { .. }) => true,
        Some(batch @ Reply::Batch(replies)) => {
            receipts(batch).is_empty() && replies.iter().any(|reply| matches!(reply, Reply::Exists { .. }))
        }
        _ => false,
    };
    if submission.answer == Answer::NotApplied && changed_nothing {
        submission.answer = Answer::Unknown;
    }
    submission
}

/// Of all that was answered: a number has one transaction, always with the same receipt, and its id is in the books.
fn recorded_once(seen: &Seen, books: &Books) -> Result<(), String> {
    let mut recorded = BTreeMap::new();
    for submission in &seen.submissions {
        let Answer::Reply(reply) = &submission.answer else { continue };
        for receipt in receipts(reply) {
            if *recorded.entry(receipt.number).or_insert(receipt) != receipt {
                return Err(format!("number {} was answered in two ways", receipt.number));
            }
        }
    }
    match seen.numbers.iter().find(|(id, number)| books.number(**id) != Some(**number)) {
        Some((id, number)) => Err(format!("{id} was answered with number {number}, and is not there in the end")),
        None => Ok(()),
    }
}

/// By the simulation's time, without waits.
pub(crate) fn reader(clock: ManualClock) -> ReplicaConfig {
    ReplicaConfig { clock: Arc::new(clock), poll_every: None, ..ReplicaConfig::default() }
}

/// The journal was said to be wrong where a batch had two transactions of one id, of which the first was rejected.
#[test]
fn of_two_under_one_id_in_a_batch_the_one_is_known_that_was_recorded() {
    let euro = Currency::iso("EUR").unwrap();
    let open = |id| Command::Open(Box::new(Account::new(AccountId(id), euro, AccountKind::Liability)));
    let right = Transaction::transfer(TransactionId(1), euro, 5, AccountId(0), AccountId(1));
    let mut unbalanced = right.clone();
    unbalanced.postings[0].amount += 1;
    let batch = Command::Batch(Arc::new(vec![unbalanced, right.clone()]));
    let commands = [open(0), open(1), batch];
    let steps = (1..).zip(commands).map(|(number, command)| (Timestamp::UNIX_EPOCH, Asked { number, command }));
    let replay = replay(&History { steps: steps.collect() }).unwrap();
    assert_eq!(replay.recorded.values().map(|(transaction, _)| transaction).collect::<Vec<_>>(), [&right]);
}
