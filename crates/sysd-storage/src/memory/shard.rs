//! One shard: a table of lone records and a table of partitions with their rows in order.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashTable;
use sysd_core::{Keep, Key, KeyBytes, Order, Page, Row, Scan, Space, Timestamp, Trim, Trimmed, Version};

use super::bound::Freed;
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
    /// No row expires before; `u64::MAX` if none does.
    soonest_us: u64,
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

#[derive(Debug)]
pub(super) struct Shard {
    spaces: Spaces,
    lone: HashTable<Lone>,
    partitions: HashTable<Partition>,
    row_count: usize,
    /// Records in evictable spaces.
    evictable_count: usize,
    /// How often some of them were evicted.
    eviction_count: usize,
    /// No record expires before; `u64::MAX` if none does.
    soonest_us: u64,
    sweep_at: usize,
    minted: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            spaces: Spaces::default(),
            lone: HashTable::new(),
            partitions: HashTable::new(),
            row_count: 0,
            evictable_count: 0,
            eviction_count: 0,
            soonest_us: u64::MAX,
            sweep_at: 0,
            minted: 0,
        }
    }
}

/// What is stored, with what has to learn of its expiry.
pub(super) struct Found<'a> {
    pub(super) stored: &'a mut Stored,
    soonest_us: &'a mut u64,
    soonest_of_rows_us: Option<&'a mut u64>,
}

impl Found<'_> {
    #[inline]
    pub(super) fn replace(self, stored: Stored) {
        *self.stored = stored;
        self.expect_expiry();
    }

    /// As [`Stored::set_state`].
    #[inline]
    pub(super) fn set_state(self, state: &[u8], version: Version, expires_at: Option<Timestamp>) {
        self.stored.set_state(state, version, expires_at);
        self.expect_expiry();
    }

    #[inline]
    fn expect_expiry(self) {
        let expires_at_us = self.stored.expires_at_us();
        *self.soonest_us = expires_at_us.min(*self.soonest_us);
        if let Some(soonest_us) = self.soonest_of_rows_us {
            *soonest_us = expires_at_us.min(*soonest_us);
        }
    }
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
        let at = self.0.iter().position(|known| known.name() == space.name()).unwrap_or_else(|| {
            self.0.push(space);
            self.0.len() - 1
        });
        SpaceIndex::try_from(at).unwrap_or(SpaceIndex::MAX)
    }

    /// Whether its records may go: where a name was used with and without, the first use decides.
    fn is_evictable(&self, space: Space) -> bool {
        self.0.iter().find(|known| known.name() == space.name()).unwrap_or(&space).is_evictable()
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

    pub(super) fn is_evictable(&self, space: Space) -> bool {
        self.spaces.is_evictable(space)
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
    pub(super) fn find_mut(&mut self, place: Place<'_>) -> Option<Found<'_>> {
        let (spaces, soonest_us) = (&self.spaces, &mut self.soonest_us);
        if place.key.is_lone() {
            let lone = self.lone.find_mut(place.hash, |lone| place.is_at(spaces, lone.space, &lone.name))?;
            return Some(Found { stored: &mut lone.stored, soonest_us, soonest_of_rows_us: None });
        }
        let found = self.partitions.find_mut(place.hash, |entry| place.is_at(spaces, entry.space, &entry.name))?;
        let stored = found.rows.get_mut(place.key.sort())?;
        Some(Found { stored, soonest_us, soonest_of_rows_us: Some(&mut found.soonest_us) })
    }

    /// Puts a record where [`Shard::find_mut`] found none.
    pub(super) fn insert(&mut self, place: Place<'_>, stored: Stored, hasher: impl Fn(Space, &[u8]) -> u64) {
        let key = place.key;
        let space = self.spaces.index(key.space());
        let spaces = &self.spaces;
        self.soonest_us = self.soonest_us.min(stored.expires_at_us());
        self.evictable_count += usize::from(spaces.is_evictable(key.space()));
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
            .or_insert_with(|| {
                let name = Name::new(key.partition());
                Partition { name, space, rows: BTreeMap::new(), soonest_us: u64::MAX }
            });
        let partition = found.get_mut();
        partition.soonest_us = partition.soonest_us.min(stored.expires_at_us());
        partition.rows.insert(KeyBytes::from_slice(key.sort()), stored);
        self.row_count += 1;
    }

    /// Removes what is stored; answers whether anything was.
    pub(super) fn remove(&mut self, place: Place<'_>) -> bool {
        let spaces = &self.spaces;
        let removed = if place.key.is_lone() {
            let found = self.lone.find_entry(place.hash, |lone| place.is_at(spaces, lone.space, &lone.name));
            found.map(hashbrown::hash_table::OccupiedEntry::remove).is_ok()
        } else {
            let same = |entry: &Partition| place.is_at(spaces, entry.space, &entry.name);
            let Ok(mut found) = self.partitions.find_entry(place.hash, same) else { return false };
            let removed = found.get_mut().rows.remove(place.key.sort()).is_some();
            if found.get().rows.is_empty() {
                found.remove();
            }
            self.row_count -= usize::from(removed);
            removed
        };
        self.evictable_count -= usize::from(removed && self.spaces.is_evictable(place.key.space()));
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
    ///
    /// Where no row can have expired, only the rows that go are looked at; otherwise those that stay too.
    pub(super) fn trim(
        &mut self,
        place: Place<'_>,
        trim: &Trim<'_>,
        rows_max: usize,
        now: Timestamp,
    ) -> (Trimmed, Freed) {
        let key = *place.key;
        let spaces = &self.spaces;
        let same = |entry: &Partition| place.is_at(spaces, entry.space, &entry.name);
        let Ok(mut found) = self.partitions.find_entry(place.hash, same) else { return <_>::default() };
        let partition = found.get_mut();
        let rows = &mut partition.rows;
        let (Keep::First(keep) | Keep::Last(keep)) = trim.keep;
        let excess = rows.len().saturating_sub(keep);
        if excess == 0 {
            return <_>::default();
        }
        let limit = rows_max + 1;
        let mut doomed: Vec<_> = match (partition.soonest_us <= now.as_micros(), trim.keep) {
            (true, Keep::First(_)) => beyond(rows.iter(), keep, limit, now),
            (true, Keep::Last(_)) => beyond(rows.iter().rev(), keep, limit, now),
            (false, Keep::First(_)) => rows.keys().rev().take(excess.min(limit)).cloned().collect(),
            (false, Keep::Last(_)) => rows.keys().take(excess.min(limit)).cloned().collect(),
        };
        let more = doomed.len() > rows_max;
        doomed.truncate(rows_max);
        let (mut freed, is_evictable) = (Freed::default(), spaces.is_evictable(key.space()));
        for sort in &doomed {
            if let Some(stored) = rows.remove(sort) {
                freed.add(cost(Key::row(key.space(), key.partition(), sort), stored.bytes().len()), is_evictable);
            }
        }
        if rows.is_empty() {
            found.remove();
        }
        self.row_count -= doomed.len();
        self.evictable_count -= if is_evictable { doomed.len() } else { 0 };
        (Trimmed { removed: doomed.len(), more }, freed)
    }

    /// Whether so much was added since the last sweep that another one is paid for.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.record_count() >= self.sweep_at.max(SWEEP_RECORDS_MIN)
    }

    /// Removes expired records: looks only where there can be one.
    pub(super) fn reclaim(&mut self, now: Timestamp) -> Freed {
        let mut freed = Freed::default();
        if self.soonest_us <= now.as_micros() {
            self.retain(|key, stored| {
                let is_expired = stored.is_expired(now);
                if is_expired {
                    freed.add(cost(key, stored.bytes().len()), key.space().is_evictable());
                }
                !is_expired
            });
        }
        self.sweep_at = self.record_count() * 2;
        freed
    }

    /// Removes one in so many records of evictable spaces, expired or not, until so many bytes are freed. With every call it
    /// begins at another one, so that none stays for ever.
    pub(super) fn evict(&mut self, bytes: usize, one_in: usize) -> Freed {
        let mut freed = Freed::default();
        if self.evictable_count == 0 {
            return freed;
        }
        let mut at = self.eviction_count;
        self.eviction_count += 1;
        self.retain(|key, stored| {
            if !key.space().is_evictable() || freed.bytes >= bytes {
                return true;
            }
            at += 1;
            let goes = at.is_multiple_of(one_in);
            if goes {
                freed.add(cost(key, stored.bytes().len()), true);
            }
            !goes
        });
        freed
    }

    /// `u64::MAX` if no record expires.
    pub(super) fn soonest_us(&self) -> u64 {
        self.soonest_us
    }

    fn retain(&mut self, mut stays: impl FnMut(Key<'_>, &Stored) -> bool) {
        let (mut row_count, mut evictable_count, mut soonest_us) = (0, 0, u64::MAX);
        let space_at = |index: SpaceIndex| self.spaces.0.get(index as usize).copied();
        let mut stays = |key: Key<'_>, stored: &Stored| {
            let stays = stays(key, stored);
            evictable_count += usize::from(stays && key.space().is_evictable());
            stays
        };
        self.lone.retain(|lone| {
            let key = space_at(lone.space).map(|space| Key::lone(space, lone.name.as_slice()));
            let stays = key.is_some_and(|key| stays(key, &lone.stored));
            if stays {
                soonest_us = soonest_us.min(lone.stored.expires_at_us());
            }
            stays
        });
        self.partitions.retain(|partition| {
            let (Some(space), name) = (space_at(partition.space), partition.name.as_slice()) else { return false };
            partition.soonest_us = u64::MAX;
            partition.rows.retain(|sort, stored| {
                let stays = stays(Key::row(space, name, sort), stored);
                if stays {
                    partition.soonest_us = partition.soonest_us.min(stored.expires_at_us());
                }
                stays
            });
            row_count += partition.rows.len();
            soonest_us = soonest_us.min(partition.soonest_us);
            !partition.rows.is_empty()
        });
        (self.row_count, self.evictable_count, self.soonest_us) = (row_count, evictable_count, soonest_us);
    }

    /// The bytes that all records count with, and of these, those in evictable spaces.
    #[cfg(test)]
    pub(super) fn summed(&mut self) -> (usize, usize) {
        let mut all = Freed::default();
        self.retain(|key, stored| {
            all.add(cost(key, stored.bytes().len()), key.space().is_evictable());
            true
        });
        (all.bytes, all.evictable_bytes)
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
