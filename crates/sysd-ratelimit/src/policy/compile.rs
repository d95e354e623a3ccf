//! From a policy as it is written to one that decides.

use std::collections::HashMap;
use std::time::Duration;

#[cfg(feature = "calendar")]
use sysd_core::SystemClock;

use super::client::{Proxies, network};
use super::config::{AlgorithmName, ClientsConfig, Count, ListedClient, OneOrMany, PolicyConfig, RuleConfig};
use super::error::{Fault, FieldPath};
use super::key::{KeyPart, header_name, is_token};
use super::route::{Pattern, hex};
use super::{Clients, Compiled, Lists, PolicyRule};
use crate::algorithm::{Algorithm, Limit};
use crate::error::RateLimitError;
use crate::joint::OnError;
#[cfg(feature = "calendar")]
use crate::model::{CalendarUnit, CalendarWindow};
use crate::model::{
    FixedWindow, LeakyBucket, RULES_MAX, Rate, Rule, RuleLimit, SlidingLog, SlidingWindow, TokenBucket,
};
use crate::schema::policy::sha256;
use crate::schema::rules::ENTRIES_MAX;

/// The most rules of a policy: each is held against each request.
pub const POLICY_RULES_MAX: usize = 512;
/// The most entries of a list, and the most proxies: the networks among them are held against each request.
pub const LIST_MAX: usize = 4_096;
const NAME_MAX: usize = 64;

pub(super) fn policy_name(name: &str) -> Result<Box<str>, Fault> {
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
    let is_name = !name.trim().is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_printable);
    if is_name {
        return Ok(name.into());
    }
    Err(FieldPath::of("name").fault("no name; give 1 to 64 printable ASCII characters"))
}

pub(super) fn compile(config: &PolicyConfig) -> Result<Compiled, Fault> {
    let name = policy_name(&config.name)?;
    let deadline = config.deadline_ms.map(deadline).transpose()?;
    let clients = clients(&config.clients)?;
    let allow = lists(&FieldPath::of("allow"), &config.allow)?;
    let deny = lists(&FieldPath::of("deny"), &config.deny)?;
    let rules = FieldPath::of("rules");
    if config.rules.len() > POLICY_RULES_MAX {
        return Err(rules.fault(format!("{} rules; give at most {POLICY_RULES_MAX}", config.rules.len())));
    }
    let (rules_of, order, in_force) = (Vec::new(), Vec::new(), Vec::new());
    let mut compiled = Compiled { name, deadline, clients, allow, deny, rules: rules_of, order, in_force };
    let mut lists = HashMap::new();
    for (at, config) in config.rules.iter().enumerate() {
        let next = lists.len();
        let rule = rule(&rules.item(at), config, |key| *lists.entry(key.to_vec()).or_insert(next))?;
        compiled.rules.push(rule);
        told_apart(&rules.item(at), &compiled.rules)?;
        fits_record(&rules.item(at), &compiled.rules)?;
    }
    compiled.order = (0..compiled.rules.len()).collect();
    // Stable: those of one priority as they are written.
    compiled.order.sort_by_key(|at| std::cmp::Reverse(compiled.rules[*at].priority));
    compiled.in_force = compiled.in_force();
    Ok(compiled)
}

/// The longest that a request may wait for a store, milliseconds.
const DEADLINE_MS_MAX: u32 = 60_000;

fn deadline(Count(ms): Count) -> Result<Duration, Fault> {
    if (1..=DEADLINE_MS_MAX).contains(&ms) {
        return Ok(Duration::from_millis(ms.into()));
    }
    Err(FieldPath::of("deadline_ms").fault(format!("{ms} milliseconds; give 1 to {DEADLINE_MS_MAX}")))
}

fn clients(config: &ClientsConfig) -> Result<Clients, Fault> {
    let path = FieldPath::of("clients");
    let mut trusted = Vec::new();
    for (proxy, path) in items(&path.field("trusted_proxies"), &config.trusted_proxies)? {
        let network = network(proxy).map_err(|problem| path.clone().fault(problem))?;
        if network.prefix_len() == 0 {
            return Err(
                path.fault("trusts everybody, so each client could choose its address; name the proxies' networks")
            );
        }
        trusted.push(network);
    }
    if trusted.is_empty() && config.forwarded != super::Forwarded::None {
        let problem =
            "is read from trusted proxies only, and none is named; set trusted_proxies, or leave forwarded away";
        return Err(path.field("forwarded").fault(problem));
    }
    if !trusted.is_empty() && config.forwarded == super::Forwarded::None {
        let problem = "is trusted, and no header is read, so all of a proxy's clients would be one; set forwarded, or leave trusted_proxies away";
        return Err(path.field("trusted_proxies").fault(problem));
    }
    let prefix = |field: &str, Count(bits): Count, most: u8| match u8::try_from(bits) {
        Ok(bits) if (1..=most).contains(&bits) => Ok(bits),
        _ => Err(path.field(field).fault(format!("{bits} bits; give 1 to {most}"))),
    };
    Ok(Clients {
        ipv4_prefix: prefix("ipv4_prefix", config.ipv4_prefix, 32)?,
        ipv6_prefix: prefix("ipv6_prefix", config.ipv6_prefix, 128)?,
        api_key_header: header_name(&config.api_key_header)
            .map_err(|problem| path.field("api_key_header").fault(problem))?,
        proxies: Proxies { trusted, forwarded: config.forwarded },
    })
}

/// What a list holds, and where.
fn items<'a, T>(path: &FieldPath, list: &'a OneOrMany<T>) -> Result<Vec<(&'a T, FieldPath)>, Fault> {
    match list {
        OneOrMany::One(one) => Ok(vec![(one, path.clone())]),
        OneOrMany::Many(many) if many.len() > LIST_MAX => {
            Err(path.clone().fault(format!("{} entries; give at most {LIST_MAX}", many.len())))
        }
        OneOrMany::Many(many) => Ok(many.iter().enumerate().map(|(at, item)| (item, path.item(at))).collect()),
    }
}

/// Of a list that may be absent, which then means all, but not empty, which might mean none.
fn some<'a, T>(path: &FieldPath, list: Option<&'a OneOrMany<T>>) -> Result<Vec<(&'a T, FieldPath)>, Fault> {
    match list {
        None => Ok(Vec::new()),
        Some(OneOrMany::Many(many)) if many.is_empty() => {
            Err(path.clone().fault("an empty list; leave it away where the rule is for all"))
        }
        Some(list) => items(path, list),
    }
}

fn lists(path: &FieldPath, entries: &OneOrMany<ListedClient>) -> Result<Lists, Fault> {
    let mut lists = Lists::default();
    for (at, (ListedClient(text), path)) in items(path, entries)?.into_iter().enumerate() {
        // It may hold an API key: nothing of it is said.
        let unknown = "no entry; write ip:NETWORK, user:NAME, key:API-KEY or key_sha256:HEX";
        match text.split_once(':') {
            Some(("ip", text)) => {
                let network = network(text).map_err(|problem| path.clone().fault(problem))?;
                if network.prefix_len() == 0 {
                    return Err(path.fault("lists everybody; give a network with a prefix of at least 1"));
                }
                lists.networks.push((network, at));
            }
            Some((kind @ ("user" | "key"), "")) => return Err(path.fault(format!("nothing after {kind}:"))),
            // The headers that it is held against have none, so it would be on no list.
            Some((kind @ ("user" | "key"), value)) if value.trim() != value => {
                return Err(path.fault(format!("space around what follows {kind}:; leave it away")));
            }
            Some(("user", name)) => {
                lists.users.entry(name.into()).or_insert(at);
            }
            Some(("key", key)) => {
                lists.keys.entry(sha256(key.as_bytes())).or_insert(at);
            }
            Some(("key_sha256", digest)) => {
                let digest =
                    digest_of(digest).ok_or_else(|| path.fault("no SHA-256; write its 64 hexadecimal digits"))?;
                lists.keys.entry(digest).or_insert(at);
            }
            _ => return Err(path.fault(unknown)),
        }
    }
    Ok(lists)
}

fn digest_of(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex(pair[0])? << 4 | hex(pair[1])?;
    }
    Some(digest)
}

fn rule(path: &FieldPath, config: &RuleConfig, list_of: impl FnOnce(&[KeyPart]) -> usize) -> Result<PolicyRule, Fault> {
    let mut routes = Vec::new();
    for (route, path) in some(&path.field("route"), config.route.as_ref())? {
        routes.push(Pattern::parse(route).map_err(|problem| path.fault(problem))?);
    }
    let mut methods = Vec::<Box<str>>::new();
    for (method, path) in some(&path.field("methods"), config.methods.as_ref())? {
        if !is_token(method) || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(path.fault(format!("{method:?} is no method; write it in capitals, like POST")));
        }
        methods.push(method.as_str().into());
    }
    let key = key(&path.field("key"), &config.key)?;
    if key.contains(&KeyPart::Route) && routes.is_empty() {
        return Err(path.field("key").fault("counts by route, and the rule names none; give it a route"));
    }
    let limit = limit(path, config)?;
    let Count(cost) = config.cost;
    let most = Algorithm::limit(&limit.now());
    if cost == 0 {
        return Err(path.field("cost").fault("a request that costs nothing is never limited; give at least 1"));
    }
    if cost > most {
        let problem = format!(
            "{cost} is more than the rule ever has, {most}: it would admit nothing; lower it or raise the limit"
        );
        return Err(path.field("cost").fault(problem));
    }
    let rule = Rule::new(&config.name, limit).map_err(|error| path.field("name").fault(said(&error)))?;
    let rule = if config.billing { rule.billed() } else { rule };
    Ok(PolicyRule {
        rule,
        routes,
        methods,
        list: list_of(&key),
        key: key.into(),
        cost,
        priority: config.priority,
        is_final: config.is_final,
        on_error: config.on_error.unwrap_or(if config.billing { OnError::Deny } else { OnError::Allow }),
        is_shadow: config.shadow,
        is_billing: config.billing,
        missing: config.missing,
    })
}

/// The parts in one order, so that lists that say the same are the same.
fn key(path: &FieldPath, written: &OneOrMany<String>) -> Result<Vec<KeyPart>, Fault> {
    let mut key = Vec::new();
    for (part, path) in items(path, written)? {
        let part = KeyPart::parse(part).map_err(|problem| path.clone().fault(problem))?;
        if key.contains(&part) {
            return Err(path.fault("there twice; leave one away"));
        }
        key.push(part);
    }
    if key.is_empty() {
        return Err(path.clone().fault("counts by nothing; write \"global\" to count all requests as one"));
    }
    if key.len() > 1 && key.contains(&KeyPart::Global) {
        return Err(path.clone().fault("global says nothing beside other parts; leave it away"));
    }
    key.sort();
    Ok(key)
}

fn limit(path: &FieldPath, config: &RuleConfig) -> Result<RuleLimit, Fault> {
    if config.algorithm == AlgorithmName::CalendarWindow {
        return calendar(path, config);
    }
    if config.zone.is_some() {
        return Err(path.field("zone").fault("only a calendar window has a zone; leave it away"));
    }
    rated(path, config).map(RuleLimit::from)
}

/// Fields of another algorithm.
fn without(path: &FieldPath, config: &RuleConfig) -> Result<(), Fault> {
    if config.burst.is_some() && config.algorithm != AlgorithmName::TokenBucket {
        return Err(path.field("burst").fault("only a token bucket has a burst; leave it away"));
    }
    if config.queue.is_some() && config.algorithm != AlgorithmName::LeakyBucket {
        return Err(path.field("queue").fault("only a leaky bucket has a queue; leave it away"));
    }
    Ok(())
}

#[cfg(feature = "calendar")]
fn calendar(path: &FieldPath, config: &RuleConfig) -> Result<RuleLimit, Fault> {
    without(path, config)?;
    let at_rate = || {
        let problem =
            "the calendar has minutes, hours, days and months; write a count and one of them, like 1000/d or 1000/mo";
        path.field("rate").fault(problem)
    };
    let (count, unit) = config.rate.0.split_once('/').ok_or_else(at_rate)?;
    let unit = match unit.trim() {
        "m" | "min" | "minute" => CalendarUnit::Minute,
        "h" | "hour" => CalendarUnit::Hour,
        "d" | "day" => CalendarUnit::Day,
        "mo" | "month" => CalendarUnit::Month,
        _ => return Err(at_rate()),
    };
    let count = count.trim().parse().map_err(|_| at_rate())?;
    let zone = config.zone.as_deref().unwrap_or("UTC");
    CalendarWindow::new(count, unit, zone, SystemClock).map(RuleLimit::from).map_err(|error| {
        let field = if matches!(error, RateLimitError::UnknownZone { .. }) { "zone" } else { "rate" };
        path.field(field).fault(said(&error))
    })
}

#[cfg(not(feature = "calendar"))]
fn calendar(path: &FieldPath, _: &RuleConfig) -> Result<RuleLimit, Fault> {
    let problem = "calendar windows are not built in; turn on the feature calendar of sysd-ratelimit";
    Err(path.field("algorithm").fault(problem))
}

/// By an algorithm that takes a rate.
fn rated(path: &FieldPath, config: &RuleConfig) -> Result<Limit, Fault> {
    use AlgorithmName as Name;

    let at_rate = |error: &RateLimitError| path.field("rate").fault(said(error));
    let rate: Rate = config.rate.0.parse().map_err(|error| at_rate(&error))?;
    without(path, config)?;
    match config.algorithm {
        Name::TokenBucket => {
            let burst = config.burst.map_or(rate.count(), |Count(burst)| burst);
            let bucket = TokenBucket::new(rate, burst);
            bucket.map(Limit::from).map_err(|error| path.field("burst").fault(said(&error)))
        }
        Name::LeakyBucket => {
            let Some(Count(queue)) = config.queue else {
                let problem = "a leaky bucket has a queue; say how many may wait, 0 for none";
                return Err(path.field("queue").fault(problem));
            };
            let bucket = LeakyBucket::new(rate, queue);
            bucket.map(Limit::from).map_err(|error| path.field("queue").fault(said(&error)))
        }
        Name::FixedWindow | Name::CalendarWindow => Ok(FixedWindow::new(rate).into()),
        Name::SlidingWindow => Ok(SlidingWindow::new(rate).into()),
        Name::SlidingLog => SlidingLog::new(rate).map(Limit::from).map_err(|error| at_rate(&error)),
    }
}

/// Without the field, which is said otherwise.
fn said(error: &RateLimitError) -> String {
    let text = error.to_string();
    text.split_once(": ").map_or(text.clone(), |(_, problem)| problem.to_owned())
}

/// The states of all rules may come to lie in one record, now or after another policy: their names must differ, and the hashes of them.
fn told_apart(path: &FieldPath, rules: &[PolicyRule]) -> Result<(), Fault> {
    let Some((last, before)) = rules.split_last() else { return Ok(()) };
    match before.iter().position(|rule| rule.rule.id() == last.rule.id()) {
        None => Ok(()),
        Some(at) if rules[at].rule.name() == last.rule.name() => {
            let problem =
                format!("{:?} is the name of rules[{at}] too; give each rule one of its own", last.rule.name());
            Err(path.field("name").fault(problem))
        }
        Some(at) => {
            let (name, other) = (last.rule.name(), rules[at].rule.name());
            let problem =
                format!("{name:?} can't be told from {other:?} of rules[{at}] in a store; choose another name");
            Err(path.field("name").fault(problem))
        }
    }
}

/// Rules of one key lie in one record, which has room for so many, and are decided together, so many at once.
fn fits_record(path: &FieldPath, rules: &[PolicyRule]) -> Result<(), Fault> {
    let Some((last, before)) = rules.split_last() else { return Ok(()) };
    let beside: Vec<_> = before.iter().filter(|rule| rule.shares_record(last)).collect();
    if beside.len() >= ENTRIES_MAX {
        let problem =
            format!("more than {ENTRIES_MAX} rules count by this; a record holds no more: count some by route too");
        return Err(path.field("key").fault(problem));
    }
    // For each rule how many others some request could be asked about with it: no request is asked about more.
    let together = |rule: &PolicyRule| {
        let others =
            before.iter().chain([last]).filter(|other| other.shares_record(rule) && other.is_shadow == rule.is_shadow);
        others.filter(|other| rule.overlaps(other)).count()
    };
    let crowded =
        beside.into_iter().filter(|rule| rule.overlaps(last)).chain([last]).any(|rule| together(rule) > RULES_MAX);
    if crowded {
        let problem = format!(
            "more than {RULES_MAX} rules could count one request by this; name routes that differ, or have fewer rules"
        );
        return Err(path.field("key").fault(problem));
    }
    Ok(())
}

impl PolicyRule {
    /// Whether some of their states lie in one record.
    fn shares_record(&self, other: &Self) -> bool {
        let is_one_route = |one: &Pattern| other.routes.iter().any(|other| one.text() == other.text());
        self.list == other.list && (!self.key.contains(&KeyPart::Route) || self.routes.iter().any(is_one_route))
    }

    /// Whether some request is for both.
    fn overlaps(&self, other: &Self) -> bool {
        let routes = self.routes.is_empty()
            || other.routes.is_empty()
            || self.routes.iter().any(|one| other.routes.iter().any(|other| one.overlaps(other)));
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| other.is_for_method(method))
            || other.methods.iter().any(|method| self.is_for_method(method));
        routes && methods
    }
}
