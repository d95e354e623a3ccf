//! One holder at a time.

use super::{Ending, QueueHistory, Violation};

/// Nobody is handed a job that another holds: its time has run out by the clock of whoever is handed it, or its holder has
/// begun to settle it.
///
/// # Errors
/// The first that was.
pub fn exclusive(history: &QueueHistory) -> Result<(), Violation> {
    for (at, later) in history.deliveries.iter().enumerate() {
        for earlier in history.deliveries[..at].iter().filter(|earlier| earlier.job == later.job) {
            let has_let_go =
                earlier.settled.is_some_and(|(begun, _)| begun < later.given && earlier.ending != Ending::Lost);
            let has_ended = earlier.until <= later.given_at;
            if !has_let_go && !has_ended && later.begun < earlier.given {
                // Both asked at once: the later answer may be of the earlier lease, which ran out on its way.
                continue;
            }
            if !has_let_go && !has_ended {
                return Err(Violation::new("exclusive", format!("{earlier:?} and {later:?}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_two_holders() {
        let first = delivery(1, 5, 1, Ending::Open);
        assert!(exclusive(&history(vec![first, delivery(1, 9, 2, Ending::Open)], vec![])).is_err());
        assert_eq!(exclusive(&history(vec![first, delivery(1, 10, 2, Ending::Open)], vec![])), Ok(()));
        assert_eq!(exclusive(&history(vec![first, delivery(2, 9, 1, Ending::Open)], vec![])), Ok(()));
        let given_back = delivery(1, 5, 1, Ending::Returned);
        assert_eq!(exclusive(&history(vec![given_back, delivery(1, 9, 2, Ending::Open)], vec![])), Ok(()));
        let refused = delivery(1, 5, 1, Ending::Lost);
        assert!(exclusive(&history(vec![refused, delivery(1, 9, 2, Ending::Open)], vec![])).is_err());
    }
}
