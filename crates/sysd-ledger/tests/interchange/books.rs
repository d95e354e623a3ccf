//! Books with a journal, as random as one likes.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd_core::Timestamp;
use sysd_ledger::{
    Account, AccountId, AccountKind, Action, Balance, Books, Change, Command, Currency, Date, Details, Event,
    JournalEntry, Posting, Reply, Rest, Side, Transaction, TransactionId,
};

/// Books, and what their journal says.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) books: Books,
    pub(crate) entries: Vec<JournalEntry>,
}

impl Kept {
    pub(crate) fn open(&mut self, account: &Account) {
        let reply = self.books.apply(Timestamp::UNIX_EPOCH, &Command::Open(Box::new(account.clone())));
        assert_eq!(reply, Reply::Done);
    }

    /// Records a transaction, if the books take it.
    pub(crate) fn transact(&mut self, now: Timestamp, transaction: Transaction) -> Reply {
        let before: BTreeMap<AccountId, Balance> =
            self.books.accounts().map(|view| (view.account.id, view.balance)).collect();
        let reply = self.books.apply(now, &Command::Transact(transaction.clone()));
        if let Reply::Recorded(receipt) = &reply {
            let changes = receipt.balances.iter().flat_map(|(id, after)| {
                let view = self.books.account(*id).unwrap();
                changes(&view.account, before[id], *after)
            });
            let changes = changes.collect();
            let (number, event) = (receipt.number, Event::Transaction(transaction));
            self.entries.push(JournalEntry { number, recorded_at: receipt.recorded_at, event, changes });
        }
        reply
    }

    /// What each account has, without those that have nothing.
    pub(crate) fn balances(&self, name_of: impl Fn(&Account) -> String) -> BTreeMap<(String, Currency), i128> {
        let posted = |view: sysd_ledger::AccountView| {
            ((name_of(&view.account), view.account.currency), view.balance.posted(Side::Debit))
        };
        self.books.accounts().map(posted).filter(|(_, balance)| *balance != 0).collect()
    }

    pub(crate) fn accounts(&self) -> Vec<Account> {
        self.books.accounts().map(|view| view.account).collect()
    }
}

fn changes(account: &Account, before: Balance, after: Balance) -> Vec<Change> {
    let sides = [
        (Side::Debit, before.debits_posted, after.debits_posted, before.debits_held, after.debits_held),
        (Side::Credit, before.credits_posted, after.credits_posted, before.credits_held, after.credits_held),
    ];
    let change = |(side, posted_before, posted, held_before, held): (Side, u128, u128, u128, u128)| Change {
        account: account.id,
        currency: account.currency,
        side,
        posted: posted - posted_before,
        held: held.saturating_sub(held_before),
        freed: held_before.saturating_sub(held),
        balance: after,
        ordinal: 1,
    };
    sides.into_iter().map(change).filter(|change| change.posted + change.held + change.freed > 0).collect()
}

/// Codes that each program has trouble with, if it has: digits, a single letter, a constant, one code with two exponents.
pub(crate) fn currencies() -> Vec<Currency> {
    let iso = ["EUR", "JPY", "BHD", "XAU"].map(|code| Currency::iso(code).unwrap());
    let custom =
        [("WEI", 38), ("A1", 5), ("X", 0), ("POINTS", 0), ("POINTS", 1), ("TRUE", 2), ("ABCDEF9", 18), ("E", 3)];
    iso.into_iter().chain(custom.map(|(code, exponent)| Currency::custom(code, exponent).unwrap())).collect()
}

const NASTY: &[&str] = &[
    "Rent",
    "",
    "a; b",
    "x|y",
    "\n2020-01-01 * \"x\"\n  Assets:Bank  5 EUR",
    "\"",
    "\\",
    "\\\"",
    "\u{2028}",
    "  two  spaces ",
    "(code) *",
    "date:2020-13-45",
    "[=2020/99/99]",
    "[2020-13-01]",
    "key:: 1/0",
    ":tag:",
    "50%",
    "%3B",
    "Größe 😀",
    "\t",
    "\r\n",
    "; sysd-id: 0x1",
    "Value:: (1/0)",
    "= 5 EUR",
    "{2} @ 3 EUR",
    "include x",
    "!",
    "a,b:c,d",
    "\u{0}",
    "\u{1b}[31m",
    "#tag ^link",
    "Payee: other",
    "\u{a0}",
];

fn nasty(rng: &mut Pcg64Mcg) -> String {
    let words = (0..rng.random_range(0..4_u32)).map(|_| NASTY[rng.random_range(0..NASTY.len())]);
    let text: Vec<&str> = words.collect();
    let text = text.join(if rng.random() { " " } else { "" });
    // Some are longer than a line that ledger reads.
    if rng.random_range(0..20) == 0 { text.repeat(200).chars().take(5_000).collect() } else { text }
}

/// Random books. With `sum_max` no account has sums above it.
pub(crate) fn random(seed: u64, steps: u32, sum_max: u128) -> Kept {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut kept = Kept::default();
    let currencies = currencies();
    let kinds =
        [AccountKind::Asset, AccountKind::Liability, AccountKind::Equity, AccountKind::Income, AccountKind::Expense];
    for id in 1..=48_u128 {
        let currency = currencies[usize::try_from(id).unwrap() % currencies.len()];
        let kind = kinds[rng.random_range(0..kinds.len())];
        // Ids as large as UUIDs, and small ones.
        let id = if id % 2 == 0 { id } else { id << 121 | id };
        let account = Account::new(AccountId(id), currency, kind);
        kept.open(&if rng.random_range(0..6) == 0 { account.limited() } else { account });
    }
    let accounts = kept.accounts();
    for step in 1..=u128::from(steps) {
        let now = 1_700_000_000_000_000 + u64::try_from(step).unwrap() * 3_600_000_001;
        let now = Timestamp::from_micros(now).unwrap();
        let transaction = any_transaction(&mut rng, &accounts, &kept, step, sum_max / u128::from(steps));
        kept.transact(now, transaction);
    }
    assert!(kept.books.verify().is_ok());
    kept
}

fn any_transaction(rng: &mut Pcg64Mcg, accounts: &[Account], kept: &Kept, id: u128, amount_max: u128) -> Transaction {
    let mut postings = Vec::new();
    for _ in 0..rng.random_range(1..=3_u32) {
        let currency = accounts[rng.random_range(0..accounts.len())].currency;
        if postings.iter().any(|posting: &Posting| posting.currency == currency) {
            continue;
        }
        let mut of_it: Vec<_> = accounts.iter().filter(|account| account.currency == currency).collect();
        let debit = of_it.swap_remove(rng.random_range(0..of_it.len()));
        // Small ones as often as large ones; even, so that it has halves.
        let amount = (rng.random_range(0..=amount_max) >> rng.random_range(0..120_u32)).clamp(1, amount_max / 2) * 2;
        postings.push(Posting { account: debit.id, amount, currency, side: Side::Debit });
        let credits = if of_it.len() > 1 && rng.random() { 2 } else { 1 };
        for _ in 0..credits {
            let credit = of_it.swap_remove(rng.random_range(0..of_it.len()));
            postings.push(Posting { account: credit.id, amount: amount / credits, currency, side: Side::Credit });
        }
    }
    let mut transaction = Transaction::new(TransactionId(id << 64 | id), postings);
    let known = |at: usize| kept.entries.get(at).and_then(JournalEntry::transaction).map(|found| found.id);
    let some = if kept.entries.is_empty() { None } else { known(rng.random_range(0..kept.entries.len())) };
    match (rng.random_range(0..8), some) {
        (0, _) => transaction.action = Action::Hold { expires_at: None },
        (1, Some(hold)) => {
            let rest = if rng.random() { Rest::Release } else { Rest::Keep };
            (transaction.action, transaction.postings) = (Action::PostHeld { hold, rest }, [].into_iter().collect());
        }
        (2, Some(hold)) => {
            (transaction.action, transaction.postings) = (Action::Void { hold }, [].into_iter().collect());
        }
        (3, Some(reverses)) => transaction.reverses = Some(reverses),
        (4, _) => transaction.action = Action::PostUpTo,
        _ => {}
    }
    if rng.random() {
        // 1400-01-01 to 9999-12-31.
        transaction.effective = Some(Date(rng.random_range(-208_188..=2_932_896)));
    }
    if rng.random_range(0..3) > 0 {
        let metadata = (0..rng.random_range(0..4_u32)).map(|at| match rng.random_range(0..3_u32) {
            0 => (format!("order-{at}"), "A-17".to_owned()),
            1 => ("order".to_owned(), "A 18".to_owned()),
            _ => (nasty(rng), nasty(rng)),
        });
        let metadata = metadata.collect();
        let memo = nasty(rng);
        transaction.details = Details::new(memo, metadata).ok().map(Box::new);
    }
    transaction
}
