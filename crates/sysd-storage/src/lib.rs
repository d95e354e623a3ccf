#![doc = include_str!("../README.md")]

#[cfg(feature = "memory")]
pub mod memory;

#[cfg(feature = "memory")]
pub use memory::{Memory, MemoryConfig};
