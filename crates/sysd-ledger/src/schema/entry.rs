//! Entries of the journal, and the chunks in which they lie.
//!
//! A chunk's body: the number of its first entry and the time from which times are counted (8 bytes each, big-endian), then its
//! entries, each behind its length. An entry: its kind, the microseconds since the entry before it, the transaction as a command has
//! it or the hold that ended, and what it changed. The changes of a transaction that posts or holds its postings are those, one for
//! one, so only how the account stood after each is written; others are written whole. With how it stood comes the change's ordinal,
//! and how many numbers ago the account was changed before: see [`Trail`]. These six numbers lie behind their widths in bytes, four
//! bits each, so that they are written without a branch.

use std::ops::Deref;

use bytes::Bytes;
use sysd_core::Timestamp;

use super::bytes::{Reader, What, put_currency, put_id, put_number, put_side, put_small};
use super::command::{IS_PAIR, put_transaction, transaction};
use super::journal::CHUNK_BYTES;
use crate::model::amount::AMOUNT_MAX;
use crate::model::{
    AccountId, Action, Balance, Change, Currency, Event, JournalEntry, Posting, Side, Transaction, TransactionId,
};

/// A transaction whose changes are its postings.
const AS_ASKED: u8 = 0;
/// A transaction whose changes are written.
const OTHERWISE: u8 = 1;
/// The end of a hold.
const HOLD_ENDED: u8 = 2;

/// So many kinds of steps back there are; the first is to the change before.
pub(crate) const TRAIL_MAX: usize = 8;

/// Where earlier changes of an account are: the number of the one before this, and, of a change whose ordinal is a multiple of 8, of
/// 64, of 512, …, of the one that is 8, 64, 512, … before it. Of the change that comes next, the books know all: of the last changes
/// whose ordinals are such multiples.
///
/// So who looks for an earlier change from there goes at most seven times as far as possible, then seven times an eighth as far, and
/// so on: a skip list (Pugh, 1990) that is never changed. Seven of eight changes keep one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Trail {
    pub(crate) ordinal: u64,
    /// Only so many of `back` are there.
    pub(crate) len: usize,
    pub(crate) back: [u64; TRAIL_MAX],
}

impl Trail {
    /// How many steps a change of that ordinal keeps.
    #[inline]
    pub(crate) const fn len_of(ordinal: u64) -> usize {
        if ordinal <= 1 {
            return 0;
        }
        let levels = ordinal.trailing_zeros() as usize / 3;
        let levels = if levels < TRAIL_MAX { levels } else { TRAIL_MAX - 1 };
        // There is nothing before the first.
        let is_first = ordinal == 1 << (3 * levels);
        if is_first { levels } else { 1 + levels }
    }

    /// How many steps lead from the change that comes next.
    pub(crate) const fn len_next(ordinal: u64) -> usize {
        let before = ordinal.saturating_sub(1);
        if before == 0 {
            return 0;
        }
        let levels = before.ilog2() as usize / 3;
        1 + if levels < TRAIL_MAX { levels } else { TRAIL_MAX - 1 }
    }

    /// Of a change of that ordinal, as it keeps it.
    #[inline]
    pub(crate) const fn of(ordinal: u64) -> Self {
        Self { ordinal, len: Self::len_of(ordinal), back: [0; TRAIL_MAX] }
    }

    /// The numbers of the changes to which steps lead, the next one first.
    #[inline]
    pub(crate) fn back(&self) -> &[u64] {
        self.back.get(..self.len).unwrap_or(&self.back)
    }
}

/// What is read of a chunk.
pub(crate) struct ReadEntry {
    pub(crate) entry: JournalEntry,
    /// One for each change.
    pub(crate) trails: Vec<Trail>,
}

/// Seven bits in each byte, as [`put_small`] writes them, from that place on: up to ten. Answers where they end.
#[inline]
fn write_small(bytes: &mut [u8], mut at: usize, mut number: u64) -> usize {
    while number > 0x7F {
        bytes[at] = number.to_le_bytes()[0] | 0x80;
        (at, number) = (at + 1, number >> 7);
    }
    bytes[at] = number.to_le_bytes()[0];
    at + 1
}

/// The body of a chunk that is being filled. There is always room behind it, so that entries are written where they stay.
#[derive(Debug, Default)]
pub(crate) struct OpenBody {
    bytes: Vec<u8>,
    len: usize,
}

impl From<&[u8]> for OpenBody {
    fn from(body: &[u8]) -> Self {
        Self { bytes: body.to_vec(), len: body.len() }
    }
}

impl Deref for OpenBody {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl OpenBody {
    /// Begins it, for entries from that number and that time on.
    pub(crate) fn begin(&mut self, first: u64, base: Timestamp) {
        self.bytes.resize(CHUNK_BYTES + (CHUNK_BYTES >> 2), 0);
        self.extend(&first.to_be_bytes());
        self.extend(&base.as_micros().to_be_bytes());
    }

    /// So many bytes behind it.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + bytes {
            self.grow(bytes);
        }
        &mut self.bytes[self.len..][..bytes]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        self.bytes.resize((self.len + bytes).next_multiple_of(CHUNK_BYTES >> 2), 0);
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds an entry, behind its length.
    #[inline]
    pub(crate) fn put_sized(&mut self, entry: &[u8]) {
        self.len += write_small(self.room(10), 0, entry.len() as u64);
        self.extend(entry);
    }

    /// Begins the entry of a transfer; [`end_pair`](Self::end_pair) adds it.
    #[inline]
    pub(crate) fn begin_pair(
        &mut self,
        elapsed_us: u64,
        id: TransactionId,
        [debit, credit]: &[Posting; 2],
    ) -> PairEntry<'_> {
        // Nearly always one byte is enough for its length.
        let mut entry = PairEntry { bytes: self.room(PairEntry::ROOM), len: 1 };
        entry.put([AS_ASKED]);
        entry.put_small(elapsed_us);
        entry.put([IS_PAIR]);
        entry.put(id.0.to_be_bytes());
        entry.put(debit.currency.to_bits().to_be_bytes());
        entry.put_small(u64::try_from(debit.amount).unwrap_or(u64::MAX));
        entry.put(debit.account.0.to_be_bytes());
        entry.put(credit.account.0.to_be_bytes());
        entry
    }

    /// Adds the one that was begun last and ended with so many bytes.
    #[inline]
    pub(crate) fn end_pair(&mut self, bytes: usize) {
        self.len += bytes;
    }

    /// What it is when it is full; another can be begun.
    pub(crate) fn take(&mut self) -> Bytes {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(std::mem::take(&mut self.len));
        bytes.into()
    }
}

/// The entry of a transaction that debits one account and credits another and says nothing else, if no number in it has more than
/// 8 bytes: as [`put_transaction_entry`], [`put_after`] and [`OpenBody::put_sized`] write it, in place.
pub(crate) struct PairEntry<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl PairEntry<'_> {
    /// Its length takes two bytes at most.
    const HEAD: usize = 2 + 2 + 2 * 10 + 3 * 16 + 8;
    const AFTER: usize = 3 + 6 * 8 + 10 * (TRAIL_MAX - 1);
    /// For all of it, and for the bytes behind a number that are written with it.
    const ROOM: usize = Self::HEAD + 2 * Self::AFTER + 10;

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..][..N].copy_from_slice(&bytes);
        self.len += N;
    }

    #[inline]
    fn put_small(&mut self, number: u64) {
        self.len = write_small(self.bytes, self.len, number);
    }

    /// How an account stood after its change of that ordinal, and how many numbers ago the one before it was.
    #[inline]
    pub(crate) fn put_after(&mut self, balance: &Balance, ordinal: u64, before: u64) {
        let Balance { debits_posted, credits_posted, debits_held, credits_held } = *balance;
        #[allow(clippy::cast_possible_truncation, reason = "no number has more than 8 bytes")]
        let sums = [debits_posted as u64, credits_posted as u64, debits_held as u64, credits_held as u64];
        let numbers = [sums[0], sums[1], sums[2], sums[3], ordinal, before];
        let (start, mut len, mut widths) = (self.len, self.len + 3, 0_u32);
        // Each is written with all of its bytes, and the next one over those that it does not need.
        for (at, number) in (0..).zip(numbers) {
            let width = width(number);
            widths |= width << (4 * at);
            self.bytes[len..][..8].copy_from_slice(&number.to_le_bytes());
            len += width as usize;
        }
        self.bytes[start..][..3].copy_from_slice(&widths.to_le_bytes()[..3]);
        self.len = len;
    }

    #[cold]
    pub(crate) fn put_farther(&mut self, number: u64, trail: &Trail) {
        trail.back().iter().skip(1).for_each(|back| self.put_small(number.saturating_sub(*back)));
    }

    /// Writes its length. Answers how many bytes it has with that.
    #[inline]
    pub(crate) fn end(self) -> usize {
        let Self { bytes, len } = self;
        // Seven bits in each byte, as everywhere.
        let of_entry = len - 1;
        if of_entry <= 0x7F {
            bytes[0] = of_entry.to_le_bytes()[0];
            return len;
        }
        bytes.copy_within(1..len, 2);
        bytes[..2].copy_from_slice(&[of_entry.to_le_bytes()[0] | 0x80, (of_entry >> 7).to_le_bytes()[0]]);
        len + 1
    }
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

/// A sum that has more than 8 bytes has 16.
const WIDE: u8 = 15;

/// How many bytes a number takes.
#[inline]
const fn width(number: u64) -> u32 {
    8 - number.leading_zeros() / 8
}

/// How the account stood after a change, and where its earlier ones are.
#[inline]
pub(crate) fn put_after(balance: &Balance, number: u64, trail: &Trail, out: &mut Vec<u8>) {
    let Balance { debits_posted, credits_posted, debits_held, credits_held } = *balance;
    let before = trail.back().first().map_or(0, |back| number.saturating_sub(*back));
    let numbers = [debits_posted, credits_posted, debits_held, credits_held, trail.ordinal.into(), before.into()];
    let width = |number: u128| u64::try_from(number).map_or(16, width);
    let code = |number: u128| if width(number) == 16 { WIDE } else { width(number).to_le_bytes()[0] };
    out.extend(numbers.chunks_exact(2).map(|pair| code(pair[0]) | code(pair[1]) << 4));
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes()[..width(number) as usize]);
    }
    trail.back().iter().skip(1).for_each(|back| put_small(number.saturating_sub(*back), out));
}

fn after(number: u64, reader: &mut Reader<'_>) -> Result<(Balance, Trail), What> {
    let codes = reader.array::<3>()?;
    let mut numbers = [0_u128; 6];
    for (at, found) in numbers.iter_mut().enumerate() {
        let code = codes[at / 2] >> (4 * (at % 2)) & 0xF;
        *found = match code {
            WIDE => u128::from_le_bytes(reader.array()?),
            0..=8 => {
                let (mut bytes, width) = ([0; 8], usize::from(code));
                bytes[..width].copy_from_slice(reader.take(width)?);
                u64::from_le_bytes(bytes).into()
            }
            _ => return Err("a width that no number has"),
        };
        // Each number is written in one way only.
        let is_shortest = match u64::try_from(*found) {
            Ok(small) => u32::from(code) == width(small),
            Err(_) => *found <= AMOUNT_MAX,
        };
        if !is_shortest {
            return Err("a number is longer than it needs to be");
        }
    }
    let [debits_posted, credits_posted, debits_held, credits_held, ordinal, before] = numbers;
    let balance = Balance { debits_posted, credits_posted, debits_held, credits_held };
    let small = |number: u128| u64::try_from(number).map_err(|_| "a number is too great");
    let (ordinal, before) = (small(ordinal)?, small(before)?);
    if ordinal == 0 {
        return Err("an ordinal of zero");
    }
    let mut trail = Trail::of(ordinal);
    if trail.len == 0 && before != 0 {
        return Err("a change before the first");
    }
    for at in 0..trail.len {
        let ago = if at == 0 { before } else { reader.number::<u64>()? };
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
        "000000000000000000000002000000000000000000000000000000010200012c01012000012c01015300c0843d8a00000000",
        "000000000000000000000002c088a28fb0919803455552000000000246000000000000000000000000000000030000000000",
        "000000000000000000000200010146010210112c014602014e00c0843d080000000000000000000000000000000345555200",
        "00000002ac020000000000000000000000000000000200000000000000000000000000000001021011580246030120001158",
        "0202025a0280a4e8030000000000000000000000000000000202000000000000000000000000000000034555520000000002",
        "00000046000011020200000000000000000000000000000002455552000000000201000046020011580204014b0000080000",
        "00000000000000000000000000044555520000000002ac020000000000000000000000000000000200000000000000000000",
        "0000000000010200118403050120001184030302",
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

    fn sum() -> impl Strategy<Value = u128> {
        (0..=AMOUNT_MAX, 0..128_u32).prop_map(|(sum, shift)| sum >> shift)
    }

    proptest! {
        #[test]
        fn how_an_account_stood_is_read_as_it_was_written(
            sums in [sum(), sum(), sum(), sum()],
            ordinal in (1..=u64::MAX, 0..64_u32).prop_map(|(ordinal, shift)| (ordinal >> shift).max(1)),
            number in 1_000..u64::MAX,
            ago in prop::array::uniform8(1..1_000_u64),
        ) {
            let [debits_posted, credits_posted, debits_held, credits_held] = sums;
            let balance = Balance { debits_posted, credits_posted, debits_held, credits_held };
            let mut trail = Trail::of(ordinal);
            for (back, ago) in trail.back.iter_mut().zip(ago).take(trail.len) {
                *back = number - ago;
            }
            let mut bytes = Vec::new();
            put_after(&balance, number, &trail, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(after(number, &mut reader), Ok((balance, trail)));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn a_pair_is_written_as_anything_else(
            ids in prop::array::uniform3(any::<u128>()),
            amount in (1..1_u128 << 63, 0..63_u32).prop_map(|(amount, shift)| (amount >> shift).max(1)),
            elapsed_us: u64,
            sums in prop::array::uniform8((0..1_u128 << 63, 0..64_u32).prop_map(|(sum, shift)| sum >> shift)),
            ordinals in prop::array::uniform2((1..=u64::MAX, 0..64_u32, 0..4_u32)),
            number in 1_000..u64::MAX,
            ago in prop::array::uniform8(1..1_000_u64),
        ) {
            let euro = Currency::iso("EUR").unwrap();
            let transaction =
                Transaction::transfer(TransactionId(ids[0]), euro, amount, AccountId(ids[1]), AccountId(ids[2]));
            let pair: &[Posting; 2] = transaction.postings.as_slice().try_into().unwrap();
            let after = [0, 1].map(|at| {
                let [debits_posted, credits_posted, debits_held, credits_held] =
                    [sums[4 * at], sums[4 * at + 1], sums[4 * at + 2], sums[4 * at + 3]];
                // Many that have longer steps.
                let (ordinal, right, levels) = ordinals[at];
                let ordinal = (ordinal >> right >> (3 * levels) << (3 * levels)).max(1);
                let mut trail = Trail::of(ordinal);
                for (back, ago) in trail.back.iter_mut().zip(ago) {
                    *back = number - ago;
                }
                (Balance { debits_posted, credits_posted, debits_held, credits_held }, trail)
            });

            let (mut line, mut wanted, mut body) = (Vec::new(), OpenBody::default(), OpenBody::default());
            put_transaction_entry(elapsed_us, &transaction, 2, &mut line);
            for (balance, trail) in &after {
                put_after(balance, number, trail, &mut line);
            }
            wanted.put_sized(&line);

            let mut entry = body.begin_pair(elapsed_us, transaction.id, pair);
            for (balance, trail) in &after {
                entry.put_after(balance, trail.ordinal, trail.back().first().map_or(0, |back| number - back));
                entry.put_farther(number, trail);
            }
            let bytes = entry.end();
            body.end_pair(bytes);
            prop_assert_eq!(&*body, &*wanted);
        }

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
        for (ordinal, next, kept) in [
            (1, 0, 0),
            (2, 1, 1),
            (8, 1, 1),
            (9, 2, 1),
            (16, 2, 2),
            (64, 2, 2),
            (65, 3, 1),
            (72, 3, 2),
            (128, 3, 3),
            (512, 3, 3),
            (513, 4, 1),
            (1024, 4, 4),
            (u64::MAX, TRAIL_MAX, 1),
            (1 << 63, TRAIL_MAX, TRAIL_MAX),
        ] {
            assert_eq!((Trail::len_next(ordinal), Trail::len_of(ordinal)), (next, kept), "{ordinal}");
        }
    }
}
