//! From the journal to a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};
use std::io;

use super::commodity::Commodities;
use super::names::{default_name, refusal};
use super::{Format, day, escape};
use crate::model::{Account, AccountId, Change, Currency, Date, JournalEntry, Side};

/// `beancount` adds with 28 digits, and silently rounds what has more.
const BEANCOUNT_SUM_MAX: u128 = 10_u128.pow(28) - 1;

/// Why something can't be written. Nothing of it was, unless it is [`ExportError::Write`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// An entry is about an account that was not given.
    #[error("number {number} of the journal is about account {account}, which was not given to the exporter before it")]
    UnknownAccount {
        /// The account.
        account: AccountId,
        /// The entry's number.
        number: u64,
    },
    /// A name that the programs would read otherwise.
    #[error("account {account} can't be called {name:?}: {why}")]
    Name {
        /// The account.
        account: AccountId,
        /// What it would be called.
        name: String,
        /// What it has to be like.
        why: &'static str,
    },
    /// Two accounts of one currency and one name.
    #[error(
        "account {account} would be called {name:?}, as another in {currency} is; their balances could not be told apart"
    )]
    SameName {
        /// The second of them.
        account: AccountId,
        /// The name.
        name: String,
        /// Their currency.
        currency: Currency,
    },
    /// A day that not all programs read.
    #[error("number {number} of the journal is of day {} since 1970-01-01; only 1400-01-01 to 9999-12-31 can be written", day.0)]
    Day {
        /// The entry's number.
        number: u64,
        /// The day.
        day: Date,
    },
    /// More than `beancount` can add exactly.
    #[error(
        "with number {number} of the journal account {account} has sums of more than 28 digits, which beancount would round"
    )]
    Digits {
        /// The account.
        account: AccountId,
        /// The entry's number.
        number: u64,
    },
    /// An entry that no books wrote.
    #[error("number {number} of the journal has debits that are not its credits in {currency}")]
    Unbalanced {
        /// The entry's number.
        number: u64,
        /// The currency.
        currency: Currency,
    },
    /// It could not be written.
    #[error("the journal could not be written: {0}")]
    Write(#[from] fmt::Error),
}

/// How much was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exported {
    /// Accounts.
    pub accounts: u64,
    /// Entries that posted something, each a transaction in the file.
    pub transactions: u64,
    /// Entries that posted nothing, and are not in the file: holds, and their ends.
    pub left_out: u64,
}

struct Known {
    name: String,
    currency: Currency,
}

/// Writes a journal, an entry at a time, as `hledger`, `ledger` or `beancount` read it, with balances that agree exactly.
///
/// Give it each account before the first entry that is about it, and the entries in the order in which you want them. A debit is
/// positive. Only what was posted is written: holds change no balance.
///
/// ```
/// use sysd_ledger::interchange::{Exporter, Format};
/// use sysd_ledger::{Account, AccountId, AccountKind, Balance, Change, Currency, Event, JournalEntry, Side, Transaction, TransactionId};
/// use sysd_core::Timestamp;
///
/// let euro = Currency::iso("EUR")?;
/// let (bank, sales) = (AccountId(1), AccountId(2));
/// let change = |account, side| {
///     Change { account, currency: euro, side, posted: 12_50, held: 0, freed: 0, balance: Balance::default(), ordinal: 1 }
/// };
/// let entry = JournalEntry {
///     number: 1,
///     recorded_at: Timestamp::UNIX_EPOCH,
///     event: Event::Transaction(Transaction::transfer(TransactionId(7), euro, 12_50, sales, bank)),
///     changes: [change(bank, Side::Debit), change(sales, Side::Credit)].into_iter().collect(),
/// };
///
/// let mut exporter = Exporter::new(Format::Text, String::new())?;
/// exporter.account(&Account::new(bank, euro, AccountKind::Asset))?;
/// exporter.account(&Account::new(sales, euro, AccountKind::Income))?;
/// exporter.entry(&entry)?;
/// let (journal, _) = exporter.finish();
/// assert!(journal.ends_with("    Assets:0x1  12.50 EUR\n    Income:0x2  -12.50 EUR\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Cost
/// The name of each account is kept in memory, and nothing of the entries.
pub struct Exporter<W> {
    out: W,
    format: Format,
    name_of: Box<dyn FnMut(&Account) -> String + Send>,
    accounts: HashMap<AccountId, Known>,
    names: HashSet<(String, Currency)>,
    opened: HashSet<String>,
    commodities: Commodities,
    done: Exported,
}

impl<W: Write> Exporter<W> {
    /// Begins a journal; accounts are called by [`default_name`].
    ///
    /// # Errors
    /// [`ExportError::Write`].
    pub fn new(format: Format, out: W) -> Result<Self, ExportError> {
        Self::with_names(format, out, default_name)
    }

    /// The same, with accounts called otherwise: by a table of your own, say. Two accounts may have one name if their currencies
    /// differ.
    ///
    /// # Errors
    /// [`ExportError::Write`].
    pub fn with_names(
        format: Format,
        mut out: W,
        name_of: impl FnMut(&Account) -> String + Send + 'static,
    ) -> Result<Self, ExportError> {
        out.write_str("; The journal of a sysd-ledger.\n")?;
        Ok(Self {
            out,
            format,
            name_of: Box::new(name_of),
            accounts: HashMap::new(),
            names: HashSet::new(),
            opened: HashSet::new(),
            commodities: Commodities::default(),
            done: Exported::default(),
        })
    }

    /// Makes an account known; again is no harm.
    ///
    /// # Errors
    /// [`ExportError`]; the account is not known then.
    pub fn account(&mut self, account: &Account) -> Result<(), ExportError> {
        if self.accounts.contains_key(&account.id) {
            return Ok(());
        }
        let (id, currency, name) = (account.id, account.currency, (self.name_of)(account));
        if let Some(why) = refusal(self.format, &name) {
            return Err(ExportError::Name { account: id, name, why });
        }
        if !self.names.insert((name.clone(), currency)) {
            return Err(ExportError::SameName { account: id, name, currency });
        }
        let mut text = String::new();
        let (commodity, is_new) = self.commodities.name(self.format, currency);
        let decimals = currency.exponent();
        if is_new {
            match self.format {
                Format::Text => {
                    writeln!(text, "\ncommodity {commodity}")?;
                    // Without decimals it has no form that both take: hledger insists on a point, and ledger on none.
                    if decimals > 0 {
                        writeln!(text, "    format 1.{} {commodity}", "0".repeat(decimals.into()))?;
                    }
                }
                Format::Beancount => {
                    write!(text, "\n1400-01-01 commodity {commodity}\n  sysd-decimals: {decimals}\n")?;
                }
            }
        }
        if self.opened.insert(name.clone()) {
            match self.format {
                Format::Text => write!(text, "\naccount {name}\n")?,
                Format::Beancount => write!(text, "\n1400-01-01 open {name}\n")?,
            }
        }
        self.accounts.insert(id, Known { name, currency });
        self.done.accounts += 1;
        Ok(self.out.write_str(&text)?)
    }

    /// Writes what an entry posted; if it posted nothing, it is only counted.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn entry(&mut self, entry: &JournalEntry) -> Result<(), ExportError> {
        let posted = || entry.changes.iter().filter(|change| change.posted > 0);
        let Some(transaction) = entry.transaction().filter(|_| posted().next().is_some()) else {
            self.done.left_out += 1;
            return Ok(());
        };
        balances(entry.number, posted())?;
        let day_of = entry.effective();
        let day = day::show(day_of).ok_or(ExportError::Day { number: entry.number, day: day_of })?;

        let mut tags = vec![("sysd-id".to_owned(), transaction.id.to_string())];
        if let Some(recorded) = day::show_time(entry.recorded_at) {
            tags.push(("sysd-recorded".to_owned(), recorded));
        }
        if let Some(reverses) = transaction.reverses {
            tags.push(("sysd-reverses".to_owned(), reverses.to_string()));
        }
        let details = transaction.details.as_deref();
        tags.extend(details.map(escape::tags).unwrap_or_default());
        let memo = details.map(|details| escape::readable(details.memo())).unwrap_or_default();

        let (mut text, number) = (String::new(), entry.number);
        match self.format {
            Format::Text => {
                let space = if memo.is_empty() { "" } else { " " };
                write!(text, "\n{day} * ({number}){space}{memo}\n")?;
                for (key, value) in &tags {
                    writeln!(text, "    ; {key}: {value}")?;
                }
            }
            Format::Beancount => {
                let memo = memo.replace('\\', "\\\\").replace('"', "\\\"");
                write!(text, "\n{day} * \"{memo}\"\n  sysd-number: {number}\n")?;
                for (key, value) in &tags {
                    writeln!(text, "  {key}: \"{value}\"")?;
                }
            }
        }
        for change in posted() {
            self.posting(number, change, &mut text)?;
        }
        self.out.write_str(&text)?;
        self.done.transactions += 1;
        Ok(())
    }

    fn posting(&mut self, number: u64, change: &Change, text: &mut String) -> Result<(), ExportError> {
        let &Change { account, currency, side, posted, balance, .. } = change;
        let known = self.accounts.get(&account).filter(|known| known.currency == currency);
        let Known { name, .. } = known.ok_or(ExportError::UnknownAccount { account, number })?;
        let sum_max = posted.max(balance.debits_posted).max(balance.credits_posted);
        if self.format == Format::Beancount && sum_max > BEANCOUNT_SUM_MAX {
            return Err(ExportError::Digits { account, number });
        }
        let (indent, sign) = (if self.format == Format::Text { "    " } else { "  " }, sign(side));
        let (commodity, _) = self.commodities.name(self.format, currency);
        writeln!(text, "{indent}{name}  {sign}{} {commodity}", amount(posted, currency))?;
        Ok(())
    }

    /// Ends the journal: what it was written to, and how much that was.
    pub fn finish(self) -> (W, Exported) {
        (self.out, self.done)
    }
}

impl<W: fmt::Debug> fmt::Debug for Exporter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { out, format, done, .. } = self;
        f.debug_struct("Exporter").field("out", out).field("format", format).field("done", done).finish_non_exhaustive()
    }
}

const fn sign(side: Side) -> &'static str {
    match side {
        Side::Debit => "",
        Side::Credit => "-",
    }
}

/// In major units, with all decimals.
fn amount(minor: u128, currency: Currency) -> String {
    let exponent = usize::from(currency.exponent());
    let digits = format!("{minor:0>width$}", width = exponent + 1);
    let (whole, part) = digits.split_at(digits.len() - exponent);
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

fn balances<'a>(number: u64, changes: impl Iterator<Item = &'a Change>) -> Result<(), ExportError> {
    let mut sums = BTreeMap::<Currency, i128>::new();
    for change in changes {
        let currency = change.currency;
        let signed = i128::try_from(change.posted).ok().map(|posted| match change.side {
            Side::Debit => posted,
            Side::Credit => -posted,
        });
        let sum = sums.entry(currency).or_default();
        *sum = signed.and_then(|signed| sum.checked_add(signed)).ok_or(ExportError::Unbalanced { number, currency })?;
    }
    match sums.into_iter().find(|(_, sum)| *sum != 0) {
        Some((currency, _)) => Err(ExportError::Unbalanced { number, currency }),
        None => Ok(()),
    }
}

/// Lets an [`Exporter`] write to a file, a socket, a `Vec<u8>`: any [`io::Write`]. Buffer what is slow for small writes.
#[derive(Debug)]
pub struct IoWriter<W> {
    inner: W,
    error: Option<io::Error>,
}

impl<W: io::Write> IoWriter<W> {
    /// Writes to that.
    pub const fn new(inner: W) -> Self {
        Self { inner, error: None }
    }

    /// Flushes it, and gives it back.
    ///
    /// # Errors
    /// The first error of writing, which the exporter could only tell as [`ExportError::Write`].
    pub fn into_inner(mut self) -> io::Result<W> {
        match self.error {
            Some(error) => Err(error),
            None => self.inner.flush().map(|()| self.inner),
        }
    }
}

impl<W: io::Write> fmt::Write for IoWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Behind an error nothing more is written: a gap in a journal would not be seen.
        if self.error.is_none() {
            self.error = self.inner.write_all(text.as_bytes()).err();
        }
        if self.error.is_some() { Err(fmt::Error) } else { Ok(()) }
    }
}
