//! Event logs beside the bare clients, in one run: `cargo bench -p sysd-benches --bench events [redis|kafka]`.
//!
//! Events are 100 bytes under a hundred thousand keys. `append`: 64 tasks that each wait for one event before the next.
//! `append_many`: batches of 100 events, one after the other. `read`: batches of 1,000 events, each committed. A call is an event.
//!
//! The bare rows are what one would write by hand: `XADD` with the same three fields and bound, 100 of them in a pipeline,
//! `XREADGROUP` from all streams and `XACK` in a pipeline; `FutureProducer` with `acks=all` and idempotence, 100 sends before the
//! first is waited for, `BaseConsumer` polled 1,000 times and then a synchronous commit.
//!
//! It needs servers: `cargo xtask servers up redis kafka` prints the variables to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/pairs.rs"]
mod pairs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use redis::aio::MultiplexedConnection;
use sysd_core::event::{Committed, Event, EventLog, EventSink, GroupMember, Start};
use sysd_core::{SystemEntropy, random_base62};
use sysd_storage::{KafkaEvents, KafkaEventsConfig, KafkaTopic, RedisConfig, RedisEvents, RedisEventsConfig};
use tokio::runtime::Runtime;

use callers::timed;

const CALLERS: u64 = 64;
const PARTITIONS: u32 = 8;
const BATCH: u64 = 100;
const READ: usize = 1_000;
const VALUE: [u8; 100] = [7; 100];

static NEXT: AtomicU64 = AtomicU64::new(0);

fn event() -> Event {
    let key = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(61_153) % 100_000;
    Event::mint(&SystemEntropy, &key.to_be_bytes(), VALUE.as_slice())
}

fn name() -> String {
    format!("bench-{}", random_base62(12, &SystemEntropy))
}

/// Appends so many events, one a call, by 64 tasks.
fn append(runtime: &Runtime, log: &(impl EventSink + Clone), events: u64) -> Duration {
    let log = log.clone();
    runtime.block_on(timed(events, CALLERS, move |_| {
        let log = log.clone();
        async move { log.append(&event()).await.unwrap() }
    }))
}

/// Appends so many events, in batches.
fn append_many(runtime: &Runtime, log: &impl EventSink, events: u64) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..events.div_ceil(BATCH) {
            let batch: Vec<_> = (0..BATCH).map(|_| event()).collect();
            assert!(log.append_many(&batch).await.into_iter().all(|answer| answer.is_ok()));
        }
        per_event(start.elapsed(), events, BATCH)
    })
}

/// Of whole batches, as much time as so many events take.
fn per_event(took: Duration, events: u64, batch: u64) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "counts of events are small")]
    took.mul_f64(events as f64 / (events.div_ceil(batch) * batch) as f64)
}

/// Reads so many events; where the log ends, begins again as another group.
async fn read<L: EventLog>(log: &L, member: &mut Option<L::Member>, events: u64) -> Duration {
    let start = Instant::now();
    let mut left = usize::try_from(events).unwrap();
    while left > 0 {
        if member.is_none() {
            *member = Some(log.join(&name(), Start::Oldest).await.unwrap());
        }
        let reader = member.as_mut().unwrap();
        let batch = reader.read(READ.min(left), Duration::from_secs(1)).await.unwrap();
        assert_eq!(reader.commit(&batch.ends()).await.unwrap(), Committed::All);
        left -= batch.events.len();
        if batch.events.is_empty() {
            *member = None;
        }
    }
    start.elapsed()
}

fn stream(prefix: &str, key: &[u8]) -> String {
    let hash = key.iter().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    format!("{prefix}:{}", hash % PARTITIONS)
}

fn xadd(prefix: &str) -> redis::Cmd {
    let event = event();
    let mut command = redis::cmd("XADD");
    command.arg(stream(prefix, &event.key)).arg("MAXLEN").arg("~").arg(1_000_000).arg("*");
    command.arg("m").arg(&[7_u8; 27][..]).arg("k").arg(&event.key[..]).arg("v").arg(&event.bytes[..]);
    command
}

async fn bare_redis_read(bare: &mut MultiplexedConnection, prefix: &str, group: &mut String, events: u64) -> Duration {
    let start = Instant::now();
    let mut left = usize::try_from(events).unwrap();
    while left > 0 {
        if group.is_empty() {
            *group = name();
            for at in 0..PARTITIONS {
                let mut create = redis::cmd("XGROUP");
                create.arg("CREATE").arg(format!("{prefix}:{at}")).arg(&*group).arg(0);
                let () = create.query_async(bare).await.unwrap();
            }
        }
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&*group).arg("member").arg("COUNT").arg(READ.min(left).div_ceil(8)).arg("STREAMS");
        for at in 0..PARTITIONS {
            command.arg(format!("{prefix}:{at}"));
        }
        for _ in 0..PARTITIONS {
            command.arg(">");
        }
        let found: redis::streams::StreamReadReply = command.query_async(bare).await.unwrap();
        let mut acks = redis::pipe();
        let mut count = 0;
        for key in &found.keys {
            let ack = acks.cmd("XACK").arg(&key.key).arg(&*group);
            for entry in &key.ids {
                ack.arg(&entry.id);
            }
            ack.ignore();
            count += key.ids.len();
        }
        if count == 0 {
            group.clear();
            continue;
        }
        let () = acks.query_async(bare).await.unwrap();
        left = left.saturating_sub(count);
    }
    start.elapsed()
}

fn redis(runtime: &Runtime) {
    let url =
        std::env::var("SYSD_TEST_REDIS_URL").expect("SYSD_TEST_REDIS_URL is not set: `cargo xtask servers up redis`");
    let prefix = name();
    let redis = RedisConfig { prefix: prefix.clone(), ..RedisConfig::default() };
    let config = RedisEventsConfig { redis, partitions: PARTITIONS, ..RedisEventsConfig::default() };
    let log = runtime.block_on(RedisEvents::connect(&url, "bench", config)).unwrap();
    let client = redis::Client::open(url).unwrap();
    let mut bare = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
    pairs::compare("redis_append", |events| append(runtime, &log, events), {
        let (bare, prefix) = (bare.clone(), prefix.clone());
        move |events| {
            let (bare, prefix) = (bare.clone(), prefix.clone());
            runtime.block_on(timed(events, CALLERS, move |_| {
                let (mut bare, command) = (bare.clone(), xadd(&prefix));
                async move { drop(command.query_async::<String>(&mut bare).await.unwrap()) }
            }))
        }
    });
    pairs::compare("redis_append_many", |events| append_many(runtime, &log, events), {
        let (mut bare, prefix) = (bare.clone(), prefix.clone());
        move |events| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..events.div_ceil(BATCH) {
                    let mut pipeline = redis::pipe();
                    for _ in 0..BATCH {
                        pipeline.add_command(xadd(&prefix));
                    }
                    let _: Vec<String> = pipeline.query_async(&mut bare).await.unwrap();
                }
                per_event(start.elapsed(), events, BATCH)
            })
        }
    });
    let (mut member, mut group) = (None, String::new());
    pairs::compare(
        "redis_read",
        |events| runtime.block_on(read(&log, &mut member, events)),
        |events| runtime.block_on(bare_redis_read(&mut bare, &prefix, &mut group, events)),
    );
}

fn bare_kafka(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("enable.auto.commit", "false");
    client
}

fn kafka(runtime: &Runtime) {
    const READ_EVENTS: u64 = 2_000_000;
    let url =
        std::env::var("SYSD_TEST_KAFKA_URL").expect("SYSD_TEST_KAFKA_URL is not set: `cargo xtask servers up kafka`");
    let brokers = url.trim_start_matches("kafka://").to_owned();
    let config = KafkaEventsConfig { append_wait_max: Duration::from_secs(60), ..KafkaEventsConfig::default() };
    let topic = KafkaTopic { partitions: PARTITIONS, replication: 1, options: Vec::new() };
    let name = name();
    let log = runtime.block_on(async {
        KafkaEvents::create_topic(&url, &name, &topic, &config).await.unwrap();
        KafkaEvents::connect(&url, &name, config.clone()).await.unwrap()
    });
    let mut client = bare_kafka(&brokers);
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("partitioner", "murmur2_random");
    let bare: FutureProducer = client.create().unwrap();
    let send = {
        let name = name.clone();
        move |bare: &FutureProducer| {
            let event = event();
            let headers = OwnedHeaders::new().insert(Header { key: "sysd-id", value: Some(&event.id.to_bytes()[..]) });
            let record = FutureRecord::to(&name).key(&event.key[..]).payload(&event.bytes[..]).headers(headers);
            bare.send_result(record).unwrap()
        }
    };
    let send = Arc::new(send);
    pairs::compare("kafka_append", |events| append(runtime, &log, events), {
        let (bare, send) = (bare.clone(), Arc::clone(&send));
        move |events| {
            let (bare, send) = (bare.clone(), Arc::clone(&send));
            runtime.block_on(timed(events, CALLERS, move |_| {
                let delivered = send(&bare);
                async move { assert!(delivered.await.unwrap().is_ok()) }
            }))
        }
    });
    pairs::compare(
        "kafka_append_many",
        |events| append_many(runtime, &log, events),
        |events| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..events.div_ceil(BATCH) {
                    let under_way: Vec<_> = (0..BATCH).map(|_| send(&bare)).collect();
                    for delivered in under_way {
                        delivered.await.unwrap().unwrap();
                    }
                }
                per_event(start.elapsed(), events, BATCH)
            })
        },
    );
    runtime.block_on(async {
        for _ in 0..READ_EVENTS / 10_000 {
            let batch: Vec<_> = (0..10_000).map(|_| event()).collect();
            assert!(log.append_many(&batch).await.into_iter().all(|answer| answer.is_ok()));
        }
    });
    let mut member = None;
    // Both have their partitions before anything is measured.
    runtime.block_on(read(&log, &mut member, 1));
    let consumer: BaseConsumer = bare_kafka(&brokers)
        .set("group.id", format!("{name}-bare"))
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .unwrap();
    consumer.subscribe(&[&name]).unwrap();
    bare_kafka_read(&consumer, &name, 1);
    pairs::compare(
        "kafka_read",
        |events| runtime.block_on(read(&log, &mut member, events)),
        |events| bare_kafka_read(&consumer, &name, events),
    );
}

fn bare_kafka_read(consumer: &BaseConsumer, topic: &str, events: u64) -> Duration {
    let start = Instant::now();
    let (mut left, mut kept) = (usize::try_from(events).unwrap(), Vec::with_capacity(READ));
    while left > 0 {
        let mut ends = TopicPartitionList::new();
        let mut next = std::collections::BTreeMap::new();
        while kept.len() < READ.min(left) {
            let Some(message) = consumer.poll(Duration::from_secs(30)) else { continue };
            let message = message.unwrap();
            next.insert(message.partition(), message.offset() + 1);
            kept.push((message.key().unwrap().to_vec(), message.payload().unwrap().to_vec()));
        }
        for (partition, offset) in next {
            ends.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        }
        consumer.commit(&ends, CommitMode::Sync).unwrap();
        left -= kept.len();
        kept.clear();
    }
    start.elapsed()
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if is_wanted("redis") {
        redis(&runtime);
    }
    if is_wanted("kafka") {
        kafka(&runtime);
    }
}
