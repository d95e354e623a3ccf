//! A shared log: a [`StateMachine`](sysd_core::StateMachine) kept in memory, durable on any [`Store`](sysd_core::Store).
//!
//! Commands that arrive while an append is on its way form the next entry. An entry is one conditional insert at the next
//! number of the log; only then are its commands applied and answered. That is group commit on whatever store there is:
//! thousands of commands a round trip. The idea is that of Tango (Balakrishnan et al., SOSP 2013).
//!
//! ```
//! use sysd_core::{DecodeError, StateMachine, Timestamp};
//! use sysd_storage::{Memory, Replica, ReplicaConfig};
//!
//! #[derive(Default)]
//! struct Total(u64);
//!
//! impl StateMachine for Total {
//!     type Command = u64;
//!     type Reply = u64;
//!     const NAME: &'static str = "total";
//!     const FORMAT: u16 = 1;
//!
//!     fn apply(&mut self, _: Timestamp, command: &u64) -> u64 {
//!         self.0 = self.0.saturating_add(*command);
//!         self.0
//!     }
//!     fn encode_command(command: &u64, out: &mut Vec<u8>) {
//!         out.extend_from_slice(&command.to_be_bytes());
//!     }
//!     fn decode_command(format: u16, bytes: &[u8]) -> Result<u64, DecodeError> {
//!         let error = DecodeError { machine: Self::NAME, format, what: "a number of 8 bytes" };
//!         bytes.try_into().map(u64::from_be_bytes).map_err(|_| error)
//!     }
//!     fn encode_snapshot(&self, out: &mut Vec<u8>) {
//!         Self::encode_command(&self.0, out);
//!     }
//!     fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
//!         Self::decode_command(format, bytes).map(Self)
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = Memory::new();
//! let (replica, driver) = Replica::<Total>::open(store.clone(), "sales", ReplicaConfig::default()).await?;
//! tokio::spawn(driver);
//! assert_eq!(replica.submit(3).await?, 3);
//! assert_eq!(replica.submit(4).await?, 7);
//!
//! // Another process, or the same one after a crash.
//! let (other, driver) = Replica::<Total>::open(store, "sales", ReplicaConfig::default()).await?;
//! tokio::spawn(driver);
//! assert_eq!(other.submit(1).await?, 8);
//! assert_eq!(replica.read_latest(|total| total.0).await?, 8);
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Guarantees
//! - All replicas apply the same commands in the same order at the same times: one history. A number, once written, never
//!   changes.
//! - A command that was answered is in it exactly once. One whose submission failed without effect is not in it; one that
//!   failed with an unknown effect is in it once or not at all.
//! - If one submission was answered before another began, it stands before it (real-time order).
//! - The time of entries never goes back, whatever the clocks do.
//! - After [`fence`](Replica::fence) nobody else appends.
//!
//! It promises as much durability as the store does: see [`Limits::durability`](sysd_core::Limits::durability).
//!
//! # Writers
//! Any number may write. Who loses the insert applies what won, and proposes again behind it: safe, but slow where they
//! contend. Route commands to one writer; that is a hint for speed, nothing rests on it.
//!
//! An append without an answer may still happen, at any time. It is sent again, under the same token, until it is certain
//! what stands at its number; nothing else is sent before. Entries are never removed, so that stays certain.
//!
//! # Crashes
//! After an insert was sent: it is in the log or it is not, and whoever opens the log next sees which; one that arrives
//! later takes the next number, or none if that is taken. While a snapshot is written: see the rules of its manifest.
//!
//! # What is stored
//! In the space `log`: a head with the machine's name; entries as rows, 1,024 to a partition (a *segment*); a manifest that
//! names the newest snapshot; a snapshot's chunks as rows of a partition of its own. Every record says its format and
//! carries a checksum.

mod calls;
mod config;
mod driver;
mod entry;
mod manifest;
mod queue;
mod replica;
mod schema;
mod snapshot;
mod state;

use std::fmt;
use std::time::Duration;

use sysd_core::Timestamp;

#[doc(hidden)]
pub use config::Bug;
pub use config::ReplicaConfig;
pub use driver::Driver;
pub use replica::{Follower, Replica};

/// Names one opened replica in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(u128);

impl WriterId {
    /// As a number.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a replica or follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The number of the first entry that was not applied here.
    pub next: u64,
    /// The time of the last entry that was.
    pub log_now: Timestamp,
    /// How often the log was taken over.
    pub epoch: u64,
    /// Who alone may append; `None`: everybody.
    pub owner: Option<WriterId>,
    /// The number of the first entry that no snapshot known here covers.
    pub snapshot_next: u64,
    /// How long ago the log was last seen to its end: everything older than that is applied here. By the clock's
    /// [steady](sysd_core::Clock::steady) time.
    pub staleness: Duration,
}
