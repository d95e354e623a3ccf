//! Tokens rise.

use super::{Holding, Violation};

/// No two holders have the same token, and one acquisition that was answered before another was asked for has the lower one.
///
/// # Errors
/// The first two that break it.
pub fn rising(holdings: &[Holding]) -> Result<(), Violation> {
    for a in holdings {
        for b in holdings {
            let is_shared = a.holder != b.holder && a.token == b.token;
            // The same holder may be told of the same acquisition again.
            let falls = a.from <= b.begun && (a.token > b.token || (a.holder != b.holder && a.token == b.token));
            if is_shared || falls {
                return Err(Violation::new("tokens rise", format!("{a:?}, then {b:?}")));
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
    fn finds_a_token_that_falls_or_is_shared() {
        let a = holding(1, 5, 0, 10, 20);
        assert_eq!(rising(&[a, holding(2, 6, 10, 20, 30)]), Ok(()));
        assert_eq!(rising(&[a, holding(1, 5, 10, 20, 30)]), Ok(()));
        assert!(rising(&[a, holding(2, 4, 10, 20, 30)]).is_err());
        assert!(rising(&[a, holding(2, 5, 5, 20, 30)]).is_err());
        // Asked for at the same time: either may be first.
        assert_eq!(rising(&[a, holding(2, 4, 5, 20, 30)]), Ok(()));
    }
}
