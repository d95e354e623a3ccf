//! The machine: accounts, transactions, holds, groups.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sysd_core::Timestamp;

use super::accounts::{Accounts, Index};
use super::holds::{Hold, Holds};
use super::numbers::Numbers;
use super::resolve::{Balances, Resolved, after, frees, resolve};
use crate::model::account::AccountView;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{
    Account, AccountId, AccountState, AccountUpdate, Action, Balance, Currency, Date, Funds, Receipt, Rejection, Reply,
    Side, Transaction, TransactionId,
};

/// The most transactions of a group.
pub const GROUP_MAX: usize = 1_000;

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
    /// No transaction may be effective on this day or before it, from now on.
    ClosePeriod(Date),
    /// Nothing but that time passes: holds end.
    Tick,
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
    /// Which transactions were taken back, and by which number.
    pub(super) reversed: HashMap<TransactionId, u64, RandomState>,
    pub(super) closed_through: Option<Date>,
    /// What a group has done so far, if one is under way.
    undo: Option<Vec<Undo>>,
    /// A deliberate mistake.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

/// Mistakes that books could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Changes all accounts of a transaction but the last.
    DropLeg,
    /// Takes an id that was recorded for a new one.
    ForgetIds,
    /// Looks at what was posted alone when something is taken.
    IgnoreHolds,
    /// Moves what is there where more was asked for.
    Truncate,
    /// Keeps what a group did before one of it was rejected.
    KeepGroup,
    /// Keeps what is held after its deadline.
    ForgetDeadlines,
    /// Reverses as often as it is asked to.
    ReverseAgain,
    /// Frees the rest of a hold of which a part is posted, though it should stay.
    FreeRest,
}

/// How a step of a group is taken back.
#[derive(Debug)]
enum Undo {
    Balance(Index, Balance),
    Hold(TransactionId, Option<Hold>),
    Reversed(TransactionId),
    Number,
}

/// What is to be done, and how the accounts will be.
pub(super) type Plan = (Resolved, Balances);

/// Why a transaction was not recorded.
enum Refusal {
    Exists(u64),
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

impl Books {
    /// Does what is asked. `now` never goes back.
    pub fn apply(&mut self, now: Timestamp, command: &Command) -> Reply {
        self.end_holds(now);
        match command {
            Command::Transact(transaction) => match self.transact(now, transaction) {
                Ok(receipt) => Reply::Recorded(receipt),
                Err(Refusal::Exists(number)) => Reply::Exists { id: transaction.id, number },
                Err(Refusal::Rejected(rejection)) => rejection.into(),
            },
            Command::Group(transactions) => self.transact_all(now, transactions).unwrap_or_else(Reply::from),
            Command::Open(account) => self.open(account).map_or_else(Reply::from, |()| Reply::Done),
            Command::Update(id, update) => self.update(*id, *update).map_or_else(Reply::from, |()| Reply::Done),
            Command::ClosePeriod(through) => {
                self.closed_through = self.closed_through.max(Some(*through));
                Reply::Done
            }
            Command::Tick => Reply::Done,
        }
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

    #[cfg(feature = "seeded-bugs")]
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    const fn has(&self, _: Bug) -> bool {
        false
    }

    fn end_holds(&mut self, now: Timestamp) {
        if self.has(Bug::ForgetDeadlines) {
            return;
        }
        while let Some(id) = self.holds.next_ended(now) {
            if let Some(hold) = self.holds.set(id, None) {
                for change in frees(&hold) {
                    if let Some(row) = self.accounts.row_mut(change.account) {
                        let held = match change.side {
                            Side::Debit => &mut row.balance.debits_held,
                            Side::Credit => &mut row.balance.credits_held,
                        };
                        *held -= change.freed;
                    }
                }
            }
            self.numbers.push_unnamed(id);
        }
    }

    #[inline]
    fn transact(&mut self, now: Timestamp, transaction: &Transaction) -> Result<Box<Receipt>, Refusal> {
        let hash = match self.numbers.find(transaction.id) {
            Ok(number) if !self.has(Bug::ForgetIds) => return Err(Refusal::Exists(number)),
            Ok(_) => self.numbers.hash(transaction.id),
            Err(hash) => hash,
        };
        if let Some(through) = self.closed_through
            && transaction.effective.unwrap_or_else(|| Date::of(now)) <= through
        {
            return Err(Rejection::PeriodClosed { through }.into());
        }
        if let Some(reverses) = transaction.reverses {
            self.reversible(transaction.action, reverses)?;
        }
        let (Resolved { changes, hold, moved }, balances) = self.plan(now, transaction)?;

        // Nothing was changed until here, and nothing can fail behind it.
        let number = self.numbers.push(transaction.id, hash).ok_or(Rejection::Full)?;
        self.note(|| Undo::Number);
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
            self.reversed.insert(reverses, number);
            self.note(|| Undo::Reversed(reverses));
        }
        Ok(Box::new(Receipt { id: transaction.id, number, recorded_at: now, moved, balances }))
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

    fn reversible(&self, action: Action, reverses: TransactionId) -> Result<(), Rejection> {
        if action != Action::Post {
            return Err(Rejection::ReversalShape);
        }
        if let Some(by) = self.reversed.get(&reverses)
            && !self.has(Bug::ReverseAgain)
        {
            return Err(Rejection::AlreadyReversed { reverses, by: *by });
        }
        self.numbers.find(reverses).map(|_| ()).map_err(|_| Rejection::UnknownTransaction { reverses })
    }

    fn transact_all(&mut self, now: Timestamp, transactions: &[Transaction]) -> Result<Reply, Rejection> {
        let count = transactions.len();
        if !(1..=GROUP_MAX).contains(&count) {
            return Err(Rejection::GroupCount { count, max: GROUP_MAX });
        }
        let known = |transaction: &Transaction| self.numbers.find(transaction.id).ok();
        if let Some(first) = transactions.first()
            && let Some(number) = known(first)
            && transactions.iter().all(|transaction| known(transaction).is_some())
        {
            return Ok(Reply::Exists { id: first.id, number });
        }
        self.undo = Some(Vec::with_capacity(4 * count));
        let mut receipts = Vec::with_capacity(count);
        for (index, transaction) in transactions.iter().enumerate() {
            match self.transact(now, transaction) {
                Ok(receipt) => receipts.push(*receipt),
                Err(refusal) => {
                    self.take_back();
                    let cause = Box::new(match refusal {
                        Refusal::Exists(number) => Rejection::Exists { id: transaction.id, number },
                        Refusal::Rejected(rejection) => rejection,
                    });
                    return Err(Rejection::InGroup { index, cause });
                }
            }
        }
        self.undo = None;
        Ok(Reply::GroupRecorded(receipts))
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
                Undo::Reversed(id) => {
                    self.reversed.remove(&id);
                }
                Undo::Number => self.numbers.pop(),
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

    /// The number of a transaction in the journal, if it was recorded.
    pub fn number(&self, id: TransactionId) -> Option<u64> {
        self.numbers.find(id).ok()
    }

    /// How many numbers the journal has.
    pub fn journal_len(&self) -> u64 {
        self.numbers.count()
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
