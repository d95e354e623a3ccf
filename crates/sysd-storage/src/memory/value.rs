//! A stored value, compact: small ones lie in the entry, so that reading and updating them touches no other memory.

use bytes::Bytes;
use sysd_core::{Record, Timestamp, Version};

use super::short::Inline;

/// So many, because they then take the room that [`Bytes`] takes anyway.
const INLINE_BYTES: usize = 23;

#[derive(Debug)]
enum Value {
    Inline(Inline<INLINE_BYTES>),
    Shared(Bytes),
}

/// A record as it lies in a table.
#[derive(Debug)]
pub(super) struct Stored {
    value: Value,
    // Two words, because a u128 would align the entry to 16 bytes.
    version: [u64; 2],
    /// Microseconds; `u64::MAX` for never, which lies behind every timestamp.
    expires_at_us: u64,
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
fn halves(version: Version) -> [u64; 2] {
    let token = version.as_u128();
    [(token >> 64) as u64, token as u64]
}

fn expiry_us(expires_at: Option<Timestamp>) -> u64 {
    expires_at.map_or(u64::MAX, Timestamp::as_micros)
}

impl Stored {
    pub(super) fn new(value: Bytes, version: Version, expires_at: Option<Timestamp>, copy: bool) -> Self {
        let value = match Inline::new(&value) {
            Some(inline) => Value::Inline(inline),
            // The caller's buffer may be a slice of a larger one that it would keep alive.
            None if copy => Value::Shared(Bytes::copy_from_slice(&value)),
            None => Value::Shared(value),
        };
        Self { value, version: halves(version), expires_at_us: expiry_us(expires_at) }
    }

    pub(super) fn from_state(state: &[u8], version: Version, expires_at: Option<Timestamp>) -> Self {
        let value = Inline::new(state).map_or_else(|| Value::Shared(Bytes::copy_from_slice(state)), Value::Inline);
        Self { value, version: halves(version), expires_at_us: expiry_us(expires_at) }
    }

    /// Becomes [`Stored::from_state`] of these, in place.
    #[inline]
    pub(super) fn set_state(&mut self, state: &[u8], version: Version, expires_at: Option<Timestamp>) {
        if let Value::Inline(inline) = &mut self.value
            && inline.set(state)
        {
            self.version = halves(version);
            self.expires_at_us = expiry_us(expires_at);
        } else {
            *self = Self::from_state(state, version, expires_at);
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.value {
            Value::Inline(inline) => inline.as_slice(),
            Value::Shared(bytes) => bytes,
        }
    }

    pub(super) fn version(&self) -> Version {
        Version::from_u128(u128::from(self.version[0]) << 64 | u128::from(self.version[1]))
    }

    #[inline]
    pub(super) fn expires(&self) -> bool {
        self.expires_at_us != u64::MAX
    }

    /// `u64::MAX` for never.
    #[inline]
    pub(super) fn expires_at_us(&self) -> u64 {
        self.expires_at_us
    }

    #[inline]
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at_us <= now.as_micros()
    }

    #[inline]
    pub(super) fn to_record(&self) -> Record {
        let value = match &self.value {
            Value::Inline(inline) => Bytes::copy_from_slice(inline.as_slice()),
            Value::Shared(bytes) => bytes.clone(),
        };
        let expires_at = self.expires().then(|| Timestamp::from_micros_saturating(self.expires_at_us));
        Record { value, version: self.version(), expires_at }
    }
}
