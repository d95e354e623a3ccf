//! The differences of a run, kept in a temporary file until they are recorded.

use std::fs::File;
use std::path::Path;

use super::error::ReconcileError;
use super::model::{Difference, Finding, Records};
use super::review::{CaseId, FileId, difference_id, put_difference, read_difference};
use super::run::{Reconciliation, Summary};
use super::sort::{Run, RunReader};
use super::source::Row;

/// The most records of one case: a larger difference becomes several.
const CASE_RECORDS_MAX: usize = 100;
/// As much of differences goes into one command, and one more.
const BATCH_BYTES: usize = 16 << 10;

/// What a run came to, and its differences.
#[derive(Debug)]
pub struct Found {
    summary: Summary,
    cases: u64,
    file: RunReader<File>,
    last: Option<(CaseId, u64)>,
}

impl Found {
    /// What the run came to.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// How many cases there are: differences, of which large ones become several.
    pub fn cases_len(&self) -> u64 {
        self.cases
    }

    /// Goes back to the first.
    ///
    /// # Errors
    /// [`ReconcileError::Io`].
    pub fn rewind(&mut self) -> Result<(), ReconcileError> {
        self.last = None;
        self.file.rewind().map_err(ReconcileError::temporary)
    }

    /// Some more of them, each with its id in that file; `None` behind the last.
    ///
    /// # Errors
    /// [`ReconcileError`] if they can't be read back.
    pub fn next(&mut self, file: FileId) -> Result<Option<Vec<(CaseId, Difference)>>, ReconcileError> {
        let (mut batch, mut bytes, mut row) = (Vec::new(), 0, Vec::new());
        while bytes < BATCH_BYTES && self.file.next(&mut row).map_err(ReconcileError::temporary)? {
            bytes += row.len();
            let difference = read_difference(&row).ok_or(ReconcileError::Torn)?;
            // Those that say the same come one behind the other.
            let plain = difference_id(file, &difference, 0);
            let before = self.last.filter(|(last, _)| *last == plain).map_or(0, |(_, before)| before + 1);
            self.last = Some((plain, before));
            batch.push((difference_id(file, &difference, before), difference));
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

/// Writes differences, and counts them.
struct Spool {
    run: Run,
    row: Vec<u8>,
    cases: u64,
    cases_max: u64,
}

impl Spool {
    fn new(dir: &Path, cases_max: u64) -> Result<Self, ReconcileError> {
        let run = Run::new(dir).map_err(ReconcileError::temporary)?;
        Ok(Self { run, row: Vec::new(), cases: 0, cases_max })
    }

    fn push(&mut self, difference: &Difference) -> Result<(), ReconcileError> {
        if self.cases >= self.cases_max {
            return Err(ReconcileError::TooManyDifferences { max: self.cases_max });
        }
        self.cases += 1;
        self.row.clear();
        put_difference(difference, &mut self.row);
        self.run.push(&self.row).map_err(ReconcileError::temporary)
    }

    fn split(&mut self, difference: Difference) -> Result<(), ReconcileError> {
        let Difference { what, ours, theirs, mut candidates } = difference;
        if ours.len() + theirs.len() <= CASE_RECORDS_MAX {
            return self.push(&Difference { what, ours, theirs, candidates });
        }
        let parts = |records: Records| records.chunks(CASE_RECORDS_MAX / 2).map(Records::from).collect::<Vec<_>>();
        let (mut ours, mut theirs) = (parts(ours).into_iter(), parts(theirs).into_iter());
        loop {
            let (ours, theirs) = (ours.next(), theirs.next());
            if ours.is_none() && theirs.is_none() {
                return Ok(());
            }
            let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
            // The ways are with the first.
            self.push(&Difference { what, ours, theirs, candidates: std::mem::take(&mut candidates) })?;
        }
    }
}

impl Reconciliation {
    /// As [`run`](Self::run), with the differences kept for [`Reviews::record`](super::Reviews::record), in a temporary file.
    ///
    /// # Errors
    /// [`ReconcileError`]; also if there are more than [`differences_max`](Self::differences_max).
    pub fn find(
        &self,
        ours: impl IntoIterator<Item = Result<Row, ReconcileError>>,
        theirs: impl IntoIterator<Item = Result<Row, ReconcileError>>,
    ) -> Result<Found, ReconcileError> {
        let mut spool = Spool::new(&self.dir, self.differences_max)?;
        let summary = self.run(ours, theirs, &mut |finding| match finding {
            Finding::Matched(_) => Ok(()),
            Finding::Differs(difference) => spool.split(difference),
        })?;
        let Spool { run, cases, .. } = spool;
        let file = run.finish().and_then(RunReader::new).map_err(ReconcileError::temporary)?;
        Ok(Found { summary, cases, file, last: None })
    }
}
