//! Shards where callers err: shards and holds that are not theirs, ids that are taken, what can't be recorded; and ids that have left memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use sysd_core::ErrorKind;
use sysd_ledger::shards::{Placement, Refusal, ShardId, Shards, ShardsConfig, ShardsConflict, ShardsReply};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Currency, Date, Event, GROUP_MAX, JournalConfig, Ledger, Rejection, Reply,
    Side, Transaction, TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

type OnMemory = Shards<Replica<Books>, Memory>;

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

/// In each shard 1 and 2 without bounds, and 3, which has nothing.
async fn made(count: u16) -> OnMemory {
    let (store, mut all) = (Memory::new(), Vec::new());
    for at in 0..count {
        let name = format!("books-{at}");
        let (replica, driver) = Replica::open(store.clone(), &name, ReplicaConfig::default()).await.unwrap();
        tokio::spawn(driver);
        let config = JournalConfig { ids_in_memory: 0, ..JournalConfig::default() };
        all.push(Ledger::that_may_forget(replica, store.clone(), &name, config).unwrap().0);
    }
    let config = ShardsConfig { placement: Placement::Named, ids: Placement::Named, ..ShardsConfig::new("bank") };
    let (shards, _recovery) = Shards::open(all, config).await.unwrap();
    for shard in (0..count).map(ShardId) {
        for which in 1..4 {
            let account = Account::new(shard.place(which), euro(), AccountKind::Liability);
            shards.open_account(if which == 3 { account.limited() } else { account }).await.unwrap();
        }
    }
    shards
}

/// At home in that shard.
const fn id(home: u16, which: u128) -> TransactionId {
    ShardId(home).place_id(which << 16)
}

const fn account(shard: u16, which: u128) -> AccountId {
    ShardId(shard).place(which)
}

fn pay(id: TransactionId, to: AccountId, from: AccountId) -> Transaction {
    Transaction::transfer(id, euro(), 5, to, from)
}

/// As a conflict shows it: by its shards.
fn in_order(transaction: &Transaction) -> Transaction {
    let mut postings = transaction.postings.clone();
    postings.sort_by_key(|posting| posting.account);
    Transaction { postings, ..transaction.clone() }
}

async fn recorded(shards: &OnMemory) -> Vec<u64> {
    let mut all = Vec::new();
    for ledger in shards.ledgers() {
        all.push(ledger.read(Books::journal_len).await.unwrap());
    }
    all
}

fn is_within(reply: &ShardsReply) -> bool {
    matches!(reply, ShardsReply::Within { reply: Reply::Recorded(_), .. })
}

/// Lets all ids of a shard leave memory.
async fn ids_leave(shards: &OnMemory, shard: u16) {
    let ledger = &shards.ledgers()[usize::from(shard)];
    let last = ledger.read(Books::journal_len).await.unwrap();
    let mut next = 1 << 60 | u128::from(last) << 20;
    while ledger.read(Books::ids_forgotten).await.unwrap() < last {
        let many = (next..next + 1_000).map(|at| pay(TransactionId(at), account(shard, 1), account(shard, 2)));
        ledger.transact_each(many.collect()).await.unwrap();
        ledger.write_journal().await.unwrap();
        next += 1_000;
    }
}

#[tokio::test]
async fn a_shard_that_is_not_there_takes_no_id() {
    let shards = made(2).await;
    let error = shards.transact_in(ShardId(7), Transaction::void(id(0, 1), id(0, 99))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(recorded(&shards).await, [0, 0]);
    assert!(is_within(&shards.transact(pay(id(0, 1), account(1, 1), account(1, 2))).await.unwrap()));
}

/// Its home knows the id of what lies in another shard, and is asked to take back what it does not have.
#[tokio::test]
async fn what_lies_in_one_shard_is_reversed_there_alone() {
    let shards = made(3).await;
    let original = pay(id(0, 1), account(1, 1), account(1, 2));
    assert!(is_within(&shards.transact(original.clone()).await.unwrap()));
    let back = |which, shard| {
        let back = pay(id(shard, which), account(shard, 2), account(shard, 1));
        Transaction { reverses: Some(original.id), ..back }
    };
    for shard in [0, 2] {
        let reply = shards.transact(back(2, shard)).await.unwrap();
        assert_eq!(reply, ShardsReply::Refused(Refusal::Reversal));
    }
    assert!(is_within(&shards.transact(back(3, 1)).await.unwrap()));
    let again = shards.transact(back(4, 1)).await.unwrap();
    let ShardsReply::Within { reply: Reply::Rejected(why), .. } = &again else { panic!("{again:?}") };
    assert!(matches!(**why, Rejection::AlreadyReversed { .. }), "{why}");
}

#[tokio::test]
async fn what_is_rejected_anyhow_takes_no_id() {
    let shards = made(2).await;
    let (here, there) = (account(1, 1), account(1, 2));
    let too_many = u128::try_from(GROUP_MAX).unwrap() + 1;
    let group = (1..=too_many).map(|which| pay(id(0, which), here, there)).collect();
    let reply = shards.transact_all(group).await.unwrap();
    let ShardsReply::Within { reply: Reply::Rejected(why), .. } = &reply else { panic!("{reply:?}") };
    assert!(matches!(**why, Rejection::GroupCount { .. }), "{why}");
    let whole = pay(id(0, 1), here, there);
    let mut wrong = [whole.clone(), whole.clone(), whole.clone()];
    wrong[0].postings.truncate(1);
    wrong[1].postings[0].amount += 1;
    wrong[2].postings.iter_mut().for_each(|posting| posting.amount = 0);
    for wrong in wrong {
        let reply = shards.transact(wrong).await.unwrap();
        assert!(matches!(&reply, ShardsReply::Within { reply: Reply::Rejected(_), .. }), "{reply:?}");
    }
    let nothing = shards.transact_in(ShardId(1), Transaction::new(id(0, 1), [])).await.unwrap();
    assert!(matches!(&nothing, ShardsReply::Within { reply: Reply::Rejected(_), .. }), "{nothing:?}");
    assert_eq!(recorded(&shards).await, [0, 0]);
    assert!(is_within(&shards.transact(pay(id(0, 1), account(0, 1), account(0, 2))).await.unwrap()));
}

#[tokio::test]
async fn the_same_in_another_shard_is_where_it_is() {
    let shards = made(2).await;
    for shard in 0..2 {
        let held = pay(id(shard, 1), account(shard, 1), account(shard, 2)).held_until(None);
        assert!(is_within(&shards.transact(held).await.unwrap()));
    }
    let post = Transaction::post_held(id(0, 3), id(1, 1));
    assert!(is_within(&shards.transact_in(ShardId(1), post.clone()).await.unwrap()));
    let reply = shards.transact_in(ShardId(0), post.clone()).await.unwrap();
    assert_eq!(reply, ShardsReply::Refused(Refusal::Elsewhere { id: post.id, shard: ShardId(1) }));
}

/// In a closed period both are rejected; for an open day both are recorded.
#[tokio::test]
async fn a_claim_is_for_the_day_of_its_transaction() {
    let shards = made(2).await;
    let today = Date::of(sysd_core::Clock::now(&sysd_core::SystemClock));
    shards.close_period(Date(today.0 + 1)).await.unwrap();
    let transaction = pay(id(0, 1), account(1, 1), account(1, 2));
    let reply = shards.transact(transaction.clone()).await.unwrap();
    assert!(matches!(reply, ShardsReply::Rejected(_)), "{reply:?}");
    let in_group = shards.transact_all(vec![transaction.clone()]).await.unwrap();
    let ShardsReply::Rejected(why) = in_group else { panic!("{in_group:?}") };
    assert!(matches!(*why, Rejection::InGroup { index: 0, .. }), "{why}");
    assert_eq!(recorded(&shards).await, [0, 0]);
    let later = Transaction { effective: Some(Date(today.0 + 2)), ..transaction };
    assert!(is_within(&shards.transact(later).await.unwrap()));
    assert_eq!(recorded(&shards).await, [1, 1]);
}

/// Whether there are funds or not, and whether the process knows it or not.
#[tokio::test]
async fn an_id_that_has_left_memory_is_taken_all_the_same() {
    let shards = made(2).await;
    let first = pay(id(0, 1), account(0, 1), account(0, 2));
    assert!(is_within(&shards.transact(first.clone()).await.unwrap()));
    // The coordinator can't, another can't, all can.
    let asked =
        [(0, 3, 1), (1, 3, 0), (0, 2, 1)].map(|(from, which, to)| pay(id(0, 1), account(to, 1), account(from, which)));
    for _ in 0..2 {
        for asked in asked.clone() {
            let conflict = ShardsConflict { recorded: first.clone(), asked: in_order(&asked) };
            assert_eq!(shards.transact(asked).await.unwrap(), ShardsReply::Conflict(Box::new(conflict)));
        }
        ids_leave(&shards, 0).await;
    }
    // Nothing stays held.
    assert!(shards.recover().await.is_clear());
    for ledger in shards.ledgers() {
        assert_eq!(ledger.read(Books::holds_len).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_id_is_tried_so_often_and_no_more() {
    let shards = made(2).await;
    // The home has no bounds, the other has nothing.
    let poor = pay(id(0, 1), account(0, 1), account(1, 3));
    for _ in 0..64 {
        let reply = shards.transact(poor.clone()).await.unwrap();
        assert!(matches!(reply, ShardsReply::Rejected(_)), "{reply:?}");
    }
    let spent = Refusal::Spent { id: poor.id, attempts: 64 };
    assert_eq!(shards.transact(poor.clone()).await.unwrap(), ShardsReply::Refused(spent));
    assert_eq!(shards.transaction(poor.id).await.unwrap(), None);
    assert!(shards.recover().await.is_clear());
    // Nothing is recorded under it: within its home it is as good as new.
    let within = pay(poor.id, account(0, 1), account(0, 2));
    assert!(is_within(&shards.transact(within.clone()).await.unwrap()));
    let conflict = ShardsConflict { recorded: within, asked: in_order(&poor) };
    assert_eq!(shards.transact(poor).await.unwrap(), ShardsReply::Conflict(Box::new(conflict)));
}

/// The shards' own holds have ids that anybody can read in a journal. Those that are over are as any hold that is.
#[tokio::test]
async fn a_part_that_was_posted_is_no_hold_any_more() {
    let shards = made(2).await;
    let reply = shards.transact(pay(id(0, 1), account(1, 1), account(0, 2))).await.unwrap();
    assert!(matches!(&reply, ShardsReply::Recorded { in_transit, .. } if in_transit.is_empty()), "{reply:?}");
    let entries = shards.ledgers()[1].entries(0, 10).await.unwrap();
    let Event::Transaction(held) = &entries[0].event else { panic!("{entries:?}") };
    let void = Transaction::void(id(1, 2), held.id);
    let reply = shards.transact_in(ShardId(1), void).await.unwrap();
    let ShardsReply::Within { reply: Reply::Rejected(why), .. } = &reply else { panic!("{reply:?}") };
    assert!(matches!(**why, Rejection::NoHold { .. }), "{why}");
    let view = shards.account(account(1, 1)).await.unwrap().unwrap();
    assert_eq!(view.balance.posted(Side::Credit), 5);
}
