//! Nothing is invented.

use super::{QueueHistory, Violation};

/// Whatever was handed out or is a dead letter was enqueued.
///
/// # Errors
/// The first that was not.
pub fn invented(history: &QueueHistory) -> Result<(), Violation> {
    let mut seen =
        history.deliveries.iter().map(|delivery| delivery.job).chain(history.dead.iter().map(|letter| letter.job));
    match seen.find(|job| !history.jobs.contains_key(job)) {
        Some(job) => Err(Violation::new("invented", format!("job {job} was never enqueued"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ending;
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_the_invented_one() {
        assert_eq!(invented(&history(vec![delivery(2, 5, 1, Ending::Open)], vec![1])), Ok(()));
        assert!(invented(&history(vec![delivery(3, 5, 1, Ending::Open)], vec![])).is_err());
        assert!(invented(&history(vec![], vec![3])).is_err());
    }
}
