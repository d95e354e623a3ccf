#![allow(clippy::unwrap_used)]
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros_saturating(1_000_000 + micros)
}

const CONFIG: BreakerConfig = BreakerConfig {
    window: Duration::from_micros(100),
    calls_min: 4,
    failures_percent: 50,
    open_for: Duration::from_micros(50),
    probes: 2,
};

fn opened_at(micros: u64) -> Circuit {
    let mut circuit = Circuit::new(CONFIG);
    for _ in 0..4 {
        let ticket = circuit.admit(at(micros)).unwrap();
        circuit.settle(at(micros), ticket, Verdict::Failed);
    }
    circuit
}

#[test]
fn opens_probes_and_closes() {
    let mut circuit = opened_at(0);
    assert!(!circuit.is_closed());
    assert_eq!(circuit.admit(at(49)), None);
    let (first, second) = (circuit.admit(at(50)).unwrap(), circuit.admit(at(50)).unwrap());
    assert_eq!(circuit.admit(at(50)), None, "two probes");
    circuit.settle(at(51), first, Verdict::Well);
    assert_eq!(circuit.admit(at(51)), None, "a probe that succeeded is not made again");
    circuit.settle(at(51), second, Verdict::Well);
    assert!(circuit.is_closed() && circuit.admit(at(51)).is_some());
}

#[test]
fn a_probe_that_fails_opens_it_again_and_one_that_was_dropped_is_made_again() {
    let mut circuit = opened_at(0);
    let (first, second) = (circuit.admit(at(50)).unwrap(), circuit.admit(at(50)).unwrap());
    circuit.settle(at(51), first, Verdict::Unknown);
    assert!(circuit.admit(at(51)).is_some() && circuit.admit(at(51)).is_none());
    circuit.settle(at(60), second, Verdict::Failed);
    assert_eq!(circuit.admit(at(109)), None);
    assert!(circuit.admit(at(110)).is_some());
}

#[test]
fn what_was_let_through_before_a_change_shows_nothing() {
    let mut circuit = Circuit::new(CONFIG);
    let early = circuit.admit(at(0)).unwrap();
    for _ in 0..4 {
        let ticket = circuit.admit(at(0)).unwrap();
        circuit.settle(at(0), ticket, Verdict::Failed);
    }
    let probe = circuit.admit(at(50)).unwrap();
    circuit.settle(at(51), early, Verdict::Failed);
    circuit.settle(at(51), early, Verdict::Well);
    circuit.settle(at(51), probe, Verdict::Well);
    assert!(!circuit.is_closed(), "one of two probes");
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_it_open() {
    let mut circuit = opened_at(1_000_000);
    assert!(circuit.admit(at(0)).is_some());
}

/// The rule said plainly: of the calls in the last ten tenths, so many failed.
fn opens(history: &[(u64, bool)]) -> bool {
    let Some(&(now, failed)) = history.last() else { return false };
    let tenth = |micros: u64| at(micros).as_micros() / 10;
    let counted: Vec<_> = history.iter().filter(|(then, _)| tenth(*then) + 10 > tenth(now)).collect();
    let failures = counted.iter().filter(|(_, failed)| *failed).count();
    failed && counted.len() >= 4 && failures * 2 >= counted.len()
}

proptest! {
    #[test]
    fn opens_exactly_when_the_rule_says(calls in prop::collection::vec((0..40_u64, any::<bool>()), 1..60)) {
        let mut circuit = Circuit::new(CONFIG);
        let (mut now, mut history) = (0, Vec::new());
        for (elapsed, failed) in calls {
            now += elapsed;
            history.push((now, failed));
            let ticket = circuit.admit(at(now)).unwrap();
            circuit.settle(at(now), ticket, if failed { Verdict::Failed } else { Verdict::Well });
            prop_assert_eq!(!circuit.is_closed(), opens(&history));
            if !circuit.is_closed() {
                return Ok(());
            }
        }
    }

    /// Whatever happened, with calls ended in any order or dropped: it is never stuck, and never lets too many probe.
    #[test]
    fn always_recovers(steps in prop::collection::vec((0..4_u8, 0..30_u64, 0..5_usize), 0..200)) {
        let mut circuit = Circuit::new(CONFIG);
        let (mut now, mut under_way) = (0, Vec::new());
        for (what, elapsed, which) in steps {
            now += elapsed;
            if what == 0 {
                under_way.extend(circuit.admit(at(now)));
            } else if !under_way.is_empty() {
                let verdict = [Verdict::Well, Verdict::Failed, Verdict::Unknown][usize::from(what) - 1];
                let ticket = under_way.remove(which % under_way.len());
                circuit.settle(at(now), ticket, verdict);
            }
            if let State::HalfOpen { under_way, succeeded } = circuit.state {
                prop_assert!(under_way + succeeded <= CONFIG.probes && succeeded < CONFIG.probes);
            }
        }
        for ticket in under_way {
            circuit.settle(at(now), ticket, Verdict::Unknown);
        }
        now += 50;
        for _ in 0..CONFIG.probes {
            let ticket = circuit.admit(at(now));
            prop_assert!(ticket.is_some());
            circuit.settle(at(now), ticket.unwrap(), Verdict::Well);
        }
        prop_assert!(circuit.is_closed());
    }
}
