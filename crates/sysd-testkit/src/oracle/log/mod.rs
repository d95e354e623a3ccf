//! Checks what callers of a replicated log saw against what the log holds in the end.
//!
//! One file an invariant. Moments are numbers that rise with everything that happens.

mod acknowledged;
mod fencing;
mod once;
mod reads;
mod real_time;
mod replies;
mod time;

pub use acknowledged::acknowledged;
pub use fencing::{Takeover, fencing};
pub use once::once;
pub use reads::{LatestRead, reads};
pub use real_time::real_time;
pub use replies::replies;
pub use time::time;

pub use super::Violation;

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<R> {
    /// It was applied, and answered this.
    Reply(R),
    /// An error without effect: it was not applied, and never will be.
    NotApplied,
    /// An error of unknown effect, or nothing at all: the caller crashed, or still waits.
    Unknown,
}

/// One submission of a command.
#[derive(Clone, Debug)]
pub struct Submission<R> {
    /// The command's own id, unique.
    pub id: u64,
    /// Which opened replica it was given to.
    pub writer: u64,
    /// When it began.
    pub begun: u64,
    /// When it was answered; `None`: never.
    pub ended: Option<u64>,
    /// How.
    pub answer: Answer<R>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A submission that was answered with its own id.
    pub(crate) fn answered(id: u64, begun: u64, ended: u64) -> Submission<u64> {
        Submission { id, writer: 0, begun, ended: Some(ended), answer: Answer::Reply(id) }
    }

    pub(crate) fn failed(id: u64, answer: Answer<u64>) -> Submission<u64> {
        Submission { id, writer: 0, begun: 0, ended: Some(1), answer }
    }
}
