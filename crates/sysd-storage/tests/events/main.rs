//! The event logs of this crate against every clause of docs/events.md: memory, Redis, a Redis Cluster, Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use sysd_core::event::AnyEventLog;
use sysd_core::{Result, SystemEntropy, random_base62};
use sysd_storage::{
    KafkaEvents, KafkaEventsConfig, KafkaTopic, MemoryEvents, MemoryEventsConfig, RedisConfig, RedisEvents,
    RedisEventsConfig, open_events,
};
use sysd_testkit::conformance::Suite;
use sysd_testkit::conformance::events::LogHarness;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask servers up` and export what it prints"))
}

fn name() -> String {
    format!("events-{}", random_base62(12, &SystemEntropy))
}

struct InMemory;

impl LogHarness for InMemory {
    type Log = MemoryEvents;

    async fn open(&self) -> Result<[MemoryEvents; 2]> {
        let log = MemoryEvents::new(MemoryEventsConfig::default())?;
        Ok([log.clone(), log])
    }
}

/// On the server that a variable points at.
struct OnRedis(&'static str);

impl LogHarness for OnRedis {
    type Log = RedisEvents;

    async fn open(&self) -> Result<[RedisEvents; 2]> {
        let (url, name) = (variable(self.0), name());
        let redis = RedisConfig { response_timeout: Duration::from_secs(20), ..RedisConfig::default() };
        // A busy machine keeps a member waiting.
        let config = RedisEventsConfig { redis, session: Duration::from_secs(5), ..RedisEventsConfig::default() };
        Ok([RedisEvents::connect(&url, &name, config.clone()).await?, RedisEvents::connect(&url, &name, config).await?])
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }
}

struct OnKafka;

async fn topic(name: &str) -> Result<KafkaEventsConfig> {
    let patient = Duration::from_secs(40);
    let config = KafkaEventsConfig {
        session: Duration::from_secs(6),
        append_wait_max: patient,
        call_wait_max: patient,
        ..KafkaEventsConfig::default()
    };
    let topic = KafkaTopic { partitions: 4, replication: 1, options: Vec::new() };
    KafkaEvents::create_topic(&variable("SYSD_TEST_KAFKA_URL"), name, &topic, &config).await?;
    Ok(config)
}

impl LogHarness for OnKafka {
    type Log = KafkaEvents;

    async fn open(&self) -> Result<[KafkaEvents; 2]> {
        let (url, name) = (variable("SYSD_TEST_KAFKA_URL"), name());
        let config = topic(&name).await?;
        Ok([KafkaEvents::connect(&url, &name, config.clone()).await?, KafkaEvents::connect(&url, &name, config).await?])
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// By URL, as the defaults are.
struct Opened(&'static str);

impl LogHarness for Opened {
    type Log = AnyEventLog;

    async fn open(&self) -> Result<[AnyEventLog; 2]> {
        let (url, name) = (variable(self.0), name());
        if url.starts_with("kafka:") {
            topic(&name).await?;
        }
        Ok([open_events(&url, &name).await?, open_events(&url, &name).await?])
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }
}

fn main() -> ExitCode {
    Suite::from_args()
        .certify_log("memory", InMemory)
        .certify_log("redis", OnRedis("SYSD_TEST_REDIS_URL"))
        .certify_log("redis_cluster", OnRedis("SYSD_TEST_REDIS_CLUSTER_URL"))
        .certify_log("redis_opened", Opened("SYSD_TEST_REDIS_URL"))
        .certify_log("kafka", OnKafka)
        .certify_log("kafka_opened", Opened("SYSD_TEST_KAFKA_URL"))
        .run()
}
