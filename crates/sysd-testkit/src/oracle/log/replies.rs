//! Replies are those of the one history.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Answer, Submission, Violation};

/// Every reply is what replaying the journal on a fresh machine gives for that command.
///
/// # Errors
/// The first that is not.
pub fn replies<R: PartialEq + Debug>(
    submissions: &[Submission<R>],
    replayed: &BTreeMap<u64, R>,
) -> Result<(), Violation> {
    for submission in submissions {
        if let Answer::Reply(reply) = &submission.answer
            && replayed.get(&submission.id) != Some(reply)
        {
            let replay = replayed.get(&submission.id);
            let what = format!("command {} was answered {reply:?}, the log replays to {replay:?}", submission.id);
            return Err(Violation::new("one history", what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, failed};
    use super::*;

    #[test]
    fn finds_a_reply_of_another_history() {
        let submissions = [answered(1, 0, 1), failed(2, Answer::Unknown)];
        assert_eq!(replies(&submissions, &BTreeMap::from([(1, 1), (2, 9)])), Ok(()));
        assert!(replies(&submissions, &BTreeMap::from([(1, 2)])).is_err());
        assert!(replies(&submissions, &BTreeMap::new()).is_err());
    }
}
