//! What a transaction would do to which accounts, or why it can't.

use smallvec::SmallVec;
use sysd_core::Timestamp;

use super::accounts::{Accounts, Index, Row};
use super::holds::{Hold, Leg, Legs};
use crate::model::amount::AMOUNT_MAX;
use crate::model::{
    AccountId, AccountState, Action, Balance, Currency, Posting, Postings, Rate, Rejection, Rest, Side, Transaction,
    TransactionId,
};

/// What is added to a column of an account, and taken from what is held there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) account: Index,
    pub(super) side: Side,
    pub(super) posted: u128,
    pub(super) held: u128,
    pub(super) freed: u128,
}

pub(super) type Changes = SmallVec<[Change; 2]>;

/// What a transaction comes to.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) changes: Changes,
    /// What becomes of a hold: its own, or that of which it posts or voids. Boxed: most transactions have none.
    pub(super) hold: Option<Box<(TransactionId, Option<Hold>)>>,
    /// Of [`Action::PostUpTo`].
    pub(super) moved: u128,
}

/// How the accounts of the changes will be, one for one.
pub(super) type Balances = SmallVec<[(AccountId, Balance); 2]>;

/// # Errors
/// Why not.
#[inline]
pub(super) fn resolve(
    accounts: &Accounts,
    hold_of: impl FnOnce(TransactionId) -> Option<Hold>,
    now: Timestamp,
    transaction: &Transaction,
) -> Result<Resolved, Rejection> {
    let rate = transaction.details.as_ref().and_then(|details| details.rate());
    // What posts all of a hold has no postings of its own.
    let is_whole = matches!(transaction.action, Action::PostHeld { .. }) && transaction.postings.is_empty();
    if let Some(rate) = rate.filter(|_| !is_whole) {
        keeps_rate(rate, &transaction.postings)?;
    }
    match transaction.action {
        Action::Post => {
            let legs = legs(accounts, &transaction.postings)?;
            let mut changes = Changes::with_capacity(legs.len());
            for leg in &legs {
                changes.push(posts(leg));
            }
            Ok(Resolved { changes, hold: None, moved: 0 })
        }
        Action::PostUpTo => {
            let mut legs = legs(accounts, &transaction.postings)?;
            let moved = up_to(accounts, &legs)?;
            legs.iter_mut().for_each(|leg| leg.amount = moved);
            Ok(Resolved { changes: legs.iter().map(posts).collect(), hold: None, moved })
        }
        Action::Hold { expires_at } => {
            if expires_at.is_some_and(|at| at <= now) {
                return Err(Rejection::ExpiresInPast);
            }
            let legs = legs(accounts, &transaction.postings)?;
            let holds = |leg: &Leg| Change { held: leg.amount, ..nothing(leg) };
            let changes = legs.iter().map(holds).collect();
            // Its number comes with the journal.
            let hold = Hold { number: 0, expires_at, legs };
            Ok(Resolved { changes, hold: Some(Box::new((transaction.id, Some(hold)))), moved: 0 })
        }
        Action::PostHeld { hold: id, rest } => {
            let hold = hold_of(id).ok_or(Rejection::NoHold { hold: id })?;
            if let Some(rate) = rate.filter(|_| is_whole) {
                keeps_rate(rate, &postings_of(accounts, &hold))?;
            }
            let (changes, rest) = post_held(accounts, hold, rest, &transaction.postings)?;
            Ok(Resolved { changes, hold: Some(Box::new((id, rest))), moved: 0 })
        }
        Action::Void { hold: id } => {
            let hold = hold_of(id).ok_or(Rejection::NoHold { hold: id })?;
            if !transaction.postings.is_empty() {
                return Err(Rejection::VoidShape);
            }
            Ok(Resolved { changes: frees(&hold), hold: Some(Box::new((id, None))), moved: 0 })
        }
    }
}

/// What is held, which is what posts all of it.
pub(super) fn postings_of(accounts: &Accounts, hold: &Hold) -> Postings {
    let posting = |leg: &Leg| {
        let row = accounts.row(leg.account)?;
        Some(Posting { account: row.id, amount: leg.amount, currency: row.currency, side: leg.side })
    };
    hold.legs.iter().filter_map(posting).collect()
}

/// All that a hold holds is free.
pub(super) fn frees(hold: &Hold) -> Changes {
    hold.legs.iter().map(|leg| Change { freed: leg.amount, ..nothing(leg) }).collect()
}

/// How the accounts will be, each of them once.
///
/// # Errors
/// [`Rejection::Overflow`], and what bounds an account.
#[inline]
pub(super) fn after(accounts: &Accounts, changes: &[Change]) -> Result<Balances, Rejection> {
    after_checked(accounts, changes, |row, balance, change| {
        // What is only posted of what is held, or freed, takes no more than before.
        if change.posted + change.held > change.freed { accounts.check(row, balance, change.side) } else { Ok(()) }
    })
}

/// The same, with what bounds an account left to `check`.
#[inline]
pub(super) fn after_checked(
    accounts: &Accounts,
    changes: &[Change],
    check: impl Fn(&Row, &Balance, &Change) -> Result<(), Rejection>,
) -> Result<Balances, Rejection> {
    let mut balances = Balances::with_capacity(changes.len());
    for change in changes {
        // It was found before.
        let row = accounts.row(change.account).ok_or(Rejection::UnknownAccount { account: AccountId(0) })?;
        let balance = changed(&row.balance, change).ok_or(Rejection::Overflow { account: row.id })?;
        check(row, &balance, change)?;
        balances.push((row.id, balance));
    }
    Ok(balances)
}

#[inline]
fn changed(balance: &Balance, change: &Change) -> Option<Balance> {
    let add = |sum: u128, more: u128| sum.checked_add(more).filter(|sum| *sum <= AMOUNT_MAX);
    let mut after = *balance;
    let (posted, held, posted_before, held_before) = match change.side {
        Side::Debit => (&mut after.debits_posted, &mut after.debits_held, balance.debits_posted, balance.debits_held),
        Side::Credit => {
            (&mut after.credits_posted, &mut after.credits_held, balance.credits_posted, balance.credits_held)
        }
    };
    *posted = add(posted_before, change.posted)?;
    *held = add(held_before, change.held)?.checked_sub(change.freed)?;
    // What is held can always be posted.
    add(*posted, *held)?;
    Some(after)
}

#[inline]
fn nothing(leg: &Leg) -> Change {
    Change { account: leg.account, side: leg.side, posted: 0, held: 0, freed: 0 }
}

#[inline]
fn posts(leg: &Leg) -> Change {
    Change { posted: leg.amount, ..nothing(leg) }
}

/// The postings with their accounts found, everything about them checked but what there is to take.
#[inline]
fn legs(accounts: &Accounts, postings: &[Posting]) -> Result<Legs, Rejection> {
    let count = postings.len();
    if !(2..=Transaction::POSTINGS_MAX).contains(&count) {
        return Err(Rejection::PostingCount { count });
    }
    let mut legs = Legs::with_capacity(count);
    for posting in postings {
        legs.push(leg(accounts, posting)?);
    }
    balanced(postings)?;
    if let Some(index) = twice(&legs) {
        let account = accounts.row(index).map_or(AccountId(0), |row| row.id);
        return Err(Rejection::DuplicateAccount { account });
    }
    Ok(legs)
}

#[inline]
fn leg(accounts: &Accounts, posting: &Posting) -> Result<Leg, Rejection> {
    let Posting { account, amount, currency, side } = *posting;
    let (index, row) = accounts.known(account)?;
    if currency != row.currency {
        return Err(Rejection::WrongCurrency { account, found: currency, expected: row.currency });
    }
    if amount == 0 {
        return Err(Rejection::ZeroAmount { account });
    }
    if amount > AMOUNT_MAX {
        return Err(Rejection::Overflow { account });
    }
    takes_postings(row)?;
    Ok(Leg { amount, account: index, side })
}

fn takes_postings(row: &Row) -> Result<(), Rejection> {
    match row.state {
        AccountState::Open => Ok(()),
        AccountState::Frozen => Err(Rejection::Frozen { account: row.id }),
        AccountState::Closed => Err(Rejection::Closed { account: row.id }),
    }
}

/// An account that stands there twice.
#[inline]
fn twice(legs: &[Leg]) -> Option<Index> {
    if let [a, b] = legs {
        return (a.account == b.account).then_some(a.account);
    }
    let mut indexes: SmallVec<[Index; 8]> = legs.iter().map(|leg| leg.account).collect();
    indexes.sort_unstable();
    indexes.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// # Errors
/// [`Rejection::Unbalanced`] with the difference in every currency.
#[inline]
fn balanced(postings: &[Posting]) -> Result<(), Rejection> {
    if let [a, b] = postings
        && a.amount == b.amount
        && a.currency == b.currency
        && a.side != b.side
    {
        return Ok(());
    }
    let mut sums: SmallVec<[(Currency, i128); 4]> = SmallVec::new();
    for posting in postings {
        let overflow = Rejection::Overflow { account: posting.account };
        let amount = i128::try_from(posting.amount).map_err(|_| overflow.clone())?;
        let signed = if posting.side == Side::Debit { amount } else { -amount };
        match sums.iter_mut().find(|(currency, _)| *currency == posting.currency) {
            Some((_, sum)) => *sum = sum.checked_add(signed).ok_or(overflow)?,
            None => sums.push((posting.currency, signed)),
        }
    }
    sums.retain(|(_, sum)| *sum != 0);
    if sums.is_empty() { Ok(()) } else { Err(Rejection::Unbalanced { differences: sums.into_vec() }) }
}

/// What is given in one currency comes to what is got in the other, added up over the debits of each.
///
/// # Errors
/// [`Rejection::Rate`] if it does not.
pub(crate) fn keeps_rate(rate: Rate, postings: &[Posting]) -> Result<(), Rejection> {
    let given = |currency: Currency| {
        let debits = postings.iter().filter(|posting| (posting.currency, posting.side) == (currency, Side::Debit));
        debits.fold(0_u128, |sum, posting| sum.saturating_add(posting.amount))
    };
    let (from, to) = (given(rate.from), given(rate.to));
    if rate.is_kept(from, to) {
        return Ok(());
    }
    Err(Rejection::Rate { from: (rate.from, from), to: (rate.to, to) })
}

/// How much of two equal postings is there.
fn up_to(accounts: &Accounts, legs: &[Leg]) -> Result<u128, Rejection> {
    let [a, b] = legs else { return Err(Rejection::UpToShape) };
    let available = |leg: &Leg| {
        let row = accounts.row(leg.account)?;
        accounts.available(row, leg.side).map(|available| (available, row.id))
    };
    let least = [a, b].into_iter().filter_map(available).min();
    let (available, account) = least.ok_or(Rejection::UpToShape)?;
    if available == 0 {
        return Err(Rejection::InsufficientFunds { account, shortfall: 1 });
    }
    Ok(available.min(a.amount))
}

/// Posts a hold, or the part of it that `postings` say; and what is left of it.
fn post_held(
    accounts: &Accounts,
    mut hold: Hold,
    rest: Rest,
    postings: &[Posting],
) -> Result<(Changes, Option<Hold>), Rejection> {
    for leg in &hold.legs {
        if let Some(row) = accounts.row(leg.account) {
            takes_postings(row)?;
        }
    }
    if postings.is_empty() {
        let all = |leg: &Leg| Change { posted: leg.amount, freed: leg.amount, ..nothing(leg) };
        return Ok((hold.legs.iter().map(all).collect(), None));
    }
    let asked = legs(accounts, postings)?;
    for (leg, posting) in asked.iter().zip(postings) {
        let of = hold.legs.iter().find(|of| (of.account, of.side) == (leg.account, leg.side));
        let most = of.map_or(0, |of| of.amount);
        if leg.amount > most {
            return Err(Rejection::ExceedsHold { account: posting.account, side: leg.side, held: most });
        }
    }
    let mut changes = Changes::new();
    for leg in &mut hold.legs {
        let part = asked.iter().find(|part| part.account == leg.account).map_or(0, |part| part.amount);
        let freed = if rest == Rest::Release { leg.amount } else { part };
        if freed > 0 {
            changes.push(Change { posted: part, freed, ..nothing(leg) });
        }
        leg.amount -= part;
    }
    hold.legs.retain(|leg| leg.amount > 0);
    let is_over = rest == Rest::Release || hold.legs.is_empty();
    Ok((changes, (!is_over).then_some(hold)))
}
