//! The accounts of the books.

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::blocks::Blocks;
use super::places::Places;
use crate::model::account::AccountView;
use crate::model::{Account, AccountId, AccountKind, AccountState, Balance, Currency, Funds, Rejection, Side};
use crate::schema::entry::{PairEntry, TRAIL_MAX, Trail};

/// Which account, in the order in which they were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Index(pub(super) u32);

/// Nowhere.
const NONE: u32 = u32::MAX;

impl Index {
    pub(super) const NONE: Self = Self(NONE);
}

/// What every transaction looks at, in 128 bytes: two lines of the cache that processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Row {
    pub(super) id: AccountId,
    pub(super) balance: Balance,
    pub(super) currency: Currency,
    /// How often it was changed, and by which number last.
    pub(super) changes: u64,
    pub(super) last: u64,
    /// Where its bounds are, if it has any.
    bounds: u32,
    /// Where its marks are, if it has any.
    marks: u32,
    pub(super) kind: AccountKind,
    pub(super) state: AccountState,
}

impl Row {
    /// One more change, by that number: its ordinal, and the number of the one before.
    #[inline]
    const fn change(&mut self, number: u64) -> (u64, u64) {
        self.changes += 1;
        (self.changes, std::mem::replace(&mut self.last, number))
    }
}

/// The numbers of the last changes whose ordinals are multiples of 8, 64, 512, …
pub(crate) type Marks = [u64; TRAIL_MAX - 1];

/// Where an account's changes are: how many there were, the number of the last, and its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct StoredTrail {
    pub(crate) changes: u64,
    pub(crate) last: u64,
    pub(crate) marks: Marks,
}

impl StoredTrail {
    /// How many marks there are.
    pub(crate) fn steps(&self) -> usize {
        if self.changes == 0 { 0 } else { (TRAIL_MAX - 1).min(self.changes.ilog2() as usize / 3) }
    }
}

/// What bounds an account.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    funds: Funds,
    balance_max: Option<u128>,
}

/// All accounts; none is ever removed.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    rows: Blocks<Row, { 1 << 12 }>,
    bounds: Vec<Bounds>,
    /// Of accounts that were changed eight times.
    marks: Blocks<Marks, { 1 << 12 }>,
    metadata: HashMap<u32, Bytes, RandomState>,
    /// Few tables: where they are is always in the nearest cache.
    places: Places<64>,
}

impl Accounts {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline]
    pub(super) fn find(&self, id: AccountId) -> Option<Index> {
        let is_it = |at| self.rows.get(at).is_some_and(|row| row.id == id);
        self.places.find(self.places.hash(id.0), is_it).map(Index)
    }

    /// An account that is likely to be there.
    #[inline]
    pub(super) fn find_near(&self, id: AccountId, near: Index) -> Option<Index> {
        if self.row(near).is_some_and(|row| row.id == id) { Some(near) } else { self.find(id) }
    }

    /// Where an account lies, most likely.
    #[inline]
    pub(super) fn likely(&self, id: AccountId) -> Index {
        // It has the same tag.
        self.places.find(self.places.hash(id.0), |_| true).map_or(Index::NONE, Index)
    }

    /// A look at an account's row, which lies in two lines of the cache.
    #[inline]
    pub(super) fn touch(&self, index: Index) -> u64 {
        self.row(index).map_or(0, |row| row.last ^ u64::from(row.currency.to_bits() == 0))
    }

    /// A look at an account's marks, if its next change changes them.
    #[inline]
    pub(super) fn touch_marks(&self, index: Index) -> u64 {
        let marked = self.row(index).filter(|row| row.changes % 8 == 7);
        marked.and_then(|row| self.marks.get(row.marks)).map_or(0, |marks| marks[0])
    }

    /// # Errors
    /// [`Rejection::UnknownAccount`].
    #[inline]
    pub(super) fn known(&self, id: AccountId) -> Result<(Index, &Row), Rejection> {
        let found = self.find(id).and_then(|index| self.row(index).map(|row| (index, row)));
        found.ok_or(Rejection::UnknownAccount { account: id })
    }

    #[inline]
    pub(super) fn row(&self, index: Index) -> Option<&Row> {
        self.rows.get(index.0)
    }

    #[inline]
    pub(super) fn row_mut(&mut self, index: Index) -> Option<&mut Row> {
        self.rows.get_mut(index.0)
    }

    /// Opens an account whose id is new. `None` if there is no room for another.
    pub(super) fn push(&mut self, account: &Account) -> Option<Index> {
        let at = u32::try_from(self.len()).ok()?;
        let is_bounded = account.funds != Funds::Unlimited || account.balance_max.is_some();
        let bounds = if is_bounded { u32::try_from(self.bounds.len()).ok()? } else { NONE };
        if is_bounded {
            self.bounds.push(Bounds { funds: account.funds, balance_max: account.balance_max });
        }
        if !account.metadata.is_empty() {
            self.metadata.insert(at, account.metadata.clone());
        }
        let row = Row {
            id: account.id,
            balance: Balance::default(),
            currency: account.currency,
            changes: 0,
            last: 0,
            bounds,
            marks: NONE,
            kind: account.kind,
            state: AccountState::Open,
        };
        self.rows.push(row);
        self.places.insert(self.places.hash(account.id.0), at);
        Some(Index(at))
    }

    fn bounds(&self, row: &Row) -> Bounds {
        self.bounds.get(row.bounds as usize).copied().unwrap_or_default()
    }

    /// Whether so much may be posted on that side, and nothing else be asked; not if the sums are great.
    #[inline]
    pub(super) fn may_post(&self, row: &Row, currency: Currency, side: Side, amount: u128) -> bool {
        let is_open = row.currency == currency && row.state == AccountState::Open;
        are_small(&row.balance, amount) && is_open && (row.bounds == NONE || self.is_within(row, side, amount))
    }

    #[inline(never)]
    fn is_within(&self, row: &Row, side: Side, amount: u128) -> bool {
        let mut after = row.balance;
        *after.posted_mut(side) += amount;
        self.check(row, &after, side).is_ok()
    }

    /// Posts what [`may_post`](Self::may_post) allows, by that number, and writes the change. Answers how the account stands then.
    #[inline]
    pub(super) fn post(
        &mut self,
        index: Index,
        side: Side,
        amount: u128,
        number: u64,
        out: &mut PairEntry<'_>,
    ) -> Balance {
        let Some(row) = self.rows.get_mut(index.0) else { return Balance::default() };
        *row.balance.posted_mut(side) += amount;
        let (balance, (ordinal, before)) = (row.balance, row.change(number));
        out.put_after(&balance, ordinal, if ordinal == 1 { 0 } else { number - before });
        if ordinal.is_multiple_of(8) {
            let trail = self.mark(index, number, ordinal);
            out.put_farther(number, &trail);
        }
        balance
    }

    /// One more change of an account, by that number: where its earlier ones are, as the change keeps it.
    #[inline]
    pub(super) fn step(&mut self, index: Index, number: u64) -> Trail {
        let Some(row) = self.rows.get_mut(index.0) else { return Trail::default() };
        let (ordinal, before) = row.change(number);
        let mut trail = if ordinal.is_multiple_of(8) { self.mark(index, number, ordinal) } else { Trail::of(ordinal) };
        trail.back[0] = before;
        trail
    }

    /// Of a change whose ordinal is a multiple of 8: its longer steps.
    #[inline(never)]
    fn mark(&mut self, index: Index, number: u64, ordinal: u64) -> Trail {
        let mut trail = Trail::of(ordinal);
        let Some(row) = self.rows.get_mut(index.0) else { return trail };
        if row.marks == NONE
            && let Ok(at) = u32::try_from(self.marks.len())
        {
            self.marks.push(Marks::default());
            row.marks = at;
        }
        if let Some(marks) = self.marks.get_mut(row.marks) {
            trail.back[1..].copy_from_slice(marks);
            let levels = (ordinal.trailing_zeros() / 3) as usize;
            marks.iter_mut().take(levels).for_each(|mark| *mark = number);
        }
        trail
    }

    /// Where the changes of an account are, as seen from the next one.
    pub(super) fn next_trail(&self, index: Index) -> Option<Trail> {
        let row = self.row(index)?;
        let ordinal = row.changes + 1;
        let mut trail = Trail { ordinal, len: Trail::len_next(ordinal), ..Trail::default() };
        trail.back[0] = row.last;
        if let Some(marks) = self.marks.get(row.marks) {
            trail.back[1..].copy_from_slice(marks);
        }
        Some(trail)
    }

    pub(super) fn trail(&self, index: Index) -> Option<StoredTrail> {
        let row = self.row(index)?;
        let marks = self.marks.get(row.marks).copied().unwrap_or_default();
        Some(StoredTrail { changes: row.changes, last: row.last, marks })
    }

    /// As [`trail`](Self::trail) said.
    pub(super) fn set_trail(&mut self, index: Index, trail: StoredTrail) {
        let at = u32::try_from(self.marks.len()).unwrap_or(NONE);
        let Some(row) = self.rows.get_mut(index.0) else { return };
        (row.changes, row.last) = (trail.changes, trail.last);
        if trail.changes >= 8 {
            row.marks = at;
            self.marks.push(trail.marks);
        }
    }

    /// How much may still be taken from an account by that side; `None`: any amount.
    pub(super) fn available(&self, row: &Row, side: Side) -> Option<u128> {
        let (taken, there) = taken_of(self.bounds(row).funds, &row.balance, side)?;
        Some(there.saturating_sub(taken))
    }

    /// Whether an account may become so, by an amount more on that side.
    ///
    /// # Errors
    /// [`Rejection::InsufficientFunds`], [`Rejection::BalanceMax`].
    #[inline]
    pub(super) fn check(&self, row: &Row, after: &Balance, side: Side) -> Result<(), Rejection> {
        if row.bounds == NONE {
            return Ok(());
        }
        let bounds = self.bounds(row);
        let (account, balance) = (row.id, after);
        if let Some((taken, there)) = taken_of(bounds.funds, balance, side)
            && taken > there
        {
            return Err(Rejection::InsufficientFunds { account, shortfall: taken - there });
        }
        if let Some(max) = bounds.balance_max
            && row.kind.normal_side() == side
        {
            let (grown, shrunk) = match side {
                Side::Debit => (sum(balance.debits_posted, balance.debits_held), balance.credits_posted),
                Side::Credit => (sum(balance.credits_posted, balance.credits_held), balance.debits_posted),
            };
            let most = sum(shrunk, max);
            if grown > most {
                return Err(Rejection::BalanceMax { account, excess: grown - most });
            }
        }
        Ok(())
    }

    pub(super) fn view(&self, index: Index) -> Option<AccountView> {
        let row = self.row(index)?;
        let Bounds { funds, balance_max } = self.bounds(row);
        let metadata = self.metadata.get(&index.0).cloned().unwrap_or_default();
        let account = Account { id: row.id, currency: row.currency, kind: row.kind, funds, balance_max, metadata };
        Some(AccountView { account, state: row.state, balance: row.balance })
    }

    /// All of them, in the order in which they were opened.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    pub(super) fn views(&self) -> impl Iterator<Item = AccountView> {
        (0..self.len()).filter_map(|at| self.view(Index(u32::try_from(at).ok()?)))
    }
}

/// So small that any two of them together still fit into 64 bits.
#[inline]
pub(super) const fn are_small(sums: &Balance, amount: u128) -> bool {
    let Balance { debits_posted, credits_posted, debits_held, credits_held } = *sums;
    (debits_posted | credits_posted | debits_held | credits_held | amount) >> 63 == 0
}

/// Sums of the books are at most `i128::MAX`, and so are bounds: two fit in a `u128`.
const fn sum(a: u128, b: u128) -> u128 {
    a.saturating_add(b)
}

/// How much is taken on that side, and of how much; `None` where any amount may be.
fn taken_of(funds: Funds, balance: &Balance, side: Side) -> Option<(u128, u128)> {
    match (funds, side) {
        (Funds::DebitsWithinCredits { overdraft }, Side::Debit) => {
            Some((sum(balance.debits_posted, balance.debits_held), sum(balance.credits_posted, overdraft)))
        }
        (Funds::CreditsWithinDebits { overdraft }, Side::Credit) => {
            Some((sum(balance.credits_posted, balance.credits_held), sum(balance.debits_posted, overdraft)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Two of ten million accounts may share what a table tells them apart by.
    #[test]
    fn an_account_is_found_wherever_it_is_thought_to_be() {
        let mut accounts = Accounts::default();
        let euro = Currency::iso("EUR").unwrap();
        let [a, b] = [AccountId(1), AccountId(2)];
        let [at_a, at_b] = [a, b].map(|id| accounts.push(&Account::new(id, euro, AccountKind::Asset)).unwrap());
        for near in [at_a, at_b, Index::NONE, Index(2)] {
            assert_eq!(accounts.find_near(a, near), Some(at_a));
            assert_eq!(accounts.find_near(b, near), Some(at_b));
            assert_eq!(accounts.find_near(AccountId(3), near), None);
        }
    }
}
