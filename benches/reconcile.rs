//! Reconciliation: `cargo bench -p sysd-benches --bench reconcile`. An argument chooses rows by a part of their name.
//!
//! A million records of ours, made while they are read, and a file of a million rows in memory, neither in order; one row in a hundred
//! differs. Rates are rows of both sides a second of `ROUNDS` rounds, least and median, on one thread; memory is the most that the
//! process had beyond the file, in the round in which it had most. `csv`: reading the rows alone; `camt`: likewise, of bank statements.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss, reason = "a bench")]

use std::fmt::Write as _;
use std::time::Instant;

use sysd_ledger::reconcile::{CamtFormat, CamtRows, CsvFormat, CsvRows, Reconciliation, Record, Row, records};
use sysd_ledger::{Currency, Date};

const ROUNDS: usize = 3;
const ROWS: u64 = 1_000_000;

fn is_wanted(name: &str) -> bool {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    filter.is_none_or(|filter| name.contains(&filter))
}

/// A field of the process's status, in bytes.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1_024.0
}

fn shuffled(at: u64) -> u64 {
    at * 7_919 % ROWS
}

fn amount(at: u64) -> i128 {
    i128::from(at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44)
}

fn ours() -> impl Iterator<Item = Record> {
    let euro = Currency::iso("EUR").unwrap();
    (0..ROWS).map(move |at| {
        let at = shuffled(ROWS - 1 - at);
        Record::new(&format!("order-{at:012}"), euro, amount(at), Date(20_484), 0)
    })
}

fn file() -> String {
    let mut text = "reference,amount,currency,date\n".to_owned();
    for at in (0..ROWS).map(shuffled) {
        let amount = amount(at) + i128::from(at % 100 == 0);
        writeln!(text, "order-{at:012},{}.{:02},EUR,2026-01-31", amount / 100, amount % 100).unwrap();
    }
    text
}

fn statement() -> String {
    let mut text = "<Document><BkToCstmrStmt><Stmt><Id>1</Id>".to_owned();
    for at in 0..ROWS / 10 {
        let amount = amount(at);
        writeln!(
            text,
            "<Ntry><Amt Ccy=\"EUR\">{}.{:02}</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>2026-01-31</Dt></BookgDt>\
             <BkTxCd><Domn><Cd>PMNT</Cd><Fmly><Cd>RCDT</Cd><SubFmlyCd>BOOK</SubFmlyCd></Fmly></Domn></BkTxCd><NtryDtls><TxDtls><Refs>\
             <EndToEndId>order-{at:012}</EndToEndId></Refs></TxDtls></NtryDtls></Ntry>",
            amount / 100,
            amount % 100
        )
        .unwrap();
    }
    text + "</Stmt></BkToCstmrStmt></Document>"
}

fn report(name: &str, rows: u64, mut run: impl FnMut()) {
    let (mut rates, mut most) = (Vec::new(), 0.0_f64);
    for _ in 0..ROUNDS {
        // The most is counted from here on.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, start) = (memory("VmRSS:"), Instant::now());
        run();
        rates.push(rows as f64 / start.elapsed().as_secs_f64() / 1e6);
        most = most.max(memory("VmHWM:") - before);
    }
    rates.sort_by(f64::total_cmp);
    println!("{name:<16} min {:.2} median {:.2} M rows/s; {:.0} MiB", rates[0], rates[ROUNDS / 2], most / 1_048_576.0);
}

fn count<E: std::fmt::Debug>(rows: impl Iterator<Item = Result<Row, E>>, expected: u64) {
    assert_eq!(rows.map(|row| u64::from(row.unwrap().is_ok())).sum::<u64>(), expected);
}

fn main() {
    let file = file();
    if is_wanted("csv") {
        report("csv", ROWS, || count(CsvRows::new(file.as_bytes(), CsvFormat::generic()), ROWS));
    }
    if is_wanted("camt") {
        let text = statement();
        report("camt", ROWS / 10, || count(CamtRows::new(text.as_bytes(), CamtFormat::default()), ROWS / 10));
    }
    for mib in [1_usize, 64, 1_024] {
        let name = format!("run_{mib}_mib");
        if !is_wanted(&name) {
            continue;
        }
        let run = Reconciliation { memory_max: mib << 20, ..Reconciliation::new(std::env::temp_dir()) };
        report(&name, 2 * ROWS, || {
            let theirs = CsvRows::new(file.as_bytes(), CsvFormat::generic());
            let summary = run.run(records(ours()), theirs, &mut |_| Ok(())).unwrap();
            assert_eq!(
                (summary.matches["exact"], summary.differences["amount_differs"]),
                (ROWS / 100 * 99, ROWS / 100)
            );
        });
    }
}
