//! The resource that the token protects.

use super::Violation;

/// A resource that refuses lower tokens accepted these, in this order, each from one holder: nobody's writes lie between
/// those of another's one token.
///
/// # Errors
/// The first that does.
pub fn fenced(accepted: &[(u64, u128)]) -> Result<(), Violation> {
    for pair in accepted.windows(2) {
        let [(token, holder), (next, other)] = pair else { continue };
        if next < token || (next == token && holder != other) {
            return Err(Violation::new(
                "fenced",
                format!("{other:x} wrote under {next} after {holder:x} under {token}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_late_writer() {
        assert_eq!(fenced(&[(1, 7), (1, 7), (2, 8)]), Ok(()));
        assert!(fenced(&[(1, 7), (2, 8), (1, 7)]).is_err());
        assert!(fenced(&[(1, 7), (1, 8)]).is_err());
    }
}
