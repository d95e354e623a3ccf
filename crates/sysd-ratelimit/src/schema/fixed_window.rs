//! A fixed window's state, version 1, 12 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 7 | when something was last taken, microseconds since 1970 |
//! | 4 | what the window of that time has admitted |
//!
//! The time of the last request and not that of the window's begin, so that a window of another length still knows whether it
//! holds that request.

use sysd_core::Timestamp;

use super::{flag, seven, u32_at, u56_at, u64_at};
use crate::procedure::FixedVerdict;

const VERSION: u8 = 1;
pub(crate) const STATE_BYTES: usize = 12;
const VERDICT_BYTES: usize = 20;

/// A window as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) at_us: u64,
    pub(crate) count: u32,
}

#[inline]
pub(crate) fn encode_state(state: &State) -> [u8; STATE_BYTES] {
    let mut bytes = [VERSION; STATE_BYTES];
    bytes[1..8].copy_from_slice(&seven(state.at_us));
    bytes[8..].copy_from_slice(&state.count.to_be_bytes());
    bytes
}

/// `None` if no version of this crate can have written it.
#[inline]
pub(crate) fn decode_state(bytes: &[u8]) -> Option<State> {
    let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
    let state = State { at_us: u56_at(bytes, 1)?, count: u32_at(bytes, 8)? };
    (bytes[0] == VERSION && state.at_us <= Timestamp::MAX.as_micros()).then_some(state)
}

#[inline]
pub(crate) fn encode_verdict(verdict: &FixedVerdict) -> [u8; VERDICT_BYTES] {
    let mut bytes = [0; VERDICT_BYTES];
    bytes[0] = u8::from(verdict.allowed);
    bytes[1..9].copy_from_slice(&verdict.skew_us.to_be_bytes());
    bytes[9..16].copy_from_slice(&seven(verdict.into_us));
    bytes[16..].copy_from_slice(&verdict.count.to_be_bytes());
    bytes
}

#[inline]
pub(crate) fn decode_verdict(bytes: &[u8]) -> Option<FixedVerdict> {
    let bytes: &[u8; VERDICT_BYTES] = bytes.try_into().ok()?;
    let (allowed, skew_us) = (flag(bytes[0])?, u64_at(bytes, 1)?);
    let verdict = FixedVerdict { allowed, skew_us, into_us: u56_at(bytes, 9)?, count: u32_at(bytes, 16)? };
    let last = Timestamp::MAX.as_micros();
    (verdict.skew_us <= last && verdict.into_us <= last).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_version_1_is_pinned() {
        let state = State { at_us: 0x0001_0203_0405_0607, count: 0x0809_0A0B };
        let golden = [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0A, 0x0B];
        assert_eq!(encode_state(&state), golden);
        assert_eq!(decode_state(&golden), Some(state));
        assert_eq!(decode_state(&golden[..11]), None);
        assert_eq!(decode_state(&[2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0A, 0x0B]), None);
        assert_eq!(decode_state(&[1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
