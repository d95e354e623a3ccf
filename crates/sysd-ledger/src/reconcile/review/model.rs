//! What a review queue knows, is asked and answers.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use sysd_core::Timestamp;

use super::super::model::Difference;
use super::super::totals::Totals;
use super::citation::Citation;
use crate::model::TransactionId;

/// Names a settlement file by what is in it: the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 32]);

impl FileId {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of(mut file: impl Read) -> io::Result<Self> {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Self(hash.finalize().into())),
                Ok(read) => hash.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a difference by what it says and the file that it is of: the same run finds it under the same id again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaseId(pub u128);

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#034x}", self.0)
    }
}

impl fmt::Debug for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text of limited length.
macro_rules! short_text {
    ($(#[$doc:meta])* $name:ident, $min:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The most bytes.
            pub const BYTES_MAX: usize = $max;

            /// `None` if it is too short or too long. Blanks around it don't count.
            pub fn new(text: &str) -> Option<Self> {
                let text = text.trim();
                ($min..=$max).contains(&text.len()).then(|| Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

short_text! {
    /// Who did something: a name or an id of the application's, never empty.
    Person, 1, 128
}

short_text! {
    /// Why, in words, never empty.
    Note, 1, 1024
}

/// Where a case stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CaseState {
    /// Nobody has looked at it.
    Open,
    /// Somebody is looking at it.
    InReview {
        /// Who.
        by: Person,
    },
    /// A transaction was posted that puts it right.
    Resolved {
        /// Which.
        transaction: TransactionId,
    },
    /// It was given up.
    WrittenOff {
        /// The transaction that writes it off, if there is one.
        transaction: Option<TransactionId>,
    },
    /// It was settled, and is not any more.
    Reopened,
}

impl CaseState {
    /// Whether somebody has to do something.
    pub const fn is_open(&self) -> bool {
        !matches!(self, Self::Resolved { .. } | Self::WrittenOff { .. })
    }

    /// Its name in tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InReview { .. } => "in_review",
            Self::Resolved { .. } => "resolved",
            Self::WrittenOff { .. } => "written_off",
            Self::Reopened => "reopened",
        }
    }
}

/// What a person does about a case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Takes it up.
    Take,
    /// Puts it back.
    Release,
    /// Says which transaction puts it right. Whoever took it up does. [`Reviews::resolve`](super::Reviews::resolve) looks for it in the
    /// ledger.
    Resolve {
        /// The transaction, which was recorded and names the case.
        citation: Citation,
        /// What there is to say.
        note: Option<Note>,
    },
    /// The same with a transaction of other books than a [`Ledger`](crate::Ledger)'s: nobody looks whether there is one.
    ResolveUnchecked {
        /// The transaction; without it nothing is resolved.
        transaction: Option<TransactionId>,
        /// What there is to say.
        note: Option<Note>,
    },
    /// Gives it up. Whoever took it up does, with a transaction or a reason. [`Reviews::write_off`](super::Reviews::write_off) looks for
    /// the transaction in the ledger; one of other books is named in the reason.
    WriteOff {
        /// The transaction that writes it off, which was recorded and names the case.
        citation: Option<Citation>,
        /// Why.
        reason: Option<Note>,
    },
    /// Says that it is not settled after all.
    Reopen {
        /// Why.
        reason: Note,
    },
    /// Says something, and changes nothing.
    Comment {
        /// What.
        note: Note,
    },
}

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the log's time.
    pub at: Timestamp,
    /// Who.
    pub by: Person,
    /// What; `None`: brought the file in which it was found.
    pub step: Option<Step>,
}

/// A difference under review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its id.
    pub id: CaseId,
    /// Counted from 1 on, over all files.
    pub number: u64,
    /// The file.
    pub file: FileId,
    /// Which run over the file found it last. If a later one was finished, that one did not find it any more: whether that settles it
    /// is for a person to say.
    pub seen_in: u32,
    /// What differs.
    pub difference: Difference,
    /// Where it stands.
    pub state: CaseState,
    /// All that was ever done about it, the first first. Nothing is ever removed.
    pub trail: Vec<Event>,
}

impl Case {
    /// The most lines of a trail.
    pub const TRAIL_MAX: usize = 1_000;
}

/// How far a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// A run over it has begun, and was not finished (yet).
    Begun,
    /// It was gone through.
    Finished {
        /// All sums.
        totals: Box<Totals>,
        /// How many differences the last run found.
        differences: u64,
    },
}

/// A settlement file that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileView {
    /// What it was called.
    pub name: Note,
    /// Who brought it first.
    pub by: Person,
    /// When.
    pub at: Timestamp,
    /// How often a run over it has begun.
    pub runs: u32,
    /// How many differences of it are known.
    pub cases: u64,
    /// How many of these the last run has found (so far).
    pub found: u64,
    /// How far it is.
    pub state: FileState,
}

/// What is asked of a review queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReviewCommand {
    /// A run over a file begins.
    Begin {
        /// The file.
        file: FileId,
        /// What it is called.
        name: Note,
        /// Who brings it.
        by: Person,
        /// Whether to go through a file that was finished once more, because our own records are others now.
        again: bool,
    },
    /// A run has found these.
    Add {
        /// The file.
        file: FileId,
        /// Which run.
        run: u32,
        /// The differences. Those that are known are not added again.
        differences: Vec<(CaseId, Difference)>,
    },
    /// A run is through.
    Finish {
        /// The file.
        file: FileId,
        /// Which run.
        run: u32,
        /// All sums.
        totals: Box<Totals>,
        /// How many differences it found.
        differences: u64,
    },
    /// A person does something about a case.
    Review {
        /// The case.
        case: CaseId,
        /// Who.
        by: Person,
        /// What.
        step: Step,
    },
}

/// What a review queue answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReviewReply {
    /// The run may begin; it has this number. If one was begun before and not finished, this one goes on with its work.
    Begun {
        /// Which run.
        run: u32,
        /// How many differences are known of the file.
        known: u64,
    },
    /// The file was gone through before; there is nothing to do.
    Seen(Box<FileView>),
    /// They are kept.
    Added {
        /// So many were new.
        new: u64,
        /// So many were known.
        known: u64,
    },
    /// The run is through.
    Finished {
        /// So many that are known of the file were not found any more; they are as they were.
        not_found: u64,
    },
    /// The case, after the step.
    Reviewed(Box<Case>),
    /// It can't be done; nothing was changed.
    Rejected(ReviewReject),
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewReject {
    /// The file was never begun.
    #[error("no run over the file {file} has begun")]
    UnknownFile {
        /// The file.
        file: FileId,
    },
    /// A later run over the same file has begun.
    #[error("run {run} over the file is not the last one, which is {last}; leave it to that one")]
    OtherRun {
        /// Which.
        run: u32,
        /// The last one.
        last: u32,
    },
    /// The id is one of another file's: it was not made by the run.
    #[error("{case} is a case of another file")]
    OtherFile {
        /// The case.
        case: CaseId,
    },
    /// The run is finished.
    #[error("run {run} over the file is finished")]
    FinishedAlready {
        /// Which.
        run: u32,
    },
    /// Not all that was found was added, or more was.
    #[error("the run found {found} differences, {added} of them are here; add all of them first")]
    NotAllAdded {
        /// How many were found.
        found: u64,
        /// How many of them are here.
        added: u64,
    },
    /// The totals are not even.
    #[error("the totals are not even: {0}")]
    Uneven(super::super::totals::Uneven),
    /// There is no such case.
    #[error("there is no case {case}")]
    UnknownCase {
        /// The case.
        case: CaseId,
    },
    /// The step is none from there.
    #[error("it is {state}, from where that is no step")]
    NoStep {
        /// The name of its state.
        state: &'static str,
    },
    /// Somebody else has taken it up.
    #[error("{by} has taken it up")]
    TakenBy {
        /// Who.
        by: Person,
    },
    /// The transaction that is cited names another case.
    #[error("the transaction names the case {case}")]
    OtherCase {
        /// Which it names.
        case: CaseId,
    },
    /// Nothing is resolved without a transaction.
    #[error("post the transaction that puts it right first, and cite it; else write it off")]
    NoTransaction,
    /// Nothing is written off without either.
    #[error("a write-off needs a transaction or a reason")]
    NoReason,
    /// The trail has no room.
    #[error("the audit trail has {max} lines, the most there can be", max = Case::TRAIL_MAX)]
    TrailFull,
}
