//! Ids that have left memory, many at once: as large a command as the log takes is answered whatever the store has to say of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_core::{Effect, ErrorKind};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Currency, Details, JournalConfig, Ledger, Receipt, Reply, Transaction,
    TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

type OnMemory = Ledger<Replica<Books>, Memory>;

async fn open() -> OnMemory {
    let store = Memory::new();
    let (replica, driver) = Replica::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let config = JournalConfig { ids_in_memory: 0, ..JournalConfig::default() };
    let (ledger, _writer) = Ledger::that_may_forget(replica, store, "books", config).unwrap();
    for id in 0..2 {
        let euro = Currency::iso("EUR").unwrap();
        ledger.open_account(Account::new(AccountId(id), euro, AccountKind::Liability)).await.unwrap();
    }
    ledger
}

fn transfer(id: u128) -> Transaction {
    let euro = Currency::iso("EUR").unwrap();
    // As random as ids are that don't say when they were minted: none of them is a UUID of version 7.
    let id = TransactionId(id.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) & !(0xF << 76));
    Transaction::transfer(id, euro, 1, AccountId(0), AccountId(1))
}

/// Takes that back.
fn reversal(at: u128) -> Transaction {
    let (original, mut reversal) = (transfer(at), transfer(1 << 60 | at));
    reversal.postings.iter_mut().for_each(|posting| posting.account = AccountId(1 - posting.account.0));
    Transaction { reverses: Some(original.id), ..reversal }
}

fn with_memo(mut all: Vec<Transaction>, memo_bytes: usize) -> Vec<Transaction> {
    for transaction in &mut all {
        transaction.details = Some(Box::new(Details::new("x".repeat(memo_bytes), Vec::new()).unwrap()));
    }
    all
}

/// The most that one command holds, to a hundred.
async fn largest(ledger: &OnMemory) -> u128 {
    for count in (100..200_u128).rev() {
        let batch = (0..count * 100).map(transfer).collect();
        match ledger.transact_each(batch).await {
            Ok(_) => return count * 100,
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}"),
        }
    }
    panic!("no batch is small enough");
}

fn receipts(replies: Vec<Reply>) -> Vec<Receipt> {
    let receipt = |reply| match reply {
        Reply::Recorded(receipt) => receipt,
        other => panic!("{other:?}"),
    };
    replies.into_iter().map(receipt).collect()
}

/// Lets the ids of all transactions so far leave memory; `from`: those that come besides.
async fn all_leave(ledger: &OnMemory, from: u128) {
    let last = ledger.read(Books::journal_len).await.unwrap();
    let mut next = from;
    while ledger.read(Books::ids_forgotten).await.unwrap() < last {
        let batch = (next..next + 8_192).map(transfer).collect();
        receipts(ledger.transact_each(batch).await.unwrap());
        ledger.write_journal().await.unwrap();
        next += 8_192;
    }
}

#[tokio::test]
async fn the_largest_batch_of_old_ids_is_answered_as_the_first_time() {
    let ledger = open().await;
    let count = largest(&ledger).await;
    let batch: Vec<_> = (0..count).map(transfer).collect();
    let first = receipts(ledger.transact_each(batch.clone()).await.unwrap());
    assert!(count > 10_000 && first.iter().zip(1..).all(|(receipt, number)| receipt.number == number));
    all_leave(&ledger, 1 << 40).await;
    assert_eq!(receipts(ledger.transact_each(batch).await.unwrap()), first);
}

/// Nothing is known of ids that say nothing but what the store says: that they are not there. So the batch is asked for twice.
#[tokio::test]
async fn the_largest_batch_of_new_ids_is_recorded_in_order_though_old_ones_left() {
    let ledger = open().await;
    let count = largest(&ledger).await;
    all_leave(&ledger, 1 << 40).await;
    let before = ledger.read(Books::journal_len).await.unwrap();
    let batch: Vec<_> = (1 << 50..(1 << 50) + count).map(transfer).collect();
    let receipts = receipts(ledger.transact_each(batch).await.unwrap());
    assert!(receipts.iter().zip(before + 1..).all(|(receipt, number)| receipt.number == number));
    assert_eq!(receipts.len() as u128, count);
    ledger.verify().await.unwrap();
}

/// All of them reverse something old, so that more is to be said of them than of those that they reverse.
#[tokio::test]
async fn the_largest_batch_of_reversals_of_what_is_old_is_recorded_once() {
    let ledger = open().await;
    let count = largest(&ledger).await * 3 / 4;
    all_leave(&ledger, 1 << 40).await;
    let batch: Vec<_> = (0..count).map(reversal).collect();
    let first = receipts(ledger.transact_each(batch.clone()).await.unwrap());
    assert_eq!(receipts(ledger.transact_each(batch).await.unwrap()), first);
    // It is known in memory, and when it has left it.
    let reversed_by = async || ledger.reversed_by(transfer(7).id).await.unwrap();
    assert_eq!(reversed_by().await, Some(first[7].number));
    all_leave(&ledger, 2 << 40).await;
    assert_eq!(ledger.read(|books| books.reversed_by(transfer(7).id)).await.unwrap(), None);
    assert_eq!(reversed_by().await, Some(first[7].number));
    assert_eq!(ledger.reversed_by(reversal(7).id).await.unwrap(), None);
    ledger.verify().await.unwrap();
}

#[tokio::test]
async fn the_largest_group_of_old_ids_is_answered_as_the_first_time() {
    let ledger = open().await;
    let group = |memo_bytes: usize| with_memo((0..1_000).map(transfer).collect(), memo_bytes);
    let (mut first, mut bytes) = (None, 1_200);
    while first.is_none() {
        bytes -= 10;
        match ledger.transact_all(group(bytes)).await {
            Ok(reply) => first = Some(reply),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}"),
        }
    }
    assert!(matches!(&first, Some(Reply::GroupRecorded(receipts)) if receipts.len() == 1_000), "{first:?}");
    all_leave(&ledger, 1 << 40).await;
    assert_eq!(Some(ledger.transact_all(group(bytes)).await.unwrap()), first);
    // One of them is another: that is told, and which.
    let mut other = group(bytes);
    other[700].details = None;
    let reply = ledger.transact_all(other.clone()).await.unwrap();
    assert!(matches!(&reply, Reply::Conflict(conflict) if conflict.asked == other[700]), "{reply:?}");
}

/// Those whose ids say nothing are looked up in vain; nothing of that is sent.
#[tokio::test]
async fn the_largest_group_of_new_ids_is_recorded_though_old_ones_left() {
    let ledger = open().await;
    receipts(ledger.transact_each((0..1_000).map(transfer).collect()).await.unwrap());
    all_leave(&ledger, 1 << 40).await;
    let before = ledger.read(Books::journal_len).await.unwrap();
    let group = |memo_bytes: usize| with_memo((1 << 50..(1 << 50) + 1_000).map(transfer).collect(), memo_bytes);
    let mut bytes = 1_200;
    let receipts = loop {
        bytes -= 1;
        match ledger.transact_all(group(bytes)).await {
            Ok(Reply::GroupRecorded(receipts)) => break receipts,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}"),
        }
    };
    // With no more than the size of the group itself.
    assert!(1_000 * bytes > (1 << 20) - 70_000, "{bytes}");
    assert!(receipts.iter().zip(before + 1..).all(|(receipt, number)| receipt.number == number));
}

/// What is known of them needs room: of each its id and its number.
#[tokio::test]
async fn a_group_of_reversals_of_what_is_old_needs_room_for_their_numbers() {
    let ledger = open().await;
    let of_old = |memo_bytes: usize| with_memo((0..1_000).map(reversal).collect(), memo_bytes);
    // Before their time they are of unknown transactions: rejected, if they are as much as the log takes.
    let mut bytes = 1_200;
    loop {
        bytes -= 1;
        match ledger.transact_all(of_old(bytes)).await {
            Ok(reply) => break assert!(matches!(reply, Reply::Rejected(_)), "{reply:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}"),
        }
    }
    receipts(ledger.transact_each((0..1_000).map(transfer).collect()).await.unwrap());
    all_leave(&ledger, 1 << 40).await;
    let before = ledger.read(Books::journal_len).await.unwrap();
    for _ in 0..2 {
        let error = ledger.transact_all(of_old(bytes)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    }
    assert_eq!(ledger.read(Books::journal_len).await.unwrap(), before);
    // 26 bytes of each are enough.
    let group = of_old(bytes - 26);
    let first = ledger.transact_all(group.clone()).await.unwrap();
    let Reply::GroupRecorded(receipts) = &first else { panic!("{first:?}") };
    assert!(receipts.iter().zip(before + 1..).all(|(receipt, number)| receipt.number == number));
    assert_eq!(ledger.transact_all(group).await.unwrap(), first);
    ledger.verify().await.unwrap();
}

/// Some are in memory, some were when the books were asked, and some have left: each is answered as the first time.
#[tokio::test]
async fn a_group_that_was_recorded_is_answered_wherever_its_ids_are() {
    let ledger = open().await;
    let old = receipts(ledger.transact_each((0..10).map(transfer).collect()).await.unwrap());
    all_leave(&ledger, 1 << 40).await;
    let new = receipts(ledger.transact_each((1 << 50..(1 << 50) + 10).map(transfer).collect()).await.unwrap());
    let group = (0..10).flat_map(|at| [transfer(at), transfer(1 << 50 | at)]).collect::<Vec<_>>();
    let expected: Vec<_> = old.into_iter().zip(new).flat_map(|(old, new)| [old, new]).collect();
    assert_eq!(ledger.transact_all(group).await.unwrap(), Reply::GroupRecorded(expected.clone()));
    let in_memory = (0..10).map(|at| transfer(1 << 50 | at)).collect();
    let of_those = expected.into_iter().skip(1).step_by(2).collect();
    assert_eq!(ledger.transact_all(in_memory).await.unwrap(), Reply::GroupRecorded(of_those));
}
