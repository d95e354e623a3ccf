//! A read of the latest state sees everything that was answered before it began, and never less than one before it.

use std::collections::BTreeMap;

use super::{Answer, Submission, Violation};

/// One read of the latest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatestRead {
    /// When it began.
    pub begun: u64,
    /// When it was answered.
    pub ended: u64,
    /// How many commands it saw applied.
    pub seen: u64,
}

/// Reads are linearizable with the submissions and with each other.
///
/// # Errors
/// The first read that saw too little or too much.
pub fn reads<R>(reads: &[LatestRead], submissions: &[Submission<R>], journal: &[u64]) -> Result<(), Violation> {
    let violation = |what| Err(Violation::new("latest read", what));
    let positions: BTreeMap<u64, u64> = journal.iter().copied().zip(0..).collect();
    for read in reads {
        for submission in submissions {
            let Some(&position) = positions.get(&submission.id) else { continue };
            let was_answered = matches!(submission.answer, Answer::Reply(_));
            if was_answered && submission.ended.is_some_and(|ended| ended < read.begun) && position >= read.seen {
                return violation(format!("{read:?} does not see command {}, answered before", submission.id));
            }
            if submission.begun > read.ended && position < read.seen {
                return violation(format!("{read:?} sees command {}, which had not begun", submission.id));
            }
        }
        if let Some(older) = reads.iter().find(|older| older.ended < read.begun && older.seen > read.seen) {
            return violation(format!("{read:?} sees less than {older:?} before it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::answered;
    use super::*;

    #[test]
    fn finds_stale_and_prophetic_reads() {
        let read = |begun, ended, seen| LatestRead { begun, ended, seen };
        let submissions = [answered(1, 0, 1), answered(2, 4, 5)];
        let check = |list: &[LatestRead]| reads(list, &submissions, &[1, 2]);
        assert_eq!(check(&[read(2, 3, 1), read(6, 7, 2)]), Ok(()));
        assert_eq!(check(&[read(2, 6, 2)]), Ok(()), "it overlaps the second");
        assert!(check(&[read(2, 3, 0)]).is_err());
        assert!(check(&[read(2, 3, 2)]).is_err());
        let overlapping = [answered(1, 0, 9)];
        assert!(reads(&[read(1, 2, 1), read(3, 4, 0)], &overlapping, &[1]).is_err());
    }
}
