//! Reading and trimming a partition in order.

use std::ops::Bound;

use bytes::Bytes;

use crate::{Error, Record, Result, Space};

/// The direction of a scan, by sort key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// From the least sort key up.
    #[default]
    Ascending,
    /// From the greatest sort key down.
    Descending,
}

/// A read of the rows of one partition, in order.
///
/// ```
/// use sysd_core::{Order, Scan, Space};
/// const EVENTS: Space = Space::plain("events");
/// let newest_ten = Scan::partition(EVENTS, b"alice", 10).order(Order::Descending);
/// assert_eq!(newest_ten.limit, 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Which family of records.
    pub space: Space,
    /// Which partition of it.
    pub partition: &'a [u8],
    /// The lowest sort key.
    pub start: Bound<&'a [u8]>,
    /// The highest sort key.
    pub end: Bound<&'a [u8]>,
    /// In which direction; the bounds stay what they are.
    pub order: Order,
    /// The most rows to return, at least 1.
    pub limit: usize,
}

impl<'a> Scan<'a> {
    /// All rows of a partition, ascending, at most `limit` of them in a page.
    pub const fn partition(space: Space, partition: &'a [u8], limit: usize) -> Self {
        Self { space, partition, start: Bound::Unbounded, end: Bound::Unbounded, order: Order::Ascending, limit }
    }

    /// Only these sort keys.
    #[must_use]
    pub const fn range(mut self, start: Bound<&'a [u8]>, end: Bound<&'a [u8]>) -> Self {
        self.start = start;
        self.end = end;
        self
    }

    /// In this direction.
    #[must_use]
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Goes on behind a page: its [`Page::next`].
    #[must_use]
    pub const fn after(mut self, cursor: &'a [u8]) -> Self {
        match self.order {
            Order::Ascending => self.start = Bound::Excluded(cursor),
            Order::Descending => self.end = Bound::Excluded(cursor),
        }
        self
    }

    /// Whether `sort` lies between the bounds.
    pub fn contains(&self, sort: &[u8]) -> bool {
        let above = match self.start {
            Bound::Included(start) => sort >= start,
            Bound::Excluded(start) => sort > start,
            Bound::Unbounded => true,
        };
        let below = match self.end {
            Bound::Included(end) => sort <= end,
            Bound::Excluded(end) => sort < end,
            Bound::Unbounded => true,
        };
        above && below
    }

    /// Whether no sort key can lie between the bounds although they are in order: `(a, a]`, `[a, a)`, `(a, a)`.
    pub fn is_empty_range(&self) -> bool {
        match (self.start, self.end) {
            (Bound::Included(start), Bound::Excluded(end))
            | (Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start == end,
            _ => false,
        }
    }

    /// Refuses what can never be right; adapters call it through [`Limits::check_scan`](crate::Limits::check_scan).
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming `limit` if it is zero, or `range` if its start lies after its end.
    pub(crate) fn check(&self) -> Result<()> {
        if self.limit == 0 {
            return Err(Error::invalid("limit", "ask for at least one row"));
        }
        let bound = |bound| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        match (bound(self.start), bound(self.end)) {
            (Some(start), Some(end)) if start > end => Err(Error::invalid(
                "range",
                "the start lies after the end; to read downwards keep the bounds and set the order",
            )),
            _ => Ok(()),
        }
    }
}

/// One row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its sort key.
    pub sort: Bytes,
    /// What is stored there.
    pub record: Record,
}

/// Some rows of a scan, in its order.
///
/// A page may be short, even empty, though more follows: only `next` tells.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows, at most the scan's limit, no expired one among them.
    pub rows: Vec<Row>,
    /// Where to go on with [`Scan::after`]; `None` at the end.
    pub next: Option<Bytes>,
}

/// Which end of a partition to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The rows with the least sort keys (with newest-first keys: the newest).
    First(usize),
    /// The rows with the greatest sort keys.
    Last(usize),
}

/// Removes the rows of a partition beyond the first or last so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim<'a> {
    /// Which family of records.
    pub space: Space,
    /// Which partition of it.
    pub partition: &'a [u8],
    /// What stays.
    pub keep: Keep,
}

/// What a trim did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Rows removed by this call (expired ones that it met count too).
    pub removed: usize,
    /// Whether more may be left to remove: a call removes a bounded number.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space::plain("test");

    #[test]
    fn refuses_a_limit_of_zero_and_a_start_after_the_end() {
        let field = |scan: Scan<'_>| scan.check().err().and_then(|error| error.field());
        let scan = Scan::partition(SPACE, b"p", 1);
        assert_eq!(field(scan), None);
        assert_eq!(field(Scan { limit: 0, ..scan }), Some("limit"));
        assert_eq!(field(scan.range(Bound::Included(b"b"), Bound::Included(b"a"))), Some("range"));
        assert_eq!(field(scan.range(Bound::Excluded(b"a"), Bound::Excluded(b"a"))), None);
    }

    #[test]
    fn goes_on_behind_the_cursor_in_both_directions() {
        let scan = Scan::partition(SPACE, b"p", 1);
        assert!(scan.contains(b"b") && !scan.after(b"b").contains(b"b") && scan.after(b"b").contains(b"c"));
        let down = scan.order(Order::Descending).after(b"b");
        assert!(down.contains(b"a") && !down.contains(b"b"));
    }
}
