//! One ledger of several: `shards_N_1000` and `shards_N_64`, callers with one transfer each between two of ten thousand accounts, which a
//! hash puts into N shards, each on a store of its own that syncs before it answers; ids are at home where a hash puts them, too. `_near`: the
//! accounts of each lie in one shard, and its id is at home there.
//!
//! `shards_4_fee_…`: every transfer goes from some account in another shard to one in the first, the same for all; in turns with
//! `crossing`: as many between two accounts of two shards. Ids are at home in the payer's shard.
//!
//! In the end of a set of shards nothing is unfinished, everything agrees, and all of it is there: in the sums, and in the journals.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use hdrhistogram::Histogram;
use rand::RngExt as _;
use rand_pcg::Pcg64Mcg;
use sysd_ledger::shards::{Placement, ShardId, Shards, ShardsConfig, ShardsReply};
use sysd_ledger::{Account, AccountId, AccountKind, Books, Currency, Reply, Transaction, TransactionId};
use sysd_storage::{LocalStore, Replica};
use tokio::task::JoinHandle;

use super::{
    DURABLE_ACCOUNTS, Opened, ROUNDS, Traffic, account, called, ended, is_wanted, open, quantiles, resident, summary,
    traffic,
};

/// Of a row; of a row in turns each.
const COUNT: u64 = 440_000;
const AMOUNT: u128 = 7;

/// Between which accounts.
#[derive(Clone, Copy)]
enum Between {
    Any,
    /// Two of one shard.
    Near,
    /// Two of two shards.
    Far,
    /// One that is not in the first shard, and always the same one, which is.
    Fee,
}

struct Bank {
    shards: Shards<Replica<Books>, LocalStore>,
    accounts: Vec<AccountId>,
    by_shard: Vec<Vec<AccountId>>,
    tasks: Vec<JoinHandle<()>>,
    traffic: Traffic,
    placement: Placement,
    within: u64,
    across: u64,
    /// Of those within a shard, whose ids are at home in another.
    claimed: u64,
    /// Of those across shards, whose ids are at home in a third.
    through: u64,
}

/// What was measured of a row.
struct Measured {
    rates: Vec<f64>,
    waits: Histogram<u64>,
    within: u64,
    across: u64,
}

impl Measured {
    fn new() -> Self {
        Self { rates: Vec::new(), waits: Histogram::new(3).unwrap(), within: 0, across: 0 }
    }

    fn print(&self, name: &str) {
        let (min, median) = summary(self.rates.clone());
        let crossed = 100.0 * self.across as f64 / (self.within + self.across) as f64;
        let waits = quantiles(&self.waits);
        println!("{name:<32} min {min:.0} median {median:.0} transfers/s; {waits}; {crossed:.1} % crossed");
    }
}

impl Bank {
    async fn open(directory: &Path, count: u16, placement: Placement) -> Self {
        let directory = directory.join(format!("shards-{:x}", rand::random::<u64>()));
        let (mut ledgers, mut tasks) = (Vec::new(), Vec::new());
        for at in 0..count {
            let store = LocalStore::open(directory.join(at.to_string())).await.unwrap();
            let (ledger, of_ledger): Opened<_> = open(&store, "bench").await;
            ledgers.push(ledger);
            tasks.extend(of_ledger);
        }
        let config = ShardsConfig { placement, ids: placement, ..ShardsConfig::new("bench") };
        let (shards, recovery) = Shards::open(ledgers, config).await.unwrap();
        tasks.push(tokio::spawn(recovery));
        let euro = Currency::iso("EUR").unwrap();
        let (mut accounts, mut by_shard) = (Vec::new(), vec![Vec::new(); count.into()]);
        for (at, named) in (0..DURABLE_ACCOUNTS).zip((0..count).cycle()) {
            let id = match placement {
                Placement::Hashed => account(at),
                Placement::Named => ShardId(named).place(account(at).0),
            };
            accounts.push(id);
            by_shard[usize::from(shards.shard_of(id).unwrap().0)].push(id);
        }
        let opened = accounts.iter().map(|id| {
            let (shards, account) = (shards.clone(), Account::new(*id, euro, AccountKind::Liability));
            async move {
                let reply = shards.open_account(account).await.unwrap();
                assert!(matches!(reply, ShardsReply::Within { reply: Reply::Done, .. }), "{reply:?}");
            }
        });
        futures::stream::iter(opened).buffer_unordered(1_000).collect::<Vec<_>>().await;
        let traffic = traffic(DURABLE_ACCOUNTS, 1);
        Self { shards, accounts, by_shard, tasks, traffic, placement, within: 0, across: 0, claimed: 0, through: 0 }
    }

    /// With an id that is at home with the payer, if ids can be placed; counts what it costs if not.
    fn transfer(&mut self, from: AccountId, to: AccountId) -> Transaction {
        let euro = Currency::iso("EUR").unwrap();
        let mut id = TransactionId(self.traffic.id());
        let [payer, other] = [from, to].map(|account| self.shards.shard_of(account).unwrap());
        if self.placement == Placement::Named {
            id = payer.place_id(id.0);
        } else {
            let home = self.shards.home_of(id).unwrap();
            if home != payer && home != other {
                *(if payer == other { &mut self.claimed } else { &mut self.through }) += 1;
            }
        }
        Transaction::transfer(id, euro, AMOUNT, to, from)
    }

    fn pick(&mut self, between: Between) -> (AccountId, AccountId) {
        let Self { accounts, by_shard, traffic: Traffic { random, .. }, .. } = self;
        let count = by_shard.len();
        let shard = random.random_range(0..count);
        let (from, to): (&[_], &[_]) = match between {
            Between::Any => (accounts, accounts),
            Between::Near => (&by_shard[shard], &by_shard[shard]),
            Between::Far => (&by_shard[shard], &by_shard[(shard + random.random_range(1..count)) % count]),
            Between::Fee => (&by_shard[random.random_range(1..count)], &by_shard[0][..1]),
        };
        let one_of = |random: &mut Pcg64Mcg, of: &[AccountId]| of[random.random_range(0..of.len())];
        let from = one_of(random, from);
        loop {
            let to = one_of(random, to);
            if to != from {
                return (from, to);
            }
        }
    }

    /// An eleventh of a row. Answers its rate.
    async fn turn(&mut self, between: Between, callers: usize, measured: &mut Measured) -> f64 {
        let count = COUNT / ROUNDS as u64;
        self.traffic.mint_now();
        let made = (0..count).map(|_| {
            let (from, to) = self.pick(between);
            self.transfer(from, to)
        });
        let made = made.collect();
        let (shards, counts) = (self.shards.clone(), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let counted = Arc::clone(&counts);
        let call = move |transfer| {
            let (shards, counts) = (shards.clone(), Arc::clone(&counted));
            async move {
                let [within, across] = &*counts;
                let place = match shards.transact(transfer).await.unwrap() {
                    ShardsReply::Within { reply: Reply::Recorded(_), .. } => within,
                    ShardsReply::Recorded { in_transit, .. } if in_transit.is_empty() => across,
                    reply => panic!("{reply:?}"),
                };
                place.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (time, waits) = called(callers, made, call).await;
        let [within, across] = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        (self.within, self.across) = (self.within + within, self.across + across);
        (measured.within, measured.across) = (measured.within + within, measured.across + across);
        measured.waits.add(waits).unwrap();
        let rate = count as f64 / time.as_secs_f64();
        measured.rates.push(rate);
        rate
    }

    async fn row(&mut self, name: &str, between: Between, callers: usize) {
        let mut measured = Measured::new();
        for _ in 0..ROUNDS {
            self.turn(between, callers, &mut measured).await;
        }
        measured.print(name);
    }

    /// In turns with as many across shards that no account is in all of.
    async fn fee(&mut self, name: &str, callers: usize) {
        let (mut crossing, mut fee, mut ratios) = (Measured::new(), Measured::new(), Vec::new());
        for _ in 0..ROUNDS {
            let beside = self.turn(Between::Far, callers, &mut crossing).await;
            ratios.push(self.turn(Between::Fee, callers, &mut fee).await / beside);
        }
        crossing.print(&format!("{name} crossing"));
        fee.print(name);
        ratios.sort_by(f64::total_cmp);
        let (min, median, max) = (ratios[0], ratios[ROUNDS / 2], ratios[ROUNDS - 1]);
        println!("{:<32} {median:.2} times as fast as crossing ({min:.2} to {max:.2})", "");
    }

    /// What was measured was a ledger: all of it is there, once, and agrees.
    async fn end(self) {
        let recovery = self.shards.recover().await;
        assert!(recovery.is_clear(), "{recovery:?}");
        let balance = self.shards.verify().await.unwrap().unwrap();
        assert!(balance.in_transit.values().all(|difference| *difference == 0), "{balance:?}");
        let total = &balance.sums[&Currency::iso("EUR").unwrap()].total;
        // Each part of one that crossed has a leg in transit, and a home of its own two.
        let posted = AMOUNT * u128::from(self.within + 2 * self.across + self.through);
        assert_eq!((total.debits_posted, total.credits_posted), (posted, posted));
        assert_eq!((total.debits_held, total.credits_held), (0, 0));
        let mut entries = 0;
        for ledger in self.shards.ledgers() {
            ledger.write_journal().await.unwrap();
            entries += ledger.verify().await.unwrap().entries;
        }
        // Held and posted, in two shards.
        assert_eq!(entries, self.within + 4 * self.across + self.claimed + 2 * self.through);
        println!("{:<32} {entries} entries verified, {:.0} MB resident", "", resident() / 1e6);
        ended(self.tasks).await;
    }
}

pub(super) async fn rows(directory: &Path) {
    let kinds = [
        (1, "", Placement::Hashed, Between::Any),
        (2, "", Placement::Hashed, Between::Any),
        (4, "", Placement::Hashed, Between::Any),
        (2, "_near", Placement::Named, Between::Near),
        (4, "_near", Placement::Named, Between::Near),
        (4, "_fee", Placement::Named, Between::Fee),
    ];
    for (count, kind, placement, between) in kinds {
        let mut rows = vec![1_000, 64];
        let name = |callers: usize| format!("shards_{count}{kind}_{callers}");
        rows.retain(|callers| is_wanted(&name(*callers)));
        if rows.is_empty() {
            continue;
        }
        let mut bank = Bank::open(directory, count, placement).await;
        for callers in rows {
            match between {
                Between::Fee => bank.fee(&name(callers), callers).await,
                _ => bank.row(&name(callers), between, callers).await,
            }
        }
        bank.end().await;
    }
}
