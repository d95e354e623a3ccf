//! Many ledgers as one: each account lies in one of them, and a transaction may touch several.
//!
//! `logic/` decides, `schema` derives ids, this file and `service` are the shell. docs/ledger.md tells how it works.

mod logic;
mod model;
mod schema;
mod service;

#[doc(hidden)]
pub use logic::crossing::Bug;
pub use model::{
    Placement, Recovery, Refusal, ShardId, ShardInconsistency, ShardReceipt, ShardsBalance, ShardsConflict, ShardsReply,
};
pub use service::{Shards, ShardsConfig};
