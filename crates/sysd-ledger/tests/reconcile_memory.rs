//! Files that are larger than the memory: exactly the differences that were put in, in bounded memory. It is alone in its process, so
//! that what the process takes is what the run takes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufReader, Read};

use sysd_ledger::reconcile::{CsvFormat, CsvRows, Party, Reconciliation, Record, records};
use sysd_ledger::{Currency, Date};

const ROWS: u64 = 200_000;
const MEMORY: usize = 1 << 20;

/// In no order, so that sorting has work to do.
fn shuffled(at: u64) -> u64 {
    at * 7_919 % ROWS
}

fn reference(at: u64) -> String {
    format!("order-{at:08}-of-a-shop-with-long-names-for-its-orders-{:032x}", u128::from(at) << 64)
}

/// The settlement file, made while it is read: with each kind of mistake in it.
struct Report {
    next: u64,
    text: Vec<u8>,
    from: usize,
}

fn lines(at: u64) -> String {
    let (id, amount) = (reference(at), 1_00 + at % 1_000);
    let row =
        |amount: u64, currency: &str| format!("{id},{}.{:02},{currency},2026-01-31\n", amount / 100, amount % 100);
    match at % 1_000 {
        1 => String::new(),
        2 => row(amount + 1, "EUR"),
        3 => row(amount, "USD"),
        4 => row(amount, "EUR") + &row(amount, "EUR"),
        5 => row(amount, "EUR").replace('.', ".."),
        6 => row(amount, "EUR") + &row(amount, "EUR").replace("order-", "other-"),
        _ => row(amount, "EUR"),
    }
}

impl Read for Report {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.from == self.text.len() {
            if self.next == ROWS {
                return Ok(0);
            }
            (self.text, self.from) = (lines(shuffled(self.next)).into_bytes(), 0);
            self.next += 1;
        }
        let read = into.len().min(self.text.len() - self.from);
        into[..read].copy_from_slice(&self.text[self.from..self.from + read]);
        self.from += read;
        Ok(read)
    }
}

/// The most memory that the process ever had, in bytes; `None` where the system does not tell.
fn most_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn files_larger_than_the_memory_are_compared_in_bounded_memory() {
    let euro = Currency::iso("EUR").unwrap();
    let ours = (0..ROWS).map(|at| {
        let at = shuffled(ROWS - 1 - at);
        Record::new(&reference(at), euro, i128::from(1_00 + at % 1_000), Date(20_484), 0)
    });
    let header = "reference,amount,currency,date\n".as_bytes().to_vec();
    let report = BufReader::new(Report { next: 0, text: header, from: 0 });
    let run = Reconciliation { memory_max: MEMORY, ..Reconciliation::new(std::env::temp_dir()) };
    let before = most_resident();
    let mut bytes = 0;
    let summary = run
        .run(
            records(ours.inspect(|record| bytes += record.reference.len())),
            CsvRows::new(report, CsvFormat::generic()),
            &mut |_| Ok(()),
        )
        .unwrap();
    let after = most_resident();

    let each = ROWS / 1_000;
    assert_eq!(summary.matches["exact"], ROWS - 4 * each);
    let expected =
        [("amount_differs", 1), ("currency_differs", 1), ("duplicate", 1), ("missing_here", 1), ("missing_there", 2)];
    assert_eq!(summary.differences, expected.map(|(name, times)| (name, times * each)).into());
    assert_eq!(summary.totals.bad_rows(Party::Theirs), each);
    assert_eq!(summary.totals.rows, [ROWS, ROWS + each]);
    // Both sides are well over thirty times the memory for sorting.
    assert!(bytes > 15 * MEMORY, "{bytes}");
    if let (Some(before), Some(after)) = (before, after) {
        // Buffers of files and what the allocator keeps come on top; both sides would be more than 36 MB.
        let grown = after - before;
        assert!(grown < 8 << 20, "{grown} bytes");
    }
}
