//! Redis, one node and a Cluster.

use std::future::Future;
use std::time::Duration;

use sysd_core::{Effect, Error, ErrorKind, Key, ManualClock, Result};
use sysd_storage::{RedisConfig, RedisStore};
use sysd_testkit::conformance::Harness;

use crate::RUNTIME;

pub(crate) const REDIS: OnRedis = OnRedis { variable: "SYSD_TEST_REDIS_URL" };
pub(crate) const CLUSTER: OnRedis = OnRedis { variable: "SYSD_TEST_REDIS_CLUSTER_URL" };

const PREFIX: &str = "conformance:";

/// The server that a variable names.
pub(crate) struct OnRedis {
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
