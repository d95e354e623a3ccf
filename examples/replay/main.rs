//! Replays a web server's access log through a limit, one for every client, or through a policy, and tries another policy beside it.
//!
//! Without a log it makes up a day of traffic. Time is the log's own, so a run decides the same on every store.

mod access_log;
mod feed;
mod judge;
#[cfg(feature = "policy")]
mod policies;
mod replay;
mod report;
mod source;
mod store;
mod traffic;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sysd::ratelimit::{FixedWindow, LeakyBucket, Limit, Rate, RateLimitError, SlidingLog, SlidingWindow, TokenBucket};
use tokio::sync::mpsc;

use self::access_log::Format;
use self::feed::{BATCHES_WAITING, Batch, Feeder, Notes, Wanted};
use self::judge::Decides;
use self::report::{Names, Summary};
use self::traffic::Traffic;

/// What a request is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeyBy {
    /// The client's address.
    Ip,
    /// The path, without its query.
    Path,
    /// The user agent.
    Agent,
}

/// What decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Decider {
    /// Tokens that come back evenly, up to --burst
    TokenBucket,
    /// A queue of --burst requests that go on evenly
    LeakyBucket,
    /// The count of --rate in each of its periods
    FixedWindow,
    /// The same in a sliding period, by two counters
    SlidingWindow,
    /// The same exactly: each request is kept
    SlidingLog,
}

impl Decider {
    /// With its numbers.
    ///
    /// # Errors
    /// If they are not for this algorithm.
    pub(crate) fn limit(self, rate: Rate, burst: u32) -> Result<Limit, RateLimitError> {
        Ok(match self {
            Self::TokenBucket => TokenBucket::new(rate, burst)?.into(),
            Self::LeakyBucket => LeakyBucket::new(rate, burst)?.into(),
            Self::FixedWindow => FixedWindow::new(rate).into(),
            Self::SlidingWindow => SlidingWindow::new(rate).into(),
            Self::SlidingLog => SlidingLog::new(rate)?.into(),
        })
    }
}

/// Replays an access log through a limit for every client, or through a policy, and says who would have been limited.
///
/// Without --log it makes up a day of traffic. Time is the log's own, so the decisions are the same on every store.
#[derive(Debug, Parser)]
#[command(name = "replay", after_long_help = READS)]
struct Arguments {
    /// The log: a file, or - for the standard input; plain, gzipped, or a tar of logs
    #[arg(long, value_name = "FILE|-")]
    log: Option<String>,
    /// The shape of the log's lines
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// How many requests to make up
    #[arg(long, value_name = "N", default_value_t = 1_000_000, conflicts_with = "log")]
    requests: u64,
    /// What to make them up from; the same seed gives the same requests
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "log")]
    seed: u64,
    /// How fast: max, or so many times real time
    #[arg(long, value_name = "max|N", default_value = "max", value_parser = parse_speed)]
    speed: Speed,
    /// The policy that decides, in place of one limit: a .toml or .yaml file (docs/ratelimit.md, "Policies")
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "algorithm", "rate", "burst"])]
    policy: Option<PathBuf>,
    /// Another policy, to say who would fare otherwise under it
    #[arg(long, value_name = "FILE", requires = "policy")]
    compare: Option<PathBuf>,
    /// What a request is limited by
    #[arg(long, value_enum, default_value = "ip")]
    key: KeyBy,
    /// What decides
    #[arg(long, value_enum, default_value = "token-bucket")]
    algorithm: Decider,
    /// How fast a bucket refills, or how many a window admits: 10/s, 100/m, 1/h, 5000/d, 3/500ms
    #[arg(long, default_value = "10/s")]
    rate: Rate,
    /// How many tokens a bucket holds, or how many requests a queue
    #[arg(long, value_name = "TOKENS", default_value_t = 20)]
    burst: u32,
    /// Where the states lie: memory, local:PATH, redis://…, dynamodb://…, scylla://… (see `sysd_storage::open`)
    #[arg(long, value_name = "memory|URL", default_value = "memory")]
    store: String,
    /// Print one line of JSON instead of the summary
    #[arg(long)]
    json: bool,
}

const READS: &str = "\
What is read, told line by line with --format auto:
  combined  Common and Combined Log Format:
            host ident user [time] \"request\" status bytes [\"referer\" \"agent\"]
  csv       vhost,port,client,ident,user,[time],7 counts,status,\"protocol\",\"method\",\"path\",\"query\",\"referer\",\"agent\"
  sshd      sshd in a syslog: each log-in attempt counts as a request of its address; the log names no year, so it
            begins in 2000
A line that is none of these, or longer than 64 KiB, is counted as malformed, and the first five are shown.
Times that step back count as the latest before them. The logs of a tar are replayed one after another; one that begins
before the log in front of it ends is moved to begin there.

What a policy sees of a request: method, path, the client as the address that connects, the user that the log names, and of the
headers user-agent, referer and, in csv, host. A client that is logged by its name counts as an address of its own. Of an sshd log
it sees the client alone.";

/// Times real time; `None` is as fast as can be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speed(Option<f64>);

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed(None));
    }
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(Speed(Some(speed))),
        _ => Err("give max, or a number above zero: 60 replays an hour in a minute".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell it to if this fails.
            let _ = writeln!(io::stderr(), "replay: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (decides, names) = decides(arguments)?;
    let (sender, mut batches) = mpsc::channel(BATCHES_WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tally, notes, store_name) = runtime.block_on(async {
        let opened = store::open(&arguments.store).await?;
        let shown = opened.shown.clone();
        let lanes = opened.lanes(&decides)?;
        let (bar, feed) = start_feed(arguments, decides.wanted(arguments.key), sender)?;
        let counts = arguments.log.is_none();
        let tally = replay::replay(&lanes, &mut batches, arguments.speed.0, |verdicts| {
            if counts {
                bar.inc(verdicts.len() as u64);
            }
        })
        .await;
        // The feed ends when nobody takes its batches.
        drop(batches);
        let notes = feed.join().map_err(|_| "the reader panicked; please report it");
        bar.finish_and_clear();
        Ok::<_, Failure>((tally?, notes??, shown))
    })?;
    let summary = Summary::new(&tally, &notes, store_name, &names);
    print(arguments, &summary, &tally, &notes)?;
    Ok(())
}

#[cfg(feature = "policy")]
fn decides(arguments: &Arguments) -> Result<(Decides, Names), Failure> {
    use sysd::ratelimit::Policy;

    let Some(policy) = &arguments.policy else { return limit(arguments) };
    let first = Policy::read(policy)?;
    let candidate = arguments.compare.as_ref().map(Policy::read).transpose()?;
    let names = Names { first: policies::names(&first), candidate: candidate.as_ref().map(policies::names) };
    Ok((Decides::Policies { first, candidate }, names))
}

#[cfg(not(feature = "policy"))]
fn decides(arguments: &Arguments) -> Result<(Decides, Names), Failure> {
    if arguments.policy.is_some() {
        return Err("--policy needs `--features policy`, and `calendar` for windows of the calendar".into());
    }
    limit(arguments)
}

fn limit(arguments: &Arguments) -> Result<(Decides, Names), Failure> {
    let limit = arguments.algorithm.limit(arguments.rate, arguments.burst)?;
    Ok((Decides::Limit(limit), Names::default()))
}

fn print(arguments: &Arguments, summary: &Summary, tally: &replay::Tally, notes: &Notes) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    if notes.malformed > 0 {
        writeln!(errors, "{} malformed lines, the first:", notes.malformed)?;
    }
    for shown in &notes.shown {
        writeln!(errors, "  {shown}")?;
    }
    if notes.logs_moved > 0 {
        writeln!(
            errors,
            "{} of {} logs begin before the one in front of them ends, and were moved to begin there",
            notes.logs_moved, notes.logs
        )?;
    }
    let mut out = io::stdout().lock();
    if arguments.json { summary.print_json(&mut out) } else { summary.print(tally, &mut out) }
}

/// Starts the thread that reads or makes up requests, and the bar that shows how far it is.
fn start_feed(
    arguments: &Arguments,
    wanted: Wanted,
    sender: mpsc::Sender<Batch>,
) -> Result<(ProgressBar, JoinHandle<io::Result<Notes>>), Failure> {
    let feeder = Feeder::new(wanted, sender);
    let thread = std::thread::Builder::new().name("feed".to_owned());
    let Some(log) = arguments.log.clone() else {
        let traffic = Traffic::new(arguments.requests, arguments.seed)?;
        let bar = progress_bar(Some(arguments.requests), "{human_pos}/{human_len} requests")?;
        return Ok((bar, thread.spawn(move || Ok(feeder.feed_traffic(traffic)))?));
    };
    let (input, size) = source::open(&log)?;
    let bar = progress_bar(size, "{binary_bytes}/{binary_total_bytes} of the log")?;
    let mut input = bar.wrap_read(input);
    let format = arguments.format;
    let feed = thread.spawn(move || feeder.feed_log(&log, &mut input, format))?;
    Ok((bar, feed))
}

/// Draws itself on a terminal only.
fn progress_bar(length: Option<u64>, unit: &str) -> Result<ProgressBar, Failure> {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template(&format!("{{wide_bar}} {unit} {{eta}}"))?;
    Ok(bar.with_style(style))
}
