#![doc = include_str!("../README.md")]

pub mod counters;
pub mod oracle;
pub mod sim;

pub use counters::Counters;
