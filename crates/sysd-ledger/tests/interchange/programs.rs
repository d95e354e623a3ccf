//! What `hledger`, `ledger` and `beancount` make of a journal.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sysd_ledger::interchange::Format;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Hledger,
    Ledger,
    Beancount,
}

pub(crate) const ALL: [Program; 3] = [Program::Hledger, Program::Ledger, Program::Beancount];

/// By account and commodity, amounts as written without zeros at their ends; accounts with nothing are left out.
pub(crate) type Balances = BTreeMap<(String, String), String>;

/// A file that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str, extension: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sysd-journal-{}-{}.{extension}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Program {
    pub(crate) fn format(self) -> Format {
        if self == Self::Beancount { Format::Beancount } else { Format::Text }
    }

    /// What it says each account has, or why it does not want the journal.
    pub(crate) fn balances(self, journal: &str) -> Result<Balances, String> {
        self.ask(journal, true)
    }

    /// The same for a journal that does not declare everything that is in it.
    pub(crate) fn balances_of_others(self, journal: &str) -> Result<Balances, String> {
        self.ask(journal, false)
    }

    fn ask(self, journal: &str, is_strict: bool) -> Result<Balances, String> {
        let file = Scratch::new(journal, if self == Self::Beancount { "beancount" } else { "journal" });
        let path = file.0.to_str().unwrap();
        match self {
            Self::Hledger => {
                if is_strict {
                    run("hledger", &["-f", path, "check", "--strict"])?;
                }
                let arguments =
                    ["-f", path, "balance", "--flat", "--no-total", "--empty", "--layout=bare", "-O", "csv"];
                Ok(csv(&run("hledger", &arguments)?, |row| match row {
                    [account, commodity, balance] => vec![(account.clone(), commodity.clone(), balance.clone())],
                    _ => panic!("hledger answered {row:?}"),
                }))
            }
            Self::Ledger => {
                // One amount a line: those of an account follow one another, the last with its name. Of the account alone:
                // a total would have those below it in it, though the list is flat.
                let arguments = [
                    "--args-only",
                    "-f",
                    path,
                    "balance",
                    "--flat",
                    "--no-total",
                    "--empty",
                    "--no-pager",
                    "--balance-format",
                    "%(scrub(amount))\t%(account)\n",
                ];
                Ok(ledger(&run("ledger", &arguments)?))
            }
            Self::Beancount => {
                run("bean-check", &[path])?;
                // As text: what it prints as a number it may round first.
                let query = "SELECT account, currency, str(sum(number)) GROUP BY account, currency";
                Ok(csv(&run("bean-query", &["-f", "csv", path, query])?, |row| match row {
                    [account, currency, sum] => {
                        let amount = sum.trim_start_matches("Decimal('").trim_end_matches("')");
                        vec![(account.clone(), currency.clone(), amount.to_owned())]
                    }
                    _ => panic!("bean-query answered {row:?}"),
                }))
            }
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let package = if program.starts_with("bean") { "beancount" } else { program };
    // ledger reads ~/.ledgerrc, and all of them decide by the locale what is a letter.
    let output = Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").env("HOME", "/").output().unwrap_or_else(|error| {
        panic!(
            "{program} did not start ({error}): journals are tested with the programs that read them; `cargo xtask test` installs them, \
             or do it by hand (Debian: `apt-get install hledger ledger beancount`; `{program}` is of `{package}`)"
        )
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, complained) = (text(output.stdout), text(output.stderr));
    // bean-query answers even if the file is wrong; whatever is complained about is wrong.
    if output.status.success() && complained.trim().is_empty() {
        Ok(said)
    } else {
        Err(format!("{program}: {complained}{said}"))
    }
}

fn csv(text: &str, read: impl Fn(&[String]) -> Vec<(String, String, String)>) -> Balances {
    let rows = text.lines().skip(1).map(|line| {
        // No name, code or number has a comma; quotes are around some fields.
        line.split(',').map(|field| field.trim().trim_matches('"').to_owned()).collect::<Vec<String>>()
    });
    let mut balances = Balances::new();
    for (account, commodity, amount) in rows.flat_map(|row| read(&row)) {
        insert(&mut balances, account, &commodity, &amount);
    }
    balances
}

fn insert(balances: &mut Balances, account: String, commodity: &str, amount: &str) {
    let amount = plain(amount);
    if amount != "0" {
        assert_eq!(balances.insert((account, commodity.trim_matches('"').to_owned()), amount), None);
    }
}

/// `5 EUR`, `$5`, `$ 5`.
fn amount(text: &str) -> Option<(String, String)> {
    let is_number = |char: char| char.is_ascii_digit() || ['-', '.'].contains(&char);
    let number: String = text.chars().filter(|char| is_number(*char)).collect();
    let (first, last) = (text.find(is_number)?, text.rfind(is_number)?);
    // A code may have digits, and stands behind then.
    match text.split_once(' ') {
        Some((number, code)) if first == 0 => Some((number.to_owned(), code.to_owned())),
        _ if last + 1 == text.len() => Some((number, text[..first].trim().to_owned())),
        _ => None,
    }
}

fn ledger(text: &str) -> Balances {
    let (mut balances, mut pending) = (Balances::new(), Vec::new());
    for line in text.lines() {
        let (amount, account) = line.split_once('\t').map_or((line, None), |(amount, account)| (amount, Some(account)));
        pending.extend(self::amount(amount.trim()));
        if let Some(account) = account {
            for (amount, commodity) in pending.drain(..) {
                insert(&mut balances, account.to_owned(), &commodity, &amount);
            }
        }
    }
    balances
}

/// A number without exponent and without zeros at its end.
fn plain(number: &str) -> String {
    let (number, exponent) = number.split_once(['E', 'e']).unwrap_or((number, "0"));
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent: i32 = exponent.parse().unwrap();
    let point = i32::try_from(whole.len()).unwrap() + exponent;
    let all = format!("{whole}{part}");
    let (all, point) = if point < 1 {
        (format!("{}{all}", "0".repeat(usize::try_from(1 - point).unwrap())), 1)
    } else {
        let point = usize::try_from(point).unwrap();
        (format!("{all:0<point$}"), point)
    };
    let (whole, part) = all.split_at(point);
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if whole == "0" && part.is_empty() { "" } else { sign };
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

#[test]
fn numbers_are_compared_whatever_their_form() {
    for (number, expected) in [
        ("1.50", "1.5"),
        ("-0.0", "0"),
        ("1E-38", "0.00000000000000000000000000000000000001"),
        ("1.2E+3", "1200"),
        ("007", "7"),
        ("-12.340", "-12.34"),
    ] {
        assert_eq!(plain(number), expected);
    }
}
