//! Redis, one node or a Cluster.
//!
//! # Layout
//! All keys of a partition share the hash tag `{SPACE:PARTITION}`, so a partition is one slot of a Cluster. A lone record is a
//! string; rows are fields of the hash `…:rows`, their sort keys members of the sorted set `…:order`. A record is a format
//! byte, its expiry (8 bytes, microseconds, zero: never), its version (16 bytes) and the value. In a space of
//! [keys only](sysd_core::Space::keys_only) a partition's rows are `…:order` alone: a timeline is a sorted set.
//!
//! # Batches
//! Pipelines. In a batch, neighbours that put rows of one partition for ever, or remove them, whatever is there, go as one call,
//! of at most 256 rows: it happens whole or not at all.
//!
//! # Expiry
//! Exact, by the clock of the caller, or of the server ([`RedisConfig::clock`]): what is expired is filtered on every read and
//! condition. Redis reclaims lone records by a `PX` that ends one to three minutes later (days, where the clock is not real time), so
//! that callers whose clocks differ agree; expired rows are reclaimed by the scans and trims that meet them. An update leaves the
//! deadline as it is if one of the same minute set it for an expiry in the same minute: so what a wrong clock set is set anew by the
//! next update of a right one, or the one after it if that is made in the minute that the wrong clock showed. A Redis user of few rights needs `SETRANGE` for that, besides `GET`, `SET` and `DEL`.
//!
//! # Connections
//! One multiplexed connection a node: calls in flight are pipelined. It is made anew when it breaks or an answer is overdue;
//! the calls in flight then fail, those of writes with an unknown effect. No call that may have been carried out is ever
//! sent again; what a Cluster redirects was not carried out, and is sent on.
//!
//! A call waits at most [`RedisConfig::response_timeout`] for its answer and, where there is no connection,
//! [`RedisConfig::connection_timeout`] for one; redirections may add as much again.
//!
//! # Updates
//! An update is one call of a script. While two calls of the same script are in flight, further updates gather and go out together
//! as the next: on one node whatever their records, on a Cluster those of one slot. An update waits at most another
//! `response_timeout` for that turn, and if it does not come was not sent. Each is decided and fails for itself. A call that others
//! wait for is moved on by a task of the runtime, so that it need not be polled for them.
//!
//! # Cluster
//! Reads and writes go to masters. After a failover, writes that the old master acknowledged and had not yet passed on are gone:
//! that is Redis, and why [`Durability`](sysd_core::Durability) is best effort there.

mod address;
pub(crate) mod bus;
mod call;
mod cluster;
mod codec;
mod combine;
mod config;
mod error;
pub mod events;
mod feed;
mod layout;
mod link;
mod router;
mod runs;
mod scripts;
mod slots;
mod walk;

use std::fmt;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use redis::Value;
use sysd_core::{
    Clock, Effect, ErasedProcedure, Error, ErrorKind, Keep, Key, Limits, Outcome, OutputBytes, Page, Record, Result,
    Scan, Store, SystemClock, Trim, Trimmed, Write,
};

pub use config::{RedisConfig, TlsCa};

use call::Call;
use codec::Codec;
use combine::Update;
use error::{Access, map};
use layout::HEADER_BYTES;
use link::Failure;
use router::Router;
use walk::Walks;

/// How many pipelines of a batch are in flight at once, each with its share of the calls.
const PIPELINES: usize = 4;
/// A pipeline ends when its values have this many bytes.
const PIPELINE_BYTES: usize = 256 << 10;

/// Records on Redis. Clones share the connections.
///
/// # Cancel safety
/// A write whose future is dropped may happen, as if its reply was lost.
#[derive(Clone)]
pub struct RedisStore<C = SystemClock> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    router: Arc<Router>,
    codec: Codec<C>,
    config: RedisConfig,
    walks: Walks,
}

impl<C> fmt::Debug for RedisStore<C> {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects by the system's clock to one of
    /// - `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, one node;
    /// - `redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT/`, a Cluster, from any of its nodes;
    /// - `rediss://…` and `rediss-cluster://…`, the same over TLS.
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
    /// [`Config`](ErrorKind::Config) if the URL, the prefix or the CA is wrong, if the server's certificate is not to be
    /// trusted, or if the server may evict keys (`maxmemory-policy` other than `noeviction`);
    /// [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) or [`Denied`](ErrorKind::Denied) if there is
    /// no way in. The URL's password is in none of them.
    pub async fn connect_with(url: &str, config: RedisConfig, clock: C) -> Result<Self> {
        if config.prefix.contains(['{', '}']) {
            let message = "a prefix has no { and }: they would tear a partition's keys apart";
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
        config.check()?;
        let denied = |failure: Failure| map(&failure, Access::Read);
        let target = address::parse(url, &config).map_err(|error| denied(Failure::unsent(error)))?;
        let router = Arc::new(Router::connect(target).await.map_err(denied)?);
        let mut limits = Limits::PROCESS;
        // A string of Redis holds 512 MB, but a value that large stops all others while it travels.
        limits.value_bytes_max = (64 << 20) - HEADER_BYTES;
        limits.batch_records_max = (config.batch_in_flight_max / PIPELINES).max(1);
        limits.ttl_grain = std::time::Duration::from_millis(1);
        limits.durability = config.durability;
        limits.clock = config.clock;
        let codec = Codec::new(config.prefix.clone(), clock, limits);
        let store = Self { shared: Arc::new(Shared { router, codec, config, walks: Walks::default() }) };
        refuse_eviction(&store.shared.router).await?;
        Ok(store)
    }

    /// The same records over the same connections by another clock: for replays, in which each caller has its own time.
    pub fn with_clock<D: Clock>(&self, clock: D) -> RedisStore<D> {
        let config = self.shared.config.clone();
        let codec = Codec::new(config.prefix.clone(), clock, *self.shared.codec.limits());
        let router = Arc::clone(&self.shared.router);
        RedisStore { shared: Arc::new(Shared { router, codec, config, walks: Walks::default() }) }
    }
}

/// Refuses a server that may drop records when it is short of memory.
async fn refuse_eviction(router: &Router) -> Result<()> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("maxmemory-policy");
    for link in router.masters() {
        // Hosted servers forbid CONFIG: nothing can be learned there.
        let Ok(answer) = link.send(&command).await else { continue };
        let policy = match answer {
            Value::Map(pairs) => pairs.into_iter().next().map(|(_, policy)| policy),
            Value::Array(mut pair) => pair.pop(),
            _ => None,
        };
        let policy: Option<String> = policy.and_then(|policy| redis::from_redis_value(policy).ok());
        if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
            return Err(Error::new(
                ErrorKind::Config,
                Effect::None,
                format!("maxmemory-policy {policy} lets Redis drop records; set it to noeviction"),
            ));
        }
    }
    Ok(())
}

/// Refuses a server before Redis 7.0, which knows no sharded pub/sub.
async fn refuse_old(router: &Router, message: &'static str) -> Result<()> {
    let mut command = redis::cmd("COMMAND");
    command.arg("INFO").arg("SPUBLISH");
    for link in router.masters() {
        // Hosted servers may forbid COMMAND: nothing can be learned there.
        if let Ok(Value::Array(known)) = link.send(&command).await
            && matches!(known.as_slice(), [Value::Nil])
        {
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
    }
    Ok(())
}

impl<C: Clock> Shared<C> {
    async fn ask(&self, call: &Call, key: Key<'_>, access: Access) -> Result<Value> {
        self.router.send(call).await.map_err(|failure| map(&failure, access).with_key(key))
    }

    /// Sends what could be made of a batch, and answers each with what was asked or refused.
    async fn ask_many(&self, calls: Vec<Result<Call>>, access: Access) -> Vec<Result<Value>> {
        let mut refused = Vec::new();
        let mut good = Vec::new();
        for call in calls {
            match call {
                Ok(call) => {
                    good.push(call);
                    refused.push(None);
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        let mut answers = self.router.send_many(good).await.into_iter();
        let answer = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => match answers.next() {
                Some(answer) => answer.map_err(|failure| map(&failure, access)),
                None => Err(Error::new(ErrorKind::Internal, Effect::Unknown, "an answer is missing")),
            },
        };
        refused.into_iter().map(answer).collect()
    }

    async fn get_some(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let calls = keys.iter().map(|&key| self.codec.get(key)).collect();
        let answers = self.ask_many(calls, Access::Read).await;
        let read = |(&key, answer): (&Key<'_>, Result<Value>)| match answer {
            Ok(answer) => self.codec.read_get(key, answer),
            Err(error) => Err(error.with_key(key)),
        };
        keys.iter().zip(answers).map(read).collect()
    }

    async fn write_some(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let runs = runs::cut(&self.codec, writes);
        let calls = runs.iter().map(|run| run.call(&self.codec)).collect();
        let answers = self.ask_many(calls, Access::Write).await;
        runs.into_iter().zip(answers).flat_map(|(run, answer)| run.read(answer)).collect()
    }

    /// Removes what one trim removes. Where many rows stay, that takes a call for every thousand of them; the next trim of the
    /// same begins where this one ended.
    async fn trim(&self, trim: &Trim<'_>) -> Result<Trimmed> {
        let removed_max = self.codec.limits().page_rows_max;
        let (Keep::First(keep) | Keep::Last(keep)) = trim.keep;
        let (mut walk, mut removed) = (self.walks.take(trim), 0);
        // Where one call sees all rows that stay, the next trim had better see for itself.
        let mut is_long = walk.is_old;
        loop {
            let call = self.codec.trim(trim, &walk, removed_max - removed)?;
            let answer = self.ask(&call, Key::lone(trim.space, trim.partition), Access::Write).await;
            let read = answer.and_then(|answer| self.codec.read_trim(trim, &walk, answer));
            // What an earlier call removed stays removed, whatever became of this one.
            let (removed_now, next) = read.map_err(|error| error.after_part(removed > 0))?;
            removed += removed_now;
            let Some(next) = next else { return Ok(Trimmed { removed, more: false }) };
            walk = next;
            // Until it is known which rows stay, there is no more to tell.
            if removed >= removed_max || usize::try_from(walk.kept).is_ok_and(|kept| kept >= keep) {
                if is_long {
                    self.walks.keep(trim, walk);
                }
                return Ok(Trimmed { removed, more: true });
            }
            is_long = true;
        }
    }

    /// Cuts a batch into pipelines, by count and by size.
    fn cut<'a, T>(&self, mut items: &'a [T], bytes: impl Fn(&T) -> usize) -> Vec<&'a [T]> {
        let mut cuts = Vec::new();
        while !items.is_empty() {
            let mut sum = 0;
            let fits = |item: &&T| {
                sum += bytes(item);
                sum <= PIPELINE_BYTES
            };
            let length = items.iter().take(self.codec.limits().batch_records_max).take_while(fits).count().max(1);
            let (cut, rest) = items.split_at(length);
            cuts.push(cut);
            items = rest;
        }
        cuts
    }
}

impl<C: Clock> Store for RedisStore<C> {
    fn limits(&self) -> &Limits {
        self.shared.codec.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let call = self.shared.codec.get(key)?;
        let answer = self.shared.ask(&call, key, Access::Read).await?;
        self.shared.codec.read_get(key, answer)
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let cuts = self.shared.cut(keys, |_| 0);
        let calls: Vec<_> = cuts.into_iter().map(|cut| self.shared.get_some(cut)).collect();
        stream::iter(calls).buffered(PIPELINES).collect::<Vec<_>>().await.into_iter().flatten().collect()
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let call = self.shared.codec.write(&write)?;
        let answer = self.shared.ask(&call, write.key, Access::Write).await?;
        codec::read_write(&write, answer)
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let bytes = |write: &Write<'_>| match &write.change {
            sysd_core::Change::Put { value, .. } => value.len(),
            sysd_core::Change::Delete => 0,
        };
        let cuts = self.shared.cut(writes, bytes);
        let calls: Vec<_> = cuts.into_iter().map(|cut| self.shared.write_some(cut)).collect();
        stream::iter(calls).buffered(PIPELINES).collect::<Vec<_>>().await.into_iter().flatten().collect()
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let Some(call) = self.shared.codec.scan(&scan)? else { return Ok(Page::default()) };
        let answer = self.shared.ask(&call, Key::lone(scan.space, scan.partition), Access::Read).await?;
        codec::read_scan(&scan, self.limits().page_rows_max, answer)
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.shared.trim(&trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let (scripts, update) = self.shared.codec.update(key, procedure)?;
        let lane = scripts.lane(&update, self.shared.router.is_by_slot());
        let shared = Arc::clone(&self.shared);
        let send = move |updates: Vec<Update>| async move {
            let run = |updates: &[Update]| shared.codec.run(&scripts, updates);
            let alone = || updates.chunks(1).map(run).collect();
            shared.router.send_combined(&run(&updates), updates.len(), alone).await
        };
        let answer = lane.run(update, self.shared.config.response_timeout, send).await;
        let answer = answer.map_err(|failure| map(&failure, Access::Write).with_key(key))?;
        codec::read_update(key, procedure, &answer)
    }
}
