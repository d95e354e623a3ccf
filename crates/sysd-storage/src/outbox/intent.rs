//! Intents: what a writer is about to do. How they are settled is decided here. Pure.
//!
//! Stored as: format (1), whether a relay has claimed it (1), deadline (8), whether a record is expected (1), its version
//! (16), the new version (16), how many events (2); then each with its length (4): space, partition, sort, value, and of
//! each event key and bytes.

use bytes::Bytes;
use sysd_core::event::NewEvent;
use sysd_core::{Error, Expect, Key, KeyBytes, Result, Timestamp, Version};

use super::walk::Walk;

const FORMAT: u8 = 1;
/// Up to the new version.
const HEAD_BYTES: usize = 1 + 1 + 8 + 1 + 16 + 16;

/// A write that is about to happen, with its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) is_claimed: bool,
    /// From when on a relay carries it out.
    pub(super) deadline: Timestamp,
    /// What the record is before: a version, or `None`, absent.
    pub(super) before: Option<Version>,
    /// What it is to be.
    pub(super) version: Version,
    pub(super) space: String,
    pub(super) partition: KeyBytes,
    pub(super) sort: KeyBytes,
    pub(super) value: Bytes,
    pub(super) events: Vec<NewEvent>,
}

/// What is left of an intent that can't be read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What the record was before: a version, or `None`, absent.
    pub(super) before: Option<Version>,
}

/// What is to be done about the intents of one record.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Decision {
    /// Those that became true and are unpublished, oldest first: publish, then remove, one after the other.
    pub(super) publish: Vec<Version>,
    /// Those that can never become true any more: remove.
    pub(super) forget: Vec<Version>,
    /// Those whose writer is gone: write their record.
    pub(super) carry_out: Vec<Version>,
}

/// Decides, given what the record is, where the walk from there has come along, and the intents that were `listed` before the
/// record was read.
///
/// What the walk met became true. Another that was there before the record was read, and is written over something that the record
/// is not, never will: what it expects has passed.
pub(super) fn decide<'a>(
    record: Option<Version>,
    walk: &Walk,
    listed: impl Iterator<Item = &'a Intent>,
    now: Timestamp,
) -> Decision {
    let mut decision = Decision { publish: walk.chain().collect(), ..Decision::default() };
    for intent in listed.filter(|intent| walk.is_off(intent.version) && intent.deadline <= now) {
        let which = if intent.before == record { &mut decision.carry_out } else { &mut decision.forget };
        which.push(intent.version);
    }
    decision
}

impl Intent {
    pub(super) fn expect(&self) -> Expect {
        self.before.map_or(Expect::Absent, Expect::Is)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128 + self.value.len());
        out.push(FORMAT);
        out.push(u8::from(self.is_claimed));
        out.extend_from_slice(&self.deadline.as_micros().to_be_bytes());
        out.push(u8::from(self.before.is_some()));
        out.extend_from_slice(&self.before.map_or([0; 16], Version::to_bytes));
        out.extend_from_slice(&self.version.to_bytes());
        out.extend_from_slice(&u16::try_from(self.events.len()).unwrap_or(u16::MAX).to_be_bytes());
        let mut put = |bytes: &[u8]| {
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        put(self.space.as_bytes());
        put(&self.partition);
        put(&self.sort);
        put(&self.value);
        for event in &self.events {
            put(&event.key);
            put(&event.bytes);
        }
        out.into()
    }

    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
    pub(super) fn decode(key: Key<'_>, bytes: &Bytes) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::corrupt(key, "not an intent of an outbox, or of a newer version's"))
    }

    /// The head of the intent of `version`, which can't be read as a whole: if the head can, and is that version's.
    pub(super) fn head_of(version: Version, bytes: &[u8]) -> Option<Head> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let (has_before, versions) = (head[10], &head[11..]);
        let (before, own) = versions.split_first_chunk::<16>()?;
        let is_head = head[0] == FORMAT && has_before <= 1 && own == version.to_bytes();
        is_head.then(|| Head { before: (has_before == 1).then(|| Version::from_bytes(*before)) })
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let mut at = 0;
        let mut take = |length: usize| {
            let end = at + length;
            let part = (end <= bytes.len()).then(|| bytes.slice(at..end));
            at = end.min(bytes.len());
            part
        };
        (take(1)?[0] == FORMAT).then_some(())?;
        let is_claimed = take(1)?[0] != 0;
        let deadline = u64::from_be_bytes(take(8)?.as_ref().try_into().ok()?);
        let has_before = take(1)?[0] != 0;
        let before = Version::from_bytes(take(16)?.as_ref().try_into().ok()?);
        let version = Version::from_bytes(take(16)?.as_ref().try_into().ok()?);
        let count = u16::from_be_bytes(take(2)?.as_ref().try_into().ok()?);
        let mut part = || {
            let length = u32::from_be_bytes(take(4)?.as_ref().try_into().ok()?);
            take(usize::try_from(length).ok()?)
        };
        let space = String::from_utf8(part()?.to_vec()).ok()?;
        let (partition, sort, value) = (part()?, part()?, part()?);
        let mut events = Vec::with_capacity(count.into());
        for _ in 0..count {
            let key = part()?;
            events.push(NewEvent { key: KeyBytes::from_slice(&key), bytes: part()? });
        }
        if at != bytes.len() {
            return None;
        }
        Some(Self {
            is_claimed,
            deadline: Timestamp::from_micros(deadline).ok()?,
            before: has_before.then_some(before),
            version,
            space,
            partition: KeyBytes::from_slice(&partition),
            sort: KeyBytes::from_slice(&sort),
            value,
            events,
        })
    }
}

#[cfg(test)]
#[path = "intent_tests.rs"]
mod tests;
