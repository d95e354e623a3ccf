#![allow(clippy::unwrap_used)]
use super::*;
use crate::logic::{Books, Command};
use crate::model::{Account, AccountKind, AccountUpdate, Details};
use crate::schema::entry::Entries;

const BANK: AccountId = AccountId(1);
const ANN: AccountId = AccountId(2);
const BEN: AccountId = AccountId(3);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000).unwrap()
}

fn transfer(id: u128, amount: u128, credit: AccountId, debit: AccountId) -> Transaction {
    Transaction::transfer(TransactionId(id), Currency::iso("EUR").unwrap(), amount, credit, debit)
}

fn part(id: u128, amount: u128, rest: Rest) -> Transaction {
    Transaction { action: Action::PostHeld { hold: TransactionId(2), rest }, ..transfer(id, amount, BEN, ANN) }
}

/// Everything that books do, by the seconds at which it is asked; some of it is refused.
fn history() -> Vec<(u64, Command)> {
    let euro = Currency::iso("EUR").unwrap();
    let wallet = |id| Command::Open(Box::new(Account::new(id, euro, AccountKind::Liability).limited()));
    let until = |transaction: Transaction, second| transaction.held_until(Some(at(second)));
    let mut up_to = transfer(9, 1_000, BEN, ANN);
    up_to.action = Action::PostUpTo;
    let reversal = |id| Transaction { reverses: Some(TransactionId(1)), ..transfer(id, 5, ANN, BEN) };
    let transactions = vec![
        (1, transfer(1, 200, ANN, BANK)),
        (2, until(transfer(2, 60, BEN, ANN), 50)),
        // More than is there, beside what is held.
        (3, transfer(3, 150, BEN, ANN)),
        (4, part(4, 25, Rest::Keep)),
        (5, part(5, 10, Rest::Release)),
        (6, transfer(6, 7, BEN, ANN).held_until(None)),
        (7, Transaction::void(TransactionId(7), TransactionId(6))),
        (8, until(transfer(8, 30, BEN, ANN), 20)),
        (9, up_to),
        (10, until(transfer(10, 3, ANN, BEN), 40)),
        (11, Transaction::post_held(TransactionId(11), TransactionId(10))),
        (12, reversal(12)),
        (13, reversal(13)),
        // One has ended by then.
        (30, transfer(14, 1, ANN, BEN)),
        (31, transfer(15, 2, ANN, BEN).held_until(None)),
    ];
    let open = [Command::Open(Box::new(Account::new(BANK, euro, AccountKind::Asset))), wallet(ANN), wallet(BEN)];
    let asked = transactions.into_iter().map(|(second, transaction)| (second, Command::Transact(transaction)));
    let last = Command::Update(BANK, AccountUpdate::Freeze);
    open.into_iter().map(|command| (0, command)).chain(asked).chain([(32, last)]).collect()
}

fn books(mut books: Books) -> Books {
    for (second, command) in history() {
        books.apply(at(second), &command);
    }
    books
}

type Read = Vec<(JournalEntry, Vec<u64>)>;

fn entries(books: &Books) -> Read {
    let mut all = Vec::new();
    for chunk in books.tail().chunks() {
        let mut entries = Entries::of(&chunk.body).unwrap();
        while let Some(read) = entries.next().unwrap() {
            all.push((read.entry, read.trails.iter().map(|trail| trail.back[0]).collect()));
        }
    }
    all
}

fn audit(entries: &Read, books: &Books) -> Result<(), String> {
    let (mut auditor, claim) = (Auditor::default(), Claim::of(books));
    for (entry, before) in entries {
        auditor.entry(entry, before, &claim).map_err(|what| format!("{}: {what}", entry.number))?;
    }
    auditor.compare(&claim).map_err(|error| error.to_string())
}

#[test]
fn books_without_a_mistake_are_right() {
    let books = books(Books::default());
    let entries = entries(&books);
    assert_eq!(audit(&entries, &books), Ok(()));
    let kinds: std::collections::BTreeSet<_> = entries
        .iter()
        .map(|(entry, _)| match &entry.event {
            Event::HoldEnded { .. } => "ended",
            Event::Transaction(transaction) => match transaction.action {
                Action::Post if transaction.reverses.is_some() => "reversal",
                Action::Post => "post",
                Action::PostUpTo => "up to",
                Action::Hold { .. } => "hold",
                Action::PostHeld { rest: Rest::Keep, .. } => "a part",
                Action::PostHeld { .. } => "the rest",
                Action::Void { .. } => "void",
            },
        })
        .collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn journals_of_books_that_make_mistakes_are_wrong() {
    use crate::logic::Bug;
    for bug in [Bug::DropLeg, Bug::FreeRest, Bug::Truncate, Bug::IgnoreHolds, Bug::ForgetDeadlines, Bug::ReverseAgain] {
        let mut wrong = Books::default();
        wrong.bug = Some(bug);
        let books = books(wrong);
        let found = audit(&entries(&books), &books);
        assert!(found.is_err(), "{bug:?} was not noticed");
    }
}

/// What an entry could say instead.
fn others(entry: &JournalEntry) -> Vec<(&'static str, JournalEntry)> {
    let mut all = Vec::new();
    let mut other = |what, change: &dyn Fn(&mut JournalEntry)| {
        let mut other = entry.clone();
        change(&mut other);
        if other != *entry {
            all.push((what, other));
        }
    };
    match &entry.event {
        Event::HoldEnded { .. } => {
            other("another hold", &|entry| entry.event = Event::HoldEnded { hold: TransactionId(15) });
            other("no hold", &|entry| entry.event = Event::HoldEnded { hold: TransactionId(2) });
            other("earlier", &|entry| entry.recorded_at = at(19));
        }
        Event::Transaction(transaction) => {
            let change = |entry: &mut JournalEntry, change: &dyn Fn(&mut Transaction)| {
                if let Event::Transaction(transaction) = &mut entry.event {
                    change(transaction);
                }
            };
            let mut of = |what, to: &dyn Fn(&mut Transaction)| other(what, &|entry| change(entry, to));
            for action in [
                Action::Post,
                Action::Hold { expires_at: None },
                Action::Void { hold: TransactionId(6) },
                Action::PostHeld { hold: TransactionId(15), rest: Rest::Release },
            ] {
                // A hold that was posted or voided may have had any later deadline.
                if !matches!((transaction.action, action), (Action::Hold { .. }, Action::Hold { .. })) {
                    of("another action", &|transaction| transaction.action = action);
                }
            }
            of("another reversal", &|transaction| {
                transaction.reverses = if transaction.reverses.is_some() { None } else { Some(TransactionId(1)) };
            });
            match transaction.action {
                Action::Hold { .. } => {
                    let expires_at = Some(at(0));
                    of("another deadline", &|transaction| transaction.action = Action::Hold { expires_at });
                }
                Action::PostHeld { hold, rest } if !transaction.postings.is_empty() => {
                    let rest = if rest == Rest::Keep { Rest::Release } else { Rest::Keep };
                    of("another rest", &|transaction| transaction.action = Action::PostHeld { hold, rest });
                }
                Action::PostUpTo => {
                    // It may have asked for more than was moved, and for any such amount.
                    of("less", &|transaction| {
                        transaction.postings.iter_mut().for_each(|posting| posting.amount = 50);
                    });
                    return all;
                }
                _ => {}
            }
            of("another amount", &|transaction| {
                transaction.postings.iter_mut().for_each(|posting| posting.amount += 1);
            });
            of("another account", &|transaction| {
                if let Some(posting) = transaction.postings.first_mut() {
                    posting.account = AccountId(9);
                }
            });
        }
    }
    all
}

#[test]
fn what_was_asked_is_what_was_changed() {
    let books = books(Books::default());
    let entries = entries(&books);
    let mut tried = 0;
    for at in 0..entries.len() {
        for (what, other) in others(&entries[at].0) {
            let mut changed = entries.clone();
            changed[at].0 = other;
            assert!(audit(&changed, &books).is_err(), "{what} was not noticed in {:?}", entries[at].0);
            tried += 1;
        }
        // Another amount, or account, in what it did.
        let mut changed = entries.clone();
        if let Some(change) = changed[at].0.changes.first_mut() {
            change.freed += 1;
            assert!(audit(&changed, &books).is_err(), "{:?}", entries[at].0);
        }
    }
    assert!(tried > 60, "only {tried} were tried");
}

/// A journal of the same amounts in another currency throughout.
#[test]
fn an_account_is_in_the_currency_of_its_entries() {
    let books = books(Books::default());
    let mut entries = entries(&books);
    let dollar = Currency::iso("USD").unwrap();
    for (entry, _) in &mut entries {
        entry.changes.iter_mut().for_each(|change| change.currency = dollar);
        if let Event::Transaction(transaction) = &mut entry.event {
            transaction.postings.iter_mut().for_each(|posting| posting.currency = dollar);
        }
    }
    assert!(audit(&entries, &books).is_err_and(|what| what.contains("another currency")));
}

/// Ten euros are twelve dollars.
fn exchange(id: u128, rate: u64) -> Transaction {
    let [euro, dollar] = ["EUR", "USD"].map(|code| Currency::iso(code).unwrap());
    let posting = |account, currency, side, amount| Posting { account: AccountId(account), amount, currency, side };
    let (debit, credit) = (Side::Debit, Side::Credit);
    let postings = [
        posting(1, euro, debit, 10_00),
        posting(2, euro, credit, 10_00),
        posting(3, dollar, debit, 12_00),
        posting(4, dollar, credit, 12_00),
    ];
    let rate = Rate { from: euro, to: dollar, mantissa: rate, decimals: 2 };
    let details = Details::new("", Vec::new()).unwrap().with_rate(rate);
    Transaction { details: Some(Box::new(details)), ..Transaction::new(TransactionId(id), postings) }
}

#[test]
fn an_exchange_keeps_its_rate() {
    let mut books = Books::default();
    for (account, code) in [(1, "EUR"), (2, "EUR"), (3, "USD"), (4, "USD")] {
        let account = Account::new(AccountId(account), Currency::iso(code).unwrap(), AccountKind::Asset);
        books.apply(at(0), &Command::Open(Box::new(account)));
    }
    let post =
        Transaction { action: Action::PostHeld { hold: TransactionId(2), rest: Rest::Keep }, ..exchange(3, 120) };
    let whole = Transaction::post_held(TransactionId(5), TransactionId(4));
    let hold = |id| exchange(id, 120).held_until(None);
    // The books refuse the second.
    for transaction in [exchange(1, 120), exchange(6, 121), hold(2), post, hold(4), whole] {
        books.apply(at(1), &Command::Transact(transaction));
    }
    let entries = entries(&books);
    assert_eq!((entries.len(), audit(&entries, &books)), (5, Ok(())));
    for at in 0..entries.len() {
        for (mantissa, is_right) in [(120, true), (121, false), (119, false)] {
            let mut changed = entries.clone();
            // Also of what was posted without saying how much.
            let Event::Transaction(transaction) = &mut changed[at].0.event else { panic!("no transaction") };
            transaction.details = exchange(0, mantissa).details;
            let found = audit(&changed, &books);
            let is_told = found.as_ref().is_err_and(|what| what.ends_with("an exchange that does not keep its rate"));
            assert_eq!((found.is_ok(), is_told), (is_right, !is_right), "{mantissa}: {found:?}");
        }
    }
}
