//! The stores of this crate against every clause of the contract, each bare, erased, and under all layers; memory also under limits.
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

fn main() -> ExitCode {
    Suite::from_args()
        .certify("memory", InMemory)
        .certify("memory_erased", Erased(InMemory))
        .certify("memory_limited", UnderLimits(InMemory))
        .certify("memory_limited_erased", Erased(UnderLimits(InMemory)))
        .certify("local", OnDisk::open())
        .certify("local_erased", Erased(OnDisk::open()))
        .certify("local_layered", Layered(OnDisk::open()))
        .certify("local_on_threads", OnDisk::with(LocalConfig { reads_on_threads: true, ..LocalConfig::default() }))
        .certify("dynamodb", DYNAMODB)
        .certify("dynamodb_erased", Erased(DYNAMODB))
        .certify("dynamodb_layered", Layered(DYNAMODB))
        .certify("memory_layered", Layered(InMemory))
        .certify("memory_layered_erased", Erased(Layered(InMemory)))
        .certify("memory_limited_layered", Layered(UnderLimits(InMemory)))
        .certify("redis", REDIS)
        .certify("redis_erased", Erased(REDIS))
        .certify("redis_layered", Layered(REDIS))
        .certify("redis_layered_erased", Erased(Layered(REDIS)))
        .certify("redis_cluster", CLUSTER)
        .certify("redis_cluster_erased", Erased(CLUSTER))
        .certify("redis_cluster_layered", Layered(CLUSTER))
        .certify("cassandra", Cassandra)
        .certify("cassandra_erased", Erased(Cassandra))
        .certify("cassandra_layered", Layered(Cassandra))
        .run()
}
