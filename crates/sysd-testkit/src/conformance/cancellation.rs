//! Futures dropped at every await.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use sysd_core::{Expect, Keep, Key, Outcome, Record, Scan, Store as _, StoreExt as _, Trim, Write};

use super::TRUTH;
use super::case::{Case, Verdict, ensure, ensure_eq, record};
use super::tally::Tally;

/// A call that is still not done after so many polls never will be.
const POLLS_MAX: usize = 1_000;

/// Polls a future so many times, then drops it; `None` if it was not done by then.
async fn drop_after<T>(polls: usize, future: impl Future<Output = T> + Send) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What is done to a record before its future is dropped.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Create,
    Replace,
    Delete,
}

async fn dropped_write(case: &Case<'_>, other: &Case<'_>, key: Key<'_>, kind: Kind, polls: usize) -> Verdict<bool> {
    let before = match kind {
        Kind::Create => None,
        Kind::Replace | Kind::Delete => Some(case.put(key, "before").await?),
    };
    let expect = before.as_ref().map_or(Expect::Absent, |record| Expect::Is(record.version));
    let write = match kind {
        Kind::Create | Kind::Replace => Write::put(key, "after").expires_at(case.after(1_000)),
        Kind::Delete => Write::delete(key),
    };
    let write = write.expect(expect);
    let after = record(&write);
    let what = format!("{kind:?} of {key} dropped after {polls} polls");
    let outcome = drop_after(polls, case.store.write(write.clone())).await;
    let is_done = outcome.is_some();
    if let Some(outcome) = outcome {
        ensure_eq!(outcome?, Outcome::Applied, "{what} and done");
    }
    let found = case.store.get(key).await?;
    ensure!(found == before && !is_done || found == after, "{what} left {found:?}");
    settle([case, other], &write, after.as_ref(), &what).await?;
    Ok(is_done)
}

/// Sends a dropped write again; then it must have happened, once, and everywhere.
async fn settle(pair: [&Case<'_>; 2], write: &Write<'_>, after: Option<&Record>, what: &str) -> Verdict {
    let (key, case) = (write.key, pair[0]);
    let outcome = case.store.write(write.clone()).await?;
    // A delete has no token: it can't know that it was itself.
    let settled = outcome.is_applied() || after.is_none() && outcome == Outcome::Conflict { found: None };
    ensure!(settled, "{what} and sent again: {outcome:?}");
    agrees(pair, key, after, what).await?;
    let next = case.put(key, "next").await?;
    agrees(pair, key, Some(&next), what).await?;
    case.apply(Write::delete(key)).await?;
    agrees(pair, key, None, what).await
}

/// Every way of reading shows the same, on both connections.
async fn agrees(pair: [&Case<'_>; 2], key: Key<'_>, expected: Option<&Record>, what: &str) -> Verdict {
    for case in pair {
        ensure_eq!(case.store.get(key).await?.as_ref(), expected, "{what}: get");
        if !key.is_lone() {
            let rows = case.rows(Scan::partition(TRUTH, key.partition(), 10)).await?;
            ensure_eq!(
                rows.iter().map(|row| &row.record).collect::<Vec<_>>(),
                Vec::from_iter(expected),
                "{what}: scan"
            );
        }
    }
    Ok(())
}

pub(super) async fn write(case: &Case<'_>, other: &Case<'_>) -> Verdict {
    for kind in [Kind::Create, Kind::Replace, Kind::Delete] {
        for which in 0..2 {
            let mut polls = 0;
            loop {
                let place = &case.places(&format!("{kind:?}{polls}"))[which];
                if dropped_write(case, other, place.as_key(), kind, polls).await? {
                    break;
                }
                polls += 1;
                ensure!(polls < POLLS_MAX, "a write was not done after {POLLS_MAX} polls");
            }
        }
    }
    for polls in 0..POLLS_MAX {
        if dropped_batch([case, other], polls).await? {
            return Ok(());
        }
    }
    ensure!(false, "a batch was not done after {POLLS_MAX} polls");
    Ok(())
}

async fn dropped_batch(pair: [&Case<'_>; 2], polls: usize) -> Verdict<bool> {
    let case = pair[0];
    let places = case.places(&format!("batch{polls}"));
    let mut writes = Vec::new();
    for place in &places {
        let before = case.put(place.as_key(), "before").await?;
        writes.push(Write::put(place.as_key(), "after").expect(Expect::Is(before.version)));
    }
    let outcomes = drop_after(polls, case.store.write_many(&writes)).await;
    let is_done = outcomes.is_some();
    for outcome in outcomes.unwrap_or_default() {
        ensure_eq!(outcome?, Outcome::Applied, "a batch that was done");
    }
    for write in &writes {
        settle(pair, write, record(write).as_ref(), &format!("a batch dropped after {polls} polls")).await?;
    }
    Ok(is_done)
}

pub(super) async fn update(case: &Case<'_>) -> Verdict {
    for which in 0..2 {
        let mut is_done = false;
        for polls in 0..POLLS_MAX {
            let key = &case.places(&format!("update{polls}"))[which];
            case.store.run(key.as_key(), &Tally::add(1)).await?;
            let seen = drop_after(polls, case.store.run(key.as_key(), &Tally::add(10))).await;
            let looked = case.store.run(key.as_key(), &Tally::Look).await?.sum();
            is_done = seen.is_some();
            if let Some(seen) = seen {
                ensure_eq!((seen?.sum(), looked), (1, 11), "an update that was done");
            }
            ensure!(looked == 1 || looked == 11, "an update dropped after {polls} polls left {looked}");
            let next = case.store.run(key.as_key(), &Tally::add(100)).await?.sum();
            ensure!(next == looked || next == 11, "an update dropped after {polls} polls left {next}");
            let last = case.store.run(key.as_key(), &Tally::Look).await?.sum();
            ensure!(last == next + 100 || last == 111, "an update dropped after {polls} polls left {last}");
            if is_done {
                break;
            }
        }
        ensure!(is_done, "an update was not done after {POLLS_MAX} polls");
    }
    Ok(())
}

pub(super) async fn others(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    let sorts: Vec<[u8; 1]> = (0..20).map(|at| [at]).collect();
    let keys: Vec<_> = sorts.iter().map(|sort| Key::row(TRUTH, &partition, sort)).collect();
    let mut records = Vec::new();
    for key in &keys {
        records.push(case.put(*key, vec![key.sort()[0]; 100]).await?);
    }
    let trim = Trim { space: TRUTH, partition: &partition, keep: Keep::First(10) };
    let scan = Scan::partition(TRUTH, &partition, 10);
    for polls in 0..POLLS_MAX {
        // Each is dropped between two that stay in flight, and they get their own answers.
        let dropped = async {
            let one = drop_after(polls, case.store.get(keys[1])).await.transpose()?;
            let many = drop_after(polls, case.store.get_many(&keys)).await;
            let rows = drop_after(polls, case.store.scan(scan)).await.transpose()?;
            let trimmed = drop_after(polls, case.store.trim(trim)).await.transpose()?;
            for answer in many.iter().flatten() {
                ensure!(answer.is_ok(), "a batch beside calls dropped after {polls} polls: {answer:?}");
            }
            Ok(one.is_some() && many.is_some() && rows.is_some() && trimmed.is_some())
        };
        let (first, is_done, second) =
            futures::join!(case.store.get(keys[3]), dropped, case.store.get_many(&keys[4..8]));
        let is_done = is_done?;
        ensure_eq!(first?.as_ref(), Some(&records[3]), "a read beside calls dropped after {polls} polls");
        for (found, record) in second.into_iter().zip(&records[4..8]) {
            ensure_eq!(found?.as_ref(), Some(record), "a batch beside calls dropped after {polls} polls");
        }
        if is_done {
            case.store.trim_all(trim).await?;
            ensure_eq!(case.sorts(Scan { limit: 50, ..scan }).await?.len(), 10, "rows left by a trim that was dropped");
            return Ok(());
        }
    }
    ensure!(false, "a read was not done after {POLLS_MAX} polls");
    Ok(())
}
