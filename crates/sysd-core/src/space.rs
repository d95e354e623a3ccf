//! Families of records.

/// How the records of a [`Space`] are written; fixed for the life of the data.
///
/// Lightweight transactions and plain writes to one row do not order against each other on Cassandra and ScyllaDB, so a
/// space is one or the other, never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discipline {
    /// Writes may carry conditions, reads are strong (linearizable).
    Conditional,
    /// The last write wins, reads may be stale; no conditions and no procedures. For timelines and messages.
    Plain,
}

/// A named family of records with its write discipline.
///
/// ```
/// use sysd_core::Space;
/// const USERS: Space = Space::conditional("users");
/// const CACHE: Space = Space::plain("cache").evictable();
/// assert_eq!(USERS.name(), "users");
/// assert!(CACHE.is_evictable());
/// const TIMELINES: Space = Space::keys_only("timelines");
/// assert!(TIMELINES.is_keys_only() && !TIMELINES.is_conditional());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    name: &'static str,
    discipline: Discipline,
    evictable: bool,
    keys_only: bool,
}

impl Space {
    /// The longest name, bytes.
    pub const NAME_BYTES_MAX: usize = 32;

    /// A space whose writes may carry conditions and whose reads are strong.
    ///
    /// # Panics
    /// If the name is not 1 to 32 of `a-z`, `0-9`, `_`: in a `const`, as it is meant to be used, this is a compile error.
    pub const fn conditional(name: &'static str) -> Self {
        Self::new(name, Discipline::Conditional)
    }

    /// A space whose writes carry no conditions.
    ///
    /// # Panics
    /// As [`Space::conditional`].
    pub const fn plain(name: &'static str) -> Self {
        Self::new(name, Discipline::Plain)
    }

    /// A plain space whose records are their keys: no value, no expiry, and a version that says nothing. \[W9\]
    ///
    /// For timelines and indexes, where all there is to say fits into the sort key. It costs a store the least: on Redis a
    /// partition is one sorted set, and a write one `ZADD`.
    ///
    /// # Panics
    /// As [`Space::conditional`].
    pub const fn keys_only(name: &'static str) -> Self {
        let mut space = Self::new(name, Discipline::Plain);
        space.keys_only = true;
        space
    }

    const fn new(name: &'static str, discipline: Discipline) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= Self::NAME_BYTES_MAX, "a space's name has 1 to 32 bytes");
        let mut at = 0;
        while at < bytes.len() {
            assert!(matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'_'), "a space's name is made of a-z, 0-9 and _");
            at += 1;
        }
        Self { name, discipline, evictable: false, keys_only: false }
    }

    /// Lets a store that is short of memory drop records of this space (caches, never truth).
    #[must_use]
    pub const fn evictable(mut self) -> Self {
        self.evictable = true;
        self
    }

    /// The name: part of every stored key.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Equality, where it costs: nearly always both were made of one constant, so their names are one, not only equal.
    #[inline]
    pub(crate) fn is_same(self, other: Self) -> bool {
        let flags = |space: Self| (space.discipline, space.evictable, space.keys_only);
        flags(self) == flags(other) && (std::ptr::eq(self.name, other.name) || self.name == other.name)
    }

    /// How it is written.
    pub const fn discipline(self) -> Discipline {
        self.discipline
    }

    /// Whether writes may carry conditions.
    pub const fn is_conditional(self) -> bool {
        matches!(self.discipline, Discipline::Conditional)
    }

    /// Whether its records have neither value nor expiry.
    pub const fn is_keys_only(self) -> bool {
        self.keys_only
    }

    /// Whether a store may drop its records to make room.
    pub const fn is_evictable(self) -> bool {
        self.evictable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for bad in ["", "Users", "a b", "a:b", "a{b}", "ä", "abcdefghijklmnopqrstuvwxyz0123456"] {
            assert!(std::panic::catch_unwind(|| Space::conditional(bad)).is_err(), "{bad}");
        }
        assert_eq!(Space::plain("abcdefghijklmnopqrstuvwxyz_01234").name().len(), 32);
    }
}
