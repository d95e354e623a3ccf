//! The trees on the disk: fjall's keyspaces, one for lone records, and several for rows, each for some of the spaces.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use sysd_core::{
    Clock, Effect, Error, ErrorKind, Keep, Key, KeyBytes, Order, Page, Result, Row, Scan, Timestamp, Trim, Version,
};

use super::config::{LocalConfig, SyncMode};
use super::error::{of_commit, of_open, of_read};
use super::group::{Batch, Tree};
use super::layout::{self, Family, HEADER_BYTES, Image, PARTS, STORE_FORMAT};
use super::lock::{LOCK, Lock};

const TREE: &str = "tree";
/// A tree that is being made: it becomes `tree` once it is whole.
const TREE_NEW: &str = "tree.new";
const FORMAT: &str = "sysd-format";

/// By [`layout::part_of`].
const KEYSPACES: [&str; PARTS] =
    ["lone", "rows-0", "rows-1", "rows-2", "rows-3", "rows-4", "rows-5", "rows-6", "rows-7"];

/// So many times the bytes of one part's memory may all parts together have in memory.
const MEMTABLES_MAX: u64 = 4;

/// How much a page reads at most, expired rows included, before it is cut short.
const PAGE_READS_MAX: usize = 4_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

pub(super) struct Fjall {
    path: PathBuf,
    keyspaces: Vec<Keyspace>,
    memtable_bytes: u64,
    database: Database,
    mode: PersistMode,
    free_bytes_min: u64,
    is_full: AtomicBool,
    /// Kept until all else is closed.
    _lock: Lock,
}

impl fmt::Debug for Fjall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fjall").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A record to be removed, if it is still the one that was met.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) key: Slice,
    pub(super) image: Slice,
    pub(super) version: Version,
}

impl Fjall {
    pub(super) fn open(path: &Path, config: &LocalConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let failed = |error: io::Error| of_open(error.into(), path);
        fs::create_dir_all(path).map_err(failed)?;
        refuse_foreign(path)?;
        let lock = Lock::acquire(path).map_err(|error| of_open(error, path))?;
        let reclaim = Reclaim { clock: AssertUnwindSafe(clock), grace_us: micros(config.reclaim_grace) };
        let reclaim = Arc::new(reclaim);
        let tree = path.join(TREE);
        if !tree.try_exists().map_err(failed)? {
            make(path, config, &reclaim)?;
        }
        check_format(path, &tree)?;
        let database = open_database(&tree, config, &reclaim).map_err(|error| of_open(error, path))?;
        let keyspaces = keyspaces(&database).map_err(|error| of_open(error, path))?;
        let mode = match config.sync {
            SyncMode::EachBatch => PersistMode::SyncData,
            SyncMode::Never => PersistMode::Buffer,
        };
        let opened = Self {
            path: path.to_owned(),
            keyspaces,
            memtable_bytes: config.memtable_bytes,
            database,
            mode,
            free_bytes_min: config.free_bytes_min,
            is_full: AtomicBool::new(false),
            _lock: lock,
        };
        opened.look_at_room();
        Ok(opened)
    }

    /// Whether the disk has too little room for a put.
    pub(super) fn is_full(&self) -> bool {
        // Looked at again only where it was full: no batch may land there that would.
        self.is_full.load(Ordering::Relaxed) && self.look_at_room()
    }

    fn look_at_room(&self) -> bool {
        let is_full = rustix::fs::statvfs(&self.path)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < self.free_bytes_min);
        self.is_full.store(is_full, Ordering::Relaxed);
        is_full
    }

    fn keyspace(&self, family: Family, key: &[u8]) -> &Keyspace {
        &self.keyspaces[layout::part_of(family, key)]
    }

    /// What is stored.
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Image> {
        self.keyspace(family, key).get(key).map_err(of_read)
    }

    /// Bytes of the newest records, and about as many as are being written out.
    pub(super) fn memory_bytes(&self) -> u64 {
        let sealed = |part: &Keyspace| u64::try_from(part.tree.sealed_memtable_count()).unwrap_or(u64::MAX);
        let of_part = |part: &Keyspace| {
            sealed(part).saturating_mul(self.memtable_bytes).saturating_add(part.tree.active_memtable().size())
        };
        self.keyspaces.iter().map(of_part).fold(0, u64::saturating_add)
    }

    /// Bytes of the tree's files.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.keyspaces.iter().map(Keyspace::disk_space).sum()
    }

    /// Rows of one partition, whose keys begin with `prefix`.
    fn range(
        &self,
        prefix: &[u8],
        range: (Bound<KeyBytes>, Bound<KeyBytes>),
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice)>> + use<> {
        self.keyspace(Family::Rows, prefix).range(range).map(|entry| entry.into_inner().map_err(of_read))
    }

    /// Reads a page of live rows. The scan's bounds are in order and hold something.
    pub(super) fn page(&self, scan: &Scan<'_>, rows_max: usize, now: Timestamp) -> Result<Page> {
        let prefix = layout::prefix(scan.space, scan.partition);
        let range = self.range(&prefix, layout::range(scan, &prefix));
        match scan.order {
            Order::Ascending => page(range, scan, prefix.len(), rows_max, now),
            Order::Descending => page(range.rev(), scan, prefix.len(), rows_max, now),
        }
    }

    /// The rows that a trim removes, at most `rows_max`, and whether there are more.
    pub(super) fn beyond(&self, trim: &Trim<'_>, rows_max: usize, now: Timestamp) -> Result<(Vec<Victim>, bool)> {
        let prefix = layout::prefix(trim.space, trim.partition);
        let all = Scan::partition(trim.space, trim.partition, 1);
        let range = self.range(&prefix, layout::range(&all, &prefix));
        let row = |key: &Slice| Error::corrupt(Key::row(trim.space, trim.partition, &key[prefix.len()..]), UNREADABLE);
        match trim.keep {
            Keep::First(keep) => beyond(range, keep, rows_max, now, row),
            Keep::Last(keep) => beyond(range.rev(), keep, rows_max, now, row),
        }
    }

    /// What expired before `now` among the next records of a part behind a key, and where to go on.
    pub(super) fn expired(
        &self,
        part: usize,
        after: Option<Slice>,
        now: Timestamp,
    ) -> Result<(Vec<Victim>, Option<Slice>)> {
        let start = after.map_or(Bound::Unbounded, |key| Bound::Excluded(KeyBytes::from_slice(&key)));
        let (mut victims, mut last, mut reads, mut bytes) = (Vec::new(), None, 0, 0);
        for entry in self.keyspaces[part].range((start, Bound::Unbounded)) {
            let (key, image) = entry.into_inner().map_err(of_read)?;
            (reads, bytes) = (reads + 1, bytes + image.len());
            // What can't be read is left for whoever asks for it.
            if let Some((header, _)) = layout::split(&image)
                && header.is_expired(now)
            {
                victims.push(Victim { key: key.clone(), image, version: header.version });
            }
            if reads == PAGE_READS_MAX || bytes >= PAGE_BYTES_MAX {
                last = Some(key);
                break;
            }
        }
        Ok((victims, last))
    }

    /// Has parts that are large in memory written out in order: each that is too large, and the largest if all together are.
    ///
    /// The library (3.1) would do so itself, by a message for each batch until its worker has time for it. While that is busy the queue of
    /// a thousand messages fills, and then the worker, which puts the next message there, waits for itself.
    fn write_out(&self) -> fjall::Result<()> {
        let (mut all, mut largest) = (0_u64, None);
        for part in &self.keyspaces {
            let size = part.tree.active_memtable().size();
            if size > self.memtable_bytes {
                part.rotate_memtable()?;
                continue;
            }
            all = all.saturating_add(size);
            if largest.is_none_or(|(of_largest, _)| size > of_largest) {
                largest = Some((size, part));
            }
        }
        if let Some((_, part)) = largest
            && all > self.memtable_bytes.saturating_mul(MEMTABLES_MAX)
        {
            part.rotate_memtable()?;
        }
        Ok(())
    }
}

impl Tree for Fjall {
    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut write = OwnedWriteBatch::with_capacity(self.database.clone(), batch.len()).durability(Some(self.mode));
        for (family, key, image) in batch.images() {
            let keyspace = self.keyspace(family, key);
            match image {
                Some(image) => write.insert(keyspace, key.clone(), image.clone()),
                None => write.remove(keyspace, key.clone()),
            }
        }
        write.commit().map_err(of_commit)?;
        self.write_out().map_err(of_commit)?;
        self.look_at_room();
        Ok(())
    }
}

const UNREADABLE: &str = "the bytes are no record";

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Refuses a directory that holds somebody else's files.
fn refuse_foreign(path: &Path) -> Result<()> {
    let failed = |error: io::Error| of_open(error.into(), path);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if ![LOCK, TREE, TREE_NEW].iter().any(|ours| name == *ours) {
            let message = format!("{} holds other files, such as {}", path.display(), name.display());
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
    }
    Ok(())
}

/// Makes a tree beside its place and moves it there when it is whole: a crash meanwhile leaves nothing that can't be opened.
fn make(path: &Path, config: &LocalConfig, reclaim: &Arc<Reclaim>) -> Result<()> {
    let failed = |error: io::Error| of_open(error.into(), path);
    let new = path.join(TREE_NEW);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let made = || -> fjall::Result<()> {
        let database = open_database(&new, config, reclaim)?;
        keyspaces(&database)?;
        database.persist(PersistMode::SyncAll)
    };
    made().map_err(|error| of_open(error, path))?;
    let write = || -> io::Result<()> {
        let format = new.join(FORMAT);
        fs::write(&format, format!("{STORE_FORMAT}\n"))?;
        File::open(format)?.sync_all()?;
        // The library does not sync the directory that it makes a keyspace's in: with the power that would be gone, and all in it.
        sync_directories(&new)?;
        fs::rename(&new, path.join(TREE))?;
        File::open(path)?.sync_all()
    };
    write().map_err(failed)
}

fn sync_directories(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    File::open(path)?.sync_all()
}

fn check_format(path: &Path, tree: &Path) -> Result<()> {
    let text = fs::read_to_string(tree.join(FORMAT)).map_err(|error| of_open(error.into(), path))?;
    match text.trim().parse::<u8>() {
        Ok(STORE_FORMAT) => Ok(()),
        Ok(format) => {
            let message =
                format!("{} has format {format}; this version of sysd reads format {STORE_FORMAT}", path.display());
            Err(Error::new(ErrorKind::Config, Effect::None, message))
        }
        Err(_) => {
            let message = format!("the file {TREE}/{FORMAT} in {} is damaged", path.display());
            Err(Error::new(ErrorKind::Corrupt, Effect::None, message))
        }
    }
}

fn open_database(tree: &Path, config: &LocalConfig, reclaim: &Arc<Reclaim>) -> fjall::Result<Database> {
    let reclaim = Arc::clone(reclaim);
    Database::builder(tree)
        .cache_size(config.cache_bytes)
        // Of all parts; what is in memory is in these files, too. Beyond it those that keep the oldest file are written out.
        .max_journaling_size(config.memtable_bytes.saturating_mul(MEMTABLES_MAX).max(64 << 20))
        // With more, one of them turns in a circle as long as another merges files, and takes a whole processor.
        .worker_threads(1)
        .with_compaction_filter_factories(Arc::new(move |_| Some(Arc::clone(&reclaim) as Arc<dyn Factory>)))
        .open()
}

/// Each of a part is merged by itself: what one space adds at its end is not merged with what others have, and need not be written again.
///
/// Large values lie beside the small ones. Apart from them they would be merged less, but the library (3.1) does not sync the directory of
/// their files: `tests/local_power.rs` loses some with the power.
fn keyspaces(database: &Database) -> fjall::Result<Vec<Keyspace>> {
    // See `Fjall::write_out`.
    let options = || KeyspaceCreateOptions::default().max_memtable_size(u64::MAX);
    KEYSPACES.into_iter().map(|name| database.keyspace(name, options)).collect()
}

fn page(
    entries: impl Iterator<Item = Result<(Slice, Slice)>>,
    scan: &Scan<'_>,
    prefix_bytes: usize,
    rows_max: usize,
    now: Timestamp,
) -> Result<Page> {
    let limit = scan.limit.min(rows_max);
    let (mut page, mut last, mut reads, mut bytes) = (Page::default(), None, 0, 0);
    for entry in entries {
        let (key, image) = entry?;
        let sort = Bytes::from(key).slice(prefix_bytes..);
        if page.rows.len() == limit || reads >= PAGE_READS_MAX || bytes >= PAGE_BYTES_MAX {
            page.next = last;
            break;
        }
        (reads, bytes) = (reads + 1, bytes + sort.len() + image.len());
        last = Some(sort.clone());
        let row = Key::row(scan.space, scan.partition, &sort);
        let header = layout::live(row, Some(&image), now)?.map(|(header, _)| header);
        if let Some(header) = header {
            page.rows.push(Row { sort, record: header.with(Bytes::from(image).slice(HEADER_BYTES..)) });
        }
    }
    Ok(page)
}

/// The rows beyond the first `keep` live ones, and expired ones on the way.
fn beyond(
    entries: impl Iterator<Item = Result<(Slice, Slice)>>,
    keep: usize,
    rows_max: usize,
    now: Timestamp,
    unreadable: impl Fn(&Slice) -> Error,
) -> Result<(Vec<Victim>, bool)> {
    let (mut kept, mut victims) = (0, Vec::new());
    for entry in entries {
        let (key, image) = entry?;
        let Some((header, _)) = layout::split(&image) else { return Err(unreadable(&key)) };
        if !header.is_expired(now) && kept < keep {
            kept += 1;
        } else if victims.len() == rows_max {
            return Ok((victims, true));
        } else {
            victims.push(Victim { key, image, version: header.version });
        }
    }
    Ok((victims, false))
}

/// Leaves out expired records where files are merged.
struct Reclaim {
    clock: AssertUnwindSafe<Arc<dyn Clock>>,
    grace_us: u64,
}

impl Factory for Reclaim {
    fn name(&self) -> &'static str {
        "expired"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let now_us = self.clock.now().as_micros().saturating_sub(self.grace_us);
        Box::new(LeaveOut(Timestamp::from_micros_saturating(now_us)))
    }
}

struct LeaveOut(Timestamp);

impl CompactionFilter for LeaveOut {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let value = item.value()?;
        let is_expired = layout::split(&value).is_some_and(|(header, _)| header.is_expired(self.0));
        // A tombstone stays in its place until nothing older can lie below it.
        Ok(if is_expired { Verdict::Remove } else { Verdict::Keep })
    }
}
