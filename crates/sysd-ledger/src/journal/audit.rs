//! Proving the books by their journal.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sysd_core::{Error, Followed, Store};

use super::Journal;
use super::auditor::Auditor;
use super::view::End;
use crate::logic::{Books, HoldView, Inconsistency, Leaving, Span, TrialBalance};
use crate::model::{AccountId, Balance, Currency, Funds, JournalEntry, Side, TransactionId};
use crate::schema::entry::Entries;
use crate::schema::journal::{ChunkHash, Place};

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
    /// The account is in another currency than the journal says.
    #[error("account {account} is in {books} by the books, and in another currency by the journal")]
    Currency {
        /// The account.
        account: AccountId,
        /// Its currency in the books.
        books: Currency,
    },
    /// What is held is not what the journal says.
    #[error("{hold} holds in the books something else than the journal says")]
    Hold {
        /// The transaction that holds, or does not.
        hold: TransactionId,
    },
    /// What was reversed is not what the journal says.
    #[error("the books remember other reversals than the journal says")]
    Reversals,
    /// The entry is right, but not what leads to it.
    #[error("entry {number} of the journal is not found by {what}: the row for it is missing or another")]
    Index {
        /// Its number.
        number: u64,
        /// By what: its day, its metadata, its id, what it reverses.
        what: &'static str,
    },
    /// The books disagree with themselves.
    #[error(transparent)]
    Books(#[from] Inconsistency),
    /// The journal can't be read. One that is [`Corrupt`](sysd_core::ErrorKind::Corrupt) names the row.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What may be taken from an account, and how far it may grow.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) funds: Funds,
    pub(super) balance_max: Option<u128>,
    pub(super) normal_side: Side,
}

struct Claimed {
    currency: Currency,
    limits: Limits,
    balance: Balance,
    changes: u64,
}

/// The books as they say they are.
pub(crate) struct Claim {
    end: End,
    accounts: HashMap<AccountId, Claimed, RandomState>,
    pub(super) holds: Vec<HoldView>,
    /// Those that are in memory.
    pub(super) reversals: Vec<(TransactionId, u64)>,
    pub(super) forgotten: u64,
    books: Result<BTreeMap<Currency, TrialBalance>, Inconsistency>,
}

impl Claim {
    pub(crate) fn of(books: &Books) -> Self {
        let accounts = books.accounts().zip(books.trails()).map(|(view, trail)| {
            let (funds, balance_max) = (view.account.funds, view.account.balance_max);
            let limits = Limits { funds, balance_max, normal_side: view.account.kind.normal_side() };
            let currency = view.account.currency;
            (view.account.id, Claimed { currency, limits, balance: view.balance, changes: trail.changes })
        });
        Self {
            end: End::of(books),
            accounts: accounts.collect(),
            holds: books.holds_of(|_| true),
            reversals: books.reversals(),
            forgotten: books.ids_forgotten(),
            books: books.verify(),
        }
    }

    pub(super) fn limits(&self, account: AccountId) -> Option<&Limits> {
        self.accounts.get(&account).map(|claimed| &claimed.limits)
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (AccountId, Currency, Balance, u64)> {
        self.accounts.iter().map(|(account, claimed)| (*account, claimed.currency, claimed.balance, claimed.changes))
    }
}

/// Ids of the entries that were read last, through the end of those that leave memory together.
struct Ids {
    span: Span,
    leaving: Leaving,
}

/// So many ids are looked for in memory at once, while nothing is recorded.
const IDS_AT_ONCE: usize = 1_024;
/// So many rows are looked at at once.
const ROWS_AT_ONCE: usize = 256;

impl<S: Store> Journal<S> {
    /// Reads the whole journal, adds it up, and compares it with the books.
    ///
    /// `sealed` are last numbers of chunks with their hashes, as earlier audits had them.
    pub(crate) async fn verify<L: Followed<Books>>(
        &self,
        log: &L,
        claim: Claim,
        sealed: &[(u64, ChunkHash)],
    ) -> Result<Audit, AuditError> {
        let view = self.view(claim.end.clone());
        let mut auditor = Auditor::default();
        let mut ids = Ids::after(0);
        // Chunks stay as they are: each that was sealed then must still end where it did.
        let mut unmet: Vec<u64> = sealed.iter().map(|(number, _)| *number).filter(|number| *number > 0).collect();
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
                    unmet.retain(|number| *number != chunk.last);
                }
                let corrupt = |what| AuditError::Store(Error::corrupt(self.schema.chunk(chunk.first).key(), what));
                let mut entries = Entries::of(&chunk.body).map_err(corrupt)?;
                let mut rows = Vec::new();
                while let Some(read) = entries.next().map_err(corrupt)? {
                    let before: Vec<_> = read.trails.iter().map(|trail| trail.back[0]).collect();
                    let number = read.entry.number;
                    let wrong = |what| AuditError::Entry { number, what };
                    auditor.entry(&read.entry, &before, &claim).map_err(wrong)?;
                    if hashes.is_some() {
                        self.index(&read.entry, |what, place, value| rows.push((number, what, place, value)));
                    }
                    ids.push(&read.entry);
                    if number == ids.span.through {
                        self.check_ids(log, &claim, &ids).await?;
                        ids = Ids::after(number);
                    }
                    if rows.len() >= ROWS_AT_ONCE {
                        self.check_rows(&std::mem::take(&mut rows)).await?;
                    }
                }
                self.check_rows(&rows).await?;
            }
        }
        if let Some(first) = unmet.first() {
            return Err(AuditError::Chain { first: *first });
        }
        if auditor.last != view.end.last {
            return Err(AuditError::Entry { number: auditor.last, what: "the books have no such number" });
        }
        self.check_ids(log, &claim, &ids).await?;
        auditor.compare(&claim)?;
        let trial_balance = claim.books?;
        Ok(Audit { entries: auditor.last, sealed: (view.end.written, view.end.hash), trial_balance })
    }

    /// Whether the rows that lead to entries are there, as they were written.
    async fn check_rows(&self, rows: &[(u64, &'static str, Place, Bytes)]) -> Result<(), AuditError> {
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let keys: Vec<_> = rows.iter().map(|(_, _, place, _)| place.key()).collect();
            let found = self.calls.get_many(&keys).await?;
            for ((number, what, _, value), found) in rows.iter().zip(found) {
                if found.is_none_or(|record| record.value != *value) {
                    return Err(AuditError::Index { number: *number, what });
                }
            }
        }
        Ok(())
    }

    /// Whether each id is found with its number, in memory or on the store.
    async fn check_ids<L: Followed<Books>>(&self, log: &L, claim: &Claim, ids: &Ids) -> Result<(), AuditError> {
        let index = |number, what| AuditError::Index { number, what };
        // Those that have left since the audit began are for the next one.
        for some in ids.leaving.ids.chunks(IDS_AT_ONCE) {
            let lost = log.read_within(Duration::MAX, |books| books.first_lost(some))?;
            if let Some(number) = lost {
                return Err(index(number, "its id"));
            }
        }
        if ids.span.before < claim.forgotten {
            let rows = self.schema.pages(&ids.leaving.ids.iter().copied().collect());
            let rows: Vec<_> =
                rows.into_iter().map(|(number, place, value)| (number, "its id", place, value)).collect();
            self.check_rows(&rows).await?;
        }
        let is_gone = |(_, by): &&(TransactionId, u64)| *by <= claim.forgotten;
        let rows = ids.leaving.reversals.iter().filter(is_gone).map(|(id, by)| {
            let (place, value) = self.reversal(*id, *by);
            (*by, "what it reverses", place, value)
        });
        self.check_rows(&rows.collect::<Vec<_>>()).await?;
        // Only what was there before is reversed.
        for (id, by) in &ids.leaving.reversals {
            let (number, forgotten) =
                log.read_within(Duration::MAX, |books| (books.number(*id), books.ids_forgotten()))?;
            let number = match number {
                None if forgotten > 0 => self.number_on_store(*id).await?,
                number => number,
            };
            if number.is_none_or(|number| number >= *by) {
                return Err(AuditError::Entry { number: *by, what: "it reverses what was not there" });
            }
        }
        Ok(())
    }
}

impl Ids {
    /// Of the numbers behind one.
    fn after(before: u64) -> Self {
        Self { span: Span::behind(before), leaving: Leaving::default() }
    }

    fn push(&mut self, entry: &JournalEntry) {
        let Some(transaction) = entry.transaction() else { return };
        self.leaving.ids.push((transaction.id, entry.number));
        self.leaving.reversals.extend(transaction.reverses.map(|id| (id, entry.number)));
    }
}
