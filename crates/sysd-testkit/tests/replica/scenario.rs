//! Two or three writers, crashes, a faulty network; then peace, and the check.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::{Clock as _, Effect, RetryPolicy};
use sysd_storage::log::Bug;
use sysd_storage::{Follower, Replica, ReplicaConfig};
use sysd_testkit::Counters;
use sysd_testkit::sim::{Faults, Node, Simulation, SkewedClock};

use crate::record::Record;

const LOG: &str = "bank";
const CLIENTS: u64 = 2;
const COMMANDS: u64 = 8;

/// Short waits, so that every deadline is met in a run.
pub(crate) fn config(simulation: &Simulation, node: Node, bug: Option<Bug>) -> ReplicaConfig {
    let behind = Duration::from_millis(u64::from(node.0) * 7);
    // Some deadlines are met in every retry, some only in long faults.
    let submit_wait_ms = [4, 15, 60][usize::try_from(simulation.below(3)).unwrap()];
    ReplicaConfig {
        submit_wait_max: Duration::from_millis(submit_wait_ms),
        call_wait_max: Duration::from_millis(10),
        poll_every: Some(Duration::from_millis(20)),
        snapshot_log_bytes: Some(600),
        snapshot_wait_max: Duration::from_secs(1),
        batch_commands_max: 4,
        retry: RetryPolicy {
            wait_base: Duration::from_millis(1),
            wait_max: Duration::from_millis(8),
            ..RetryPolicy::default()
        },
        clock: Arc::new(SkewedClock::new(simulation.clock(), behind)),
        entropy: simulation.entropy(),
        bug,
        ..ReplicaConfig::default()
    }
}

async fn wait(simulation: &Simulation, wait: Duration) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(wait)).await;
}

/// A process: opens the log, drives it, and lets its clients use it.
async fn process(simulation: Simulation, node: Node, record: Record, bug: Option<Bug>) {
    let (replica, driver) = loop {
        let opened = Replica::<Counters>::open(simulation.store(node), LOG, config(&simulation, node, bug)).await;
        match opened {
            Ok(opened) => break opened,
            Err(_) => wait(&simulation, Duration::from_millis(5)).await,
        }
    };
    simulation.spawn(node, async move { assert!(driver.await.is_ok(), "the log can be read") });
    let writer = record.next_writer();
    for _ in 0..CLIENTS {
        simulation.spawn(node, client(simulation.clone(), replica.clone(), record.clone(), writer));
    }
}

async fn client(simulation: Simulation, replica: Replica<Counters>, record: Record, writer: u64) {
    for _ in 0..COMMANDS {
        wait(&simulation, Duration::from_micros(simulation.below(20_000))).await;
        match simulation.below(16) {
            0 => {
                let at = record.begin_takeover(writer);
                let answer = replica.fence().await;
                let is_certain = answer.as_ref().map_or_else(|error| error.effect() == Effect::None, |_| true);
                record.end_takeover(at, answer.ok(), is_certain);
            }
            1 => {
                let at = record.begin_takeover(writer);
                let answer = replica.release().await;
                let is_certain = answer.map_or_else(|error| error.effect() == Effect::None, |_| true);
                record.end_takeover(at, None, is_certain);
            }
            2 => drop(replica.snapshot().await),
            3..6 => {
                let begun = record.moment();
                if let Ok(seen) = replica.read_latest(|counters| counters.journal().len()).await {
                    record.read(begun, seen);
                }
            }
            _ => {
                let command = record.begin(writer);
                record.end(command, replica.submit(command).await);
            }
        }
    }
}

/// Peace, the usual faults, a store that mostly refuses, a network that mostly loses.
fn weather(simulation: &Simulation) -> Faults {
    match simulation.below(8) {
        0 => Faults::NONE,
        1..6 => Faults::MANY,
        6 => Faults { refused: 500, ..Faults::MANY },
        _ => Faults { request_lost: 150, reply_lost: 150, late: 100, ..Faults::MANY },
    }
}

/// What one seed does. `Err`: what went wrong.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let simulation = Simulation::new(seed);
    let record = Record::default();
    let nodes: Vec<Node> = (0..2 + u32::try_from(seed % 2).unwrap()).map(Node).collect();
    simulation.set_faults(weather(&simulation));
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, record.clone(), bug));
    nodes.iter().copied().for_each(start);
    for _ in 0..simulation.below(6) {
        let pause = Duration::from_micros(simulation.below(80_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        let node = nodes[usize::try_from(simulation.below(nodes.len() as u64)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.run_for(Duration::from_millis(300)).map_err(|error| error.to_string())?;
    // Peace: whatever is still on its way arrives.
    simulation.set_faults(Faults::NONE);
    simulation.run_for(Duration::from_secs(11)).map_err(|error| error.to_string())?;
    settle(&simulation, &nodes, &record, bug)?;
    Ok(simulation.digest())
}

/// Without faults everything works again, and what is there is right.
fn settle(simulation: &Simulation, nodes: &[Node], record: &Record, bug: Option<Bug>) -> Result<(), String> {
    for &node in nodes {
        simulation.crash(node);
    }
    let last = Node(9);
    let before = record.acknowledged_count();
    let (sink, client) = (Arc::new(Mutex::new(None)), record.clone());
    let (there, sim) = (Arc::clone(&sink), simulation.clone());
    simulation.spawn(last, async move {
        let (replica, driver) =
            Replica::<Counters>::open(sim.store(last), LOG, config(&sim, last, bug)).await.expect("it opens");
        sim.spawn(last, async move { driver.await.expect("the log can be read") });
        let writer = client.next_writer();
        let takeover = client.begin_takeover(writer);
        client.end_takeover(takeover, Some(replica.fence().await.expect("it takes over")), true);
        let command = client.begin(writer);
        client.end(command, replica.submit(command).await);
        // From the whole log, without snapshots, and with them.
        let (follower, driver) =
            Follower::<Counters>::open(sim.store(last), LOG, config(&sim, last, None)).await.expect("it opens");
        sim.spawn(last, async move { driver.await.expect("the log can be read") });
        let copy = follower.read_latest(Counters::clone).await.expect("it reads");
        let own = replica.read(Counters::clone);
        *there.lock().unwrap() = Some((own, copy));
    });
    simulation.run_for(Duration::from_secs(2)).map_err(|error| error.to_string())?;
    if record.acknowledged_count() != before + 1 {
        return Err("in peace, a command was not answered".to_owned());
    }
    let Some((own, copy)) = sink.lock().unwrap().take() else { return Err("in peace, nothing opened".to_owned()) };
    if own != copy {
        return Err("two replicas of one log differ".to_owned());
    }
    record.check(&copy)
}
