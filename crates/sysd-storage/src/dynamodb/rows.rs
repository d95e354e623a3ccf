//! Scans and trims.

use bytes::Bytes;
use sysd_core::{Clock, Effect, Error, ErrorKind, Keep, Key, Order, Page, Result, Row, Scan, Trim, Trimmed};

use super::Shared;
use super::error::{Access, map};
use super::layout::{self, Item};
use super::range;

/// All that a trim has to know of a row.
const SORT_AND_EXPIRY: &str = "s, e";

/// A page as DynamoDB gives it.
struct Items {
    items: Vec<Item>,
    /// The sort of the last row that it looked at, if more may follow.
    next: Option<Bytes>,
}

impl<C: Clock> Shared<C> {
    pub(super) async fn scan(&self, scan: &Scan<'_>) -> Result<Page> {
        self.limits.check_scan(scan)?;
        let Items { items, next } = self.query(scan, None).await?;
        let mut page = Page { rows: Vec::with_capacity(items.len()), next };
        for mut item in items {
            let sort = layout::take_sort(&mut item).ok_or_else(nameless)?;
            let key = Key::row(scan.space, scan.partition, &sort);
            if let Some(record) = self.read(key, item)? {
                page.rows.push(Row { sort, record });
            }
        }
        Ok(page)
    }

    async fn query(&self, scan: &Scan<'_>, projection: Option<&str>) -> Result<Items> {
        let Some((low, high)) = range::of(scan) else { return Ok(Items { items: Vec::new(), next: None }) };
        let rows = scan.limit.min(self.limits.page_rows_max);
        let call = self
            .client
            .query()
            .table_name(&self.config.table)
            .key_condition_expression("p = :p AND s BETWEEN :low AND :high")
            .expression_attribute_values(":p", layout::bytes(self.layout.partition(scan.space, scan.partition)))
            .expression_attribute_values(":low", layout::bytes(low))
            .expression_attribute_values(":high", layout::bytes(high))
            .set_projection_expression(projection.map(str::to_owned))
            .scan_index_forward(scan.order == Order::Ascending)
            .limit(i32::try_from(rows).unwrap_or(i32::MAX))
            .consistent_read(scan.space.is_conditional());
        let answer = call.send().await.map_err(|error| map(&error, Access::Read, &self.config.table))?;
        let next = answer.last_evaluated_key.map(|mut key| layout::take_sort(&mut key).ok_or_else(nameless));
        Ok(Items { items: answer.items.unwrap_or_default(), next: next.transpose()? })
    }

    /// Passes over the rows that stay, and removes those behind them. Expired rows among those that stay are left to DynamoDB: a
    /// delete could meet a record that was put in their place.
    pub(super) async fn trim(&self, trim: &Trim<'_>) -> Result<Trimmed> {
        self.limits.check_trim(trim)?;
        let (keep, order) = match trim.keep {
            Keep::First(keep) => (keep, Order::Ascending),
            Keep::Last(keep) => (keep, Order::Descending),
        };
        let now = self.clock.now();
        let removed_max = self.limits.page_rows_max;
        let (mut kept, mut goes): (usize, Vec<Bytes>) = (0, Vec::new());
        let mut cursor: Option<Bytes> = None;
        loop {
            let wanted = (keep - kept).saturating_add(removed_max - goes.len());
            let scan = Scan::partition(trim.space, trim.partition, wanted).order(order);
            let page =
                self.query(&cursor.as_ref().map_or(scan, |cursor| scan.after(cursor)), Some(SORT_AND_EXPIRY)).await?;
            for mut item in page.items {
                // What can't be read counts as a row: it is not a trim's to judge.
                let is_live = layout::expires_at(&item).map_or(true, |at| at.is_none_or(|at| at > now));
                if kept < keep {
                    kept += usize::from(is_live);
                } else {
                    goes.push(layout::take_sort(&mut item).ok_or_else(nameless)?);
                }
            }
            cursor = page.next;
            if cursor.is_none() || goes.len() >= removed_max {
                break;
            }
        }
        let keys: Vec<_> = goes.iter().map(|sort| Key::row(trim.space, trim.partition, sort)).collect();
        self.remove(&keys).await?;
        Ok(Trimmed { removed: keys.len(), more: cursor.is_some() })
    }
}

/// A row's sort key has its tag, and nothing else lies in a range of rows.
fn nameless() -> Error {
    Error::new(ErrorKind::Internal, Effect::None, "DynamoDB answered a row without a sort key")
}
