//! Mistakes on the short way of plain transfers.

use crate::logic::accounts::{Accounts, Index, Row, are_small};
use crate::logic::pair::Leg;
use crate::logic::resolve::Balances;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{AccountState, Posting, Rejection, Side};

/// Mistakes that could be made on the short way of a plain transfer, and are made there alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum PairBug {
    /// Debits, and does not credit.
    DropLeg,
    /// Takes an id that was recorded for a new one.
    ForgetIds,
    /// Looks at what was posted alone when something is taken.
    IgnoreHolds,
    /// Moves what is there where more was asked for.
    Truncate,
    /// Posts each leg twice.
    PostTwice,
    /// Debits what is to be credited, and the other way round.
    SwapSides,
    /// Credits the account in the row behind.
    NextRow,
    /// Looks at what bounds the account that is debited alone.
    IgnoreCredit,
    /// Posts to accounts that are frozen or closed.
    IgnoreState,
    /// Posts to accounts of another currency.
    IgnoreCurrency,
    /// Records on days that are closed.
    IgnoreClosed,
    /// Debits one amount and credits another.
    IgnoreDifference,
    /// Moves nothing.
    IgnoreZero,
    /// Debits and credits one account.
    IgnoreSame,
    /// Takes sums that don't fit into its entry.
    IgnoreGreat,
    /// Records an id so that it is not found again.
    LoseId,
    /// Answers how the accounts stood before.
    ReceiptBefore,
    /// Does not count the change of the account that is credited.
    ForgetStep,
}

impl PairBug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::DropLeg,
        Self::ForgetIds,
        Self::IgnoreHolds,
        Self::Truncate,
        Self::PostTwice,
        Self::SwapSides,
        Self::NextRow,
        Self::IgnoreCredit,
        Self::IgnoreState,
        Self::IgnoreCurrency,
        Self::IgnoreClosed,
        Self::IgnoreDifference,
        Self::IgnoreZero,
        Self::IgnoreSame,
        Self::IgnoreGreat,
        Self::LoseId,
        Self::ReceiptBefore,
        Self::ForgetStep,
    ];

    /// Whether so much is posted on that side though it may not be.
    pub(in crate::logic) fn lets(self, accounts: &Accounts, row: &Row, side: Side, posting: &Posting) -> bool {
        let mut after = row.balance;
        let sum = after.posted_mut(side);
        *sum += posting.amount;
        // No sum of the books is greater than that: so much is always looked at.
        if *sum > AMOUNT_MAX || !are_small(&row.balance, posting.amount) && self != Self::IgnoreGreat {
            return false;
        }
        let is_open = row.state == AccountState::Open || self == Self::IgnoreState;
        let is_of = row.currency == posting.currency || self == Self::IgnoreCurrency;
        if self == Self::IgnoreHolds {
            (after.debits_held, after.credits_held) = (0, 0);
        }
        let is_within = match accounts.check(row, &after, side) {
            Ok(()) => true,
            Err(_) if self == Self::IgnoreCredit => side == Side::Credit,
            Err(Rejection::InsufficientFunds { .. }) if self == Self::Truncate => {
                accounts.available(row, side).is_some_and(|available| available > 0)
            }
            Err(_) => false,
        };
        is_open && is_of && is_within
    }

    /// What is posted instead.
    pub(in crate::logic) fn replace(self, accounts: &Accounts, legs: &mut [Leg; 2]) {
        match self {
            Self::DropLeg => legs[1].amount = 0,
            Self::PostTwice => legs.iter_mut().for_each(|leg| leg.amount *= 2),
            Self::SwapSides => legs.iter_mut().for_each(|leg| leg.side = leg.side.opposite()),
            Self::NextRow => {
                let next = Index(legs[1].account.0 + 1);
                if accounts.row(next).is_some() {
                    legs[1].account = next;
                }
            }
            Self::Truncate => {
                let available = |leg: &Leg| accounts.row(leg.account).and_then(|row| accounts.available(row, leg.side));
                let least = legs.iter().filter_map(available).min();
                for leg in legs.iter_mut() {
                    leg.amount = leg.amount.min(least.unwrap_or(leg.amount));
                }
            }
            _ => {}
        }
    }

    /// What becomes of the accounts, and of what is answered, when all was done.
    pub(in crate::logic) fn spoil(self, accounts: &mut Accounts, legs: &[Leg; 2], balances: &mut Balances) {
        match self {
            Self::ReceiptBefore => {
                for (leg, (_, balance)) in legs.iter().zip(balances) {
                    *balance.posted_mut(leg.side) -= leg.amount;
                }
            }
            Self::ForgetStep => {
                if let Some(row) = accounts.row_mut(legs[1].account) {
                    row.changes -= 1;
                }
            }
            _ => {}
        }
    }
}
