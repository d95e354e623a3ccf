//! What a fleet admits beyond a limit where clocks differ, processes and the store are started again, and replies are lost, in
//! simulations: `SYSD_SIM_SEED=7` runs only that seed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{Key, StoreExt as _, tuple};
use sysd_ratelimit::schema::RULES;
use sysd_testkit::sim::{Faults, Node, Simulation};

mod common;

use common::fleets::{BATCH_MAX, BURST, Demand, Drifting, FROZEN, LAG_MAX, Mode, NODES, Told, bucket, fleet, start};
use common::seeds;

const FAULTY: Faults = Faults { reply_lost: 150, ..Faults::MANY };
/// The store is away: what it is asked is refused, or done and not answered.
const AWAY: Faults = Faults { refused: 500, reply_lost: 1_000, ..Faults::NONE };

/// Clocks differ by up to so much when a run begins, and then drift.
const AHEAD_MAX_US: u64 = 40_000;
/// One in a hundred: a thousand times what a computer's clock does.
const DRIFT_MAX_PPM: u64 = 10_000;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct World {
    per_second: u32,
    /// How often each of a process's callers asks.
    asks: u32,
    /// They are many, and ask at the same moments; else two, each when it likes.
    crowds: bool,
    /// The store decides by its callers' clocks, else by its own.
    by_callers: bool,
    /// It loses what it had acknowledged when it is started again.
    forgets: bool,
}

const FROZEN_WORLD: World = World { per_second: FROZEN, asks: 50, crowds: false, by_callers: false, forgets: false };
const BY_CALLERS: World = World { per_second: 400, by_callers: true, ..FROZEN_WORLD };
/// So long, and at such a rate, that a process by itself admits far more than it may within [`LAG_MAX`].
const LONG: World = World { per_second: 500, asks: 1_200, ..FROZEN_WORLD };
/// More requests of a process at once than a batch is for.
const FROZEN_CROWDS: World = World { asks: 10, crowds: true, ..FROZEN_WORLD };
const CROWDS: World = World { per_second: 400, ..FROZEN_CROWDS };
const CROWDS_BY_CALLERS: World = World { by_callers: true, ..CROWDS };

/// What happened.
#[derive(Debug, Default)]
struct Outcome {
    told: Told,
    over: i64,
    /// By how much clocks were apart at most, microseconds.
    apart_us: i64,
    /// How often a process was started, the first time included.
    starts: u32,
    forgotten: u32,
}

fn run(seed: u64, mode: Mode, world: World) -> Outcome {
    let simulation = Simulation::new(seed);
    simulation.set_faults(FAULTY);
    let (told, mut outcome) = (Arc::new(Mutex::new(Told::default())), Outcome::default());
    let signed = |bound: u64| i64::try_from(simulation.below(bound)).unwrap() - i64::try_from(bound / 2).unwrap();
    let clocks: Vec<_> = (0..NODES)
        .map(|_| Drifting::new(simulation.clock(), signed(AHEAD_MAX_US), signed(2 * DRIFT_MAX_PPM)))
        .collect();
    let apart_us = || {
        let ahead = clocks.iter().map(Drifting::ahead_us).chain((!world.by_callers).then_some(0));
        ahead.clone().max().unwrap() - ahead.min().unwrap()
    };
    let begin = |node: u32, times: u32| {
        let clock = clocks[node as usize].clone();
        let process = fleet(mode, &simulation, Node(node), bucket(world.per_second), clock, world.by_callers, 0);
        let demand = if world.crowds { Demand::crowds(times) } else { Demand::bursts(times) };
        start(&simulation, Node(node), process, demand, &told);
    };
    for node in 0..NODES {
        begin(node, world.asks);
    }
    outcome.starts = NODES;
    outcome.apart_us = apart_us();
    for _ in 0..5 {
        simulation.run_for(Duration::from_micros(5_000 + simulation.below(60_000))).unwrap();
        let node = u32::try_from(simulation.below(u64::from(NODES))).unwrap();
        match simulation.below(4) {
            // It loses its memory: what it leased and has not used, what it admitted and has not posted.
            0 | 1 => {
                simulation.crash(Node(node));
                begin(node, world.asks * 3 / 5);
                outcome.starts += 1;
            }
            // The store is started again.
            2 => {
                simulation.set_faults(AWAY);
                simulation.run_for(Duration::from_micros(5_000 + simulation.below(40_000))).unwrap();
                simulation.set_faults(FAULTY);
                if world.forgets {
                    let key = tuple::encode(&("api", &b"ann"[..]));
                    block_on(simulation.truth().delete(Key::lone(RULES, &key))).unwrap();
                    outcome.forgotten += 1;
                }
            }
            _ => {}
        }
    }
    simulation.run_for(Duration::from_secs(6)).unwrap();
    outcome.apart_us = outcome.apart_us.max(apart_us());
    outcome.told = std::mem::take(&mut *told.lock().unwrap());
    outcome.over = outcome.told.overshoot(world.per_second);
    outcome
}

/// What is declared in `docs/ratelimit.md`, "In a fleet".
fn bound(mode: Mode, world: World, outcome: &Outcome) -> i64 {
    let refilled = |us: i64| i64::from(world.per_second) * us / 1_000_000 + 1;
    // Only by the callers' clocks states are stamped.
    let apart_us = if world.by_callers { outcome.apart_us } else { 0 };
    let held = match mode {
        Mode::Central | Mode::Sharded | Mode::TimeGoesBack => 0,
        Mode::Leased | Mode::SendsAgain | Mode::SharesNothing => i64::from(NODES * BATCH_MAX),
        Mode::LocalFirst | Mode::NeverPosts => {
            // By clocks that are too fast or too slow by a hundredth.
            let lag_us = i64::try_from(outcome.told.lag.as_micros()).unwrap() * 102 / 100;
            i64::from(outcome.starts) * (i64::from(BURST) + 2 * refilled(lag_us + apart_us))
        }
    };
    let forgotten = i64::from(outcome.forgotten) * (i64::from(BURST) + held);
    refilled(apart_us) + held + forgotten
}

#[test]
fn no_mode_admits_more_than_it_says_by_whatever_clocks() {
    for mode in [Mode::Central, Mode::Sharded, Mode::Leased, Mode::LocalFirst] {
        let (mut most, mut least_left, mut denied, mut starts, mut forgotten) = (i64::MIN, i64::MAX, 0, 0, 0);
        let mut lag = Duration::ZERO;
        for seed in seeds(80) {
            // The sharded one's states lie elsewhere.
            let forgets = seed % 2 == 1 && mode != Mode::Sharded;
            let worlds = [FROZEN_WORLD, World { by_callers: false, ..BY_CALLERS }, BY_CALLERS];
            let long = (seed % 8 == 0 && mode == Mode::LocalFirst).then_some(LONG);
            let crowds = [FROZEN_CROWDS, CROWDS, CROWDS_BY_CALLERS];
            let has_crowds = seed % 4 < 2 && matches!(mode, Mode::Leased | Mode::LocalFirst);
            let crowds = crowds.into_iter().filter(|_| has_crowds);
            for world in worlds.into_iter().chain(long).chain(crowds).map(|world| World { forgets, ..world }) {
                let outcome = run(seed, mode, world);
                // Of the leased one they wait in line.
                let is_crowd = !world.crowds || mode != Mode::Leased || outcome.told.at_once >= BATCH_MAX;
                assert!(is_crowd, "seed {seed}: {mode:?}, {world:?}: only {} at once", outcome.told.at_once);
                assert!(
                    outcome.told.lag <= LAG_MAX,
                    "seed {seed}: {mode:?}, {world:?}: nothing was posted: {outcome:?}"
                );
                let bound = bound(mode, world, &outcome);
                let over = outcome.over;
                assert!(
                    over <= bound,
                    "seed {seed}: {mode:?}, {world:?}: {over} too many, more than {bound}: {outcome:?}"
                );
                lag = lag.max(outcome.told.lag);
                (most, least_left) = (most.max(over), least_left.min(bound - over));
                (denied, starts, forgotten) =
                    (denied + outcome.told.denied, starts + outcome.starts, forgotten + outcome.forgotten);
            }
        }
        println!(
            "{mode:?}: at most {most} beyond, {least_left} below the bound; {denied} denied, {starts} starts, lag {lag:?}"
        );
        if std::env::var("SYSD_SIM_SEED").is_err() {
            assert!(denied > 1_000 && starts > 800, "{mode:?}: {denied} denied, {starts} starts");
            assert!(mode == Mode::Sharded || forgotten > 50, "{mode:?}: the store forgot {forgotten} times");
        }
    }
}

/// Where nothing comes back by time, what is admitted was taken, however often processes and the store are started again.
#[test]
fn leases_admit_nothing_that_was_not_taken_by_whatever_clocks() {
    for (world, count) in [(FROZEN_WORLD, 300), (FROZEN_CROWDS, 100)] {
        for seed in seeds(count) {
            let outcome = run(seed, Mode::Leased, world);
            assert!(outcome.told.sum() <= TAKEN_MAX, "seed {seed}, {world:?}: {}", outcome.told.sum());
        }
    }
}

/// Of what never comes back by time: a run lasts seven seconds at most.
const TAKEN_MAX: u32 = BURST + 7 * FROZEN;

/// What clocks that differ are said to cost is not said in vain.
#[test]
fn by_the_callers_clocks_more_is_admitted_than_by_one() {
    assert!((0..300).any(|seed| run(seed, Mode::Central, BY_CALLERS).over > 1), "it never was");
}

#[test]
fn broken_fleets_are_found() {
    for world in [FROZEN_WORLD, FROZEN_CROWDS] {
        let sends_again = |seed| run(seed, Mode::SendsAgain, world).told.sum() > TAKEN_MAX;
        assert!((0..2_000).any(sends_again), "nobody noticed what was given back twice: {world:?}");
    }
    let shares_nothing = |seed| {
        let outcome = run(seed, Mode::SharesNothing, FROZEN_CROWDS);
        outcome.over > bound(Mode::SharesNothing, FROZEN_CROWDS, &outcome)
    };
    assert!((0..100).any(shares_nothing), "nobody noticed that each of the crowds has a limit of its own");
    let time_goes_back = |seed| {
        let outcome = run(seed, Mode::TimeGoesBack, BY_CALLERS);
        outcome.over > bound(Mode::TimeGoesBack, BY_CALLERS, &outcome)
    };
    assert!((0..2_000).any(time_goes_back), "nobody noticed that time goes back");
}

/// By what it says of itself, and by what it admits were it to say that it posts.
#[test]
fn a_fleet_that_never_posts_is_found() {
    for seed in 0..4 {
        let mut outcome = run(seed, Mode::NeverPosts, LONG);
        assert!(outcome.told.lag > LAG_MAX, "seed {seed}: it says that it posts: {:?}", outcome.told.lag);
        outcome.told.lag = LAG_MAX;
        let bound = bound(Mode::NeverPosts, LONG, &outcome);
        assert!(outcome.over > bound, "seed {seed}: {} is no more than {bound}", outcome.over);
    }
}
