//! What one record does.

use sysd_core::{Expect, Version};

use super::Specification;

/// A call on one record. Values are left out: a version names the write that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads it.
    Get,
    /// Puts (a version) or deletes (none) on a condition.
    Write {
        /// The condition.
        expect: Expect,
        /// The token of the put; `None` deletes.
        version: Option<Version>,
    },
}

impl Call {
    /// An unconditional put.
    pub const fn put(version: Version) -> Self {
        Self::Write { expect: Expect::Any, version: Some(version) }
    }
}

/// What a call on one record answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a read: what is there.
    Found(Option<Version>),
    /// To a write: done.
    Applied,
    /// To a write: the condition did not hold, and this is there.
    Conflict(Option<Version>),
}

/// One record without expiry: absent at first, then what the last write that was applied made of it.
#[derive(Clone, Copy, Debug)]
pub struct RecordSpec;

impl Specification for RecordSpec {
    type State = Option<Version>;
    type Call = Call;
    type Reply = Reply;

    fn initial() -> Self::State {
        None
    }

    fn step(state: &Self::State, call: &Call, reply: Option<&Reply>) -> Option<Self::State> {
        let (expected, next) = match call {
            Call::Get => (Reply::Found(*state), *state),
            Call::Write { expect, version } => {
                let holds = match expect {
                    Expect::Any => true,
                    Expect::Absent => state.is_none(),
                    Expect::Is(version) => *state == Some(*version),
                };
                // A put that finds itself was sent twice: its first reply was lost.
                let is_own = version.is_some() && version == state;
                match (holds, is_own) {
                    (true, _) => (Reply::Applied, *version),
                    (false, true) => (Reply::Applied, *state),
                    (false, false) => (Reply::Conflict(*state), *state),
                }
            }
        };
        reply.is_none_or(|reply| *reply == expected).then_some(next)
    }
}
