//! Records as bytes whose order is that of the records, for sorting on a disk. Nothing of it outlives a run.

use super::logic::{Decision, Placed, Role};
use super::model::{Party, Record};
use crate::model::{Currency, Date};

/// Bytes of our own that are no record: the file was changed by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn;

/// A byte of zero is followed by one of 255, the end is two zeros: a text is before all that it begins.
fn put_text(text: &str, out: &mut Vec<u8>) {
    for part in text.as_bytes().split_inclusive(|byte| *byte == 0) {
        out.extend_from_slice(part);
        if part.last() == Some(&0) {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn put_amount(amount: i128, out: &mut Vec<u8>) {
    out.extend_from_slice(&(amount.cast_unsigned() ^ 1 << 127).to_be_bytes());
}

pub(super) fn put_record(record: &Record, out: &mut Vec<u8>) {
    let Record { reference, currency, amount, day, fee, kind, batch, row } = record;
    put_text(reference, out);
    out.extend_from_slice(&currency.to_bits().to_be_bytes());
    put_amount(*amount, out);
    out.extend_from_slice(&(day.0.cast_unsigned() ^ 1 << 31).to_be_bytes());
    put_amount(*fee, out);
    put_text(kind, out);
    put_text(batch, out);
    out.extend_from_slice(&row.to_be_bytes());
}

pub(super) fn put_placed(placed: &Placed, out: &mut Vec<u8>) {
    put_text(&placed.key, out);
    out.push(u8::from(placed.role == Role::Member));
    put_record(&placed.record, out);
}

pub(super) fn put_decision(decision: &Decision, out: &mut Vec<u8>) {
    let (key, currency, members, lines, sums, singles) = decision.parts();
    put_text(key, out);
    out.extend_from_slice(&currency.to_bits().to_be_bytes());
    out.push(u8::from(members == Party::Theirs));
    out.extend_from_slice(&lines.to_be_bytes());
    for sum in sums {
        out.push(u8::from(sum.is_some()));
        put_amount(sum.unwrap_or(0), out);
    }
    for single in singles {
        put_record(single, out);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Torn)?;
        self.0 = rest;
        Ok(*array)
    }

    fn text(&mut self) -> Result<Box<str>, Torn> {
        let end = memchr::memchr(0, self.0).ok_or(Torn)?;
        if self.0.get(end + 1) == Some(&0) {
            let (text, rest) = self.0.split_at(end);
            self.0 = &rest[2..];
            return str::from_utf8(text).map(Into::into).map_err(|_| Torn);
        }
        let mut bytes = Vec::new();
        loop {
            let [byte] = self.array()?;
            match byte {
                0 => match self.array()? {
                    [0] => return String::from_utf8(bytes).map(Into::into).map_err(|_| Torn),
                    [0xFF] => bytes.push(0),
                    _ => return Err(Torn),
                },
                byte => bytes.push(byte),
            }
        }
    }

    fn amount(&mut self) -> Result<i128, Torn> {
        Ok((u128::from_be_bytes(self.array()?) ^ 1 << 127).cast_signed())
    }

    fn currency(&mut self) -> Result<Currency, Torn> {
        Currency::from_bits(u64::from_be_bytes(self.array()?)).ok_or(Torn)
    }

    fn record(&mut self) -> Result<Record, Torn> {
        Ok(Record {
            reference: self.text()?,
            currency: self.currency()?,
            amount: self.amount()?,
            day: Date((u32::from_be_bytes(self.array()?) ^ 1 << 31).cast_signed()),
            fee: self.amount()?,
            kind: self.text()?,
            batch: self.text()?,
            row: u64::from_be_bytes(self.array()?),
        })
    }

    fn end<T>(&self, whole: T) -> Result<T, Torn> {
        if self.0.is_empty() { Ok(whole) } else { Err(Torn) }
    }
}

pub(super) fn record(bytes: &[u8]) -> Result<Record, Torn> {
    let mut reader = Reader(bytes);
    let record = reader.record()?;
    reader.end(record)
}

pub(super) fn placed(bytes: &[u8]) -> Result<Placed, Torn> {
    let mut reader = Reader(bytes);
    let key = reader.text()?;
    let role = match reader.array()? {
        [0] => Role::Single,
        [1] => Role::Member,
        _ => return Err(Torn),
    };
    let record = reader.record()?;
    reader.end(Placed { key, role, record })
}

pub(super) fn decision(bytes: &[u8]) -> Result<Decision, Torn> {
    let mut reader = Reader(bytes);
    let (key, currency) = (reader.text()?, reader.currency()?);
    let members = match reader.array()? {
        [0] => Party::Ours,
        [1] => Party::Theirs,
        _ => return Err(Torn),
    };
    let lines = u64::from_be_bytes(reader.array()?);
    let mut sum = || {
        let [is_some] = reader.array()?;
        let amount = reader.amount()?;
        Ok((is_some != 0).then_some(amount))
    };
    let sums = [sum()?, sum()?];
    let mut singles = Vec::new();
    while !reader.0.is_empty() {
        singles.push(reader.record()?);
    }
    Ok(Decision::from_parts(key, currency, members, lines, sums, singles))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Box<str>> {
        prop_oneof![Just(""), Just("\0"), Just("a"), Just("a\0"), Just("a\0b"), Just("ab"), Just("ä")]
            .prop_map(Into::into)
    }

    fn amount() -> impl Strategy<Value = i128> {
        prop_oneof![-2..2_i128, any::<i128>()]
    }

    prop_compose! {
        fn a_record()(
            reference in text(),
            code in prop_oneof![Just("EUR"), Just("JPY")],
            amounts in (amount(), amount()),
            day in prop_oneof![-2..2_i32, any::<i32>()],
            texts in (text(), text()),
            row in any::<u64>(),
        ) -> Record {
            let ((amount, fee), (kind, batch)) = (amounts, texts);
            Record { reference, currency: Currency::iso(code).unwrap(), amount, day: Date(day), fee, kind, batch, row }
        }
    }

    proptest! {
        #[test]
        fn bytes_are_in_the_order_of_records_and_read_back(one in a_record(), other in a_record()) {
            let bytes = |record: &Record| {
                let mut bytes = Vec::new();
                put_record(record, &mut bytes);
                bytes
            };
            prop_assert_eq!(bytes(&one).cmp(&bytes(&other)), one.cmp(&other));
            prop_assert_eq!(record(&bytes(&one)).unwrap(), one.clone());
            let (one, other) = (Placed::new(one), Placed::new(other));
            let bytes = |it: &Placed| {
                let mut bytes = Vec::new();
                put_placed(it, &mut bytes);
                bytes
            };
            prop_assert_eq!(bytes(&one).cmp(&bytes(&other)), one.cmp(&other));
            prop_assert_eq!(placed(&bytes(&one)).unwrap(), one);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            _ = (record(&bytes), placed(&bytes), decision(&bytes));
        }
    }
}
