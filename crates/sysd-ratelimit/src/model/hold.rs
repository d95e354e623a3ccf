//! What is held until its real cost is known.

use std::fmt;
use std::time::Duration;

use sysd_core::{Entropy, Timestamp};

use super::JointDecision;

/// The most holds of a key: they lie in one record, which is read and written whole.
pub const HOLDS_MAX: usize = 64;

/// By what a hold is known: chosen by who reserves, such as the number of the request, so that all calls may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(u128);

impl HoldId {
    /// A fresh one.
    pub fn mint(entropy: &(impl Entropy + ?Sized)) -> Self {
        Self(u128::from(entropy.next_u64()) << 64 | u128::from(entropy.next_u64()))
    }

    /// From a number.
    pub const fn from_u128(id: u128) -> Self {
        Self(id)
    }

    /// As a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What came of a reservation. Being refused is an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "being refused is a value, not an error: look at it"]
pub enum Reservation {
    /// It is held, by this call or by one before it under the same number: settle or cancel it before its deadline.
    Held {
        /// Until when, by the clock of the store; then what it holds comes back.
        until: Timestamp,
        /// The same, counted from the decision: who counts from before the call is not late.
        left: Duration,
        /// What the rules decided. Of a call that was sent again, what is there.
        decision: JointDecision,
    },
    /// There is too little of a rule; nothing was taken.
    Denied(JointDecision),
    /// The key has as many holds as it can have; nothing was taken.
    Full {
        /// When the first of them comes back, if it is not settled before.
        retry_after: Duration,
    },
}

impl Reservation {
    /// Whether it is held.
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// What came of settling, or of cancelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The real cost is what was taken now.
    Settled {
        /// What is there after it.
        decision: JointDecision,
    },
    /// Nothing is held under this number: it was settled or cancelled before, its deadline has come, or it was never reserved. Before the
    /// deadline, after a lost reply, it is the first of these.
    NotHeld {
        /// What is there.
        decision: JointDecision,
    },
}

impl Settlement {
    /// Whether it was held until now.
    pub const fn is_settled(&self) -> bool {
        matches!(self, Self::Settled { .. })
    }
}
