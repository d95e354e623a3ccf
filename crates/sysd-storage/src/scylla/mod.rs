//! Cassandra and ScyllaDB.
//!
//! # Layout
//! Two tables in a keyspace of yours, `sysd_conditional` and `sysd_plain`, both
//!
//! | column | type | |
//! |---|---|---|
//! | `space` | text | partition key |
//! | `partition` | blob | partition key |
//! | `lone` | boolean | partition key: a lone record lies in a partition of its own, so scans never meet it and its Paxos rounds are its own |
//! | `sort` | blob | clustering key |
//! | `record` | blob | a format byte and the value |
//! | `version` | blob | 16 bytes |
//! | `expires_at` | bigint | microseconds since 1970; the greatest number: never |
//!
//! Two, and not one a space: spaces come without notice, and changing the schema takes a cluster seconds and an operator's
//! trust. Two, and not one: no statement of a plain space can touch a row that is written by Paxos. Every put writes all
//! three columns, never a null and never a row marker, so a record lives and dies as a whole.
//! [`ScyllaStore::create_schema`] makes keyspace and tables; it may run on every start, and on several callers at once.
//!
//! # Conditional spaces
//! Every write is a lightweight transaction (LWT), also an unconditional one: its condition is one that always holds. Every
//! read is `SERIAL`. In round trips from here; each LWT is four among the replicas (two with ScyllaDB's or Cassandra's
//! newer Paxos), a `SERIAL` read two:
//!
//! | call | statements |
//! |---|---|
//! | `get`, a fetch of `scan` | one read; a page is one fetch, or two where [more rows are wanted](ScyllaConfig::value_bytes_max) than might fit |
//! | `write` | one LWT, a conflict brings the record; `Absent` where an expired record has not been reclaimed: two |
//! | `write_many` | an LWT for up to 100 unconditional writes of a partition; one each for the others, one after the other in a partition |
//! | `update` | a read and an LWT; another LWT for each lost round, and after three of them a read before each |
//! | `trim` | a read of the sort keys that stay and go, one LWT |
//!
//! Paxos works on a partition, not on a row: rivals on rows of one partition are rivals. Callers of one store take turns
//! ([`ScyllaConfig::partition_in_flight_max`]); spread what is written from many processes over partitions. Writes and trims of
//! conditional spaces run in tasks of the runtime: one whose caller is gone keeps its turn until it has ended.
//!
//! Procedures of one store also take turns at their record, one for each round of reading, deciding and writing: alone in its
//! process, a round is lost only to other processes and to writes. In the pause after a lost round others have their turns.
//!
//! # Plain spaces
//! Unconditional writes with the client's timestamps, reads and writes by [`ScyllaConfig::consistency`]; writes of rows of
//! one partition go in unlogged batches. Of two writes the one with the later timestamp stays: keep callers' clocks in step.
//!
//! # Expiry
//! Exact, by the caller's clock: what is expired is filtered on every read and is part of every condition. The servers' TTL,
//! in whole seconds by their own clocks, only reclaims: it ends a minute later than the record (a day, where the clock is not
//! real time), so no clock that differs by less sees a row vanish early. The TTL of an LWT counts from its commit by the
//! coordinator's clock, and its cells carry the timestamp of its Paxos ballot, whatever the client says; both are within
//! that minute. What expires after the year 2037 gets no TTL, which Cassandra 4 can't store: it is filtered, and stays.
//!
//! # Durability
//! Stock nodes answer before the commit log is on the disk: they sync it every ten seconds. So the store promises
//! [`BestEffort`](sysd_core::Durability::BestEffort), unless [`ScyllaConfig::durability`] (or `?durability=durable` in the URL)
//! says that the nodes sync before they answer, or that there are replicas enough.
//!
//! # What failed writes did
//! Nothing is ever sent twice: no retries, no speculation. (A node that has forgotten a prepared statement has not carried it
//! out; the driver prepares it again.) A timeout of a write is of unknown effect, whatever its type: a plain write may have
//! reached some replicas; an LWT may have been accepted, and then the next round on that partition, a read's too, commits it.
//! Too few live replicas is without effect, unless an LWT learns it at its commit. A read is never of unknown effect.
//!
//! # Tombstones
//! A removed row leaves a tombstone for `gc_grace_seconds`, and Cassandra refuses reads that meet 100,000 of them. A trim leaves
//! one for all its rows: it reaches beyond the last row to that end of the partition, so it replaces those of the trims
//! before it, and a partition that is trimmed and filled for ever is read as one that never was. Rows that are deleted, or
//! expire, one by one do pile up: trim instead, start scans behind what is gone, or use a new partition in time.
//! ScyllaDB answers such reads in short pages.
//!
//! # What ran where
//! The conformance suite, faults (SIGKILL, SIGSTOP; one node, and three with a replication factor of 3) and benches ran on
//! Cassandra 5.0.5. ScyllaDB was not at hand: statements keep to what both speak (by its documentation and source: a
//! condition `!=` holds where the row is absent; an LWT's answer always has the row), tablets are turned off where a
//! ScyllaDB knows them, and both are tested without one.
//!
//! The driver keeps connections and the cluster's map in tasks of its own, in the Tokio runtime that the store is made in;
//! they end with the last clone.

mod batch;
mod carry;
mod config;
mod error;
mod gate;
mod layout;
mod rows;
mod schema;
mod statements;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::ColumnIterator;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::timestamp_generator::MonotonicTimestampGenerator;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use sysd_core::{
    Change, Clock, ClockAuthority, Effect, ErasedProcedure, Error, ErrorKind, Expect, Key, Limits, Outcome,
    OutputBytes, Page, Record, Result, Scan, Space, Store, SystemClock, Timestamp, Trim, Trimmed, Write,
};

pub use config::{ScyllaConfig, ScyllaConsistency, ScyllaSerial};
pub use schema::ScyllaSchema;

use carry::{Caller, OwnedWrite, carried};
use error::{Access, map, map_connect, overdue};
use gate::Gates;
use layout::{Answer, Columns, Values, read_answer, read_row, stored_expiry, unexpected};
use statements::{Statements, Table};

const RECLAIM_GRACE: Duration = Duration::from_secs(60);
const RECLAIM_GRACE_DRIVEN: Duration = Duration::from_secs(24 * 60 * 60);
/// The last second that Cassandra 4 can let a cell expire at, less a day for clocks that differ.
const TTL_END: Duration = Duration::from_secs((1 << 31) - 2 - 24 * 60 * 60);
/// Of a clock that is not real time nothing is known of how far the server's is ahead.
const TTL_DRIVEN_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How often a write may find that what was there has expired or gone, before others count as winning.
const ROUNDS_MAX: usize = 16;

/// Records on Cassandra or ScyllaDB. Clones share the connections.
///
/// # Cancel safety
/// A write whose future is dropped may happen, as if its reply was lost. In a conditional space one that still waits for its turn
/// at the partition is not sent; one that has its turn is carried to its end all the same, and calls of this store and its clones
/// at that partition come after it.
///
/// A future that is neither polled nor dropped keeps its turn, or its place in line: a read's at the partition, a procedure's in the
/// middle of a round at the record, and at the partition while it reads. Who comes after it ends in a
/// [`Timeout`](ErrorKind::Timeout) without effect.
pub struct ScyllaStore<C = SystemClock> {
    shared: Arc<Shared>,
    clock: Arc<C>,
    limits: Limits,
}

impl<C> Clone for ScyllaStore<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), clock: Arc::clone(&self.clock), limits: self.limits }
    }
}

struct Shared {
    session: Arc<Session>,
    statements: Statements,
    gates: Gates,
    /// Of procedures, at their records.
    procedures: Gates,
    config: ScyllaConfig,
}

impl<C> fmt::Debug for ScyllaStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScyllaStore").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl ScyllaStore {
    /// Makes the keyspace and the tables, where they are missing: on Cassandra 4.1 or later, or ScyllaDB, where it turns
    /// tablets off for the keyspace. What is there is left as it is. Needs a Tokio runtime.
    ///
    /// Several callers may do so at once: a table has the same id whoever makes it.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if `schema` can't be; as [`ScyllaStore::connect`] else.
    ///
    /// # Cancel safety
    /// Dropped, it may have made a part; call it again.
    pub async fn create_schema(config: &ScyllaConfig, schema: &ScyllaSchema) -> Result<()> {
        let session = connect(config).await?;
        let patience = config.connect_timeout.saturating_add(config.request_timeout.saturating_mul(3));
        let made = tokio::time::timeout(patience, schema::create(&session, config, schema)).await;
        made.unwrap_or_else(|_| Err(overdue(Effect::Unknown)))
    }

    /// Connects by the system's clock to what a URL names: see [`ScyllaConfig::from_url`].
    ///
    /// # Errors
    /// As [`ScyllaStore::connect_with`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(ScyllaConfig::from_url(url)?, SystemClock).await
    }
}

impl<C: Clock> ScyllaStore<C> {
    /// Connects as `config` says, by `clock`. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if `config` can't be, or the keyspace or its tables are missing;
    /// [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) or [`Denied`](ErrorKind::Denied) if there is no
    /// way in. The password is in none of them.
    pub async fn connect_with(config: ScyllaConfig, clock: C) -> Result<Self> {
        let session = Arc::new(connect(&config).await?);
        let prepared = tokio::time::timeout(config.connect_timeout, Statements::prepare(&session, &config)).await;
        let statements = prepared.map_err(|_| overdue(Effect::None))??;
        let gates = Gates::new(config.partition_in_flight_max, config.request_timeout);
        let procedures = Gates::new(1, config.request_timeout);
        let mut limits = Limits::PROCESS;
        // Keys are as long as in other stores, so that what fits there fits here; Cassandra would take 64 KB.
        limits.value_bytes_max = config.value_bytes_max;
        limits.batch_records_max = batch::BATCH_WRITES_MAX;
        limits.ttl_grain = Duration::from_secs(1);
        limits.durability = config.durability;
        limits.clock = ClockAuthority::Client;
        Ok(Self {
            shared: Arc::new(Shared { session, statements, gates, procedures, config }),
            clock: Arc::new(clock),
            limits,
        })
    }

    /// The same records over the same connections by another clock: for replays, in which each caller has its own time.
    pub fn with_clock<D: Clock>(&self, clock: D) -> ScyllaStore<D> {
        ScyllaStore { shared: Arc::clone(&self.shared), clock: Arc::new(clock), limits: self.limits }
    }
}

async fn connect(config: &ScyllaConfig) -> Result<Session> {
    config.check()?;
    let profile = ExecutionProfile::builder()
        .request_timeout(Some(config.request_timeout))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .speculative_execution_policy(None)
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .connection_timeout(config.connect_timeout)
        .hostname_resolution_timeout(Some(config.connect_timeout))
        .metadata_request_clientside_timeout(config.connect_timeout)
        // A node that fell silent is given up after two of them.
        .keepalive_interval(config.request_timeout)
        .keepalive_timeout(config.request_timeout)
        .default_execution_profile_handle(profile.into_handle())
        .timestamp_generator(Arc::new(MonotonicTimestampGenerator::new()))
        // Where replicas lie has to be known; the tables' columns come with the statements.
        .fetch_full_schema_metadata(false)
        .keyspaces_to_fetch([&config.keyspace])
        .pool_size(PoolSize::default());
    if let Some((user, password)) = &config.credentials {
        builder = builder.user(user, password);
    }
    match tokio::time::timeout(config.connect_timeout, builder.build()).await {
        Ok(session) => session.map_err(|error| map_connect(&error)),
        Err(_) => Err(overdue(Effect::None)),
    }
}

/// Where a write takes place.
fn access(space: Space) -> Access {
    if space.is_conditional() { Access::Conditional } else { Access::Plain }
}

impl<C: Clock> ScyllaStore<C> {
    fn table(&self, space: Space) -> &Table {
        let statements = &self.shared.statements;
        if space.is_conditional() { &statements.conditional } else { &statements.plain }
    }

    async fn run(
        &self,
        statement: &PreparedStatement,
        values: &Values<'_>,
        key: Key<'_>,
        access: Access,
    ) -> Result<QueryResult> {
        let done = self.shared.session.execute_unpaged(statement, values).await;
        done.map_err(|error| map(&error, access).with_key(key))
    }

    /// Runs a conditional statement.
    async fn ask(&self, statement: &PreparedStatement, values: &Values<'_>, key: Key<'_>) -> Result<Answer> {
        read_answer(self.run(statement, values, key, Access::Conditional).await?, key)
    }

    /// A turn at a partition, where Paxos works, as long as the caller waits for it.
    async fn turn(&self, key: Key<'_>, caller: &mut Caller) -> Result<Option<tokio::sync::SemaphorePermit<'_>>> {
        if !key.space().is_conditional() {
            return Ok(None);
        }
        self.shared.gates.enter(key, caller).await.map(Some)
    }

    /// Seconds after which the server may reclaim what expires then; zero: never.
    fn ttl(&self, expires_at: Option<Timestamp>, now: Timestamp) -> i32 {
        let Some(at) = expires_at else { return 0 };
        let is_real_time = self.clock.is_real_time();
        let grace = if is_real_time { RECLAIM_GRACE } else { RECLAIM_GRACE_DRIVEN };
        let life = at.saturating_since(now);
        let is_storable = at.saturating_since(Timestamp::UNIX_EPOCH) + grace < TTL_END;
        if !is_storable || (!is_real_time && life > TTL_DRIVEN_MAX) {
            return 0;
        }
        i32::try_from(life.as_micros().div_ceil(1_000_000) + u128::from(grace.as_secs())).unwrap_or(0)
    }

    /// The values of a write's statement.
    fn values<'a>(&self, write: &'a Write<'_>, now: Timestamp) -> Values<'a> {
        let mut values = Values { now: stored_expiry(Some(now)), ..Values::of(write.key) };
        if let Change::Put { value, version, expires_at } = &write.change {
            values.value = value;
            values.version = version.to_bytes();
            values.expires_at = stored_expiry(*expires_at);
            values.ttl = self.ttl(*expires_at, now);
        }
        values
    }

    async fn read(&self, key: Key<'_>) -> Result<Option<Record>> {
        let result = self.run(&self.table(key.space()).get, &Values::of(key), key, Access::Read).await?;
        let unexpected = || unexpected(Access::Read).with_key(key);
        let rows = result.into_rows_result().map_err(|_| unexpected())?;
        let Some(row) = rows.maybe_first_row::<ColumnIterator<'_, '_>>().map_err(|_| unexpected())? else {
            return Ok(None);
        };
        // The answer is this record and little more: its value may hold on to it.
        let (_, columns) = read_row(row, false)?;
        self.live(key, columns)
    }

    fn live(&self, key: Key<'_>, columns: Columns) -> Result<Option<Record>> {
        Ok(columns.decode(key)?.filter(|record| record.expires_at.is_none() || !record.is_expired(self.clock.now())))
    }

    /// A write that was found to be right.
    async fn write_checked(&self, write: &Write<'_>, caller: &mut Caller) -> Result<Outcome> {
        let key = write.key;
        // The time after the wait: by that of before, what expired meanwhile would still be there.
        let _turn = self.turn(key, caller).await?;
        let values = self.values(write, self.clock.now());
        let table = self.table(key.space());
        let is_put = matches!(write.change, Change::Put { .. });
        let statement = if is_put { &table.put } else { &table.delete };
        if !key.space().is_conditional() {
            self.run(statement, &values, key, Access::Plain).await?;
            return Ok(Outcome::Applied);
        }
        match (write.expect, is_put) {
            (Expect::Any, true) => match self.ask(statement, &values, key).await? {
                Answer::Applied => Ok(Outcome::Applied),
                // Only a version of no bytes is no version.
                Answer::Refused(_) => Err(Error::corrupt(key, "the row's version is empty; delete the record first")),
            },
            // Refused: nothing was there to delete.
            (Expect::Any, false) => self.ask(statement, &values, key).await.map(|_| Outcome::Applied),
            (Expect::Absent, true) => self.put_absent(write, values).await,
            (Expect::Absent, false) => match self.read(key).await? {
                None => Ok(Outcome::Applied),
                found => Ok(Outcome::Conflict { found }),
            },
            (Expect::Is(version), _) => {
                let conditions = &self.shared.statements.conditions;
                let statement = if is_put { &conditions.put_is } else { &conditions.delete_is };
                let values = Values { expected: version.to_bytes(), ..values };
                match self.ask(statement, &values, key).await? {
                    Answer::Applied => Ok(Outcome::Applied),
                    Answer::Refused(columns) => Ok(write.lost_to(self.live(key, columns)?)),
                }
            }
        }
    }

    /// A put where nothing is, or what has expired and was not reclaimed yet: that is replaced on the condition that it is
    /// still there.
    async fn put_absent(&self, write: &Write<'_>, mut values: Values<'_>) -> Result<Outcome> {
        let (key, conditions) = (write.key, &self.shared.statements.conditions);
        let mut statement = &conditions.put_absent;
        for _ in 0..ROUNDS_MAX {
            let Answer::Refused(columns) = self.ask(statement, &values, key).await? else {
                return Ok(Outcome::Applied);
            };
            match columns.decode(key)? {
                Some(found) if !found.is_expired(self.clock.now()) => return Ok(write.lost_to(Some(found))),
                // Whenever it expired.
                Some(found) => {
                    statement = &conditions.put_is;
                    values = Values { expected: found.version.to_bytes(), now: -1, ..values };
                }
                None => statement = &conditions.put_absent,
            }
        }
        Err(Error::new(ErrorKind::Contention, Effect::None, "what was there kept changing").with_key(key))
    }
}

impl<C: Clock> Store for ScyllaStore<C> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.limits.check_key(key)?;
        let _turn = self.turn(key, &mut Caller::who_polls()).await?;
        self.read(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.read_groups(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.limits.check_write(&write, self.clock.now())?;
        if !write.key.space().is_conditional() {
            return self.write_checked(&write, &mut Caller::who_polls()).await;
        }
        let (store, write) = (self.clone(), OwnedWrite::of(&write));
        let call = |mut caller: Caller| -> BoxFuture<'static, _> {
            Box::pin(async move { store.write_checked(&write.as_write(), &mut caller).await })
        };
        carried(call).await?
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.write_groups(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.limits.check_scan(&scan)?;
        self.read_page(&scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.limits.check_trim(&trim)?;
        if !trim.space.is_conditional() {
            return self.remove_beyond(&trim, &mut Caller::who_polls()).await;
        }
        let (store, partition, Trim { space, keep, .. }) = (self.clone(), trim.partition.to_vec(), trim);
        let call = |mut caller: Caller| -> BoxFuture<'static, _> {
            let trim =
                async move { store.remove_beyond(&Trim { space, partition: &partition, keep }, &mut caller).await };
            Box::pin(trim)
        };
        carried(call).await?
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        crate::cas::update(self, &*self.clock, &self.shared.procedures, key, procedure).await
    }
}

/// Runs futures, so many at once, and answers in their order.
async fn bounded<T>(futures: Vec<impl Future<Output = T> + Send>, at_once: usize) -> Vec<T>
where
    T: Send,
{
    stream::iter(futures).buffered(at_once).collect().await
}

/// The sort key right behind another.
fn successor(sort: &[u8]) -> Bytes {
    [sort, &[0]].concat().into()
}
