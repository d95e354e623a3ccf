//! Removing many records, each if it is still the one that was met.

use sysd_core::{Effect, Error, Result};

use super::completion::Ticket;
use super::group::{Basis, Decision, Group, Seen, Staged, Tree};
use super::layout::{self, Family, Image};
use super::tree::Victim;
use fjall::Slice;

/// What was staged so far.
#[derive(Default)]
struct Staging {
    removed: usize,
    /// The batch of the last of them, or one whose writer was quicker.
    last: Option<Ticket>,
    /// Some lie in an earlier batch than the last does.
    is_spread: bool,
}

impl Staging {
    fn add(&mut self, ticket: Option<Ticket>, is_removed: bool) {
        let Some(ticket) = ticket else { return };
        let is_next = self.last.as_ref().is_some_and(|last| !last.is_of_batch(&ticket));
        self.is_spread |= is_next && self.removed > 0;
        self.removed += usize::from(is_removed);
        self.last = Some(ticket);
    }

    /// What a failure says of all that was asked for: what was staged before may land.
    fn failed(&self, error: &Error) -> Error {
        error.share().with_effect(if self.removed > 0 { Effect::Unknown } else { Effect::None })
    }
}

/// Removes what is still there of `victims`, which were met at `epoch`; answers how many went. `read` reads one of them again.
///
/// # Errors
/// That of reading or writing: of unknown effect as soon as one of them may have gone.
pub(super) async fn remove<T: Tree, R>(
    group: &Group<T>,
    family: Family,
    victims: Vec<Victim>,
    epoch: u64,
    read: impl Fn(Family, Slice) -> R,
) -> Result<usize>
where
    R: Future<Output = Result<Image>>,
{
    let mut staging = Staging::default();
    for Victim { key, image, version } in victims {
        let seen = Seen { image: Some(image), epoch };
        let decide = |found: Option<&Slice>| {
            let is_same =
                found.and_then(|found| layout::split(found)).is_some_and(|(header, _)| header.version == version);
            Ok(Decision { change: is_same.then_some(None), output: is_same })
        };
        let mut is_stale = false;
        loop {
            let staged = if is_stale {
                let look = group.look(family, &key);
                let image = read(family, key.clone()).await.map_err(|error| staging.failed(&error))?;
                group.stage(family, &key, look.basis(image.as_ref()), decide)
            } else {
                group.stage(family, &key, Basis::Seen(&seen), decide)
            };
            match staged.map_err(|error| staging.failed(&error))? {
                Staged::Decided(is_same, ticket) => {
                    staging.add(ticket, is_same);
                    break;
                }
                Staged::Stale => is_stale = true,
                Staged::NoRoom(ticket) => ticket.await.map_err(|error| staging.failed(&error))?,
            }
        }
    }
    let Staging { removed, last, is_spread } = staging;
    // Batches land in order: the last stands for all that are there; of the others it says nothing.
    if let Some(ticket) = last {
        ticket.await.map_err(|error| match (removed, is_spread) {
            (0, _) => error.share().with_effect(Effect::None),
            (_, true) => error.share().with_effect(Effect::Unknown),
            (_, false) => error.share(),
        })?;
    }
    Ok(removed)
}
