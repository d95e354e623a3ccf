//! After a takeover only the one who took over appends.

use super::{Answer, Submission, Violation};

/// One attempt to take a log over or to let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Which opened replica.
    pub writer: u64,
    /// When it began.
    pub begun: u64,
    /// When it was answered; `None`: never.
    pub ended: Option<u64>,
    /// The epoch, if it took over; `None` for letting go, and for what failed.
    pub epoch: Option<u64>,
}

/// No command of another writer that began after a takeover was answered before the next attempt at one began; and epochs
/// rise.
///
/// # Errors
/// The first that was.
pub fn fencing<R>(takeovers: &[Takeover], submissions: &[Submission<R>]) -> Result<(), Violation> {
    let violation = |what| Err(Violation::new("fencing", what));
    for takeover in takeovers {
        let (Some(epoch), Some(since)) = (takeover.epoch, takeover.ended) else { continue };
        // Whatever might have been appended after the takeover ends what can be said of it.
        let others = takeovers.iter().filter(|other| *other != takeover);
        let until = others
            .clone()
            .filter(|other| other.ended.is_none_or(|ended| ended > takeover.begun))
            .map(|other| other.begun)
            .min()
            .unwrap_or(u64::MAX);
        let fenced = |submission: &&Submission<R>| {
            submission.writer != takeover.writer
                && submission.begun > since
                && submission.ended.is_some_and(|ended| ended < until)
                && matches!(submission.answer, Answer::Reply(_))
        };
        if let Some(submission) = submissions.iter().find(fenced) {
            return violation(format!("command {} was appended in spite of {takeover:?}", submission.id));
        }
        let earlier =
            |other: &&Takeover| other.epoch.is_some() && other.ended.is_some_and(|ended| ended < takeover.begun);
        if let Some(other) = others.clone().filter(earlier).find(|other| other.epoch >= Some(epoch)) {
            return violation(format!("{takeover:?} has no higher epoch than {other:?} before it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::answered;
    use super::*;

    #[test]
    fn finds_a_deposed_writer_and_an_epoch_that_stands_still() {
        let takeover = |writer, begun, ended, epoch| Takeover { writer, begun, ended: Some(ended), epoch };
        let by = |writer, begun, ended| Submission { writer, ..answered(begun, begun, ended) };
        let first = takeover(1, 1, 2, Some(1));
        assert_eq!(fencing(&[first], &[by(1, 3, 4), by(2, 0, 5)]), Ok(()));
        assert!(fencing(&[first], &[by(2, 3, 4)]).is_err());
        let release = takeover(1, 3, 4, None);
        assert_eq!(fencing(&[first, release], &[by(2, 5, 6)]), Ok(()));
        assert!(fencing(&[first, takeover(1, 9, 10, None)], &[by(2, 5, 6)]).is_err());
        assert!(fencing::<u64>(&[first, takeover(2, 3, 4, Some(1))], &[]).is_err());
        assert_eq!(fencing::<u64>(&[first, takeover(2, 3, 4, Some(2))], &[]), Ok(()));
    }
}
