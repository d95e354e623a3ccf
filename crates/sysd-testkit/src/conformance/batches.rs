//! Batches: independent calls, answered one by one.

use sysd_core::{ErrorKind, Expect, Key, Outcome, Scan, Store as _, Version, Write};

use super::TRUTH;
use super::case::{Case, Verdict, ensure, ensure_eq, record};

pub(super) async fn order(case: &Case<'_>) -> Verdict {
    ensure!(case.store.get_many(&[]).await.is_empty(), "an answer to no question");
    ensure!(case.store.write_many(&[]).await.is_empty(), "an answer to no write");
    // More than a round trip carries, where that is a number worth writing.
    let count = u32::try_from(case.store.limits().batch_records_max).unwrap_or(u32::MAX).min(1_100) + 7;
    let names: Vec<Vec<u8>> = (0..count).map(|at| case.partition(at.to_be_bytes())).collect();
    let shared = case.partition("shared");
    let key = |at: usize| {
        if at.is_multiple_of(3) { Key::row(TRUTH, &shared, &names[at]) } else { Key::lone(TRUTH, &names[at]) }
    };
    let writes: Vec<_> = (0..names.len()).map(|at| Write::put(key(at), at.to_be_bytes().to_vec())).collect();
    let outcomes = case.store.write_many(&writes).await;
    ensure_eq!(outcomes.len(), writes.len(), "outcomes");
    for outcome in outcomes {
        ensure_eq!(outcome?, Outcome::Applied, "an unconditional write");
    }
    // Backwards, some twice, some that are not there.
    let missing = case.partition("missing");
    let asked: Vec<_> = (0..names.len()).rev().flat_map(|at| [Some(at), (at % 5 == 0).then_some(at), None]).collect();
    let keys: Vec<_> = asked.iter().map(|at| at.map_or(Key::lone(TRUTH, &missing), key)).collect();
    let answers = case.store.get_many(&keys).await;
    ensure_eq!(answers.len(), keys.len(), "answers");
    for ((at, key), answer) in asked.iter().zip(&keys).zip(answers) {
        ensure_eq!(answer?, at.and_then(|at| record(&writes[at])), "the answer for {key}");
    }
    Ok(())
}

pub(super) async fn conditions(case: &Case<'_>) -> Verdict {
    let partition = case.partition("p");
    let sorts: Vec<[u8; 1]> = (0..12).map(|at| [at]).collect();
    let mut there = Vec::new();
    for sort in &sorts {
        there.push(case.put(Key::row(TRUTH, &partition, sort), "there").await?);
    }
    let fresh = case.partition("fresh");
    let mut writes = Vec::new();
    for (at, sort) in sorts.iter().enumerate() {
        let write = Write::put(Key::row(TRUTH, &partition, sort), "new");
        writes.push(match at % 6 {
            0 => write,
            1 => write.expect(Expect::Absent),
            2 => write.expect(Expect::Is(there[at].version)),
            3 => write.expect(Expect::Is(Version::random())),
            4 => Write::delete(write.key).expect(Expect::Is(there[at].version)),
            // Its reply was lost: it is what is there.
            _ => write.with_version(there[at].version).expect(Expect::Absent),
        });
    }
    writes.push(Write::put(Key::lone(TRUTH, &fresh), "new").expect(Expect::Absent));
    let outcomes = case.store.write_many(&writes).await;
    ensure_eq!(outcomes.len(), writes.len(), "outcomes");
    for (at, (write, outcome)) in writes.iter().zip(outcomes).enumerate() {
        let found = there.get(at).cloned();
        let (expected, left) = match at % 6 {
            1 | 3 => (Outcome::Conflict { found: found.clone() }, found),
            5 => (Outcome::Applied, found),
            _ => (Outcome::Applied, record(write)),
        };
        ensure_eq!(outcome?, expected, "write {at}");
        case.holds(write.key, left.as_ref()).await?;
    }
    let rows = case.sorts(Scan::partition(TRUTH, &partition, 100)).await?;
    ensure_eq!(rows.len(), 10, "rows left");
    Ok(())
}

pub(super) async fn partial(case: &Case<'_>) -> Verdict {
    let past = case.after(0);
    let long = vec![7; case.store.limits().partition_bytes_max + 1];
    let names: Vec<Vec<u8>> = (0..60).map(|at: u8| case.partition([at])).collect();
    let mut writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(TRUTH, name), name.clone())).collect();
    writes[7].key = Key::lone(TRUTH, b"");
    writes[30].key = Key::lone(TRUTH, &long);
    writes[59] = writes[59].clone().expires_at(past);
    let refused = [(7, ErrorKind::Invalid, "partition"), (30, ErrorKind::TooLarge, "partition")];
    let late = (59, ErrorKind::Invalid, "expires_at");
    let outcomes = case.store.write_many(&writes).await;
    ensure_eq!(outcomes.len(), writes.len(), "outcomes");
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let expected = refused.iter().chain([&late]).find(|(which, ..)| *which == at);
        match (outcome, expected) {
            (Ok(outcome), None) => ensure_eq!(outcome, Outcome::Applied, "write {at}"),
            (Err(error), Some((_, kind, field))) => {
                ensure_eq!((error.kind(), error.field()), (*kind, Some(*field)), "write {at}");
            }
            (outcome, _) => ensure!(false, "write {at} answered {outcome:?}"),
        }
    }
    let keys: Vec<_> = writes.iter().map(|write| write.key).collect();
    let answers = case.store.get_many(&keys).await;
    ensure_eq!(answers.len(), keys.len(), "answers");
    for (at, answer) in answers.into_iter().enumerate() {
        match (answer, refused.iter().find(|(which, ..)| *which == at)) {
            (Ok(found), None) => {
                let expected = if at == 59 { None } else { record(&writes[at]) };
                ensure_eq!(found, expected, "the answer for {at}");
            }
            (Err(error), Some((_, kind, field))) => {
                ensure_eq!((error.kind(), error.field()), (*kind, Some(*field)), "the answer for {at}");
            }
            (answer, _) => ensure!(false, "the answer for {at} is {answer:?}"),
        }
    }
    Ok(())
}
