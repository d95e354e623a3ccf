//! A job is one job.

use std::collections::BTreeMap;

use super::{QueueHistory, Violation};

/// A job under an id of the caller's is not handed out as the same attempt twice, but for each time that it was put back.
///
/// # Errors
/// The first that was.
pub fn rising(history: &QueueHistory) -> Result<(), Violation> {
    let mut seen: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    for delivery in &history.deliveries {
        if !history.jobs.get(&delivery.job).is_some_and(|job| job.is_named) {
            continue;
        }
        let count = seen.entry((delivery.job, delivery.attempt)).or_default();
        *count += 1;
        let lives = 1 + history.replays.get(&delivery.job).copied().unwrap_or_default();
        if *count > lives {
            return Err(Violation::new(
                "rising",
                format!("{count} times as the same attempt, of {lives}: {delivery:?}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Ending;
    use super::super::tests::{delivery, history};
    use super::*;

    #[test]
    fn finds_the_second_job() {
        let twice = vec![delivery(1, 5, 1, Ending::Returned), delivery(1, 9, 1, Ending::Open)];
        assert!(rising(&history(twice.clone(), vec![])).is_err());
        let mut replayed = history(twice, vec![]);
        replayed.replays.insert(1, 1);
        assert_eq!(rising(&replayed), Ok(()));
        let minted = vec![delivery(2, 5, 1, Ending::Returned), delivery(2, 9, 1, Ending::Open)];
        assert_eq!(rising(&history(minted, vec![])), Ok(()));
        let rises = vec![delivery(1, 5, 1, Ending::Returned), delivery(1, 9, 2, Ending::Open)];
        assert_eq!(rising(&history(rises, vec![])), Ok(()));
    }
}
