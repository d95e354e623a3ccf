//! Checks what holders of a lease saw. One file an invariant.

mod exclusive;
mod fenced;
mod rising;

use sysd_core::Timestamp;

pub use super::Violation;
pub use exclusive::exclusive;
pub use fenced::fenced;
pub use rising::rising;

/// One time that somebody held a lease, by the simulation's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub holder: u128,
    /// Under which token.
    pub token: u64,
    /// When the acquisition was asked for.
    pub begun: Timestamp,
    /// When its answer came.
    pub from: Timestamp,
    /// Until when the holder believed in it: its deadline as last renewed, or the moment it let go or was told.
    pub until: Timestamp,
}

#[cfg(test)]
pub(crate) fn holding(holder: u128, token: u64, begun: u64, from: u64, until: u64) -> Holding {
    let at = Timestamp::from_micros_saturating;
    Holding { holder, token, begun: at(begun), from: at(from), until: at(until) }
}
