#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod any;
pub mod breaker;
pub mod bus;
pub mod clock;
pub mod entropy;
pub mod error;
pub mod event;
pub mod ext;
pub mod id;
pub mod key;
pub mod lease;
pub mod limits;
pub mod machine;
pub mod pace;
pub mod procedure;
pub mod queue;
pub mod record;
pub mod retry;
pub mod scan;
pub mod space;
pub mod store;
pub mod timestamp;
pub mod tuple;

pub use any::{AnyStore, ErasedStore};
pub use clock::{Clock, Elapsed, FastClock, ManualClock, Sleep, SystemClock, timeout, yield_now};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use error::{Effect, Error, ErrorKind, Result};
pub use event::{AnyEventLog, EventLog, EventSink};
pub use ext::StoreExt;
pub use id::{Snowflake, SnowflakeError, random_base62};
pub use key::{Key, KeyBuf};
pub use limits::{ClockAuthority, Durability, Limits};
pub use machine::{DecodeError, Followed, Replicated, StateMachine};
pub use pace::Pace;
pub use procedure::{
    ArgumentBytes, ErasedProcedure, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Undecodable,
};
pub use record::{Change, Expect, Outcome, Record, Version, Write};
pub use retry::{Idempotence, RetryBudget, RetryPolicy, retry};
pub use scan::{Keep, Order, Page, Row, Scan, Trim, Trimmed};
pub use space::{Discipline, Space};
pub use store::Store;
pub use timestamp::{Timestamp, TimestampOutOfRange};
pub use tuple::KeyBytes;
