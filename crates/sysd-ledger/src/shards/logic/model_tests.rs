//! Callers and recoveries of shards, with every message between them and the books delayed, lost, doubled by a second caller, or late;
//! without a store, so that many thousand histories run in seconds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use sysd_core::entropy::below;
use sysd_core::{Effect, Error, ErrorKind, Result, SeededEntropy, Timestamp};

use super::crossing::{ATTEMPTS_MAX, Crossing};
use super::lookup::{Lookup, Recorded, attempt_of};
use super::recovery::{Fate, OnStore, OpenPart, fate, in_transit, open_parts, standing};
use super::split::{Layout, Split, home, split};
use super::within::Within;
use super::{Bug, Call, Todo};
use crate::model::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Balance, Conflict, Currency, Date, Event, JournalEntry,
    Posting, Rejection, Reply, Side, Transaction, TransactionId,
};
use crate::shards::schema::{Derivation, NOTES, Own, Purpose, claimed_for, is_reserved};
use crate::shards::{Placement, Refusal, ShardId, ShardReceipt, ShardsReply};
use crate::{Books, Command};

mod checks;

const SEEDS: u64 = 10_000;
const BUG_SEEDS: u64 = 3_000;
const SHARDS: u16 = 3;
const HOLD_US: u64 = 60;
const DAY_US: u64 = 86_400_000_000;
const START_DAY: i32 = 20_000;
/// Of each shard and currency: one without bounds, from which the others have what they have.
const MINT: u128 = 1;
const WALLETS: std::ops::RangeInclusive<u128> = 2..=3;
const FUNDS: u128 = 100;
/// No run tries an id more often.
const ATTEMPTS: u8 = 12;

/// A command on its way, and who waits for the answer.
struct Message {
    shard: ShardId,
    command: Command,
    /// Of its ledger, which knows its first answer.
    is_told: bool,
    back: Option<(usize, usize)>,
}

/// A caller.
struct Caller {
    id: TransactionId,
    /// `None` once it ended, or crashed.
    call: Option<Call>,
    asked: Transaction,
    answers: Vec<Option<Result<Reply>>>,
    looks_at: Option<(ShardId, TransactionId)>,
    recalls: Option<Vec<(ShardId, TransactionId)>>,
    outcome: Option<Result<ShardsReply>>,
}

impl Caller {
    fn new(id: TransactionId, asked: Transaction, call: Call) -> Self {
        let answers = Vec::new();
        Self { id, call: Some(call), asked, answers, looks_at: None, recalls: None, outcome: None }
    }
}

/// What a transaction says, whatever the order of its postings.
fn sorted(transaction: &Transaction) -> (Vec<Posting>, Option<Date>) {
    let mut postings = transaction.postings.to_vec();
    postings.sort_by_key(|posting| (posting.account, posting.side == Side::Debit, posting.amount));
    (postings, transaction.effective)
}

/// Of a transaction.
type Attempt = (TransactionId, u8);

struct World {
    entropy: SeededEntropy,
    now_us: u64,
    books: Vec<Books>,
    journals: BTreeMap<(ShardId, TransactionId), Recorded>,
    messages: Vec<Message>,
    callers: Vec<Caller>,
    contents: BTreeMap<TransactionId, Vec<Transaction>>,
    /// What recoveries found and have not asked the coordinator about.
    found: Vec<(ShardId, OpenPart)>,
    /// Which parts were held, and what of.
    held: BTreeMap<Attempt, BTreeMap<ShardId, Vec<Posting>>>,
    names: BTreeMap<(ShardId, TransactionId), Attempt>,
    /// Whose ids attempts use.
    used: BTreeMap<TransactionId, TransactionId>,
    bug: Option<Bug>,
}

fn layout() -> Layout {
    let notes = Currency::custom(NOTES, 0).unwrap();
    Layout { count: SHARDS, accounts: Placement::Named, ids: Placement::Hashed, notes }
}

fn currencies() -> [Currency; 2] {
    ["EUR", "USD"].map(|code| Currency::iso(code).unwrap())
}

fn account(shard: u16, currency: usize, which: u128) -> AccountId {
    ShardId(shard).place(10 * currency as u128 + which)
}

fn lost(effect: Effect) -> Error {
    Error::new(ErrorKind::Unavailable, effect, "lost")
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut this = Self {
            entropy: SeededEntropy::new(seed),
            now_us: u64::try_from(START_DAY).unwrap() * DAY_US,
            books: (0..SHARDS).map(|_| Books::default()).collect(),
            journals: BTreeMap::new(),
            messages: Vec::new(),
            callers: Vec::new(),
            contents: BTreeMap::new(),
            found: Vec::new(),
            held: BTreeMap::new(),
            names: BTreeMap::new(),
            used: BTreeMap::new(),
            bug,
        };
        for shard in 0..SHARDS {
            for (at, currency) in currencies().into_iter().enumerate() {
                let open = |which| Account::new(account(shard, at, which), currency, AccountKind::Liability);
                this.apply(shard, &Command::Open(Box::new(open(MINT))));
                for wallet in WALLETS {
                    this.apply(shard, &Command::Open(Box::new(open(wallet).limited())));
                    let (from, to) = (account(shard, at, MINT), account(shard, at, wallet));
                    let id = TransactionId(1 << 100 | to.0);
                    let paid_in = Transaction::transfer(id, currency, FUNDS, to, from);
                    let reply = this.apply(shard, &Command::Transact(paid_in));
                    assert!(matches!(reply, Reply::Recorded(_)), "{reply:?}");
                }
            }
        }
        this
    }

    fn below(&self, bound: u64) -> u64 {
        below(&self.entropy, bound)
    }

    fn index(&self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros_saturating(self.now_us)
    }

    fn apply(&mut self, shard: u16, command: &Command) -> Reply {
        let now = self.now();
        let reply = self.books[usize::from(shard)].apply(now, command);
        if let (Command::Transact(transaction), Reply::Recorded(receipt)) = (command, &reply) {
            let recorded = Recorded { transaction: transaction.clone(), receipt: receipt.clone() };
            self.journals.insert((ShardId(shard), transaction.id), recorded);
        }
        reply
    }

    /// A transfer, mostly across shards, an exchange whose parts are balanced by themselves, or a payment in three shards.
    fn content(&self, id: TransactionId) -> Transaction {
        let shard = || u16::try_from(self.below(u64::from(SHARDS))).unwrap();
        let wallet = || if self.below(4) == 0 { MINT } else { 2 + u128::from(self.below(2)) };
        let amount = u128::from(1 + self.below(70));
        let posting = |shard, at: usize, which, amount, side| Posting {
            account: account(shard, at, which),
            amount,
            currency: currencies()[at],
            side,
        };
        let (a, b) = (shard(), shard());
        let postings = match self.below(6) {
            0 => vec![
                posting(a, 0, 2, amount, Side::Debit),
                posting(a, 0, MINT, amount, Side::Credit),
                posting(b, 1, MINT, amount + 3, Side::Debit),
                posting(b, 1, 3, amount + 3, Side::Credit),
            ],
            1 => vec![
                posting(a, 0, wallet(), amount + 1, Side::Debit),
                posting((a + 1) % SHARDS, 0, wallet(), 1, Side::Credit),
                posting((a + 2) % SHARDS, 0, wallet(), amount, Side::Credit),
            ],
            2 => vec![posting(a, 0, 2, amount, Side::Debit), posting(a, 0, 3, amount, Side::Credit)],
            _ => vec![
                posting(a, 0, wallet(), amount, Side::Debit),
                posting((a + 1) % SHARDS, 0, wallet(), amount, Side::Credit),
            ],
        };
        let day = START_DAY - 3 + i32::try_from(self.below(6)).unwrap();
        let effective = (self.below(3) == 0).then_some(Date(day));
        Transaction { effective, ..Transaction::new(id, postings) }
    }

    fn call(&mut self) {
        let is_again = self.below(3) == 0 && !self.contents.is_empty();
        let id = if is_again {
            *self.contents.keys().nth(self.index(self.contents.len())).unwrap()
        } else {
            TransactionId(self.contents.len() as u128 + 1)
        };
        // Now and then somebody asks for something else under an id that is taken.
        let is_other = is_again && self.below(8) == 0;
        let transaction = match self.contents.get(&id) {
            Some(contents) if !is_other => contents[0].clone(),
            _ => self.content(id),
        };
        let contents = self.contents.entry(id).or_default();
        if !contents.contains(&transaction) {
            contents.push(transaction.clone());
        }
        // What is known here is sometimes old.
        let is_known = |home: ShardId, id| self.below(2) == 0 && self.books[usize::from(home.0)].number(id).is_some();
        let call = match split(layout(), &transaction).unwrap() {
            Split::Within(shard) => {
                let command = Command::Transact(transaction.clone());
                Call::Within(Within::new(layout(), shard, command, is_known, self.bug).unwrap())
            }
            Split::Across(parts) => {
                let (named, is_known) = (parts.clone(), is_known(parts[0].shard, id));
                let crossing = Crossing::new(&transaction, parts, is_known, self.now(), HOLD_US, self.bug);
                let used = crossing.id();
                self.used.insert(used, id);
                for (attempt, part) in (0..ATTEMPTS).flat_map(|attempt| named.iter().map(move |part| (attempt, part))) {
                    let shard = part.shard;
                    let hold = Derivation { purpose: Purpose::Hold, attempt, shard }.derive(used);
                    self.names.insert((shard, hold), (used, attempt));
                }
                Call::Across(Box::new(crossing))
            }
        };
        self.callers.push(Caller::new(id, transaction, call));
        self.drive(self.callers.len() - 1);
    }

    fn drive(&mut self, at: usize) {
        let caller = &mut self.callers[at];
        let Some(call) = &mut caller.call else { return };
        match call.todo() {
            Todo::Ask(asks) => {
                caller.answers = asks.iter().map(|_| None).collect();
                for (slot, (shard, command)) in asks.into_iter().enumerate() {
                    self.messages.push(Message { shard, command, is_told: false, back: Some((at, slot)) });
                }
            }
            Todo::Tell(shard, command) => {
                caller.answers = vec![None];
                self.messages.push(Message { shard, command, is_told: true, back: Some((at, 0)) });
            }
            Todo::Look(coordinator, id) => caller.looks_at = Some((coordinator, id)),
            Todo::Recall(ids) => caller.recalls = Some(ids),
            Todo::Done(done) => {
                caller.outcome = Some(done);
                caller.call = None;
            }
        }
    }

    fn answer(&mut self, back: Option<(usize, usize)>, answer: Result<Reply>) {
        let Some((at, slot)) = back else { return };
        let caller = &mut self.callers[at];
        let Some(call) = &mut caller.call else { return };
        caller.answers[slot] = Some(answer);
        if caller.answers.iter().all(Option::is_some) {
            call.told(std::mem::take(&mut caller.answers).into_iter().flatten().collect());
            self.drive(at);
        }
    }

    /// A read of a journal may fail.
    fn recall(&mut self, at: usize, is_peace: bool) {
        let Some(ids) = self.callers[at].recalls.take() else { return };
        let read = |id: (ShardId, TransactionId)| {
            let is_lost = !is_peace && self.below(20) == 0;
            if is_lost { Err(lost(Effect::None)) } else { Ok(self.journals.get(&id).cloned()) }
        };
        let recorded = ids.into_iter().map(read).collect();
        let caller = &mut self.callers[at];
        let Some(call) = &mut caller.call else { return };
        call.recalled(recorded);
        self.drive(at);
    }

    fn look(&mut self, at: usize) {
        let now = self.now();
        let caller = &mut self.callers[at];
        let (Some(call), Some((coordinator, id))) = (&mut caller.call, caller.looks_at.take()) else { return };
        let books = &self.books[usize::from(coordinator.0)];
        call.looked(now, Ok(standing(books, &OnStore::default(), coordinator, id).unwrap()));
        self.drive(at);
    }

    /// Delivers a message, or loses it, or its answer; or answers that nobody knows, and it comes later.
    fn deliver(&mut self, is_peace: bool) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.index(self.messages.len());
        let fault = if is_peace { 99 } else { self.below(30) };
        if fault == 2 {
            let back = self.messages[at].back.take();
            return self.answer(back, Err(lost(Effect::Unknown)));
        }
        let Message { shard, command, is_told, back } = self.messages.swap_remove(at);
        match fault {
            0 => return self.answer(back, Err(lost(Effect::None))),
            1 => return self.answer(back, Err(lost(Effect::Unknown))),
            _ => {}
        }
        let reply = self.apply(shard.0, &command);
        if let (Command::Transact(transaction), Reply::Recorded(_)) = (&command, &reply)
            && matches!(transaction.action, Action::Hold { .. })
            && let Some(name) = self.names.get(&(shard, transaction.id))
        {
            self.held.entry(*name).or_default().insert(shard, transaction.postings.to_vec());
        }
        let reply = match (&command, reply) {
            (Command::Transact(asked), Reply::Exists { .. }) if is_told => self.first_answer(shard, asked),
            (_, reply) => reply,
        };
        self.answer(back, if fault == 3 { Err(lost(Effect::Unknown)) } else { Ok(reply) });
    }

    /// As a ledger says it.
    fn first_answer(&self, shard: ShardId, asked: &Transaction) -> Reply {
        let Recorded { transaction, receipt } = self.journals[&(shard, asked.id)].clone();
        if transaction == *asked {
            return Reply::Recorded(receipt);
        }
        let event = Event::Transaction(transaction);
        let (number, recorded_at) = (receipt.number, receipt.recorded_at);
        let recorded = JournalEntry { number, recorded_at, event, changes: smallvec::SmallVec::new() };
        Reply::Conflict(Box::new(Conflict { recorded, asked: asked.clone() }))
    }

    fn recover(&mut self, is_peace: bool) {
        for shard in (0..SHARDS).map(ShardId) {
            if !is_peace && self.below(2) == 0 {
                continue;
            }
            let open = open_parts(&self.books[usize::from(shard.0)], shard, 0, 100);
            if open.first_deadline.is_some_and(|at| at <= self.now()) {
                self.messages.push(Message { shard, command: Command::Tick, is_told: false, back: None });
            }
            self.found.extend(open.parts.into_iter().map(|part| (shard, part)));
        }
    }

    fn decide(&mut self) {
        if self.found.is_empty() {
            return;
        }
        let (shard, part) = self.found.swap_remove(self.index(self.found.len()));
        let coordinator = part.coordinator;
        let books = &self.books[usize::from(coordinator.0)];
        let mut found = fate(books, &OnStore::default(), layout(), shard, part, self.bug).unwrap();
        if let Fate::Taken { id, .. } = found {
            found = found.resolved(coordinator, &self.journals[&(coordinator, id)].transaction, self.bug);
        }
        if matches!(found, Fate::Wait { until: Some(at) } if at <= self.now()) {
            self.messages.push(Message { shard: coordinator, command: Command::Tick, is_told: false, back: None });
        }
        // A day that was closed is told as the shell tells it.
        let closed = self.books[usize::from(shard.0)].closed_through().map(|through| Date(through.0 + 1));
        let own = if matches!(found, Fate::Post { .. }) { part.effective } else { None };
        let day = closed.filter(|day| own.unwrap_or(Date(START_DAY)) < *day);
        if let Some(command) = found.command(shard, part, day, None) {
            self.messages.push(Message { shard, command, is_told: false, back: None });
        }
    }

    fn meddle(&mut self) {
        let shard = u16::try_from(self.below(u64::from(SHARDS))).unwrap();
        let wallet = account(shard, 0, 2 + u128::from(self.below(2)));
        let command = match self.below(5) {
            0 => Command::ClosePeriod(Date(START_DAY - 3 + i32::try_from(self.below(4)).unwrap())),
            1 => Command::Update(wallet, AccountUpdate::Freeze),
            2 => Command::Update(wallet, AccountUpdate::Unfreeze),
            // A payment within the shard, with what is there.
            _ => {
                let id = TransactionId(1 << 101 | u128::from(self.below(u64::MAX)));
                let (euro, amount) = (currencies()[0], u128::from(1 + self.below(40)));
                Command::Transact(Transaction::transfer(id, euro, amount, wallet, account(shard, 0, MINT)))
            }
        };
        self.apply(shard, &command);
    }

    fn step(&mut self) {
        match self.below(100) {
            0..4 => self.call(),
            4..6 => self.now_us += self.below(HOLD_US),
            6..9 => self.recover(false),
            9 if !self.callers.is_empty() => {
                let at = self.index(self.callers.len());
                self.callers[at].call = None;
            }
            10 => self.meddle(),
            11..25 => self.decide(),
            25..40 if !self.callers.is_empty() => {
                let at = self.index(self.callers.len());
                self.look(at);
                self.recall(at, false);
            }
            _ => self.deliver(false),
        }
    }

    /// Without faults everything comes to an end.
    fn settle(&mut self) -> std::result::Result<(), String> {
        for shard in 0..SHARDS {
            for wallet in WALLETS {
                self.apply(shard, &Command::Update(account(shard, 0, wallet), AccountUpdate::Unfreeze));
            }
        }
        for _ in 0..40 {
            for at in 0..self.callers.len() {
                self.look(at);
                self.recall(at, true);
            }
            while !self.messages.is_empty() {
                self.deliver(true);
            }
            self.now_us += HOLD_US;
            self.recover(true);
            while !self.found.is_empty() {
                self.decide();
            }
            let is_quiet = self.callers.iter().all(|caller| caller.call.is_none());
            if is_quiet && self.messages.is_empty() && self.books.iter().all(|books| books.holds_len() == 0) {
                return Ok(());
            }
        }
        Err("in peace, something is not finished".to_owned())
    }
}

/// How many were answered as recorded across shards, as recorded in one that is not the home, and as a conflict.
fn run(seed: u64, bug: Option<Bug>) -> std::result::Result<[usize; 3], String> {
    let mut world = World::new(seed, bug);
    for _ in 0..300 {
        world.step();
        world.check()?;
    }
    world.settle()?;
    world.check()?;
    world.check_end()?;
    let is_recorded = |caller: &&Caller| matches!(caller.outcome, Some(Ok(ShardsReply::Recorded { .. })));
    let is_conflict = |caller: &&Caller| matches!(caller.outcome, Some(Ok(ShardsReply::Conflict(_))));
    let is_claimed = |caller: &&Caller| {
        let is_recorded = matches!(caller.outcome, Some(Ok(ShardsReply::Within { reply: Reply::Recorded(_), .. })));
        is_recorded && world.claim_of(caller.id).is_some()
    };
    let callers = || world.callers.iter();
    Ok([
        callers().filter(is_recorded).count(),
        callers().filter(is_claimed).count(),
        callers().filter(is_conflict).count(),
    ])
}

#[test]
fn all_or_nothing_whatever_is_lost() {
    const { assert!(ATTEMPTS < ATTEMPTS_MAX) };
    let mut counts = [0; 3];
    for seed in 0..SEEDS {
        let more = run(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        counts = std::array::from_fn(|at| counts[at] + more[at]);
    }
    let [recorded, claimed, conflicts] = counts;
    let seeds = usize::try_from(SEEDS).unwrap();
    let are_many = recorded > 2 * seeds && claimed > seeds / 4 && conflicts > seeds / 20;
    assert!(are_many, "only {recorded} were recorded, {claimed} claimed, {conflicts} conflicts");
}

#[test]
fn each_mistake_is_seen() {
    for bug in Bug::ALL {
        let caught = (0..BUG_SEEDS).find_map(|seed| run(seed, Some(bug)).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} went unseen for {BUG_SEEDS} seeds"));
        println!("{bug:?} is caught by seed {seed}: {what}");
    }
}

#[test]
fn a_rejection_says_what_one_log_would_say() {
    let mut world = World::new(1, None);
    let (a, b) = (account(0, 0, 2), account(1, 0, 2));
    let too_much = Transaction::transfer(TransactionId(1), currencies()[0], 130, a, b);
    let Ok(Split::Across(parts)) = split(layout(), &too_much) else { panic!("it lies across") };
    let crossing = Crossing::new(&too_much, parts, false, world.now(), HOLD_US, None);
    world.callers.push(Caller::new(too_much.id, too_much, Call::Across(Box::new(crossing))));
    world.drive(0);
    while world.callers[0].call.is_some() {
        world.deliver(true);
        world.look(0);
    }
    let outcome = world.callers[0].outcome.take().unwrap().unwrap();
    let expected = Rejection::InsufficientFunds { account: b, shortfall: 30 };
    assert_eq!(outcome, ShardsReply::Rejected(Box::new(expected)));
    assert!(world.books.iter().all(|books| books.holds_len() == 0));
}
