//! Random books, written, read by the programs, and read again by us.

use std::collections::BTreeMap;

use sysd_core::Timestamp;
use sysd_ledger::interchange::{Exported, Exporter, Format, Importer, default_name};
use sysd_ledger::{Account, Action, Currency, JournalEntry, Reply};

use crate::books::{Kept, random};
use crate::programs::{ALL, Balances, Program};

pub(crate) fn write(kept: &Kept, format: Format) -> (String, Exported) {
    write_entries(&kept.accounts(), &kept.entries, format)
}

fn write_entries(accounts: &[Account], entries: &[JournalEntry], format: Format) -> (String, Exported) {
    let mut exporter = Exporter::new(format, String::new()).unwrap();
    for account in accounts {
        exporter.account(account).unwrap();
    }
    for entry in entries {
        exporter.entry(entry).unwrap();
    }
    exporter.finish()
}

/// Whether a program finds in a journal what the books have: to the last decimal, in every account.
pub(crate) fn agrees(program: Program, kept: &Kept, journal: &str) -> Result<(), String> {
    agrees_by(program, kept, journal, default_name)
}

fn agrees_by(program: Program, kept: &Kept, journal: &str, name_of: impl Fn(&Account) -> String) -> Result<(), String> {
    let found = program.balances(journal)?;
    let expected = kept.balances(name_of);
    // A code of two currencies is told apart by its decimals, so compare without what is behind the code.
    let code = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let found: Balances = found.into_iter().map(|((account, name), amount)| ((account, code(&name)), amount)).collect();
    let expected: Balances = expected
        .into_iter()
        .map(|((account, currency), minor)| ((account, currency.code()), in_major_units(currency, minor)))
        .collect();
    if found == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|(key, amount)| found.get(key) != Some(amount)).collect();
    let other: Vec<_> = found.iter().filter(|(key, amount)| expected.get(key) != Some(amount)).collect();
    Err(format!("{program:?} disagrees: the books have {missing:?}, it has {other:?}"))
}

fn in_major_units(currency: Currency, minor: i128) -> String {
    let shown = currency.show(minor);
    let number = shown.split(' ').next().unwrap_or_default();
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').to_owned() } else { number.to_owned() }
}

fn sum_max(program: Program) -> u128 {
    // More than beancount adds exactly is refused; see `export.rs`.
    if program == Program::Beancount { 10_u128.pow(28) - 1 } else { i128::MAX.unsigned_abs() }
}

#[test]
fn every_program_finds_the_balances_of_the_books() {
    for program in ALL {
        for seed in 0..4 {
            let kept = random(seed, 120, sum_max(program));
            let (journal, done) = write(&kept, program.format());
            assert!(done.transactions > 20 && done.left_out > 0 && done.accounts == 48, "{done:?}");
            agrees(program, &kept, &journal).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

#[test]
fn what_was_written_is_read_again_as_it_was() {
    for (format, max) in [(Format::Text, i128::MAX.unsigned_abs()), (Format::Beancount, 10_u128.pow(28) - 1)] {
        for seed in 0..100 {
            let kept = random(seed, 60, max);
            let (journal, _) = write(&kept, format);
            let imported = Importer::new(format, "theirs")
                .read(&journal)
                .unwrap_or_else(|errors| panic!("seed {seed}: {errors}\n{journal}"));
            let mut again = Kept::default();
            imported.accounts.iter().for_each(|account| again.open(account));
            for (transaction, line) in imported.transactions.iter().zip(&imported.lines) {
                let reply = again.transact(Timestamp::UNIX_EPOCH, transaction.clone());
                assert!(matches!(reply, Reply::Recorded(_)), "seed {seed}, line {line}: {reply:?}");
                assert!(matches!(again.transact(Timestamp::UNIX_EPOCH, transaction.clone()), Reply::Exists { .. }));
            }
            assert_eq!(again.balances(default_name), kept.balances(default_name), "seed {seed}");
            same_transactions(&kept, &again);
        }
    }
}

/// Ids, days, memos, metadata, links: all but what a file does not say.
fn same_transactions(kept: &Kept, again: &Kept) {
    let posted = |entry: &&JournalEntry| entry.changes.iter().any(|change| change.posted > 0);
    let originals: Vec<_> = kept.entries.iter().filter(posted).collect();
    assert_eq!(originals.len(), again.entries.len());
    let written: Vec<_> = originals.iter().filter_map(|entry| entry.transaction()).map(|found| found.id).collect();
    for (original, copy) in originals.iter().zip(&again.entries) {
        assert_eq!(original.effective(), copy.effective());
        let (original, copy) = (original.transaction().unwrap(), copy.transaction().unwrap());
        assert_eq!((original.id, Action::Post), (copy.id, copy.action));
        assert_eq!(original.reverses.filter(|id| written.contains(id)), copy.reverses);
        assert_eq!(original.details.clone().unwrap_or_default(), copy.details.clone().unwrap_or_default());
    }
}

#[test]
fn a_journal_that_is_wrong_is_seen() {
    for program in ALL {
        let kept = random(7, 40, sum_max(program));
        let (journal, _) = write(&kept, program.format());
        agrees(program, &kept, &journal).unwrap();

        // Not what was posted, but all of an entry's lines gone.
        let accounts = kept.accounts();
        let without_last = write_entries(&accounts, &kept.entries[..kept.entries.len() - 1], program.format()).0;
        let last = kept.entries.last().unwrap();
        if last.changes.iter().any(|change| change.posted > 0) {
            assert!(agrees(program, &kept, &without_last).is_err(), "{program:?} does not miss an entry");
        }
        for (name, break_it) in MUTANTS {
            let wrong = break_it(&journal);
            assert_ne!(wrong, journal, "{name} changes nothing");
            assert!(agrees(program, &kept, &wrong).is_err(), "{program:?} takes {name} for right");
        }
    }
}

type Mutant = (&'static str, fn(&str) -> String);

const MUTANTS: &[Mutant] = &[
    ("a dropped posting", |journal| {
        let mut dropped = false;
        let keep = |line: &&str| {
            let drop = !dropped && is_posting(line);
            dropped |= drop;
            !drop
        };
        journal.split_inclusive('\n').filter(keep).collect()
    }),
    ("another currency", |journal| journal.replace(" BHD\n", " JPY\n")),
    ("the other sign", |journal| {
        let turn = |line: &str| match line.rsplit_once("  ") {
            Some((account, amount)) if is_posting(line) => match amount.strip_prefix('-') {
                Some(amount) => format!("{account}  {amount}\n"),
                None => format!("{account}  -{amount}\n"),
            },
            _ => format!("{line}\n"),
        };
        journal.lines().map(turn).collect()
    }),
    ("rounded amounts", |journal| {
        // All of a currency's, so that each transaction still balances.
        let round = |line: &str| match line.rsplit_once(' ') {
            Some((rest, "EUR")) if is_posting(line) => format!("{}00 EUR\n", &rest[..rest.len() - 2]),
            _ => format!("{line}\n"),
        };
        journal.lines().map(round).collect()
    }),
];

fn is_posting(line: &str) -> bool {
    line.starts_with("  ") && line.trim_start().starts_with(|first: char| first.is_ascii_uppercase())
}

#[test]
fn accounts_of_one_name_are_told_apart_by_their_currency() {
    for program in ALL {
        let kept = random(3, 60, sum_max(program));
        // The first of each currency has the same name as the first of any other, and so on.
        let (mut counts, mut names) = (BTreeMap::<_, u32>::new(), BTreeMap::new());
        for account in kept.accounts() {
            // The same code with other decimals is the same to a reader of names.
            let count = counts.entry(account.currency.code()).or_default();
            *count += 1;
            names.insert(account.id, format!("Assets:All:N{count}"));
        }
        let name_of = move |account: &Account| names[&account.id].clone();
        let mut exporter = Exporter::with_names(program.format(), String::new(), name_of.clone()).unwrap();
        kept.accounts().iter().for_each(|account| exporter.account(account).unwrap());
        kept.entries.iter().for_each(|entry| exporter.entry(entry).unwrap());
        agrees_by(program, &kept, &exporter.finish().0, name_of).unwrap();
    }
}
