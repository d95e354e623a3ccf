//! The ledger: `cargo bench -p sysd-benches --bench ledger`. An argument chooses rows by a part of their name.
//!
//! `machine_…`: two-leg transfers on the pure machine, one thread, each with an id of its own and the balances after it in its
//! answer, over 10 thousand and 10 million accounts, evenly, and over ten accounts that every transfer touches; beside a bare
//! sketch: a hash set of ids and an array of balances. Memory is what the process grew by.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a bench")]

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::Timestamp;
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, ChunkHash, Command, Currency, Reply, Transaction, TransactionId,
};

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
}

impl Traffic {
    /// Which accounts, and the id, of the next transfer.
    fn next(&mut self) -> (u64, u64, u128) {
        let from = self.random.random_range(0..self.hot);
        let mut to = self.random.random_range(0..self.accounts);
        if to == from {
            to = (to + 1) % self.accounts;
        }
        self.next += 1;
        // As a UUID of version 7 is: a time, and chance.
        (from, to, self.next << 80 | self.random.random::<u128>() >> 48)
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
    let mut traffic = Traffic { random: Pcg64Mcg::seed_from_u64(7), accounts, hot, next: 1 };
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
                vec![Command::Batch(transactions.collect())]
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
    let mut traffic = Traffic { random: Pcg64Mcg::seed_from_u64(7), accounts: 2, hot: 1, next: 1 };
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

fn main() {
    ids();
    machine("machine_10k", 10_000, 10_000, true);
    machine("machine_10k_one_by_one", 10_000, 10_000, false);
    machine("machine_10k_hot_10", 10_000, 10, true);
    machine("machine_10m", 10_000_000, 10_000_000, true);
}
