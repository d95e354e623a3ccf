//! Key names and the stored form of a record: the only place that builds them.

use bytes::{BufMut as _, Bytes, BytesMut};
use sysd_core::{Error, Key, Record, Result, Timestamp, Version};

/// Format byte, version, expiry.
pub(super) const HEADER_BYTES: usize = 1 + 16 + 8;
const FORMAT: u8 = 1;

/// `PREFIX{SPACE:PARTITION}SUFFIX`, the partition escaped so that the hash tag is all of it: `}` as `%7D`, `%` as `%25`.
fn name(prefix: &str, key: Key<'_>, suffix: &str) -> Vec<u8> {
    let space = key.space().name();
    let mut name = Vec::with_capacity(prefix.len() + space.len() + key.partition().len() + suffix.len() + 8);
    name.extend_from_slice(prefix.as_bytes());
    name.push(b'{');
    name.extend_from_slice(space.as_bytes());
    name.push(b':');
    for &byte in key.partition() {
        match byte {
            b'}' => name.extend_from_slice(b"%7D"),
            b'%' => name.extend_from_slice(b"%25"),
            other => name.push(other),
        }
    }
    name.push(b'}');
    name.extend_from_slice(suffix.as_bytes());
    name
}

/// The string of a lone record.
pub(super) fn lone(prefix: &str, key: Key<'_>) -> Vec<u8> {
    name(prefix, key, "")
}

/// The hash of a partition's records by sort key.
pub(super) fn rows(prefix: &str, key: Key<'_>) -> Vec<u8> {
    name(prefix, key, ":rows")
}

/// The sorted set of a partition's sort keys.
pub(super) fn order(prefix: &str, key: Key<'_>) -> Vec<u8> {
    name(prefix, key, ":order")
}

/// A time as scripts take it.
pub(super) fn time(at: Option<Timestamp>) -> [u8; 8] {
    at.map_or(0, Timestamp::as_micros).to_be_bytes()
}

pub(super) fn encode(value: &[u8], version: Version, expires_at: Option<Timestamp>) -> Bytes {
    let mut record = BytesMut::with_capacity(HEADER_BYTES + value.len());
    record.put_u8(FORMAT);
    record.put_slice(&version.to_bytes());
    record.put_slice(&time(expires_at));
    record.put_slice(value);
    record.freeze()
}

/// Reads a record, also an expired one.
pub(super) fn decode(key: Key<'_>, record: &Bytes) -> Result<Record> {
    let corrupt = || Error::corrupt(key, "not a record of this store; was the key written by another program?");
    let (format, rest) = record.split_first().ok_or_else(corrupt)?;
    let (version, rest) = rest.split_first_chunk::<16>().ok_or_else(corrupt)?;
    let (expiry, _) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
    if *format != FORMAT {
        return Err(corrupt());
    }
    let expires_at = match u64::from_be_bytes(*expiry) {
        0 => None,
        micros => Some(Timestamp::from_micros(micros).map_err(|_| corrupt())?),
    };
    Ok(Record { value: record.slice(HEADER_BYTES..), version: Version::from_bytes(*version), expires_at })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::{ErrorKind, Space};

    const SPACE: Space = Space::conditional("s");

    #[test]
    fn the_hash_tag_is_the_whole_partition() {
        assert_eq!(lone("p:", Key::lone(SPACE, b"a}b%{")), b"p:{s:a%7Db%25{}");
        assert_eq!(rows("", Key::row(SPACE, b"}", b"x")), b"{s:%7D}:rows");
        // No two partitions share a name.
        assert_ne!(lone("", Key::lone(SPACE, b"%7D")), lone("", Key::lone(SPACE, b"}")));
    }

    #[test]
    fn reads_what_it_wrote_and_refuses_all_else() {
        let key = Key::lone(SPACE, b"k");
        let at = Some(Timestamp::MAX);
        let record = decode(key, &encode(b"v", Version::from_u128(7), at)).unwrap();
        assert_eq!(record, Record { value: "v".into(), version: Version::from_u128(7), expires_at: at });
        let written = encode(b"", Version::from_u128(7), None);
        for broken in
            [Bytes::new(), written.slice(..24), [b"\x02", &written[1..]].concat().into(), vec![0xFF; 30].into()]
        {
            assert_eq!(decode(key, &broken).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        }
    }
}
