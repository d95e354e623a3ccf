#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod calls;
pub mod lease;
pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
pub mod outbox;
pub mod queue;
#[cfg(feature = "redis")]
#[expect(
    clippy::disallowed_methods,
    reason = "connections have deadlines of their own; records take their time from the caller"
)]
pub mod redis;

pub use lease::{KeepAliveEnd, LeaseConfig, RecordLeases};
pub use log::{Driver, Follower, Replica, ReplicaConfig};
#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
pub use outbox::{Outbox, OutboxConfig, Relayed, Wrote};
pub use queue::{QueueConfig, RecordQueue};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisStore, TlsCa};
