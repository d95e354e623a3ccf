//! Where the journal lies on the store, besides the log: the only place that builds its keys.
//!
//! In the space `ledger_journal`, of each ledger by its name: chunks of the journal, rows by the number of their first entry, 65,536 numbers
//! to a partition: see [`seal`]. They are added at the end, and a store that keeps a space's records together need not move them again.
//!
//! In the space `ledger_index`, likewise:
//! - pages of ids, in partitions by when an id was minted or by its bits, rows by the number of their first: of those that leave
//!   memory together (see `logic/leaving.rs`) one row a partition, or several if it would be long;
//! - what counts for another day than that on which it was recorded, rows by day and number, and numbers by the metadata of their
//!   transactions: partitions by the account, or by the key and value, and by each 4,194,304 numbers;
//! - by which number an id was reversed that has left memory, in 4,096 partitions, rows by the id.
//!
//! All of it follows from the log and is written once, always with the same bytes, whoever writes it and however often.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use foldhash::fast::RandomState;
use sha2::{Digest as _, Sha256};
use sysd_core::{Error, Key, KeyBytes, Result, Space, tuple};

use super::bytes::{Reader, put_day, put_id, put_number, put_side};
use crate::model::{AccountId, Date, Side, TransactionId};

/// The family of all ledgers' chunks.
pub(crate) const CHUNKS: Space = Space::conditional("ledger_journal");
/// The family of what finds their entries.
pub(crate) const INDEX: Space = Space::conditional("ledger_index");

/// A chunk is full when it has so many bytes. Part of the format: never change it.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
/// A chunk is full before a multiple of this, and so is its partition. Part of the format: never change it.
pub(crate) const SEGMENT_NUMBERS: u64 = 1 << 16;

/// So many numbers share a partition of what finds them by their days or their metadata: none grows for ever, and there are few to look
/// into. Part of the format: never change it.
const STRETCH_NUMBERS: u64 = 1 << 22;

const NAME_BYTES_MAX: usize = 256;
const CHUNK: u8 = 0;
const IDS: u8 = 1;
const DAYS: u8 = 2;
const TAGS: u8 = 3;
const REVERSALS: u8 = 4;

const FORMAT: u8 = 1;
const HASH_BYTES: usize = 32;

/// The hash of a chunk, and with it of every chunk before: BLAKE3. Zeros before the first.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkHash(pub [u8; HASH_BYTES]);

impl std::fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for ChunkHash {
    /// As hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A chunk as it is stored: format 1 (1 byte), the hash of the chunk before (32), the body, the BLAKE3 of all that (32).
pub(crate) fn seal(before: ChunkHash, body: &[u8]) -> (Bytes, ChunkHash) {
    let mut out = Vec::with_capacity(1 + 2 * HASH_BYTES + body.len());
    out.push(FORMAT);
    out.extend_from_slice(&before.0);
    out.extend_from_slice(body);
    let hash = ChunkHash(blake3::hash(&out).into());
    out.extend_from_slice(&hash.0);
    (out.into(), hash)
}

/// The body of a stored chunk, the hash of the one before it, and its own.
///
/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key if it is not what was written.
pub(crate) fn unseal(key: Key<'_>, value: &Bytes) -> Result<(Bytes, ChunkHash, ChunkHash)> {
    let corrupt = |what| Error::corrupt(key, what);
    let Some((rest, hash)) = value.split_last_chunk::<HASH_BYTES>() else {
        return Err(corrupt("a chunk of the journal is cut short"));
    };
    let Some((head, _)) = rest.split_first_chunk::<{ 1 + HASH_BYTES }>() else {
        return Err(corrupt("a chunk of the journal is cut short"));
    };
    if head[0] != FORMAT {
        return Err(corrupt("a chunk of the journal has an unknown format; was it written by a newer version?"));
    }
    if blake3::hash(rest) != *hash {
        return Err(corrupt("a chunk of the journal was changed: its hash is another"));
    }
    let mut before = ChunkHash::default();
    before.0.copy_from_slice(&head[1..]);
    Ok((value.slice(head.len()..rest.len()), before, ChunkHash(*hash)))
}

/// A ledger's name, and with it the keys of its records.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    name: String,
}

/// The bytes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) space: Space,
    pub(crate) partition: KeyBytes,
    pub(crate) sort: KeyBytes,
}

impl Place {
    pub(crate) fn key(&self) -> Key<'_> {
        Key::row(self.space, &self.partition, &self.sort)
    }

    /// The number that a row lies by.
    ///
    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key: `what` has none.
    pub(crate) fn number(&self, what: &'static str) -> Result<u64> {
        number_of(&self.sort).ok_or_else(|| Error::corrupt(self.key(), what))
    }
}

fn by_number(number: u64) -> KeyBytes {
    tuple::encode(&(number,))
}

/// The first numbers of the stretches that lie between two numbers.
pub(crate) fn stretches(from: u64, through: u64) -> impl Iterator<Item = u64> + Send {
    (from / STRETCH_NUMBERS..=through / STRETCH_NUMBERS).map(|stretch| stretch * STRETCH_NUMBERS)
}

/// The number of a row that lies by it.
pub(crate) fn number_of(sort: &[u8]) -> Option<u64> {
    tuple::decode::<(u64,)>(sort).ok().map(|(number,)| number)
}

fn bits_of(id: TransactionId) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "bits are picked")]
    let bits = (id.0 ^ (id.0 >> 64)) as u64;
    // Numbers that are counted up differ in their lowest bits, random ones in all.
    bits ^ (bits >> 20) ^ (bits >> 40)
}

/// So many ids are in a page, at most.
const PAGE_IDS_MAX: usize = 1 << 11;

/// Ids minted within a second share sixteen partitions; those that don't say when are spread over 65,536. Of 2^20 that leave memory
/// together sixteen share a row, then.
fn page_of(id: TransactionId) -> (u64, u64) {
    match crate::logic::minted_at_us(id) {
        Some(at) => (1 + at / 1_000_000, bits_of(id) & 0xF),
        None => (0, bits_of(id) & 0xFFFF),
    }
}

/// Ids that leave memory together, with their numbers, by the partitions of their pages.
#[derive(Debug, Default)]
pub(crate) struct Partitions(BTreeMap<(u64, u64), Vec<(TransactionId, u64)>>);

impl Extend<(TransactionId, u64)> for Partitions {
    /// In the order of their numbers.
    fn extend<I: IntoIterator<Item = (TransactionId, u64)>>(&mut self, ids: I) {
        for (id, number) in ids {
            self.0.entry(page_of(id)).or_default().push((id, number));
        }
    }
}

impl FromIterator<(TransactionId, u64)> for Partitions {
    fn from_iter<I: IntoIterator<Item = (TransactionId, u64)>>(ids: I) -> Self {
        let mut partitions = Self::default();
        partitions.extend(ids);
        partitions
    }
}

impl Schema {
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) or [`TooLarge`](sysd_core::ErrorKind::TooLarge) naming `name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        match name.len() {
            0 => Err(Error::invalid("name", "a ledger's name has at least one byte")),
            size if size > NAME_BYTES_MAX => Err(Error::too_large("name", size, NAME_BYTES_MAX)),
            _ => Ok(Self { name: name.to_owned() }),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn chunk(&self, first: u64) -> Place {
        let partition = tuple::encode(&(self.name(), CHUNK, first.saturating_sub(1) / SEGMENT_NUMBERS));
        Place { space: CHUNKS, partition, sort: by_number(first) }
    }

    /// Where an id's pages are: rows by the number of the first of each.
    pub(crate) fn ids(&self, id: TransactionId, first: u64) -> Place {
        let (when, which) = page_of(id);
        let partition = tuple::encode(&(self.name(), IDS, when, which));
        Place { space: INDEX, partition, sort: by_number(first) }
    }

    /// The pages of ids that leave memory together, each with its first number.
    pub(crate) fn pages(&self, leaving: &Partitions) -> Vec<(u64, Place, Bytes)> {
        let mut pages = Vec::with_capacity(leaving.0.len());
        for page in leaving.0.values().flat_map(|ids| ids.chunks(PAGE_IDS_MAX)) {
            if let Some((id, first)) = page.first() {
                pages.push((*first, self.ids(*id, *first), encode_ids(*first, page)));
            }
        }
        pages
    }

    /// By which number an id was reversed.
    pub(crate) fn reversal(&self, id: TransactionId) -> Place {
        let partition = tuple::encode(&(self.name(), REVERSALS, bits_of(id) & 0xFFF));
        Place { space: INDEX, partition, sort: tuple::encode(&(id.0,)) }
    }

    /// What counts for a day in an account.
    pub(crate) fn day(&self, account: AccountId, day: Date, number: u64) -> Place {
        let partition = tuple::encode(&(self.name(), DAYS, account.0, number / STRETCH_NUMBERS));
        Place { space: INDEX, partition, sort: tuple::encode(&(i64::from(day.0), number)) }
    }

    /// Transactions with a key and value.
    pub(crate) fn tag(&self, key: &str, value: &str, number: u64) -> Place {
        // Both may be as long as metadata may be, a key may not.
        let hash = Sha256::new().chain_update((key.len() as u64).to_be_bytes()).chain_update(key).chain_update(value);
        let hash = hash.finalize();
        let partition = tuple::encode(&(self.name(), TAGS, hash.as_slice(), number / STRETCH_NUMBERS));
        Place { space: INDEX, partition, sort: by_number(number) }
    }
}

/// The ids of a page: 16 bytes each, and how much greater its number is than that of the row.
pub(crate) fn encode_ids(first: u64, ids: &[(TransactionId, u64)]) -> Bytes {
    let mut out = vec![FORMAT];
    for (id, number) in ids {
        put_id(id.0, &mut out);
        put_number(number.saturating_sub(first).into(), &mut out);
    }
    out.into()
}

/// Takes the ids that are in a page out of those that are looked for, with their numbers.
///
/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
pub(crate) fn take_from_page(
    key: Key<'_>,
    first: u64,
    page: &[u8],
    ids: &mut HashSet<TransactionId, RandomState>,
    found: &mut Vec<(TransactionId, u64)>,
) -> Result<()> {
    let corrupt = |what| Error::corrupt(key, what);
    let mut reader = Reader::new(page);
    if reader.byte() != Ok(FORMAT) {
        return Err(corrupt("a page of ids has an unknown format; was it written by a newer version?"));
    }
    while !reader.is_empty() && !ids.is_empty() {
        let id = TransactionId(reader.id().map_err(corrupt)?);
        let number = first.checked_add(reader.number().map_err(corrupt)?);
        if ids.remove(&id) {
            found.push((id, number.ok_or_else(|| corrupt("a page of ids has a number beyond all numbers"))?));
        }
    }
    Ok(())
}

pub(crate) fn encode_reversal(by: u64) -> Bytes {
    let mut out = vec![FORMAT];
    put_number(by.into(), &mut out);
    out.into()
}

/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
pub(crate) fn decode_reversal(key: Key<'_>, value: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(value);
    let mut read = || {
        if reader.byte()? != FORMAT {
            return Err("a reversal has an unknown format; was it written by a newer version?");
        }
        let by = reader.number()?;
        if reader.is_empty() { Ok(by) } else { Err("bytes behind a reversal") }
    };
    read().map_err(|what| Error::corrupt(key, what))
}

/// What was posted for another day than that on which it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dated {
    pub(crate) recorded_on: Date,
    pub(crate) effective: Date,
    pub(crate) side: Side,
    pub(crate) posted: u128,
}

pub(crate) fn encode_dated(dated: &Dated) -> Bytes {
    let mut out = vec![FORMAT];
    put_day(dated.recorded_on, &mut out);
    put_side(dated.side, &mut out);
    put_number(dated.posted, &mut out);
    out.into()
}

/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
pub(crate) fn decode_dated(key: Key<'_>, value: &[u8]) -> Result<(u64, Dated)> {
    let corrupt = |what| Error::corrupt(key, what);
    let (day, number) = tuple::decode::<(i64, u64)>(key.sort()).map_err(|_| corrupt("the key of a dated posting"))?;
    let effective = Date(i32::try_from(day).map_err(|_| corrupt("a day beyond all days"))?);
    let mut reader = Reader::new(value);
    let mut read = || {
        if reader.byte()? != FORMAT {
            return Err("a dated posting has an unknown format; was it written by a newer version?");
        }
        let (recorded_on, side) = (reader.day()?, reader.side()?);
        Ok((number, Dated { recorded_on, effective, side, posted: reader.wide()? }))
    };
    read().map_err(corrupt)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// Of 2^20 ids: rows, and the mean of their bytes an id, keys and values.
    fn measured(id: impl Fn(u64) -> TransactionId) -> (usize, f64) {
        let schema = Schema::new("books").unwrap();
        let ids: Vec<_> = (1..=1_u64 << 20).map(|number| (id(number), number)).collect();
        let pages = schema.pages(&ids.iter().copied().collect());
        let bytes: usize =
            pages.iter().map(|(_, place, value)| place.partition.len() + place.sort.len() + value.len()).sum();
        let mut found = 0;
        for (first, place, value) in &pages {
            assert!(value.len() < 64 << 10, "a row of {} bytes", value.len());
            let (id, number) = ids[usize::try_from(first - 1).unwrap()];
            let (mut ids, mut numbers) = (HashSet::from_iter([id]), Vec::new());
            take_from_page(place.key(), *first, value, &mut ids, &mut numbers).unwrap();
            assert_eq!((ids.len(), numbers), (0, vec![(id, number)]));
            assert_eq!(*place, schema.ids(id, *first));
            found += 1;
        }
        assert!(found > 500);
        #[allow(clippy::cast_precision_loss, reason = "a mean, to be printed")]
        let mean = bytes as f64 / ids.len() as f64;
        println!("{} rows, {mean:.1} bytes an id", pages.len());
        (pages.len(), mean)
    }

    #[test]
    fn many_ids_share_a_row_whatever_they_are() {
        let random = std::cell::RefCell::new(rand_pcg::Pcg64Mcg::seed_from_u64(5));
        let (rows, bytes) = measured(|_| TransactionId(random.borrow_mut().random::<u128>() & !(0xF << 76)));
        assert!(rows <= 1 << 16 && bytes < 24.0, "random ones: {rows} rows, {bytes:.1} bytes an id");
        let (rows, bytes) = measured(|number| TransactionId(number.into()));
        assert!(rows <= 1 << 16 && bytes < 24.0, "counted ones: {rows} rows, {bytes:.1} bytes an id");
        // A hundred in a millisecond, of version 7.
        let (rows, bytes) = measured(|number| {
            let ms = 1_795_000_000_000 + u128::from(number / 100);
            let rest: u64 = random.borrow_mut().random();
            TransactionId(ms << 80 | 7 << 76 | 0b10 << 62 | u128::from(rest >> 2))
        });
        assert!(rows <= 1_000 && bytes < 20.0, "version 7: {rows} rows, {bytes:.1} bytes an id");
    }
}
