//! Keeps books on any store, proves them, writes them for hledger, and compares them with what somebody else says.

mod demo;
mod import;
mod prove;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::json;
use sysd::core::{Clock as _, Store, SystemClock};
use sysd::ledger::reconcile::{Summary, records};
use sysd::ledger::{Books, Date, JournalConfig, JournalEntry, Ledger};
use sysd::storage::{Replica, ReplicaConfig};

use self::demo::Counts;

/// Keeps books, and proves them: what is posted, what is refused, what it comes to, what differs from what somebody else says.
#[derive(Debug, Parser)]
#[command(name = "ledger")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the log lies: memory:, local:PATH, redis://…, dynamodb://…, scylla://…; all but the first two with their feature
    #[arg(long, global = true, default_value = "memory:")]
    store: String,
    /// The name of the books; those that are there are gone on with
    #[arg(long, global = true, default_value = "demo")]
    name: String,
    /// Go on though the store may forget what it acknowledged
    #[arg(long, global = true)]
    may_forget: bool,
    /// Print one line of JSON
    #[arg(long, global = true)]
    json: bool,
    /// Where to write the journal for hledger and ledger; else among the temporary files
    #[arg(long, global = true)]
    journal: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Made-up customers pay made-up shops, in three currencies, with fees, cards, holds, refunds and mistakes
    Demo {
        /// How many payments
        #[arg(long, default_value_t = 100_000)]
        payments: u64,
        /// How many customers, and a tenth as many shops
        #[arg(long, default_value_t = 1_000)]
        customers: u64,
        /// How many payments are under way at once
        #[arg(long, default_value_t = 1_000)]
        callers: usize,
        /// Chooses who pays whom
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Real transactions: of a bank (berka_trans_even_accounts.csv.gz) and a collective (open_collective_ledger_2017_2022.csv)
    Import {
        /// The directory that the files lie in
        data: PathBuf,
        /// How many transactions are under way at once
        #[arg(long, default_value_t = 1_000)]
        callers: usize,
    },
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What is posted, and what comes of comparing it.
async fn keep<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
    command: Command,
    shows: bool,
) -> Result<(Counts, f64, Summary), String> {
    let start = Instant::now();
    match command {
        Command::Demo { payments, customers, callers, seed } => {
            let shape = demo::Shape { payments, customers: customers.max(1), callers: callers.max(1), seed };
            let counts = demo::play(ledger, &shape, shows).await?;
            let seconds = start.elapsed().as_secs_f64();
            let assets = prove::assets(ledger).await?;
            let day = Date::of(SystemClock.now());
            let theirs = records(demo::statement(&shape, day)?).collect::<Vec<_>>();
            let id = |entry: &JournalEntry| entry.transaction().map(demo::reference);
            let summary = prove::reconcile(ledger, theirs, |account| assets.contains(&account), id).await?;
            Ok((counts, seconds, summary))
        }
        Command::Import { data, callers } => {
            let counts = import::post(ledger, &data, callers.max(1), shows).await?;
            let seconds = start.elapsed().as_secs_f64();
            let theirs = import::collective(&data)?;
            let id = |entry: &JournalEntry| {
                let details = entry.transaction()?.details.as_ref()?;
                details.metadata().first().map(|(_, reference)| reference.clone())
            };
            let is_ours = |account| account == import::COLLECTIVE_ASSET;
            Ok((counts, seconds, prove::reconcile(ledger, theirs, is_ours, id).await?))
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let Arguments { command, store, name, may_forget, json, journal } = arguments;
    // A table or a keyspace, where the store needs one.
    sysd::storage::prepare(&store).await.map_err(text)?;
    let opened = sysd::storage::open(&store).await.map_err(text)?;
    // Nobody expects memory to remember.
    let may_forget = may_forget || store.starts_with("memory:");
    let replica = Replica::<Books>::open(opened.clone(), &name, ReplicaConfig::default()).await;
    let (replica, driver) = replica.map_err(text)?;
    let driver = tokio::spawn(driver);
    let config = JournalConfig::default();
    let made = if may_forget {
        Ledger::that_may_forget(replica, opened, &name, config)
    } else {
        Ledger::new(replica, opened, &name, config)
    };
    let (ledger, writer) = made.map_err(|error| format!("{error} (--may-forget)"))?;
    let writer = tokio::spawn(writer);
    let (counts, seconds, summary) = keep(&ledger, command, !json).await?;
    let accounts = ledger.read(Books::accounts_len).await.map_err(text)?;
    let audit = ledger.verify().await.map_err(text);
    let sums = audit.as_ref().ok().map(|audit| &audit.trial_balance);
    let path = journal.unwrap_or_else(|| std::env::temp_dir().join(format!("sysd-{name}.journal")));
    let exported = prove::export(&ledger, &path).await?;
    let agreed = prove::hledger_agrees(&ledger, &path).await?;
    // Debits less credits: zero.
    let trial_balance = sums
        .into_iter()
        .flatten()
        .map(|(currency, sum)| (currency.code(), sum.total.posted(sysd::ledger::Side::Debit).to_string()));
    #[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
    let per_second = counts.recorded as f64 / seconds;
    if json {
        let line = json!({
            "transactions": counts.recorded,
            "rejected": counts.rejected,
            "known": counts.known,
            "bad_rows": counts.bad,
            "accounts": accounts,
            "transfers_per_second": per_second.round(),
            "verified": audit.is_ok(),
            "trial_balance": trial_balance.collect::<std::collections::BTreeMap<_, _>>(),
            "exported": exported,
            "hledger_agrees": agreed,
            "matches": summary.matches,
            "differences": summary.differences,
            "store": store.split(':').next(),
        });
        println!("{line}");
    } else {
        println!(
            "{} recorded, {} refused, {} known before, {} rows that can't be read, in {seconds:.2} s: {per_second:.0}/s",
            counts.recorded, counts.rejected, counts.known, counts.bad
        );
        for (currency, sum) in sums.into_iter().flatten() {
            let show = |amount: u128| currency.show(i128::try_from(amount).unwrap_or(i128::MAX));
            println!(
                "{:>8} accounts: debits {}, credits {}",
                sum.accounts,
                show(sum.total.debits_posted),
                show(sum.total.credits_posted)
            );
        }
        if let Ok(audit) = &audit {
            println!("verified: {} entries; sealed through {} by {}", audit.entries, audit.sealed.0, audit.sealed.1);
        }
        println!("{exported} transactions in {}", path.display());
        match agreed {
            Some(agreed) => println!("hledger agrees on {agreed} accounts"),
            None => println!("hledger is not installed; it would be asked"),
        }
        println!("reconciled: {:?}, differences: {:?}", summary.matches, summary.differences);
    }
    // The writer holds the log too.
    writer.abort();
    let _ = writer.await;
    drop(ledger);
    driver.await.map_err(text)?.map_err(text)?;
    audit.map(|_| ())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ledger: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger: {error}");
            ExitCode::FAILURE
        }
    }
}
