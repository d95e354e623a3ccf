//! A topic and its groups from outside. All of it blocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext as _};
use sysd_core::event::{Lag, Sought, Start};
use sysd_core::{Effect, Error, ErrorKind, Result};

use super::error::{Access, map, map_code};
use super::member::Watch;

/// How often a group that another member has just begun is looked at.
const LOOKS: u32 = 20;

/// Looks at a topic, and at a group of it, without being a member.
pub(super) struct Inspector {
    consumer: BaseConsumer<Watch>,
    topic: String,
    wait_max: Duration,
}

fn read(error: &KafkaError) -> Error {
    map(error, Access::Read)
}

/// Whether a commit from outside failed because the group has members.
fn has_members(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownMemberId
                | Code::IllegalGeneration
                | Code::RebalanceInProgress
                | Code::NonEmptyGroup
                | Code::FencedInstanceId
        )
    )
}

/// Whether a commit was refused because nobody coordinates the group yet: it is new, or its broker was lost. The client does not
/// ask again by itself.
pub(super) fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::WaitingForCoordinator
        )
    )
}

impl Inspector {
    pub(super) fn new(client: &ClientConfig, topic: &str, wait_max: Duration) -> Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(client, Watch::default()).map_err(|error| read(&error))?;
        Ok(Self { consumer, topic: topic.to_owned(), wait_max })
    }

    /// How many partitions the topic has.
    pub(super) fn partitions(&self) -> Result<u32> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), self.wait_max).map_err(|error| read(&error))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.map(|topic| (topic.error(), topic.partitions().len())) {
            Some((None, count)) if count > 0 => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
            Some((Some(error), _)) => Err(map_code(Code::from(error), Access::Read)),
            _ => Err(map_code(Code::UnknownTopic, Access::Read)),
        }
    }

    /// What the group has committed, partition by partition.
    fn committed(&self) -> Result<BTreeMap<i32, Option<i64>>> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.partitions()? {
            asked.add_partition(&self.topic, i32::try_from(partition).unwrap_or(i32::MAX));
        }
        let found = self.consumer.committed_offsets(asked, self.wait_max).map_err(|error| read(&error))?;
        let mut committed = BTreeMap::new();
        for element in found.elements() {
            element.error().map_err(|error| read(&error))?;
            let next = match element.offset() {
                Offset::Offset(next) => Some(next),
                _ => None,
            };
            committed.insert(element.partition(), next);
        }
        Ok(committed)
    }

    /// The lowest number that is kept, and the one after the highest.
    fn bounds(&self, partition: i32) -> Result<(i64, i64)> {
        self.consumer.fetch_watermarks(&self.topic, partition, self.wait_max).map_err(|error| read(&error))
    }

    /// Where `start` is in a partition; `None` where it says nothing of it.
    fn resolve(&self, partition: i32, start: &Start) -> Result<Option<i64>> {
        let (low, high) = self.bounds(partition)?;
        Ok(Some(match start {
            Start::Oldest => low,
            Start::Newest => high,
            Start::Time(time) => {
                let mut asked = TopicPartitionList::new();
                // Kafka's times are whole milliseconds: an event of this one may be earlier than asked for.
                let millis = i64::try_from(time.as_micros() / 1_000).unwrap_or(i64::MAX);
                let added = asked.add_partition_offset(&self.topic, partition, Offset::Offset(millis));
                added.map_err(|error| read(&error))?;
                let found = self.consumer.offsets_for_times(asked, self.wait_max).map_err(|error| read(&error))?;
                match found.elements().first().map(TopicPartitionListElem::offset) {
                    Some(Offset::Offset(number)) => number,
                    _ => high,
                }
            }
            Start::Positions(positions) => {
                let named = positions.iter().find(|position| i32::try_from(position.partition) == Ok(partition));
                let Some(named) = named else { return Ok(None) };
                i64::try_from(named.number).unwrap_or(i64::MAX).min(high)
            }
        }))
    }

    /// Commits from outside; `false` if the group has members, which alone may.
    fn place(&self, next: &BTreeMap<i32, i64>) -> Result<bool> {
        if next.is_empty() {
            return Ok(true);
        }
        let mut list = TopicPartitionList::new();
        for (partition, number) in next {
            let added = list.add_partition_offset(&self.topic, *partition, Offset::Offset(*number));
            added.map_err(|error| read(&error))?;
        }
        let start = Instant::now();
        loop {
            match self.consumer.commit(&list, CommitMode::Sync) {
                Ok(()) => return Ok(true),
                Err(error) if has_members(&error) => return Ok(false),
                Err(error) if is_moving(&error) && start.elapsed() < self.wait_max => {
                    std::thread::sleep(self.wait_max / (10 * LOOKS));
                }
                Err(error) => return Err(map(&error, Access::Write)),
            }
        }
    }

    /// Begins a group where it has not begun.
    pub(super) fn begin(&self, start: &Start) -> Result<()> {
        for _ in 0..LOOKS {
            let mut next = BTreeMap::new();
            for (partition, committed) in self.committed()? {
                if committed.is_none() {
                    let number = self.resolve(partition, start)?;
                    next.insert(partition, number.map_or_else(|| Ok(self.bounds(partition)?.0), Ok)?);
                }
            }
            if self.place(&next)? {
                return Ok(());
            }
            std::thread::sleep(self.wait_max / (2 * LOOKS));
        }
        let message = "the group has members but no positions in some partitions; was it begun by another program?";
        Err(Error::new(ErrorKind::Unavailable, Effect::None, message))
    }

    pub(super) fn lag(&self) -> Result<Vec<Lag>> {
        let mut lags = Vec::new();
        for (partition, committed) in self.committed()? {
            let Some(next) = committed else { continue };
            let (low, high) = self.bounds(partition)?;
            lags.push(Lag {
                partition: u32::try_from(partition).unwrap_or_default(),
                next: u64::try_from(next).unwrap_or_default(),
                end: u64::try_from(high).unwrap_or_default(),
                events: u64::try_from(high - next.max(low)).unwrap_or_default(),
            });
        }
        Ok(lags)
    }

    pub(super) fn seek(&self, to: &Start) -> Result<Sought> {
        let mut next = BTreeMap::new();
        for partition in 0..self.partitions()? {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            if let Some(number) = self.resolve(partition, to)? {
                next.insert(partition, number);
            }
        }
        Ok(if self.place(&next)? { Sought::Moved } else { Sought::HasMembers })
    }
}
