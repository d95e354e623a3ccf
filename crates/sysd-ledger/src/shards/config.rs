//! How shards are made and driven.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock, Error, Result, SystemClock};

use super::{Bug, Placement};

/// How shards are made and driven.
#[derive(Clone)]
pub struct ShardsConfig {
    /// The name of the set, at most [`NAME_MAX`](Self::NAME_MAX) bytes. It is stored in every shard, so that no shard of another set is
    /// taken for one of this.
    pub name: String,
    /// Where accounts lie. It is stored too.
    pub placement: Placement,
    /// Where ids of transactions are at home: what is asked under an id meets there. It is stored too.
    pub ids: Placement,
    /// How long a transaction across shards may take until it is decided; what a caller held that then disappeared is held so
    /// long, and until recovery has looked.
    pub hold_for: Duration,
    /// How often recovery looks for what others left unfinished.
    pub recover_every: Duration,
    /// How many unfinished parts of a shard one look of recovery ends at most. The next one goes on behind them.
    pub recover_parts_max: usize,
    /// The time: of deadlines, and of looks.
    pub clock: Arc<dyn Clock>,
    /// A deliberate mistake.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

impl ShardsConfig {
    /// The most bytes of a name.
    pub const NAME_MAX: usize = 256;
    /// The most shards.
    pub const SHARDS_MAX: usize = 4_096;

    /// Of a set of that name; accounts and ids are placed by a hash.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            placement: Placement::Hashed,
            ids: Placement::Hashed,
            hold_for: Duration::from_secs(10),
            recover_every: Duration::from_secs(5),
            recover_parts_max: 1_000,
            clock: Arc::new(SystemClock),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }

    #[cfg(feature = "seeded-bugs")]
    pub(super) fn bug(&self) -> Option<Bug> {
        self.bug
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    pub(super) const fn bug(&self) -> Option<Bug> {
        None
    }

    pub(super) fn check(&self, count: usize) -> Result<u16> {
        if !(1..=Self::SHARDS_MAX).contains(&count) {
            return Err(Error::invalid("ledgers", format!("there are 1 to {} shards, not {count}", Self::SHARDS_MAX)));
        }
        if self.name.len() > Self::NAME_MAX {
            return Err(Error::too_large("name", self.name.len(), Self::NAME_MAX));
        }
        for (field, wait) in [("hold_for", self.hold_for), ("recover_every", self.recover_every)] {
            if wait < Duration::from_micros(1) {
                return Err(Error::invalid(field, "it is zero; choose some seconds"));
            }
        }
        if self.recover_parts_max == 0 {
            return Err(Error::invalid("recover_parts_max", "it is zero; choose some hundreds"));
        }
        u16::try_from(count).map_err(|_| Error::invalid("ledgers", "there are too many shards"))
    }
}

impl fmt::Debug for ShardsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardsConfig")
            .field("name", &self.name)
            .field("placement", &self.placement)
            .field("ids", &self.ids)
            .field("hold_for", &self.hold_for)
            .field("recover_every", &self.recover_every)
            .field("recover_parts_max", &self.recover_parts_max)
            .finish_non_exhaustive()
    }
}
