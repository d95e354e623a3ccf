//! Two or three writers, crashes, a faulty network; then peace, and the check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::{Clock as _, Effect, ErrorKind, ManualClock, RetryPolicy};
use sysd_storage::log::Bug;
use sysd_storage::{Follower, Replica, ReplicaConfig};
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation, SkewedClock};
use sysd_testkit::{Counters, Limited};

use crate::record::Record;

const LOG: &str = "bank";
const CLIENTS: u64 = 2;
const COMMANDS: u64 = 8;
/// A history of some twenty entries crosses a border or two.
const SEGMENT_ENTRIES: u64 = 8;
/// Half of the runs cut snapshots of more than some twenty commands into two chunks.
const VALUE_BYTES_MAX: [usize; 2] = [700, 64 << 10];

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
        segment_entries: SEGMENT_ENTRIES,
        ..ReplicaConfig::default()
    }
}

async fn wait(simulation: &Simulation, wait: Duration) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(wait)).await;
}

/// A replica, and under which name it writes.
type Running = (Replica<Counters>, u64);

/// What the nodes of one run share.
#[derive(Clone)]
struct World {
    record: Record,
    bug: Option<Bug>,
    value_bytes_max: usize,
    /// The wall clock of each node.
    clocks: Arc<Vec<SkewedClock>>,
    /// What runs on each node.
    running: Arc<Mutex<BTreeMap<Node, Running>>>,
}

impl World {
    fn new(simulation: &Simulation, nodes: &[Node], bug: Option<Bug>) -> Self {
        let clock = |node: &Node| SkewedClock::new(simulation.clock(), Duration::from_millis(u64::from(node.0) * 7));
        Self {
            record: Record::default(),
            bug,
            value_bytes_max: VALUE_BYTES_MAX[usize::try_from(simulation.below(2)).unwrap()],
            clocks: Arc::new(nodes.iter().map(clock).collect()),
            running: Arc::default(),
        }
    }

    /// Short pages, and empty ones.
    fn store(&self, simulation: &Simulation, node: Node) -> Limited<SimStore, ManualClock> {
        let store = simulation.store(node).with_value_bytes_max(self.value_bytes_max);
        Limited::new(store, simulation.clock())
    }

    fn running(&self, node: Node) -> Option<Running> {
        self.running.lock().unwrap().get(&node).cloned()
    }
}

/// A process: opens the log, drives it, and lets its clients use it.
async fn process(simulation: Simulation, node: Node, world: World) {
    let (replica, driver) = loop {
        let clock = Arc::new(world.clocks[node.0 as usize].clone());
        let config = ReplicaConfig { clock, ..config(&simulation, node, world.bug) };
        match Replica::<Counters>::open(world.store(&simulation, node), LOG, config).await {
            Ok(opened) => break opened,
            Err(_) => wait(&simulation, Duration::from_millis(5)).await,
        }
    };
    simulation.spawn(node, async move { assert!(driver.await.is_ok(), "the log can be read") });
    let writer = world.record.next_writer();
    world.running.lock().unwrap().insert(node, (replica.clone(), writer));
    for _ in 0..CLIENTS {
        simulation.spawn(node, client(simulation.clone(), replica.clone(), world.record.clone(), writer));
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
    let nodes: Vec<Node> = (0..2 + u32::try_from(seed % 2).unwrap()).map(Node).collect();
    let world = World::new(&simulation, &nodes, bug);
    simulation.set_faults(weather(&simulation));
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, world.clone()));
    nodes.iter().copied().for_each(start);
    let any = || nodes[usize::try_from(simulation.below(nodes.len() as u64)).unwrap()];
    for _ in 0..simulation.below(6) {
        let pause = Duration::from_micros(simulation.below(80_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        if simulation.chance(300) {
            world.clocks[any().0 as usize].set_back(Duration::from_micros(simulation.below(500_000)));
        }
        let node = any();
        simulation.crash(node);
        world.running.lock().unwrap().remove(&node);
        start(node);
    }
    simulation.run_for(Duration::from_millis(300)).map_err(|error| error.to_string())?;
    simulation.set_faults(Faults::NONE);
    answer(&simulation, &nodes, &world)?;
    // Nobody holds a replica any more, so the drivers end. Whatever is still on its way arrives.
    world.running.lock().unwrap().clear();
    simulation.run_for(Duration::from_secs(11)).map_err(|error| error.to_string())?;
    settle(&simulation, &nodes, &world)?;
    Ok(simulation.digest())
}

/// Without faults every node that was not crashed answers again, whatever it went through.
fn answer(simulation: &Simulation, nodes: &[Node], world: &World) -> Result<(), String> {
    let answered: Arc<Mutex<BTreeSet<Node>>> = Arc::default();
    for &node in nodes {
        let (sim, world, answered) = (simulation.clone(), world.clone(), Arc::clone(&answered));
        simulation.spawn(node, async move {
            loop {
                if let Some((replica, writer)) = world.running(node) {
                    let command = world.record.begin(writer);
                    let answer = replica.submit(command).await;
                    let is_fenced = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced);
                    let is_certain = answer.is_ok() || is_fenced;
                    world.record.end(command, answer);
                    if is_certain {
                        answered.lock().unwrap().insert(node);
                        return;
                    }
                }
                // Others were faster, or it still waits for a call of before.
                wait(&sim, Duration::from_millis(5)).await;
            }
        });
    }
    simulation.run_for(Duration::from_millis(500)).map_err(|error| error.to_string())?;
    let answered = answered.lock().unwrap();
    let silent: Vec<_> = nodes.iter().filter(|node| !answered.contains(node)).collect();
    if silent.is_empty() { Ok(()) } else { Err(format!("in peace, a command was not answered by {silent:?}")) }
}

/// Without faults everything works again, and what is there is right.
fn settle(simulation: &Simulation, nodes: &[Node], world: &World) -> Result<(), String> {
    for &node in nodes {
        simulation.crash(node);
    }
    let last = Node(9);
    let (record, bug) = (&world.record, world.bug);
    let before = record.acknowledged_count();
    let (sink, client) = (Arc::new(Mutex::new(None)), record.clone());
    let (there, sim, store) = (Arc::clone(&sink), simulation.clone(), world.store(simulation, last));
    simulation.spawn(last, async move {
        let (replica, driver) =
            Replica::<Counters>::open(store.clone(), LOG, config(&sim, last, bug)).await.expect("it opens");
        sim.spawn(last, async move { driver.await.expect("the log can be read") });
        let writer = client.next_writer();
        let takeover = client.begin_takeover(writer);
        client.end_takeover(takeover, Some(replica.fence().await.expect("it takes over")), true);
        let command = client.begin(writer);
        client.end(command, replica.submit(command).await);
        // From the whole log, without snapshots, and with them.
        let (follower, driver) =
            Follower::<Counters>::open(store, LOG, config(&sim, last, None)).await.expect("it opens");
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
