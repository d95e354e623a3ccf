//! The store on a local disk.

use sysd_core::{Key, ManualClock, Result, Timestamp};
use sysd_storage::{LocalConfig, LocalStore};
use sysd_testkit::conformance::Harness;

use crate::directory::Directory;

/// One store for all clauses, each by its own clock.
pub(crate) struct OnDisk {
    // Closed before its directory goes.
    store: LocalStore<ManualClock>,
    _directory: Directory,
}

impl OnDisk {
    pub(crate) fn open() -> Self {
        Self::with(LocalConfig::default())
    }

    pub(crate) fn with(config: LocalConfig) -> Self {
        let directory = Directory::new();
        // Merges go by this clock: in 1970 nothing of the clauses' has expired, so only what they see is tested.
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let store = futures::executor::block_on(LocalStore::open_with(directory.path(), config, clock));
        Self { store: store.expect("a temporary directory can be written"), _directory: directory }
    }
}

impl Harness for OnDisk {
    type Store = LocalStore<ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(self.store.with_clock(clock))
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        self.store.plant(key, b"foreign").await
    }
}
