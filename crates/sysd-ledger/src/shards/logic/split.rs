//! A transaction cut into the parts of its shards.

use std::collections::{BTreeMap, BTreeSet};

use crate::logic::keeps_rate;
use crate::model::{
    AccountId, Action, Currency, Details, DetailsError, Posting, Postings, Rejection, Side, Transaction, TransactionId,
};
use crate::shards::schema::{Own, home_of, is_reserved, note_amount, own, shard_of};
use crate::shards::{Placement, Refusal, ShardId};

/// Under which key of the metadata the rate of an exchange across shards stands.
pub(crate) const RATE_KEY: &str = "exchange_rate";

/// Where accounts lie, and ids are at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) count: u16,
    pub(crate) accounts: Placement,
    pub(crate) ids: Placement,
    /// What notes are counted in.
    pub(crate) notes: Currency,
}

/// What one shard does of a transaction. It is balanced by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) shard: ShardId,
    pub(crate) postings: Postings,
}

impl Part {
    /// Of a coordinator's part: the other shards.
    pub(crate) fn others(postings: &[Posting], coordinator: ShardId) -> BTreeSet<ShardId> {
        own(postings).map(Own::peer).filter(|peer| *peer != coordinator).collect()
    }
}

/// Where a transaction goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// As it is.
    Within(ShardId),
    /// In parts: the coordinator's, which is the id's home, then the others' by their shards.
    Across(Vec<Part>),
}

/// Why it goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unsplit {
    Refused(Refusal),
    Rejected(Rejection),
}

impl From<Refusal> for Unsplit {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The shard of an account of the application.
///
/// # Errors
/// [`Refusal::Reserved`], [`Refusal::NoShard`].
pub(crate) fn place(layout: Layout, account: AccountId) -> Result<ShardId, Refusal> {
    if is_reserved(account) {
        return Err(Refusal::Reserved { account });
    }
    shard_of(layout.accounts, layout.count, account).ok_or(Refusal::NoShard { account })
}

/// The shard in which all meets that is asked under an id.
///
/// # Errors
/// [`Refusal::NoHome`].
pub(crate) fn home(layout: Layout, id: TransactionId) -> Result<ShardId, Refusal> {
    home_of(layout.ids, layout.count, id).ok_or(Refusal::NoHome { id })
}

/// Cuts a transaction up.
///
/// # Errors
/// [`Unsplit`].
pub(crate) fn split(layout: Layout, transaction: &Transaction) -> Result<Split, Unsplit> {
    let mut parts = BTreeMap::<ShardId, Postings>::new();
    for posting in &transaction.postings {
        parts.entry(place(layout, posting.account)?).or_default().push(*posting);
    }
    let Some((&first, _)) = parts.first_key_value() else {
        return Err(match transaction.action {
            Action::PostHeld { .. } | Action::Void { .. } => Refusal::ShardUnknown.into(),
            _ => Unsplit::Rejected(Rejection::PostingCount { count: 0 }),
        });
    };
    if parts.len() == 1 {
        return Ok(Split::Within(first));
    }
    let coordinator = home(layout, transaction.id)?;
    if transaction.action != Action::Post {
        return Err(Refusal::Action.into());
    }
    if transaction.reverses.is_some() {
        return Err(Refusal::Reversal.into());
    }
    if let Some(rate) = transaction.details.as_ref().and_then(|details| details.rate()) {
        keeps_rate(rate, &transaction.postings).map_err(Unsplit::Rejected)?;
    }
    let notes = |shard, peer, effective| {
        let (currency, amount) = (layout.notes, note_amount(effective));
        [Side::Debit, Side::Credit].map(|side| {
            let account = Own::Note { shard, peer, side, currency }.id();
            Posting { account, amount, currency, side }
        })
    };
    // It may have no account of the transaction. Then what is on its way goes through it.
    let mut at_coordinator = parts.remove(&coordinator).unwrap_or_default();
    for (&shard, postings) in &mut parts {
        let differences = differences(postings)?;
        if differences.is_empty() {
            // The coordinator's part names all shards.
            at_coordinator.extend(notes(coordinator, shard, None));
        }
        for (currency, difference) in differences {
            let amount = difference.unsigned_abs();
            let (there, here) = if difference > 0 { (Side::Credit, Side::Debit) } else { (Side::Debit, Side::Credit) };
            let leg = |shard, peer, side| Posting {
                account: Own::InTransit { shard, peer, currency }.id(),
                amount,
                currency,
                side,
            };
            postings.push(leg(shard, coordinator, there));
            at_coordinator.push(leg(coordinator, shard, here));
        }
    }
    let parts = [(coordinator, at_coordinator)].into_iter().chain(parts).map(|(shard, mut postings)| {
        let is_known = postings.iter().any(|posting| is_reserved(posting.account));
        if !is_known || transaction.effective.is_some() {
            postings.extend(notes(shard, coordinator, transaction.effective));
        }
        Part { shard, postings }
    });
    Ok(Split::Across(parts.collect()))
}

/// What goes with each part. A part alone may have one of the two currencies of an exchange, so the books could not see that it keeps
/// the rate: [`split`] has seen it, and it stands in the metadata.
///
/// # Errors
/// [`DetailsError`] if there is no room for it.
pub(crate) fn details_of_parts(details: &Details) -> Result<Details, DetailsError> {
    let Some(rate) = details.rate() else { return Ok(details.clone()) };
    let noted = (RATE_KEY.to_owned(), rate.to_string());
    Details::new(details.memo(), details.metadata().iter().cloned().chain([noted]).collect())
}

/// Debits less credits, of each currency in which they differ.
pub(crate) fn differences(postings: &[Posting]) -> Result<BTreeMap<Currency, i128>, Unsplit> {
    let mut sums = BTreeMap::<Currency, i128>::new();
    for posting in postings {
        let overflow = || Unsplit::Rejected(Rejection::Overflow { account: posting.account });
        let amount = i128::try_from(posting.amount).map_err(|_| overflow())?;
        let signed = if posting.side == Side::Debit { amount } else { -amount };
        let sum = sums.entry(posting.currency).or_default();
        *sum = sum.checked_add(signed).ok_or_else(overflow)?;
    }
    sums.retain(|_, sum| *sum != 0);
    Ok(sums)
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
