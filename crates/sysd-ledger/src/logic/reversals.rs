//! What was taken back.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::model::TransactionId;

/// Which transactions were reversed, and by which numbers. They leave memory with the ids of those numbers, once the store has them: about
/// 70 bytes each until then.
#[derive(Debug, Default)]
pub(super) struct Reversals {
    by_id: HashMap<TransactionId, u64, RandomState>,
    /// By the numbers of the reversals.
    in_order: VecDeque<(u64, TransactionId)>,
}

impl Reversals {
    /// By which number an id was taken back, as far as it is in memory.
    pub(super) fn get(&self, id: TransactionId) -> Option<u64> {
        self.by_id.get(&id).copied()
    }

    /// Adds one, by a number greater than all before. Answers whether there was none.
    pub(super) fn push(&mut self, id: TransactionId, by: u64) -> bool {
        self.in_order.push_back((by, id));
        self.by_id.insert(id, by).is_none()
    }

    /// Takes the last one back.
    pub(super) fn pop(&mut self) {
        if let Some((_, id)) = self.in_order.pop_back() {
            self.by_id.remove(&id);
        }
    }

    /// Lets those through a number leave.
    pub(super) fn forget(&mut self, through: u64) {
        while let Some((by, id)) = self.in_order.front().copied()
            && by <= through
        {
            self.in_order.pop_front();
            self.by_id.remove(&id);
        }
    }

    /// Those by a number after one, through another.
    pub(super) fn between(&self, after: u64, through: u64) -> Vec<(TransactionId, u64)> {
        let from = self.in_order.partition_point(|(by, _)| *by <= after);
        let some = self.in_order.range(from..).take_while(|(by, _)| *by <= through);
        some.map(|(by, id)| (*id, *by)).collect()
    }
}
