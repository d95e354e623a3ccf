//! The most common transaction by far, a transfer between two accounts, on a shorter way to the same end.

use super::accounts::{Accounts, Index};
use crate::model::amount::AMOUNT_MAX;
use crate::model::{Action, Posting, Side, Transaction};

/// The postings of a transaction that does nothing but debit one account and credit another, in this order, and about which nothing
/// else is said.
#[inline]
pub(super) fn plain(transaction: &Transaction) -> Option<&[Posting; 2]> {
    let is_plain = transaction.action == Action::Post
        && transaction.reverses.is_none()
        && transaction.details.is_none()
        && transaction.effective.is_none();
    let pair: &[Posting; 2] = transaction.postings.as_slice().try_into().ok()?;
    (is_plain && pair[0].side == Side::Debit && pair[1].side == Side::Credit).then_some(pair)
}

/// The accounts of two such postings, which are likely to be at `near`, if nothing speaks against them; `None` where [`resolve`](super::resolve::resolve) is to say what
/// does.
#[inline]
pub(super) fn find(accounts: &Accounts, [debit, credit]: &[Posting; 2], near: [Index; 2]) -> Option<[Index; 2]> {
    let is_balanced = debit.amount == credit.amount && debit.currency == credit.currency;
    if !is_balanced || debit.amount == 0 || debit.amount > AMOUNT_MAX || debit.account == credit.account {
        return None;
    }
    let indexes = [accounts.find_near(debit.account, near[0])?, accounts.find_near(credit.account, near[1])?];
    let may =
        |index, side| accounts.row(index).is_some_and(|row| accounts.may_post(row, debit.currency, side, debit.amount));
    (may(indexes[0], Side::Debit) && may(indexes[1], Side::Credit)).then_some(indexes)
}
