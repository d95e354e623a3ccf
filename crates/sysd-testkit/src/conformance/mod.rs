//! Certifies a store against the clauses of `docs/contract.md`.
//!
//! A backend's author writes a [`Harness`] and a test without libtest's harness (`harness = false`) whose `main` is:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use sysd_core::{ManualClock, Result};
//! use sysd_storage::Memory;
//! use sysd_testkit::conformance::{Erased, Harness, Suite};
//!
//! struct InMemory;
//!
//! impl Harness for InMemory {
//!     type Store = Memory<ManualClock>;
//!
//!     async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
//!         Ok(Memory::with_clock(clock))
//!     }
//!
//!     async fn connect_twice(&self, clock: ManualClock) -> Result<[Self::Store; 2]> {
//!         let store = Memory::with_clock(clock);
//!         Ok([store.clone(), store])
//!     }
//!
//!     fn keeps_bytes(&self) -> bool {
//!         false
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Suite::from_args().certify("memory", InMemory).certify("memory_erased", Erased(InMemory)).run()
//! }
//! ```
//!
//! Every clause is a test of its own, `memory::W2_absent_applies_only_where_nothing_is`, filtered, listed and run in parallel
//! as any cargo test. Each makes a store of its own on a clock of its own, and works in partitions with a random prefix: a
//! shared server will do, and nothing is ever flushed. What the clauses write, they leave behind.
//!
//! Expiry is tested by moving the clock, never by waiting. A call that does not end within two minutes fails its clause.

mod batches;
pub mod bus;
mod cancellation;
mod case;
mod concurrency;
pub mod events;
mod expiry;
mod faults;
mod model;
mod procedures;
mod scans;
mod suite;
mod tally;
mod trims;
mod writes;

use std::fmt;
use std::future::Future;

use sysd_core::{AnyStore, Effect, Error, ErrorKind, Key, ManualClock, Result, Space, Store};

use crate::Limited;

pub use case::Failure;
pub use suite::Suite;

use case::{Bench, Case, Verdict};

/// The spaces that the clauses use: for backends where a space must be made before it is used.
pub const SPACES: [Space; 4] = [TRUTH, OTHER, PLAIN, KEYS];

const TRUTH: Space = Space::conditional("conformance");
const OTHER: Space = Space::conditional("conformance_other");
const PLAIN: Space = Space::plain("conformance_plain");
const KEYS: Space = Space::keys_only("conformance_keys");

/// How the suite gets at a backend.
pub trait Harness: Send + Sync + 'static {
    /// The store to certify.
    type Store: Store;

    /// Makes a store ready to be used, that takes the time from `clock`. Called once for every clause.
    ///
    /// # Errors
    /// Every clause then fails with this error: it should say what to do, such as how to start the server.
    fn connect(&self, clock: ManualClock) -> impl Future<Output = Result<Self::Store>> + Send;

    /// Makes two that share their records and `clock`, and nothing else, as those of two processes: what one writes, the other
    /// sees. Called for clauses of several callers, beside [`Harness::connect`].
    ///
    /// By default it connects twice. A store that lies in this process shares nothing then, and fails: its harness overrides
    /// this and answers two handles to one store.
    ///
    /// # Errors
    /// As [`Harness::connect`].
    fn connect_twice(&self, clock: ManualClock) -> impl Future<Output = Result<[Self::Store; 2]>> + Send {
        async move { Ok([self.connect(clock.clone()).await?, self.connect(clock).await?]) }
    }

    /// Runs a future to its end, called from many threads at once. A store that needs a runtime overrides it: with tokio, a
    /// multi-threaded `Runtime` that the harness holds, and its `block_on`.
    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        futures::executor::block_on(future)
    }

    /// Whether the store keeps records as bytes that could be undecodable. Where it says no, the clauses that need
    /// [`Harness::corrupt`] are listed as ignored, not as passed.
    fn keeps_bytes(&self) -> bool {
        true
    }

    /// Overwrites the stored record `key`, which is there, with bytes that the store can't decode, behind the store's back.
    ///
    /// # Errors
    /// The clauses that need it fail with this error.
    fn corrupt(&self, key: Key<'_>) -> impl Future<Output = Result<()>> + Send {
        let error = Error::new(
            ErrorKind::Unsupported,
            Effect::None,
            "the harness plants no undecodable bytes: implement Harness::corrupt",
        )
        .with_key(key);
        async { Err(error) }
    }
}

/// A harness whose store is reached through [`AnyStore`].
#[derive(Debug)]
pub struct Erased<H>(pub H);

impl<H: Harness> Harness for Erased<H> {
    type Store = AnyStore;

    async fn connect(&self, clock: ManualClock) -> Result<AnyStore> {
        Ok(AnyStore::new(self.0.connect(clock).await?))
    }

    async fn connect_twice(&self, clock: ManualClock) -> Result<[AnyStore; 2]> {
        Ok(self.0.connect_twice(clock).await?.map(AnyStore::new))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn keeps_bytes(&self) -> bool {
        self.0.keeps_bytes()
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        self.0.corrupt(key).await
    }
}

/// A harness whose store is [`Limited`].
#[derive(Debug)]
pub struct UnderLimits<H>(pub H);

impl<H: Harness> Harness for UnderLimits<H> {
    type Store = Limited<H::Store, ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(Limited::new(self.0.connect(clock.clone()).await?, clock))
    }

    async fn connect_twice(&self, clock: ManualClock) -> Result<[Self::Store; 2]> {
        let stores = self.0.connect_twice(clock.clone()).await?;
        Ok(stores.map(|store| Limited::new(store, clock.clone())))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn keeps_bytes(&self) -> bool {
        self.0.keeps_bytes()
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        self.0.corrupt(key).await
    }
}

/// One numbered sentence of `docs/contract.md`, and its test.
pub struct Clause {
    /// Its number, as the contract and the docs of `sysd-core` cite it: `W2`.
    pub id: &'static str,
    /// What it says, in a few words joined by underscores.
    pub title: &'static str,
    needs_corrupt: bool,
    check: fn(&Case<'_>) -> Verdict,
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.title)
    }
}

impl Clause {
    /// Whether a backend of this harness can break it.
    pub fn applies(&self, harness: &impl Harness) -> bool {
        !self.needs_corrupt || harness.keeps_bytes()
    }

    /// Tests a store against it.
    ///
    /// # Errors
    /// [`Failure`] if the store breaks it, or can't be reached.
    pub fn check(&self, harness: &impl Harness) -> std::result::Result<(), Failure> {
        let bench: &dyn Bench = harness;
        (self.check)(&Case::new(bench)?)
    }
}

const fn clause(id: &'static str, title: &'static str, check: fn(&Case<'_>) -> Verdict) -> Clause {
    Clause { id, title, needs_corrupt: false, check }
}

/// Every clause, in the order of the contract.
pub fn clauses() -> &'static [Clause] {
    CLAUSES
}

static CLAUSES: &[Clause] = &[
    clause("R1", "a_record_is_whole", concurrency::whole),
    clause("R2", "a_record_is_linearizable", concurrency::linearizable),
    clause("K1", "different_keys_are_different_records", |case| case.run(writes::keys(case))),
    clause("K2", "bytes_come_back_as_they_were_put", |case| case.run(writes::values(case))),
    clause("K3", "a_lone_record_is_no_row", |case| case.run(scans::lone(case))),
    clause("E1", "an_expired_record_is_absent_for_get", |case| case.run(expiry::get(case))),
    clause("E2", "an_expired_record_is_absent_for_get_many", |case| case.run(expiry::get_many(case))),
    clause("E3", "an_expired_row_is_absent_for_scan", |case| case.run(expiry::scan(case))),
    clause("E4", "an_expired_record_is_absent_for_conditions", |case| case.run(expiry::conditions(case))),
    clause("E5", "an_expired_record_is_absent_for_update", |case| case.run(expiry::update(case))),
    clause("E6", "an_expired_row_does_not_count_for_trim", |case| case.run(expiry::trim(case))),
    clause("E7", "a_put_replaces_the_expiry", |case| case.run(expiry::replaced(case))),
    clause("F1", "a_bad_argument_is_refused_by_name", |case| case.run(faults::invalid(case))),
    clause("F2", "what_is_too_large_is_refused_and_what_fits_is_taken", |case| case.run(faults::too_large(case))),
    Clause {
        id: "F3",
        title: "undecodable_bytes_are_corrupt_and_never_absent",
        needs_corrupt: true,
        check: |case| case.run(faults::corrupt(case)),
    },
    clause("C1", "a_dropped_write_happened_or_not", |case| {
        let [one, other] = &case.connect_twice()?;
        case.run(cancellation::write(one, other))
    }),
    clause("C2", "a_dropped_update_happened_once_or_not", |case| case.run(cancellation::update(case))),
    clause("C3", "a_dropped_call_harms_no_other", |case| case.run(cancellation::others(case))),
    clause("B1", "a_batch_is_answered_one_by_one_in_order", |case| case.run(batches::order(case))),
    clause("B2", "a_write_in_a_batch_is_a_write", |case| case.run(batches::conditions(case))),
    clause("B3", "a_failure_in_a_batch_is_only_its_own", |case| case.run(batches::partial(case))),
    clause("W1", "any_applies_whatever_is_there", |case| case.run(writes::any(case))),
    clause("W2", "absent_applies_only_where_nothing_is", |case| case.run(writes::absent(case))),
    clause("W3", "is_applies_only_to_that_version", |case| case.run(writes::is(case))),
    clause("W4", "a_conflict_says_what_is_there", |case| case.run(writes::conflict(case))),
    clause("W5", "a_record_made_again_is_another", |case| case.run(writes::aba(case))),
    clause("W6", "a_write_recognises_itself", |case| {
        let [one, other] = &case.connect_twice()?;
        case.run(writes::own(one, other))
    }),
    clause("W7", "concurrent_conditional_writes_lose_nothing", concurrency::increments),
    clause("W8", "a_plain_space_takes_unconditional_writes", |case| case.run(writes::plain(case))),
    clause("W9", "a_space_of_keys_only_keeps_keys", |case| case.run(writes::keys_only(case))),
    clause("S1", "rows_come_in_the_order_of_bytes", |case| case.run(scans::order(case))),
    clause("S2", "bounds_are_exact", |case| case.run(scans::bounds(case))),
    clause("S3", "descending_is_the_same_backwards", |case| case.run(scans::descending(case))),
    clause("S4", "pages_add_up", |case| case.run(scans::pages(case))),
    clause("S5", "what_stays_is_seen_once", |case| case.run(scans::meanwhile(case))),
    clause("S6", "a_scan_sees_whole_records_of_its_partition_only", |case| case.run(scans::scope(case))),
    clause("T1", "a_trim_keeps_the_end_asked_for", |case| case.run(trims::ends(case))),
    clause("T2", "a_trim_is_bounded_and_says_whether_more_may_be_left", |case| case.run(trims::bounded(case))),
    clause("T3", "a_trim_touches_its_partition_only", |case| case.run(trims::scope(case))),
    clause("P1", "concurrent_procedures_run_once_each", concurrency::procedures),
    clause("P2", "a_procedure_equals_its_rust_twin", |case| case.run(procedures::twin(case))),
    clause("P3", "an_update_that_puts_is_a_new_version", |case| case.run(procedures::versions(case))),
    clause("P4", "a_procedure_that_fails_changes_nothing", |case| case.run(procedures::failures(case))),
    clause("P5", "numbers_are_exact_to_2_53", |case| case.run(procedures::numbers(case))),
    clause("M1", "random_histories_equal_the_model", |case| case.run(model::histories(case))),
];
