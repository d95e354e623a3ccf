//! The holds of a key and the states of its rules in one record, version 1:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 7 | the time of the last write, microseconds since 1970; never goes back |
//! | 1 | how many holds, at most 64 |
//! | | the holds, the earliest deadline first |
//! | | the states, as in `rules.rs` behind the version |
//!
//! and for each hold
//!
//! | bytes | what |
//! |---|---|
//! | 16 | its number |
//! | 7 | the deadline, later than the time |
//! | 1 | of how many rules, from 1 to 16 |
//! | | what was taken of each, as in `taken.rs`: at most 50 bytes |
//!
//! So the holds are at most 52,745 bytes.

use smallvec::SmallVec;
use sysd_core::{StateBytes, Timestamp};

use super::rules::{Entry, decode_entries, encode_entries};
use super::taken::{TAKEN_BYTES_MAX, Taken};
use super::{seven, u56_at};
use crate::model::{HOLDS_MAX, RULES_MAX};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 9;
const HOLD_BYTES: usize = 24;

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: u128,
    pub(crate) until_us: u64,
    pub(crate) parts: SmallVec<[Taken; 2]>,
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) at_us: u64,
    /// The earliest deadline first.
    pub(crate) holds: Vec<Held>,
    pub(crate) entries: Vec<Entry<'a>>,
}

/// What a record with holds of so many rules has at most beside what one of states has, bytes.
pub(crate) fn holds_bytes_max(rules: usize) -> usize {
    HEADER_BYTES - 1 + HOLDS_MAX * (HOLD_BYTES + rules * TAKEN_BYTES_MAX)
}

pub(crate) fn encode_state<'a>(at_us: u64, holds: &[Held], entries: impl Iterator<Item = Entry<'a>>) -> StateBytes {
    let mut bytes = StateBytes::new();
    bytes.push(VERSION);
    bytes.extend_from_slice(&seven(at_us));
    bytes.push(u8::try_from(holds.len()).unwrap_or(u8::MAX));
    for hold in holds {
        bytes.extend_from_slice(&hold.id.to_be_bytes());
        bytes.extend_from_slice(&seven(hold.until_us));
        bytes.push(u8::try_from(hold.parts.len()).unwrap_or(u8::MAX));
        for part in &hold.parts {
            part.encode(&mut bytes);
        }
    }
    encode_entries(entries, &mut bytes);
    bytes
}

/// `None` if no version of this crate can have written it.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<Record<'_>> {
    let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (at_us, count) = (u56_at(header, 1)?, usize::from(header[8]));
    if header[0] != VERSION || at_us > Timestamp::MAX.as_micros() || count > HOLDS_MAX || rest.is_empty() {
        return None;
    }
    let (mut holds, mut earliest_us) = (Vec::with_capacity(count + 1), at_us + 1);
    for _ in 0..count {
        let (own, behind) = rest.split_at_checked(HOLD_BYTES)?;
        rest = behind;
        let (id, until_us, parts) = (u128::from_be_bytes(*own.first_chunk()?), u56_at(own, 16)?, usize::from(own[23]));
        let is_in_time = (earliest_us..=Timestamp::MAX.as_micros()).contains(&until_us);
        if !is_in_time || !(1..=RULES_MAX).contains(&parts) {
            return None;
        }
        earliest_us = until_us;
        let mut held = Held { id, until_us, parts: SmallVec::new() };
        for _ in 0..parts {
            let (part, behind) = Taken::decode(rest)?;
            rest = behind;
            held.parts.push(part);
        }
        holds.push(held);
    }
    Some(Record { at_us, holds, entries: decode_entries(rest)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::model::RuleId;
    use crate::schema::taken::Weight;

    #[test]
    fn state_version_1_is_pinned() {
        let part = Taken { id: RuleId(7), code: 5, cost: 3, at_us: 2, weight: Weight::Log };
        let held = Held { id: 0x0102, until_us: 10, parts: smallvec![part] };
        let entry = Entry { id: RuleId(7), code: 5, expires_us: 0, state: b"c", given_us: 0 };
        let golden = b"\x01\0\0\0\0\0\0\x09\x01\
            \0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x0A\x01\
            \0\0\0\x07\x05\0\0\0\x03\0\0\0\0\0\0\x02\
            \0\0\0\x07\x05\0\0\0\0\0\0\0\0\x01c";
        let written = encode_state(9, std::slice::from_ref(&held), std::iter::once(entry));
        assert_eq!(written[..], golden[..]);
        let record = Record { at_us: 9, holds: vec![held.clone()], entries: vec![entry] };
        assert_eq!(decode_state(golden), Some(record));
        for length in 0..golden.len() {
            // The hold alone is a record.
            assert_eq!(decode_state(&golden[..length]).is_some(), length == 49, "{length}");
        }
        // Of another version, late, of more holds, due, beyond time, of no rule, of too many.
        for (at, byte) in [(0, 2), (1, 0x20), (8, 65), (31, 9), (25, 0x20), (32, 0), (32, 17)] {
            let mut bytes = golden.to_vec();
            bytes[at] = byte;
            assert_eq!(decode_state(&bytes), None, "byte {at}");
        }
        let bucket = Weight::Bucket {
            denominator: 1,
            price: crate::model::Span::ZERO,
            debt: crate::model::Span::ZERO,
            given_us: 0,
        };
        let longest = Held { parts: smallvec![Taken { code: 1, weight: bucket, ..part }; RULES_MAX], ..held };
        let most = encode_state(9, &vec![longest; HOLDS_MAX], std::iter::empty());
        assert_eq!(most.len(), 52_745, "what the holds take at most");
        assert!(decode_state(&most).is_some());
    }
}
