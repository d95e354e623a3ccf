//! The conformance suite of buses can fail: every mutant is rejected by the clause that it breaks, and the bus without a fault
//! passes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use sysd_core::Result;
use sysd_core::bus::BusLimits;
use sysd_storage::bus::BusDriver;
use sysd_testkit::conformance::bus::{Clause, Harness, clauses};
use sysd_testkit::mutant::{BUS_FAULTS, BusFault, BusMutant};

struct Faulty(Option<BusFault>);

impl Harness for Faulty {
    type Bus = BusMutant;

    async fn connect_twice(&self, limits: BusLimits) -> Result<([BusMutant; 2], BusDriver)> {
        let bus = BusMutant::new(self.0, limits);
        Ok(([bus.clone(), bus], Box::pin(std::future::pending())))
    }
}

#[test]
fn the_bus_without_a_fault_passes() {
    for clause in clauses() {
        if let Err(failure) = clause.check(&Faulty(None)) {
            panic!("{clause:?} rejects a bus that is right: {failure}");
        }
    }
}

fn clause_of(fault: &BusFault) -> &'static Clause {
    clauses().iter().find(|clause| clause.id == fault.clause).expect("a fault names a clause")
}

#[test]
fn every_mutant_is_rejected_by_its_clause() {
    // Some are found only by a wait in vain.
    let checks =
        BUS_FAULTS.iter().map(|fault| (fault, std::thread::spawn(|| clause_of(fault).check(&Faulty(Some(*fault))))));
    let checks: Vec<_> = checks.collect();
    let unseen: Vec<_> = checks
        .into_iter()
        .filter_map(|(fault, check)| match check.join().unwrap() {
            Ok(()) => Some(format!("{} by {:?}", fault.name(), clause_of(fault))),
            Err(failure) => {
                println!("{}: {failure}", fault.name());
                None
            }
        })
        .collect();
    assert!(unseen.is_empty(), "not rejected: {unseen:#?}");
}

#[test]
fn every_clause_has_a_mutant() {
    let covered: BTreeSet<_> = BUS_FAULTS.iter().map(|fault| fault.clause).collect();
    let all: BTreeSet<_> = clauses().iter().map(|clause| clause.id).collect();
    assert_eq!(covered, all);
}
