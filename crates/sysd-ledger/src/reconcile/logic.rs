//! Matching, as pure functions over sorted records: the exact pass and the passes within one reference (`merge`, `group`, `split`),
//! and the pass over batches (`batch`). It holds one reference's records at a time, and never more than the rules allow.

mod batch;
mod group;
mod merge;
mod split;

use super::model::{Finding, Party, Record};

pub(super) use batch::{Decision, Placed, Role, apply, decide};
pub(super) use merge::merge;

/// What comes out of the passes within one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one at a time is on its way; a box would be an allocation for each")]
pub(super) enum Step {
    /// It is settled what became of these.
    Found(Finding),
    /// The other side has nothing of this reference; its batch may say more.
    Rest(Party, Record),
}

/// What was not looked at, and how many matches there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// The number of the last match.
    pub(super) matches: u64,
    /// References with more records than are looked at at once: only the exact pass was done.
    pub(super) references_too_long: u64,
    /// References with more lines than parts are looked for among.
    pub(super) splits_not_tried: u64,
}

/// Where findings go.
pub(super) type Out<'a, E> = &'a mut dyn FnMut(Step) -> Result<(), E>;

const fn at(party: Party) -> usize {
    match party {
        Party::Ours => 0,
        Party::Theirs => 1,
    }
}

fn days_apart(one: &Record, other: &Record) -> u32 {
    one.day.0.abs_diff(other.day.0)
}
