//! Ids leave memory while processes crash and calls are lost: what was recorded is never recorded again, and nothing is reversed
//! twice, however long ago.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::{Clock as _, ManualClock, Timestamp};
use sysd_ledger::logic::Bug;
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Command, Currency, Rejection, Reply, Transaction, TransactionId,
};
use sysd_storage::ReplicaConfig;
use sysd_testkit::Limited;
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation, SkewedClock};

use crate::machine;
use crate::record::Record;
use crate::scenario::{Bugs, Opened, config, open, wait};

/// So many ids as leave by two spans, 8,192 each, and some more that stay.
const BATCHES: usize = 34;
const BATCH: u128 = 512;
/// So many of what was asked before are asked again at once.
const AGAIN: usize = 16;
/// So many are asked for as a group, of which no more than one takes something back.
const GROUP: usize = 8;
/// How far ahead the clocks are, in milliseconds, by which one id in ten was minted: a day, ten years, a century.
const AHEAD_MS: [u128; 3] = [86_400_000, 315_576_000_000, 3_155_760_000_000];
/// What lies in one partition of the store's.
const VALUE_BYTES_MAX: usize = 1 << 20;

type OnNode = Opened<Limited<SimStore, ManualClock>>;

/// What one run shares.
#[derive(Clone)]
struct Shared {
    simulation: Simulation,
    record: Record,
    batches: Arc<Vec<Vec<Transaction>>>,
    /// How many batches were answered.
    done: Arc<Mutex<usize>>,
    /// The number of what was recorded, or of what came before it.
    answers: Arc<Mutex<BTreeMap<TransactionId, u64>>>,
    is_peace: Arc<AtomicBool>,
    /// How many groups were answered as recorded.
    groups: Arc<AtomicU64>,
}

fn batches(simulation: &Simulation, now: Timestamp) -> Vec<Vec<Transaction>> {
    let euro = Currency::iso("EUR").unwrap();
    let is_minted = simulation.chance(500);
    let id = |number: u128, rest: u128| {
        // A UUID of version 7, of about now or the far future; or one that says nothing.
        let ahead_ms = if number % 10 == 9 { AHEAD_MS[usize::try_from(number / 10 % 3).unwrap()] } else { 0 };
        let minted_ms = u128::from(now.as_micros() / 1_000) + ahead_ms + number / 64;
        let id = if is_minted { minted_ms << 80 | 7 << 76 | 0b10 << 62 | number } else { rest << 64 | number };
        TransactionId(id)
    };
    let mut all = Vec::<Vec<Transaction>>::new();
    for batch in 0..BATCHES as u128 {
        let mut some = Vec::new();
        for number in batch * BATCH..(batch + 1) * BATCH {
            let mut transaction = Transaction::transfer(
                id(number, u128::from(simulation.below(u64::MAX))),
                euro,
                1,
                AccountId(number % 3),
                AccountId(3),
            );
            // Of what was recorded long ago; now and then of what was reversed before.
            if number % 32 == 7
                && let Some(old) = all.first()
            {
                transaction.reverses = Some(old[usize::try_from(number / 64 % BATCH).unwrap()].id);
            }
            some.push(transaction);
        }
        all.push(some);
    }
    all
}

impl Shared {
    fn store(&self, node: Node) -> Limited<SimStore, ManualClock> {
        let store = self.simulation.store(node).with_value_bytes_max(VALUE_BYTES_MAX).durable();
        Limited::new(store, self.simulation.clock())
    }

    fn config(&self, behind: Duration, bugs: Bugs) -> ReplicaConfig {
        let clock = SkewedClock::new(self.simulation.clock(), behind);
        ReplicaConfig {
            snapshot_log_bytes: Some(200_000),
            submit_wait_max: Duration::from_millis(60),
            segment_entries: 64,
            ..config(&self.simulation, clock, bugs)
        }
    }

    fn wrong(&self, what: String) {
        self.record.note(Err(what));
    }

    /// What was answered now is what was answered at first.
    fn check(&self, asked: &[Transaction], replies: &[Reply]) {
        for (transaction, reply) in asked.iter().zip(replies) {
            let number = match reply {
                Reply::Recorded(receipt) => receipt.number,
                // What is rejected is not recorded, and so rejected again.
                Reply::Rejected(why) => match **why {
                    Rejection::AlreadyReversed { by, .. } => u64::MAX - by,
                    _ => return self.wrong(format!("{}: {why}", transaction.id)),
                },
                other => return self.wrong(format!("{}: {other:?}", transaction.id)),
            };
            self.is_same(transaction.id, number);
        }
    }

    fn is_same(&self, id: TransactionId, number: u64) {
        let first = *self.answers.lock().unwrap().entry(id).or_insert(number);
        if first != number {
            self.wrong(format!("{id} was {first}, and is {number}"));
        }
    }

    /// Asks for some together. If all were recorded, in whatever way, they are answered as at first; else they are recorded now, or
    /// it is told which of them was recorded apart, or can't be.
    async fn ask_group(&self, opened: &OnNode, asked: &[Transaction]) -> bool {
        let before: Vec<_> = {
            let answers = self.answers.lock().unwrap();
            asked.iter().map(|transaction| answers.get(&transaction.id).copied()).collect()
        };
        let is_recorded = |number: &Option<u64>| number.is_some_and(|number| number <= u64::MAX / 2);
        let reply = match opened.ledger.transact_all(asked.to_vec()).await {
            Ok(reply) => reply,
            Err(error) => {
                self.record.note(crate::record::only_away(&error));
                return false;
            }
        };
        match &reply {
            Reply::GroupRecorded(receipts) if receipts.len() == asked.len() => {
                for (transaction, receipt) in asked.iter().zip(receipts) {
                    self.is_same(transaction.id, receipt.number);
                }
                self.groups.fetch_add(1, Ordering::Relaxed);
            }
            Reply::Rejected(why) if !before.iter().all(is_recorded) => match &**why {
                Rejection::InGroup { index, cause } => match **cause {
                    Rejection::Exists { id, number } if id == asked[*index].id => self.is_same(id, number),
                    Rejection::AlreadyReversed { by, .. } => self.is_same(asked[*index].id, u64::MAX - by),
                    _ => self.wrong(format!("a group: {why}")),
                },
                _ => self.wrong(format!("a group: {why}")),
            },
            other => self.wrong(format!("a group, of which {before:?} was known: {other:?}")),
        }
        true
    }

    /// Some that follow one another, of a batch.
    fn group_of<'a>(&self, batch: &'a [Transaction]) -> &'a [Transaction] {
        let at = usize::try_from(self.simulation.below((BATCH / GROUP as u128).try_into().unwrap())).unwrap();
        &batch[at * GROUP..(at + 1) * GROUP]
    }

    async fn ask(&self, opened: &OnNode, asked: &[Transaction]) -> bool {
        match opened.ledger.transact_each(asked.to_vec()).await {
            Ok(replies) => {
                self.check(asked, &replies);
                true
            }
            Err(error) => {
                self.record.note(crate::record::only_away(&error));
                false
            }
        }
    }

    /// Asks for all batches, one after the other, and now and then for something old.
    async fn work(self, node: Node, bugs: Bugs) {
        let opened = loop {
            match open(&self.simulation, node, self.store(node), self.config(Duration::ZERO, bugs), &self.record).await
            {
                Ok(opened) => break opened,
                Err(_) => wait(&self.simulation, Duration::from_millis(5)).await,
            }
        };
        loop {
            let at = *self.done.lock().unwrap();
            let Some(batch) = self.batches.get(at) else { return };
            if self.simulation.chance(300) {
                self.ask_group(&opened, self.group_of(batch)).await;
            }
            let mut is_done = self.ask(&opened, batch).await;
            if !is_done && self.is_peace.load(Ordering::Relaxed) {
                wait(&self.simulation, Duration::from_millis(5)).await;
            } else if !is_done {
                // It may be there; in parts it is answered though calls are lost.
                is_done = true;
                for some in batch.chunks(AGAIN) {
                    is_done = is_done && self.ask(&opened, some).await;
                }
            }
            if is_done {
                let mut done = self.done.lock().unwrap();
                *done = (*done).max(at + 1);
            }
            if self.simulation.chance(300) {
                let old = &self.batches[usize::try_from(self.simulation.below(at as u64 + 1)).unwrap()];
                let from = usize::try_from(self.simulation.below((old.len() - AGAIN) as u64)).unwrap();
                self.ask(&opened, &old[from..from + AGAIN]).await;
                self.ask_group(&opened, self.group_of(old)).await;
            }
        }
    }
}

/// How many ids had left memory in the end.
pub(crate) fn run(seed: u64, bugs: Bugs) -> Result<u64, String> {
    machine::set_bug(bugs.books);
    let simulation = Simulation::new(seed);
    let shared = Shared {
        batches: Arc::new(batches(&simulation, simulation.clock().now())),
        simulation: simulation.clone(),
        record: Record::default(),
        done: Arc::default(),
        answers: Arc::default(),
        is_peace: Arc::default(),
        groups: Arc::default(),
    };
    let run_for = |time: Duration| simulation.run_for(time).map_err(|error| error.to_string());
    let first = Node(8);
    let (all, euro) = (shared.clone(), Currency::iso("EUR").unwrap());
    simulation.spawn(first, async move {
        let config = all.config(Duration::ZERO, bugs);
        let Ok(opened) = open(&all.simulation, first, all.store(first), config, &all.record).await else { return };
        for id in 0..4 {
            let account = Account::new(AccountId(id), euro, AccountKind::Liability);
            let _ = opened.ledger.ask(Command::Open(Box::new(account))).await;
        }
    });
    run_for(Duration::from_millis(40))?;
    simulation.crash(first);

    let faults = Faults { late_max: Duration::from_millis(50), ..Faults::MANY };
    simulation.set_faults(faults);
    let nodes = [Node(0), Node(1)];
    let start = |node: Node| simulation.spawn(node, shared.clone().work(node, bugs));
    nodes.into_iter().for_each(start);
    for _ in 0..8 {
        run_for(Duration::from_micros(20_000 + simulation.below(100_000)))?;
        let node = nodes[usize::try_from(simulation.below(2)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.set_faults(Faults { late_max: Duration::from_millis(50), ..Faults::NONE });
    shared.is_peace.store(true, Ordering::Relaxed);
    for _ in 0..400 {
        if *shared.done.lock().unwrap() < BATCHES {
            run_for(Duration::from_millis(50))?;
        }
    }
    if *shared.done.lock().unwrap() < BATCHES {
        return Err(format!("in peace, {} of {BATCHES} batches were answered", shared.done.lock().unwrap()));
    }
    end(&shared, bugs)
}

/// Who opens the ledger now answers all of it as the first time, and proves it.
fn end(shared: &Shared, bugs: Bugs) -> Result<u64, String> {
    let (last, all) = (Node(9), shared.clone());
    let found = Arc::new(Mutex::new(None));
    let sink = Arc::clone(&found);
    shared.simulation.spawn(last, async move {
        let config = all.config(Duration::ZERO, bugs);
        let opened = match open(&all.simulation, last, all.store(last), config, &all.record).await {
            Ok(opened) => opened,
            Err(error) => return all.wrong(format!("in peace, it does not open: {error}")),
        };
        for batch in all.batches.iter() {
            while !all.ask(&opened, batch).await {}
            let group = all.group_of(batch);
            while !all.ask_group(&opened, group).await {}
        }
        while let Err(error) = opened.ledger.write_journal().await {
            all.record.note(crate::record::only_away(&error));
        }
        if let Err(error) = opened.ledger.verify().await {
            return all.wrong(error.to_string());
        }
        match opened.ledger.read(|books| (Books::journal_len(books), Books::ids_forgotten(books))).await {
            Ok(seen) => *sink.lock().unwrap() = Some(seen),
            Err(error) => all.wrong(error.to_string()),
        }
    });
    for _ in 0..400 {
        let is_over = found.lock().unwrap().is_some() || shared.record.with(|seen, _| seen.wrong.is_some());
        if !is_over {
            shared.simulation.run_for(Duration::from_millis(50)).map_err(|error| error.to_string())?;
        }
    }
    if let Some(what) = shared.record.with(|seen, _| seen.wrong.clone()) {
        return Err(what);
    }
    let groups = shared.groups.load(Ordering::Relaxed);
    if groups < BATCHES as u64 / 2 {
        return Err(format!("{groups} groups were answered"));
    }
    let Some((count, forgotten)) = *found.lock().unwrap() else { return Err("in peace, it does not end".to_owned()) };
    let answers = shared.answers.lock().unwrap();
    let recorded = answers.values().filter(|number| **number <= count).count() as u64;
    if recorded == count { Ok(forgotten) } else { Err(format!("{count} numbers for {recorded} transactions")) }
}

const SEEDS: u64 = 8;

#[test]
fn what_left_memory_is_never_recorded_again() {
    let one = crate::from_environment("SYSD_SIM_SEED");
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let left = Mutex::new(Vec::new());
    let run = |seed| run(seed, Bugs::default()).map(|forgotten| left.lock().unwrap().push(forgotten));
    if let Some((seed, what)) = crate::first_failure(seeds, run) {
        panic!(
            "seed {seed}: {what}\nagain: SYSD_SIM_SEED={seed} cargo test -p sysd-ledger --all-features --test simulation what_left"
        );
    }
    // Both spans, each time.
    let left = left.into_inner().unwrap();
    assert!(left.iter().all(|forgotten| *forgotten >= 16_384), "{left:?}");
}

#[test]
fn mistakes_with_what_left_memory_are_caught() {
    for bug in [Bug::ForgetOldIds, Bug::ForgetReversals] {
        let bugs = Bugs { books: Some(bug), log: None };
        let caught = crate::first_failure(0..SEEDS, |seed| run(seed, bugs).map(drop));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} went unseen for {SEEDS} seeds"));
        println!("{bug:?} is caught by seed {seed}: {what}");
    }
}
