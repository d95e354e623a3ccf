//! A stack under faults, in simulations: histories of one record stay linearizable.
//!
//! `SYSD_SIM_SEED=7` runs only that seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::below;
use sysd_core::{Effect, Expect, Key, ManualClock, Outcome, Result, RetryPolicy, SeededEntropy, Store, Version, Write};
use sysd_storage::layer::{
    Batch, BatchConfig, Bug, Cache, CacheConfig, Coalesce, LayerExt as _, Retry, Timeout, TimeoutConfig,
};
use sysd_testkit::oracle::{Call, History, RecordSpec, Reply, check};
use sysd_testkit::sim::{Faults, Node, Simulation};

use crate::script::SPACE;

const KEY: Key<'static> = Key::lone(SPACE, b"k");

/// Whether deletes are among the calls, and expectations of absence.
#[derive(Clone, Copy, Debug)]
struct Mix {
    deletes: bool,
}

type SimRetry = Retry<ManualClock, Arc<SeededEntropy>>;

async fn calls(store: impl Store, entropy: Arc<SeededEntropy>, history: Arc<Mutex<History<RecordSpec>>>, mix: Mix) {
    let mut held: Option<Version> = None;
    for _ in 0..6 {
        let expect = match (below(&entropy, 4), held) {
            (0, _) => Expect::Absent,
            (1 | 2, Some(version)) => Expect::Is(version),
            _ => Expect::Any,
        };
        let write = match below(&entropy, 6) {
            0 | 1 => None,
            2 if mix.deletes => Some(Write::delete(KEY).expect(expect)),
            _ => Some(Write::put(KEY, "x").with_version(Version::mint(&entropy)).expect(expect)),
        };
        let Some(write) = write else {
            let id = history.lock().unwrap().invoke(Call::Get);
            match store.get(KEY).await {
                Ok(found) => {
                    held = found.map(|record| record.version);
                    history.lock().unwrap().complete(id, Reply::Found(held));
                }
                Err(_) => history.lock().unwrap().fail(id),
            }
            continue;
        };
        let id = history.lock().unwrap().invoke(Call::Write { expect, version: write.version() });
        let answer: Result<Outcome> = store.write(write.clone()).await;
        let mut history = history.lock().unwrap();
        match answer {
            Ok(Outcome::Applied) => {
                held = write.version();
                history.complete(id, Reply::Applied);
            }
            Ok(Outcome::Conflict { found }) => {
                held = found.map(|record| record.version);
                history.complete(id, Reply::Conflict(held));
            }
            Err(error) if error.effect() == Effect::None => history.fail(id),
            Err(_) => history.lose(id),
        }
    }
}

/// One run; what is wrong with its history.
fn run(seed: u64, mix: Mix, with: impl Fn(SimRetry) -> SimRetry) -> std::result::Result<u64, String> {
    let simulation = Simulation::new(seed);
    simulation.set_faults(Faults { reply_lost: 200, ..Faults::MANY });
    let history = Arc::new(Mutex::new(History::new()));
    for node in (0..3).map(Node) {
        let clock = simulation.clock();
        let deadlines = TimeoutConfig {
            read_max: Duration::from_millis(5),
            write_max: Duration::from_millis(5),
            range_max: Duration::from_millis(5),
        };
        let policy = RetryPolicy { wait_base: Duration::from_millis(1), ..RetryPolicy::default() };
        let retry = with(Retry::with_clock(policy, clock.clone(), simulation.entropy()));
        let store = simulation.store(node).layer(Timeout::with_clock(deadlines, clock)).layer(retry);
        simulation.spawn(node, calls(store, simulation.entropy(), Arc::clone(&history), mix));
    }
    simulation.run().map_err(|error| error.to_string())?;
    let history = history.lock().unwrap();
    check(&history).map_err(|error| error.to_string())?;
    Ok(simulation.digest())
}

const ALL: Mix = Mix { deletes: true };

fn caught(mix: Mix, with: impl Fn(SimRetry) -> SimRetry) -> Option<u64> {
    (0..3_000).find(|&seed| run(seed, mix, &with).is_err())
}

#[test]
fn a_record_stays_linearizable_under_timeouts_and_retries() {
    let one = std::env::var("SYSD_SIM_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    for seed in one.map_or(0..3_000, |seed| seed..seed + 1) {
        if let Err(what) = run(seed, ALL, |retry| retry) {
            panic!(
                "seed {seed}: {what}\nagain: SYSD_SIM_SEED={seed} cargo test -p sysd-storage --test layers stays_lin"
            );
        }
        if seed < 20 {
            assert_eq!(run(seed, ALL, |retry| retry), run(seed, ALL, |retry| retry), "seed {seed} twice");
        }
    }
}

#[test]
fn inserts_may_be_sent_again_where_nothing_is_deleted() {
    for seed in 0..1_000 {
        run(seed, Mix { deletes: false }, |retry| retry.resend_inserts(&[SPACE])).unwrap();
    }
    // And elsewhere not: a record that was deleted is there again.
    assert!(caught(ALL, |retry| retry.resend_inserts(&[SPACE])).is_some());
}

#[test]
fn every_seeded_bug_is_caught() {
    for bug in [Bug::ResendAll, Bug::TrustConflict, Bug::ForgetEffect] {
        let seed = caught(ALL, |retry| retry.with_bug(bug));
        assert!(seed.is_some(), "{bug:?} went unseen");
        println!("{bug:?} is caught by seed {seed:?}");
    }
}

/// One run of three callers in one process, who share a cache and its reads; the network is slow, and right.
fn run_cached(seed: u64, bug: Option<Bug>) -> std::result::Result<(), String> {
    let simulation = Simulation::new(seed);
    let history = Arc::new(Mutex::new(History::new()));
    let config = CacheConfig { conditional_spaces: vec![SPACE], ..CacheConfig::default() };
    let cache = bug.into_iter().fold(Cache::with_clock(config, simulation.clock()), Cache::with_bug);
    let coalesce = bug.into_iter().fold(Coalesce::new(), Coalesce::with_bug);
    let store = simulation.store(Node(0)).layer(coalesce).layer(cache);
    for _ in 0..3 {
        simulation.spawn(Node(0), calls(store.clone(), simulation.entropy(), Arc::clone(&history), ALL));
    }
    simulation.run().map_err(|error| error.to_string())?;
    let history = history.lock().unwrap();
    check(&history).map_err(|error| error.to_string())
}

/// The same without the cache, and with more reads at once.
fn run_coalesced(seed: u64, bug: Option<Bug>) -> std::result::Result<(), String> {
    let simulation = Simulation::new(seed);
    let history = Arc::new(Mutex::new(History::new()));
    let store = simulation.store(Node(0)).layer(bug.into_iter().fold(Coalesce::new(), Coalesce::with_bug));
    for _ in 0..5 {
        simulation.spawn(Node(0), calls(store.clone(), simulation.entropy(), Arc::clone(&history), ALL));
    }
    simulation.run().map_err(|error| error.to_string())?;
    let history = history.lock().unwrap();
    check(&history).map_err(|error| error.to_string())
}

/// The same where reads gather, without sharing.
fn run_batched(seed: u64) -> std::result::Result<(), String> {
    let simulation = Simulation::new(seed);
    let history = Arc::new(Mutex::new(History::new()));
    let batch = Batch::new(BatchConfig { in_flight_max: 1, ..BatchConfig::default() });
    let store = simulation.store(Node(0)).layer(batch);
    for _ in 0..5 {
        simulation.spawn(Node(0), calls(store.clone(), simulation.entropy(), Arc::clone(&history), ALL));
    }
    simulation.run().map_err(|error| error.to_string())?;
    let history = history.lock().unwrap();
    check(&history).map_err(|error| error.to_string())
}

#[test]
fn a_record_stays_linearizable_in_a_process_that_caches_shares_and_gathers_reads() {
    for seed in 0..1_000 {
        run_batched(seed).unwrap_or_else(|what| panic!("batched, seed {seed}: {what}"));
        run_cached(seed, None).unwrap_or_else(|what| panic!("cached, seed {seed}: {what}"));
        run_coalesced(seed, None).unwrap_or_else(|what| panic!("coalesced, seed {seed}: {what}"));
    }
    for bug in [Bug::FillStale, Bug::FillWhileWritten] {
        assert!((0..3_000).any(|seed| run_cached(seed, Some(bug)).is_err()), "{bug:?} went unseen");
    }
    assert!((0..3_000).any(|seed| run_coalesced(seed, Some(Bug::BeginAtOnce)).is_err()), "a joined call went unseen");
}
