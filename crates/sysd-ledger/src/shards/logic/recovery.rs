//! What became of transactions across shards: read from the books alone.

use std::collections::BTreeMap;

use sysd_core::Timestamp;

use super::Bug;
use super::crossing::ATTEMPTS_MAX;
use super::lookup::attempt_of;
use super::split::{Layout, home};
use crate::logic::{Books, Command};
use crate::model::{Currency, Date, Details, Posting, Side, Transaction, TransactionId};
use crate::shards::ShardId;
use crate::shards::schema::{Derivation, Own, Purpose, is_reserved, note_day};

/// What the store said of ids that are not in memory any more, of books that have forgotten so many.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct OnStore {
    pub(crate) forgotten: u64,
    pub(crate) numbers: BTreeMap<TransactionId, Option<u64>>,
}

/// The store is to be asked for that id; so many were forgotten then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) id: TransactionId,
    pub(crate) forgotten: u64,
}

impl OnStore {
    /// Whether an id was recorded.
    fn has(&self, books: &Books, id: TransactionId) -> Result<bool, Unknown> {
        let forgotten = books.ids_forgotten();
        if books.number(id).is_some() {
            return Ok(true);
        }
        if forgotten == 0 {
            return Ok(false);
        }
        // What was recorded since is in memory, as long as nothing more was forgotten.
        let known = self.numbers.get(&id).filter(|_| self.forgotten == forgotten);
        known.map(Option::is_some).ok_or(Unknown { id, forgotten })
    }
}

/// How an id stands with its coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Something is recorded under it.
    Taken,
    /// An attempt is under way.
    Held { expires_at: Option<Timestamp> },
    /// All attempts before this one ended without a post, for ever.
    Free { attempt: u8 },
    /// There were as many as there may be.
    Spent,
}

/// How `id` stands with a coordinator, whose books these are.
///
/// # Errors
/// [`Unknown`] if that can't be told from memory alone.
pub(crate) fn standing(
    books: &Books,
    on_store: &OnStore,
    coordinator: ShardId,
    id: TransactionId,
) -> Result<Standing, Unknown> {
    if on_store.has(books, id)? {
        return Ok(Standing::Taken);
    }
    for attempt in 0..ATTEMPTS_MAX {
        let derived = Derivation { purpose: Purpose::Hold, attempt, shard: coordinator }.derive(id);
        if let Some(hold) = books.hold(derived) {
            return Ok(Standing::Held { expires_at: hold.expires_at });
        }
        if !on_store.has(books, derived)? {
            return Ok(Standing::Free { attempt });
        }
    }
    Ok(Standing::Spent)
}

/// An open hold of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenPart {
    pub(crate) hold: TransactionId,
    /// Of the hold, in its shard's journal.
    pub(crate) number: u64,
    pub(crate) coordinator: ShardId,
    pub(crate) effective: Option<Date>,
}

/// What is open in a shard.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct OpenParts {
    /// Of other coordinators, in the order in which they were looked for.
    pub(crate) parts: Vec<OpenPart>,
    /// The first deadline of those that this shard coordinates.
    pub(crate) first_deadline: Option<Timestamp>,
}

/// Up to `max` parts that are open in a shard, whose books these are: by their numbers those behind `after`, then from the first on.
pub(crate) fn open_parts(books: &Books, shard: ShardId, after: u64, max: usize) -> OpenParts {
    let mut found = OpenParts::default();
    if books.holds_len() == 0 {
        return found;
    }
    let holds = books.holds_of(is_reserved);
    let (before, behind) = holds.split_at(holds.partition_point(|hold| hold.number <= after));
    for hold in behind.iter().chain(before) {
        // The coordinator's, which names the others, and it alone has a deadline.
        if hold.expires_at.is_some() {
            let first = found.first_deadline.into_iter().chain(hold.expires_at).min();
            found.first_deadline = first;
        } else if found.parts.len() < max {
            let own = |posting: &Posting| Own::of(posting.account).map(|own| (own, posting.amount));
            let (mut coordinator, mut effective) = (shard, None);
            for (own, amount) in hold.postings.iter().filter_map(own) {
                coordinator = own.peer();
                if matches!(own, Own::Note { .. }) {
                    effective = note_day(amount);
                }
            }
            found.parts.push(OpenPart { hold: hold.id, number: hold.number, coordinator, effective });
        }
    }
    found
}

/// What is to become of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The coordinator has posted that attempt at that id.
    Post { id: TransactionId },
    /// It has not, and never will.
    Void { id: TransactionId, attempt: u8 },
    /// It may, until then.
    Wait { until: Option<Timestamp> },
    /// That attempt is over, and something is recorded under the id: the coordinator's journal says whether it is that attempt's post.
    Taken { id: TransactionId, attempt: u8 },
}

/// What is to become of a part in `shard`, by the books of its coordinator, which must have in them all that was answered when the
/// part was found.
///
/// # Errors
/// [`Unknown`] if that can't be told from memory alone.
pub(crate) fn fate(
    books: &Books,
    on_store: &OnStore,
    layout: Layout,
    shard: ShardId,
    part: OpenPart,
    bug: Option<Bug>,
) -> Result<Fate, Unknown> {
    let coordinator = part.coordinator;
    for attempt in 0..ATTEMPTS_MAX {
        let derivation = Derivation { purpose: Purpose::Hold, attempt, shard };
        let id = derivation.invert(part.hold);
        // Of another attempt it is the id of nothing.
        if home(layout, id) != Ok(coordinator) {
            continue;
        }
        let derived = Derivation { shard: coordinator, ..derivation }.derive(id);
        let hold = books.hold(derived);
        if hold.is_none() && !on_store.has(books, derived)? {
            continue;
        }
        return Ok(match hold {
            _ if bug == Some(Bug::VoidUnasked) => Fate::Void { id, attempt },
            Some(hold) => Fate::Wait { until: hold.expires_at },
            None if on_store.has(books, id)? => Fate::Taken { id, attempt },
            None => Fate::Void { id, attempt },
        });
    }
    // The coordinator's hold was acknowledged before any other part's was asked for, so its store has forgotten it.
    let first = Derivation { purpose: Purpose::Hold, attempt: 0, shard };
    Ok(Fate::Void { id: first.invert(part.hold), attempt: 0 })
}

impl Fate {
    /// By what the coordinator has recorded under the id.
    pub(crate) fn resolved(self, coordinator: ShardId, recorded: &Transaction, bug: Option<Bug>) -> Self {
        let Self::Taken { id, attempt } = self else { return self };
        let is_posted = attempt_of(recorded, coordinator) == Some(attempt) || bug == Some(Bug::PostAnyAttempt);
        if is_posted { Self::Post { id } } else { Self::Void { id, attempt } }
    }

    /// What to ask the part's shard; `day`: the day for which, if not its own; `details`: those of what was held, for a post.
    pub(crate) fn command(
        self,
        shard: ShardId,
        part: OpenPart,
        day: Option<Date>,
        details: Option<Box<Details>>,
    ) -> Option<Command> {
        let transaction = match self {
            Self::Post { id } => {
                let post = Transaction::post_held(id, part.hold);
                Transaction { effective: day.or(part.effective), details, ..post }
            }
            Self::Void { id, attempt } => {
                let void = Derivation { purpose: Purpose::Void, attempt, shard }.derive(id);
                Transaction { effective: day, ..Transaction::void(void, part.hold) }
            }
            Self::Wait { .. } | Self::Taken { .. } => return None,
        };
        Some(Command::Transact(transaction))
    }
}

/// Debits less credits of what is posted in accounts in transit.
pub(crate) fn in_transit(books: &Books) -> BTreeMap<Currency, i128> {
    let mut sums = BTreeMap::<Currency, i128>::new();
    for view in books.accounts().filter(|view| matches!(Own::of(view.account.id), Some(Own::InTransit { .. }))) {
        let sum = sums.entry(view.account.currency).or_default();
        *sum = sum.saturating_add(view.balance.posted(Side::Debit));
    }
    sums
}
