//! Transfers between two of ten thousand accounts, each durable before it is answered: the ledger on the local store beside PostgreSQL
//! and beside `cala-ledger`, in turns in one run. Of ours and of PostgreSQL once more with ten accounts that every transfer touches:
//! `hot_10`.
//!
//! PostgreSQL does the same in one function and so in one transaction, called by `pgbench` with 8 clients: the id with a unique key, two
//! accounts locked in order and changed, a row of the journal and two of entries. Its settings are its own. It is started in a
//! directory of its own, on a socket in there, and needs `initdb`, `postgres`, `pgbench` and `psql` (Debian: `postgresql`).
//!
//! `cala-ledger` has a database on the same server, and 8 callers. It needs the feature of its name.
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "cala-ledger")]
mod cala;
mod postgres;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Currency, JournalConfig, Ledger, Reply, Transaction, TransactionId,
};
use sysd_storage::{LocalStore, Replica, ReplicaConfig};

use crate::postgres::Postgres;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const ACCOUNTS: u64 = 10_000;
/// So many of them are debited, the rest is credited.
const DEBITS: u64 = ACCOUNTS / 2;
/// As `hot_10`.
const DEBITS_HOT: u64 = 10;
const BATCH: usize = 8_189;

const POSTGRES: &str = "PostgreSQL, 8 clients";
const POSTGRES_HOT: &str = "PostgreSQL, 8 clients, hot_10";
const CALA: &str = "cala-ledger, 8 callers";

type OnDisk = Ledger<Replica<Books>, LocalStore>;

/// Two accounts for each transfer, and UUIDs of version 7. Clones share what is counted.
#[derive(Clone)]
struct Traffic {
    count: Arc<AtomicU64>,
    debits: u64,
}

fn mixed(count: u64, salt: u64) -> u64 {
    (count ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

impl Traffic {
    fn even() -> Self {
        Self { count: Arc::default(), debits: DEBITS }
    }

    fn hot(&self) -> Self {
        Self { debits: DEBITS_HOT, ..self.clone() }
    }

    /// How many were asked for.
    #[cfg(feature = "cala-ledger")]
    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Which to debit, and which to credit.
    #[cfg(feature = "cala-ledger")]
    fn accounts(&self) -> (u64, u64) {
        self.accounts_of(self.count.fetch_add(1, Ordering::Relaxed))
    }

    fn accounts_of(&self, count: u64) -> (u64, u64) {
        (mixed(count, 2) % self.debits, DEBITS + mixed(count, 3) % (ACCOUNTS - DEBITS))
    }

    fn next(&self) -> Transaction {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let chance = u128::from(mixed(count, 1)) << 12 & ((1 << 62) - 1);
        let id = ms << 80 | 7 << 76 | 0b10 << 62 | chance | u128::from(count & 0xFFF);
        let (debit, credit) = self.accounts_of(count);
        let euro = Currency::iso("EUR").unwrap();
        Transaction::transfer(TransactionId(id), euro, 7, AccountId(credit.into()), AccountId(debit.into()))
    }
}

/// Who asks for one transfer after the other.
trait Caller: Clone + Send + Sync + 'static {
    fn transfer(&self) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Ours {
    ledger: OnDisk,
    traffic: Traffic,
}

impl Caller for Ours {
    async fn transfer(&self) {
        assert!(matches!(self.ledger.transact(self.traffic.next()).await.unwrap(), Reply::Recorded(_)));
    }
}

impl Ours {
    fn hot(&self) -> Self {
        Self { traffic: self.traffic.hot(), ..self.clone() }
    }

    /// Batches, two on their way at once.
    async fn batches(&self) -> f64 {
        let (start, mut count) = (Instant::now(), 0);
        let batch = || self.ledger.transact_each((0..BATCH).map(|_| self.traffic.next()).collect());
        let going = futures::stream::repeat_with(batch).take_while(|_| std::future::ready(start.elapsed() < ROUND));
        let mut going = std::pin::pin!(going.buffer_unordered(2));
        while let Some(replies) = going.next().await {
            let replies = replies.unwrap();
            assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
            count += replies.len();
        }
        count as f64 / start.elapsed().as_secs_f64()
    }
}

/// Callers with one transfer each.
async fn callers(caller: &impl Caller, callers: usize) -> f64 {
    let (start, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (caller, is_over) = (caller.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    caller.transfer().await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(ROUND).await;
    is_over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

async fn open(directory: &std::path::Path) -> Ours {
    let store = LocalStore::open(directory.join("ours")).await.unwrap();
    let (replica, driver) = Replica::<Books>::open(store.clone(), "versus", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let (ledger, writer) = Ledger::new(replica, store, "versus", JournalConfig::default()).unwrap();
    tokio::spawn(writer);
    let euro = Currency::iso("EUR").unwrap();
    for at in 0..ACCOUNTS / 100 {
        let opened = (0..100).map(|id| Account::new(AccountId((100 * at + id).into()), euro, AccountKind::Liability));
        let opened = opened.map(|account| ledger.open_account(account));
        futures::future::join_all(opened).await.into_iter().for_each(|reply| assert_eq!(reply.unwrap(), Reply::Done));
    }
    Ours { ledger, traffic: Traffic::even() }
}

/// Transfers a second of each row, in the order in which the rows came first.
#[derive(Default)]
struct Rates(Vec<(&'static str, Vec<f64>)>);

impl Rates {
    fn add(&mut self, row: &'static str, rate: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == row) {
            Some((_, rates)) => rates.push(rate),
            None => self.0.push((row, vec![rate])),
        }
    }

    fn summary(&self, row: &str) -> Option<(f64, f64)> {
        let mut rates = self.0.iter().find(|(name, _)| *name == row)?.1.clone();
        rates.sort_by(f64::total_cmp);
        Some((rates[0], rates[rates.len() / 2]))
    }

    fn print(&self) {
        for (row, _) in &self.0 {
            let Some((min, median)) = self.summary(row) else { continue };
            let (even, is_hot) = row.strip_suffix(", hot_10").map_or((*row, false), |even| (even, true));
            let peer = if is_hot { POSTGRES_HOT } else { POSTGRES };
            let mut text = format!("{row:<31} min {min:.0} median {median:.0} transfers/s");
            for (beside, what) in [(even, "the same evenly"), (peer, peer), (CALA, CALA)] {
                if let Some((_, beside)) = self.summary(beside).filter(|_| beside != *row) {
                    text.push_str(&format!("; {:.2} times {what}", median / beside));
                }
            }
            println!("{text}");
        }
    }
}

fn main() {
    let directory = std::env::temp_dir().join(format!("sysd-versus-{}-ledger", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let postgres = Postgres::start(&directory.join("postgres"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let ours = open(&directory).await;
        let ours_hot = ours.hot();
        #[cfg(feature = "cala-ledger")]
        let cala = match &postgres {
            Some(postgres) => Some(cala::Cala::open(postgres).await),
            None => None,
        };
        let mut rates = Rates::default();
        for _ in 0..ROUNDS {
            rates.add("ours, batches of 8,189", ours.batches().await);
            rates.add("ours, batches of 8,189, hot_10", ours_hot.batches().await);
            rates.add("ours, 1,000 callers", callers(&ours, 1_000).await);
            rates.add("ours, 1,000 callers, hot_10", callers(&ours_hot, 1_000).await);
            rates.add("ours, 8 callers", callers(&ours, 8).await);
            rates.add("ours, 8 callers, hot_10", callers(&ours_hot, 8).await);
            if let Some(postgres) = &postgres {
                rates.add(POSTGRES, tokio::task::block_in_place(|| postgres.round(DEBITS)));
                rates.add(POSTGRES_HOT, tokio::task::block_in_place(|| postgres.round(DEBITS_HOT)));
            }
            #[cfg(feature = "cala-ledger")]
            if let Some(cala) = &cala {
                rates.add(CALA, callers(cala, 8).await);
            }
        }
        ours.ledger.verify().await.unwrap();
        if let Some(postgres) = &postgres {
            postgres.verify();
            #[cfg(feature = "cala-ledger")]
            cala.iter().for_each(|cala| cala.verify(postgres));
        }
        rates.print();
        if postgres.is_none() {
            println!("PostgreSQL is not there: install it (Debian: postgresql)");
        }
        if cfg!(not(feature = "cala-ledger")) {
            println!("cala-ledger is not there: it is the feature `cala-ledger`");
        }
    });
    drop(postgres);
    std::fs::remove_dir_all(&directory).unwrap();
}
