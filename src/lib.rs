#![doc = include_str!("../README.md")]

#[doc(inline)]
pub use sysd_core as core;
#[cfg(feature = "ledger")]
#[doc(inline)]
pub use sysd_ledger as ledger;
#[cfg(feature = "ratelimit")]
#[doc(inline)]
pub use sysd_ratelimit as ratelimit;
#[doc(inline)]
pub use sysd_storage as storage;
