//! How far trims came: what one call found out about the rows that stay, the next need not find out again.
//!
//! The server looks whether it still holds: whether rows that stay have gone since, or the first of them has expired. What it
//! can't see is a row that was put anew meanwhile with a shorter life, and so a walk is used for a moment only, and only where
//! more rows stay than one call looks at. To the rows put anew it is then as if the trim had come before them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sysd_core::{Keep, Trim};

/// How many trims are remembered.
const WALKS_MAX: usize = 64;
/// How long after it began a walk may be used.
const AGE_MAX: Duration = Duration::from_secs(5);

/// How far a walk over the rows that stay has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// When it began.
    pub(super) since: Instant,
    /// Behind the last row that stays, as `ZRANGEBYLEX` takes it; empty at the start.
    pub(super) bound: Vec<u8>,
    /// Live rows up to there.
    pub(super) kept: u64,
    /// All rows up to there.
    pub(super) passed: u64,
    /// When the first of them expires, microseconds; zero: never.
    pub(super) till: u64,
    /// Whether it is of an earlier trim, so that the server has to look whether it still holds.
    pub(super) is_old: bool,
}

impl Walk {
    /// At the start.
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), bound: Vec::new(), kept: 0, passed: 0, till: 0, is_old: false }
    }
}

/// The walks of trims that said that more is left, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Walks(Mutex<VecDeque<(Trimmer, Walk)>>);

/// What is trimmed, and to what.
#[derive(Debug, PartialEq, Eq)]
struct Trimmer {
    space: &'static str,
    partition: Vec<u8>,
    keep: Keep,
}

impl Trimmer {
    fn is_of(&self, trim: &Trim<'_>) -> bool {
        self.space == trim.space.name() && self.partition == trim.partition && self.keep == trim.keep
    }
}

impl Walks {
    /// Where a trim begins.
    pub(super) fn take(&self, trim: &Trim<'_>) -> Walk {
        let mut walks = self.0.lock();
        let at = walks.iter().position(|(trimmer, _)| trimmer.is_of(trim));
        let known = at.and_then(|at| walks.remove(at)).map(|(_, walk)| walk);
        known.filter(|walk| walk.since.elapsed() < AGE_MAX).unwrap_or_else(Walk::begin)
    }

    /// Where the next trim of the same begins.
    pub(super) fn keep(&self, trim: &Trim<'_>, walk: Walk) {
        let trimmer = Trimmer { space: trim.space.name(), partition: trim.partition.to_vec(), keep: trim.keep };
        let mut walks = self.0.lock();
        walks.retain(|(known, _)| *known != trimmer);
        if walks.len() == WALKS_MAX {
            walks.pop_front();
        }
        walks.push_back((trimmer, Walk { is_old: true, ..walk }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sysd_core::Space;

    #[test]
    fn walks_are_taken_once_and_the_oldest_are_forgotten() {
        let walks = Walks::default();
        let walk = |kept| Walk { kept, ..Walk::begin() };
        let names: Vec<[u8; 1]> = (0..=64).map(|name| [name]).collect();
        let trim = |name, keep| Trim { space: Space::conditional("s"), partition: name, keep };
        for (kept, name) in (1..).zip(&names) {
            walks.keep(&trim(name, Keep::Last(9)), walk(kept));
        }
        let taken = |name, keep| {
            let walk = walks.take(&trim(name, keep));
            (walk.kept, walk.is_old)
        };
        assert_eq!(taken(&names[0], Keep::Last(9)), (0, false));
        assert_eq!(taken(&names[1], Keep::First(9)), (0, false));
        assert_eq!(taken(&names[1], Keep::Last(9)), (2, true));
        assert_eq!(taken(&names[1], Keep::Last(9)), (0, false));
        if let Some(since) = Instant::now().checked_sub(AGE_MAX) {
            walks.keep(&trim(&names[0], Keep::Last(9)), Walk { since, ..walk(7) });
            assert_eq!(taken(&names[0], Keep::Last(9)), (0, false));
        }
    }
}
