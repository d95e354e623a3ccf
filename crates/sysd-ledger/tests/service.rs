//! The ledger on a store: what is answered stays, also for who opens it next.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_core::{ErrorKind, StateMachine as _};
use sysd_ledger::{
    Account, AccountId, AccountKind, Action, Balance, Books, Currency, JournalConfig, Ledger, Rejection, Reply, Rest,
    Side, Transaction, TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

const BANK: AccountId = AccountId(1);
const ANN: AccountId = AccountId(2);
const BEN: AccountId = AccountId(3);

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

fn transfer(id: u128, amount: u128, credit: AccountId, debit: AccountId) -> Transaction {
    Transaction::transfer(TransactionId(id), euro(), amount, credit, debit)
}

type OnMemory = Ledger<Replica<Books>, Memory>;

async fn open(store: &Memory) -> OnMemory {
    let (replica, driver) = Replica::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let made = Ledger::that_may_forget(replica, store.clone(), "books", JournalConfig::default());
    let (ledger, writer) = made.unwrap();
    tokio::spawn(writer);
    ledger
}

async fn funded(store: &Memory) -> OnMemory {
    let ledger = open(store).await;
    ledger.open_account(Account::new(BANK, euro(), AccountKind::Asset)).await.unwrap();
    for id in [ANN, BEN] {
        ledger.open_account(Account::new(id, euro(), AccountKind::Liability).limited()).await.unwrap();
    }
    assert!(matches!(ledger.transact(transfer(1, 100, ANN, BANK)).await.unwrap(), Reply::Recorded(_)));
    ledger
}

#[tokio::test]
async fn a_store_that_may_forget_is_refused_unless_it_is_wanted() {
    let store = Memory::new();
    let (replica, _driver) = Replica::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    let error = Ledger::new(replica, store, "books", JournalConfig::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("that_may_forget"), "{error}");
}

#[tokio::test]
async fn what_was_answered_is_there_for_who_opens_it_next() {
    let store = Memory::new();
    let ledger = funded(&store).await;
    let hold = transfer(2, 60, BEN, ANN).held_until(None);
    assert!(matches!(ledger.transact(hold).await.unwrap(), Reply::Recorded(_)));
    let snapshot = ledger.read(encoded).await.unwrap();
    drop(ledger);

    let ledger = open(&store).await;
    assert_eq!(ledger.read(encoded).await.unwrap(), snapshot);
    // Only 40 are free.
    let Reply::Rejected(why) = ledger.transact(transfer(3, 50, BEN, ANN)).await.unwrap() else { panic!("it is held") };
    assert_eq!(*why, Rejection::InsufficientFunds { account: ANN, shortfall: 10 });
    let part = Transaction {
        action: Action::PostHeld { hold: TransactionId(2), rest: Rest::Release },
        ..transfer(4, 25, BEN, ANN)
    };
    let Reply::Recorded(receipt) = ledger.transact(part).await.unwrap() else { panic!("a part of it is posted") };
    let balance = |debits_posted, credits_posted| Balance { debits_posted, credits_posted, ..Balance::default() };
    assert_eq!(receipt.balances.as_slice(), [(ANN, balance(25, 100)), (BEN, balance(0, 25))]);
    assert_eq!(receipt.number, 3);
}

fn encoded(books: &Books) -> Vec<u8> {
    let mut bytes = Vec::new();
    books.encode_snapshot(&mut bytes);
    bytes
}

#[tokio::test]
async fn two_writers_share_one_history() {
    let store = Memory::new();
    let (a, b) = (funded(&store).await, open(&store).await);
    // The same id from both: one of them records it, and both are answered the same.
    let (one, other) = futures::join!(a.transact(transfer(7, 1, BEN, ANN)), b.transact(transfer(7, 1, BEN, ANN)));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(matches!(&one, Reply::Recorded(receipt) if receipt.number == 2), "{one:?}");
    assert_eq!(one, other);
    let (at_a, at_b) = (a.account(BEN).await.unwrap().unwrap(), b.account(BEN).await.unwrap().unwrap());
    assert_eq!(at_a.balance.posted(Side::Credit), 1);
    assert_eq!(at_a, at_b);
    a.read(|books| books.verify().map(|_| ())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_snapshot_brings_all_of_it_back() {
    let store = Memory::new();
    let ledger = funded(&store).await;
    ledger.transact(transfer(2, 10, BEN, ANN).held_until(None)).await.unwrap();
    let mut reversal = transfer(3, 100, BANK, ANN);
    reversal.reverses = Some(TransactionId(1));
    // What is held can't be taken back.
    assert!(matches!(ledger.transact(reversal.clone()).await.unwrap(), Reply::Rejected(_)));
    ledger.transact(Transaction::void(TransactionId(4), TransactionId(2))).await.unwrap();
    assert!(matches!(ledger.transact(reversal.clone()).await.unwrap(), Reply::Recorded(_)));
    ledger.log().snapshot().await.unwrap();
    let before = ledger.read(encoded).await.unwrap();
    drop(ledger);

    let ledger = open(&store).await;
    assert_eq!(ledger.read(encoded).await.unwrap(), before);
    let again = ledger.transact(transfer(1, 100, ANN, BANK)).await.unwrap();
    assert!(matches!(&again, Reply::Recorded(receipt) if receipt.number == 1), "{again:?}");
    reversal.id = TransactionId(5);
    let Reply::Rejected(why) = ledger.transact(reversal).await.unwrap() else { panic!("it was reversed") };
    assert!(matches!(*why, Rejection::AlreadyReversed { .. }), "{why}");
}

/// What is taken back is what was posted, whatever was asked; what posted nothing can't be taken back so.
#[tokio::test]
async fn a_reversal_takes_back_what_was_posted() {
    let store = Memory::new();
    let ledger = funded(&store).await;
    let before = ledger.trial_balance().await.unwrap();
    let balances = async || {
        let mut all = Vec::new();
        for id in [BANK, ANN, BEN] {
            all.push(ledger.account(id).await.unwrap().unwrap().balance.posted(Side::Credit));
        }
        all
    };
    let start = balances().await;
    let part = Transaction {
        action: Action::PostHeld { hold: TransactionId(2), rest: Rest::Release },
        ..transfer(3, 25, BEN, ANN)
    };
    let up_to = Transaction { action: Action::PostUpTo, ..transfer(4, 1_000, BEN, ANN) };
    for asked in [transfer(2, 60, BEN, ANN).held_until(None), part, up_to] {
        assert!(matches!(ledger.transact(asked).await.unwrap(), Reply::Recorded(_)));
    }
    assert_eq!(balances().await, [-100, 0, 100]);
    let entry = async |id| ledger.transaction(TransactionId(id)).await.unwrap().unwrap();
    assert_eq!(Transaction::reversal_of(&entry(2).await, TransactionId(9)), None);
    for (of, id) in [(4, 10), (3, 11)] {
        let reversal = Transaction::reversal_of(&entry(of).await, TransactionId(id)).unwrap();
        assert_eq!(reversal.reverses, Some(TransactionId(of)));
        assert!(matches!(ledger.transact(reversal).await.unwrap(), Reply::Recorded(_)));
    }
    assert_eq!(balances().await, start);
    assert_ne!(ledger.trial_balance().await.unwrap(), before);
    // A reversal can be taken back, too.
    let again = Transaction::reversal_of(&entry(11).await, TransactionId(12)).unwrap();
    assert!(matches!(ledger.transact(again).await.unwrap(), Reply::Recorded(_)));
    ledger.verify().await.unwrap();
}
