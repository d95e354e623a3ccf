//! Keys and the stored form of a record: the only place that builds them.

use std::ops::Bound;

use bytes::Bytes;
use fjall::Slice;
use sysd_core::{Error, Key, KeyBytes, Record, Result, Scan, Space, Timestamp, Version, tuple};

/// Of the store as a whole; each record has a format byte too.
/// 2: rows lie in parts by their spaces.
pub(super) const STORE_FORMAT: u8 = 2;

/// Format byte, expiry, version.
pub(super) const HEADER_BYTES: usize = 1 + 8 + 16;
const FORMAT: u8 = 1;

/// Lone records lie apart from rows, so that no scan meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    Lone,
    Rows,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::Lone, Self::Rows];

    pub(super) fn of(key: Key<'_>) -> Self {
        if key.is_lone() { Self::Lone } else { Self::Rows }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Lone records are one part, and rows are eight.
pub(super) const PARTS: usize = 9;

/// In which part a record lies, or a partition: lone records in the first, rows by their space, whose name the key begins with. Part of
/// the format: never change it. The hash is FNV-1a.
pub(super) fn part_of(family: Family, key: &[u8]) -> usize {
    if family == Family::Lone {
        return 0;
    }
    let name = key.iter().take_while(|byte| **byte != 0);
    let hash =
        name.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
    1 + usize::try_from(hash % 8).unwrap_or_default()
}

/// What lies under a key: bytes, or nothing.
pub(super) type Image = Option<Slice>;

/// `(SPACE, PARTITION)` as a tuple, then the sort key as it is: bytes in the order of the keys.
pub(super) fn encode_key(key: Key<'_>) -> KeyBytes {
    let mut bytes = prefix(key.space(), key.partition());
    bytes.extend_from_slice(key.sort());
    bytes
}

/// What the keys of a partition's rows begin with.
pub(super) fn prefix(space: Space, partition: &[u8]) -> KeyBytes {
    tuple::encode(&(space.name(), partition))
}

/// The keys between a scan's bounds.
pub(super) fn range(scan: &Scan<'_>, prefix: &[u8]) -> (Bound<KeyBytes>, Bound<KeyBytes>) {
    let at = |sort: &[u8]| {
        let mut key = KeyBytes::from_slice(prefix);
        key.extend_from_slice(sort);
        key
    };
    let start = match scan.start {
        Bound::Included(sort) => Bound::Included(at(sort)),
        Bound::Excluded(sort) => Bound::Excluded(at(sort)),
        Bound::Unbounded => Bound::Included(at(&[])),
    };
    let end = match scan.end {
        Bound::Included(sort) => Bound::Included(at(sort)),
        Bound::Excluded(sort) => Bound::Excluded(at(sort)),
        Bound::Unbounded => tuple::prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded),
    };
    (start, end)
}

pub(super) fn encode(value: &[u8], version: Version, expires_at: Option<Timestamp>) -> Slice {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&expires_at.map_or(0, Timestamp::as_micros).to_be_bytes());
    bytes.extend_from_slice(&version.to_bytes());
    bytes.extend_from_slice(value);
    Slice::from(bytes)
}

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) expires_at: Option<Timestamp>,
}

impl Header {
    pub(super) fn is_expired(self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub(super) fn with(self, value: Bytes) -> Record {
        Record { value, version: self.version, expires_at: self.expires_at }
    }
}

/// The header and the value behind it; `None` if this is no record of ours.
pub(super) fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (&[format], rest) = bytes.split_first_chunk::<1>()?;
    let (expiry, rest) = rest.split_first_chunk::<8>()?;
    let (version, value) = rest.split_first_chunk::<16>()?;
    if format != FORMAT {
        return None;
    }
    let expires_at = match u64::from_be_bytes(*expiry) {
        0 => None,
        micros => Some(Timestamp::from_micros(micros).ok()?),
    };
    Some((Header { version: Version::from_bytes(*version), expires_at }, value))
}

/// What is live at `now`.
///
/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) if the bytes are no record.
pub(super) fn live<'a>(key: Key<'_>, image: Option<&'a Slice>, now: Timestamp) -> Result<Option<(Header, &'a [u8])>> {
    let Some(bytes) = image else { return Ok(None) };
    let (header, value) = split(bytes).ok_or_else(|| foreign(key, bytes))?;
    Ok((!header.is_expired(now)).then_some((header, value)))
}

/// The record in an image, if it is live at `now`.
///
/// # Errors
/// As [`live`].
pub(super) fn record(key: Key<'_>, image: Image, now: Timestamp) -> Result<Option<Record>> {
    let header = live(key, image.as_ref(), now)?.map(|(header, _)| header);
    Ok(header.zip(image).map(|(header, image)| header.with(Bytes::from(image).slice(HEADER_BYTES..))))
}

fn foreign(key: Key<'_>, bytes: &[u8]) -> Error {
    match bytes.first() {
        Some(&format) if format > FORMAT => {
            Error::corrupt(key, format!("the record's format {format} is newer than this version of sysd reads"))
        }
        _ => Error::corrupt(key, "the bytes are no record; were they written by another program?"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SPACE: Space = Space::conditional("test");

    #[test]
    fn a_record_comes_back_and_its_bytes_stay() {
        let (version, at) = (Version::from_u128(5), Timestamp::from_micros_saturating(9));
        let bytes = encode(b"xy", version, Some(at));
        // Pinned: stores on disks have these bytes.
        assert_eq!(bytes[..], *b"\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05xy");
        assert_eq!(split(&bytes), Some((Header { version, expires_at: Some(at) }, b"xy".as_slice())));
        assert_eq!(split(&encode(b"", version, None)), Some((Header { version, expires_at: None }, b"".as_slice())));
    }

    #[test]
    fn keys_stay_as_they_are() {
        assert_eq!(encode_key(Key::row(SPACE, b"p\0", b"s"))[..], *b"test\0\x01p\0\xff\0\x01s");
    }

    #[test]
    fn a_space_lies_in_one_part_and_busy_ones_lie_apart() {
        let part = |space: &'static str| {
            let space = Space::conditional(space);
            let [key, partition] = [encode_key(Key::row(space, b"p\0", b"s")), prefix(space, b"p\0")];
            assert_eq!(part_of(Family::Rows, &key), part_of(Family::Rows, &partition));
            assert_eq!(part_of(Family::Lone, &key), 0);
            part_of(Family::Rows, &key)
        };
        // Pinned, and these write most.
        let parts = ["log", "ledger_journal", "ledger_index", "ratelimit", "queue"].map(part);
        assert_eq!(parts, [2, 5, 8, 3, 1]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = encode(b"", Version::from_u128(1), None);
        for length in 0..good.len() {
            assert_eq!(split(&good[..length]), None);
        }
        for format in [0, 2, 255] {
            let mut bytes = good.to_vec();
            bytes[0] = format;
            assert_eq!(split(&bytes), None);
        }
        let mut late = good.to_vec();
        late[1] = 255;
        assert_eq!(split(&late), None);
        let error = live(Key::lone(SPACE, b"p"), Some(&Slice::from(vec![2; 30])), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(error.message().contains("format 2 is newer"), "{error}");
    }

    proptest! {
        #[test]
        fn keys_lie_in_the_order_of_their_parts(
            a in (proptest::collection::vec(0..3_u8, 1..4), proptest::collection::vec(0..3_u8, 0..4)),
            b in (proptest::collection::vec(0..3_u8, 1..4), proptest::collection::vec(0..3_u8, 0..4)),
        ) {
            let (x, y) = (encode_key(Key::row(SPACE, &a.0, &a.1)), encode_key(Key::row(SPACE, &b.0, &b.1)));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            let (start, end) = range(&Scan::partition(SPACE, &a.0, 1), &prefix(SPACE, &a.0));
            let inside = (start.as_ref(), end.as_ref());
            prop_assert_eq!(std::ops::RangeBounds::<KeyBytes>::contains(&inside, &y), a.0 == b.0);
        }
    }
}
