//! Every future of a store can be spawned, on any runtime: a check of the compiler's, run for form's sake.
#![cfg(all(feature = "memory", feature = "scylla"))]

use sysd_core::bus::{AnyBus, Bus, Channel, Delivery, Subscription as _};
use sysd_core::event::{AnyEventLog, Event, EventLog, GroupMember, NewEvent, Start};
use sysd_core::lease::Leases as _;
use sysd_core::queue::{NewJob, Queue as _, QueueExt as _};
use sysd_core::{
    AnyStore, Keep, Key, OutputBytes, Procedure, Result, Scan, Space, StateChange, Step, Store, StoreExt, Timestamp,
    Trim, Undecodable, Write,
};
use sysd_storage::bus::MemoryBus;
use sysd_storage::layer::{Batch, Breaker, Coalesce, LayerExt, Limit, Retry, Timeout, Trace};
use sysd_storage::{
    LeaseConfig, Memory, MemoryEvents, MemoryEventsConfig, Outbox, OutboxConfig, QueueConfig, RecordLeases,
    RecordQueue, ScyllaStore,
};

const SPACE: Space = Space::conditional("spawn");

struct Nothing;

impl Procedure for Nothing {
    type Output = ();

    fn name(&self) -> &'static str {
        "nothing"
    }

    fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
        Ok(Step { change: StateChange::Keep, output: () })
    }

    fn encode_output(&self, (): &(), _: &mut OutputBytes) {}

    fn decode_output(&self, _: &[u8]) -> Result<(), Undecodable> {
        Ok(())
    }
}

fn spawn<F: Future<Output = Result<usize>> + Send + 'static>(future: F) -> Result<usize> {
    futures::executor::block_on(future)
}

async fn every_call(store: impl Store) -> Result<usize> {
    let partition = vec![1_u8];
    let key = Key::row(SPACE, &partition, b"s");
    store.put(key, "x").await?;
    let held = store.get(key).await?.map(|record| record.version);
    let found = store.get_many(&[key]).await.len() + store.write_many(&[Write::put(key, "y")]).await.len();
    assert!(held.is_some() && store.write(Write::put(key, "z")).await?.is_applied());
    store.run(key, &Nothing).await?;
    let rows = store.scan_rows(Scan::partition(SPACE, &partition, 10)).await?.len();
    let page = store.scan(Scan::partition(SPACE, &partition, 10)).await?.rows.len();
    let trimmed = store.trim_all(Trim { space: SPACE, partition: &partition, keep: Keep::First(0) }).await?;
    store.delete(key).await?;
    let _ = store.put_if_absent(key, "x").await?;
    Ok(found + rows + page + trimmed)
}

#[test]
fn generic_erased_and_shared_stores_spawn() -> Result<()> {
    assert_eq!(spawn(every_call(Memory::new()))?, 5);
    assert_eq!(spawn(every_call(AnyStore::new(Memory::new())))?, 5);
    assert_eq!(spawn(every_call(std::sync::Arc::new(Memory::new())))?, 5);
    assert_eq!(spawn(every_call(AnyStore::new(AnyStore::new(Memory::new()))))?, 5);
    Ok(())
}

/// Compiled, and called by nobody: it would need a server.
#[allow(dead_code)]
fn a_store_on_a_server_spawns(store: ScyllaStore) -> Result<usize> {
    spawn(every_call(store.clone()))?;
    spawn(every_call(AnyStore::new(store)))
}

#[test]
fn stacks_of_layers_spawn_around_any_store() -> Result<()> {
    let stack = Memory::new().layer(Timeout::default()).layer(Retry::default()).layer(Trace);
    assert_eq!(spawn(every_call(stack.clone()))?, 5);
    assert_eq!(spawn(every_call(stack.clone().layer(Batch::default()).layer(Coalesce::new())))?, 5);
    assert_eq!(spawn(every_call(AnyStore::new(stack.clone())))?, 5);
    assert_eq!(
        spawn(every_call(AnyStore::new(stack).layer(Timeout::default()).layer(Retry::default()).layer(Trace)))?,
        5
    );
    Ok(())
}

/// A future that held another twice would double with every layer.
#[test]
fn the_future_of_a_stack_grows_by_the_layer() {
    let key = Key::lone(SPACE, b"k");
    let two = Memory::new().layer(Timeout::default()).layer(Breaker::default());
    let six = two.clone().layer(Limit::default()).layer(Retry::default()).layer(Trace).layer(Coalesce::new());
    let (bare, two, six) = (
        size_of_val(&Memory::new().write(Write::put(key, "x"))),
        size_of_val(&two.write(Write::put(key, "x"))),
        size_of_val(&six.write(Write::put(key, "x"))),
    );
    println!("{bare} bytes bare, {two} under two layers, {six} under six");
    assert!(six < bare + 6 * 600, "{bare} bytes bare, {two} under two layers, {six} under six");
}

async fn every_protocol(store: impl Store + Clone) -> Result<usize> {
    let hold = std::time::Duration::from_secs(60);
    let leases = RecordLeases::new(store.clone(), LeaseConfig::default());
    let lease = leases.acquire(b"x", leases.mint_holder(), hold).await?.held();
    if let Some(lease) = &lease {
        let _ = leases.renew(lease, hold).await?;
        leases.release(lease).await?;
    }
    let queue = RecordQueue::open(store.clone(), "q", QueueConfig::default()).await?;
    queue.enqueue(NewJob::new("job").id(b"7")).await?;
    let jobs = queue.lease(1, hold).await?;
    for job in &jobs {
        let _ = queue.extend(&job.lease, hold).await?;
        let _ = queue.ack(&job.lease).await?;
    }
    let letters = queue.dead_letters(None, 1).await?.len() + queue.depth(1).await?.waiting;
    let outbox = Outbox::new(store, "o", &[SPACE], OutboxConfig::default())?;
    let key = Key::lone(SPACE, b"p");
    let _ = outbox.write(key, "x", sysd_core::Expect::Absent, vec![NewEvent::new(b"k", "e")]).await?;
    Ok(jobs.len() + letters + outbox.relay_once(&MemoryEvents::new(MemoryEventsConfig::default())?).await?.published)
}

async fn every_bus(bus: impl Bus) -> Result<usize> {
    let name = Channel::new("spawn")?;
    let mut subscription = bus.subscribe(&[]).await?;
    subscription.add(&name).await?;
    bus.publish(&name, "x".into()).await?;
    let seen = matches!(subscription.next().await?, Delivery::Message { .. });
    Ok(usize::from(seen) + usize::from(subscription.remove(&name)))
}

#[test]
fn buses_spawn() -> Result<()> {
    assert_eq!(spawn(every_bus(MemoryBus::new()))?, 2);
    assert_eq!(spawn(every_bus(AnyBus::new(MemoryBus::new())))?, 2);
    assert_eq!(spawn(every_bus(std::sync::Arc::new(AnyBus::new(MemoryBus::new()))))?, 2);
    Ok(())
}

/// Compiled, and called by nobody: they would need servers.
#[cfg(all(feature = "redis", feature = "nats"))]
#[allow(dead_code)]
fn buses_on_servers_spawn(redis: sysd_storage::bus::RedisBus, nats: sysd_storage::bus::NatsBus) -> Result<usize> {
    Ok(spawn(every_bus(redis))? + spawn(every_bus(nats))?)
}

#[test]
fn leases_queues_and_outboxes_spawn() -> Result<()> {
    assert_eq!(spawn(every_protocol(Memory::new()))?, 2);
    assert_eq!(spawn(every_protocol(AnyStore::new(Memory::new())))?, 2);
    Ok(())
}

async fn every_call_of_a_log(log: impl EventLog) -> Result<usize> {
    let event = Event::mint(&sysd_core::SystemEntropy, b"k", "e");
    log.append(&event).await?;
    log.append_many(&[event]).await.pop().unwrap_or(Ok(()))?;
    let mut member = log.join("g", Start::Oldest).await?;
    let batch = member.read(10, std::time::Duration::ZERO).await?;
    let _ = member.commit(&batch.ends()).await?;
    member.leave().await?;
    let _ = log.seek("g", Start::Newest).await?;
    Ok(batch.events.len() + log.lag("g").await?.len())
}

#[test]
fn event_logs_spawn() -> Result<()> {
    let log = MemoryEvents::new(MemoryEventsConfig { partitions: 1, ..MemoryEventsConfig::default() })?;
    assert_eq!(spawn(every_call_of_a_log(std::sync::Arc::new(log.clone())))?, 3);
    assert_eq!(spawn(every_call_of_a_log(AnyEventLog::new(log)))?, 3);
    Ok(())
}
