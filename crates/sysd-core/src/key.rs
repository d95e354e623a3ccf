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
#[derive(Clone, Copy, Eq)]
pub struct Key<'a> {
    space: SpaceByName,
    partition: &'a [u8],
    sort: &'a [u8],
}

/// A space ordered by its name, so that keys have an order.
#[derive(Clone, Copy, Eq)]
struct SpaceByName(Space);

impl PartialEq for SpaceByName {
    /// A space is a constant: nearly always the name of both is the same, not only equal.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.is_same(other.0)
    }
}

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

impl PartialEq for Key<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.space == other.space && is_same(self.partition, other.partition) && is_same(self.sort, other.sort)
    }
}

/// Equality of slices that are often empty. Those point nowhere, and a `memcmp` by masked loads (glibc's, with AVX-512) takes
/// 80 nanoseconds to find that it may not read there what it need not compare.
#[inline]
fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && (left.is_empty() || left == right)
}

impl PartialOrd for Key<'_> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let sort = || {
            let is_empty = self.sort.is_empty() || other.sort.is_empty();
            if is_empty { self.sort.len().cmp(&other.sort.len()) } else { self.sort.cmp(other.sort) }
        };
        self.space.cmp(&other.space).then_with(|| self.partition.cmp(other.partition)).then_with(sort)
    }
}

impl Hash for Key<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.space.hash(state);
        self.partition.hash(state);
        self.sort.hash(state);
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
#[derive(Clone, Eq)]
pub struct KeyBuf {
    space: Space,
    partition: KeyBytes,
    sort: KeyBytes,
}

impl KeyBuf {
    /// The borrowed view.
    #[inline]
    pub fn as_key(&self) -> Key<'_> {
        Key::row(self.space, &self.partition, &self.sort)
    }
}

impl PartialEq for KeyBuf {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Hash for KeyBuf {
    #[inline]
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ONE: Space = Space::conditional("one");
    const TWO: Space = Space::conditional("two");

    /// Equality, order and hash are written out: they agree with those of the parts, empty ones too.
    #[test]
    fn keys_compare_and_hash_as_their_parts() {
        let bytes: [&[u8]; 5] = [b"", b"a", b"ab", b"b", &[0]];
        let mut parts = Vec::new();
        for space in [ONE, TWO, Space::plain("one"), Space::conditional("one").evictable()] {
            for partition in bytes {
                parts.extend(bytes.map(|sort| (space, partition, sort)));
            }
        }
        let key = |(space, partition, sort)| Key::row(space, partition, sort);
        for left in &parts {
            for right in &parts {
                let (one, two) = (key(*left), key(*right));
                assert_eq!(one == two, left == right);
                assert_eq!(one.to_owned() == two.to_owned(), left == right);
                let order = (left.0.name(), left.1, left.2).cmp(&(right.0.name(), right.1, right.2));
                assert_eq!(one.cmp(&two), order);
            }
        }
        let keys: HashSet<_> = parts.iter().map(|parts| key(*parts)).collect();
        assert_eq!(keys.len(), parts.len());
        // The name of a space need not lie at one place.
        let copy = Space::conditional(String::from("one").leak());
        assert!(keys.contains(&Key::row(copy, b"a", b"")));
        assert_eq!(Key::lone(copy, b"a"), Key::lone(ONE, b"a"));
    }
}
