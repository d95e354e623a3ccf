#![doc = include_str!("../README.md")]

pub mod log;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;

pub use log::{Driver, Follower, Replica, ReplicaConfig};
#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisStore, TlsCa};
