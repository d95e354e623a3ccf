#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod counters;
pub mod oracle;
pub mod sim;

pub use counters::Counters;
