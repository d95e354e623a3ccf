//! A second implementation of the books, which shares no idea with the first: it keeps every line that was ever written, copies
//! everything before a step, adds up all lines after it, and throws the copy away if some account is where it may not be.

use std::collections::BTreeMap;

use sysd_core::Timestamp;
use sysd_ledger::{
    Account, AccountId, AccountUpdate, Action, Balance, Command, Currency, Date, Funds, Posting, Receipt, Reply, Rest,
    Side, Transaction, TransactionId,
};

#[derive(Clone)]
pub(crate) struct NaiveHold {
    lines: Vec<(AccountId, Side, u128)>,
    expires_at: Option<Timestamp>,
}

#[derive(Clone, Default)]
pub(crate) struct Naive {
    pub(crate) accounts: BTreeMap<AccountId, (Account, &'static str)>,
    lines: Vec<(AccountId, Side, u128)>,
    pub(crate) holds: BTreeMap<TransactionId, NaiveHold>,
    numbers: BTreeMap<TransactionId, u64>,
    reversed: Vec<TransactionId>,
    closed_through: Option<Date>,
    pub(crate) next: u64,
}

/// What a transaction is answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
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

    pub(crate) fn balance(&self, account: AccountId) -> Balance {
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

    pub(crate) fn is_within_bounds(&self) -> bool {
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

    /// Whether it could be done.
    fn update(&mut self, id: AccountId, update: AccountUpdate) -> bool {
        let balance = self.balance(id);
        let is_empty = balance.posted(Side::Debit) == 0 && balance.debits_held == 0 && balance.credits_held == 0;
        let Some((_, state)) = self.accounts.get_mut(&id) else { return false };
        match update {
            AccountUpdate::Close if *state == "closed" => true,
            _ if *state == "closed" => false,
            AccountUpdate::Close if !is_empty => false,
            AccountUpdate::Freeze => {
                *state = "frozen";
                true
            }
            AccountUpdate::Unfreeze => {
                *state = "open";
                true
            }
            AccountUpdate::Close => {
                *state = "closed";
                true
            }
        }
    }

    fn open(&mut self, account: &Account) -> bool {
        self.accounts.entry(account.id).or_insert((account.clone(), "open")).0 == *account
    }

    /// Does what is asked.
    pub(crate) fn apply(&mut self, now: Timestamp, command: &Command) -> Vec<Answer> {
        let done = |is_done: bool| if is_done { Vec::new() } else { vec![Answer::No] };
        self.time(now);
        match command {
            Command::Transact(transaction) => vec![self.transact(now, transaction)],
            Command::Group(transactions) => self.group(now, transactions),
            Command::Open(account) => done(self.open(account)),
            Command::Update(id, update) => done(self.update(*id, *update)),
            Command::ClosePeriod(through) => {
                let is_ahead = i64::from(through.0) > i64::from(Date::of(now).0) + 1;
                if !is_ahead {
                    self.closed_through = self.closed_through.max(Some(*through));
                }
                done(!is_ahead)
            }
            Command::Batch(transactions) => transactions.iter().map(|one| self.transact(now, one)).collect(),
            Command::Looked(_, inner) => self.apply(now, inner),
            Command::Tick | Command::Wrote { .. } | Command::Forget { .. } => Vec::new(),
        }
    }
}

/// What a reply of the books says, in the same words; `None`: it is no reply of books that know all their ids.
pub(crate) fn answers(reply: &Reply) -> Option<Vec<Answer>> {
    let recorded = |receipt: &Receipt| Answer::Recorded { number: receipt.number, moved: receipt.moved };
    Some(match reply {
        Reply::Done => Vec::new(),
        Reply::Exists { number, .. } => vec![Answer::Exists(*number)],
        Reply::Rejected(_) => vec![Answer::No],
        Reply::Recorded(receipt) => vec![recorded(receipt)],
        Reply::GroupRecorded(receipts) => receipts.iter().map(recorded).collect(),
        Reply::Batch(replies) => replies.iter().map(answers).collect::<Option<Vec<_>>>()?.concat(),
        Reply::LookUp(_) | Reply::HoldsDue | Reply::Conflict(_) => return None,
    })
}

/// The receipts in a reply.
pub(crate) fn receipts(reply: &Reply) -> Vec<&Receipt> {
    match reply {
        Reply::Recorded(receipt) => vec![receipt],
        Reply::GroupRecorded(receipts) => receipts.iter().collect(),
        Reply::Batch(replies) => replies.iter().flat_map(receipts).collect(),
        _ => Vec::new(),
    }
}
