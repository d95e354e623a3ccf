//! An outbox lets in only what its sinks take: what none would take would stand before everything behind it, for ever.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used)]

use futures::executor::block_on;
use sysd_core::event::NewEvent;
use sysd_core::{Effect, ErrorKind, Expect, Key, Space};
use sysd_storage::{Memory, MemoryEvents, MemoryEventsConfig, Outbox, OutboxConfig, Wrote};

const ORDERS: Space = Space::conditional("orders");

#[test]
fn an_event_that_no_sink_takes_is_refused_before_anything_is_written() {
    let config = OutboxConfig { event_key_bytes_max: 4, event_bytes_max: 8, ..OutboxConfig::default() };
    let outbox = Outbox::new(Memory::new(), "shop", &[ORDERS], config).unwrap();
    let log = MemoryEvents::new(MemoryEventsConfig::default()).unwrap();
    let order = Key::lone(ORDERS, b"7");
    for event in [NewEvent::new(b"12345", "x"), NewEvent::new(b"1234", "123456789")] {
        let events = vec![NewEvent::new(b"7", "small"), event];
        let error = block_on(outbox.write(order, "x", Expect::Absent, events)).unwrap_err();
        let found = (error.kind(), error.effect(), error.field());
        assert_eq!(found, (ErrorKind::TooLarge, Effect::None, Some("events")), "{error}");
    }
    let events = vec![NewEvent::new(b"1234", "12345678")];
    // Nothing is there yet.
    let wrote = block_on(outbox.write(order, "x", Expect::Absent, events)).unwrap();
    assert!(matches!(wrote, Wrote::Written(_)));
    let relayed = block_on(outbox.relay_once(&log)).unwrap();
    assert_eq!((relayed.published, relayed.left), (1, 0));
}

#[test]
fn a_sink_that_takes_less_than_was_let_in_is_refused_at_once() {
    let config = MemoryEventsConfig { bytes_max: 10_000, ..MemoryEventsConfig::default() };
    let log = MemoryEvents::new(config).unwrap();
    let outbox = Outbox::new(Memory::new(), "shop", &[ORDERS], OutboxConfig::default()).unwrap();
    let error = block_on(outbox.relay_once(&log)).unwrap_err();
    let found = (error.kind(), error.effect(), error.field());
    assert_eq!(found, (ErrorKind::Config, Effect::None, Some("event_bytes_max")), "{error}");
}
