//! One fault at every storage call of an operation: a crash after it, its reply lost, itself refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_storage::Replica;
use sysd_testkit::Counters;
use sysd_testkit::sim::{Fault, Node, Simulation, sweep};

use crate::record::Record;
use crate::scenario::config;

const LOG: &str = "bank";
const FIRST: Node = Node(0);
const SECOND: Node = Node(1);

/// All that a writer does in its life, one thing after the other.
async fn life(simulation: Simulation, record: Record) {
    let config = config(&simulation, FIRST, None);
    let Ok((replica, driver)) = Replica::<Counters>::open(simulation.store(FIRST), LOG, config).await else { return };
    simulation.spawn(FIRST, async move { driver.await.expect("the log can be read") });
    let writer = record.next_writer();
    for step in 0..8 {
        let command = record.begin(writer);
        record.end(command, replica.submit(command).await);
        match step {
            1 | 5 => drop(replica.snapshot().await),
            3 => {
                let at = record.begin_takeover(writer);
                let answer = replica.fence().await;
                record.end_takeover(at, answer.as_ref().ok().copied(), answer.is_ok());
            }
            6 => {
                let at = record.begin_takeover(writer);
                let answer = replica.release().await;
                record.end_takeover(at, None, answer.is_ok());
            }
            _ => {}
        }
        let begun = record.moment();
        if let Ok(seen) = replica.read_latest(|counters| counters.journal().len()).await {
            record.read(begun, seen);
        }
    }
}

/// Whoever comes after: opens, takes over, writes, takes a snapshot that clears up behind the first.
async fn recover(simulation: Simulation, record: Record, last: Arc<Mutex<Option<Counters>>>) {
    let config = config(&simulation, SECOND, None);
    let opened = Replica::<Counters>::open(simulation.store(SECOND), LOG, config).await;
    let (replica, driver) = opened.expect("it opens");
    simulation.spawn(SECOND, async move { driver.await.expect("the log can be read") });
    let writer = record.next_writer();
    let at = record.begin_takeover(writer);
    record.end_takeover(at, Some(replica.fence().await.expect("it takes over")), true);
    let command = record.begin(writer);
    record.end(command, replica.submit(command).await);
    replica.snapshot().await.expect("it takes a snapshot");
    *last.lock().unwrap() = Some(replica.read(Counters::clone));
}

fn scenario(simulation: &Simulation, fault: Fault) -> Result<u64, String> {
    let record = Record::default();
    simulation.set_fault(FIRST, fault);
    simulation.spawn(FIRST, life(simulation.clone(), record.clone()));
    simulation.run_for(Duration::from_secs(5)).map_err(|error| error.to_string())?;
    let calls = simulation.calls(FIRST);
    simulation.crash(FIRST);
    // What a crash left behind counts as such after an hour.
    simulation.run_for(Duration::from_secs(3_601)).map_err(|error| error.to_string())?;
    let last = Arc::new(Mutex::new(None));
    simulation.spawn(SECOND, recover(simulation.clone(), record.clone(), Arc::clone(&last)));
    simulation.run_for(Duration::from_secs(5)).map_err(|error| error.to_string())?;
    let last = last.lock().unwrap().take().ok_or("nobody could take over")?;
    record.check(&last)?;
    // The head, the manifest, the entries, and one snapshot of one chunk: nothing is left behind.
    let entries = usize::try_from(entries_of(simulation)?).unwrap();
    let records = simulation.truth().record_count();
    if records == entries + 3 { Ok(calls) } else { Err(format!("{records} records for {entries} entries")) }
}

fn entries_of(simulation: &Simulation) -> Result<u64, String> {
    let next = Arc::new(Mutex::new(None));
    let (there, sim) = (Arc::clone(&next), simulation.clone());
    simulation.spawn(SECOND, async move {
        let config = config(&sim, SECOND, None);
        let (replica, _driver) = Replica::<Counters>::open(sim.store(SECOND), LOG, config).await.expect("it opens");
        *there.lock().unwrap() = Some(replica.status().next);
    });
    simulation.run_for(Duration::from_secs(1)).map_err(|error| error.to_string())?;
    let next = next.lock().unwrap().take();
    next.ok_or_else(|| "it did not open".to_owned())
}

#[test]
fn every_fault_at_every_storage_call() {
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    // Three faults, and some forty calls in that life.
    assert!(runs > 100, "only {runs} runs");
}
