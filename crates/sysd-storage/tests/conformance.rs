//! The stores of this crate against every clause of the contract, each bare, erased, and memory also under limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use sysd_core::{Effect, Error, ErrorKind, Key, ManualClock, Result};
use sysd_storage::{Memory, RedisConfig, RedisStore};
use sysd_testkit::conformance::{Erased, Harness, Suite, UnderLimits};
use tokio::runtime::Runtime;

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

    /// Records lie there as values: no byte has to be decoded.
    fn keeps_bytes(&self) -> bool {
        false
    }
}

const PREFIX: &str = "conformance:";

/// The server that a variable names.
struct OnRedis {
    variable: &'static str,
}

impl OnRedis {
    fn url(&self) -> Result<String> {
        std::env::var(self.variable).map_err(|_| {
            let message =
                format!("{} is not set: run `cargo xtask servers up` and export what it prints", self.variable);
            Error::new(ErrorKind::Config, Effect::None, message)
        })
    }
}

impl OnRedis {
    fn nodes(&self) -> Result<Vec<String>> {
        let url = self.url()?;
        let Some(nodes) = url.strip_prefix("redis-cluster://") else { return Ok(vec![url]) };
        Ok(nodes.trim_end_matches('/').split(',').map(|node| format!("redis://{node}/")).collect())
    }
}

impl Harness for OnRedis {
    type Store = RedisStore<ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        // The largest values take their time on a busy machine.
        let response_timeout = Duration::from_secs(20);
        let config = RedisConfig { prefix: PREFIX.to_owned(), response_timeout, ..RedisConfig::default() };
        RedisStore::connect_with(&self.url()?, config, clock).await
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        // The partitions of the suite hold nothing that the layout escapes.
        let name = [PREFIX.as_bytes(), b"{", key.space().name().as_bytes(), b":", key.partition(), b"}"].concat();
        let command = if key.is_lone() {
            redis::cmd("SET").arg(name).arg("foreign").to_owned()
        } else {
            redis::cmd("HSET").arg([&name, b":rows".as_slice()].concat()).arg(key.sort()).arg("foreign").to_owned()
        };
        let mut last = Error::new(ErrorKind::Config, Effect::None, "the URL names no node");
        // One of a Cluster's masters takes it, the others redirect.
        for node in self.nodes()? {
            match send(&node, &command).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Error::new(ErrorKind::Unavailable, Effect::Unknown, error.to_string()),
            }
        }
        Err(last)
    }
}

async fn send(node: &str, command: &redis::Cmd) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(node)?.get_multiplexed_async_connection().await?;
    command.query_async(&mut connection).await
}

const REDIS: OnRedis = OnRedis { variable: "SYSD_TEST_REDIS_URL" };
const CLUSTER: OnRedis = OnRedis { variable: "SYSD_TEST_REDIS_CLUSTER_URL" };

fn main() -> ExitCode {
    Suite::from_args()
        .certify("memory", InMemory)
        .certify("memory_erased", Erased(InMemory))
        .certify("memory_limited", UnderLimits(InMemory))
        .certify("memory_limited_erased", Erased(UnderLimits(InMemory)))
        .certify("redis", REDIS)
        .certify("redis_erased", Erased(REDIS))
        .certify("redis_cluster", CLUSTER)
        .certify("redis_cluster_erased", Erased(CLUSTER))
        .run()
}
