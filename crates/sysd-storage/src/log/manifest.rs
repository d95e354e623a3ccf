//! The record that names a log's newest snapshot, and those that are half written or to be removed. Pure.
//!
//! Life of a snapshot: *pending* (its chunks may be there in part), *current*, *garbage* (being removed), forgotten. Each
//! step is one conditional write of the manifest, so a crash after any of them leaves a snapshot in exactly one of these:
//! - after it became pending: whoever snapshots next, an hour later or more, makes it garbage;
//! - after its chunks were written: the same;
//! - after it became current, and the one before it garbage: whoever snapshots next removes the garbage's chunks;
//! - after those were removed: removing them again does nothing.
//!
//! Chunks are only removed once their snapshot is garbage, and a pending one that became garbage can't become current.

use std::time::Duration;

use bytes::Bytes;
use sysd_core::{Error, Key, Result, Timestamp};

/// A pending snapshot as old as this was left behind by a crash.
const PENDING_MAX: Duration = Duration::from_secs(3_600);
const FORMAT: u8 = 1;

/// A snapshot's place and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Names its partition; fresh for each.
    pub(super) id: u128,
    /// The number of the first entry that is not in it.
    pub(super) next: u64,
    pub(super) chunks: u32,
    pub(super) bytes: u64,
    pub(super) checksum: u32,
    /// When it was begun.
    pub(super) at: Timestamp,
}

/// The manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) current: Option<Snapshot>,
    pub(super) pending: Vec<Snapshot>,
    pub(super) garbage: Vec<Snapshot>,
}

impl Manifest {
    /// Announces a snapshot before its first chunk is written; `false` if there is one as new already.
    pub(super) fn begin(&mut self, snapshot: Snapshot) -> bool {
        let left_behind = |pending: &Snapshot| snapshot.at.saturating_since(pending.at) >= PENDING_MAX;
        self.garbage.extend(self.pending.extract_if(.., |pending| left_behind(pending)));
        if self.current.is_some_and(|current| current.next >= snapshot.next) {
            return false;
        }
        self.pending.push(snapshot);
        true
    }

    /// Makes a snapshot whose chunks are all written the current one; `false`, and it is garbage, if that is too late.
    pub(super) fn complete(&mut self, snapshot: Snapshot) -> bool {
        let was_pending = self.pending.extract_if(.., |pending| pending.id == snapshot.id).count() > 0;
        if !was_pending {
            return false;
        }
        if self.current.is_some_and(|current| current.next >= snapshot.next) {
            self.garbage.push(snapshot);
            return false;
        }
        self.garbage.extend(self.current.replace(snapshot));
        true
    }

    /// Forgets garbage whose chunks were removed.
    pub(super) fn forget(&mut self, removed: &[Snapshot]) {
        self.garbage.retain(|garbage| !removed.contains(garbage));
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT, u8::from(self.current.is_some())];
        let mut push = |snapshot: &Snapshot| {
            out.extend_from_slice(&snapshot.id.to_be_bytes());
            out.extend_from_slice(&snapshot.next.to_be_bytes());
            out.extend_from_slice(&snapshot.chunks.to_be_bytes());
            out.extend_from_slice(&snapshot.bytes.to_be_bytes());
            out.extend_from_slice(&snapshot.checksum.to_be_bytes());
            out.extend_from_slice(&snapshot.at.as_micros().to_be_bytes());
        };
        self.current.iter().for_each(&mut push);
        self.pending.iter().for_each(&mut push);
        self.garbage.iter().for_each(&mut push);
        let pending = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&pending.to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out.into()
    }

    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
    pub(super) fn decode(key: Key<'_>, bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::corrupt(key, "the list of snapshots can't be read"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (rest, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (rest, pending) = rest.split_last_chunk::<4>()?;
        let (&[format, has_current], rest) = rest.split_first_chunk::<2>()?;
        if format != FORMAT || has_current > 1 || rest.len() % SNAPSHOT_BYTES != 0 {
            return None;
        }
        let mut snapshots: Vec<Snapshot> = rest.chunks(SNAPSHOT_BYTES).map(read_snapshot).collect::<Option<_>>()?;
        let current = if has_current == 1 && !snapshots.is_empty() { Some(snapshots.remove(0)) } else { None };
        let garbage = snapshots.split_off_checked(u32::from_be_bytes(*pending) as usize)?;
        (current.is_some() == (has_current == 1)).then_some(Self { current, pending: snapshots, garbage })
    }
}

const SNAPSHOT_BYTES: usize = 16 + 8 + 4 + 8 + 4 + 8;

fn read_snapshot(bytes: &[u8]) -> Option<Snapshot> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (next, rest) = rest.split_first_chunk::<8>()?;
    let (chunks, rest) = rest.split_first_chunk::<4>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let at = rest.first_chunk::<8>()?;
    Some(Snapshot {
        id: u128::from_be_bytes(*id),
        next: u64::from_be_bytes(*next),
        chunks: u32::from_be_bytes(*chunks),
        bytes: u64::from_be_bytes(*size),
        checksum: u32::from_be_bytes(*checksum),
        at: Timestamp::from_micros(u64::from_be_bytes(*at)).ok()?,
    })
}

/// `Vec::split_off` that does not panic.
trait SplitOffChecked: Sized {
    fn split_off_checked(&mut self, at: usize) -> Option<Self>;
}

impl<T> SplitOffChecked for Vec<T> {
    fn split_off_checked(&mut self, at: usize) -> Option<Self> {
        (at <= self.len()).then(|| self.split_off(at))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use sysd_core::Space;

    const KEY: Key<'_> = Key::lone(Space::conditional("log"), b"k");

    fn snapshot(id: u128, next: u64, at_s: u64) -> Snapshot {
        let at = Timestamp::from_micros(at_s * 1_000_000).unwrap();
        Snapshot { id, next, chunks: 2, bytes: 9, checksum: 7, at }
    }

    #[test]
    fn a_snapshot_lives_and_goes() {
        let mut manifest = Manifest::default();
        let (old, new) = (snapshot(1, 10, 0), snapshot(2, 20, 5));
        assert!(manifest.begin(old) && manifest.complete(old) && manifest.begin(new));
        assert_eq!(manifest.current, Some(old));
        assert!(manifest.complete(new));
        assert_eq!((manifest.current, manifest.garbage.as_slice()), (Some(new), [old].as_slice()));
        manifest.forget(&[old]);
        assert_eq!(manifest, Manifest { current: Some(new), ..Manifest::default() });
        assert!(!manifest.begin(snapshot(3, 20, 6)), "one as new is there");
    }

    #[test]
    fn the_newer_of_two_at_once_wins() {
        let mut manifest = Manifest::default();
        let (old, new) = (snapshot(1, 10, 0), snapshot(2, 20, 0));
        assert!(manifest.begin(old) && manifest.begin(new) && manifest.complete(new));
        assert!(!manifest.complete(old));
        assert_eq!((manifest.current, manifest.garbage.as_slice()), (Some(new), [old].as_slice()));
    }

    #[test]
    fn what_a_crash_left_behind_is_garbage_and_stays_so() {
        let mut manifest = Manifest::default();
        let (slow, next) = (snapshot(1, 10, 0), snapshot(2, 20, 3_600));
        assert!(manifest.begin(slow) && manifest.begin(next));
        assert_eq!(manifest.garbage, [slow]);
        assert!(!manifest.complete(slow), "its chunks may be gone");
        assert!(manifest.complete(next));
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(current in any::<bool>(), pending in 0..4_u64, garbage in 0..4_u64) {
            let list = |count: u64| (0..count).map(|at| snapshot(at.into(), at, at)).collect();
            let current = current.then(|| snapshot(9, 9, 9));
            let manifest = Manifest { current, pending: list(pending), garbage: list(garbage) };
            prop_assert_eq!(Manifest::decode(KEY, &manifest.encode()).unwrap(), manifest);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), sealed in any::<bool>()) {
            if sealed {
                bytes.extend_from_slice(&crc32fast::hash(&bytes.clone()).to_be_bytes());
            }
            let _ = Manifest::decode(KEY, &bytes);
        }
    }
}
