//! Keys, values and conditional writes.

use std::ops::Bound;

use sysd_core::{Expect, Keep, Key, Order, Scan, Store as _, StoreExt as _, Trim, Version, Write};

use super::case::{Case, Verdict, ensure, ensure_eq, failing, record};
use super::{KEYS, OTHER, PLAIN, TRUTH};

/// Byte strings that backends are known to mix up.
const AWKWARD: [&[u8]; 16] = [
    b"\x00",
    b"\x00\x00",
    b"\x00\xFF",
    b"\xFF",
    b"\xFF\xFF",
    b"\xFF\x00",
    b"\x7F",
    b"\x80",
    b"a",
    b"a\x00",
    b"A",
    b"{a}",
    b"}",
    b"%7D",
    b":",
    b"a\r\nb",
];

pub(super) async fn keys(case: &Case<'_>) -> Verdict {
    let partitions: Vec<_> = AWKWARD.iter().map(|name| case.partition(name)).collect();
    let mut keys = Vec::new();
    for partition in &partitions {
        for space in [TRUTH, OTHER, PLAIN] {
            keys.push(Key::lone(space, partition));
        }
        keys.push(Key::row(TRUTH, partition, b"\x00"));
    }
    keys.extend(AWKWARD.iter().skip(1).map(|sort| Key::row(TRUTH, &partitions[0], sort)));
    let mut records = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        records.push(case.put(*key, at.to_be_bytes().to_vec()).await?);
    }
    for (key, record) in keys.iter().zip(&records) {
        case.holds(*key, Some(record)).await?;
    }
    for (at, key) in keys.iter().enumerate().step_by(2) {
        case.store.delete(*key).await?;
        case.holds(*key, None).await?;
        if let (Some(next), record) = (keys.get(at + 1), records.get(at + 1)) {
            case.holds(*next, record).await?;
        }
    }
    Ok(())
}

pub(super) async fn values(case: &Case<'_>) -> Verdict {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let large = every_byte.repeat(256);
    let values: [&[u8]; 7] = [b"", b"\x00", b"\xFF", b"\r\n", "ÿ€".as_bytes(), &every_byte, &large];
    for key in &case.places("value") {
        for value in values {
            let written = case.put(key.as_key(), value.to_vec()).await?;
            let found = case.store.get(key.as_key()).await?;
            ensure!(found.is_some(), "a record of {} bytes is absent", value.len());
            ensure!(found == Some(written), "a record of {} bytes came back changed", value.len());
        }
    }
    Ok(())
}

pub(super) async fn any(case: &Case<'_>) -> Verdict {
    for key in &case.places("any") {
        let key = key.as_key();
        case.holds(key, None).await?;
        case.apply(Write::delete(key)).await?;
        let later = case.after(1_000_000);
        for write in [Write::put(key, "1"), Write::put(key, "2").expires_at(later), Write::put(key, "3")] {
            let left = case.apply(write).await?;
            case.holds(key, left.as_ref()).await?;
        }
        case.apply(Write::delete(key)).await?;
        case.holds(key, None).await?;
    }
    Ok(())
}

pub(super) async fn absent(case: &Case<'_>) -> Verdict {
    for key in &case.places("absent") {
        let key = key.as_key();
        case.apply(Write::delete(key).expect(Expect::Absent)).await?;
        let first = case.apply(Write::put(key, "first").expect(Expect::Absent)).await?;
        case.holds(key, first.as_ref()).await?;
        case.conflict(Write::put(key, "second").expect(Expect::Absent)).await?;
        case.conflict(Write::delete(key).expect(Expect::Absent)).await?;
        case.holds(key, first.as_ref()).await?;
        case.apply(Write::delete(key)).await?;
        case.apply(Write::put(key, "third").expect(Expect::Absent)).await?;
    }
    Ok(())
}

pub(super) async fn is(case: &Case<'_>) -> Verdict {
    for key in &case.places("is") {
        let key = key.as_key();
        for nothing in failing(None) {
            case.conflict(Write::put(key, "x").expect(nothing)).await?;
            case.conflict(Write::delete(key).expect(nothing)).await?;
            case.holds(key, None).await?;
        }
        let first = case.put(key, "first").await?;
        // Tokens that differ in one bit, at either end.
        for bit in [0, 7, 63, 64, 120, 127] {
            let near = Expect::Is(Version::from_u128(first.version.as_u128() ^ (1 << bit)));
            case.conflict(Write::put(key, "x").expect(near)).await?;
            case.conflict(Write::delete(key).expect(near)).await?;
        }
        case.holds(key, Some(&first)).await?;
        let second = case.apply(Write::put(key, "second").expect(Expect::Is(first.version))).await?;
        case.holds(key, second.as_ref()).await?;
        case.conflict(Write::delete(key).expect(Expect::Is(first.version))).await?;
        case.holds(key, second.as_ref()).await?;
        let version = second.map_or(first.version, |record| record.version);
        case.apply(Write::delete(key).expect(Expect::Is(version))).await?;
        case.holds(key, None).await?;
        case.conflict(Write::delete(key).expect(Expect::Is(version))).await?;
    }
    Ok(())
}

pub(super) async fn conflict(case: &Case<'_>) -> Verdict {
    for key in &case.places("conflict") {
        let key = key.as_key();
        let missing = Expect::Is(Version::random());
        ensure_eq!(case.conflict(Write::put(key, "x").expect(missing)).await?, None, "found where nothing is");
        for value in [b"".as_slice(), b"\x00\xFF", &[7; 1_000]] {
            let write = Write::put(key, value.to_vec()).expires_at(case.after(1_000));
            let there = case.apply(write).await?;
            for expect in failing(there.as_ref()) {
                let found = case.conflict(Write::put(key, "x").expect(expect)).await?;
                ensure_eq!(found, there, "found by a put expecting {expect:?}");
                let found = case.conflict(Write::delete(key).expect(expect)).await?;
                ensure_eq!(found, there, "found by a delete expecting {expect:?}");
            }
        }
    }
    Ok(())
}

pub(super) async fn aba(case: &Case<'_>) -> Verdict {
    for key in &case.places("aba") {
        let key = key.as_key();
        let first = case.put(key, "same").await?;
        let stale = Expect::Is(first.version);
        // Overwritten by the same bytes.
        let again = case.put(key, "same").await?;
        ensure_eq!(case.conflict(Write::put(key, "x").expect(stale)).await?, Some(again), "found after an overwrite");
        // Deleted and made again of the same bytes.
        case.apply(Write::delete(key)).await?;
        let again = case.put(key, "same").await?;
        let found = case.conflict(Write::delete(key).expect(stale)).await?;
        ensure_eq!(found.as_ref(), Some(&again), "found after it was made again");
        case.holds(key, Some(&again)).await?;
    }
    Ok(())
}

/// Sent again by another connection too: it is the write that is recognised, not its sender.
pub(super) async fn own(one: &Case<'_>, other: &Case<'_>) -> Verdict {
    for key in &one.places("own") {
        let key = key.as_key();
        other.holds(key, None).await?;
        // Each is sent again, as after a lost reply: it is the same write, so it has been applied.
        let create = Write::put(key, "created").expect(Expect::Absent);
        let created = one.apply(create.clone()).await?;
        for again in [one, other] {
            again.holds(key, created.as_ref()).await?;
            again.apply(create.clone()).await?;
            again.holds(key, created.as_ref()).await?;
        }
        let version = created.map_or_else(Version::random, |record| record.version);
        let replace = Write::put(key, "replaced").expect(Expect::Is(version)).expires_at(one.after(1_000));
        let replaced = one.apply(replace.clone()).await?;
        for again in [one, other] {
            again.holds(key, replaced.as_ref()).await?;
            again.apply(replace.clone()).await?;
            again.holds(key, replaced.as_ref()).await?;
        }
        // The first is no longer there, whoever sends it.
        for again in [one, other] {
            ensure_eq!(again.conflict(create.clone()).await?, replaced, "found by a write that was overwritten");
        }
        one.apply(Write::delete(key)).await?;
        for again in [one, other] {
            ensure_eq!(again.conflict(replace.clone()).await?, None, "found by a write that was deleted");
            again.holds(key, None).await?;
        }
    }
    Ok(())
}

pub(super) async fn plain(case: &Case<'_>) -> Verdict {
    let partition = case.partition("plain");
    let sorts: [&[u8]; 3] = [b"a", b"b", b"c"];
    let mut records = Vec::new();
    for sort in sorts {
        case.put(Key::row(PLAIN, &partition, sort), "overwritten").await?;
        let write = Write::put(Key::row(PLAIN, &partition, sort), sort.to_vec());
        records.extend(record(&write));
        case.apply(write).await?;
    }
    let lone = Key::lone(PLAIN, &partition);
    let written = case.put(lone, "lone").await?;
    case.holds(lone, Some(&written)).await?;
    let rows = case.rows(Scan::partition(PLAIN, &partition, 10)).await?;
    let found: Vec<_> = rows.into_iter().map(|row| row.record).collect();
    ensure_eq!(found, records, "the rows of a plain space");
    case.apply(Write::delete(lone)).await?;
    case.holds(lone, None).await?;
    Ok(())
}

pub(super) async fn keys_only(case: &Case<'_>) -> Verdict {
    let partition = case.partition("keys");
    let sorts: [&[u8]; 5] = [b"\x00", b"a", b"a\x00", b"b", b"\xFF"];
    let rows = sorts.map(|sort| Key::row(KEYS, &partition, sort));
    let lone = Key::lone(KEYS, &partition);
    let writes: Vec<_> = rows.iter().chain([&lone]).map(|key| Write::put(*key, "")).collect();
    for outcome in case.store.write_many(&writes).await {
        ensure!(outcome?.is_applied(), "a put of a key was refused");
    }
    // A second time, which changes nothing.
    case.apply(Write::put(rows[1], "")).await?;
    case.apply(Write::put(lone, "")).await?;
    for (key, found) in rows.iter().zip(case.store.get_many(&rows).await) {
        let found = found?.map(|record| (record.value.len(), record.expires_at));
        ensure_eq!(found, Some((0, None)), "get_many {key}");
        ensure!(case.store.get(*key).await?.is_some(), "{key} is absent for get");
    }
    ensure!(case.store.get(lone).await?.is_some(), "the lone record is absent");
    let scan = Scan::partition(KEYS, &partition, 2);
    let all = Scan { limit: 100, ..scan };
    ensure_eq!(case.sorts(all).await?, sorts.map(<[u8]>::to_vec), "keys of a scan");
    let down = case.sorts(scan.order(Order::Descending).range(Bound::Unbounded, Bound::Excluded(b"b"))).await?;
    ensure_eq!(down, [b"a\x00".to_vec(), b"a".to_vec()], "the first page of a descending scan");
    let page = case.store.scan(scan).await?;
    ensure!(page.rows.len() <= 2 && page.next.is_some(), "a page of two of five: {page:?}");
    case.apply(Write::delete(rows[3])).await?;
    ensure!(case.store.get(rows[3]).await?.is_none(), "a deleted key is there");
    for (keep, left) in [(Keep::First(3), &sorts[..3]), (Keep::Last(2), &sorts[1..3]), (Keep::First(0), &[][..])] {
        case.store.trim_all(Trim { space: KEYS, partition: &partition, keep }).await?;
        let left: Vec<_> = left.iter().map(|sort| sort.to_vec()).collect();
        ensure_eq!(case.sorts(all).await?, left, "keys left by {keep:?}");
    }
    ensure!(case.store.get(rows[0]).await?.is_none(), "a trimmed key is there");
    case.apply(Write::delete(lone)).await?;
    ensure!(case.store.get(lone).await?.is_none(), "the deleted lone record is there");
    Ok(())
}
