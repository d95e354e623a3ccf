//! What shards decide; asking them is the shell's.

pub(super) mod crossing;
pub(super) mod lookup;
#[cfg(all(test, feature = "seeded-bugs"))]
mod model_tests;
pub(super) mod recovery;
pub(super) mod split;
pub(super) mod within;

use sysd_core::{Result, Timestamp};

use self::crossing::Crossing;
use self::lookup::Recorded;
use self::recovery::Standing;
use self::within::Within;
use super::{ShardId, ShardsReply};
use crate::logic::Command;
use crate::model::{Reply, TransactionId};

/// Mistakes that shards could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Posts the coordinator's part before the others are held.
    PostBeforeHolds,
    /// Gives the other parts the coordinator's deadline.
    PartsExpire,
    /// Voids what it finds without asking the coordinator.
    VoidUnasked,
    /// Makes new ids each time.
    FreshIds,
    /// Takes what was recorded under the id for its own.
    AnyContent,
    /// Takes an id that was taken while it held for its own decision.
    TakenIsDecided,
    /// Posts what it finds if anything is recorded under the id.
    PostAnyAttempt,
    /// Asks a shard that is not the id's home without claiming it.
    Unclaimed,
}

impl Bug {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::PostBeforeHolds,
        Self::PartsExpire,
        Self::VoidUnasked,
        Self::FreshIds,
        Self::AnyContent,
        Self::TakenIsDecided,
        Self::PostAnyAttempt,
        Self::Unclaimed,
    ];
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Todo {
    /// Ask the books of all of these, at the same time, and tell what they answered, one for one.
    Ask(Vec<(ShardId, Command)>),
    /// Ask a ledger, which knows its first answer, and tell that.
    Tell(ShardId, Command),
    /// Look in the coordinator's books how that id stands, with all in them that was answered anywhere.
    Look(ShardId, TransactionId),
    /// Read what these shards' journals have under these ids, with all in them that was answered anywhere, and say it one for one.
    Recall(Vec<(ShardId, TransactionId)>),
    /// Nothing any more.
    Done(Result<ShardsReply>),
}

/// A transaction on its way.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are of the large one, and need no box")]
pub(crate) enum Call {
    Within(Within),
    Across(Box<Crossing>),
}

impl Call {
    pub(crate) fn todo(&mut self) -> Todo {
        match self {
            Self::Within(within) => within.todo(),
            Self::Across(crossing) => crossing.todo(),
        }
    }

    /// What the last [`Todo::Ask`] or [`Todo::Tell`] was answered.
    pub(crate) fn told(&mut self, answers: Vec<Result<Reply>>) {
        match self {
            Self::Within(within) => within.told(answers),
            Self::Across(crossing) => crossing.told(answers),
        }
    }

    /// What the last [`Todo::Look`] was answered.
    pub(crate) fn looked(&mut self, now: Timestamp, standing: Result<Standing>) {
        match self {
            Self::Within(_) => {}
            Self::Across(crossing) => crossing.looked(now, standing),
        }
    }

    /// What the last [`Todo::Recall`] was answered, one for one.
    pub(crate) fn recalled(&mut self, answers: Vec<Result<Option<Recorded>>>) {
        match self {
            Self::Within(within) => within.recalled(answers),
            Self::Across(crossing) => crossing.recalled(answers),
        }
    }
}
