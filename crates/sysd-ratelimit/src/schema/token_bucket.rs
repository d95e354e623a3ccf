//! A bucket's state, version 1, 23 bytes (which lie inline in the memory store):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 7 | the time that the debt is stated for, microseconds since 1970 |
//! | 7 | debt, whole microseconds |
//! | 4 | debt, parts of one more microsecond |
//! | 4 | how many parts a microsecond has |

use sysd_core::Timestamp;

use super::{SEVEN_BYTES, flag, u32_at, u64_at};
use crate::model::{MAX_REFILL, Span};
use crate::procedure::Verdict;

const STATE_VERSION: u8 = 1;
pub(crate) const STATE_BYTES: usize = 23;
const VERDICT_BYTES: usize = 21;
const ARGUMENT_BYTES: usize = 28;

/// A whole number of microseconds, so nothing is lost.
#[allow(clippy::cast_possible_truncation, reason = "100 years are below 2^52 microseconds")]
pub(crate) const MAX_REFILL_US: u64 = MAX_REFILL.as_micros() as u64;

/// A bucket as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketState {
    /// The time that the debt is stated for. Never goes back.
    pub(crate) at_us: u64,
    /// How long from then until the bucket is full.
    pub(crate) debt: Span,
    /// The parts that the debt is counted in: the rate may have changed since.
    pub(crate) denominator: u32,
}

impl BucketState {
    /// The debt in parts of another rate. What does not carry over is rounded up, by less than a
    /// microsecond, so that a change of rate gives nothing.
    #[inline]
    pub(crate) fn debt_in(&self, denominator: u32) -> Span {
        if self.denominator == denominator { self.debt } else { Span { us: self.debt.ceil_us(), part: 0 } }
    }
}

#[inline]
pub(crate) fn encode_state(state: &BucketState) -> [u8; STATE_BYTES] {
    let mut bytes = [0; STATE_BYTES];
    bytes[0] = STATE_VERSION;
    bytes[1..8].copy_from_slice(&state.at_us.to_be_bytes()[1..]);
    bytes[8..15].copy_from_slice(&state.debt.us.to_be_bytes()[1..]);
    bytes[15..19].copy_from_slice(&state.debt.part.to_be_bytes());
    bytes[19..23].copy_from_slice(&state.denominator.to_be_bytes());
    bytes
}

/// `None` if no version of this crate can have written it.
#[inline]
pub(crate) fn decode_state(bytes: &[u8]) -> Option<BucketState> {
    let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
    let state = BucketState {
        // The byte before is cut off: times and debts have seven.
        at_us: u64_at(bytes, 0)? & SEVEN_BYTES,
        debt: Span { us: u64_at(bytes, 7)? & SEVEN_BYTES, part: u32_at(bytes, 15)? },
        denominator: u32_at(bytes, 19)?,
    };
    let is_valid = bytes[0] == STATE_VERSION
        && state.at_us <= Timestamp::MAX.as_micros()
        && state.debt.us <= MAX_REFILL_US
        && state.debt.part < state.denominator;
    is_valid.then_some(state)
}

#[inline]
pub(crate) fn encode_verdict(verdict: &Verdict) -> [u8; VERDICT_BYTES] {
    let mut bytes = [0; VERDICT_BYTES];
    bytes[0] = u8::from(verdict.allowed);
    bytes[1..9].copy_from_slice(&verdict.skew_us.to_be_bytes());
    bytes[9..17].copy_from_slice(&verdict.debt.us.to_be_bytes());
    bytes[17..21].copy_from_slice(&verdict.debt.part.to_be_bytes());
    bytes
}

#[inline]
pub(crate) fn decode_verdict(bytes: &[u8]) -> Option<Verdict> {
    let bytes: &[u8; VERDICT_BYTES] = bytes.try_into().ok()?;
    let allowed = flag(bytes[0])?;
    let verdict =
        Verdict { allowed, skew_us: u64_at(bytes, 1)?, debt: Span { us: u64_at(bytes, 9)?, part: u32_at(bytes, 17)? } };
    let is_valid = verdict.skew_us <= Timestamp::MAX.as_micros() && verdict.debt.us <= MAX_REFILL_US + 1;
    is_valid.then_some(verdict)
}

/// What the Lua twin needs of the limit and the cost, so that it multiplies nothing.
pub(crate) fn encode_arguments(denominator: u32, capacity: Span, price: Span) -> [u8; ARGUMENT_BYTES] {
    let mut bytes = [0; ARGUMENT_BYTES];
    bytes[0..4].copy_from_slice(&denominator.to_be_bytes());
    bytes[4..12].copy_from_slice(&capacity.us.to_be_bytes());
    bytes[12..16].copy_from_slice(&capacity.part.to_be_bytes());
    bytes[16..24].copy_from_slice(&price.us.to_be_bytes());
    bytes[24..28].copy_from_slice(&price.part.to_be_bytes());
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The stored format of version 1, which a later version must go on reading.
    #[test]
    fn state_version_1_is_pinned() {
        let state = BucketState {
            at_us: 0x0001_0203_0405_0607,
            debt: Span { us: 0x0000_0908_0706_0504, part: 0x0102_0304 },
            denominator: 0x0A0B_0C0D,
        };
        let golden = [1, 1, 2, 3, 4, 5, 6, 7, 0, 9, 8, 7, 6, 5, 4, 1, 2, 3, 4, 0x0A, 0x0B, 0x0C, 0x0D];
        assert_eq!(encode_state(&state), golden);
        assert_eq!(decode_state(&golden), Some(state));
    }

    #[test]
    fn what_was_never_written_is_refused() {
        let good = BucketState { at_us: 5, debt: Span { us: 3, part: 1 }, denominator: 2 };
        assert!(decode_state(&encode_state(&good)).is_some());
        for bad in [
            BucketState { at_us: 1 << 53, ..good },
            BucketState { debt: Span { us: MAX_REFILL_US + 1, part: 0 }, ..good },
            BucketState { debt: Span { us: 3, part: 2 }, ..good },
            BucketState { debt: Span { us: 3, part: 0 }, denominator: 0, ..good },
        ] {
            assert_eq!(decode_state(&encode_state(&bad)), None, "{bad:?}");
        }
        let mut version_2 = encode_state(&good);
        version_2[0] = 2;
        assert_eq!(decode_state(&version_2), None);
        assert_eq!(decode_state(&encode_state(&good)[..22]), None);
        assert_eq!(decode_verdict(&[2; VERDICT_BYTES]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_state_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(state) = decode_state(&bytes) {
                prop_assert_eq!(&encode_state(&state)[..], &bytes[..]);
            }
            if let Some(verdict) = decode_verdict(&bytes) {
                prop_assert_eq!(&encode_verdict(&verdict)[..], &bytes[..]);
            }
        }
    }
}
