//! What is said at the end.

use std::io::{self, Write};

use serde::Serialize;

use super::feed::{Notes, fit_for_terminal};
use super::replay::Tally;

const MOST_LIMITED: usize = 10;

/// The line that `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Requests that were decided.
    pub(crate) requests: u64,
    /// Lines that could not be read.
    pub(crate) malformed: u64,
    /// Lines that are about no request.
    pub(crate) others: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// Keys that were denied at least once.
    pub(crate) keys_limited: usize,
    pub(crate) decisions_per_second: u64,
    /// Microseconds a decision.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) store: String,
}

impl Summary {
    pub(crate) fn new(tally: &Tally, notes: &Notes, store: String) -> Self {
        let requests = tally.allowed + tally.denied;
        let per_second = u128::from(requests) * 1_000_000_000 / tally.elapsed.as_nanos().max(1);
        Self {
            requests,
            malformed: notes.malformed,
            others: notes.others,
            allowed: tally.allowed,
            denied: tally.denied,
            keys_limited: tally.denied_by_key.len(),
            decisions_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            p50_us: quantile_us(tally, 0.5),
            p99_us: quantile_us(tally, 0.99),
            store,
        }
    }

    /// One line for machines.
    pub(crate) fn print_json(&self, out: &mut impl Write) -> io::Result<()> {
        let json = serde_json::to_string(self).map_err(io::Error::other)?;
        writeln!(out, "{json}")
    }

    /// Some lines for people.
    pub(crate) fn print(&self, tally: &Tally, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "store       {}", self.store)?;
        writeln!(out, "requests    {}", self.requests)?;
        writeln!(out, "allowed     {} {}", self.allowed, share(self.allowed, self.requests))?;
        writeln!(out, "denied      {} {}", self.denied, share(self.denied, self.requests))?;
        if self.malformed > 0 {
            writeln!(out, "malformed   {}", self.malformed)?;
        }
        if self.others > 0 {
            writeln!(out, "others      {} lines about no request", self.others)?;
        }
        writeln!(out, "decisions   {} a second", self.decisions_per_second)?;
        writeln!(out, "latency     p50 {:.2} us, p99 {:.2} us", self.p50_us, self.p99_us)?;
        let mut most: Vec<_> = tally.denied_by_key.iter().collect();
        // Ties by key, so that a run prints what the last one did.
        most.sort_unstable_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        if !most.is_empty() {
            writeln!(out, "most limited, of {}:", self.keys_limited)?;
        }
        for (key, denied) in most.into_iter().take(MOST_LIMITED) {
            writeln!(out, "{denied:>10}  {}", fit_for_terminal(key, 80))?;
        }
        Ok(())
    }
}

fn quantile_us(tally: &Tally, quantile: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "at most a minute of nanoseconds")]
    let us = tally.latency_ns.value_at_quantile(quantile) as f64 / 1_000.0;
    us
}

fn share(part: u64, whole: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown to two digits")]
    let percent = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("({percent:.2} %)")
}
