//! The ledger example as its users run it: on a made-up platform, and on small files in the formats that it imports.
#![cfg(all(feature = "memory", feature = "reconcile"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "support/example.rs"]
mod example;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use example::example;

/// A directory of the test's own.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ledger-{name}"));
    fs::create_dir_all(&path).unwrap();
    path
}

/// One line of JSON, and what it said to people beside.
fn json(arguments: &[&str], directory: &Path) -> (Value, String) {
    let output =
        example("ledger").args(arguments).arg("--json").arg("--journal").arg(directory.join("journal")).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    (serde_json::from_str(lines[0]).unwrap(), said)
}

/// hledger is asked where there is one.
fn hledger_agrees(summary: &Value) -> bool {
    summary["hledger_agrees"].is_null() || summary["hledger_agrees"] == summary["accounts"]
}

#[test]
fn the_books_of_a_made_up_platform_are_right_and_only_what_the_bank_did_wrong_differs() {
    let directory = directory("demo");
    let demo = ["demo", "--payments", "2000", "--customers", "50", "--callers", "64"];
    let (summary, _) = json(&demo, &directory);
    assert_eq!(summary["verified"], true);
    assert_eq!(summary["trial_balance"], json!({ "EUR": "0", "JPY": "0", "USD": "0" }));
    assert_eq!(summary["store"], "memory");
    assert!(hledger_agrees(&summary), "{summary}");
    // Each is recorded, refused or known; some payments come to two transactions.
    let count = |name: &str| summary[name].as_u64().unwrap();
    let asked = ["transactions", "rejected", "known"].map(count);
    assert!(asked.iter().all(|count| *count > 0), "{summary}");
    assert!((2_000..4_000).contains(&asked.iter().sum::<u64>()), "{summary}");
    let written = fs::read_to_string(directory.join("journal")).unwrap();
    assert!(!written.is_empty() && count("exported") > 0);
    // The bank lost some and has others wrong; it knows none that we don't, captures of cards among them.
    let differences = summary["differences"].as_object().unwrap();
    let kinds: Vec<_> = differences.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["amount_differs", "missing_there"], "{summary}");
    let differ: u64 = differences.values().map(|count| count.as_u64().unwrap()).sum();
    // Of 2,000 about every 49th, and three in ten of them are about the bank.
    assert!((4..30).contains(&differ), "{summary}");
    let matched = summary["matches"]["exact"].as_u64().unwrap();
    assert!((450..750).contains(&matched), "{summary}");
}

/// Rows of a bank: money in, money out, interest, fees, and a day that there was not.
const BANK: &str = "trans_id;account_id;date;type;operation;amount;balance;k_symbol;bank;account
1;2;930103;PRIJEM;VKLAD;1200.00;1200.00;;;
2;2;930110;VYDAJ;VYBER;350.50;849.50;;;
3;2;930131;PRIJEM;;4.30;853.80;UROK;;
4;6;930202;PRIJEM;VKLAD;80.00;80.00;;;
5;6;930228;VYBER;VYBER;14.60;65.40;SLUZBY;;
6;6;930231;PRIJEM;VKLAD;1.00;66.40;;;
";

/// Rows of a collective: zeros at the end are left out.
const COLLECTIVE: &str = "datetime,shortId,kind,netAmount,currency
2020-03-01T09:30:00,aa01,CONTRIBUTION,95.5,USD
2020-03-02T10:00:00,aa02,CONTRIBUTION,20,USD
2020-03-09T17:45:10,aa03,EXPENSE,-40.25,USD
";

#[test]
fn a_banks_and_a_collectives_rows_are_imported_and_match() {
    let directory = directory("import");
    let file = File::create(directory.join("berka_trans_even_accounts.csv.gz")).unwrap();
    let mut file = GzEncoder::new(file, Compression::fast());
    file.write_all(BANK.as_bytes()).unwrap();
    file.finish().unwrap();
    fs::write(directory.join("open_collective_ledger_2017_2022.csv"), COLLECTIVE).unwrap();
    let (summary, said) = json(&["import", directory.to_str().unwrap()], &directory);
    assert_eq!((&summary["transactions"], &summary["bad_rows"]), (&json!(8), &json!(1)), "{summary}: {said}");
    assert!(said.contains("row 7") && said.contains("date"), "{said}");
    // Two customers, the bank's cash, interest and fees; what the collective has, gets and spends.
    assert_eq!(summary["accounts"], 8);
    assert_eq!((&summary["rejected"], &summary["known"]), (&json!(0), &json!(0)));
    assert_eq!(summary["verified"], true);
    assert_eq!(summary["trial_balance"], json!({ "CZK": "0", "USD": "0" }));
    assert!(hledger_agrees(&summary), "{summary}");
    assert_eq!((&summary["matches"], &summary["differences"]), (&json!({ "exact": 3 }), &json!({})));
    // Without the files it says which it looked for.
    let output = example("ledger").args(["import", "no such directory"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("no such directory/berka"), "{said}");
}
