//! The short way of plain transfers beside the long one, which a group of one takes: the same answers, and the same bytes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use rand::RngExt as _;
use sysd_core::StateMachine as _;
use sysd_ledger::logic::{Bug, PairBug};
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Command, Currency, Funds, Rejection, Reply, Transaction, TransactionId,
};

use support::world::World;

const SEEDS: u64 = 200;

/// Accounts on which sums are about as great as those that the short way takes; the world knows nothing of them.
const GREAT: std::ops::Range<u128> = 100..104;

fn bytes(books: &Books) -> Vec<u8> {
    let mut bytes = Vec::new();
    books.encode_snapshot(&mut bytes);
    bytes
}

/// The same, so that nothing of it takes the short way.
fn as_groups(command: &Command) -> Vec<Command> {
    let group = |transaction: &Transaction| Command::Group(vec![transaction.clone()]);
    match command {
        Command::Transact(transaction) => vec![group(transaction)],
        Command::Batch(transactions) => transactions.iter().map(group).collect(),
        other => vec![other.clone()],
    }
}

/// An answer as if to what was not a group.
fn alone(command: &Command, reply: Reply) -> Vec<Reply> {
    match (command, reply) {
        (Command::Group(_), reply) => vec![reply],
        (_, Reply::Batch(replies)) => replies,
        (_, Reply::GroupRecorded(receipts)) => receipts.into_iter().map(Reply::Recorded).collect(),
        (_, Reply::Rejected(why)) => vec![Reply::Rejected(match *why {
            Rejection::InGroup { cause, .. } => cause,
            why => Box::new(why),
        })],
        (_, reply) => vec![reply],
    }
}

fn great(world: &mut World) -> Command {
    let amounts =
        [1, 1 << 20, 1 << 61, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 100, i128::MAX.unsigned_abs()];
    let amount = amounts[world.random.random_range(0..amounts.len())];
    let first = world.random.random_range(GREAT);
    let second = GREAT.start + (first - GREAT.start + world.random.random_range(1..GREAT.end - GREAT.start)) % 4;
    let [debit, credit] = [first, second].map(AccountId);
    let id = TransactionId(world.random.random());
    Command::Transact(Transaction::transfer(id, Currency::iso("EUR").unwrap(), amount, credit, debit))
}

/// Runs a history on both ways. Answers how many transactions were recorded on the short one; `Err`: what differs first.
fn history(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let (mut world, mut short, mut long) = (World::new(seed), Books::default(), Books::default());
    short.bug = bug;
    for id in GREAT {
        let mut account = Account::new(AccountId(id), Currency::iso("EUR").unwrap(), AccountKind::Asset);
        if id == GREAT.start {
            account.funds = Funds::DebitsWithinCredits { overdraft: 1 << 70 };
        }
        let open = Command::Open(Box::new(account));
        assert_eq!((short.apply(world.now, &open), long.apply(world.now, &open)), (Reply::Done, Reply::Done));
    }
    for step in 0..160 {
        let wait_ms = world.random.random_range(0..3_000);
        world.now = world.now.saturating_add(std::time::Duration::from_millis(wait_ms));
        let command = match world.random.random_range(0..24) {
            0..3 => great(&mut world),
            3..5 if step > 20 => world.odd(),
            _ => world.command(),
        };
        let differs = |what: &str| Err(format!("seed {seed}, step {step}: {what}\n{command:?}"));
        let reply = short.apply(world.now, &command);
        world.recorded(&command, &reply);
        let expected: Vec<_> =
            as_groups(&command).iter().flat_map(|group| alone(&command, long.apply(world.now, group))).collect();
        let found = alone(&command, reply);
        if found != expected {
            return differs(&format!("the short way answers {found:?}\nthe long way {expected:?}"));
        }
        if step % 8 == 7 && bytes(&short) != bytes(&long) {
            return differs("the books differ");
        }
    }
    if long.pairs > 0 {
        return Err(format!("seed {seed}: the long way was the short one"));
    }
    Ok(short.pairs)
}

#[test]
fn the_short_way_comes_to_the_same_end() {
    let pairs: Vec<_> = (0..SEEDS).map(|seed| history(seed, None).unwrap_or_else(|why| panic!("{why}"))).collect();
    let all: u64 = pairs.iter().sum();
    println!("{all} were recorded on the short way");
    assert!(all > 10 * SEEDS, "only {all} were recorded on the short way");
    let with = pairs.iter().filter(|pairs| **pairs >= 3).count() as u64;
    assert!(with > SEEDS * 9 / 10, "the short way was taken in only {with} of {SEEDS} histories");
}

#[test]
fn mistakes_on_the_short_way_are_found() {
    for bug in PairBug::ALL {
        let found = (0..SEEDS).find_map(|seed| history(seed, Some(Bug::InPair(bug))).err());
        let why = found.unwrap_or_else(|| panic!("{bug:?} was not noticed"));
        println!("{bug:?}: {}", why.lines().next().unwrap_or_default());
    }
}
