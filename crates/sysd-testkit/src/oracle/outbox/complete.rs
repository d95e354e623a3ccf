//! No event is lost, none is invented.

use std::collections::BTreeSet;

use super::{OutboxHistory, Violation};

/// In the end, what was published is what was written.
///
/// # Errors
/// The first that was lost or invented.
pub fn complete(history: &OutboxHistory) -> Result<(), Violation> {
    let written: BTreeSet<u64> = history.written.iter().copied().collect();
    let published: BTreeSet<u64> = history.published.iter().copied().collect();
    if let Some(lost) = written.difference(&published).next() {
        return Err(Violation::new("complete", format!("the event of write {lost} was lost")));
    }
    match published.difference(&written).next() {
        Some(invented) => Err(Violation::new("complete", format!("the event of write {invented} was invented"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::history;
    use super::*;

    #[test]
    fn finds_what_is_lost_and_invented() {
        assert_eq!(complete(&history(&[1, 2], &[1, 1, 2])), Ok(()));
        assert!(complete(&history(&[1, 2], &[1])).is_err());
        assert!(complete(&history(&[1], &[1, 2])).is_err());
    }
}
