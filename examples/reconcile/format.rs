//! How a file is written, as an argument says it.

use std::fs::File;
use std::io::BufReader;

use sysd::ledger::Currency;
use sysd::ledger::reconcile::{
    AmountIn, CamtFormat, CamtRows, Column, CsvFormat, CsvRows, CurrencyIn, Decimals, FeeIn, MoneyIn, ReconcileError,
    Row,
};

/// The rows of a file.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<Row, ReconcileError>> + Send>;

pub(crate) fn rows(file: BufReader<File>, format: &str) -> Result<Rows, String> {
    let format = match format.split_once(':').unwrap_or((format, "")) {
        ("camt053", _) => return Ok(Box::new(CamtRows::new(file, CamtFormat::default()))),
        ("generic", _) => CsvFormat::generic(),
        ("adyen", _) => CsvFormat::adyen(),
        ("paypal", _) => CsvFormat::paypal(),
        ("stripe", key) => CsvFormat::stripe(key),
        _ => columns(format)?,
    };
    Ok(Box::new(CsvRows::new(file, format)))
}

fn columns(list: &str) -> Result<CsvFormat, String> {
    let mut words = list.split_whitespace();
    if words.next() != Some("csv") {
        return Err(format!("no format: {list:?}; see --help"));
    }
    let mut format = CsvFormat::generic();
    let money = format.money.remove(0);
    let (mut amount, mut currency) = (money.amount, money.currency);
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let names = || value.split('|').map(Column::from).collect::<Vec<_>>();
        match key {
            "reference" => format.reference = names(),
            "amount" => amount = an_amount(value),
            "currency" => {
                currency = match value.strip_prefix('!') {
                    Some(code) => CurrencyIn::Fixed(Currency::iso(code).map_err(|error| error.to_string())?),
                    None => CurrencyIn::Column(value.into()),
                }
            }
            "date" => format.day = names(),
            "day" => format.day_formats = vec![value.to_owned()],
            "kind" => format.kind = names(),
            "batch" => format.batch = names(),
            "fee" => {
                let (value, is_negative) = value.strip_prefix('-').map_or((value, false), |value| (value, true));
                let amounts = value.split('|').map(an_amount).collect();
                format.fee = Some(FeeIn { amounts, currency: None, is_negative });
            }
            "delimiter" => format.delimiter = value.bytes().next().unwrap_or(b','),
            "point" => format.notation.decimal = value.chars().next().unwrap_or('.'),
            "thousands" => format.notation.thousands = value.chars().next(),
            "decimals" => {
                format.notation.decimals = match value {
                    "exact" => Decimals::Exact,
                    "at-most" => Decimals::AtMost,
                    "padded" => Decimals::Padded,
                    "minor" => Decimals::Minor,
                    _ => return Err(format!("decimals are exact, at-most, padded or minor, not {value:?}")),
                }
            }
            "ragged" => format.is_ragged = true,
            _ => return Err(format!("no part of a format: {key:?}")),
        }
    }
    format.money = vec![MoneyIn { amount, currency }];
    Ok(format)
}

/// A column with signs; `DEBIT-COLUMN/CREDIT-COLUMN`; or `COLUMN/INDICATOR:DEBIT-WORDS:CREDIT-WORDS`, words with a comma between.
fn an_amount(value: &str) -> AmountIn {
    let words = |words: &str| words.split(',').map(str::to_owned).collect();
    match value.split_once('/') {
        None => AmountIn::Signed(value.into()),
        Some((one, rest)) => match rest.split(':').collect::<Vec<_>>().as_slice() {
            [indicator, debit, credit] => AmountIn::Indicated {
                amount: one.into(),
                indicator: (*indicator).into(),
                debit: words(debit),
                credit: words(credit),
            },
            _ => AmountIn::DebitCredit { debit: one.into(), credit: rest.into() },
        },
    }
}
