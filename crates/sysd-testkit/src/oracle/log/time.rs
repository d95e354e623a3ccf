//! The time of a log never goes back.

use sysd_core::Timestamp;

use super::Violation;

/// Times stand in order.
///
/// # Errors
/// The first that goes back.
pub fn time(journal: &[Timestamp]) -> Result<(), Violation> {
    match journal.windows(2).find(|pair| pair[1] < pair[0]) {
        Some(pair) => Err(Violation::new("log time", format!("{} stands behind {}", pair[1], pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_step_back() {
        let at = Timestamp::from_micros_saturating;
        assert_eq!(time(&[at(1), at(1), at(2)]), Ok(()));
        assert!(time(&[at(1), at(2), at(1)]).is_err());
    }
}
