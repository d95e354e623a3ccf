//! What callers of a store would otherwise write themselves.

use std::future::Future;
use std::ops::Bound;

use bytes::Bytes;

use crate::procedure::Procedure;
use crate::{Error, Expect, Key, Outcome, Result, Row, Scan, Store, Trim, Trimmed, Write};

/// Convenience over [`Store`], implemented for every store.
pub trait StoreExt: Store {
    /// Puts a value whatever is there, under a fresh token, for ever.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put(&self, key: Key<'_>, value: impl Into<Bytes> + Send) -> impl Future<Output = Result<()>> + Send {
        async move {
            match self.write(Write::put(key, value)).await? {
                Outcome::Applied => Ok(()),
                Outcome::Conflict { .. } => Err(unconditional_conflict(key)),
            }
        }
    }

    /// Puts a value if nothing is there.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put_if_absent(
        &self,
        key: Key<'_>,
        value: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Outcome>> + Send {
        async move { self.write(Write::put(key, value).expect(Expect::Absent)).await }
    }

    /// Removes a record whatever it is.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn delete(&self, key: Key<'_>) -> impl Future<Output = Result<()>> + Send {
        async move {
            match self.write(Write::delete(key)).await? {
                Outcome::Applied => Ok(()),
                Outcome::Conflict { .. } => Err(unconditional_conflict(key)),
            }
        }
    }

    /// Runs a procedure on a record, atomically.
    ///
    /// # Errors
    /// As [`Store::update`]; [`Corrupt`](crate::ErrorKind::Corrupt) if the output can't be decoded, and then the effect is
    /// unknown.
    fn run<P: Procedure>(&self, key: Key<'_>, procedure: &P) -> impl Future<Output = Result<P::Output>> + Send {
        async move {
            let output = self.update(key, procedure).await?;
            procedure.decode_output(&output).map_err(|error| error.at(key).with_effect(crate::Effect::Unknown))
        }
    }

    /// Reads rows page by page until `scan.limit` rows or the end.
    ///
    /// # Errors
    /// As [`Store::scan`]; what was read before is dropped.
    ///
    /// # Cost
    /// As many round trips as the store makes pages of it. The rows are held in memory: give a limit.
    fn scan_rows(&self, scan: Scan<'_>) -> impl Future<Output = Result<Vec<Row>>> + Send {
        async move {
            let mut rows = Vec::new();
            let mut cursor: Option<Bytes> = None;
            loop {
                let mut next = scan;
                next.limit = scan.limit.saturating_sub(rows.len());
                if let Some(cursor) = &cursor {
                    next = next.after(cursor);
                }
                // A cursor at the very bound leaves nothing, and behind it the bounds would cross.
                if scan.limit > 0 && (next.limit == 0 || cursor.is_some() && is_crossed(&next)) {
                    return Ok(rows);
                }
                let page = self.scan(next).await?;
                rows.extend(page.rows);
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => return Ok(rows),
                }
            }
        }
    }

    /// Trims until nothing more is to remove; answers how many rows went.
    ///
    /// # Errors
    /// As [`Store::trim`]; what was removed before stays removed, and the effect is unknown then.
    fn trim_all(&self, trim: Trim<'_>) -> impl Future<Output = Result<usize>> + Send {
        async move {
            let mut total = 0;
            loop {
                let trimmed = self.trim(trim).await;
                let Trimmed { removed, more } = trimmed.map_err(|error| error.after_part(total > 0))?;
                total += removed;
                if !more {
                    return Ok(total);
                }
            }
        }
    }
}

impl<S: Store> StoreExt for S {}

fn is_crossed(scan: &Scan<'_>) -> bool {
    match (scan.start, scan.end) {
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start > end || scan.is_empty_range()
        }
        _ => false,
    }
}

fn unconditional_conflict(key: Key<'_>) -> Error {
    Error::new(
        crate::ErrorKind::Internal,
        crate::Effect::Unknown,
        "the store answered a write without a condition with a conflict; certify it with sysd-testkit",
    )
    .with_key(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use futures::executor::block_on;

    use super::*;
    use crate::procedure::ErasedProcedure;
    use crate::{Effect, ErrorKind, Keep, Limits, Order, OutputBytes, Page, Record, Space, Version};

    const SPACE: Space = Space::conditional("test");

    /// Answers every scan with one row and a cursor there, and refuses bounds that cross, as stores do. Trims as many times as there
    /// are cursors, then refuses.
    struct Cursors(Mutex<Vec<&'static [u8]>>);

    impl Store for Cursors {
        fn limits(&self) -> &Limits {
            &Limits::PROCESS
        }

        async fn get(&self, _key: Key<'_>) -> Result<Option<Record>> {
            Ok(None)
        }

        async fn get_many(&self, _keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
            Vec::new()
        }

        async fn write(&self, _write: Write<'_>) -> Result<Outcome> {
            Ok(Outcome::Applied)
        }

        async fn write_many(&self, _writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
            Vec::new()
        }

        async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
            self.limits().check_scan(&scan)?;
            let Some(sort) = self.0.lock().unwrap().pop() else { return Ok(Page::default()) };
            let record = Record { value: Bytes::new(), version: Version::from_u128(1), expires_at: None };
            Ok(Page { rows: vec![Row { sort: sort.into(), record }], next: Some(sort.into()) })
        }

        async fn trim(&self, _trim: Trim<'_>) -> Result<Trimmed> {
            match self.0.lock().unwrap().pop() {
                Some(_) => Ok(Trimmed { removed: 1, more: true }),
                None => Err(Error::new(ErrorKind::Denied, Effect::None, "no more")),
            }
        }

        async fn update(&self, _key: Key<'_>, _procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
            Ok(OutputBytes::new())
        }
    }

    fn scanned(cursors: &[&'static [u8]], scan: Scan<'_>) -> Result<usize> {
        let store = Cursors(Mutex::new(cursors.iter().rev().copied().collect()));
        Ok(block_on(store.scan_rows(scan))?.len())
    }

    #[test]
    fn trims_of_which_the_first_was_made_may_have_happened() {
        let trim = Trim { space: SPACE, partition: b"p", keep: Keep::First(0) };
        for (cursors, effect) in [(vec![], Effect::None), (vec![b"a".as_slice()], Effect::Unknown)] {
            let error = block_on(Cursors(Mutex::new(cursors)).trim_all(trim)).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Denied, effect));
        }
    }

    #[test]
    fn scan_rows_refuses_bounds_that_cross() {
        let scan = Scan::partition(SPACE, b"p", 10).range(Bound::Included(b"b"), Bound::Included(b"a"));
        assert_eq!(scanned(&[], scan).unwrap_err().field(), Some("range"));
        assert_eq!(scanned(&[], Scan { limit: 0, ..scan }).unwrap_err().field(), Some("limit"));
    }

    #[test]
    fn scan_rows_ends_at_a_cursor_at_or_behind_the_bound() {
        let scan = Scan::partition(SPACE, b"p", 10);
        for end in [Bound::Included(b"b".as_slice()), Bound::Excluded(b"b")] {
            for last in [b"b".as_slice(), b"c"] {
                // Going on behind it would ask for less than nothing.
                let up = scan.range(Bound::Unbounded, end);
                assert_eq!(scanned(&[b"a", last, b"never"], up).unwrap(), 2, "{end:?} {last:?}");
            }
            for last in [b"b".as_slice(), b"a"] {
                let down = scan.order(Order::Descending).range(end, Bound::Unbounded);
                assert_eq!(scanned(&[b"c", last, b"never"], down).unwrap(), 2, "{end:?} {last:?}");
            }
        }
        assert_eq!(scanned(&[b"a", b"b", b"c"], scan.range(Bound::Excluded(b"0"), Bound::Included(b"c"))).unwrap(), 3);
    }
}
