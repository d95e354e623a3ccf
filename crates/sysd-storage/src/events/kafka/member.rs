//! A member of a group, and the thread that it reads on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sysd_core::event::{Batch, Committed, Delivered, Event, EventId, Gap, GroupMember, Position};
use sysd_core::{Clock, Effect, Error, ErrorKind, KeyBytes, Result, Timestamp, Version, timeout};

use super::Shared;
use super::error::{Access, map};
use super::group::is_moving;
use super::places::{Look, Places};
use super::producer::ID_HEADER;

/// How soon a thread that waits for events sees that its reader has gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A read ends when it has so many bytes.
const READ_BYTES: usize = 4 << 20;

/// Told of rebalances, on the thread that polls.
#[derive(Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    owned: BTreeSet<i32>,
    /// Taken away, or given anew, since it was last looked.
    changed: BTreeSet<i32>,
}

impl ClientContext for Watch {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }
}

impl ConsumerContext for Watch {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut seen = self.0.lock();
        match rebalance {
            Rebalance::Assign(list) => {
                for element in list.elements() {
                    seen.owned.insert(element.partition());
                    seen.changed.insert(element.partition());
                }
            }
            Rebalance::Revoke(list) => {
                for element in list.elements() {
                    seen.owned.remove(&element.partition());
                    seen.changed.insert(element.partition());
                }
            }
            Rebalance::Error(_) => {
                let owned = std::mem::take(&mut seen.owned);
                seen.changed.extend(owned);
            }
        }
    }
}

/// What the thread is asked.
enum Ask {
    /// That there be something ready.
    Read {
        limit: usize,
        wait_max: Duration,
        answer: oneshot::Sender<Result<()>>,
    },
    Commit {
        ends: BTreeMap<i32, i64>,
        answer: oneshot::Sender<Result<Committed>>,
    },
    Leave {
        answer: oneshot::Sender<Result<()>>,
    },
}

/// Between a member and its thread.
///
/// The thread finds its next question here: one at a time, for a member asks one at a time; one that nobody waits for any more
/// makes room. Events lie here until the member takes them, so those of a read that was dropped are there for the next.
#[derive(Default)]
struct Desk {
    state: Mutex<DeskState>,
    bell: Condvar,
    ready: Mutex<Ready>,
}

/// What was read and not handed out.
#[derive(Default)]
struct Ready {
    events: VecDeque<Delivered>,
    gaps: Vec<Gap>,
}

impl Ready {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.gaps.is_empty()
    }

    fn hand_out(&mut self, limit: usize) -> Batch {
        let count = self.events.len().min(limit);
        Batch { events: self.events.drain(..count).collect(), gaps: std::mem::take(&mut self.gaps) }
    }
}

#[derive(Default)]
struct DeskState {
    ask: Option<Ask>,
    is_closed: bool,
}

/// A member of a group of a [`KafkaEvents`](super::KafkaEvents). Dropping it is leaving, on its own thread.
pub struct KafkaMember {
    desk: Arc<Desk>,
    partitions: u32,
    call_wait_max: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for KafkaMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaMember").finish_non_exhaustive()
    }
}

impl KafkaMember {
    pub(super) fn start(shared: &Arc<Shared>, group: &str) -> Result<Self> {
        let client = shared.config.member(&shared.brokers, &shared.group_id(group));
        let consumer = BaseConsumer::from_config_and_context(&client, Watch::default());
        let consumer = consumer.map_err(|error| map(&error, Access::Read))?;
        consumer.subscribe(&[&shared.topic]).map_err(|error| map(&error, Access::Read))?;
        let desk = Arc::new(Desk::default());
        let broker = Broker { consumer, topic: shared.topic.clone(), wait_max: shared.config.call_wait_max };
        let reader = Reader { broker, places: Places::default(), held: None, desk: Arc::clone(&desk) };
        let served = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("sysd-kafka-member".to_owned());
        thread.spawn(move || serve(reader, &served)).map_err(|error| {
            Error::new(ErrorKind::Unavailable, Effect::None, "the system gives no thread").with_source(error)
        })?;
        let (partitions, clock) = (shared.partitions, Arc::clone(&shared.config.clock));
        Ok(Self { desk, partitions, call_wait_max: shared.config.call_wait_max, clock })
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        answer: oneshot::Receiver<Result<T>>,
        wait_max: Duration,
        effect: Effect,
    ) -> Result<T>
    where
        T: Send,
    {
        self.desk.state.lock().ask = Some(ask);
        self.desk.bell.notify_one();
        match timeout(&self.clock, wait_max, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(oneshot::Canceled)) => Err(Error::new(ErrorKind::Internal, effect, "the member's thread ended")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, effect, "Kafka gave no answer in time")),
        }
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.desk.state.lock().is_closed = true;
        self.desk.bell.notify_one();
    }
}

impl GroupMember for KafkaMember {
    async fn read(&mut self, limit: usize, wait_max: Duration) -> Result<Batch> {
        if limit == 0 {
            return Err(Error::invalid("limit", "read at least one event"));
        }
        if self.desk.ready.lock().is_empty() {
            let (answer, receiver) = oneshot::channel();
            let ask = Ask::Read { limit, wait_max, answer };
            // What the thread is at when it is asked may take as long as a call.
            self.ask(ask, receiver, wait_max.saturating_add(self.call_wait_max), Effect::None).await?;
        }
        Ok(self.desk.ready.lock().hand_out(limit))
    }

    async fn commit(&mut self, positions: &[Position]) -> Result<Committed> {
        let mut ends = BTreeMap::new();
        for position in positions {
            let partition = i32::try_from(position.partition).ok().filter(|_| position.partition < self.partitions);
            let Some(partition) = partition else {
                return Err(Error::invalid("positions", "the log has no such partition"));
            };
            let end = ends.entry(partition).or_insert(0);
            *end = i64::try_from(position.number).unwrap_or(i64::MAX - 1).saturating_add(1).max(*end);
        }
        let (answer, receiver) = oneshot::channel();
        self.ask(Ask::Commit { ends, answer }, receiver, self.call_wait_max, Effect::Unknown).await
    }

    async fn leave(self) -> Result<()> {
        let (answer, receiver) = oneshot::channel();
        self.ask(Ask::Leave { answer }, receiver, self.call_wait_max, Effect::Unknown).await
    }
}

/// The thread: answers until its member has gone; then the consumer leaves the group.
fn serve(mut reader: Reader, desk: &Desk) {
    loop {
        let ask = {
            let mut state = desk.state.lock();
            loop {
                if let Some(ask) = state.ask.take() {
                    break ask;
                }
                if state.is_closed {
                    return;
                }
                desk.bell.wait(&mut state);
            }
        };
        match ask {
            Ask::Read { limit, wait_max, answer } => {
                let read = reader.read(limit, wait_max, || answer.is_canceled());
                let _ = answer.send(read);
            }
            Ask::Commit { ends, answer } => {
                let committed = reader.commit(ends, || answer.is_canceled());
                // Dropped, it may have happened.
                let _ = answer.send(committed);
            }
            Ask::Leave { answer } => {
                drop(reader);
                let _ = answer.send(Ok(()));
                return;
            }
        }
    }
}

/// The consumer, and what was polled from it.
struct Reader {
    broker: Broker,
    places: Places,
    /// An event that may lie behind a gap: nobody could say yet.
    held: Option<Delivered>,
    desk: Arc<Desk>,
}

struct Broker {
    consumer: BaseConsumer<Watch>,
    topic: String,
    wait_max: Duration,
}

impl Look for Broker {
    fn committed(&self, partition: i32) -> Result<Option<i64>> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic, partition);
        let found = self.consumer.committed_offsets(asked, self.wait_max).map_err(|error| tolerated(&error))?;
        let elements = found.elements();
        let Some(element) = elements.first() else { return Ok(None) };
        element.error().map_err(|error| tolerated(&error))?;
        Ok(match element.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        })
    }

    fn lowest(&self, partition: i32) -> Result<i64> {
        let bounds = self.consumer.fetch_watermarks(&self.topic, partition, self.wait_max);
        bounds.map(|(lowest, _)| lowest).map_err(|error| map(&error, Access::Read))
    }
}

impl Reader {
    /// Polls until something is ready, and as much as there is, or until it is over.
    fn read(&mut self, limit: usize, wait_max: Duration, is_over: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        let (mut bytes, mut failed) = (0, None);
        loop {
            let left = wait_max.saturating_sub(start.elapsed());
            let is_empty = self.desk.ready.lock().is_empty();
            let wait = if is_empty { left.min(LOOK_EVERY) } else { Duration::ZERO };
            let polled = self.poll(wait);
            self.notice_changes();
            match polled {
                Ok(Some(delivered)) => {
                    bytes += delivered.event.key.len() + delivered.event.bytes.len();
                    if self.add(delivered) < limit && bytes < READ_BYTES {
                        continue;
                    }
                }
                Ok(None) if is_empty && !left.is_zero() && !is_over() => continue,
                Ok(None) => {}
                Err(error) if is_empty && !left.is_zero() && error.kind().is_transient() && !is_over() => {
                    failed = Some(error);
                    continue;
                }
                Err(error) => failed = Some(error),
            }
            return match failed {
                Some(error) if self.desk.ready.lock().is_empty() => Err(error),
                _ => Ok(()),
            };
        }
    }

    /// Makes an event ready; answers how many are.
    fn add(&self, delivered: Delivered) -> usize {
        let mut ready = self.desk.ready.lock();
        ready.events.push_back(delivered);
        ready.events.len()
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Delivered>> {
        // Only what is polled now may be of a partition that was just given.
        self.notice_changes();
        let delivered = match self.held.take() {
            Some(delivered) => delivered,
            None => match self.broker.consumer.poll(wait) {
                None => return Ok(None),
                Some(Err(error)) => return Err(tolerated(&error)),
                Some(Ok(message)) => deliver(&message),
            },
        };
        self.notice_changes();
        let Position { partition, number } = delivered.position;
        let (at, number) = (i32::try_from(partition).unwrap_or(i32::MAX), i64::try_from(number).unwrap_or(i64::MAX));
        match self.places.advance(at, number, &self.broker) {
            Ok(gap) => {
                self.desk.ready.lock().gaps.extend(gap);
                Ok(Some(delivered))
            }
            Err(error) => {
                self.held = Some(delivered);
                if !wait.is_zero() {
                    std::thread::sleep(wait.min(LOOK_EVERY));
                }
                Err(error)
            }
        }
    }

    /// Forgets what was read of partitions that were taken away, or given anew.
    fn notice_changes(&mut self) {
        let changed = std::mem::take(&mut self.broker.consumer.context().0.lock().changed);
        if changed.is_empty() {
            return;
        }
        let has_changed = |partition: u32| i32::try_from(partition).is_ok_and(|at| changed.contains(&at));
        let mut ready = self.desk.ready.lock();
        ready.events.retain(|delivered| !has_changed(delivered.position.partition));
        ready.gaps.retain(|gap| !has_changed(gap.partition));
        drop(ready);
        self.held = self.held.take().filter(|delivered| !has_changed(delivered.position.partition));
        self.places.forget(&changed);
    }

    fn commit(&mut self, mut ends: BTreeMap<i32, i64>, is_over: impl Fn() -> bool) -> Result<Committed> {
        let (start, mut lost) = (Instant::now(), BTreeSet::new());
        loop {
            self.notice_changes();
            // Who does not own a partition, or has not read so far since it does, commits nothing there.
            ends.retain(|partition, end| {
                let is_mine = self.places.has_read(*partition, *end);
                if !is_mine {
                    lost.insert(u32::try_from(*partition).unwrap_or_default());
                }
                is_mine && !self.places.has_committed(*partition, *end)
            });
            if ends.is_empty() {
                return Ok(if lost.is_empty() {
                    Committed::All
                } else {
                    Committed::Lost { partitions: lost.into_iter().collect() }
                });
            }
            let mut asked = TopicPartitionList::new();
            for (partition, end) in &ends {
                let added = asked.add_partition_offset(&self.broker.topic, *partition, Offset::Offset(*end));
                added.map_err(|error| map(&error, Access::Read))?;
            }
            // One that is not waited for tells nobody how it ended; how long one is waited for, the configuration bounds.
            match self.broker.consumer.commit(&asked, CommitMode::Sync) {
                Ok(()) => self.places.commit(&mut ends),
                Err(error)
                    if (is_rebalancing(&error) || is_moving(&error))
                        && start.elapsed() < self.broker.wait_max
                        && !is_over() =>
                {
                    // The rebalance goes on in polls, and says who owns what.
                    match self.poll(LOOK_EVERY) {
                        Ok(Some(delivered)) => drop(self.add(delivered)),
                        Ok(None) => {}
                        Err(error) if error.kind().is_transient() => {}
                        Err(error) => return Err(error.with_effect(Effect::Unknown)),
                    }
                }
                Err(error) => return Err(map(&error, Access::Write)),
            }
        }
    }
}

/// Whether a commit failed because the group is being shared out anew.
fn is_rebalancing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::RebalanceInProgress | Code::IllegalGeneration | Code::UnknownMemberId | Code::AssignmentLost)
    )
}

/// What a poll failed with; that the member was too slow ends with the next poll, by which it joins again.
fn tolerated(error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(Code::PollExceeded | Code::UnknownMemberId | Code::RebalanceInProgress | Code::IllegalGeneration) => {
            Error::new(ErrorKind::Unavailable, Effect::None, "the member was taken for dead and joins again")
        }
        _ => map(error, Access::Read),
    }
}

fn deliver(message: &BorrowedMessage<'_>) -> Delivered {
    let position = Position {
        partition: u32::try_from(message.partition()).unwrap_or_default(),
        number: u64::try_from(message.offset()).unwrap_or_default(),
    };
    let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == ID_HEADER));
    let id = header.and_then(|header| EventId::from_bytes(header.value?)).unwrap_or_else(|| EventId {
        version: Version::from_u128(u128::from(position.partition) << 64 | u128::from(position.number)),
        index: 0,
    });
    let millis = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok()).unwrap_or_default();
    let event = Event {
        id,
        key: KeyBytes::from_slice(message.key().unwrap_or_default()),
        bytes: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    };
    Delivered { event, position, appended_at: Timestamp::from_micros_saturating(millis.saturating_mul(1_000)) }
}
