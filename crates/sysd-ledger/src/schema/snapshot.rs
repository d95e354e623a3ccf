//! All of the books, as a snapshot keeps them: accounts in the order in which they were opened, ids in that of their numbers, the end
//! of the journal, holds and reversals by their numbers, the last closed day.

use bytes::Bytes;
use sysd_core::Timestamp;

use super::bytes::{Reader, What, put_bytes, put_day, put_id, put_number, put_optional, put_side, put_small};
use super::command::{account, put_account};
use super::journal::ChunkHash;
use crate::logic::{Books, Chunk, Kept, Numbers, Parts, StoredHold, StoredTrail, Tail, Times};
use crate::model::{AccountState, AccountView, Balance, TransactionId};

pub(super) fn encode(books: &Books, out: &mut Vec<u8>) {
    put_number(books.accounts_len() as u128, out);
    for (AccountView { account, state, balance }, trail) in books.accounts().zip(books.trails()) {
        put_account(&account, out);
        out.push(match state {
            AccountState::Open => 0,
            AccountState::Frozen => 1,
            AccountState::Closed => 2,
        });
        let Balance { debits_posted, credits_posted, debits_held, credits_held } = balance;
        for sum in [debits_posted, credits_posted, debits_held, credits_held] {
            put_number(sum, out);
        }
        put_trail(&trail, out);
    }
    put_numbers(books.numbers(), out);
    put_tail(books.tail(), out);
    put_number(books.holds_len() as u128, out);
    for StoredHold { id, number, expires_at, legs } in books.stored_holds() {
        put_id(id.0, out);
        put_number(number.into(), out);
        put_optional(expires_at.map(|at| at.as_micros().into()), out);
        put_number(legs.len() as u128, out);
        for (account, side, amount) in legs {
            put_number(account.into(), out);
            put_side(side, out);
            put_number(amount, out);
        }
    }
    let reversals = books.reversals();
    put_number(reversals.len() as u128, out);
    for (id, by) in reversals {
        put_id(id.0, out);
        put_number(by.into(), out);
    }
    match books.closed_through() {
        None => out.push(0),
        Some(through) => {
            out.push(1);
            put_day(through, out);
        }
    }
}

fn put_trail(trail: &StoredTrail, out: &mut Vec<u8>) {
    put_small(trail.changes, out);
    if trail.changes > 0 {
        put_small(trail.last, out);
    }
    trail.marks.iter().take(trail.steps()).for_each(|mark| put_small(*mark, out));
}

fn trail(reader: &mut Reader<'_>) -> Result<StoredTrail, What> {
    let mut trail = StoredTrail { changes: reader.number()?, ..StoredTrail::default() };
    if trail.changes > 0 {
        trail.last = reader.number()?;
    }
    for at in 0..trail.steps() {
        trail.marks[at] = reader.number()?;
    }
    Ok(trail)
}

fn put_time(time: Timestamp, out: &mut Vec<u8>) {
    put_small(time.as_micros(), out);
}

fn put_numbers(numbers: &Numbers, out: &mut Vec<u8>) {
    put_small(numbers.forgotten(), out);
    put_time(numbers.horizon(), out);
    let Kept { ids, unkept } = numbers.kept();
    put_small(ids.len() as u64, out);
    for (id, number) in ids {
        put_id(id.0, out);
        put_small(number, out);
    }
    put_small(unkept.intervals().len() as u64, out);
    for (first, last) in unkept.intervals() {
        put_small(*first, out);
        put_small(*last, out);
    }
    put_small(numbers.count() - numbers.forgotten(), out);
    numbers.ids().for_each(|id| put_id(id.0, out));
    put_small(numbers.block_ends().len() as u64, out);
    numbers.block_ends().for_each(|end| put_time(end, out));
    put_small(numbers.unnamed().len() as u64, out);
    numbers.unnamed().for_each(|number| put_small(number, out));
}

fn put_tail(tail: &Tail, out: &mut Vec<u8>) {
    put_small(tail.written, out);
    out.extend_from_slice(&tail.hash.0);
    put_small(tail.full.len() as u64, out);
    for Chunk { first, last, is_indexed, body } in &tail.full {
        put_small(*first, out);
        put_small(*last, out);
        out.push(u8::from(*is_indexed));
        put_bytes(body, out);
    }
    out.push(u8::from(tail.is_open_indexed));
    put_small(tail.open_first, out);
    put_small(tail.last, out);
    put_time(tail.last_at, out);
    put_bytes(&tail.open, out);
}

fn tail(reader: &mut Reader<'_>) -> Result<Tail, What> {
    let mut tail = Tail::after(reader.number()?, ChunkHash(reader.array()?));
    for _ in 0..reader.count(19)? {
        let (first, last, is_indexed) = (reader.number()?, reader.number()?, reader.flag()?);
        tail.push_full(Chunk { first, last, is_indexed, body: Bytes::copy_from_slice(reader.bytes()?) });
    }
    tail.is_open_indexed = reader.flag()?;
    (tail.open_first, tail.last, tail.last_at) = (reader.number()?, reader.number()?, reader.time()?);
    tail.open = reader.bytes()?.into();
    Ok(tail)
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Books, What> {
    let mut parts = Parts::default();
    for _ in 0..reader.count(33)? {
        let account = account(reader)?;
        let state = match reader.byte()? {
            0 => AccountState::Open,
            1 => AccountState::Frozen,
            2 => AccountState::Closed,
            _ => return Err("a state of an account that is unknown"),
        };
        let balance = Balance {
            debits_posted: reader.wide()?,
            credits_posted: reader.wide()?,
            debits_held: reader.wide()?,
            credits_held: reader.wide()?,
        };
        parts.add_account(&AccountView { account, state, balance }, trail(reader)?)?;
    }
    let (forgotten, horizon) = (reader.number()?, reader.time()?);
    let count = reader.count(17)?;
    let kept = (0..count).map(|_| Ok((TransactionId(reader.id()?), reader.number()?)));
    let ids = kept.collect::<Result<Vec<_>, What>>()?;
    let count = reader.count(2)?;
    let intervals = (0..count).map(|_| Ok((reader.time()?.as_micros(), reader.time()?.as_micros())));
    let unkept = Times::of(intervals.collect::<Result<_, What>>()?).ok_or("times that make no sense")?;
    parts.set_forgotten(forgotten, horizon, Kept { ids, unkept })?;
    let count = reader.count(16)?;
    let ids = (0..count).map(|_| reader.id().map(TransactionId)).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count(1)?;
    let block_ends = (0..count).map(|_| reader.time()).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count(1)?;
    let unnamed = (0..count).map(|_| reader.number()).collect::<Result<Vec<u64>, _>>()?;
    parts.add_ids(&ids, &block_ends, &unnamed)?;
    parts.set_tail(tail(reader)?)?;
    for _ in 0..reader.count(19)? {
        let (id, number) = (TransactionId(reader.id()?), reader.number()?);
        let expires_at = reader.optional_time()?;
        let count = reader.count(3)?;
        let leg = |_| {
            let account = reader.number()?;
            let side = reader.side()?;
            Ok((account, side, reader.wide()?))
        };
        let legs = (0..count).map(leg).collect::<Result<_, What>>()?;
        parts.add_hold(StoredHold { id, number, expires_at, legs })?;
    }
    for _ in 0..reader.count(17)? {
        parts.add_reversal(TransactionId(reader.id()?), reader.number()?)?;
    }
    let closed_through = match reader.byte()? {
        0 => None,
        1 => Some(reader.day()?),
        _ => return Err("a closed day that makes no sense"),
    };
    parts.finish(closed_through)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
