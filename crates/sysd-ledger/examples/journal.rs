//! Reads a journal of `hledger`, `ledger` or `beancount` into books, and writes it again for any of them:
//!
//!     cargo run -p sysd-ledger --example journal -- text my.journal beancount '$=USD' 'bytes=BYTES/0' > my.beancount
//!
//! Behind the formats stand the currencies of commodities that are no codes of ISO 4217: `NAME=CODE`, or `NAME=CODE/DECIMALS`.
//! What could not be read is told by line, and then nothing is written. `balances` instead of the second format prints those.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use sysd_core::Timestamp;
use sysd_ledger::interchange::{Exporter, Format, Imported, Importer, IoWriter};
use sysd_ledger::{Account, Books, Change, Command, Currency, Event, JournalEntry, Receipt, Reply, Side, Transaction};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, path, to, commodities @ ..] = arguments.as_slice() else {
        return Err("usage: journal text|beancount FILE text|beancount|balances [NAME=CODE[/DECIMALS]]...".into());
    };
    // The same file is the same source: what was recorded from it once is not recorded again.
    let mut reader = Importer::new(format(from)?, path);
    for said in commodities {
        let (name, code) = said.rsplit_once('=').ok_or("a commodity is said as NAME=CODE or NAME=CODE/DECIMALS")?;
        reader = reader.commodity(name, currency(code)?);
    }
    let imported = reader.read(&std::fs::read_to_string(path)?)?;
    let (books, entries) = record(&imported)?;
    eprintln!("{} accounts, {} transactions", imported.accounts.len(), entries.len());
    for skipped in &imported.skipped {
        eprintln!("{path}:{skipped} (passed over)");
    }
    if to == "balances" {
        print_balances(&books, &imported);
        return Ok(());
    }
    let (format, names) = (format(to)?, imported.names);
    let name_of = move |account: &Account| in_format(format, names.get(&account.id).map_or("", String::as_str));
    let mut exporter = Exporter::with_names(format, IoWriter::new(io::stdout().lock()), name_of)?;
    for account in &imported.accounts {
        exporter.account(account)?;
    }
    for entry in &entries {
        exporter.entry(entry)?;
    }
    drop(exporter.finish().0.into_inner()?);
    Ok(())
}

fn format(name: &str) -> Result<Format, String> {
    match name {
        "text" => Ok(Format::Text),
        "beancount" => Ok(Format::Beancount),
        other => Err(format!("a journal is text or beancount, not {other}")),
    }
}

fn currency(code: &str) -> Result<Currency, Box<dyn Error>> {
    Ok(match code.split_once('/') {
        Some((code, decimals)) => Currency::custom(code, decimals.parse()?)?,
        None => Currency::iso(code)?,
    })
}

/// Names as beancount wants them; if two become one, the exporter says so.
fn in_format(format: Format, name: &str) -> String {
    if format == Format::Text {
        return name.to_owned();
    }
    let parts = name.split(':').map(|part| {
        let part: String = part.chars().map(|char| if char.is_alphanumeric() { char } else { '-' }).collect();
        let (first, rest) = part.split_at(part.chars().next().map_or(0, char::len_utf8));
        format!("{}{rest}", first.to_uppercase())
    });
    parts.collect::<Vec<_>>().join(":")
}

fn record(imported: &Imported) -> Result<(Books, Vec<JournalEntry>), String> {
    let (mut books, mut entries, now) = (Books::default(), Vec::new(), Timestamp::UNIX_EPOCH);
    for account in &imported.accounts {
        books.apply(now, &Command::Open(Box::new(account.clone())));
    }
    for (transaction, line) in imported.transactions.iter().zip(&imported.lines) {
        match books.apply(now, &Command::Transact(transaction.clone())) {
            Reply::Recorded(receipt) => entries.push(entry(transaction, &receipt)),
            other => return Err(format!("line {line}: {other:?}")),
        }
    }
    Ok((books, entries))
}

/// What the journal says of a transaction that posts at once: its postings, and how the accounts stood then.
fn entry(transaction: &Transaction, receipt: &Receipt) -> JournalEntry {
    let changes = transaction.postings.iter().zip(&receipt.balances).map(|(posting, (_, balance))| Change {
        account: posting.account,
        currency: posting.currency,
        side: posting.side,
        posted: posting.amount,
        held: 0,
        freed: 0,
        balance: *balance,
        ordinal: 1,
    });
    let (number, recorded_at) = (receipt.number, receipt.recorded_at);
    JournalEntry { number, recorded_at, event: Event::Transaction(transaction.clone()), changes: changes.collect() }
}

fn print_balances(books: &Books, imported: &Imported) {
    let mut lines: Vec<_> = books
        .accounts()
        .filter_map(|view| {
            let name = imported.names.get(&view.account.id)?;
            let minor = view.balance.posted(Side::Debit);
            (minor != 0).then(|| format!("{name}\t{}", view.account.currency.show(minor)))
        })
        .collect();
    lines.sort_unstable();
    for line in lines {
        println!("{line}");
    }
}
