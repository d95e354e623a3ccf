//! The keys that a policy's rules count by: for each part a byte that says what it is, then the part.
//!
//! | byte | part | then |
//! |---|---|---|
//! | 1 | IPv4 network | 1: the bits of its prefix; 4: the address |
//! | 2 | IPv6 network | 1: the bits of its prefix; 16: the address |
//! | 3, 4 | user | the name; 32: its digest |
//! | 5 | API key | 32: its digest |
//! | 6, 7 | header | its name; the value, or 32: its digest |
//! | 8 | route | the pattern |
//! | 9 | method | the name |
//! | 10 | global | |
//! | 11 to 14 | no IP address, user, API key, header | of a header, its name |
//! | 255 | all of a key that would be too long | 32: its digest |
//!
//! Names, values and patterns end as elements of a tuple do, and all else has a length of its own. So no key is the beginning
//! of another one, and two keys are the same only if their parts are. A digest is SHA-256.

use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use sysd_core::tuple::{self, Element, KeyBytes};

/// The longest value that lies in a key as it is, bytes.
pub(crate) const KEY_VALUE_MAX: usize = 256;

/// What stands in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyValue<'a> {
    Network(IpNet),
    NoAddress,
    User(&'a str),
    NoUser,
    ApiKey(&'a [u8]),
    NoApiKey,
    Header {
        name: &'a str,
        value: &'a [u8],
        /// It is in the key by its digest only, however short it is.
        is_secret: bool,
    },
    NoHeader(&'a str),
    Route(&'a str),
    Method(&'a str),
    Global,
}

pub(crate) fn encode_key_value(value: KeyValue<'_>, out: &mut KeyBytes) {
    match value {
        KeyValue::Network(network) => {
            let code = if matches!(network, IpNet::V4(_)) { 1 } else { 2 };
            out.extend_from_slice(&[code, network.prefix_len()]);
            match network.addr() {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
        KeyValue::NoAddress => out.push(11),
        KeyValue::User(name) if name.len() > KEY_VALUE_MAX => digested(4, name.as_bytes(), out),
        KeyValue::User(name) => named(3, name, out),
        KeyValue::NoUser => out.push(12),
        KeyValue::ApiKey(key) => digested(5, key, out),
        KeyValue::NoApiKey => out.push(13),
        KeyValue::Header { name, value, is_secret } => {
            let is_digested = is_secret || value.len() > KEY_VALUE_MAX;
            named(if is_digested { 7 } else { 6 }, name, out);
            if is_digested {
                out.extend_from_slice(&sha256(value));
            } else {
                value.encode_to(out);
            }
        }
        KeyValue::NoHeader(name) => named(14, name, out),
        KeyValue::Route(pattern) => named(8, pattern, out),
        KeyValue::Method(name) => named(9, name, out),
        KeyValue::Global => out.push(10),
    }
}

/// The key, or its digest if it is longer than `most`.
pub(crate) fn bounded(key: KeyBytes, most: usize) -> KeyBytes {
    if key.len() <= most {
        return key;
    }
    let mut short = KeyBytes::new();
    digested(255, &key, &mut short);
    short
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn named(code: u8, name: &str, out: &mut KeyBytes) {
    out.push(code);
    name.encode_to(out);
}

fn digested(code: u8, bytes: &[u8], out: &mut KeyBytes) {
    out.push(code);
    out.extend_from_slice(&sha256(bytes));
}

/// What a key says of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeptPart {
    Network(IpNet),
    NoAddress,
    User(String),
    UserDigest([u8; 32]),
    NoUser,
    ApiKey([u8; 32]),
    NoApiKey,
    Header(String, Vec<u8>),
    HeaderDigest(String, [u8; 32]),
    NoHeader(String),
    Route(String),
    Method(String),
    Global,
    /// All of a key that would have been too long.
    Digest([u8; 32]),
}

/// The parts of a key; `None` if it is none.
pub(crate) fn decode_key(key: &[u8]) -> Option<Vec<KeptPart>> {
    let mut rest = key;
    let mut parts = Vec::new();
    while let Some((&code, behind)) = rest.split_first() {
        rest = behind;
        let rest = &mut rest;
        parts.push(match code {
            1 => {
                let (prefix, address) = (fixed::<1>(rest)?[0], fixed::<4>(rest)?);
                KeptPart::Network(IpNet::new(IpAddr::from(address), prefix).ok()?)
            }
            2 => {
                let (prefix, address) = (fixed::<1>(rest)?[0], fixed::<16>(rest)?);
                KeptPart::Network(IpNet::new(IpAddr::from(address), prefix).ok()?)
            }
            3 => KeptPart::User(text(rest)?),
            4 => KeptPart::UserDigest(fixed(rest)?),
            5 => KeptPart::ApiKey(fixed(rest)?),
            6 => KeptPart::Header(text(rest)?, bytes(rest)?),
            7 => KeptPart::HeaderDigest(text(rest)?, fixed(rest)?),
            8 => KeptPart::Route(text(rest)?),
            9 => KeptPart::Method(text(rest)?),
            10 => KeptPart::Global,
            11 => KeptPart::NoAddress,
            12 => KeptPart::NoUser,
            13 => KeptPart::NoApiKey,
            14 => KeptPart::NoHeader(text(rest)?),
            255 => KeptPart::Digest(fixed(rest)?),
            _ => return None,
        });
    }
    (!parts.is_empty()).then_some(parts)
}

fn fixed<const LENGTH: usize>(rest: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}

/// An element of a tuple: zeroes are escaped, and it ends with `00 01`.
fn bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut end = 0;
    loop {
        match rest.get(end..)? {
            [0, 1, ..] => break,
            [0, ..] => end += 2,
            [_, ..] => end += 1,
            [] => return None,
        }
    }
    let (element, behind) = rest.split_at_checked(end + 2)?;
    *rest = behind;
    let (bytes,): (Vec<u8>,) = tuple::decode(element).ok()?;
    Some(bytes)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(bytes(rest)?).ok()
}
