//! What is done with books once they are kept: added up again, written for other programs, compared with what a provider says.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;

use futures::TryStreamExt as _;
use sysd::core::Store;
use sysd::ledger::interchange::{Exporter, Format, IoWriter, default_name};
use sysd::ledger::reconcile::{ReconcileError, Reconciliation, Record, Row, Summary, records};
use sysd::ledger::{Account, AccountId, AccountKind, Books, JournalEntry, Ledger, Side};
use sysd::storage::Replica;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Writes the whole journal for `hledger` and `ledger`. Answers how many transactions that were.
pub(crate) async fn export<S: Store>(ledger: &Ledger<Replica<Books>, S>, path: &Path) -> Result<u64, String> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut exporter = Exporter::new(Format::Text, IoWriter::new(BufWriter::new(file))).map_err(text)?;
    let accounts: Vec<Account> =
        ledger.read(|books| books.accounts().map(|view| view.account).collect()).await.map_err(text)?;
    for account in &accounts {
        exporter.account(account).map_err(text)?;
    }
    let mut journal = std::pin::pin!(ledger.journal(0));
    while let Some(entry) = journal.try_next().await.map_err(text)? {
        exporter.entry(&entry).map_err(text)?;
    }
    let (out, done) = exporter.finish();
    out.into_inner().map_err(text)?;
    Ok(done.transactions)
}

/// Whether `hledger` comes to the same balance of every account; `None` if it is not installed.
pub(crate) async fn hledger_agrees<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
    path: &Path,
) -> Result<Option<usize>, String> {
    let output = Command::new("hledger").args(["bal", "--flat", "-N", "-E", "-O", "csv", "-f"]).arg(path).output();
    let Ok(output) = output else { return Ok(None) };
    if !output.status.success() {
        return Err(format!("hledger: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let found = String::from_utf8(output.stdout).map_err(text)?;
    // "account","12.50 EUR"
    let found: std::collections::BTreeMap<_, _> =
        found.lines().skip(1).filter_map(|line| line.trim_matches('"').split_once("\",\"")).collect();
    let views: Vec<_> = ledger.read(|books| books.accounts().collect()).await.map_err(text)?;
    let mut agreed = 0;
    for view in views {
        let (name, balance) = (default_name(&view.account), view.balance.posted(Side::Debit));
        let expected = if balance == 0 { "0".to_owned() } else { view.account.currency.show(balance) };
        let says = found.get(name.as_str()).copied();
        // An account that nothing was posted to is not listed.
        if says.unwrap_or("0") != expected {
            return Err(format!("hledger says that {name} is {says:?}, the books say {expected}"));
        }
        agreed += 1;
    }
    Ok(Some(agreed))
}

/// Compares what was posted to accounts with what somebody else says of them, captures and all; `reference` is the id that they know
/// it by.
pub(crate) async fn reconcile<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
    theirs: impl IntoIterator<Item = Result<Row, ReconcileError>> + Send + 'static,
    is_ours: impl Fn(AccountId) -> bool,
    reference: impl Fn(&JournalEntry) -> Option<String>,
) -> Result<Summary, String> {
    let mut ours = Vec::new();
    let mut journal = std::pin::pin!(ledger.journal(0));
    while let Some(entry) = journal.try_next().await.map_err(text)? {
        let Some(reference) = reference(&entry) else { continue };
        let accounts = entry.changes.iter().map(|change| change.account).filter(|account| is_ours(*account));
        ours.extend(accounts.filter_map(|account| Record::of_entry(&entry, account, &reference)));
    }
    let run = move || {
        let run = Reconciliation::new(std::env::temp_dir());
        run.run(records(ours), theirs, &mut |_| Ok(()))
    };
    tokio::task::spawn_blocking(run).await.map_err(text)?.map_err(text)
}

/// Whether an account is what the books' owner has.
pub(crate) async fn assets<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
) -> Result<std::collections::BTreeSet<AccountId>, String> {
    let is_asset = |books: &Books| {
        let assets = books.accounts().filter(|view| view.account.kind == AccountKind::Asset);
        assets.map(|view| view.account.id).collect()
    };
    ledger.read(is_asset).await.map_err(text)
}
