//! Calls for whoever runs a limiter: look at a client, let it begin anew, see who is limited most, change a rule.

use std::fmt;

use sysd_core::tuple::KeyBytes;
use sysd_core::{Error, Key, Result, Store, StoreExt as _};

use super::{Changes, Group, KeyPart, Plan, Policy, PolicyLimiter, RequestView};
use crate::algorithm::Algorithm as _;
use crate::error::RateLimitError;
use crate::model::{Decision, Rule, RuleLimit};
use crate::procedure::TakeAll;
use crate::schema;
use crate::schema::policy::{KeptPart, decode_key};
use crate::service::partition;

/// How many pairs of a rule and a key [`PolicyLimiter::most_limited`] counts: less than a mebibyte, whatever the keys.
pub const MOST_LIMITED_MAX: usize = 256;

/// A key that rules of a policy count by: a client's, or one that all share.
///
/// It is shown by its parts, like `ip 192.0.2.1/32, route /login`; what is in it by its digest only, as API keys are, is shown by the
/// digest's first four bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientKey(KeyBytes);

impl ClientKey {
    /// The key as it is in a [`Group`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it counts by, and the route if that is a part; `None` of a key that is its own digest, and says nothing.
    fn counts_by(&self) -> Option<(Vec<KeyPart>, Option<String>)> {
        let kept = decode_key(&self.0)?;
        let route = kept.iter().find_map(|part| match part {
            KeptPart::Route(route) => Some(route.clone()),
            _ => None,
        });
        let parts = kept.into_iter().map(|part| match part {
            KeptPart::Network(_) | KeptPart::NoAddress => Some(KeyPart::Ip),
            KeptPart::User(_) | KeptPart::UserDigest(_) | KeptPart::NoUser => Some(KeyPart::User),
            KeptPart::ApiKey(_) | KeptPart::NoApiKey => Some(KeyPart::ApiKey),
            KeptPart::Header(name, _) | KeptPart::HeaderDigest(name, _) | KeptPart::NoHeader(name) => {
                Some(KeyPart::Header(name.into()))
            }
            KeptPart::Route(_) => Some(KeyPart::Route),
            KeptPart::Method(_) => Some(KeyPart::Method),
            KeptPart::Global => Some(KeyPart::Global),
            KeptPart::Digest(_) => None,
        });
        Some((parts.collect::<Option<_>>()?, route))
    }
}

impl From<&Group> for ClientKey {
    fn from(group: &Group) -> Self {
        Self(group.key.clone())
    }
}

/// From the bytes of a [`Group::key`], as they were kept somewhere.
impl From<&[u8]> for ClientKey {
    fn from(bytes: &[u8]) -> Self {
        Self(KeyBytes::from_slice(bytes))
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parts) = decode_key(&self.0) else { return f.write_str("no key of a policy") };
        for (at, part) in parts.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            match part {
                KeptPart::Network(network) => write!(f, "ip {network}")?,
                KeptPart::NoAddress => f.write_str("no ip")?,
                KeptPart::User(name) => write!(f, "user {}", name.escape_debug())?,
                KeptPart::UserDigest(digest) => write!(f, "user {}", Short(digest))?,
                KeptPart::NoUser => f.write_str("no user")?,
                KeptPart::ApiKey(digest) => write!(f, "api_key {}", Short(digest))?,
                KeptPart::NoApiKey => f.write_str("no api_key")?,
                KeptPart::Header(name, value) => write!(f, "header:{name} {}", value.escape_ascii())?,
                KeptPart::HeaderDigest(name, digest) => write!(f, "header:{name} {}", Short(digest))?,
                KeptPart::NoHeader(name) => write!(f, "no header:{name}")?,
                KeptPart::Route(pattern) => write!(f, "route {pattern}")?,
                KeptPart::Method(name) => write!(f, "method {name}")?,
                KeptPart::Global => f.write_str("global")?,
                KeptPart::Digest(digest) => write!(f, "a long key {}", Short(digest))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({self})")
    }
}

/// The beginning of a digest: enough to know it again, too little to guess what it is of.
struct Short<'a>(&'a [u8; 32]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

/// What a rule holds for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The rule's place in [`Policy::rules`].
    pub rule: usize,
    /// The key.
    pub key: ClientKey,
    /// What a request that costs nothing is told: what is left of the limit, and when all of it is there again.
    pub decision: Decision,
}

/// A client, by a key, that a rule has denied often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MostLimited {
    /// The rule's name.
    pub rule: String,
    /// The key.
    pub key: ClientKey,
    /// How many requests the rule denied it, at most: `denied - over` is certain.
    pub denied: u64,
    /// By how much `denied` may be too high.
    pub over: u64,
}

impl Policy {
    /// The same policy with another limit for the rule `name`: other numbers of the same algorithm, so it keeps what was taken.
    ///
    /// # Errors
    /// [`RateLimitError::UnknownRule`]; [`RateLimitError::OtherAlgorithm`], for which [`PolicyLimiter::replace`] is there;
    /// [`RateLimitError::CostAboveLimit`] if no request could ever pass.
    pub fn with_limit(&self, name: &str, limit: impl Into<RuleLimit>) -> Result<Self, RateLimitError> {
        let unknown = || RateLimitError::UnknownRule { name: name.chars().take(crate::RULE_NAME_MAX).collect() };
        let mut compiled = (*self.compiled).clone();
        let rule = compiled.rules.iter_mut().find(|rule| rule.rule.name() == name).ok_or_else(unknown)?;
        let changed = Rule::new(name, limit)?;
        let (old, new) = (rule.rule.limit(), changed.limit());
        if old.code() != new.code() {
            return Err(RateLimitError::OtherAlgorithm { name: name.to_owned() });
        }
        if rule.cost > new.limit() {
            return Err(RateLimitError::CostAboveLimit { name: name.to_owned(), cost: rule.cost, limit: new.limit() });
        }
        rule.rule = if rule.rule.is_billed() { changed.billed() } else { changed };
        Ok(Self { compiled: std::sync::Arc::new(compiled) })
    }

    /// The places of the rules that count by such a key.
    fn counting_by(&self, parts: &[KeyPart], route: Option<&str>) -> Vec<usize> {
        let is_counted = |rule: &super::PolicyRule| {
            *rule.key == *parts && route.is_none_or(|route| rule.routes().any(|other| other == route))
        };
        let rules = self.rules().iter().enumerate();
        rules.filter(|(_, rule)| is_counted(rule)).map(|(place, _)| place).collect()
    }
}

impl<S: Store> PolicyLimiter<S> {
    /// The keys that a request like this one is counted by, shadow rules included: none for a client on a list, or one that lacks a part
    /// that a rule demands.
    pub fn keys_of(&self, request: &RequestView<'_>) -> Vec<ClientKey> {
        let Plan::Rules { groups, shadows, .. } = self.policy().plan(request) else { return Vec::new() };
        let mut keys = Vec::new();
        for key in groups.iter().chain(&shadows).map(ClientKey::from) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// What each rule that counts by `key` holds, shadow rules included, and takes nothing.
    ///
    /// ```
    /// use sysd_ratelimit::policy::{Policy, PolicyLimiter, RequestView};
    /// use sysd_storage::Memory;
    ///
    /// # futures::executor::block_on(async {
    /// let policy = Policy::from_toml("limits.toml", r#"
    ///     name = "api"
    ///     [[rules]]
    ///     name = "each address"
    ///     key = "ip"
    ///     rate = "3/h"
    /// "#)?;
    /// let limiter = PolicyLimiter::new(Memory::new(), policy)?;
    /// let headers = [("accept", "*/*")];
    /// let peer = Some("192.0.2.1".parse()?);
    /// let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
    /// limiter.check(&request).await;
    ///
    /// let key = limiter.keys_of(&request).remove(0);
    /// assert_eq!(key.to_string(), "ip 192.0.2.1/32");
    /// assert_eq!(limiter.inspect(&key).await?[0].decision.remaining(), 2);
    /// limiter.reset(&key).await?;
    /// assert_eq!(limiter.inspect(&key).await?[0].decision.remaining(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check), of the store itself: neither the deadline of requests nor a stand-in applies.
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) for a key that says of itself no more than its digest, as those do that would be longer
    /// than [`KEY_MAX`](super::KEY_MAX).
    ///
    /// # Cost
    /// One update, if any rule counts by it.
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn inspect(&self, key: &ClientKey) -> Result<Vec<Held>> {
        let current = self.current();
        let unknown = || Error::invalid("key", "it says not what it counts by; give one that `keys_of` answers");
        let (parts, route) = key.counts_by().ok_or_else(unknown)?;
        let places = current.policy.counting_by(&parts, route.as_deref());
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let rules = current.policy.rules();
        let look = TakeAll::new(places.iter().map(|&place| (rules[place].rule(), 0)));
        let partition = partition(&current.prefix, key.as_bytes());
        let verdict = self.store.run(Key::lone(schema::RULES, &partition), &look).await?;
        let joint = look.decision(&verdict);
        let held = places.into_iter().zip(joint.each());
        Ok(held.map(|(rule, &decision)| Held { rule, key: key.clone(), decision }).collect())
    }

    /// Lets a key begin anew: all rules that count by it, shadow rules included, as if it had never taken anything. Requests that are being
    /// asked about take before it or after.
    ///
    /// # Errors
    /// As [`Store::write`], of the store itself.
    ///
    /// # Cost
    /// One write, and one of the stand-in.
    ///
    /// # Cancel safety
    /// A future that is dropped has reset it or not. It may be called again.
    pub async fn reset(&self, key: &ClientKey) -> Result<()> {
        let current = self.current();
        let partition = partition(&current.prefix, key.as_bytes());
        let record = Key::lone(schema::RULES, &partition);
        self.store.delete(record).await?;
        if let Some(stand_in) = &self.guard.stand_in {
            stand_in.delete(record).await?;
        }
        Ok(())
    }

    /// Who was denied most by the rules that are in force, most first and at most so many, by this process since it began or
    /// [`forget_denials`](Self::forget_denials) was called.
    ///
    /// # Guarantees
    /// It keeps [`MOST_LIMITED_MAX`] pairs of a rule and a key, whatever the keys (the algorithm Space-Saving). Of `n` denials in all a
    /// count is too high by at most `n / MOST_LIMITED_MAX`, and never too low; who was denied more often than that is there.
    pub fn most_limited(&self, at_most: usize) -> Vec<MostLimited> {
        let policy = self.policy();
        let name_of =
            |id| policy.rules().iter().map(super::PolicyRule::rule).find(|rule| rule.id() == id).map(Rule::name);
        let top = self.top();
        let most = top.most().filter_map(|entry| {
            let (id, key) = &entry.key;
            let (rule, key) = (name_of(*id)?.to_owned(), ClientKey(key.clone()));
            Some(MostLimited { rule, key, denied: entry.count, over: entry.over })
        });
        most.take(at_most).collect()
    }

    /// Lets [`most_limited`](Self::most_limited) begin anew; answers how many denials it had counted.
    pub fn forget_denials(&self) -> u64 {
        let mut top = self.top();
        let total = top.total();
        top.clear();
        total
    }

    /// Gives the rule `name` other numbers from the next request on, and says what that changes. It keeps what was taken.
    ///
    /// Of this process: others that share the store keep their own policy, until they are told too.
    ///
    /// # Errors
    /// As [`Policy::with_limit`] and [`replace`](Self::replace); then the old ones stay in force.
    pub fn change_rule(&self, name: &str, limit: impl Into<RuleLimit>) -> Result<Changes, RateLimitError> {
        let limit = limit.into();
        self.exchange(|policy| policy.with_limit(name, limit))
    }
}
