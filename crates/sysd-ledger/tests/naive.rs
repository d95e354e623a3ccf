//! The books beside a second implementation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use rand::RngExt as _;
use sysd_core::StateMachine as _;
use sysd_ledger::Books;
use sysd_ledger::logic::{Bug, PairBug};

use support::naive::{Naive, answers, receipts};
use support::world::World;

/// How many transactions a history recorded, and how many of them on the short way of plain transfers.
#[derive(Clone, Copy)]
struct Recorded {
    all: u64,
    pairs: u64,
}

/// Runs a history on both; what differs first.
fn history(seed: u64, bug: Option<Bug>) -> Result<Recorded, String> {
    let (mut world, mut books, mut naive) = (World::new(seed), Books::default(), Naive::default());
    books.bug = bug;
    let mut recorded = Recorded { all: 0, pairs: 0 };
    for step in 0..120 {
        world.now = world.now.saturating_add(std::time::Duration::from_millis(world.random.random_range(0..3_000)));
        let command = if step > 20 && world.one_in(12) { world.odd() } else { world.command() };
        let now = world.now;
        let reply = books.apply(now, &command);
        let differs = |what: &str| Err(format!("seed {seed}, step {step}: {what}\n{command:?}\n{reply:?}"));
        let (answers, expected) = (answers(&reply), Some(naive.apply(now, &command)));
        recorded.all += receipts(&reply).len() as u64;
        recorded.pairs += std::mem::take(&mut books.pairs);
        world.recorded(&command, &reply);
        if answers != expected {
            return differs(&format!("expected {expected:?}"));
        }
        for id in naive.accounts.keys() {
            if books.balance(*id) != Some(naive.balance(*id)) {
                return differs(&format!(
                    "account {id} is {:?}, expected {:?}",
                    books.balance(*id),
                    naive.balance(*id)
                ));
            }
        }
        // What the last receipt of a command says of an account is how it stands.
        for (account, balance) in receipts(&reply).last().map(|receipt| receipt.balances.clone()).unwrap_or_default() {
            if books.balance(account) != Some(balance) {
                return differs("the receipt says something else");
            }
        }
        // Now and then the books are put away and read again.
        if step % 16 == 15 {
            let mut bytes = Vec::new();
            books.encode_snapshot(&mut bytes);
            let read = Books::decode_snapshot(Books::FORMAT, &bytes).map_err(|error| error.to_string())?;
            let mut again = Vec::new();
            read.encode_snapshot(&mut again);
            if again != bytes {
                return differs("a snapshot of what a snapshot held is another");
            }
            books = read;
            books.bug = bug;
        }
        if let Err(why) = books.verify() {
            return differs(&why.to_string());
        }
        if (books.holds_len(), books.journal_len()) != (naive.holds.len(), naive.next) {
            return differs("the holds or numbers differ");
        }
    }
    Ok(recorded)
}

/// The first history that shows a mistake.
#[track_caller]
fn is_found(bug: Bug) {
    let found = (0..300).find_map(|seed| history(seed, Some(bug)).err());
    let why = found.unwrap_or_else(|| panic!("{bug:?} was not noticed"));
    println!("{bug:?}: {}", why.lines().next().unwrap_or_default());
}

#[test]
fn the_books_do_what_a_second_implementation_does() {
    let recorded: Vec<_> = (0..700).map(|seed| history(seed, None).unwrap_or_else(|why| panic!("{why}"))).collect();
    // Most of what is asked is possible, so that it is not refusals that are compared.
    let all: u64 = recorded.iter().map(|recorded| recorded.all).sum();
    assert!(all > 700 * 15, "only {all} were recorded");
    // Both ways of a transfer are taken, in nearly every history.
    let pairs: u64 = recorded.iter().map(|recorded| recorded.pairs).sum();
    println!("{all} were recorded, {pairs} of them on the short way");
    assert!(pairs > all / 4 && pairs < all * 3 / 4, "{pairs} of {all} on the short way");
    let with_pairs = recorded.iter().filter(|recorded| recorded.pairs >= 3).count();
    assert!(with_pairs > 600, "the short way was taken in only {with_pairs} of 700 histories");
}

#[test]
fn mistakes_are_found() {
    for bug in [
        Bug::DropLeg,
        Bug::ForgetIds,
        Bug::IgnoreHolds,
        Bug::Truncate,
        Bug::KeepGroup,
        Bug::ForgetDeadlines,
        Bug::ReverseAgain,
        Bug::FreeRest,
    ] {
        is_found(bug);
    }
}

/// What is wrong in the journal alone is found beside the long way: `tests/pairs.rs`.
#[test]
fn mistakes_on_the_short_way_are_found() {
    for bug in PairBug::ALL {
        if !matches!(bug, PairBug::IgnoreGreat | PairBug::ForgetStep) {
            is_found(Bug::InPair(bug));
        }
    }
}
