//! What is compared, and what comes of it.

use std::fmt;

use smallvec::SmallVec;

use crate::model::{Currency, Date};

/// A movement of money as one of the two sides has it. Records are ordered by what they say, and by their row last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The id that both sides know: ours, as the provider repeats it. Empty where there is none, such as in a row of fees.
    pub reference: Box<str>,
    /// What the amount is of.
    pub currency: Currency,
    /// The gross amount in minor units; what went out is negative.
    pub amount: i128,
    /// The day, as the side that wrote it counts days.
    pub day: Date,
    /// What was taken off the amount before it was paid out, in minor units; zero if that is not known.
    pub fee: i128,
    /// What happened, in the words of the side that wrote it.
    pub kind: Box<str>,
    /// The payout or batch that it was settled in; empty if that is not known.
    pub batch: Box<str>,
    /// Where it stands: the line of a file, or the place in a stream, from 1 on.
    pub row: u64,
}

impl Record {
    /// The most bytes of each text.
    pub const TEXT_MAX: usize = 255;

    /// A record without fee, kind and batch.
    pub fn new(reference: &str, currency: Currency, amount: i128, day: Date, row: u64) -> Self {
        let empty = || Box::<str>::from("");
        Self { reference: reference.into(), currency, amount, day, fee: 0, kind: empty(), batch: empty(), row }
    }

    /// The amount less the fee; `None` if it is beyond all amounts.
    pub fn net(&self) -> Option<i128> {
        self.amount.checked_sub(self.fee)
    }

    /// Whether two records say the same, wherever they stand.
    pub fn says_same(&self, other: &Self) -> bool {
        self.content() == other.content()
    }

    /// All but the row.
    pub(super) fn content(&self) -> impl Ord + '_ {
        (&self.reference, self.currency, self.amount, self.day, self.fee, &self.kind, &self.batch)
    }

    /// What makes two records of one reference the same movement.
    pub(super) fn key(&self) -> (Currency, i128) {
        (self.currency, self.amount)
    }
}

/// Records of a finding; mostly there is one.
pub type Records = SmallVec<[Record; 1]>;

/// Whose records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// Our own records.
    Ours,
    /// The settlement file's.
    Theirs,
}

impl Party {
    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ours => Self::Theirs,
            Self::Theirs => Self::Ours,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Theirs => "theirs",
        })
    }
}

/// How records are matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many days may lie between two records of one payment.
    pub window_days: u32,
    /// So many in the second passes.
    pub drift_days: u32,
    /// Whether an amount may be the other one less its fee.
    pub netted: bool,
    /// Whether several lines of one reference may add up.
    pub split: bool,
    /// Among how many lines of one reference a part that adds up is looked for. With n lines there are 2ⁿ parts.
    pub split_lines_max: usize,
    /// Whether lines of one batch may add up to the one line that has the batch's id as its reference.
    pub batches: bool,
    /// Of how many records with one reference, on both sides together, all are looked at at once. Of more than that only those that
    /// are exactly the same are matched.
    pub group_max: usize,
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<super::Bug>,
}

impl Default for Rules {
    /// 3 days, 31 in the second passes, all of which are on; 12 lines, 1,024 records.
    fn default() -> Self {
        Self {
            window_days: 3,
            drift_days: 31,
            netted: true,
            split: true,
            split_lines_max: 12,
            batches: true,
            group_max: 1_024,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

impl Rules {
    /// The most of [`Rules::split_lines_max`].
    pub const SPLIT_LINES_MAX: usize = 16;

    #[cfg(feature = "seeded-bugs")]
    pub(super) fn has(&self, bug: super::Bug) -> bool {
        self.bug == Some(bug)
    }
}

/// By which pass records were matched, and so why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Pass {
    /// The same reference, currency and amount, within the window.
    Exact,
    /// The same reference, currency and amount, further apart.
    Drift {
        /// By so many days.
        days: u32,
    },
    /// The same reference and currency; the amount is the other one less its fee.
    Netted {
        /// Whose amount has the fee in it.
        gross: Party,
        /// The fee.
        fee: i128,
    },
    /// The same reference and currency; several lines add up.
    Split {
        /// What they add up to.
        sum: i128,
        /// Whose fees were taken off before they were added up; `None`: nobody's.
        net: Option<Party>,
    },
    /// The lines of a batch add up to the line that is about the batch. A match of more than a thousand lines comes in parts.
    Batch {
        /// How many lines.
        lines: u64,
        /// What they add up to.
        sum: i128,
        /// Whether fees were taken off before they were added up.
        is_net: bool,
    },
}

impl Pass {
    /// Its name in tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Drift { .. } => "drift",
            Self::Netted { .. } => "netted",
            Self::Split { .. } => "split",
            Self::Batch { .. } => "batch",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("same reference, currency and amount, within the window"),
            Self::Drift { days } => write!(f, "same reference, currency and amount, {days} days apart"),
            Self::Netted { gross, fee } => {
                write!(f, "same reference and currency; {gross} is gross, the other net of the fee of {fee}")
            }
            Self::Split { sum, net: None } => {
                write!(f, "same reference and currency; the lines add up to {sum} on both sides")
            }
            Self::Split { sum, net: Some(party) } => {
                write!(f, "same reference and currency; the lines add up to {sum} on both sides, {party} net of fees")
            }
            Self::Batch { lines, sum, is_net } => {
                let net = if *is_net { ", net of fees" } else { "" };
                write!(f, "the {lines} lines of the batch add up to {sum}{net}")
            }
        }
    }
}

/// Records of both sides that are one movement of money. Each record is in one finding only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Counted from 1 on; the parts of one match have the same number.
    pub number: u64,
    /// Which pass, and why.
    pub pass: Pass,
    /// Our records; may be none in a part of a match.
    pub ours: Records,
    /// The file's.
    pub theirs: Records,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum What {
    /// One record on each side with the same reference and currency.
    AmountDiffers {
        /// The file's amount less ours; held to what an amount can be.
        by: i128,
    },
    /// One record on each side with the same reference.
    CurrencyDiffers,
    /// The file has it, we don't.
    MissingHere,
    /// We have it, the file does not.
    MissingThere,
    /// One side has the same reference, currency and amount once more than the other.
    Duplicate {
        /// Which side.
        party: Party,
        /// The row of one of the records that it repeats.
        of: u64,
    },
    /// There is more than one way to match these, and nothing says which is right.
    Ambiguous,
}

impl What {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AmountDiffers { .. } => "amount_differs",
            Self::CurrencyDiffers => "currency_differs",
            Self::MissingHere => "missing_here",
            Self::MissingThere => "missing_there",
            Self::Duplicate { .. } => "duplicate",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// One way to match records of an ambiguous difference: rows of ours, rows of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Candidate {
    /// Rows of ours.
    pub ours: Vec<u64>,
    /// Rows of theirs.
    pub theirs: Vec<u64>,
}

/// Records that do not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub what: What,
    /// Our records.
    pub ours: Records,
    /// The file's.
    pub theirs: Records,
    /// Of an ambiguous one: how it could be, at most [`CANDIDATES_MAX`](Self::CANDIDATES_MAX) ways.
    pub candidates: Vec<Candidate>,
}

impl Difference {
    /// The most candidates that are listed.
    pub const CANDIDATES_MAX: usize = 32;

    pub(super) fn of(what: What, party: Party, record: Record) -> Self {
        let (mut ours, mut theirs) = (Records::new(), Records::new());
        match party {
            Party::Ours => ours.push(record),
            Party::Theirs => theirs.push(record),
        }
        Self { what, ours, theirs, candidates: Vec::new() }
    }
}

/// What became of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// They match.
    Matched(Match),
    /// They don't.
    Differs(Difference),
}
