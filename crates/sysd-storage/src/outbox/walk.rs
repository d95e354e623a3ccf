//! A record's history, followed backwards from intent to intent. Pure.

use std::collections::{BTreeSet, VecDeque};

use sysd_core::Version;

/// How many versions of one record are published in one go, oldest first: 16 bytes each are held.
pub(super) const CHAIN_MAX: usize = 1 << 16;

/// The way from what a record is to the oldest intent that is left of its history.
///
/// Every write of the record has an intent, which is there before it and goes after those of all earlier writes. So what the
/// record is, and what that was written over, and so on backwards as far as there are intents, became true.
#[derive(Debug)]
pub(super) struct Walk {
    at: Option<Version>,
    oldest: VecDeque<Version>,
    chain_max: usize,
    /// What was listed and has not been met.
    off: BTreeSet<Version>,
    /// Brent's algorithm: where it was when the number of steps was last a power of two.
    mark: Option<Version>,
    steps: u64,
}

/// It comes back to where it was: no history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circle;

impl Walk {
    /// From what the record is, among these intents.
    pub(super) fn new(record: Option<Version>, listed: impl Iterator<Item = Version>, chain_max: usize) -> Self {
        let (oldest, off) = (VecDeque::new(), listed.collect());
        Self { at: record, oldest, chain_max, off, mark: record, steps: 0 }
    }

    /// The version whose intent is to be looked at; `None` at the end.
    pub(super) const fn next(&self) -> Option<Version> {
        self.at
    }

    /// There is no such intent: it was published and removed, and so were those of all earlier writes.
    pub(super) const fn end(&mut self) {
        self.at = None;
    }

    /// There is, and it was written over `before`.
    pub(super) fn step(&mut self, before: Option<Version>) -> Result<(), Circle> {
        let Some(version) = self.at else { return Ok(()) };
        self.off.remove(&version);
        self.oldest.push_front(version);
        self.oldest.truncate(self.chain_max);
        self.steps += 1;
        self.at = before;
        if before.is_some() && before == self.mark {
            return Err(Circle);
        }
        if self.steps.is_power_of_two() {
            self.mark = before;
        }
        Ok(())
    }

    /// What became true, oldest first.
    pub(super) fn chain(&self) -> impl Iterator<Item = Version> {
        self.oldest.iter().copied()
    }

    /// Whether a listed intent is none of the chain's, once the walk has ended.
    pub(super) fn is_off(&self, version: Version) -> bool {
        self.off.contains(&version)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn version(number: u128) -> Version {
        Version::from_u128(number)
    }

    #[test]
    fn keeps_the_oldest_of_a_long_chain_and_knows_all_of_it() {
        let mut walk = Walk::new(Some(version(9)), [3, 8, 20].map(version).into_iter(), 3);
        while let Some(at) = walk.next() {
            match at.as_u128() {
                4 => walk.end(),
                number => walk.step(Some(version(number - 1))).unwrap(),
            }
        }
        assert_eq!(walk.chain().map(Version::as_u128).collect::<Vec<_>>(), [5, 6, 7]);
        assert!(!walk.is_off(version(8)), "it was met, though there was no room for it");
        assert!(walk.is_off(version(3)) && walk.is_off(version(20)));
    }

    #[test]
    fn the_first_write_of_a_record_ends_it() {
        let mut walk = Walk::new(Some(version(1)), std::iter::empty(), 3);
        walk.step(None).unwrap();
        assert_eq!((walk.next(), walk.chain().count()), (None, 1));
        assert_eq!(Walk::new(None, std::iter::empty(), 3).next(), None);
    }

    #[test]
    fn a_circle_ends_wherever_it_begins() {
        for (head, length) in (0..40_u128).flat_map(|head| (1..40_u128).map(move |length| (head, length))) {
            let mut walk = Walk::new(Some(version(0)), std::iter::empty(), 3);
            let mut steps = 0;
            while let Some(at) = walk.next() {
                let next = at.as_u128() + 1;
                let next = if next == head + length { head } else { next };
                steps += 1;
                assert!(steps < 400, "{head} {length}");
                if walk.step(Some(version(next))).is_err() {
                    break;
                }
            }
        }
    }
}
