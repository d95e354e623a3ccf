//! The most common transaction by far, a transfer between two accounts, on a shorter way to the same end.

use super::accounts::{Accounts, Index, Row};
use crate::model::amount::AMOUNT_MAX;
use crate::model::{AccountState, Balance, Posting, Side};

/// Two accounts, and how they will be.
pub(super) struct Pair {
    pub(super) indexes: [Index; 2],
    pub(super) balances: [Balance; 2],
}

/// What two postings come to, if nothing speaks against them; `None` where [`resolve`](super::resolve::resolve) is to say what does.
#[inline]
pub(super) fn pair(accounts: &Accounts, a: &Posting, b: &Posting) -> Option<Pair> {
    let is_balanced = a.amount == b.amount && a.currency == b.currency && a.side != b.side;
    if !is_balanced || a.amount == 0 || a.amount > AMOUNT_MAX || a.account == b.account {
        return None;
    }
    let indexes = [accounts.find(a.account)?, accounts.find(b.account)?];
    let after = |index: Index, posting: &Posting| {
        let row = accounts.row(index).filter(|row| row.currency == posting.currency)?;
        let balance = posted(row, posting.side, posting.amount)?;
        accounts.check(row, &balance, posting.side).is_ok().then_some(balance)
    };
    Some(Pair { indexes, balances: [after(indexes[0], a)?, after(indexes[1], b)?] })
}

#[inline]
fn posted(row: &Row, side: Side, amount: u128) -> Option<Balance> {
    if row.state != AccountState::Open {
        return None;
    }
    let mut balance = row.balance;
    let (posted, held) = match side {
        Side::Debit => (&mut balance.debits_posted, balance.debits_held),
        Side::Credit => (&mut balance.credits_posted, balance.credits_held),
    };
    // All of these are at most i128::MAX.
    *posted += amount;
    (*posted <= AMOUNT_MAX && *posted + held <= AMOUNT_MAX).then_some(balance)
}
