//! Random commands.

use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::Timestamp;
use sysd_ledger::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Command, Currency, Date, Details, Funds, Posting, Reply,
    Rest, Side, Transaction, TransactionId,
};

use super::naive::receipts;

/// The first commands open them. Of each currency half.
pub(crate) const ACCOUNTS: u128 = 8;

/// Draws what is asked of books: mostly what can be, so that it is not refusals that are seen.
pub(crate) struct World {
    pub(crate) random: Pcg64Mcg,
    pub(crate) now: Timestamp,
    /// The longest that something is held, in microseconds.
    pub(crate) hold_us_max: u64,
    /// Of so many postings one takes another transaction back.
    pub(crate) reversal_one_in: u32,
    /// The longest memo of a transaction; each has one, if it is not zero.
    pub(crate) memo_bytes_max: usize,
    currencies: [Currency; 2],
    ids: Vec<TransactionId>,
    holds: Vec<TransactionId>,
    opened: u128,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let currencies = [Currency::iso("EUR").unwrap(), Currency::custom("POINTS", 0).unwrap()];
        let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
        Self {
            random: Pcg64Mcg::seed_from_u64(seed),
            now,
            hold_us_max: 60_000_000,
            reversal_one_in: 8,
            memo_bytes_max: 0,
            currencies,
            ids: Vec::new(),
            holds: Vec::new(),
            opened: 0,
        }
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn account_id(&mut self) -> AccountId {
        AccountId(self.random.random_range(0..ACCOUNTS))
    }

    fn account(&mut self) -> Account {
        // All of them at first.
        let id = if self.opened < ACCOUNTS { AccountId(self.opened) } else { self.account_id() };
        self.opened += 1;
        let kinds = [AccountKind::Asset, AccountKind::Liability, AccountKind::Equity, AccountKind::Expense];
        let currency = self.currencies[usize::try_from(id.0 % 2).unwrap()];
        let mut account = Account::new(id, currency, kinds[self.random.random_range(0..kinds.len())]);
        let overdraft = if self.one_in(3) { 15 } else { 0 };
        account.funds = match self.random.random_range(0..4) {
            0 => Funds::DebitsWithinCredits { overdraft },
            1 if self.one_in(2) => Funds::CreditsWithinDebits { overdraft },
            _ => Funds::Unlimited,
        };
        account.balance_max = self.one_in(4).then_some(90);
        account
    }

    fn id(&mut self) -> TransactionId {
        if !self.ids.is_empty() && self.one_in(20) {
            return self.known();
        }
        TransactionId(self.random.random())
    }

    /// What was recorded is what later commands are about.
    pub(crate) fn recorded(&mut self, command: &Command, reply: &Reply) {
        let transactions = match command {
            Command::Transact(transaction) => std::slice::from_ref(transaction),
            Command::Group(transactions) => transactions,
            Command::Batch(transactions) => transactions,
            _ => &[],
        };
        let recorded: Vec<_> = receipts(reply).iter().map(|receipt| receipt.id).collect();
        let transactions = transactions.iter().filter(|transaction| recorded.contains(&transaction.id));
        for transaction in transactions {
            match transaction.action {
                Action::Hold { .. } => self.holds.push(transaction.id),
                Action::Void { hold } | Action::PostHeld { hold, rest: Rest::Release } => {
                    self.holds.retain(|held| *held != hold);
                }
                _ => {}
            }
            self.ids.push(transaction.id);
        }
    }

    fn known(&mut self) -> TransactionId {
        if self.ids.is_empty() || self.one_in(20) {
            return TransactionId(1);
        }
        let last = self.ids.len();
        self.ids[self.random.random_range(last.saturating_sub(8)..last)]
    }

    fn hold(&mut self) -> TransactionId {
        let last = self.holds.len();
        if last == 0 || self.one_in(20) {
            return self.known();
        }
        self.holds[self.random.random_range(last.saturating_sub(4)..last)]
    }

    fn postings(&mut self) -> Vec<Posting> {
        let mut postings = Vec::new();
        for _ in 0..if self.one_in(4) { 2 } else { 1 } {
            let parity = self.random.random_range(0..2_u128);
            let amount = if self.one_in(30) { 0 } else { self.random.random_range(1..40) };
            let mut posting = |world: &mut Self, side, amount| {
                // Now and then one that is not there, or has a posting already.
                let beyond = u128::from(world.one_in(50));
                let mut draw = || AccountId(parity + 2 * world.random.random_range(0..ACCOUNTS / 2 + beyond));
                let is_free =
                    |account: &AccountId| postings.iter().all(|posting: &Posting| posting.account != *account);
                let account = (0..6).map(|_| draw()).find(is_free).unwrap_or_else(&mut draw);
                let currency =
                    world.currencies[usize::try_from(if world.one_in(40) { 1 - parity } else { parity }).unwrap()];
                postings.push(Posting { account, amount, currency, side });
            };
            posting(self, Side::Debit, amount);
            if self.one_in(5) && amount > 1 {
                posting(self, Side::Credit, 1);
                posting(self, Side::Credit, amount - 1);
            } else {
                let wrong = u128::from(self.one_in(30));
                posting(self, Side::Credit, amount + wrong);
            }
        }
        postings
    }

    fn transaction(&mut self) -> Transaction {
        let id = self.id();
        let mut transaction = Transaction::new(id, self.postings());
        // Nothing is posted of holds where there are none.
        let kinds = if self.holds.is_empty() && !self.one_in(10) { 7 } else { 10 };
        transaction.action = match self.random.random_range(0..kinds) {
            0..4 => Action::Post,
            4 => Action::PostUpTo,
            5..7 => {
                let wait_us = self.random.random_range(0..self.hold_us_max);
                let expires_at = Timestamp::from_micros(self.now.as_micros() + wait_us).unwrap();
                Action::Hold { expires_at: (!self.one_in(3)).then_some(expires_at) }
            }
            7..9 => {
                if !self.one_in(3) {
                    transaction.postings.clear();
                }
                let hold = self.hold();
                Action::PostHeld { hold, rest: if self.one_in(2) { Rest::Keep } else { Rest::Release } }
            }
            _ => {
                if !self.one_in(10) {
                    transaction.postings.clear();
                }
                Action::Void { hold: self.hold() }
            }
        };
        if self.one_in(if transaction.action == Action::Post { self.reversal_one_in } else { 80 }) {
            transaction.reverses = Some(self.known());
        }
        if self.one_in(10) {
            let today = Date::of(self.now).0;
            transaction.effective = Some(Date(today + self.random.random_range(-1..3)));
        }
        if self.memo_bytes_max > 0 {
            let memo = "x".repeat(self.random.random_range(0..self.memo_bytes_max));
            let metadata = vec![("order".to_owned(), self.random.random_range(0..3).to_string())];
            transaction.details = Some(Box::new(Details::new(memo, metadata).unwrap()));
        }
        transaction
    }

    /// What is plain but for one thing, which is seldom drawn elsewhere; now and then today is closed, and nothing plain is possible
    /// after that.
    pub(crate) fn odd(&mut self) -> Command {
        if self.one_in(60) {
            return Command::ClosePeriod(Date::of(self.now));
        }
        let (debit, is_one) = (self.account_id(), self.one_in(2));
        let credit = if is_one { debit } else { AccountId((debit.0 + 2) % ACCOUNTS) };
        let own = usize::try_from(debit.0 % 2).unwrap();
        let currency = self.currencies[if is_one { own } else { 1 - own }];
        let amount = self.random.random_range(1..40);
        Command::Transact(Transaction::transfer(TransactionId(self.random.random()), currency, amount, credit, debit))
    }

    pub(crate) fn command(&mut self) -> Command {
        match self.random.random_range(0..40) {
            _ if self.opened < ACCOUNTS => Command::Open(Box::new(self.account())),
            0 => Command::Open(Box::new(self.account())),
            6 => {
                let updates = [
                    AccountUpdate::Freeze,
                    AccountUpdate::Unfreeze,
                    AccountUpdate::Unfreeze,
                    AccountUpdate::Unfreeze,
                    AccountUpdate::Close,
                ];
                Command::Update(self.account_id(), updates[self.random.random_range(0..updates.len())])
            }
            7..14 => {
                let count = self.random.random_range(1..4);
                let transactions = (0..count).map(|_| self.transaction()).collect();
                if self.one_in(3) { Command::Batch(Arc::new(transactions)) } else { Command::Group(transactions) }
            }
            14 => Command::Tick,
            15 if self.one_in(20) => Command::ClosePeriod(Date(Date::of(self.now).0 - 1)),
            16 if self.one_in(20) => Command::ClosePeriod(Date(Date::of(self.now).0 + 2)),
            _ => Command::Transact(self.transaction()),
        }
    }
}
