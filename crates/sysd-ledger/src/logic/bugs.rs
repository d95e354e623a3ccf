//! Deliberate mistakes. Where they can't be asked for, no code is made of them.

mod pair;
#[cfg(feature = "seeded-bugs")]
mod plan;

pub use pair::PairBug;
#[cfg(feature = "seeded-bugs")]
pub(super) use plan::plan;

use super::books::Books;

/// Mistakes that books could make, made on request, so that tests can show that they would be seen.
///
/// Plain transfers between two accounts have a shorter way, on which those of [`PairBug`] are made, and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Changes all accounts of a transaction but the last.
    DropLeg,
    /// Takes an id that was recorded for a new one.
    ForgetIds,
    /// Looks at what was posted alone when something is taken.
    IgnoreHolds,
    /// Moves what is there where more was asked for.
    Truncate,
    /// Keeps what a group did before one of it was rejected.
    KeepGroup,
    /// Keeps what is held after its deadline.
    ForgetDeadlines,
    /// Reverses as often as it is asked to.
    ReverseAgain,
    /// Takes an id that has left memory for a new one, without a look at the store.
    ForgetOldIds,
    /// Reverses again what was reversed so long ago that it has left memory.
    ForgetReversals,
    /// Frees the rest of a hold of which a part is posted, though it should stay.
    FreeRest,
    /// Ends all holds at once, however many have come to their deadline.
    EndAll,
    /// Decides while holds are due that have not ended yet.
    DecideEarly,
    /// One of plain transfers alone.
    InPair(PairBug),
}

#[cfg(feature = "seeded-bugs")]
impl Books {
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) fn pair_bug(&self) -> Option<PairBug> {
        match self.bug {
            Some(Bug::InPair(bug)) => Some(bug),
            _ => None,
        }
    }

    pub(super) fn count_pair(&mut self) {
        self.pairs += 1;
    }
}

#[cfg(not(feature = "seeded-bugs"))]
#[expect(clippy::unused_self, reason = "as above, without the fields")]
impl Books {
    pub(super) const fn has(&self, _: Bug) -> bool {
        false
    }

    pub(super) const fn pair_bug(&self) -> Option<PairBug> {
        None
    }

    pub(super) const fn count_pair(&mut self) {}
}
