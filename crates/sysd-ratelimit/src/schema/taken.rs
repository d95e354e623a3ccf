//! What was taken of a rule, as whoever gives it back must know it: an argument of giving back, and a part of a hold.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the rule's number |
//! | 1 | the algorithm, as in `rules.rs` |
//! | 4 | how much, at least 1 |
//! | 7 | when, as the rule's state has it, microseconds since 1970 |
//!
//! and then of a bucket
//!
//! | bytes | what |
//! |---|---|
//! | 4 | how many parts a microsecond has |
//! | 7, 4 | the price, microseconds and parts |
//! | 7, 4 | the debt right after it, at least the price |
//! | 8 | what had been given back to the bucket by then, microseconds |
//!
//! of a fixed window or one of the calendar 7 bytes, when the window ends (zero: beyond the end of time); of a sliding window 7 bytes, when
//! the next one ends, and 7, how long a window is; of a log nothing.

use sysd_core::{StateBytes, Timestamp};

use super::{seven, u32_at, u56_at, u64_at};
use crate::model::{RuleId, Span};
use crate::schema::token_bucket::MAX_REFILL_US;

const HEADER_BYTES: usize = 16;
/// Of a bucket.
pub(crate) const TAKEN_BYTES_MAX: usize = HEADER_BYTES + 34;

/// What was taken of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) id: RuleId,
    pub(crate) code: u8,
    pub(crate) cost: u32,
    /// When, as the rule's state has it.
    pub(crate) at_us: u64,
    pub(crate) weight: Weight,
}

/// How it can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Bucket {
        denominator: u32,
        price: Span,
        /// What the bucket was short of full right after it.
        debt: Span,
        /// What had been given back to the bucket by then.
        given_us: u64,
    },
    /// In a window that ends then; zero: beyond the end of time.
    Window {
        ends_us: u64,
    },
    /// In the window before one that ends then; zero: beyond the end of time.
    Sliding {
        ends_us: u64,
        window_us: u64,
    },
    Log,
}

impl Taken {
    pub(crate) fn encode(&self, out: &mut StateBytes) {
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.push(self.code);
        out.extend_from_slice(&self.cost.to_be_bytes());
        out.extend_from_slice(&seven(self.at_us));
        match self.weight {
            Weight::Bucket { denominator, price, debt, given_us } => {
                out.extend_from_slice(&denominator.to_be_bytes());
                for span in [price, debt] {
                    out.extend_from_slice(&seven(span.us));
                    out.extend_from_slice(&span.part.to_be_bytes());
                }
                out.extend_from_slice(&given_us.to_be_bytes());
            }
            Weight::Window { ends_us } => out.extend_from_slice(&seven(ends_us)),
            Weight::Sliding { ends_us, window_us } => {
                out.extend_from_slice(&seven(ends_us));
                out.extend_from_slice(&seven(window_us));
            }
            Weight::Log => {}
        }
    }

    /// The first of those in `bytes`, and what is behind it; `None` if no version of this crate can have written it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let code = *bytes.get(4)?;
        let length = match code {
            1 | 2 => 34,
            3 | 6 => 7,
            4 => 14,
            5 => 0,
            _ => return None,
        };
        let (own, behind) = bytes.split_at_checked(HEADER_BYTES + length)?;
        let span_at = |at| Some(Span { us: u56_at(own, at)?, part: u32_at(own, at + 7)? });
        let weight = match code {
            1 | 2 => {
                let (denominator, given_us) = (u32_at(own, 16)?, u64_at(own, 42)?);
                let (price, debt) = (span_at(20)?, span_at(31)?);
                if price > debt || debt.us > MAX_REFILL_US || price.part >= denominator || debt.part >= denominator {
                    return None;
                }
                Weight::Bucket { denominator, price, debt, given_us }
            }
            3 | 6 => Weight::Window { ends_us: u56_at(own, 16)? },
            4 => Weight::Sliding { ends_us: u56_at(own, 16)?, window_us: u56_at(own, 23)? },
            _ => Weight::Log,
        };
        let last_us = Timestamp::MAX.as_micros();
        let is_in_time = match weight {
            Weight::Window { ends_us } => ends_us <= last_us,
            Weight::Sliding { ends_us, window_us } => ends_us <= last_us && window_us <= MAX_REFILL_US,
            Weight::Bucket { .. } | Weight::Log => true,
        };
        let taken = Self { id: RuleId(u32_at(own, 0)?), code, cost: u32_at(own, 5)?, at_us: u56_at(own, 9)?, weight };
        (is_in_time && taken.cost > 0 && taken.at_us <= last_us).then_some((taken, behind))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_pinned() {
        let taken = |code, weight| Taken { id: RuleId(0x0102_0304), code, cost: 5, at_us: 0x06_0708_090A_0B0C, weight };
        let (price, debt) = (Span { us: 1, part: 2 }, Span { us: 3, part: 1 });
        let bucket = Weight::Bucket { denominator: 4, price, debt, given_us: 9 };
        let golden: [(u8, Weight, &[u8]); 4] = [
            (2, bucket, b"\0\0\0\x04\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0\x09"),
            (6, Weight::Window { ends_us: 7 }, b"\0\0\0\0\0\0\x07"),
            (4, Weight::Sliding { ends_us: 7, window_us: 3 }, b"\0\0\0\0\0\0\x07\0\0\0\0\0\0\x03"),
            (5, Weight::Log, b""),
        ];
        for (code, weight, tail) in golden {
            let mut bytes = StateBytes::new();
            taken(code, weight).encode(&mut bytes);
            let head = [&[1, 2, 3, 4, code, 0, 0, 0, 5][..], &seven(0x06_0708_090A_0B0C)].concat();
            assert_eq!(bytes[..], [&head[..], tail].concat());
            assert_eq!(Taken::decode(&[&bytes[..], b"more"].concat()).unwrap(), (taken(code, weight), &b"more"[..]));
            assert_eq!(Taken::decode(&bytes[..bytes.len() - 1]), None);
            for (at, byte) in [(4, 7), (4, 0), (8, 0), (9, 0x20)] {
                let mut broken = bytes.clone();
                broken[at] = byte;
                assert_eq!(Taken::decode(&broken), None, "byte {at}");
            }
        }
    }
}
