//! CSV as a stream: one row in memory, and that of a bounded size.

use std::collections::HashMap;
use std::io::BufRead;

use csv_core::ReadRecordResult;
use jiff::civil;
use jiff::fmt::strtime;

use super::super::decimal::AmountError;
use super::super::error::ReconcileError;
use super::super::model::Record;
use super::columns::{AmountIn, Column, CsvFormat, CurrencyIn, FeeIn, Header};
use super::{BadRow, Row, check, shown};
use crate::model::{Currency, Date};

/// More columns than any report has.
const COLUMNS_MAX: usize = 4_096;
const BUFFER: usize = 4 << 10;

/// The rows of a CSV file: an iterator. It ends after an error.
///
/// # Guarantees
/// Every row but headers, and those that a [tag](Header::Tagged) tells to be something else, comes out once: as a record, or as a bad row
/// with its line, the column and the reason.
#[derive(Debug)]
pub struct CsvRows<R> {
    input: R,
    fields: Fields,
    format: CsvFormat,
    columns: Option<Columns>,
    is_over: bool,
}

#[derive(Debug)]
struct Fields {
    machine: csv_core::Reader,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
    bytes_max: usize,
    /// The line that is read.
    line: u64,
    at: u64,
}

/// What was read.
enum Read {
    Row { line: u64 },
    TooLong { line: u64 },
    End,
}

impl Fields {
    fn read(&mut self, input: &mut impl BufRead) -> Result<Read, ReconcileError> {
        let io = ReconcileError::io("the CSV file");
        let (mut len, mut ends, mut is_too_long, mut start) = (0, 0, false, None);
        loop {
            let mut buffer = match input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) => return Err(io(error)),
            };
            if start.is_none() {
                // Empty lines, and what is left of the last line's end.
                let blank = buffer.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
                self.line += lines(&buffer[..blank]);
                buffer = &buffer[blank..];
                if buffer.is_empty() && blank > 0 {
                    self.at += blank as u64;
                    input.consume(blank);
                    continue;
                }
                start = Some((self.line, blank));
            }
            let skipped = start.as_mut().map_or(0, |(_, blank)| std::mem::take(blank));
            let line = start.map_or(self.line, |(line, _)| line);
            let (result, read, written, ended) =
                self.machine.read_record(buffer, &mut self.bytes[len..], &mut self.ends[ends..]);
            self.line += lines(&buffer[..read]);
            self.at += (skipped + read) as u64;
            input.consume(skipped + read);
            (len, ends) = (len + written, ends + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.bytes.len() < self.bytes_max => {
                    self.bytes.resize((2 * self.bytes.len()).min(self.bytes_max), 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < COLUMNS_MAX => {
                    self.ends.resize((2 * self.ends.len()).min(COLUMNS_MAX), 0);
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    (len, ends, is_too_long) = (0, 0, true);
                }
                ReadRecordResult::Record if is_too_long => return Ok(Read::TooLong { line }),
                ReadRecordResult::Record => {
                    self.count = ends;
                    return Ok(Read::Row { line });
                }
                ReadRecordResult::End => return Ok(Read::End),
            }
        }
    }

    fn get(&self, place: usize) -> Option<&[u8]> {
        if place >= self.count {
            return None;
        }
        let start = if place == 0 { 0 } else { *self.ends.get(place - 1)? };
        self.bytes.get(start..*self.ends.get(place)?)
    }

    fn text(&self, place: usize) -> Result<&str, &'static str> {
        str::from_utf8(self.get(place).unwrap_or_default()).map(str::trim).map_err(|_| "it is not UTF-8")
    }
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Where the columns are.
#[derive(Debug)]
struct Columns {
    names: Vec<String>,
    count: Option<usize>,
    reference: Vec<usize>,
    money: Vec<(Amount, Code)>,
    day: Vec<usize>,
    kind: Vec<usize>,
    batch: Vec<usize>,
    fee: Option<(Vec<Amount>, Option<Code>, bool)>,
    codes: HashMap<String, Currency>,
}

#[derive(Debug)]
enum Amount {
    Signed(usize),
    DebitCredit(usize, usize),
    Indicated { amount: usize, indicator: usize, debit: Vec<String>, credit: Vec<String> },
}

#[derive(Debug)]
enum Code {
    Column(usize),
    Fixed(Currency),
}

impl Columns {
    fn find(names: &[String], column: &Column) -> Option<usize> {
        match column {
            Column::Name(name) => names.iter().position(|found| found == name),
            Column::Place(place) => Some(*place),
        }
    }

    fn new(format: &CsvFormat, names: Vec<String>, count: Option<usize>) -> Result<Self, ReconcileError> {
        let find = |column: &Column| Self::find(&names, column);
        let no_column = |wanted: &[&Column]| {
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            let mut found = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            if found.chars().count() > 2_000 {
                found = found.chars().take(2_000).chain("…".chars()).collect();
            }
            ReconcileError::NoColumn { wanted: wanted.join(" or "), found }
        };
        let one = |column: &Column| find(column).ok_or_else(|| no_column(&[column]));
        let any = |columns: &[Column]| {
            let found: Vec<_> = columns.iter().filter_map(find).collect();
            if found.is_empty() && !columns.is_empty() {
                return Err(no_column(&columns.iter().collect::<Vec<_>>()));
            }
            Ok(found)
        };
        let amount = |amount: &AmountIn| {
            Ok(match amount {
                AmountIn::Signed(column) => Amount::Signed(one(column)?),
                AmountIn::DebitCredit { debit, credit } => Amount::DebitCredit(one(debit)?, one(credit)?),
                AmountIn::Indicated { amount, indicator, debit, credit } => Amount::Indicated {
                    amount: one(amount)?,
                    indicator: one(indicator)?,
                    debit: debit.clone(),
                    credit: credit.clone(),
                },
            })
        };
        let code = |currency: &CurrencyIn| {
            Ok::<_, ReconcileError>(match currency {
                CurrencyIn::Column(column) => Code::Column(one(column)?),
                CurrencyIn::Fixed(currency) => Code::Fixed(*currency),
            })
        };
        let (mut money, mut missing) = (Vec::new(), None);
        for it in &format.money {
            match amount(&it.amount).and_then(|amount| Ok((amount, code(&it.currency)?))) {
                Ok(found) => money.push(found),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        for (field, is_there) in [
            ("reference", !format.reference.is_empty()),
            ("money", !format.money.is_empty()),
            ("day", !format.day.is_empty()),
            ("day_formats", !format.day_formats.is_empty()),
        ] {
            if !is_there {
                let message = "there must be at least one".to_owned();
                return Err(ReconcileError::Config { field, message });
            }
        }
        if let Some(missing) = missing
            && money.is_empty()
        {
            return Err(missing);
        }
        let fee = |fee: &FeeIn| {
            let amounts = fee.amounts.iter().map(amount).collect::<Result<Vec<_>, ReconcileError>>()?;
            Ok::<_, ReconcileError>((amounts, fee.currency.as_ref().map(code).transpose()?, fee.is_negative))
        };
        Ok(Self {
            count: if format.is_ragged { None } else { count },
            reference: any(&format.reference)?,
            money,
            day: any(&format.day)?,
            kind: any(&format.kind)?,
            batch: any(&format.batch)?,
            fee: format.fee.as_ref().map(fee).transpose()?,
            codes: format.currencies.iter().map(|currency| (currency.code(), *currency)).collect(),
            names,
        })
    }

    fn name(&self, place: usize) -> String {
        self.names.get(place).cloned().unwrap_or_else(|| place.to_string())
    }
}

impl<R: BufRead> CsvRows<R> {
    /// The rows of a file in this format. Nothing is read yet.
    pub fn new(input: R, format: CsvFormat) -> Self {
        let machine = csv_core::ReaderBuilder::new().delimiter(format.delimiter).quote(format.quote).build();
        let bytes_max = format.row_bytes_max.max(BUFFER);
        let fields = Fields { machine, bytes: vec![0; BUFFER], ends: vec![0; 64], count: 0, bytes_max, line: 1, at: 0 };
        Self { input, fields, format, columns: None, is_over: false }
    }

    fn header(&mut self) -> Result<(), ReconcileError> {
        let mut names = Vec::with_capacity(self.fields.count);
        for place in 0..self.fields.count {
            let at = self.fields.at;
            let text = self.fields.text(place);
            names.push(text.map_err(|what| ReconcileError::Malformed { at, what: what.to_owned() })?.to_owned());
        }
        self.columns = Some(Columns::new(&self.format, names, Some(self.fields.count))?);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), ReconcileError> {
        let start = self.input.fill_buf().map_err(ReconcileError::io("the CSV file"))?;
        if start.starts_with(&[0xFF, 0xFE]) || start.starts_with(&[0xFE, 0xFF]) {
            let what = "it is in UTF-16; save it as UTF-8".to_owned();
            return Err(ReconcileError::Malformed { at: 0, what });
        }
        if start.starts_with("\u{FEFF}".as_bytes()) {
            self.input.consume(3);
            self.fields.at = 3;
        }
        match &self.format.header {
            Header::First => match self.fields.read(&mut self.input)? {
                Read::Row { .. } => self.header(),
                Read::TooLong { .. } | Read::End => {
                    Err(ReconcileError::Malformed { at: self.fields.at, what: "there is no header".to_owned() })
                }
            },
            Header::None => {
                self.columns = Some(Columns::new(&self.format, Vec::new(), None)?);
                Ok(())
            }
            Header::Tagged { .. } => Ok(()),
        }
    }

    fn read(&mut self) -> Result<Option<Row>, ReconcileError> {
        if self.columns.is_none() {
            self.begin()?;
        }
        loop {
            let line = match self.fields.read(&mut self.input)? {
                Read::Row { line } => line,
                Read::End => return Ok(None),
                Read::TooLong { line } => {
                    let why = format!("it has more than {} bytes; is a quote not closed?", self.fields.bytes_max);
                    return Ok(Some(Err(BadRow::new(line, "", why))));
                }
            };
            if let Header::Tagged { header, data, others } = &self.format.header {
                let tag = self.fields.text(0).unwrap_or_default();
                if tag == header {
                    self.header()?;
                    continue;
                }
                if others.iter().any(|other| tag == other) {
                    continue;
                }
                if tag != data {
                    return Ok(Some(Err(BadRow::new(line, "0", format!("a tag that is unknown: {}", shown(tag))))));
                }
            }
            let Some(columns) = &self.columns else {
                let what = "a row before any header".to_owned();
                return Err(ReconcileError::Malformed { at: self.fields.at, what });
            };
            return Ok(Some(row(&self.format, columns, &self.fields, line)));
        }
    }
}

impl<R: BufRead> Iterator for CsvRows<R> {
    type Item = Result<Row, ReconcileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let read = self.read().transpose();
        self.is_over = !matches!(read, Some(Ok(_)));
        read
    }
}

/// What is wrong, and in which column.
type Wrong = (usize, String);

fn row(format: &CsvFormat, columns: &Columns, fields: &Fields, line: u64) -> Row {
    if let Some(count) = columns.count
        && fields.count != count
    {
        let why = format!("it has {} fields, the header {count}", fields.count);
        return Err(BadRow::new(line, "", why));
    }
    let bad = |(place, why): Wrong| BadRow::new(line, columns.name(place), why);
    let first = |places: &[usize]| {
        for place in places {
            let text = fields.text(*place).map_err(|why| (*place, why.to_owned()))?;
            if !text.is_empty() {
                return Ok((*place, text));
            }
        }
        Ok((places.first().copied().unwrap_or(0), ""))
    };
    let (currency, amount) = money(format, columns, fields).map_err(bad)?;
    let known = |wrong: Wrong| BadRow { known: Some((currency, amount)), ..bad(wrong) };
    let fee = fee(format, columns, fields, currency).map_err(known)?;
    let (place, text) = first(&columns.day).map_err(known)?;
    let day = day(&format.day_formats, text).ok_or_else(|| known((place, format!("no date: {}", shown(text)))))?;
    let text = |places: &[usize]| first(places).map(|(_, text)| Box::<str>::from(text)).map_err(known);
    let (reference, kind, batch) = (text(&columns.reference)?, text(&columns.kind)?, text(&columns.batch)?);
    check(Record { reference, currency, amount, day, fee, kind, batch, row: line })
}

fn money(format: &CsvFormat, columns: &Columns, fields: &Fields) -> Result<(Currency, i128), Wrong> {
    let mut empty = 0;
    for (amount, code) in &columns.money {
        // What is no amount in any currency is found before the currency is looked at.
        if let Some(place) = is_empty(amount, fields)? {
            empty = place;
            continue;
        }
        let currency = currency(columns, code, fields)?;
        let read = read(format, amount, fields, currency)?;
        return Ok((currency, read.unwrap_or(0)));
    }
    Err((empty, AmountError::Empty.to_string()))
}

/// The column in which there is no amount.
fn is_empty(amount: &Amount, fields: &Fields) -> Result<Option<usize>, Wrong> {
    let places: &[usize] = match amount {
        Amount::Signed(place) | Amount::Indicated { amount: place, .. } => &[*place],
        Amount::DebitCredit(debit, credit) => &[*debit, *credit],
    };
    for place in places {
        if !fields.text(*place).map_err(|why| (*place, why.to_owned()))?.is_empty() {
            return Ok(None);
        }
    }
    Ok(places.first().copied())
}

fn currency(columns: &Columns, code: &Code, fields: &Fields) -> Result<Currency, Wrong> {
    let place = match code {
        Code::Fixed(currency) => return Ok(*currency),
        Code::Column(place) => *place,
    };
    let text = fields.text(place).map_err(|why| (place, why.to_owned()))?;
    if let Some(known) = columns.codes.get(text) {
        return Ok(*known);
    }
    let found = Currency::iso(text).or_else(|_| Currency::iso(&text.to_ascii_uppercase()));
    found.map_err(|_| (place, format!("no currency: {}", shown(text))))
}

/// `None` if there is nothing.
fn read(format: &CsvFormat, amount: &Amount, fields: &Fields, currency: Currency) -> Result<Option<i128>, Wrong> {
    let number = |place: usize| {
        let text = fields.text(place).map_err(|why| (place, why.to_owned()))?;
        match format.notation.read(text, currency) {
            Ok(amount) => Ok(Some(amount)),
            Err(AmountError::Empty) => Ok(None),
            Err(error) => Err((place, format!("{error}: {}", shown(text)))),
        }
    };
    match amount {
        Amount::Signed(place) => number(*place),
        Amount::DebitCredit(debit, credit) => match (number(*debit)?, number(*credit)?) {
            (None, None) => Ok(None),
            (None | Some(0), Some(credit)) => Ok(Some(credit)),
            (Some(debit), None | Some(0)) => Ok(Some(-debit)),
            (Some(_), Some(_)) => Err((*debit, "both debit and credit are filled".to_owned())),
        },
        Amount::Indicated { amount, indicator, debit, credit } => {
            let Some(found) = number(*amount)? else { return Ok(None) };
            let text = fields.text(*indicator).map_err(|why| (*indicator, why.to_owned()))?;
            if debit.iter().any(|word| word == text) {
                Ok(Some(-found))
            } else if credit.iter().any(|word| word == text) {
                Ok(Some(found))
            } else {
                Err((*indicator, format!("neither debit nor credit: {}", shown(text))))
            }
        }
    }
}

fn fee(format: &CsvFormat, columns: &Columns, fields: &Fields, currency: Currency) -> Result<i128, Wrong> {
    let Some((amounts, code, is_negative)) = &columns.fee else { return Ok(0) };
    let (mut sum, mut of) = (0_i128, None);
    for amount in amounts {
        if is_empty(amount, fields)?.is_some() {
            continue;
        }
        let fee_currency = match (of, code) {
            (Some(known), _) => known,
            (None, None) => currency,
            (None, Some(code)) => self::currency(columns, code, fields)?,
        };
        of = Some(fee_currency);
        let fee = read(format, amount, fields, fee_currency)?.unwrap_or(0);
        sum = sum.checked_add(fee).ok_or_else(|| (0, AmountError::TooGreat.to_string()))?;
    }
    let is_same = of.is_none_or(|of| of == currency);
    match (is_same, is_negative) {
        (false, _) => Ok(0),
        (true, false) => Ok(sum),
        (true, true) => sum.checked_neg().ok_or_else(|| (0, AmountError::TooGreat.to_string())),
    }
}

fn day(formats: &[String], text: &str) -> Option<Date> {
    formats.iter().find_map(|format| {
        let date = strtime::parse(format, text).ok()?.to_date().ok()?;
        days(date)
    })
}

/// Days since 1970-01-01.
pub(super) fn days(date: civil::Date) -> Option<Date> {
    let since = date.duration_since(civil::Date::constant(1970, 1, 1));
    i32::try_from(since.as_hours() / 24).ok().map(Date)
}
