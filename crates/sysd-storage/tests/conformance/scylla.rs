//! Cassandra.

use std::future::Future;

use ::scylla::client::session::Session;
use ::scylla::client::session_builder::SessionBuilder;
use sysd_core::{Effect, Error, ErrorKind, Key, ManualClock, Result, SystemClock};
use sysd_storage::{ScyllaConfig, ScyllaSchema, ScyllaStore};
use sysd_testkit::conformance::Harness;
use tokio::sync::OnceCell;

use crate::RUNTIME;

const VARIABLE: &str = "SYSD_TEST_CASSANDRA_URL";

/// The server that the variable names, its keyspace made if it is missing.
pub(crate) struct Cassandra;

/// Connecting takes longer than most clauses: they share the connections, each with a clock of its own.
static STORE: OnceCell<ScyllaStore> = OnceCell::const_new();
/// To write behind the store's back.
static FOREIGN: OnceCell<Session> = OnceCell::const_new();

fn config() -> Result<ScyllaConfig> {
    let url = std::env::var(VARIABLE).map_err(|_| {
        let message = format!("{VARIABLE} is not set: run `cargo xtask servers up` and export what it prints");
        Error::new(ErrorKind::Config, Effect::None, message)
    })?;
    let mut config = ScyllaConfig::from_url(&url)?;
    // The largest values take their time on a busy machine.
    config.request_timeout = std::time::Duration::from_secs(20);
    config.connect_timeout = std::time::Duration::from_secs(20);
    Ok(config)
}

async fn connect() -> Result<ScyllaStore> {
    let config = config()?;
    ScyllaStore::create_schema(&config, &ScyllaSchema::replicated(1)).await?;
    ScyllaStore::connect_with(config, SystemClock).await
}

fn told(error: &impl std::error::Error) -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, error.to_string())
}

async fn foreign() -> Result<Session> {
    SessionBuilder::new().known_nodes(config()?.contact_points).build().await.map_err(|error| told(&error))
}

impl Harness for Cassandra {
    type Store = ScyllaStore<ManualClock>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(STORE.get_or_try_init(connect).await?.with_clock(clock))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        let sort: &[u8] = if key.is_lone() { &[0] } else { key.sort() };
        let text = format!(
            "UPDATE \"{}\".sysd_conditional SET record = ? \
             WHERE space = ? AND partition = ? AND lone = ? AND sort = ?",
            config()?.keyspace
        );
        let values = (b"\xFFforeign".as_slice(), key.space().name(), key.partition(), key.is_lone(), sort);
        let session = FOREIGN.get_or_try_init(foreign).await?;
        session.query_unpaged(text, values).await.map(|_| ()).map_err(|error| told(&error))
    }
}
