//! DynamoDB.
//!
//! # Layout
//! One table holds every space. [`DynamoStore::create_table`] makes it; made by hand, it has these keys, and DynamoDB's time
//! to live on `ttl`:
//!
//! | attribute | type | what |
//! |---|---|---|
//! | `p`, the partition key | binary | `PREFIX/SPACE:PARTITION`, without a prefix `SPACE:PARTITION` |
//! | `s`, the sort key | binary | of a lone record one byte 0; of a row a byte 1 and its sort |
//! | `v` | binary | the value |
//! | `r` | binary | the version, 16 bytes |
//! | `e` | number | the expiry, microseconds since 1970; without one: never |
//! | `ttl` | number | when DynamoDB may delete it, seconds since 1970: an hour after the expiry |
//!
//! The names are short because DynamoDB counts them in every item.
//!
//! # Expiry
//! Exact, by the caller's clock: what is expired is filtered on every read, and conditions take it for absent. When DynamoDB
//! deletes it, a few days later at worst, is its own affair; it is told an hour late, so that callers whose clocks differ
//! agree. Under a clock that is not real time it is not told at all.
//!
//! # Calls and their cost
//! Units are those of on-demand billing: a read unit for 4 KB read strongly, half of it eventually; a write unit for 1 KB of an
//! item with its names and keys, about 70 bytes more than the value.
//!
//! | call | round trips | units |
//! |---|---|---|
//! | `get` | one | read, strong in a conditional space, eventual in a plain one |
//! | `get_many` | one for 100 keys, four at once | the same for each record |
//! | `write` | one, with or without a condition | write, also where the condition fails; what is there then comes free |
//! | `write_many` | without conditions one for 25 writes, four at once; the others one each, [`batch_in_flight_max`](DynamoConfig::batch_in_flight_max) at once | the same for each record |
//! | `scan` | one a page of 1 MB | read, of all that the page passes over, expired rows too |
//! | `trim` | one for each 1 MB of rows that stay and go, and one for 25 that go | read of these, write for each that goes |
//! | `update` | a read and a write, another write for each writer that was quicker | of these |
//!
//! # Failures
//! Every call is sent once: the retries of the AWS SDK are off. A write whose reply was lost may have happened, and a delete or an
//! unconditional put that was sent again could undo what somebody else wrote meanwhile; who may send again is the caller's
//! knowledge, or a retry layer's. Only what DynamoDB left unprocessed of a batch, and so did not do, is sent again, with
//! jitter, for [`batch_timeout`](DynamoConfig::batch_timeout).
//!
//! A call has [`response_timeout`](DynamoConfig::response_timeout) for its answer, connection and credentials included. A write
//! without an answer by then is a [`Timeout`](sysd_core::ErrorKind::Timeout) of unknown effect: it may have happened, and may
//! still. Throttling is its own kind and has no effect.
//!
//! # Connections
//! As many as there are calls at once, kept for later ones. The HTTP client of the AWS SDK runs each of them as a task on Tokio.

mod address;
mod batch;
mod client;
mod config;
mod error;
mod layout;
mod range;
mod rows;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use sysd_core::{
    Change, Clock, ClockAuthority, Durability, ErasedProcedure, Expect, Key, Limits, Outcome, OutputBytes, Page,
    Record, Result, Scan, Store, SystemClock, Timestamp, Trim, Trimmed, Write,
};

pub use config::{DynamoConfig, DynamoCredentials};

use error::{Access, map};
use layout::{Item, Layout};

/// Records on DynamoDB. Clones share the connections.
///
/// # Cancel safety
/// A write whose future is dropped may happen, as if its reply was lost.
#[derive(Clone)]
pub struct DynamoStore<C = SystemClock> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    client: Client,
    layout: Layout,
    clock: C,
    limits: Limits,
    config: DynamoConfig,
}

impl<C> fmt::Debug for DynamoStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoStore").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl DynamoStore {
    /// As `config` says, by the system's clock.
    ///
    /// # Errors
    /// As [`DynamoStore::connect_with`].
    pub async fn connect(config: DynamoConfig) -> Result<Self> {
        Self::connect_with(config, SystemClock).await
    }
}

impl<C: Clock> DynamoStore<C> {
    /// As `config` says, by `clock`. Needs a Tokio runtime. It looks for credentials and region, and sends nothing to DynamoDB:
    /// whether the table is there, the first call tells, or [`DynamoStore::create_table`].
    ///
    /// # Errors
    /// [`Config`](sysd_core::ErrorKind::Config) if no region is found, or the table's name, the prefix or the endpoint is wrong.
    pub async fn connect_with(config: DynamoConfig, clock: C) -> Result<Self> {
        config.check()?;
        let client = client::connect(&config).await?;
        Ok(Self::over(client, config, clock))
    }

    /// The same records over the same connections by another clock: for replays, in which each caller has its own time.
    pub fn with_clock<D: Clock>(&self, clock: D) -> DynamoStore<D> {
        DynamoStore::over(self.shared.client.clone(), self.shared.config.clone(), clock)
    }

    fn over(client: Client, config: DynamoConfig, clock: C) -> Self {
        let layout = Layout::new(&config.prefix, clock.is_real_time());
        let mut limits = Limits::PROCESS;
        limits.partition_bytes_max = layout.partition_bytes_max();
        limits.sort_bytes_max = layout::SORT_BYTES_MAX;
        limits.value_bytes_max = layout::VALUE_BYTES_MAX;
        limits.batch_records_max = batch::KEYS_MAX;
        limits.ttl_grain = Duration::from_secs(1);
        limits.durability = Durability::Durable;
        limits.clock = ClockAuthority::Client;
        Self { shared: Arc::new(Shared { client, layout, clock, limits, config }) }
    }
}

/// A condition in DynamoDB's words, and the values that it names.
fn condition(expect: Expect, now: Timestamp) -> Option<(&'static str, Vec<(&'static str, AttributeValue)>)> {
    match expect {
        Expect::Any => None,
        Expect::Absent => Some((layout::IS_ABSENT, vec![(":now", layout::time(now))])),
        Expect::Is(version) => {
            Some((layout::IS_VERSION, vec![(":now", layout::time(now)), (":version", layout::version(version))]))
        }
    }
}

impl<C: Clock> Shared<C> {
    /// The record in an item, if it has not expired.
    fn read(&self, key: Key<'_>, item: Item) -> Result<Option<Record>> {
        let record = layout::decode(key, item)?;
        let is_expired = record.expires_at.is_some() && record.is_expired(self.clock.now());
        Ok((!is_expired).then_some(record))
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.limits.check_key(key)?;
        let call = self.client.get_item().table_name(&self.config.table).set_key(Some(self.layout.key(key)));
        let answer = call.consistent_read(key.space().is_conditional()).send().await;
        let answer = answer.map_err(|error| map(&error, Access::Read, &self.config.table).with_key(key))?;
        answer.item.map_or(Ok(None), |item| self.read(key, item))
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let now = self.clock.now();
        self.limits.check_write(&write, now)?;
        let lost = match &write.change {
            Change::Put { value, version, expires_at } => {
                let item = self.layout.item(write.key, value, *version, *expires_at);
                self.put(write.key, item, write.expect, now).await?
            }
            Change::Delete => self.delete(write.key, write.expect, now).await?,
        };
        // By the time of the condition: what it took for absent is no record.
        let live = |item| layout::decode(write.key, item).map(|record| (!record.is_expired(now)).then_some(record));
        match lost {
            None => Ok(Outcome::Applied),
            Some(found) => Ok(write.lost_to(found.map(live).transpose()?.flatten())),
        }
    }

    /// `Some` if the condition did not hold, with what is there.
    async fn put(&self, key: Key<'_>, item: Item, expect: Expect, now: Timestamp) -> Result<Option<Option<Item>>> {
        let mut call = self.client.put_item().table_name(&self.config.table).set_item(Some(item));
        if let Some((condition, values)) = condition(expect, now) {
            call = call
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (name, value) in values {
                call = call.expression_attribute_values(name, value);
            }
        }
        let Err(error) = call.send().await else { return Ok(None) };
        match error {
            SdkError::ServiceError(answer) if answer.err().is_conditional_check_failed_exception() => {
                match answer.into_err() {
                    PutItemError::ConditionalCheckFailedException(lost) => Ok(Some(lost.item)),
                    _ => Ok(Some(None)),
                }
            }
            error => Err(map(&error, Access::Write, &self.config.table).with_key(key)),
        }
    }

    /// As [`Shared::put`].
    async fn delete(&self, key: Key<'_>, expect: Expect, now: Timestamp) -> Result<Option<Option<Item>>> {
        let mut call = self.client.delete_item().table_name(&self.config.table).set_key(Some(self.layout.key(key)));
        if let Some((condition, values)) = condition(expect, now) {
            call = call
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (name, value) in values {
                call = call.expression_attribute_values(name, value);
            }
        }
        let Err(error) = call.send().await else { return Ok(None) };
        match error {
            SdkError::ServiceError(answer) if answer.err().is_conditional_check_failed_exception() => {
                match answer.into_err() {
                    DeleteItemError::ConditionalCheckFailedException(lost) => Ok(Some(lost.item)),
                    _ => Ok(Some(None)),
                }
            }
            error => Err(map(&error, Access::Write, &self.config.table).with_key(key)),
        }
    }
}

impl<C: Clock> Store for DynamoStore<C> {
    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.shared.get(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.shared.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.shared.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.shared.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.shared.scan(&scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.shared.trim(&trim).await
    }

    /// Read, decide, write on condition, again while others win.
    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        crate::cas::update(self, &self.shared.clock, &crate::cas::AllAtOnce, key, procedure).await
    }
}
