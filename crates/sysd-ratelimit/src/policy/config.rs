//! A policy as it is written, before anything was checked but the types.

use std::fmt;

use crate::joint::OnError;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// A policy as it is written. [`Policy::try_from`](super::Policy) checks it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// What the policy's states are known by in a store: two policies of one name share them.
    pub name: String,
    /// How clients are told apart.
    #[serde(default)]
    pub clients: ClientsConfig,
    /// How long a request waits for the store at most, milliseconds, 1 to 60,000; as the limiter says, if absent.
    #[serde(default)]
    pub deadline_ms: Option<Count>,
    /// Who passes without being asked. Who is on both lists is denied.
    #[serde(default)]
    pub allow: OneOrMany<ListedClient>,
    /// Who is refused.
    #[serde(default)]
    pub deny: OneOrMany<ListedClient>,
    /// The rules; there may be none.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

/// How clients are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientsConfig {
    /// The networks of the proxies whose word about their clients is taken.
    pub trusted_proxies: OneOrMany<String>,
    /// In which header they give it.
    pub forwarded: Forwarded,
    /// How many bits of an IPv4 address make a client: 32 if absent.
    pub ipv4_prefix: Count,
    /// How many bits of an IPv6 address make a client: 64 if absent, the network of one line, within which the rest can be had at
    /// will.
    pub ipv6_prefix: Count,
    /// The header that holds the API key: `x-api-key` if absent.
    pub api_key_header: String,
}

impl Default for ClientsConfig {
    fn default() -> Self {
        Self {
            trusted_proxies: OneOrMany::default(),
            forwarded: Forwarded::None,
            ipv4_prefix: Count(32),
            ipv6_prefix: Count(64),
            api_key_header: "x-api-key".to_owned(),
        }
    }
}

/// In which header trusted proxies say whom they speak for. Only that one is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
pub enum Forwarded {
    /// In none: the address that connects is the client.
    #[default]
    #[serde(rename = "none")]
    None,
    /// `X-Forwarded-For`, to whose end each proxy adds the address that connected to it.
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded`, of RFC 7239.
    #[serde(rename = "forwarded")]
    Rfc7239,
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What its states are known by; see [`Rule`](crate::Rule).
    pub name: String,
    /// The paths it is for; all of them if absent.
    #[serde(default)]
    pub route: Option<OneOrMany<String>>,
    /// The methods it is for; all of them if absent. `GET` is `HEAD` too.
    #[serde(default)]
    pub methods: Option<OneOrMany<String>>,
    /// What it counts by.
    pub key: OneOrMany<String>,
    /// How it counts.
    #[serde(default)]
    pub algorithm: AlgorithmName,
    /// How much: see [`Rate`](crate::Rate). Of windows of the calendar so many a minute, hour, day or month: `1000/mo`.
    pub rate: RateText,
    /// The time zone of a calendar's windows, by its name in the IANA database; `UTC` if absent.
    #[serde(default)]
    pub zone: Option<String>,
    /// The burst of a token bucket; the rate's count if absent.
    #[serde(default)]
    pub burst: Option<Count>,
    /// How many may wait in a leaky bucket.
    #[serde(default)]
    pub queue: Option<Count>,
    /// What a request costs.
    #[serde(default = "one")]
    pub cost: Count,
    /// Higher ones first.
    #[serde(default)]
    pub priority: i32,
    /// Where it matches, rules of lower priority do not apply.
    #[serde(default, rename = "final")]
    pub is_final: bool,
    /// What happens where the store does not answer. If absent, it passes, but where `billing` it is refused.
    #[serde(default)]
    pub on_error: Option<OnError>,
    /// It counts, and refuses nothing.
    #[serde(default)]
    pub shadow: bool,
    /// Money hangs on it: decided exactly, on the store, and refused where that does not answer, unless `on_error` says otherwise.
    #[serde(default)]
    pub billing: bool,
    /// What happens where the request lacks a part of the key.
    #[serde(default)]
    pub missing: WhenMissing,
}

const fn one() -> Count {
    Count(1)
}

/// The algorithms, by their names in a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the algorithm of that name")]
pub enum AlgorithmName {
    #[default]
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    /// Of the feature `calendar`.
    CalendarWindow,
}

/// What happens to a request that lacks a part of a rule's key.
///
/// The default is [`Anonymous`](Self::Anonymous): whoever leaves the header away is still limited, which `skip` would not do,
/// and is not turned away by a limit that has not been reached, which `deny` would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenMissing {
    /// The rule does not apply: no limit for who leaves the part away.
    Skip,
    /// It is refused.
    Deny,
    /// All that lack it share one key.
    #[default]
    Anonymous,
}

/// One, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOrMany<T> {
    /// Written without brackets.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// What it holds.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// What can be written as a text.
trait FromText: Sized {
    const EXPECTED: &'static str;
    fn from_text(text: String) -> Self;
}

impl FromText for String {
    const EXPECTED: &'static str = "a text or a list of texts";
    fn from_text(text: String) -> Self {
        text
    }
}

impl FromText for ListedClient {
    const EXPECTED: &'static str = "an entry like \"ip:10.0.0.0/8\" or a list of entries";
    fn from_text(text: String) -> Self {
        Self(text)
    }
}

impl<'de, T: FromText + Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: FromText + Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(T::from_text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(item) = list.next_element()? {
                    many.push(item);
                }
                Ok(OneOrMany::Many(many))
            }
        }
        deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
    }
}

/// A client on a list: `ip:NETWORK`, `user:NAME`, `key:API-KEY` or `key_sha256:HEX`, the digest of one.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ListedClient(pub String);

/// Without what may be an API key.
impl fmt::Debug for ListedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_shown = self.0.starts_with("ip:") || self.0.starts_with("user:");
        f.debug_tuple("ListedClient").field(&if is_shown { &self.0 } else { "…" }).finish()
    }
}

/// A rate as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateText(pub String);

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RateVisitor;
        impl Visitor<'_> for RateVisitor {
            type Value = RateText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate like \"10/s\" or \"5000/d\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(RateText(text.to_owned()))
            }
        }
        deserializer.deserialize_any(RateVisitor)
    }
}

/// A whole number, none of which is below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Count(pub u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 to 4294967295")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                let other = || E::invalid_value(de::Unexpected::Signed(number), &self);
                u32::try_from(number).map(Count).map_err(|_| other())
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                let other = || E::invalid_value(de::Unexpected::Unsigned(number), &self);
                u32::try_from(number).map(Count).map_err(|_| other())
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}
