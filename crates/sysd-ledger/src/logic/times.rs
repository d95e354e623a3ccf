//! Times, in bounded memory.

use std::cmp::Reverse;

/// So many intervals are told apart. Part of what a log says: never change it.
pub(crate) const INTERVALS_MAX: usize = 64;

/// Times in microseconds, and some between them: intervals in order, each with its first and last time, none of which overlap,
/// [`INTERVALS_MAX`] at most. When there would be more, those that are nearest become one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Times(Vec<(u64, u64)>);

impl Times {
    /// Those intervals; `None` if they could not be.
    pub(crate) fn of(intervals: Vec<(u64, u64)>) -> Option<Self> {
        let are_whole = intervals.iter().all(|(first, last)| first <= last);
        let are_apart = intervals.is_sorted_by(|one, next| one.1 < next.0);
        (are_whole && are_apart && intervals.len() <= INTERVALS_MAX).then_some(Self(intervals))
    }

    pub(crate) fn intervals(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub(super) fn contains(&self, at: u64) -> bool {
        let from = self.0.partition_point(|(_, last)| *last < at);
        self.0.get(from).is_some_and(|(first, _)| *first <= at)
    }

    /// Adds times, in whatever order.
    pub(super) fn add(&mut self, times: impl IntoIterator<Item = u64>) {
        let mut all = std::mem::take(&mut self.0);
        all.extend(times.into_iter().map(|at| (at, at)));
        all.sort_unstable();
        all.dedup_by(|next, one| {
            let do_overlap = next.0 <= one.1;
            if do_overlap {
                one.1 = one.1.max(next.1);
            }
            do_overlap
        });
        // To make one of the two that are nearest, until few enough are left, is to keep the greatest gaps; of equal ones the first.
        let mut gaps: Vec<_> = (1..all.len()).map(|at| (Reverse(all[at].0 - all[at - 1].1), at)).collect();
        gaps.sort_unstable();
        gaps.truncate(INTERVALS_MAX - 1);
        let mut begins: Vec<_> = gaps.into_iter().map(|(_, at)| at).collect();
        begins.sort_unstable();
        begins.push(all.len());
        let mut from = 0;
        for to in begins {
            if let [(first, _), ..] = all[from..to]
                && let [.., (_, last)] = all[from..to]
            {
                self.0.push((first, last));
            }
            from = to;
        }
    }

    /// Lets go of intervals that end by then.
    pub(super) fn forget(&mut self, through: u64) {
        self.0.retain(|(_, last)| *last > through);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One after the other, by their nearest neighbours.
    fn merged(mut all: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
        while all.len() > INTERVALS_MAX {
            // Of equal gaps the last goes first.
            let nearest = (1..all.len()).rev().min_by_key(|at| all[*at].0 - all[*at - 1].1).unwrap_or(1);
            all[nearest - 1].1 = all[nearest].1;
            all.remove(nearest);
        }
        all
    }

    #[test]
    fn the_nearest_become_one_and_the_others_stay_apart() {
        let mut times = Times::default();
        // A crowd, and as many that are far apart as there is room for besides.
        times.add((0..1_000).map(|at| 1_000_000 + at));
        assert_eq!(times.0.len(), INTERVALS_MAX);
        let far = |at: u64| 1_000_000_000 * (at + 1);
        times.add((1..INTERVALS_MAX as u64).map(far));
        let mut expected = vec![(1_000_000, 1_000_999)];
        expected.extend((1..INTERVALS_MAX as u64).map(|at| (far(at), far(at))));
        assert_eq!(times.0, expected);
        for (at, is_there) in
            [(999_999, false), (1_000_500, true), (1_001_000, false), (far(1), true), (far(1) + 1, false)]
        {
            assert_eq!(times.contains(at), is_there, "{at}");
        }
        // One more than there is room for: of equal gaps the last is closed.
        times.add([far(INTERVALS_MAX as u64)]);
        assert_eq!(times.0.last(), Some(&(far(63), far(64))));
        times.add([far(1) - 5]);
        assert_eq!((times.0.len(), times.0[1]), (INTERVALS_MAX, (far(1) - 5, far(1))));

        times.forget(1_000_998);
        assert_eq!(times.0.len(), INTERVALS_MAX);
        times.forget(1_000_999);
        assert_eq!((times.0.len(), times.0[0]), (INTERVALS_MAX - 1, (far(1) - 5, far(1))));
        times.forget(far(64));
        assert_eq!(times, Times::default());
    }

    #[test]
    fn intervals_that_could_not_be_are_refused() {
        let many = |count: u64| (0..count).map(|at| (2 * at, 2 * at)).collect::<Vec<_>>();
        assert!(Times::of(many(64)).is_some() && Times::of(many(65)).is_none());
        for wrong in [vec![(2, 1)], vec![(1, 3), (3, 4)], vec![(5, 6), (1, 2)]] {
            assert_eq!(Times::of(wrong.clone()), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_added_is_there(parts in prop::collection::vec(prop::collection::vec(0..5_000_u64, 0..150), 1..5)) {
            let (mut times, mut expected) = (Times::default(), Vec::new());
            for part in &parts {
                times.add(part.iter().copied());
                // Each time that is not within an interval is one.
                for at in part {
                    if !expected.iter().any(|(first, last)| (first..=last).contains(&at)) {
                        expected.push((*at, *at));
                    }
                }
                expected.sort_unstable();
                expected = merged(expected);
                prop_assert_eq!(&times.0, &expected);
                prop_assert_eq!(Times::of(times.0.clone()), Some(times.clone()));
            }
            prop_assert!(parts.iter().flatten().all(|at| times.contains(*at)));
        }
    }
}
