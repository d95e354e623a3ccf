//! How many may be at work at the same time.

use std::time::Duration;

use sysd_core::Timestamp;
use sysd_core::lease::HolderId;

use crate::error::RateLimitError;

/// The most slots of a key: its holders lie in one record, which is read and written whole.
pub const SLOTS_MAX: u32 = 1_000;

/// So many slots for each key, each held until it is released or its deadline has come.
///
/// A rate says how often work may begin, a concurrency limit how much of it may be under way: it is the one that protects what gets
/// slower under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Concurrency {
    slots: u32,
}

impl Concurrency {
    /// `slots` for each key.
    ///
    /// # Errors
    /// [`RateLimitError::SlotCount`] for none, or more than [`SLOTS_MAX`].
    pub const fn new(slots: u32) -> Result<Self, RateLimitError> {
        if slots == 0 || slots > SLOTS_MAX {
            return Err(RateLimitError::SlotCount { count: slots });
        }
        Ok(Self { slots })
    }

    /// How many slots a key has.
    pub const fn slots(self) -> u32 {
        self.slots
    }
}

/// What a holder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a slot that is not released is in use until its deadline"]
pub struct Slot {
    /// Whose it is: renew and release name it.
    pub holder: HolderId,
    /// How many of the key's slots.
    pub cost: u32,
    /// Until when, by the clock of the store.
    pub until: Timestamp,
    /// The same, counted from the decision: who counts from before the call does not overstay.
    pub left: Duration,
}

/// What the slots of a key are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotUse {
    /// How many there are.
    pub limit: u32,
    /// How many are held; above the limit where that was lowered.
    pub in_use: u32,
    /// By how many holders.
    pub holders: u32,
}

impl SlotUse {
    /// How many are free.
    pub const fn free(self) -> u32 {
        self.limit.saturating_sub(self.in_use)
    }
}

/// What came of an acquisition. Being refused is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "being refused is a value, not an error: look at it"]
pub enum SlotOutcome {
    /// It is held, by this call or by one before it under the same holder.
    Granted {
        /// What is held.
        slot: Slot,
        /// With it.
        usage: SlotUse,
    },
    /// Too few are free.
    Denied {
        /// When so many are free again, at the latest, if those who hold them do not renew: leaked slots return then.
        retry_after: Duration,
        /// As it is.
        usage: SlotUse,
    },
    /// There are never so many.
    NeverAllowed {
        /// As it is.
        usage: SlotUse,
    },
}

impl SlotOutcome {
    /// The slot, if it was granted.
    pub const fn granted(self) -> Option<Slot> {
        match self {
            Self::Granted { slot, .. } => Some(slot),
            Self::Denied { .. } | Self::NeverAllowed { .. } => None,
        }
    }

    /// What the slots of the key are doing, after this call.
    pub const fn usage(self) -> SlotUse {
        match self {
            Self::Granted { usage, .. } | Self::Denied { usage, .. } | Self::NeverAllowed { usage } => usage,
        }
    }
}

/// What came of holding on to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a slot that was lost may be another's by now"]
pub enum SlotRenewal {
    /// It is held, at least as long as it was.
    Held(Slot),
    /// It is not held: its deadline has come, or it was released. Whoever needs it must acquire again.
    Lost,
}

/// What came of letting go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRelease {
    /// It was held until now.
    Released,
    /// It was not: its deadline had come, or it was released before. After a lost reply, that is how sending again ends.
    Lost,
}
