//! Records and what is asked of them.

use std::fmt;

use bytes::Bytes;

use crate::entropy::{Entropy, SystemEntropy};
use crate::{Key, Timestamp};

/// The token that names one write, minted by its writer: 128 bits.
///
/// Tokens are never reused, so a record that was deleted and made again differs from the first (no ABA), and a writer
/// recognises its own write when the reply was lost. With 122 or more random bits, a billion writes collide with odds
/// below 10^-18 (birthday bound, n^2 / 2^123).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u128);

impl Version {
    /// A fresh token from the operating system's randomness.
    pub fn random() -> Self {
        Self::mint(&SystemEntropy)
    }

    /// A fresh token from `entropy`: in a simulation, the seed's.
    pub fn mint(entropy: &(impl Entropy + ?Sized)) -> Self {
        Self((u128::from(entropy.next_u64()) << 64) | u128::from(entropy.next_u64()))
    }

    /// From its stored form.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Its stored form, big-endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From a number.
    pub const fn from_u128(token: u128) -> Self {
        Self(token)
    }

    /// As a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The bytes; may be empty.
    pub value: Bytes,
    /// The token of the write that made it.
    pub version: Version,
    /// From when on it is absent; `None`: never.
    pub expires_at: Option<Timestamp>,
}

impl Record {
    /// Whether it is absent at `now`. A record is gone *at* its expiry, not after it.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Whatever is there. The only one in a plain space.
    Any,
    /// No record, or an expired one.
    Absent,
    /// The record that this write made, not expired.
    Is(Version),
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes or replaces the record.
    Put {
        /// The bytes; may be empty.
        value: Bytes,
        /// This write's own token, fresh: [`Version::random`].
        version: Version,
        /// From when on the record is absent; `None`: never.
        expires_at: Option<Timestamp>,
    },
    /// Removes the record; removing what is absent is no error.
    Delete,
}

/// A conditional write of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// Which record.
    pub key: Key<'a>,
    /// What to do to it.
    pub change: Change,
    /// On what condition.
    pub expect: Expect,
}

impl<'a> Write<'a> {
    /// Puts `value` under a fresh token, whatever is there, for ever. Refine it with the other methods.
    ///
    /// ```
    /// use sysd_core::{Expect, Key, Space, Write};
    /// const USERS: Space = Space::conditional("users");
    /// let write = Write::put(Key::lone(USERS, b"alice"), "hello").expect(Expect::Absent);
    /// assert!(write.version().is_some());
    /// ```
    pub fn put(key: Key<'a>, value: impl Into<Bytes>) -> Self {
        let change = Change::Put { value: value.into(), version: Version::random(), expires_at: None };
        Self { key, change, expect: Expect::Any }
    }

    /// Removes the record, whatever it is.
    pub const fn delete(key: Key<'a>) -> Self {
        Self { key, change: Change::Delete, expect: Expect::Any }
    }

    /// Only if this holds.
    #[must_use]
    pub const fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Under this token; no effect on a delete, which has none.
    #[must_use]
    pub fn with_version(mut self, token: Version) -> Self {
        if let Change::Put { version, .. } = &mut self.change {
            *version = token;
        }
        self
    }

    /// Gone from `at` on; no effect on a delete.
    #[must_use]
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        if let Change::Put { expires_at, .. } = &mut self.change {
            *expires_at = Some(at);
        }
        self
    }

    /// The token of a put, `None` for a delete.
    pub const fn version(&self) -> Option<Version> {
        match &self.change {
            Change::Put { version, .. } => Some(*version),
            Change::Delete => None,
        }
    }

    /// The answer to this write when its condition does not hold and `found` is there: [`Outcome::Applied`] if that is this
    /// very write (its reply was lost and it was sent again), else [`Outcome::Conflict`]. Adapters call it.
    pub fn lost_to(&self, found: Option<Record>) -> Outcome {
        match (&found, self.version()) {
            (Some(record), Some(version)) if record.version == version => Outcome::Applied,
            _ => Outcome::Conflict { found },
        }
    }
}

/// What came of a write. A lost condition is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict is a value, not an error: look at it"]
pub enum Outcome {
    /// The record is as the write left it.
    Applied,
    /// The condition did not hold; nothing happened.
    Conflict {
        /// What is there, `None` if nothing: it saves a read.
        found: Option<Record>,
    },
}

impl Outcome {
    /// Whether the write happened.
    pub const fn is_applied(&self) -> bool {
        matches!(self, Self::Applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    const SPACE: Space = Space::conditional("test");

    #[test]
    fn a_record_is_gone_at_its_expiry() {
        let at = |micros| Timestamp::from_micros_saturating(micros);
        let record = Record { value: Bytes::new(), version: Version::from_u128(1), expires_at: Some(at(10)) };
        assert!(!record.is_expired(at(9)));
        assert!(record.is_expired(at(10)));
        assert!(!Record { expires_at: None, ..record }.is_expired(Timestamp::MAX));
    }

    #[test]
    fn a_write_recognises_itself_and_only_itself() {
        let write = Write::put(Key::lone(SPACE, b"a"), "x").with_version(Version::from_u128(7));
        let found = |token| Record { value: Bytes::new(), version: Version::from_u128(token), expires_at: None };
        assert_eq!(write.lost_to(Some(found(7))), Outcome::Applied);
        assert_eq!(write.lost_to(Some(found(8))), Outcome::Conflict { found: Some(found(8)) });
        assert_eq!(write.lost_to(None), Outcome::Conflict { found: None });
        assert!(!Write::delete(Key::lone(SPACE, b"a")).lost_to(Some(found(7))).is_applied());
    }
}
