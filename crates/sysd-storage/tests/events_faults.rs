//! Event logs on servers that are killed and stopped under load, and behind an outbox whose relay dies.
#![cfg(all(feature = "redis", feature = "kafka", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sysd_core::event::{
    AnyEventLog, AnyMember, Batch, Committed, Event, EventLog as _, EventSink as _, GroupMember as _, NewEvent,
    Position, Sought, Start,
};
use sysd_core::{Effect, ErrorKind, Expect, Key, Space, SystemEntropy, random_base62};
use sysd_storage::{
    KafkaEvents, KafkaEventsConfig, KafkaTopic, Memory, Outbox, OutboxConfig, RedisConfig, RedisEvents,
    RedisEventsConfig, Wrote,
};

mod support;

use support::kafka::Private as PrivateKafka;
use support::proxy::{Mode, Proxy};
use support::server::Private as PrivateRedis;
use support::{config, server_url, variable};

const KEYS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// What was acknowledged, by key, in the order of its appends; and what was read, in the order of its reading.
#[derive(Default)]
struct Record {
    acknowledged: Mutex<BTreeMap<u32, u32>>,
    read: Mutex<Vec<(Vec<u8>, u32)>>,
    errors: Mutex<Vec<(ErrorKind, Effect)>>,
    is_over: AtomicBool,
}

impl Record {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self) -> u32 {
        self.acknowledged.lock().values().sum()
    }
}

/// Appends the numbers of a key one after the other, each until it is acknowledged.
async fn write(log: AnyEventLog, key: u32, record: Arc<Record>) {
    let mut number = 0_u32;
    'numbers: while !record.is_over() {
        let event = Event::mint(&SystemEntropy, &key.to_be_bytes(), number.to_be_bytes().to_vec());
        while let Err(error) = log.append(&event).await {
            assert!(error.kind().is_transient(), "{error}");
            record.errors.lock().push((error.kind(), error.effect()));
            if record.is_over() {
                break 'numbers;
            }
            // real-time: the server comes back.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        number += 1;
        record.acknowledged.lock().insert(key, number);
    }
}

/// Reads and commits, and goes on after errors.
async fn read(log: AnyEventLog, record: Arc<Record>) {
    let mut member = join(&log).await;
    while !record.is_over() {
        read_once(&mut member, &record).await;
    }
}

async fn join(log: &AnyEventLog) -> AnyMember {
    let start = Instant::now();
    loop {
        match log.join("all", Start::Oldest).await {
            Ok(member) => return member,
            Err(error) => assert!(error.kind().is_transient() && start.elapsed() < PATIENCE, "{error}"),
        }
        // real-time: the server comes back.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read_once(member: &mut AnyMember, record: &Record) {
    let batch = match member.read(50, Duration::from_millis(200)).await {
        Ok(batch) => batch,
        Err(error) => {
            assert!(error.kind().is_transient() && error.effect() == Effect::None, "{error}");
            // real-time: the server comes back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return;
        }
    };
    assert!(batch.gaps.is_empty(), "{:?}", batch.gaps);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    record.read.lock().extend(batch.events.iter().map(|it| (it.event.key.to_vec(), number(&it.event.bytes))));
    match member.commit(&batch.ends()).await {
        Ok(_) => {}
        Err(error) => assert!(error.kind().is_transient(), "{error}"),
    }
}

/// Every acknowledged event was read, and of each key first in its order.
async fn verify(log: &AnyEventLog, record: &Record) {
    let mut last = join(log).await;
    let acknowledged = record.acknowledged.lock().clone();
    let start = Instant::now();
    loop {
        read_once(&mut last, record).await;
        let read = record.read.lock().clone();
        let mut next: BTreeMap<u32, u32> = BTreeMap::new();
        for (key, number) in read {
            let next = next.entry(u32::from_be_bytes(key.try_into().unwrap())).or_default();
            assert!(number <= *next, "number {number} was read before {next}");
            *next = (*next).max(number + 1);
        }
        let missing: Vec<_> = acknowledged.iter().filter(|(key, count)| next.get(key) < Some(count)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "acknowledged and never read: {missing:?}; read {next:?}");
    }
}

/// Writers and two readers, while `disturb` does its worst.
async fn under_load(log: &AnyEventLog, disturb: impl AsyncFnOnce(&Record)) -> Arc<Record> {
    let record = Arc::new(Record::default());
    let mut tasks: Vec<_> = (0..KEYS).map(|key| tokio::spawn(write(log.clone(), key, Arc::clone(&record)))).collect();
    tasks.extend((0..2).map(|_| tokio::spawn(read(log.clone(), Arc::clone(&record)))));
    disturb(&record).await;
    record.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    verify(log, &record).await;
    record
}

/// Until so many more were acknowledged.
async fn progress(record: &Record, more: u32) {
    let (start, before) = (Instant::now(), record.count());
    while record.count() < before + more {
        assert!(start.elapsed() < PATIENCE, "no headway: {} acknowledged; {:?}", record.count(), record.errors.lock());
        // real-time: servers work.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn on_redis(url: &str, response_timeout: Duration) -> AnyEventLog {
    let redis = RedisConfig { response_timeout, ..config() };
    let config = RedisEventsConfig { redis, session: Duration::from_secs(2), ..RedisEventsConfig::default() };
    AnyEventLog::new(RedisEvents::connect(url, "faults", config).await.unwrap())
}

async fn on_kafka(url: &str, name: &str, wait_max: Duration) -> AnyEventLog {
    let config = KafkaEventsConfig {
        session: Duration::from_secs(6),
        append_wait_max: wait_max,
        call_wait_max: wait_max,
        ..KafkaEventsConfig::default()
    };
    let topic = KafkaTopic { partitions: 4, replication: 1, options: Vec::new() };
    let patient = KafkaEventsConfig { call_wait_max: Duration::from_secs(60), ..config.clone() };
    KafkaEvents::create_topic(url, name, &topic, &patient).await.unwrap();
    // A topic that was just made is not known at once.
    let start = Instant::now();
    loop {
        match KafkaEvents::connect(url, name, config.clone()).await {
            Ok(log) => return AnyEventLog::new(log),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_loses_nothing_that_it_acknowledged() {
    let mut server = PrivateRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let log = on_redis(&server.url(), Duration::from_secs(2)).await;
    let record = under_load(&log, async |record| {
        for _ in 0..5 {
            progress(record, 200).await;
            server.kill();
            // real-time: calls meet a server that is not there.
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.restart();
        }
        progress(record, 200).await;
    })
    .await;
    assert!(!record.errors.lock().is_empty(), "the server was killed and nobody noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stopped_for_longer_than_the_timeout_is_a_timeout_of_unknown_effect() {
    let server = PrivateRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let log = on_redis(&server.url(), Duration::from_millis(300)).await;
    let record = under_load(&log, async |record| {
        for _ in 0..3 {
            progress(record, 100).await;
            server.signal("-STOP");
            // real-time: longer than a member's session, too.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            server.signal("-CONT");
        }
        progress(record, 100).await;
    })
    .await;
    assert!(record.errors.lock().contains(&(ErrorKind::Timeout, Effect::Unknown)), "{:?}", record.errors.lock());
}

// A read gives up what is assigned to somebody else by now; what it is cut off in is still a read.
#[tokio::test]
async fn a_read_that_is_cut_off_while_it_gives_partitions_up_has_no_effect() {
    let server = PrivateRedis::start(&[]);
    let proxy = Proxy::start(server.port);
    let log = on_redis(&server.url(), Duration::from_secs(20)).await;
    let mut member = join(&on_redis(&proxy.url(), Duration::from_secs(20)).await).await;
    let mut other = join(&log).await;
    assert_eq!(member.read(1, Duration::ZERO).await.unwrap(), Batch::default());
    assert_eq!(other.read(1, Duration::ZERO).await.unwrap(), Batch::default());
    // real-time: a member asks again who is there after a third of its session.
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.set(Mode::CutSecond);
    let error = member.read(1, Duration::ZERO).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    // It goes on, and so does the other when the session ends that holds what was not given up.
    let start = Instant::now();
    log.append_many(&(0..KEYS).map(|key| Event::mint(&SystemEntropy, &key.to_be_bytes(), "a")).collect::<Vec<_>>())
        .await;
    let mut read = 0;
    while read < KEYS as usize {
        read += member.read(8, Duration::from_millis(50)).await.unwrap().events.len();
        read += other.read(8, Duration::from_millis(50)).await.unwrap().events.len();
        assert!(start.elapsed() < Duration::from_secs(20), "{read} of {KEYS} events were read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_killed_under_load_loses_nothing_that_it_acknowledged() {
    let mut server = PrivateKafka::start();
    let log = on_kafka(&server.url(), "faults", Duration::from_secs(10)).await;
    under_load(&log, async |record| {
        for _ in 0..2 {
            progress(record, 200).await;
            server.kill();
            server.restart();
        }
        progress(record, 200).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_stopped_for_longer_than_the_timeout_is_a_timeout_of_unknown_effect() {
    let server = PrivateKafka::start();
    let log = on_kafka(&server.url(), "faults", Duration::from_secs(3)).await;
    let record = under_load(&log, async |record| {
        progress(record, 200).await;
        server.signal("-STOP");
        // real-time: longer than an append and a member's session.
        tokio::time::sleep(Duration::from_secs(9)).await;
        server.signal("-CONT");
        progress(record, 200).await;
    })
    .await;
    let timeout = (ErrorKind::Timeout, Effect::Unknown);
    assert!(record.errors.lock().contains(&timeout), "{:?}", record.errors.lock());
}

/// Reads until so many events have come.
async fn read_count(member: &mut AnyMember, count: usize) -> Batch {
    let (mut all, start) = (Batch::default(), Instant::now());
    while all.events.len() < count {
        let batch = member.read(100, Duration::from_millis(100)).await.unwrap();
        all.events.extend(batch.events);
        all.gaps.extend(batch.gaps);
        assert!(start.elapsed() < Duration::from_secs(20), "{} of {count} events were read", all.events.len());
    }
    all
}

fn texts(batch: &Batch) -> Vec<&[u8]> {
    batch.events.iter().map(|delivered| &delivered.event.bytes[..]).collect()
}

// A replica that lacked the last events takes over: their numbers are given again.
#[tokio::test]
async fn a_commit_of_what_a_failover_took_back_does_not_skip_what_came_in_its_place() {
    for is_late in [false, true] {
        let server = PrivateRedis::start(&[]);
        let log = on_redis(&server.url(), Duration::from_secs(20)).await;
        let append = async |text: &'static str| log.append(&Event::mint(&SystemEntropy, b"k", text)).await.unwrap();
        for text in ["a", "b", "c"] {
            append(text).await;
        }
        let mut redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        let names: Vec<String> = redis::cmd("KEYS").arg("*{events:faults:*}").query_async(&mut redis).await.unwrap();
        let [stream] = names.as_slice() else { panic!("one partition has events: {names:?}") };
        let before: Vec<u8> = redis::cmd("DUMP").arg(stream).query_async(&mut redis).await.unwrap();
        append("taken back").await;
        let mut member = join(&log).await;
        let batch = read_count(&mut member, 4).await;
        let mut restore = redis::cmd("RESTORE");
        let () = restore.arg(stream).arg(0).arg(before).arg("REPLACE").query_async(&mut redis).await.unwrap();
        if !is_late {
            append("d").await;
        }
        let partitions = vec![batch.events[0].position.partition];
        assert_eq!(member.commit(&batch.ends()).await.unwrap(), Committed::Lost { partitions });
        if is_late {
            append("d").await;
        }
        assert_eq!(texts(&read_count(&mut member, 4).await), [b"a", b"b", b"c", b"d"]);
    }
}

// As above, but the member reads on before it commits: what it was handed first, and what came in its place, have one number.
#[tokio::test]
async fn a_late_commit_of_what_a_failover_took_back_skips_nothing_though_the_member_has_read_on() {
    let server = PrivateRedis::start(&[]);
    let log = on_redis(&server.url(), Duration::from_secs(20)).await;
    let append = async |text: &'static str| log.append(&Event::mint(&SystemEntropy, b"k", text)).await.unwrap();
    for text in ["a", "b"] {
        append(text).await;
    }
    let mut redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let names: Vec<String> = redis::cmd("KEYS").arg("*{events:faults:*}").query_async(&mut redis).await.unwrap();
    let [stream] = names.as_slice() else { panic!("one partition has events: {names:?}") };
    let before: Vec<u8> = redis::cmd("DUMP").arg(stream).query_async(&mut redis).await.unwrap();
    append("taken back").await;
    let mut member = join(&log).await;
    let old = read_count(&mut member, 3).await;
    let mut restore = redis::cmd("RESTORE");
    let () = restore.arg(stream).arg(0).arg(before).arg("REPLACE").query_async(&mut redis).await.unwrap();
    append("c").await;
    assert_eq!(texts(&read_count(&mut member, 3).await), [b"a", b"b", b"c"]);
    let partitions = vec![old.events[0].position.partition];
    assert_eq!(member.commit(&old.ends()).await.unwrap(), Committed::Lost { partitions });
    // Whoever comes next is handed what was not committed.
    let new = read_count(&mut member, 3).await;
    assert_eq!(texts(&new), [b"a", b"b", b"c"]);
    assert_eq!(member.commit(&new.ends()).await.unwrap(), Committed::All);
}

// Numbers begin at 1 on Redis: below lies nothing that could be missing.
#[tokio::test]
async fn no_gap_is_told_below_the_first_number() {
    let server = PrivateRedis::start(&[]);
    let log = on_redis(&server.url(), Duration::from_secs(20)).await;
    log.append(&Event::mint(&SystemEntropy, b"k", "a")).await.unwrap();
    let first = read_count(&mut join(&log).await, 1).await.events[0].position;
    let nought = Position { number: 0, ..first };
    for (group, is_moved) in [("begun", false), ("moved", true)] {
        let start = if is_moved { Start::Newest } else { Start::Positions(vec![nought]) };
        let mut member = log.join(group, start).await.unwrap();
        if is_moved {
            member.leave().await.unwrap();
            assert_eq!(log.seek(group, Start::Positions(vec![nought])).await.unwrap(), Sought::Moved);
            member = log.join(group, Start::Newest).await.unwrap();
        }
        let batch = read_count(&mut member, 1).await;
        assert_eq!((batch.gaps, batch.events[0].position), (Vec::new(), first), "{group}");
    }
}

#[tokio::test]
async fn a_log_that_keeps_more_than_redis_can_count_keeps_all() {
    let server = PrivateRedis::start(&[]);
    let config = RedisEventsConfig { events_max: u64::MAX, ..RedisEventsConfig::default() };
    let log = RedisEvents::connect(&server.url(), "all", config).await.unwrap();
    let event = || Event::mint(&SystemEntropy, b"k", "a");
    log.append(&event()).await.unwrap();
    for answer in log.append_many(&[event(), event()]).await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn what_redis_removed_before_it_was_read_is_told_as_gaps_and_counted() {
    let server = PrivateRedis::start(&[]);
    let config = RedisEventsConfig { events_max: 100, partitions: 1, ..RedisEventsConfig::default() };
    let log = RedisEvents::connect(&server.url(), "gaps", config).await.unwrap();
    let mut member = AnyEventLog::new(log.clone()).join("all", Start::Oldest).await.unwrap();
    let append = async |numbers: std::ops::Range<u32>| {
        let event = |number: u32| Event::mint(&SystemEntropy, b"k", number.to_be_bytes().to_vec());
        for answer in log.append_many(&numbers.map(event).collect::<Vec<_>>()).await {
            answer.unwrap();
        }
    };
    let mut next = 1;
    for round in 0..2 {
        append(round * 1_000..(round + 1) * 1_000).await;
        let last = u64::from(round + 1) * 1_000;
        let mut is_first = true;
        while next <= last {
            let batch = member.read(100, Duration::from_secs(1)).await.unwrap();
            assert_eq!(batch.gaps.len(), usize::from(is_first), "{:?}", batch.gaps);
            is_first = false;
            for gap in batch.gaps {
                assert_eq!(gap.from, next);
                next = gap.to;
            }
            for delivered in batch.events {
                assert_eq!(delivered.position.number, next);
                next += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_too_old_is_refused_by_its_version() {
    // As one is that knows no sharded pub/sub, which came with Redis 7.0.
    let server = PrivateRedis::start(&["--rename-command", "SPUBLISH", ""]);
    let error = RedisEvents::connect(&server.url(), "old", RedisEventsConfig::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
    assert!(error.to_string().contains("7.0"), "{error}");
}

const RECORDS: Space = Space::conditional("records");

/// Writes records with events, while a relay to this log dies again and again; then reads what came of it.
async fn relayed(log: AnyEventLog) {
    let outbox = Outbox::new(Memory::new(), "out", &[RECORDS], OutboxConfig::default()).unwrap();
    let mut expects = [Expect::Absent; KEYS as usize];
    let record = Record::default();
    for number in 0..30_u32 {
        for key in 0..KEYS {
            let name = key.to_be_bytes();
            // Two events a write.
            let events = [number * 2, number * 2 + 1].map(|number| NewEvent::new(&name, number.to_be_bytes().to_vec()));
            let expect = &mut expects[key as usize];
            let wrote = outbox.write(Key::lone(RECORDS, &name), "x", *expect, events.to_vec()).await.unwrap();
            let Wrote::Written(version) = wrote else { panic!("nobody else writes: {wrote:?}") };
            *expect = Expect::Is(version);
            record.acknowledged.lock().insert(key, number * 2 + 2);
        }
        // Killed while it is at it, at another place each time.
        let wait = Duration::from_micros(u64::from(number) * 300);
        let _ = tokio::time::timeout(wait, outbox.relay(&log)).await;
    }
    let start = Instant::now();
    while outbox.relay_once(&log).await.unwrap().settled > 0 {
        assert!(start.elapsed() < PATIENCE, "the relay never comes to an end");
    }
    verify(&log, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_whose_relay_dies_has_every_event_in_the_log_in_order() {
    relayed(on_redis(&server_url(), Duration::from_secs(20)).await).await;
    let name = format!("outbox-{}", random_base62(12, &SystemEntropy));
    relayed(on_kafka(&variable("SYSD_TEST_KAFKA_URL"), &name, Duration::from_secs(20)).await).await;
}
