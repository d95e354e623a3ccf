//! What a store promises and how much it takes, as data.

use std::time::Duration;

use crate::{Change, Error, Expect, Key, Result, Scan, Space, Timestamp, Trim, Write};

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Process,
    /// A restart in order, but a crash or failover may lose the last moments (Redis without fsync on every write).
    BestEffort,
    /// Crash and restart of the server that acknowledged it.
    Durable,
}

/// Whose clock decides what is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClockAuthority {
    /// The caller's: clocks of several callers must agree about as well as the expiries need.
    Client,
    /// The server's.
    Server,
}

/// What a store promises and how much it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest partition, bytes.
    pub partition_bytes_max: usize,
    /// The longest sort key, bytes.
    pub sort_bytes_max: usize,
    /// The longest value, bytes.
    pub value_bytes_max: usize,
    /// How many records one round trip carries at most; longer batches are split by the store.
    pub batch_records_max: usize,
    /// How many rows a page or a trim takes at most; a scan may ask for more, and gets short pages.
    pub page_rows_max: usize,
    /// The grain that expired records are *reclaimed* at. Expiry itself is exact everywhere.
    pub ttl_grain: Duration,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Whose clock decides what is expired.
    pub clock: ClockAuthority,
}

impl Limits {
    /// Those of an in-process store: to start from.
    pub const PROCESS: Self = Self {
        partition_bytes_max: 2_048,
        sort_bytes_max: 1_024,
        value_bytes_max: 64 << 20,
        batch_records_max: 1_024,
        page_rows_max: 1_000,
        ttl_grain: Duration::from_micros(1),
        durability: Durability::Process,
        clock: ClockAuthority::Client,
    };

    /// Refuses a key that can never be stored.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming `partition` if it is empty; [`TooLarge`](crate::ErrorKind::TooLarge)
    /// naming `partition` or `sort`.
    #[inline]
    pub fn check_key(&self, key: Key<'_>) -> Result<()> {
        self.check_partition(key.partition())?;
        if key.sort().len() > self.sort_bytes_max {
            return Err(Error::too_large("sort", key.sort().len(), self.sort_bytes_max));
        }
        Ok(())
    }

    #[inline]
    fn check_partition(&self, partition: &[u8]) -> Result<()> {
        if partition.is_empty() {
            return Err(Error::invalid("partition", "a partition has at least one byte"));
        }
        if partition.len() > self.partition_bytes_max {
            return Err(Error::too_large("partition", partition.len(), self.partition_bytes_max));
        }
        Ok(())
    }

    /// Refuses a write that can never succeed, before anything is sent.
    ///
    /// # Errors
    /// As [`Limits::check_key`]; [`TooLarge`](crate::ErrorKind::TooLarge) naming `value`;
    /// [`Invalid`](crate::ErrorKind::Invalid) naming `expires_at` if it is not after `now`, `expect` if a plain space is asked
    /// for a condition, or `value` or `expires_at` if a space of keys only is given one.
    pub fn check_write(&self, write: &Write<'_>, now: Timestamp) -> Result<()> {
        self.check_key(write.key)?;
        if write.expect != Expect::Any && !write.key.space().is_conditional() {
            return Err(Error::invalid(
                "expect",
                format!("space {} is plain and takes no conditions", write.key.space().name()),
            ));
        }
        if let Change::Put { value, expires_at, .. } = &write.change {
            self.check_value(value)?;
            if write.key.space().is_keys_only() {
                Self::check_bare(write.key.space(), value, *expires_at)?;
            }
            if expires_at.is_some_and(|at| at <= now) {
                return Err(Error::invalid("expires_at", "it has passed already; delete the record instead"));
            }
        }
        Ok(())
    }

    #[cold]
    fn check_bare(space: Space, value: &[u8], expires_at: Option<Timestamp>) -> Result<()> {
        let field = match (value, expires_at) {
            ([], None) => return Ok(()),
            ([], Some(_)) => "expires_at",
            _ => "value",
        };
        Err(Error::invalid(field, format!("space {} keeps keys only; put it into a plain space", space.name())))
    }

    /// Refuses a value over the limit.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) naming `value`.
    #[inline]
    pub fn check_value(&self, value: &[u8]) -> Result<()> {
        if value.len() > self.value_bytes_max {
            return Err(Error::too_large("value", value.len(), self.value_bytes_max));
        }
        Ok(())
    }

    /// Refuses a scan that can never be right.
    ///
    /// # Errors
    /// As [`Limits::check_key`]; [`Invalid`](crate::ErrorKind::Invalid) naming `limit` or `range`.
    pub fn check_scan(&self, scan: &Scan<'_>) -> Result<()> {
        self.check_partition(scan.partition)?;
        scan.check()
    }

    /// Refuses a trim that can never be right.
    ///
    /// # Errors
    /// As [`Limits::check_key`].
    pub fn check_trim(&self, trim: &Trim<'_>) -> Result<()> {
        self.check_partition(trim.partition)
    }

    /// Refuses a procedure where it can't run: conditional spaces only.
    ///
    /// # Errors
    /// As [`Limits::check_key`]; [`Invalid`](crate::ErrorKind::Invalid) naming `space`.
    #[inline]
    pub fn check_update(&self, key: Key<'_>) -> Result<()> {
        self.check_key(key)?;
        Self::check_conditional(key.space())
    }

    #[inline]
    fn check_conditional(space: Space) -> Result<()> {
        if space.is_conditional() {
            return Ok(());
        }
        Err(Error::invalid("space", format!("space {} is plain and runs no procedures", space.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const TRUTH: Space = Space::conditional("truth");
    const FEED: Space = Space::plain("feed");
    const KEYS: Space = Space::keys_only("keys");

    fn refusal(write: &Write<'_>) -> Option<(ErrorKind, &'static str)> {
        let limits = Limits { partition_bytes_max: 4, sort_bytes_max: 4, value_bytes_max: 4, ..Limits::PROCESS };
        let error = limits.check_write(write, Timestamp::from_micros_saturating(10)).err()?;
        Some((error.kind(), error.field()?))
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let at = Timestamp::from_micros_saturating;
        let key = Key::row(TRUTH, b"four", b"four");
        let put = |value: &'static str| Write::put(key, value);
        assert_eq!(refusal(&put("four").expires_at(at(11))), None);
        assert_eq!(refusal(&put("fiver")), Some((ErrorKind::TooLarge, "value")));
        assert_eq!(refusal(&put("x").expires_at(at(10))), Some((ErrorKind::Invalid, "expires_at")));
        let row = |partition, sort| Write::delete(Key::row(TRUTH, partition, sort));
        assert_eq!(refusal(&row(b"", b"")), Some((ErrorKind::Invalid, "partition")));
        assert_eq!(refusal(&row(b"fiver", b"")), Some((ErrorKind::TooLarge, "partition")));
        assert_eq!(refusal(&row(b"p", b"fiver")), Some((ErrorKind::TooLarge, "sort")));
        let plain = Write::put(Key::lone(FEED, b"p"), "x");
        assert_eq!(refusal(&plain), None);
        assert_eq!(refusal(&plain.expect(Expect::Absent)), Some((ErrorKind::Invalid, "expect")));
        let bare = Write::put(Key::lone(KEYS, b"p"), "");
        assert_eq!(refusal(&bare), None);
        assert_eq!(refusal(&bare.expires_at(at(11))), Some((ErrorKind::Invalid, "expires_at")));
        assert_eq!(refusal(&Write::put(Key::lone(KEYS, b"p"), "x")), Some((ErrorKind::Invalid, "value")));
    }

    #[test]
    fn procedures_run_in_conditional_spaces_only() {
        let limits = Limits::PROCESS;
        assert!(limits.check_update(Key::lone(TRUTH, b"p")).is_ok());
        let error = limits.check_update(Key::lone(FEED, b"p")).err();
        assert_eq!(error.and_then(|error| error.field()), Some("space"));
    }
}
