//! What recovery does of callers that disappeared once it was decided.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_storage::{Memory, Replica, ReplicaConfig};

use super::*;
use crate::journal::JournalConfig;
use crate::model::{AccountKind, Action, JournalEntry, TransactionId};
use crate::shards::logic::Todo;
use crate::shards::{Placement, ShardsConflict};

type OnMemory = Shards<Replica<Books>, Memory>;

const FROM: AccountId = ShardId(0).place(1);
const TO: [AccountId; 2] = [ShardId(1).place(1), ShardId(1).place(2)];

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

/// At home in the first shard.
const fn id(id: u128) -> TransactionId {
    ShardId(0).place_id(id << 16)
}

async fn two(recover_parts_max: usize) -> OnMemory {
    let (store, mut ledgers) = (Memory::new(), Vec::new());
    for name in ["books-0", "books-1"] {
        let (replica, driver) = Replica::open(store.clone(), name, ReplicaConfig::default()).await.unwrap();
        tokio::spawn(driver);
        ledgers.push(Ledger::that_may_forget(replica, store.clone(), name, JournalConfig::default()).unwrap().0);
    }
    let config = ShardsConfig {
        placement: Placement::Named,
        ids: Placement::Named,
        recover_parts_max,
        ..ShardsConfig::new("bank")
    };
    let (shards, _recovery) = Shards::open(ledgers, config).await.unwrap();
    for account in [FROM, TO[0], TO[1]] {
        shards.open_account(Account::new(account, euro(), AccountKind::Liability)).await.unwrap();
    }
    shards
}

/// Asks as [`Shards::transact`] does, until the coordinator has posted its part.
async fn decide_and_disappear(shards: &OnMemory, transaction: &Transaction) {
    let Inner { layout, config, .. } = &*shards.inner;
    let Ok(Split::Across(parts)) = split(*layout, transaction) else { panic!("it lies across") };
    let coordinator = parts[0].shard;
    let hold_us = u64::try_from(config.hold_for.as_micros()).unwrap();
    let mut crossing = Crossing::new(transaction, parts, false, config.clock.now(), hold_us, None);
    let posts = |command: &Command| matches!(command, Command::Transact(transaction) if matches!(transaction.action, Action::PostHeld { .. }));
    loop {
        let Todo::Ask(asks) = crossing.todo() else { panic!("it is not decided yet") };
        if asks.iter().all(|(shard, command)| *shard != coordinator && posts(command)) {
            return;
        }
        crossing.told(join_all(asks.into_iter().map(|(shard, command)| shards.ask(shard, command))).await);
    }
}

#[tokio::test]
async fn what_recovery_posts_has_the_details() {
    let shards = two(10).await;
    let details = Details::new("rent", vec![("order".to_owned(), "7".to_owned())]).unwrap();
    let details = Some(Box::new(details));
    let transaction = Transaction { details: details.clone(), ..Transaction::transfer(id(1), euro(), 5, TO[0], FROM) };
    decide_and_disappear(&shards, &transaction).await;
    let found = async || shards.ledgers()[1].find_by_metadata("order", "7", 0, 10).await.unwrap();
    let actions = |entries: &[JournalEntry]| -> Vec<_> {
        let recorded = entries.iter().map(|entry| entry.transaction().unwrap());
        recorded
            .map(|recorded| (recorded.details.clone(), matches!(recorded.action, Action::PostHeld { .. })))
            .collect()
    };
    assert_eq!(actions(&found().await), [(details.clone(), false)]);
    assert_eq!(shards.recover().await.posted, 1);
    assert_eq!(actions(&found().await), [(details.clone(), false), (details, true)]);
    assert!(shards.recover().await.is_clear());
    // The caller's own post would have been the same, and comes too late.
    let again = shards.transact(transaction).await.unwrap();
    let is_first = |reply: &ShardsReply| matches!(reply, ShardsReply::Recorded { receipts, in_transit } if receipts.len() == 2 && in_transit.is_empty());
    assert!(is_first(&again), "{again:?}");
    assert_eq!(found().await.len(), 2);
}

/// What others left is not ended with what somebody else asks for under its id.
#[tokio::test]
async fn other_content_does_not_finish_what_was_decided() {
    let shards = two(10).await;
    let transaction = Transaction::transfer(id(1), euro(), 5, TO[0], FROM);
    decide_and_disappear(&shards, &transaction).await;
    let details = Details::new("something else", Vec::new()).unwrap();
    let other = Transaction { details: Some(Box::new(details)), ..transaction.clone() };
    let conflict = ShardsConflict { recorded: transaction.clone(), asked: other.clone() };
    assert_eq!(shards.transact(other.clone()).await.unwrap(), ShardsReply::Conflict(Box::new(conflict.clone())));
    assert!(shards.ledgers()[1].entries(0, 10).await.unwrap().iter().all(|entry| {
        let Some(recorded) = entry.transaction() else { return true };
        recorded.details.is_none() && !matches!(recorded.action, Action::PostHeld { .. })
    }));
    // The same content is.
    let again = shards.transact(transaction).await.unwrap();
    assert!(matches!(&again, ShardsReply::Recorded { receipts, .. } if receipts.len() == 2), "{again:?}");
    assert!(shards.recover().await.is_clear());
    assert_eq!(shards.transact(other).await.unwrap(), ShardsReply::Conflict(Box::new(conflict)));
}

#[tokio::test]
async fn parts_behind_blocked_ones_are_reached() {
    let shards = two(1).await;
    for (which, to) in [(1, TO[1]), (2, TO[1]), (3, TO[0])] {
        decide_and_disappear(&shards, &Transaction::transfer(id(which), euro(), 5, to, FROM)).await;
    }
    shards.update_account(TO[1], AccountUpdate::Freeze).await.unwrap();
    let look = async || {
        let found = shards.recover().await;
        (found.posted, found.blocked.len())
    };
    for expected in [(0, 1), (0, 1), (1, 0)] {
        assert_eq!(look().await, expected);
    }
    // Those that were blocked have their turn again.
    assert_eq!(look().await, (0, 1));
    shards.update_account(TO[1], AccountUpdate::Unfreeze).await.unwrap();
    assert_eq!((look().await, look().await), ((1, 0), (1, 0)));
    assert!(shards.recover().await.is_clear());
}
