//! The replica, simulated: many seeds, deliberate bugs, and the two exhaustive sweeps.
//!
//! `SYSD_SIM_SEEDS=1000000` runs more seeds, `SYSD_SIM_SEED=7` only that one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod record;
mod scenario;
mod sweeps;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sysd_storage::log::Bug;

const SEEDS: u64 = 10_000;
const BUG_SEEDS: u64 = 5_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// Runs seeds on two threads; the least that failed of those that ran before the first failure stopped all.
fn first_failure(seeds: Range<u64>, bug: Option<Bug>) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while failures.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let run = std::panic::catch_unwind(|| scenario::run(seed, bug));
                    match run {
                        Ok(Ok(_)) => {}
                        Ok(Err(what)) => failures.lock().unwrap().push((seed, what)),
                        Err(_) => failures.lock().unwrap().push((seed, "it panicked".to_owned())),
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap().into_iter().min()
}

#[test]
fn one_history_whatever_happens() {
    let seeds = match from_environment("SYSD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("SYSD_SIM_SEEDS").unwrap_or(SEEDS),
    };
    if let Some((seed, what)) = first_failure(seeds, None) {
        panic!(
            "seed {seed}: {what}\nagain: SYSD_SIM_SEED={seed} cargo test -p sysd-testkit --test replica one_history"
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..50 {
        assert_eq!(scenario::run(seed, None), scenario::run(seed, None), "seed {seed}");
    }
    assert_ne!(scenario::run(1, None), scenario::run(2, None));
}

#[track_caller]
fn is_caught(bug: Bug) {
    let caught = first_failure(0..BUG_SEEDS, Some(bug));
    let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} went unseen for {BUG_SEEDS} seeds"));
    println!("{bug:?} is caught by seed {seed}: {what}");
}

#[test]
fn skipping_the_condition_is_caught() {
    is_caught(Bug::SkipCondition);
}

#[test]
fn forgetting_the_nonce_is_caught() {
    is_caught(Bug::ForgetNonce);
}

#[test]
fn applying_before_the_append_is_caught() {
    is_caught(Bug::ApplyBeforeAppend);
}

#[test]
fn forgetting_the_fence_is_caught() {
    is_caught(Bug::ForgetFence);
}

#[test]
fn forgetting_an_unsettled_append_is_caught() {
    is_caught(Bug::ForgetUnsettled);
}

#[test]
fn sending_what_was_given_up_is_caught() {
    is_caught(Bug::KeepExpired);
}

#[test]
fn forgetting_the_time_of_the_log_is_caught() {
    is_caught(Bug::ForgetLogTime);
}

#[test]
fn naming_a_snapshot_before_it_is_written_is_caught() {
    is_caught(Bug::ManifestFirst);
}

#[test]
fn reading_without_a_look_at_the_store_is_caught() {
    is_caught(Bug::ReadUnconfirmed);
}

#[test]
fn hanging_after_attempts_without_an_answer_is_caught() {
    is_caught(Bug::HangUnsettled);
}
