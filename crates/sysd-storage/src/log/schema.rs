//! Where a log's records lie: the only place that builds its keys.

use sysd_core::{Error, Key, KeyBytes, Result, Space, tuple};

/// The family of all logs' records.
pub(super) const SPACE: Space = Space::conditional("log");

/// How many entries a segment, which is a partition, holds at most. Part of the format: never change it.
pub(super) const SEGMENT_ENTRIES: u64 = 1_024;

const NAME_BYTES_MAX: usize = 256;

const SEGMENT: u8 = 0;
const HEAD: u8 = 1;
const MANIFEST: u8 = 2;
const SNAPSHOT: u8 = 3;

/// A log's name, and with it the keys of its records.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    name: String,
    segment_entries: u64,
}

impl Schema {
    pub(super) fn new(name: &str, segment_entries: u64) -> Result<Self> {
        match name.len() {
            0 => Err(Error::invalid("name", "a log's name has at least one byte")),
            size if size > NAME_BYTES_MAX => Err(Error::too_large("name", size, NAME_BYTES_MAX)),
            _ => Ok(Self { name: name.to_owned(), segment_entries }),
        }
    }

    /// The lone record that says whose log this is.
    pub(super) fn head(&self) -> Place {
        Place { partition: tuple::encode(&(self.name.as_str(), HEAD)), sort: KeyBytes::new() }
    }

    /// The lone record that names the newest snapshot.
    pub(super) fn manifest(&self) -> Place {
        Place { partition: tuple::encode(&(self.name.as_str(), MANIFEST)), sort: KeyBytes::new() }
    }

    /// The row of an entry.
    pub(super) fn entry(&self, number: u64) -> Place {
        let partition = tuple::encode(&(self.name.as_str(), SEGMENT, number / self.segment_entries));
        Place { partition, sort: tuple::encode(&(number,)) }
    }

    /// The row of a snapshot's chunk.
    pub(super) fn chunk(&self, snapshot: u128, at: u32) -> Place {
        Place { partition: tuple::encode(&(self.name.as_str(), SNAPSHOT, snapshot)), sort: tuple::encode(&(at,)) }
    }
}

/// The number of an entry's row.
pub(super) fn number_of(sort: &[u8]) -> Option<u64> {
    tuple::decode::<(u64,)>(sort).ok().map(|(number,)| number)
}

/// The bytes of a key.
#[derive(Clone, Debug)]
pub(super) struct Place {
    partition: KeyBytes,
    sort: KeyBytes,
}

impl Place {
    pub(super) fn key(&self) -> Key<'_> {
        Key::row(SPACE, &self.partition, &self.sort)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn segments_are_bounded_and_numbers_ordered() {
        let schema = Schema::new("bank", SEGMENT_ENTRIES).unwrap();
        let (last, first) = (schema.entry(SEGMENT_ENTRIES - 1), schema.entry(SEGMENT_ENTRIES));
        assert_ne!(last.key().partition(), first.key().partition());
        assert_eq!(schema.entry(0).key().partition(), last.key().partition());
        assert!(schema.entry(255).key().sort() < schema.entry(256).key().sort());
        assert_eq!(number_of(schema.entry(77).key().sort()), Some(77));
        assert_eq!(number_of(b"short"), None);
    }

    #[test]
    fn logs_do_not_share_a_partition() {
        let (a, b) = (Schema::new("a", SEGMENT_ENTRIES).unwrap(), Schema::new("a\0", SEGMENT_ENTRIES).unwrap());
        assert_ne!(a.entry(0).key().partition(), b.entry(0).key().partition());
        assert_ne!(a.head().key().partition(), a.manifest().key().partition());
    }

    #[test]
    fn a_name_is_checked() {
        assert_eq!(Schema::new("", SEGMENT_ENTRIES).unwrap_err().field(), Some("name"));
        assert_eq!(Schema::new(&"x".repeat(257), SEGMENT_ENTRIES).unwrap_err().field(), Some("name"));
        // The longest name fits the smallest partition of any backend, all its bytes escaped.
        let longest = Schema::new(&"\0".repeat(256), SEGMENT_ENTRIES).unwrap();
        assert!(longest.chunk(u128::MAX, 0).key().partition().len() <= 1_024);
    }
}
