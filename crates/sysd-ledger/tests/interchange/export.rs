//! What is written, what is left out, what is refused.

use std::io;

use proptest::prelude::*;
use sysd_core::Timestamp;
use sysd_ledger::interchange::{ExportError, Exported, Exporter, Format, Importer, IoWriter};
use sysd_ledger::{
    Account, AccountId, AccountKind, Currency, Date, Details, Event, JournalEntry, Posting, Side, Transaction,
    TransactionId,
};

use crate::books::Kept;
use crate::programs::{ALL, Program};
use crate::round_trip::{agrees, write};

const BANK: AccountId = AccountId(1);
const SALES: AccountId = AccountId(2);

fn now() -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).unwrap()
}

fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

fn shop(currency: Currency) -> Kept {
    let mut kept = Kept::default();
    kept.open(&Account::new(BANK, currency, AccountKind::Asset));
    kept.open(&Account::new(SALES, currency, AccountKind::Income));
    kept
}

fn sale(id: u128, currency: Currency, amount: u128) -> Transaction {
    Transaction::transfer(TransactionId(id), currency, amount, SALES, BANK)
}

#[test]
fn a_journal_looks_like_this() {
    let mut kept = shop(euro());
    let details = Details::new("Order 17; paid", vec![("order".to_owned(), "A-17".to_owned())]).unwrap();
    let first = Transaction { effective: Some(Date(0)), details: Some(Box::new(details)), ..sale(7, euro(), 12_05) };
    kept.transact(now(), first);
    kept.transact(now(), sale(8, euro(), 5).held_until(None));
    let back = Posting { account: BANK, amount: 12_05, currency: euro(), side: Side::Credit };
    let reversal = [back, Posting { account: SALES, side: Side::Debit, ..back }];
    kept.transact(
        now(),
        Transaction { reverses: Some(TransactionId(7)), ..Transaction::new(TransactionId(9), reversal) },
    );

    let (text, done) = write(&kept, Format::Text);
    assert_eq!(done, Exported { accounts: 2, transactions: 2, left_out: 1 });
    let expected = "\
; The journal of a sysd-ledger.

commodity EUR
    format 1.00 EUR

account Assets:0x1

account Income:0x2

1970-01-01 * (1) Order 17, paid
    ; sysd-id: 0x7
    ; sysd-recorded: 2023-11-14T22:13:20Z
    ; sysd-memo-0: Order%2017%3B%20paid
    ; order: A-17
    Assets:0x1  12.05 EUR
    Income:0x2  -12.05 EUR

2023-11-14 * (3)
    ; sysd-id: 0x9
    ; sysd-recorded: 2023-11-14T22:13:20Z
    ; sysd-reverses: 0x7
    Assets:0x1  -12.05 EUR
    Income:0x2  12.05 EUR
";
    assert_eq!(text, expected);
    let (beancount, _) = write(&kept, Format::Beancount);
    let expected = "
1970-01-01 * \"Order 17, paid\"
  sysd-number: 1
  sysd-id: \"0x7\"
  sysd-recorded: \"2023-11-14T22:13:20Z\"
  sysd-memo-0: \"Order%2017%3B%20paid\"
  order: \"A-17\"
  Assets:0x1  12.05 EUR
  Income:0x2  -12.05 EUR
";
    assert!(beancount.contains(expected), "{beancount}");
}

#[test]
fn the_last_of_38_decimals_is_there_and_the_first_of_39_digits() {
    let wei = Currency::custom("WEI", 38).unwrap();
    for (currency, amount) in
        [(wei, 1), (wei, i128::MAX.unsigned_abs()), (Currency::iso("JPY").unwrap(), i128::MAX.unsigned_abs())]
    {
        let mut kept = shop(currency);
        kept.transact(now(), sale(1, currency, amount));
        for program in ALL {
            if program == Program::Beancount && amount > 1 {
                continue;
            }
            agrees(program, &kept, &write(&kept, program.format()).0).unwrap();
        }
    }
}

#[test]
fn what_beancount_would_round_is_refused() {
    let yen = Currency::iso("JPY").unwrap();
    let most = 10_u128.pow(28) - 1;
    let mut kept = shop(yen);
    kept.transact(now(), sale(1, yen, most));
    agrees(Program::Beancount, &kept, &write(&kept, Format::Beancount).0).unwrap();
    kept.transact(now(), sale(2, yen, 1));
    let mut exporter = Exporter::new(Format::Beancount, String::new()).unwrap();
    kept.accounts().iter().for_each(|account| exporter.account(account).unwrap());
    exporter.entry(&kept.entries[0]).unwrap();
    assert_eq!(exporter.entry(&kept.entries[1]), Err(ExportError::Digits { account: BANK, number: 2 }));
    // Nothing of it was written.
    let (journal, done) = exporter.finish();
    assert_eq!((done.transactions, journal.matches("sysd-id").count()), (1, 1));
}

fn entry(transaction: Transaction) -> JournalEntry {
    let mut kept = shop(euro());
    kept.transact(now(), transaction);
    kept.entries.remove(0)
}

#[test]
fn what_can_not_be_written_is_an_error_and_not_a_journal_without_it() {
    let good = entry(sale(1, euro(), 5));
    let mut exporter = Exporter::new(Format::Text, String::new()).unwrap();
    assert_eq!(exporter.entry(&good), Err(ExportError::UnknownAccount { account: BANK, number: 1 }));
    exporter.account(&Account::new(BANK, euro(), AccountKind::Asset)).unwrap();
    assert_eq!(exporter.entry(&good), Err(ExportError::UnknownAccount { account: SALES, number: 1 }));
    exporter.account(&Account::new(SALES, Currency::iso("USD").unwrap(), AccountKind::Income)).unwrap();
    assert_eq!(exporter.entry(&good), Err(ExportError::UnknownAccount { account: SALES, number: 1 }));

    for day in [i32::MIN, -208_189, 2_932_897, i32::MAX] {
        let late = entry(Transaction { effective: Some(Date(day)), ..sale(1, euro(), 5) });
        assert_eq!(exporter.entry(&late), Err(ExportError::Day { number: 1, day: Date(day) }));
    }
    let mut off = good.clone();
    off.changes[0].posted += 1;
    assert_eq!(exporter.entry(&off), Err(ExportError::Unbalanced { number: 1, currency: euro() }));
    assert_eq!(exporter.finish().1.transactions, 0);
}

#[test]
fn a_hold_that_ended_is_counted_and_left_out() {
    let mut exporter = Exporter::new(Format::Text, String::new()).unwrap();
    let ended = JournalEntry {
        event: Event::HoldEnded { hold: TransactionId(1) },
        ..entry(sale(1, euro(), 5).held_until(None))
    };
    exporter.entry(&ended).unwrap();
    assert_eq!(exporter.finish().1, Exported { left_out: 1, ..Exported::default() });
}

#[test]
fn names_are_checked() {
    let account = Account::new(BANK, euro(), AccountKind::Asset);
    for (format, name) in
        [(Format::Text, "A\n2020-01-01 x"), (Format::Text, ""), (Format::Beancount, "Assets:Wells Fargo")]
    {
        let mut exporter = Exporter::with_names(format, String::new(), move |_| name.to_owned()).unwrap();
        assert!(matches!(exporter.account(&account), Err(ExportError::Name { .. })), "{name:?}");
    }
    let mut exporter = Exporter::with_names(Format::Text, String::new(), |_| "Assets:Wells Fargo".to_owned()).unwrap();
    exporter.account(&account).unwrap();
    exporter.account(&account).unwrap();
    let other = Account { id: SALES, ..account };
    assert!(matches!(exporter.account(&other), Err(ExportError::SameName { account: SALES, .. })));
}

/// Takes so many bytes, and then no more.
struct Full(usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_stays_one() {
    let mut exporter = Exporter::new(Format::Text, IoWriter::new(Full(100))).unwrap();
    exporter.account(&Account::new(BANK, euro(), AccountKind::Asset)).unwrap();
    let account = Account::new(SALES, euro(), AccountKind::Income);
    assert!(matches!(exporter.account(&account), Err(ExportError::Write(_))));
    assert!(matches!(exporter.entry(&entry(sale(1, euro(), 5))), Err(ExportError::Write(_))));
    let (writer, _) = exporter.finish();
    assert_eq!(writer.into_inner().map(|_| ()).unwrap_err().kind(), io::ErrorKind::StorageFull);

    let mut exporter = Exporter::new(Format::Text, IoWriter::new(Vec::new())).unwrap();
    exporter.account(&account).unwrap();
    assert!(exporter.finish().0.into_inner().unwrap().ends_with(b"account Income:0x2\n"));
}

proptest! {
    /// Whatever is in a memo or in metadata, the journal has one transaction with two postings, and says the same when it is read.
    #[test]
    fn nothing_in_details_breaks_out(
        memo in any::<String>(),
        memo_lines in prop::collection::vec("[ -~\n\r\t;:|*!(){}@=\"\\\\]{0,40}|\n2020-01-01 x\n  Assets:B  5 EUR\n  Assets:C", 0..4),
        metadata in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
    ) {
        let memo = format!("{memo}{}", memo_lines.join("\n"));
        let Ok(details) = Details::new(memo, metadata) else { return Ok(()) };
        let mut kept = shop(euro());
        kept.transact(now(), Transaction { details: Some(Box::new(details.clone())), ..sale(1, euro(), 5) });
        for format in [Format::Text, Format::Beancount] {
            let (journal, _) = write(&kept, format);
            let imported = Importer::new(format, "").read(&journal).unwrap();
            prop_assert_eq!(imported.transactions.len(), 1);
            prop_assert_eq!(imported.transactions[0].postings.len(), 2);
            let found = imported.transactions[0].details.as_deref().cloned().unwrap_or_default();
            prop_assert_eq!(&found, &details);
            // Nothing begins at the margin but what we wrote.
            let margins = journal.lines().filter(|line| line.starts_with(|first: char| !first.is_whitespace())).count();
            prop_assert_eq!(margins, 5);
        }
    }
}
