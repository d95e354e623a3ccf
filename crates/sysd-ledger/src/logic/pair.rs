//! The most common transaction by far, a transfer between two accounts, on a shorter way to the same end.

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::accounts::{Accounts, Index};
use super::books::{Books, TAIL_BYTES_MAX};
use super::bugs::PairBug;
use super::numbers::Found;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{Action, Date, Posting, Receipt, Side, Transaction};

/// What is posted to one of the two accounts.
pub(super) struct Leg {
    pub(super) account: Index,
    pub(super) side: Side,
    pub(super) amount: u128,
}

impl Books {
    /// Records a transfer between two accounts. `None`, and nothing was done, if it is anything else, or something speaks against it.
    #[inline]
    pub(super) fn record_pair(
        &mut self,
        now: Timestamp,
        transaction: &Transaction,
        near: [Index; 2],
    ) -> Option<Receipt> {
        let postings = plain(transaction)?;
        let bug = self.pair_bug();
        let is_closed = self.closed_through.is_some_and(|through| Date::of(now) <= through);
        if is_closed && bug != Some(PairBug::IgnoreClosed) || self.tail.bytes() > TAIL_BYTES_MAX {
            return None;
        }
        let hash = match self.numbers.find(transaction.id, None) {
            Found::New(hash) => hash,
            Found::Number(_) if bug == Some(PairBug::ForgetIds) => self.numbers.hash(transaction.id),
            _ => return None,
        };
        let accounts = find(&self.accounts, postings, near, bug)?;
        let number = match bug {
            Some(PairBug::LoseId) => self.numbers.push_unnamed(transaction.id, now),
            _ => self.numbers.push(transaction.id, hash, now)?,
        };
        let mut entry = self.tail.begin_pair(now, transaction.id, postings);
        let [debit, credit] = postings;
        let mut legs = [
            Leg { account: accounts[0], side: Side::Debit, amount: debit.amount },
            Leg { account: accounts[1], side: Side::Credit, amount: credit.amount },
        ];
        if let Some(bug) = bug {
            bug.replace(&self.accounts, &mut legs);
        }
        let [from, to] = &legs;
        let mut balances = SmallVec::from_buf([
            (debit.account, self.accounts.post(from.account, from.side, from.amount, number, &mut entry)),
            (credit.account, self.accounts.post(to.account, to.side, to.amount, number, &mut entry)),
        ]);
        let bytes = entry.end();
        self.tail.end_pair(bytes);
        if let Some(bug) = bug {
            bug.spoil(&mut self.accounts, &legs, &mut balances);
        }
        self.count_pair();
        Some(Receipt { id: transaction.id, number, recorded_at: now, moved: 0, balances })
    }
}

/// The postings of a transaction that does nothing but debit one account and credit another, in this order, and about which nothing
/// else is said.
#[inline]
fn plain(transaction: &Transaction) -> Option<&[Posting; 2]> {
    let is_plain = transaction.action == Action::Post
        && transaction.reverses.is_none()
        && transaction.details.is_none()
        && transaction.effective.is_none();
    let pair: &[Posting; 2] = transaction.postings.as_slice().try_into().ok()?;
    (is_plain && pair[0].side == Side::Debit && pair[1].side == Side::Credit).then_some(pair)
}

/// The accounts of two such postings, which are likely to be at `near`, if nothing speaks against them; `None` where
/// [`resolve`](super::resolve::resolve) is to say what does.
#[inline]
fn find(
    accounts: &Accounts,
    [debit, credit]: &[Posting; 2],
    near: [Index; 2],
    bug: Option<PairBug>,
) -> Option<[Index; 2]> {
    let ignores = |what| bug == Some(what);
    let is_balanced = debit.amount == credit.amount || ignores(PairBug::IgnoreDifference);
    let is_something = debit.amount != 0 || ignores(PairBug::IgnoreZero);
    let are_two = debit.account != credit.account || ignores(PairBug::IgnoreSame);
    if !is_balanced || debit.currency != credit.currency || !is_something || debit.amount > AMOUNT_MAX || !are_two {
        return None;
    }
    let indexes = [accounts.find_near(debit.account, near[0])?, accounts.find_near(credit.account, near[1])?];
    let may = |index, side| {
        accounts.row(index).is_some_and(|row| {
            accounts.may_post(row, debit.currency, side, debit.amount)
                || bug.is_some_and(|bug| bug.lets(accounts, row, side, debit))
        })
    };
    (may(indexes[0], Side::Debit) && may(indexes[1], Side::Credit)).then_some(indexes)
}
