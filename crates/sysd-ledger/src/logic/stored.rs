//! The books taken apart and put together again, for snapshots.

use sysd_core::Timestamp;

use super::accounts::Index;
use super::books::Books;
use super::holds::{Hold, Leg};
use crate::model::amount::AMOUNT_MAX;
use crate::model::{AccountView, Date, Side, TransactionId};

/// A hold with the places of its accounts, in the order in which they were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredHold {
    pub(crate) id: TransactionId,
    pub(crate) number: u64,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) legs: Vec<(u32, Side, u128)>,
}

impl Books {
    /// In the order of their numbers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = TransactionId> {
        self.numbers.ids()
    }

    /// The numbers that are of no transaction of their own.
    pub(crate) fn unnamed(&self) -> &[u64] {
        self.numbers.unnamed()
    }

    /// By their numbers.
    pub(crate) fn stored_holds(&self) -> Vec<StoredHold> {
        let stored = |(id, hold): (TransactionId, &Hold)| {
            let legs = hold.legs.iter().map(|leg| (leg.account.0, leg.side, leg.amount)).collect();
            StoredHold { id, number: hold.number, expires_at: hold.expires_at, legs }
        };
        self.holds.in_order().into_iter().map(stored).collect()
    }

    /// What was reversed, by the numbers of the reversals.
    pub(crate) fn reversals(&self) -> Vec<(TransactionId, u64)> {
        let mut all: Vec<_> = self.reversed.iter().map(|(id, by)| (*id, *by)).collect();
        all.sort_unstable_by_key(|(_, by)| *by);
        all
    }
}

/// Books that are being put together. What can't be is refused with what is wrong.
#[derive(Default)]
pub(crate) struct Parts(Books);

impl Parts {
    pub(crate) fn add_account(&mut self, view: &AccountView) -> Result<(), &'static str> {
        let accounts = &mut self.0.accounts;
        if accounts.find(view.account.id).is_some() {
            return Err("an account is there twice");
        }
        let b = view.balance;
        let is_sum = |posted: u128, held: u128| posted.checked_add(held).is_some_and(|sum| sum <= AMOUNT_MAX);
        if !is_sum(b.debits_posted, b.debits_held) || !is_sum(b.credits_posted, b.credits_held) {
            return Err("a sum is too great");
        }
        let index = accounts.push(&view.account).ok_or("there are too many accounts")?;
        if let Some(row) = accounts.row_mut(index) {
            (row.state, row.balance) = (view.state, view.balance);
        }
        Ok(())
    }

    /// All ids, in order, and which numbers are of no transaction of their own.
    pub(crate) fn add_ids(&mut self, ids: &[TransactionId], unnamed: &[u64]) -> Result<(), &'static str> {
        let (numbers, mut unnamed) = (&mut self.0.numbers, unnamed.iter().peekable());
        for id in ids {
            if unnamed.next_if(|number| **number == numbers.count() + 1).is_some() {
                numbers.push_unnamed(*id);
                continue;
            }
            let hash = numbers.find(*id).err().ok_or("an id is there twice")?;
            numbers.push(*id, hash).ok_or("there are too many ids")?;
        }
        if unnamed.next().is_some() { Err("a number without an id") } else { Ok(()) }
    }

    pub(crate) fn add_hold(&mut self, hold: StoredHold) -> Result<(), &'static str> {
        let StoredHold { id, number, expires_at, legs } = hold;
        if self.0.holds.get(id).is_some() {
            return Err("a hold is there twice");
        }
        let leg = |(account, side, amount)| {
            let is_known = self.0.accounts.row(Index(account)).is_some();
            is_known
                .then_some(Leg { amount, account: Index(account), side })
                .ok_or("a hold of an account that is not there")
        };
        let legs = legs.into_iter().map(leg).collect::<Result<_, _>>()?;
        self.0.holds.set(id, Some(Hold { number, expires_at, legs }));
        Ok(())
    }

    pub(crate) fn add_reversal(&mut self, id: TransactionId, by: u64) -> Result<(), &'static str> {
        self.0.reversed.insert(id, by).map_or(Ok(()), |_| Err("a reversal is there twice"))
    }

    pub(crate) fn finish(mut self, closed_through: Option<Date>) -> Books {
        self.0.closed_through = closed_through;
        self.0
    }
}
