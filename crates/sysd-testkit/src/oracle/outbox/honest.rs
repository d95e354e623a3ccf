//! Writers are told the truth.

use super::{OutboxHistory, Violation};

/// What a writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Written.
    Written,
    /// Not written, and never will be.
    NotWritten,
    /// Nobody knows.
    Unknown,
}

/// What was answered as written is, and what was answered as not written is not.
///
/// # Errors
/// The first write of which that is not so.
pub fn honest(answers: &[(u64, Answered)], history: &OutboxHistory) -> Result<(), Violation> {
    for (write, answered) in answers {
        let is_written = history.written.contains(write);
        let is_true = match answered {
            Answered::Written => is_written,
            Answered::NotWritten => !is_written,
            Answered::Unknown => true,
        };
        if !is_true {
            return Err(Violation::new("honest", format!("write {write} was answered as {answered:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::history;
    use super::*;

    #[test]
    fn finds_the_lie() {
        let written = history(&[1], &[]);
        assert_eq!(honest(&[(1, Answered::Written), (2, Answered::NotWritten)], &written), Ok(()));
        assert_eq!(honest(&[(1, Answered::Unknown), (2, Answered::Unknown)], &written), Ok(()));
        assert!(honest(&[(2, Answered::Written)], &written).is_err());
        assert!(honest(&[(1, Answered::NotWritten)], &written).is_err());
    }
}
