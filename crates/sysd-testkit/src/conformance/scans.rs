//! Scans: order, bounds, pages, and what they see.

use std::ops::Bound;

use bytes::Bytes;
use sysd_core::{Key, Order, Scan, Store as _, StoreExt as _, Write};

use super::case::{Case, Verdict, ensure, ensure_eq};
use super::{OTHER, PLAIN, TRUTH};

/// Sort keys in their order, chosen to be put into another by signed bytes, text, lengths or terminators.
const SORTS: [&[u8]; 14] = [
    b"\x00",
    b"\x00\x00",
    b"\x00\xFF",
    b"\x01",
    b"A",
    b"a",
    b"a\x00",
    b"a\x00b",
    b"aa",
    b"b",
    b"\x7F",
    b"\x80",
    b"\xFF",
    b"\xFF\xFF",
];

async fn fill(case: &Case<'_>, partition: &[u8]) -> Verdict {
    // In an order that is not theirs.
    for at in 0..SORTS.len() {
        let sort = SORTS[(at * 5 + 3) % SORTS.len()];
        case.put(Key::row(TRUTH, partition, sort), sort.to_vec()).await?;
    }
    Ok(())
}

fn sorts<'a>(rows: impl IntoIterator<Item = &'a &'a [u8]>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|sort| sort.to_vec()).collect()
}

pub(super) async fn lone(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    let lone = case.put(Key::lone(TRUTH, &partition), "lone").await?;
    let scan = Scan::partition(TRUTH, &partition, 10);
    ensure_eq!(case.sorts(scan).await?, Vec::<Vec<u8>>::new(), "rows of a partition with a lone record only");
    let row = case.put(Key::row(TRUTH, &partition, b"\x00"), "row").await?;
    ensure_eq!(case.sorts(scan).await?, [b"\x00"], "rows beside a lone record");
    for start in [Bound::Included(b"".as_slice()), Bound::Excluded(b"")] {
        let found = case.sorts(scan.range(start, Bound::Unbounded)).await?;
        ensure_eq!(found, [b"\x00"], "rows from the empty sort key up");
    }
    case.holds(Key::lone(TRUTH, &partition), Some(&lone)).await?;
    case.apply(Write::delete(Key::lone(TRUTH, &partition))).await?;
    case.holds(Key::row(TRUTH, &partition, b"\x00"), Some(&row)).await
}

pub(super) async fn order(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    fill(case, &partition).await?;
    let scan = Scan::partition(TRUTH, &partition, 100);
    ensure_eq!(case.sorts(scan).await?, sorts(&SORTS), "rows");
    // Numbers as the tuple encoder writes them.
    let partition = case.partition("numbers");
    let numbers: Vec<[u8; 8]> = (0..64).map(|bit| (1_u64 << bit).to_be_bytes()).collect();
    for number in numbers.iter().rev() {
        case.put(Key::row(TRUTH, &partition, number), "x").await?;
    }
    let found = case.sorts(Scan::partition(TRUTH, &partition, 100)).await?;
    ensure_eq!(found, numbers.iter().map(|number| number.to_vec()).collect::<Vec<_>>(), "numbers");
    Ok(())
}

/// Every bound worth trying: each sort key, and what lies between.
fn every_bound<'a>(places: &'a [Vec<u8>]) -> Vec<Bound<&'a [u8]>> {
    let of = |place: &'a Vec<u8>| [Bound::Included(place.as_slice()), Bound::Excluded(place.as_slice())];
    std::iter::once(Bound::Unbounded).chain(places.iter().flat_map(of)).collect()
}

pub(super) async fn bounds(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    fill(case, &partition).await?;
    let places =
        [b"".to_vec(), b"\x00".to_vec(), b"\x00\x01".to_vec(), b"a\x00".to_vec(), b"ab".to_vec(), b"\xFF".to_vec()];
    for start in every_bound(&places) {
        for end in every_bound(&places) {
            let scan = Scan::partition(TRUTH, &partition, 100).range(start, end);
            if crosses(start, end) {
                continue;
            }
            let expected = sorts(SORTS.iter().filter(|sort| scan.contains(sort)));
            ensure_eq!(case.sorts(scan).await?, expected, "rows from {start:?} to {end:?}");
            let mut found = case.sorts(scan.order(Order::Descending)).await?;
            found.reverse();
            ensure_eq!(found, expected, "rows from {start:?} to {end:?}, read backwards and turned");
        }
    }
    Ok(())
}

fn crosses(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start > end,
        _ => false,
    }
}

pub(super) async fn descending(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    fill(case, &partition).await?;
    let mut expected = sorts(&SORTS);
    expected.reverse();
    let scan = Scan::partition(TRUTH, &partition, 100).order(Order::Descending);
    ensure_eq!(case.sorts(scan).await?, expected, "rows backwards");
    let scan = scan.range(Bound::Included(b"a"), Bound::Excluded(b"b"));
    ensure_eq!(case.sorts(scan).await?, [b"aa".to_vec(), b"a\0b".to_vec(), b"a\0".to_vec(), b"a".to_vec()], "a to b");
    for limit in 1..=SORTS.len() {
        let found =
            case.sorts(Scan { limit, ..Scan::partition(TRUTH, &partition, 1).order(Order::Descending) }).await?;
        ensure_eq!(found, expected[..limit].to_vec(), "the last {limit} rows");
    }
    Ok(())
}

/// Reads page by page to the end, checking each page.
async fn page_through(case: &Case<'_>, scan: Scan<'_>, pages_max: usize) -> Verdict<Vec<Vec<u8>>> {
    let (mut found, mut cursor): (Vec<Vec<u8>>, Option<Bytes>) = (Vec::new(), None);
    for _ in 0..pages_max {
        let next = cursor.as_ref().map_or(scan, |cursor| scan.after(cursor));
        let page = case.store.scan(next).await?;
        ensure!(page.rows.len() <= scan.limit, "{} rows in a page of at most {}", page.rows.len(), scan.limit);
        ensure!(page.rows.len() <= case.store.limits().page_rows_max, "{} rows in a page", page.rows.len());
        found.extend(page.rows.into_iter().map(|row| row.sort.to_vec()));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(found),
        }
    }
    ensure!(false, "no end after {pages_max} pages");
    Ok(found)
}

pub(super) async fn pages(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    let scan = Scan::partition(TRUTH, &partition, 1);
    ensure_eq!(page_through(case, scan, 10).await?, Vec::<Vec<u8>>::new(), "rows of an empty partition");
    case.put(Key::row(TRUTH, &partition, SORTS[3]), "x").await?;
    for limit in [1, 2, 1_000_000] {
        ensure_eq!(page_through(case, Scan { limit, ..scan }, 20).await?, [SORTS[3].to_vec()], "one row by {limit}");
    }
    fill(case, &partition).await?;
    for limit in 1..=SORTS.len() + 1 {
        for order in [Order::Ascending, Order::Descending] {
            let mut expected = sorts(&SORTS);
            if order == Order::Descending {
                expected.reverse();
            }
            let found = page_through(case, Scan { limit, order, ..scan }, 100).await?;
            ensure_eq!(found, expected, "rows in {order:?} pages of {limit}");
        }
    }
    Ok(())
}

pub(super) async fn meanwhile(case: &Case<'_>) -> Verdict {
    for order in [Order::Ascending, Order::Descending] {
        let partition = case.partition(format!("{order:?}"));
        let row = |at: u8| [at];
        for at in (0..100).step_by(2) {
            case.put(Key::row(TRUTH, &partition, &row(at)), "stays").await?;
        }
        let scan = Scan::partition(TRUTH, &partition, 7).order(order);
        let (mut seen, mut cursor): (Vec<u8>, Option<Bytes>) = (Vec::new(), None);
        for turn in 0..100_u8 {
            let page = case.store.scan(cursor.as_ref().map_or(scan, |cursor| scan.after(cursor))).await?;
            seen.extend(page.rows.iter().filter_map(|row| row.sort.first().copied()));
            let Some(next) = page.next else { break };
            // Rows come and go before, at and behind the cursor; even numbers below 80 stay.
            // A cursor need not be a row's: it may be empty, or as long as a sort key can be.
            let here = next.first().copied().unwrap_or(0);
            for at in [here.saturating_add(1) | 1, here.saturating_sub(1) | 1, turn | 1] {
                case.put(Key::row(TRUTH, &partition, &row(at)), "comes").await?;
            }
            for at in [80 + turn % 20, here | 1] {
                case.store.delete(Key::row(TRUTH, &partition, &row(at))).await?;
            }
            cursor = Some(next);
        }
        let mut stayed: Vec<u8> = seen.iter().copied().filter(|at| at % 2 == 0 && *at < 80).collect();
        if order == Order::Descending {
            stayed.reverse();
        }
        ensure_eq!(stayed, (0..80).step_by(2).collect::<Vec<_>>(), "rows that stayed, {order:?}");
        let once = seen.windows(2).all(|pair| (pair[0] < pair[1]) == (order == Order::Ascending) && pair[0] != pair[1]);
        ensure!(once, "rows seen twice or out of order: {seen:?}");
    }
    Ok(())
}

pub(super) async fn scope(case: &Case<'_>) -> Verdict {
    let (partition, longer) = (case.partition("p"), case.partition("p\x00"));
    let mut expected = Vec::new();
    for (at, sort) in SORTS.iter().enumerate() {
        let write = Write::put(Key::row(TRUTH, &partition, sort), vec![7; at * 100]);
        let write = if at % 2 == 0 { write } else { write.expires_at(case.after(1 + at as u64)) };
        expected.extend(case.apply(write).await?);
        for (space, partition) in [(OTHER, &partition), (PLAIN, &partition), (TRUTH, &longer)] {
            case.put(Key::row(space, partition, sort), "elsewhere").await?;
        }
    }
    let rows = case.rows(Scan::partition(TRUTH, &partition, 100)).await?;
    ensure_eq!(rows.iter().map(|row| row.sort.to_vec()).collect::<Vec<_>>(), sorts(&SORTS), "sort keys");
    for (row, expected) in rows.iter().zip(&expected) {
        ensure_eq!(row.record, *expected, "the record of row {:?}", row.sort);
    }
    let nowhere = case.partition("nowhere");
    for order in [Order::Ascending, Order::Descending] {
        let found = case.sorts(Scan::partition(TRUTH, &nowhere, 10).order(order)).await?;
        ensure_eq!(found, Vec::<Vec<u8>>::new(), "rows of a partition that is not there");
    }
    // Emptied again.
    case.apply(Write::put(Key::row(TRUTH, &nowhere, b"a"), "x")).await?;
    case.apply(Write::delete(Key::row(TRUTH, &nowhere, b"a"))).await?;
    ensure_eq!(case.sorts(Scan::partition(TRUTH, &nowhere, 10)).await?, Vec::<Vec<u8>>::new(), "rows once deleted");
    Ok(())
}
