//! One shard: a table of lone records and a table of partitions with their rows in order.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashTable;
use sysd_core::{Keep, Key, KeyBytes, Order, Page, Row, Scan, Space, Timestamp, Trim, Trimmed};

use super::short::{Short, same};
use super::value::Stored;

/// What a record costs beside its bytes: the table's slot, or the tree's share, in round figures.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// Tables smaller than this are not worth sweeping.
const SWEEP_RECORDS_MIN: usize = 1_024;

/// The partition's bytes.
type Name = Short<30>;

/// Three halves of a cache line, so that none touches three lines.
#[repr(align(32))]
#[derive(Debug)]
struct Lone {
    name: Name,
    stored: Stored,
    space: SpaceIndex,
}

#[derive(Debug)]
struct Partition {
    name: Name,
    space: SpaceIndex,
    rows: BTreeMap<KeyBytes, Stored>,
}

/// Spaces, by small numbers in place of themselves in every record.
#[derive(Debug, Default)]
struct Spaces(Vec<Space>);

type SpaceIndex = u32;

impl Place<'_> {
    #[inline]
    fn is_at(&self, spaces: &Spaces, space: SpaceIndex, name: &Name) -> bool {
        spaces.is(space, self.key.space()) && same(name.as_slice(), self.key.partition())
    }
}

/// A key with its hash, which names space and partition.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) key: &'a Key<'a>,
    pub(super) hash: u64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    spaces: Spaces,
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

impl Spaces {
    /// Whether the space at `index` goes by the name of `space`.
    #[inline]
    fn is(&self, index: SpaceIndex, space: Space) -> bool {
        // One static string in nearly every program; the content decides where it isn't.
        self.0
            .get(index as usize)
            .is_some_and(|known| std::ptr::eq(known.name(), space.name()) || known.name() == space.name())
    }

    fn index(&mut self, space: Space) -> SpaceIndex {
        let at = self.0.iter().position(|&known| known == space).unwrap_or_else(|| {
            self.0.push(space);
            self.0.len() - 1
        });
        SpaceIndex::try_from(at).unwrap_or(SpaceIndex::MAX)
    }
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
        self.partitions.find(place.hash, |entry| place.is_at(&self.spaces, entry.space, &entry.name))
    }

    /// What is stored, expired or not.
    #[inline]
    pub(super) fn find(&self, place: Place<'_>) -> Option<&Stored> {
        if place.key.is_lone() {
            self.lone
                .find(place.hash, |lone| place.is_at(&self.spaces, lone.space, &lone.name))
                .map(|lone| &lone.stored)
        } else {
            self.partition(place)?.rows.get(place.key.sort())
        }
    }

    #[inline]
    pub(super) fn find_mut(&mut self, place: Place<'_>) -> Option<&mut Stored> {
        let spaces = &self.spaces;
        if place.key.is_lone() {
            self.lone
                .find_mut(place.hash, |lone| place.is_at(spaces, lone.space, &lone.name))
                .map(|lone| &mut lone.stored)
        } else {
            let found = self.partitions.find_mut(place.hash, |entry| place.is_at(spaces, entry.space, &entry.name))?;
            found.rows.get_mut(place.key.sort())
        }
    }

    /// Puts a record where [`Shard::find_mut`] found none.
    pub(super) fn insert(&mut self, place: Place<'_>, stored: Stored, hasher: impl Fn(Space, &[u8]) -> u64) {
        let key = place.key;
        let space = self.spaces.index(key.space());
        let spaces = &self.spaces;
        let rehash = |space: SpaceIndex, name: &Name| {
            spaces.0.get(space as usize).map_or(0, |&space| hasher(space, name.as_slice()))
        };
        if key.is_lone() {
            let lone = Lone { name: Name::new(key.partition()), stored, space };
            self.lone.insert_unique(place.hash, lone, |lone| rehash(lone.space, &lone.name));
            return;
        }
        let mut found = self
            .partitions
            .entry(
                place.hash,
                |entry| place.is_at(spaces, entry.space, &entry.name),
                |entry| rehash(entry.space, &entry.name),
            )
            .or_insert_with(|| Partition { name: Name::new(key.partition()), space, rows: BTreeMap::new() });
        found.get_mut().rows.insert(KeyBytes::from_slice(key.sort()), stored);
        self.row_count += 1;
    }

    /// Removes what is stored; answers whether anything was.
    pub(super) fn remove(&mut self, place: Place<'_>) -> bool {
        let spaces = &self.spaces;
        if place.key.is_lone() {
            let found = self.lone.find_entry(place.hash, |lone| place.is_at(spaces, lone.space, &lone.name));
            return found.map(hashbrown::hash_table::OccupiedEntry::remove).is_ok();
        }
        let same = |entry: &Partition| place.is_at(spaces, entry.space, &entry.name);
        let Ok(mut found) = self.partitions.find_entry(place.hash, same) else { return false };
        let removed = found.get_mut().rows.remove(place.key.sort()).is_some();
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
        let key = *place.key;
        let spaces = &self.spaces;
        let same = |entry: &Partition| place.is_at(spaces, entry.space, &entry.name);
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
        let space_at = |index: SpaceIndex| self.spaces.0.get(index as usize).copied();
        self.lone.retain(|lone| {
            space_at(lone.space).is_some_and(|space| stays(Key::lone(space, lone.name.as_slice()), &lone.stored))
        });
        let mut row_count = 0;
        self.partitions.retain(|partition| {
            let (Some(space), name) = (space_at(partition.space), partition.name.as_slice()) else { return false };
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
