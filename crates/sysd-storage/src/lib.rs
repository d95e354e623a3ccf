#![doc = include_str!("../README.md")]

#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;

#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
#[cfg(feature = "redis")]
pub use redis::{RedisConfig, RedisStore, TlsCa};
