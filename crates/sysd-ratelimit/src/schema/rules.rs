//! The states of several rules in one record, version 1: a byte, and for each rule
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the rule's number, the hash of its name |
//! | 1 | the algorithm: 1 token bucket, 2 leaky bucket, 3 fixed window, 4 sliding window, 5 sliding log, 6 calendar |
//! | 7 | when the state says nothing any more, microseconds since 1970; zero: never |
//! | 2 | the state's length |
//! | | the state, as the algorithm stores it alone |
//! | 8 | in the state's length; only of a bucket to which something was given back: how much so far, microseconds, rounded up |

use sysd_core::{StateBytes, Timestamp};

use super::token_bucket::STATE_BYTES as BUCKET_BYTES;
use super::{seven, u32_at, u56_at, u64_at};
use crate::model::RuleId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 14;
/// The most rules whose states a record holds: those of a set, and of sets before it.
pub(crate) const ENTRIES_MAX: usize = 64;
/// A bucket with what was given back to it.
pub(crate) const GIVEN_TO_BYTES: usize = BUCKET_BYTES + 8;
/// From here on nobody counts what is given back: the upper four bytes are used up.
pub(crate) const GIVEN_MAX_US: u64 = 0xFFFF_FFFF_0000_0000;

/// Whether the algorithm is a bucket, whose debt runs down.
pub(crate) const fn is_bucket(code: u8) -> bool {
    matches!(code, 1 | 2)
}

/// The state of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) id: RuleId,
    pub(crate) code: u8,
    /// Zero: never.
    pub(crate) expires_us: u64,
    pub(crate) state: &'a [u8],
    /// How much was given back to a bucket since it was last full, all in all; at most [`GIVEN_MAX_US`].
    pub(crate) given_us: u64,
}

impl Entry<'_> {
    pub(crate) fn is_live(&self, now_us: u64) -> bool {
        self.expires_us == 0 || self.expires_us > now_us
    }
}

/// That of a rule, if it is of the same algorithm and has not expired.
pub(crate) fn live_entry<'a, 'b>(entries: &'b [Entry<'a>], id: RuleId, code: u8, now_us: u64) -> Option<&'b Entry<'a>> {
    let entry = entries.iter().find(|entry| entry.id == id)?;
    (entry.code == code && entry.is_live(now_us)).then_some(entry)
}

/// The longest record of states that are so long at most, bytes.
pub(crate) fn record_bytes_max(states: impl Iterator<Item = usize>) -> usize {
    1 + states.map(|bytes| HEADER_BYTES + bytes).sum::<usize>()
}

pub(crate) fn encode_state<'a>(entries: impl Iterator<Item = Entry<'a>>) -> StateBytes {
    let mut bytes = StateBytes::new();
    bytes.push(VERSION);
    encode_entries(entries, &mut bytes);
    bytes
}

pub(crate) fn encode_entries<'a>(entries: impl Iterator<Item = Entry<'a>>, bytes: &mut StateBytes) {
    for entry in entries {
        bytes.extend_from_slice(&entry.id.0.to_be_bytes());
        bytes.push(entry.code);
        bytes.extend_from_slice(&seven(entry.expires_us));
        // The longest, a full log, has 11,001.
        let given = entry.given_us.to_be_bytes();
        let given = if entry.given_us > 0 { &given[..] } else { &[] };
        let length = u16::try_from(entry.state.len() + given.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry.state);
        bytes.extend_from_slice(given);
    }
}

/// `None` if no version of this crate can have written it.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    if bytes.len() < 2 || bytes[0] != VERSION {
        return None;
    }
    decode_entries(&bytes[1..])
}

pub(crate) fn decode_entries(mut rest: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes(*header.last_chunk()?));
        let (mut state, behind) = behind.split_at_checked(length)?;
        let code = header[4];
        let mut given_us = 0;
        if is_bucket(code) && length == GIVEN_TO_BYTES {
            given_us = u64_at(state, BUCKET_BYTES)?;
            state = &state[..BUCKET_BYTES];
            if !(1..=GIVEN_MAX_US).contains(&given_us) {
                return None;
            }
        }
        let entry = Entry { id: RuleId(u32_at(header, 0)?), code, expires_us: u56_at(header, 5)?, state, given_us };
        if state.is_empty() || entry.expires_us > Timestamp::MAX.as_micros() || entries.len() == ENTRIES_MAX {
            return None;
        }
        entries.push(entry);
        rest = behind;
    }
    Some(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn state_version_1_is_pinned() {
        let entries = [
            Entry { id: RuleId(0x0102_0304), code: 3, expires_us: 0x06_0708_090A_0B0C, state: b"ab", given_us: 0 },
            Entry { id: RuleId(7), code: 5, expires_us: 0, state: b"c", given_us: 0 },
        ];
        let golden = b"\x01\x01\x02\x03\x04\x03\x06\x07\x08\x09\x0A\x0B\x0C\x00\x02ab\
            \x00\x00\x00\x07\x05\x00\x00\x00\x00\x00\x00\x00\x00\x01c";
        let written = encode_state(entries.iter().copied());
        // Seven bytes of a time.
        assert_eq!(written.len(), golden.len());
        assert_eq!(decode_state(&written).unwrap(), entries);
        for length in 0..written.len() {
            let whole = length == 1 + HEADER_BYTES + 2;
            assert_eq!(decode_state(&written[..length]).is_some(), whole, "{length}");
        }
        assert_eq!(decode_state(&[&[2], &written[1..]].concat()), None);
        let mut late = written.to_vec();
        late[6] = 0x20;
        assert_eq!(decode_state(&late), None);
    }

    #[test]
    fn what_was_given_back_to_a_bucket_is_pinned() {
        let bucket = Entry { id: RuleId(7), code: 2, expires_us: 9, state: &[1; BUCKET_BYTES], given_us: 0x0102 };
        let mut written = encode_state([bucket].into_iter());
        let golden = [&b"\x01\0\0\0\x07\x02\0\0\0\0\0\0\x09\0\x1F"[..], &[1; 23], b"\0\0\0\0\0\0\x01\x02"].concat();
        assert_eq!(written[..], golden);
        assert_eq!(decode_state(&written).unwrap(), [bucket]);
        for (at, byte) in [(44, 0), (38, 0xFF)] {
            written[at] = byte;
        }
        written[45] = 0;
        assert!(decode_state(&written).is_some(), "much");
        written[38..46].fill(0xFF);
        assert_eq!(decode_state(&written), None, "more than is ever counted");
        written[38..46].fill(0);
        assert_eq!(decode_state(&written), None, "nothing is not written");
        let window = Entry { code: 3, state: &[1; GIVEN_TO_BYTES], given_us: 0, ..bucket };
        assert_eq!(decode_state(&encode_state([window].into_iter())).unwrap(), [window]);
    }
}
