//! Nothing acknowledged is lost.

use super::{Ending, QueueHistory, Violation};

/// In the end, when the queue is empty, every job whose enqueueing was answered was acked, or is a dead letter.
///
/// # Errors
/// The first that is neither.
pub fn lost(history: &QueueHistory) -> Result<(), Violation> {
    for (&number, job) in &history.jobs {
        let is_settled = history.dead.iter().any(|letter| letter.job == number)
            || history.deliveries_of(number).any(|delivery| matches!(delivery.ending, Ending::Acked | Ending::Unknown));
        if job.is_acknowledged && !is_settled {
            return Err(Violation::new("lost", format!("job {number} was acknowledged and is nowhere")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_the_lost_one() {
        assert!(lost(&history(vec![], vec![])).is_err());
        assert!(lost(&history(vec![delivery(1, 5, 1, Ending::Returned)], vec![])).is_err());
        assert_eq!(lost(&history(vec![delivery(1, 5, 1, Ending::Acked)], vec![])), Ok(()));
        assert_eq!(lost(&history(vec![], vec![1])), Ok(()));
    }
}
