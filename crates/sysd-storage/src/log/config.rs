//! How a replica is run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock, Entropy, Error, Result, RetryPolicy, SystemClock, SystemEntropy};

/// How a [`Replica`](super::Replica) or [`Follower`](super::Follower) is run. Start from the default.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// The most commands that wait; further ones are refused with [`Throttled`](sysd_core::ErrorKind::Throttled).
    pub queue_commands_max: usize,
    /// The most bytes of commands that wait; as above.
    pub queue_bytes_max: usize,
    /// The most commands in one entry.
    pub batch_commands_max: usize,
    /// The most bytes in one entry; the store's limit counts too.
    pub batch_bytes_max: usize,
    /// How long a command waits for its reply, give or take one storage call.
    pub submit_wait_max: Duration,
    /// How long one storage call may take before its effect counts as unknown.
    pub call_wait_max: Duration,
    /// How often an idle replica looks for entries of others; `None`: only when it is asked to write or to read the latest.
    /// Zero is refused.
    pub poll_every: Option<Duration>,
    /// After how many bytes of entries the replica that appended the last of them takes a snapshot; at the earliest after
    /// three times as many bytes as the last snapshot had, so that snapshots add at most a third to what is written, and the
    /// state's bytes once. `None`: only on request.
    pub snapshot_log_bytes: Option<u64>,
    /// How long a snapshot may take to be written.
    pub snapshot_wait_max: Duration,
    /// The waits between attempts of one storage call; how many there are is up to the deadlines above.
    pub retry: RetryPolicy,
    /// The time: of entries, deadlines and waits.
    pub clock: Arc<dyn Clock>,
    /// Mints writer ids and versions.
    pub entropy: Arc<dyn Entropy>,
    /// A deliberate bug.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
    /// How many entries a segment has, so that tests meet the border of one. A log is read with what it was written with.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub segment_entries: u64,
}

/// Mistakes that a replica could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Appends without the condition.
    SkipCondition,
    /// Does not recognise its own entry when the reply was lost.
    ForgetNonce,
    /// Applies a batch before its append is known to have happened.
    ApplyBeforeAppend,
    /// Appends though another writer has taken over.
    ForgetFence,
    /// Takes an append without an answer for one that did not happen.
    ForgetUnsettled,
    /// Tells a caller that its command was not sent, and sends it all the same with the rest of its batch.
    KeepExpired,
    /// Lets the time of entries go back with the clock.
    ForgetLogTime,
    /// Names a snapshot in the manifest before its chunks are written.
    ManifestFirst,
    /// Answers a read of the latest state without asking the store.
    ReadUnconfirmed,
    /// Hangs once three attempts of an append in a row had no answer.
    HangUnsettled,
}

impl ReplicaConfig {
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) naming the field.
    pub(super) fn check(&self) -> Result<()> {
        if self.poll_every == Some(Duration::ZERO) {
            return Err(Error::invalid("poll_every", "it is more than zero; None does not poll"));
        }
        Ok(())
    }

    #[cfg(feature = "seeded-bugs")]
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(feature = "seeded-bugs")]
    pub(super) fn segment_entries(&self) -> u64 {
        self.segment_entries.max(1)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    pub(super) const fn segment_entries(&self) -> u64 {
        super::schema::SEGMENT_ENTRIES
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    pub(super) const fn has(&self, _: Bug) -> bool {
        false
    }
}

impl Default for ReplicaConfig {
    /// Replies within 5 s, storage calls within 1 s, polls every 100 ms, snapshots after 16 MiB, by the system's clock.
    fn default() -> Self {
        Self {
            queue_commands_max: 1 << 16,
            queue_bytes_max: 64 << 20,
            batch_commands_max: 1 << 14,
            batch_bytes_max: 1 << 20,
            submit_wait_max: Duration::from_secs(5),
            call_wait_max: Duration::from_secs(1),
            poll_every: Some(Duration::from_millis(100)),
            snapshot_log_bytes: Some(16 << 20),
            snapshot_wait_max: Duration::from_secs(600),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
            #[cfg(feature = "seeded-bugs")]
            segment_entries: super::schema::SEGMENT_ENTRIES,
        }
    }
}

impl fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaConfig")
            .field("queue_commands_max", &self.queue_commands_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("batch_commands_max", &self.batch_commands_max)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("submit_wait_max", &self.submit_wait_max)
            .field("call_wait_max", &self.call_wait_max)
            .field("poll_every", &self.poll_every)
            .field("snapshot_log_bytes", &self.snapshot_log_bytes)
            .field("snapshot_wait_max", &self.snapshot_wait_max)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
