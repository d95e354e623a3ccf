//! What was put back stays put back.

use super::{QueueHistory, Violation};

/// In the end, no dead letter is there that was put back, and answered so: its job has been handed out since, or waits.
///
/// # Errors
/// The first that is.
pub fn replayed(history: &QueueHistory) -> Result<(), Violation> {
    match history.dead.iter().find(|letter| history.put_back.contains(letter)) {
        Some(letter) => Err(Violation::new("replayed", format!("{letter:?} was put back, and is there again"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Letter;
    use super::super::tests::history;
    use super::*;
    use sysd_core::Timestamp;

    #[test]
    fn finds_the_ghost() {
        let letter = |at| Letter { job: 1, at: Timestamp::from_micros_saturating(at) };
        let mut history = history(vec![], vec![]);
        history.dead = vec![letter(5)];
        assert_eq!(replayed(&history), Ok(()));
        history.put_back = vec![letter(4)];
        assert_eq!(replayed(&history), Ok(()), "it was given up once more");
        history.put_back.push(letter(5));
        assert!(replayed(&history).is_err());
    }
}
