//! Event logs on Kafka: a topic.
//!
//! # What is where
//! A key's events lie in the partition that Java's clients would put them in, too (murmur2). A message is the event's key and bytes;
//! its id is the header `sysd-id`, 18 bytes. A message without that header, of another program, is read under an id made of its
//! position.
//!
//! # Promises
//! Appends are acknowledged by all replicas in sync (`acks=all`) and by an idempotent producer: what librdkafka sends again is in
//! the topic once. What the *caller* sends again after an unknown effect may be there twice, under the same id. How many replicas
//! that is, is the topic's `min.insync.replicas`; that Kafka acknowledges before it syncs to disk is its way.
//!
//! Groups are Kafka's own, under the name `TOPIC/GROUP` (Kafka shares a group out over all topics that its members read; a group
//! here is one log's): `kafka-consumer-groups.sh` shows and moves them. Positions are committed only by
//! [`commit`](sysd_core::event::GroupMember::commit), never by themselves.
//!
//! # Threads
//! librdkafka has threads of its own, and its consumer waits by blocking: so each member has a thread, which ends when the member
//! is dropped or leaves: at the latest some seconds after [`KafkaEventsConfig::call_wait_max`], also while the brokers are silent.
//! There is one exception: a commit that is under way when all brokers that could coordinate the group break their connections,
//! and refuse new ones, has no end in librdkafka until one of them is back, and it closes no consumer before.
//! A look at a group or topic takes one for as long as it lasts.
//!
//! # Rebalancing
//! Cooperative: a member that stays goes on with the partitions that it keeps. A member takes part while it reads or commits: one
//! that works longer than [`KafkaEventsConfig::session`] on a batch loses its partitions.
//!
//! # Limits of Kafka's
//! - A group's first position is written without a condition. Where two members join a new group at the same moment with
//!   [`Start::Newest`], what is appended between the two may be skipped.
//! - An event that waited in vain to be sent ([`KafkaEventsConfig::append_wait_max`]) fails, while one of its key that was
//!   appended after it may go through. Append those of a key one after the other where that matters.

mod config;
mod error;
mod group;
mod member;
mod places;
mod producer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use sysd_core::event::{Event, EventLimits, EventLog, EventSink, Lag, Sought, Start, check_name};
use sysd_core::{Clock, Durability, Effect, Error, ErrorKind, Result, timeout};

pub use config::{KafkaEventsConfig, KafkaTopic};
pub use member::KafkaMember;

use error::{Access, map, map_code};
use group::Inspector;
use producer::Producer;

/// An event log on a topic of Kafka. Clones share the producer.
///
/// Dropping the last of them waits, half a second at most, for the producer's thread to end.
///
/// # Cost
/// Appends that are under way at the same time travel together: a round trip for all that came within
/// [`KafkaEventsConfig::linger`]. Reads come from what was fetched ahead; a commit is a round trip.
#[derive(Clone)]
pub struct KafkaEvents {
    shared: Arc<Shared>,
}

struct Shared {
    brokers: String,
    topic: String,
    partitions: u32,
    config: KafkaEventsConfig,
    limits: EventLimits,
    producer: Producer,
}

impl fmt::Debug for KafkaEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaEvents")
            .field("topic", &self.shared.topic)
            .field("partitions", &self.shared.partitions)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The group's name in Kafka: `/` is in none of ours.
    fn group_id(&self, group: &str) -> String {
        format!("{}/{group}", self.topic)
    }
}

/// Runs what blocks on a thread of its own. Past the deadline its answer is not waited for.
async fn on_thread<T: Send + 'static>(
    clock: &Arc<dyn Clock>,
    wait_max: Duration,
    access: Access,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let effect = if access == Access::Write { Effect::Unknown } else { Effect::None };
    let thread = std::thread::Builder::new().name("sysd-kafka".to_owned()).spawn(move || {
        // Nobody waits any more, perhaps.
        let _ = sender.send(work());
    });
    thread.map_err(|error| {
        Error::new(ErrorKind::Unavailable, Effect::None, "the system gives no thread").with_source(error)
    })?;
    match timeout(clock, wait_max, receiver).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(oneshot::Canceled)) => Err(Error::new(ErrorKind::Internal, effect, "a thread ended without an answer")),
        Err(_) => Err(Error::new(ErrorKind::Timeout, effect, "Kafka gave no answer in time")),
    }
}

impl KafkaEvents {
    /// Connects to a topic that is there: `kafka://HOST[:PORT],HOST[:PORT]`. Needs no runtime.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming `name`; [`Config`](ErrorKind::Config) if the URL or a property is wrong, or there is
    /// no such topic; [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout) or
    /// [`Denied`](ErrorKind::Denied) if there is no way in.
    pub async fn connect(url: &str, name: &str, config: KafkaEventsConfig) -> Result<Self> {
        check_name("name", name)?;
        config.check()?;
        let brokers = config::brokers(url)?;
        let inspector = config.inspector(&brokers, None);
        let (topic, wait_max) = (name.to_owned(), config.call_wait_max);
        let look = move || Inspector::new(&inspector, &topic, wait_max)?.partitions();
        let partitions = on_thread(&config.clock, config.call_wait_max, Access::Read, look).await?;
        let producer =
            Producer::new(config.producer(&brokers), name, config.append_wait_max, Arc::clone(&config.clock))?;
        let mut limits = EventLimits::PROCESS;
        limits.event_bytes_max = config.event_bytes_max;
        limits.durability = Durability::Durable;
        let topic = name.to_owned();
        Ok(Self { shared: Arc::new(Shared { brokers, topic, partitions, config, limits, producer }) })
    }

    /// Makes a topic; one that is there stays as it is.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`Config`](ErrorKind::Config) if Kafka refuses such a topic.
    ///
    /// # Cancel safety
    /// It may have been made.
    pub async fn create_topic(url: &str, name: &str, topic: &KafkaTopic, config: &KafkaEventsConfig) -> Result<()> {
        check_name("name", name)?;
        config.check()?;
        let client = config.inspector(&config::brokers(url)?, None);
        let (name, topic, wait_max) = (name.to_owned(), topic.clone(), config.call_wait_max);
        let make = move || make_topic(&client, &name, &topic, wait_max);
        // The broker is given all the time; the answer needs a little more.
        on_thread(&config.clock, config.call_wait_max + Duration::from_secs(1), Access::Write, make).await
    }

    /// Looks at a group from outside.
    async fn inspect<T: Send + 'static>(
        &self,
        group: &str,
        access: Access,
        look: impl FnOnce(&Inspector) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let client = shared.config.inspector(&shared.brokers, Some(&shared.group_id(group)));
        let work = move || look(&Inspector::new(&client, &shared.topic, shared.config.call_wait_max)?);
        on_thread(&self.shared.config.clock, self.shared.config.call_wait_max, access, work).await
    }

    fn check_positions(&self, to: &Start) -> Result<()> {
        match to {
            Start::Positions(positions)
                if positions.iter().any(|position| position.partition >= self.shared.partitions) =>
            {
                Err(Error::invalid("positions", "the log has no such partition"))
            }
            _ => Ok(()),
        }
    }
}

fn make_topic(client: &ClientConfig, name: &str, topic: &KafkaTopic, wait_max: Duration) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(|error| map(&error, Access::Read))?;
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let mut new = NewTopic::new(name, partitions, TopicReplication::Fixed(i32::from(topic.replication)));
    for (option, value) in &topic.options {
        new = new.set(option, value);
    }
    let options = AdminOptions::new().request_timeout(Some(wait_max)).operation_timeout(Some(wait_max));
    let made = block_on(admin.create_topics([&new], &options)).map_err(|error| map(&error, Access::Write))?;
    for answer in made {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(map_code(code, Access::Write)),
        }
    }
    Ok(())
}

impl EventSink for KafkaEvents {
    fn limits(&self) -> EventLimits {
        self.shared.limits
    }

    async fn append(&self, event: &Event) -> Result<()> {
        self.shared.limits.check(event)?;
        let sent = self.shared.producer.send(event).await?;
        self.shared.producer.wait(sent).await
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        let producer = &self.shared.producer;
        let mut under_way = Vec::with_capacity(events.len());
        for event in events {
            under_way.push(match self.shared.limits.check(event) {
                Ok(()) => producer.send(event).await,
                Err(error) => Err(error),
            });
        }
        let mut answers = Vec::with_capacity(events.len());
        for sent in under_way {
            answers.push(match sent {
                Ok(sent) => producer.wait(sent).await,
                Err(error) => Err(error),
            });
        }
        answers
    }
}

impl EventLog for KafkaEvents {
    type Member = KafkaMember;

    async fn join(&self, group: &str, start: Start) -> Result<KafkaMember> {
        check_name("group", group)?;
        self.check_positions(&start)?;
        self.inspect(group, Access::Write, move |inspector| inspector.begin(&start)).await?;
        KafkaMember::start(&self.shared, group)
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        check_name("group", group)?;
        self.inspect(group, Access::Read, Inspector::lag).await
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        check_name("group", group)?;
        self.check_positions(&to)?;
        self.inspect(group, Access::Write, move |inspector| inspector.seek(&to)).await
    }
}
