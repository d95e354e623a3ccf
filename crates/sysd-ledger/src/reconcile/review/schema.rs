//! What is stored: format 1. `schema_tests.rs` pins it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use sysd_core::{DecodeError, StateMachine, Timestamp};

use super::super::model::{Candidate, Difference, Party, Record, Records, What as Differs};
use super::super::totals::{SideTotals, Sum, Totals};
use super::citation::Citation;
use super::model::{
    Case, CaseId, CaseState, Event, FileId, FileState, FileView, Note, Person, ReviewCommand, ReviewReply, Step,
};
use super::queue::ReviewQueue;
use crate::model::{Currency, Date, TransactionId};
use crate::schema::bytes::{Reader, What, put_amount, put_bytes, put_number, read};

const FORMAT: u16 = 1;

impl StateMachine for ReviewQueue {
    type Command = ReviewCommand;
    type Reply = ReviewReply;

    const NAME: &'static str = "reconcile";
    const FORMAT: u16 = FORMAT;

    fn apply(&mut self, now: Timestamp, command: &ReviewCommand) -> ReviewReply {
        Self::apply(self, now, command)
    }

    fn encode_command(command: &ReviewCommand, out: &mut Vec<u8>) {
        match command {
            ReviewCommand::Begin { file, name, by, again } => {
                out.push(0);
                out.extend_from_slice(&file.0);
                put_bytes(name.as_str().as_bytes(), out);
                put_bytes(by.as_str().as_bytes(), out);
                out.push(u8::from(*again));
            }
            ReviewCommand::Add { file, run, differences } => {
                out.push(1);
                out.extend_from_slice(&file.0);
                put_number((*run).into(), out);
                put_number(differences.len() as u128, out);
                for (id, difference) in differences {
                    out.extend_from_slice(&id.0.to_be_bytes());
                    put_difference(difference, out);
                }
            }
            ReviewCommand::Finish { file, run, totals, differences } => {
                out.push(2);
                out.extend_from_slice(&file.0);
                put_number((*run).into(), out);
                put_totals(totals, out);
                put_number((*differences).into(), out);
            }
            ReviewCommand::Review { case, by, step } => {
                out.push(3);
                out.extend_from_slice(&case.0.to_be_bytes());
                put_bytes(by.as_str().as_bytes(), out);
                put_step(step, out);
            }
        }
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<ReviewCommand, DecodeError> {
        read::<Self, _>(format, bytes, |reader| {
            Ok(match reader.byte()? {
                0 => ReviewCommand::Begin {
                    file: FileId(reader.array()?),
                    name: note(reader)?,
                    by: person(reader)?,
                    again: reader.flag()?,
                },
                1 => {
                    let (file, run, count) = (FileId(reader.array()?), reader.number()?, reader.count(20)?);
                    let pair = |_| Ok((case_id(reader)?, difference(reader)?));
                    ReviewCommand::Add { file, run, differences: (0..count).map(pair).collect::<Result<_, What>>()? }
                }
                2 => ReviewCommand::Finish {
                    file: FileId(reader.array()?),
                    run: reader.number()?,
                    totals: Box::new(totals(reader)?),
                    differences: reader.number()?,
                },
                3 => ReviewCommand::Review { case: case_id(reader)?, by: person(reader)?, step: step(reader)? },
                _ => return Err("a command that is unknown"),
            })
        })
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        put_number(self.files.len() as u128, out);
        for (id, FileView { name, by, at, runs, cases: _, found: _, state }) in &self.files {
            out.extend_from_slice(&id.0);
            put_bytes(name.as_str().as_bytes(), out);
            put_bytes(by.as_str().as_bytes(), out);
            put_number(at.as_micros().into(), out);
            put_number((*runs).into(), out);
            match state {
                FileState::Begun => out.push(0),
                FileState::Finished { totals, differences } => {
                    out.push(1);
                    put_totals(totals, out);
                    put_number((*differences).into(), out);
                }
            }
        }
        put_number(self.order.len() as u128, out);
        for Case { id, number: _, file, seen_in, difference, state, trail } in self.cases_after(0) {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.extend_from_slice(&file.0);
            put_number((*seen_in).into(), out);
            put_difference(difference, out);
            put_state(state, out);
            put_number(trail.len() as u128, out);
            for Event { at, by, step } in trail {
                put_number(at.as_micros().into(), out);
                put_bytes(by.as_str().as_bytes(), out);
                out.push(u8::from(step.is_some()));
                if let Some(step) = step {
                    put_step(step, out);
                }
            }
        }
    }

    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        read::<Self, _>(format, bytes, queue)
    }
}

fn queue(reader: &mut Reader<'_>) -> Result<ReviewQueue, What> {
    let mut queue = ReviewQueue::default();
    for _ in 0..reader.count(38)? {
        let id = FileId(reader.array()?);
        let (name, by, at, runs) = (note(reader)?, person(reader)?, reader.time()?, reader.number()?);
        let state = match reader.byte()? {
            0 => FileState::Begun,
            1 => FileState::Finished { totals: Box::new(totals(reader)?), differences: reader.number()? },
            _ => return Err("a state of a file that is unknown"),
        };
        let file = FileView { name, by, at, runs, cases: 0, found: 0, state };
        if queue.files.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err("files that are not in order");
        }
        queue.files.insert(id, file);
    }
    for number in 1..=reader.count(60)? {
        let (id, file, seen_in) = (case_id(reader)?, FileId(reader.array()?), reader.number()?);
        let (difference, state) = (difference(reader)?, state(reader)?);
        let count = reader.count(4)?;
        let event = |_| {
            let (at, by) = (reader.time()?, person(reader)?);
            let step = if reader.flag()? { Some(step(reader)?) } else { None };
            Ok(Event { at, by, step })
        };
        let trail = (0..count).map(event).collect::<Result<Vec<_>, What>>()?;
        let of = queue.files.get_mut(&file).ok_or("a case of a file that was never seen")?;
        of.cases += 1;
        of.found += u64::from(of.runs == seen_in);
        let case = Case { id, number: number as u64, file, seen_in, difference, state, trail };
        queue.order.push(id);
        if queue.cases.insert(id, case).is_some() {
            return Err("a case is there twice");
        }
    }
    Ok(queue)
}

fn note(reader: &mut Reader<'_>) -> Result<Note, What> {
    let text = reader.text()?;
    Note::new(text).filter(|note| note.as_str() == text).ok_or("a note that can't be")
}

fn person(reader: &mut Reader<'_>) -> Result<Person, What> {
    let text = reader.text()?;
    Person::new(text).filter(|person| person.as_str() == text).ok_or("a person who can't be")
}

fn case_id(reader: &mut Reader<'_>) -> Result<CaseId, What> {
    reader.id().map(CaseId)
}

fn transaction(reader: &mut Reader<'_>) -> Result<TransactionId, What> {
    reader.id().map(TransactionId)
}

fn put_optional<T>(value: Option<&T>, out: &mut Vec<u8>, put: impl FnOnce(&T, &mut Vec<u8>)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, out);
    }
}

fn optional<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, What>,
) -> Result<Option<T>, What> {
    if reader.flag()? { read(reader).map(Some) } else { Ok(None) }
}

fn put_transaction(id: &TransactionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.0.to_be_bytes());
}

fn put_note(note: &Note, out: &mut Vec<u8>) {
    put_bytes(note.as_str().as_bytes(), out);
}

fn put_step(step: &Step, out: &mut Vec<u8>) {
    match step {
        Step::Take => out.push(0),
        Step::Release => out.push(1),
        Step::Resolve { citation, note } => {
            out.push(6);
            put_citation(citation, out);
            put_optional(note.as_ref(), out, put_note);
        }
        Step::ResolveUnchecked { transaction, note } => {
            out.push(2);
            put_optional(transaction.as_ref(), out, put_transaction);
            put_optional(note.as_ref(), out, put_note);
        }
        Step::WriteOff { citation, reason } => {
            out.push(3);
            put_optional(citation.as_ref(), out, put_citation);
            put_optional(reason.as_ref(), out, put_note);
        }
        Step::Reopen { reason } => {
            out.push(4);
            put_note(reason, out);
        }
        Step::Comment { note } => {
            out.push(5);
            put_note(note, out);
        }
    }
}

fn step(reader: &mut Reader<'_>) -> Result<Step, What> {
    Ok(match reader.byte()? {
        0 => Step::Take,
        1 => Step::Release,
        2 => Step::ResolveUnchecked { transaction: optional(reader, transaction)?, note: optional(reader, note)? },
        3 => Step::WriteOff { citation: optional(reader, citation)?, reason: optional(reader, note)? },
        4 => Step::Reopen { reason: note(reader)? },
        5 => Step::Comment { note: note(reader)? },
        6 => Step::Resolve { citation: citation(reader)?, note: optional(reader, note)? },
        _ => return Err("a step that is unknown"),
    })
}

fn put_citation(Citation { case, transaction, number }: &Citation, out: &mut Vec<u8>) {
    out.extend_from_slice(&case.0.to_be_bytes());
    put_transaction(transaction, out);
    put_number((*number).into(), out);
}

fn citation(reader: &mut Reader<'_>) -> Result<Citation, What> {
    Ok(Citation { case: case_id(reader)?, transaction: transaction(reader)?, number: reader.number()? })
}

fn put_state(state: &CaseState, out: &mut Vec<u8>) {
    match state {
        CaseState::Open => out.push(0),
        CaseState::InReview { by } => {
            out.push(1);
            put_bytes(by.as_str().as_bytes(), out);
        }
        CaseState::Resolved { transaction } => {
            out.push(2);
            put_transaction(transaction, out);
        }
        CaseState::WrittenOff { transaction } => {
            out.push(3);
            put_optional(transaction.as_ref(), out, put_transaction);
        }
        CaseState::Reopened => out.push(4),
    }
}

fn state(reader: &mut Reader<'_>) -> Result<CaseState, What> {
    Ok(match reader.byte()? {
        0 => CaseState::Open,
        1 => CaseState::InReview { by: person(reader)? },
        2 => CaseState::Resolved { transaction: transaction(reader)? },
        3 => CaseState::WrittenOff { transaction: optional(reader, transaction)? },
        4 => CaseState::Reopened,
        _ => return Err("a state that is unknown"),
    })
}

fn put_record(record: &Record, out: &mut Vec<u8>) {
    let Record { reference, currency, amount, day, fee, kind, batch, row } = record;
    put_bytes(reference.as_bytes(), out);
    out.extend_from_slice(&currency.to_bits().to_be_bytes());
    put_amount(*amount, out);
    put_amount(day.0.into(), out);
    put_amount(*fee, out);
    put_bytes(kind.as_bytes(), out);
    put_bytes(batch.as_bytes(), out);
    put_number((*row).into(), out);
}

fn currency(reader: &mut Reader<'_>) -> Result<Currency, What> {
    Currency::from_bits(u64::from_be_bytes(reader.array()?)).ok_or("a currency that can't be")
}

fn record(reader: &mut Reader<'_>) -> Result<Record, What> {
    Ok(Record {
        reference: reader.text()?.into(),
        currency: currency(reader)?,
        amount: reader.amount()?,
        day: i32::try_from(reader.amount()?).map(Date).map_err(|_| "a day beyond all days")?,
        fee: reader.amount()?,
        kind: reader.text()?.into(),
        batch: reader.text()?.into(),
        row: reader.number()?,
    })
}

fn put_rows(rows: &[u64], out: &mut Vec<u8>) {
    put_number(rows.len() as u128, out);
    for row in rows {
        put_number((*row).into(), out);
    }
}

fn rows(reader: &mut Reader<'_>) -> Result<Vec<u64>, What> {
    (0..reader.count(1)?).map(|_| reader.number()).collect()
}

pub(in crate::reconcile) fn put_difference(difference: &Difference, out: &mut Vec<u8>) {
    let Difference { what, ours, theirs, candidates } = difference;
    match what {
        Differs::AmountDiffers { by } => {
            out.push(0);
            put_amount(*by, out);
        }
        Differs::CurrencyDiffers => out.push(1),
        Differs::MissingHere => out.push(2),
        Differs::MissingThere => out.push(3),
        Differs::Duplicate { party, of } => {
            out.push(if *party == Party::Ours { 4 } else { 5 });
            put_number((*of).into(), out);
        }
        Differs::Ambiguous => out.push(6),
    }
    for records in [ours, theirs] {
        put_number(records.len() as u128, out);
        for record in records {
            put_record(record, out);
        }
    }
    put_number(candidates.len() as u128, out);
    for Candidate { ours, theirs } in candidates {
        put_rows(ours, out);
        put_rows(theirs, out);
    }
}

fn difference(reader: &mut Reader<'_>) -> Result<Difference, What> {
    let what = match reader.byte()? {
        0 => Differs::AmountDiffers { by: reader.amount()? },
        1 => Differs::CurrencyDiffers,
        2 => Differs::MissingHere,
        3 => Differs::MissingThere,
        4 => Differs::Duplicate { party: Party::Ours, of: reader.number()? },
        5 => Differs::Duplicate { party: Party::Theirs, of: reader.number()? },
        6 => Differs::Ambiguous,
        _ => return Err("a difference that is unknown"),
    };
    let mut records = || (0..reader.count(15)?).map(|_| record(reader)).collect::<Result<Records, What>>();
    let (ours, theirs) = (records()?, records()?);
    let count = reader.count(2)?;
    let candidate = |_| Ok(Candidate { ours: rows(reader)?, theirs: rows(reader)? });
    Ok(Difference { what, ours, theirs, candidates: (0..count).map(candidate).collect::<Result<_, What>>()? })
}

/// A difference out of a temporary file.
pub(in crate::reconcile) fn read_difference(bytes: &[u8]) -> Option<Difference> {
    let mut reader = Reader::new(bytes);
    let difference = difference(&mut reader).ok()?;
    reader.is_empty().then_some(difference)
}

/// The id of a difference: what it says, the file it is of, and the how manieth of those that say the same it is. Our own records come
/// as a stream, whose places are others the next time: they don't count.
pub(in crate::reconcile) fn difference_id(file: FileId, difference: &Difference, same_before: u64) -> CaseId {
    let unplaced = |record: &Record| Record { row: 0, ..record.clone() };
    let what = match difference.what {
        Differs::Duplicate { party: Party::Ours, of: _ } => Differs::Duplicate { party: Party::Ours, of: 0 },
        what => what,
    };
    let ours = difference.ours.iter().map(unplaced).collect();
    let plain = Difference { what, ours, theirs: difference.theirs.clone(), candidates: Vec::new() };
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&file.0);
    put_difference(&plain, &mut bytes);
    put_number(same_before.into(), &mut bytes);
    let hash: [u8; 32] = Sha256::digest(&bytes).into();
    let (first, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
    CaseId(u128::from_be_bytes(*first))
}

fn put_totals(totals: &Totals, out: &mut Vec<u8>) {
    for side in [&totals.ours, &totals.theirs] {
        put_number(side.len() as u128, out);
        for (currency, sums) in side {
            out.extend_from_slice(&currency.to_bits().to_be_bytes());
            for Sum { rows, amount } in std::iter::once(sums.read).chain(sums.parts()) {
                put_number(rows.into(), out);
                put_amount(amount, out);
            }
        }
    }
    for count in totals.unreadable.iter().chain(&totals.rows) {
        put_number((*count).into(), out);
    }
}

fn totals(reader: &mut Reader<'_>) -> Result<Totals, What> {
    let mut side = || {
        let mut side = BTreeMap::new();
        for _ in 0..reader.count(24)? {
            let currency = currency(reader)?;
            let mut sum = || Ok::<_, What>(Sum { rows: reader.number()?, amount: reader.amount()? });
            let read = sum()?;
            let [matched, amount_differs, currency_differs, missing] = [sum()?, sum()?, sum()?, sum()?];
            let [duplicate, ambiguous, bad] = [sum()?, sum()?, sum()?];
            let sums =
                SideTotals { read, bad, matched, amount_differs, currency_differs, missing, duplicate, ambiguous };
            if side.last_key_value().is_some_and(|(last, _)| *last >= currency) {
                return Err("currencies that are not in order");
            }
            side.insert(currency, sums);
        }
        Ok(side)
    };
    let (ours, theirs) = (side()?, side()?);
    let mut counts = || Ok::<_, What>([reader.number()?, reader.number()?]);
    Ok(Totals { ours, theirs, unreadable: counts()?, rows: counts()? })
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
