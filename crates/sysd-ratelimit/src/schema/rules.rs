//! The states of several rules in one record, version 1: a byte, and for each rule
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the rule's number, the hash of its name |
//! | 1 | the algorithm: 1 token bucket, 2 leaky bucket, 3 fixed window, 4 sliding window, 5 sliding log, 6 calendar |
//! | 7 | when the state says nothing any more, microseconds since 1970; zero: never |
//! | 2 | the state's length |
//! | | the state, as the algorithm stores it alone |

use sysd_core::{StateBytes, Timestamp};

use super::{seven, u32_at, u56_at};
use crate::model::RuleId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 14;
/// The most rules whose states a record holds: those of a set, and of sets before it.
pub(crate) const ENTRIES_MAX: usize = 64;

/// The state of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) id: RuleId,
    pub(crate) code: u8,
    /// Zero: never.
    pub(crate) expires_us: u64,
    pub(crate) state: &'a [u8],
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
    for entry in entries {
        bytes.extend_from_slice(&entry.id.0.to_be_bytes());
        bytes.push(entry.code);
        bytes.extend_from_slice(&seven(entry.expires_us));
        // The longest, a full log, has 11,001.
        let length = u16::try_from(entry.state.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&entry.state[..usize::from(length)]);
    }
    bytes
}

/// `None` if no version of this crate can have written it.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    if bytes.len() < 2 || bytes[0] != VERSION {
        return None;
    }
    let mut entries = Vec::new();
    let mut rest = &bytes[1..];
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(HEADER_BYTES)?;
        let length = usize::from(u16::from_be_bytes(*header.last_chunk()?));
        let (state, behind) = behind.split_at_checked(length)?;
        let entry = Entry { id: RuleId(u32_at(header, 0)?), code: header[4], expires_us: u56_at(header, 5)?, state };
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
            Entry { id: RuleId(0x0102_0304), code: 3, expires_us: 0x06_0708_090A_0B0C, state: b"ab" },
            Entry { id: RuleId(7), code: 5, expires_us: 0, state: b"c" },
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
}
