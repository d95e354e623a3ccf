//! Checks what a sink got of an outbox against the records' histories. One file an invariant.

mod complete;
mod honest;
mod ordered;

pub use super::Violation;
pub use complete::complete;
pub use honest::{Answered, honest};
pub use ordered::ordered;

/// A record's history, and what a sink got of it: writes by number, in order.
#[derive(Clone, Debug, Default)]
pub struct OutboxHistory {
    /// The writes that happened.
    pub written: Vec<u64>,
    /// The events that were published, as often as they were.
    pub published: Vec<u64>,
}

#[cfg(test)]
pub(crate) fn history(written: &[u64], published: &[u64]) -> OutboxHistory {
    OutboxHistory { written: written.to_vec(), published: published.to_vec() }
}
