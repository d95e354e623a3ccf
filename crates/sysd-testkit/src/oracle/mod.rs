//! Checks histories.

pub mod lease;
mod linearizability;
pub mod log;
pub mod outbox;
pub mod queue;
mod record;
mod rewind;
mod violation;

pub use linearizability::{CallId, History, NotLinearizable, Specification, check};
pub use record::{Call, RecordSpec, Reply};
pub use rewind::{Rewind, RewindCall, RewindSpec};
pub use violation::Violation;
