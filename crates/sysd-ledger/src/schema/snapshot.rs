//! All of the books, as a snapshot keeps them: accounts in the order in which they were opened, ids in that of their numbers,
//! holds and reversals likewise, the last closed day.

use super::bytes::{Reader, What, put_day, put_id, put_number, put_optional, put_side};
use super::command::{account, put_account};
use crate::logic::{Books, Parts, StoredHold};
use crate::model::{AccountState, AccountView, Balance, TransactionId};

pub(super) fn encode(books: &Books, out: &mut Vec<u8>) {
    put_number(books.accounts_len() as u128, out);
    for AccountView { account, state, balance } in books.accounts() {
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
    }
    put_number(books.journal_len().into(), out);
    books.ids().for_each(|id| put_id(id.0, out));
    put_number(books.unnamed().len() as u128, out);
    books.unnamed().iter().for_each(|number| put_number((*number).into(), out));
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

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Books, What> {
    let mut parts = Parts::default();
    for _ in 0..reader.count(32)? {
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
        parts.add_account(&AccountView { account, state, balance })?;
    }
    let count = reader.count(16)?;
    let ids = (0..count).map(|_| reader.id().map(TransactionId)).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count(1)?;
    let unnamed = (0..count).map(|_| reader.number()).collect::<Result<Vec<u64>, _>>()?;
    parts.add_ids(&ids, &unnamed)?;
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
    Ok(parts.finish(closed_through))
}
