//! What is known of ids that may have left memory.

use crate::model::{Transaction, TransactionId};

/// What is known of some ids, wherever they are: first what the books have in memory, then also what the store says.
///
/// It is true of all numbers through one. So it does not grow old while ids leave memory: only once numbers leave that came after
/// it, which are not on the store that was asked, nor were they in memory then.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Looked {
    through: u64,
    numbers: Vec<(TransactionId, u64)>,
    reversed: Vec<(TransactionId, u64)>,
}

fn find(sorted: &[(TransactionId, u64)], id: TransactionId) -> Option<u64> {
    let at = sorted.binary_search_by_key(&id, |(id, _)| *id).ok()?;
    sorted.get(at).map(|(_, number)| *number)
}

fn sort(list: &mut Vec<(TransactionId, u64)>) {
    list.sort_unstable();
    list.dedup_by_key(|(id, _)| *id);
}

impl Looked {
    /// The numbers of those ids that have one, of the numbers through `through`; and of those that were reversed, the number by which.
    pub fn new(through: u64, mut numbers: Vec<(TransactionId, u64)>, mut reversed: Vec<(TransactionId, u64)>) -> Self {
        sort(&mut numbers);
        sort(&mut reversed);
        Self { through, numbers, reversed }
    }

    /// The last number of which it is true.
    pub const fn through(&self) -> u64 {
        self.through
    }

    /// An id's number, if it has one.
    pub fn number(&self, id: TransactionId) -> Option<u64> {
        find(&self.numbers, id)
    }

    /// Which number took an id back, if one did.
    pub fn reversed_by(&self, id: TransactionId) -> Option<u64> {
        find(&self.reversed, id)
    }

    /// All numbers, and all reversals, by id.
    pub(crate) fn parts(&self) -> [&[(TransactionId, u64)]; 2] {
        [&self.numbers, &self.reversed]
    }

    /// Of all that is known what these transactions depend on.
    pub(crate) fn of(&self, transactions: &[Transaction]) -> Self {
        let (mut numbers, mut reversed) = (Vec::new(), Vec::new());
        let mut known = |id| numbers.extend(self.number(id).map(|number| (id, number)));
        for transaction in transactions {
            known(transaction.id);
            if let Some(id) = transaction.reverses {
                known(id);
                reversed.extend(self.reversed_by(id).map(|by| (id, by)));
            }
        }
        Self::new(self.through, numbers, reversed)
    }

    /// All of these together.
    pub(crate) fn all(each: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self { through: u64::MAX, ..Self::default() };
        for one in each {
            all.through = all.through.min(one.through);
            all.numbers.extend(one.numbers);
            all.reversed.extend(one.reversed);
        }
        Self::new(all.through, all.numbers, all.reversed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_together_is_as_old_as_the_older() {
        let id = TransactionId;
        let one = Looked::new(9, vec![(id(5), 3), (id(1), 2)], vec![(id(1), 4)]);
        let both = Looked::all([one, Looked::new(7, vec![(id(3), 6), (id(5), 3)], vec![])]);
        assert_eq!(both.through(), 7);
        let numbers = [1, 2, 3, 5].map(|some| both.number(id(some)));
        assert_eq!(numbers, [Some(2), None, Some(6), Some(3)]);
        assert_eq!((both.reversed_by(id(1)), both.reversed_by(id(5))), (Some(4), None));
    }
}
