//! What is read, and what is wrong with what is not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sysd_core::Timestamp;
use sysd_ledger::interchange::{Format, ImportErrors, Imported, Importer, Problem};
use sysd_ledger::{AccountId, AccountKind, Currency, Reply, Side};

use crate::books::Kept;
use crate::programs::{ALL, Program};

fn dollar() -> Currency {
    Currency::iso("USD").unwrap()
}

fn importer(format: Format) -> Importer {
    Importer::new(format, "test").commodity("$", dollar())
}

/// Into books; every transaction has to be taken.
fn record(imported: &Imported) -> Kept {
    let mut kept = Kept::default();
    imported.accounts.iter().for_each(|account| kept.open(account));
    for transaction in &imported.transactions {
        let reply = kept.transact(Timestamp::UNIX_EPOCH, transaction.clone());
        assert!(matches!(reply, Reply::Recorded(_)), "{reply:?}");
    }
    kept
}

fn balances(imported: &Imported) -> BTreeMap<(String, String), String> {
    let kept = record(imported);
    let balances = kept.balances(|account| imported.names[&account.id].clone());
    let shown = |((name, currency), minor): ((String, Currency), i128)| {
        ((name, currency.code()), currency.show(minor).split(' ').next().unwrap().to_owned())
    };
    balances.into_iter().map(shown).collect()
}

const JOURNAL: &str = "\
; a comment
# another
comment
2020-99-99 not looked at
end comment

account Assets:Bank
    ; of whatever
commodity $1,000.00
P 2024/01/01 AAPL $30.00

~ monthly
    Expenses:Rent    $500
    Assets:Bank

2024-01-01=2024-01-03 * (17) Opening | balances  ; kind: first
    ; :one:two:
    Assets:Bank    $1,000.00  ; just so
    Assets:Cash        $ -5
    Assets:Cash:Box        $ -15
    Equity:Opening Balances

2024/1/2 ! Shares
    Assets:Broker  50 AAPL @ $3.10
    ! Expenses:Fees    $1.00
    Assets:Bank    $-156.00 = $844.00

2024.01.03 Twice
    Expenses:Food    $0.71
    Expenses:Food    $0.98
    Expenses:Food    $-0.50
    Liabilities:Card

2024-01-04 Nothing
    Assets:Bank    $0.00
    Assets:Cash:Box

2024-01-05 Euros for dollars
    Assets:Cash:Box    10.00 EUR @@ $11.00
    Assets:Bank    -$11.00
";

#[test]
fn a_text_journal_is_read() {
    let imported = importer(Format::Text).read(JOURNAL).unwrap();
    assert_eq!(imported.lines, [16, 23, 28, 38]);
    let skipped: Vec<_> = imported.skipped.iter().map(|skipped| skipped.line).collect();
    assert_eq!(skipped, [10, 12, 25, 26, 34]);
    let expected = [
        ("Assets:Bank", "USD", "833.00"),
        ("Assets:Broker", "AAPL", "50"),
        ("Assets:Cash:Box", "EUR", "10.00"),
        ("Assets:Cash", "USD", "-5.00"),
        ("Assets:Cash:Box", "USD", "-15.00"),
        ("Equity:Opening Balances", "USD", "-980.00"),
        ("Equity:Trading", "AAPL", "-50"),
        ("Equity:Trading", "EUR", "-10.00"),
        ("Equity:Trading", "USD", "166.00"),
        ("Expenses:Fees", "USD", "1.00"),
        ("Expenses:Food", "USD", "1.19"),
        ("Liabilities:Card", "USD", "-1.19"),
    ];
    let expected = expected.map(|(name, code, amount)| ((name.to_owned(), code.to_owned()), amount.to_owned()));
    assert_eq!(balances(&imported), expected.into_iter().collect());

    let details = imported.transactions[0].details.as_deref().unwrap();
    assert_eq!(details.memo(), "Opening | balances");
    let expected = [
        ("code", "17"),
        ("status", "cleared"),
        ("date2", "2024-01-03"),
        ("kind", "first"),
        ("tag", "one"),
        ("tag", "two"),
        ("comment", "just so"),
    ];
    assert_eq!(details.metadata(), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let shares = imported.transactions[1].details.as_deref().unwrap();
    assert_eq!(shares.metadata()[1], ("price".to_owned(), "50 AAPL @ 3.1 $".to_owned()));
    assert_eq!(imported.transactions[2].postings.len(), 2);
    let food = imported.transactions[2].postings.iter().find(|posting| posting.side == Side::Debit).unwrap();
    assert_eq!(food.amount, 1_19);
}

const BEANCOUNT: &str = "\
* A heading
option \"title\" \"mine\"
1970-01-01 commodity SHARE
  sysd-decimals: 4
2024-01-01 open Assets:Bank USD,EUR
2024-01-01 open Assets:Broker
2024-01-01 open Income:Work
; a comment
2024-01-02 * \"Ann\" \"Pay \\\"x\\\"\" #a ^b
  ref: \"17\"
  days: 20
  Assets:Bank  1,234 USD ; all of it
    bonus: TRUE
  Income:Work
2024-01-03 txn \"Shares\"
  Assets:Broker  2 SHARE @ 10.00 USD
  Assets:Bank  -20 USD
2024-01-04 balance Assets:Bank  1214 USD
";

#[test]
fn a_beancount_journal_is_read() {
    let imported = importer(Format::Beancount).read(BEANCOUNT).unwrap();
    // Both that were named are opened, though one of them is never used.
    assert_eq!(imported.accounts.iter().filter(|account| imported.names[&account.id] == "Assets:Bank").count(), 2);
    let share = Currency::custom("SHARE", 4).unwrap();
    assert!(imported.accounts.iter().any(|account| account.currency == share));
    assert_eq!(balances(&imported)[&("Assets:Bank".to_owned(), "USD".to_owned())], "1214.00");
    assert_eq!(imported.skipped.iter().map(|skipped| skipped.line).collect::<Vec<_>>(), [2, 18]);
    let details = imported.transactions[0].details.as_deref().unwrap();
    assert_eq!(details.memo(), "Pay \"x\"");
    let expected = [
        ("payee", "Ann"),
        ("status", "cleared"),
        ("tag", "a"),
        ("link", "b"),
        ("ref", "17"),
        ("days", "20"),
        ("comment", "all of it"),
        ("bonus", "TRUE"),
    ];
    assert_eq!(details.metadata(), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[test]
fn the_programs_agree_on_what_was_read() {
    for program in ALL {
        let journal = if program == Program::Beancount { BEANCOUNT } else { JOURNAL };
        let imported = importer(program.format()).read(journal).unwrap();
        // What was exchanged is in the trading account here, and nowhere there.
        let ours = balances(&imported).into_iter().filter(|((name, _), _)| name != "Equity:Trading");
        let plain = |amount: String| {
            if amount.contains('.') { amount.trim_end_matches('0').trim_end_matches('.').to_owned() } else { amount }
        };
        let ours: BTreeMap<_, _> = ours.map(|(key, amount)| (key, plain(amount))).collect();
        let theirs = program.balances_of_others(journal).unwrap();
        let theirs: BTreeMap<_, _> =
            theirs.into_iter().map(|((name, code), amount)| ((name, code.replace('$', "USD")), amount)).collect();
        assert_eq!(ours, theirs, "{program:?}");
    }
}

#[test]
fn the_same_again_is_the_same_and_what_is_added_is_new() {
    let first = importer(Format::Text).read(JOURNAL).unwrap();
    let mut kept = record(&first);
    let recorded = kept.books.journal_len();
    // A mark and a comment come later; a line is put before; two that are alike are two.
    let coffee = "2024-02-01 Coffee\n    Expenses:Food    $3\n    Assets:Bank\n\n";
    let later = format!("{coffee}{coffee}{}", JOURNAL.replace("2024.01.03 Twice", "2024-01-03 * Twice  ; seen"));
    let second = importer(Format::Text).read(&later).unwrap();
    let replies: Vec<_> = second
        .transactions
        .iter()
        .map(|transaction| kept.transact(Timestamp::UNIX_EPOCH, transaction.clone()))
        .collect();
    assert!(matches!(replies[..2], [Reply::Recorded(_), Reply::Recorded(_)]));
    assert!(replies[2..].iter().all(|reply| matches!(reply, Reply::Exists { .. })), "{replies:?}");
    assert_eq!(kept.books.journal_len(), recorded + 2);

    let other = Importer::new(Format::Text, "another").commodity("$", dollar()).read(JOURNAL).unwrap();
    assert!(
        other.transactions.iter().all(|transaction| first.transactions.iter().all(|found| found.id != transaction.id))
    );
    assert_eq!(other.accounts, first.accounts);
}

#[test]
fn names_kinds_and_ids_are_the_callers() {
    let journal = "2024-01-01 x\n    Русский язык:Активы    500.00€\n    Русский язык:Долг\n";
    let errors = importer(Format::Text).read(journal).unwrap_err();
    assert!(matches!(errors.errors[0].problem, Problem::Commodity { .. }), "{errors}");
    let named = || importer(Format::Text).commodity("€", Currency::iso("EUR").unwrap());
    let errors = named().read(journal).unwrap_err();
    assert!(errors.errors.iter().all(|error| matches!(error.problem, Problem::Kind { .. })), "{errors}");
    let read = named()
        .kind("Русский язык", AccountKind::Asset)
        .kind("Русский язык:Долг", AccountKind::Liability)
        .account_ids(|name, _| (name == "Русский язык:Долг").then_some(AccountId(5)))
        .read(journal)
        .unwrap();
    let debt = read.accounts.iter().find(|account| account.id == AccountId(5)).unwrap();
    assert_eq!(debt.kind, AccountKind::Liability);
    let same = named().kind("Русский язык", AccountKind::Asset).account_ids(|_, _| Some(AccountId(5))).read(journal);
    assert!(matches!(same.unwrap_err().errors[0].problem, Problem::SameAccount { .. }));
}

/// The line, the column, and the beginning of what is said.
fn wrong(format: Format, journal: &str) -> Vec<String> {
    importer(format).read(journal).unwrap_err().errors.iter().map(ToString::to_string).collect()
}

#[test]
fn errors_say_where_and_what() {
    let transaction = |postings: &str| format!("2024-01-01 x\n{postings}");
    for (journal, expected) in [
        ("2024-13-01 x\n    Assets:A  $1\n".to_owned(), "1:1: \"2024-13-01\" is no day"),
        ("include other.journal\n".to_owned(), "1:1: included files"),
        ("= /x/\n    (A)  1\n".to_owned(), "1:1: automated"),
        ("Y2024\n".to_owned(), "1:1: \"Y2024\" is no directive"),
        ("comment\nx\n".to_owned(), "2: end comment belongs here"),
        ("    Assets:A  $1\n".to_owned(), "1:5: a transaction"),
        (transaction("    Assets:A  $1\n    Income:B  $-2\n"), "1: debits less credits are not zero: -1 $"),
        (transaction("    Assets:A  $1\n    Income:B  -1 EUR\n"), "1: debits less credits are not zero: 1 $, -1 EUR"),
        (transaction("    Assets:A  $1\n    Income:B\n    Income:C\n"), "4: a second amount"),
        (transaction("    Assets:A  $1.234\n    Income:B\n"), "2:15: 1.234 USD has more than the 2 decimals"),
        (transaction("    Assets:A  $1,234\n    Income:B\n"), "2:16: \"1,234\" is a thousandfold"),
        (transaction("    Assets:A  $(1/3)\n    Income:B\n"), "2:16: "),
        (transaction("    Assets:A  (1/3 EUR)\n    Income:B\n"), "2:15: an amount that is to be worked out"),
        (transaction("    (Assets:A)  $1\n"), "2:5: virtual postings"),
        (transaction("    Assets:A  1 £\n    Income:B\n"), "2:15: \"£\" is no currency's code"),
        (transaction("    Assets:A  1 AAPL {$3}\n    Income:B\n"), "2:22: lots"),
        (transaction("    Assets:A  = $3\n    Income:B\n"), "2:15: a balance instead"),
        (transaction("    Assets:A  $1 x\n    Income:B\n"), "2:18: the end of the posting"),
        (transaction("    Assets:A  3 EUR @ $0.33333\n    Income:B\n"), "3: -0.99999 USD has more"),
        (transaction("    Assets:A  170141183460469231731687303715884105728 EUR\n"), "2:15: this is more than"),
        (
            transaction("    Assets:A  1 EUR @ 1 USD\n    Income:B  -0.98 USD\n"),
            "1: debits less credits are not zero: 0.02 USD",
        ),
        (transaction("    Assets:A\t$1\n    Income:B\n"), "2:5: behind an account a tab"),
        (transaction("    Assets:A ; x\n    Income:B  $1\n"), "2:5: an account, and two spaces"),
        (transaction("    Other:A  $1\n    Income:B  $-1\n"), "1: \"Other:A\" is no asset"),
        (transaction("    ; sysd-id: 7\n    Assets:A  $1\n    Income:B\n"), "1: the tag \"sysd-id\""),
        (transaction("    ; sysd-id: 0x7\n    ; sysd-x: y\n    Assets:A  $1\n    Income:B\n"), "1: the tag \"sysd-x\""),
    ] {
        let found = wrong(Format::Text, &journal);
        assert!(found.first().is_some_and(|first| first.starts_with(expected)), "{journal}\n{found:#?}");
    }
    let opened = |rest: &str| format!("2024-01-01 open Assets:A\n2024-01-01 open Income:B\n{rest}");
    for (rest, expected) in [
        ("include \"x\"\n", "3:1: included files"),
        ("plugin \"x\"\n", "3:1: a plugin"),
        ("2024-01-02 pad Assets:A Equity:B\n", "3:"),
        ("2024-01-02 * \"x\n  Assets:A  1 USD\n", "3:14: a string that ends"),
        ("2024-01-02 * \"x\"\n  Assets:A  1 USD\n  Income:C\n", "5: \"Income:C\" is used and never opened"),
        ("2024-01-02 * \"x\"\n  Assets:A  1 USD {2 EUR}\n  Income:B\n", "4:19: lots"),
        ("2024-01-02 * \"x\"\n  Assets:A  1 usd\n  Income:B\n", "4:15: a commodity"),
        ("2024-01-02 * \"x\"\n  Assets:A  1 * 3 USD\n  Income:B\n", "4:15: an amount that is to be"),
        ("2024-01-02 frob Assets:A\n", "3:12: \"frob\" is no directive"),
    ] {
        let found = wrong(Format::Beancount, &opened(rest));
        assert!(found.first().is_some_and(|first| first.starts_with(expected)), "{rest}\n{found:#?}");
    }
}

/// beancount is asked too: what it takes is read, what it refuses is an error of the same line.
#[test]
fn a_beancount_transaction_ends_where_beancount_ends_it() {
    let opened = "2024-01-01 open Assets:A\n2024-01-01 open Income:B\n";
    for (between, is_within) in [
        ("", true),
        ("  ; indented\n", true),
        ("  note: 5\n", true),
        ("\n", false),
        (" \n", false),
        ("\t\n", false),
        ("\r\n", false),
        ("; at the margin\n", false),
        ("* a heading\n", false),
        ("\n  ; indented\n", false),
    ] {
        let journal = format!("{opened}2024-01-02 * \"x\"\n  Assets:A  1 USD\n{between}  Income:B  -1 USD\n");
        let ours = importer(Format::Beancount).read(&journal);
        let theirs = Program::Beancount.balances_of_others(&journal);
        assert_eq!((ours.is_ok(), theirs.is_ok()), (is_within, is_within), "{between:?}: {ours:?}\n{theirs:?}");
        if let (Err(ours), Err(theirs)) = (ours, theirs) {
            let indented = ours.errors.iter().find(|error| matches!(error.problem, Problem::Refused { .. })).unwrap();
            assert!(theirs.contains(&format!(":{}:", indented.line)), "{indented}\n{theirs}");
            assert!(ours.to_string().contains("3: debits less credits are not zero"), "{ours}");
        }
    }
}

#[test]
fn all_errors_are_listed_up_to_a_bound() {
    let journal = "2024-01-01 x\n    Assets:A  $1\n    Income:B  $2\n\n".repeat(130);
    let errors = importer(Format::Text).read(&journal).unwrap_err();
    assert_eq!((errors.errors.len(), errors.more), (ImportErrors::LISTED_MAX, 30));
    assert!(errors.errors.iter().zip(0..).all(|(error, at)| error.line == 1 + 4 * at));
    assert!(errors.to_string().ends_with("\nand 30 more"));
}

proptest! {
    #[test]
    fn bad_input_is_an_error_and_no_panic(text in any::<String>(), edits in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\n\té€]{0,3}"), 0..6)) {
        for (format, journal) in [(Format::Text, JOURNAL), (Format::Beancount, BEANCOUNT)] {
            let _ = importer(format).read(&text);
            let mut chars: Vec<char> = journal.chars().collect();
            for (at, with) in &edits {
                let at = at.index(chars.len());
                chars.splice(at..=at, with.chars());
            }
            let edited: String = chars.into_iter().collect();
            if let Ok(imported) = importer(format).read(&edited) {
                // Whatever it is now, it is balanced, and the books take it.
                record(&imported);
            }
            let cut: String = edited.chars().take(edits.len() * 97).collect();
            let _ = importer(format).read(&cut);
        }
    }
}
