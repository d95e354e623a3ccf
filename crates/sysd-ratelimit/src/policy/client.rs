//! Which address a request comes from.
//!
//! What a header says about it counts only as far as trusted proxies have written it. Each of them adds the address that
//! connected to it at the end, so the list is read from its end: past the proxies that are trusted, to the first address that is not. What
//! stands before it was written by that client, and is not looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smallvec::SmallVec;

use super::config::Forwarded;
use super::request::RequestView;

/// How many entries of a list of addresses are looked at. Longer chains of trusted proxies there are none.
pub const FORWARDED_MAX: usize = 32;

/// The address of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// Whether the list ended where it must: at an address that is no proxy's. Else `address` is a trusted proxy's: the last one
    /// that can be relied on.
    pub(super) is_certain: bool,
}

/// What is believed about addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxies {
    pub(super) trusted: Vec<IpNet>,
    pub(super) forwarded: Forwarded,
}

impl Proxies {
    /// Whose request it is; `None` where no address is known.
    pub(super) fn client(&self, request: &RequestView<'_>) -> Option<Client> {
        let peer = request.peer?.to_canonical();
        let name = match self.forwarded {
            Forwarded::None => return Some(Client { address: peer, is_certain: true }),
            Forwarded::XForwardedFor => "x-forwarded-for",
            Forwarded::Rfc7239 => "forwarded",
        };
        if !self.trusts(peer) {
            return Some(Client { address: peer, is_certain: true });
        }
        let mut lines = SmallVec::<[&[u8]; 4]>::new();
        request.headers.visit(name, &mut |line| lines.push(line));
        let entries = lines.iter().rev().flat_map(|line| Backwards { rest: Some(line), form: self.forwarded });
        let mut last = peer;
        for entry in entries.take(FORWARDED_MAX) {
            let entry = entry.trim_ascii();
            if entry.is_empty() {
                continue;
            }
            let address = match self.forwarded {
                Forwarded::Rfc7239 => forwarded_for(entry),
                Forwarded::XForwardedFor | Forwarded::None => std::str::from_utf8(entry).ok().and_then(node),
            };
            match address {
                Some(address) if self.trusts(address) => last = address,
                Some(address) => return Some(Client { address, is_certain: true }),
                // Not an address: what comes before it can't be relied on.
                None => break,
            }
        }
        Some(Client { address: last, is_certain: false })
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The entries of a line from the last to the first.
struct Backwards<'a> {
    rest: Option<&'a [u8]>,
    form: Forwarded,
}

impl<'a> Iterator for Backwards<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.rest?;
        match separator(line, self.form) {
            Some(at) => {
                self.rest = Some(&line[..at]);
                Some(&line[at + 1..])
            }
            None => self.rest.take(),
        }
    }
}

/// Where the last comma is. One within quotes is none, and quotes are paired from the end: so a quote that a client left open
/// can't reach over what a proxy has added.
fn separator(line: &[u8], form: Forwarded) -> Option<usize> {
    if form != Forwarded::Rfc7239 {
        return line.iter().rposition(|byte| *byte == b',');
    }
    let mut is_quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' => is_quoted ^= !is_escaped(line, at),
            b',' if !is_quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address in an element of `Forwarded`: that of its one parameter `for`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    let mut found = None;
    let mut rest = element;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = parameter_value(after)?;
        if name.trim().eq_ignore_ascii_case("for") {
            // Twice would be two answers.
            if found.is_some() {
                return None;
            }
            found = Some(node(&value)?);
        }
        let after = after.trim_start();
        rest = if after.is_empty() { after } else { after.strip_prefix(';')? };
    }
    found
}

/// The value, without its quotes, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.trim_start().strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`. What stands for
/// an address, `unknown` or `_hidden`, is none.
fn node(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty();
    let text = text.trim();
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        IpAddr::V6(address.parse().ok()?)
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        IpAddr::V4(address.parse().ok().filter(|_| is_port(port))?)
    };
    Some(address.to_canonical())
}

/// A network, or an address that is one of its own; else what is wrong with it.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let bad = || "no network; write one like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1".to_owned();
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| bad())?,
    };
    if network.trunc() != network {
        return Err(format!("{text:?} has bits beyond its prefix; write {}", network.trunc()));
    }
    // IPv4 within IPv6 is IPv4, as it is for the addresses that are held against it.
    if let IpNet::V6(v6) = network
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
    {
        return Ipv4Net::new(address, prefix).map(IpNet::V4).map_err(|_| bad());
    }
    Ok(network)
}

/// The network of so many bits that the address lies in.
pub(super) fn masked(address: IpAddr, v4_prefix: u8, v6_prefix: u8) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, v4_prefix).map_or(IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), IpNet::V4),
        IpAddr::V6(v6) => Ipv6Net::new(v6, v6_prefix).map_or(IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), IpNet::V6),
    }
    .trunc()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
