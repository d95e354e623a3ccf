//! Where a record lies.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::Space;
use crate::tuple::KeyBytes;

/// Where a record lies: its space, the partition that places it, the sort key that orders it there.
///
/// A borrowed view, cheap to copy; [`KeyBuf`] owns its bytes. Build the parts with [`tuple::encode`](crate::tuple::encode),
/// which keeps their order.
///
/// A key with an empty sort names a *lone record*. The others are *rows*: a scan of the partition sees rows only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key<'a> {
    space: SpaceByName,
    partition: &'a [u8],
    sort: &'a [u8],
}

/// A space ordered by its name, so that keys have an order.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SpaceByName(Space);

impl Hash for SpaceByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialOrd for SpaceByName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpaceByName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name().cmp(other.0.name())
    }
}

impl<'a> Key<'a> {
    /// The record `sort` of `partition`.
    ///
    /// With an empty `sort` it is [`Key::lone`], which no scan and no trim sees: nothing is refused. Where sort keys come
    /// from outside, one of [`tuple::encode`](crate::tuple::encode) is never empty.
    pub const fn row(space: Space, partition: &'a [u8], sort: &'a [u8]) -> Self {
        Self { space: SpaceByName(space), partition, sort }
    }

    /// The lone record of `partition`.
    pub const fn lone(space: Space, partition: &'a [u8]) -> Self {
        Self::row(space, partition, &[])
    }

    /// The family of the record.
    pub const fn space(self) -> Space {
        self.space.0
    }

    /// What places the record: everything in one partition lies together.
    pub const fn partition(self) -> &'a [u8] {
        self.partition
    }

    /// What orders the record in its partition; empty for a lone record.
    pub const fn sort(self) -> &'a [u8] {
        self.sort
    }

    /// Whether the sort key is empty.
    pub const fn is_lone(self) -> bool {
        self.sort.is_empty()
    }

    /// A copy that owns its bytes.
    pub fn to_owned(self) -> KeyBuf {
        KeyBuf {
            space: self.space.0,
            partition: KeyBytes::from_slice(self.partition),
            sort: KeyBytes::from_slice(self.sort),
        }
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    write!(f, "{}", bytes.escape_ascii())
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.space().name())?;
        write_escaped(f, self.partition)?;
        if !self.is_lone() {
            f.write_str("/")?;
            write_escaped(f, self.sort)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A [`Key`] that owns its bytes; short ones lie inline.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyBuf {
    space: Space,
    partition: KeyBytes,
    sort: KeyBytes,
}

impl KeyBuf {
    /// The borrowed view.
    pub fn as_key(&self) -> Key<'_> {
        Key::row(self.space, &self.partition, &self.sort)
    }
}

impl Hash for KeyBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_key().hash(state);
    }
}

impl PartialOrd for KeyBuf {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBuf {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_key().cmp(&other.as_key())
    }
}

impl From<Key<'_>> for KeyBuf {
    fn from(key: Key<'_>) -> Self {
        key.to_owned()
    }
}

impl fmt::Display for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_key().fmt(f)
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_key(), f)
    }
}
