//! Who holds the slots of a key, version 1: a byte, the time, and 25 bytes for each holder, the earliest deadline first:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 7 | the time of the last write, microseconds since 1970; never goes back |
//!
//! | bytes | what |
//! |---|---|
//! | 16 | the holder, not zero |
//! | 2 | how many slots, from 1 to 1,000 |
//! | 7 | the deadline, later than the time |
//!
//! At most 1,000 holders, so at most 25,008 bytes.

use sysd_core::{StateBytes, Timestamp};

use super::{flag, seven, u32_at, u56_at, u64_at};
use crate::model::SLOTS_MAX;
use crate::procedure::{SlotAnswer, SlotsFound};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
const HOLDER_BYTES: usize = 25;
const OUTPUT_BYTES: usize = 29;

/// A holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) holder: u128,
    pub(crate) cost: u32,
    pub(crate) until_us: u64,
}

/// The holders, the earliest deadline first, and when that was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) at_us: u64,
    pub(crate) held: Vec<Held>,
}

pub(crate) fn encode_state(state: &State) -> StateBytes {
    let mut bytes = StateBytes::new();
    bytes.push(VERSION);
    bytes.extend_from_slice(&seven(state.at_us));
    for held in &state.held {
        bytes.extend_from_slice(&held.holder.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(held.cost).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&seven(held.until_us));
    }
    bytes
}

/// `None` if no version of this crate can have written it.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<State> {
    let holders = bytes.len().checked_sub(HEADER_BYTES)?;
    let count = holders / HOLDER_BYTES;
    if bytes[0] != VERSION || holders % HOLDER_BYTES != 0 || !(1..=SLOTS_MAX as usize).contains(&count) {
        return None;
    }
    let mut state = State { at_us: u56_at(bytes, 1)?, held: Vec::with_capacity(count + 1) };
    let mut earliest_us = state.at_us + 1;
    for holder in bytes[HEADER_BYTES..].chunks_exact(HOLDER_BYTES) {
        let held = Held {
            holder: u128::from_be_bytes(*holder.first_chunk()?),
            cost: u32_at(holder, 14)? & 0xFFFF,
            until_us: u56_at(holder, 18)?,
        };
        let is_valid = held.holder != 0
            && (1..=SLOTS_MAX).contains(&held.cost)
            && (earliest_us..=Timestamp::MAX.as_micros()).contains(&held.until_us);
        if !is_valid {
            return None;
        }
        earliest_us = held.until_us;
        state.held.push(held);
    }
    Some(state)
}

pub(crate) fn encode_output(found: &SlotsFound) -> [u8; OUTPUT_BYTES] {
    let mut bytes = [0; OUTPUT_BYTES];
    bytes[0] = match found.answer {
        SlotAnswer::Denied => 0,
        SlotAnswer::Held => 1,
        SlotAnswer::Lost => 2,
    };
    bytes[1..9].copy_from_slice(&found.now_us.to_be_bytes());
    bytes[9..13].copy_from_slice(&found.in_use.to_be_bytes());
    bytes[13..17].copy_from_slice(&found.holders.to_be_bytes());
    bytes[17..21].copy_from_slice(&found.cost.to_be_bytes());
    bytes[21..].copy_from_slice(&found.until_us.to_be_bytes());
    bytes
}

pub(crate) fn decode_output(bytes: &[u8]) -> Option<SlotsFound> {
    let bytes: &[u8; OUTPUT_BYTES] = bytes.try_into().ok()?;
    let answer = match bytes[0] {
        2 => SlotAnswer::Lost,
        other if flag(other)? => SlotAnswer::Held,
        _ => SlotAnswer::Denied,
    };
    let found = SlotsFound {
        answer,
        now_us: u64_at(bytes, 1)?,
        in_use: u32_at(bytes, 9)?,
        holders: u32_at(bytes, 13)?,
        cost: u32_at(bytes, 17)?,
        until_us: u64_at(bytes, 21)?,
    };
    let last_us = Timestamp::MAX.as_micros();
    (found.now_us <= last_us && found.until_us <= last_us).then_some(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn state_version_1_is_pinned() {
        let state = State {
            at_us: 0x0001_0203_0405_0607,
            held: vec![
                Held { holder: 0x0102 << 112 | 0x0F, cost: 1, until_us: 0x0001_0203_0405_0608 },
                Held { holder: 7, cost: 1_000, until_us: 0x0001_0203_0405_0608 },
            ],
        };
        let golden = b"\x01\x01\x02\x03\x04\x05\x06\x07\
            \x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x0F\0\x01\x01\x02\x03\x04\x05\x06\x08\
            \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x03\xE8\x01\x02\x03\x04\x05\x06\x08";
        assert_eq!(encode_state(&state)[..], golden[..]);
        assert_eq!(decode_state(golden), Some(state.clone()));
        for length in [0, 7, 8, 32, 34, 57] {
            assert_eq!(decode_state(&golden[..length]), None, "{length}");
        }
        // Of another version, past its deadline, out of order, for nothing, for too much, beyond time, nobody's.
        for (at, byte) in [(0, 2), (7, 8), (32, 9), (25, 0), (50, 0xEA), (51, 0x20), (48, 0)] {
            let mut bytes = golden.to_vec();
            bytes[at] = byte;
            assert_eq!(decode_state(&bytes), None, "byte {at}");
        }
        let full = State { at_us: 0, held: vec![state.held[1]; 1_000] };
        assert_eq!(encode_state(&full).len(), 25_008, "far below what any store takes");
        assert!(decode_state(&encode_state(&full)).is_some());
        let overlong = State { at_us: 0, held: vec![state.held[1]; 1_001] };
        assert_eq!(decode_state(&encode_state(&overlong)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_state_or_none(bytes in proptest::collection::vec(prop_oneof![1 => 0..4_u8, 1 => any::<u8>()], 33)) {
            if let Some(state) = decode_state(&bytes) {
                prop_assert_eq!(&encode_state(&state)[..], &bytes[..]);
            }
            if let Some(found) = decode_output(&bytes[..29]) {
                prop_assert_eq!(&encode_output(&found)[..], &bytes[..29]);
            }
        }
    }
}
