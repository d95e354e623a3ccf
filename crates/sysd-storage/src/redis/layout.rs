//! Key names and the stored form of a record: the only place that builds them.

use bytes::{Buf as _, BufMut, Bytes};
use redis::{RedisWrite, ToRedisArgs};
use sysd_core::{Error, Key, Record, Result, Timestamp, Version};

/// Format byte, expiry, version.
pub(super) const HEADER_BYTES: usize = 1 + 16 + 8;
const FORMAT: u8 = 1;

/// `PREFIX{SPACE:PARTITION}SUFFIX`, the partition escaped so that the hash tag is all of it: `}` as `%7D`, `%` as `%25`.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    prefix: &'a str,
    key: Key<'a>,
    suffix: &'static str,
}

impl<'a> Name<'a> {
    /// The string of a lone record.
    pub(super) fn lone(prefix: &'a str, key: Key<'a>) -> Self {
        Self { prefix, key, suffix: "" }
    }

    /// The hash of a partition's records by sort key.
    pub(super) fn rows(prefix: &'a str, key: Key<'a>) -> Self {
        Self { prefix, key, suffix: ":rows" }
    }

    /// The sorted set of a partition's sort keys.
    pub(super) fn order(prefix: &'a str, key: Key<'a>) -> Self {
        Self { prefix, key, suffix: ":order" }
    }

    pub(super) fn write(self, name: &mut impl BufMut) {
        name.put_slice(self.prefix.as_bytes());
        name.put_u8(b'{');
        name.put_slice(self.key.space().name().as_bytes());
        name.put_u8(b':');
        let mut rest = self.key.partition();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'}' | b'%')) {
            name.put_slice(&rest[..at]);
            name.put_slice(if rest[at] == b'}' { b"%7D" } else { b"%25" });
            rest = &rest[at + 1..];
        }
        name.put_slice(rest);
        name.put_u8(b'}');
        name.put_slice(self.suffix.as_bytes());
    }
}

impl ToRedisArgs for Name<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let length = self.prefix.len() + self.key.space().name().len() + self.key.partition().len() + 16;
        self.write(&mut out.bufmut_for_next_arg(length));
    }
}

/// A record as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) value: &'a [u8],
    pub(super) version: Version,
    pub(super) expires_at: Option<Timestamp>,
}

impl Stored<'_> {
    fn write(&self, record: &mut impl BufMut) {
        record.put_u8(FORMAT);
        record.put_slice(&time(self.expires_at));
        record.put_slice(&self.version.to_bytes());
        record.put_slice(self.value);
    }
}

impl ToRedisArgs for Stored<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        self.write(&mut out.bufmut_for_next_arg(HEADER_BYTES + self.value.len()));
    }
}

/// A time as scripts take it.
pub(super) fn time(at: Option<Timestamp>) -> [u8; 8] {
    at.map_or(0, Timestamp::as_micros).to_be_bytes()
}

/// What is no record of this store.
pub(super) fn foreign(key: Key<'_>) -> Error {
    Error::corrupt(key, "not a record of this store; was the key written by another program?")
}

/// Reads a record, also an expired one.
pub(super) fn decode(key: Key<'_>, mut stored: Bytes) -> Result<Record> {
    if stored.len() < HEADER_BYTES || stored.get_u8() != FORMAT {
        return Err(foreign(key));
    }
    let expires_at = match stored.get_u64() {
        0 => None,
        micros => Some(Timestamp::from_micros(micros).map_err(|_| foreign(key))?),
    };
    let version = Version::from_u128(stored.get_u128());
    Ok(Record { value: stored, version, expires_at })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::{ErrorKind, Space};

    const SPACE: Space = Space::conditional("s");

    fn written(name: Name<'_>) -> Vec<u8> {
        name.to_redis_args().remove(0)
    }

    fn encode(value: &[u8], version: Version, expires_at: Option<Timestamp>) -> Bytes {
        Stored { value, version, expires_at }.to_redis_args().remove(0).into()
    }

    #[test]
    fn the_hash_tag_is_the_whole_partition() {
        assert_eq!(written(Name::lone("p:", Key::lone(SPACE, b"a}b%{"))), b"p:{s:a%7Db%25{}");
        assert_eq!(written(Name::rows("", Key::row(SPACE, b"}", b"x"))), b"{s:%7D}:rows");
        assert_eq!(written(Name::order("", Key::row(SPACE, b"%%", b"x"))), b"{s:%25%25}:order");
        // No two partitions share a name.
        let name = |partition| written(Name::lone("", Key::lone(SPACE, partition)));
        assert_ne!(name(b"%7D"), name(b"}"));
    }

    #[test]
    fn reads_what_it_wrote_and_refuses_all_else() {
        let key = Key::lone(SPACE, b"k");
        let at = Some(Timestamp::MAX);
        let record = decode(key, encode(b"v", Version::from_u128(7), at)).unwrap();
        assert_eq!(record, Record { value: "v".into(), version: Version::from_u128(7), expires_at: at });
        let written = encode(b"", Version::from_u128(7), None);
        for broken in
            [Bytes::new(), written.slice(..24), [b"\x02", &written[1..]].concat().into(), vec![0xFF; 30].into()]
        {
            assert_eq!(decode(key, broken).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        }
    }
}
