//! The books beside a second implementation that shares no idea with them: it keeps every line that was ever written, copies
//! everything before a step, adds up all lines after it, and throws the copy away if some account is where it may not be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::{StateMachine as _, Timestamp};
use sysd_ledger::logic::Bug;
use sysd_ledger::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Balance, Books, Command, Currency, Date, Funds, Posting,
    Receipt, Reply, Rest, Side, Transaction, TransactionId,
};

#[derive(Clone)]
struct NaiveHold {
    lines: Vec<(AccountId, Side, u128)>,
    expires_at: Option<Timestamp>,
}

#[derive(Clone, Default)]
struct Naive {
    accounts: BTreeMap<AccountId, (Account, &'static str)>,
    lines: Vec<(AccountId, Side, u128)>,
    holds: BTreeMap<TransactionId, NaiveHold>,
    numbers: BTreeMap<TransactionId, u64>,
    reversed: Vec<TransactionId>,
    closed_through: Option<Date>,
    next: u64,
}

/// What a transaction is answered.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Recorded { number: u64, moved: u128 },
    Exists(u64),
    No,
}

impl Naive {
    fn sum(&self, account: AccountId, side: Side) -> u128 {
        self.lines.iter().filter(|line| (line.0, line.1) == (account, side)).map(|line| line.2).sum()
    }

    fn held(&self, account: AccountId, side: Side) -> u128 {
        let lines = self.holds.values().flat_map(|hold| &hold.lines);
        lines.filter(|line| (line.0, line.1) == (account, side)).map(|line| line.2).sum()
    }

    fn balance(&self, account: AccountId) -> Balance {
        Balance {
            debits_posted: self.sum(account, Side::Debit),
            credits_posted: self.sum(account, Side::Credit),
            debits_held: self.held(account, Side::Debit),
            credits_held: self.held(account, Side::Credit),
        }
    }

    /// As signed numbers, so that nothing is hidden by a subtraction that stops at zero.
    fn free(&self, account: &Account) -> Option<(Side, i128)> {
        let b = self.balance(account.id);
        let signed = |n: u128| i128::try_from(n).unwrap();
        match account.funds {
            Funds::Unlimited => None,
            Funds::DebitsWithinCredits { overdraft } => {
                Some((Side::Debit, signed(b.credits_posted + overdraft) - signed(b.debits_posted + b.debits_held)))
            }
            Funds::CreditsWithinDebits { overdraft } => {
                Some((Side::Credit, signed(b.debits_posted + overdraft) - signed(b.credits_posted + b.credits_held)))
            }
        }
    }

    fn is_within_bounds(&self) -> bool {
        self.accounts.values().all(|(account, _)| {
            let b = self.balance(account.id);
            let signed = |n: u128| i128::try_from(n).unwrap();
            let grown = match account.kind.normal_side() {
                Side::Debit => signed(b.debits_posted + b.debits_held) - signed(b.credits_posted),
                Side::Credit => signed(b.credits_posted + b.credits_held) - signed(b.debits_posted),
            };
            self.free(account).is_none_or(|(_, free)| free >= 0)
                && account.balance_max.is_none_or(|max| grown <= signed(max))
        })
    }

    fn time(&mut self, now: Timestamp) {
        let mut over: Vec<_> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.expires_at.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        self.next += over.len() as u64;
        over.drain(..).for_each(|id| {
            self.holds.remove(&id);
        });
    }

    fn is_open(&self, account: AccountId) -> bool {
        self.accounts.get(&account).is_some_and(|(_, state)| *state == "open")
    }

    fn postings(&self, postings: &[Posting]) -> Option<Vec<(AccountId, Side, u128)>> {
        let mut sums = BTreeMap::<Currency, i128>::new();
        let mut seen = Vec::new();
        for posting in postings {
            let (account, _) = self.accounts.get(&posting.account)?;
            if !self.is_open(posting.account) || account.currency != posting.currency || posting.amount == 0 {
                return None;
            }
            if seen.contains(&posting.account) {
                return None;
            }
            seen.push(posting.account);
            let amount = i128::try_from(posting.amount).unwrap();
            *sums.entry(posting.currency).or_default() += if posting.side == Side::Debit { amount } else { -amount };
        }
        let is_balanced = postings.len() >= 2 && sums.values().all(|sum| *sum == 0);
        is_balanced.then(|| postings.iter().map(|posting| (posting.account, posting.side, posting.amount)).collect())
    }

    fn transact(&mut self, now: Timestamp, transaction: &Transaction) -> Answer {
        if let Some(number) = self.numbers.get(&transaction.id) {
            return Answer::Exists(*number);
        }
        let mut copy = self.clone();
        match copy.try_transact(now, transaction) {
            Some(moved) if copy.is_within_bounds() => {
                copy.next += 1;
                copy.numbers.insert(transaction.id, copy.next);
                *self = copy;
                Answer::Recorded { number: self.next, moved }
            }
            _ => Answer::No,
        }
    }

    fn try_transact(&mut self, now: Timestamp, transaction: &Transaction) -> Option<u128> {
        let day = transaction.effective.unwrap_or(Date(i32::try_from(now.as_micros() / 86_400_000_000).unwrap()));
        if self.closed_through.is_some_and(|through| day <= through) {
            return None;
        }
        if let Some(reverses) = transaction.reverses {
            let is_known = self.numbers.contains_key(&reverses) && !self.reversed.contains(&reverses);
            if transaction.action != Action::Post || !is_known {
                return None;
            }
            self.reversed.push(reverses);
        }
        match transaction.action {
            Action::Post => {
                let lines = self.postings(&transaction.postings)?;
                self.lines.extend(lines);
            }
            Action::PostUpTo => {
                let mut lines = self.postings(&transaction.postings)?;
                let [a, b] = lines.as_mut_slice() else { return None };
                let free = |line: &(AccountId, Side, u128)| {
                    self.free(&self.accounts[&line.0].0).filter(|(side, _)| *side == line.1).map(|(_, free)| free)
                };
                let least = [&*a, &*b].into_iter().filter_map(free).min()?;
                let moved = u128::try_from(least).unwrap().min(a.2);
                if moved == 0 {
                    return None;
                }
                (a.2, b.2) = (moved, moved);
                self.lines.extend(lines);
                return Some(moved);
            }
            Action::Hold { expires_at } => {
                if expires_at.is_some_and(|at| at <= now) {
                    return None;
                }
                let lines = self.postings(&transaction.postings)?;
                self.holds.insert(transaction.id, NaiveHold { lines, expires_at });
            }
            Action::PostHeld { hold, rest } => {
                let mut held = self.holds.remove(&hold)?;
                if !held.lines.iter().all(|line| self.is_open(line.0)) {
                    return None;
                }
                let parts = if transaction.postings.is_empty() {
                    held.lines.clone()
                } else {
                    self.postings(&transaction.postings)?
                };
                for part in &parts {
                    let line = held.lines.iter_mut().find(|line| (line.0, line.1) == (part.0, part.1))?;
                    line.2 = line.2.checked_sub(part.2)?;
                }
                self.lines.extend(parts);
                held.lines.retain(|line| line.2 > 0);
                if rest == Rest::Keep && !held.lines.is_empty() {
                    self.holds.insert(hold, held);
                }
            }
            Action::Void { hold } => {
                self.holds.remove(&hold)?;
                if !transaction.postings.is_empty() {
                    return None;
                }
            }
        }
        Some(0)
    }

    fn group(&mut self, now: Timestamp, transactions: &[Transaction]) -> Vec<Answer> {
        if let Some(known) = transactions.iter().map(|one| self.numbers.get(&one.id)).collect::<Option<Vec<_>>>() {
            return vec![Answer::Exists(*known[0])];
        }
        let mut copy = self.clone();
        let answers: Vec<_> = transactions.iter().map(|one| copy.transact(now, one)).collect();
        if answers.iter().all(|answer| matches!(answer, Answer::Recorded { .. })) {
            *self = copy;
            answers
        } else {
            vec![Answer::No]
        }
    }

    fn update(&mut self, id: AccountId, update: AccountUpdate) {
        let balance = self.balance(id);
        let is_empty = balance.posted(Side::Debit) == 0 && balance.debits_held == 0 && balance.credits_held == 0;
        if let Some((_, state)) = self.accounts.get_mut(&id)
            && *state != "closed"
        {
            *state = match update {
                AccountUpdate::Freeze => "frozen",
                AccountUpdate::Unfreeze => "open",
                AccountUpdate::Close if is_empty => "closed",
                AccountUpdate::Close => *state,
            };
        }
    }
}

/// Of each currency half.
const ACCOUNTS: u128 = 8;

struct World {
    random: Pcg64Mcg,
    now: Timestamp,
    currencies: [Currency; 2],
    ids: Vec<TransactionId>,
    holds: Vec<TransactionId>,
    opened: u128,
}

impl World {
    fn new(seed: u64) -> Self {
        let currencies = [Currency::iso("EUR").unwrap(), Currency::custom("POINTS", 0).unwrap()];
        let now = Timestamp::from_micros(1_795_000_000_000_000).unwrap();
        Self { random: Pcg64Mcg::seed_from_u64(seed), now, currencies, ids: Vec::new(), holds: Vec::new(), opened: 0 }
    }

    fn one_in(&mut self, n: u32) -> bool {
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
        let id = TransactionId(self.random.random());
        self.ids.push(id);
        id
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
                // Now and then one that is not there.
                let beyond = u128::from(world.one_in(50));
                let account = AccountId(parity + 2 * world.random.random_range(0..ACCOUNTS / 2 + beyond));
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
        transaction.action = match self.random.random_range(0..10) {
            0..4 => Action::Post,
            4 => Action::PostUpTo,
            5..7 => {
                self.holds.push(id);
                let wait_us = self.random.random_range(0..60_000_000);
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
        if self.one_in(if transaction.action == Action::Post { 8 } else { 80 }) {
            transaction.reverses = Some(self.known());
        }
        if self.one_in(10) {
            let today = Date::of(self.now).0;
            transaction.effective = Some(Date(today + self.random.random_range(-1..3)));
        }
        transaction
    }

    fn command(&mut self) -> Command {
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
                Command::Group((0..count).map(|_| self.transaction()).collect())
            }
            14 => Command::Tick,
            15 if self.one_in(20) => Command::ClosePeriod(Date(Date::of(self.now).0 - 1)),
            _ => Command::Transact(self.transaction()),
        }
    }
}

fn answer(receipt: &Receipt) -> Answer {
    Answer::Recorded { number: receipt.number, moved: receipt.moved }
}

/// Runs a history on both; what differs first.
fn history(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let (mut world, mut books, mut naive) = (World::new(seed), Books::default(), Naive::default());
    books.bug = bug;
    let mut recorded = 0;
    for step in 0..120 {
        world.now = world.now.saturating_add(std::time::Duration::from_millis(world.random.random_range(0..3_000)));
        let (now, command) = (world.now, world.command());
        let reply = books.apply(now, &command);
        naive.time(now);
        let differs = |what: &str| Err(format!("seed {seed}, step {step}: {what}\n{command:?}\n{reply:?}"));
        let receipts = match &reply {
            Reply::Recorded(receipt) => vec![(**receipt).clone()],
            Reply::GroupRecorded(receipts) => receipts.clone(),
            _ => Vec::new(),
        };
        recorded += receipts.len() as u64;
        let answers: Vec<_> = match &reply {
            Reply::Done => Vec::new(),
            Reply::Exists { number, .. } => vec![Answer::Exists(*number)],
            Reply::Rejected(_) => vec![Answer::No],
            Reply::Recorded(_) | Reply::GroupRecorded(_) => receipts.iter().map(answer).collect(),
            Reply::Batch(_) | Reply::LookUp { .. } | Reply::Conflict(_) => return differs("nobody asked for that"),
        };
        let expected = match &command {
            Command::Transact(transaction) => vec![naive.transact(now, transaction)],
            Command::Group(transactions) => naive.group(now, transactions),
            Command::Open(account) => {
                let known = naive.accounts.entry(account.id).or_insert(((**account).clone(), "open"));
                if known.0 == **account { Vec::new() } else { vec![Answer::No] }
            }
            Command::Update(id, update) => {
                naive.update(*id, *update);
                answers.clone()
            }
            Command::ClosePeriod(through) => {
                naive.closed_through = naive.closed_through.max(Some(*through));
                Vec::new()
            }
            Command::Tick => Vec::new(),
            other => return Err(format!("{other:?} is not made here")),
        };
        if answers != expected {
            return differs(&format!("expected {expected:?}"));
        }
        for id in naive.accounts.keys() {
            if books.balance(*id) != Some(naive.balance(*id)) {
                return differs(&format!(
                    "account {id} is {:?}, expected {:?}",
                    books.balance(*id),
                    naive.balance(*id)
                ));
            }
        }
        // What the last receipt of a command says of an account is how it stands.
        for (account, balance) in receipts.last().map(|receipt| receipt.balances.clone()).unwrap_or_default() {
            if books.balance(account) != Some(balance) {
                return differs("the receipt says something else");
            }
        }
        // Now and then the books are put away and read again.
        if step % 16 == 15 {
            let mut bytes = Vec::new();
            books.encode_snapshot(&mut bytes);
            let read = Books::decode_snapshot(Books::FORMAT, &bytes).map_err(|error| error.to_string())?;
            let mut again = Vec::new();
            read.encode_snapshot(&mut again);
            if again != bytes {
                return differs("a snapshot of what a snapshot held is another");
            }
            books = read;
            books.bug = bug;
        }
        if let Err(why) = books.verify() {
            return differs(&why.to_string());
        }
        if (books.holds_len(), books.journal_len()) != (naive.holds.len(), naive.next) {
            return differs("the holds or numbers differ");
        }
    }
    Ok(recorded)
}

#[test]
fn the_books_do_what_a_second_implementation_does() {
    let recorded: u64 = (0..700).map(|seed| history(seed, None).unwrap_or_else(|why| panic!("{why}"))).sum();
    // Most of what is asked is possible, so that it is not refusals that are compared.
    assert!(recorded > 700 * 15, "only {recorded} were recorded");
}

#[test]
fn mistakes_are_found() {
    for bug in [
        Bug::DropLeg,
        Bug::ForgetIds,
        Bug::IgnoreHolds,
        Bug::Truncate,
        Bug::KeepGroup,
        Bug::ForgetDeadlines,
        Bug::ReverseAgain,
        Bug::FreeRest,
    ] {
        assert!((0..300).any(|seed| history(seed, Some(bug)).is_err()), "{bug:?} was not noticed");
    }
}
