//! Events: appended by key, read by groups of members.
//!
//! A *log* keeps events in partitions. Events of one key lie in one partition, in the order in which they were appended. A
//! *group* reads a log once; its *members* share the partitions, one member a partition at a time. Several groups read the same
//! log independently of each other.
//!
//! # At least once
//! An event may be in a log twice (an append whose reply was lost, sent again), and may be handed out twice (a member that
//! ended before it committed). Both have the same [`EventId`]: whoever must not do a thing twice remembers ids.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Durability, Entropy, Error, KeyBytes, Result, Timestamp, Version};

/// The longest name of a log or a group.
pub const NAME_BYTES_MAX: usize = 128;

/// An event that has no id yet: an outbox names it by the write that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What events are ordered by: usually what names the record.
    pub key: KeyBytes,
    /// What happened.
    pub bytes: Bytes,
}

impl NewEvent {
    /// An event under a key.
    pub fn new(key: &[u8], bytes: impl Into<Bytes>) -> Self {
        Self { key: KeyBytes::from_slice(key), bytes: bytes.into() }
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which one it is, the same however often it is appended or read.
    pub id: EventId,
    /// What events are ordered by.
    pub key: KeyBytes,
    /// What happened.
    pub bytes: Bytes,
}

impl Event {
    /// An event of this id.
    pub fn new(id: EventId, key: &[u8], bytes: impl Into<Bytes>) -> Self {
        Self { id, key: KeyBytes::from_slice(key), bytes: bytes.into() }
    }

    /// An event of a fresh id.
    pub fn mint(entropy: &(impl Entropy + ?Sized), key: &[u8], bytes: impl Into<Bytes>) -> Self {
        Self::new(EventId { version: Version::mint(entropy), index: 0 }, key, bytes)
    }
}

/// Names an event: the version of the write that it belongs to, and its place among that write's events. The same whenever it
/// is appended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The record's version; for an event that belongs to none, any fresh one.
    pub version: Version,
    /// Which of its events, from 0.
    pub index: u16,
}

impl EventId {
    /// How many bytes it has.
    pub const BYTES: usize = 18;

    /// As bytes: the version, then the index, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.version.to_bytes());
        bytes[16..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// From its bytes; `None` if that is not how many it has.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, index) = bytes.split_first_chunk::<16>()?;
        Some(Self { version: Version::from_bytes(*version), index: u16::from_be_bytes(index.try_into().ok()?) })
    }
}

/// Where an event lies in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// In which partition, from 0.
    pub partition: u32,
    /// Where there: numbers rise from event to event, and need not be dense.
    pub number: u64,
}

/// How much a sink takes, and what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventLimits {
    /// The longest key, bytes.
    pub key_bytes_max: usize,
    /// The longest event, bytes, its key not counted.
    pub event_bytes_max: usize,
    /// What an appended event survives.
    pub durability: Durability,
}

impl EventLimits {
    /// Those of a log in this process: to start from.
    pub const PROCESS: Self = Self { key_bytes_max: 2_048, event_bytes_max: 1 << 20, durability: Durability::Process };

    /// Refuses an event that can never be appended.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) naming `key` or `bytes`.
    pub fn check(&self, event: &Event) -> Result<()> {
        if event.key.len() > self.key_bytes_max {
            return Err(Error::too_large("key", event.key.len(), self.key_bytes_max));
        }
        if event.bytes.len() > self.event_bytes_max {
            return Err(Error::too_large("bytes", event.bytes.len(), self.event_bytes_max));
        }
        Ok(())
    }
}

/// Refuses a name that not every log can have: 1 to 128 of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`, and neither `.` nor `..`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) naming `field`.
pub fn check_name(field: &'static str, name: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_good = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
    if !is_good || matches!(name, "." | "..") {
        return Err(Error::invalid(field, "a name has 1 to 128 letters, digits, dots, underscores and hyphens"));
    }
    Ok(())
}

/// Where events go.
///
/// # Guarantees
/// - `Ok`: the event will not be lost, as far as [`EventLimits::durability`] goes.
/// - Events of one key stand in the log in the order of the calls that appended them, each begun when the one before had
///   answered `Ok`; those of one call in their order there.
/// - It may be called again with the same event after an error of unknown effect. The event may then be there twice, under the
///   same id.
///
/// # Cancel safety
/// An append that is dropped may have happened, or may still happen.
pub trait EventSink: Send + Sync + 'static {
    /// How much it takes, and what it promises.
    fn limits(&self) -> EventLimits;

    /// Appends an event.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) before anything is sent; [`Full`](crate::ErrorKind::Full) or
    /// [`Throttled`](crate::ErrorKind::Throttled), and nothing happened, where there is no room;
    /// [`Timeout`](crate::ErrorKind::Timeout) with an unknown effect if there was no answer in time.
    fn append(&self, event: &Event) -> impl Future<Output = Result<()>> + Send;

    /// Appends events; one answer each, in their order. A failure is only that event's own: those behind it may be there all
    /// the same, also those of its key.
    fn append_many(&self, events: &[Event]) -> impl Future<Output = Vec<Result<()>>> + Send;
}

impl<S: EventSink> EventSink for Arc<S> {
    fn limits(&self) -> EventLimits {
        (**self).limits()
    }

    async fn append(&self, event: &Event) -> Result<()> {
        (**self).append(event).await
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        (**self).append_many(events).await
    }
}

/// Where a group begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event that is kept.
    Oldest,
    /// Behind the newest: only what comes is read.
    Newest,
    /// At the first event that was appended at this time or later, by the clock of who appended it. Where clocks disagree or
    /// step, about there.
    Time(Timestamp),
    /// At these events, one a partition; partitions that are not named stay where they are, and for a new group begin at the
    /// oldest.
    Positions(Vec<Position>),
}

/// An event as a member reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// What was appended.
    pub event: Event,
    /// Where it lies.
    pub position: Position,
    /// When it was appended, by the clock of who did; Kafka keeps milliseconds.
    pub appended_at: Timestamp,
}

/// Events that a group has not read and never will: the log's bound removed them first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In which partition.
    pub partition: u32,
    /// The number that was next.
    pub from: u64,
    /// The number of the oldest event that is left.
    pub to: u64,
}

/// What a member reads at once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// Events: those of one partition in their order.
    pub events: Vec<Delivered>,
    /// What is missing before them.
    pub gaps: Vec<Gap>,
}

impl Batch {
    /// The last position in each partition: what to commit when all events have been handled.
    pub fn ends(&self) -> Vec<Position> {
        let mut ends = BTreeMap::new();
        for delivered in &self.events {
            ends.insert(delivered.position.partition, delivered.position.number);
        }
        ends.into_iter().map(|(partition, number)| Position { partition, number }).collect()
    }
}

/// What came of a commit. Having lost a partition is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "what was not committed is handed out again: look at it"]
pub enum Committed {
    /// All of it.
    All,
    /// Not in these partitions, which the member does not own any more: another was or will be given the events again. Elsewhere
    /// it is committed.
    Lost {
        /// Which.
        partitions: Vec<u32>,
    },
}

/// How far a group is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// In which partition.
    pub partition: u32,
    /// The lowest number that the group has not committed.
    pub next: u64,
    /// The number that the next event will have, at least.
    pub end: u64,
    /// How many events wait in between, at most: those that are kept.
    pub events: u64,
}

/// What came of a seek. A group that is being read is not moved, and that is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a group with members is not moved: look at it"]
pub enum Sought {
    /// The group goes on there.
    Moved,
    /// The group has members, or had until a moment ago. It may have moved in some partitions.
    HasMembers,
}

/// A log of events in partitions.
pub trait EventLog: EventSink {
    /// A member of a group.
    type Member: GroupMember;

    /// Joins a group as a new member. A group that is new begins at `start`, in every partition and at this moment; where there
    /// is one already, `start` is not looked at.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming `group`.
    ///
    /// # Cancel safety
    /// The group may have begun; a member that nobody holds owns nothing for long.
    fn join(&self, group: &str, start: Start) -> impl Future<Output = Result<Self::Member>> + Send;

    /// How far a group is, partition by partition; nothing if there is no such group.
    fn lag(&self, group: &str) -> impl Future<Output = Result<Vec<Lag>>> + Send;

    /// Moves a group that nobody reads, forwards or back: to replay, or to skip.
    ///
    /// # Errors
    /// After one, some partitions may have moved: call it again.
    fn seek(&self, group: &str, to: Start) -> impl Future<Output = Result<Sought>> + Send;
}

/// Sharing a log changes nothing about it.
impl<L: EventLog> EventLog for Arc<L> {
    type Member = L::Member;

    async fn join(&self, group: &str, start: Start) -> Result<L::Member> {
        (**self).join(group, start).await
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        (**self).lag(group).await
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        (**self).seek(group, to).await
    }
}

/// A member of a group.
///
/// # Guarantees
/// - A partition is owned by one member of a group at a time. Members share them about evenly, and pass them on, in the calls of
///   [`read`](Self::read), when others come and go.
/// - Who comes to own a partition is handed its events from the last committed position on, in their order, none left out but
///   those that a [`Gap`] tells.
/// - A member that has called nothing for its log's session time is taken for dead; in a process, one that was dropped.
pub trait GroupMember: Send + 'static {
    /// The next events, `limit` at most, waiting up to `wait_max` for the first; none if there are none by then.
    ///
    /// Events go on from those of the reads before, committed or not.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming `limit` if it is zero. After an error no event is lost: read again.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was not handed out is read again.
    fn read(&mut self, limit: usize, wait_max: Duration) -> impl Future<Output = Result<Batch>> + Send;

    /// Has the group never be handed these and what lies before them again. Committing less than was committed changes nothing.
    ///
    /// # Errors
    /// With an unknown effect it may have happened: committing again is safe.
    ///
    /// # Cancel safety
    /// It may have happened.
    fn commit(&mut self, positions: &[Position]) -> impl Future<Output = Result<Committed>> + Send;

    /// Leaves the group, so that others have its partitions at once. Dropped without, a member may be waited for until its
    /// session ends.
    fn leave(self) -> impl Future<Output = Result<()>> + Send;
}

/// The object-safe twin of [`EventLog`], implemented for every log. One allocation a call.
#[async_trait]
pub trait ErasedEventLog: Send + Sync + 'static {
    /// As [`EventSink::limits`].
    fn limits(&self) -> EventLimits;
    /// As [`EventSink::append`].
    async fn append(&self, event: &Event) -> Result<()>;
    /// As [`EventSink::append_many`].
    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>>;
    /// As [`EventLog::join`].
    async fn join(&self, group: &str, start: Start) -> Result<AnyMember>;
    /// As [`EventLog::lag`].
    async fn lag(&self, group: &str) -> Result<Vec<Lag>>;
    /// As [`EventLog::seek`].
    async fn seek(&self, group: &str, to: Start) -> Result<Sought>;
}

#[async_trait]
impl<L: EventLog> ErasedEventLog for L {
    fn limits(&self) -> EventLimits {
        EventSink::limits(self)
    }

    async fn append(&self, event: &Event) -> Result<()> {
        EventSink::append(self, event).await
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        EventSink::append_many(self, events).await
    }

    async fn join(&self, group: &str, start: Start) -> Result<AnyMember> {
        Ok(AnyMember(Box::new(EventLog::join(self, group, start).await?)))
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        EventLog::lag(self, group).await
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        EventLog::seek(self, group, to).await
    }
}

/// The object-safe twin of [`GroupMember`], implemented for every member. One allocation a call.
#[async_trait]
pub trait ErasedMember: Send + 'static {
    /// As [`GroupMember::read`].
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch>;
    /// As [`GroupMember::commit`].
    async fn commit(&mut self, positions: &[Position]) -> Result<Committed>;
    /// As [`GroupMember::leave`].
    async fn leave(self: Box<Self>) -> Result<()>;
}

#[async_trait]
impl<M: GroupMember> ErasedMember for M {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        GroupMember::read(self, limit, wait_max).await
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        GroupMember::commit(self, positions).await
    }

    async fn leave(self: Box<Self>) -> Result<()> {
        GroupMember::leave(*self).await
    }
}

/// Any log, chosen at run time; cheap to clone. It is an [`EventLog`] again.
#[derive(Clone)]
pub struct AnyEventLog(Arc<dyn ErasedEventLog>);

impl AnyEventLog {
    /// Erases a log.
    pub fn new(log: impl EventLog) -> Self {
        Self(Arc::new(log))
    }
}

impl fmt::Debug for AnyEventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyEventLog").finish_non_exhaustive()
    }
}

impl EventSink for AnyEventLog {
    fn limits(&self) -> EventLimits {
        self.0.limits()
    }

    async fn append(&self, event: &Event) -> Result<()> {
        self.0.append(event).await
    }

    async fn append_many(&self, events: &[Event]) -> Vec<Result<()>> {
        self.0.append_many(events).await
    }
}

impl EventLog for AnyEventLog {
    type Member = AnyMember;

    async fn join(&self, group: &str, start: Start) -> Result<AnyMember> {
        self.0.join(group, start).await
    }

    async fn lag(&self, group: &str) -> Result<Vec<Lag>> {
        self.0.lag(group).await
    }

    async fn seek(&self, group: &str, to: Start) -> Result<Sought> {
        self.0.seek(group, to).await
    }
}

/// A member of any log.
pub struct AnyMember(Box<dyn ErasedMember>);

impl fmt::Debug for AnyMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyMember").finish_non_exhaustive()
    }
}

impl GroupMember for AnyMember {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        self.0.read(limit, wait_max).await
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        self.0.commit(positions).await
    }

    async fn leave(self) -> Result<()> {
        self.0.leave().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, SeededEntropy};

    #[test]
    fn an_id_comes_back_from_its_bytes() {
        let id = EventId { version: Version::from_u128(7 << 100 | 9), index: 513 };
        assert_eq!(EventId::from_bytes(&id.to_bytes()), Some(id));
        assert_eq!(EventId::from_bytes(&id.to_bytes()[1..]), None);
        assert_eq!(EventId::from_bytes(&[0; 19]), None);
    }

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a b", "a/b", "a{b}", "ä", &long] {
            let error = check_name("group", bad).err();
            assert_eq!(error.and_then(|error| error.field()), Some("group"), "{bad}");
        }
        assert!(check_name("group", "Mail-2.x_y").is_ok() && check_name("group", &long[1..]).is_ok());
    }

    #[test]
    fn what_is_too_large_is_refused_by_name() {
        let limits = EventLimits { key_bytes_max: 2, event_bytes_max: 3, ..EventLimits::PROCESS };
        let refusal = |key: &[u8], bytes: &'static str| {
            let error = limits.check(&Event::mint(&SeededEntropy::new(1), key, bytes)).err()?;
            Some((error.kind(), error.field()?))
        };
        assert_eq!(refusal(b"ab", "abc"), None);
        assert_eq!(refusal(b"abc", "abc"), Some((ErrorKind::TooLarge, "key")));
        assert_eq!(refusal(b"ab", "abcd"), Some((ErrorKind::TooLarge, "bytes")));
    }

    #[test]
    fn a_batch_ends_with_the_last_of_each_partition() {
        let delivered = |partition, number| Delivered {
            event: Event::mint(&SeededEntropy::new(1), b"", ""),
            position: Position { partition, number },
            appended_at: Timestamp::UNIX_EPOCH,
        };
        let batch = Batch { events: vec![delivered(1, 5), delivered(0, 2), delivered(1, 7)], gaps: Vec::new() };
        let at = |partition, number| Position { partition, number };
        assert_eq!(batch.ends(), [at(0, 2), at(1, 7)]);
    }
}
