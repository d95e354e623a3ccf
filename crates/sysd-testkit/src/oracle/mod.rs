//! Checks histories.

mod linearizability;
pub mod log;
mod record;

pub use linearizability::{CallId, History, NotLinearizable, Specification, check};
pub use record::{Call, RecordSpec, Reply};
