//! Redis, one node.
//!
//! # Layout
//! All keys of a partition share the hash tag `{SPACE:PARTITION}`, so a partition is one slot of a Cluster. A lone record is a
//! string; rows are fields of the hash `…:rows`, their sort keys members of the sorted set `…:order`. A record is a format
//! byte, its version (16 bytes), its expiry (8 bytes, microseconds, zero: never) and the value.
//!
//! # Expiry
//! Exact, by the clock of the caller: what is expired is filtered on every read and condition. Redis reclaims lone records
//! by a `PX` that ends a minute later (a day, where the clock is not real time), so that callers whose clocks differ agree;
//! expired rows are reclaimed by the scans and trims that meet them.
//!
//! # Connection
//! One multiplexed connection: calls in flight are pipelined. It is made anew when it breaks; the calls in flight then fail,
//! those of writes with an unknown effect. Every call ends within [`RedisConfig::response_timeout`].

mod error;
mod layout;

use std::collections::HashMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use parking_lot::RwLock;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, Script as RedisScript, Value};
use sysd_core::{
    ArgumentBytes, Change, Clock, ClockAuthority, Durability, Effect, ErasedProcedure, Error, ErrorKind, Expect, Keep,
    Key, Limits, Order, Outcome, OutputBytes, Page, Record, Result, Row, Scan, Script, Store, SystemClock, Timestamp,
    Trim, Trimmed, Version, Write,
};

use error::{Access, map};
use layout::HEADER_BYTES;

const RECLAIM_GRACE: Duration = Duration::from_secs(60);
const RECLAIM_GRACE_DRIVEN: Duration = Duration::from_secs(24 * 60 * 60);

/// How a [`RedisStore`] is made.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Begins every key, so that several applications can share a server.
    pub prefix: String,
    /// The longest wait for an answer. A write that gets none has an unknown effect.
    pub response_timeout: Duration,
    /// The longest wait for a connection.
    pub connection_timeout: Duration,
    /// What an acknowledged write survives on this server. [`Durability::Durable`] is yours to promise: it is true with
    /// `appendonly yes` and `appendfsync always`, on one node without failover.
    pub durability: Durability,
    /// How many calls of a batch are in flight at once.
    pub batch_in_flight_max: usize,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            response_timeout: Duration::from_secs(2),
            connection_timeout: Duration::from_secs(1),
            durability: Durability::BestEffort,
            batch_in_flight_max: 256,
        }
    }
}

/// Records on Redis. Clones share the connection.
///
/// # Cancel safety
/// A write whose future is dropped may happen, as if its reply was lost.
#[derive(Clone)]
pub struct RedisStore<C = SystemClock> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    connection: ConnectionManager,
    clock: C,
    config: RedisConfig,
    limits: Limits,
    write: RedisScript,
    scan: RedisScript,
    trim: RedisScript,
    /// The procedures' scripts as this store runs them.
    updates: RwLock<HashMap<&'static Script, Arc<RedisScript>>>,
}

impl<C> fmt::Debug for RedisStore<C> {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects to `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, by the system's clock.
    ///
    /// # Errors
    /// As [`RedisStore::connect_with`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, RedisConfig::default(), SystemClock).await
    }
}

impl<C: Clock> RedisStore<C> {
    /// Connects as `config` says, by `clock`. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the URL is wrong, or if the server may evict keys (`maxmemory-policy` other than
    /// `noeviction`); [`Unavailable`](ErrorKind::Unavailable) or [`Denied`](ErrorKind::Denied) if there is no way in. The
    /// URL's password is in none of them.
    pub async fn connect_with(url: &str, config: RedisConfig, clock: C) -> Result<Self> {
        let client = redis::Client::open(url).map_err(|error| map(&error, Access::Read))?;
        let manager = ConnectionManagerConfig::new()
            .set_response_timeout(Some(config.response_timeout))
            .set_connection_timeout(Some(config.connection_timeout))
            .set_number_of_retries(3)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200));
        let connection =
            client.get_connection_manager_with_config(manager).await.map_err(|error| map(&error, Access::Read))?;
        let mut limits = Limits::PROCESS;
        // A string of Redis holds 512 MB, but a value that large stops all others while it travels.
        limits.value_bytes_max = (64 << 20) - HEADER_BYTES;
        limits.batch_records_max = config.batch_in_flight_max.max(1);
        limits.ttl_grain = Duration::from_millis(1);
        limits.durability = config.durability;
        limits.clock = ClockAuthority::Client;
        let prelude = include_str!("store.lua");
        let script = |body: &str| RedisScript::new(&format!("{prelude}\n{body}"));
        let store = Self {
            shared: Arc::new(Shared {
                connection,
                clock,
                config,
                limits,
                write: script(include_str!("write.lua")),
                scan: script(include_str!("scan.lua")),
                trim: script(include_str!("trim.lua")),
                updates: RwLock::default(),
            }),
        };
        store.shared.refuse_eviction().await?;
        Ok(store)
    }
}

impl<C: Clock> Shared<C> {
    async fn refuse_eviction(&self) -> Result<()> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("maxmemory-policy");
        // Hosted servers forbid CONFIG: nothing can be learned there.
        let Ok(answer) = self.send(&command, Access::Read).await else { return Ok(()) };
        let policy: Vec<String> = redis::from_redis_value(answer).unwrap_or_default();
        match policy.last() {
            Some(policy) if policy != "noeviction" => Err(Error::new(
                ErrorKind::Config,
                Effect::None,
                format!("maxmemory-policy {policy} lets Redis drop records; set it to noeviction"),
            )),
            _ => Ok(()),
        }
    }

    async fn send(&self, command: &Cmd, access: Access) -> Result<Value> {
        let mut connection = self.connection.clone();
        // An error of the server comes as a value here.
        let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
        answer.map_err(|error| map(&error, access))
    }

    /// Runs a script by its hash; loads it where the server does not know it (a restart, SCRIPT FLUSH).
    async fn eval(&self, script: &RedisScript, keys: &[Vec<u8>], arguments: &[&[u8]], access: Access) -> Result<Value> {
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(key.as_slice());
        }
        for argument in arguments {
            invocation.arg(*argument);
        }
        let mut connection = self.connection.clone();
        invocation.invoke_async(&mut connection).await.map_err(|error| map(&error, access))
    }

    fn keys(&self, key: Key<'_>) -> Vec<Vec<u8>> {
        let prefix = &self.config.prefix;
        if key.is_lone() {
            vec![layout::lone(prefix, key)]
        } else {
            vec![layout::rows(prefix, key), layout::order(prefix, key)]
        }
    }

    fn grace(&self) -> Duration {
        if self.clock.is_real_time() { RECLAIM_GRACE } else { RECLAIM_GRACE_DRIVEN }
    }

    /// The native time to live of a lone record, milliseconds; empty for none.
    fn px(&self, now: Timestamp, expires_at: Option<Timestamp>) -> String {
        expires_at.map_or_else(String::new, |at| (at.saturating_since(now) + self.grace()).as_millis().to_string())
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.limits.check_key(key)?;
        let prefix = &self.config.prefix;
        let mut command = Cmd::new();
        if key.is_lone() {
            command.arg("GET").arg(layout::lone(prefix, key));
        } else {
            command.arg("HGET").arg(layout::rows(prefix, key)).arg(key.sort());
        }
        let answer = self.send(&command, Access::Read).await.map_err(|error| error.with_key(key))?;
        self.live(key, answer)
    }

    fn live(&self, key: Key<'_>, answer: Value) -> Result<Option<Record>> {
        match answer {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => {
                let record = layout::decode(key, &Bytes::from(bytes))?;
                let expired = record.expires_at.is_some() && record.is_expired(self.clock.now());
                Ok((!expired).then_some(record))
            }
            _ => Err(unexpected(key, Access::Read)),
        }
    }

    async fn write(&self, write: &Write<'_>) -> Result<Outcome> {
        let now = self.clock.now();
        self.limits.check_write(write, now)?;
        let key = write.key;
        let (record, px) = match &write.change {
            Change::Put { value, version, expires_at } => {
                (layout::encode(value, *version, *expires_at), self.px(now, *expires_at))
            }
            Change::Delete => (Bytes::new(), String::new()),
        };
        if write.expect == Expect::Any && key.is_lone() {
            return self.write_lone(key, &record, &px).await;
        }
        let expect = match write.expect {
            Expect::Any => b"any".to_vec(),
            Expect::Absent => b"absent".to_vec(),
            Expect::Is(version) => [b"i".as_slice(), &version.to_bytes()].concat(),
        };
        let time = layout::time(Some(now));
        let arguments: [&[u8]; 5] = [&time, &expect, &record, px.as_bytes(), key.sort()];
        let answer = self.eval(&self.write, &self.keys(key), &arguments, Access::Write).await;
        match fields(answer.map_err(|error| error.with_key(key))?).as_mut_slice() {
            [Value::Int(1)] => Ok(Outcome::Applied),
            [Value::Int(0), Value::Nil | Value::Boolean(false)] => Ok(write.lost_to(None)),
            [Value::Int(0), Value::BulkString(found)] => {
                let found = layout::decode(key, &Bytes::from(std::mem::take(found)))?;
                Ok(write.lost_to(Some(found)))
            }
            [Value::Int(3)] => {
                Err(Error::corrupt(key, "not a record of this store; was the key written by another program?"))
            }
            _ => Err(unexpected(key, Access::Write)),
        }
    }

    async fn write_lone(&self, key: Key<'_>, record: &Bytes, px: &str) -> Result<Outcome> {
        let mut command = Cmd::new();
        let name = layout::lone(&self.config.prefix, key);
        if record.is_empty() {
            command.arg("DEL").arg(name);
        } else {
            command.arg("SET").arg(name).arg(record.as_ref());
            if !px.is_empty() {
                command.arg("PX").arg(px);
            }
        }
        self.send(&command, Access::Write).await.map_err(|error| error.with_key(key))?;
        Ok(Outcome::Applied)
    }

    async fn scan(&self, scan: &Scan<'_>) -> Result<Page> {
        self.limits.check_scan(scan)?;
        if scan.is_empty_range() {
            return Ok(Page::default());
        }
        // Any sort key will do: the names of the rows are wanted.
        let row = Key::row(scan.space, scan.partition, b"row");
        let rows = scan.limit.min(self.limits.page_rows_max).to_string();
        let (low, high) = (lex(scan.start, b"-"), lex(scan.end, b"+"));
        let (first, second, direction) = match scan.order {
            Order::Ascending => (low, high, b"".as_slice()),
            Order::Descending => (high, low, b"rev".as_slice()),
        };
        let time = layout::time(Some(self.clock.now()));
        let arguments: [&[u8]; 5] = [&time, &first, &second, rows.as_bytes(), direction];
        let answer = self.eval(&self.scan, &self.keys(row), &arguments, Access::Read).await?;
        let mut fields = fields(answer).into_iter();
        let next = match fields.next() {
            Some(Value::BulkString(cursor)) => Some(Bytes::from(cursor)),
            Some(Value::Nil | Value::Boolean(false)) => None,
            _ => return Err(unexpected(row, Access::Read)),
        };
        let mut page = Page { rows: Vec::new(), next };
        while let (Some(sort), Some(record)) = (fields.next(), fields.next()) {
            let (Value::BulkString(sort), Value::BulkString(record)) = (sort, record) else {
                return Err(unexpected(row, Access::Read));
            };
            let record = layout::decode(Key::row(scan.space, scan.partition, &sort), &Bytes::from(record))?;
            page.rows.push(Row { sort: sort.into(), record });
        }
        Ok(page)
    }

    async fn trim(&self, trim: &Trim<'_>) -> Result<Trimmed> {
        self.limits.check_trim(trim)?;
        let row = Key::row(trim.space, trim.partition, b"row");
        let (keep, direction) = match trim.keep {
            Keep::First(keep) => (keep, b"".as_slice()),
            Keep::Last(keep) => (keep, b"rev".as_slice()),
        };
        let (keep, budget) = (keep.to_string(), self.limits.page_rows_max.to_string());
        let time = layout::time(Some(self.clock.now()));
        let arguments: [&[u8]; 4] = [&time, keep.as_bytes(), budget.as_bytes(), direction];
        let answer = self.eval(&self.trim, &self.keys(row), &arguments, Access::Write).await?;
        match fields(answer).as_slice() {
            [Value::Int(removed), Value::Int(more)] => {
                Ok(Trimmed { removed: usize::try_from(*removed).unwrap_or_default(), more: *more == 1 })
            }
            _ => Err(unexpected(row, Access::Write)),
        }
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.limits.check_update(key)?;
        let script = procedure.script().ok_or_else(|| {
            let message = format!("procedure {} has no Lua twin, so Redis can't run it", procedure.name());
            Error::new(ErrorKind::Unsupported, Effect::None, message)
        })?;
        let script = self.update_script(script);
        let mut encoded = ArgumentBytes::new();
        procedure.encode_arguments(&mut encoded);
        let grace = self.grace().as_millis().to_string();
        let time = layout::time(Some(self.clock.now()));
        let version = Version::random().to_bytes();
        let arguments: [&[u8]; 5] = [&time, &version, &encoded, grace.as_bytes(), key.sort()];
        let answer = self.eval(&script, &self.keys(key), &arguments, Access::Write).await;
        match fields(answer.map_err(|error| error.with_key(key))?).as_slice() {
            [Value::Int(1), Value::BulkString(output)] => Ok(OutputBytes::from_slice(output)),
            [Value::Int(2)] => Err(Error::invalid("ttl", "a time to live is from one microsecond to the year 2255")),
            [Value::Int(3), ..] => {
                Err(Error::corrupt(key, format!("procedure {} can't decode its state", procedure.name())))
            }
            _ => Err(unexpected(key, Access::Write)),
        }
    }

    fn update_script(&self, script: &'static Script) -> Arc<RedisScript> {
        if let Some(known) = self.updates.read().get(script) {
            return Arc::clone(known);
        }
        let (prelude, source) = (include_str!("store.lua"), script.source);
        let body = include_str!("update.lua");
        let wrapped = format!("{prelude}\nlocal apply = (function()\n{source}\nend)()\n{body}");
        let made = Arc::new(RedisScript::new(&wrapped));
        Arc::clone(self.updates.write().entry(script).or_insert(made))
    }
}

/// A bound as `ZRANGEBYLEX` takes it.
fn lex(bound: Bound<&[u8]>, open: &[u8]) -> Vec<u8> {
    match bound {
        Bound::Included(sort) => [b"[".as_slice(), sort].concat(),
        Bound::Excluded(sort) => [b"(".as_slice(), sort].concat(),
        Bound::Unbounded => open.to_vec(),
    }
}

fn fields(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(fields) => fields,
        other => vec![other],
    }
}

fn unexpected(key: Key<'_>, access: Access) -> Error {
    let effect = if access == Access::Read { Effect::None } else { Effect::Unknown };
    Error::new(ErrorKind::Internal, effect, "Redis answered in an unexpected shape").with_key(key)
}

impl<C: Clock> Store for RedisStore<C> {
    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.shared.get(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let calls: Vec<_> = keys.iter().map(|&key| self.shared.get(key)).collect();
        stream::iter(calls).buffered(self.shared.limits.batch_records_max).collect().await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.shared.write(&write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let calls: Vec<_> = writes.iter().map(|write| self.shared.write(write)).collect();
        stream::iter(calls).buffered(self.shared.limits.batch_records_max).collect().await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.shared.scan(&scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.shared.trim(&trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.shared.update(key, procedure).await
    }
}
