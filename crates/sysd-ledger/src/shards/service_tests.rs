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
const BESIDE: AccountId = ShardId(0).place(2);
const TO: [AccountId; 2] = [ShardId(1).place(1), ShardId(1).place(2)];

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

/// At home in the first shard.
const fn id(id: u128) -> TransactionId {
    ShardId(0).place_id(id << 16)
}

async fn two(recover_parts_max: usize) -> OnMemory {
    two_on(&Memory::new(), recover_parts_max, JournalConfig::default()).await
}

async fn two_on(store: &Memory, recover_parts_max: usize, journal: JournalConfig) -> OnMemory {
    let mut ledgers = Vec::new();
    for name in ["books-0", "books-1"] {
        let (replica, driver) = Replica::open(store.clone(), name, ReplicaConfig::default()).await.unwrap();
        tokio::spawn(driver);
        ledgers.push(Ledger::that_may_forget(replica, store.clone(), name, journal.clone()).unwrap().0);
    }
    let config = ShardsConfig {
        placement: Placement::Named,
        ids: Placement::Named,
        recover_parts_max,
        ..ShardsConfig::new("bank")
    };
    let (shards, _recovery) = Shards::open(ledgers, config).await.unwrap();
    for account in [FROM, BESIDE, TO[0], TO[1]] {
        shards.open_account(Account::new(account, euro(), AccountKind::Liability)).await.unwrap();
    }
    shards
}

/// Asks as [`Shards::transact`] does, until the coordinator has posted its part.
async fn decide_and_disappear(shards: &OnMemory, transaction: &Transaction) {
    go_until(shards, transaction, |is_coordinator| !is_coordinator).await;
}

/// Asks as [`Shards::transact`] does, until all is held. Answers the others' holds.
async fn hold_and_disappear(shards: &OnMemory, transaction: &Transaction) -> Vec<TransactionId> {
    go_until(shards, transaction, |is_coordinator| is_coordinator).await
}

/// Asks until posts are to be asked for, of the coordinator or of others. Answers the ids of what the others were asked for by then.
async fn go_until(shards: &OnMemory, transaction: &Transaction, of: impl Fn(bool) -> bool) -> Vec<TransactionId> {
    let Inner { layout, config, .. } = &*shards.inner;
    let Ok(Split::Across(parts)) = split(*layout, transaction) else { panic!("it lies across") };
    let coordinator = parts[0].shard;
    let hold_us = u64::try_from(config.hold_for.as_micros()).unwrap();
    let mut crossing = Crossing::new(transaction, parts, false, config.clock.now(), hold_us, None);
    let mut theirs = Vec::new();
    let posts = |command: &Command| matches!(command, Command::Transact(transaction) if matches!(transaction.action, Action::PostHeld { .. }));
    loop {
        let Todo::Ask(asks) = crossing.todo() else { panic!("it is not decided yet") };
        if asks.iter().all(|(shard, command)| of(*shard == coordinator) && posts(command)) {
            return theirs;
        }
        theirs.extend(asks.iter().filter_map(|(shard, command)| match command {
            Command::Transact(asked) if *shard != coordinator => Some(asked.id),
            _ => None,
        }));
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

/// What is not in memory may have been recorded: who takes it for new voids what was decided.
#[tokio::test]
async fn parts_are_settled_though_the_ids_have_left_memory() {
    let journal = JournalConfig { ids_in_memory: 0, ..JournalConfig::default() };
    let shards = two_on(&Memory::new(), 10, journal).await;
    decide_and_disappear(&shards, &Transaction::transfer(id(1), euro(), 5, TO[0], FROM)).await;
    hold_and_disappear(&shards, &Transaction::transfer(id(2), euro(), 7, TO[1], FROM)).await;
    let home = &shards.ledgers()[0];
    // The coordinator's hold of the second is over: somebody else gave up.
    let hold = home.read(|books| books.holds_of(|_| true)[0].id).await.unwrap();
    home.transact(Transaction::void(TransactionId(1 << 90), hold)).await.unwrap();
    let mut next = 1 << 80;
    while home.read(Books::ids_forgotten).await.unwrap() < 4 {
        let many = (next..next + 1_000).map(|at| Transaction::transfer(TransactionId(at), euro(), 1, FROM, BESIDE));
        home.transact_each(many.collect()).await.unwrap();
        home.write_journal().await.unwrap();
        next += 1_000;
    }
    let found = shards.recover().await;
    assert_eq!((found.posted, found.voided, found.errors.len()), (1, 1, 0), "{found:?}");
    assert!(shards.recover().await.is_clear());
    assert_eq!(shards.transaction(id(1)).await.unwrap().unwrap().in_transit, []);
    assert_eq!(shards.transaction(id(2)).await.unwrap(), None);
    assert_eq!(shards.verify().await.unwrap().unwrap().in_transit[&euro()], 0);
}

#[tokio::test]
async fn a_part_whose_entry_is_unreadable_keeps_no_others() {
    use sysd_core::StoreExt as _;

    let store = Memory::new();
    let shards = two_on(&store, 1_000, JournalConfig::default()).await;
    decide_and_disappear(&shards, &Transaction::transfer(id(1), euro(), 5, TO[0], FROM)).await;
    let many = (10..3_000).map(|at| Transaction::transfer(id(at), euro(), 1, FROM, BESIDE)).collect();
    shards.ledgers()[0].transact_each(many).await.unwrap();
    shards.ledgers()[0].write_journal().await.unwrap();
    let first = crate::schema::journal::Schema::new("books-0").unwrap().chunk(1);
    store.put(first.key(), "something else").await.unwrap();
    for which in [2, 3] {
        decide_and_disappear(&shards, &Transaction::transfer(id(which), euro(), 5, TO[0], FROM)).await;
    }
    for posted in [2, 0] {
        let found = shards.recover().await;
        let errors: Vec<_> = found.errors.iter().map(|(shard, error)| (*shard, error.kind())).collect();
        assert_eq!((found.posted, &errors[..]), (posted, &[(ShardId(0), ErrorKind::Corrupt)][..]), "{found:?}");
    }
}

/// One that holds a part open, and one that would post it before it is decided.
#[tokio::test]
async fn what_shards_hold_is_not_for_others_to_end() {
    let shards = two(10).await;
    let asked = hold_and_disappear(&shards, &Transaction::transfer(id(1), euro(), 5, TO[0], FROM)).await;
    let hold = *asked.last().unwrap();
    let before = shards.verify().await.unwrap().unwrap();
    let other = ShardId(1).place_id(9 << 16);
    for asked in [Transaction::post_held(other, hold), Transaction::void(other, hold)] {
        let refused = ShardsReply::Refused(Refusal::OwnHold { hold });
        assert_eq!(shards.transact_in(ShardId(1), asked.clone()).await.unwrap(), refused);
        let beside = Transaction::transfer(ShardId(1).place_id(8 << 16), euro(), 1, TO[0], TO[1]);
        let within = Transaction { postings: beside.postings, ..asked };
        if matches!(within.action, Action::PostHeld { .. }) {
            assert_eq!(shards.transact(within).await.unwrap(), refused);
        }
    }
    assert_eq!(shards.verify().await.unwrap().unwrap(), before);
}

/// Of a day that was closed since: it is posted for the first open one.
#[tokio::test]
async fn a_part_of_a_closed_day_is_posted_for_the_next() {
    let shards = two(10).await;
    let of_day = Transaction::transfer(id(1), euro(), 5, TO[0], FROM);
    decide_and_disappear(&shards, &Transaction { effective: Some(Date(19_000)), ..of_day }).await;
    shards.close_period(Date(19_000)).await.unwrap();
    assert_eq!(shards.recover().await.posted, 1);
    let entry = shards.ledgers()[1].transaction(id(1)).await.unwrap().unwrap();
    assert_eq!(entry.effective(), Date(19_001));
}
