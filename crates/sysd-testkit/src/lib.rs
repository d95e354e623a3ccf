#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod conformance;
pub mod counters;
mod limited;
pub mod mutant;
pub mod oracle;
mod overridden;
pub mod sim;

pub use counters::Counters;
pub use limited::Limited;
pub use overridden::{Overridden, Overrides};
