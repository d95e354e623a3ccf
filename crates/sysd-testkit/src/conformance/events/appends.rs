//! What an append promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use sysd_core::event::{Event, EventId, EventLog as _, EventSink as _, Position, Start};
use sysd_core::{Clock as _, Effect, ErrorKind, SystemClock, SystemEntropy, Version};

use super::super::case::{Verdict, ensure, ensure_eq};
use super::case::{LogCase, event, ids, in_order};

/// L1.
pub(super) async fn as_they_were(case: &LogCase) -> Verdict {
    let limits = case.log.limits();
    let all: Vec<u8> = (0..=255).collect();
    let long = |length: usize| (0..=255_u8).cycle().take(length).collect::<Vec<u8>>();
    let mut events = vec![
        Event::mint(&SystemEntropy, b"", ""),
        Event::mint(&SystemEntropy, b"", "x"),
        Event::mint(&SystemEntropy, b"x", ""),
        Event::mint(&SystemEntropy, &all, all.clone()),
        Event::mint(&SystemEntropy, b"\r\n{}%\0", "\r\n{}%\0"),
        Event::mint(&SystemEntropy, &long(limits.key_bytes_max), long(1_000)),
        Event::mint(&SystemEntropy, b"long", long(limits.event_bytes_max)),
    ];
    for (version, index) in [(0, 0), (u128::MAX, u16::MAX), (0, 7)] {
        let id = EventId { version: Version::from_u128(version), index };
        events.push(Event::new(id, b"ids", Bytes::from_static(b"id")));
    }
    let before = SystemClock.now();
    for event in &events {
        case.log.append(event).await?;
    }
    let mut member = case.other.join("all", Start::Oldest).await?;
    let seen = case.read_all(&mut member, &ids(&events)).await?;
    ensure_eq!(seen.len(), events.len(), "events that were read");
    let positions: BTreeSet<_> = seen.iter().map(|delivered| delivered.position).collect();
    ensure_eq!(positions.len(), events.len(), "positions that differ");
    for event in &events {
        let found = seen.iter().find(|delivered| delivered.event.id == event.id);
        let is_same = found.is_some_and(|found| found.event == *event);
        ensure!(is_same, "the event {:?} of {} bytes came back as another", event.id, event.bytes.len());
        let at = found.map(|found| found.appended_at).unwrap_or_default();
        let (early, late) = (before.saturating_since(at), at.saturating_since(SystemClock.now()));
        ensure!(early.max(late) < Duration::from_secs(60), "an event that was just appended is said to be of {at}");
    }
    Ok(())
}

/// L2.
pub(super) async fn order(case: &LogCase) -> Verdict {
    let mut events = case.append(16, 0, 50).await?;
    for number in 50..55 {
        for key in 0..16 {
            let event = event(key, number);
            // Alternating between two handles, each waiting for the other.
            let log = if number % 2 == 0 { &case.log } else { &case.other };
            log.append(&event).await?;
            events.push(event);
        }
    }
    let mut member = case.log.join("all", Start::Oldest).await?;
    let seen = case.read_all(&mut member, &ids(&events)).await?;
    let partitions: BTreeSet<_> = seen.iter().map(|delivered| delivered.position.partition).collect();
    ensure!(partitions.len() > 1, "16 keys lie in one partition");
    in_order(&seen, &events)?;
    rising(seen.iter().map(|delivered| delivered.position))
}

/// Fails unless the positions of each partition rise, each where it is first seen: who was taken for dead, as on a machine that
/// stood still, is handed again what it has not committed.
fn rising(positions: impl Iterator<Item = Position>) -> Verdict {
    let (mut known, mut highest) = (BTreeSet::new(), BTreeMap::new());
    for position in positions.filter(|position| known.insert(*position)) {
        let before = highest.insert(position.partition, position.number);
        ensure!(before.is_none_or(|before| before < position.number), "{before:?} was read before {position:?}");
    }
    Ok(())
}

/// L3.
pub(super) async fn sizes(case: &LogCase) -> Verdict {
    let limits = case.log.limits();
    let long_key = Event::mint(&SystemEntropy, &vec![7; limits.key_bytes_max + 1], "x");
    let long = Event::mint(&SystemEntropy, b"key 0", vec![7; limits.event_bytes_max + 1]);
    for (event, field) in [(&long_key, "key"), (&long, "bytes")] {
        let error = case.log.append(event).await.err();
        let found = error.map(|error| (error.kind(), error.effect(), error.field()));
        ensure_eq!(found, Some((ErrorKind::TooLarge, Effect::None, Some(field))), "too long a {field}");
    }
    let good: Vec<_> = (0..4).map(|number| event(0, number)).collect();
    let batch = [good[0].clone(), long.clone(), good[1].clone(), long_key, good[2].clone(), good[3].clone()];
    let answers = case.log.append_many(&batch).await;
    let kinds: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().err().map(|error| (error.kind(), error.field()))).collect();
    let (bytes, key) = (Some((ErrorKind::TooLarge, Some("bytes"))), Some((ErrorKind::TooLarge, Some("key"))));
    ensure_eq!(kinds, [None, bytes, None, key, None, None], "a batch of which two are too large");
    ensure!(case.log.append_many(&[]).await.is_empty(), "no events have an answer");
    let mut member = case.log.join("all", Start::Oldest).await?;
    let seen = case.read_all(&mut member, &ids(&good)).await?;
    in_order(&seen, &good)?;
    case.only(&mut member, &ids(&good)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_rises_as_it_did_and_what_is_read_too_late_does_not() {
        let rises = |numbers: &[(u32, u64)]| {
            let position = |(partition, number): &(u32, u64)| Position { partition: *partition, number: *number };
            rising(numbers.iter().map(position)).is_ok()
        };
        assert!(rises(&[(0, 0), (1, 0), (0, 1), (1, 7)]));
        assert!(rises(&[(0, 0), (0, 1), (0, 0), (0, 1), (0, 2), (0, 0)]));
        assert!(!rises(&[(0, 1), (0, 0)]));
        assert!(!rises(&[(0, 0), (1, 5), (0, 2), (1, 6), (0, 1)]));
    }
}
