//! A payment platform that never was.

use futures::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sysd::core::Store;
use sysd::ledger::reconcile::Record;
use sysd::ledger::{
    Account, AccountId, AccountKind, Action, Books, Currency, Date, Ledger, Posting, Reply, Rest, Side, Transaction,
    TransactionId,
};
use sysd::storage::Replica;

/// How much of it there is.
pub(crate) struct Shape {
    pub(crate) payments: u64,
    pub(crate) customers: u64,
    pub(crate) callers: usize,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) recorded: u64,
    pub(crate) rejected: u64,
    pub(crate) known: u64,
    pub(crate) bad: u64,
}

impl Counts {
    /// The replies of a payment; what has a number up to `before`, or one that another has, was recorded before.
    pub(crate) fn add(&mut self, replies: &[Reply], before: u64) {
        let mut last = before;
        for reply in replies {
            match reply {
                Reply::Recorded(receipt) if receipt.number <= last => self.known += 1,
                Reply::Recorded(receipt) => {
                    self.recorded += 1;
                    last = receipt.number;
                }
                _ => self.rejected += 1,
            }
        }
    }
}

const CURRENCIES: [&str; 3] = ["EUR", "JPY", "USD"];

#[derive(Clone, Copy)]
enum Who {
    Bank,
    Fees,
    Customer(u64),
    Shop(u64),
}

fn account(who: Who, currency: usize) -> AccountId {
    let (kind, at) = match who {
        Who::Bank => (0, 0),
        Who::Fees => (1, 0),
        Who::Customer(at) => (2, at),
        Who::Shop(at) => (3, at),
    };
    AccountId(kind << 96 | u128::from(at) << 8 | currency as u128)
}

struct Platform<'a> {
    shape: &'a Shape,
    currencies: Vec<Currency>,
}

impl Platform<'_> {
    fn accounts(&self) -> Vec<Account> {
        let mut accounts = Vec::new();
        for (at, currency) in self.currencies.iter().enumerate() {
            accounts.push(Account::new(account(Who::Bank, at), *currency, AccountKind::Asset));
            accounts.push(Account::new(account(Who::Fees, at), *currency, AccountKind::Income));
            let customers = (0..self.shape.customers).map(Who::Customer);
            let shops = (0..self.shops()).map(Who::Shop);
            for who in customers.chain(shops) {
                accounts.push(Account::new(account(who, at), *currency, AccountKind::Liability).limited());
            }
        }
        accounts
    }

    fn shops(&self) -> u64 {
        self.shape.customers.div_ceil(10)
    }

    /// What is asked one after the other for a payment; the same number is always the same payment.
    fn payment(&self, number: u64) -> Vec<Transaction> {
        let mut random = Pcg64Mcg::seed_from_u64(self.shape.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let at = random.random_range(0..self.currencies.len());
        let currency = self.currencies[at];
        let customer = account(Who::Customer(random.random_range(0..self.shape.customers)), at);
        let shop = account(Who::Shop(random.random_range(0..self.shops())), at);
        let (bank, fees) = (account(Who::Bank, at), account(Who::Fees, at));
        let id = |step: u128| TransactionId(u128::from(self.shape.seed) << 96 | u128::from(number) << 8 | step);
        let amount = random.random_range(100..10_000_u128);
        let fee = amount / 50 + 1;
        let posting = |account, side, amount| Posting { account, amount, currency, side };
        // The shop gets what the customer pays, less the fee.
        let pays = || {
            [
                posting(customer, Side::Debit, amount),
                posting(shop, Side::Credit, amount - fee),
                posting(fees, Side::Credit, fee),
            ]
        };
        match random.random_range(0..10) {
            0..2 => vec![Transaction::transfer(id(0), currency, 3 * amount, customer, bank)],
            2 => {
                // By card: more is authorised than is captured.
                let authorised = Transaction::transfer(id(0), currency, 4 * amount, customer, bank).held_until(None);
                let captured = Transaction {
                    action: Action::PostHeld { hold: id(0), rest: Rest::Release },
                    ..Transaction::transfer(id(1), currency, 3 * amount, customer, bank)
                };
                vec![authorised, captured]
            }
            3..7 => vec![Transaction::new(id(0), pays())],
            7 => {
                // Held when it is ordered, posted when a part of it is sent.
                let half = Transaction {
                    action: Action::PostHeld { hold: id(0), rest: Rest::Release },
                    ..Transaction::new(
                        id(1),
                        [
                            posting(customer, Side::Debit, fee + 1),
                            posting(shop, Side::Credit, 1),
                            posting(fees, Side::Credit, fee),
                        ],
                    )
                };
                vec![Transaction::new(id(0), pays()).held_until(None), half]
            }
            8 => {
                let turned = pays().map(|line| Posting { side: line.side.opposite(), ..line });
                let refund = Transaction { reverses: Some(id(0)), ..Transaction::new(id(1), turned) };
                vec![Transaction::new(id(0), pays()), refund]
            }
            // Somebody presses the button twice.
            _ => vec![Transaction::new(id(0), pays()), Transaction::new(id(0), pays())],
        }
    }
}

/// How a provider would know a transaction: what is captured by what was authorised.
pub(crate) fn reference(transaction: &Transaction) -> String {
    let id = match transaction.action {
        Action::PostHeld { hold, .. } => hold,
        _ => transaction.id,
    };
    format!("{:x}", id.0)
}

/// What the bank says of what customers paid in: it lost every 97th payment, and every 101st it has with a minor unit more.
pub(crate) fn statement(shape: &Shape, day: Date) -> Result<Vec<Record>, String> {
    let currencies =
        CURRENCIES.map(Currency::iso).into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let platform = Platform { shape, currencies };
    let mut records = Vec::new();
    for number in (0..shape.payments).filter(|number| number % 97 != 96) {
        let bank = (0..CURRENCIES.len()).map(|at| account(Who::Bank, at)).collect::<Vec<_>>();
        // What was only authorised is not on it.
        let is_posted = |transaction: &Transaction| !matches!(transaction.action, Action::Hold { .. });
        for transaction in platform.payment(number).into_iter().filter(is_posted) {
            let Some(posting) = transaction.postings.iter().find(|posting| bank.contains(&posting.account)) else {
                continue;
            };
            let amount = i128::try_from(posting.amount).map_err(|error| error.to_string())?;
            let amount = amount + i128::from(number % 101 == 100);
            records.push(Record::new(&reference(&transaction), posting.currency, amount, day, number + 1));
        }
    }
    Ok(records)
}

/// Opens the accounts and makes the payments.
pub(crate) async fn play<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
    shape: &Shape,
    shows: bool,
) -> Result<Counts, String> {
    let currencies =
        CURRENCIES.map(Currency::iso).into_iter().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let platform = Platform { shape, currencies };
    let mut opened =
        stream::iter(platform.accounts()).map(|account| ledger.open_account(account)).buffer_unordered(shape.callers);
    while let Some(reply) = opened.next().await {
        if let Reply::Rejected(why) = reply.map_err(|error| error.to_string())? {
            return Err(why.to_string());
        }
    }
    let bar = if shows { ProgressBar::new(shape.payments) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} payments, {per_sec}") {
        bar.set_style(style);
    }
    let pay = |number| {
        let payment = platform.payment(number);
        async move {
            let mut replies = Vec::with_capacity(payment.len());
            for transaction in payment {
                replies.push(ledger.transact(transaction).await.map_err(|error| error.to_string())?);
            }
            Ok::<_, String>(replies)
        }
    };
    let mut payments = stream::iter(0..shape.payments).map(pay).buffer_unordered(shape.callers);
    let mut counts = Counts::default();
    let before = ledger.read(Books::journal_len).await.map_err(|error| error.to_string())?;
    while let Some(replies) = payments.next().await {
        counts.add(&replies?, before);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(counts)
}
