//! The books taken apart and put together again, for snapshots.

use sysd_core::Timestamp;

use super::accounts::{Index, StoredTrail};
use super::books::Books;
use super::holds::{Hold, Leg};
use super::numbers::{BLOCK_IDS, KEPT_MAX, Kept, Numbers};
use super::tail::Tail;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{AccountView, Date, Side, TransactionId};
use crate::schema::entry::Entries;

/// A hold with the places of its accounts, in the order in which they were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredHold {
    pub(crate) id: TransactionId,
    pub(crate) number: u64,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) legs: Vec<(u32, Side, u128)>,
}

impl Books {
    pub(crate) const fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    pub(crate) const fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Where the changes of accounts are, in the order in which they were opened.
    pub(crate) fn trails(&self) -> impl Iterator<Item = StoredTrail> {
        (0..self.accounts.len()).filter_map(|at| self.accounts.trail(Index(u32::try_from(at).ok()?)))
    }

    /// By their numbers.
    pub(crate) fn stored_holds(&self) -> Vec<StoredHold> {
        let stored = |(id, hold): (TransactionId, &Hold)| {
            let legs = hold.legs.iter().map(|leg| (leg.account.0, leg.side, leg.amount)).collect();
            StoredHold { id, number: hold.number, expires_at: hold.expires_at, legs }
        };
        self.holds.in_order().into_iter().map(stored).collect()
    }

    /// What was reversed, as far as it is in memory, by the numbers of the reversals.
    pub(crate) fn reversals(&self) -> Vec<(TransactionId, u64)> {
        self.reversals.between(0, u64::MAX)
    }
}

/// Books that are being put together, and the number of the last reversal. What can't be is refused with what is wrong.
#[derive(Default)]
pub(crate) struct Parts(Books, u64);

impl Parts {
    pub(crate) fn add_account(&mut self, view: &AccountView, trail: StoredTrail) -> Result<(), &'static str> {
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
        self.0.accounts.set_trail(index, trail);
        Ok(())
    }

    /// What had left memory; comes before [`add_ids`](Self::add_ids).
    pub(crate) fn set_forgotten(&mut self, forgotten: u64, horizon: Timestamp, kept: Kept) -> Result<(), &'static str> {
        if !forgotten.is_multiple_of(BLOCK_IDS) || forgotten > u64::MAX >> 1 {
            return Err("a part of a block of ids has left memory");
        }
        let is_past = |(_, last): &(u64, u64)| *last <= horizon.as_micros();
        if kept.ids.len() > KEPT_MAX || kept.unkept.intervals().first().is_some_and(is_past) {
            return Err("ids of the future that make no sense");
        }
        self.0.numbers = Numbers::restore(forgotten, horizon, kept);
        Ok(())
    }

    /// All ids in memory, in order, when their blocks ended, and which numbers are of no transaction of their own.
    pub(crate) fn add_ids(
        &mut self,
        ids: &[TransactionId],
        block_ends: &[Timestamp],
        unnamed: &[u64],
    ) -> Result<(), &'static str> {
        let (numbers, mut unnamed) = (&mut self.0.numbers, unnamed.iter().peekable());
        let blocks = ids.chunks(usize::try_from(BLOCK_IDS).unwrap_or(usize::MAX));
        if blocks.len() != block_ends.len() {
            return Err("a block of ids without its end");
        }
        for (ids, ended_at) in blocks.zip(block_ends) {
            for id in ids {
                if unnamed.next_if(|number| **number == numbers.count() + 1).is_some() {
                    numbers.push_unnamed(*id, *ended_at);
                    continue;
                }
                if numbers.is_there(*id) {
                    return Err("an id is there twice");
                }
                numbers.push(*id, numbers.hash(*id), *ended_at).ok_or("there are too many ids")?;
            }
        }
        if unnamed.next().is_some() { Err("a number without an id") } else { Ok(()) }
    }

    /// The end of the journal; comes after the ids.
    pub(crate) fn set_tail(&mut self, tail: Tail) -> Result<(), &'static str> {
        let mut last = tail.written;
        for chunk in &tail.full {
            if chunk.first != last.saturating_add(1) || chunk.last < chunk.first {
                return Err("a gap in the journal");
            }
            numbers(&chunk.body, chunk.first, chunk.last)?;
            last = chunk.last;
        }
        if !tail.open.is_empty() {
            numbers(&tail.open, tail.open_first, tail.last)?;
        }
        let is_whole = if tail.open.is_empty() { tail.last == last } else { tail.open_first == last.saturating_add(1) };
        if !is_whole || tail.last != self.0.numbers.count() || self.0.numbers.forgotten() > tail.written {
            return Err("the journal does not end with the last number");
        }
        self.0.tail = tail;
        Ok(())
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
        if by <= self.1.max(self.0.numbers.forgotten()) || by > self.0.numbers.count() {
            return Err("a reversal by a number that is not there, or out of order");
        }
        self.1 = by;
        if self.0.reversals.push(id, by) { Ok(()) } else { Err("a reversal is there twice") }
    }

    pub(crate) fn finish(mut self, closed_through: Option<Date>) -> Result<Books, &'static str> {
        self.0.closed_through = closed_through;
        let last = self.0.tail.last;
        for trail in self.0.trails() {
            let marks = trail.marks.iter().take(trail.steps());
            if trail.changes > last || trail.last > last || !marks.copied().all(|mark| (1..=trail.last).contains(&mark))
            {
                return Err("an account was changed by a number that is not there");
            }
        }
        match self.0.verify() {
            Ok(_) => Ok(self.0),
            Err(_) => Err("the books disagree with themselves"),
        }
    }
}

/// Whether a body has the entries of these numbers.
fn numbers(body: &[u8], first: u64, last: u64) -> Result<(), &'static str> {
    let mut entries = Entries::of(body)?;
    if entries.next_number() != first {
        return Err("a chunk of the journal begins with another number");
    }
    while entries.skip()?.is_some() {}
    if entries.next_number().checked_sub(1) == Some(last) {
        Ok(())
    } else {
        Err("a chunk of the journal ends otherwise")
    }
}
