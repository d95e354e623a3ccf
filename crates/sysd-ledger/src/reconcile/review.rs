//! Differences, and what people do about them. Nothing here ever resolves one by itself.

mod citation;
mod model;
mod queue;
mod schema;
mod service;

pub use citation::{Citation, CitationError, ResolveError};
pub use model::{
    Case, CaseId, CaseState, Event, FileId, FileState, FileView, Note, Person, ReviewCommand, ReviewReject,
    ReviewReply, Step,
};
pub use queue::ReviewQueue;
pub use service::{RecordError, Recorded, Reviews};

pub(super) use schema::{difference_id, put_difference, read_difference};
