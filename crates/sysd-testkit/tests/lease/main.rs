//! Leases, simulated: many seeds, deliberate bugs, and the two exhaustive sweeps.
//!
//! `SYSD_SIM_SEEDS=1000000` runs more seeds, `SYSD_SIM_SEED=7` only that one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::lease::{Acquired, Lease, Leases as _, Renewed};
use sysd_core::{Clock as _, RetryPolicy, Timestamp};
use sysd_storage::lease::Bug;
use sysd_storage::{LeaseConfig, RecordLeases};
use sysd_testkit::oracle::lease::{Holding, exclusive, fenced, rising};
use sysd_testkit::sim::{Fault, Faults, Node, SimStore, Simulation, SkewedClock, sweep};

const NAME: &[u8] = b"printer";
const SEEDS: u64 = 20_000;
const BUG_SEEDS: u64 = 2_000;

#[derive(Default)]
struct Seen {
    holdings: Vec<Holding>,
    /// What a resource accepted that refuses lower tokens.
    accepted: Vec<(u64, u128)>,
    /// Refused though nobody else can hold it.
    refused_alone: bool,
}

type Record = Arc<Mutex<Seen>>;

fn leases(simulation: &Simulation, node: Node, bug: Option<Bug>) -> RecordLeases<SimStore> {
    let behind = Duration::from_millis(u64::from(node.0) * 7);
    let config = LeaseConfig {
        keep_for: Duration::from_secs(1),
        call_wait_max: Duration::from_millis(5),
        retry: RetryPolicy {
            wait_base: Duration::from_millis(1),
            wait_max: Duration::from_millis(4),
            ..RetryPolicy::default()
        },
        clock: Arc::new(SkewedClock::new(simulation.clock(), behind)),
        entropy: simulation.entropy(),
        bug,
    };
    RecordLeases::new(simulation.store(node), config)
}

async fn wait(simulation: &Simulation, micros: u64) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(Duration::from_micros(micros))).await;
}

/// A deadline by a node's clock, by the simulation's.
fn truly(node: Node, at: Timestamp) -> Timestamp {
    at.saturating_add(Duration::from_millis(u64::from(node.0) * 7))
}

/// Acquires, writes to the resource now and then, renews, lets go; again and again.
async fn process(simulation: Simulation, node: Node, record: Record, bug: Option<Bug>) {
    let leases = leases(&simulation, node, bug);
    let holder = leases.mint_holder();
    let hold = Duration::from_millis(4 + simulation.below(20));
    let now = || simulation.clock().now();
    for _ in 0..6 {
        wait(&simulation, simulation.below(10_000)).await;
        let begun = now();
        let Ok(Acquired::Held(mut lease)) = leases.acquire(NAME, holder, hold).await else { continue };
        let at = {
            let mut seen = record.lock().unwrap();
            let (token, until) = (lease.token.as_u64(), truly(node, lease.until));
            seen.holdings.push(Holding { holder: holder.as_u128(), token, begun, from: now(), until });
            seen.holdings.len() - 1
        };
        for _ in 0..simulation.below(5) {
            wait(&simulation, simulation.below(8_000)).await;
            // It may be late, and not look: the resource does.
            write_to_resource(&record, &lease);
            if simulation.chance(500) {
                let until = match leases.renew(&lease, hold).await {
                    Ok(Renewed::Held(renewed)) => {
                        lease = renewed;
                        truly(node, lease.until)
                    }
                    Ok(Renewed::Lost(_)) => record.lock().unwrap().holdings[at].until.min(now()),
                    Err(_) => continue,
                };
                let holding = &mut record.lock().unwrap().holdings[at];
                holding.until = until.max(holding.from);
            }
        }
        if !simulation.chance(700) {
            continue;
        }
        {
            // It believes no longer; then it lets go. It may have asked twice.
            let mut seen = record.lock().unwrap();
            for holding in seen.holdings.iter_mut().filter(|holding| holding.token == lease.token.as_u64()) {
                holding.until = holding.until.min(now()).max(holding.from);
            }
        }
        drop(leases.release(&lease).await);
    }
}

fn write_to_resource(record: &Record, lease: &Lease) {
    let mut seen = record.lock().unwrap();
    let token = lease.token.as_u64();
    if seen.accepted.last().is_none_or(|&(highest, _)| highest <= token) {
        seen.accepted.push((token, lease.holder.as_u128()));
    }
}

fn check(record: &Record) -> Result<(), String> {
    let seen = record.lock().unwrap();
    if seen.refused_alone {
        return Err("refused though nobody else can hold it".to_owned());
    }
    [exclusive(&seen.holdings), rising(&seen.holdings), fenced(&seen.accepted)]
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(|violation| violation.to_string())
}

fn run(seed: u64, bug: Option<Bug>) -> Result<u64, String> {
    let simulation = Simulation::new(seed);
    let record = Record::default();
    let nodes: Vec<Node> = (0..3).map(Node).collect();
    simulation.set_faults(if seed.is_multiple_of(8) { Faults::NONE } else { Faults::MANY });
    let start = |node| simulation.spawn(node, process(simulation.clone(), node, record.clone(), bug));
    nodes.iter().copied().for_each(start);
    for _ in 0..simulation.below(4) {
        let pause = Duration::from_micros(simulation.below(60_000));
        simulation.run_for(pause).map_err(|error| error.to_string())?;
        let node = nodes[usize::try_from(simulation.below(3)).unwrap()];
        simulation.crash(node);
        start(node);
    }
    simulation.run_for(Duration::from_millis(400)).map_err(|error| error.to_string())?;
    // Peace: whoever comes gets it once the last lease has run out.
    simulation.set_faults(Faults::NONE);
    for &node in &nodes {
        simulation.crash(node);
    }
    simulation.run_for(Duration::from_millis(100)).map_err(|error| error.to_string())?;
    let (last, sim, history) = (Node(2), simulation.clone(), record.clone());
    let got = Arc::new(Mutex::new(false));
    let there = Arc::clone(&got);
    simulation.spawn(last, async move {
        let leases = leases(&sim, last, bug);
        let (holder, hold) = (leases.mint_holder(), Duration::from_millis(20));
        let begun = sim.clock().now();
        // Twice, as if the first reply had been lost.
        for _ in 0..2 {
            match leases.acquire(NAME, holder, hold).await {
                Ok(Acquired::Held(lease)) => {
                    let (token, from) = (lease.token.as_u64(), sim.clock().now());
                    let until = truly(last, lease.until);
                    history.lock().unwrap().holdings.push(Holding {
                        holder: holder.as_u128(),
                        token,
                        begun,
                        from,
                        until,
                    });
                    *there.lock().unwrap() = true;
                }
                Ok(Acquired::Taken { .. }) => history.lock().unwrap().refused_alone = true,
                Err(_) => {}
            }
        }
    });
    simulation.run_for(Duration::from_millis(100)).map_err(|error| error.to_string())?;
    check(&record)?;
    if *got.lock().unwrap() { Ok(simulation.digest()) } else { Err("in peace, nobody could acquire it".to_owned()) }
}

#[test]
fn one_holder_whatever_happens() {
    support::survives("lease", "one_holder", SEEDS, |seed| run(seed, None));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..50 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

#[test]
fn taking_what_is_held_is_caught() {
    support::is_caught(Bug::TakeAnyway, BUG_SEEDS, |seed| run(seed, Some(Bug::TakeAnyway)));
}

#[test]
fn tokens_that_restart_are_caught() {
    support::is_caught(Bug::RestartToken, BUG_SEEDS, |seed| run(seed, Some(Bug::RestartToken)));
}

#[test]
fn ending_early_is_caught() {
    support::is_caught(Bug::EndEarly, BUG_SEEDS, |seed| run(seed, Some(Bug::EndEarly)));
}

#[test]
fn renewing_another_s_lease_is_caught() {
    support::is_caught(Bug::RenewAnyToken, BUG_SEEDS, |seed| run(seed, Some(Bug::RenewAnyToken)));
}

#[test]
fn forgetting_who_holds_it_is_caught() {
    support::is_caught(Bug::ForgetHolder, BUG_SEEDS, |seed| run(seed, Some(Bug::ForgetHolder)));
}

/// One life of a holder with one fault; then somebody else's.
fn scenario(simulation: &Simulation, fault: Fault) -> Result<u64, String> {
    let (first, second) = (Node(0), Node(1));
    let record = Record::default();
    simulation.set_fault(first, fault);
    let life = |node: Node| {
        let (sim, seen) = (simulation.clone(), record.clone());
        async move {
            let leases = leases(&sim, node, None);
            let (holder, hold) = (leases.mint_holder(), Duration::from_millis(40));
            for _ in 0..2 {
                let begun = sim.clock().now();
                let Ok(Acquired::Held(lease)) = leases.acquire(NAME, holder, hold).await else { continue };
                let (token, from, until) = (lease.token.as_u64(), sim.clock().now(), truly(node, lease.until));
                seen.lock().unwrap().holdings.push(Holding { holder: holder.as_u128(), token, begun, from, until });
                write_to_resource(&seen, &lease);
                drop(leases.renew(&lease, hold).await);
                write_to_resource(&seen, &lease);
                let until = sim.clock().now();
                if let Some(holding) = seen.lock().unwrap().holdings.last_mut() {
                    holding.until = until;
                }
                drop(leases.release(&lease).await);
            }
        }
    };
    simulation.spawn(first, life(first));
    simulation.run_for(Duration::from_secs(1)).map_err(|error| error.to_string())?;
    let before = record.lock().unwrap().holdings.len();
    simulation.spawn(second, life(second));
    simulation.run_for(Duration::from_secs(1)).map_err(|error| error.to_string())?;
    check(&record)?;
    let after = record.lock().unwrap().holdings.len();
    if after == before + 2 { Ok(simulation.calls(first)) } else { Err("the next holder had to go without".to_owned()) }
}

#[test]
fn every_fault_at_every_storage_call() {
    let runs = sweep(scenario).unwrap_or_else(|what| panic!("{what}"));
    assert!(runs > 15, "only {runs} runs");
}
