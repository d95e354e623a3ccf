//! Shards on ledgers: what they are opened with, what they do, what they refuse, and ids that have left memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock as _, Effect, ErrorKind, ManualClock, SystemClock, Timestamp};
use sysd_ledger::shards::{Placement, Refusal, ShardId, Shards, ShardsConfig, ShardsConflict, ShardsReply};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Currency, Date, Details, JournalConfig, Ledger, Posting, Rate, Rejection,
    Reply, Side, Transaction, TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

type OnMemory = Shards<Replica<Books>, Memory>;

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

async fn ledgers(store: &Memory, count: usize) -> Vec<Ledger<Replica<Books>, Memory>> {
    let mut all = Vec::new();
    for at in 0..count {
        all.push(ledger(store, at, ReplicaConfig::default()).await);
    }
    all
}

async fn ledger(store: &Memory, at: usize, config: ReplicaConfig) -> Ledger<Replica<Books>, Memory> {
    let name = format!("books-{at}");
    let (replica, driver) = Replica::open(store.clone(), &name, config).await.unwrap();
    tokio::spawn(driver);
    let config = JournalConfig { ids_in_memory: 0, ..JournalConfig::default() };
    Ledger::that_may_forget(replica, store.clone(), &name, config).unwrap().0
}

fn config() -> ShardsConfig {
    ShardsConfig { placement: Placement::Named, ..ShardsConfig::new("bank") }
}

/// In each shard 1 without bounds and 2, a wallet with 100.
async fn funded(store: &Memory, count: u16) -> OnMemory {
    let (shards, _recovery) = Shards::open(ledgers(store, count.into()).await, config()).await.unwrap();
    for shard in (0..count).map(ShardId) {
        let open = |id| Account::new(shard.place(id), euro(), AccountKind::Liability);
        shards.open_account(open(1)).await.unwrap();
        shards.open_account(open(2).limited()).await.unwrap();
        let id = TransactionId(900 + u128::from(shard.0));
        let paid_in = Transaction::transfer(id, euro(), 100, shard.place(2), shard.place(1));
        assert!(matches!(
            shards.transact(paid_in).await.unwrap(),
            ShardsReply::Within { reply: Reply::Recorded(_), .. }
        ));
    }
    shards
}

fn across(id: u128, amount: u128) -> Transaction {
    Transaction::transfer(TransactionId(id), euro(), amount, ShardId(1).place(2), ShardId(0).place(2))
}

async fn wallet(shards: &OnMemory, shard: u16) -> i128 {
    shards.account(ShardId(shard).place(2)).await.unwrap().unwrap().balance.posted(Side::Credit)
}

fn is_recorded(reply: &ShardsReply) -> bool {
    matches!(reply, ShardsReply::Recorded { receipts, in_transit } if receipts.len() > 1 && in_transit.is_empty())
}

#[tokio::test]
async fn shards_are_opened_as_they_were_made() {
    let store = Memory::new();
    drop(funded(&store, 2).await);
    let refused = async |ledgers, config| match Shards::open(ledgers, config).await {
        Ok(_) => panic!("it must be refused"),
        Err(error) => error.kind(),
    };
    let mut swapped = ledgers(&store, 2).await;
    swapped.swap(0, 1);
    assert_eq!(refused(swapped, config()).await, ErrorKind::Config);
    assert_eq!(refused(ledgers(&store, 3).await, config()).await, ErrorKind::Config);
    assert_eq!(refused(ledgers(&store, 2).await, ShardsConfig::new("bank")).await, ErrorKind::Config);
    let other = ShardsConfig { name: "other".to_owned(), ..config() };
    assert_eq!(refused(ledgers(&store, 2).await, other).await, ErrorKind::Config);
    assert_eq!(refused(Vec::new(), config()).await, ErrorKind::Invalid);
    let zero = ShardsConfig { hold_for: Duration::ZERO, ..config() };
    assert_eq!(refused(ledgers(&store, 2).await, zero).await, ErrorKind::Invalid);
    let none = ShardsConfig { recover_parts_max: 0, ..config() };
    assert_eq!(refused(ledgers(&store, 2).await, none).await, ErrorKind::Invalid);
    // One that was no shard, and has accounts.
    let alone = Memory::new();
    let one = ledgers(&alone, 1).await;
    one[0].open_account(Account::new(AccountId(1), euro(), AccountKind::Asset)).await.unwrap();
    assert_eq!(refused(one, config()).await, ErrorKind::Config);

    let (shards, _recovery) = Shards::open(ledgers(&store, 2).await, config()).await.unwrap();
    assert_eq!(wallet(&shards, 1).await, 100);
}

#[tokio::test]
async fn across_shards_all_or_nothing() {
    let shards = funded(&Memory::new(), 3).await;
    let first = shards.transact(across(1, 60)).await.unwrap();
    assert!(is_recorded(&first));
    // It is answered as the first time, whatever came since.
    assert!(is_recorded(&shards.transact(across(9, 0x10)).await.unwrap()));
    assert_eq!(shards.transact(across(1, 60)).await.unwrap(), first);
    let back = Transaction::transfer(TransactionId(10), euro(), 0x10, ShardId(0).place(2), ShardId(1).place(2));
    assert!(is_recorded(&shards.transact(back).await.unwrap()));
    assert_eq!((wallet(&shards, 0).await, wallet(&shards, 1).await), (40, 160));

    // The coordinator has it, another has not.
    let posting = |shard, amount, side| Posting { account: ShardId(shard).place(2), amount, currency: euro(), side };
    let too_much = Transaction::new(
        TransactionId(2),
        [posting(0, 10, Side::Credit), posting(1, 161, Side::Debit), posting(2, 151, Side::Credit)],
    );
    let expected = Rejection::InsufficientFunds { account: ShardId(1).place(2), shortfall: 1 };
    let reply = shards.transact(too_much.clone()).await.unwrap();
    assert_eq!(reply, ShardsReply::Rejected(Box::new(expected)));
    assert_eq!((wallet(&shards, 0).await, wallet(&shards, 1).await), (40, 160));
    let sums = shards.verify().await.unwrap().unwrap();
    assert_eq!((sums.sums[&euro()].total.debits_held, sums.in_transit[&euro()]), (0, 0));

    // What was rejected may be asked again.
    let more = Transaction::transfer(TransactionId(3), euro(), 1, ShardId(1).place(2), ShardId(1).place(1));
    shards.transact(more).await.unwrap();
    assert!(is_recorded(&shards.transact(too_much).await.unwrap()));
    assert!(shards.recover().await.is_clear());
}

/// Other content under an id is shown beside what was recorded, wherever they differ.
#[tokio::test]
async fn other_content_under_an_id_is_a_conflict() {
    let shards = funded(&Memory::new(), 3).await;
    let account = |shard, id| ShardId(shard).place(id);
    let line = |account, side, amount| Posting { account, amount, currency: euro(), side };
    // The part of shard 2 is balanced by itself.
    let within = [line(account(2, 1), Side::Debit, 7), line(account(2, 2), Side::Credit, 7)];
    let to = |to, amount| [line(account(0, 2), Side::Debit, amount), line(to, Side::Credit, amount)];
    let of = |id, postings: &[&[Posting]]| Transaction::new(TransactionId(id), postings.concat());
    let memo = Details::new("rent", Vec::new()).unwrap();
    let day = Some(Date(20_000));
    for (id, recorded) in [(1, of(1, &[&to(account(1, 2), 5), &within])), (2, of(2, &[&to(account(1, 2), 5)]))] {
        let first = shards.transact(recorded.clone()).await.unwrap();
        let asked = [
            of(id, &[&to(account(1, 2), 6), &within]),
            of(id, &[&to(account(1, 1), 5), &within]),
            of(id, &[&to(account(1, 1), 5)]),
            of(id, &[&to(account(2, 1), 5)]),
            of(id, &[&to(account(0, 1), 5), &within]),
            Transaction { effective: day, ..recorded.clone() },
            Transaction { details: Some(Box::new(memo.clone())), ..recorded.clone() },
            if id == 1 { of(1, &[&to(account(1, 2), 5)]) } else { of(2, &[&to(account(1, 2), 5), &within]) },
        ];
        let before = shards.verify().await.unwrap().unwrap();
        for asked in asked {
            let reply = shards.transact(asked.clone()).await.unwrap();
            let shown = ShardsConflict { recorded: recorded.clone(), asked };
            assert_eq!(reply, ShardsReply::Conflict(Box::new(shown)));
        }
        assert_eq!(shards.verify().await.unwrap().unwrap(), before);
        assert_eq!(shards.transact(recorded).await.unwrap(), first);
    }
    // With another coordinator, or within one shard, nothing tells it from a new transaction: docs/ledger.md says so.
    let elsewhere = [line(account(1, 2), Side::Debit, 1), line(account(2, 2), Side::Credit, 1)];
    assert!(is_recorded(&shards.transact(of(1, &[&elsewhere])).await.unwrap()));
    let reply = shards.transact(of(1, &[&within])).await.unwrap();
    assert!(matches!(reply, ShardsReply::Within { reply: Reply::Recorded(_), .. }), "{reply:?}");
    assert!(shards.recover().await.is_clear());
}

/// The bank's trading accounts lie in one shard, or each beside who exchanges, so that no part has both currencies.
#[tokio::test]
async fn an_exchange_across_shards_keeps_its_rate() {
    let (shards, yen) = (funded(&Memory::new(), 2).await, Currency::iso("JPY").unwrap());
    let (takes, gets) = (ShardId(0).place(3), ShardId(1).place(5));
    let gives = [ShardId(0).place(4), ShardId(1).place(4)];
    for (id, currency) in [(takes, euro()), (gets, yen), (gives[0], yen), (gives[1], yen)] {
        shards.open_account(Account::new(id, currency, AccountKind::Equity)).await.unwrap();
    }
    let exchange = |id, gives, got, memo| {
        let line = |account, side, currency, amount| Posting { account, amount, currency, side };
        let postings = [
            line(ShardId(0).place(2), Side::Debit, euro(), 10),
            line(takes, Side::Credit, euro(), 10),
            line(gives, Side::Debit, yen, got),
            line(gets, Side::Credit, yen, got),
        ];
        let rate = Rate { from: euro(), to: yen, mantissa: 161_734, decimals: 3 };
        let details = Details::new(memo, vec![("for".to_owned(), "ann".to_owned())]).unwrap().with_rate(rate);
        Transaction { details: Some(Box::new(details)), ..Transaction::new(TransactionId(id), postings) }
    };
    let recorded = async || {
        let mut all = Vec::new();
        for ledger in shards.ledgers() {
            all.push(ledger.read(|books| (books.journal_len(), books.holds_len())).await.unwrap());
        }
        all
    };
    let before = recorded().await;
    for (id, gives) in (1..).zip(gives) {
        let wrong = Rejection::Rate { from: (euro(), 10), to: (yen, 18) };
        let reply = shards.transact(exchange(id, gives, 18, String::new())).await.unwrap();
        assert_eq!(reply, ShardsReply::Rejected(Box::new(wrong)));
        // It is written down, and there is no room for that.
        let long = "x".repeat(Details::BYTES_MAX - "for".len() - "ann".len() - 2);
        let error = shards.transact(exchange(id, gives, 16, long)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    }
    assert_eq!(recorded().await, before);
    for (id, gives) in (1..).zip(gives) {
        let first = shards.transact(exchange(id, gives, 16, String::new())).await.unwrap();
        assert!(is_recorded(&first));
        assert_eq!(shards.transact(exchange(id, gives, 16, String::new())).await.unwrap(), first);
    }
    let view = shards.account(gets).await.unwrap().unwrap();
    assert_eq!((wallet(&shards, 0).await, view.balance.posted(Side::Credit)), (80, 32));
    for ledger in shards.ledgers() {
        // What held it and what posted it, of both.
        for (key, value) in [("exchange_rate", "EUR/JPY 161.734"), ("for", "ann")] {
            assert_eq!(ledger.find_by_metadata(key, value, 0, 10).await.unwrap().len(), 4);
        }
    }
    assert!(shards.recover().await.is_clear());
}

#[tokio::test]
async fn unbalanced_is_rejected_with_the_difference() {
    let shards = funded(&Memory::new(), 2).await;
    let mut transaction = across(1, 10);
    transaction.postings[0].amount = 13;
    let expected = Rejection::Unbalanced { differences: vec![(euro(), 3)] };
    assert_eq!(shards.transact(transaction).await.unwrap(), ShardsReply::Rejected(Box::new(expected)));
}

#[tokio::test]
async fn a_day_is_the_same_in_all_parts_and_a_closed_one_is_rejected() {
    let shards = funded(&Memory::new(), 2).await;
    let of_day = |id, day| Transaction { effective: Some(Date(day)), ..across(id, 1) };
    assert!(is_recorded(&shards.transact(of_day(1, 19_000)).await.unwrap()));
    let error = shards.close_period(Date(i32::MAX)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None), "{error}");
    shards.close_period(Date(19_000)).await.unwrap();
    let expected = Rejection::PeriodClosed { through: Date(19_000) };
    assert_eq!(shards.transact(of_day(2, 19_000)).await.unwrap(), ShardsReply::Rejected(Box::new(expected)));
    assert!(is_recorded(&shards.transact(of_day(3, 19_001)).await.unwrap()));
}

/// The second shard's log has the time of a day that is behind.
#[tokio::test]
async fn a_period_that_only_some_shards_closed_is_of_unknown_effect() {
    let store = Memory::new();
    let clock = ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000).unwrap());
    let behind = ReplicaConfig { clock: Arc::new(clock.clone()), ..ReplicaConfig::default() };
    let all = vec![
        ledger(&store, 0, ReplicaConfig::default()).await,
        ledger(&store, 1, behind).await,
        ledger(&store, 2, ReplicaConfig::default()).await,
    ];
    let (shards, _recovery) = Shards::open(all, config()).await.unwrap();
    let today = Date::of(SystemClock.now());
    let closed = async || {
        let mut all = Vec::new();
        for ledger in shards.ledgers() {
            all.push(ledger.read(Books::closed_through).await.unwrap());
        }
        all
    };
    for _ in 0..2 {
        let error = shards.close_period(today).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::Unknown), "{error}");
        assert_eq!(closed().await, [Some(today), None, None]);
    }
    // None has closed it if the first has not.
    let error = shards.close_period(Date(today.0 + 9)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None), "{error}");
    clock.set(SystemClock.now());
    shards.close_period(today).await.unwrap();
    assert_eq!(closed().await, [Some(today); 3]);
}

/// An error that by itself has no effect.
#[tokio::test]
async fn a_period_that_a_later_shard_cannot_take_is_of_unknown_effect() {
    let store = Memory::new();
    drop(funded(&store, 2).await);
    // Any command is greater than what this log takes.
    let narrow = ReplicaConfig { batch_bytes_max: 1, ..ReplicaConfig::default() };
    let all = vec![ledger(&store, 0, ReplicaConfig::default()).await, ledger(&store, 1, narrow).await];
    let alone = all[1].close_period(Date(19_000)).await.unwrap_err();
    assert_eq!(alone.effect(), Effect::None, "{alone}");
    let (shards, _recovery) = Shards::open(all, config()).await.unwrap();
    let error = shards.close_period(Date(19_000)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (alone.kind(), Effect::Unknown), "{error}");
    assert_eq!(shards.ledgers()[0].read(Books::closed_through).await.unwrap(), Some(Date(19_000)));
}

#[tokio::test]
async fn within_a_shard_everything_works_and_across_some_is_refused() {
    let shards = funded(&Memory::new(), 2).await;
    let (wallet, bank) = (ShardId(1).place(2), ShardId(1).place(1));
    let within = |id, amount| Transaction::transfer(TransactionId(id), euro(), amount, bank, wallet);
    let done =
        |reply: ShardsReply| matches!(reply, ShardsReply::Within { shard: ShardId(1), reply: Reply::Recorded(_) });
    assert!(done(shards.transact(within(1, 30).held_until(None)).await.unwrap()));
    let post = Transaction::post_held(TransactionId(2), TransactionId(1));
    assert_eq!(shards.transact(post.clone()).await.unwrap(), ShardsReply::Refused(Refusal::ShardUnknown));
    assert!(done(shards.transact_in(ShardId(1), post).await.unwrap()));
    let group = vec![within(3, 1), within(4, 2)];
    let reply = shards.transact_all(group.clone()).await.unwrap();
    assert!(matches!(reply, ShardsReply::Within { reply: Reply::GroupRecorded(_), .. }));
    let apart = vec![within(5, 1), across(6, 1)];
    assert_eq!(shards.transact_all(apart).await.unwrap(), ShardsReply::Refused(Refusal::Group));
    assert_eq!(shards.transact_in(ShardId(0), within(7, 1)).await.unwrap_err().kind(), ErrorKind::Invalid);
    let held = across(8, 1).held_until(None);
    assert_eq!(shards.transact(held).await.unwrap(), ShardsReply::Refused(Refusal::Action));
    let own = AccountId(0xff54_5201_0000_0001_4555_5200_0000_0002);
    let account = Account::new(own, euro(), AccountKind::Asset);
    assert_eq!(shards.open_account(account).await.unwrap(), ShardsReply::Refused(Refusal::Reserved { account: own }));
    assert_eq!(shards.account(own).await.unwrap(), None);
}

#[tokio::test]
async fn ids_that_have_left_memory_are_known() {
    let shards = funded(&Memory::new(), 2).await;
    let push_out = async |from: u128| {
        for (shard, ledger) in (0..).map(ShardId).zip(shards.ledgers()) {
            for some in 0..10 {
                let first = from + some * 1_000;
                let transfer = |id| Transaction::transfer(TransactionId(id), euro(), 1, shard.place(2), shard.place(1));
                ledger.transact_each((first..first + 1_000).map(transfer).collect()).await.unwrap();
            }
            ledger.write_journal().await.unwrap();
        }
    };
    let forgotten = async || shards.ledgers()[0].read(Books::ids_forgotten).await.unwrap();
    push_out(1 << 40).await;
    let before = forgotten().await;
    assert!(before > 0);
    let first = shards.transact(across(1, 60)).await.unwrap();
    assert!(is_recorded(&first));
    push_out(2 << 40).await;
    push_out(3 << 40).await;
    assert!(forgotten().await > before);
    assert_eq!(shards.transact(across(1, 60)).await.unwrap(), first);
    let conflict = ShardsConflict { recorded: across(1, 60), asked: across(1, 61) };
    assert_eq!(shards.transact(across(1, 61)).await.unwrap(), ShardsReply::Conflict(Box::new(conflict)));
    assert!(is_recorded(&shards.transact(across(2, 60)).await.unwrap()));
    assert!(shards.recover().await.is_clear());
}
