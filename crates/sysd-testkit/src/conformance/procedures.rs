//! Procedures: the same as their Rust twin, on every backend.

use std::time::Duration;

use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{
    Clock as _, Effect, ErrorKind, Expect, Key, Procedure as _, StateChange, Store as _, StoreExt as _, Timestamp,
    Write,
};

use super::case::{Case, Verdict, ensure, ensure_eq};
use super::tally::{SUM_MAX, Seen, Tally};

/// What the Rust twin leaves: state and expiry.
type Left = Option<(Vec<u8>, Option<Timestamp>)>;

/// Runs the Rust twin by itself: what it answers (`None`: it can't decode the state), and what it leaves.
pub(super) fn run_alone(procedure: &Tally, left: &Left, now: Timestamp) -> (Option<Seen>, Left) {
    let live = left.clone().filter(|(_, expires_at)| expires_at.is_none_or(|at| at > now));
    match procedure.apply(live.as_ref().map(|(state, _)| state.as_slice()), now) {
        Err(_) => (None, live),
        Ok(step) => {
            let next = match step.change {
                StateChange::Keep => live,
                StateChange::Delete => None,
                StateChange::Put { state, ttl } => Some((state.to_vec(), ttl.map(|ttl| now.saturating_add(ttl)))),
            };
            (Some(step.output), next)
        }
    }
}

/// A random call of the procedure; times to live of few microseconds, so that many end.
pub(super) fn random(entropy: &SeededEntropy) -> Tally {
    let ttl_us = [1, 2, 3, 1_000, 1_001, 3_600_000_000][usize::try_from(below(entropy, 6)).unwrap_or_default()];
    let ttl = (below(entropy, 2) == 0).then(|| Duration::from_micros(ttl_us));
    match below(entropy, 8) {
        0 => Tally::Look,
        1 => Tally::Clear,
        2 => Tally::Set(Vec::new(), ttl),
        3 => {
            let length = [1, 7, 8, 9, 64, 65, 300][usize::try_from(below(entropy, 7)).unwrap_or_default()];
            let byte = |at: usize| u8::try_from((at * 37) % 256).unwrap_or_default();
            Tally::Set((0..length).map(byte).collect(), ttl)
        }
        4 => Tally::Add(
            [99_999_999_999_999, 100_000_000_000_000, SUM_MAX - 1, SUM_MAX]
                [usize::try_from(below(entropy, 4)).unwrap_or_default()],
            ttl,
        ),
        _ => Tally::Add(below(entropy, 1_000), ttl),
    }
}

pub(super) async fn twin(case: &Case<'_>) -> Verdict {
    for history in 0..6 {
        let entropy = SeededEntropy::new(history);
        for key in &case.places(&format!("history{history}")) {
            let key = key.as_key();
            let mut left = None;
            for step in 0..40 {
                let procedure = random(&entropy);
                let (expected, next) = run_alone(&procedure, &left, case.clock.now());
                let what = format!("history {history}, step {step}, {procedure:?} on {left:?}");
                match (case.store.run(key, &procedure).await, expected) {
                    (Ok(seen), Some(expected)) => ensure_eq!(seen, expected, "{what} answered"),
                    (Err(error), None) => ensure_eq!(error.kind(), ErrorKind::Corrupt, "{what} failed with"),
                    (answer, _) => ensure!(false, "{what} answered {answer:?}"),
                }
                let found = case.store.get(key).await?.map(|record| (record.value.to_vec(), record.expires_at));
                ensure_eq!(found, next, "{what} left");
                left = next;
                case.advance(below(&entropy, 3));
            }
        }
    }
    Ok(())
}

pub(super) async fn versions(case: &Case<'_>) -> Verdict {
    for key in &case.places("version") {
        let key = key.as_key();
        let written = case.put(key, "").await?;
        let mut versions = vec![written.version];
        for _ in 0..20 {
            case.store.run(key, &Tally::set(b"same".to_vec())).await?;
            let found = case.store.get(key).await?;
            ensure!(found.is_some(), "an update left nothing");
            let Some(found) = found else { continue };
            ensure!(!versions.contains(&found.version), "an update that put left the version of an earlier record");
            let stale = versions.last().copied().unwrap_or(written.version);
            let conflict = case.conflict(Write::put(key, "x").expect(Expect::Is(stale))).await?;
            ensure_eq!(conflict.as_ref(), Some(&found), "found by a stale condition");
            case.store.run(key, &Tally::Look).await?;
            case.holds(key, Some(&found)).await?;
            versions.push(found.version);
        }
        let last = versions.last().copied().unwrap_or(written.version);
        case.apply(Write::put(key, "written").expect(Expect::Is(last))).await?;
        let seen = case.store.run(key, &Tally::Clear).await?;
        ensure_eq!(seen.state.as_deref(), Some(b"written".as_slice()), "the state that a write left");
        case.apply(Write::put(key, "again").expect(Expect::Absent)).await?;
    }
    Ok(())
}

pub(super) async fn failures(case: &Case<'_>) -> Verdict {
    for key in &case.places("failure") {
        let key = key.as_key();
        let there = case.apply(Write::put(key, "no number").expires_at(case.after(1_000))).await?;
        match case.store.run(key, &Tally::add(1)).await {
            Ok(seen) => ensure!(false, "undecodable state was answered with {seen:?}"),
            Err(error) => {
                ensure_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "the error");
                ensure_eq!(error.key(), Some(key), "the error's record");
            }
        }
        case.holds(key, there.as_ref()).await?;
        // A time to live of nothing, and one beyond the last moment.
        let to_the_end = Timestamp::MAX.saturating_since(case.clock.now());
        for ttl in [Duration::ZERO, to_the_end + Duration::from_micros(1)] {
            match case.store.run(key, &Tally::set(b"x".to_vec()).living(ttl)).await {
                Ok(_) => ensure!(false, "a time to live of {ttl:?} was taken"),
                Err(error) => {
                    let found = (error.kind(), error.effect(), error.field());
                    ensure_eq!(found, (ErrorKind::Invalid, Effect::None, Some("ttl")), "the error");
                }
            }
            case.holds(key, there.as_ref()).await?;
        }
        case.store.run(key, &Tally::set(b"x".to_vec()).living(to_the_end)).await?;
        let left = case.store.get(key).await?.map(|record| record.expires_at);
        ensure_eq!(left, Some(Some(Timestamp::MAX)), "the last expiry");
    }
    Ok(())
}

/// Sums and times at which doubles, or their text, lose digits.
const NUMBERS: [u64; 7] = [
    99_999_999_999_999,
    100_000_000_000_000,
    100_000_000_000_001,
    (1 << 52) + 1,
    (1 << 53) - 3,
    (1 << 53) - 2,
    SUM_MAX,
];

pub(super) async fn numbers(case: &Case<'_>) -> Verdict {
    for (at, number) in NUMBERS.into_iter().enumerate() {
        let now = Timestamp::from_micros_saturating(number - 2);
        case.clock.set(now);
        for key in &case.places(&format!("number{at}")) {
            let key: Key<'_> = key.as_key();
            let seen = case.store.run(key, &Tally::add(number - 1)).await?;
            ensure_eq!(seen.now, now, "now");
            let seen = case.store.run(key, &Tally::add(1)).await?;
            ensure_eq!(seen.sum(), number - 1, "the sum seen");
            let seen = case.store.run(key, &Tally::add(0).living(Duration::from_micros(1))).await?;
            ensure_eq!(seen.sum(), number, "the sum seen");
            let found = case.store.get(key).await?.map(|record| (record.value.to_vec(), record.expires_at));
            ensure_eq!(found, Some((number.to_be_bytes().to_vec(), Some(case.after(1)))), "what was left");
        }
    }
    Ok(())
}
