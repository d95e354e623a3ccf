//! Nothing acknowledged is lost, nothing refused is there, nothing is invented.

use std::collections::BTreeSet;

use super::{Answer, Submission, Violation};

/// Every answered command is in the journal, none that failed without effect is, and all that are were submitted.
///
/// # Errors
/// The first command for which that is not so.
pub fn acknowledged<R>(submissions: &[Submission<R>], journal: &[u64]) -> Result<(), Violation> {
    let violation = |what| Err(Violation::new("acknowledged", what));
    let applied: BTreeSet<u64> = journal.iter().copied().collect();
    for submission in submissions {
        let id = submission.id;
        match submission.answer {
            Answer::Reply(_) if !applied.contains(&id) => {
                return violation(format!("command {id} was answered and is not in the log"));
            }
            Answer::NotApplied if applied.contains(&id) => {
                return violation(format!("command {id} failed without effect and is in the log"));
            }
            _ => {}
        }
    }
    let submitted: BTreeSet<u64> = submissions.iter().map(|submission| submission.id).collect();
    match applied.difference(&submitted).next() {
        Some(id) => violation(format!("command {id} is in the log and was never submitted")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, failed};
    use super::*;

    #[test]
    fn finds_what_is_lost_undead_and_invented() {
        let submissions = [answered(1, 0, 1), failed(2, Answer::NotApplied), failed(3, Answer::Unknown)];
        assert_eq!(acknowledged(&submissions, &[1]), Ok(()));
        assert_eq!(acknowledged(&submissions, &[3, 1]), Ok(()));
        assert!(acknowledged(&submissions, &[3]).is_err());
        assert!(acknowledged(&submissions, &[1, 2]).is_err());
        assert!(acknowledged(&submissions, &[1, 4]).is_err());
    }
}
