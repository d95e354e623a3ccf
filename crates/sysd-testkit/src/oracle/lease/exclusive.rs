//! One holder at a time.

use super::{Holding, Violation};

/// No two holders believe in their leases at the same moment.
///
/// # Errors
/// The first two that do.
pub fn exclusive(holdings: &[Holding]) -> Result<(), Violation> {
    for (at, a) in holdings.iter().enumerate() {
        for b in &holdings[at + 1..] {
            if a.holder != b.holder && a.from < b.until && b.from < a.until {
                return Err(Violation::new("exclusive", format!("{a:?} and {b:?} at once")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::holding;
    use super::*;

    #[test]
    fn finds_two_at_once() {
        let (a, b) = (holding(1, 1, 0, 10, 20), holding(2, 2, 10, 20, 30));
        assert_eq!(exclusive(&[a, b]), Ok(()));
        assert!(exclusive(&[a, holding(2, 2, 10, 19, 30)]).is_err());
        assert_eq!(exclusive(&[a, holding(1, 2, 10, 19, 30)]), Ok(()));
    }
}
