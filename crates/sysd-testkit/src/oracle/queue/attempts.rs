//! Attempts are counted and bounded.

use super::{QueueHistory, Violation};

/// No job is handed out as more than its `attempts_max`th attempt, or as none.
///
/// # Errors
/// The first that is.
pub fn attempts(history: &QueueHistory, attempts_max: u32) -> Result<(), Violation> {
    let is_over = |attempt: u32| attempt == 0 || attempt > attempts_max;
    match history.deliveries.iter().find(|delivery| is_over(delivery.attempt)) {
        Some(delivery) => Err(Violation::new("attempts", format!("{delivery:?} of {attempts_max}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ending;
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_one_too_many() {
        assert_eq!(attempts(&history(vec![delivery(1, 5, 3, Ending::Open)], vec![]), 3), Ok(()));
        assert!(attempts(&history(vec![delivery(1, 5, 4, Ending::Open)], vec![]), 3).is_err());
        assert!(attempts(&history(vec![delivery(1, 5, 0, Ending::Open)], vec![]), 3).is_err());
    }
}
