//! Commands, as the log keeps them.
//!
//! A transaction: flags (below), its id, what its action needs, its postings, and as the flags say the transaction that it reverses,
//! its effective day, its details. Two equal postings, a debit and a credit, are a currency, an amount and two accounts:
//! 60 bytes or so.

use std::sync::Arc;

use bytes::Bytes;

use super::bytes::{
    Reader, What, put_bytes, put_currency, put_day, put_id, put_number, put_optional, put_side, put_small,
};
use super::journal::ChunkHash;
use crate::logic::{Command, Looked};
use crate::model::{
    Account, AccountId, AccountKind, AccountUpdate, Action, Details, Funds, Posting, Postings, Rate, Rest, Side,
    Transaction, TransactionId,
};

const OPEN: u8 = 0;
const UPDATE: u8 = 1;
const TRANSACT: u8 = 2;
const GROUP: u8 = 3;
const CLOSE_PERIOD: u8 = 4;
const TICK: u8 = 5;
const BATCH: u8 = 6;
const WROTE: u8 = 7;
const FORGET: u8 = 8;
const LOOKED: u8 = 9;

const ACTION: u8 = 0b111;
/// Two postings of one amount, the debit first.
pub(super) const IS_PAIR: u8 = 1 << 3;
const REVERSES: u8 = 1 << 4;
const EFFECTIVE: u8 = 1 << 5;
const DETAILS: u8 = 1 << 6;
/// A hold has a deadline, or the rest of one stays.
const MORE: u8 = 1 << 7;

pub(super) fn encode(command: &Command, out: &mut Vec<u8>) {
    match command {
        Command::Open(account) => {
            out.push(OPEN);
            put_account(account, out);
        }
        Command::Update(id, update) => {
            out.push(UPDATE);
            put_id(id.0, out);
            out.push(match update {
                AccountUpdate::Freeze => 0,
                AccountUpdate::Unfreeze => 1,
                AccountUpdate::Close => 2,
            });
        }
        Command::Transact(transaction) => {
            out.push(TRANSACT);
            put_transaction(transaction, out);
        }
        Command::Group(transactions) => {
            out.push(GROUP);
            put_transactions(transactions, out);
        }
        Command::Batch(transactions) => {
            out.push(BATCH);
            put_transactions(transactions, out);
        }
        Command::Wrote { through, hash } => {
            out.push(WROTE);
            put_small(*through, out);
            out.extend_from_slice(&hash.0);
        }
        Command::Forget { through } => {
            out.push(FORGET);
            put_small(*through, out);
        }
        Command::Looked(looked, inner) => {
            out.push(LOOKED);
            put_small(looked.through(), out);
            for list in looked.parts() {
                put_small(list.len() as u64, out);
                for (id, number) in list {
                    put_id(id.0, out);
                    put_small(*number, out);
                }
            }
            encode(inner, out);
        }
        Command::ClosePeriod(through) => {
            out.push(CLOSE_PERIOD);
            put_day(*through, out);
        }
        Command::Tick => out.push(TICK),
    }
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Command, What> {
    Ok(match reader.byte()? {
        OPEN => Command::Open(Box::new(account(reader)?)),
        UPDATE => {
            let id = AccountId(reader.id()?);
            let update = match reader.byte()? {
                0 => AccountUpdate::Freeze,
                1 => AccountUpdate::Unfreeze,
                2 => AccountUpdate::Close,
                _ => return Err("an update of an account that is unknown"),
            };
            Command::Update(id, update)
        }
        TRANSACT => Command::Transact(transaction(reader)?),
        GROUP => Command::Group(transactions(reader)?),
        BATCH => Command::Batch(Arc::new(transactions(reader)?)),
        CLOSE_PERIOD => Command::ClosePeriod(reader.day()?),
        TICK => Command::Tick,
        WROTE => Command::Wrote { through: reader.number()?, hash: ChunkHash(reader.array()?) },
        FORGET => Command::Forget { through: reader.number()? },
        LOOKED => {
            let looked = Looked::new(reader.number()?, by_id(reader)?, by_id(reader)?);
            // One within another is not made; reading one would go as deep as its bytes say.
            if reader.peek() == Some(LOOKED) {
                return Err("a look at the store within another");
            }
            Command::Looked(looked, Box::new(decode(reader)?))
        }
        _ => return Err("a command that is unknown"),
    })
}

/// Numbers by ids, in the order of these.
fn by_id(reader: &mut Reader<'_>) -> Result<Vec<(TransactionId, u64)>, What> {
    let count = reader.count(17)?;
    let all = (0..count).map(|_| Ok((TransactionId(reader.id()?), reader.number()?)));
    let all = all.collect::<Result<Vec<_>, What>>()?;
    if all.is_sorted_by(|one, next| one.0 < next.0) { Ok(all) } else { Err("ids out of order") }
}

fn put_transactions(transactions: &[Transaction], out: &mut Vec<u8>) {
    put_small(transactions.len() as u64, out);
    for transaction in transactions {
        put_transaction(transaction, out);
    }
}

fn transactions(reader: &mut Reader<'_>) -> Result<Vec<Transaction>, What> {
    let count = reader.count(17)?;
    (0..count).map(|_| transaction(reader)).collect()
}

const fn kind_code(kind: AccountKind) -> u8 {
    match kind {
        AccountKind::Asset => 0,
        AccountKind::Liability => 1,
        AccountKind::Equity => 2,
        AccountKind::Income => 3,
        AccountKind::Expense => 4,
    }
}

/// Id, currency, kind, funds, the most of its balance, metadata.
pub(super) fn put_account(account: &Account, out: &mut Vec<u8>) {
    put_id(account.id.0, out);
    put_currency(account.currency, out);
    out.push(kind_code(account.kind));
    match account.funds {
        Funds::Unlimited => out.push(0),
        Funds::DebitsWithinCredits { overdraft } => {
            out.push(1);
            put_number(overdraft, out);
        }
        Funds::CreditsWithinDebits { overdraft } => {
            out.push(2);
            put_number(overdraft, out);
        }
    }
    put_optional(account.balance_max, out);
    put_bytes(&account.metadata, out);
}

pub(super) fn account(reader: &mut Reader<'_>) -> Result<Account, What> {
    let (id, currency) = (AccountId(reader.id()?), reader.currency()?);
    let kind = match reader.byte()? {
        0 => AccountKind::Asset,
        1 => AccountKind::Liability,
        2 => AccountKind::Equity,
        3 => AccountKind::Income,
        4 => AccountKind::Expense,
        _ => return Err("a kind of account that is unknown"),
    };
    let funds = match reader.byte()? {
        0 => Funds::Unlimited,
        1 => Funds::DebitsWithinCredits { overdraft: reader.wide()? },
        2 => Funds::CreditsWithinDebits { overdraft: reader.wide()? },
        _ => return Err("a rule for funds that is unknown"),
    };
    let (balance_max, metadata) = (reader.optional()?, Bytes::copy_from_slice(reader.bytes()?));
    Ok(Account { id, currency, kind, funds, balance_max, metadata })
}

fn is_pair(postings: &[Posting]) -> bool {
    matches!(postings, [debit, credit] if debit.side == Side::Debit
        && credit.side == Side::Credit
        && debit.amount == credit.amount
        && debit.currency == credit.currency)
}

pub(super) fn put_transaction(transaction: &Transaction, out: &mut Vec<u8>) {
    let Transaction { id, action, postings, reverses, effective, details } = transaction;
    let (code, has_more) = match action {
        Action::Post => (0, false),
        Action::PostUpTo => (1, false),
        Action::Hold { expires_at } => (2, expires_at.is_some()),
        Action::PostHeld { rest, .. } => (3, *rest == Rest::Keep),
        Action::Void { .. } => (4, false),
    };
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let is_pair = is_pair(postings);
    out.push(
        code | flag(is_pair, IS_PAIR)
            | flag(reverses.is_some(), REVERSES)
            | flag(effective.is_some(), EFFECTIVE)
            | flag(details.is_some(), DETAILS)
            | flag(has_more, MORE),
    );
    put_id(id.0, out);
    match action {
        Action::Hold { expires_at: Some(at) } => put_number(at.as_micros().into(), out),
        Action::PostHeld { hold, .. } | Action::Void { hold } => put_id(hold.0, out),
        _ => {}
    }
    if is_pair && let [debit, credit] = postings.as_slice() {
        put_currency(debit.currency, out);
        put_number(debit.amount, out);
        put_id(debit.account.0, out);
        put_id(credit.account.0, out);
    } else {
        put_number(postings.len() as u128, out);
        for posting in postings {
            put_side(posting.side, out);
            put_currency(posting.currency, out);
            put_number(posting.amount, out);
            put_id(posting.account.0, out);
        }
    }
    if let Some(reverses) = reverses {
        put_id(reverses.0, out);
    }
    if let Some(day) = effective {
        put_day(*day, out);
    }
    if let Some(details) = details {
        put_bytes(details.memo().as_bytes(), out);
        put_number(details.metadata().len() as u128, out);
        for (key, value) in details.metadata() {
            put_bytes(key.as_bytes(), out);
            put_bytes(value.as_bytes(), out);
        }
        out.push(u8::from(details.rate().is_some()));
        if let Some(Rate { from, to, mantissa, decimals }) = details.rate() {
            put_currency(from, out);
            put_currency(to, out);
            put_small(mantissa, out);
            out.push(decimals);
        }
    }
}

pub(super) fn transaction(reader: &mut Reader<'_>) -> Result<Transaction, What> {
    let flags = reader.byte()?;
    let (has, id) = (|bit| flags & bit != 0, TransactionId(reader.id()?));
    let action = match flags & ACTION {
        0 if !has(MORE) => Action::Post,
        1 if !has(MORE) => Action::PostUpTo,
        2 => Action::Hold { expires_at: has(MORE).then(|| reader.time()).transpose()? },
        3 => {
            let rest = if has(MORE) { Rest::Keep } else { Rest::Release };
            Action::PostHeld { hold: TransactionId(reader.id()?), rest }
        }
        4 if !has(MORE) => Action::Void { hold: TransactionId(reader.id()?) },
        _ => return Err("an action that is unknown"),
    };
    let postings = if has(IS_PAIR) { pair(reader)? } else { postings(reader)? };
    let reverses = has(REVERSES).then(|| reader.id().map(TransactionId)).transpose()?;
    let effective = has(EFFECTIVE).then(|| reader.day()).transpose()?;
    let details = has(DETAILS).then(|| details(reader)).transpose()?;
    Ok(Transaction { id, action, postings, reverses, effective, details })
}

fn pair(reader: &mut Reader<'_>) -> Result<Postings, What> {
    let (currency, amount) = (reader.currency()?, reader.wide()?);
    let mut posting = |side| reader.id().map(|id| Posting { account: AccountId(id), amount, currency, side });
    Ok(Postings::from_buf([posting(Side::Debit)?, posting(Side::Credit)?]))
}

fn postings(reader: &mut Reader<'_>) -> Result<Postings, What> {
    let count = reader.count(26)?;
    let posting = |_| {
        let side = reader.side()?;
        let (currency, amount) = (reader.currency()?, reader.wide()?);
        Ok(Posting { account: AccountId(reader.id()?), amount, currency, side })
    };
    (0..count).map(posting).collect()
}

fn details(reader: &mut Reader<'_>) -> Result<Box<Details>, What> {
    let memo = reader.text()?;
    let count = reader.count(2)?;
    let pairs =
        (0..count).map(|_| Ok((reader.text()?.to_owned(), reader.text()?.to_owned()))).collect::<Result<_, What>>()?;
    let details = Details::new(memo, pairs).map_err(|_| "details are too long")?;
    if !reader.flag()? {
        return Ok(Box::new(details));
    }
    let (from, to) = (reader.currency()?, reader.currency()?);
    let rate = Rate { from, to, mantissa: reader.number()?, decimals: reader.byte()? };
    Ok(Box::new(details.with_rate(rate)))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
