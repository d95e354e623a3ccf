//! The ledger: `cargo bench -p sysd-benches --all-features --bench ledger`. An argument chooses rows by a part of their name.
//!
//! `durable_STORE_…`: the ledger on a store, the journal's writer running beside it: `batches` of 8,189 transfers each, four on their way
//! at once; `1000` and `64` callers with one transfer each, with how long they waited. On `local` every answer comes after a sync, and
//! `append` is the bare thing: as many bytes as the log's, written to a file and synced, batch by batch. `open`: books of ten million
//! transfers, opened from a snapshot and what came after it. Redis and Cassandra are those of `SYSD_TEST_REDIS_URL` and
//! `SYSD_TEST_CASSANDRA_URL`.
//!
//! `shards_…`: one ledger of several, see `ledger/shards.rs`.
//!
//! `machine_…`: two-leg transfers on the pure machine, one thread, each with an id of its own and the balances after it in its
//! answer, over 10 thousand and 10 million accounts, evenly, and over ten accounts that every transfer touches; beside a bare
//! sketch: a hash set of ids and an array of balances. Memory is what the process grew by.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a bench")]

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::{Clock as _, Store, SystemClock, Timestamp};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, ChunkHash, Command, Currency, JournalConfig, Ledger, Reply, Transaction,
    TransactionId,
};
use sysd_storage::{LocalStore, Replica, ReplicaConfig};

#[path = "ledger/shards.rs"]
mod shards;

const ROUNDS: usize = 11;
const TRANSFERS: usize = 1 << 19;
const BATCH: usize = 1 << 12;

fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// Resident memory, in bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4_096.0
}

/// Ids of accounts as applications have them: not in order.
fn account(at: u64) -> AccountId {
    AccountId(u128::from(at.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | u128::from(at))
}

struct Traffic {
    random: Pcg64Mcg,
    accounts: u64,
    hot: u64,
    next: u128,
    minted_at_ms: u128,
}

impl Traffic {
    /// The ids of the next ones are minted now.
    fn mint_now(&mut self) {
        let now_ms = u128::from(SystemClock.now().as_micros()) / 1_000;
        self.minted_at_ms = now_ms.saturating_sub(self.next / 1_000);
    }

    /// Which accounts, and the id, of the next transfer.
    fn next(&mut self) -> (u64, u64, u128) {
        let from = self.random.random_range(0..self.hot);
        let mut to = self.random.random_range(0..self.accounts);
        if to == from {
            to = (to + 1) % self.accounts;
        }
        (from, to, self.id())
    }

    fn id(&mut self) -> u128 {
        self.next += 1;
        // A UUID of version 7: a time in milliseconds, and chance.
        let chance = self.random.random::<u128>() & !(0xF << 76 | 0b11 << 62) & ((1 << 80) - 1);
        (self.minted_at_ms + self.next / 1_000) << 80 | 7 << 76 | 0b10 << 62 | chance
    }
}

fn summary(mut rates: Vec<f64>) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[0], rates[rates.len() / 2])
}

fn machine(name: &str, accounts: u64, hot: u64, batched: bool) {
    if !is_wanted(name) {
        return;
    }
    let euro = Currency::iso("EUR").unwrap();
    let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
    let before = resident();
    let mut books = Books::default();
    for at in 0..accounts {
        let opened = Account::new(account(at), euro, AccountKind::Liability);
        assert_eq!(books.apply(now, &Command::Open(Box::new(opened))), Reply::Done);
    }
    let of_accounts = resident() - before;
    let mut traffic =
        Traffic { random: Pcg64Mcg::seed_from_u64(7), accounts, hot, next: 1, minted_at_ms: 1_795_000_000_000 };
    let mut sketch = (
        HashSet::<u128, foldhash::fast::RandomState>::default(),
        vec![[0_u128; 2]; usize::try_from(accounts).unwrap()],
    );
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut our_time, mut bare_time) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..TRANSFERS / BATCH {
            // As they are where they come from: just decoded.
            let picked: Vec<_> = (0..BATCH).map(|_| traffic.next()).collect();
            let transactions = picked
                .iter()
                .map(|(from, to, id)| Transaction::transfer(TransactionId(*id), euro, 7, account(*to), account(*from)));
            let commands: Vec<_> = if batched {
                vec![Command::Batch(Arc::new(transactions.collect()))]
            } else {
                transactions.map(Command::Transact).collect()
            };
            let start = Instant::now();
            for command in &commands {
                match black_box(books.apply(now, command)) {
                    Reply::Recorded(_) => {}
                    Reply::Batch(replies) => assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_)))),
                    other => panic!("{other:?}"),
                }
            }
            our_time += start.elapsed();
            // As if the store had it.
            let wrote = Command::Wrote { through: books.journal_full(), hash: ChunkHash::default() };
            books.apply(now, &wrote);
            let start = Instant::now();
            for (from, to, id) in &picked {
                assert!(sketch.0.insert(*id));
                sketch.1[usize::try_from(*from).unwrap()][0] += 7;
                sketch.1[usize::try_from(*to).unwrap()][1] += 7;
            }
            bare_time += start.elapsed();
        }
        let rate = |time: Duration| TRANSFERS as f64 / time.as_secs_f64() / 1e6;
        ours.push(rate(our_time));
        bare.push(rate(bare_time));
    }
    books.verify().unwrap();
    let (ours, bare) = (summary(ours), summary(bare));
    println!(
        "{name:<24} min {:.2} median {:.2} M transfers/s; a sketch min {:.2} median {:.2}; {:.0} bytes an account",
        ours.0,
        ours.1,
        bare.0,
        bare.1,
        of_accounts / accounts as f64
    );
}

/// What an id takes that the books remember.
fn ids() {
    if !is_wanted("ids") {
        return;
    }
    let euro = Currency::iso("EUR").unwrap();
    let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
    let mut books = Books::default();
    for at in 0..2 {
        let opened = Account::new(account(at), euro, AccountKind::Liability);
        assert_eq!(books.apply(now, &Command::Open(Box::new(opened))), Reply::Done);
    }
    let mut traffic =
        Traffic { random: Pcg64Mcg::seed_from_u64(7), accounts: 2, hot: 1, next: 1, minted_at_ms: 1_795_000_000_000 };
    let (before, count) = (resident(), 20 * TRANSFERS);
    for _ in 0..count {
        let (from, to, id) = traffic.next();
        let transfer = Transaction::transfer(TransactionId(id), euro, 7, account(to), account(from));
        assert!(matches!(books.apply(now, &Command::Transact(transfer)), Reply::Recorded(_)));
        let wrote = Command::Wrote { through: books.journal_full(), hash: ChunkHash::default() };
        books.apply(now, &wrote);
    }
    println!("ids                      {:.0} bytes each of {count}", (resident() - before) / count as f64);
}

const DURABLE_BATCH: u64 = 8_189;
const DURABLE_ACCOUNTS: u64 = 10_000;
/// So many are on their way at once. Making them is timed too.
const BATCHES_AT_ONCE: usize = 4;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

type Opened<S> = (Ledger<Replica<Books>, S>, Vec<tokio::task::JoinHandle<()>>);

async fn open<S: Store + Clone>(store: &S, name: &str) -> Opened<S> {
    let config = ReplicaConfig { snapshot_log_bytes: Some(256 << 20), ..ReplicaConfig::default() };
    let (replica, driver) = Replica::<Books>::open(store.clone(), name, config).await.unwrap();
    let driver = tokio::spawn(async move { driver.await.unwrap() });
    let (ledger, writer) = Ledger::that_may_forget(replica, store.clone(), name, JournalConfig::default()).unwrap();
    (ledger, vec![tokio::spawn(writer), driver])
}

async fn with_accounts<S: Store + Clone>(store: &S, name: &str) -> Opened<S> {
    let (ledger, tasks) = open(store, name).await;
    let euro = Currency::iso("EUR").unwrap();
    let opened = (0..DURABLE_ACCOUNTS).map(|at| {
        let ledger = ledger.clone();
        async move { ledger.open_account(Account::new(account(at), euro, AccountKind::Liability)).await.unwrap() }
    });
    futures::stream::iter(opened).buffer_unordered(1_000).collect::<Vec<_>>().await;
    (ledger, tasks)
}

fn transfers(traffic: &mut Traffic, count: u64) -> Vec<Transaction> {
    let euro = Currency::iso("EUR").unwrap();
    let transfer = |(from, to, id)| Transaction::transfer(TransactionId(id), euro, 7, account(to), account(from));
    (0..count).map(|_| transfer(traffic.next())).collect()
}

/// `start` sets rows apart.
fn traffic(hot: u64, start: u64) -> Traffic {
    let random = Pcg64Mcg::seed_from_u64(7 + start);
    let mut traffic = Traffic { random, accounts: DURABLE_ACCOUNTS, hot, next: 1, minted_at_ms: 0 };
    traffic.mint_now();
    traffic
}

/// Batches, four on their way at once, until that many transfers are recorded, with the rates of eleven parts of them.
async fn batches<S: Store + Clone>(name: &str, ledger: &Ledger<Replica<Books>, S>, hot: u64, count: u64) {
    let mut traffic = traffic(hot, ledger.read(Books::journal_len).await.unwrap());
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let each = (count / DURABLE_BATCH / ROUNDS as u64).max(1);
        let start = Instant::now();
        // Made just before, as callers do: ids are minted when they are asked for.
        let made = (0..each).map(|_| {
            traffic.mint_now();
            transfers(&mut traffic, DURABLE_BATCH)
        });
        let recorded = futures::stream::iter(made).map(|batch| async { ledger.transact_each(batch).await.unwrap() });
        let mut recorded = recorded.buffer_unordered(BATCHES_AT_ONCE);
        while let Some(replies) = recorded.next().await {
            let refused = replies.iter().find(|reply| !matches!(reply, Reply::Recorded(_)));
            assert!(refused.is_none(), "{refused:?}");
        }
        if round + 1 == ROUNDS {
            ledger.write_journal().await.unwrap();
        }
        rates.push((each * DURABLE_BATCH) as f64 / start.elapsed().as_secs_f64() / 1e6);
    }
    let (first, last) = (rates[0], rates[ROUNDS - 1]);
    let (min, median) = summary(rates);
    println!(
        "{name:<32} min {min:.3} median {median:.3} M transfers/s; the first eleventh {first:.3}, the last {last:.3}"
    );
}

/// Callers with one transfer each, until none is left: how long that took, and how long each waited, in microseconds.
async fn called<F>(
    callers: usize,
    made: Vec<Transaction>,
    call: impl Fn(Transaction) -> F + Clone + Send + 'static,
) -> (Duration, Histogram<u64>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let made = Arc::new(Mutex::new(made));
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (call, made) = (call.clone(), Arc::clone(&made));
            tokio::spawn(async move {
                let mut waits = Histogram::<u64>::new(3).unwrap();
                loop {
                    let Some(transfer) = made.lock().pop() else { return waits };
                    let start = Instant::now();
                    call(transfer).await;
                    waits.record(u64::try_from(start.elapsed().as_micros()).unwrap()).unwrap();
                }
            })
        })
        .collect();
    let mut waits = Histogram::<u64>::new(3).unwrap();
    for task in tasks {
        waits.add(task.await.unwrap()).unwrap();
    }
    (start.elapsed(), waits)
}

fn quantiles(waits: &Histogram<u64>) -> String {
    let at = |quantile| waits.value_at_quantile(quantile);
    format!("p50 {} us, p99 {} us, longest {} us", at(0.5), at(0.99), waits.max())
}

async fn callers<S: Store + Clone>(name: &str, ledger: &Ledger<Replica<Books>, S>, callers: usize, count: u64) {
    let mut traffic = traffic(DURABLE_ACCOUNTS, ledger.read(Books::journal_len).await.unwrap());
    let asked = ledger.clone();
    let call = move |transfer| {
        let ledger = asked.clone();
        async move { assert!(matches!(ledger.transact(transfer).await.unwrap(), Reply::Recorded(_))) }
    };
    let (time, waits) = called(callers, transfers(&mut traffic, count), call).await;
    println!("{name:<32} {:.0} transfers/s; {}", count as f64 / time.as_secs_f64(), quantiles(&waits));
}

async fn durable<S: Store + Clone>(kind: &str, store: &S, count: u64) {
    let rows = ["batches", "hot_10", "1000", "64"].map(|row| format!("durable_{kind}_{row}"));
    if !rows.iter().any(|row| is_wanted(row)) {
        return;
    }
    let name = format!("bench-{:x}", rand::random::<u64>());
    let (ledger, tasks) = with_accounts(store, &name).await;
    for (row, hot) in rows.iter().zip([DURABLE_ACCOUNTS, 10]) {
        if is_wanted(row) {
            batches(row, &ledger, hot, count).await;
        }
    }
    for (row, count_of) in rows[2..].iter().zip([1_000, 64]) {
        if is_wanted(row) {
            callers(row, &ledger, count_of, count / 8).await;
        }
    }
    ledger.write_journal().await.unwrap();
    let audit = ledger.verify().await.unwrap();
    println!("{:<32} {} entries verified, {:.0} MB resident", "", audit.entries, resident() / 1e6);
    ended(tasks).await;
}

/// What a disk gives that does nothing else: the bytes of a batch's entry in the log, appended and synced.
fn append(directory: &std::path::Path) {
    use std::io::Write as _;
    if !is_wanted("durable_local_append") {
        return;
    }
    let mut file = std::fs::File::create(directory.join("append")).unwrap();
    let bytes = vec![0x5A; 65 * usize::try_from(DURABLE_BATCH).unwrap()];
    let rates = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for _ in 0..20 {
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
        }
        (20 * DURABLE_BATCH) as f64 / start.elapsed().as_secs_f64() / 1e6
    });
    let (min, median) = summary(rates.collect());
    println!("{:<32} min {min:.3} median {median:.3} M transfers/s", "durable_local_append");
}

async fn ended(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

/// Books of ten million transfers, opened again, the store too.
async fn reopen(directory: &std::path::Path) {
    if !is_wanted("open_10m") {
        return;
    }
    let store = LocalStore::open(directory.join("open")).await.unwrap();
    let (ledger, tasks) = with_accounts(&store, "open").await;
    let mut traffic = traffic(DURABLE_ACCOUNTS, 1);
    for part in 0..10_000_000 / DURABLE_BATCH {
        traffic.mint_now();
        ledger.transact_each(transfers(&mut traffic, DURABLE_BATCH)).await.unwrap();
        if part == 1_000 {
            ledger.log().snapshot().await.unwrap();
        }
    }
    ended(tasks).await;
    drop((ledger, store));
    let start = Instant::now();
    let store = LocalStore::open(directory.join("open")).await.unwrap();
    let (ledger, tasks) = open(&store, "open").await;
    let count = ledger.read(Books::journal_len).await.unwrap();
    println!("{:<32} {count} transfers in {:.2} s", "open_10m", start.elapsed().as_secs_f64());
    ended(tasks).await;
}

fn main() {
    ids();
    machine("machine_10k", 10_000, 10_000, true);
    machine("machine_10k_one_by_one", 10_000, 10_000, false);
    machine("machine_10k_hot_10", 10_000, 10, true);
    machine("machine_10m", 10_000_000, 10_000_000, true);
    let directory = std::env::temp_dir().join(format!("sysd-bench-{}-ledger", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    append(&directory);
    let runtime = runtime();
    runtime.block_on(async {
        let store = LocalStore::open(directory.join("store")).await.unwrap();
        durable("local", &store, 4_000_000).await;
        if std::env::args().any(|argument| argument == "durable_local_50m") {
            // Only where it is asked for: it takes minutes.
            let (ledger, tasks) = with_accounts(&store, "50m").await;
            batches("durable_local_50m", &ledger, DURABLE_ACCOUNTS, 50_000_000).await;
            batches("durable_local_50m then", &ledger, DURABLE_ACCOUNTS, 4_000_000).await;
            callers("durable_local_50m then 64", &ledger, 64, 200_000).await;
            println!("{:<32} {:.0} MB resident", "", resident() / 1e6);
            ended(tasks).await;
        }
        reopen(&directory).await;
        shards::rows(&directory).await;
        for (kind, variable, count) in
            [("redis", "SYSD_TEST_REDIS_URL", 2_000_000), ("cassandra", "SYSD_TEST_CASSANDRA_URL", 500_000)]
        {
            match std::env::var(variable) {
                Ok(url) => {
                    sysd_storage::prepare(&url).await.unwrap();
                    durable(kind, &sysd_storage::open(&url).await.unwrap(), count).await;
                }
                Err(_) => println!("durable_{kind}: {variable} is not set: cargo xtask servers up"),
            }
        }
    });
    std::fs::remove_dir_all(&directory).unwrap();
}
