//! How much a relay holds at once, however much waits: the bytes of every value that a store handed out and that is still held.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::executor::block_on;
use sysd_core::event::{Event, EventLimits, EventSink, NewEvent};
use sysd_core::{
    Effect, ErasedProcedure, ErrorKind, Expect, Key, Limits, Outcome, OutputBytes, Page, Record, Result, Scan, Space,
    Store, Trim, Trimmed, Write,
};
use sysd_storage::{Memory, Outbox, OutboxConfig, Wrote};

const RECORDS: Space = Space::conditional("records");

#[derive(Default)]
struct Scale {
    held: AtomicUsize,
    most: AtomicUsize,
}

/// A value, weighed as long as it, or a part of it, lives.
struct Weighed(Bytes, Arc<Scale>);

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.1.held.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}

/// A store whose values are weighed.
#[derive(Clone)]
struct Scales(Memory, Arc<Scale>);

impl Scales {
    fn weigh(&self, mut record: Record) -> Record {
        let held = self.1.held.fetch_add(record.value.len(), Ordering::SeqCst) + record.value.len();
        self.1.most.fetch_max(held, Ordering::SeqCst);
        record.value = Bytes::from_owner(Weighed(record.value, Arc::clone(&self.1)));
        record
    }
}

impl Store for Scales {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        Ok(self.0.get(key).await?.map(|record| self.weigh(record)))
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let answers = self.0.get_many(keys).await;
        answers.into_iter().map(|answer| Ok(answer?.map(|record| self.weigh(record)))).collect()
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.0.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.0.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let mut page = self.0.scan(scan).await?;
        for row in &mut page.rows {
            row.record = self.weigh(row.record.clone());
        }
        Ok(page)
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.0.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.0.update(key, procedure).await
    }
}

/// Takes its time, so that others are in hand meanwhile, and counts.
struct Counting(AtomicUsize);

impl EventSink for Counting {
    fn limits(&self) -> EventLimits {
        EventLimits::PROCESS
    }

    async fn append(&self, _: &Event) -> Result<()> {
        for _ in 0..20 {
            let mut is_first = true;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::take(&mut is_first) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            })
            .await;
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        let mut answers = Vec::new();
        for event in events {
            answers.push(self.append(event).await);
        }
        answers
    }
}

const INTENT_BYTES: usize = 40_000;
const RELAY_BYTES: usize = 16 * INTENT_BYTES;

/// So many records, so often written, before a relay comes; answers the most bytes that it held at once.
fn most_held(records: u8, times: usize) -> usize {
    let scales = Scales(Memory::new(), Arc::default());
    let config = OutboxConfig {
        shards: 1,
        intent_bytes_max: INTENT_BYTES,
        relay_bytes_max: RELAY_BYTES,
        event_bytes_max: 20_000,
        ..OutboxConfig::default()
    };
    let outbox = Outbox::new(scales.clone(), "o", &[RECORDS], config).unwrap();
    for record in 0..records {
        let partition = [b'k', record];
        let mut expect = Expect::Absent;
        for _ in 0..times {
            let events = vec![NewEvent::new(b"k", vec![1; 19_000])];
            let write = outbox.write(Key::lone(RECORDS, &partition), vec![2; 19_000], expect, events);
            let Wrote::Written(version) = block_on(write).unwrap() else { panic!() };
            expect = Expect::Is(version);
        }
    }
    assert_eq!(scales.1.held.load(Ordering::SeqCst), 0);
    scales.1.most.store(0, Ordering::SeqCst);
    let sink = Counting(AtomicUsize::new(0));
    let mut looks = 0;
    loop {
        let relayed = block_on(outbox.relay_once(&sink)).unwrap();
        assert!(relayed.error.is_none(), "{relayed:?}");
        looks += 1;
        if relayed.settled == 0 {
            break;
        }
    }
    assert!(looks < 10, "{looks} looks");
    assert_eq!(sink.0.load(Ordering::SeqCst), usize::from(records) * times);
    assert_eq!(scales.1.held.load(Ordering::SeqCst), 0);
    scales.1.most.load(Ordering::SeqCst)
}

#[test]
fn a_relay_holds_no_more_than_it_may_whatever_waits() {
    for (records, times) in [(200, 1), (1, 200), (20, 20)] {
        let most = most_held(records, times);
        assert!(most <= RELAY_BYTES, "{records} records written {times} times: {most} bytes at once");
        assert!(most >= 2 * INTENT_BYTES, "nothing was weighed");
    }
}

#[test]
fn a_write_that_is_larger_than_an_intent_may_be_is_refused() {
    let config = OutboxConfig { intent_bytes_max: 500, ..OutboxConfig::default() };
    let outbox = Outbox::new(Memory::new(), "o", &[RECORDS], config).unwrap();
    let write = |bytes: usize| {
        let key = [b'k', u8::try_from(bytes / 100).unwrap()];
        block_on(outbox.write(Key::lone(RECORDS, &key), vec![0; bytes], Expect::Absent, Vec::new())).map(drop)
    };
    let error = write(600).unwrap_err();
    assert_eq!((error.kind(), error.effect(), error.field()), (ErrorKind::TooLarge, Effect::None, Some("events")));
    write(300).unwrap();
}

#[test]
fn a_relay_that_could_hold_nothing_is_refused() {
    let config = OutboxConfig { intent_bytes_max: 1_000, relay_bytes_max: 3_999, ..OutboxConfig::default() };
    let error = Outbox::new(Memory::new(), "o", &[RECORDS], config).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("relay_bytes_max")));
}
