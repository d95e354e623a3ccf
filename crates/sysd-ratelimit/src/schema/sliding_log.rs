//! A sliding log, version 1: a byte, and 11 bytes for each time at which something was taken, the oldest first:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 7 | when, microseconds since 1970; later than the one before |
//! | 4 | how much, from 1 to 1,000 |

use sysd_core::{StateBytes, Timestamp};

use super::{flag, seven, u32_at, u56_at, u64_at};
use crate::model::SLIDING_LOG_MAX;
use crate::procedure::LoggedVerdict;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 11;
/// The longest log of this limit, bytes: each entry has a cost of at least 1.
pub(crate) const fn state_bytes_max(limit: u32) -> usize {
    1 + limit as usize * ENTRY_BYTES
}

const VERDICT_BYTES: usize = 29;
/// The longest log.
pub(crate) const STATE_BYTES_MAX: usize = 1 + ENTRY_BYTES * SLIDING_LOG_MAX as usize;

/// What was taken at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at_us: u64,
    pub(crate) cost: u32,
}

/// The log, the oldest first.
pub(crate) type Entries = Vec<Entry>;

pub(crate) fn encode_state(log: &[Entry]) -> StateBytes {
    let mut bytes = StateBytes::new();
    bytes.push(VERSION);
    for entry in log {
        bytes.extend_from_slice(&seven(entry.at_us));
        bytes.extend_from_slice(&entry.cost.to_be_bytes());
    }
    bytes
}

/// `None` if no version of this crate can have written it.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<Entries> {
    let (&version, entries) = bytes.split_first()?;
    let count = entries.len() / ENTRY_BYTES;
    let is_whole = entries.len() % ENTRY_BYTES == 0 && (1..=SLIDING_LOG_MAX as usize).contains(&count);
    if version != VERSION || !is_whole {
        return None;
    }
    let mut log = Entries::with_capacity(count);
    for at in (1..bytes.len()).step_by(ENTRY_BYTES) {
        let entry = Entry { at_us: u56_at(bytes, at)?, cost: u32_at(bytes, at + 7)? };
        let is_later = log.last().is_none_or(|before: &Entry| before.at_us < entry.at_us);
        let is_valid = entry.at_us <= Timestamp::MAX.as_micros() && (1..=SLIDING_LOG_MAX).contains(&entry.cost);
        if !is_later || !is_valid {
            return None;
        }
        log.push(entry);
    }
    Some(log)
}

pub(crate) fn encode_verdict(verdict: &LoggedVerdict) -> [u8; VERDICT_BYTES] {
    let mut bytes = [0; VERDICT_BYTES];
    bytes[0] = u8::from(verdict.allowed);
    bytes[1..5].copy_from_slice(&verdict.count.to_be_bytes());
    bytes[5..13].copy_from_slice(&verdict.skew_us.to_be_bytes());
    bytes[13..21].copy_from_slice(&verdict.wait_us.to_be_bytes());
    bytes[21..].copy_from_slice(&verdict.reset_us.to_be_bytes());
    bytes
}

pub(crate) fn decode_verdict(bytes: &[u8]) -> Option<LoggedVerdict> {
    let bytes: &[u8; VERDICT_BYTES] = bytes.try_into().ok()?;
    let verdict = LoggedVerdict {
        allowed: flag(bytes[0])?,
        count: u32_at(bytes, 1)?,
        skew_us: u64_at(bytes, 5)?,
        wait_us: u64_at(bytes, 13)?,
        reset_us: u64_at(bytes, 21)?,
    };
    let last = Timestamp::MAX.as_micros();
    [verdict.skew_us, verdict.wait_us, verdict.reset_us].iter().all(|&us| us <= last).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_version_1_is_pinned() {
        let log =
            [Entry { at_us: 0x0001_0203_0405_0607, cost: 1 }, Entry { at_us: 0x0001_0203_0405_0608, cost: 1_000 }];
        let golden = [1, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 8, 0, 0, 3, 0xE8];
        assert_eq!(encode_state(&log)[..], golden);
        assert_eq!(decode_state(&golden).as_deref(), Some(&log[..]));
        for length in [0, 1, 11, 13, 22] {
            assert_eq!(decode_state(&golden[..length]), None);
        }
        // Out of order, at the same time, for nothing, for too much, of another version, too long.
        let broken = |at: usize, byte: u8| {
            let mut bytes = golden;
            bytes[at] = byte;
            bytes
        };
        for (at, byte) in [(18, 6), (18, 7), (11, 0), (8, 1), (0, 2), (12, 0x20)] {
            assert_eq!(decode_state(&broken(at, byte)), None, "byte {at}");
        }
        let overlong = encode_state(&(0..1_001).map(|at_us| Entry { at_us, cost: 1 }).collect::<Vec<_>>());
        assert_eq!(decode_state(&overlong), None);
    }
}
