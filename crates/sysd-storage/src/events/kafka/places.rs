//! How far a member is in the partitions that it owns.

use std::collections::{BTreeMap, BTreeSet};

use sysd_core::Result;
use sysd_core::event::Gap;

/// What the broker knows of a partition.
pub(super) trait Look {
    /// Where the group is, if it has begun.
    fn committed(&self, partition: i32) -> Result<Option<i64>>;
    /// The lowest number that is kept.
    fn lowest(&self, partition: i32) -> Result<i64>;
}

#[derive(Default)]
pub(super) struct Places {
    /// The number that comes next.
    next: BTreeMap<i32, i64>,
    /// The lowest that is not committed.
    committed: BTreeMap<i32, i64>,
}

impl Places {
    /// Goes on past a number; answers the gap before it. After an error nobody knows whether there is one: it did not go on, and
    /// the event is not to be handed out before this is asked again.
    pub(super) fn advance(&mut self, partition: i32, number: i64, look: &impl Look) -> Result<Option<Gap>> {
        let next = match (self.next.get(&partition), number) {
            (Some(next), _) => *next,
            (None, number) => match look.committed(partition)? {
                // Its first event may lie behind a gap.
                Some(next) => {
                    self.committed.insert(partition, next);
                    self.next.insert(partition, next);
                    next
                }
                None => number,
            },
        };
        // Numbers are missing: were they removed, or did transactions and compaction leave them out?
        let is_gap = number > next && look.lowest(partition)? > next;
        self.next.insert(partition, number + 1);
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        let partition = u32::try_from(partition).unwrap_or_default();
        Ok(is_gap.then(|| Gap { partition, from: unsigned(next), to: unsigned(number) }))
    }

    /// Whether a member that has read so far may commit up to `end`.
    pub(super) fn has_read(&self, partition: i32, end: i64) -> bool {
        self.next.get(&partition).is_some_and(|next| end <= *next)
    }

    pub(super) fn has_committed(&self, partition: i32, end: i64) -> bool {
        self.committed.get(&partition).is_some_and(|committed| *committed >= end)
    }

    pub(super) fn commit(&mut self, ends: &mut BTreeMap<i32, i64>) {
        self.committed.append(ends);
    }

    /// Forgets partitions that were taken away, or given anew.
    pub(super) fn forget(&mut self, changed: &BTreeSet<i32>) {
        self.next.retain(|partition, _| !changed.contains(partition));
        self.committed.retain(|partition, _| !changed.contains(partition));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
    use sysd_core::ErrorKind;

    use super::super::error::{Access, map};
    use super::*;

    /// A broker that does not answer so many times.
    struct Moving {
        fails: Cell<u32>,
        committed: Option<i64>,
        lowest: i64,
    }

    impl Moving {
        fn answer<T>(&self, answer: T) -> Result<T> {
            match self.fails.get() {
                0 => Ok(answer),
                left => {
                    self.fails.set(left - 1);
                    Err(map(&KafkaError::OffsetFetch(Code::NotCoordinator), Access::Read))
                }
            }
        }
    }

    impl Look for Moving {
        fn committed(&self, _: i32) -> Result<Option<i64>> {
            self.answer(self.committed)
        }

        fn lowest(&self, _: i32) -> Result<i64> {
            self.answer(self.lowest)
        }
    }

    /// A look that fails says nothing of the gap; taken for "there is none", the events were missing without a word.
    #[test]
    fn a_gap_is_told_though_the_looks_for_it_fail_at_first() {
        let gap = |from, to| Some(Gap { partition: 2, from, to });
        for fails in 0..3 {
            let broker = Moving { fails: Cell::new(fails), committed: Some(5), lowest: 40 };
            let mut places = Places::default();
            for _ in 0..fails {
                let error = places.advance(2, 40, &broker).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(!places.has_read(2, 41), "it is not to be handed out");
            }
            assert_eq!(places.advance(2, 40, &broker).unwrap(), gap(5, 40));
            assert_eq!(places.advance(2, 41, &broker).unwrap(), None);
            let broker = Moving { fails: Cell::new(fails), lowest: 90, ..broker };
            for _ in 0..fails {
                assert!(places.advance(2, 90, &broker).is_err());
            }
            assert_eq!(places.advance(2, 90, &broker).unwrap(), gap(42, 90));
        }
    }

    #[test]
    fn numbers_that_nothing_was_removed_at_are_no_gap_and_a_group_that_has_not_begun_misses_nothing() {
        let broker = Moving { fails: Cell::new(0), committed: Some(5), lowest: 3 };
        let mut places = Places::default();
        assert_eq!(places.advance(0, 9, &broker).unwrap(), None);
        let broker = Moving { committed: None, lowest: 9, ..broker };
        assert_eq!(places.advance(1, 9, &broker).unwrap(), None);
        places.forget(&BTreeSet::from([0]));
        assert!(!places.has_read(0, 1) && places.has_read(1, 10) && !places.has_read(1, 11));
    }
}
