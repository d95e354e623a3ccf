//! The DynamoDB store beside the bare AWS SDK, in one run: `cargo bench -p sysd-benches --bench store_dynamodb`.
//!
//! Both make the same calls of the same items, 64 tasks that each wait for one call before the next. They take turns, round by
//! round, so that both see the same server; what is printed is the throughput of the store over that of the SDK beside it. Neither sends
//! a call twice: the SDK's own retries are off in both, and both have the same deadlines and the same HTTP client.
//! DynamoDB Local is most of the time, as the network is elsewhere. Under `Batch` the store's reads gather; the SDK's don't.
//!
//! It needs a server: `cargo xtask servers up` prints the variable to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use sysd_core::{Key, Space, Store as _, StoreExt as _, SystemEntropy, random_base62};
use sysd_storage::layer::{Batch, LayerExt as _};
use sysd_storage::{DynamoConfig, DynamoCredentials, DynamoStore};

const SPACE: Space = Space::conditional("bench");
const CALLERS: u32 = 64;
const CALLS_EACH: u32 = 16;
const ROUNDS: usize = 15;
const KEYS: u64 = 1_024;
const VALUE: [u8; 100] = [7; 100];

/// How long 64 tasks take for their calls.
async fn timed<F>(call: impl Fn() -> F + Clone + Send + 'static) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                for _ in 0..CALLS_EACH {
                    call().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    start.elapsed()
}

/// Rounds of both, and what came of them.
async fn row<F, G>(
    name: &str,
    ours: impl Fn() -> F + Clone + Send + 'static,
    bare: impl Fn() -> G + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
    G: Future<Output = ()> + Send + 'static,
{
    let (mut ratios, mut ours_s, mut bare_s) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        // Whoever comes second may find the server warmer.
        let (our_time, bare_time) = if round % 2 == 0 {
            let first = timed(ours.clone()).await;
            (first, timed(bare.clone()).await)
        } else {
            let first = timed(bare.clone()).await;
            (timed(ours.clone()).await, first)
        };
        if round > 0 {
            ratios.push(bare_time.as_secs_f64() / our_time.as_secs_f64());
            ours_s.push(our_time.as_secs_f64());
            bare_s.push(bare_time.as_secs_f64());
        }
    }
    let median = |numbers: &mut Vec<f64>| {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    let rate = |seconds: f64| f64::from(CALLERS * CALLS_EACH) / seconds;
    let (ours_rate, bare_rate) = (rate(median(&mut ours_s)), rate(median(&mut bare_s)));
    let ratio = median(&mut ratios);
    println!("{name:<18} {ours_rate:>8.0}/s {bare_rate:>8.0}/s   ratio min {:.2} median {ratio:.2}", ratios[0]);
}

/// The SDK, set up as the store sets it up: a call that it sent again would count as one.
fn bare_client(config: &DynamoConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connection_timeout)
        .operation_timeout(config.response_timeout)
        .build();
    let client = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().pool_idle_timeout(Duration::from_secs(20)).build_http())
        .credentials_provider(Credentials::new("sysd", "sysd", None, None, "bench"))
        .region(config.region.clone().map(Region::new))
        .endpoint_url(config.endpoint.clone().expect("the URL has an endpoint"));
    Client::from_conf(client.build())
}

fn bytes(bytes: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// What the rows share: numbers for keys, and the names of the table and of the keys of this run.
#[derive(Clone)]
struct Run {
    store: DynamoStore,
    client: Client,
    table: String,
    partition: String,
    next: Arc<AtomicU64>,
}

impl Run {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn bare_key(&self, kind: &str, number: u64) -> AttributeValue {
        bytes([self.partition.as_bytes(), kind.as_bytes(), &number.to_be_bytes()].concat())
    }

    async fn fill(&self) {
        for number in 0..KEYS {
            self.store.put(Key::lone(SPACE, &number.to_be_bytes()), VALUE.to_vec()).await.unwrap();
            self.bare_put("bare", number).send().await.unwrap();
        }
    }

    fn bare_put(
        &self,
        kind: &str,
        number: u64,
    ) -> aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder {
        self.client
            .put_item()
            .table_name(&self.table)
            .item("p", self.bare_key(kind, number))
            .item("s", bytes([0]))
            .item("v", bytes(VALUE))
            .item("r", bytes(number.to_be_bytes().repeat(2)))
    }
}

async fn rows(run: Run) {
    println!("{:<18} {:>10} {:>10}", "", "store", "bare SDK");
    let (ours, bare) = (run.clone(), run.clone());
    let get = move || {
        let run = ours.clone();
        async move {
            let number = (run.number() % KEYS).to_be_bytes();
            assert!(run.store.get(Key::lone(SPACE, &number)).await.unwrap().is_some());
        }
    };
    let bare_get = move || {
        let run = bare.clone();
        async move {
            let key = run.bare_key("bare", run.number() % KEYS);
            let call = run.client.get_item().table_name(&run.table).key("p", key).key("s", bytes([0]));
            assert!(call.consistent_read(true).send().await.unwrap().item.is_some());
        }
    };
    row("get", get, bare_get.clone()).await;

    let gathering = run.store.clone().layer(Batch::default());
    let ours = run.clone();
    let gathered = move || {
        let (store, number) = (gathering.clone(), (ours.number() % KEYS).to_be_bytes());
        async move { assert!(store.get(Key::lone(SPACE, &number)).await.unwrap().is_some()) }
    };
    row("get under Batch", gathered, bare_get).await;

    let (ours, bare) = (run.clone(), run.clone());
    let put = move || {
        let run = ours.clone();
        async move {
            let number = (run.number() % KEYS).to_be_bytes();
            run.store.put(Key::lone(SPACE, &number), VALUE.to_vec()).await.unwrap();
        }
    };
    let bare_put = move || {
        let run = bare.clone();
        async move { drop(run.bare_put("bare", run.number() % KEYS).send().await.unwrap()) }
    };
    row("put", put, bare_put).await;

    let (ours, bare) = (run.clone(), run);
    let insert = move || {
        let run = ours.clone();
        async move {
            let key = (KEYS + run.number()).to_be_bytes();
            assert!(run.store.put_if_absent(Key::lone(SPACE, &key), VALUE.to_vec()).await.unwrap().is_applied());
        }
    };
    let bare_insert = move || {
        let run = bare.clone();
        async move {
            let call = run.bare_put("insert", run.number()).condition_expression("attribute_not_exists(p)");
            let on_failure = ReturnValuesOnConditionCheckFailure::AllOld;
            drop(call.return_values_on_condition_check_failure(on_failure).send().await.unwrap());
        }
    };
    row("put_conditional", insert, bare_insert).await;
}

fn main() {
    let Ok(url) = std::env::var("SYSD_TEST_DYNAMODB_URL") else {
        println!("SYSD_TEST_DYNAMODB_URL is not set: run `cargo xtask servers up` and export what it prints");
        return;
    };
    let mut config = DynamoConfig::from_url(&url).unwrap();
    config.credentials = DynamoCredentials::from_keys("sysd", "sysd");
    config.prefix = random_base62(12, &SystemEntropy);
    config.response_timeout = Duration::from_secs(20);
    config.connection_timeout = Duration::from_secs(10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = bare_client(&config);
        let (table, partition) = (config.table.clone(), config.prefix.clone());
        let store = DynamoStore::connect(config).await.unwrap();
        store.create_table().await.unwrap();
        let run = Run { store, client, table, partition, next: Arc::default() };
        run.fill().await;
        rows(run).await;
    });
}
