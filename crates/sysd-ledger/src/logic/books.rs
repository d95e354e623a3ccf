//! The machine: accounts, transactions, holds, groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sysd_core::Timestamp;

use super::accounts::{Accounts, Index};
use super::bugs::Bug;
use super::holds::{Hold, Holds};
use super::looked::Looked;
use super::numbers::{Found, Numbers};
use super::resolve::{Balances, Change, Changes, Resolved, after, resolve};
use super::reversals::Reversals;
use super::tail::{Recorded, Tail};
use crate::model::account::AccountView;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{
    Account, AccountId, AccountState, AccountUpdate, Action, Balance, Currency, Date, Funds, Receipt, Rejection, Reply,
    Side, Transaction, TransactionId,
};
use crate::schema::entry::Trail;
use crate::schema::journal::ChunkHash;

/// The most transactions of a group.
pub const GROUP_MAX: usize = 1_000;

/// So many bytes of the journal may wait for the store.
pub(crate) const TAIL_BYTES_MAX: usize = 64 << 20;

/// So many transactions of a batch are looked up together, so that the waits for memory come together, too.
const NEAR: usize = 32;

/// What is asked of the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens an account.
    Open(Box<Account>),
    /// Changes an account.
    Update(AccountId, AccountUpdate),
    /// One transaction.
    Transact(Transaction),
    /// Several, all of them or none.
    Group(Vec<Transaction>),
    /// No transaction may be effective on this day or before it, from now on: tomorrow in UTC at most.
    ClosePeriod(Date),
    /// Nothing but that time passes: holds end, 1,000 at most.
    Tick,
    /// Several transactions, each for itself, in one command. Shared: who asks keeps them, for there may be many.
    Batch(Arc<Vec<Transaction>>),
    /// The store has the journal through that number, the last of a chunk of that hash.
    Wrote {
        /// The last number of a chunk.
        through: u64,
        /// Its hash.
        hash: ChunkHash,
    },
    /// The store has the ids through that number: whole blocks of them leave memory.
    Forget {
        /// The last number of a block of ids.
        through: u64,
    },
    /// Transactions, and what is known of ids that may have left memory.
    Looked(Looked, Box<Self>),
}

/// The sums of all accounts of a currency. Debits equal credits, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TrialBalance {
    /// How many accounts there are.
    pub accounts: u64,
    /// Their sums, added up.
    pub total: Balance,
}

/// Books that don't agree with themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistency {
    /// Debits are not credits.
    #[error("the debits and credits of {currency} differ")]
    Currency {
        /// The currency.
        currency: Currency,
    },
    /// What an account holds is not what transactions hold of it.
    #[error("account {account} says that {says} is held of its {side}s, its holds say {found}")]
    Held {
        /// The account.
        account: AccountId,
        /// The side.
        side: Side,
        /// What the account says.
        says: u128,
        /// What its holds add up to.
        found: u128,
    },
}

/// Accounts, what was posted and what is held: a pure machine. The log makes it durable.
///
/// Invariants: in every currency debits equal credits, posted and held; what an account holds is what its holds add up to;
/// no account is ever beyond its funds or its `balance_max` by what was posted since it was opened.
#[derive(Debug, Default)]
pub struct Books {
    pub(super) accounts: Accounts,
    pub(super) numbers: Numbers,
    pub(super) holds: Holds,
    pub(super) reversals: Reversals,
    pub(super) closed_through: Option<Date>,
    pub(super) tail: Tail,
    /// What a group has done so far, if one is under way.
    undo: Option<Vec<Undo>>,
    /// A deliberate mistake.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
    /// How many transactions were recorded on the short way of transfers between two accounts.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub pairs: u64,
}

/// How a step of a group is taken back.
#[derive(Debug)]
enum Undo {
    Balance(Index, Balance),
    Hold(TransactionId, Option<Hold>),
    Reversed,
    /// And when the one before it was recorded.
    Number(Timestamp),
}

/// What is to be done, and how the accounts will be.
pub(super) type Plan = (Resolved, Balances);

/// Why a transaction was not recorded.
enum Refusal {
    Exists(u64),
    /// Whether it exists is not known here.
    Forgotten,
    Rejected(Rejection),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Rejection> for Reply {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}

/// A transaction that was recorded, and what it changed.
struct Done {
    number: u64,
    changes: Changes,
    balances: Balances,
    moved: u128,
}

impl Done {
    fn receipt(self, id: TransactionId, now: Timestamp) -> Receipt {
        let Self { number, balances, moved, .. } = self;
        Receipt { id, number, recorded_at: now, moved, balances }
    }
}

impl Books {
    /// Does what is asked. Time never goes back: a `now` before that of the last entry counts as that.
    pub fn apply(&mut self, now: Timestamp, command: &Command) -> Reply {
        let now = now.max(self.tail.last_at);
        if !self.end_holds(now)
            && let Some(reply) = self.not_yet(command)
        {
            return reply;
        }
        self.do_command(now, command, None)
    }

    fn do_command(&mut self, now: Timestamp, command: &Command, looked: Option<&Looked>) -> Reply {
        match command {
            Command::Transact(transaction) => self.record(now, transaction, [Index::NONE; 2], looked),
            Command::Batch(transactions) => {
                let mut replies = Vec::with_capacity(transactions.len());
                for some in transactions.chunks(NEAR) {
                    let near = self.near(some);
                    let some = some.iter().zip(near);
                    replies.extend(some.map(|(transaction, near)| self.record(now, transaction, near, looked)));
                }
                Reply::Batch(replies)
            }
            Command::Group(transactions) => {
                self.transact_all(now, transactions, looked).unwrap_or_else(|refusal| match refusal {
                    Refusal::Rejected(rejection) => rejection.into(),
                    _ => Reply::LookUp(Box::new(self.known(transactions))),
                })
            }
            Command::Open(account) => self.open(account).map_or_else(Reply::from, |()| Reply::Done),
            Command::Update(id, update) => self.update(*id, *update).map_or_else(Reply::from, |()| Reply::Done),
            Command::ClosePeriod(through) => {
                self.close_period(now, *through).map_or_else(Reply::from, |()| Reply::Done)
            }
            Command::Tick => Reply::Done,
            Command::Wrote { through, hash } => {
                self.tail.wrote(*through, *hash);
                Reply::Done
            }
            Command::Forget { through } => {
                self.numbers.forget((*through).min(self.tail.written));
                self.reversals.forget(self.numbers.forgotten());
                Reply::Done
            }
            // One within another is not made, and would say nothing new.
            Command::Looked(_, inner) if matches!(**inner, Command::Looked(..)) => Reply::Done,
            Command::Looked(looked, inner) => self.do_command(now, inner, Some(looked)),
        }
    }

    /// What is known here of the ids of some transactions.
    #[cold]
    pub(crate) fn known(&self, transactions: &[Transaction]) -> Looked {
        let ids = transactions.iter().flat_map(|transaction| [Some(transaction.id), transaction.reverses]).flatten();
        let known = ids.filter_map(|id| self.number(id).map(|number| (id, number))).collect();
        let reversed = transactions.iter().filter_map(|transaction| transaction.reverses);
        let reversed = reversed.filter_map(|id| self.reversals.get(id).map(|by| (id, by))).collect();
        Looked::new(self.numbers.count(), known, reversed)
    }

    /// Records one transaction, whose accounts are likely to be these, and answers.
    #[inline]
    fn record(
        &mut self,
        now: Timestamp,
        transaction: &Transaction,
        near: [Index; 2],
        looked: Option<&Looked>,
    ) -> Reply {
        if let Some(receipt) = self.record_pair(now, transaction, near) {
            return Reply::Recorded(receipt);
        }
        match self.transact(now, transaction, looked) {
            Ok(done) => {
                self.write(now, Recorded::Transaction(transaction), &done.changes, &done.balances);
                Reply::Recorded(done.receipt(transaction.id, now))
            }
            Err(Refusal::Exists(number)) => Reply::Exists { id: transaction.id, number },
            Err(Refusal::Forgotten) => Reply::LookUp(Box::new(self.known(std::slice::from_ref(transaction)))),
            Err(Refusal::Rejected(rejection)) => rejection.into(),
        }
    }

    /// Writes the next number into the journal.
    #[inline]
    pub(super) fn write(&mut self, now: Timestamp, recorded: Recorded<'_>, changes: &[Change], balances: &Balances) {
        let is_whole = self.tail.begin(now, recorded, changes.len().min(balances.len()));
        let number = self.tail.last;
        for (change, (_, balance)) in changes.iter().zip(balances) {
            let trail = self.accounts.step(change.account, number);
            if let Some(row) = self.accounts.row(change.account) {
                self.tail.put_change(is_whole, change, row, balance, &trail);
            }
        }
        self.tail.end();
    }

    /// Where the accounts of these lie, most likely, and a look at each.
    #[inline]
    fn near(&self, transactions: &[Transaction]) -> [[Index; 2]; NEAR] {
        let mut near = [[Index::NONE; 2]; NEAR];
        for (transaction, near) in transactions.iter().zip(&mut near) {
            if let [a, b] = transaction.postings.as_slice() {
                *near = [self.accounts.likely(a.account), self.accounts.likely(b.account)];
            }
        }
        let rows = || near.iter().take(transactions.len()).flatten();
        std::hint::black_box(rows().fold(0, |all, index| all ^ self.accounts.touch(*index)));
        std::hint::black_box(rows().fold(0, |all, index| all ^ self.accounts.touch_marks(*index)));
        near
    }

    fn open(&mut self, account: &Account) -> Result<(), Rejection> {
        let bytes = account.metadata.len();
        if bytes > Account::METADATA_MAX {
            return Err(Rejection::MetadataTooLong { account: account.id, bytes });
        }
        let overdraft = match account.funds {
            Funds::Unlimited => 0,
            Funds::DebitsWithinCredits { overdraft } | Funds::CreditsWithinDebits { overdraft } => overdraft,
        };
        if overdraft.max(account.balance_max.unwrap_or(0)) > AMOUNT_MAX {
            return Err(Rejection::Overflow { account: account.id });
        }
        if let Some(found) = self.accounts.find(account.id) {
            let is_same = self.accounts.view(found).is_some_and(|view| view.account == *account);
            return if is_same { Ok(()) } else { Err(Rejection::AccountExists { account: account.id }) };
        }
        self.accounts.push(account).map(|_| ()).ok_or(Rejection::Full)
    }

    fn update(&mut self, id: AccountId, update: AccountUpdate) -> Result<(), Rejection> {
        let (index, row) = self.accounts.known(id)?;
        if row.state == AccountState::Closed {
            return if update == AccountUpdate::Close { Ok(()) } else { Err(Rejection::Closed { account: id }) };
        }
        let state = match update {
            AccountUpdate::Freeze => AccountState::Frozen,
            AccountUpdate::Unfreeze => AccountState::Open,
            AccountUpdate::Close => {
                let Balance { debits_posted, credits_posted, debits_held, credits_held } = row.balance;
                if debits_posted != credits_posted || debits_held != 0 || credits_held != 0 {
                    return Err(Rejection::NotEmpty { account: id });
                }
                AccountState::Closed
            }
        };
        if let Some(row) = self.accounts.row_mut(index) {
            row.state = state;
        }
        Ok(())
    }

    fn close_period(&mut self, now: Timestamp, through: Date) -> Result<(), Rejection> {
        // East of Greenwich it is tomorrow already.
        let latest = Date(Date::of(now).0.saturating_add(1));
        if through > latest {
            return Err(Rejection::PeriodAhead { through, latest });
        }
        self.closed_through = self.closed_through.max(Some(through));
        Ok(())
    }

    #[inline]
    fn transact(
        &mut self,
        now: Timestamp,
        transaction: &Transaction,
        looked: Option<&Looked>,
    ) -> Result<Done, Refusal> {
        let hash = match self.numbers.find(transaction.id, looked) {
            Found::New(hash) => hash,
            Found::Number(_) if self.has(Bug::ForgetIds) => self.numbers.hash(transaction.id),
            Found::Number(number) => return Err(Refusal::Exists(number)),
            Found::Forgotten(hash) if self.has(Bug::ForgetOldIds) => hash,
            Found::Forgotten(_) => return Err(Refusal::Forgotten),
        };
        if self.tail.bytes() > TAIL_BYTES_MAX {
            return Err(Rejection::JournalBehind { bytes: self.tail.bytes() }.into());
        }
        if let Some(through) = self.closed_through
            && transaction.effective.unwrap_or_else(|| Date::of(now)) <= through
        {
            return Err(Rejection::PeriodClosed { through }.into());
        }
        if let Some(reverses) = transaction.reverses {
            self.reversible(transaction.action, reverses, looked)?;
        }
        let (Resolved { changes, hold, moved }, balances) = self.plan(now, transaction)?;

        // Nothing was changed until here, and nothing can fail behind it.
        let ended_at = self.numbers.ended_at();
        let number = self.numbers.push(transaction.id, hash, now).ok_or(Rejection::Full)?;
        self.note(|| Undo::Number(ended_at));
        for (change, (_, balance)) in changes.iter().zip(&balances) {
            if let Some(row) = self.accounts.row_mut(change.account) {
                let before = std::mem::replace(&mut row.balance, *balance);
                self.note(|| Undo::Balance(change.account, before));
            }
        }
        if let Some((id, hold)) = hold.map(|hold| *hold) {
            let hold = hold.map(|hold| if id == transaction.id { Hold { number, ..hold } } else { hold });
            let before = self.holds.set(id, hold);
            self.note(|| Undo::Hold(id, before));
        }
        if let Some(reverses) = transaction.reverses {
            self.reversals.push(reverses, number);
            self.note(|| Undo::Reversed);
        }
        Ok(Done { number, changes, balances, moved })
    }

    /// What a transaction would do, and how the accounts will be; nothing is changed.
    #[inline]
    fn plan(&self, now: Timestamp, transaction: &Transaction) -> Result<Plan, Rejection> {
        let hold_of = |id| self.holds.get(id).cloned();
        #[cfg(feature = "seeded-bugs")]
        if let Some(bug) = self.bug {
            return super::bugs::plan(bug, &self.accounts, hold_of, now, transaction);
        }
        let resolved = resolve(&self.accounts, hold_of, now, transaction)?;
        let after = after(&self.accounts, &resolved.changes)?;
        Ok((resolved, after))
    }

    fn reversible(&self, action: Action, reverses: TransactionId, looked: Option<&Looked>) -> Result<(), Refusal> {
        if action != Action::Post {
            return Err(Rejection::ReversalShape.into());
        }
        if let Some(by) = self.reversals.get(reverses)
            && !self.has(Bug::ReverseAgain)
        {
            return Err(Rejection::AlreadyReversed { reverses, by }.into());
        }
        let number = match self.numbers.find(reverses, looked) {
            Found::Number(number) => number,
            Found::New(_) => return Err(Rejection::UnknownTransaction { reverses }.into()),
            Found::Forgotten(_) => return Err(Refusal::Forgotten),
        };
        // What is in memory was reversed, if at all, by what is in memory, too.
        let forgotten = self.numbers.forgotten();
        if number > forgotten || self.has(Bug::ForgetReversals) {
            return Ok(());
        }
        let looked = looked.filter(|looked| looked.through() >= forgotten).ok_or(Refusal::Forgotten)?;
        match looked.reversed_by(reverses) {
            Some(by) if !self.has(Bug::ReverseAgain) => Err(Rejection::AlreadyReversed { reverses, by }.into()),
            _ => Ok(()),
        }
    }

    fn transact_all(
        &mut self,
        now: Timestamp,
        transactions: &[Transaction],
        looked: Option<&Looked>,
    ) -> Result<Reply, Refusal> {
        let count = transactions.len();
        if !(1..=GROUP_MAX).contains(&count) {
            return Err(Rejection::GroupCount { count, max: GROUP_MAX }.into());
        }
        let known = |transaction: &Transaction| match self.numbers.find(transaction.id, looked) {
            Found::Number(number) => Ok(Some(number)),
            Found::New(_) => Ok(None),
            Found::Forgotten(_) => Err(Refusal::Forgotten),
        };
        let numbers = transactions.iter().map(known).collect::<Result<Option<Vec<_>>, _>>()?;
        if let (Some(first), Some(numbers)) = (transactions.first(), numbers)
            && let Some(number) = numbers.first()
        {
            return Ok(Reply::Exists { id: first.id, number: *number });
        }
        self.undo = Some(Vec::with_capacity(4 * count));
        let mut all = Vec::with_capacity(count);
        for (index, transaction) in transactions.iter().enumerate() {
            match self.transact(now, transaction, looked) {
                Ok(done) => all.push(done),
                Err(refusal) => {
                    self.take_back();
                    let cause = Box::new(match refusal {
                        Refusal::Exists(number) => Rejection::Exists { id: transaction.id, number },
                        Refusal::Rejected(rejection) => rejection,
                        Refusal::Forgotten => return Err(refusal),
                    });
                    return Err(Rejection::InGroup { index, cause }.into());
                }
            }
        }
        self.undo = None;
        for (transaction, done) in transactions.iter().zip(&all) {
            self.write(now, Recorded::Transaction(transaction), &done.changes, &done.balances);
        }
        let receipts = transactions.iter().zip(all).map(|(transaction, done)| done.receipt(transaction.id, now));
        Ok(Reply::GroupRecorded(receipts.collect()))
    }

    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        if let Some(done) = &mut self.undo {
            done.push(undo());
        }
    }

    fn take_back(&mut self) {
        if self.has(Bug::KeepGroup) {
            self.undo = None;
        }
        for step in self.undo.take().unwrap_or_default().into_iter().rev() {
            match step {
                Undo::Balance(index, balance) => {
                    if let Some(row) = self.accounts.row_mut(index) {
                        row.balance = balance;
                    }
                }
                Undo::Hold(id, hold) => {
                    self.holds.set(id, hold);
                }
                Undo::Reversed => self.reversals.pop(),
                Undo::Number(ended_at) => self.numbers.pop(ended_at),
            }
        }
    }

    /// An account as it stands.
    pub fn account(&self, id: AccountId) -> Option<AccountView> {
        self.accounts.find(id).and_then(|index| self.accounts.view(index))
    }

    /// The sums of an account.
    pub fn balance(&self, id: AccountId) -> Option<Balance> {
        self.accounts.known(id).ok().map(|(_, row)| row.balance)
    }

    /// How much may still be taken from an account on that side; `None` in the answer: any amount.
    pub fn available(&self, id: AccountId, side: Side) -> Option<Option<u128>> {
        self.accounts.known(id).ok().map(|(_, row)| self.accounts.available(row, side))
    }

    /// The number of a transaction in the journal, if it was recorded and its id is still in memory.
    pub fn number(&self, id: TransactionId) -> Option<u64> {
        match self.numbers.find(id, None) {
            Found::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The number of what took a transaction back, if that is still in memory.
    pub fn reversed_by(&self, id: TransactionId) -> Option<u64> {
        self.reversals.get(id)
    }

    /// How many ids have left memory: those of the numbers through this one. See [`Command::Forget`].
    pub fn ids_forgotten(&self) -> u64 {
        self.numbers.forgotten()
    }

    /// Through which number the store has the journal, and the hash of the chunk that ends there: see [`Command::Wrote`].
    pub fn journal_written(&self) -> (u64, ChunkHash) {
        (self.tail.written, self.tail.hash)
    }

    /// The last number that could be written to the store now.
    pub fn journal_full(&self) -> u64 {
        self.tail.full.back().map_or(self.tail.written, |chunk| chunk.last)
    }

    /// How often an account was changed: the ordinal of its last change.
    pub fn changes_of(&self, id: AccountId) -> Option<u64> {
        self.accounts.known(id).ok().map(|(_, row)| row.changes)
    }

    /// How many numbers the journal has.
    pub fn journal_len(&self) -> u64 {
        self.numbers.count()
    }

    /// Where the changes of an account are, as if of one that comes next.
    pub(crate) fn trail_of(&self, id: AccountId) -> Option<Trail> {
        self.accounts.find(id).and_then(|index| self.accounts.next_trail(index))
    }

    /// The first of these numbers that its id is not found with, of those whose ids are in memory.
    pub(crate) fn first_lost(&self, ids: &[(TransactionId, u64)]) -> Option<u64> {
        let is_lost = |(id, number): &&(TransactionId, u64)| {
            *number > self.numbers.forgotten() && self.number(*id) != Some(*number)
        };
        ids.iter().find(is_lost).map(|(_, number)| *number)
    }

    /// How many accounts there are.
    pub fn accounts_len(&self) -> usize {
        self.accounts.len()
    }

    /// How many transactions hold something.
    pub fn holds_len(&self) -> usize {
        self.holds.len()
    }

    /// The last day that is closed.
    pub fn closed_through(&self) -> Option<Date> {
        self.closed_through
    }

    /// All accounts, in the order in which they were opened.
    pub fn accounts(&self) -> impl Iterator<Item = AccountView> {
        self.accounts.views()
    }

    /// The sums of all accounts, by currency.
    ///
    /// # Cost
    /// Looks at every account.
    pub fn trial_balance(&self) -> BTreeMap<Currency, TrialBalance> {
        let mut sums = BTreeMap::<Currency, TrialBalance>::new();
        for row in self.accounts.rows() {
            let sum = sums.entry(row.currency).or_default();
            sum.accounts += 1;
            let add = |sum: &mut u128, more: u128| *sum = sum.saturating_add(more);
            add(&mut sum.total.debits_posted, row.balance.debits_posted);
            add(&mut sum.total.credits_posted, row.balance.credits_posted);
            add(&mut sum.total.debits_held, row.balance.debits_held);
            add(&mut sum.total.credits_held, row.balance.credits_held);
        }
        sums
    }

    /// Whether the books agree with themselves: in every currency debits are credits, posted and held, and every account holds
    /// what its holds add up to.
    ///
    /// # Errors
    /// The first [`Inconsistency`].
    ///
    /// # Cost
    /// Looks at every account and every hold.
    pub fn verify(&self) -> Result<BTreeMap<Currency, TrialBalance>, Inconsistency> {
        let sums = self.trial_balance();
        for (currency, TrialBalance { total, .. }) in &sums {
            if total.debits_posted != total.credits_posted || total.debits_held != total.credits_held {
                return Err(Inconsistency::Currency { currency: *currency });
            }
        }
        let mut held = HashMap::<(Index, bool), u128, RandomState>::default();
        for (_, hold) in self.holds.in_order() {
            for leg in &hold.legs {
                let sum = held.entry((leg.account, leg.side == Side::Debit)).or_default();
                *sum = sum.saturating_add(leg.amount);
            }
        }
        for (at, row) in (0..).zip(self.accounts.rows()) {
            for (side, says) in [(Side::Debit, row.balance.debits_held), (Side::Credit, row.balance.credits_held)] {
                let found = held.get(&(Index(at), side == Side::Debit)).copied().unwrap_or(0);
                if says != found {
                    return Err(Inconsistency::Held { account: row.id, side, says, found });
                }
            }
        }
        Ok(sums)
    }
}
