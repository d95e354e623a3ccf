//! A member of a group on Kafka whose broker falls silent. A program of its own, for it counts threads.
#![cfg(all(target_os = "linux", feature = "redis", feature = "kafka"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use sysd_core::event::{Committed, Event, EventLog, EventSink as _, GroupMember as _, Position, Start};
use sysd_core::{Effect, ErrorKind, SystemEntropy};
use sysd_storage::{KafkaEvents, KafkaEventsConfig, KafkaTopic};

mod support;

use support::kafka::Private;
use support::server::wait_until;

const WAIT_MAX: Duration = Duration::from_secs(3);
/// The commit's attempts, the farewell, and a busy machine.
const THREAD_MAX: Duration = Duration::from_secs(25);
/// For a step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(server: &Private) -> KafkaEvents {
    let patient = KafkaEventsConfig { call_wait_max: PATIENCE, ..KafkaEventsConfig::default() };
    let topic = KafkaTopic { partitions: 1, replication: 1, options: Vec::new() };
    KafkaEvents::create_topic(&server.url(), "silent", &topic, &patient).await.unwrap();
    let session = Duration::from_secs(6);
    let config = KafkaEventsConfig { call_wait_max: WAIT_MAX, session, ..KafkaEventsConfig::default() };
    let start = Instant::now();
    loop {
        match KafkaEvents::connect(&server.url(), "silent", config.clone()).await {
            Ok(log) => return log,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    }
}

/// Joins once the broker answers again, and reads until this number has come.
async fn join_and_read(log: &KafkaEvents, last: u64) -> (<KafkaEvents as EventLog>::Member, Vec<Position>) {
    let start = Instant::now();
    let mut member = loop {
        match log.join("all", Start::Oldest).await {
            Ok(member) => break member,
            Err(error) => assert!(error.kind().is_transient() && start.elapsed() < PATIENCE, "{error}"),
        }
    };
    let mut positions: Vec<Position> = Vec::new();
    while positions.last().is_none_or(|position| position.number < last) {
        match member.read(100, Duration::from_millis(200)).await {
            Ok(batch) => positions.extend(batch.events.iter().map(|delivered| delivered.position)),
            Err(error) => assert!(error.kind().is_transient(), "{error}"),
        }
        assert!(start.elapsed() < PATIENCE, "{last} was not read: {positions:?}");
    }
    (member, positions)
}

/// Threads of members.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    // The system cuts names off.
    names.filter(|name| name.starts_with("sysd-kafka-mem")).count()
}

// The first request that ran out of time broke the connection, and the commit waited to be sent on another, without an end.
#[tokio::test]
async fn the_thread_of_a_member_that_committed_to_a_silent_broker_ends_and_nothing_is_lost() {
    let server = Private::start();
    let log = connect(&server).await;
    for (round, is_awaited) in [true, false].into_iter().enumerate() {
        for _ in 0..2 {
            log.append(&Event::mint(&SystemEntropy, b"k", "x")).await.unwrap();
        }
        let last = round as u64 * 2 + 1;
        let (mut member, positions) = join_and_read(&log, last).await;
        assert_eq!((positions.len(), threads()), (2, 1));
        server.signal("-STOP");
        let start = Instant::now();
        if is_awaited {
            let error = member.commit(&positions[..1]).await.unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
            assert!(start.elapsed() < WAIT_MAX * 2, "answered after {:?}", start.elapsed());
        } else {
            let commit = tokio::time::timeout(Duration::from_millis(100), member.commit(&positions[..1]));
            assert!(commit.await.is_err(), "a broker that stands still answered");
        }
        drop(member);
        wait_until("the member's thread has ended", THREAD_MAX, || threads() == 0);
        server.signal("-CONT");
        // The first may have been committed; the second was not, so the next member reads it.
        let (mut next, positions) = join_and_read(&log, last).await;
        assert_eq!(next.commit(&positions).await.unwrap(), Committed::All);
        next.leave().await.unwrap();
        wait_until("the thread that left has ended", PATIENCE, || threads() == 0);
    }
}
