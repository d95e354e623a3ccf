//! The keyspace and its two tables.

use std::collections::BTreeMap;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::Statement;
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::config::ScyllaConfig;
use super::error::{Access, map};

pub(super) const CONDITIONAL: &str = "sysd_conditional";
pub(super) const PLAIN: &str = "sysd_plain";

/// What [`ScyllaStore::create_schema`](crate::ScyllaStore::create_schema) makes.
#[derive(Clone, Debug)]
pub struct ScyllaSchema {
    /// Replicas by datacenter; under the name `replication_factor`, that of every datacenter.
    pub replicas: BTreeMap<String, u16>,
    /// How long a removed row leaves a tombstone (`gc_grace_seconds`). A node that was away for longer, without a repair, may
    /// bring rows back to life; the shorter, the sooner a partition full of tombstones can be read again.
    pub gc_grace: Duration,
}

impl ScyllaSchema {
    /// So many replicas in every datacenter; tombstones stay ten days.
    pub fn replicated(replicas: u16) -> Self {
        let replicas = BTreeMap::from([("replication_factor".to_owned(), replicas)]);
        Self { replicas, gc_grace: Duration::from_secs(10 * 24 * 60 * 60) }
    }

    fn check(&self) -> Result<()> {
        let wrong = |message| Err(Error::new(ErrorKind::Config, Effect::None, message));
        if self.replicas.is_empty() || self.replicas.values().any(|&count| count == 0) {
            return wrong("name at least one datacenter, each with at least one replica");
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if self.replicas.keys().any(|name| name.is_empty() || !name.bytes().all(good)) {
            return wrong("a datacenter's name has letters, digits, _, - and .");
        }
        Ok(())
    }
}

/// What the server is, as far as the schema depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// Cassandra, or a ScyllaDB without tablets: neither knows the word.
    WithoutTablets,
    /// A ScyllaDB that would put new keyspaces on tablets, where some versions refuse Paxos.
    WithTablets,
}

impl Server {
    /// Tells by the names of the tables in the keyspace `system`: only a ScyllaDB that knows tablets has that one.
    pub(super) fn detect<'a>(system_tables: impl IntoIterator<Item = &'a str>) -> Self {
        if system_tables.into_iter().any(|table| table == "tablets") { Self::WithTablets } else { Self::WithoutTablets }
    }
}

/// A table's name in statements.
pub(super) fn table(keyspace: &str, name: &str) -> String {
    format!("\"{keyspace}\".{name}")
}

fn create_keyspace(keyspace: &str, schema: &ScyllaSchema, server: Server) -> String {
    let replicas: Vec<_> = schema.replicas.iter().map(|(name, count)| format!(", '{name}': {count}")).collect();
    let replicas = replicas.concat();
    let tablets = match server {
        Server::WithTablets => " AND tablets = {'enabled': false}",
        Server::WithoutTablets => "",
    };
    format!(
        "CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" \
         WITH replication = {{'class': 'NetworkTopologyStrategy'{replicas}}}{tablets}"
    )
}

fn create_table(keyspace: &str, name: &str, schema: &ScyllaSchema) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (space text, partition blob, lone boolean, sort blob, \
         record blob, version blob, expires_at bigint, PRIMARY KEY ((space, partition, lone), sort)) \
         WITH id = {} AND gc_grace_seconds = {}",
        table(keyspace, name),
        table_id(keyspace, name),
        schema.gc_grace.as_secs().min(i32::MAX.unsigned_abs().into()),
    )
}

/// The same id for the same table, whoever makes it: of two that make it at once on different nodes, each has made the same.
/// With ids of their own, one would go on with a table that the schema no longer knows.
///
/// A UUID of version 8 (RFC 9562, what an application makes up), its bits by FNV-1a (Fowler, Noll, Vo) of 128 bits.
fn table_id(keyspace: &str, name: &str) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let text = ["sysd/1", keyspace, name].join("/");
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    let id = hash & !(0xF << 76) & !(0b11 << 62) | 0x8 << 76 | 0b10 << 62;
    let digits = format!("{id:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Makes what is missing.
pub(super) async fn create(session: &Session, config: &ScyllaConfig, schema: &ScyllaSchema) -> Result<()> {
    schema.check()?;
    let server = detect(session).await?;
    run(session, create_keyspace(&config.keyspace, schema, server)).await?;
    for name in [CONDITIONAL, PLAIN] {
        run(session, create_table(&config.keyspace, name, schema)).await?;
    }
    Ok(())
}

async fn detect(session: &Session) -> Result<Server> {
    let mut statement = Statement::new("SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'system'");
    statement.set_is_idempotent(true);
    let result = session.query_unpaged(statement, ()).await.map_err(|error| map(&error, Access::Read))?;
    let unexpected = || super::layout::unexpected(Access::Read);
    let rows = result.into_rows_result().map_err(|_| unexpected())?;
    let names = rows.rows::<(&str,)>().map_err(|_| unexpected())?;
    let names: std::result::Result<Vec<_>, _> = names.map(|name| name.map(|(name,)| name)).collect();
    Ok(Server::detect(names.map_err(|_| unexpected())?))
}

/// Runs a change of the schema, and waits until the nodes agree on it.
async fn run(session: &Session, text: String) -> Result<()> {
    match session.query_unpaged(text, ()).await {
        Ok(_) => Ok(()),
        // Another was quicker.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::AlreadyExists { .. }, _))) => {
            session.await_schema_agreement().await.map(|_| ()).map_err(|error| map(&error.into(), Access::Plain))
        }
        Err(error) => Err(map(&error, Access::Plain)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tablets_are_turned_off_where_they_are_known() {
        // What each has in its keyspace `system`, in part.
        let cassandra = ["IndexInfo", "batches", "local", "paxos", "peers_v2", "sstable_activity_v2"];
        let scylla_5 = ["IndexInfo", "local", "paxos", "scylla_local", "truncated", "versions"];
        let scylla_6 = ["IndexInfo", "local", "paxos", "scylla_local", "tablets", "topology"];
        assert_eq!(Server::detect(cassandra), Server::WithoutTablets);
        assert_eq!(Server::detect(scylla_5), Server::WithoutTablets);
        assert_eq!(Server::detect(scylla_6), Server::WithTablets);
        let schema = ScyllaSchema::replicated(3);
        assert_eq!(
            create_keyspace("app", &schema, Server::WithTablets),
            "CREATE KEYSPACE IF NOT EXISTS \"app\" WITH replication = {'class': 'NetworkTopologyStrategy', \
             'replication_factor': 3} AND tablets = {'enabled': false}"
        );
        assert!(!create_keyspace("app", &schema, Server::WithoutTablets).contains("tablets"));
    }

    #[test]
    fn a_table_has_the_same_id_whoever_makes_it() {
        assert_eq!(table_id("app", PLAIN), table_id("app", PLAIN));
        assert_ne!(table_id("app", PLAIN), table_id("app", CONDITIONAL));
        assert_ne!(table_id("app", PLAIN), table_id("other", PLAIN));
        let id = table_id("app", PLAIN);
        assert_eq!((id.len(), &id[14..15]), (36, "8"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }

    #[test]
    fn refuses_names_that_would_be_statements() {
        let schema = |name: &str, count| ScyllaSchema {
            replicas: BTreeMap::from([(name.to_owned(), count)]),
            ..ScyllaSchema::replicated(1)
        };
        assert!(schema("dc-1.eu_west", 3).check().is_ok());
        for bad in [schema("", 1), schema("dc'", 1), schema("dc", 0)] {
            assert_eq!(bad.check().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
