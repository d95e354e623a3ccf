//! Producers and consumers on two or three nodes, crashes, a faulty network; then peace, and the check.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::queue::{Enqueued, Held, LeasedJob, NewJob, Queue as _, QueueExt as _, Settlement};
use sysd_core::{Clock as _, RetryPolicy, Timestamp};
use sysd_storage::queue::Bug;
use sysd_storage::{QueueConfig, RecordQueue};
use sysd_testkit::oracle::queue::Ending;
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation, SkewedClock};

use crate::record::{ATTEMPTS_MAX, Record};

pub(crate) const SHARDS: u16 = 2;
const LANES: u8 = 2;
const JOBS: u64 = 5;
const TURNS: u64 = 12;

type SimQueue = RecordQueue<SimStore>;

/// Short waits, so that every deadline is met in a run.
pub(crate) fn config(simulation: &Simulation, node: Node, bug: Option<Bug>) -> QueueConfig {
    QueueConfig {
        shards: SHARDS,
        lanes: LANES,
        attempts_max: ATTEMPTS_MAX,
        // Fewer than there are jobs, so that it is met.
        in_flight_max: 3,
        late_max: Duration::from_millis(40),
        call_wait_max: Duration::from_millis(10),
        retry: RetryPolicy {
            wait_base: Duration::from_millis(1),
            wait_max: Duration::from_millis(8),
            total_max: Duration::from_millis(60),
            attempts_max: 5,
        },
        clock: Arc::new(clock(simulation, node)),
        entropy: simulation.entropy(),
        bug,
        ..QueueConfig::default()
    }
}

fn clock(simulation: &Simulation, node: Node) -> SkewedClock {
    SkewedClock::new(simulation.clock(), Duration::from_millis(u64::from(node.0 % 4) * 2))
}

pub(crate) async fn open(simulation: &Simulation, node: Node, bug: Option<Bug>) -> SimQueue {
    loop {
        if let Ok(queue) = RecordQueue::open(simulation.store(node), "q", config(simulation, node, bug)).await {
            return queue;
        }
        wait(simulation, 3_000).await;
    }
}

pub(crate) async fn wait(simulation: &Simulation, micros: u64) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(Duration::from_micros(micros))).await;
}

/// A process: produces and consumes.
async fn process(simulation: Simulation, node: Node, record: Record, bug: Option<Bug>) {
    let queue = open(&simulation, node, bug).await;
    simulation.spawn(node, produce(simulation.clone(), queue.clone(), record.clone()));
    for _ in 0..2 {
        simulation.spawn(node, consume(simulation.clone(), node, queue.clone(), record.clone()));
    }
    simulation.spawn(node, replay(simulation.clone(), queue, record));
}

/// Somebody who puts dead letters back, beside everything else.
async fn replay(simulation: Simulation, queue: SimQueue, record: Record) {
    for _ in 0..TURNS {
        wait(&simulation, simulation.below(16_000)).await;
        let Ok(letters) = queue.dead_letters(None, 4).await else { continue };
        for letter in letters {
            if simulation.chance(700) {
                record.begin_replay(&letter);
                record.end_replay(&letter, &queue.replay(&letter).await);
            }
        }
    }
}

async fn produce(simulation: Simulation, queue: SimQueue, record: Record) {
    for _ in 0..JOBS {
        wait(&simulation, simulation.below(15_000)).await;
        let is_named = simulation.chance(600);
        enqueue(&simulation, &queue, &record, is_named).await;
    }
}

/// A named job is enqueued until that is answered, and sometimes once more.
pub(crate) async fn enqueue(simulation: &Simulation, queue: &SimQueue, record: &Record, is_named: bool) {
    let number = record.begin_job(is_named);
    let delay = Duration::from_micros(simulation.below(2) * simulation.below(20_000));
    let lane = u8::try_from(simulation.below(u64::from(LANES))).unwrap();
    let mut job = NewJob::new(number.to_be_bytes().to_vec()).delay(delay).lane(lane);
    if is_named {
        job = job.id(&number.to_be_bytes());
    }
    for _ in 0..4 {
        match queue.enqueue(job.clone()).await {
            Ok(Enqueued::Queued(_)) => record.acknowledge(number),
            Err(_) if is_named => continue,
            Ok(Enqueued::Settled(_)) | Err(_) => return,
        }
        if !is_named || simulation.chance(600) {
            return;
        }
        // When it may have been handed out, given back, given up.
        wait(simulation, simulation.below(20_000)).await;
    }
}

async fn consume(simulation: Simulation, node: Node, queue: SimQueue, record: Record) {
    for _ in 0..TURNS {
        wait(&simulation, simulation.below(8_000)).await;
        let hold = Duration::from_micros(1 + simulation.below(40_000));
        let begun = record.moment();
        let Ok(jobs) = queue.lease(1 + usize::try_from(simulation.below(3)).unwrap(), hold).await else { continue };
        let given_at = clock(&simulation, node).now();
        let jobs: Vec<_> = jobs.into_iter().map(|job| (record.deliver(&job, begun, given_at), job)).collect();
        for (at, job) in jobs {
            work(&simulation, node, &queue, &record, at, &job).await;
        }
    }
}

async fn work(simulation: &Simulation, node: Node, queue: &SimQueue, record: &Record, at: usize, job: &LeasedJob) {
    wait(simulation, simulation.below(12_000)).await;
    if simulation.chance(150) {
        // Never less than it was: the answer may be lost.
        let hold = Duration::from_millis(30);
        let earliest = clock(simulation, node).now().saturating_add(hold);
        if let Ok(Held::Held) = queue.extend(&job.lease, hold).await {
            record.extend(at, earliest.max(job.until));
        }
        wait(simulation, simulation.below(20_000)).await;
    }
    let (settlement, ending) = match simulation.below(20) {
        0..12 => (Settlement::Ack, Ending::Acked),
        12..15 => (Settlement::Release(Duration::from_micros(simulation.below(10_000))), Ending::Returned),
        15..17 => (Settlement::Bury("too hard".to_owned()), Ending::Returned),
        // It dies, or forgets.
        _ => return,
    };
    record.begin_settling(at);
    let answer = queue.settle(&job.lease, settlement).await;
    record.end_settling(at, ending, answer);
}

/// What one seed does. `Err`: what went wrong.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let simulation = Simulation::new(seed);
    let record = Record::default();
    let nodes: Vec<Node> = (0..2 + u32::try_from(seed % 2).unwrap()).map(Node).collect();
    let faults = match simulation.below(8) {
        0 => Faults::NONE,
        1..6 => Faults::MANY,
        6 => Faults { late: 0, ..Faults::MANY },
        _ => Faults { request_lost: 120, reply_lost: 150, late: 100, ..Faults::MANY },
    };
    simulation.set_faults(faults);
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, record.clone(), bug));
    nodes.iter().copied().for_each(start);
    for _ in 0..simulation.below(5) {
        let pause = Duration::from_micros(simulation.below(60_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        let node = nodes[usize::try_from(simulation.below(nodes.len() as u64)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.run_for(Duration::from_millis(400)).map_err(|error| error.to_string())?;
    // Peace: whatever is still on its way arrives.
    simulation.set_faults(Faults::NONE);
    for &node in &nodes {
        simulation.crash(node);
    }
    simulation.run_for(Duration::from_secs(11)).map_err(|error| error.to_string())?;
    settle(&simulation, &record, bug)?;
    Ok(simulation.digest())
}

/// Without faults the queue drains, and what was seen is right. Whoever comes has the bug too: one who looks for what came late
/// would find what the others forgot.
pub(crate) fn settle(simulation: &Simulation, record: &Record, bug: Option<Bug>) -> Result<(), String> {
    let dead = Arc::new(Mutex::new(None));
    let (sim, seen, there) = (simulation.clone(), record.clone(), Arc::clone(&dead));
    simulation.spawn(Node(8), async move {
        let queue = open(&sim, Node(8), bug).await;
        drain(&sim, &queue, &seen).await;
        // Half of the dead letters get another chance.
        let letters = queue.dead_letters(None, 1_000).await.expect("peace");
        for letter in letters.iter().step_by(2) {
            // Not put back: whoever did so before was cut off before that was noted.
            seen.begin_replay(letter);
            seen.end_replay(letter, &queue.replay(letter).await);
            assert!(!queue.replay(letter).await.expect("peace"), "it was put back already");
        }
        drain(&sim, &queue, &seen).await;
        let dead = queue.dead_letters(None, 1_000).await.expect("peace");
        let depth = queue.depth(1_000).await.expect("peace");
        *there.lock().unwrap() = Some((dead, depth));
    });
    simulation.run_for(Duration::from_secs(60)).map_err(|error| error.to_string())?;
    let (dead, depth) = dead.lock().unwrap().take().ok_or("in peace, the queue did not drain")?;
    if (depth.waiting, depth.delayed, depth.leased, depth.unreadable) != (0, 0, 0, 0) {
        return Err(format!("the queue is empty, and yet {depth:?}"));
    }
    record.check(&dead)
}

/// Leases and acks until nothing comes for longer than any lease or delay.
async fn drain(simulation: &Simulation, queue: &SimQueue, record: &Record) {
    let mut idle = 0;
    while idle < 12 {
        let begun = record.moment();
        let jobs = queue.lease(16, Duration::from_secs(1)).await.expect("peace");
        idle = if jobs.is_empty() { idle + 1 } else { 0 };
        let given_at: Timestamp = clock(simulation, Node(8)).now();
        for job in &jobs {
            let at = record.deliver(job, begun, given_at);
            record.begin_settling(at);
            record.end_settling(at, Ending::Acked, queue.ack(&job.lease).await);
        }
        wait(simulation, 10_000).await;
    }
}
