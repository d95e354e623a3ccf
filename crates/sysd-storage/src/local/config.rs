//! How a store on a local disk is opened.

use std::time::Duration;

/// When an acknowledged write is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SyncMode {
    /// Before it is acknowledged: it survives a crash of the machine.
    #[default]
    EachBatch,
    /// Some time later: it survives a crash of the process, but a crash of the machine may lose the last moments.
    /// [`Limits::durability`](sysd_core::Limits) is then `BestEffort`.
    Never,
}

/// How a [`LocalStore`](super::LocalStore) is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// When an acknowledged write is on the disk.
    pub sync: SyncMode,
    /// How long a write waits for its batch to be on the disk. Then it is a [`Timeout`](sysd_core::ErrorKind::Timeout) of unknown
    /// effect: the batch may still be written. How long it waits for room in a batch that is full: then nothing was done.
    /// Judged every quarter of it, so a call may take a quarter longer.
    pub write_wait_max: Duration,
    /// How long a read on the threads waits for the disk, and for a thread; also the reads that conditional writes, updates and
    /// trims begin with. Then it is a [`Timeout`](sysd_core::ErrorKind::Timeout) without effect. Judged as
    /// [`write_wait_max`](Self::write_wait_max) is. A read that is done where it is called
    /// ([`reads_on_threads`](Self::reads_on_threads)) can't be given up.
    pub read_wait_max: Duration,
    /// Bytes of memory for blocks read from the disk.
    pub cache_bytes: u64,
    /// Bytes of the newest records of a part (lone records, and eight of rows, each of some of the spaces) that are held in memory
    /// before they are written out in order; of all parts together four times as many. What is being written out comes besides: up to four
    /// times as much of a part, then writes wait.
    pub memtable_bytes: u64,
    /// How many threads read what does not lie in memory, at least 1.
    pub reader_threads: usize,
    /// Whether every read goes to those threads. Otherwise reads are done where they are called while the store finds what
    /// they need in memory, which costs a fraction; one that turned out to wait for the disk sends those after it to the
    /// threads. If the disk hangs, reads in place that meet what is not in memory block the threads that called them for as
    /// long: those that begin before the first has hung for a tenth of a second. Turn this on where that may not be.
    pub reads_on_threads: bool,
    /// The disk's free bytes under which puts are refused as [`Full`](sysd_core::ErrorKind::Full), without effect; deletes go
    /// on. It is the room to merge files in: a disk that is really full stops the store until it is opened again.
    pub free_bytes_min: u64,
    /// How long after its expiry an absent record's bytes may be reclaimed: for clocks that differ, or step back.
    pub reclaim_grace: Duration,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            sync: SyncMode::EachBatch,
            write_wait_max: Duration::from_secs(30),
            read_wait_max: Duration::from_secs(30),
            cache_bytes: 128 << 20,
            memtable_bytes: 64 << 20,
            reader_threads: 2,
            reads_on_threads: false,
            free_bytes_min: 256 << 20,
            reclaim_grace: Duration::from_secs(60),
        }
    }
}
