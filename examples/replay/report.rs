//! What is said at the end.

use std::io::{self, Write};

use serde::Serialize;

use super::feed::{Notes, fit_for_terminal};
use super::replay::{Changed, Tally};

const MOST_LIMITED: usize = 10;
const KEY_CHARS: usize = 80;

/// What the rules are called, by their places.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// None without a policy.
    pub(crate) first: Vec<String>,
    /// Of the policy that is compared.
    pub(crate) candidate: Option<Vec<String>>,
}

/// So many requests by a rule.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ByRule {
    pub(crate) rule: String,
    pub(crate) requests: u64,
}

/// So many requests of a client.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ByClient {
    pub(crate) client: String,
    pub(crate) requests: u64,
}

/// Requests that two policies decide differently.
#[derive(Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) requests: u64,
    pub(crate) clients: usize,
    /// The rules that deny them, in the policy that does.
    pub(crate) by_rule: Vec<ByRule>,
    /// The clients with the most.
    pub(crate) top: Vec<ByClient>,
}

impl Change {
    fn new(changed: &Changed, names: &[String]) -> Self {
        let clients = changed.by_client.iter().map(|(client, requests)| (&client[..], *requests));
        Self {
            requests: changed.requests(),
            clients: changed.by_client.len(),
            by_rule: by_rule(changed.by_cause.iter(), names),
            top: most(clients.collect()),
        }
    }

    fn print(&self, what: &str, denied_by: &str, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{what:<14}{} requests of {} clients", self.requests, self.clients)?;
        print_rules(denied_by, &self.by_rule, out)?;
        if !self.top.is_empty() {
            writeln!(out, "  clients with the most:")?;
        }
        for ByClient { client, requests } in &self.top {
            writeln!(out, "{requests:>12}  {client}")?;
        }
        Ok(())
    }
}

/// Who would fare otherwise under the other policy.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) newly_denied: Change,
    pub(crate) newly_allowed: Change,
}

/// The first ten, the most first; ties by key, so that a run prints what the last one did.
fn most(mut counts: Vec<(&[u8], u64)>) -> Vec<ByClient> {
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let shown = |(key, requests)| ByClient { client: fit_for_terminal(key, KEY_CHARS), requests };
    counts.into_iter().take(MOST_LIMITED).map(shown).collect()
}

/// The most first; ties by the place.
fn by_rule<'a>(counts: impl Iterator<Item = (&'a usize, &'a u64)>, names: &[String]) -> Vec<ByRule> {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let told =
        |(place, requests): (&usize, &u64)| Some(ByRule { rule: names.get(*place)?.clone(), requests: *requests });
    counts.into_iter().filter_map(told).collect()
}

fn print_rules(title: &str, rules: &[ByRule], out: &mut impl Write) -> io::Result<()> {
    if !rules.is_empty() {
        writeln!(out, "  {title}:")?;
    }
    for ByRule { rule, requests } in rules {
        writeln!(out, "{requests:>12}  {rule}")?;
    }
    Ok(())
}

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
    /// With a policy only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) denied_by: Option<Vec<ByRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shadows_would_deny: Option<Vec<ByRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<Comparison>,
}

impl Summary {
    pub(crate) fn new(tally: &Tally, notes: &Notes, store: String, names: &Names) -> Self {
        let is_policy = !names.first.is_empty();
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
            denied_by: is_policy.then(|| by_rule(tally.denied_by_cause.iter(), &names.first)),
            shadows_would_deny: is_policy.then(|| by_rule(tally.would_deny.iter(), &names.first)),
            compared: names.candidate.as_ref().map(|candidate| Comparison {
                newly_denied: Change::new(&tally.newly_denied, candidate),
                newly_allowed: Change::new(&tally.newly_allowed, &names.first),
            }),
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
        let keys = tally.denied_by_key.iter().map(|(key, denied)| (&key[..], *denied));
        let most = most(keys.collect());
        if !most.is_empty() {
            writeln!(out, "most limited, of {}:", self.keys_limited)?;
        }
        for ByClient { client, requests } in most {
            writeln!(out, "{requests:>10}  {client}")?;
        }
        if let (Some(denied_by), Some(shadows)) = (&self.denied_by, &self.shadows_would_deny) {
            print_rules("denied by", denied_by, out)?;
            print_rules("shadows would deny", shadows, out)?;
        }
        if let Some(compared) = &self.compared {
            writeln!(out, "under the other policy:")?;
            compared.newly_denied.print("newly denied", "by its rules", out)?;
            compared.newly_allowed.print("newly allowed", "denied now by", out)?;
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
