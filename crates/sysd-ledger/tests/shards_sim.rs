//! Shards on replicas, simulated: a faulty network, processes that crash, callers of the same id, also for other things; and one fault at
//! every storage call.
//!
//! `SYSD_SIM_SEEDS=100000` runs more seeds, `SYSD_SIM_SEED=7` only that one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seeds::{first_failure, from_environment};
use sysd_core::{Clock as _, Effect, Error, RetryPolicy};
use sysd_ledger::shards::{Bug, Placement, ShardId, Shards, ShardsConfig, ShardsReply};
use sysd_ledger::{
    Account, AccountId, AccountKind, Balance, Books, Currency, JournalConfig, Ledger, Posting, Reply, Side,
    Transaction, TransactionId,
};
use sysd_storage::{Replica, ReplicaConfig};
use sysd_testkit::sim::{Fault, Faults, Node, SimStore, Simulation, SkewedClock, sweep};

const SEEDS: u64 = 3_000;
const BUG_SEEDS: u64 = 2_000;
const SHARDS: u16 = 3;
const FUNDS: u128 = 100;
const WALLETS: Range<u128> = 2..4;
const SETTER: Node = Node(8);
const LAST: Node = Node(9);

type OnReplicas = Shards<Replica<Books>, SimStore>;

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

fn dollar() -> Currency {
    Currency::iso("USD").unwrap()
}

/// 1: without bounds; 2 and 3: wallets; 10: without bounds, in dollars.
fn account(shard: u16, which: u128) -> AccountId {
    ShardId(shard).place(which)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn replica_config(simulation: &Simulation, clock: SkewedClock) -> ReplicaConfig {
    ReplicaConfig {
        submit_wait_max: ms([8, 30][usize::try_from(simulation.below(2)).unwrap()]),
        call_wait_max: ms(10),
        poll_every: None,
        snapshot_log_bytes: Some(4_000),
        snapshot_wait_max: Duration::from_secs(1),
        batch_commands_max: 4,
        retry: RetryPolicy { wait_base: ms(1), wait_max: ms(8), ..RetryPolicy::default() },
        clock: Arc::new(clock),
        entropy: simulation.entropy(),
        ..ReplicaConfig::default()
    }
}

/// What callers asked for, and were told, by id.
#[derive(Default)]
struct Seen {
    contents: BTreeMap<u128, Vec<Transaction>>,
    /// And by content.
    outcomes: BTreeMap<(u128, usize), Vec<Outcome>>,
}

impl Seen {
    /// Of somebody who asks for it now. Whoever is never answered counts as unknown.
    fn ask(&mut self, transaction: &Transaction) -> impl FnOnce(&mut Self, Outcome) + use<> {
        let contents = self.contents.entry(transaction.id.0).or_default();
        let which = contents.iter().position(|content| content == transaction).unwrap_or_else(|| {
            contents.push(transaction.clone());
            contents.len() - 1
        });
        let key = (transaction.id.0, which);
        let outcomes = self.outcomes.entry(key).or_default();
        outcomes.push(Outcome::Unknown);
        let at = outcomes.len() - 1;
        move |seen, outcome| seen.outcomes.get_mut(&key).unwrap()[at] = outcome
    }
}

/// As far as it says whether the transaction is there.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    There,
    /// Another is.
    Other(Box<Transaction>),
    NotByThis,
    Unknown,
}

type Shared = Arc<Mutex<Seen>>;

fn outcome(answer: &Result<ShardsReply, Error>) -> Outcome {
    match answer {
        Ok(ShardsReply::Recorded { .. } | ShardsReply::Within { reply: Reply::Recorded(_), .. }) => Outcome::There,
        Ok(ShardsReply::Conflict(conflict)) => Outcome::Other(Box::new(conflict.recorded.clone())),
        Ok(_) => Outcome::NotByThis,
        Err(error) if error.effect() == Effect::None => Outcome::NotByThis,
        Err(_) => Outcome::Unknown,
    }
}

async fn wait(simulation: &Simulation, wait: Duration) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(wait)).await;
}

async fn open_once(simulation: &Simulation, node: Node, bug: Option<Bug>) -> Result<OnReplicas, Error> {
    let clock = SkewedClock::new(simulation.clock(), ms(u64::from(node.0) * 3));
    let mut ledgers = Vec::new();
    for shard in 0..SHARDS {
        let config = replica_config(simulation, clock.clone());
        let (replica, driver) = Replica::open(simulation.store(node), &format!("books-{shard}"), config).await?;
        simulation.spawn(node, async move { assert!(driver.await.is_ok(), "the log can be read") });
        let journal = JournalConfig {
            call_wait_max: ms(10),
            clock: Arc::new(clock.clone()),
            entropy: simulation.entropy(),
            ..JournalConfig::default()
        };
        let name = format!("books-{shard}");
        let (ledger, writer) = Ledger::that_may_forget(replica, simulation.store(node), &name, journal)?;
        simulation.spawn(node, writer);
        ledgers.push(ledger);
    }
    let config = ShardsConfig {
        placement: Placement::Named,
        hold_for: ms(60),
        recover_every: ms(25),
        clock: Arc::new(clock),
        bug,
        ..ShardsConfig::new("bank")
    };
    let (shards, recovery) = Shards::open(ledgers, config).await?;
    simulation.spawn(node, recovery);
    Ok(shards)
}

async fn open(simulation: &Simulation, node: Node, bug: Option<Bug>) -> OnReplicas {
    loop {
        match open_once(simulation, node, bug).await {
            Ok(shards) => return shards,
            Err(_) => wait(simulation, ms(5)).await,
        }
    }
}

/// Accounts and funds, in peace.
async fn set_up(simulation: Simulation) {
    let shards = open_once(&simulation, SETTER, None).await.unwrap();
    for shard in 0..SHARDS {
        let open = |which, currency| Account::new(account(shard, which), currency, AccountKind::Liability);
        shards.open_account(open(1, euro())).await.unwrap();
        shards.open_account(open(10, dollar())).await.unwrap();
        for wallet in WALLETS {
            shards.open_account(open(wallet, euro()).limited()).await.unwrap();
            let id = TransactionId(1_000_000 + u128::from(shard) * 10 + wallet);
            let paid_in = Transaction::transfer(id, euro(), FUNDS, account(shard, wallet), account(shard, 1));
            assert_eq!(outcome(&shards.transact(paid_in).await), Outcome::There);
        }
    }
}

/// A transfer, mostly across shards; an exchange; a payment in all shards.
fn content(simulation: &Simulation, id: u128) -> Transaction {
    let below = |bound| u16::try_from(simulation.below(bound)).unwrap();
    let posting = |shard, which, amount, side| {
        let currency = if which == 10 { dollar() } else { euro() };
        Posting { account: account(shard % SHARDS, which), amount, currency, side }
    };
    let wallet = || 2 + u128::from(below(2));
    let (a, amount) = (below(u64::from(SHARDS)), u128::from(1 + below(70)));
    let postings = match below(6) {
        0 => vec![
            posting(a, 2, amount, Side::Debit),
            posting(a, 1, amount, Side::Credit),
            posting(a + 1, 10, 7, Side::Debit),
            posting(a + 2, 10, 7, Side::Credit),
        ],
        1 => vec![
            posting(a, wallet(), amount + 1, Side::Debit),
            posting(a + 1, wallet(), 1, Side::Credit),
            posting(a + 2, wallet(), amount, Side::Credit),
        ],
        2 => vec![posting(a, 2, amount, Side::Debit), posting(a, 3, amount, Side::Credit)],
        _ => vec![posting(a, wallet(), amount, Side::Debit), posting(a + 1, wallet(), amount, Side::Credit)],
    };
    Transaction::new(TransactionId(id), postings)
}

async fn client(simulation: Simulation, shards: OnReplicas, seen: Shared) {
    for _ in 0..4 {
        wait(&simulation, Duration::from_micros(simulation.below(20_000))).await;
        let id = {
            let next = seen.lock().unwrap().contents.len() as u64;
            // One of the last, or a new one.
            if simulation.chance(300) && next > 0 { next - 1 - simulation.below(next.min(4)) } else { next }
        };
        let id = u128::from(id);
        let (transaction, told) = {
            let fresh = content(&simulation, id);
            let mut seen = seen.lock().unwrap();
            // Now and then somebody asks for something else.
            let transaction = match seen.contents.get(&id) {
                Some(contents) if !simulation.chance(200) => contents[0].clone(),
                _ => fresh,
            };
            let told = seen.ask(&transaction);
            (transaction, told)
        };
        let answer = outcome(&shards.transact(transaction).await);
        told(&mut seen.lock().unwrap(), answer);
    }
}

async fn process(simulation: Simulation, node: Node, seen: Shared, bug: Option<Bug>) {
    let shards = open(&simulation, node, bug).await;
    for _ in 0..2 {
        simulation.spawn(node, client(simulation.clone(), shards.clone(), Arc::clone(&seen)));
    }
}

fn weather(simulation: &Simulation) -> Faults {
    match simulation.below(8) {
        0 => Faults::NONE,
        1..7 => Faults::MANY,
        _ => Faults { request_lost: 100, reply_lost: 150, late: 100, ..Faults::MANY },
    }
}

/// What all accounts of the application have, and whether anything is held or on its way.
async fn look(shards: &OnReplicas) -> Result<BTreeMap<AccountId, i128>, String> {
    let balance = shards.verify().await.map_err(|error| error.to_string())?.map_err(|what| what.to_string())?;
    if let Some((currency, sum)) = balance.in_transit.iter().find(|(_, sum)| **sum != 0) {
        return Err(format!("{sum} of {currency} are in transit for ever"));
    }
    for (currency, sums) in &balance.sums {
        if sums.total.debits_held != 0 {
            return Err(format!("{} of {currency} are held for ever", sums.total.debits_held));
        }
    }
    let mut all = BTreeMap::new();
    for shard in 0..SHARDS {
        for which in [1, 2, 3, 10] {
            let view = shards.account(account(shard, which)).await.unwrap().unwrap();
            let Balance { debits_posted, debits_held, credits_posted, .. } = view.balance;
            if WALLETS.contains(&which) && debits_posted + debits_held > credits_posted {
                return Err(format!("{} is beyond its funds", view.account.id));
            }
            all.insert(view.account.id, view.balance.posted(Side::Credit));
        }
    }
    Ok(all)
}

/// The same, whatever the order of its postings.
fn is_same(one: &Transaction, other: &Transaction) -> bool {
    let sorted = |transaction: &Transaction| {
        let mut postings = transaction.postings.to_vec();
        postings.sort_by_key(|posting| posting.account);
        postings
    };
    sorted(one) == sorted(other)
}

/// Asks in peace for all that was asked for under an id: at most one of it is there, and all answers say so, now and before. Answers which.
async fn ask_again(
    shards: &OnReplicas,
    id: TransactionId,
    contents: &[Transaction],
    before: &[&[Outcome]],
) -> Result<Option<Transaction>, String> {
    let shown = async || shards.transaction(id).await.map_err(|error| format!("in peace, {id} is not shown: {error}"));
    let first = shown().await?;
    if let Some(first) = &first {
        let Some(which) = contents.iter().position(|content| is_same(content, &first.transaction)) else {
            return Err(format!("{id} is there as nobody asked for it: {first:?}"));
        };
        if before[which].iter().all(|outcome| *outcome == Outcome::NotByThis) {
            return Err(format!("{id} is there, though all were told that theirs is not: {first:?}"));
        }
    }
    let mut answers = Vec::new();
    for content in contents {
        answers.push(shards.transact(content.clone()).await);
    }
    let last = shown().await?;
    if first.is_some() && first != last {
        return Err(format!("{id} was {first:?}, and is {last:?}"));
    }
    for ((content, before), answer) in contents.iter().zip(before).zip(&answers) {
        if let Err(error) = answer {
            return Err(format!("in peace, {id} is not answered: {error}"));
        }
        let is_there = last.as_ref().is_some_and(|last| is_same(content, &last.transaction));
        if is_there != (outcome(answer) == Outcome::There) {
            return Err(format!("{id} is {last:?}, and asking for {content:?} answers {answer:?}"));
        }
        for told in before.iter().chain([&outcome(answer)]) {
            let is_true = match told {
                Outcome::There => is_there,
                Outcome::Other(other) => {
                    last.as_ref().is_some_and(|last| is_same(other, &last.transaction)) && !is_there
                }
                Outcome::NotByThis | Outcome::Unknown => true,
            };
            if !is_true {
                return Err(format!("{id} is {last:?}, and who asked for {content:?} was told {told:?}"));
            }
        }
        if let (Ok(ShardsReply::Recorded { receipts, in_transit }), Some(last)) = (answer, &last)
            && (*receipts != last.receipts || !in_transit.is_empty() || !last.in_transit.is_empty())
        {
            return Err(format!("{id} is {last:?}, and was answered with {receipts:?}, {in_transit:?}"));
        }
    }
    Ok(last.map(|last| last.transaction))
}

/// In peace: everything comes to an end, and what is there is what callers were told.
async fn settle(simulation: Simulation, seen: Shared, bug: Option<Bug>) -> Result<(), String> {
    let shards = open_once(&simulation, LAST, bug).await.map_err(|error| error.to_string())?;
    let mut rounds = 0;
    while !shards.recover().await.is_clear() {
        rounds += 1;
        if rounds > 30 {
            return Err(format!("recovery does not end: {:?}", shards.recover().await));
        }
        wait(&simulation, ms(20)).await;
    }
    look(&shards).await?;
    let (contents, outcomes) = {
        let seen = seen.lock().unwrap();
        (seen.contents.clone(), seen.outcomes.clone())
    };
    let mut expected = BTreeMap::<AccountId, i128>::new();
    for shard in 0..SHARDS {
        for wallet in WALLETS {
            *expected.entry(account(shard, wallet)).or_default() += i128::try_from(FUNDS).unwrap();
            *expected.entry(account(shard, 1)).or_default() -= i128::try_from(FUNDS).unwrap();
        }
    }
    for (id, contents) in contents {
        let outcomes: Vec<_> = (0..contents.len()).map(|which| &outcomes[&(id, which)][..]).collect();
        if let Some(there) = ask_again(&shards, TransactionId(id), &contents, &outcomes).await? {
            for posting in &there.postings {
                let amount = i128::try_from(posting.amount).unwrap();
                let signed = if posting.side == Side::Credit { amount } else { -amount };
                *expected.entry(posting.account).or_default() += signed;
            }
        }
    }
    let found = look(&shards).await?;
    for (account, balance) in found {
        let expected = expected.get(&account).copied().unwrap_or(0);
        if balance != expected {
            return Err(format!("{account} has {balance}, what is there adds up to {expected}"));
        }
    }
    Ok(())
}

fn in_peace(
    simulation: &Simulation,
    node: Node,
    task: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<(), String> {
    let done = Arc::new(Mutex::new(None));
    let sink = Arc::clone(&done);
    simulation.spawn(node, async move {
        let result = task.await;
        *sink.lock().unwrap() = Some(result);
    });
    simulation.run_for(Duration::from_secs(3)).map_err(|error| error.to_string())?;
    let result = done.lock().unwrap().take();
    result.unwrap_or_else(|| Err("in peace, something does not come to an end".to_owned()))
}

fn run(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let simulation = Simulation::new(seed);
    let setting = simulation.clone();
    in_peace(&simulation, SETTER, async move {
        set_up(setting).await;
        Ok(())
    })?;
    simulation.crash(SETTER);
    let record = Shared::default();
    let nodes: Vec<Node> = (0..2).map(Node).collect();
    simulation.set_faults(weather(&simulation));
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, Arc::clone(&record), bug));
    nodes.iter().copied().for_each(start);
    for _ in 0..simulation.below(5) {
        let pause = Duration::from_micros(simulation.below(80_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        let node = nodes[usize::try_from(simulation.below(nodes.len() as u64)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.run_for(ms(300)).map_err(|error| error.to_string())?;
    simulation.set_faults(Faults::NONE);
    for node in &nodes {
        simulation.crash(*node);
    }
    // What is late arrives.
    simulation.run_for(Duration::from_secs(11)).map_err(|error| error.to_string())?;
    in_peace(&simulation, LAST, settle(simulation.clone(), record, bug))?;
    simulation.crash(LAST);
    Ok(simulation.digest())
}

#[test]
fn all_or_nothing_whatever_happens() {
    let seeds = match from_environment("SYSD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("SYSD_SIM_SEEDS").unwrap_or(SEEDS),
    };
    if let Some((seed, what)) = first_failure(seeds, |seed| run(seed, None).map(drop)) {
        panic!("seed {seed}: {what}\nagain: SYSD_SIM_SEED={seed} cargo test -p sysd-ledger --test shards_sim");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
    assert_ne!(run(1, None), run(2, None));
}

#[test]
fn each_mistake_is_seen() {
    for bug in Bug::ALL {
        let caught = first_failure(0..BUG_SEEDS, |seed| run(seed, Some(bug)).map(drop));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} went unseen for {BUG_SEEDS} seeds"));
        println!("{bug:?} is caught by seed {seed}: {what}");
    }
}

/// A payment in all shards, one that a shard can't, one between two, and two within a shard, of which one is not at home there; each
/// asked twice. Then each for something else.
async fn life(simulation: Simulation, seen: Shared) {
    let Ok(shards) = open_once(&simulation, Node(0), None).await else { return };
    let posting =
        |shard, which, amount, side| Posting { account: account(shard, which), amount, currency: euro(), side };
    let (debit, credit) = (Side::Debit, Side::Credit);
    let all = [
        vec![posting(1, 2, 30, debit), posting(0, 2, 10, credit), posting(2, 2, 20, credit)],
        vec![posting(0, 2, 10, credit), posting(2, 3, 120, debit), posting(1, 3, 110, credit)],
        vec![posting(2, 3, 40, debit), posting(1, 3, 40, credit)],
        vec![posting(0, 3, 40, debit), posting(0, 1, 40, credit)],
        vec![posting(1, 2, 3, debit), posting(1, 1, 3, credit)],
    ];
    let others = all.iter().skip(1).chain(&all[..1]).cloned();
    for (id, postings) in (0..5).chain(0..5).zip(all.iter().cloned().chain(others)) {
        let transaction = Transaction::new(TransactionId(id), postings);
        for _ in 0..2 {
            let told = seen.lock().unwrap().ask(&transaction);
            let answer = outcome(&shards.transact(transaction.clone()).await);
            told(&mut seen.lock().unwrap(), answer);
        }
    }
}

#[test]
fn every_fault_at_every_storage_call() {
    let scenario = |simulation: &Simulation, fault: Fault| {
        let setting = simulation.clone();
        in_peace(simulation, SETTER, async move {
            set_up(setting).await;
            Ok(())
        })?;
        simulation.crash(SETTER);
        let seen = Shared::default();
        simulation.set_fault(Node(0), fault);
        simulation.spawn(Node(0), life(simulation.clone(), Arc::clone(&seen)));
        simulation.run_for(ms(400)).map_err(|error| error.to_string())?;
        let calls = simulation.calls(Node(0));
        simulation.crash(Node(0));
        simulation.run_for(Duration::from_secs(1)).map_err(|error| error.to_string())?;
        in_peace(simulation, LAST, settle(simulation.clone(), seen, None))?;
        Ok(calls)
    };
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    // Three faults, and some sixty calls in that life.
    assert!(runs > 150, "only {runs} runs");
}
