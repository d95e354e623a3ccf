//! The buses beside the bare clients, in one run: `cargo bench -p sysd-benches --bench bus`.
//!
//! A call is a message of 100 bytes that is published and received. `one` waits for each message before the next; `many` has 64
//! publishers, each with one publication under way, and one subscription, in rounds of 4,096 messages, so that nothing is lost on
//! either side. What stands beside: in memory `tokio::sync::broadcast`; on Redis `PUBLISH` on a multiplexed connection and the
//! client's own `PubSub`; on NATS `publish` and a `Subscriber` of the client, which confirms nothing: ours waits until the server
//! has each message.
//!
//! The rows on servers need them: `cargo xtask servers up redis nats` prints the variables to export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::future_not_send)]

#[path = "support/callers.rs"]
mod callers;
#[path = "support/pairs.rs"]
mod pairs;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use sysd_core::bus::{Bus, BusLimits, Channel, Delivery, Subscription};
use sysd_core::random_base62;
use sysd_storage::bus::{MemoryBus, NatsBus, NatsBusConfig, RedisBus, RedisBusConfig};
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use callers::timed;

const PAYLOAD: [u8; 100] = [7; 100];
const ROUND: u64 = 4_096;
const PUBLISHERS: u64 = 64;

fn payload() -> Bytes {
    Bytes::from_static(&PAYLOAD)
}

fn limits() -> BusLimits {
    let mut limits = BusLimits::PROCESS;
    limits.buffer_messages_max = 2 * 4_096;
    limits
}

/// Receives.
trait Receive {
    async fn receive(&mut self);
}

struct Ours<S>(S);

impl<S: Subscription> Receive for Ours<S> {
    async fn receive(&mut self) {
        match self.0.next().await.unwrap() {
            Delivery::Message { payload, .. } => assert_eq!(payload.len(), PAYLOAD.len()),
            Delivery::Lost { lost, .. } => panic!("{lost:?} lost"),
        }
    }
}

impl Receive for broadcast::Receiver<Bytes> {
    async fn receive(&mut self) {
        assert_eq!(self.recv().await.unwrap().len(), PAYLOAD.len());
    }
}

struct Bare<S>(S);

impl Receive for Bare<redis::aio::PubSub> {
    async fn receive(&mut self) {
        assert_eq!(self.0.on_message().next().await.unwrap().get_payload_bytes().len(), PAYLOAD.len());
    }
}

impl Receive for Bare<async_nats::Subscriber> {
    async fn receive(&mut self) {
        assert_eq!(self.0.next().await.unwrap().payload.len(), PAYLOAD.len());
    }
}

/// Each message is waited for.
async fn one<F: Future<Output = ()>>(calls: u64, publish: impl Fn(u64) -> F, to: &mut impl Receive) -> Duration {
    let start = Instant::now();
    for call in 0..calls {
        publish(call).await;
        to.receive().await;
    }
    start.elapsed()
}

/// Rounds of messages from many publishers.
async fn many<F: Future<Output = ()> + Send + 'static>(
    calls: u64,
    publish: impl Fn(u64) -> F + Clone + Send + 'static,
    to: &mut impl Receive,
) -> Duration {
    let start = Instant::now();
    let mut left = calls;
    while left > 0 {
        let round = left.min(ROUND).next_multiple_of(PUBLISHERS);
        let receive = async {
            for _ in 0..round {
                to.receive().await;
            }
        };
        tokio::join!(timed(round, PUBLISHERS, publish.clone()), receive);
        left = left.saturating_sub(round);
    }
    start.elapsed()
}

/// Both shapes, of ours and of what stands beside it.
fn compare<F, G>(
    name: &str,
    runtime: &Runtime,
    (publish, to): (impl Fn(u64) -> F + Clone + Send + 'static, &mut impl Receive),
    (bare_publish, bare_to): (impl Fn(u64) -> G + Clone + Send + 'static, &mut impl Receive),
) where
    F: Future<Output = ()> + Send + 'static,
    G: Future<Output = ()> + Send + 'static,
{
    if let Some(only) = std::env::args().skip(1).find(|argument| !argument.starts_with('-'))
        && !name.contains(&only)
    {
        return;
    }
    pairs::compare(
        &format!("{name}/one"),
        |calls| runtime.block_on(one(calls, &publish, to)),
        |calls| runtime.block_on(one(calls, &bare_publish, bare_to)),
    );
    pairs::compare(
        &format!("{name}/many"),
        |calls| runtime.block_on(many(calls, publish.clone(), to)),
        |calls| runtime.block_on(many(calls, bare_publish.clone(), bare_to)),
    );
}

/// Publishing, as a function that can be called from many tasks.
fn publisher(bus: impl Bus + Clone, channel: Channel) -> impl Fn(u64) -> Publishing + Clone + Send + 'static {
    move |_| {
        let (bus, channel) = (bus.clone(), channel.clone());
        Box::pin(async move { bus.publish(&channel, payload()).await.unwrap() })
    }
}

type Publishing = futures::future::BoxFuture<'static, ()>;

fn memory(runtime: &Runtime, channel: &Channel) {
    let bus = MemoryBus::with_limits(limits());
    let to = runtime.block_on(bus.subscribe(std::slice::from_ref(channel))).unwrap();
    let (sender, mut receiver) = broadcast::channel(2 * 4_096);
    let bare = move |_| {
        let sender = sender.clone();
        Box::pin(async move {
            sender.send(payload()).unwrap();
        }) as Publishing
    };
    compare("memory", runtime, (publisher(bus, channel.clone()), &mut Ours(to)), (bare, &mut receiver));
}

fn redis(runtime: &Runtime, channel: &Channel, url: &str) {
    let config = RedisBusConfig { limits: limits(), ..RedisBusConfig::default() };
    let (bus, driver) = runtime.block_on(RedisBus::connect(url, config)).unwrap();
    runtime.spawn(driver);
    let to = runtime.block_on(bus.subscribe(std::slice::from_ref(channel))).unwrap();
    let name = format!("{channel}:bare");
    let client = redis::Client::open(url).unwrap();
    let connection = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
    let mut pubsub = runtime.block_on(client.get_async_pubsub()).unwrap();
    runtime.block_on(pubsub.subscribe(&name)).unwrap();
    let bare = move |_| {
        let (mut connection, name) = (connection.clone(), name.clone());
        Box::pin(async move {
            let mut publish = redis::cmd("PUBLISH");
            let () = publish.arg(name).arg(&PAYLOAD[..]).query_async(&mut connection).await.unwrap();
        }) as Publishing
    };
    compare("redis", runtime, (publisher(bus, channel.clone()), &mut Ours(to)), (bare, &mut Bare(pubsub)));
}

fn nats(runtime: &Runtime, channel: &Channel, url: &str) {
    let config = NatsBusConfig { limits: limits(), ..NatsBusConfig::default() };
    let (bus, driver) = runtime.block_on(NatsBus::connect(url, config)).unwrap();
    runtime.spawn(driver);
    let to = runtime.block_on(bus.subscribe(std::slice::from_ref(channel))).unwrap();
    let name = format!("bare.{channel}");
    let (publishing, listening) =
        (runtime.block_on(async_nats::connect(url)).unwrap(), runtime.block_on(async_nats::connect(url)).unwrap());
    let subscriber = runtime.block_on(listening.subscribe(name.clone())).unwrap();
    // The server has it once it answers.
    runtime.block_on(async {
        let mut echo = listening.subscribe(format!("{name}.echo")).await.unwrap();
        listening.publish(format!("{name}.echo"), Bytes::new()).await.unwrap();
        echo.next().await.unwrap();
    });
    let bare = move |_| {
        let (client, name) = (publishing.clone(), name.clone());
        Box::pin(async move { client.publish(name, payload()).await.unwrap() }) as Publishing
    };
    compare("nats", runtime, (publisher(bus, channel.clone()), &mut Ours(to)), (bare, &mut Bare(subscriber)));
}

fn main() {
    // Clients and drivers on one thread; the server has the other core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channel = Channel::new(format!("bench-{}", random_base62(12, &sysd_core::SystemEntropy))).unwrap();
    memory(&runtime, &channel);
    for (variable, bench) in
        [("SYSD_TEST_REDIS_URL", redis as fn(&Runtime, &Channel, &str)), ("SYSD_TEST_NATS_URL", nats)]
    {
        match std::env::var(variable) {
            Ok(url) => bench(&runtime, &channel, &url),
            Err(_) => println!("{variable} is not set: `cargo xtask servers up` prints it"),
        }
    }
}
