//! The ledger on a store: what is answered stays, also for who opens it next.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_core::{ErrorKind, StateMachine as _};
use sysd_ledger::{
    Account, AccountId, AccountKind, Action, Balance, Books, Currency, Ledger, Rejection, Reply, Rest, Side,
    Transaction, TransactionId,
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

type OnMemory = Ledger<Replica<Books>>;

async fn open(store: &Memory) -> OnMemory {
    let (replica, driver) = Replica::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    Ledger::that_may_forget(replica)
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
    let (replica, _driver) = Replica::open(Memory::new(), "books", ReplicaConfig::default()).await.unwrap();
    let error = Ledger::new(replica).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("that_may_forget"), "{error}");
}

#[tokio::test]
async fn what_was_answered_is_there_for_who_opens_it_next() {
    let store = Memory::new();
    let ledger = funded(&store).await;
    let hold = transfer(2, 60, BEN, ANN).held_until(None);
    assert!(matches!(ledger.transact(hold).await.unwrap(), Reply::Recorded(_)));
    let snapshot = ledger.read_latest(encoded).await.unwrap();
    drop(ledger);

    let ledger = open(&store).await;
    assert_eq!(ledger.read_latest(encoded).await.unwrap(), snapshot);
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
    // The same id from both: one of them records it.
    let (one, other) = futures::join!(a.transact(transfer(7, 1, BEN, ANN)), b.transact(transfer(7, 1, BEN, ANN)));
    let recorded = [one.unwrap(), other.unwrap()].iter().filter(|reply| matches!(reply, Reply::Recorded(_))).count();
    assert_eq!(recorded, 1);
    let (at_a, at_b) = (a.account(BEN).await.unwrap().unwrap(), b.account(BEN).await.unwrap().unwrap());
    assert_eq!(at_a.balance.posted(Side::Credit), 1);
    assert_eq!(at_a, at_b);
    a.read_latest(|books| books.verify().map(|_| ())).await.unwrap().unwrap();
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
    let before = ledger.read_latest(encoded).await.unwrap();
    drop(ledger);

    let ledger = open(&store).await;
    assert_eq!(ledger.read_latest(encoded).await.unwrap(), before);
    assert!(matches!(ledger.transact(transfer(1, 100, ANN, BANK)).await.unwrap(), Reply::Exists { number: 1, .. }));
    reversal.id = TransactionId(5);
    let Reply::Rejected(why) = ledger.transact(reversal).await.unwrap() else { panic!("it was reversed") };
    assert!(matches!(*why, Rejection::AlreadyReversed { .. }), "{why}");
}
