//! One shard: a table of lone records and a table of partitions with their rows in order.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use smallvec::SmallVec;
use sysd_core::{Keep, Key, KeyBytes, Order, Page, Row, Scan, Space, Timestamp, Trim, Trimmed};

use super::value::Stored;

/// What a record costs beside its bytes: the table's slot, or the tree's share, in round figures.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// Tables smaller than this are not worth sweeping.
const SWEEP_RECORDS_MIN: usize = 1_024;

#[derive(Debug)]
struct Lone {
    space: Space,
    /// The partition's bytes.
    name: SmallVec<[u8; 24]>,
    stored: Stored,
}

#[derive(Debug)]
struct Partition {
    space: Space,
    /// The partition's bytes.
    name: SmallVec<[u8; 24]>,
    rows: BTreeMap<KeyBytes, Stored>,
}

/// A key with its hash, which names space and partition.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) key: Key<'a>,
    pub(super) hash: u64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    lone: HashTable<Lone>,
    partitions: HashTable<Partition>,
    row_count: usize,
    sweep_at: usize,
    minted: u64,
}

/// The bytes that a record is counted with.
pub(super) fn cost(key: Key<'_>, value_len: usize) -> usize {
    RECORD_OVERHEAD_BYTES + key.partition().len() + key.sort().len() + value_len
}

fn same_space(a: Space, b: Space) -> bool {
    // One static string in nearly every program; the content decides where it isn't.
    std::ptr::eq(a.name(), b.name()) || a.name() == b.name()
}

impl Shard {
    /// A number that this shard has not given before.
    pub(super) fn mint(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    pub(super) fn record_count(&self) -> usize {
        self.lone.len() + self.row_count
    }

    fn partition(&self, place: Place<'_>) -> Option<&Partition> {
        let (space, name) = (place.key.space(), place.key.partition());
        self.partitions.find(place.hash, |entry| same_space(entry.space, space) && entry.name.as_slice() == name)
    }

    /// What is stored, expired or not.
    #[inline]
    pub(super) fn find(&self, place: Place<'_>) -> Option<&Stored> {
        let key = place.key;
        if key.is_lone() {
            let eq = |lone: &Lone| same_space(lone.space, key.space()) && lone.name.as_slice() == key.partition();
            self.lone.find(place.hash, eq).map(|lone| &lone.stored)
        } else {
            self.partition(place)?.rows.get(key.sort())
        }
    }

    #[inline]
    pub(super) fn find_mut(&mut self, place: Place<'_>) -> Option<&mut Stored> {
        let key = place.key;
        let same = |space: Space, name: &[u8]| same_space(space, key.space()) && name == key.partition();
        if key.is_lone() {
            self.lone.find_mut(place.hash, |lone| same(lone.space, &lone.name)).map(|lone| &mut lone.stored)
        } else {
            let found = self.partitions.find_mut(place.hash, |entry| same(entry.space, &entry.name))?;
            found.rows.get_mut(key.sort())
        }
    }

    /// Puts a record where none is stored, or over one.
    pub(super) fn put(&mut self, place: Place<'_>, stored: Stored, hasher: impl Fn(Space, &[u8]) -> u64) {
        let key = place.key;
        let same = |space: Space, name: &[u8]| same_space(space, key.space()) && name == key.partition();
        if key.is_lone() {
            let entry =
                self.lone.entry(place.hash, |lone| same(lone.space, &lone.name), |lone| hasher(lone.space, &lone.name));
            match entry {
                TableEntry::Occupied(mut found) => found.get_mut().stored = stored,
                TableEntry::Vacant(vacant) => {
                    let name = SmallVec::from_slice(key.partition());
                    vacant.insert(Lone { space: key.space(), name, stored });
                }
            }
            return;
        }
        let entry = self.partitions.entry(
            place.hash,
            |entry| same(entry.space, &entry.name),
            |entry| hasher(entry.space, &entry.name),
        );
        let mut found = entry.or_insert_with(|| Partition {
            space: key.space(),
            name: SmallVec::from_slice(key.partition()),
            rows: BTreeMap::new(),
        });
        if found.get_mut().rows.insert(KeyBytes::from_slice(key.sort()), stored).is_none() {
            self.row_count += 1;
        }
    }

    /// Removes what is stored; answers whether anything was.
    pub(super) fn remove(&mut self, place: Place<'_>) -> bool {
        let key = place.key;
        let same = |space: Space, name: &[u8]| same_space(space, key.space()) && name == key.partition();
        if key.is_lone() {
            let found = self.lone.find_entry(place.hash, |lone| same(lone.space, &lone.name));
            return found.map(hashbrown::hash_table::OccupiedEntry::remove).is_ok();
        }
        let Ok(mut found) = self.partitions.find_entry(place.hash, |entry| same(entry.space, &entry.name)) else {
            return false;
        };
        let removed = found.get_mut().rows.remove(key.sort()).is_some();
        if found.get().rows.is_empty() {
            found.remove();
        }
        self.row_count -= usize::from(removed);
        removed
    }

    /// Reads a page of at most `rows_max` rows. The scan's bounds are in order and hold something.
    pub(super) fn scan(&self, place: Place<'_>, scan: &Scan<'_>, rows_max: usize, now: Timestamp) -> Page {
        let Some(partition) = self.partition(place) else { return Page::default() };
        let range = partition.rows.range::<[u8], (Bound<&[u8]>, Bound<&[u8]>)>((scan.start, scan.end));
        match scan.order {
            Order::Ascending => page(range, scan.limit.min(rows_max), now),
            Order::Descending => page(range.rev(), scan.limit.min(rows_max), now),
        }
    }

    /// Removes at most `rows_max` rows beyond those to keep; answers the bytes freed too.
    pub(super) fn trim(
        &mut self,
        place: Place<'_>,
        trim: &Trim<'_>,
        rows_max: usize,
        now: Timestamp,
    ) -> (Trimmed, usize) {
        let key = place.key;
        let same = |entry: &Partition| same_space(entry.space, key.space()) && entry.name.as_slice() == key.partition();
        let Ok(mut found) = self.partitions.find_entry(place.hash, same) else { return <_>::default() };
        let rows = &mut found.get_mut().rows;
        let mut doomed = match trim.keep {
            Keep::First(keep) => beyond(rows.iter(), keep, rows_max + 1, now),
            Keep::Last(keep) => beyond(rows.iter().rev(), keep, rows_max + 1, now),
        };
        let more = doomed.len() > rows_max;
        doomed.truncate(rows_max);
        let mut freed = 0;
        for sort in &doomed {
            if let Some(stored) = rows.remove(sort) {
                freed += cost(Key::row(key.space(), key.partition(), sort), stored.bytes().len());
            }
        }
        if rows.is_empty() {
            found.remove();
        }
        self.row_count -= doomed.len();
        (Trimmed { removed: doomed.len(), more }, freed)
    }

    /// Whether so much was added since the last sweep that another one is paid for.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.record_count() >= self.sweep_at.max(SWEEP_RECORDS_MIN)
    }

    /// Removes expired records, and, until `evict_bytes` are freed, records of evictable spaces; answers the bytes freed.
    pub(super) fn sweep(&mut self, now: Timestamp, evict_bytes: usize) -> usize {
        let (mut freed, mut evicted) = (0, 0);
        let mut stays = |key: Key<'_>, stored: &Stored| {
            let bytes = cost(key, stored.bytes().len());
            let expired = stored.is_expired(now);
            let evict = !expired && key.space().is_evictable() && evicted < evict_bytes;
            if evict {
                evicted += bytes;
            }
            if expired || evict {
                freed += bytes;
            }
            !(expired || evict)
        };
        self.lone.retain(|lone| stays(Key::lone(lone.space, &lone.name), &lone.stored));
        let mut row_count = 0;
        self.partitions.retain(|partition| {
            let (space, name) = (partition.space, &partition.name);
            partition.rows.retain(|sort, stored| stays(Key::row(space, name, sort), stored));
            row_count += partition.rows.len();
            !partition.rows.is_empty()
        });
        self.row_count = row_count;
        self.sweep_at = self.record_count() * 2;
        freed
    }
}

fn page<'a>(mut rows: impl Iterator<Item = (&'a KeyBytes, &'a Stored)>, limit: usize, now: Timestamp) -> Page {
    let mut page = Page::default();
    for (sort, stored) in rows.by_ref().filter(|(_, stored)| !stored.is_expired(now)).take(limit) {
        page.rows.push(Row { sort: bytes::Bytes::copy_from_slice(sort), record: stored.to_record() });
    }
    if page.rows.len() == limit && rows.any(|(_, stored)| !stored.is_expired(now)) {
        page.next = page.rows.last().map(|row| row.sort.clone());
    }
    page
}

/// The sort keys beyond the first `keep` live rows, and of expired ones on the way, at most `limit`.
fn beyond<'a>(
    rows: impl Iterator<Item = (&'a KeyBytes, &'a Stored)>,
    keep: usize,
    limit: usize,
    now: Timestamp,
) -> Vec<KeyBytes> {
    let mut kept = 0;
    let goes = |(_, stored): &(&KeyBytes, &Stored)| {
        let stays = !stored.is_expired(now) && kept < keep;
        kept += usize::from(stays);
        !stays
    };
    rows.filter(goes).take(limit).map(|(sort, _)| sort.clone()).collect()
}
