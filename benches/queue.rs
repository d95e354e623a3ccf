//! The queue with eight consumers and a backlog, beside bare Redis streams: `cargo bench --bench queue --features redis`.
//!
//! A job is enqueued, leased and acked; each consumer does all three in turn, in batches, while a backlog lies in the
//! queue: what is leased is the oldest of it. Payloads have 100 bytes. Jobs that were leased twice or not acked fail it.
//! Rates are jobs a second of `RUNS` runs, least and median.
//!
//! The rows on Redis need a server: `cargo xtask servers up` prints the variable to export. `SYSD_BENCH_BACKLOG=N` sets the
//! larger backlog on Redis.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::time::{Duration, Instant};

use sysd_core::queue::{Enqueued, Held, NewJob, Queue as _, Settlement};
use sysd_core::{FastClock, Store, SystemClock, SystemEntropy, random_base62};
use sysd_storage::{Memory, QueueConfig, RecordQueue, RedisConfig, RedisStore};

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

/// One consumer: so many jobs, in batches; answers how many it acked.
async fn consume<S: Store>(queue: RecordQueue<S>, each: usize, batch: usize) -> usize {
    let mut acked = 0;
    let mut enqueued = 0;
    while acked < each {
        if enqueued < each {
            enqueue(&queue, batch).await;
            enqueued += batch;
        }
        let leased = queue.lease(batch, Duration::from_secs(600)).await.unwrap();
        let acks: Vec<_> = leased.into_iter().map(|job| (job.lease, Settlement::Ack)).collect();
        for answer in queue.settle_many(&acks).await {
            assert_eq!(answer.unwrap(), Held::Held);
            acked += 1;
        }
    }
    acked
}

async fn row<S: Store + Clone>(name: &str, store: S, backlog: usize, batch: usize, each: usize) {
    let config = QueueConfig { shards: 32, ..QueueConfig::default() };
    let queue = RecordQueue::open(store, name, config).await.unwrap();
    for _ in 0..backlog / 1_000 {
        enqueue(&queue, 1_000).await;
    }
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let consumers: Vec<_> = (0..CONSUMERS).map(|_| tokio::spawn(consume(queue.clone(), each, batch))).collect();
        let mut total = 0;
        for consumer in consumers {
            total += consumer.await.unwrap();
        }
        rates.push(total as f64 / start.elapsed().as_secs_f64());
    }
    report(&format!("{name}/backlog {backlog}/by {batch}"), rates);
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
                        let read: redis::streams::StreamReadReply = read.query_async(&mut connection).await.unwrap();
                        let ids: Vec<_> =
                            read.keys.iter().flat_map(|key| &key.ids).map(|entry| entry.id.clone()).collect();
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{:<44} {:>12} {:>12}", "jobs a second", "min", "median");
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    if wanted("memory") {
        for (batch, each) in [(1, 20_000), (16, 100_000), (64, 200_000), (256, 200_000)] {
            runtime.block_on(row("memory", Memory::with_clock(FastClock::new()), 1_000_000, batch, each));
        }
    }
    let Ok(url) = std::env::var("SYSD_TEST_REDIS_URL") else {
        println!("no rows on Redis: start one with `cargo xtask servers up` and export what it prints");
        return;
    };
    let larger = std::env::var("SYSD_BENCH_BACKLOG").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    for (backlog, batch, each) in
        [(100_000, 1, 2_000), (100_000, 64, 16_000), (100_000, 256, 20_000), (larger, 256, 20_000)]
    {
        if wanted("redis") {
            let prefix = format!("{}:", random_base62(12, &SystemEntropy));
            let config = RedisConfig { prefix, ..RedisConfig::default() };
            let store = runtime.block_on(RedisStore::connect_with(&url, config, SystemClock)).unwrap();
            runtime.block_on(row("redis", store, backlog, batch, each));
        }
    }
    if wanted("streams") {
        for (batch, each) in [(1, 10_000), (64, 60_000), (256, 60_000)] {
            runtime.block_on(streams(&url, batch, each));
        }
    }
}
