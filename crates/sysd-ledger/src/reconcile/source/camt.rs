//! Bank statements in camt.053 of ISO 20022, any version, as a stream: one entry in memory, and that of a bounded size.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use jiff::civil;
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion, escape};

use super::super::decimal::{Decimals, Notation};
use super::super::error::ReconcileError;
use super::super::model::Record;
use super::csv::days;
use super::{BadRow, Row, check, shown};
use crate::model::{Currency, Date};

/// Elements within elements; the schema has about a dozen.
const DEPTH_MAX: usize = 64;
/// Bytes of one tag or text.
const EVENT_MAX: usize = 64 << 10;
const DOCUMENT: &str = "Document/BkToCstmrStmt";
const ENTRY: &str = "Document/BkToCstmrStmt/Stmt/Ntry";

/// Where our id stands in an entry or its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CamtReference {
    /// `EndToEndId`.
    EndToEnd,
    /// `InstrId`.
    Instruction,
    /// `PmtInfId`.
    PaymentInformation,
    /// The structured creditor reference.
    Creditor,
    /// `TxId`.
    Transaction,
    /// `AcctSvcrRef`: the bank's own.
    Servicer,
    /// `NtryRef`.
    Entry,
}

/// How a statement is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CamtFormat {
    /// Where our id stands: the first of these that is there. `NOTPROVIDED` is not there.
    pub references: Vec<CamtReference>,
    /// The most transactions of one entry; more is a bad row.
    pub details_max: usize,
    /// Currencies of your own, beside those of ISO 4217.
    pub currencies: Vec<Currency>,
}

impl Default for CamtFormat {
    /// `EndToEndId`, `InstrId`, `PmtInfId`, the creditor reference; 10,000 transactions.
    fn default() -> Self {
        use CamtReference::{Creditor, EndToEnd, Instruction, PaymentInformation};
        Self {
            references: vec![EndToEnd, Instruction, PaymentInformation, Creditor],
            details_max: 10_000,
            currencies: Vec::new(),
        }
    }
}

/// The movements of a statement: an iterator. It ends after an error.
///
/// An entry with several transactions that have amounts of their own is as many records, if these add up to the entry; else an entry
/// is one record. Its place is that among all records and bad rows of the file. Entries that are not booked (yet) are bad rows.
///
/// Charges are not looked at: the amount of an entry is what was booked. A batch is what `Btch` says.
#[derive(Debug)]
pub struct CamtRows<R> {
    reader: Reader<Counted<R>>,
    format: CamtFormat,
    buffer: Vec<u8>,
    path: String,
    depth: usize,
    entry: Option<Entry>,
    has_statement: bool,
    ready: VecDeque<Row>,
    row: u64,
    is_over: bool,
}

/// What an entry, or one transaction of it, says.
#[derive(Debug, Default)]
struct Part {
    amount: String,
    currency: String,
    /// `AmtDtls/TxAmt`, which is before `Amt` in a transaction.
    tx_amount: String,
    tx_currency: String,
    indicator: String,
    end_to_end: String,
    instruction: String,
    payment_information: String,
    creditor: String,
    transaction: String,
    servicer: String,
    kind: String,
    proprietary: String,
}

#[derive(Debug, Default)]
struct Entry {
    own: Part,
    details: Vec<Part>,
    is_too_long: bool,
    status: String,
    booked: String,
    valued: String,
    reference: String,
    batch: String,
}

/// Counts what is read, and stops at more than one event may have.
#[derive(Debug)]
struct Counted<R> {
    input: R,
    since: usize,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        (self.since, self.at) = (self.since + read, self.at + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.since > EVENT_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a tag or text of more than 64 KiB"));
        }
        let buffer = self.input.fill_buf()?;
        Ok(&buffer[..buffer.len().min(EVENT_MAX)])
    }

    fn consume(&mut self, bytes: usize) {
        (self.since, self.at) = (self.since + bytes, self.at + bytes as u64);
        self.input.consume(bytes);
    }
}

impl<R: BufRead> CamtRows<R> {
    /// The movements of a file. Nothing is read yet.
    pub fn new(input: R, format: CamtFormat) -> Self {
        let reader = Reader::from_reader(Counted { input, since: 0, at: 0 });
        Self {
            reader,
            format,
            buffer: Vec::new(),
            path: String::new(),
            depth: 0,
            entry: None,
            has_statement: false,
            ready: VecDeque::new(),
            row: 0,
            is_over: false,
        }
    }

    /// Whether there is more.
    fn step(&mut self) -> Result<bool, ReconcileError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let step = self.step_in(&mut buffer);
        self.buffer = buffer;
        step
    }

    fn step_in(&mut self, buffer: &mut Vec<u8>) -> Result<bool, ReconcileError> {
        self.reader.get_mut().since = 0;
        let at = self.reader.get_ref().at;
        let malformed = |what: String| ReconcileError::Malformed { at, what };
        let event = self.reader.read_event_into(buffer).map_err(|error| match error {
            quick_xml::Error::Io(source) if source.kind() != io::ErrorKind::InvalidData => {
                ReconcileError::Io { what: "the camt.053 file", source: io::Error::new(source.kind(), source) }
            }
            error => malformed(error.to_string()),
        })?;
        let path = &mut self.path;
        match event {
            Event::Start(tag) => {
                if self.depth >= DEPTH_MAX {
                    return Err(malformed("elements are nested too deeply".to_owned()));
                }
                self.depth += 1;
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(tag.local_name().as_ref());
                if path == DOCUMENT {
                    self.has_statement = true;
                }
                if path == ENTRY {
                    self.entry = Some(Entry::default());
                }
                if let Some(entry) = &mut self.entry {
                    let inside = path.strip_prefix(ENTRY).unwrap_or_default();
                    if inside == "/NtryDtls/TxDtls" {
                        entry.is_too_long |= entry.details.len() >= self.format.details_max;
                        if entry.is_too_long {
                            entry.details.clear();
                        }
                        entry.details.push(Part::default());
                    }
                    let Some((_, Some(currency))) = entry.field(inside) else { return Ok(true) };
                    let attribute = tag.try_get_attribute("Ccy").map_err(|error| malformed(error.to_string()))?;
                    if let Some(attribute) = attribute {
                        let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                        *currency = value.map_err(|error| malformed(error.to_string()))?.into_owned();
                    }
                }
            }
            Event::End(_) => {
                let is_entry = path == ENTRY;
                path.truncate(path.rfind('/').unwrap_or(0));
                self.depth = self.depth.saturating_sub(1);
                if is_entry && let Some(entry) = self.entry.take() {
                    self.book(&entry);
                }
            }
            Event::Text(text) => self.text(&text.xml10_content(), at)?,
            Event::CData(text) => self.text(&text.xml10_content(), at)?,
            Event::GeneralRef(reference) => {
                let found = reference.resolve_char_ref().map_err(|error| malformed(error.to_string()))?;
                if let Some(found) = found {
                    self.text(found.encode_utf8(&mut [0; 4]), at)?;
                } else {
                    // A document's own entities are not expanded.
                    let name: &str = &reference;
                    let found = escape::resolve_xml_entity(name)
                        .ok_or_else(|| malformed(format!("an entity that is unknown: {}", shown(name))))?;
                    self.text(found, at)?;
                }
            }
            Event::Eof if self.depth > 0 => return Err(malformed("it breaks off".to_owned())),
            Event::Eof if !self.has_statement => return Err(malformed("it is no camt.053".to_owned())),
            Event::Eof => return Ok(false),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
        Ok(true)
    }

    fn text(&mut self, text: &str, at: u64) -> Result<(), ReconcileError> {
        let Some(entry) = &mut self.entry else { return Ok(()) };
        let Some((into, _)) = entry.field(self.path.strip_prefix(ENTRY).unwrap_or_default()) else { return Ok(()) };
        if into.len() + text.len() > EVENT_MAX {
            return Err(ReconcileError::Malformed { at, what: "a text of more than 64 KiB".to_owned() });
        }
        into.push_str(text);
        Ok(())
    }

    fn book(&mut self, entry: &Entry) {
        match records(entry, &self.format) {
            Ok(records) => {
                for record in records {
                    self.row += 1;
                    self.ready.push_back(check(Record { row: self.row, ..record }));
                }
            }
            Err(bad) => {
                self.row += 1;
                self.ready.push_back(Err(BadRow { row: self.row, ..bad }));
            }
        }
    }
}

impl<R: BufRead> Iterator for CamtRows<R> {
    type Item = Result<Row, ReconcileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            if self.is_over {
                return None;
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => self.is_over = true,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Entry {
    /// Where a text goes, and the currency of an amount.
    fn field(&mut self, inside: &str) -> Option<(&mut String, Option<&mut String>)> {
        if let Some(inside) = inside.strip_prefix("/NtryDtls/TxDtls/") {
            return self.details.last_mut()?.field(inside);
        }
        Some((
            match inside {
                "/Sts" | "/Sts/Cd" => &mut self.status,
                "/BookgDt/Dt" | "/BookgDt/DtTm" => &mut self.booked,
                "/ValDt/Dt" | "/ValDt/DtTm" => &mut self.valued,
                "/NtryRef" => &mut self.reference,
                "/NtryDtls/Btch/PmtInfId" | "/NtryDtls/Btch/MsgId" if self.batch.is_empty() => &mut self.batch,
                inside => return self.own.field(inside.strip_prefix('/')?),
            },
            None,
        ))
    }
}

impl Part {
    fn field(&mut self, inside: &str) -> Option<(&mut String, Option<&mut String>)> {
        Some((
            match inside {
                "Amt" => return Some((&mut self.amount, Some(&mut self.currency))),
                "AmtDtls/TxAmt/Amt" => return Some((&mut self.tx_amount, Some(&mut self.tx_currency))),
                "CdtDbtInd" => &mut self.indicator,
                "Refs/EndToEndId" => &mut self.end_to_end,
                "Refs/InstrId" => &mut self.instruction,
                "Refs/PmtInfId" => &mut self.payment_information,
                "Refs/TxId" => &mut self.transaction,
                "Refs/AcctSvcrRef" | "AcctSvcrRef" => &mut self.servicer,
                "RmtInf/Strd/CdtrRefInf/Ref" => &mut self.creditor,
                "BkTxCd/Domn/Cd" | "BkTxCd/Domn/Fmly/Cd" | "BkTxCd/Domn/Fmly/SubFmlyCd" => {
                    if !self.kind.is_empty() && !self.kind.ends_with('.') {
                        self.kind.push('.');
                    }
                    &mut self.kind
                }
                "BkTxCd/Prtry/Cd" => &mut self.proprietary,
                _ => return None,
            },
            None,
        ))
    }

    fn reference(&self, of: CamtReference, entry: &Entry) -> Option<Box<str>> {
        let text = match of {
            CamtReference::EndToEnd => &self.end_to_end,
            CamtReference::Instruction => &self.instruction,
            CamtReference::PaymentInformation => &self.payment_information,
            CamtReference::Creditor => &self.creditor,
            CamtReference::Transaction => &self.transaction,
            CamtReference::Servicer if self.servicer.trim().is_empty() => &entry.own.servicer,
            CamtReference::Servicer => &self.servicer,
            CamtReference::Entry => &entry.reference,
        };
        let text = text.trim();
        (!text.is_empty() && text != "NOTPROVIDED").then(|| text.into())
    }

    fn kind(&self) -> &str {
        let kind = self.kind.trim_end_matches('.');
        if kind.is_empty() { self.proprietary.trim() } else { kind }
    }
}

fn bad(column: &str, why: impl Into<String>) -> BadRow {
    BadRow::new(0, column, why)
}

fn money(format: &CamtFormat, amount: &str, code: &str, indicator: &str) -> Result<(Currency, i128), BadRow> {
    let code = code.trim();
    let own = format.currencies.iter().find(|currency| currency.code() == code).copied();
    let currency = own.map_or_else(|| Currency::iso(code), Ok);
    let currency = currency.map_err(|_| bad("Amt/@Ccy", format!("no currency: {}", shown(code))))?;
    let notation = Notation { decimals: Decimals::Padded, ..Notation::default() };
    let read = notation.read(amount, currency);
    let amount = read.map_err(|error| bad("Amt", format!("{error}: {}", shown(amount))))?;
    match indicator.trim() {
        "CRDT" => Ok((currency, amount)),
        "DBIT" => Ok((currency, -amount)),
        other => Err(bad("CdtDbtInd", format!("neither CRDT nor DBIT: {}", shown(other)))),
    }
}

fn date(text: &str) -> Option<Date> {
    let day: civil::Date = text.trim().get(..10)?.parse().ok()?;
    days(day)
}

fn records(entry: &Entry, format: &CamtFormat) -> Result<Vec<Record>, BadRow> {
    let (currency, amount) = money(format, &entry.own.amount, &entry.own.currency, &entry.own.indicator)?;
    let known = |bad: BadRow| BadRow { known: Some((currency, amount)), ..bad };
    let status = entry.status.trim();
    if !matches!(status, "" | "BOOK") {
        return Err(known(bad("Sts", format!("it is not booked: {}", shown(status)))));
    }
    if entry.is_too_long {
        return Err(known(bad("NtryDtls", format!("it has more than {} transactions", format.details_max))));
    }
    let day = date(&entry.booked).or_else(|| date(&entry.valued));
    let day = day.ok_or_else(|| known(bad("BookgDt", format!("no date: {}", shown(&entry.booked)))))?;
    let record = |part: &Part, currency, amount| {
        let reference = format.references.iter().find_map(|of| part.reference(*of, entry));
        let kind = if part.kind().is_empty() { entry.own.kind() } else { part.kind() };
        Record {
            kind: kind.into(),
            batch: entry.batch.trim().into(),
            ..Record::new(&reference.unwrap_or_default(), currency, amount, day, 0)
        }
    };
    let amounts = |part: &Part| {
        let (amount, currency) = if part.tx_amount.is_empty() {
            (&part.amount, &part.currency)
        } else {
            (&part.tx_amount, &part.tx_currency)
        };
        let indicator = if part.indicator.is_empty() { &entry.own.indicator } else { &part.indicator };
        (!amount.is_empty()).then(|| money(format, amount, currency, indicator))
    };
    match entry.details.as_slice() {
        [] => Ok(vec![record(&entry.own, currency, amount)]),
        [only] => Ok(vec![record(only, currency, amount)]),
        details if details.iter().all(|part| amounts(part).is_none()) => Ok(vec![record(&entry.own, currency, amount)]),
        details => {
            let (mut records, mut sum) = (Vec::with_capacity(details.len()), Some(0_i128));
            for part in details {
                let Some(found) = amounts(part) else {
                    return Err(known(bad("NtryDtls/TxDtls", "some transactions have an amount, some have none")));
                };
                let (part_currency, part_amount) = found.map_err(known)?;
                if part_currency != currency {
                    let why = "a transaction is in another currency than its entry";
                    return Err(known(bad("NtryDtls/TxDtls", why)));
                }
                sum = sum.and_then(|sum| sum.checked_add(part_amount));
                records.push(record(part, currency, part_amount));
            }
            if sum != Some(amount) {
                let found = sum.map_or_else(|| "too much".to_owned(), |sum| currency.show(sum));
                let why = format!("its transactions add up to {found}, not to {}", currency.show(amount));
                return Err(known(bad("NtryDtls", why)));
            }
            Ok(records)
        }
    }
}
