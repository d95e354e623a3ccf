//! Rows in order: reads of a partition, and what is removed of it.

use std::ops::Bound;

use bytes::Bytes;
use scylla::deserialize::row::ColumnIterator;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use sysd_core::{
    Clock, Effect, Error, ErrorKind, Keep, Key, Limits, Order, Page, Result, Row, Scan, Space, Trim, Trimmed,
};

use super::carry::Caller;
use super::error::{Access, map};
use super::layout::{Answer, Columns, Values, read_answer, read_row, unexpected};
use super::{ScyllaStore, access, successor};

/// A page ends when it has so many bytes.
const PAGE_BYTES: usize = 4 << 20;
/// What is asked for in the first fetch of a page, before anything is known of its rows' size, has to fit in a server's frame
/// (256 MiB), and in its memory, even where every row is as large as it may be.
const FETCH_BYTES_MAX: usize = 144 << 20;
/// The most that a row takes in a frame beside its sort key and its value: a format byte, version, expiry, and lengths.
const ROW_BYTES: usize = 64;
/// Fetches for one page or trim before a partition counts as unreadable: servers answer with fewer rows, or none, where they
/// pass over tombstones.
const FETCHES_MAX: usize = 1_024;

/// Some rows as they came, and where to go on.
type Fetched = (Vec<(Bytes, Columns)>, Option<PagingState>);

/// The rows from `low` on and below `high`, which has no bound where it is `None`.
struct Range {
    low: Bytes,
    high: Option<Bytes>,
}

impl Range {
    /// Bounds that no server refuses: one longer than any sort key is cut to what divides the keys alike.
    fn of(scan: &Scan<'_>, sort_bytes_max: usize) -> Self {
        let from = |bound: &[u8], is_behind: bool| match bound.get(..sort_bytes_max) {
            Some(cut) if cut.len() < bound.len() => successor(cut),
            _ if is_behind => successor(bound),
            _ => Bytes::copy_from_slice(bound),
        };
        let low = match scan.start {
            Bound::Included(sort) => from(sort, false),
            Bound::Excluded(sort) => from(sort, true),
            Bound::Unbounded => Bytes::new(),
        };
        let high = match scan.end {
            Bound::Included(sort) => Some(from(sort, true)),
            Bound::Excluded(sort) => Some(from(sort, false)),
            Bound::Unbounded => None,
        };
        Self { low, high }
    }

    fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }
}

/// How many rows may be asked for at once: at first all that are wanted, if they fit though each be as large as a row of the space
/// may be; then as many as will have a page's bytes, as those before had.
fn fetch_rows(limits: &Limits, space: Space, wanted: usize, seen: usize, bytes: usize) -> usize {
    let rows = match bytes.checked_div(seen) {
        None => {
            let value_bytes_max = if space.is_keys_only() { 0 } else { limits.value_bytes_max };
            FETCH_BYTES_MAX / limits.sort_bytes_max.saturating_add(value_bytes_max).saturating_add(ROW_BYTES)
        }
        Some(each) => (PAGE_BYTES - bytes.min(PAGE_BYTES)) / each.max(1),
    };
    rows.clamp(1, wanted.max(1))
}

/// What a trim removes.
#[derive(Default)]
struct Beyond {
    /// The row nearest to those that stay, and the one farthest.
    ends: Option<(Bytes, Bytes)>,
    trimmed: Trimmed,
}

impl<C: Clock> ScyllaStore<C> {
    async fn fetch(
        &self,
        statement: &PreparedStatement,
        values: &Values<'_>,
        key: Key<'_>,
        rows: usize,
        from: PagingState,
        caller: &mut Caller,
    ) -> Result<Fetched> {
        let mut statement = statement.clone();
        statement.set_page_size(i32::try_from(rows.max(1)).unwrap_or(i32::MAX));
        let _turn = self.turn(key, caller).await?;
        let fetched = self.shared.session.execute_single_page(&statement, values, from).await;
        let (result, state) = fetched.map_err(|error| map(&error, Access::Read))?;
        let unexpected = || unexpected(Access::Read);
        let page = result.into_rows_result().map_err(|_| unexpected())?;
        let mut rows = Vec::with_capacity(page.rows_num());
        for row in page.rows::<ColumnIterator<'_, '_>>().map_err(|_| unexpected())? {
            // A row that a caller keeps must not hold on to all the others of its page.
            rows.push(read_row(row.map_err(|_| unexpected())?, true)?);
        }
        let next = match state {
            PagingStateResponse::HasMorePages { state } => Some(state),
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    pub(super) async fn read_page(&self, scan: &Scan<'_>) -> Result<Page> {
        let range = Range::of(scan, self.limits.sort_bytes_max);
        let mut page = Page::default();
        if range.is_empty() {
            return Ok(page);
        }
        let statement = self.table(scan.space).scan(scan.order, range.high.is_some());
        let any = Key::row(scan.space, scan.partition, b"row");
        let values = Values { low: &range.low, high: range.high.as_deref().unwrap_or_default(), ..Values::of(any) };
        let wanted = scan.limit.min(self.limits.page_rows_max);
        let (mut seen, mut bytes, mut from) = (0, 0, PagingState::start());
        for _ in 0..FETCHES_MAX {
            let rows = fetch_rows(&self.limits, scan.space, wanted - seen, seen, bytes);
            let (rows, next) = self.fetch(statement, &values, any, rows, from, &mut Caller::who_polls()).await?;
            for (sort, columns) in rows {
                seen += 1;
                bytes += sort.len() + columns.record.as_ref().map_or(0, Bytes::len) + 32;
                let record = self.live(Key::row(scan.space, scan.partition, &sort), columns)?;
                page.next = Some(sort.clone());
                page.rows.extend(record.map(|record| Row { sort, record }));
            }
            let Some(next) = next else {
                page.next = None;
                return Ok(page);
            };
            if seen >= wanted || bytes >= PAGE_BYTES {
                return Ok(page);
            }
            from = next;
        }
        if page.next.is_some() { Ok(page) } else { Err(unreadable()) }
    }

    pub(super) async fn remove_beyond(&self, trim: &Trim<'_>, caller: &mut Caller) -> Result<Trimmed> {
        let Beyond { ends, trimmed } = self.find_beyond(trim, caller).await?;
        let Some((near, far)) = ends else { return Ok(trimmed) };
        let table = self.table(trim.space);
        let any = Key::row(trim.space, trim.partition, b"row");
        let values = Values::of(any);
        // Where nothing is left behind the farthest, to the partition's end: the tombstones of earlier trims lie in it.
        let (statement, low, high) = match trim.keep {
            Keep::First(_) if !trimmed.more => (&table.delete_from, &near[..], &[][..]),
            Keep::First(_) => (&table.delete_between, &near[..], &far[..]),
            Keep::Last(_) if !trimmed.more => (&table.delete_between, &[][..], &near[..]),
            Keep::Last(_) => (&table.delete_between, &far[..], &near[..]),
        };
        let range = Values { low, high, ..values.clone() };
        if !trim.space.is_conditional() {
            self.run(statement, &range, any, Access::Plain).await?;
            return Ok(trimmed);
        }
        // A range takes no condition of its own, so it goes with that of one of its rows.
        let _turn = self.turn(any, caller).await?;
        let condition = self.shared.statements.conditions.delete_always.clone();
        let mut batch =
            Batch::new_with_statements(BatchType::Unlogged, vec![condition.into(), statement.clone().into()]);
        self.set_up(&mut batch, trim.space);
        let done = self.shared.session.batch(&batch, vec![Values { sort: &near, ..values }, range]).await;
        match read_answer(done.map_err(|error| map(&error, access(trim.space)))?, any)? {
            Answer::Applied => Ok(trimmed),
            Answer::Refused(_) => {
                let key = Key::row(trim.space, trim.partition, &near);
                Err(Error::corrupt(key, "the row's version is empty; delete the record first"))
            }
        }
    }

    /// Finds the rows beyond those that stay, reading from the end that stays.
    async fn find_beyond(&self, trim: &Trim<'_>, caller: &mut Caller) -> Result<Beyond> {
        let (keep, order) = match trim.keep {
            Keep::First(keep) => (keep, Order::Ascending),
            Keep::Last(keep) => (keep, Order::Descending),
        };
        let statement = self.table(trim.space).sorts(order);
        let any = Key::row(trim.space, trim.partition, b"row");
        let rows = self.limits.page_rows_max;
        let mut beyond = Beyond::default();
        let (mut kept, mut from) = (0, PagingState::start());
        // All that stays is read, however much it is; only fetches that bring nothing are counted.
        let mut idle = 0;
        while idle < FETCHES_MAX {
            let (fetched, next) = self.fetch(statement, &Values::of(any), any, rows, from, caller).await?;
            idle = if fetched.is_empty() { idle + 1 } else { 0 };
            for (sort, columns) in fetched {
                if kept < keep {
                    kept += usize::from(!self.is_over(&columns));
                } else if beyond.trimmed.removed == rows {
                    beyond.trimmed.more = true;
                    return Ok(beyond);
                } else {
                    beyond.trimmed.removed += 1;
                    let near = beyond.ends.take().map_or_else(|| sort.clone(), |(near, _)| near);
                    beyond.ends = Some((near, sort));
                }
            }
            match next {
                Some(next) => from = next,
                None => return Ok(beyond),
            }
        }
        Err(unreadable())
    }

    /// Whether a row, of which only the expiry was read, has expired. What can't be read stays.
    fn is_over(&self, columns: &Columns) -> bool {
        let now = self.clock.now().as_micros();
        columns.expires_at.and_then(|at| u64::try_from(at).ok()).is_some_and(|at| at <= now)
    }
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, "the partition has too many tombstones to be read; see the docs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space::conditional("s");
    const MAX: usize = 2;

    #[test]
    fn the_first_fetch_asks_for_what_is_wanted_as_far_as_a_frame_has_room() {
        let mut limits = Limits::PROCESS;
        limits.value_bytes_max = 64 << 10;
        let keys = const { Space::keys_only("keys") };
        let first = |limits: &Limits, space, wanted| fetch_rows(limits, space, wanted, 0, 0);
        for wanted in [1, 127, 129, 500, 1_000] {
            assert_eq!(first(&limits, SPACE, wanted), wanted);
        }
        // Rows of a megabyte might be there, though not in a space of keys.
        limits.value_bytes_max = 1 << 20;
        assert_eq!((first(&limits, SPACE, 140), first(&limits, SPACE, 1_000)), (140, 143));
        assert_eq!(first(&limits, keys, 1_000), 1_000);
        limits.value_bytes_max = usize::MAX;
        assert_eq!(first(&limits, SPACE, 1_000), 1);
        // What was seen tells more than what may be.
        assert_eq!(fetch_rows(&limits, SPACE, 1_000, 10, 100 << 10), (PAGE_BYTES - (100 << 10)) / (10 << 10));
        assert_eq!(fetch_rows(&limits, SPACE, 7, 10, 10 << 10), 7);
        assert_eq!(fetch_rows(&limits, SPACE, 7, 4, PAGE_BYTES), 1);
    }

    #[test]
    fn a_range_holds_what_the_scan_does_however_long_its_bounds() {
        let alphabet: [&[u8]; 3] = [b"\x00", b"a", b"\xFF"];
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        for length in 0..4 {
            let longer = keys.iter().filter(|key| key.len() == length);
            let longer: Vec<_> = longer.flat_map(|key| alphabet.map(|letter| [key, letter].concat())).collect();
            keys.extend(longer);
        }
        let bounds = |key| [Bound::Included(key), Bound::Excluded(key)];
        for bound in keys.iter().flat_map(|key| bounds(key.as_slice())) {
            for scan in [
                Scan::partition(SPACE, b"p", 1).range(bound, Bound::Unbounded),
                Scan::partition(SPACE, b"p", 1).range(Bound::Unbounded, bound),
            ] {
                let range = Range::of(&scan, MAX);
                assert!(range.low.len() <= MAX + 1 && range.high.as_ref().is_none_or(|high| high.len() <= MAX + 1));
                for sort in keys.iter().filter(|sort| sort.len() <= MAX) {
                    let is_in = sort.as_slice() >= &range.low[..]
                        && range.high.as_ref().is_none_or(|high| sort.as_slice() < &high[..]);
                    assert_eq!(is_in, scan.contains(sort), "{sort:?} in {scan:?}");
                }
            }
        }
    }
}
