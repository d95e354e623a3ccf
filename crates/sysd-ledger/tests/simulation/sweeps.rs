//! One fault at every storage call of a ledger's life: a crash after it, its reply lost, itself refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::Timestamp;
use sysd_ledger::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Books, Command, Currency, Details, Posting, Reply, Rest,
    Side, Transaction, TransactionId,
};
use sysd_storage::ReplicaConfig;
use sysd_testkit::sim::{Fault, Node, SimStore, Simulation, SkewedClock, sweep};

use crate::check::{check, history, reader};
use crate::machine;
use crate::record::Record;
use crate::scenario::{Audited, Bugs, Opened, SEGMENT_ENTRIES, config, open, wait};

const FIRST: Node = Node(0);
const SECOND: Node = Node(1);
const BANK: AccountId = AccountId(1);
const ANN: AccountId = AccountId(2);
const BEN: AccountId = AccountId(3);
/// Six of them fill a chunk of the journal.
const MEMO_BYTES: usize = 7_000;

/// All that is asked in that life, in order. What is asked again in the end is answered as it was.
fn commands() -> Vec<Command> {
    let euro = Currency::iso("EUR").unwrap();
    let transfer = |id, amount, credit, debit| {
        let mut transfer = Transaction::transfer(TransactionId(id), euro, amount, credit, debit);
        transfer.details = Some(Box::new(Details::new("x".repeat(MEMO_BYTES), Vec::new()).unwrap()));
        transfer
    };
    let wallet = |id| Command::Open(Box::new(Account::new(id, euro, AccountKind::Liability).limited()));
    let part = [(ANN, Side::Debit), (BEN, Side::Credit)];
    let part = part.map(|(account, side)| Posting { account, amount: 25, currency: euro, side });
    let mut part = Transaction::new(TransactionId(3), part);
    part.action = Action::PostHeld { hold: TransactionId(2), rest: Rest::Keep };
    let reversal = Transaction { reverses: Some(TransactionId(5)), ..transfer(8, 10, ANN, BEN) };
    vec![
        Command::Open(Box::new(Account::new(BANK, euro, AccountKind::Asset))),
        wallet(ANN),
        wallet(BEN),
        Command::Transact(transfer(1, 100, ANN, BANK)),
        Command::Transact(transfer(2, 60, BEN, ANN).held_until(None)),
        // So much is never there.
        Command::Transact(transfer(9, 1_000, BEN, ANN)),
        Command::Transact(part),
        Command::Group(vec![transfer(5, 10, BEN, ANN), transfer(6, 20, ANN, BANK)]),
        Command::Transact(Transaction::void(TransactionId(7), TransactionId(2))),
        Command::Transact(reversal),
        Command::Batch(Arc::new(vec![
            transfer(10, 1, BEN, ANN),
            transfer(11, 1_000, BEN, ANN),
            transfer(12, 2, BEN, ANN),
        ])),
        // The first answer of one is read in the journal, the other is new.
        Command::Batch(Arc::new(vec![transfer(10, 1, BEN, ANN), transfer(13, 1, BEN, ANN)])),
        Command::Update(BEN, AccountUpdate::Freeze),
    ]
}

/// How books stand: their accounts, and the numbers of what they recorded.
fn standing(books: &Books) -> String {
    let numbers: Vec<_> = (1..=13).map(|id| books.number(TransactionId(id))).collect();
    format!("{:?} {numbers:?}", books.accounts().collect::<Vec<_>>())
}

/// How they stand when all was done once.
fn expected() -> String {
    let mut books = Books::default();
    for command in commands() {
        let reply = books.apply(Timestamp::UNIX_EPOCH, &command);
        let is_refused = matches!(&command, Command::Transact(one) if one.id == TransactionId(9));
        assert_eq!(matches!(reply, Reply::Rejected(_)), is_refused, "{command:?}: {reply:?}");
    }
    standing(&books)
}

async fn opened(simulation: &Simulation, node: Node, record: &Record) -> Opened<SimStore> {
    loop {
        let clock = SkewedClock::new(simulation.clock(), Duration::ZERO);
        let config = config(simulation, clock, Bugs::default());
        match open(simulation, node, simulation.store(node), config, record).await {
            Ok(opened) => return opened,
            Err(_) => wait(simulation, Duration::from_millis(1)).await,
        }
    }
}

/// Asks all, each until it is answered.
async fn ask_all(simulation: &Simulation, opened: &Opened<SimStore>, record: &Record) {
    for (at, command) in commands().into_iter().enumerate() {
        while opened.ask(record, command.clone()).await.is_err() {
            wait(simulation, Duration::from_millis(1)).await;
        }
        match at {
            5 | 9 => drop(opened.replica.snapshot().await),
            7 => drop(opened.look(record).await),
            8 => drop(opened.audit(record).await),
            _ => {}
        }
    }
    drop(opened.ledger.write_journal().await);
    opened.audit(record).await;
}

fn scenario(simulation: &Simulation, fault: Fault) -> Result<u64, String> {
    machine::set_bug(None);
    let record = Record::default();
    let run_for = |time_ms| simulation.run_for(Duration::from_millis(time_ms)).map_err(|error| error.to_string());
    simulation.set_fault(FIRST, fault);
    let is_done = Arc::new(Mutex::new(false));
    let (sim, seen, done) = (simulation.clone(), record.clone(), Arc::clone(&is_done));
    simulation.spawn(FIRST, async move {
        let opened = opened(&sim, FIRST, &seen).await;
        ask_all(&sim, &opened, &seen).await;
        *done.lock().unwrap() = true;
    });
    run_for(300)?;
    let calls = simulation.calls(FIRST);
    let is_crash = matches!(fault, Fault::CrashAfterCall(at) if at <= calls);
    if !is_crash && !*is_done.lock().unwrap() {
        return Err("not everything was answered".to_owned());
    }
    simulation.crash(FIRST);
    let last = Arc::new(Mutex::new(None));
    let (sim, seen, sink) = (simulation.clone(), record.clone(), Arc::clone(&last));
    simulation.spawn(SECOND, async move {
        let opened = opened(&sim, SECOND, &seen).await;
        ask_all(&sim, &opened, &seen).await;
        let written = opened.replica.read(|kept| kept.books.journal_written().0);
        drop(opened.look(&seen).await);
        *sink.lock().unwrap() = Some((opened.ledger.read(standing).await, opened.audit(&seen).await, written));
    });
    run_for(500)?;
    let Some((Ok(standing), Some(Audited { entries, .. }), written)) = last.lock().unwrap().take() else {
        return Err("nobody could go on".to_owned());
    };
    if standing != expected() {
        return Err(format!("the books stand so:\n{standing}\nexpected was:\n{}", expected()));
    }
    if written == 0 || written > entries {
        return Err(format!("the store has {written} of {entries} entries of the journal"));
    }
    let config = ReplicaConfig { segment_entries: SEGMENT_ENTRIES, ..reader(simulation.clock()) };
    let history = history(simulation.truth(), config)?;
    record.with(|seen, _| check(seen, &history)).map(|_| calls)
}

#[test]
fn every_fault_at_every_storage_call() {
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    println!("{runs} runs");
    // Three faults, and some forty calls in that life.
    assert!(runs > 100, "only {runs} runs");
}
