//! Event logs: events appended by key, read by groups of members.
//!
//! | log | lies in | what `Ok` of an append means |
//! |---|---|---|
//! | [`MemoryEvents`] | this process | it is there until the process ends |
//! | [`RedisEvents`] | Redis 7.0 or later, one node or a Cluster: a stream a partition | as durable as [`RedisConfig::durability`](crate::RedisConfig::durability) |
//! | [`KafkaEvents`] | a topic of Kafka | all replicas that are in sync have it (`acks=all`), once: the producer is idempotent |
//!
//! ```
//! use std::time::Duration;
//! use sysd_core::SystemEntropy;
//! use sysd_core::event::{Event, EventLog, EventSink, GroupMember, Start};
//! use sysd_storage::{MemoryEvents, MemoryEventsConfig};
//!
//! # futures::executor::block_on(async {
//! let log = MemoryEvents::new(MemoryEventsConfig::default())?;
//! log.append(&Event::mint(&SystemEntropy, b"order 7", "ordered")).await?;
//! log.append(&Event::mint(&SystemEntropy, b"order 7", "paid")).await?;
//!
//! let mut mailer = log.join("mailer", Start::Oldest).await?;
//! let batch = mailer.read(100, Duration::from_secs(1)).await?;
//! assert_eq!(batch.events[1].event.bytes, "paid");
//! // Handle them, then say so. What was not committed is handed out again.
//! mailer.commit(&batch.ends()).await?;
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! # Invariants
//! - A partition has one owner a group, and the events of a key lie in one partition: so they are handled one after the other.
//!   (Redis' own consumer groups hand out single entries, to whoever asks: one member would get the second event of a key
//!   while another still works on the first. Here they are not used.)
//! - What a group has committed in a partition only rises, but by a seek; a new owner begins there. An event is left out only
//!   where a gap is told.
//!
//! # Bounds
//! A log keeps so many events a partition (on Kafka: what the topic is set to), whether or not they were read. A reader that is
//! too slow is told of the [`Gap`](sysd_core::event::Gap); [`WhenFull::Refuse`] has memory refuse events instead.

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "memory")]
mod memory;
mod open;

#[cfg(feature = "kafka")]
pub use kafka::{KafkaEvents, KafkaEventsConfig, KafkaTopic};
#[cfg(feature = "memory")]
pub use memory::{MemoryEvents, MemoryEventsConfig, MemoryMember, WhenFull};
pub use open::open_events;

#[cfg(feature = "redis")]
pub use crate::redis::events::{RedisEvents, RedisEventsConfig, RedisMember};

/// The partition of a key.
#[cfg(any(feature = "memory", feature = "redis"))]
pub(crate) fn partition_of(key: &[u8], partitions: u32) -> u32 {
    crc32fast::hash(key) % partitions.max(1)
}

/// Whether a member is the one, of these in their order, that should own a partition.
#[cfg(any(feature = "memory", feature = "redis"))]
pub(crate) fn is_assigned<M: PartialEq>(partition: u32, members: &[M], member: &M) -> bool {
    let at = (partition as usize).checked_rem(members.len());
    at.and_then(|at| members.get(at)) == Some(member)
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;

    #[test]
    fn each_partition_is_assigned_to_one_member_and_members_differ_by_one_at_most() {
        for count in 1..10_u32 {
            let members: Vec<u32> = (0..count).collect();
            let mut owned = vec![0_u32; members.len()];
            for partition in 0..8 {
                let owners: Vec<_> = members.iter().filter(|member| is_assigned(partition, &members, member)).collect();
                assert_eq!(owners.len(), 1);
                owned[*owners[0] as usize] += 1;
            }
            let (least, most) = (owned.iter().min(), owned.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{owned:?}");
        }
        assert!(!is_assigned(0, &[], &1));
    }
}
