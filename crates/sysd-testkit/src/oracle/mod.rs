//! Checks histories.

pub mod lease;
mod linearizability;
pub mod log;
pub mod outbox;
pub mod queue;
mod record;
mod violation;

pub use linearizability::{CallId, History, NotLinearizable, Specification, check};
pub use record::{Call, RecordSpec, Reply};
pub use violation::Violation;
