//! Records that the relay leaves alone for a while, because their events could not be published. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use sysd_core::{KeyBytes, Timestamp};

/// How many are remembered; more of them are tried at every look.
const RESTS_MAX: usize = 1_024;

/// Who rests until when, and the how manieth time.
#[derive(Debug)]
pub(super) struct Rests {
    first: Duration,
    max: Duration,
    of: BTreeMap<KeyBytes, (u32, Timestamp)>,
}

impl Rests {
    /// The first rest, doubled each time, up to the longest.
    pub(super) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, of: BTreeMap::new() }
    }

    pub(super) fn is_resting(&self, record: &KeyBytes, now: Timestamp) -> bool {
        self.of.get(record).is_some_and(|&(_, until)| now < until)
    }

    /// What came of a record.
    pub(super) fn note(&mut self, record: &KeyBytes, is_failed: bool, now: Timestamp) {
        if !is_failed {
            self.of.remove(record);
            return;
        }
        let times = self.of.get(record).map_or(0, |&(times, _)| times);
        if times == 0 && self.of.len() >= RESTS_MAX {
            self.of.retain(|_, &mut (_, until)| now < until);
            if self.of.len() >= RESTS_MAX {
                return;
            }
        }
        let rest = self.first.saturating_mul(2_u32.saturating_pow(times)).min(self.max);
        self.of.insert(record.clone(), (times.saturating_add(1), now.saturating_add(rest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_up_to_a_bound_and_end_with_success() {
        let at = Timestamp::from_micros_saturating;
        let mut rests = Rests::new(Duration::from_micros(10), Duration::from_micros(35));
        let key = KeyBytes::from_slice(b"k");
        for rest in [10, 20, 35, 35] {
            rests.note(&key, true, at(100));
            assert!(rests.is_resting(&key, at(99 + rest)) && !rests.is_resting(&key, at(100 + rest)));
        }
        rests.note(&key, false, at(100));
        assert!(!rests.is_resting(&key, at(100)));
        rests.note(&key, true, at(100));
        assert!(!rests.is_resting(&key, at(110)), "it begins anew");
    }

    #[test]
    fn no_more_are_remembered_than_may_be() {
        let at = Timestamp::from_micros_saturating;
        let mut rests = Rests::new(Duration::from_micros(10), Duration::from_micros(10));
        for number in 0..2_000_u16 {
            rests.note(&KeyBytes::from_slice(&number.to_be_bytes()), true, at(100));
        }
        assert_eq!(rests.of.len(), RESTS_MAX);
        rests.note(&KeyBytes::from_slice(b"new"), true, at(200));
        assert_eq!(rests.of.len(), 1, "those whose time has passed make room");
    }
}
