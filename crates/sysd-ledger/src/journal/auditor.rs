//! What the journal adds up to, entry by entry. Pure.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use sysd_core::Timestamp;

use super::audit::{AuditError, Claim, Limits};
use crate::model::{
    AccountId, Action, Balance, Change, Currency, Event, Funds, JournalEntry, Posting, Rate, Rest, Side, Transaction,
    TransactionId,
};
use crate::schema::journal::ChunkHash;

/// An account, as far as the journal was read.
#[derive(Clone, Copy)]
struct Sums {
    currency: Currency,
    balance: Balance,
    ordinal: u64,
    last: u64,
}

/// Something that is held, as far as the journal was read.
struct Live {
    number: u64,
    expires_at: Option<Timestamp>,
    legs: Vec<Posting>,
}

/// A change without what it left.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moved {
    account: AccountId,
    currency: Currency,
    side: Side,
    posted: u128,
    held: u128,
    freed: u128,
}

impl Moved {
    fn of(change: &Change) -> Self {
        let Change { account, currency, side, posted, held, freed, .. } = *change;
        Self { account, currency, side, posted, held, freed }
    }

    fn none(of: &Posting) -> Self {
        Self { account: of.account, currency: of.currency, side: of.side, posted: 0, held: 0, freed: 0 }
    }
}

/// What the journal adds up to, through its last entry that was read.
#[derive(Default)]
pub(super) struct Auditor {
    accounts: HashMap<AccountId, Sums, RandomState>,
    holds: HashMap<TransactionId, Live, RandomState>,
    /// Those with a deadline.
    ending: BTreeSet<(Timestamp, TransactionId)>,
    reversed: HashMap<TransactionId, u64, RandomState>,
    pub(super) last: u64,
    last_at: Timestamp,
    pub(super) hash: ChunkHash,
}

impl Auditor {
    /// `before`: for each change the number of the account's change before it.
    ///
    /// # Errors
    /// What is wrong with the entry.
    pub(super) fn entry(&mut self, entry: &JournalEntry, before: &[u64], claim: &Claim) -> Result<(), &'static str> {
        if entry.number != self.last + 1 {
            return Err("its number is not the next");
        }
        if entry.recorded_at < self.last_at {
            return Err("it was recorded before the one before it");
        }
        (self.last, self.last_at) = (entry.number, entry.recorded_at);
        balanced(&entry.changes)?;
        let wanted = match &entry.event {
            Event::Transaction(transaction) => self.transaction(entry, transaction)?,
            Event::HoldEnded { hold } => self.hold_ended(entry, *hold)?,
        };
        if !entry.changes.iter().map(Moved::of).eq(wanted) {
            return Err("it did not change what was asked");
        }
        for (change, before) in entry.changes.iter().zip(before) {
            self.change(entry.number, change, *before, claim)?;
        }
        if let Event::Transaction(transaction) = &entry.event
            && transaction.action == Action::PostUpTo
        {
            moved_all(entry, transaction, claim)?;
        }
        Ok(())
    }

    fn change(&mut self, number: u64, change: &Change, before: u64, claim: &Claim) -> Result<(), &'static str> {
        let start = Sums { currency: change.currency, balance: Balance::default(), ordinal: 0, last: 0 };
        let sums = self.accounts.entry(change.account).or_insert(start);
        if sums.currency != change.currency {
            return Err("an account's currency is another than before");
        }
        sums.balance = changed(&sums.balance, change).ok_or("it frees more than was held")?;
        sums.ordinal += 1;
        if sums.balance != change.balance {
            return Err("the balance of an account after it is not that before it and what it changed");
        }
        if (sums.ordinal, sums.last) != (change.ordinal, before) {
            return Err("it does not name the account's change before it");
        }
        sums.last = number;
        match claim.limits(change.account) {
            Some(limits) if limits.are_kept(&sums.balance) => Ok(()),
            Some(_) => Err("it leaves an account beyond its funds, or its balance_max"),
            // The comparison with the books says which account that is.
            None => Ok(()),
        }
    }

    /// What a transaction is to change.
    fn transaction(&mut self, entry: &JournalEntry, transaction: &Transaction) -> Result<Vec<Moved>, &'static str> {
        if self.ending.first().is_some_and(|(at, _)| *at <= entry.recorded_at) {
            return Err("it was recorded while something was held whose deadline had come");
        }
        if let Some(rate) = transaction.details.as_ref().and_then(|details| details.rate())
            && !keeps(rate, entry, transaction)
        {
            return Err("it is an exchange that does not keep its rate");
        }
        if let Some(reverses) = transaction.reverses {
            if transaction.action != Action::Post {
                return Err("only what posts at once reverses another");
            }
            if self.reversed.insert(reverses, entry.number).is_some() {
                return Err("it reverses what was reversed before");
            }
        }
        let postings = transaction.postings.iter();
        match transaction.action {
            Action::Post => Ok(postings.map(|of| Moved { posted: of.amount, ..Moved::none(of) }).collect()),
            Action::PostUpTo => {
                let moved = entry.changes.first().map_or(0, |change| change.posted);
                if moved == 0 || postings.clone().any(|of| moved > of.amount) || postings.len() != 2 {
                    return Err("it moved nothing, or more than was asked");
                }
                Ok(postings.map(|of| Moved { posted: moved, ..Moved::none(of) }).collect())
            }
            Action::Hold { expires_at } => {
                if expires_at.is_some_and(|at| at <= entry.recorded_at) {
                    return Err("it holds until a time that had come");
                }
                let wanted = postings.clone().map(|of| Moved { held: of.amount, ..Moved::none(of) }).collect();
                let live = Live { number: entry.number, expires_at, legs: postings.copied().collect() };
                if let Some(at) = expires_at {
                    self.ending.insert((at, transaction.id));
                }
                if self.holds.insert(transaction.id, live).is_some() {
                    return Err("its id holds something already");
                }
                Ok(wanted)
            }
            Action::PostHeld { hold, rest } => self.post_held(hold, rest, &transaction.postings),
            Action::Void { hold } if transaction.postings.is_empty() => {
                let live = self.take(hold).ok_or("it voids what holds nothing")?;
                Ok(frees(&live))
            }
            Action::Void { .. } => Err("a void has postings"),
        }
    }

    fn hold_ended(&mut self, entry: &JournalEntry, hold: TransactionId) -> Result<Vec<Moved>, &'static str> {
        let live = self.take(hold).ok_or("it ends what holds nothing")?;
        if live.expires_at.is_none_or(|at| at > entry.recorded_at) {
            return Err("it ends a hold whose deadline had not come");
        }
        Ok(frees(&live))
    }

    fn post_held(&mut self, hold: TransactionId, rest: Rest, asked: &[Posting]) -> Result<Vec<Moved>, &'static str> {
        let mut live = self.take(hold).ok_or("it posts what holds nothing")?;
        let mut wanted = Vec::with_capacity(live.legs.len());
        let mut matched = 0;
        for leg in &mut live.legs {
            let of_leg = |of: &&Posting| (of.account, of.side) == (leg.account, leg.side);
            let part = asked.iter().find(of_leg).map(|of| of.amount);
            matched += usize::from(part.is_some());
            let part = if asked.is_empty() { leg.amount } else { part.unwrap_or(0) };
            let freed = if rest == Rest::Release { leg.amount } else { part };
            if freed > 0 {
                wanted.push(Moved { posted: part, freed, ..Moved::none(leg) });
            }
            leg.amount = leg.amount.checked_sub(part).ok_or("it posts more than was held")?;
        }
        if matched != asked.len() {
            return Err("it posts what was not held");
        }
        live.legs.retain(|leg| leg.amount > 0);
        if rest == Rest::Keep && !live.legs.is_empty() {
            if let Some(at) = live.expires_at {
                self.ending.insert((at, hold));
            }
            self.holds.insert(hold, live);
        }
        Ok(wanted)
    }

    fn take(&mut self, hold: TransactionId) -> Option<Live> {
        let live = self.holds.remove(&hold)?;
        if let Some(at) = live.expires_at {
            self.ending.remove(&(at, hold));
        }
        Some(live)
    }

    /// By which number an id was reversed, in what was read.
    pub(super) fn reversed_by(&self, id: TransactionId) -> Option<u64> {
        self.reversed.get(&id).copied()
    }

    /// Whether all of it comes to what the books say.
    pub(super) fn compare(&self, claim: &Claim) -> Result<(), AuditError> {
        for (account, currency, balance, changes) in claim.accounts() {
            let found = self.accounts.get(&account);
            if found.is_some_and(|sums| sums.currency != currency) {
                return Err(AuditError::Currency { account, books: currency });
            }
            let (sums, ordinal) = found.map_or((Balance::default(), 0), |sums| (sums.balance, sums.ordinal));
            if (sums, ordinal) != (balance, changes) {
                let (books, journal) = (Box::new(balance), Box::new(sums));
                return Err(AuditError::Account { account, books, journal });
            }
        }
        if let Some((account, sums)) = self.accounts.iter().find(|(account, _)| claim.limits(**account).is_none()) {
            let (books, journal) = (Box::default(), Box::new(sums.balance));
            return Err(AuditError::Account { account: *account, books, journal });
        }
        for view in &claim.holds {
            let is_live = self.holds.get(&view.id).is_some_and(|live| {
                (live.number, live.expires_at, &live.legs[..]) == (view.number, view.expires_at, &view.postings[..])
            });
            if !is_live {
                return Err(AuditError::Hold { hold: view.id });
            }
        }
        if self.holds.len() != claim.holds.len() {
            let known: HashSet<_, RandomState> = claim.holds.iter().map(|view| view.id).collect();
            if let Some(hold) = self.holds.keys().find(|hold| !known.contains(*hold)) {
                return Err(AuditError::Hold { hold: *hold });
            }
        }
        // Those that are in memory; those that are not are on the store.
        let in_memory = self.reversed.iter().filter(|(_, by)| **by > claim.forgotten).count();
        let is_there = |(id, by): &(TransactionId, u64)| self.reversed_by(*id) == Some(*by);
        if in_memory != claim.reversals.len() || !claim.reversals.iter().all(is_there) {
            return Err(AuditError::Reversals);
        }
        Ok(())
    }
}

/// What was asked keeps the rate; of a hold that was posted without saying how much, what was posted.
fn keeps(rate: Rate, entry: &JournalEntry, transaction: &Transaction) -> bool {
    let given = |currency: Currency| {
        let asked = transaction.postings.iter().map(|of| (of.currency, of.side, of.amount));
        let posted = entry.changes.iter().map(|change| (change.currency, change.side, change.posted));
        let posted = posted.filter(|_| transaction.postings.is_empty());
        let debits = asked.chain(posted).filter(|(of, side, _)| (*of, *side) == (currency, Side::Debit));
        debits.fold(0_u128, |sum, (.., amount)| sum.saturating_add(amount))
    };
    rate.is_kept(given(rate.from), given(rate.to))
}

/// Less than was asked is moved only where no more is there.
fn moved_all(entry: &JournalEntry, transaction: &Transaction, claim: &Claim) -> Result<(), &'static str> {
    let is_exhausted = |change: &Change| {
        let limits = claim.limits(change.account);
        limits.and_then(|limits| limits.left(&change.balance, change.side)) == Some(0)
    };
    let is_whole = entry.changes.iter().zip(&transaction.postings).all(|(change, of)| change.posted == of.amount);
    if is_whole || entry.changes.iter().any(is_exhausted) {
        return Ok(());
    }
    Err("it moved less than was asked, and more was there")
}

fn frees(live: &Live) -> Vec<Moved> {
    live.legs.iter().map(|leg| Moved { freed: leg.amount, ..Moved::none(leg) }).collect()
}

impl Limits {
    /// How much more may be taken on that side; `None`: any amount.
    fn left(&self, balance: &Balance, side: Side) -> Option<u128> {
        let (taken, there) = match (self.funds, side) {
            (Funds::DebitsWithinCredits { overdraft }, Side::Debit) => {
                (balance.debits_posted.checked_add(balance.debits_held), balance.credits_posted.checked_add(overdraft))
            }
            (Funds::CreditsWithinDebits { overdraft }, Side::Credit) => {
                (balance.credits_posted.checked_add(balance.credits_held), balance.debits_posted.checked_add(overdraft))
            }
            _ => return None,
        };
        Some(there.unwrap_or(u128::MAX).saturating_sub(taken.unwrap_or(u128::MAX)))
    }

    fn are_kept(&self, balance: &Balance) -> bool {
        let Balance { debits_posted, credits_posted, debits_held, credits_held } = *balance;
        // All of them are less than half of what fits.
        let is_within =
            |taken: u128, held: u128, there: u128, more: u128| taken.saturating_add(held) <= there.saturating_add(more);
        let by_funds = match self.funds {
            Funds::Unlimited => true,
            Funds::DebitsWithinCredits { overdraft } => {
                is_within(debits_posted, debits_held, credits_posted, overdraft)
            }
            Funds::CreditsWithinDebits { overdraft } => {
                is_within(credits_posted, credits_held, debits_posted, overdraft)
            }
        };
        let by_max = match (self.balance_max, self.normal_side) {
            (None, _) => true,
            (Some(max), Side::Debit) => is_within(debits_posted, debits_held, credits_posted, max),
            (Some(max), Side::Credit) => is_within(credits_posted, credits_held, debits_posted, max),
        };
        by_funds && by_max
    }
}

/// Debits and credits are equal in every currency: those posted, and those held less those freed.
fn balanced(changes: &[Change]) -> Result<(), &'static str> {
    let mut sums = BTreeMap::<Currency, [i128; 2]>::new();
    for change in changes {
        let [posted, held] = sums.entry(change.currency).or_default();
        let signed = |amount: u128| i128::try_from(amount).ok();
        let amounts = signed(change.posted).zip(signed(change.held)).zip(signed(change.freed));
        let ((more, holds), frees) = amounts.ok_or("an amount is too great")?;
        let sign = if change.side == Side::Debit { 1 } else { -1 };
        let sum = posted.checked_add(sign * more).zip(held.checked_add(sign * (holds - frees)));
        (*posted, *held) = sum.ok_or("an amount is too great")?;
    }
    if sums.values().all(|sums| *sums == [0, 0]) { Ok(()) } else { Err("its debits are not its credits") }
}

fn changed(balance: &Balance, change: &Change) -> Option<Balance> {
    let mut after = *balance;
    let (posted, held) = match change.side {
        Side::Debit => (&mut after.debits_posted, &mut after.debits_held),
        Side::Credit => (&mut after.credits_posted, &mut after.credits_held),
    };
    *posted = posted.checked_add(change.posted)?;
    *held = held.checked_add(change.held)?.checked_sub(change.freed)?;
    Some(after)
}

#[cfg(test)]
#[path = "auditor_tests.rs"]
mod tests;
