//! What is recorded under an id, as a machine: it says what to read of journals, and is told what was there.
//!
//! The id's home says what it is of. If it says that it was claimed for another shard, that shard says the rest. If it is the decision of
//! a transaction across shards, the home's hold names all others; what they held and whether they posted is read at the same time.

use sysd_core::{Effect, Error, ErrorKind, Result};

use super::crossing::ATTEMPTS_MAX;
use super::split::Part;
use crate::model::{Action, Posting, Receipt, Transaction, TransactionId};
use crate::shards::schema::{Derivation, Purpose, claimed_for, is_reserved};
use crate::shards::{ShardId, ShardReceipt, ShardsEntry};

/// What a shard has recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) transaction: Transaction,
    pub(crate) receipt: Receipt,
}

/// What is recorded under an id.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    /// As it is, in one shard.
    Within(ShardId, Box<Recorded>),
    /// Nothing, but it is for that shard; or whatever that has, if it is the one that asks.
    Claimed(ShardId),
    Across(Crossed),
}

/// A transaction across shards that was decided.
#[derive(Debug, Default)]
pub(crate) struct Crossed {
    pub(crate) attempt: u8,
    /// What each shard held, the home first.
    pub(crate) held: Vec<(ShardId, Transaction)>,
    /// Of those that posted it.
    pub(crate) receipts: Vec<ShardReceipt>,
}

/// The books know it, and the journal does not.
pub(crate) fn not_shown() -> Error {
    let message = "a shard's journal does not show what its books know; did a store forget what it acknowledged?";
    Error::new(ErrorKind::Unavailable, Effect::None, message)
}

/// Of which attempt what a shard recorded is the post; `None`: it is no part of a transaction across shards.
pub(crate) fn attempt_of(recorded: &Transaction, shard: ShardId) -> Option<u8> {
    let Action::PostHeld { hold, .. } = recorded.action else { return None };
    let derive = |attempt| Derivation { purpose: Purpose::Hold, attempt, shard }.derive(recorded.id);
    (0..ATTEMPTS_MAX).find(|attempt| derive(*attempt) == hold)
}

/// A transaction across shards from its parts.
pub(crate) fn whole<'a>(
    id: TransactionId,
    like: &Transaction,
    parts: impl Iterator<Item = (ShardId, &'a [Posting])>,
) -> Transaction {
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|(shard, _)| *shard);
    let postings = parts.into_iter().flat_map(|(_, postings)| postings);
    let theirs = postings.filter(|posting| !is_reserved(posting.account)).copied();
    Transaction { effective: like.effective, details: like.details.clone(), ..Transaction::new(id, theirs) }
}

impl Crossed {
    /// What was asked for.
    pub(crate) fn transaction(&self, id: TransactionId) -> Transaction {
        let parts = self.held.iter().map(|(shard, held)| (*shard, &held.postings[..]));
        match self.held.first() {
            Some((_, first)) => whole(id, first, parts),
            None => Transaction::new(id, []),
        }
    }

    fn entry(mut self, id: TransactionId) -> ShardsEntry {
        let is_posted = |shard: &ShardId| self.receipts.iter().any(|told| told.shard == *shard);
        let mut in_transit: Vec<_> = self.held.iter().map(|(shard, _)| *shard).filter(|at| !is_posted(at)).collect();
        in_transit.sort_unstable();
        let transaction = self.transaction(id);
        self.receipts.sort_unstable_by_key(|told| told.shard);
        ShardsEntry { transaction, receipts: self.receipts, in_transit }
    }
}

impl Found {
    /// As it is shown; `None`: nothing is recorded.
    pub(crate) fn entry(self, id: TransactionId) -> Option<ShardsEntry> {
        match self {
            Self::Nothing | Self::Claimed(_) => None,
            Self::Within(shard, recorded) => {
                let Recorded { transaction, receipt } = *recorded;
                let receipts = vec![ShardReceipt { shard, receipt }];
                Some(ShardsEntry { transaction, receipts, in_transit: Vec::new() })
            }
            Self::Across(crossed) => Some(crossed.entry(id)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Home,
    /// The id was claimed for it.
    Claimer(ShardId),
    /// What the home held.
    First,
    /// What others held, and posted.
    Rest,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lookup {
    id: TransactionId,
    home: ShardId,
    asker: Option<ShardId>,
    step: Step,
    crossed: Crossed,
    others: Vec<ShardId>,
}

impl Lookup {
    /// For `asker`, if it is one that has claimed the id or would: what that has itself is not read.
    pub(crate) fn new(id: TransactionId, home: ShardId, asker: Option<ShardId>) -> Self {
        Self { id, home, asker, step: Step::Home, crossed: Crossed::default(), others: Vec::new() }
    }

    /// What to read.
    pub(crate) fn recalls(&self) -> Vec<(ShardId, TransactionId)> {
        let attempt = self.crossed.attempt;
        let hold = |shard| (shard, Derivation { purpose: Purpose::Hold, attempt, shard }.derive(self.id));
        match self.step {
            Step::Home => vec![(self.home, self.id)],
            Step::Claimer(shard) => vec![(shard, self.id)],
            Step::First => vec![hold(self.home)],
            Step::Rest => {
                let others = || self.others.iter().copied();
                others().map(hold).chain(others().map(|shard| (shard, self.id))).collect()
            }
        }
    }

    /// What was read, one for one. `None`: there is more to read.
    ///
    /// # Errors
    /// Those of reading what was held, without effect.
    pub(crate) fn recalled(&mut self, answers: Vec<Result<Option<Recorded>>>) -> Result<Option<Found>> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(None));
        match self.step {
            Step::Home => {
                let Some(recorded) = next()? else { return Ok(Some(Found::Nothing)) };
                if let Some(shard) = claimed_for(&recorded.transaction) {
                    if self.asker == Some(shard) {
                        return Ok(Some(Found::Claimed(shard)));
                    }
                    self.step = Step::Claimer(shard);
                } else if let Some(attempt) = attempt_of(&recorded.transaction, self.home) {
                    self.crossed.attempt = attempt;
                    self.crossed.receipts.push(ShardReceipt { shard: self.home, receipt: recorded.receipt });
                    self.step = Step::First;
                } else {
                    return Ok(Some(Found::Within(self.home, Box::new(recorded))));
                }
                Ok(None)
            }
            Step::Claimer(shard) => {
                let found = next()?.map(|recorded| Found::Within(shard, Box::new(recorded)));
                Ok(Some(found.unwrap_or(Found::Claimed(shard))))
            }
            Step::First => {
                let held = next()?.ok_or_else(not_shown)?.transaction;
                self.others = Part::others(&held.postings, self.home).into_iter().collect();
                self.crossed.held.push((self.home, held));
                self.step = Step::Rest;
                Ok(None)
            }
            Step::Rest => {
                for shard in &self.others {
                    self.crossed.held.push((*shard, next()?.ok_or_else(not_shown)?.transaction));
                }
                for &shard in &self.others {
                    // It is decided all the same.
                    if let Ok(Some(Recorded { transaction, receipt })) = next()
                        && attempt_of(&transaction, shard) == Some(self.crossed.attempt)
                    {
                        self.crossed.receipts.push(ShardReceipt { shard, receipt });
                    }
                }
                Ok(Some(Found::Across(std::mem::take(&mut self.crossed))))
            }
        }
    }
}
