//! What rules count by.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sysd_core::tuple::KeyBytes;

use super::client::masked;
use super::request::RequestView;
use crate::schema::policy::{KeyValue, bounded, encode_key_value};

/// The longest key that a policy makes, bytes. One that would be longer is its own digest.
///
/// Values longer than 256 bytes are in a key by their SHA-256, and so are API keys and the headers that hold secrets. It is a cryptographic
/// digest because clients choose what goes in: with another they could look for values that share a key with somebody
/// else's. To hit a given one takes 2^256 tries; among 2^40 keys some two are the same with odds of about one in 2^177.
pub const KEY_MAX: usize = 512;

/// A part of what a rule counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeyPart {
    /// The client's network, see [`ClientsConfig`](super::ClientsConfig).
    Ip,
    /// Who is signed in.
    User,
    /// The API key, by its digest.
    ApiKey,
    /// The value of the header of this name, in lower case.
    Header(Arc<str>),
    /// Which of the rule's routes it is: the pattern, not the path, of which a client could make any number.
    Route,
    /// The method; those that HTTP does not define are one.
    Method,
    /// Nothing: all requests are one.
    Global,
}

/// Headers that hold what only their owner should know.
const SECRET_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
/// Headers whose word counts only as far as trusted proxies wrote it.
const FORWARDING_HEADERS: [&str; 5] =
    ["x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip"];
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl KeyPart {
    /// Reads it as a policy has it; else what is wrong with it, without what it is: it may be an API key.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "ip" => Self::Ip,
            "user" => Self::User,
            "api_key" => Self::ApiKey,
            "route" => Self::Route,
            "method" => Self::Method,
            "global" => Self::Global,
            _ => {
                let Some(name) = text.strip_prefix("header:") else {
                    let known = "ip, user, api_key, header:NAME, route, method or global";
                    return Err(format!("nothing to count by; write {known}"));
                };
                Self::Header(header_name(name)?)
            }
        })
    }
}

/// The name of a header in lower case; else what is wrong with it.
pub(super) fn header_name(name: &str) -> Result<Arc<str>, String> {
    if !is_token(name) {
        return Err("no name of a header; write letters, digits and -, like x-tenant".to_owned());
    }
    let name = name.to_ascii_lowercase();
    if FORWARDING_HEADERS.contains(&name.as_str()) {
        return Err(format!(
            "any client can send {name} as it likes; count by ip, and set clients.forwarded and clients.trusted_proxies"
        ));
    }
    Ok(name.into())
}

/// Whether it is a token of HTTP (RFC 9110, section 5.6.2): the name of a header or a method.
pub(super) fn is_token(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(is_token_byte)
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::Header(name) => return write!(f, "header:{name}"),
            Self::Route => "route",
            Self::Method => "method",
            Self::Global => "global",
        })
    }
}

/// A key, with the first part that the request lacks.
pub(super) type Keyed<'a> = (KeyBytes, Option<&'a KeyPart>);

/// A request, with what was found out about it.
pub(super) struct Asked<'a> {
    pub(super) request: &'a RequestView<'a>,
    /// The client's address.
    pub(super) address: Option<IpAddr>,
    pub(super) ipv4_prefix: u8,
    pub(super) ipv6_prefix: u8,
    pub(super) api_key_header: &'a str,
}

impl<'a> Asked<'a> {
    /// The part, if the request has it.
    fn value(&self, part: &'a KeyPart, route: &'a str) -> Option<KeyValue<'a>> {
        Some(match part {
            KeyPart::Ip => KeyValue::Network(self.network()?),
            KeyPart::User => KeyValue::User(self.request.user.filter(|user| !user.is_empty())?),
            KeyPart::ApiKey => KeyValue::ApiKey(self.api_key()?),
            KeyPart::Header(name) => {
                let is_secret = SECRET_HEADERS.contains(&&**name) || **name == *self.api_key_header;
                KeyValue::Header { name, value: self.request.header(name)?, is_secret }
            }
            KeyPart::Route => KeyValue::Route(route),
            KeyPart::Method => {
                let known = METHODS.into_iter().find(|method| *method == self.request.method);
                KeyValue::Method(known.unwrap_or("*"))
            }
            KeyPart::Global => KeyValue::Global,
        })
    }

    pub(super) fn api_key(&self) -> Option<&'a [u8]> {
        self.request.header(self.api_key_header)
    }

    fn network(&self) -> Option<IpNet> {
        Some(masked(self.address?, self.ipv4_prefix, self.ipv6_prefix))
    }

    /// The key of these parts.
    pub(super) fn key(&self, parts: &'a [KeyPart], route: &'a str) -> Keyed<'a> {
        let mut key = KeyBytes::new();
        let mut missing = None;
        for part in parts {
            let value = self.value(part, route).unwrap_or_else(|| {
                missing = missing.or(Some(part));
                absent(part)
            });
            encode_key_value(value, &mut key);
        }
        (bounded(key, KEY_MAX), missing)
    }
}

fn absent(part: &KeyPart) -> KeyValue<'_> {
    match part {
        KeyPart::Ip => KeyValue::NoAddress,
        KeyPart::User => KeyValue::NoUser,
        KeyPart::ApiKey => KeyValue::NoApiKey,
        KeyPart::Header(name) => KeyValue::NoHeader(name),
        // Of every request there are these.
        KeyPart::Route | KeyPart::Method | KeyPart::Global => KeyValue::Global,
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
