//! Compares our own records with a settlement file, and keeps the differences for people to review, on any store.

mod demo;
mod format;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::json;
use sysd::ledger::reconcile::{
    Difference, FileId, Found, Note, Party, Person, Reconciliation, ReviewQueue, ReviewReply, Reviews, Rules, Summary,
};
use sysd::storage::{Replica, ReplicaConfig};

/// Compares our own records with a settlement file: what matches and why, and exactly what does not.
#[derive(Debug, Parser)]
#[command(name = "reconcile")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the review queue lies: memory:, local:PATH, redis://…, dynamodb://…, scylla://…; all but the first two with their feature
    #[arg(long, global = true, default_value = "memory:")]
    store: String,
    /// The name of the queue; one that is there is gone on with
    #[arg(long, global = true, default_value = "reviews")]
    name: String,
    /// Go on though the store may forget what it acknowledged
    #[arg(long, global = true)]
    may_forget: bool,
    /// Who brings the file
    #[arg(long, global = true, default_value = "somebody")]
    by: String,
    /// Go through a file that was gone through before once more
    #[arg(long, global = true)]
    again: bool,
    /// So many days may lie between two records of one payment
    #[arg(long, global = true, default_value_t = 3)]
    window: u32,
    /// For sorting, in MiB
    #[arg(long, global = true, default_value_t = 64)]
    memory: usize,
    /// How many differences and bad rows to print
    #[arg(long, global = true, default_value_t = 20)]
    list: usize,
    /// Print one line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Made-up payments, and a provider's report with fees, payouts, refunds and mistakes
    Demo {
        /// How many payments
        #[arg(long, default_value_t = 100_000)]
        payments: u64,
    },
    /// Two files
    Files {
        /// Our records; without it we have none
        #[arg(long)]
        ours: Option<PathBuf>,
        /// How they are written, as --theirs-format
        #[arg(long, default_value = "generic")]
        ours_format: String,
        /// The settlement file
        #[arg(long)]
        theirs: PathBuf,
        /// How it is written: generic, stripe:METADATA-KEY, adyen, paypal, camt053, or a list as in "csv reference=id amount=value
        /// currency=!EUR date=day day=%Y-%m-%d"; what is not given is as in generic
        #[arg(long, default_value = "generic")]
        theirs_format: String,
    },
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 18, file))
}

/// What was compared.
struct Compared {
    file: FileId,
    name: String,
    found: Box<dyn FnOnce() -> Result<Found, String> + Send>,
}

fn compare(arguments: &Arguments) -> Result<Compared, String> {
    let mut rules = Rules::default();
    (rules.window_days, rules.drift_days) = (arguments.window, rules.drift_days.max(arguments.window));
    let run = Reconciliation {
        rules,
        memory_max: arguments.memory.max(1) << 20,
        ..Reconciliation::new(std::env::temp_dir())
    };
    match &arguments.command {
        Command::Demo { payments } => {
            let payments = *payments;
            let file = FileId::of(demo::report(payments)).map_err(text)?;
            let find = move || run.find(demo::ours(payments), demo::theirs(payments)).map_err(text);
            Ok(Compared { file, name: "demo".to_owned(), found: Box::new(find) })
        }
        Command::Files { ours, ours_format, theirs, theirs_format } => {
            let file = FileId::of(open(theirs)?).map_err(text)?;
            let name = theirs.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let theirs = format::rows(open(theirs)?, theirs_format)?;
            let ours = match ours {
                Some(ours) => format::rows(open(ours)?, ours_format)?,
                None => Box::new(std::iter::empty()),
            };
            Ok(Compared { file, name, found: Box::new(move || run.find(ours, theirs).map_err(text)) })
        }
    }
}

fn print(summary: &Summary) {
    for (party, name) in [(Party::Ours, "ours"), (Party::Theirs, "theirs")] {
        let rows = summary.totals.rows[usize::from(party == Party::Theirs)];
        println!("{name}: {rows} rows, {} of them bad", summary.totals.bad_rows(party));
        for (currency, sums) in summary.totals.of(party) {
            let parts = sums.parts();
            let names = ["matched", "amount", "currency", "missing", "duplicate", "ambiguous", "bad"];
            let parts = names.iter().zip(parts).filter(|(_, sum)| sum.rows > 0);
            let parts: Vec<_> =
                parts.map(|(name, sum)| format!("{name} {} in {}", currency.show(sum.amount), sum.rows)).collect();
            println!("  {} in {} = {}", currency.show(sums.read.amount), sums.read.rows, parts.join(" + "));
        }
    }
    let list = |counts: &std::collections::BTreeMap<&str, u64>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    println!("matches: {}", list(&summary.matches));
    println!("differences: {}", list(&summary.differences));
    for (what, count) in [
        ("references with too many records for the second passes", summary.references_too_long),
        ("references with too many lines to look for parts that add up", summary.splits_not_tried),
    ] {
        if count > 0 {
            println!("{count} {what}");
        }
    }
}

fn line(difference: &Difference) -> String {
    let side = |name: &str, records: &[sysd::ledger::reconcile::Record]| {
        let show = |record: &sysd::ledger::reconcile::Record| {
            format!("{name} {} {} (row {})", record.reference, record.currency.show(record.amount), record.row)
        };
        records.iter().take(3).map(show).collect::<Vec<_>>().join("; ")
    };
    let sides = [side("ours", &difference.ours), side("theirs", &difference.theirs)];
    format!("{}: {}", difference.what.name(), sides.join("  ").trim())
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let Compared { file, name, found } = compare(&arguments)?;
    let by = Person::new(&arguments.by).ok_or("--by needs a name")?;
    let opened = sysd::storage::open(&arguments.store).await.map_err(text)?;
    // Nobody expects memory to remember.
    let may_forget = arguments.may_forget || arguments.store.starts_with("memory:");
    let opened = Replica::<ReviewQueue>::open(opened, &arguments.name, ReplicaConfig::default()).await;
    let (replica, driver) = opened.map_err(text)?;
    let driver = tokio::spawn(driver);
    let made = if may_forget { Ok(Reviews::that_may_forget(replica)) } else { Reviews::new(replica) };
    let reviews = made.map_err(|error| format!("{error} (--may-forget)"))?;
    let name = Note::new(&name).ok_or("the file needs a name")?;
    match reviews.begin(file, name, by, arguments.again).await.map_err(text)? {
        ReviewReply::Seen(view) => {
            println!("{file} was gone through before, as {:?}, by {} (--again)", view.name.as_str(), view.by);
        }
        ReviewReply::Begun { run, known } => {
            let start = Instant::now();
            let mut found = tokio::task::spawn_blocking(found).await.map_err(text)??;
            let seconds = start.elapsed().as_secs_f64();
            let recorded = reviews.record(file, run, &mut found).await.map_err(text)?;
            let summary = found.summary();
            if arguments.json {
                let rows = summary.totals.rows;
                #[allow(clippy::cast_precision_loss, reason = "a rate to be read")]
                let per_second = ((rows[0] + rows[1]) as f64 / seconds).round();
                let line = json!({
                    "rows": rows,
                    "bad_rows": [summary.totals.bad_rows(Party::Ours), summary.totals.bad_rows(Party::Theirs)],
                    "matches": summary.matches,
                    "differences": summary.differences,
                    "rows_per_second": per_second,
                    "new": recorded.new,
                    "known": recorded.known,
                    "not_found": recorded.not_found,
                    "store": arguments.store.split(':').next(),
                });
                println!("{line}");
            } else {
                print(summary);
                println!(
                    "{seconds:.2} s; run {run} over the file, of which {known} cases were known: {} new, {} known, {} not found any more",
                    recorded.new, recorded.known, recorded.not_found
                );
                for (party, bad) in summary.bad_rows.iter().take(arguments.list) {
                    println!("  bad: {party}, row {}, column {:?}: {}", bad.row, bad.column, bad.why);
                }
            }
        }
        other => return Err(format!("{other:?}")),
    }
    if !arguments.json {
        for case in reviews.cases(0, arguments.list).await.map_err(text)? {
            println!("  case {} ({}) {}", case.number, case.state.name(), line(&case.difference));
        }
        let states = reviews.read_latest(ReviewQueue::states).await.map_err(text)?;
        println!("cases: {states:?}");
    }
    drop(reviews);
    driver.await.map_err(text)?.map_err(text)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("reconcile: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reconcile: {error}");
            ExitCode::FAILURE
        }
    }
}
