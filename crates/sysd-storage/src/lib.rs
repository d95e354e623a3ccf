#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[cfg(feature = "local")]
#[expect(
    clippy::disallowed_methods,
    reason = "disks block: the store owns the threads that wait for them and joins them when it is dropped"
)]
pub mod local;
pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
#[expect(
    clippy::disallowed_methods,
    reason = "connections have deadlines of their own; records take their time from the caller"
)]
pub mod redis;

#[cfg(feature = "local")]
pub use local::{LocalConfig, LocalStore, SyncMode};
pub use log::{Driver, Follower, Replica, ReplicaConfig};
#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisStore, TlsCa};
