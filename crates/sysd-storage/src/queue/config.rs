//! How a queue is run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sysd_core::{Clock, Entropy, RetryPolicy, SystemClock, SystemEntropy};

/// How a [`RecordQueue`](super::RecordQueue) is run. Start from the default.
#[derive(Clone)]
pub struct QueueConfig {
    /// How many shards: about twice as many as consumers that lease at once. Fixed when the queue is first opened.
    pub shards: u16,
    /// How many lanes. Each costs a scan where it is empty. Fixed when the queue is first opened.
    pub lanes: u8,
    /// How often a job is handed out before it is given up.
    pub attempts_max: u32,
    /// How many jobs of a shard are in flight at most; each costs about 50 bytes in the shard's record, and 250 with the longest id. More
    /// than the store's records have room for are refused: about 1,600 on DynamoDB. When there are so many, only those whose lease has run out are handed out.
    pub in_flight_max: usize,
    /// How long after its due time a row may be written and still be found at once. Rows that come later are found by a look
    /// at all rows of a shard, which is made as often. (In between, scans start where rows may be: see the module's docs.)
    pub late_max: Duration,
    /// How long an id of the caller's is remembered after its job was done, and a dead letter after it was put back. Not zero.
    pub remember_for: Duration,
    /// How long one storage call may take before its effect counts as unknown.
    pub call_wait_max: Duration,
    /// How a storage call is tried again.
    pub retry: RetryPolicy,
    /// The time: of delays and leases.
    pub clock: Arc<dyn Clock>,
    /// Mints ids, tokens and versions.
    pub entropy: Arc<dyn Entropy>,
    /// A deliberate bug.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

/// Mistakes that a queue could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Settles a job under whatever token.
    AckAnyToken,
    /// Writes a shard's record without the condition.
    LeaseAnyway,
    /// Removes the row of a job before its dead letter is there.
    DeleteFirst,
    /// Writes a dead letter before the mark says so.
    GraveFirst,
    /// Moves a row, and leaves its mark as it was.
    LeaveMark,
    /// Hands out rows that their marks do not name.
    AnyRow,
    /// Removes what it takes for a late echo without a look at the shard's record.
    RemoveUnseen,
    /// Removes a dead letter that was put back, and leaves nothing in its place.
    ForgetReplay,
    /// Forgets settlements before they are carried out.
    DropUnsettled,
    /// Uses what it scanned before others dropped entries.
    KeepScan,
    /// Hands out jobs without a look at their marks.
    ForgetMark,
    /// Never looks for rows that came late.
    ForgetLate,
    /// Hands out one more job than there is room for.
    Overfill,
    /// Takes no expired lease over while there is no room.
    LeaveExpired,
}

impl QueueConfig {
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn bug(&self) -> Option<Bug> {
        self.bug
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    pub(super) const fn bug(&self) -> Option<Bug> {
        None
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug() == Some(bug)
    }
}

impl Default for QueueConfig {
    /// 16 shards, one lane, ten attempts, 1,024 jobs of a shard in flight, rows found that come ten minutes late, ids
    /// remembered for a day, calls within a second, by the system's clock.
    fn default() -> Self {
        Self {
            shards: 16,
            lanes: 1,
            attempts_max: 10,
            in_flight_max: 1_024,
            late_max: Duration::from_secs(600),
            remember_for: Duration::from_secs(24 * 3_600),
            call_wait_max: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

impl fmt::Debug for QueueConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueConfig")
            .field("shards", &self.shards)
            .field("lanes", &self.lanes)
            .field("attempts_max", &self.attempts_max)
            .field("in_flight_max", &self.in_flight_max)
            .field("late_max", &self.late_max)
            .field("remember_for", &self.remember_for)
            .field("call_wait_max", &self.call_wait_max)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
