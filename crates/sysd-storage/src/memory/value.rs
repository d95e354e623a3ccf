//! A stored value, compact: small ones lie in the entry, so that reading and updating them touches no other memory.

use bytes::Bytes;
use smallvec::SmallVec;
use sysd_core::{Record, Timestamp, Version};

const INLINE_BYTES: usize = 24;

#[derive(Debug)]
enum Value {
    Inline(SmallVec<[u8; INLINE_BYTES]>),
    Shared(Bytes),
}

/// A record as it lies in a table.
#[derive(Debug)]
pub(super) struct Stored {
    value: Value,
    // Two words, because a u128 would align the entry to 16 bytes.
    version: [u64; 2],
    /// Microseconds; zero for never, which no record can expire at.
    expires_at_us: u64,
}

impl Stored {
    pub(super) fn new(value: Bytes, version: Version, expires_at: Option<Timestamp>, copy: bool) -> Self {
        let value = if value.len() <= INLINE_BYTES {
            Value::Inline(SmallVec::from_slice(&value))
        } else if copy {
            // The caller's buffer may be a slice of a larger one that it would keep alive.
            Value::Shared(Bytes::copy_from_slice(&value))
        } else {
            Value::Shared(value)
        };
        Self::with(value, version, expires_at)
    }

    pub(super) fn from_state(state: &[u8], version: Version, expires_at: Option<Timestamp>) -> Self {
        Self::with(Value::Inline(SmallVec::from_slice(state)), version, expires_at)
    }

    fn with(value: Value, version: Version, expires_at: Option<Timestamp>) -> Self {
        let token = version.as_u128();
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let version = [(token >> 64) as u64, token as u64];
        Self { value, version, expires_at_us: expires_at.map_or(0, Timestamp::as_micros) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.value {
            Value::Inline(bytes) => bytes,
            Value::Shared(bytes) => bytes,
        }
    }

    pub(super) fn version(&self) -> Version {
        Version::from_u128(u128::from(self.version[0]) << 64 | u128::from(self.version[1]))
    }

    pub(super) fn expires(&self) -> bool {
        self.expires_at_us != 0
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires() && self.expires_at_us <= now.as_micros()
    }

    pub(super) fn to_record(&self) -> Record {
        let value = match &self.value {
            Value::Inline(bytes) => Bytes::copy_from_slice(bytes),
            Value::Shared(bytes) => bytes.clone(),
        };
        let expires_at = self.expires().then(|| Timestamp::from_micros_saturating(self.expires_at_us));
        Record { value, version: self.version(), expires_at }
    }
}
