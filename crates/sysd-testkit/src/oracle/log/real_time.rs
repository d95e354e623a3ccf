//! What was answered before another began stands before it (Herlihy and Wing, "Linearizability", 1990).

use std::collections::BTreeMap;

use super::{Submission, Violation};

/// The journal keeps the order of submissions that did not overlap.
///
/// # Errors
/// The first pair that stands the wrong way round.
pub fn real_time<R>(submissions: &[Submission<R>], journal: &[u64]) -> Result<(), Violation> {
    let by_id: BTreeMap<u64, &Submission<R>> =
        submissions.iter().map(|submission| (submission.id, submission)).collect();
    let mut latest: Option<&Submission<R>> = None;
    for submission in journal.iter().filter_map(|id| by_id.get(id).copied()) {
        if let (Some(latest), Some(ended)) = (latest, submission.ended)
            && ended < latest.begun
        {
            let what = format!(
                "command {} was answered before command {} began, and stands behind it",
                submission.id, latest.id
            );
            return Err(Violation::new("real-time order", what));
        }
        if latest.is_none_or(|latest| submission.begun > latest.begun) {
            latest = Some(submission);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::answered;
    use super::*;

    #[test]
    fn finds_a_pair_the_wrong_way_round() {
        let apart = [answered(1, 0, 1), answered(2, 2, 3)];
        assert_eq!(real_time(&apart, &[1, 2]), Ok(()));
        assert!(real_time(&apart, &[2, 1]).is_err());
        let overlapping = [answered(1, 0, 2), answered(2, 1, 3)];
        assert_eq!(real_time(&overlapping, &[2, 1]), Ok(()));
    }
}
