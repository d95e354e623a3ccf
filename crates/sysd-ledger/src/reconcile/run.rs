//! A run: both sides are sorted, on a disk if they are large, and gone through side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::ReconcileError;
use super::logic::{Counts, Placed, Step, apply, decide, merge};
use super::model::{Difference, Finding, Party, Record, Rules, What};
use super::ordered::{self, Torn};
use super::sort::{Run, RunReader, Scan, Sorted, Sorter};
use super::source::{BadRow, Row};
use super::totals::Totals;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// All sums, which are even.
    pub totals: Totals,
    /// How many matches, by the name of their pass.
    pub matches: BTreeMap<&'static str, u64>,
    /// How many differences, by the name of what differs.
    pub differences: BTreeMap<&'static str, u64>,
    /// The first bad rows of each side; [`Totals::bad_rows`] says how many there were.
    pub bad_rows: Vec<(Party, BadRow)>,
    /// References, or batches, with more records than are looked at at once: there only what is exactly the same was matched.
    pub references_too_long: u64,
    /// References with more lines than parts that add up are looked for among.
    pub splits_not_tried: u64,
}

impl Summary {
    /// How many differences there are.
    pub fn differences_len(&self) -> u64 {
        self.differences.values().sum()
    }
}

/// Compares our records with a settlement file's.
///
/// ```
/// use sysd_ledger::reconcile::{CsvFormat, CsvRows, Finding, Reconciliation, Record, What, records};
/// use sysd_ledger::{Currency, Date};
///
/// let euro = Currency::iso("EUR")?;
/// // 2026-01-31, and two payments of ours.
/// let day = Date(20_484);
/// let ours = records([Record::new("order-1", euro, 10_00, day, 1), Record::new("order-2", euro, 25_00, day, 2)]);
/// let file = "reference,amount,currency,date\norder-1,10.00,EUR,2026-02-01\norder-2,24.00,EUR,2026-02-01\nx,1.2,EUR,2026-02-01\n";
/// let theirs = CsvRows::new(file.as_bytes(), CsvFormat::generic());
///
/// let mut found = Vec::new();
/// let run = Reconciliation::new(std::env::temp_dir());
/// let summary = run.run(ours, theirs, &mut |finding| {
///     found.push(finding);
///     Ok(())
/// })?;
/// assert!(matches!(&found[0], Finding::Matched(found) if &*found.ours[0].reference == "order-1"));
/// assert!(matches!(&found[1], Finding::Differs(found) if found.what == What::AmountDiffers { by: -1_00 }));
/// // 1.2 is no amount in euros. The run went on, and says so.
/// let (_, bad) = &summary.bad_rows[0];
/// assert_eq!((bad.row, bad.column.as_str()), (4, "amount"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Guarantees
/// - Every row is in one finding, or is a bad row, once; per currency and side what was read is what was matched, what differs and
///   what was bad, in rows and in money. It is checked at the end of every run; a run of which it is not true is an error.
/// - The order of the rows makes no difference.
/// - Nothing is matched by a guess: where there is more than one way, the records come out as ambiguous, with the ways.
///
/// # Cost
/// Memory stays below [`memory_max`](Self::memory_max) whatever the files, but for the summary, which grows with the number of
/// currencies, and what is set aside for [`Rules::group_max`] records. The disk takes about as much as both files, once.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    /// How records are matched.
    pub rules: Rules,
    /// Where temporary files are made. They go when the run ends, also by an error, and, where the system can make files without a
    /// name, by a crash.
    pub dir: PathBuf,
    /// For sorting, in bytes: at least 1 MiB. As much as both files, half again, and nothing is written to the disk.
    pub memory_max: usize,
    /// How many bad rows of each side are listed.
    pub bad_rows_max: usize,
    /// How many differences [`find`](Self::find) keeps for people to review; more are an error, and most likely wrong columns.
    pub differences_max: u64,
}

impl Reconciliation {
    /// The least of [`memory_max`](Self::memory_max).
    pub const MEMORY_MIN: usize = 1 << 20;

    /// With the default rules, 64 MiB, 1,000 bad rows of each side, and 100,000 differences.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let (memory_max, bad_rows_max, differences_max) = (64 << 20, 1_000, 100_000);
        Self { rules: Rules::default(), dir: dir.into(), memory_max, bad_rows_max, differences_max }
    }

    /// Compares all of both sides. What comes of it goes to `found`, in no order that means anything, but the same for the same records.
    ///
    /// It blocks while it reads and writes: in an async program it belongs on a thread for that.
    ///
    /// # Errors
    /// [`ReconcileError`]; what was found until then is not all.
    pub fn run(
        &self,
        ours: impl IntoIterator<Item = Result<Row, ReconcileError>>,
        theirs: impl IntoIterator<Item = Result<Row, ReconcileError>>,
        found: &mut dyn FnMut(Finding) -> Result<(), ReconcileError>,
    ) -> Result<Summary, ReconcileError> {
        self.check()?;
        let (mut summary, mut counts) = (Summary::default(), Counts::default());
        let mut ours = self.sort(Party::Ours, ours, &mut summary)?;
        let mut theirs = self.sort(Party::Theirs, theirs, &mut summary)?;
        let mut rest = [self.sorter(), self.sorter()];
        let (mut last, mut row) = (0, Vec::new());
        let rules = &self.rules;
        let mut tell = |finding: Finding, summary: &mut Summary| {
            summary.totals.found(&finding)?;
            match &finding {
                Finding::Matched(one) if one.number == last => {}
                Finding::Matched(one) => {
                    last = one.number;
                    *summary.matches.entry(one.pass.name()).or_default() += 1;
                }
                Finding::Differs(one) => *summary.differences.entry(one.what.name()).or_default() += 1,
            }
            found(finding)
        };
        merge(
            Rows::new(ours.scan().map_err(ReconcileError::temporary)?, ordered::record),
            Rows::new(theirs.scan().map_err(ReconcileError::temporary)?, ordered::record),
            rules,
            &mut counts,
            &mut |step| match step {
                Step::Found(finding) => tell(finding, &mut summary),
                Step::Rest(party, record) if !rules.batches => tell(missing(party, record), &mut summary),
                Step::Rest(party, record) => {
                    row.clear();
                    ordered::put_placed(&Placed::new(record), &mut row);
                    rest[usize::from(party == Party::Theirs)].push(&row).map_err(ReconcileError::temporary)
                }
            },
        )?;
        drop((ours, theirs));
        let [ours, theirs] = rest;
        let ours = ours.finish().map_err(ReconcileError::temporary)?;
        let theirs = theirs.finish().map_err(ReconcileError::temporary)?;
        self.batches(ours, theirs, &mut counts, &mut |step| {
            tell(
                match step {
                    Step::Found(finding) => finding,
                    Step::Rest(party, record) => missing(party, record),
                },
                &mut summary,
            )
        })?;
        summary.references_too_long = counts.references_too_long;
        summary.splits_not_tried = counts.splits_not_tried;
        summary.totals.check()?;
        Ok(summary)
    }

    fn batches(
        &self,
        mut ours: Sorted,
        mut theirs: Sorted,
        counts: &mut Counts,
        out: &mut dyn FnMut(Step) -> Result<(), ReconcileError>,
    ) -> Result<(), ReconcileError> {
        let io = ReconcileError::temporary;
        let (mut decisions, mut row) = (Run::new(&self.dir).map_err(io)?, Vec::new());
        decide(
            Rows::new(ours.scan().map_err(io)?, ordered::placed),
            Rows::new(theirs.scan().map_err(io)?, ordered::placed),
            &self.rules,
            counts,
            &mut |decision| {
                row.clear();
                ordered::put_decision(&decision, &mut row);
                decisions.push(&row).map_err(io)
            },
        )?;
        let mut decisions = RunReader::new(decisions.finish().map_err(io)?).map_err(io)?;
        let decisions = std::iter::from_fn(|| match decisions.next(&mut row) {
            Ok(true) => Some(ordered::decision(&row).map_err(ReconcileError::from)),
            Ok(false) => None,
            Err(error) => Some(Err(io(error))),
        });
        apply(
            Rows::new(ours.scan().map_err(io)?, ordered::placed),
            Rows::new(theirs.scan().map_err(io)?, ordered::placed),
            decisions,
            counts,
            out,
        )
    }

    fn check(&self) -> Result<(), ReconcileError> {
        let config = |field, message: String| Err(ReconcileError::Config { field, message });
        if self.memory_max < Self::MEMORY_MIN {
            return config("memory_max", format!("at least {} bytes, not {}", Self::MEMORY_MIN, self.memory_max));
        }
        if self.rules.drift_days < self.rules.window_days {
            return config("drift_days", format!("at least the window of {} days", self.rules.window_days));
        }
        if self.rules.split_lines_max > Rules::SPLIT_LINES_MAX {
            return config("split_lines_max", format!("at most {}", Rules::SPLIT_LINES_MAX));
        }
        if self.rules.group_max < 2 {
            return config("group_max", "at least 2".to_owned());
        }
        Ok(())
    }

    /// There are four at once, at the most.
    fn sorter(&self) -> Sorter {
        Sorter::new(&self.dir, self.memory_max / 4)
    }

    fn sort(
        &self,
        party: Party,
        rows: impl IntoIterator<Item = Result<Row, ReconcileError>>,
        summary: &mut Summary,
    ) -> Result<Sorted, ReconcileError> {
        let (mut sorter, mut bytes, mut listed) = (self.sorter(), Vec::new(), 0);
        for row in rows {
            let row = row?;
            summary.totals.row(party);
            match row {
                Ok(record) => {
                    summary.totals.read(party, &record)?;
                    bytes.clear();
                    ordered::put_record(&record, &mut bytes);
                    sorter.push(&bytes).map_err(ReconcileError::temporary)?;
                }
                Err(bad) => {
                    #[cfg(feature = "seeded-bugs")]
                    if self.rules.has(super::Bug::SkipBadRows) {
                        continue;
                    }
                    summary.totals.bad(party, bad.known)?;
                    if listed < self.bad_rows_max {
                        listed += 1;
                        summary.bad_rows.push((party, bad));
                    }
                }
            }
        }
        sorter.finish().map_err(ReconcileError::temporary)
    }
}

fn missing(party: Party, record: Record) -> Finding {
    let what = match party {
        Party::Ours => What::MissingThere,
        Party::Theirs => What::MissingHere,
    };
    Finding::Differs(Difference::of(what, party, record))
}

/// Sorted rows, read back.
struct Rows<'a, T> {
    scan: Scan<'a>,
    read: fn(&[u8]) -> Result<T, Torn>,
}

impl<'a, T> Rows<'a, T> {
    fn new(scan: Scan<'a>, read: fn(&[u8]) -> Result<T, Torn>) -> Self {
        Self { scan, read }
    }
}

impl<T> Iterator for Rows<'_, T> {
    type Item = Result<T, ReconcileError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.scan.next() {
            Ok(Some(row)) => Some((self.read)(row).map_err(ReconcileError::from)),
            Ok(None) => None,
            Err(error) => Some(Err(ReconcileError::temporary(error))),
        }
    }
}
