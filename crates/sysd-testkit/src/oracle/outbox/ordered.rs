//! Events of a record come in the order of its writes.

use super::{OutboxHistory, Violation};

/// What was published for the first time follows the order of the writes.
///
/// # Errors
/// The first that does not.
pub fn ordered(history: &OutboxHistory) -> Result<(), Violation> {
    let mut first = Vec::new();
    for event in &history.published {
        if !first.contains(event) {
            first.push(*event);
        }
    }
    let in_order = history.written.iter().filter(|write| first.contains(write));
    match first.iter().zip(in_order).find(|(published, written)| published != written) {
        Some((published, written)) => {
            Err(Violation::new("ordered", format!("the event of {published} came before that of {written}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::history;
    use super::*;

    #[test]
    fn finds_the_wrong_order() {
        assert_eq!(ordered(&history(&[1, 2, 3], &[1, 2, 1, 3, 2])), Ok(()));
        assert_eq!(ordered(&history(&[1, 2, 3], &[1, 2])), Ok(()));
        assert!(ordered(&history(&[1, 2, 3], &[2, 1])).is_err());
    }
}
