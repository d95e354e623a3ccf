//! What is said to shards, and what they answer.

use std::collections::BTreeMap;
use std::fmt;

use sysd_core::Error;

use crate::logic::{Inconsistency, TrialBalance};
use crate::model::{AccountId, Currency, Receipt, Rejection, Reply, Transaction, TransactionId};

/// One of the shards: its place in the list of ledgers, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// In which shard an account lies, or the id of a transaction is at home. It is stored when the shards are made, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// A hash of the id says so.
    #[default]
    Hashed,
    /// The application chooses: the shard's number is the first two bytes of an account's id, so that accounts that often meet lie
    /// together ([`ShardId::place`] makes such an id), and the last two of a transaction's, so that it is at home where its accounts lie
    /// ([`ShardId::place_id`]).
    Named,
}

impl ShardId {
    /// An account's id that lies in this shard, for [`Placement::Named`]: `id` with its first two bytes replaced.
    pub const fn place(self, id: u128) -> AccountId {
        AccountId((self.0 as u128) << 112 | (id << 16) >> 16)
    }

    /// A transaction's id that is at home in this shard, for [`Placement::Named`]: `id` with its last two bytes replaced. A UUID of
    /// version 7 stays one.
    pub const fn place_id(self, id: u128) -> TransactionId {
        TransactionId((id >> 16) << 16 | self.0 as u128)
    }
}

/// Why shards don't do what one log of books would. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An id of the shards' own accounts: those begin with `ff 54 52`.
    #[error("account {account} is one of the shards' own; choose another id")]
    Reserved {
        /// The account.
        account: AccountId,
    },
    /// With [`Placement::Named`], its first two bytes are no shard.
    #[error("account {account} names a shard that is not there")]
    NoShard {
        /// The account.
        account: AccountId,
    },
    /// With [`Placement::Named`], its last two bytes are no shard.
    #[error("transaction {id} names a shard that is not there; ShardId::place_id makes an id that does")]
    NoHome {
        /// The id.
        id: TransactionId,
    },
    /// Under that id a transaction was asked for that lies in one shard alone, where nothing is recorded under it: it was rejected, or is on
    /// its way. This one does not lie there alone.
    #[error(
        "{id} was asked of {shard} first, where nothing is recorded under it yet; ask that again, or, if it was rejected for good, take \
         another id"
    )]
    Claimed {
        /// The id.
        id: TransactionId,
        /// That shard.
        shard: ShardId,
    },
    /// The same is recorded in another shard.
    #[error("{id} is recorded in {shard}; ask that one")]
    Elsewhere {
        /// The id.
        id: TransactionId,
        /// That shard.
        shard: ShardId,
    },
    /// It would post or void what shards themselves hold.
    #[error("{hold} is a part of a transaction across shards, which ends it itself")]
    OwnHold {
        /// The hold.
        hold: TransactionId,
    },
    /// A transaction without postings names no shard.
    #[error("without postings it can't be told in which shard the hold is; ask that shard")]
    ShardUnknown,
    /// Across shards there is [`Action::Post`](crate::Action::Post) only.
    #[error("across shards a transaction can only be posted at once; keep the accounts of holds in one shard")]
    Action,
    /// What is reversed, and what reverses it, lie in one shard, the same: nothing else is noted as reversed. Whoever takes the id of what takes it
    /// back from the id of what is taken back, such as its hash, takes it back once: an id means one transaction.
    #[error(
        "a reversal is noted only where both lie in the same one shard; post the opposite as a transaction of its own, whose id follows \
         from the other's, so that there is only one"
    )]
    Reversal,
    /// A group is all in one shard.
    #[error("the accounts of a group must lie in one shard; make it one transaction, or place them together")]
    Group,
    /// The id was tried too often.
    #[error("{id} was tried {attempts} times without being posted; take another id")]
    Spent {
        /// The id.
        id: TransactionId,
        /// How often.
        attempts: u16,
    },
}

/// What a shard recorded of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardReceipt {
    /// The shard.
    pub shard: ShardId,
    /// Its receipt. The shard's own accounts are in it too.
    pub receipt: Receipt,
}

/// What shards recorded under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardsEntry {
    /// The transaction. One across shards is as shards store it: its postings are in the order of their shards, and the rate of an exchange
    /// stands in the metadata, under `exchange_rate`.
    pub transaction: Transaction,
    /// Of those that posted their part, by their shards: of the one shard where it lies within one.
    pub receipts: Vec<ShardReceipt>,
    /// Those that have not answered that theirs is posted.
    pub in_transit: Vec<ShardId>,
}

/// A transaction, and another that was recorded under its id. Those across shards are as in [`ShardsEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardsConflict {
    /// What was recorded.
    pub recorded: Transaction,
    /// What was asked now.
    pub asked: Transaction,
}

/// What shards answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardsReply {
    /// It lay in one shard, whose answer this is.
    Within {
        /// The shard.
        shard: ShardId,
        /// Its answer.
        reply: Reply,
    },
    /// It lies across shards, is recorded, and will be posted in all of them. The same again is answered as the first time, with what is
    /// posted by now.
    Recorded {
        /// Of those that posted their part, by their shards. The id's home is among them.
        receipts: Vec<ShardReceipt>,
        /// Those that have not answered yet that theirs is posted: what goes out there is held, what comes in does not count yet.
        /// Recovery posts it.
        in_transit: Vec<ShardId>,
    },
    /// Other content was recorded under its id, wherever it lies. Nothing was done.
    Conflict(Box<ShardsConflict>),
    /// One of its shards can't, so none did.
    Rejected(Box<Rejection>),
    /// Shards don't do that.
    Refused(Refusal),
}

impl From<Refusal> for ShardsReply {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a look for unfinished transactions did.
#[derive(Debug, Default)]
pub struct Recovery {
    /// How many parts were posted, because their coordinator had.
    pub posted: usize,
    /// How many were voided, because their coordinator never will.
    pub voided: usize,
    /// How many wait for a coordinator whose deadline is not past.
    pub waiting: usize,
    /// Parts that are to be posted and can't be for now, such as those of a frozen account; they stay held.
    pub blocked: Vec<(ShardId, Rejection)>,
    /// Shards that could not be asked.
    pub errors: Vec<(ShardId, Error)>,
}

impl Recovery {
    /// The same for another caller; errors without their sources.
    pub(super) fn share(&self) -> Self {
        let Self { posted, voided, waiting, ref blocked, ref errors } = *self;
        let errors = errors.iter().map(|(shard, error)| (*shard, error.share())).collect();
        Self { posted, voided, waiting, blocked: blocked.clone(), errors }
    }

    /// Whether nothing is left that a look could finish or that still waits.
    pub fn is_clear(&self) -> bool {
        self.posted == 0 && self.voided == 0 && self.waiting == 0 && self.blocked.is_empty() && self.errors.is_empty()
    }
}

/// The sums of all shards.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ShardsBalance {
    /// All accounts of all shards, the shards' own too.
    pub sums: BTreeMap<Currency, TrialBalance>,
    /// Debits less credits of all accounts in transit: zero where nothing is on its way.
    pub in_transit: BTreeMap<Currency, i128>,
}

/// A shard that does not agree with itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{shard}: {cause}")]
pub struct ShardInconsistency {
    /// The shard.
    pub shard: ShardId,
    /// What is wrong.
    pub cause: Inconsistency,
}
