//! Deliberate bugs.

/// Mistakes that layers could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// A retry sends writes again whatever their effect.
    ResendAll,
    /// A retry takes a conflict for proof that nothing happened.
    TrustConflict,
    /// A retry answers the effect of the last attempt.
    ForgetEffect,
    /// A retry sends all writes of a batch again.
    ResendBatch,
}

/// The bug that a layer was given, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bugs {
    #[cfg(feature = "seeded-bugs")]
    pub(super) bug: Option<Bug>,
}

impl Bugs {
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    pub(super) const fn has(self, _: Bug) -> bool {
        false
    }
}
