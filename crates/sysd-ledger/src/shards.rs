//! Many ledgers as one: each account lies in one of them, and a transaction may touch several.
//!
//! `logic/` decides, `schema` derives ids, `service` is the shell: with `calls`, which does what was decided, and `recovery`. docs/ledger.md
//! tells how it works.

mod calls;
mod config;
mod logic;
mod model;
mod recovery;
mod schema;
mod service;

pub use config::ShardsConfig;
#[doc(hidden)]
pub use logic::Bug;
pub use model::{
    Placement, Recovery, Refusal, ShardId, ShardInconsistency, ShardReceipt, ShardsBalance, ShardsConflict,
    ShardsEntry, ShardsReply,
};
pub use service::Shards;
