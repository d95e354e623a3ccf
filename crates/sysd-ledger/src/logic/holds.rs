//! What is held.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::accounts::Index;
use crate::model::{Side, TransactionId};

/// A posting whose account was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) amount: u128,
    pub(super) account: Index,
    pub(super) side: Side,
}

pub(super) type Legs = SmallVec<[Leg; 2]>;

/// A transaction that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Its number in the journal.
    pub(super) number: u64,
    pub(super) expires_at: Option<Timestamp>,
    /// What is still held, nothing of it zero.
    pub(super) legs: Legs,
}

/// All that hold something, and when they end.
#[derive(Debug, Default)]
pub(super) struct Holds {
    by_id: HashMap<TransactionId, Hold, RandomState>,
    /// Those with a deadline, by it and their number: at the same deadline the older one first.
    ending: BTreeMap<(Timestamp, u64), TransactionId>,
}

impl Holds {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Hold> {
        self.by_id.get(&id)
    }

    /// Puts it in the place of what is there, which it answers; nothing removes.
    pub(super) fn set(&mut self, id: TransactionId, hold: Option<Hold>) -> Option<Hold> {
        if let Some(Hold { expires_at: Some(at), number, .. }) = self.by_id.get(&id) {
            self.ending.remove(&(*at, *number));
        }
        match hold {
            Some(hold) => {
                if let Some(at) = hold.expires_at {
                    self.ending.insert((at, hold.number), id);
                }
                self.by_id.insert(id, hold)
            }
            None => self.by_id.remove(&id),
        }
    }

    /// The next to end, if its deadline is past.
    pub(super) fn next_ended(&self, now: Timestamp) -> Option<TransactionId> {
        self.ending.first_key_value().filter(|((at, _), _)| *at <= now).map(|(_, id)| *id)
    }

    /// All of them, by their numbers.
    pub(super) fn in_order(&self) -> Vec<(TransactionId, &Hold)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(id, hold)| (*id, hold)).collect();
        all.sort_unstable_by_key(|(_, hold)| hold.number);
        all
    }
}
