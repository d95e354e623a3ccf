//! The queue with eight consumers and a backlog, beside bare Redis streams: `cargo bench -p sysd-benches --bench queue`.
//!
//! A job is enqueued, leased and acked; each consumer does all three in turn, in batches, while a backlog lies in the
//! queue: what is leased is the oldest of it. Payloads have 100 bytes. After the runs the rest is acked: a job that was leased twice
//! or lost, or one that is left, fails the bench, as does a depth that is not the backlog after a run.
//! Rates are jobs a second of `RUNS` runs, least and median.
//!
//! The rows on Redis need a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::time::{Duration, Instant};

use sysd_core::queue::{Enqueued, Held, NewJob, Queue as _, Settlement};
use sysd_core::{FastClock, Store, SystemClock, SystemEntropy, random_base62};
use sysd_storage::{Memory, QueueConfig, RecordQueue, RedisConfig, RedisStore};
use tokio::runtime::Runtime;

const CONSUMERS: usize = 8;
const RUNS: usize = 5;
const PAYLOAD: [u8; 100] = [7; 100];

fn report(name: &str, mut rates: Vec<f64>) {
    rates.sort_by(f64::total_cmp);
    println!("{name:<44} {:>12.0} {:>12.0}", rates[0], rates[rates.len() / 2]);
}

fn jobs(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| NewJob::new(bytes::Bytes::from_static(&PAYLOAD))).collect()
}

async fn enqueue<S: Store>(queue: &RecordQueue<S>, count: usize) {
    let answers = queue.enqueue_many(&jobs(count)).await;
    assert!(answers.into_iter().all(|answer| matches!(answer, Ok(Enqueued::Queued(_)))));
}

/// How many jobs came and went.
#[derive(Clone, Copy, Default)]
struct Count {
    enqueued: usize,
    acked: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.enqueued += other.enqueued;
        self.acked += other.acked;
    }
}

/// One consumer: so many jobs, in batches.
async fn consume<S: Store>(queue: RecordQueue<S>, each: usize, batch: usize) -> Count {
    let mut count = Count::default();
    while count.acked < each {
        if count.enqueued < each {
            enqueue(&queue, batch).await;
            count.enqueued += batch;
        }
        let leased = queue.lease(batch, Duration::from_secs(600)).await.unwrap();
        let acks: Vec<_> = leased.into_iter().map(|job| (job.lease, Settlement::Ack)).collect();
        for answer in queue.settle_many(&acks).await {
            assert_eq!(answer.unwrap(), Held::Held);
            count.acked += 1;
        }
    }
    count
}

/// As many jobs as should be are there, none of them in flight. Counted after the clock has stopped.
async fn check<S: Store>(queue: &RecordQueue<S>, count: Count) {
    let depth = queue.depth(usize::MAX).await.unwrap();
    let there = depth.waiting + depth.delayed;
    assert_eq!((there, depth.leased, depth.unreadable), (count.enqueued - count.acked, 0, 0), "{depth:?}");
}

/// Acks all that is left, and finds as many as there should be.
async fn drain<S: Store>(queue: &RecordQueue<S>, mut count: Count) {
    loop {
        let leased = queue.lease(1_000, Duration::from_secs(600)).await.unwrap();
        if leased.is_empty() {
            break;
        }
        let acks: Vec<_> = leased.into_iter().map(|job| (job.lease, Settlement::Ack)).collect();
        for answer in queue.settle_many(&acks).await {
            assert_eq!(answer.unwrap(), Held::Held);
            count.acked += 1;
        }
    }
    assert_eq!(count.acked, count.enqueued, "jobs were lost, or came twice");
    check(queue, count).await;
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Consumers on one thread.
async fn consume_all<S: Store>(queue: RecordQueue<S>, consumers: usize, each: usize, batch: usize) -> Count {
    let tasks: Vec<_> = (0..consumers).map(|_| tokio::spawn(consume(queue.clone(), each, batch))).collect();
    let mut total = Count::default();
    for task in tasks {
        total.add(task.await.unwrap());
    }
    total
}

async fn open<S: Store>(name: &str, store: S, backlog: usize) -> RecordQueue<S> {
    let config = QueueConfig { shards: 32, ..QueueConfig::default() };
    let queue = RecordQueue::open(store, name, config).await.unwrap();
    for _ in 0..backlog / 1_000 {
        enqueue(&queue, 1_000).await;
    }
    queue
}

/// Eight consumers on two threads.
fn memory(backlog: usize, batch: usize, each: usize) {
    let queue = runtime().block_on(open("memory", Memory::with_clock(FastClock::new()), backlog));
    let (mut rates, mut all) = (Vec::new(), Count { enqueued: backlog, acked: 0 });
    for _ in 0..RUNS {
        let start = Instant::now();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || runtime().block_on(consume_all(queue, CONSUMERS / 2, each, batch)))
            })
            .collect();
        let mut run = Count::default();
        for thread in threads {
            run.add(thread.join().unwrap());
        }
        rates.push(run.acked as f64 / start.elapsed().as_secs_f64());
        all.add(run);
        runtime().block_on(check(&queue, all));
    }
    runtime().block_on(drain(&queue, all));
    report(&format!("memory/backlog {backlog}/by {batch}"), rates);
}

/// Eight consumers on one thread and one connection; the server has the other core.
fn redis(url: &str, backlog: usize, batch: usize, each: usize) {
    let runtime = runtime();
    let prefix = format!("{}:", random_base62(12, &SystemEntropy));
    let config = RedisConfig { prefix, ..RedisConfig::default() };
    let store = runtime.block_on(RedisStore::connect_with(url, config, SystemClock)).unwrap();
    let queue = runtime.block_on(open("redis", store, backlog));
    let (mut rates, mut all) = (Vec::new(), Count { enqueued: backlog, acked: 0 });
    for _ in 0..RUNS {
        let start = Instant::now();
        let run = runtime.block_on(consume_all(queue.clone(), CONSUMERS, each, batch));
        rates.push(run.acked as f64 / start.elapsed().as_secs_f64());
        all.add(run);
        runtime.block_on(check(&queue, all));
    }
    runtime.block_on(drain(&queue, all));
    report(&format!("redis/backlog {backlog}/by {batch}"), rates);
}

/// The ids of a reply of XREADGROUP: one stream, whose entries are pairs of id and fields.
fn ids(reply: redis::Value) -> Vec<Vec<u8>> {
    let list = |value| match value {
        redis::Value::Array(list) => list,
        _ => Vec::new(),
    };
    let stream = list(reply).into_iter().next().map(list).unwrap_or_default();
    let entries = stream.into_iter().nth(1).map(list).unwrap_or_default();
    let id = |entry| match list(entry).into_iter().next() {
        Some(redis::Value::BulkString(id)) => Some(id),
        _ => None,
    };
    entries.into_iter().filter_map(id).collect()
}

/// What one would do with streams by hand: XADD, XREADGROUP, XACK, on one multiplexed connection.
async fn streams(url: &str, batch: usize, each: usize) {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let stream = format!("bench:{}", random_base62(12, &SystemEntropy));
    let mut make = redis::cmd("XGROUP");
    let () =
        make.arg("CREATE").arg(&stream).arg("g").arg("$").arg("MKSTREAM").query_async(&mut connection).await.unwrap();
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let consumers: Vec<_> = (0..CONSUMERS)
            .map(|consumer| {
                let (mut connection, stream) = (connection.clone(), stream.clone());
                tokio::spawn(async move {
                    let mut acked = 0;
                    while acked < each {
                        let mut add = redis::pipe();
                        for _ in 0..batch {
                            add.cmd("XADD").arg(&stream).arg("*").arg("p").arg(&PAYLOAD[..]).ignore();
                        }
                        let () = add.query_async(&mut connection).await.unwrap();
                        let mut read = redis::cmd("XREADGROUP");
                        read.arg("GROUP")
                            .arg("g")
                            .arg(consumer)
                            .arg("COUNT")
                            .arg(batch)
                            .arg("STREAMS")
                            .arg(&stream)
                            .arg(">");
                        let ids = ids(read.query_async(&mut connection).await.unwrap());
                        if ids.is_empty() {
                            continue;
                        }
                        let mut ack = redis::cmd("XACK");
                        let count: usize =
                            ack.arg(&stream).arg("g").arg(&ids).query_async(&mut connection).await.unwrap();
                        acked += count;
                    }
                    acked
                })
            })
            .collect();
        let mut total = 0;
        for consumer in consumers {
            total += consumer.await.unwrap();
        }
        rates.push(total as f64 / start.elapsed().as_secs_f64());
    }
    let () = redis::cmd("DEL").arg(&stream).query_async(&mut connection).await.unwrap();
    report(&format!("bare streams/by {batch}"), rates);
}

fn main() {
    println!("{:<44} {:>12} {:>12}", "jobs a second", "min", "median");
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    if wanted("memory") {
        for (batch, each) in [(1, 20_000), (16, 50_000), (64, 100_000), (256, 100_000)] {
            memory(1_000_000, batch, each);
        }
    }
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        println!("no rows on Redis: start one with `cargo xtask servers up` and export what it prints");
        return;
    };
    if wanted("streams") {
        for (batch, each) in [(1, 5_000), (64, 40_000), (256, 40_000)] {
            runtime().block_on(streams(&url, batch, each));
        }
    }
    if wanted("redis") {
        for (backlog, batch, each) in
            [(100_000, 1, 1_000), (100_000, 64, 12_800), (100_000, 256, 12_800), (1_000_000, 256, 12_800)]
        {
            redis(&url, backlog, batch, each);
        }
    }
}
