//! What checkers answer.

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// Where it breaks.
    pub what: String,
}

impl Violation {
    pub(super) const fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}
