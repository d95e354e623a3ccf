//! The stores of this crate against every clause of the contract, each bare, erased, under all layers, and both; memory also
//! under limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/directory.rs"]
mod directory;
mod dynamodb;
mod layered;
mod local;
mod redis;
mod scylla;

use std::process::ExitCode;
use std::sync::LazyLock;

use sysd_core::{ManualClock, Result};
use sysd_storage::{LocalConfig, Memory};
use sysd_testkit::conformance::{Erased, Harness, Suite, UnderLimits};
use tokio::runtime::Runtime;

use crate::dynamodb::DYNAMODB;
use crate::layered::Layered;
use crate::local::OnDisk;
use crate::redis::{CLUSTER, REDIS};
use crate::scylla::Cassandra;

/// One for all clauses: their threads only wait for it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

struct InMemory;

impl Harness for InMemory {
    type Store = Memory<ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(Memory::with_clock(clock))
    }

    async fn connect_twice(&self, clock: ManualClock) -> Result<[Self::Store; 2]> {
        let store = Memory::with_clock(clock);
        Ok([store.clone(), store])
    }

    /// Records lie there as values: no byte has to be decoded.
    fn keeps_bytes(&self) -> bool {
        false
    }
}

/// A store bare, erased, under all layers, and both.
fn in_every_form<H: Harness>(suite: Suite, name: &str, make: impl Fn() -> H) -> Suite {
    suite
        .certify(name, make())
        .certify(&format!("{name}_erased"), Erased(make()))
        .certify(&format!("{name}_layered"), Layered(make()))
        .certify(&format!("{name}_layered_erased"), Erased(Layered(make())))
}

fn main() -> ExitCode {
    let mut suite = Suite::from_args();
    suite = in_every_form(suite, "memory", || InMemory);
    suite = in_every_form(suite, "memory_limited", || UnderLimits(InMemory));
    suite = in_every_form(suite, "local", OnDisk::open);
    suite = in_every_form(suite, "dynamodb", || DYNAMODB);
    suite = in_every_form(suite, "redis", || REDIS);
    suite = in_every_form(suite, "redis_cluster", || CLUSTER);
    suite = in_every_form(suite, "cassandra", || Cassandra);
    let on_threads = LocalConfig { reads_on_threads: true, ..LocalConfig::default() };
    suite.certify("local_on_threads", OnDisk::with(on_threads)).run()
}
