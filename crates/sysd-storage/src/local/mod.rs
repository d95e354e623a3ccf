//! The embedded store on a local disk: durable, no server.
//!
//! # Durability
//! A write is acknowledged once it is on the disk ([`SyncMode::EachBatch`]), together with all that were decided while the batch
//! before was on its way there: one sync for all of them. Readers are shown what is on the disk only: what somebody has read,
//! no crash takes back. After an error that leaves open what is on the disk, no more writes are taken until the store is
//! opened again.
//!
//! # Threads
//! Disks block, so this store has threads of its own: the committer, which writes batches, and a few that read. They work
//! under any executor, or none, and are joined when the last clone of the store is dropped, which waits for what is under way.
//! Reads that lie in memory are done where they are called ([`LocalConfig::reads_on_threads`]).
//!
//! # Deadlines
//! A disk that hangs is a [`Timeout`](ErrorKind::Timeout): of a read without effect ([`LocalConfig::read_wait_max`]); of a write
//! of unknown effect once it is in a batch ([`LocalConfig::write_wait_max`]), which may still be written. From then on, until the
//! disk goes on, writes are refused at once: [`Unavailable`](ErrorKind::Unavailable), without effect. A conditional write, an
//! update or a trim reads first, so it may take as long as both. What has no deadline: a read that is done where it is called
//! (within a tenth of a second those that come after go to the threads, as long as it hangs); opening, which replays the journal (drop it, and the store closes again); dropping the last clone.
//!
//! # Expiry
//! Exact, by the store's clock: what is expired is filtered on every read and condition. Its bytes go when files are merged,
//! and by [`LocalStore::reclaim`] or [`LocalStore::reclaimer`], which find what no merge meets.
//!
//! # Files
//! A directory of its own, opened by one process at a time: a lock file, and a tree of the library `fjall`. A tree is made
//! beside its place and moved there when it is whole. A journal that ends in a torn batch is cut there: that batch was
//! never acknowledged. Damage within a file is [`Corrupt`](ErrorKind::Corrupt); but the journal carries no mark of where it
//! should end, so damage to the frame of a batch in it can look like a torn end, and what follows it is cut too.
//!
//! # Why this library
//! Our writes are small, durable and in no order; a batch is what many callers ask for at once. `fjall` 3 is a log-structured
//! tree: a batch is one append and one sync, and merges leave out what has expired. `redb` 4 is a copy-on-write tree: a
//! batch rewrites a path to each of its keys. Median time a record of 100 bytes (`cargo bench --bench local`, two cores, a
//! virtual disk whose sync is cheap):
//!
//! | records in a sync | bare append | fjall | redb |
//! |---|---|---|---|
//! | 1 | 238 us | 157 us | 293 us |
//! | 64 | 4.5 us | 12.3 us | 48 us |
//! | 1,024 | 0.6 us | 4.7 us | 18 us |

mod completion;
mod config;
mod error;
mod group;
mod layout;
mod lock;
mod readers;
mod removal;
mod tree;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::Slice;
use futures::channel::oneshot;
use parking_lot::Mutex;
use sysd_core::procedure::expiry;
use sysd_core::{
    Change, Clock, Durability, Effect, ErasedProcedure, Error, ErrorKind, Expect, Key, KeyBytes, Limits, Outcome,
    OutputBytes, Page, Record, Result, Scan, StateChange, Store, SystemClock, Timestamp, Trim, Trimmed, Version, Write,
};

pub use config::{LocalConfig, SyncMode};

use completion::Ticket;
use group::{Basis, Decision, Group, Seen, Staged};
use layout::{Family, HEADER_BYTES, Image};
use readers::{Readers, Watch};
use removal::remove;
use tree::Fjall;

/// Scans of more rows go to a thread: they take long even where all lies in memory.
const ROWS_IN_PLACE_MAX: usize = 64;

/// How often a caller reads a record before it has what lands meanwhile kept for it.
const LOOKS_MAX: usize = 2;

/// Records on a local disk. Clones share them.
///
/// # Cancel safety
/// A write whose future is dropped may happen, as if its reply was lost. Dropping the last clone waits for the disk.
pub struct LocalStore<C = SystemClock> {
    shared: Arc<Shared>,
    clock: Arc<C>,
}

impl<C> Clone for LocalStore<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), clock: Arc::clone(&self.clock) }
    }
}

impl<C> fmt::Debug for LocalStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("tree", &self.shared.group.tree).finish_non_exhaustive()
    }
}

struct Shared {
    /// Joined before the tree is let go.
    readers: Readers,
    group: Arc<Group<Fjall>>,
    handle: Handle,
    committer: Mutex<Option<JoinHandle<()>>>,
    limits: Limits,
    write_wait_max: Duration,
    grace: Duration,
    /// The upper half of the versions that updates mint.
    nonce: u64,
    minted: AtomicU64,
}

/// Lets the committer end when it is dropped, also where nobody waited for the store to open.
struct Handle(Arc<Group<Fjall>>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.handle.0.close();
        if let Some(committer) = self.committer.lock().take() {
            // One that panicked has told its callers.
            drop(committer.join());
        }
    }
}

impl LocalStore {
    /// Opens the store in a directory by the system's clock, and makes it if there is none.
    ///
    /// # Errors
    /// As [`LocalStore::open_with`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, LocalConfig::default(), SystemClock).await
    }
}

impl<C: Clock> LocalStore<C> {
    /// Opens the store in a directory as `config` says, by `clock`, and makes it if there is none.
    ///
    /// # Errors
    /// All without effect. [`Unavailable`](ErrorKind::Unavailable) if the store is open already, here or in another process;
    /// [`Config`](ErrorKind::Config) if the directory holds other files, or a format that this version can't read;
    /// [`Corrupt`](ErrorKind::Corrupt) if its files are damaged; [`Denied`](ErrorKind::Denied), [`Full`](ErrorKind::Full).
    /// Each names the directory.
    pub async fn open_with(path: impl AsRef<Path>, config: LocalConfig, clock: C) -> Result<Self> {
        let clock = Arc::new(clock);
        let (path, filter_clock) = (path.as_ref().to_owned(), Arc::clone(&clock) as Arc<dyn Clock>);
        let (opened, is_open) = oneshot::channel();
        let committer = move || match Fjall::open(&path, &config, filter_clock) {
            Err(error) => drop(opened.send(Err(error))),
            Ok(tree) => {
                let group = Arc::new(Group::new(tree));
                // Where nobody waits any more, the store closes again.
                let handle = Handle(Arc::clone(&group));
                if opened.send(Ok(handle)).is_ok() {
                    group.run();
                }
            }
        };
        let thread = std::thread::Builder::new().name("sysd-local-write".to_owned()).spawn(committer);
        let thread = thread.map_err(readers::no_thread)?;
        let died = |_| Error::new(ErrorKind::Internal, Effect::None, "opening the store panicked");
        let handle: Handle = is_open.await.map_err(died)??;
        let mut limits = Limits::PROCESS;
        limits.value_bytes_max = (64 << 20) - HEADER_BYTES;
        limits.durability = match config.sync {
            SyncMode::EachBatch => Durability::Durable,
            SyncMode::Never => Durability::BestEffort,
        };
        let (watched, wait_max) = (Arc::downgrade(&handle.0), config.write_wait_max);
        let every = (wait_max.min(config.read_wait_max) / 4).max(Duration::from_millis(1));
        let look = move || {
            if let Some(group) = watched.upgrade() {
                group.give_up_after(wait_max);
            }
        };
        let watch = Watch { every, wait_max: config.read_wait_max, look: Box::new(look) };
        let shared = Shared {
            readers: Readers::start(config.reader_threads, config.reads_on_threads, watch)?,
            group: Arc::clone(&handle.0),
            handle,
            committer: Mutex::new(Some(thread)),
            limits,
            write_wait_max: config.write_wait_max,
            grace: config.reclaim_grace,
            nonce: (Version::random().as_u128() >> 64) as u64,
            minted: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared), clock })
    }

    /// The same records by another clock: for replays, in which each caller has its own time. Merges go on by the clock that the
    /// store was opened with.
    pub fn with_clock<D: Clock>(&self, clock: D) -> LocalStore<D> {
        LocalStore { shared: Arc::clone(&self.shared), clock: Arc::new(clock) }
    }

    /// Bytes that the tree takes on the disk, without its journal.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.group.tree.disk_bytes()
    }

    /// Bytes of the newest records, which lie in memory until they are written out in order, and about as many as are being written
    /// out: see [`LocalConfig::memtable_bytes`].
    pub fn memory_bytes(&self) -> u64 {
        self.shared.group.tree.memory_bytes()
    }

    /// Puts bytes where a record lies, whatever they are: for tests of what the store does about damage.
    ///
    /// # Errors
    /// As [`Store::write`].
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub async fn plant(&self, key: Key<'_>, bytes: &[u8]) -> Result<()> {
        let image = Some(Slice::new(bytes));
        let decide = |_: Option<&Slice>| Ok(Decision { change: Some(image.clone()), output: () });
        self.stage(key, true, decide).await?.answer().await
    }
}

/// What a caller knows of a record before it decides.
enum Known {
    /// What it decides does not depend on it.
    Whatever,
    Nothing,
}

/// Why nothing was staged.
enum NotStaged {
    Read(Error),
    Other(Error),
}

/// A decision and what it waits for.
struct Decided<T> {
    output: T,
    ticket: Option<Ticket>,
}

impl<T> Decided<T> {
    async fn answer(self) -> Result<T> {
        if let Some(ticket) = self.ticket {
            ticket.await.map_err(|error| error.share())?;
        }
        Ok(self.output)
    }
}

impl<C: Clock> LocalStore<C> {
    fn group(&self) -> &Group<Fjall> {
        &self.shared.group
    }

    async fn read<K>(&self, family: Family, key: &K) -> Result<Image>
    where
        K: AsRef<[u8]> + Clone + Send + Sync + 'static,
    {
        let in_place = || self.group().tree.get(family, key.as_ref());
        let on_thread = || -> Box<dyn FnOnce() -> Result<Image> + Send> {
            let (group, key) = (Arc::clone(&self.shared.group), key.clone());
            Box::new(move || group.tree.get(family, key.as_ref()))
        };
        self.shared.readers.read(in_place, on_thread).await
    }

    /// Decides on what is there, or blindly, and stages what is to be written.
    async fn stage<T>(
        &self,
        key: Key<'_>,
        is_blind: bool,
        decide: impl FnMut(Option<&Slice>) -> Result<Decision<T>> + Send,
    ) -> Result<Decided<T>> {
        let place = (Family::of(key), Slice::new(&layout::encode_key(key)));
        let known = if is_blind { Known::Whatever } else { Known::Nothing };
        self.stage_at(&place, known, decide).await.map_err(|error| match error {
            NotStaged::Read(error) => error.with_key(key),
            NotStaged::Other(error) => error,
        })
    }

    /// # Errors
    /// Nothing was staged.
    async fn stage_at<T>(
        &self,
        (family, key): &(Family, Slice),
        known: Known,
        mut decide: impl FnMut(Option<&Slice>) -> Result<Decision<T>> + Send,
    ) -> std::result::Result<Decided<T>, NotStaged> {
        let (group, start, mut looks) = (self.group(), Instant::now(), 0);
        loop {
            let staged = match &known {
                Known::Whatever => group.stage(*family, key, Basis::Blind, &mut decide),
                Known::Nothing if looks < LOOKS_MAX => {
                    let epoch = group.epoch();
                    let image = self.read(*family, key).await.map_err(NotStaged::Read)?;
                    group.stage(*family, key, Basis::Seen(&Seen { image, epoch }), &mut decide)
                }
                Known::Nothing => {
                    let look = group.look(*family, key);
                    let image = self.read(*family, key).await.map_err(NotStaged::Read)?;
                    group.stage(*family, key, look.basis(image.as_ref()), &mut decide)
                }
            };
            looks += 1;
            let ticket = match staged.map_err(NotStaged::Other)? {
                Staged::Decided(output, ticket) => return Ok(Decided { output, ticket }),
                Staged::Stale => continue,
                Staged::NoRoom(ticket) => ticket,
            };
            ticket.await.map_err(|error| NotStaged::Other(error.share().with_effect(Effect::None)))?;
            if start.elapsed() >= self.shared.write_wait_max {
                let message = "there was no room in a batch for too long";
                return Err(NotStaged::Other(Error::new(ErrorKind::Timeout, Effect::None, message)));
            }
        }
    }

    async fn stage_write(&self, write: &Write<'_>) -> Result<Decided<Outcome>> {
        let now = self.clock.now();
        self.shared.limits.check_write(write, now)?;
        let change = match &write.change {
            Change::Put { value, version, expires_at } => {
                self.refuse_full()?;
                Some(layout::encode(value, *version, *expires_at))
            }
            Change::Delete => None,
        };
        let decide = |found: Option<&Slice>| {
            if write.expect != Expect::Any {
                let live = layout::live(write.key, found, now)?;
                let holds = match (write.expect, live) {
                    (Expect::Absent, None) => true,
                    (Expect::Is(version), Some((header, _))) => header.version == version,
                    _ => false,
                };
                if !holds {
                    let record = layout::record(write.key, found.cloned(), now)?;
                    return Ok(Decision { change: None, output: write.lost_to(record) });
                }
            }
            Ok(Decision { change: Some(change.clone()), output: Outcome::Applied })
        };
        self.stage(write.key, write.expect == Expect::Any, decide).await
    }

    fn refuse_full(&self) -> Result<()> {
        if self.group().tree.is_full() {
            let message = "the disk has less than free_bytes_min left; make room or lower it";
            return Err(Error::new(ErrorKind::Full, Effect::None, message));
        }
        Ok(())
    }

    fn mint(&self) -> Version {
        let minted = self.shared.minted.fetch_add(1, Ordering::Relaxed);
        Version::from_u128(u128::from(self.shared.nonce) << 64 | u128::from(minted))
    }

    /// What a procedure makes of a record.
    fn decide_update(
        &self,
        key: Key<'_>,
        procedure: &dyn ErasedProcedure,
        found: Option<&Slice>,
        now: Timestamp,
        room: &Result<()>,
    ) -> Result<Decision<OutputBytes>> {
        let state = layout::live(key, found, now)?.map(|(_, value)| value);
        let mut output = OutputBytes::new();
        let change = match procedure.apply(state, now, &mut output).map_err(|error| error.at(key))? {
            StateChange::Keep => None,
            StateChange::Delete => Some(None),
            StateChange::Put { state, ttl } => {
                self.shared.limits.check_value(&state)?;
                let expires_at = ttl.map(|ttl| expiry(now, ttl)).transpose()?;
                room.as_ref().map_err(Error::share)?;
                Some(Some(layout::encode(&state, self.mint(), expires_at)))
            }
        };
        Ok(Decision { change, output })
    }

    /// Removes what has expired, now: one pass over all records, a page at a time; answers how many went.
    ///
    /// Merges reclaim most of it by themselves. This finds what lies where nothing is merged any more.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Corrupt`](ErrorKind::Corrupt) if the disk can't be read; what went stays gone.
    ///
    /// # Cost
    /// Reads every record, on the store's threads.
    pub async fn reclaim(&self) -> Result<usize> {
        let grace_us = u64::try_from(self.shared.grace.as_micros()).unwrap_or(u64::MAX);
        let mut removed = 0;
        for part in 0..layout::PARTS {
            let family = if part == 0 { Family::Lone } else { Family::Rows };
            let mut after = None;
            loop {
                let now_us = self.clock.now().as_micros().saturating_sub(grace_us);
                let now = Timestamp::from_micros_saturating(now_us);
                let (group, epoch) = (Arc::clone(&self.shared.group), self.group().epoch());
                let read = move || group.tree.expired(part, after, now);
                let (_, found) = self.shared.readers.on_thread(read).await?;
                let (victims, next) = found?;
                let read = |family, key: Slice| async move { self.read(family, &key).await };
                let went = remove(self.group(), family, victims, epoch, read).await;
                removed += went.map_err(|error| error.after_part(removed > 0))?;
                match next {
                    Some(key) => after = Some(key),
                    None => break,
                }
            }
        }
        Ok(removed)
    }

    /// Runs [`LocalStore::reclaim`] again and again, with a pause of `every` between passes: spawn it where records expire
    /// that are rarely written over. Ends only with an error.
    ///
    /// # Errors
    /// As [`LocalStore::reclaim`].
    ///
    /// # Cancel safety
    /// Drop it at any time.
    pub async fn reclaimer(&self, every: Duration) -> Result<()> {
        loop {
            self.reclaim().await?;
            self.clock.sleep_until(self.clock.now().saturating_add(every)).await;
        }
    }
}

impl<C: Clock> Store for LocalStore<C> {
    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.shared.limits.check_key(key)?;
        let image = self.read(Family::of(key), &layout::encode_key(key)).await.map_err(|error| error.with_key(key))?;
        let now = if image.is_some() { self.clock.now() } else { Timestamp::UNIX_EPOCH };
        layout::record(key, image, now)
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let mut places = Vec::with_capacity(keys.len());
        for &key in keys {
            places.push(self.shared.limits.check_key(key).map(|()| (Family::of(key), layout::encode_key(key))));
        }
        let group = Arc::clone(&self.shared.group);
        let read = move || -> Vec<Result<Image>> {
            let one = |place: Result<(Family, KeyBytes)>| place.and_then(|(family, key)| group.tree.get(family, &key));
            places.into_iter().map(one).collect()
        };
        let images = match self.shared.readers.on_thread(read).await {
            Ok((_, images)) => images,
            Err(error) => keys.iter().map(|_| Err(error.share())).collect(),
        };
        let now = self.clock.now();
        let record = |(&key, image): (&Key<'_>, Result<Image>)| {
            layout::record(key, image.map_err(|error| error.with_key(key))?, now)
        };
        keys.iter().zip(images).map(record).collect()
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.stage_write(&write).await?.answer().await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let mut staged = Vec::with_capacity(writes.len());
        for write in writes {
            staged.push(self.stage_write(write).await);
        }
        let mut outcomes = Vec::with_capacity(writes.len());
        for decided in staged {
            outcomes.push(match decided {
                Ok(decided) => decided.answer().await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.shared.limits.check_scan(&scan)?;
        if scan.is_empty_range() {
            return Ok(Page::default());
        }
        let (now, rows_max) = (self.clock.now(), self.shared.limits.page_rows_max);
        let on_thread = || -> Box<dyn FnOnce() -> Result<Page> + Send> {
            let (group, partition) = (Arc::clone(&self.shared.group), scan.partition.to_vec());
            let (start, end) = (scan.start.map(<[u8]>::to_vec), scan.end.map(<[u8]>::to_vec));
            let (space, order, limit) = (scan.space, scan.order, scan.limit);
            Box::new(move || {
                let start = start.as_ref().map(Vec::as_slice);
                let scan = Scan::partition(space, &partition, limit).range(start, end.as_ref().map(Vec::as_slice));
                group.tree.page(&scan.order(order), rows_max, now)
            })
        };
        if scan.limit > ROWS_IN_PLACE_MAX {
            return self.shared.readers.on_thread(on_thread()).await?.1;
        }
        self.shared.readers.read(|| self.group().tree.page(&scan, rows_max, now), on_thread).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.shared.limits.check_trim(&trim)?;
        let (now, rows_max) = (self.clock.now(), self.shared.limits.page_rows_max);
        let (group, epoch, partition) = (Arc::clone(&self.shared.group), self.group().epoch(), trim.partition.to_vec());
        let (space, keep) = (trim.space, trim.keep);
        let read = move || group.tree.beyond(&Trim { space, partition: &partition, keep }, rows_max, now);
        let (victims, more) = self.shared.readers.on_thread(read).await?.1?;
        let read = |family, key: Slice| async move { self.read(family, &key).await };
        let removed = remove(self.group(), Family::Rows, victims, epoch, read).await?;
        Ok(Trimmed { removed, more })
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.shared.limits.check_update(key)?;
        let now = self.clock.now();
        // Asked before: a decision is made under the lock, where nobody may wait for the disk.
        let room = self.refuse_full();
        let decide = |found: Option<&Slice>| self.decide_update(key, procedure, found, now, &room);
        self.stage(key, false, decide).await?.answer().await
    }
}
