//! What is done stays done.

use super::{Ending, QueueHistory, Violation};

/// A job under an id of the caller's is not handed out to who asked after its ack was answered, nor acked twice.
///
/// # Errors
/// The first that was.
pub fn once(history: &QueueHistory) -> Result<(), Violation> {
    for acked in history.deliveries.iter().filter(|delivery| delivery.ending == Ending::Acked) {
        if !history.jobs.get(&acked.job).is_some_and(|job| job.is_named) {
            continue;
        }
        let Some((_, answered)) = acked.settled else { continue };
        let again = history
            .deliveries_of(acked.job)
            .find(|again| *again != acked && (again.begun > answered || again.ending == Ending::Acked));
        if let Some(again) = again {
            return Err(Violation::new("done once", format!("{acked:?}, then {again:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_the_undead() {
        let acked = delivery(1, 5, 1, Ending::Acked);
        assert_eq!(once(&history(vec![acked], vec![])), Ok(()));
        assert!(once(&history(vec![acked, delivery(1, 20, 2, Ending::Open)], vec![])).is_err());
        assert!(once(&history(vec![acked, delivery(1, 7, 2, Ending::Acked)], vec![])).is_err());
        let minted = delivery(2, 5, 1, Ending::Acked);
        assert_eq!(once(&history(vec![minted, delivery(2, 20, 2, Ending::Open)], vec![])), Ok(()));
    }
}
