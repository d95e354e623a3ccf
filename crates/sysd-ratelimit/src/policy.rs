//! Policies: which limits a request must pass, as a file says it.
//!
//! A [`Policy`] is read from TOML or YAML and checked once; [`Policy::plan`] then says of each request which rules apply to it,
//! and by which keys. It decides on nothing: a [`PolicyLimiter`] does, on a store. The file is described in `docs/ratelimit.md`, under
//! "Policies".
//!
//! ```
//! use sysd_ratelimit::policy::{Plan, Policy, RequestView};
//!
//! let policy = Policy::from_toml("limits.toml", r#"
//!     name = "api"
//!     deny = "ip:203.0.113.0/24"
//!
//!     [[rules]]
//!     name = "each address"
//!     key = "ip"
//!     rate = "100/m"
//! "#)?;
//!
//! let headers = [("accept", "*/*")];
//! let peer = Some("192.0.2.1".parse()?);
//! let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
//! let Plan::Rules { groups, .. } = policy.plan(&request) else { panic!("on no list") };
//! let (place, cost) = groups[0].rules[0];
//! assert_eq!((policy.rules()[place].rule().name(), cost), ("each address", 1));
//!
//! let error = Policy::from_yaml("limits.yaml", "name: api\nrules:\n  - { name: all, key: global, rate: 0/s }\n");
//! let error = error.unwrap_err().to_string();
//! assert!(error.starts_with("limits.yaml:3:37: rules[0].rate: 0 tokens would never admit anything"), "{error}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules in another mode
//! A [`PolicyLimiter`] decides centrally. Rules that are asked for too often for that have a policy of their own, and the program leases
//! them, or decides them [local-first](crate::LocalFirstLimiter), which refuses rules that are billed, by the keys that the plan names:
//!
//! ```
//! use sysd_ratelimit::policy::{Plan, Policy, RequestView};
//! use sysd_ratelimit::{LeaseConfig, LeasedLimiter};
//! use sysd_storage::Memory;
//!
//! # futures::executor::block_on(async {
//! let (store, hot) = (Memory::new(), Policy::from_toml("hot.toml", r#"
//!     name = "hot"
//!     [[rules]]
//!     name = "everybody"
//!     key = "global"
//!     rate = "100000/s"
//!     burst = 1000
//! "#)?);
//! let mut leased = Vec::new();
//! for rule in hot.rules() {
//!     let (limiter, keeper) =
//!         LeasedLimiter::new(store.clone(), hot.name(), rule.rule().clone(), LeaseConfig::new(100))?;
//!     // On a runtime: `tokio::spawn(keeper)`.
//!     # drop(keeper);
//!     leased.push(limiter);
//! }
//!
//! let headers = [("accept", "*/*")];
//! let request = RequestView { method: "GET", path: "/", peer: None, user: None, headers: &headers };
//! let Plan::Rules { groups, .. } = hot.plan(&request) else { panic!("on no list") };
//! for group in &groups {
//!     for &(place, cost) in &group.rules {
//!         // What a rule before it took stays taken: not all or nothing.
//!         assert!(leased[place].check(&group.key, cost).await?.is_allowed());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod admin;
mod changes;
mod client;
mod compile;
mod config;
mod error;
mod key;
mod limiter;
#[cfg(feature = "metrics")]
mod meter;
mod plan;
mod records;
mod request;
mod route;
mod text;
mod top;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sysd_core::Clock;

pub use crate::defence::DEADLINE;
pub use admin::{ClientKey, Held, MOST_LIMITED_MAX, MostLimited};
pub use changes::{Changes, RuleChange, WholeChange};
pub use client::FORWARDED_MAX;
use client::Proxies;
pub use compile::{LIST_MAX, POLICY_RULES_MAX};
pub use config::{
    AlgorithmName, ClientsConfig, Count, Forwarded, ListedClient, OneOrMany, PolicyConfig, RateText, RuleConfig,
    WhenMissing,
};
pub use error::{PolicyError, PolicyErrorKind};
pub use key::{KEY_MAX, KeyPart};
pub use limiter::{PolicyLimiter, Reason, Ruling};
#[cfg(feature = "metrics")]
pub use meter::RANKS;
pub use plan::{Group, Listing, Missing, Plan};
pub use request::{Headers, RequestView};
use route::Pattern;

pub use crate::joint::OnError;
use crate::model::{Rule, RuleId};

/// Which limits a request must pass. Cheap to clone.
///
/// # Guarantees
/// - A policy that was made decides: every rule admits something, no two of them can be taken for one another, those that share a key fit in one
///   record and, of one request, in one [`RuleSet`](crate::RuleSet).
/// - No client chooses its address: see [`ClientsConfig`].
/// - No key is longer than [`KEY_MAX`], and different clients have different keys.
/// - API keys are in it, and in the keys it makes, by their SHA-256 only.
#[derive(Clone, PartialEq, Eq)]
pub struct Policy {
    compiled: Arc<Compiled>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Compiled {
    name: Box<str>,
    /// How long a request waits for the store, if it says.
    deadline: Option<Duration>,
    clients: Clients,
    allow: Lists,
    deny: Lists,
    rules: Vec<PolicyRule>,
    /// The rules' places, those of high priority first.
    order: Vec<usize>,
    /// For each rule and each route that it counts by, those whose states lie in the same record.
    in_force: Vec<Vec<Option<Arc<[RuleId]>>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clients {
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    api_key_header: Arc<str>,
    proxies: Proxies,
}

/// The entries of a list by what they are, each with its place.
#[derive(Clone, Default, PartialEq, Eq)]
struct Lists {
    networks: Vec<(IpNet, usize)>,
    users: HashMap<Box<str>, usize>,
    keys: HashMap<[u8; 32], usize>,
}

/// Without the keys' digests, by which a weak key could be guessed.
impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { networks, users, keys } = self;
        f.debug_struct("Lists").field("networks", networks).field("users", users).field("keys", &keys.len()).finish()
    }
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    rule: Rule,
    routes: Vec<Pattern>,
    methods: Vec<Box<str>>,
    key: Arc<[KeyPart]>,
    /// Which of the policy's keys it is.
    list: usize,
    cost: u32,
    priority: i32,
    is_final: bool,
    on_error: OnError,
    is_shadow: bool,
    is_billing: bool,
    missing: WhenMissing,
}

impl PolicyRule {
    /// Its limit and name.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The patterns of the paths it is for; none: all paths.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.routes.iter().map(Pattern::text)
    }

    /// Whether it is for this method.
    pub fn is_for_method(&self, method: &str) -> bool {
        let has = |wanted: &str| self.methods.iter().any(|method| **method == *wanted);
        // Servers answer HEAD with what they have for GET.
        self.methods.is_empty() || has(method) || method == "HEAD" && has("GET")
    }

    /// What it counts by, in the order of [`KeyPart`].
    pub fn key(&self) -> &[KeyPart] {
        &self.key
    }

    /// What a request costs, at least 1.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Higher ones first.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Whether rules of lower priority do not apply where it does.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// What happens where the store does not answer.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Whether it only counts.
    pub fn is_shadow(&self) -> bool {
        self.is_shadow
    }

    /// Whether it must be decided exactly, on the store.
    pub fn is_billing(&self) -> bool {
        self.is_billing
    }

    /// What happens where the request lacks a part of the key.
    pub fn missing(&self) -> WhenMissing {
        self.missing
    }
}

impl Policy {
    /// Reads a policy in TOML. `file` is how errors call it.
    ///
    /// # Errors
    /// [`PolicyError`] with the line.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, PolicyError> {
        text::read(text::Language::Toml, file, text)
    }

    /// Reads a policy in YAML. `file` is how errors call it.
    ///
    /// # Errors
    /// [`PolicyError`] with the line.
    pub fn from_yaml(file: &str, text: &str) -> Result<Self, PolicyError> {
        text::read(text::Language::Yaml, file, text)
    }

    /// Reads the file, in the language that its name ends with: `.toml`, `.yaml` or `.yml`. It blocks while it reads.
    ///
    /// # Errors
    /// [`PolicyError`]; of the kind [`Unreadable`](PolicyErrorKind::Unreadable) if the file can't be read or has another
    /// ending.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, PolicyError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let language = match path.extension().and_then(|ending| ending.to_str()) {
            Some("toml") => text::Language::Toml,
            Some("yaml" | "yml") => text::Language::Yaml,
            _ => {
                let problem = "not the name of a policy; let it end with .toml, .yaml or .yml".to_owned();
                return Err(PolicyError::unreadable(file, problem));
            }
        };
        match std::fs::read_to_string(path) {
            Ok(text) => text::read(language, &file, &text),
            Err(error) => Err(PolicyError::unreadable(file, format!("can't be read: {error}"))),
        }
    }

    /// What its states are known by in a store.
    pub fn name(&self) -> &str {
        &self.compiled.name
    }

    /// How long a request waits for the store at most; `None` if the limiter is to say.
    pub fn deadline(&self) -> Option<Duration> {
        self.compiled.deadline
    }

    /// The rules, as they are written: a rule's place here is what plans call it by.
    pub fn rules(&self) -> &[PolicyRule] {
        &self.compiled.rules
    }

    /// The same policy under another name: with counts of its own, beside those of this one.
    ///
    /// # Errors
    /// [`PolicyError`] for what is no name.
    pub fn renamed(&self, name: &str) -> Result<Self, PolicyError> {
        let name = compile::policy_name(name)?;
        Ok(Self { compiled: Arc::new(Compiled { name, ..Compiled::clone(&self.compiled) }) })
    }

    /// The same policy, its windows of the calendar worked out from `clock`, which must be within three windows of the one by which
    /// the store decides. As it is read they go by the system's clock.
    #[must_use]
    pub fn by_clock(&self, clock: &(impl Clock + Clone)) -> Self {
        let mut compiled = Compiled::clone(&self.compiled);
        for rule in &mut compiled.rules {
            rule.rule = rule.rule.by_clock(clock);
        }
        Self { compiled: Arc::new(compiled) }
    }

    /// What changes when this policy takes the place of `old`.
    pub fn changes(&self, old: &Self) -> Changes {
        Changes::between(&old.compiled, &self.compiled)
    }
}

impl TryFrom<PolicyConfig> for Policy {
    type Error = PolicyError;

    /// Checks it; an error names the field, and neither file nor line.
    fn try_from(config: PolicyConfig) -> Result<Self, PolicyError> {
        Ok(Self { compiled: Arc::new(compile::compile(&config)?) })
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.compiled).finish()
    }
}

#[cfg(test)]
#[path = "policy/policy_tests.rs"]
mod tests;
