//! Trims.

use sysd_core::{Keep, Key, Scan, Store as _, StoreExt as _, Trim, Write};

use super::case::{Case, Verdict, ensure, ensure_eq};
use super::{OTHER, TRUTH};

const SORTS: [&[u8]; 6] = [b"\x00", b"a", b"a\x00", b"b", b"\x80", b"\xFF"];

pub(super) async fn ends(case: &Case<'_>) -> Verdict {
    for count in 0..=SORTS.len() + 1 {
        for keep in [Keep::First(count), Keep::Last(count)] {
            let partition = case.partition(format!("{keep:?}"));
            let writes: Vec<_> = SORTS.iter().map(|sort| Write::put(Key::row(TRUTH, &partition, sort), "x")).collect();
            for outcome in case.store.write_many(&writes).await {
                ensure!(outcome?.is_applied(), "a put was refused");
            }
            let removed = case.store.trim_all(Trim { space: TRUTH, partition: &partition, keep }).await?;
            let kept = count.min(SORTS.len());
            ensure_eq!(removed, SORTS.len() - kept, "rows removed by {keep:?}");
            let expected = match keep {
                Keep::First(_) => &SORTS[..kept],
                Keep::Last(_) => &SORTS[SORTS.len() - kept..],
            };
            let found = case.sorts(Scan::partition(TRUTH, &partition, 100)).await?;
            ensure_eq!(found, expected.iter().map(|sort| sort.to_vec()).collect::<Vec<_>>(), "left by {keep:?}");
            for sort in SORTS {
                let there = case.store.get(Key::row(TRUTH, &partition, sort)).await?.is_some();
                ensure_eq!(there, expected.contains(&sort), "{keep:?} left {sort:?} for get");
            }
        }
    }
    Ok(())
}

pub(super) async fn bounded(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    let page_max = case.store.limits().page_rows_max;
    // More than a call removes, where that is a number worth writing.
    let count = u32::try_from(page_max).unwrap_or(u32::MAX).min(2_000) + 100;
    let sorts: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
    let writes: Vec<_> = sorts.iter().map(|sort| Write::put(Key::row(TRUTH, &partition, sort), "x")).collect();
    for outcome in case.store.write_many(&writes).await {
        ensure!(outcome?.is_applied(), "a put was refused");
    }
    let trim = Trim { space: TRUTH, partition: &partition, keep: Keep::Last(10) };
    let mut total = 0;
    loop {
        let trimmed = case.store.trim(trim).await?;
        ensure!(trimmed.removed <= page_max, "a call removed {} rows, more than {page_max}", trimmed.removed);
        ensure!(trimmed.removed > 0 || !trimmed.more, "a call removed nothing and says that more is left");
        total += trimmed.removed;
        if !trimmed.more {
            break;
        }
    }
    ensure_eq!(total, sorts.len() - 10, "rows removed");
    let found = case.sorts(Scan::partition(TRUTH, &partition, 100)).await?;
    ensure_eq!(found, sorts[sorts.len() - 10..].iter().map(|sort| sort.to_vec()).collect::<Vec<_>>(), "rows left");
    let again = case.store.trim(trim).await?;
    ensure_eq!((again.removed, again.more), (0, false), "a trim of what is trimmed");
    Ok(())
}

pub(super) async fn scope(case: &Case<'_>) -> Verdict {
    let (partition, longer) = (case.partition("p"), case.partition("p\x00"));
    let elsewhere = [Key::lone(TRUTH, &partition), Key::row(OTHER, &partition, b"a"), Key::row(TRUTH, &longer, b"a")];
    let mut records = Vec::new();
    for key in elsewhere {
        records.push(case.put(key, "stays").await?);
    }
    case.put(Key::row(TRUTH, &partition, b"a"), "goes").await?;
    for keep in [Keep::First(0), Keep::Last(0)] {
        case.store.trim_all(Trim { space: TRUTH, partition: &partition, keep }).await?;
        case.holds(Key::row(TRUTH, &partition, b"a"), None).await?;
        for (key, record) in elsewhere.iter().zip(&records) {
            case.holds(*key, Some(record)).await?;
        }
        ensure_eq!(case.sorts(Scan::partition(OTHER, &partition, 10)).await?, [b"a"], "rows of another space");
    }
    Ok(())
}
