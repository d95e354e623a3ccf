#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod attempts;
pub mod bus;
mod calls;
#[cfg(any(feature = "dynamodb", feature = "scylla"))]
mod cas;
#[cfg(feature = "dynamodb")]
#[expect(
    clippy::disallowed_methods,
    reason = "calls have deadlines of their own; records take their time from the caller"
)]
pub mod dynamodb;
#[cfg_attr(
    feature = "kafka",
    expect(
        clippy::disallowed_methods,
        reason = "Kafka's client blocks: who reads there has a thread, which ends with its reader"
    )
)]
pub mod events;
pub mod layer;
pub mod lease;
#[cfg(feature = "local")]
#[expect(
    clippy::disallowed_methods,
    reason = "disks block: the store owns the threads that wait for them and joins them when it is dropped"
)]
pub mod local;
pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
pub mod open;
pub mod outbox;
pub mod queue;
#[cfg(feature = "redis")]
#[expect(
    clippy::disallowed_methods,
    reason = "connections have deadlines of their own; records take their time from the caller"
)]
pub mod redis;
#[cfg(feature = "scylla")]
#[expect(
    clippy::disallowed_methods,
    reason = "connections have deadlines of their own; records take their time from the caller"
)]
pub mod scylla;

#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoConfig, DynamoCredentials, DynamoStore};
pub use events::open_events;
#[cfg(feature = "kafka")]
pub use events::{KafkaEvents, KafkaEventsConfig, KafkaTopic};
#[cfg(feature = "memory")]
pub use events::{MemoryEvents, MemoryEventsConfig, WhenFull};
#[cfg(feature = "redis")]
pub use events::{RedisEvents, RedisEventsConfig};
pub use lease::{KeepAliveEnd, LeaseConfig, RecordLeases};
#[cfg(feature = "local")]
pub use local::{LocalConfig, LocalStore, SyncMode};
pub use log::{Driver, Follower, Replica, ReplicaConfig};
#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
pub use open::{open, open_by_clocks, open_with, prepare};
pub use outbox::{Outbox, OutboxConfig, Relayed, Wrote};
pub use queue::{QueueConfig, RecordQueue};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisStore, TlsCa};
#[cfg(feature = "scylla")]
pub use scylla::{ScyllaConfig, ScyllaConsistency, ScyllaSchema, ScyllaSerial, ScyllaStore};
