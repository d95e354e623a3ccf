//! Events that belong to records, and where they go.

use std::future::Future;

use bytes::Bytes;

use crate::{KeyBytes, Result, Version};

/// An event, as it is given to an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the sink orders by: usually what names the record.
    pub key: KeyBytes,
    /// What happened.
    pub bytes: Bytes,
}

impl Event {
    /// An event under a key.
    pub fn new(key: &[u8], bytes: impl Into<Bytes>) -> Self {
        Self { key: KeyBytes::from_slice(key), bytes: bytes.into() }
    }
}

/// Names an event: the version that its record got, and its place among that write's events. The same whenever it is
/// published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The record's version.
    pub version: Version,
    /// Which of its events, from 0.
    pub index: u16,
}

/// Where events go.
pub trait Publish: Send + Sync + 'static {
    /// Publishes an event; `Ok`: it will not be lost. It may be called again with the same id.
    fn publish(&self, key: &[u8], id: EventId, bytes: &Bytes) -> impl Future<Output = Result<()>> + Send;
}
