#![allow(clippy::unwrap_used)]

use futures::FutureExt as _;
use futures::executor::block_on;
use sysd_core::{ManualClock, SystemEntropy};

use super::*;

const NOW: Duration = Duration::ZERO;

fn log(when_full: WhenFull) -> MemoryEvents {
    MemoryEvents::new(MemoryEventsConfig { partitions: 1, events_max: 3, when_full, ..MemoryEventsConfig::default() })
        .unwrap()
}

fn event(text: &'static str) -> Event {
    Event::mint(&SystemEntropy, b"k", text)
}

fn texts(batch: &Batch) -> Vec<&[u8]> {
    batch.events.iter().map(|delivered| &delivered.event.bytes[..]).collect()
}

#[test]
fn what_makes_room_unread_is_told() {
    let log = log(WhenFull::DropOldest);
    let mut member = block_on(log.join("g", Start::Oldest)).unwrap();
    for text in ["a", "b", "c", "d", "e"] {
        block_on(log.append(&event(text))).unwrap();
    }
    let batch = block_on(member.read(10, NOW)).unwrap();
    assert_eq!(texts(&batch), [b"c", b"d", b"e"]);
    assert_eq!(batch.gaps, [Gap { partition: 0, from: 0, to: 2 }]);
}

#[test]
fn what_is_refused_is_refused_until_every_group_has_committed() {
    let log = log(WhenFull::Refuse);
    let mut member = block_on(log.join("g", Start::Oldest)).unwrap();
    let mut other = block_on(log.join("h", Start::Oldest)).unwrap();
    for text in ["a", "b", "c"] {
        block_on(log.append(&event(text))).unwrap();
    }
    let full = || block_on(log.append(&event("d"))).map_err(|error| (error.kind(), error.effect()));
    assert_eq!(full(), Err((ErrorKind::Full, Effect::None)));
    let batch = block_on(member.read(1, NOW)).unwrap();
    assert_eq!(block_on(member.commit(&batch.ends())).unwrap(), Committed::All);
    assert_eq!(full(), Err((ErrorKind::Full, Effect::None)));
    let batch = block_on(other.read(2, NOW)).unwrap();
    assert_eq!(block_on(other.commit(&batch.ends())).unwrap(), Committed::All);
    assert_eq!(full(), Ok(()));
    assert_eq!(full(), Err((ErrorKind::Full, Effect::None)));
    assert_eq!(texts(&block_on(member.read(10, NOW)).unwrap()), [b"b", b"c", b"d"]);
}

#[test]
fn a_wait_ends_with_an_event_or_at_its_deadline() {
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    let config = MemoryEventsConfig { clock: Arc::new(clock.clone()), ..MemoryEventsConfig::default() };
    let log = MemoryEvents::new(config).unwrap();
    let mut member = block_on(log.join("g", Start::Newest)).unwrap();
    {
        let mut read = std::pin::pin!(member.read(1, Duration::from_secs(1)));
        assert!(read.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert_eq!(read.now_or_never().unwrap().unwrap(), Batch::default());
    }
    let mut read = std::pin::pin!(member.read(1, Duration::from_secs(1)));
    assert!(read.as_mut().now_or_never().is_none());
    block_on(log.append(&event("a"))).unwrap();
    assert_eq!(texts(&read.now_or_never().unwrap().unwrap()), [b"a"]);
}

#[test]
fn a_config_without_room_is_refused_by_name() {
    for (config, option) in [
        (MemoryEventsConfig { partitions: 0, ..MemoryEventsConfig::default() }, "partitions"),
        (MemoryEventsConfig { events_max: 0, ..MemoryEventsConfig::default() }, "events_max"),
        (MemoryEventsConfig { bytes_max: 0, ..MemoryEventsConfig::default() }, "bytes_max"),
    ] {
        assert_eq!(MemoryEvents::new(config).unwrap_err().field(), Some(option));
    }
}
