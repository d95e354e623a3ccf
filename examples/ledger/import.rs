//! Real transactions: of a Czech bank of 1993 (the Berka data set), and the books of an Open Collective.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use futures::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use sysd::core::Store;
use sysd::ledger::reconcile::{AmountIn, CsvFormat, CsvRows, CurrencyIn, Decimals, MoneyIn, Notation, Record, Row};
use sysd::ledger::{
    Account, AccountId, AccountKind, Books, Currency, Details, Ledger, Reply, Transaction, TransactionId,
};
use sysd::storage::Replica;

use crate::demo::Counts;

pub(crate) const BERKA: &str = "berka_trans_even_accounts.csv.gz";
pub(crate) const COLLECTIVE: &str = "open_collective_ledger_2017_2022.csv";

/// Where the ids of a file's accounts and transactions begin.
const BANK: u128 = 1 << 64;
const OPEN: u128 = 2 << 64;
/// What the collective has.
pub(crate) const COLLECTIVE_ASSET: AccountId = AccountId(OPEN);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The bank's rows: the account stands where a payout would.
fn berka(directory: &Path) -> Result<impl Iterator<Item = Result<Row, String>>, String> {
    let path = directory.join(BERKA);
    let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let amount = AmountIn::Indicated {
        amount: "amount".into(),
        indicator: "type".into(),
        debit: vec!["VYDAJ".to_owned(), "VYBER".to_owned()],
        credit: vec!["PRIJEM".to_owned()],
    };
    let crown = Currency::iso("CZK").map_err(text)?;
    let format = CsvFormat {
        delimiter: b';',
        reference: vec!["trans_id".into()],
        money: vec![MoneyIn { amount, currency: CurrencyIn::Fixed(crown) }],
        day: vec!["date".into()],
        day_formats: vec!["%y%m%d".to_owned()],
        kind: vec!["k_symbol".into()],
        batch: vec!["account_id".into()],
        ..CsvFormat::generic()
    };
    let file: Box<dyn Read + Send> = Box::new(GzDecoder::new(file));
    Ok(CsvRows::new(BufReader::new(file), format).map(|row| row.map_err(text)))
}

/// The collective's rows: what each of them came to after all fees.
pub(crate) fn collective(directory: &Path) -> Result<CsvRows<BufReader<File>>, String> {
    let path = directory.join(COLLECTIVE);
    let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let amount = AmountIn::Signed("netAmount".into());
    let format = CsvFormat {
        reference: vec!["shortId".into()],
        money: vec![MoneyIn { amount, currency: CurrencyIn::Column("currency".into()) }],
        day: vec!["datetime".into()],
        kind: vec!["kind".into()],
        // Zeros at the end are left out.
        notation: Notation { decimals: Decimals::Padded, ..Notation::default() },
        ..CsvFormat::generic()
    };
    Ok(CsvRows::new(BufReader::new(file), format))
}

/// What is to be posted: accounts and transactions, and how many rows can't be.
#[derive(Default)]
struct Import {
    accounts: Vec<Account>,
    transactions: Vec<Transaction>,
    bad: Vec<String>,
    /// Rows that move nothing.
    empty: u64,
}

impl Import {
    fn account(&mut self, id: u128, currency: Currency, kind: AccountKind) -> AccountId {
        let id = AccountId(id);
        if !self.accounts.iter().rev().any(|account| account.id == id) {
            self.accounts.push(Account::new(id, currency, kind));
        }
        id
    }

    /// From one account to another; the other way if the amount is negative.
    fn post(&mut self, space: u128, record: &Record, to: AccountId, from: AccountId) -> Result<(), String> {
        let (credit, debit) = if record.amount > 0 { (from, to) } else { (to, from) };
        if record.amount == 0 {
            self.empty += 1;
            return Ok(());
        }
        let id = TransactionId(space | u128::from(record.row));
        let metadata = vec![("reference".to_owned(), record.reference.to_string())];
        let amount = record.amount.unsigned_abs();
        let transfer = Transaction::transfer(id, record.currency, amount, credit, debit);
        let details = Details::new(&*record.kind, metadata).map_err(text)?;
        self.transactions.push(Transaction {
            effective: Some(record.day),
            details: Some(Box::new(details)),
            ..transfer
        });
        Ok(())
    }

    fn each(
        &mut self,
        name: &str,
        rows: impl Iterator<Item = Result<Row, String>>,
        mut one: impl FnMut(&mut Self, &Record) -> Result<(), String>,
    ) -> Result<(), String> {
        for row in rows {
            match row? {
                Ok(record) => one(self, &record)?,
                Err(bad) => {
                    self.bad.push(format!("{name}, row {}, column {:?}: {}", bad.row, bad.column, bad.why));
                }
            }
        }
        Ok(())
    }

    fn read(directory: &Path) -> Result<Self, String> {
        let mut import = Self::default();
        import.each(BERKA, berka(directory)?, |import, record| {
            let number = record.batch.parse::<u32>().map_err(|_| format!("{BERKA}, row {}: no account", record.row))?;
            // What the bank owes, and what it is owed by, its vault and other banks.
            let customer = import.account(BANK | 1 << 40 | u128::from(number), record.currency, AccountKind::Liability);
            let (at, kind) = match &*record.kind {
                "UROK" => (1, AccountKind::Expense),
                "SLUZBY" | "SANKC. UROK" => (2, AccountKind::Income),
                _ => (0, AccountKind::Asset),
            };
            let other = import.account(BANK | at, record.currency, kind);
            // A customer's money comes in on the credit side.
            import.post(BANK, record, other, customer)
        })?;
        import.each(COLLECTIVE, collective(directory)?.map(|row| row.map_err(text)), |import, record| {
            let asset = import.account(COLLECTIVE_ASSET.0, record.currency, AccountKind::Asset);
            let sum = record.kind.bytes().fold(0_u128, |sum, byte| sum * 131 + u128::from(byte)) & 0xFFFF_FFFF;
            let (space, kind) = if record.amount > 0 { (1, AccountKind::Income) } else { (2, AccountKind::Expense) };
            let other = import.account(OPEN | space << 40 | sum, record.currency, kind);
            import.post(OPEN, record, asset, other)
        })?;
        Ok(import)
    }
}

/// Posts all rows of both files.
pub(crate) async fn post<S: Store>(
    ledger: &Ledger<Replica<Books>, S>,
    directory: &Path,
    callers: usize,
    shows: bool,
) -> Result<Counts, String> {
    let Import { accounts, transactions, bad, empty } = Import::read(directory)?;
    for row in &bad {
        eprintln!("ledger: not posted: {row}");
    }
    if empty > 0 {
        eprintln!("ledger: {empty} rows move nothing");
    }
    let mut opened = stream::iter(accounts).map(|account| ledger.open_account(account)).buffer_unordered(callers);
    while let Some(reply) = opened.next().await {
        if let Reply::Rejected(why) = reply.map_err(text)? {
            return Err(why.to_string());
        }
    }
    let bar = if shows { ProgressBar::new(transactions.len() as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} transactions, {per_sec}") {
        bar.set_style(style);
    }
    let mut counts = Counts { bad: bad.len() as u64, ..Counts::default() };
    let before = ledger.read(Books::journal_len).await.map_err(text)?;
    // In the order of the files.
    let mut recorded = stream::iter(transactions).map(|transaction| ledger.transact(transaction)).buffered(callers);
    while let Some(reply) = recorded.next().await {
        counts.add(&[reply.map_err(text)?], before);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(counts)
}
