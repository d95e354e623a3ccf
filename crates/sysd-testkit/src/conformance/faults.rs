//! Bad input and bad bytes.

use std::fmt::Debug;
use std::ops::Bound;

use sysd_core::{
    Effect, Error, ErrorKind, Expect, Keep, Key, Result, Scan, Store as _, StoreExt as _, Timestamp, Trim, Version,
    Write,
};

use super::case::{Case, Verdict, ensure, ensure_eq};
use super::tally::Tally;
use super::{KEYS, PLAIN, TRUTH};

fn refused<T: Debug>(answer: Result<T>, kind: ErrorKind, field: &'static str) -> Verdict {
    match answer {
        Ok(answer) => ensure!(false, "a bad {field} was answered with {answer:?}"),
        Err(error) => {
            let found = (error.kind(), error.effect(), error.field());
            ensure_eq!(found, (kind, Effect::None, Some(field)), "a bad {field}");
        }
    }
    Ok(())
}

/// The only answer of a batch of one.
fn single<T>(mut answers: Vec<Result<T>>) -> Verdict<Result<T>> {
    ensure_eq!(answers.len(), 1, "answers to one question");
    let nothing = || Err(Error::new(ErrorKind::Internal, Effect::None, "no answer"));
    Ok(answers.pop().unwrap_or_else(nothing))
}

/// Every call on a key must refuse it.
async fn refused_everywhere(case: &Case<'_>, key: Key<'_>, kind: ErrorKind, field: &'static str) -> Verdict {
    refused(case.store.get(key).await, kind, field)?;
    refused(single(case.store.get_many(&[key]).await)?, kind, field)?;
    for write in [Write::put(key, "x"), Write::put(key, "x").expect(Expect::Absent), Write::delete(key)] {
        refused(case.store.write(write.clone()).await, kind, field)?;
        refused(single(case.store.write_many(&[write]).await)?, kind, field)?;
    }
    refused(case.store.run(key, &Tally::add(1)).await, kind, field)?;
    if key.is_lone() {
        refused(case.store.scan(Scan::partition(TRUTH, key.partition(), 1)).await, kind, field)?;
        let trim = Trim { space: TRUTH, partition: key.partition(), keep: Keep::First(0) };
        refused(case.store.trim(trim).await, kind, field)?;
    }
    Ok(())
}

pub(super) async fn invalid(case: &Case<'_>) -> Verdict {
    refused_everywhere(case, Key::lone(TRUTH, b""), ErrorKind::Invalid, "partition").await?;
    refused_everywhere(case, Key::row(TRUTH, b"", b"sort"), ErrorKind::Invalid, "partition").await?;
    let partition = case.partition("p");
    let scan = Scan::partition(TRUTH, &partition, 1);
    refused(case.store.scan(Scan { limit: 0, ..scan }).await, ErrorKind::Invalid, "limit")?;
    for start in [Bound::Included(b"b".as_slice()), Bound::Excluded(b"b")] {
        for end in [Bound::Included(b"a\xFF".as_slice()), Bound::Excluded(b"a\xFF")] {
            refused(case.store.scan(scan.range(start, end)).await, ErrorKind::Invalid, "range")?;
        }
    }
    for key in &case.places("past") {
        let key = key.as_key();
        for at in [Timestamp::UNIX_EPOCH, case.after(0)] {
            let write = Write::put(key, "x").expires_at(at);
            for write in [write.clone(), write.expect(Expect::Absent)] {
                refused(case.store.write(write.clone()).await, ErrorKind::Invalid, "expires_at")?;
                refused(single(case.store.write_many(&[write]).await)?, ErrorKind::Invalid, "expires_at")?;
                case.holds(key, None).await?;
            }
        }
        // The next microsecond, and the last, are no past.
        for at in [case.after(1), Timestamp::MAX] {
            case.apply(Write::put(key, "x").expires_at(at)).await?;
        }
    }
    for key in [Key::lone(PLAIN, &partition), Key::row(PLAIN, &partition, b"sort")] {
        for expect in [Expect::Absent, Expect::Is(Version::random())] {
            refused(case.store.write(Write::put(key, "x").expect(expect)).await, ErrorKind::Invalid, "expect")?;
            refused(case.store.write(Write::delete(key).expect(expect)).await, ErrorKind::Invalid, "expect")?;
        }
        refused(case.store.run(key, &Tally::add(1)).await, ErrorKind::Invalid, "space")?;
        case.holds(key, None).await?;
    }
    for key in [Key::lone(KEYS, &partition), Key::row(KEYS, &partition, b"sort")] {
        refused(case.store.write(Write::put(key, "x")).await, ErrorKind::Invalid, "value")?;
        let fleeting = Write::put(key, "").expires_at(case.after(1_000));
        refused(case.store.write(fleeting).await, ErrorKind::Invalid, "expires_at")?;
        case.holds(key, None).await?;
    }
    ensure_eq!(case.sorts(Scan::partition(PLAIN, &partition, 10)).await?, Vec::<Vec<u8>>::new(), "rows left");
    Ok(())
}

pub(super) async fn too_large(case: &Case<'_>) -> Verdict {
    let limits = *case.store.limits();
    let fill = |count: usize| case.partition(vec![b'x'; count - case.partition("").len()]);
    let (longest, longer) = (fill(limits.partition_bytes_max), fill(limits.partition_bytes_max + 1));
    refused_everywhere(case, Key::lone(TRUTH, &longer), ErrorKind::TooLarge, "partition").await?;
    refused_everywhere(case, Key::row(TRUTH, &longer, b"a"), ErrorKind::TooLarge, "partition").await?;
    let sort = vec![0xFF; limits.sort_bytes_max + 1];
    refused_everywhere(case, Key::row(TRUTH, &longest, &sort), ErrorKind::TooLarge, "sort").await?;
    // What just fits is kept, seen and removed.
    let keys = [Key::lone(TRUTH, &longest), Key::row(TRUTH, &longest, &sort[1..]), Key::row(TRUTH, &longest, b"a")];
    for key in keys {
        let written = case.put(key, "fits").await?;
        case.holds(key, Some(&written)).await?;
    }
    let found = case.sorts(Scan::partition(TRUTH, &longest, 10)).await?;
    ensure_eq!(found, [b"a".to_vec(), sort[1..].to_vec()], "the longest sort key");
    // The largest value, into the longest key; its bytes are not printed.
    let value = vec![0xA5; limits.value_bytes_max + 1];
    for key in keys {
        let there = case.store.get(key).await?;
        let too_large = Write::put(key, value.clone());
        refused(case.store.write(too_large.clone()).await, ErrorKind::TooLarge, "value")?;
        refused(case.store.write(too_large.expect(Expect::Absent)).await, ErrorKind::TooLarge, "value")?;
        case.holds(key, there.as_ref()).await?;
    }
    for key in &keys[..2] {
        case.apply(Write::put(*key, value[1..].to_vec())).await?;
        let found = case.store.get(*key).await?;
        ensure!(
            found.is_some_and(|record| record.value == value[1..]),
            "a value of the largest size came back changed"
        );
        case.apply(Write::delete(*key)).await?;
    }
    Ok(())
}

pub(super) async fn corrupt(case: &Case<'_>) -> Verdict {
    let healthy = case.partition("healthy");
    let healthy = Key::lone(TRUTH, &healthy);
    let record = case.put(healthy, "healthy").await?;
    for key in &case.places("corrupt") {
        let key = key.as_key();
        let written = case.put(key, "written").await?;
        case.corrupt(key).await?;
        for _ in 0..2 {
            is_corrupt(case.store.get(key).await, key)?;
            for write in [Write::put(key, "x"), Write::delete(key)] {
                for expect in [Expect::Absent, Expect::Is(written.version)] {
                    is_corrupt(case.store.write(write.clone().expect(expect)).await, key)?;
                }
            }
            is_corrupt(case.store.run(key, &Tally::add(1)).await, key)?;
            if !key.is_lone() {
                is_corrupt(case.store.scan_rows(Scan::partition(TRUTH, key.partition(), 10)).await, key)?;
            }
            let mut answers = case.store.get_many(&[healthy, key, healthy]).await;
            ensure_eq!(answers.len(), 3, "answers");
            is_corrupt(answers.swap_remove(1), key)?;
            for answer in answers {
                ensure_eq!(answer?.as_ref(), Some(&record), "its neighbour in a batch");
            }
        }
    }
    Ok(())
}

fn is_corrupt<T: Debug>(answer: Result<T>, key: Key<'_>) -> Verdict {
    match answer {
        Ok(answer) => ensure!(false, "undecodable bytes at {key} were answered with {answer:?}"),
        Err(error) => {
            ensure_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "the error: {error}");
            ensure_eq!(error.key(), Some(key), "the error's record");
        }
    }
    Ok(())
}
