//! Expiry: exact to the microsecond, in every call. The clock is moved, nothing waits.

use std::time::Duration;

use sysd_core::{Expect, Keep, Key, Order, Outcome, Scan, Store as _, StoreExt as _, Timestamp, Trim, Write};

use super::TRUTH;
use super::case::{Case, Verdict, ensure, ensure_eq};
use super::tally::Tally;

/// Times at which doubles, signed and 32-bit numbers go wrong: seconds and milliseconds near 2^31 and 2^32, 10^14
/// microseconds, and the last that can be named.
const MOMENTS_US: [u64; 5] = [2_147_483_648, 4_294_967_296_000, 100_000_000_000_000, 1 << 51, (1 << 53) - 1];

pub(super) async fn get(case: &Case<'_>) -> Verdict {
    for (at, moment) in MOMENTS_US.into_iter().enumerate() {
        let expiry = Timestamp::from_micros_saturating(moment);
        case.clock.set(Timestamp::from_micros_saturating(moment - 10));
        for key in &case.places(&format!("moment{at}")) {
            case.clock.set(Timestamp::from_micros_saturating(moment - 10));
            let left = case.apply(Write::put(key.as_key(), "x").expires_at(expiry)).await?;
            case.holds(key.as_key(), left.as_ref()).await?;
            case.advance(9);
            case.holds(key.as_key(), left.as_ref()).await?;
            case.advance(1);
            case.holds(key.as_key(), None).await?;
            // What is gone stays gone, and can be made again.
            let again = case.put(key.as_key(), "again").await?;
            case.holds(key.as_key(), Some(&again)).await?;
        }
    }
    Ok(())
}

pub(super) async fn get_many(case: &Case<'_>) -> Verdict {
    let places: Vec<_> = (0..6_u64).flat_map(|at| case.places(&format!("many{at}")).map(|key| (at, key))).collect();
    for (at, key) in &places {
        let write = Write::put(key.as_key(), "x");
        case.apply(if *at == 0 { write } else { write.expires_at(case.after(*at)) }).await?;
    }
    let keys: Vec<_> = places.iter().map(|(_, key)| key.as_key()).collect();
    for elapsed in 0..7 {
        for ((at, key), found) in places.iter().zip(case.store.get_many(&keys).await) {
            let alive = *at == 0 || *at > elapsed;
            ensure_eq!(found?.is_some(), alive, "{key}, that lives for {at} us, after {elapsed} us: found");
        }
        case.advance(1);
    }
    Ok(())
}

/// Rows 1 to 9 that live for so many microseconds; row 0 lives for ever.
async fn ladder(case: &Case<'_>, partition: &[u8], lives: [u64; 10]) -> Verdict {
    for (sort, life) in (b'0'..).zip(lives) {
        let sort = [sort];
        let write = Write::put(Key::row(TRUTH, partition, &sort), "x");
        case.apply(if life == 0 { write } else { write.expires_at(case.after(life)) }).await?;
    }
    Ok(())
}

fn alive(lives: [u64; 10], elapsed: u64) -> Vec<Vec<u8>> {
    (b'0'..).zip(lives).filter(|(_, life)| *life == 0 || *life > elapsed).map(|(sort, _)| vec![sort]).collect()
}

pub(super) async fn scan(case: &Case<'_>) -> Verdict {
    // The first, the last, all but one, neighbours.
    for lives in
        [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 5, 4, 3, 2, 1, 1], [1, 1, 1, 1, 1, 0, 1, 1, 1, 3], [1; 10]]
    {
        let partition = case.partition(format!("{lives:?}"));
        ladder(case, &partition, lives).await?;
        for elapsed in 0..=9 {
            let mut expected = alive(lives, elapsed);
            for limit in [1, 3, 20] {
                let scan = Scan::partition(TRUTH, &partition, limit);
                let page = case.store.scan(scan).await?;
                ensure!(page.rows.len() <= limit, "{} rows in a page of {limit}", page.rows.len());
                let shown: Vec<_> = page.rows.iter().map(|row| row.sort.to_vec()).collect();
                ensure!(expected.starts_with(&shown), "after {elapsed} us a page shows {shown:?} of {expected:?}");
                let all = case.sorts(Scan { limit: 20, ..scan }).await?;
                ensure_eq!(all, expected, "rows after {elapsed} us");
            }
            expected.reverse();
            let down = Scan::partition(TRUTH, &partition, 20).order(Order::Descending);
            ensure_eq!(case.sorts(down).await?, expected, "rows backwards after {elapsed} us");
            case.advance(1);
        }
    }
    Ok(())
}

pub(super) async fn conditions(case: &Case<'_>) -> Verdict {
    for key in &case.places("condition") {
        let key = key.as_key();
        for _ in 0..2 {
            let left = case.apply(Write::put(key, "old").expires_at(case.after(10))).await?;
            let Some(old) = left else { continue };
            case.advance(9);
            let found = case.conflict(Write::put(key, "early").expect(Expect::Absent)).await?;
            ensure_eq!(found.as_ref(), Some(&old), "found a microsecond before the expiry");
            case.advance(1);
            let is = Expect::Is(old.version);
            ensure_eq!(case.conflict(Write::put(key, "x").expect(is)).await?, None, "found by a put at the expiry");
            ensure_eq!(case.conflict(Write::delete(key).expect(is)).await?, None, "found by a delete at the expiry");
            let fresh = case.apply(Write::put(key, "new").expect(Expect::Absent)).await?;
            ensure!(fresh.is_some(), "a put leaves a record");
            for outcome in case.store.write_many(&[Write::put(key, "x").expect(is)]).await {
                ensure_eq!(outcome?, Outcome::Conflict { found: fresh.clone() }, "a batch");
            }
        }
    }
    Ok(())
}

pub(super) async fn update(case: &Case<'_>) -> Verdict {
    for key in &case.places("update") {
        let key = key.as_key();
        case.apply(Write::put(key, "old").expires_at(case.after(10))).await?;
        case.advance(9);
        let seen = case.store.run(key, &Tally::Look).await?;
        ensure_eq!(seen.state.as_deref(), Some(b"old".as_slice()), "the state a microsecond before the expiry");
        case.advance(1);
        let seen = case.store.run(key, &Tally::Look).await?;
        ensure_eq!(seen.state, None, "the state at the expiry");
        // A procedure's own time to live.
        case.store.run(key, &Tally::add(1).living(Duration::from_micros(5))).await?;
        case.advance(4);
        let found = case.store.get(key).await?.and_then(|record| record.expires_at);
        ensure_eq!(found, Some(case.after(1)), "the expiry of an update");
        case.advance(1);
        case.holds(key, None).await?;
        let seen = case.store.run(key, &Tally::add(1)).await?;
        ensure_eq!(seen.state, None, "the state at an update's expiry");
    }
    Ok(())
}

pub(super) async fn trim(case: &Case<'_>) -> Verdict {
    let lives = [1, 0, 1, 0, 1, 0, 0, 1, 0, 1];
    for (name, keep) in [("first", Keep::First(3)), ("last", Keep::Last(3))] {
        let partition = case.partition(name);
        ladder(case, &partition, lives).await?;
        case.advance(1);
        let mut expected = alive(lives, 1);
        match keep {
            Keep::First(count) => expected.truncate(count),
            Keep::Last(count) => drop(expected.drain(..expected.len() - count)),
        }
        case.store.trim_all(Trim { space: TRUTH, partition: &partition, keep }).await?;
        ensure_eq!(case.sorts(Scan::partition(TRUTH, &partition, 20)).await?, expected, "left by {keep:?}");
    }
    Ok(())
}

pub(super) async fn replaced(case: &Case<'_>) -> Verdict {
    for key in &case.places("replaced") {
        let key = key.as_key();
        // For ever, over a short life.
        case.apply(Write::put(key, "short").expires_at(case.after(10))).await?;
        let ever = case.put(key, "ever").await?;
        case.advance(10);
        case.holds(key, Some(&ever)).await?;
        // Longer, then shorter.
        for lives in [[10, 20], [20, 10]] {
            case.apply(Write::put(key, "1").expires_at(case.after(lives[0]))).await?;
            let last = case.apply(Write::put(key, "2").expires_at(case.after(lives[1]))).await?;
            case.advance(lives[1] - 1);
            case.holds(key, last.as_ref()).await?;
            case.advance(1);
            case.holds(key, None).await?;
        }
        // By a procedure, whose put without a time to live is for ever.
        case.apply(Write::put(key, "").expires_at(case.after(10))).await?;
        case.store.run(key, &Tally::add(1)).await?;
        case.advance(10);
        ensure_eq!(case.store.get(key).await?.map(|record| record.expires_at), Some(None), "the expiry of an update");
        // A procedure that keeps, keeps the expiry too.
        case.apply(Write::put(key, "").expires_at(case.after(10))).await?;
        case.store.run(key, &Tally::Look).await?;
        case.advance(9);
        ensure!(case.store.get(key).await?.is_some(), "a procedure that keeps shortened the record's life");
        case.advance(1);
        case.holds(key, None).await?;
    }
    Ok(())
}
