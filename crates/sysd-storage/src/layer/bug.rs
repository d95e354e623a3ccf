//! Deliberate bugs.

/// Mistakes that layers could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
#[allow(dead_code, unreachable_pub, reason = "without the features that make or name them")]
pub enum Bug {
    /// A retry sends writes again whatever their effect.
    ResendAll,
    /// A retry takes a conflict for proof that nothing happened.
    TrustConflict,
    /// A retry answers the effect of the last attempt.
    ForgetEffect,
    /// A retry sends all writes of a batch again.
    ResendBatch,
    /// A limit or a batch loses the places of calls that are dropped.
    LeakPlace,
    /// A breaker loses the probes that are dropped.
    LeakProbe,
    /// A shared call begins while another is under way, and goes on being joined.
    BeginAtOnce,
    /// Those who share a call wait for ever when its caller is dropped.
    LoseOthers,
    /// A batch gives each the answer of another.
    MixAnswers,
    /// A batch waits for those in front of it, and leaves it to their callers to move them on.
    LeaveToCallers,
    /// A cache keeps what was read before a write.
    FillStale,
    /// A cache forgets that what it holds expires.
    ForgetExpiry,
    /// A cache forgets rows only by name: a trim goes by it.
    ForgetTrims,
    /// A cache keeps what is read while the record is written.
    FillWhileWritten,
    /// A cache's batch reads what another call is reading already.
    ReadTwice,
}

/// The bug that a layer was given, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bugs {
    #[cfg(feature = "seeded-bugs")]
    pub(super) bug: Option<Bug>,
}

impl Bugs {
    #[cfg(feature = "seeded-bugs")]
    pub(super) const NONE: Self = Self { bug: None };
    #[cfg(not(feature = "seeded-bugs"))]
    pub(super) const NONE: Self = Self {};

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
