//! The journal on the store: statements, balances as of a time, what was recorded under an id, proofs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::{
    Clock as _, Durability, Effect, Error, ErrorKind, Followed, Key, KeyBuf, Limits, ManualClock, Outcome, Replicated,
    Result, Scan, Space, StateMachine as _, Store, StoreExt as _, Timestamp, Write, tuple,
};
use sysd_ledger::{
    Account, AccountId, AccountKind, AsOf, AuditError, Balance, Books, Change, ChunkHash, Command, Currency, Date,
    Details, JournalConfig, JournalEntry, Ledger, Looked, Page, Rejection, Reply, Side, Transaction, TransactionId,
};
use sysd_storage::{Follower, Memory, Replica, ReplicaConfig};
use sysd_testkit::{Overridden, Overrides};

const ACCOUNTS: u128 = 6;
const DAY: Duration = Duration::from_secs(86_400);

type OnMemory = Ledger<Replica<Books>, Memory>;

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

fn transfer(id: u128, amount: u128, credit: u128, debit: u128) -> Transaction {
    Transaction::transfer(TransactionId(id), euro(), amount, AccountId(credit), AccountId(debit))
}

fn config(clock: &Arc<ManualClock>) -> JournalConfig {
    JournalConfig { clock: Arc::clone(clock) as Arc<_>, ids_in_memory: 0, chunks_cached: 2, ..JournalConfig::default() }
}

/// A ledger whose journal is written when a test says so.
async fn open(store: &Memory, clock: &Arc<ManualClock>) -> OnMemory {
    let replica_config = ReplicaConfig { clock: Arc::clone(clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::open(store.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    Ledger::that_may_forget(replica, store.clone(), "books", config(clock)).unwrap().0
}

fn start() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_micros(1_795_000_000_000_000).unwrap()))
}

async fn with_accounts(store: &Memory, clock: &Arc<ManualClock>) -> OnMemory {
    let ledger = open(store, clock).await;
    for id in 0..ACCOUNTS {
        ledger.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    ledger
}

/// Days of transfers, holds that end, late and early ones, the journal written in between now and then.
async fn history(ledger: &OnMemory, clock: &ManualClock, seed: u64, count: u128) -> Vec<JournalEntry> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    for id in 1..=count {
        clock.advance(DAY.mul_f64(random.random_range(0.0..0.01)));
        let mut one = random.random_range(0..ACCOUNTS);
        // One of them is in nearly every transaction, another hardly in any.
        if random.random_range(0..3) > 0 {
            one = 0;
        }
        let rare = u128::from(random.random_range(0..40) == 0);
        let mut other = random.random_range(1..ACCOUNTS - 1 + rare);
        if other == one {
            other = 0;
        }
        let mut transaction = transfer(id, random.random_range(1..1_000), one, other);
        match random.random_range(0..20) {
            0 => {
                let expires_at = clock.now().saturating_add(DAY.mul_f64(random.random_range(0.01..0.05)));
                transaction = transaction.held_until(Some(expires_at));
            }
            1..4 => transaction.effective = Some(Date(Date::of(clock.now()).0 + random.random_range(-3..3))),
            4 => {
                let metadata = vec![("order".to_owned(), random.random_range(0..9).to_string())];
                transaction.details = Some(Box::new(Details::new("for it", metadata).unwrap()));
            }
            _ => {}
        }
        assert!(matches!(ledger.transact(transaction).await.unwrap(), Reply::Recorded(_)));
        if random.random_range(0..700) == 0 {
            ledger.write_journal().await.unwrap();
        }
    }
    ledger.journal(0).try_collect().await.unwrap()
}

fn changes_of(entries: &[JournalEntry], account: u128) -> Vec<(&JournalEntry, Change)> {
    let of =
        |entry: &'_ JournalEntry| entry.changes.iter().find(|change| change.account == AccountId(account)).copied();
    entries.iter().filter_map(|entry| of(entry).map(|change| (entry, change))).collect()
}

#[tokio::test]
async fn what_is_read_is_what_was_recorded() {
    for seed in 0..3 {
        let (store, clock) = (Memory::new(), start());
        let ledger = with_accounts(&store, &clock).await;
        let entries = history(&ledger, &clock, seed, 2_500).await;
        if seed > 0 {
            ledger.write_journal().await.unwrap();
        }
        let (written, _) = ledger.read(Books::journal_written).await.unwrap();
        assert!(written > 1_000 || seed < 1, "only {written} are on the store");
        assert!(entries.len() > 2_550, "holds ended");
        for (number, entry) in (1..).zip(&entries) {
            assert_eq!(entry.number, number);
        }
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        for account in 0..ACCOUNTS {
            let lines = changes_of(&entries, account);
            let count = lines.len() as u64;
            let ordinals = |page| {
                let ledger = &ledger;
                async move {
                    let statement = ledger.statement(AccountId(account), page, 7).await.unwrap();
                    statement.into_iter().map(|line| (line.entry.number, line.change)).collect::<Vec<_>>()
                }
            };
            let expected = |ordinals: Vec<u64>| {
                let line = |ordinal: u64| &lines[usize::try_from(ordinal - 1).unwrap()];
                ordinals.into_iter().map(|ordinal| (line(ordinal).0.number, line(ordinal).1)).collect::<Vec<_>>()
            };
            let downwards = |from: u64| (from.saturating_sub(7) + 1..=from).rev().collect::<Vec<_>>();
            assert_eq!(ordinals(Page::Newest).await, expected(downwards(count)));
            for _ in 0..30 {
                let at = random.random_range(0..count + 3);
                assert_eq!(ordinals(Page::After(at)).await, expected((at + 1..=count.min(at + 7)).collect()), "{at}");
                assert_eq!(
                    ordinals(Page::Before(at)).await,
                    expected(downwards(count.min(at.saturating_sub(1)))),
                    "{at}"
                );
            }
            for _ in 0..30 {
                let at = entries[random.random_range(0..entries.len())].recorded_at;
                let mut earlier = lines.iter().filter(|(entry, _)| entry.recorded_at <= at);
                let balance = ledger.balance(AccountId(account), AsOf::Recorded(at)).await.unwrap().unwrap();
                assert_eq!(balance, earlier.next_back().map_or_else(Balance::default, |(_, change)| change.balance));
                let day = Date(Date::of(at).0 + random.random_range(-1..2));
                let of = |side| {
                    let lines = lines.iter().filter(|(entry, change)| entry.effective() <= day && change.side == side);
                    lines.map(|(_, change)| change.posted).sum::<u128>()
                };
                let balance = ledger.balance(AccountId(account), AsOf::Effective(day)).await.unwrap().unwrap();
                assert_eq!(
                    (balance.debits_posted, balance.credits_posted),
                    (of(Side::Debit), of(Side::Credit)),
                    "{day:?}"
                );
            }
        }
        for _ in 0..50 {
            let entry = &entries[random.random_range(0..entries.len())];
            let after = entry.number;
            assert_eq!(ledger.entry(after).await.unwrap().as_ref(), Some(entry));
            if let Some(transaction) = entry.transaction() {
                assert_eq!(ledger.transaction(transaction.id).await.unwrap().as_ref(), Some(entry));
            }
            let order = random.random_range(0..9).to_string();
            let has = |entry: &&JournalEntry| {
                let details = entry.transaction().and_then(|transaction| transaction.details.as_ref());
                entry.number > after && details.is_some_and(|details| details.metadata()[0].1 == order)
            };
            let expected: Vec<_> = entries.iter().filter(has).take(5).cloned().collect();
            assert_eq!(ledger.find_by_metadata("order", &order, after, 5).await.unwrap(), expected);
        }
        assert_eq!(ledger.verify().await.unwrap().entries, entries.len() as u64);
        let last = entries.len() as u64;
        assert!(ledger.entries(last, 9).await.unwrap().is_empty() && ledger.entry(last + 1).await.unwrap().is_none());
        assert!(ledger.balance(AccountId(99), AsOf::Effective(Date(0))).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn who_opens_the_books_next_reads_the_same_journal_and_goes_on_with_it() {
    let (store, clock) = (Memory::new(), start());
    let ledger = with_accounts(&store, &clock).await;
    let entries = history(&ledger, &clock, 7, 900).await;
    ledger.write_journal().await.unwrap();
    ledger.log().snapshot().await.unwrap();
    drop(ledger);
    let ledger = open(&store, &clock).await;
    assert_eq!(ledger.journal(0).try_collect::<Vec<_>>().await.unwrap(), entries);
    for id in 10_000..12_000 {
        ledger.transact(transfer(id, 1, 1, 2)).await.unwrap();
    }
    ledger.write_journal().await.unwrap();
    assert_eq!(ledger.verify().await.unwrap().entries, entries.len() as u64 + 2_000);

    // Whoever only follows reads it too.
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (follower, driver) = Follower::open(store.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let follower = Ledger::follow(follower, store, "books", config(&clock)).unwrap().within(Duration::from_secs(60));
    assert_eq!(follower.entries(0, 900).await.unwrap(), entries[..900]);
    let statement = follower.statement(AccountId(1), Page::Newest, 2_100).await.unwrap();
    assert_eq!(statement, ledger.statement(AccountId(1), Page::Newest, 2_100).await.unwrap());
    clock.advance(Duration::from_secs(61));
    let stale = follower.account(AccountId(1)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_id_again_is_given_its_first_answer_or_shown_what_it_was() {
    let (store, clock) = (Memory::new(), start());
    let ledger = with_accounts(&store, &clock).await;
    let mut first = transfer(1, 5, 0, 1);
    first.details = Some(Box::new(Details::new("rent", vec![]).unwrap()));
    let group = vec![transfer(2, 7, 0, 1), transfer(3, 7, 1, 0)];
    let answers = (ledger.transact(first.clone()).await.unwrap(), ledger.transact_all(group.clone()).await.unwrap());
    let Reply::Recorded(receipt) = &answers.0 else { panic!("it is new") };
    // Other things happen; then everything leaves memory.
    for id in 100..9_000 {
        ledger.transact(transfer(id, 1, 0, 1)).await.unwrap();
    }
    for writes in [false, true] {
        if writes {
            ledger.write_journal().await.unwrap();
            assert_eq!(ledger.read(Books::ids_forgotten).await.unwrap(), 8_192);
        }
        assert_eq!(ledger.transact(first.clone()).await.unwrap(), answers.0);
        assert_eq!(ledger.transact_all(group.clone()).await.unwrap(), answers.1);
        let mut other = first.clone();
        other.postings[0].amount = 6;
        other.postings[1].amount = 6;
        let Reply::Conflict(conflict) = ledger.transact(other.clone()).await.unwrap() else { panic!("it is another") };
        assert_eq!((conflict.recorded.receipt().as_ref(), &conflict.asked), (Some(receipt), &other));
        let mut changed = group.clone();
        changed[1].effective = Some(Date(1));
        assert!(matches!(ledger.transact_all(changed).await.unwrap(), Reply::Conflict(_)));
        let batch = vec![first.clone(), transfer(20_000 + u128::from(writes), 1, 0, 1), other];
        let replies = ledger.transact_each(batch).await.unwrap();
        assert_eq!(replies[0], answers.0);
        assert!(matches!((&replies[1], &replies[2]), (Reply::Recorded(_), Reply::Conflict(_))), "{replies:?}");
    }
    // What has left memory can be taken back once, and no more.
    let mut reversal = transfer(30_000, 5, 1, 0);
    reversal.reverses = Some(TransactionId(1));
    assert!(matches!(ledger.transact(reversal.clone()).await.unwrap(), Reply::Recorded(_)));
    reversal.id = TransactionId(30_001);
    assert!(matches!(ledger.transact(reversal.clone()).await.unwrap(), Reply::Rejected(_)));
    reversal.reverses = Some(TransactionId(99));
    assert!(matches!(ledger.transact(reversal.clone()).await.unwrap(), Reply::Rejected(_)));
    // Nor when the reversal has left memory, too.
    for id in 40_000..50_000 {
        ledger.transact(transfer(id, 1, 0, 1)).await.unwrap();
    }
    ledger.write_journal().await.unwrap();
    reversal.reverses = Some(TransactionId(1));
    let by = ledger.number(TransactionId(30_000)).await.unwrap().unwrap();
    assert!(by <= ledger.read(Books::ids_forgotten).await.unwrap());
    let rejection = Rejection::AlreadyReversed { reverses: TransactionId(1), by };
    assert_eq!(ledger.transact(reversal).await.unwrap(), Reply::Rejected(Box::new(rejection)));
    ledger.verify().await.unwrap();
}

/// The books alone: with and without the mistake.
#[test]
fn an_id_that_left_memory_is_not_taken_for_a_new_one() {
    use sysd_ledger::logic::Bug;
    for bug in [None, Some(Bug::ForgetOldIds)] {
        let mut books = Books::default();
        let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
        for id in 0..2 {
            books.apply(now, &Command::Open(Box::new(Account::new(AccountId(id), euro(), AccountKind::Asset))));
        }
        for id in 0..10_000 {
            books.apply(now, &Command::Transact(transfer(id, 1, 0, 1)));
        }
        // The store says that it has all of it.
        for through in 1..=10_000 {
            books.apply(now, &Command::Wrote { through, hash: ChunkHash::default() });
        }
        assert!(books.journal_written().0 > 8_192);
        books.apply(now, &Command::Forget { through: 8_192 });
        books.bug = bug;
        let again = books.apply(now, &Command::Transact(transfer(5, 1, 0, 1)));
        assert_eq!(matches!(again, Reply::LookUp(_)), bug.is_none(), "{again:?}");
    }
}

/// The books alone, told what the store says: with and without the mistake.
#[test]
fn what_was_reversed_long_ago_is_not_reversed_again() {
    use sysd_ledger::logic::Bug;
    for bug in [None, Some(Bug::ForgetReversals)] {
        let mut books = Books::default();
        let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
        for id in 0..2 {
            books.apply(now, &Command::Open(Box::new(Account::new(AccountId(id), euro(), AccountKind::Asset))));
        }
        let reversal = |id| Transaction { reverses: Some(TransactionId(1)), ..transfer(id, 1, 1, 0) };
        books.apply(now, &Command::Transact(transfer(1, 1, 0, 1)));
        books.apply(now, &Command::Transact(reversal(2)));
        for id in 100..10_100 {
            books.apply(now, &Command::Transact(transfer(id, 1, 0, 1)));
        }
        for through in 1..=10_000 {
            books.apply(now, &Command::Wrote { through, hash: ChunkHash::default() });
        }
        let size = |books: &Books| {
            let mut bytes = Vec::new();
            books.encode_snapshot(&mut bytes);
            bytes.len()
        };
        let before = size(&books);
        books.apply(now, &Command::Forget { through: 8_192 });
        // 8,192 ids of 16 bytes, and the reversal.
        assert!(before - size(&books) > 8_192 * 16 + 10, "it is still in memory");
        books.bug = bug;
        let Reply::LookUp(known) = books.apply(now, &Command::Transact(reversal(3))) else { panic!("it is old") };
        let looked = |through, reversed| {
            let looked = Looked::new(through, vec![(TransactionId(1), 1)], reversed);
            Command::Looked(looked, Box::new(Command::Transact(reversal(3))))
        };
        let by = vec![(TransactionId(1), 2)];
        assert!(matches!(books.apply(now, &looked(8_191, by.clone())), Reply::LookUp(_)));
        let again = books.apply(now, &looked(known.through(), by));
        let is_refused = matches!(&again, Reply::Rejected(why)
            if **why == Rejection::AlreadyReversed { reverses: TransactionId(1), by: 2 });
        assert_eq!(is_refused, bug.is_none(), "{again:?}");
    }
}

/// A log on which others record much before each look at the store is told to the books.
#[derive(Clone)]
struct Busy {
    replica: Replica<Books>,
    others: OnMemory,
    looks: Arc<AtomicU32>,
    /// So many transactions.
    meanwhile: u32,
}

impl Followed<Books> for Busy {
    fn durability(&self) -> Durability {
        Followed::durability(&self.replica)
    }

    async fn read_latest<R: Send, F: FnOnce(&Books) -> R + Send>(&self, read: F) -> Result<R> {
        self.replica.read_latest(read).await
    }

    fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&Books) -> R) -> Result<R> {
        self.replica.read_within(staleness_max, read)
    }
}

impl Replicated<Books> for Busy {
    async fn submit(&self, command: Command) -> Result<Reply> {
        if matches!(command, Command::Looked(..)) {
            let look = self.looks.fetch_add(1, Ordering::Relaxed);
            record_many(&self.replica, 1_000_000 * (1 + look), self.meanwhile).await;
            self.others.write_journal().await?;
        }
        self.replica.submit(command).await
    }
}

/// Under ids that need no look at the store: UUIDs of version 7, of later on, a millisecond apart.
fn many(first: u32, count: u32) -> Vec<Transaction> {
    let id = |number: u32| (1_795_000_001_000 + u128::from(number)) << 80 | 7 << 76 | 0b10 << 62;
    (first..first + count).map(|number| transfer(id(number), 1, 0, 1)).collect()
}

async fn record_many(replica: &Replica<Books>, first: u32, count: u32) {
    for from in (first..first + count).step_by(4_096) {
        let batch = many(from, 4_096);
        let Reply::Batch(replies) = replica.submit(Command::Batch(Arc::new(batch))).await.unwrap() else {
            panic!("a batch")
        };
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
    }
}

/// While ids keep leaving memory, who asks for old ones is answered by one look. It takes another only if all ids that were in memory
/// when the books were first asked have left meanwhile; see `what_left_memory_is_known_only_by_what_the_store_said`.
#[tokio::test]
async fn ids_that_leave_meanwhile_take_nobody_s_turn() {
    let (in_memory, meanwhile) = (32_768, 28_672);
    let (store, clock) = (Memory::new(), start());
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(store.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let config = JournalConfig { ids_in_memory: in_memory, ..config(&clock) };
    let (others, _) = Ledger::that_may_forget(replica.clone(), store.clone(), "books", config.clone()).unwrap();
    for id in 0..2 {
        others.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    others.transact(transfer(7, 1, 0, 1)).await.unwrap();
    record_many(&replica, 0, 45_056).await;
    others.write_journal().await.unwrap();
    assert!(others.read(Books::ids_forgotten).await.unwrap() > 0);
    let looks = Arc::new(AtomicU32::new(0));
    let busy = Busy { replica, others: others.clone(), looks: Arc::clone(&looks), meanwhile };
    let (ledger, _) = Ledger::that_may_forget(busy, store, "books", config).unwrap();

    // New ones, and one of long ago that is taken back.
    let reversal = Transaction { reverses: Some(TransactionId(7)), ..transfer(500_001, 1, 1, 0) };
    let group = vec![transfer(500_000, 5, 0, 1), reversal];
    let before = others.read(Books::ids_forgotten).await.unwrap();
    let answer = ledger.transact_all(group.clone()).await;
    assert!(others.read(Books::ids_forgotten).await.unwrap() > before, "nothing has left meanwhile");
    assert!(matches!(&answer, Ok(Reply::GroupRecorded(receipts)) if receipts.len() == 2), "{answer:?}");
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    // The same again, and one by one.
    assert_eq!(ledger.transact_all(group.clone()).await.unwrap(), answer.unwrap());
    let each = ledger.transact_each(group).await.unwrap();
    assert!(each.iter().all(|reply| matches!(reply, Reply::Recorded(_))), "{each:?}");
}

const JOURNAL: Space = Space::conditional("ledger_journal");

fn segment() -> tuple::KeyBytes {
    tuple::encode(&("books", 0_u8, 0_u64))
}

async fn chunks(store: &Memory) -> BTreeMap<Vec<u8>, Bytes> {
    let rows = store.scan_rows(Scan::partition(JOURNAL, &segment(), 1_000)).await.unwrap();
    rows.into_iter().map(|row| (row.sort.to_vec(), row.record.value)).collect()
}

/// A chunk again, with the hashes that its bytes should have.
fn sealed_chunk(before: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = [&[1], before, body].concat();
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

#[tokio::test]
async fn what_was_changed_behind_the_books_is_named() {
    let (store, clock) = (Memory::new(), start());
    let ledger = with_accounts(&store, &clock).await;
    history(&ledger, &clock, 3, 1_500).await;
    ledger.write_journal().await.unwrap();
    let before = chunks(&store).await;
    assert!(before.len() > 3);
    let (first, whole) = before.iter().nth(1).unwrap();
    let put = |sort: &Vec<u8>, value: Vec<u8>| {
        let (store, partition, sort) = (store.clone(), segment(), sort.clone());
        async move { store.put(Key::row(JOURNAL, &partition, &sort), value).await.unwrap() }
    };
    // A bit.
    for at in [0, 5, 40, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 4;
        put(first, bytes).await;
        let error = ledger.verify().await.unwrap_err();
        assert!(matches!(&error, AuditError::Store(error) if error.kind() == ErrorKind::Corrupt), "{at}: {error}");
    }
    // Another's place, a part, nothing.
    for value in [before.values().next().unwrap().to_vec(), whole[..40].to_vec(), Vec::new()] {
        put(first, value).await;
        assert!(matches!(ledger.verify().await.unwrap_err(), AuditError::Store(_)));
    }
    store.delete(Key::row(JOURNAL, &segment(), first)).await.unwrap();
    let error = ledger.verify().await.unwrap_err();
    assert!(matches!(&error, AuditError::Store(error) if error.kind() == ErrorKind::Corrupt), "{error}");
    // With its own hash right, and the next one's too: the books know the last.
    put(first, sealed_chunk(&[7; 32], &whole[33..whole.len() - 32])).await;
    assert!(matches!(ledger.verify().await.unwrap_err(), AuditError::Chain { .. }));
    put(first, whole.to_vec()).await;
    let sealed = ledger.verify().await.unwrap().sealed;
    ledger.verify_since(&[sealed]).await.unwrap();
    let other = ledger.verify_since(&[(sealed.0, ChunkHash([1; 32]))]).await.unwrap_err();
    assert!(matches!(other, AuditError::Chain { .. }), "{other}");
    // A chunk that ended where none does: what was sealed is there no more.
    for gone in [sealed.0 - 1, sealed.0 + 1, u64::MAX] {
        let gone = ledger.verify_since(&[sealed, (gone, sealed.1)]).await.unwrap_err();
        assert!(matches!(gone, AuditError::Chain { .. }), "{gone}");
    }
    ledger.verify_since(&[(0, ChunkHash::default())]).await.unwrap();

    // The last chunk, made longer with what is still in memory, so that it ends where the books do: an entry of no change.
    let (last, value) = before.iter().next_back().unwrap();
    let mut body = value[33..value.len() - 32].to_vec();
    for _ in 0..40 {
        body.extend_from_slice(&[19, 2, 0]);
        body.extend_from_slice(&[0; 16]);
        body.push(0);
        put(last, sealed_chunk(&value[1..33], &body)).await;
        let error = ledger.verify().await.unwrap_err();
        assert!(matches!(error, AuditError::Chain { .. }), "{error}");
    }
    put(last, value.to_vec()).await;

    // Somebody who can write to the store, and knows how, changes an amount and all hashes behind it. Each byte of the chunk is tried
    // until one is an amount: every one of them is found.
    let mut kinds = BTreeMap::<&str, u32>::new();
    for at in (33..whole.len() - 32).step_by(467) {
        let mut body = whole[33..whole.len() - 32].to_vec();
        body[at - 33] ^= 1;
        let mut hash = whole[1..33].to_vec();
        for (sort, value) in before.range(first.clone()..) {
            let body = if sort == first { &body[..] } else { &value[33..value.len() - 32] };
            let value = sealed_chunk(&hash, body);
            hash = value[value.len() - 32..].to_vec();
            put(sort, value).await;
        }
        let kind = match ledger.verify().await.unwrap_err() {
            AuditError::Entry { number, .. } => {
                assert!(number > 1, "the first chunk is right");
                "entry"
            }
            AuditError::Chain { .. } => "chain",
            AuditError::Index { .. } => "index",
            AuditError::Store(_) => "store",
            other => panic!("{other}"),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    assert!(kinds["entry"] > 4 && kinds["chain"] > 4, "{kinds:?}");
}

#[tokio::test]
async fn the_writer_writes_by_itself_and_the_books_stop_without_it() {
    let (store, clock) = (Memory::new(), start());
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(store.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let (ledger, writer) = Ledger::that_may_forget(replica, store.clone(), "books", config(&clock)).unwrap();
    for id in 0..2 {
        ledger.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    // 16 KiB of memo each: some thousands are too many.
    let memo = "x".repeat(16 << 10);
    let fat = |id| {
        let mut transaction = transfer(id, 1, 0, 1);
        transaction.details = Some(Box::new(Details::new(memo.clone(), vec![]).unwrap()));
        transaction
    };
    let mut id = 0;
    let why = loop {
        id += 1;
        match ledger.transact(fat(id)).await.unwrap() {
            Reply::Recorded(_) => {}
            Reply::Rejected(why) => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!((3_900..4_200).contains(&id) && why.to_string().contains("writer"), "{id}: {why}");
    let writer = tokio::spawn(writer);
    while ledger.read(Books::journal_written).await.unwrap().0 < u64::try_from(id).unwrap() - 4 {
        clock.advance(Duration::from_millis(20));
        tokio::task::yield_now().await;
    }
    assert!(matches!(ledger.transact(fat(id)).await.unwrap(), Reply::Recorded(_)));
    writer.abort();
    assert_eq!(ledger.verify().await.unwrap().entries, u64::try_from(id).unwrap());
}

/// Says that it forgets nothing, and keeps the keys of what was written.
#[derive(Clone)]
struct Durable(Limits, Arc<Mutex<Vec<KeyBuf>>>);

impl Durable {
    fn over(store: Memory) -> Overridden<Memory, Self> {
        let mut limits = *store.limits();
        limits.durability = Durability::Durable;
        Overridden(store, Self(limits, Arc::default()))
    }
}

impl Overrides<Memory> for Durable {
    fn limits<'a>(&'a self, _: &'a Memory) -> &'a Limits {
        &self.0
    }

    async fn write_many(&self, store: &Memory, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.1.lock().unwrap().extend(writes.iter().map(|write| write.key.to_owned()));
        store.write_many(writes).await
    }
}

/// While it is set, no journal can be written.
#[derive(Clone, Default)]
struct Stopped(Arc<AtomicBool>);

impl Overrides<Memory> for Stopped {
    async fn write_many(&self, store: &Memory, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        if self.0.load(Ordering::Relaxed) {
            let refused = || Error::new(ErrorKind::Full, Effect::None, "the disk is full");
            return writes.iter().map(|_| Err(refused())).collect();
        }
        store.write_many(writes).await
    }
}

#[tokio::test]
async fn transactions_wait_while_the_journal_waits_for_the_store_and_are_rejected_before_memory_is_full() {
    let (memory, stopped, clock) = (Memory::new(), Stopped::default(), start());
    let store = Overridden(memory.clone(), stopped.clone());
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::open(memory, "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let (ledger, writer) = Ledger::that_may_forget(replica, store.clone(), "books", config(&clock)).unwrap();
    for id in 0..2 {
        ledger.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    let with_memo = |id| {
        let details = Details::new("x".repeat(16_000), Vec::new()).unwrap();
        Transaction { details: Some(Box::new(details)), ..transfer(id, 1, 0, 1) }
    };
    stopped.0.store(true, Ordering::Relaxed);
    let mut ids = 0..;
    let mut batch = || ids.by_ref().take(60).map(with_memo).collect::<Vec<_>>();
    // 32 MiB and a little.
    for _ in 0..36 {
        let replies = ledger.transact_each(batch()).await.unwrap();
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
    }
    // Nobody has looked yet; now somebody does.
    assert_eq!(ledger.write_journal().await.unwrap_err().kind(), ErrorKind::Full);
    let mut waiting = Box::pin(ledger.transact_each(batch()));
    for _ in 0..50 {
        clock.advance(Duration::from_millis(1));
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut waiting).is_pending());
    }
    assert_eq!(ledger.read(Books::journal_len).await.unwrap(), 36 * 60);
    stopped.0.store(false, Ordering::Relaxed);
    ledger.write_journal().await.unwrap();
    clock.advance(Duration::from_millis(20));
    assert!(waiting.await.unwrap().iter().all(|reply| matches!(reply, Reply::Recorded(_))));

    // Nobody waits for a writer that is gone: the books decide.
    stopped.0.store(true, Ordering::Relaxed);
    for _ in 0..36 {
        ledger.transact_each(batch()).await.unwrap();
    }
    let writer = tokio::spawn(writer);
    let mut waiting = Box::pin(ledger.transact_each(batch()));
    while futures::poll!(&mut waiting).is_ready() {
        tokio::task::yield_now().await;
        waiting = Box::pin(ledger.transact_each(batch()));
    }
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    let replies = ledger.transact_each(batch()).await.unwrap();
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
    clock.advance(Duration::from_secs(2));
    waiting.await.unwrap();
    stopped.0.store(false, Ordering::Relaxed);
    ledger.write_journal().await.unwrap();

    // What only a ledger knows nobody tells it.
    let (_, hash) = ledger.read(Books::journal_written).await.unwrap();
    let looked = Command::Looked(Looked::new(u64::MAX, vec![], vec![]), Box::new(Command::Tick));
    for command in [Command::Wrote { through: 1 << 40, hash }, Command::Forget { through: 1 }, looked] {
        let error = ledger.ask(command).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None));
    }

    // Whoever has waited long enough is recorded as long as there is room, and then rejected.
    stopped.0.store(true, Ordering::Relaxed);
    let mut rejected = 0;
    for _ in 0..80 {
        // The writer looks, in vain.
        let _ = ledger.write_journal().await;
        let mut asked = Box::pin(ledger.transact_each(batch()));
        let replies = loop {
            match futures::poll!(&mut asked) {
                std::task::Poll::Ready(replies) => break replies.unwrap(),
                std::task::Poll::Pending => clock.advance(Duration::from_millis(20)),
            }
            tokio::task::yield_now().await;
        };
        for reply in replies {
            match reply {
                Reply::Recorded(_) => assert_eq!(rejected, 0),
                Reply::Rejected(why) => {
                    assert!(matches!(*why, Rejection::JournalBehind { bytes } if bytes > 64 << 20), "{why}");
                    rejected += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(rejected > 0);
    stopped.0.store(false, Ordering::Relaxed);
    ledger.write_journal().await.unwrap();
    assert!(matches!(ledger.transact(transfer(1 << 40, 1, 0, 1)).await.unwrap(), Reply::Recorded(_)));
}

/// Counts scans; while it is set, pages of ids are not written.
#[derive(Clone, Default)]
struct Pages {
    scans: Arc<AtomicU32>,
    hang: Arc<AtomicBool>,
}

impl Overrides<Memory> for Pages {
    async fn write_many(&self, store: &Memory, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let is_page = |write: &Write<'_>| write.key.partition().starts_with(&tuple::encode(&("books", 1_u8)));
        if self.hang.load(Ordering::Relaxed) && writes.iter().any(is_page) {
            std::future::pending::<()>().await;
        }
        store.write_many(writes).await
    }

    async fn scan(&self, store: &Memory, scan: Scan<'_>) -> Result<sysd_core::Page> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        store.scan(scan).await
    }
}

#[tokio::test]
async fn the_journal_goes_on_while_ids_leave_and_old_ids_are_looked_up_together() {
    let (memory, pages, clock) = (Memory::new(), Pages::default(), start());
    let store = Overridden(memory.clone(), pages.clone());
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(memory, "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let (ledger, writer) = Ledger::that_may_forget(replica.clone(), store, "books", config(&clock)).unwrap();
    for id in 0..2 {
        ledger.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    tokio::spawn(writer);
    pages.hang.store(true, Ordering::Relaxed);
    let mut next = 0;
    for _ in 0..4 {
        record_many(&replica, next, 16_384).await;
        next += 16_384;
        // All of it but what fills no chunk yet.
        while ledger.read(Books::journal_written).await.unwrap().0 + 2_000 < u64::from(next) {
            clock.advance(Duration::from_millis(20));
            tokio::task::yield_now().await;
        }
        assert_eq!(ledger.read(Books::ids_forgotten).await.unwrap(), 0);
    }
    pages.hang.store(false, Ordering::Relaxed);
    while ledger.read(Books::ids_forgotten).await.unwrap() < 32_768 {
        clock.advance(Duration::from_millis(20));
        tokio::task::yield_now().await;
    }
    // A thousand of them again: they were minted within a second, which has sixteen partitions.
    pages.scans.store(0, Ordering::Relaxed);
    let replies = ledger.transact_each(many(0, 1_000)).await.unwrap();
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))), "{:?}", replies[0]);
    let scans = pages.scans.load(Ordering::Relaxed);
    assert!((1..=64).contains(&scans), "{scans} scans");
}

/// Rows of every kind, each taken away and each changed: an audit names an entry that is not found any more.
#[tokio::test]
async fn rows_that_lead_to_entries_are_proven_too() {
    let (store, clock) = (Memory::new(), start());
    let durable = Durable::over(store.clone());
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(durable.clone(), "books", replica_config).await.unwrap();
    tokio::spawn(driver);
    let (ledger, _writer) = Ledger::new(replica, durable.clone(), "books", config(&clock)).unwrap();
    for id in 0..2 {
        ledger.open_account(Account::new(AccountId(id), euro(), AccountKind::Liability)).await.unwrap();
    }
    let one = |id: u128| {
        let mut one = transfer(id, 1, 0, 1);
        match id {
            50 => one.reverses = Some(TransactionId(1)),
            100..103 => one.effective = Some(Date(Date::of(clock.now()).0 - 3)),
            200..203 => {
                let order = vec![("order".to_owned(), id.to_string())];
                one.details = Some(Box::new(Details::new("for it", order).unwrap()));
            }
            _ => {}
        }
        one
    };
    for from in (1..9_001).step_by(3_000) {
        let replies = ledger.transact_each((from..from + 3_000).map(one).collect()).await.unwrap();
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
    }
    ledger.write_journal().await.unwrap();
    assert_eq!(ledger.verify().await.unwrap().entries, 9_000);

    let written = durable.1.1.lock().unwrap().clone();
    for (kind, expected) in [(1_u8, "its id"), (2, "its day"), (3, "its metadata"), (4, "what it reverses")] {
        let prefix = tuple::encode(&("books", kind));
        let rows: Vec<_> = written.iter().filter(|key| key.as_key().partition().starts_with(&prefix)).collect();
        assert!(!rows.is_empty(), "{expected}");
        for key in rows.iter().step_by(rows.len().div_ceil(3)) {
            let key = key.as_key();
            let value = store.get(key).await.unwrap().unwrap().value;
            let mut other = value.to_vec();
            match other.last_mut() {
                Some(last) => *last ^= 1,
                None => other.push(1),
            }
            for damage in [None, Some(other)] {
                match damage {
                    Some(other) => store.put(key, other).await.unwrap(),
                    None => store.delete(key).await.unwrap(),
                }
                match ledger.verify().await.unwrap_err() {
                    AuditError::Index { what, number } => {
                        assert_eq!(what, expected);
                        assert!((1..=9_000).contains(&number));
                    }
                    other => panic!("{expected}: {other}"),
                }
                store.put(key, value.clone()).await.unwrap();
            }
        }
    }
    ledger.verify().await.unwrap();
}

#[tokio::test]
async fn two_ledgers_of_one_name_do_not_write_over_each_other() {
    let (store, clock) = (Memory::new(), start());
    let ledger = with_accounts(&store, &clock).await;
    for id in 0..1_000 {
        ledger.transact(transfer(id, 1, 0, 1)).await.unwrap();
    }
    ledger.write_journal().await.unwrap();
    let written = chunks(&store).await;
    assert!(!written.is_empty());
    // Another log, whose store forgets nothing, with the first one's name for its journal.
    let replica_config = ReplicaConfig { clock: Arc::clone(&clock) as Arc<_>, ..ReplicaConfig::default() };
    let durable = Durable::over(store.clone());
    let (replica, driver) = Replica::<Books>::open(durable.clone(), "other", replica_config).await.unwrap();
    tokio::spawn(driver);
    let (other, _writer) = Ledger::new(replica, durable, "books", config(&clock)).unwrap();
    for id in 0..2 {
        other.open_account(Account::new(AccountId(id), euro(), AccountKind::Asset)).await.unwrap();
    }
    for id in 0..1_000 {
        other.transact(transfer(id, 2, 0, 1)).await.unwrap();
    }
    let error = other.write_journal().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("another ledger"), "{error}");
    assert!(chunks(&store).await == written, "something was written over, or between");
    ledger.verify().await.unwrap();
}
