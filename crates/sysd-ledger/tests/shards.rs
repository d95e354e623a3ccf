//! Shards on ledgers: what they are opened with, what they do, what they refuse, and ids that have left memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock as _, Effect, ErrorKind, ManualClock, SystemClock, Timestamp};
use sysd_ledger::shards::{
    Placement, Refusal, ShardId, ShardReceipt, Shards, ShardsConfig, ShardsConflict, ShardsEntry, ShardsReply,
};
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
    wallet_of(shards, ShardId(shard).place(2)).await
}

async fn wallet_of(shards: &OnMemory, account: AccountId) -> i128 {
    shards.account(account).await.unwrap().unwrap().balance.posted(Side::Credit)
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
    let named = ShardsConfig { ids: Placement::Named, ..config() };
    assert_eq!(refused(ledgers(&store, 2).await, named).await, ErrorKind::Config);
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

/// In one shard, in another, across some, with other lines, amounts, days, details: whatever of it was first stays, and is shown beside
/// what is asked, wherever the id is at home.
#[tokio::test]
async fn other_content_under_an_id_is_a_conflict() {
    let shards = funded(&Memory::new(), 3).await;
    let account = |shard, id| ShardId(shard).place(id);
    let line = |account, side, amount| Posting { account, amount, currency: euro(), side };
    let within = |shard: u16| [line(account(shard, 1), Side::Debit, 7), line(account(shard, 2), Side::Credit, 7)];
    let to = |to, amount| [line(account(0, 2), Side::Debit, amount), line(to, Side::Credit, amount)];
    let of = |postings: &[&[Posting]]| Transaction::new(TransactionId(0), postings.concat());
    let details = Details::new("rent", Vec::new()).unwrap();
    let usual = of(&[&to(account(1, 2), 2)]);
    let contents = [
        of(&[&to(account(1, 2), 2), &within(2)]),
        of(&[&to(account(1, 2), 3), &within(2)]),
        of(&[&to(account(1, 1), 2), &within(2)]),
        Transaction { effective: Some(Date(20_000)), ..usual.clone() },
        Transaction { details: Some(Box::new(details)), ..usual.clone() },
        usual,
        of(&[&to(account(1, 2), 3)]),
        of(&[&to(account(2, 1), 2)]),
        of(&[&[line(account(1, 2), Side::Debit, 1), line(account(2, 2), Side::Credit, 1)]]),
        of(&[&within(0)]),
        of(&[&within(1)]),
        of(&[&within(2)]),
        of(&[&within(2)]).held_until(None),
        of(&[&to(account(0, 1), 1)]),
    ];
    let mut homes = [0; 3];
    for (id, first) in (1..).zip(&contents) {
        let with_id = |content: &Transaction| Transaction { id: TransactionId(id), ..content.clone() };
        homes[usize::from(shards.home_of(TransactionId(id)).unwrap().0)] += 1;
        assert_eq!(shards.transaction(TransactionId(id)).await.unwrap(), None);
        let answer = shards.transact(with_id(first)).await.unwrap();
        let before = shards.verify().await.unwrap().unwrap();
        for asked in contents.iter().filter(|content| *content != first) {
            let shown = shards.transact(with_id(asked)).await.unwrap();
            let conflict = ShardsConflict { recorded: with_id(first), asked: with_id(asked) };
            assert_eq!(shown, ShardsReply::Conflict(Box::new(conflict)));
        }
        assert_eq!(shards.verify().await.unwrap().unwrap(), before);
        assert_eq!(shards.transact(with_id(first)).await.unwrap(), answer);
        let shown = shards.transaction(TransactionId(id)).await.unwrap().unwrap();
        let receipts = match answer {
            ShardsReply::Within { shard, reply: Reply::Recorded(receipt) } => vec![ShardReceipt { shard, receipt }],
            ShardsReply::Recorded { receipts, .. } => receipts,
            reply => panic!("{reply:?}"),
        };
        assert_eq!(shown, ShardsEntry { transaction: with_id(first), receipts, in_transit: Vec::new() });
    }
    assert!(homes.iter().all(|count| *count > 2), "{homes:?}");
    assert!(shards.recover().await.is_clear());
}

#[tokio::test]
async fn an_id_stays_with_the_shard_that_was_asked_first() {
    let named = ShardsConfig { ids: Placement::Named, ..config() };
    let (shards, _recovery) = Shards::open(ledgers(&Memory::new(), 3).await, named).await.unwrap();
    for account in [ShardId(0).place(1), ShardId(1).place(1), ShardId(1).place(2), ShardId(2).place(1)] {
        shards.open_account(Account::new(account, euro(), AccountKind::Liability)).await.unwrap();
    }
    shards.open_account(Account::new(ShardId(1).place(3), euro(), AccountKind::Liability).limited()).await.unwrap();
    let recorded = async || {
        let mut all = Vec::new();
        for ledger in shards.ledgers() {
            all.push(ledger.read(Books::journal_len).await.unwrap());
        }
        all
    };
    let id = |shard: u16, which: u128| ShardId(shard).place_id(which << 16);
    let within = |id, debit| Transaction::transfer(id, euro(), 5, ShardId(1).place(1), ShardId(1).place(debit));
    // At home where its accounts lie: one entry. Elsewhere: one at its home, too.
    shards.transact(within(id(1, 1), 2)).await.unwrap();
    assert_eq!(recorded().await, [0, 1, 0]);
    shards.transact(within(id(2, 1), 2)).await.unwrap();
    assert_eq!(recorded().await, [0, 2, 1]);
    // Rejected: nothing is recorded, but the id may only be asked of that shard.
    let id = id(2, 2);
    let rejected = shards.transact(within(id, 3)).await.unwrap();
    let ShardsReply::Within { shard: ShardId(1), reply: Reply::Rejected(_) } = rejected else { panic!("{rejected:?}") };
    assert_eq!(recorded().await, [0, 2, 2]);
    assert_eq!(shards.transaction(id).await.unwrap(), None);
    let (one, two) = (ShardId(2).place(1), ShardId(0).place(1));
    let elsewhere = Transaction::transfer(id, euro(), 5, one, two);
    let refused = ShardsReply::Refused(Refusal::Claimed { id, shard: ShardId(1) });
    for _ in 0..2 {
        assert_eq!(shards.transact(elsewhere.clone()).await.unwrap(), refused);
    }
    assert_eq!(recorded().await, [0, 2, 2]);
    let reply = shards.transact(within(id, 2)).await.unwrap();
    assert!(matches!(reply, ShardsReply::Within { reply: Reply::Recorded(_), .. }), "{reply:?}");
    let conflict = ShardsConflict { recorded: within(id, 2), asked: elsewhere.clone() };
    assert_eq!(shards.transact(elsewhere).await.unwrap(), ShardsReply::Conflict(Box::new(conflict)));
    let nowhere = TransactionId(3);
    let reply = shards.transact(within(nowhere, 2)).await.unwrap();
    assert_eq!(reply, ShardsReply::Refused(Refusal::NoHome { id: nowhere }));
    assert_eq!(shards.transaction(nowhere).await.unwrap(), None);
}

/// Each id of a group has a home of its own.
#[tokio::test]
async fn a_group_is_recorded_where_its_ids_are_not_at_home() {
    let shards = funded(&Memory::new(), 3).await;
    let (bank, wallet) = (ShardId(1).place(1), ShardId(1).place(2));
    let group = |from: u128| -> Vec<_> {
        (from..from + 12).map(|id| Transaction::transfer(TransactionId(id), euro(), 1, bank, wallet)).collect()
    };
    let first = shards.transact_all(group(1)).await.unwrap();
    let ShardsReply::Within { shard: ShardId(1), reply: Reply::GroupRecorded(receipts) } = &first else {
        panic!("{first:?}");
    };
    assert_eq!(receipts.len(), 12);
    assert_eq!(shards.transact_all(group(1)).await.unwrap(), first);
    // One of them is taken, by a transaction across shards or by another shard's, and is at home there, or elsewhere.
    let cases = [(100, true, true), (120, true, false), (140, false, true), (160, false, false)];
    for (from, is_across, is_home) in cases {
        let is_such = |id: &u128| (shards.home_of(TransactionId(*id)) == Ok(ShardId(1))) == is_home;
        let id = (from..from + 12).find(is_such).unwrap();
        let theirs = Transaction::transfer(TransactionId(id), euro(), 1, ShardId(2).place(1), ShardId(2).place(2));
        let taken = if is_across { across(id, 1) } else { theirs };
        let reply = shards.transact(taken.clone()).await.unwrap();
        assert!(is_recorded(&reply) || matches!(&reply, ShardsReply::Within { reply: Reply::Recorded(_), .. }));
        let before = wallet_of(&shards, wallet).await;
        let reply = shards.transact_all(group(from)).await.unwrap();
        if is_home {
            // There it is one of the group's own ids.
            let ShardsReply::Within { shard: ShardId(1), reply: Reply::Rejected(why) } = reply else { panic!() };
            let at = usize::try_from(id - from).unwrap();
            let is_it = matches!(&*why, Rejection::InGroup { index, cause } if *index == at && matches!(**cause, Rejection::Exists { .. }));
            assert!(is_it, "{why}");
        } else {
            let asked = group(from).into_iter().find(|asked| asked.id == taken.id).unwrap();
            let conflict = ShardsConflict { recorded: taken, asked };
            assert_eq!(reply, ShardsReply::Conflict(Box::new(conflict)));
        }
        assert_eq!(wallet_of(&shards, wallet).await, before);
    }
}

/// Who writes to a shard's ledger itself can take an id that is decided elsewhere.
#[tokio::test]
async fn what_went_past_the_shards_is_named() {
    let store = Memory::new();
    let named = ShardsConfig { ids: Placement::Named, ..config() };
    let (shards, _recovery) = Shards::open(ledgers(&store, 2).await, named).await.unwrap();
    for account in [ShardId(0).place(1), ShardId(1).place(1), ShardId(1).place(2)] {
        shards.open_account(Account::new(account, euro(), AccountKind::Liability)).await.unwrap();
    }
    let id = ShardId(0).place_id(0);
    let (one, two) = (ShardId(1).place(1), ShardId(1).place(2));
    let hold = TransactionId(id.0 + 1);
    shards.ledgers()[1].transact(Transaction::transfer(hold, euro(), 1, one, two).held_until(None)).await.unwrap();
    shards.ledgers()[1].transact(Transaction::post_held(id, hold)).await.unwrap();
    let reply = shards.transact(Transaction::transfer(id, euro(), 5, one, ShardId(0).place(1))).await.unwrap();
    let ShardsReply::Recorded { receipts, in_transit } = reply else { panic!("{reply:?}") };
    assert_eq!((receipts.len(), in_transit), (1, vec![ShardId(1)]));
    let found = shards.recover().await;
    let (shard, error) = &found.errors[0];
    assert_eq!((*shard, error.kind(), found.errors.len()), (ShardId(1), ErrorKind::Config, 1), "{error}");
    assert!(error.to_string().contains(&id.to_string()), "{error}");
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

/// Each of the shards would note it by itself, and it could be reversed in each.
#[tokio::test]
async fn what_lies_across_shards_is_reversed_in_none() {
    let shards = funded(&Memory::new(), 3).await;
    assert!(is_recorded(&shards.transact(across(1, 5)).await.unwrap()));
    for shard in (0..3).map(ShardId) {
        let id = 10 + u128::from(shard.0);
        let within = Transaction::transfer(TransactionId(id), euro(), 1, shard.place(2), shard.place(1));
        let back = Transaction { reverses: Some(TransactionId(1)), ..within.clone() };
        assert_eq!(shards.transact(back.clone()).await.unwrap(), ShardsReply::Refused(Refusal::Reversal));
        let group = shards.transact_all(vec![back]).await.unwrap();
        assert_eq!(group, ShardsReply::Refused(Refusal::Reversal));
        let unknown = Rejection::UnknownTransaction { reverses: TransactionId(99) };
        let back = Transaction { reverses: Some(TransactionId(99)), ..within.clone() };
        let reply = shards.transact(back.clone()).await.unwrap();
        assert_eq!(reply, ShardsReply::Rejected(Box::new(unknown.clone())));
        let reply = shards.transact_all(vec![back]).await.unwrap();
        let in_group = Rejection::InGroup { index: 0, cause: Box::new(unknown) };
        assert_eq!(reply, ShardsReply::Rejected(Box::new(in_group)));
        // What lies within it is, once, wherever the ids are at home.
        shards.transact(within.clone()).await.unwrap();
        for (which, is_first) in [(20, true), (30, false)] {
            let id = TransactionId(id + which);
            let back = Transaction::transfer(id, euro(), 1, shard.place(1), shard.place(2));
            let back = Transaction { reverses: Some(within.id), ..back };
            let reply = shards.transact(back).await.unwrap();
            assert_eq!(matches!(reply, ShardsReply::Within { reply: Reply::Recorded(_), .. }), is_first, "{reply:?}");
        }
        // One of the same group is, too.
        let first = Transaction { id: TransactionId(id + 40), ..within };
        let back = Transaction::transfer(TransactionId(id + 50), euro(), 1, shard.place(1), shard.place(2));
        let reply = shards.transact_all(vec![first.clone(), Transaction { reverses: Some(first.id), ..back }]).await;
        assert!(matches!(reply.unwrap(), ShardsReply::Within { reply: Reply::GroupRecorded(_), .. }));
    }
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
