//! A stale holder settles nothing.

use super::{Ending, QueueHistory, Violation};

/// Of two holders of a job, the earlier one's settlement does not count if it was asked for after the later one was given
/// the job.
///
/// # Errors
/// The first that did.
pub fn stale(history: &QueueHistory) -> Result<(), Violation> {
    for (at, earlier) in history.deliveries.iter().enumerate() {
        let counts = matches!(earlier.ending, Ending::Acked | Ending::Returned);
        let Some((asked, _)) = earlier.settled.filter(|_| counts) else { continue };
        let mut later = history.deliveries[at + 1..].iter().filter(|later| later.job == earlier.job);
        if let Some(later) = later.find(|later| later.given < asked && later.attempt > earlier.attempt) {
            return Err(Violation::new("stale", format!("{earlier:?} settled what was handed out as {later:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_the_stale_ack() {
        let (first, second) = (delivery(1, 5, 1, Ending::Acked), delivery(1, 6, 2, Ending::Open));
        assert!(stale(&history(vec![first, second], vec![])).is_err());
        let refused = delivery(1, 5, 1, Ending::Lost);
        assert_eq!(stale(&history(vec![refused, second], vec![])), Ok(()));
        assert_eq!(stale(&history(vec![first, delivery(1, 9, 2, Ending::Open)], vec![])), Ok(()));
    }
}
