//! Proving the books by their journal.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sysd_core::{Error, Store, Timestamp};

use super::Journal;
use super::view::End;
use crate::logic::{Books, Inconsistency, TrialBalance};
use crate::model::{AccountId, Balance, Change, Currency, Event, JournalEntry, Side};
use crate::schema::entry::Entries;
use crate::schema::journal::ChunkHash;

/// What was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// How many entries were read: all that there were.
    pub entries: u64,
    /// The last number that the store has, and the hash of the chunk that ends there. It covers every entry through that one: who keeps it
    /// elsewhere will see if any of them is ever changed.
    pub sealed: (u64, ChunkHash),
    /// The sums of all accounts.
    pub trial_balance: BTreeMap<Currency, TrialBalance>,
}

/// Why the books are not proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The first entry that is wrong. Those before it are right.
    #[error("entry {number} of the journal is wrong: {what}")]
    Entry {
        /// Its number.
        number: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The hashes of chunks do not follow one another: one was changed, and its hash with it.
    #[error("the chunk of the journal that begins with entry {first} was changed, or one before it")]
    Chain {
        /// Its first number.
        first: u64,
    },
    /// The account is not as the journal says.
    #[error("account {account} is not as the journal says: the books have {books:?}, the journal has {journal:?}")]
    Account {
        /// The account.
        account: AccountId,
        /// Its sums in the books.
        books: Box<Balance>,
        /// What the journal adds up to.
        journal: Box<Balance>,
    },
    /// The books disagree with themselves.
    #[error(transparent)]
    Books(#[from] Inconsistency),
    /// The journal can't be read. One that is [`Corrupt`](sysd_core::ErrorKind::Corrupt) names the row.
    #[error(transparent)]
    Store(#[from] Error),
}

/// The books as they say they are.
pub(crate) struct Claim {
    end: End,
    accounts: HashMap<AccountId, (Currency, Balance, u64), RandomState>,
    books: Result<BTreeMap<Currency, TrialBalance>, Inconsistency>,
}

impl Claim {
    pub(crate) fn of(books: &Books) -> Self {
        let accounts = books.accounts().zip(books.trails());
        let accounts = accounts
            .map(|(view, trail)| (view.account.id, (view.account.currency, view.balance, trail.changes)))
            .collect();
        Self { end: End::of(books), accounts, books: books.verify() }
    }
}

/// An account, as far as the journal was read.
#[derive(Clone, Copy)]
struct Sums {
    currency: Currency,
    balance: Balance,
    ordinal: u64,
    last: u64,
}

/// What the journal adds up to. Pure.
#[derive(Default)]
pub(super) struct Auditor {
    accounts: HashMap<AccountId, Sums, RandomState>,
    last: u64,
    last_at: Timestamp,
    hash: ChunkHash,
}

impl Auditor {
    /// # Errors
    /// What is wrong with the entry.
    fn entry(&mut self, entry: &JournalEntry, before: &[u64]) -> Result<(), &'static str> {
        if entry.number != self.last + 1 {
            return Err("its number is not the next");
        }
        if entry.recorded_at < self.last_at {
            return Err("it was recorded before the one before it");
        }
        (self.last, self.last_at) = (entry.number, entry.recorded_at);
        balanced(&entry.changes)?;
        if let Event::Transaction(transaction) = &entry.event
            && matches!(transaction.action, crate::model::Action::Post)
        {
            let is_posted = |(change, posting): (&Change, &crate::model::Posting)| {
                (change.account, change.side, change.posted) == (posting.account, posting.side, posting.amount)
            };
            let is_whole = entry.changes.len() == transaction.postings.len();
            if !is_whole || !entry.changes.iter().zip(&transaction.postings).all(is_posted) {
                return Err("it did not post what was asked");
            }
        }
        for (change, before) in entry.changes.iter().zip(before) {
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
            if (sums.ordinal, sums.last) != (change.ordinal, *before) {
                return Err("it does not name the account's change before it");
            }
            sums.last = entry.number;
        }
        Ok(())
    }

    fn compare(&self, claim: &Claim) -> Result<(), AuditError> {
        for (account, (_, balance, changes)) in &claim.accounts {
            let found = self.accounts.get(account);
            let (sums, ordinal) = found.map_or((Balance::default(), 0), |sums| (sums.balance, sums.ordinal));
            if (sums, ordinal) != (*balance, *changes) {
                let (account, books, journal) = (*account, Box::new(*balance), Box::new(sums));
                return Err(AuditError::Account { account, books, journal });
            }
        }
        match self.accounts.iter().find(|(account, _)| !claim.accounts.contains_key(*account)) {
            None => Ok(()),
            Some((account, sums)) => {
                let (books, journal) = (Box::default(), Box::new(sums.balance));
                Err(AuditError::Account { account: *account, books, journal })
            }
        }
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

impl<S: Store> Journal<S> {
    /// Reads the whole journal, adds it up, and compares it with the books.
    ///
    /// `sealed` are last numbers of chunks with their hashes, as earlier audits had them.
    pub(crate) async fn verify(&self, claim: Claim, sealed: &[(u64, ChunkHash)]) -> Result<Audit, AuditError> {
        let view = self.view(claim.end.clone());
        let mut auditor = Auditor::default();
        while auditor.last < view.end.last {
            let chunks = view.chunks(auditor.last + 1).await?;
            if chunks.is_empty() {
                return Err(AuditError::Chain { first: auditor.last + 1 });
            }
            for (chunk, hashes) in chunks {
                if let Some([before, hash]) = hashes {
                    let is_known = |(number, hash_then): &(u64, ChunkHash)| *number != chunk.last || *hash_then == hash;
                    // The books know which chunk is the last on the store, and its hash.
                    let is_last =
                        chunk.last < view.end.written || (chunk.last, hash) == (view.end.written, view.end.hash);
                    if before != auditor.hash || !is_last || !sealed.iter().all(is_known) {
                        return Err(AuditError::Chain { first: chunk.first });
                    }
                    auditor.hash = hash;
                }
                let corrupt = |what| AuditError::Store(Error::corrupt(self.schema.chunk(chunk.first).key(), what));
                let mut entries = Entries::of(&chunk.body).map_err(corrupt)?;
                while let Some(read) = entries.next().map_err(corrupt)? {
                    let before: Vec<_> = read.trails.iter().map(|trail| trail.back[0]).collect();
                    let number = read.entry.number;
                    auditor.entry(&read.entry, &before).map_err(|what| AuditError::Entry { number, what })?;
                }
            }
        }
        if auditor.last != view.end.last {
            return Err(AuditError::Entry { number: auditor.last, what: "the books have no such number" });
        }
        auditor.compare(&claim)?;
        let trial_balance = claim.books?;
        Ok(Audit { entries: auditor.last, sealed: (view.end.written, view.end.hash), trial_balance })
    }
}
