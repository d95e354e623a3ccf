//! Sorting more than fits in memory: sorted runs in files, then all of them side by side. Where there are too many, some are merged
//! before the others are written, so that few files are open whatever there is to sort.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A reader's or writer's buffer.
const BUFFER: usize = 32 << 10;
/// The most files that are read at once.
const FAN_IN_MAX: usize = 64;
/// The most runs that a sorter keeps; each is an open file, and one more is while some are merged.
const RUNS_MAX: usize = 2 * FAN_IN_MAX;
/// What a row takes in the index.
const INDEX_ENTRY: usize = size_of::<Entry>();

/// A row in the arena, with its first bytes, so that most comparisons need no look there.
#[derive(Clone, Copy)]
struct Entry {
    head: u64,
    start: u32,
    len: u32,
}

/// Rows in memory, and the sorted runs of those before them. Rows are compared as bytes.
pub(super) struct Sorter {
    dir: PathBuf,
    memory_max: usize,
    arena: Vec<u8>,
    index: Vec<Entry>,
    /// The greatest first.
    runs: Vec<Level>,
    fan_in: usize,
    runs_max: usize,
}

/// A sorted run, and how often what is in it was merged: about so many powers of the fan-in are in it.
struct Level {
    merges: u32,
    file: File,
}

impl Sorter {
    /// The least of `memory_max`.
    pub(super) const MEMORY_MIN: usize = 4 * BUFFER;

    /// Files are made in `dir` when `memory_max` bytes are full. They have no name where the system allows it, and go when they are
    /// closed.
    pub(super) fn new(dir: &Path, memory_max: usize) -> Self {
        let memory_max = memory_max.clamp(Self::MEMORY_MIN, u32::MAX as usize);
        // With one to write to.
        let fan_in = (memory_max / BUFFER - 1).clamp(2, FAN_IN_MAX);
        let (arena, index, runs) = (Vec::new(), Vec::new(), Vec::new());
        Self { dir: dir.to_owned(), memory_max, arena, index, runs, fan_in, runs_max: RUNS_MAX }
    }

    pub(super) fn push(&mut self, row: &[u8]) -> io::Result<()> {
        let used = self.arena.len() + self.index.len() * INDEX_ENTRY;
        if used + row.len() + INDEX_ENTRY > self.memory_max && !self.index.is_empty() {
            self.write_run()?;
        }
        self.reserve();
        let is_full = self.arena.len() + row.len() > self.arena.capacity() || self.index.len() == self.index.capacity();
        if is_full && !self.index.is_empty() {
            self.write_run()?;
            self.reserve();
        }
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a row is larger than the memory for sorting");
        let (start, len) = (u32::try_from(self.arena.len()), u32::try_from(row.len()));
        let (start, len) = (start.map_err(|_| too_large())?, len.map_err(|_| too_large())?);
        let mut head = [0; 8];
        let bytes = row.len().min(8);
        head[..bytes].copy_from_slice(&row[..bytes]);
        self.arena.extend_from_slice(row);
        self.index.push(Entry { head: u64::from_be_bytes(head), start, len });
        Ok(())
    }

    /// All at once, so that no growing doubles it: a sixth for the index is enough for rows of eighty bytes.
    fn reserve(&mut self) {
        if self.arena.capacity() == 0 {
            self.index.reserve_exact(self.memory_max / 6 / INDEX_ENTRY);
            self.arena.reserve_exact(self.memory_max / 6 * 5);
        }
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        self.index.sort_unstable_by(|one, other| {
            one.head.cmp(&other.head).then_with(|| row_at(arena, *one).cmp(row_at(arena, *other)))
        });
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.sort();
        let mut out = Run::new(&self.dir)?;
        for entry in &self.index {
            out.push(row_at(&self.arena, *entry))?;
        }
        self.runs.push(Level { merges: 0, file: out.finish()? });
        self.arena.clear();
        self.index.clear();
        while let Some(some) = self.too_many() {
            // Their memory is for the buffers of those that are merged.
            (self.arena, self.index) = (Vec::new(), Vec::new());
            self.merge(some)?;
        }
        Ok(())
    }

    /// Which runs to merge before there is another one. Those of one level, so that each row is written about as often as the levels
    /// are; the greatest, where that many levels are too many files.
    fn too_many(&self) -> Option<Range<usize>> {
        let mut begin = 0;
        for level in self.runs.chunk_by(|one, next| one.merges == next.merges) {
            if level.len() > self.fan_in {
                return Some(begin..begin + self.fan_in);
            }
            begin += level.len();
        }
        (self.runs.len() >= self.runs_max).then_some(0..self.fan_in)
    }

    fn merge(&mut self, some: Range<usize>) -> io::Result<()> {
        let mut runs: Vec<_> = self.runs.drain(some.clone()).collect();
        let merges = match (runs.first(), runs.last()) {
            (Some(first), Some(last)) if first.merges == last.merges => first.merges + 1,
            (first, _) => first.map_or(0, |first| first.merges),
        };
        let mut scan = Scan::of(runs.iter_mut().map(|run| &mut run.file))?;
        let mut out = Run::new(&self.dir)?;
        while let Some(row) = scan.next()? {
            out.push(row)?;
        }
        self.runs.insert(some.start, Level { merges, file: out.finish()? });
        Ok(())
    }

    /// All rows, in order.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        self.sort();
        if self.runs.is_empty() {
            return Ok(Sorted { arena: self.arena, index: self.index, runs: Vec::new() });
        }
        if !self.index.is_empty() {
            self.write_run()?;
        }
        (self.arena, self.index) = (Vec::new(), Vec::new());
        while self.runs.len() > self.fan_in {
            // The last ones are the shortest; no more of them than must be.
            let len = self.runs.len();
            self.merge(len - self.fan_in.min(len - self.fan_in + 1)..len)?;
        }
        let runs = self.runs.into_iter().map(|run| run.file).collect();
        Ok(Sorted { arena: self.arena, index: self.index, runs })
    }
}

fn row_at(arena: &[u8], entry: Entry) -> &[u8] {
    let start = entry.start as usize;
    arena.get(start..start + entry.len as usize).unwrap_or_default()
}

/// Rows in a file, in the order in which they came.
pub(super) struct Run(BufWriter<File>);

impl Run {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self(BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(dir)?)))
    }

    pub(super) fn push(&mut self, row: &[u8]) -> io::Result<()> {
        let len = u32::try_from(row.len()).map_err(|_| io::Error::other("a row is too large"))?;
        self.0.write_all(&len.to_be_bytes())?;
        self.0.write_all(row)
    }

    pub(super) fn finish(self) -> io::Result<File> {
        self.0.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Reads a run from its begin.
#[derive(Debug)]
pub(super) struct RunReader<F> {
    file: BufReader<F>,
}

impl<F: Read + Seek> RunReader<F> {
    pub(super) fn new(mut file: F) -> io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Self { file: BufReader::with_capacity(BUFFER, file) })
    }

    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0)).map(|_| ())
    }

    /// Whether there was one more row, which is in `into` then.
    pub(super) fn next(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut len = [0; 4];
        if self.file.read(&mut len[..1])? == 0 {
            return Ok(false);
        }
        self.file.read_exact(&mut len[1..])?;
        into.resize(u32::from_be_bytes(len) as usize, 0);
        self.file.read_exact(into)?;
        Ok(true)
    }
}

/// Rows in order; may be gone through more than once.
pub(super) struct Sorted {
    arena: Vec<u8>,
    index: Vec<Entry>,
    runs: Vec<File>,
}

impl Sorted {
    pub(super) fn scan(&mut self) -> io::Result<Scan<'_>> {
        let mut scan = Scan::of(self.runs.iter_mut())?;
        (scan.arena, scan.index) = (&self.arena, &self.index);
        Ok(scan)
    }
}

/// Goes through rows in order.
pub(super) struct Scan<'a> {
    arena: &'a [u8],
    index: &'a [Entry],
    readers: Vec<RunReader<&'a mut File>>,
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    current: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn of(files: impl Iterator<Item = &'a mut File>) -> io::Result<Self> {
        let mut readers = files.map(RunReader::new).collect::<io::Result<Vec<_>>>()?;
        let mut heads = BinaryHeap::with_capacity(readers.len());
        for (at, reader) in readers.iter_mut().enumerate() {
            let mut row = Vec::new();
            if reader.next(&mut row)? {
                heads.push(Reverse((row, at)));
            }
        }
        Ok(Self { arena: &[], index: &[], readers, heads, current: Vec::new() })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if let Some((first, rest)) = self.index.split_first() {
            self.index = rest;
            return Ok(Some(row_at(self.arena, *first)));
        }
        let Some(Reverse((mut row, at))) = self.heads.pop() else { return Ok(None) };
        std::mem::swap(&mut self.current, &mut row);
        if let Some(reader) = self.readers.get_mut(at)
            && reader.next(&mut row)?
        {
            self.heads.push(Reverse((row, at)));
        }
        Ok(Some(&self.current))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// In memory, on one level of files, and on several.
        #[test]
        fn rows_come_out_in_order_twice(
            rows in proptest::collection::vec(proptest::collection::vec(0..3_u8, 0..6), 0..200),
            copies in 1..200_usize,
        ) {
            let dir = std::env::temp_dir();
            let mut sorter = Sorter::new(&dir, 0);
            let mut expected = Vec::new();
            for copy in 0..copies {
                for row in &rows {
                    let mut row = row.clone();
                    row.extend_from_slice(&copy.to_be_bytes());
                    row.resize(40, 7);
                    sorter.push(&row).unwrap();
                    expected.push(row);
                }
            }
            expected.sort();
            let mut sorted = sorter.finish().unwrap();
            for _ in 0..2 {
                let mut scan = sorted.scan().unwrap();
                for row in &expected {
                    prop_assert_eq!(scan.next().unwrap(), Some(&row[..]));
                }
                prop_assert_eq!(scan.next().unwrap(), None);
            }
        }
    }

    /// A row of a kilobyte that begins with a number.
    fn long(number: u64) -> Vec<u8> {
        let mut row = number.to_be_bytes().to_vec();
        row.resize(1_000, 7);
        row
    }

    /// A file stayed open for each run, so that the size of what was sorted ended at the limit of open files.
    #[test]
    fn few_files_are_open_whatever_there_is_to_sort() {
        // Many levels; fewer files than two levels want; as it is with enough memory.
        for (fan_in, runs_max, most) in [(3, RUNS_MAX, 16), (8, 10, 10), (FAN_IN_MAX, RUNS_MAX, RUNS_MAX)] {
            let mut sorter = Sorter { fan_in, runs_max, ..Sorter::new(&std::env::temp_dir(), 0) };
            let (rows, mut open, mut written) = (30_000, 0, 0);
            for at in 0..rows {
                let before = sorter.index.len();
                // In no order.
                sorter.push(&long(at * 7_919 % rows)).unwrap();
                written += usize::from(sorter.index.len() <= before);
                open = open.max(sorter.runs.len());
                assert!(sorter.runs.is_sorted_by(|one, next| one.merges >= next.merges));
            }
            // Each as full as the memory allows.
            assert!((200..400).contains(&written), "{written} runs");
            assert!(open < most, "{open} files of {written} runs by {fan_in}");
            let mut all = sorter.finish().unwrap();
            assert!(all.runs.len() <= fan_in, "{}", all.runs.len());
            let mut scan = all.scan().unwrap();
            for at in 0..rows {
                assert_eq!(scan.next().unwrap(), Some(&long(at)[..]));
            }
            assert_eq!(scan.next().unwrap(), None);
        }
    }
}
