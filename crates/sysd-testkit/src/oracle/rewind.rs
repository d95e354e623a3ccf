//! What one record does on a store that may go back in time for a while: one whose copy takes over, and lacks the last writes.

use std::collections::BTreeSet;

use sysd_core::Version;

use super::{Call, RecordSpec, Reply, Specification};

/// A call on a record, or what a test knows of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindCall {
    /// A call on the record.
    Record(Call),
    /// From now on the record may at any moment be again what it has been since. What it is now stays at least. Answered with
    /// [`Reply::Applied`].
    Loosen,
    /// From now on it stays what it is, which may be whatever it was since it was loosened. Answered with [`Reply::Applied`].
    Fasten,
}

/// [`RecordSpec`], but between [`Loosen`](RewindCall::Loosen) and [`Fasten`](RewindCall::Fasten) the record may go back in time,
/// and forth again, but not behind what it was when that began. Never does it become what it never was; and what was decided was decided on something that it once was.
#[derive(Clone, Copy, Debug)]
pub struct RewindSpec;

/// What a record may be, as far as its answers tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rewind {
    now: BTreeSet<Option<Version>>,
    once: BTreeSet<Option<Version>>,
    is_loose: bool,
}

impl Specification for RewindSpec {
    type State = Rewind;
    type Call = RewindCall;
    type Reply = Reply;

    fn initial() -> Rewind {
        let absent = BTreeSet::from([RecordSpec::initial()]);
        Rewind { now: absent.clone(), once: absent, is_loose: false }
    }

    fn step(state: &Rewind, call: &RewindCall, reply: Option<&Reply>) -> Option<Rewind> {
        let mut next = state.clone();
        match call {
            RewindCall::Loosen => {
                next.is_loose = true;
                next.once = next.now.clone();
            }
            RewindCall::Fasten => {
                next.is_loose = false;
                next.now = next.once.clone();
            }
            RewindCall::Record(call) => {
                let before = if state.is_loose { &state.once } else { &state.now };
                next.now = before.iter().filter_map(|record| RecordSpec::step(record, call, reply)).collect();
                if next.now.is_empty() {
                    return None;
                }
                next.once.extend(&next.now);
            }
        }
        Some(next)
    }
}
