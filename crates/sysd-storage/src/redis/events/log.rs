//! The log: appends, groups from outside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::Value;
use sysd_core::event::{Event, EventLimits, EventLog, EventSink, Lag, Sought, Start, check_name};
use sysd_core::lease::HolderId;
use sysd_core::{Clock, Effect, Entropy, Error, ErrorKind, Result, SystemClock, SystemEntropy};

use super::super::call::Call;
use super::super::config::RedisConfig;
use super::super::error::{Access, map};
use super::super::link::Failure;
use super::super::router::Router;
use super::super::{address, refuse_eviction, refuse_old};
use super::member::RedisMember;
use super::wire::{self, Wire};
use crate::events::partition_of;

/// One script appends so many events at most, or so many bytes: while it runs, Redis does nothing else.
const APPEND_EVENTS: usize = 256;
const APPEND_BYTES: usize = 256 << 10;

/// How a [`RedisEvents`] is made. Start from the default.
#[derive(Clone)]
pub struct RedisEventsConfig {
    /// How the server is reached, and what an acknowledged append survives there ([`RedisConfig::durability`]). Its clock is not
    /// used.
    pub redis: RedisConfig,
    /// How many partitions there are. The same for all who use the log, and for good: a key's events lie in the partition
    /// that the number gives.
    pub partitions: u32,
    /// How many events a partition keeps, about: Redis drops the oldest in chunks of about a hundred. Whoever has not read
    /// them is told of a gap.
    pub events_max: u64,
    /// The longest event, bytes.
    pub event_bytes_max: usize,
    /// How long a member that calls nothing keeps its partitions. Longer than a batch takes to be handled, and than
    /// [`RedisConfig::response_timeout`].
    pub session: Duration,
    /// How often a read that finds nothing looks again: a round trip a node each time.
    pub poll_every: Duration,
    /// The time: of waits, and of [`Delivered::appended_at`](sysd_core::event::Delivered::appended_at).
    pub clock: Arc<dyn Clock>,
    /// Mints members.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for RedisEventsConfig {
    /// 8 partitions of a million events of 1 MiB at most; sessions of 30 s, a look every 10 ms; by the system's clock.
    fn default() -> Self {
        Self {
            redis: RedisConfig::default(),
            partitions: 8,
            events_max: 1_000_000,
            event_bytes_max: EventLimits::PROCESS.event_bytes_max,
            session: Duration::from_secs(30),
            poll_every: Duration::from_millis(10),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl fmt::Debug for RedisEventsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEventsConfig")
            .field("redis", &self.redis)
            .field("partitions", &self.partitions)
            .field("events_max", &self.events_max)
            .field("event_bytes_max", &self.event_bytes_max)
            .field("session", &self.session)
            .field("poll_every", &self.poll_every)
            .finish_non_exhaustive()
    }
}

impl RedisEventsConfig {
    fn check(&self) -> Result<()> {
        self.redis.check()?;
        let options = [
            ("partitions", self.partitions == 0),
            ("events_max", self.events_max == 0),
            ("session", self.session.as_micros() == 0),
            ("poll_every", self.poll_every.is_zero()),
        ];
        if let Some((option, _)) = options.into_iter().find(|(_, is_zero)| *is_zero) {
            let message = format!("{option} is zero, so no event could be read");
            return Err(Error::new(ErrorKind::Config, Effect::None, message).with_field(option));
        }
        if self.redis.prefix.contains(['{', '}']) {
            let message = "a prefix has no { and }: they would tear a partition's keys apart";
            return Err(Error::new(ErrorKind::Config, Effect::None, message));
        }
        Ok(())
    }

    /// Redis counts no further.
    fn events_max(&self) -> u64 {
        self.events_max.min(i64::MAX.unsigned_abs())
    }

    pub(super) fn session_us(&self) -> u64 {
        u64::try_from(self.session.as_micros()).unwrap_or(u64::MAX).min(1 << 50)
    }
}

/// An event log on Redis 7.0 or later, one node or a Cluster. Clones share the connections.
///
/// # Guarantees
/// As [`EventSink`] and [`EventLog`]; of one [`append_many`](EventSink::append_many), the events of a partition that are there
/// are a beginning of those that were given: none stands behind one that failed.
///
/// # Cost
/// An append is one `XADD`; many are one script a partition for each 256 events. A read is one script a partition, all of a
/// node in one round trip; a commit the same.
#[derive(Clone)]
pub struct RedisEvents {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) wire: Wire,
    pub(super) config: RedisEventsConfig,
    limits: EventLimits,
}

impl fmt::Debug for RedisEvents {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEvents").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) async fn ask(&self, call: &Call, access: Access) -> Result<Value> {
        self.router.send(call).await.map_err(|failure| map(&failure, access))
    }

    /// Asks together; one answer each, in their order.
    pub(super) async fn ask_many(&self, calls: Vec<Call>, access: Access) -> Vec<Result<Value>> {
        let answers = self.router.send_many(calls).await;
        answers.into_iter().map(|answer| answer.map_err(|failure| map(&failure, access))).collect()
    }

    /// Appends what goes into one partition, script by script: behind one that failed nothing is sent.
    async fn append_partition(&self, partition: u32, events: &[&Event]) -> Vec<Result<()>> {
        let mut answers: Vec<Result<()>> = Vec::with_capacity(events.len());
        while answers.len() < events.len() {
            let left = &events[answers.len()..];
            let mut bytes = 0;
            let fits = |event: &&&Event| {
                bytes += event.key.len() + event.bytes.len();
                bytes <= APPEND_BYTES
            };
            let count = left.iter().take(APPEND_EVENTS).take_while(fits).count().max(1);
            let now = self.config.clock.now();
            let call = self.wire.append_many(partition, self.config.events_max(), &left[..count], now);
            match self.ask(&call, Access::Write).await {
                Ok(_) => answers.extend((0..count).map(|_| Ok(()))),
                Err(error) => {
                    answers.extend((0..count).map(|_| Err(error.share())));
                    answers.extend((count..left.len()).map(|_| Err(error.share().with_effect(Effect::None))));
                }
            }
        }
        answers
    }
}

impl RedisEvents {
    /// Connects to the log of this name; URLs are those of [`RedisStore::connect`](crate::RedisStore::connect). Needs a Tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming `name`; [`Config`](ErrorKind::Config) if the log has another number of partitions,
    /// or the server is too old; else as [`RedisStore::connect_with`](crate::RedisStore::connect_with).
    pub async fn connect(url: &str, name: &str, config: RedisEventsConfig) -> Result<Self> {
        check_name("name", name)?;
        config.check()?;
        let denied = |failure: Failure| map(&failure, Access::Read);
        let target = address::parse(url, &config.redis).map_err(|error| denied(Failure::unsent(error)))?;
        let router = Router::connect(target).await.map_err(denied)?;
        refuse_eviction(&router).await?;
        refuse_old(&router, "an event log on Redis needs Redis 7.0 or later").await?;
        let mut limits = EventLimits::PROCESS;
        limits.event_bytes_max = config.event_bytes_max;
        limits.durability = config.redis.durability;
        let shared = Shared { router, wire: Wire::new(&config.redis.prefix, name), config, limits };
        match shared.ask(&shared.wire.partitions(shared.config.partitions), Access::Write).await? {
            Value::Nil => {}
            found if wire::read_number(&found)? == u64::from(shared.config.partitions) => {}
            found => {
                let message = format!("the log has {} partitions: connect with as many", wire::read_number(&found)?);
                return Err(Error::new(ErrorKind::Config, Effect::None, message).with_field("partitions"));
            }
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    fn partitions(&self) -> std::ops::Range<u32> {
        0..self.shared.config.partitions
    }

    fn check_positions(&self, to: &Start) -> Result<()> {
        let is_there = |partition| self.partitions().contains(&partition);
        match to {
            Start::Positions(positions) if !positions.iter().all(|position| is_there(position.partition)) => {
                Err(Error::invalid("positions", "the log has no such partition"))
            }
            _ => Ok(()),
        }
    }

    /// Begins or moves a group in all partitions; answers whether all let it.
    async fn place(&self, group: &str, is_new: bool, to: &Start) -> Result<bool> {
        let shared = &self.shared;
        let calls = self.partitions().filter_map(|at| shared.wire.seek(at, group, is_new, to)).collect();
        let mut is_done = true;
        for answer in shared.ask_many(calls, Access::Write).await {
            is_done &= wire::read_number(&answer?)? != 2;
        }
        Ok(is_done)
    }
}

impl EventSink for RedisEvents {
    fn limits(&self) -> EventLimits {
        self.shared.limits
    }

    async fn append(&self, event: &Event) -> Result<()> {
        let shared = &self.shared;
        shared.limits.check(event)?;
        let partition = partition_of(&event.key, shared.config.partitions);
        let call = shared.wire.append(partition, shared.config.events_max(), event, shared.config.clock.now());
        shared.ask(&call, Access::Write).await.map(drop)
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        let shared = &self.shared;
        let mut answers: Vec<Result<()>> = Vec::with_capacity(events.len());
        let mut groups: Vec<(Vec<usize>, Vec<&Event>)> = vec![Default::default(); self.partitions().len()];
        for (index, event) in events.iter().enumerate() {
            answers.push(shared.limits.check(event));
            let at = partition_of(&event.key, shared.config.partitions) as usize;
            if let (Some(Ok(())), Some((indexes, group))) = (answers.last(), groups.get_mut(at)) {
                indexes.push(index);
                group.push(event);
            }
        }
        let sent = (0..)
            .zip(groups)
            .filter(|(_, (_, group))| !group.is_empty())
            .map(|(at, (indexes, group))| async move { (indexes, shared.append_partition(at, &group).await) });
        for (indexes, sent) in join_all(sent).await {
            for (index, answer) in indexes.into_iter().zip(sent) {
                answers[index] = answer;
            }
        }
        answers
    }
}

impl EventLog for RedisEvents {
    type Member = RedisMember;

    async fn join(&self, group: &str, start: Start) -> Result<RedisMember> {
        check_name("group", group)?;
        self.check_positions(&start)?;
        self.place(group, true, &start).await?;
        let id = format!("{:?}", HolderId::mint(&self.shared.config.entropy));
        Ok(RedisMember::new(Arc::clone(&self.shared), group.to_owned(), id))
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        check_name("group", group)?;
        let calls = self.partitions().map(|at| self.shared.wire.lag(at, group)).collect();
        let mut lags = Vec::new();
        for (partition, answer) in (0..).zip(self.shared.ask_many(calls, Access::Read).await) {
            if let Some(progress) = wire::read_progress(&answer?)? {
                let end = progress.last.saturating_add(1);
                let events = end.saturating_sub(progress.next.max(progress.first));
                lags.push(Lag { partition, next: progress.next, end, events });
            }
        }
        Ok(lags)
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        check_name("group", group)?;
        self.check_positions(&to)?;
        let alive = self.shared.ask(&self.shared.wire.enroll(group, "", 0), Access::Write).await?;
        if !wire::read_names(alive)?.is_empty() || !self.place(group, false, &to).await? {
            return Ok(Sought::HasMembers);
        }
        Ok(Sought::Moved)
    }
}
