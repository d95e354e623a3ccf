//! The queue, simulated: many seeds, deliberate bugs, and the two exhaustive sweeps.
//!
//! `SYSD_SIM_SEEDS=1000000` runs more seeds, `SYSD_SIM_SEED=7` only that one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod record;
mod scenario;
#[path = "../support/mod.rs"]
mod support;
mod sweeps;

use sysd_storage::queue::Bug;

const SEEDS: u64 = 1_000;
const BUG_SEEDS: u64 = 4_000;

#[test]
fn no_job_is_lost_whatever_happens() {
    support::survives("queue", "no_job_is_lost", SEEDS, |seed| scenario::run(seed, None));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(scenario::run(seed, None), scenario::run(seed, None), "seed {seed}");
    }
}

#[track_caller]
fn is_caught(bug: Bug) {
    support::is_caught(bug, BUG_SEEDS, |seed| scenario::run(seed, Some(bug)));
}

#[test]
fn an_ack_without_a_look_at_the_token_is_caught() {
    is_caught(Bug::AckAnyToken);
}

#[test]
fn leasing_without_the_condition_is_caught() {
    is_caught(Bug::LeaseAnyway);
}

#[test]
fn deleting_before_the_dead_letter_is_there_is_caught() {
    is_caught(Bug::DeleteFirst);
}

#[test]
fn a_dead_letter_before_its_mark_is_caught() {
    is_caught(Bug::GraveFirst);
}

#[test]
fn moving_a_row_without_its_mark_is_caught() {
    is_caught(Bug::LeaveMark);
}

#[test]
fn handing_out_rows_that_their_marks_do_not_name_is_caught() {
    is_caught(Bug::AnyRow);
}

#[test]
fn forgetting_what_was_replayed_is_caught() {
    is_caught(Bug::ForgetReplay);
}

#[test]
fn forgetting_a_settlement_before_it_is_carried_out_is_caught() {
    is_caught(Bug::DropUnsettled);
}

#[test]
fn keeping_a_scan_that_is_too_old_is_caught() {
    is_caught(Bug::KeepScan);
}

#[test]
fn forgetting_the_marks_is_caught() {
    is_caught(Bug::ForgetMark);
}

#[test]
fn forgetting_what_comes_late_is_caught() {
    is_caught(Bug::ForgetLate);
}
