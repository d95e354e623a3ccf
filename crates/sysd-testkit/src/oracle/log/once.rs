//! Nothing is applied twice.

use std::collections::BTreeSet;

use super::Violation;

/// No id stands in the journal twice.
///
/// # Errors
/// The first that does.
pub fn once(journal: &[u64]) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    match journal.iter().find(|id| !seen.insert(**id)) {
        Some(id) => Err(Violation::new("applied once", format!("command {id} was applied twice"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_second() {
        assert_eq!(once(&[1, 2, 3]), Ok(()));
        assert!(once(&[1, 2, 1]).is_err());
    }
}
