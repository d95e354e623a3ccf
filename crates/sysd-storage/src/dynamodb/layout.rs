//! How keys and records lie in the table.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use sysd_core::{Error, Key, Record, Result, Space, Timestamp, Version};

/// The table's partition key: prefix, space and partition.
pub(super) const PARTITION: &str = "p";
/// The table's sort key: a tag, and of a row its sort.
pub(super) const SORT: &str = "s";
pub(super) const VALUE: &str = "v";
pub(super) const VERSION: &str = "r";
/// Microseconds since 1970.
pub(super) const EXPIRES_AT: &str = "e";
/// Seconds since 1970: what DynamoDB deletes by.
pub(super) const TTL: &str = "ttl";

/// The record is absent, or has expired by now.
pub(super) const IS_ABSENT: &str = "attribute_not_exists(p) OR e <= :now";
/// The record is of one version, and has not expired by now.
pub(super) const IS_VERSION: &str = "r = :version AND (attribute_not_exists(e) OR e > :now)";

/// Before every row, so that no range of rows meets it.
const LONE_TAG: u8 = 0;
const ROW_TAG: u8 = 1;

/// What DynamoDB takes.
const PARTITION_KEY_BYTES_MAX: usize = 2_048;
const SORT_KEY_BYTES_MAX: usize = 1_024;
const ITEM_BYTES_MAX: usize = 400 << 10;
/// The most that DynamoDB counts for a number.
const NUMBER_BYTES_MAX: usize = 21;

/// The longest sort key.
pub(super) const SORT_BYTES_MAX: usize = SORT_KEY_BYTES_MAX - 1;
/// The longest value: an item's names count, and the longest key fits beside it.
pub(super) const VALUE_BYTES_MAX: usize = ITEM_BYTES_MAX
    - (PARTITION.len() + PARTITION_KEY_BYTES_MAX)
    - (SORT.len() + SORT_KEY_BYTES_MAX)
    - VALUE.len()
    - (VERSION.len() + 16)
    - (EXPIRES_AT.len() + NUMBER_BYTES_MAX)
    - (TTL.len() + NUMBER_BYTES_MAX);

/// DynamoDB may delete an expired item this long after its expiry, so that callers whose clocks differ agree.
const RECLAIM_GRACE: Duration = Duration::from_secs(60 * 60);

/// An item of the table, or a part of one.
pub(super) type Item = HashMap<String, AttributeValue>;

/// Builds keys and items, and reads them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The prefix with its separator; empty without one.
    prefix: String,
    /// Whether DynamoDB's own clock may decide when an item can be deleted.
    has_ttl: bool,
}

pub(super) fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

pub(super) fn time(at: Timestamp) -> AttributeValue {
    AttributeValue::N(at.as_micros().to_string())
}

pub(super) fn version(version: Version) -> AttributeValue {
    bytes(version.to_bytes())
}

impl Layout {
    /// A prefix without `/` and `:`; `has_ttl` where the clock of expiries is real time.
    pub(super) fn new(prefix: &str, has_ttl: bool) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { prefix, has_ttl }
    }

    pub(super) fn partition_bytes_max(&self) -> usize {
        PARTITION_KEY_BYTES_MAX.saturating_sub(self.prefix.len() + Space::NAME_BYTES_MAX + 1)
    }

    /// `PREFIX/SPACE:PARTITION`; a space's name has neither, so no two keys meet.
    pub(super) fn partition(&self, space: Space, partition: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), space.name().as_bytes(), b":", partition].concat()
    }

    /// The key of a record, with room for as many attributes beside it.
    fn with_key(&self, key: Key<'_>, more: usize) -> Item {
        let mut item = HashMap::with_capacity(2 + more);
        item.insert(PARTITION.to_owned(), bytes(self.partition(key.space(), key.partition())));
        item.insert(SORT.to_owned(), bytes(if key.is_lone() { vec![LONE_TAG] } else { row(key.sort()) }));
        item
    }

    pub(super) fn key(&self, key: Key<'_>) -> Item {
        self.with_key(key, 0)
    }

    pub(super) fn item(&self, key: Key<'_>, value: &[u8], token: Version, expires_at: Option<Timestamp>) -> Item {
        let mut item = self.with_key(key, 4);
        item.insert(VALUE.to_owned(), bytes(value));
        item.insert(VERSION.to_owned(), version(token));
        if let Some(at) = expires_at {
            item.insert(EXPIRES_AT.to_owned(), time(at));
            if self.has_ttl {
                let seconds = at.saturating_add(RECLAIM_GRACE).as_micros().div_ceil(1_000_000);
                item.insert(TTL.to_owned(), AttributeValue::N(seconds.to_string()));
            }
        }
        item
    }
}

/// The sort key of a row.
pub(super) fn row(sort: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + sort.len());
    key.push(ROW_TAG);
    key.extend_from_slice(sort);
    key
}

/// The sort of the row that an item or a cursor names, taken out of it.
pub(super) fn take_sort(item: &mut Item) -> Option<Bytes> {
    let sort = Bytes::from(take_bytes(item, SORT)?);
    (sort.first() == Some(&ROW_TAG)).then(|| sort.slice(1..))
}

pub(super) fn take_bytes(item: &mut Item, name: &str) -> Option<Vec<u8>> {
    match item.remove(name) {
        Some(AttributeValue::B(blob)) => Some(blob.into_inner()),
        _ => None,
    }
}

/// The expiry that an item has; `Err` where it can't be read.
pub(super) fn expires_at(item: &Item) -> Result<Option<Timestamp>, ()> {
    match item.get(EXPIRES_AT) {
        None => Ok(None),
        Some(AttributeValue::N(micros)) => {
            micros.parse().ok().and_then(|micros| Timestamp::from_micros(micros).ok()).map(Some).ok_or(())
        }
        Some(_) => Err(()),
    }
}

/// The record in an item.
pub(super) fn decode(key: Key<'_>, mut item: Item) -> Result<Record> {
    let foreign = |what| {
        let message = format!("its attribute {what} is none of ours; was it written by another program?");
        Error::corrupt(key, message)
    };
    let expires_at = expires_at(&item).map_err(|()| foreign(EXPIRES_AT))?;
    let version = take_bytes(&mut item, VERSION).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let version = Version::from_bytes(version.ok_or_else(|| foreign(VERSION))?);
    let value = take_bytes(&mut item, VALUE).ok_or_else(|| foreign(VALUE))?.into();
    Ok(Record { value, version, expires_at })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::ErrorKind;

    const SPACE: Space = Space::conditional("users");

    /// What DynamoDB counts: names, bytes, and of a number half its digits and one (three more where they are odd).
    fn counted(item: &Item) -> usize {
        let value = |value: &AttributeValue| match value {
            AttributeValue::B(blob) => blob.as_ref().len(),
            AttributeValue::N(number) => number.len().div_ceil(2) + 1,
            other => unreachable!("{other:?}"),
        };
        item.iter().map(|(name, attribute)| name.len() + value(attribute)).sum()
    }

    #[test]
    fn the_largest_value_fits_beside_the_longest_key() {
        for prefix in ["", "app"] {
            let layout = Layout::new(prefix, true);
            let space = const { Space::conditional("abcdefghijklmnopqrstuvwxyz_01234") };
            let (partition, sort) = (vec![1; layout.partition_bytes_max()], vec![2; SORT_BYTES_MAX]);
            let key = Key::row(space, &partition, &sort);
            let item = layout.item(key, &vec![0; VALUE_BYTES_MAX], Version::random(), Some(Timestamp::MAX));
            let AttributeValue::B(partition) = &item[PARTITION] else { unreachable!() };
            assert_eq!(partition.as_ref().len(), PARTITION_KEY_BYTES_MAX);
            let AttributeValue::B(sort) = &item[SORT] else { unreachable!() };
            assert_eq!(sort.as_ref().len(), SORT_KEY_BYTES_MAX);
            let counted = counted(&item);
            assert!((ITEM_BYTES_MAX - 2 * NUMBER_BYTES_MAX..=ITEM_BYTES_MAX).contains(&counted), "{counted}");
        }
    }

    #[test]
    fn prefixes_spaces_and_partitions_never_meet() {
        let (bare, app) = (Layout::new("", true), Layout::new("app", true));
        let spaces = const { [Space::plain("app"), Space::plain("a"), Space::plain("users")] };
        let mut seen = std::collections::HashSet::new();
        for layout in [bare, app, Layout::new("ap", true), Layout::new("a", true)] {
            for space in spaces {
                for partition in ["a", ":a", "a:", "/a:", "users:a", "app/users:a"] {
                    assert!(seen.insert(layout.partition(space, partition.as_bytes())), "{space:?} {partition}");
                }
            }
        }
    }

    #[test]
    fn dynamodb_deletes_an_hour_late_and_only_by_real_time() {
        let at = Timestamp::from_micros(1_000_000_000_001).unwrap();
        let item = |has_ttl, at| Layout::new("", has_ttl).item(Key::lone(SPACE, b"a"), b"", Version::random(), at);
        assert_eq!(item(true, Some(at)).get(TTL), Some(&AttributeValue::N("1003601".to_owned())));
        assert_eq!(item(false, Some(at)).get(TTL), None);
        assert_eq!(item(true, None).get(TTL), None);
    }

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_corrupt() {
        let key = Key::row(SPACE, b"a", b"b");
        let at = Timestamp::from_micros(7).unwrap();
        let item = Layout::new("", true).item(key, b"value", Version::from_u128(3), Some(at));
        let record = Record { value: "value".into(), version: Version::from_u128(3), expires_at: Some(at) };
        assert_eq!(decode(key, item.clone()).unwrap(), record);
        assert_eq!(take_sort(&mut item.clone()), Some("b".into()));
        let other = AttributeValue::S("x".to_owned());
        let number = |number: &str| AttributeValue::N(number.to_owned());
        let wrong = [
            (VALUE, vec![None, Some(other.clone())]),
            (VERSION, vec![None, Some(other.clone()), Some(bytes([1; 15]))]),
            (EXPIRES_AT, vec![Some(other), Some(number("-1")), Some(number("1.5")), Some(number("9007199254740992"))]),
        ];
        for (name, values) in wrong {
            for value in values {
                let mut item = item.clone();
                item.remove(name);
                item.extend(value.map(|value| (name.to_owned(), value)));
                let error = decode(key, item).unwrap_err();
                assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(key)), "{name}");
            }
        }
    }
}
