//! Certifies a bus against the clauses of `docs/bus.md`.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use sysd_core::Result;
//! use sysd_core::bus::BusLimits;
//! use sysd_storage::bus::{BusDriver, MemoryBus};
//! use sysd_testkit::conformance::{Suite, bus};
//!
//! struct InMemory;
//!
//! impl bus::Harness for InMemory {
//!     type Bus = MemoryBus;
//!
//!     async fn connect_twice(&self, limits: BusLimits) -> Result<([MemoryBus; 2], BusDriver)> {
//!         let bus = MemoryBus::with_limits(limits);
//!         Ok(([bus.clone(), bus], Box::pin(std::future::pending())))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Suite::from_args().certify_bus("memory", InMemory).run()
//! }
//! ```
//!
//! Every clause works on channels with a random prefix: a shared server will do. A wait of ten seconds in which nothing comes
//! fails its clause.

mod case;
mod channels;
mod losses;
mod messages;

use std::fmt;
use std::future::Future;

use futures::future::{Either, select};
use sysd_core::Result;
use sysd_core::bus::{AnyBus, Bus, BusLimits};
use sysd_storage::bus::BusDriver;

use super::Failure;
use super::case::Verdict as Checked;
use case::Case;

/// How the suite gets at a bus.
pub trait Harness: Send + Sync + 'static {
    /// The bus to certify.
    type Bus: Bus;

    /// Makes two buses over which the same messages go, as those of two processes, and what drives both. They take what
    /// `limits` says, or less. Called once for every clause.
    ///
    /// # Errors
    /// Every clause then fails with this error: it should say what to do, such as how to start the server.
    fn connect_twice(&self, limits: BusLimits) -> impl Future<Output = Result<([Self::Bus; 2], BusDriver)>> + Send;

    /// Runs a future to its end, called from many threads at once. A bus that needs a runtime overrides it.
    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        futures::executor::block_on(future)
    }
}

/// One numbered sentence of `docs/bus.md`, and its test.
pub struct Clause {
    /// Its number, as the docs cite it: `N2`.
    pub id: &'static str,
    /// What it says, in a few words joined by underscores.
    pub title: &'static str,
    /// How many messages the buffers of its subscriptions hold.
    buffer_messages_max: usize,
    check: for<'a> fn(&'a Case) -> case::Checking<'a>,
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.title)
    }
}

impl Clause {
    /// Tests a bus against it.
    ///
    /// # Errors
    /// [`Failure`] if the bus breaks it, or can't be reached.
    pub fn check(&self, harness: &impl Harness) -> std::result::Result<(), Failure> {
        let mut limits = BusLimits::PROCESS;
        limits.buffer_messages_max = self.buffer_messages_max;
        limits.payload_bytes_max = 256 << 10;
        harness.block_on(async {
            let (buses, driver) = harness.connect_twice(limits).await?;
            let case = Case::new(buses.map(AnyBus::new));
            match select((self.check)(&case), driver).await {
                Either::Left((verdict, _)) => verdict,
                Either::Right(((), _)) => Err(Failure::new("the driver ended by itself")),
            }
        })
    }
}

const fn clause(id: &'static str, title: &'static str, check: for<'a> fn(&'a Case) -> case::Checking<'a>) -> Clause {
    Clause { id, title, buffer_messages_max: 1_024, check }
}

/// Every clause, in the order of the docs.
pub fn clauses() -> &'static [Clause] {
    CLAUSES
}

static CLAUSES: &[Clause] = &[
    clause("N1", "a_publishers_messages_come_in_order", |case| Box::pin(messages::order(case))),
    clause("N2", "every_subscription_gets_every_message_once", |case| Box::pin(messages::everybody(case))),
    clause("N3", "nothing_comes_from_before_the_subscription", |case| Box::pin(messages::earlier(case))),
    clause("N4", "messages_keep_to_their_channel_and_their_bytes", |case| Box::pin(messages::bytes(case))),
    Clause {
        buffer_messages_max: case::SMALL,
        ..clause("N5", "what_is_missing_is_told_in_its_place", |case| Box::pin(losses::slow(case)))
    },
    clause("N6", "what_is_not_listened_to_does_not_come", |case| Box::pin(channels::left(case))),
    clause("N7", "channels_come_and_go", |case| Box::pin(channels::changing(case))),
    clause("N8", "a_dropped_call_loses_nothing_of_others", |case| Box::pin(losses::dropped(case))),
    clause("N9", "what_is_too_large_is_refused_and_what_fits_is_taken", |case| Box::pin(messages::sizes(case))),
];
