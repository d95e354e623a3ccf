//! The books beside a second implementation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use rand::RngExt as _;
use sysd_core::StateMachine as _;
use sysd_ledger::Books;
use sysd_ledger::logic::Bug;

use support::naive::{Naive, answers, receipts};
use support::world::World;

/// Runs a history on both; what differs first.
fn history(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let (mut world, mut books, mut naive) = (World::new(seed), Books::default(), Naive::default());
    books.bug = bug;
    let mut recorded = 0;
    for step in 0..120 {
        world.now = world.now.saturating_add(std::time::Duration::from_millis(world.random.random_range(0..3_000)));
        let (now, command) = (world.now, world.command());
        let reply = books.apply(now, &command);
        let differs = |what: &str| Err(format!("seed {seed}, step {step}: {what}\n{command:?}\n{reply:?}"));
        let (answers, expected) = (answers(&reply), Some(naive.apply(now, &command)));
        recorded += receipts(&reply).len() as u64;
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

#[test]
fn the_books_do_what_a_second_implementation_does() {
    let recorded: u64 = (0..700).map(|seed| history(seed, None).unwrap_or_else(|why| panic!("{why}"))).sum();
    // Most of what is asked is possible, so that it is not refusals that are compared.
    assert!(recorded > 700 * 15, "only {recorded} were recorded");
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
        assert!((0..300).any(|seed| history(seed, Some(bug)).is_err()), "{bug:?} was not noticed");
    }
}
