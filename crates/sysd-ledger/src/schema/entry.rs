//! Entries of the journal, and the chunks in which they lie.
//!
//! A chunk's body: the number of its first entry and the time from which times are counted (8 bytes each, big-endian), then its
//! entries, each behind its length. An entry: its kind, the microseconds since the entry before it, the transaction as a command has
//! it or the hold that ended, and what it changed. The changes of a transaction that posts or holds its postings are those, one for
//! one, so only how the account stood after each is written; others are written whole. Behind each change stands its ordinal, and
//! how many numbers ago the account was changed before, and before that: see [`Trail`].

use sysd_core::Timestamp;

use super::bytes::{Reader, What, put_currency, put_id, put_number, put_side, put_small};
use super::command::{put_transaction, transaction};
use crate::model::{
    AccountId, Action, Balance, Change, Currency, Event, JournalEntry, Side, Transaction, TransactionId,
};

/// A transaction whose changes are its postings.
const AS_ASKED: u8 = 0;
/// A transaction whose changes are written.
const OTHERWISE: u8 = 1;
/// The end of a hold.
const HOLD_ENDED: u8 = 2;

/// So many kinds of steps back there are; the first is to the change before.
pub(crate) const TRAIL_MAX: usize = 8;

/// Where earlier changes of an account are: the numbers of the last one before this, and of the last before this whose ordinal is a
/// multiple of 8, of 64, of 512, …, as many as there are.
///
/// So who looks for an earlier change goes at most seven times as far as possible, then seven times an eighth as far, and so on:
/// a skip list (Pugh, 1990) that is never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Trail {
    pub(crate) ordinal: u64,
    pub(crate) back: [u64; TRAIL_MAX],
}

impl Trail {
    /// How many kinds of steps back there are from here.
    pub(crate) fn steps(&self) -> usize {
        let before = self.ordinal.saturating_sub(1);
        if before == 0 { 0 } else { TRAIL_MAX.min(1 + before.ilog2() as usize / 3) }
    }
}

/// What is read of a chunk.
pub(crate) struct ReadEntry {
    pub(crate) entry: JournalEntry,
    /// One for each change.
    pub(crate) trails: Vec<Trail>,
}

pub(crate) fn begin_body(first: u64, base: Timestamp, out: &mut Vec<u8>) {
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&base.as_micros().to_be_bytes());
}

/// An entry behind its length.
#[inline]
pub(crate) fn put_sized(entry: &[u8], out: &mut Vec<u8>) {
    put_small(entry.len() as u64, out);
    out.extend_from_slice(entry);
}

/// Whether its changes are its postings.
#[inline]
fn is_as_asked(action: Action) -> bool {
    matches!(action, Action::Post | Action::Hold { .. })
}

/// The beginning of an entry; its changes follow. Answers whether they are to be written whole.
#[inline]
pub(crate) fn put_transaction_entry(
    elapsed_us: u64,
    transaction: &Transaction,
    count: usize,
    out: &mut Vec<u8>,
) -> bool {
    let is_as_asked = is_as_asked(transaction.action) && transaction.postings.len() == count;
    out.push(if is_as_asked { AS_ASKED } else { OTHERWISE });
    put_small(elapsed_us, out);
    put_transaction(transaction, out);
    if !is_as_asked {
        put_small(count as u64, out);
    }
    !is_as_asked
}

pub(crate) fn put_hold_ended_entry(elapsed_us: u64, hold: TransactionId, count: usize, out: &mut Vec<u8>) {
    out.push(HOLD_ENDED);
    put_small(elapsed_us, out);
    put_id(hold.0, out);
    put_small(count as u64, out);
}

/// A change with nothing left out, but for how the account stood after it.
pub(crate) fn put_whole_change(
    account: AccountId,
    currency: Currency,
    side: Side,
    [posted, held, freed]: [u128; 3],
    out: &mut Vec<u8>,
) {
    put_id(account.0, out);
    put_currency(currency, out);
    put_side(side, out);
    for amount in [posted, held, freed] {
        put_number(amount, out);
    }
}

/// How the account stood after a change, and where its earlier ones are.
#[inline]
pub(crate) fn put_after(balance: &Balance, number: u64, trail: &Trail, out: &mut Vec<u8>) {
    for sum in [balance.debits_posted, balance.credits_posted, balance.debits_held, balance.credits_held] {
        put_number(sum, out);
    }
    put_small(trail.ordinal, out);
    for back in trail.back.iter().take(trail.steps()) {
        put_small(number.saturating_sub(*back), out);
    }
}

fn after(number: u64, reader: &mut Reader<'_>) -> Result<(Balance, Trail), What> {
    let balance = Balance {
        debits_posted: reader.wide()?,
        credits_posted: reader.wide()?,
        debits_held: reader.wide()?,
        credits_held: reader.wide()?,
    };
    let mut trail = Trail { ordinal: reader.number()?, back: [0; TRAIL_MAX] };
    if trail.ordinal == 0 {
        return Err("an ordinal of zero");
    }
    for at in 0..trail.steps() {
        let ago = reader.number::<u64>()?;
        if ago == 0 || ago >= number {
            return Err("an earlier change that is not earlier");
        }
        trail.back[at] = number - ago;
    }
    Ok((balance, trail))
}

/// Reads the entries of a body, one after the other.
pub(crate) struct Entries<'a> {
    reader: Reader<'a>,
    number: u64,
    time_us: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, What> {
        let mut reader = Reader::new(body);
        let (number, time_us) = (reader.fixed()?, reader.fixed()?);
        Ok(Self { reader, number, time_us })
    }

    /// The number of the entry that comes next.
    pub(crate) const fn next_number(&self) -> u64 {
        self.number
    }

    /// Passes over the next entry, of which only the time is read. Answers that.
    pub(crate) fn skip(&mut self) -> Result<Option<Timestamp>, What> {
        Ok(self.head()?.map(|(_, at, _)| at))
    }

    /// The kind, the time and the rest of the next entry.
    fn head(&mut self) -> Result<Option<(u8, Timestamp, Reader<'a>)>, What> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let mut reader = Reader::new(self.reader.bytes()?);
        let kind = reader.byte()?;
        self.time_us = self.time_us.checked_add(reader.number()?).ok_or("a time beyond all times")?;
        let at = Timestamp::from_micros(self.time_us).map_err(|_| "a time beyond all times")?;
        self.number = self.number.checked_add(1).ok_or("a number beyond all numbers")?;
        Ok(Some((kind, at, reader)))
    }

    /// Reads the next entry.
    pub(crate) fn next(&mut self) -> Result<Option<ReadEntry>, What> {
        let number = self.number;
        let Some((kind, recorded_at, mut reader)) = self.head()? else { return Ok(None) };
        let event = match kind {
            AS_ASKED | OTHERWISE => Event::Transaction(transaction(&mut reader)?),
            HOLD_ENDED => Event::HoldEnded { hold: TransactionId(reader.id()?) },
            _ => return Err("a kind of entry that is unknown"),
        };
        let mut entry = JournalEntry { number, recorded_at, event, changes: smallvec::SmallVec::new() };
        let mut trails = Vec::new();
        match (kind, &entry.event) {
            (AS_ASKED, Event::Transaction(transaction)) => {
                let is_held = matches!(transaction.action, Action::Hold { .. });
                for posting in &transaction.postings {
                    let (balance, trail) = after(number, &mut reader)?;
                    let (posted, held) = if is_held { (0, posting.amount) } else { (posting.amount, 0) };
                    entry.changes.push(Change {
                        account: posting.account,
                        currency: posting.currency,
                        side: posting.side,
                        posted,
                        held,
                        freed: 0,
                        balance,
                        ordinal: trail.ordinal,
                    });
                    trails.push(trail);
                }
            }
            _ => {
                for _ in 0..reader.count(30)? {
                    let (account, currency) = (AccountId(reader.id()?), reader.currency()?);
                    let side = reader.side()?;
                    let [posted, held, freed] = [reader.wide()?, reader.wide()?, reader.wide()?];
                    let (balance, trail) = after(number, &mut reader)?;
                    let ordinal = trail.ordinal;
                    entry.changes.push(Change { account, currency, side, posted, held, freed, balance, ordinal });
                    trails.push(trail);
                }
            }
        }
        if !reader.is_empty() {
            return Err("bytes behind the end of an entry");
        }
        Ok(Some(ReadEntry { entry, trails }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use sysd_core::StateMachine as _;

    use super::*;
    use crate::logic::{Books, Command};
    use crate::model::{Account, AccountKind};

    fn bodies() -> Vec<Vec<u8>> {
        let (mut books, euro) = (Books::default(), Currency::iso("EUR").unwrap());
        let at = |s: u64| Timestamp::from_micros(1_795_000_000_000_000 + s * 1_000_000).unwrap();
        for id in 1..4 {
            let account = Account::new(AccountId(id), euro, AccountKind::Asset);
            books.apply(at(0), &Command::Open(Box::new(account)));
        }
        let transfer = |id| Transaction::transfer(TransactionId(id), euro, 300, AccountId(1), AccountId(2));
        let hold =
            Transaction::transfer(TransactionId(2), euro, 70, AccountId(2), AccountId(3)).held_until(Some(at(9)));
        for (s, transaction) in [(1, transfer(1)), (2, hold), (3, transfer(3)), (11, transfer(4))] {
            books.apply(at(s), &Command::Transact(transaction));
        }
        let mut snapshot = Vec::new();
        books.encode_snapshot(&mut snapshot);
        books.tail().chunks().map(|chunk| chunk.body.to_vec()).collect()
    }

    fn read(body: &[u8]) -> Result<Vec<JournalEntry>, What> {
        let (mut entries, mut all) = (Entries::of(body)?, Vec::new());
        while let Some(read) = entries.next()? {
            all.push(read.entry);
        }
        Ok(all)
    }

    /// What is stored once is read for ever.
    #[test]
    fn the_format_is_pinned() {
        let body = &bodies()[0];
        let entries = read(body).unwrap();
        let numbers: Vec<_> = entries.iter().map(|entry| (entry.number, entry.changes.len())).collect();
        assert_eq!(numbers, [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2)]);
        assert_eq!(entries[3].event, Event::HoldEnded { hold: TransactionId(2) });
        let ordinals: Vec<_> = entries.iter().map(|entry| entry.changes[0].ordinal).collect();
        assert_eq!(ordinals, [1, 1, 3, 2, 5]);
        let hex = body.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(hex, PINNED);
    }

    const PINNED: &str = concat!(
        "00000000000000010006608b016e724049000008000000000000000000000000000000014555520000000002ac0200000000",
        "00000000000000000000000200000000000000000000000000000001ac020000000100ac020000015200c0843d8a00000000",
        "000000000000000000000002c088a28fb0919803455552000000000246000000000000000000000000000000030000000000",
        "00000000000000000000020000460001ac0200004602014d00c0843d08000000000000000000000000000000034555520000",
        "000002ac020000000000000000000000000000000200000000000000000000000000000001d804000046030100d804000002",
        "025b0280a4e80300000000000000000000000000000002020000000000000000000000000000000345555200000000020000",
        "004600000000020200000000000000000000000000000002455552000000000201000046d80400000004014b000008000000",
        "000000000000000000000000044555520000000002ac02000000000000000000000000000000020000000000000000000000",
        "00000000018407000000050100840700000302",
    );

    #[test]
    fn a_part_of_a_body_is_none_or_fewer_entries() {
        let body = &bodies()[0];
        let whole = read(body).unwrap();
        for end in 0..body.len() {
            if let Ok(part) = read(&body[..end]) {
                assert_eq!(part, whole[..part.len()]);
                assert!(part.len() < whole.len());
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..400_usize, with: u8) {
            let _ = read(&bytes);
            let mut body = bodies().remove(0);
            let at = at % body.len();
            body[at] = with;
            let _ = read(&body);
        }
    }

    #[test]
    fn steps_back_reach_as_far_as_they_say() {
        let steps = |ordinal| Trail { ordinal, back: [0; TRAIL_MAX] }.steps();
        for (ordinal, count) in [(1, 0), (2, 1), (8, 1), (9, 2), (64, 2), (65, 3), (513, 4), (u64::MAX, TRAIL_MAX)] {
            assert_eq!(steps(ordinal), count, "{ordinal}");
        }
    }
}
