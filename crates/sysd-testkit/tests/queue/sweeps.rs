//! One fault at every storage call of all that a process does with a queue.

use std::time::Duration;

use sysd_core::Clock as _;
use sysd_core::queue::{NewJob, Queue as _, QueueExt as _, Settlement};
use sysd_testkit::oracle::queue::Ending;
use sysd_testkit::sim::{Fault, Node, Simulation, sweep};

use crate::record::Record;
use crate::scenario::{open, settle, wait};

const FIRST: Node = Node(0);

/// Enqueues with and without an id; acks, gives back, gives up, lets a lease run out, extends; puts a dead letter back.
async fn life(simulation: Simulation, record: Record) {
    let queue = open(&simulation, FIRST, None).await;
    for is_named in [true, false, true, false] {
        let number = record.begin_job(is_named);
        let mut job = NewJob::new(number.to_be_bytes().to_vec());
        if is_named {
            job = job.id(&number.to_be_bytes());
        }
        for _ in 0..2 {
            if queue.enqueue(job.clone()).await.is_ok() {
                record.acknowledge(number);
            }
            if !is_named {
                break;
            }
        }
    }
    let hold = Duration::from_millis(50);
    for turn in 0..8_u32 {
        let begun = record.moment();
        let Ok(jobs) = queue.lease(2, hold).await else { continue };
        for job in jobs {
            let at = record.deliver(&job, begun, simulation.clock().now());
            let (settlement, ending) = match turn {
                0 => (Settlement::Release(Duration::ZERO), Ending::Returned),
                1 => (Settlement::Bury("no".to_owned()), Ending::Returned),
                2 => continue,
                _ => (Settlement::Ack, Ending::Acked),
            };
            record.begin_settling(at);
            let answer = queue.settle(&job.lease, settlement).await;
            record.end_settling(at, ending, answer);
        }
        wait(&simulation, 30_000).await;
    }
    if let Ok(letters) = queue.dead_letters(None, 10).await {
        for letter in &letters {
            record.begin_replay(letter);
            record.end_replay(letter, &queue.replay(letter).await);
        }
    }
    drop(queue.lease(1, hold).await);
}

fn scenario(simulation: &Simulation, fault: Fault) -> Result<u64, String> {
    let record = Record::default();
    simulation.set_fault(FIRST, fault);
    simulation.spawn(FIRST, life(simulation.clone(), record.clone()));
    simulation.run_for(Duration::from_secs(5)).map_err(|error| error.to_string())?;
    let calls = simulation.calls(FIRST);
    simulation.crash(FIRST);
    settle(simulation, &record, None)?;
    Ok(calls)
}

#[test]
fn every_fault_at_every_storage_call() {
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    // Three faults, and some sixty calls in that life.
    assert!(runs > 150, "only {runs} runs");
}
