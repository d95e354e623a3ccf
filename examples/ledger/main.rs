//! Keeps the books of a made-up payment platform on any store, and proves them.

mod demo;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::json;
use sysd::ledger::{Books, JournalConfig, Ledger};
use sysd::storage::{Replica, ReplicaConfig};

/// Keeps the books of a made-up payment platform, and proves them: what is posted, what is refused, what it comes to.
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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Made-up customers pay made-up shops, in three currencies, with fees, holds, refunds and mistakes
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
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let Arguments { command: Command::Demo { payments, customers, callers, seed }, store, name, may_forget, json } =
        arguments;
    let opened = sysd::storage::open(&store).await.map_err(|error| error.to_string())?;
    // Nobody expects memory to remember.
    let may_forget = may_forget || store.starts_with("memory:");
    let replica = Replica::<Books>::open(opened.clone(), &name, ReplicaConfig::default()).await;
    let (replica, driver) = replica.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(driver);
    let config = JournalConfig::default();
    let made = if may_forget {
        Ledger::that_may_forget(replica, opened, &name, config)
    } else {
        Ledger::new(replica, opened, &name, config)
    };
    let (ledger, writer) = made.map_err(|error| format!("{error} (--may-forget)"))?;
    let writer = tokio::spawn(writer);
    let shape = demo::Shape { payments, customers: customers.max(1), callers: callers.max(1), seed };
    let start = Instant::now();
    let counts = demo::play(&ledger, &shape, !json).await?;
    let seconds = start.elapsed().as_secs_f64();
    let accounts = ledger.read(Books::accounts_len).await.map_err(|error| error.to_string())?;
    let audit = ledger.verify().await.map_err(|error| error.to_string());
    let sums = audit.as_ref().ok().map(|audit| &audit.trial_balance);
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
            "accounts": accounts,
            "transfers_per_second": per_second.round(),
            "verified": audit.is_ok(),
            "trial_balance": trial_balance.collect::<std::collections::BTreeMap<_, _>>(),
            "store": store.split(':').next(),
        });
        println!("{line}");
    } else {
        println!(
            "{} recorded, {} refused, {} known before, in {seconds:.2} s: {per_second:.0}/s",
            counts.recorded, counts.rejected, counts.known
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
    }
    // The writer holds the log too.
    writer.abort();
    let _ = writer.await;
    drop(ledger);
    driver.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
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
