//! Certifies an event log against the clauses of `docs/events.md`.
//!
//! As for stores: whoever writes a log of their own writes a [`LogHarness`], and a test without libtest's harness whose `main` is
//!
//! ```no_run
//! use std::process::ExitCode;
//! use sysd_core::Result;
//! use sysd_storage::{MemoryEvents, MemoryEventsConfig};
//! use sysd_testkit::conformance::Suite;
//! use sysd_testkit::conformance::events::LogHarness;
//!
//! struct InMemory;
//!
//! impl LogHarness for InMemory {
//!     type Log = MemoryEvents;
//!
//!     async fn open(&self) -> Result<[MemoryEvents; 2]> {
//!         let log = MemoryEvents::new(MemoryEventsConfig::default())?;
//!         Ok([log.clone(), log])
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Suite::from_args().certify_log("memory", InMemory).run()
//! }
//! ```

mod appends;
mod case;
mod groups;
mod members;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sysd_core::{EventLog, Result};

use super::Failure;
use super::case::Verdict;
use case::{LogBench, LogCase};

/// How the suite gets at a kind of log.
pub trait LogHarness: Send + Sync + 'static {
    /// The log to certify.
    type Log: EventLog;

    /// Makes an empty log that nobody else uses, of 4 partitions or more, by the system's clock: two handles to it, as those of
    /// two processes. Called once for every clause.
    ///
    /// # Errors
    /// Every clause then fails with this error.
    fn open(&self) -> impl Future<Output = Result<[Self::Log; 2]>> + Send;

    /// Runs a future to its end, called from many threads at once. A log that needs a runtime overrides it.
    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        futures::executor::block_on(future)
    }

    /// How long the suite waits for a partition to pass from a member that was dropped to another, at most.
    fn patience(&self) -> Duration {
        Duration::from_secs(40)
    }
}

/// One numbered sentence of `docs/events.md`, and its test.
pub struct LogClause {
    /// Its number.
    pub id: &'static str,
    /// What it says, in a few words joined by underscores.
    pub title: &'static str,
    check: fn(&LogCase) -> case::BoxVerdict<'_>,
}

impl fmt::Debug for LogClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.title)
    }
}

impl LogClause {
    /// Tests a log against it.
    ///
    /// # Errors
    /// [`Failure`] if the log breaks it, or can't be reached.
    pub fn check(&self, harness: &impl LogHarness) -> Verdict {
        let bench: &dyn LogBench = harness;
        let case = bench.open()?;
        bench.run((self.check)(&case))
    }
}

const fn clause(id: &'static str, title: &'static str, check: fn(&LogCase) -> case::BoxVerdict<'_>) -> LogClause {
    LogClause { id, title, check }
}

/// Every clause of event logs, in the order of `docs/events.md`.
pub fn log_clauses() -> &'static [LogClause] {
    CLAUSES
}

static CLAUSES: &[LogClause] = &[
    clause("L1", "what_is_appended_is_read_as_it_was", |case| Box::pin(appends::as_they_were(case))),
    clause("L2", "events_of_a_key_keep_their_order", |case| Box::pin(appends::order(case))),
    clause("L3", "what_is_too_large_is_refused_and_a_failure_is_only_its_own", |case| Box::pin(appends::sizes(case))),
    clause("L4", "every_group_reads_all_of_it", |case| Box::pin(groups::fan_out(case))),
    clause("L5", "members_share_the_events", |case| Box::pin(members::share(case))),
    clause("L6", "what_a_dead_member_left_is_read_by_another", |case| Box::pin(members::death(case))),
    clause("L7", "what_is_committed_is_not_read_again", |case| Box::pin(members::commits(case))),
    clause("L8", "who_lost_a_partition_commits_nothing_there", |case| Box::pin(members::lost(case))),
    clause("L9", "the_lag_is_what_is_not_committed", |case| Box::pin(groups::lag(case))),
    clause("L10", "a_new_group_begins_where_it_is_told", |case| Box::pin(groups::starts(case))),
    clause("L11", "a_group_without_members_can_be_moved", |case| Box::pin(groups::seeks(case))),
    clause("L12", "dropped_calls_lose_nothing", |case| Box::pin(members::dropped(case))),
    clause("L13", "a_bad_argument_is_refused_by_name", |case| Box::pin(groups::refusals(case))),
    clause("L14", "a_read_waits_for_an_event_until_its_deadline", |case| Box::pin(members::waits(case))),
    clause("L15", "members_come_and_go_and_nothing_is_lost", |case| Box::pin(members::churn(case))),
];
