//! Plans with a deliberate mistake in them.

use sysd_core::Timestamp;

use super::Bug;
use crate::logic::accounts::Accounts;
use crate::logic::books::Plan;
use crate::logic::holds::Hold;
use crate::logic::resolve::{after, after_checked, resolve};
use crate::model::{Action, Balance, Rejection, Rest, Transaction, TransactionId};

pub(in crate::logic) fn plan(
    bug: Bug,
    accounts: &Accounts,
    hold_of: impl FnOnce(TransactionId) -> Option<Hold>,
    now: Timestamp,
    transaction: &Transaction,
) -> Result<Plan, Rejection> {
    let mut transaction = transaction.clone();
    if bug == Bug::FreeRest
        && let Action::PostHeld { rest, .. } = &mut transaction.action
    {
        *rest = Rest::Release;
    }
    let mut resolved = resolve(accounts, hold_of, now, &transaction)?;
    let mut found = after(accounts, &resolved.changes);
    match (bug, &found) {
        (Bug::IgnoreHolds, Err(Rejection::InsufficientFunds { .. })) => {
            found = after_checked(accounts, &resolved.changes, |row, balance, change| {
                accounts.check(row, &Balance { debits_held: 0, credits_held: 0, ..*balance }, change.side)
            });
        }
        (Bug::Truncate, Err(Rejection::InsufficientFunds { shortfall, .. })) => {
            for change in &mut resolved.changes {
                change.posted = change.posted.saturating_sub(*shortfall);
            }
            found = after_checked(accounts, &resolved.changes, |_, _, _| Ok(()));
        }
        _ => {}
    }
    let mut after = found?;
    if bug == Bug::DropLeg {
        after.pop();
    }
    Ok((resolved, after))
}
