//! What simulations of protocols share: seeds on two threads, and the environment.
#![allow(dead_code, reason = "each test uses its part")]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// Runs seeds on two threads; the least that failed of those that ran before the first failure stopped all.
pub(crate) fn first_failure(
    seeds: Range<u64>,
    run: impl Fn(u64) -> Result<u64, String> + Sync + std::panic::RefUnwindSafe,
) -> Option<(u64, String)> {
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
                    match std::panic::catch_unwind(|| run(seed)) {
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

/// Runs the seeds that the environment asks for, or `seeds`; panics with the command that replays the first failure.
#[track_caller]
pub(crate) fn survives(
    test: &str,
    name: &str,
    seeds: u64,
    run: impl Fn(u64) -> Result<u64, String> + Sync + std::panic::RefUnwindSafe,
) {
    let seeds = match from_environment("SYSD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("SYSD_SIM_SEEDS").unwrap_or(seeds),
    };
    if let Some((seed, what)) = first_failure(seeds, run) {
        panic!("seed {seed}: {what}\nagain: SYSD_SIM_SEED={seed} cargo test -p sysd-testkit --test {test} {name}");
    }
}

/// Panics if a deliberate bug goes unseen.
#[track_caller]
pub(crate) fn is_caught(
    bug: impl std::fmt::Debug,
    seeds: u64,
    run: impl Fn(u64) -> Result<u64, String> + Sync + std::panic::RefUnwindSafe,
) {
    let caught = first_failure(0..seeds, run);
    let (seed, what) = caught.unwrap_or_else(|| panic!("{bug:?} went unseen for {seeds} seeds"));
    println!("{bug:?} is caught by seed {seed}: {what}");
}
