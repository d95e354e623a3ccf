//! From a file to accounts and transactions.

use std::collections::BTreeMap;
use std::fmt;

use super::problem::ImportErrors;
use super::{Format, beancount, resolve, text};
use crate::model::{Account, AccountId, AccountKind, Currency, Transaction};

/// Something in a journal that moves nothing, and that was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its line, from 1 on.
    pub line: usize,
    /// What it was.
    pub what: &'static str,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// A journal, ready for the books: open the accounts, then record the transactions.
///
/// The same journal gives the same ids, so that nothing is recorded twice: books answer [`Reply::Exists`](crate::Reply::Exists), and a
/// [`Ledger`](crate::Ledger) the first answer, or [`Reply::Conflict`](crate::Reply::Conflict) if marks or comments changed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Imported {
    /// For [`Command::Open`](crate::Command::Open). Opening one that is open already changes nothing.
    pub accounts: Vec<Account>,
    /// For [`Command::Transact`](crate::Command::Transact), in the order of the file.
    pub transactions: Vec<Transaction>,
    /// The line of each transaction.
    pub lines: Vec<usize>,
    /// What each account is called in the file.
    pub names: BTreeMap<AccountId, String>,
    /// What was passed over, by line. No balance depends on it.
    pub skipped: Vec<Skipped>,
}

pub(super) type IdOf = dyn Fn(&str, Currency) -> Option<AccountId> + Send + Sync;

/// Reads journals of `hledger`, `ledger` and `beancount`. docs/interchange.md says what becomes of what.
///
/// ```
/// use sysd_ledger::interchange::{Format, Importer};
/// use sysd_ledger::{Books, Command, Currency, Reply, Side};
/// use sysd_core::Timestamp;
///
/// let journal = "\
/// 2024-02-29 Coffee  ; with Ann
///     Expenses:Food    $3.50
///     Assets:Cash
/// ";
/// let imported = Importer::new(Format::Text, "ann's journal").commodity("$", Currency::iso("USD")?).read(journal)?;
/// let mut books = Books::default();
/// for account in &imported.accounts {
///     books.apply(Timestamp::UNIX_EPOCH, &Command::Open(Box::new(account.clone())));
/// }
/// for transaction in imported.transactions {
///     let reply = books.apply(Timestamp::UNIX_EPOCH, &Command::Transact(transaction));
///     assert!(matches!(reply, Reply::Recorded(_)));
/// }
/// let cash = imported.names.iter().find(|(_, name)| *name == "Assets:Cash").map(|(id, _)| *id).ok_or("no cash")?;
/// assert_eq!(books.balance(cash).ok_or("no cash")?.posted(Side::Debit), -3_50);
///
/// let errors = Importer::new(Format::Text, "ann's journal").read(journal).unwrap_err();
/// assert!(errors.to_string().starts_with("2:22: \"$\" is no currency's code"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Importer {
    format: Format,
    pub(super) source: String,
    pub(super) commodities: BTreeMap<String, Currency>,
    pub(super) kinds: Vec<(String, AccountKind)>,
    pub(super) id_of: Option<Box<IdOf>>,
    pub(super) trading: String,
}

impl Importer {
    /// Reads journals of that format. `source` tells journals apart: two transactions that are the same in all they say are one if
    /// they are of one source, and two if not. So use the same for what may be imported again.
    pub fn new(format: Format, source: impl Into<String>) -> Self {
        let (commodities, kinds, trading) = (BTreeMap::new(), Vec::new(), "Equity:Trading".to_owned());
        Self { format, source: source.into(), commodities, kinds, id_of: None, trading }
    }

    /// What a commodity of the file is. Codes of ISO 4217 need none; other codes have the most decimals that the file shows of
    /// them, unless you say it here.
    #[must_use]
    pub fn commodity(mut self, name: impl Into<String>, currency: Currency) -> Self {
        self.commodities.insert(name.into(), currency);
        self
    }

    /// Of what kind an account is, and those below it; the longest name wins. Needed where a name does not begin with one of the
    /// usual roots.
    #[must_use]
    pub fn kind(mut self, account: impl Into<String>, kind: AccountKind) -> Self {
        self.kinds.push((account.into(), kind));
        self
    }

    /// Which id an account has, by its name and currency. Without it, or where it answers `None`, an id is made from both, unless
    /// the name is one of [`default_name`](super::default_name).
    #[must_use]
    pub fn account_ids(mut self, id_of: impl Fn(&str, Currency) -> Option<AccountId> + Send + Sync + 'static) -> Self {
        self.id_of = Some(Box::new(id_of));
        self
    }

    /// The account through which what has a price is exchanged, one a currency; `Equity:Trading` unless you say otherwise.
    #[must_use]
    pub fn trading_account(mut self, name: impl Into<String>) -> Self {
        self.trading = name.into();
        self
    }

    /// Reads a whole journal.
    ///
    /// # Errors
    /// All that is wrong with it, by line. Then nothing of it is handed out.
    ///
    /// # Cost
    /// Memory as for the text, a few times: what a commodity's decimals are is known at the end only.
    pub fn read(&self, journal: &str) -> Result<Imported, ImportErrors> {
        let journal = journal.strip_prefix('\u{feff}').unwrap_or(journal);
        let mut errors = ImportErrors::default();
        let raw = match self.format {
            Format::Text => text::parse(journal, &mut errors),
            Format::Beancount => beancount::parse(journal, &mut errors),
        };
        let mut imported = resolve::resolve(self, raw, &mut errors);
        if errors.errors.is_empty() {
            imported.skipped.sort_by_key(|skipped| skipped.line);
            return Ok(imported);
        }
        errors.errors.sort_by_key(|error| (error.line, error.column));
        Err(errors)
    }
}

impl fmt::Debug for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, source, commodities, kinds, trading, .. } = self;
        f.debug_struct("Importer")
            .field("format", format)
            .field("source", source)
            .field("commodities", commodities)
            .field("kinds", kinds)
            .field("trading", trading)
            .finish_non_exhaustive()
    }
}
