//! An outbox on any store: records and their events, neither lost nor invented, though they lie in different partitions.
//!
//! ```
//! use std::time::Duration;
//! use sysd_core::event::{EventLog, GroupMember, NewEvent, Start};
//! use sysd_core::{Expect, Key, Space};
//! use sysd_storage::{Memory, MemoryEvents, MemoryEventsConfig, Outbox, OutboxConfig, Wrote};
//!
//! const ORDERS: Space = Space::conditional("orders");
//!
//! # futures::executor::block_on(async {
//! let outbox = Outbox::new(Memory::new(), "shop", &[ORDERS], OutboxConfig::default())?;
//! let order = Key::lone(ORDERS, b"7");
//! let events = vec![NewEvent::new(b"7", "ordered")];
//! let Wrote::Written(version) = outbox.write(order, "two pens", Expect::Absent, events).await? else { panic!() };
//! let events = vec![NewEvent::new(b"7", "paid")];
//! outbox.write(order, "two pens, paid", Expect::Is(version), events).await?;
//!
//! // Any event log will do, or another `EventSink`.
//! let log = MemoryEvents::new(MemoryEventsConfig::default())?;
//! outbox.relay_once(&log).await?;
//! let batch = log.join("mailer", Start::Oldest).await?.read(10, Duration::ZERO).await?;
//! assert_eq!(batch.events.iter().map(|it| &it.event.bytes[..]).collect::<Vec<_>>(), [&b"ordered"[..], b"paid"]);
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # What it needs
//! Every write of a record that has events goes through its outbox, also one without events; none deletes it or lets it
//! expire. What a writer expects it has read, or was told by an earlier write.
//!
//! # States of an intent
//! A write's intent (what it expects, the new version and value, the events) is there before the record is written.
//!
//! | the record is | the intent | then |
//! |---|---|---|
//! | at the new version, or at one written over it | became true | publish, then remove |
//! | as expected | is open: the writer may be about to write | wait; past the deadline *claim* it, and write the record in the writer's stead |
//! | anything else | never becomes true | past the deadline, remove |
//!
//! # Invariants
//! - A record's versions form a chain: each was written over the one that its intent names. The intents of the chain are
//!   removed oldest first, so what is left of it ends at the record's version, and all of that became true.
//! - An event is published only if its version is in the chain; an intent is removed only after that, or if its version
//!   never will be: the version that it expects has passed, and versions don't come back.
//! - An abandoned intent is not taken back but carried out: the same conditional write, under the same version. Whether it or
//!   the writer's own, however late, comes first, it happens once; if another write was faster, neither does.
//!
//! # Cut off after every step
//! | cut off after | what is left | what comes of it |
//! |---|---|---|
//! | the intent | an open intent | carried out after its deadline, or overtaken and removed; the caller knows nothing |
//! | the record | a true intent | published by the relay, as in the ordinary case |
//! | a lost condition | an intent that is overtaken | removed after its deadline |
//! | claiming | a claimed intent | the next relay writes the record |
//! | publishing | a true intent | published again under the same id, then removed |
//! | a removal | the rest of the chain | goes on there |
//!
//! # How it goes back
//! Intents are listed, then the record is read, then its history is followed backwards from what it is: by what was listed, else by
//! reading the intent of each version. It ends where there is none: that was published, and so was all before. However long the
//! history is, versions are held of its oldest 65,536 writes only.
//!
//! # Order
//! The events of a record are first published in the order of its versions. Again-published ones come after; a sink
//! knows them by their id. Run one relay (under a [`Lease`](sysd_core::lease)) to have few: several are safe.
//!
//! # What fails
//! A record whose events the sink refuses, or does not answer within [`OutboxConfig::publish_wait_max`], keeps its intents; it
//! rests, longer each time, while all others go on. So does one whose history leads to an intent that can't be read: what was written
//! after that must not be published before. What was written before it is published, as long as the intent's head still tells what it was
//! written over. An intent that can't be read and is none of the history's holds nothing up, nor does a row that names
//! no record; neither is ever removed. All of that is in [`Relayed`], with the first error and the key, in the log, and in the metric
//! `sysd_outbox_failed_total`; [`relay_reporting`](Outbox::relay_reporting) hands it out.
//!
//! # Bounds
//! [`OutboxConfig::records_at_once`] records are in hand at once, and [`OutboxConfig::relay_bytes_max`] bytes of intents and records,
//! however many wait. 1,024 resting records are remembered; beyond these they are tried at every look.
//!
//! # Clocks
//! Deadlines only say when to help. A relay whose clock is ahead carries out the write of a writer that is still at it, which
//! is the same write. A writer that then loses its condition is told that nobody knows.

mod intent;
mod relay;
mod rest;
mod walk;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sysd_core::event::{EventLimits, NewEvent};
use sysd_core::{
    Clock, Effect, Entropy, Error, Expect, Key, KeyBytes, Outcome, Record, Result, RetryPolicy, Space, Store,
    SystemClock, SystemEntropy, Version, Write, tuple,
};

pub use relay::Relayed;

use crate::calls::Calls;
use intent::Intent;

const SPACE: Space = Space::conditional("outbox");
const NAME_BYTES_MAX: usize = 256;

/// How an [`Outbox`] is run. Start from the default.
#[derive(Clone)]
pub struct OutboxConfig {
    /// Over how many partitions intents are spread. The same for all who use the outbox.
    pub shards: u16,
    /// After which time a write that was begun is carried out by the relay.
    pub settle_after: Duration,
    /// How often [`relay`](Outbox::relay) looks when there was nothing to do.
    pub poll_every: Duration,
    /// How many records the relay works on at once, at most.
    pub records_at_once: usize,
    /// The largest intent, bytes: the record's value and the events, as they are stored together. The same for all who use the outbox.
    /// The store's own limit counts where it is lower.
    pub intent_bytes_max: usize,
    /// How many bytes of intents and records the relay holds at once, at most: four of the largest intents or more. Where that
    /// is room for less than four times `records_at_once` of them, it works on fewer records.
    pub relay_bytes_max: usize,
    /// How long the sink may take for one event before its effect counts as unknown.
    pub publish_wait_max: Duration,
    /// For how long, at most, [`relay`](Outbox::relay) leaves a record alone whose events could not be published: at first for
    /// `poll_every`, then for twice as long each time.
    pub rest_max: Duration,
    /// The longest key of an event, bytes. No sink that this outbox is relayed to may take less.
    pub event_key_bytes_max: usize,
    /// The longest event, bytes, its key not counted. No sink that this outbox is relayed to may take less.
    pub event_bytes_max: usize,
    /// How long one storage call may take before its effect counts as unknown.
    pub call_wait_max: Duration,
    /// How a storage call is tried again.
    pub retry: RetryPolicy,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Mints versions.
    pub entropy: Arc<dyn Entropy>,
    /// A deliberate bug.
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

/// Mistakes that an outbox could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Removes an intent before its events are published.
    RemoveFirst,
    /// Writes the record before the intent.
    RecordFirst,
    /// Publishes the events of an abandoned intent without a look at the record.
    PublishAbandoned,
    /// Takes an abandoned intent back, and lets its writer go on.
    TakeBack,
    /// Publishes what became true in any order.
    AnyOrder,
    /// Follows a record's history only through what was listed before the record was read.
    ListedOnly,
}

impl OutboxConfig {
    #[cfg(feature = "seeded-bugs")]
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    const fn has(&self, _: Bug) -> bool {
        false
    }
}

impl Default for OutboxConfig {
    /// 16 shards; the relay helps after 30 s, polls every 100 ms, works on 32 records and holds 256 MiB at most; intents of 2 MiB;
    /// sinks that answer within 10 s, records that rest for 10 s at most; by the system's clock. Events as every log of this crate
    /// takes them by its own default: keys of 2,048 bytes, events of a million.
    fn default() -> Self {
        Self {
            shards: 16,
            settle_after: Duration::from_secs(30),
            poll_every: Duration::from_millis(100),
            records_at_once: 32,
            intent_bytes_max: 2 << 20,
            relay_bytes_max: 256 << 20,
            publish_wait_max: Duration::from_secs(10),
            rest_max: Duration::from_secs(10),
            event_key_bytes_max: EventLimits::PROCESS.key_bytes_max,
            event_bytes_max: 1_000_000,
            call_wait_max: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

impl fmt::Debug for OutboxConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxConfig")
            .field("shards", &self.shards)
            .field("settle_after", &self.settle_after)
            .field("poll_every", &self.poll_every)
            .field("records_at_once", &self.records_at_once)
            .field("intent_bytes_max", &self.intent_bytes_max)
            .field("relay_bytes_max", &self.relay_bytes_max)
            .field("publish_wait_max", &self.publish_wait_max)
            .field("rest_max", &self.rest_max)
            .field("event_key_bytes_max", &self.event_key_bytes_max)
            .field("event_bytes_max", &self.event_bytes_max)
            .finish_non_exhaustive()
    }
}

/// What came of a write. A lost condition is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict is a value, not an error: look at it"]
pub enum Wrote {
    /// The record is written, under this version; its events will be published.
    Written(Version),
    /// The condition did not hold; nothing happened, and no event is published.
    Conflict {
        /// What is there.
        found: Option<Record>,
    },
}

/// Writes records with their events, and relays these. Clones share the store.
#[derive(Clone)]
pub struct Outbox<S> {
    calls: Calls<S>,
    name: String,
    spaces: Vec<Space>,
    config: OutboxConfig,
}

impl<S> fmt::Debug for Outbox<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}

/// The row of an intent.
struct Place {
    partition: KeyBytes,
    sort: KeyBytes,
}

impl Place {
    fn key(&self) -> Key<'_> {
        Key::row(SPACE, &self.partition, &self.sort)
    }
}

impl<S: Store> Outbox<S> {
    /// The outbox of this name, for records of these spaces.
    ///
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) naming `name`, `shards`, `spaces` if one is plain, or `relay_bytes_max` if that
    /// is less than four intents.
    pub fn new(store: S, name: &str, spaces: &[Space], config: OutboxConfig) -> Result<Self> {
        match name.len() {
            0 => return Err(Error::invalid("name", "an outbox's name has at least one byte")),
            size if size > NAME_BYTES_MAX => return Err(Error::too_large("name", size, NAME_BYTES_MAX)),
            _ => {}
        }
        if config.shards == 0 {
            return Err(Error::invalid("shards", "an outbox has at least one"));
        }
        if let Some(plain) = spaces.iter().find(|space| !space.is_conditional()) {
            return Err(Error::invalid("spaces", format!("space {} is plain and takes no conditions", plain.name())));
        }
        let intent_bytes_max = config.intent_bytes_max.min(store.limits().value_bytes_max);
        if config.relay_bytes_max / 4 < intent_bytes_max {
            let message = format!("the relay holds four intents at once, of {intent_bytes_max} bytes each");
            return Err(Error::invalid("relay_bytes_max", message));
        }
        let calls = Calls {
            store,
            wait_max: config.call_wait_max,
            retry: config.retry,
            clock: Arc::clone(&config.clock),
            entropy: Arc::clone(&config.entropy),
        };
        Ok(Self { calls, name: name.to_owned(), spaces: spaces.to_vec(), config })
    }

    fn partition(&self, shard: u16) -> KeyBytes {
        tuple::encode(&(self.name.as_str(), shard))
    }

    fn prefix(space: &str, partition: &[u8], sort: &[u8]) -> KeyBytes {
        tuple::encode(&(space, partition, sort))
    }

    fn place(&self, intent: &Intent) -> Place {
        let prefix = Self::prefix(&intent.space, &intent.partition, &intent.sort);
        let shard = u16::try_from(crc32fast::hash(&prefix) % u32::from(self.config.shards)).unwrap_or_default();
        let mut sort = prefix;
        sort.extend_from_slice(&intent.version.to_bytes());
        Place { partition: self.partition(shard), sort }
    }

    /// The largest intent.
    fn intent_bytes_max(&self) -> usize {
        self.config.intent_bytes_max.min(self.calls.store.limits().value_bytes_max)
    }

    fn space(&self, name: &str) -> Option<Space> {
        self.spaces.iter().copied().find(|space| space.name() == name)
    }

    /// Writes a record if `expect` holds, and has `events` published if it does.
    ///
    /// # Errors
    /// [`Invalid`](sysd_core::ErrorKind::Invalid) naming `space` if it is none of the outbox's, `expect` if it is `Any`;
    /// [`TooLarge`](sysd_core::ErrorKind::TooLarge) naming `events` if these and the value together are over the limit of
    /// an intent, or one of them is over the outbox's own: no sink would take it, and nothing behind it could be published. With an
    /// unknown effect the record may be written later, and then its events are published.
    ///
    /// # Cost
    /// Two writes; a third where the condition is lost. The relay: two reads, a publication and a write a record.
    ///
    /// # Cancel safety
    /// Dropped, it may still happen, as a whole.
    pub async fn write(
        &self,
        key: Key<'_>,
        value: impl Into<Bytes>,
        expect: Expect,
        events: Vec<NewEvent>,
    ) -> Result<Wrote> {
        let before = match expect {
            Expect::Absent => None,
            Expect::Is(version) => Some(version),
            Expect::Any => return Err(Error::invalid("expect", "an outbox writes over what was read: Absent or Is")),
        };
        if self.space(key.space().name()) != Some(key.space()) {
            return Err(Error::invalid("space", format!("{} is none of this outbox's spaces", key.space().name())));
        }
        self.check_events(&events)?;
        let intent = Intent {
            is_claimed: false,
            deadline: self.calls.now().saturating_add(self.config.settle_after),
            before,
            version: self.calls.mint(),
            space: key.space().name().to_owned(),
            partition: KeyBytes::from_slice(key.partition()),
            sort: KeyBytes::from_slice(key.sort()),
            value: value.into(),
            events,
        };
        let limits = self.calls.store.limits();
        limits.check_key(key)?;
        limits.check_value(&intent.value)?;
        let encoded = intent.encode();
        let bytes_max = self.intent_bytes_max();
        if encoded.len() > bytes_max || intent.events.len() > usize::from(u16::MAX) {
            return Err(Error::too_large("events", encoded.len(), bytes_max));
        }
        self.write_intent(key, &intent, encoded).await
    }

    fn check_events(&self, events: &[NewEvent]) -> Result<()> {
        let (key_max, bytes_max) = (self.config.event_key_bytes_max, self.config.event_bytes_max);
        for event in events {
            if event.key.len() > key_max {
                return Err(Error::too_large("events", event.key.len(), key_max));
            }
            if event.bytes.len() > bytes_max {
                return Err(Error::too_large("events", event.bytes.len(), bytes_max));
            }
        }
        Ok(())
    }

    /// Refuses a sink that takes less than was let in: it would stop at the first event that is too large for it.
    fn check_sink(&self, sink: EventLimits) -> Result<()> {
        let options = [
            ("event_key_bytes_max", self.config.event_key_bytes_max, sink.key_bytes_max),
            ("event_bytes_max", self.config.event_bytes_max, sink.event_bytes_max),
        ];
        match options.into_iter().find(|(_, let_in, taken)| let_in > taken) {
            Some((option, let_in, taken)) => {
                let message = format!("the sink takes {taken} bytes, and the outbox lets {let_in} in: lower {option}");
                Err(Error::new(sysd_core::ErrorKind::Config, Effect::None, message).with_field(option))
            }
            None => Ok(()),
        }
    }

    async fn write_intent(&self, key: Key<'_>, intent: &Intent, encoded: Bytes) -> Result<Wrote> {
        let (place, token) = (self.place(intent), self.calls.mint());
        // Absent: an attempt that comes late must not undo a relay's claim.
        let write_intent = Write::put(place.key(), encoded).with_version(token).expect(Expect::Absent);
        let write = Write::put(key, intent.value.clone()).with_version(intent.version).expect(intent.expect());
        // One that comes later still would bring an intent back that was claimed, carried out and removed.
        let mut may_return = false;
        if !self.config.has(Bug::RecordFirst) {
            may_return = self.calls.write(&write_intent).await?.is_again;
        }
        let written = self.calls.write(&write).await.map_err(|error| error.with_effect(Effect::Unknown))?;
        if self.config.has(Bug::RecordFirst) {
            self.calls.write(&write_intent).await?;
        }
        match written.outcome {
            Outcome::Applied => Ok(Wrote::Written(intent.version)),
            // An attempt before may have happened and been written over.
            Outcome::Conflict { .. } if written.is_again || may_return => Err(unsettled()),
            Outcome::Conflict { found } => {
                // Nobody has claimed it, so nobody else wrote it: it did not happen, and will not.
                let withdraw = Write::delete(place.key()).expect(Expect::Is(token));
                let withdrawn = self.calls.write(&withdraw).await;
                match withdrawn.map_err(|error| error.with_effect(Effect::Unknown))?.outcome {
                    Outcome::Applied => Ok(Wrote::Conflict { found }),
                    Outcome::Conflict { .. } => Err(unsettled()),
                }
            }
        }
    }
}

fn unsettled() -> Error {
    let message = "the record has moved on since an attempt whose reply was lost, or that the relay made";
    Error::new(sysd_core::ErrorKind::Unavailable, Effect::Unknown, message)
}
