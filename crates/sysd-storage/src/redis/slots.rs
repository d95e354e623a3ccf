//! Hash slots of a Cluster: which a key has, and who says to hold it.

use redis::Value;

/// How many slots there are.
pub(super) const SLOTS: u16 = 16_384;

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// From `HOST:PORT`; a host that is left out is `default_host`.
    pub(super) fn parse(text: &str, default_host: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        match host.trim_start_matches('[').trim_end_matches(']') {
            "?" => None,
            "" => Some(Self { host: default_host.to_owned(), port }),
            host => Some(Self { host: host.to_owned(), port }),
        }
    }
}

/// A run of slots and its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
}

/// The slot of a key (Redis Cluster specification: CRC16, XMODEM, of the hash tag).
pub(super) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &rest[..length],
        _ => key,
    }
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC_TABLE[usize::from((crc >> 8) ^ u16::from(byte))])
}

/// Reads the answer of `CLUSTER SLOTS`; `None` if it is something else or names no slot.
pub(super) fn read_ranges(answer: &Value, answered_by: &str) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else { return None };
    let ranges: Option<Vec<Range>> = ranges.iter().map(|range| read_range(range, answered_by)).collect();
    ranges.filter(|ranges| !ranges.is_empty())
}

fn read_range(range: &Value, answered_by: &str) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), nodes @ ..] = parts.as_slice() else { return None };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    if first > last || last >= SLOTS {
        return None;
    }
    let mut nodes = nodes.iter().filter_map(|node| read_node(node, answered_by));
    Some(Range { first, last, master: nodes.next()?, replicas: nodes.collect() })
}

fn read_node(node: &Value, answered_by: &str) -> Option<Address> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        // A node that does not know its own address means the one that was asked.
        Value::Nil => "",
        _ => return None,
    };
    let port = u16::try_from(*port).ok()?;
    match host {
        "?" => None,
        "" => Some(Address { host: answered_by.to_owned(), port }),
        host => Some(Address { host: host.to_owned(), port }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // What `CLUSTER KEYSLOT` answers.
        for (key, slot) in
            [("", 0), ("foo", 12_182), ("bar", 5_061), ("{user1000}.following", 3_443), ("foo{}{bar}", 8_363)]
        {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    #[test]
    fn reads_the_map_and_refuses_all_else() {
        let range =
            |first, last, nodes: Vec<Value>| Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat());
        let read = |ranges: Vec<Value>| read_ranges(&Value::Array(ranges), "asked");
        let nodes = vec![node("a", 1), node("", 2), node("?", 3)];
        let expected = Range { first: 0, last: 9, master: address("a", 1), replicas: vec![address("asked", 2)] };
        assert_eq!(read(vec![range(0, 9, nodes)]), Some(vec![expected]));
        for broken in [
            vec![],
            vec![range(0, 16_384, vec![node("a", 1)])],
            vec![range(5, 4, vec![node("a", 1)])],
            vec![range(0, 4, vec![])],
            vec![range(0, 4, vec![node("a", 65_536)])],
            vec![Value::Okay],
        ] {
            assert_eq!(read(broken.clone()), None, "{broken:?}");
        }
        assert_eq!(read_ranges(&Value::Okay, "asked"), None);
    }

    #[test]
    fn reads_addresses_of_redirections() {
        assert_eq!(Address::parse("10.0.0.1:7000", "asked"), Some(address("10.0.0.1", 7000)));
        assert_eq!(Address::parse(":7000", "asked"), Some(address("asked", 7000)));
        assert_eq!(Address::parse("::1:7000", "asked"), Some(address("::1", 7000)));
        assert_eq!(Address::parse("?:7000", "asked"), None);
        assert_eq!(Address::parse("host", "asked"), None);
        assert_eq!(Address::parse("host:99999", "asked"), None);
    }
}
