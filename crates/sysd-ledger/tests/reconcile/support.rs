//! Small records, and running on them.

use proptest::prelude::*;
use sysd_ledger::reconcile::{
    Difference, Finding, Match, Party, ReconcileError, Reconciliation, Record, Rules, Summary, records,
};
use sysd_ledger::{Currency, Date};

pub(crate) fn euro() -> Currency {
    Currency::iso("EUR").unwrap()
}

pub(crate) fn dollar() -> Currency {
    Currency::iso("USD").unwrap()
}

/// A record in euros.
pub(crate) fn record(reference: &str, amount: i128, day: i32) -> Record {
    Record::new(reference, euro(), amount, Date(day), 0)
}

pub(crate) fn run(
    rules: &Rules,
    ours: &[Record],
    theirs: &[Record],
) -> Result<(Vec<Finding>, Summary), ReconcileError> {
    let run = Reconciliation { rules: rules.clone(), memory_max: 1 << 20, ..Reconciliation::new(std::env::temp_dir()) };
    let mut found = Vec::new();
    let summary = run.run(records(ours.to_vec()), records(theirs.to_vec()), &mut |finding| {
        found.push(finding);
        Ok(())
    })?;
    Ok((found, summary))
}

/// What a finding says, without rows: the same for the same records in any order.
pub(crate) fn said(finding: &Finding) -> (String, Vec<Record>, Vec<Record>) {
    let plain = |records: &[Record]| {
        let mut plain: Vec<_> = records.iter().map(|record| Record { row: 0, ..record.clone() }).collect();
        plain.sort();
        plain
    };
    let (name, ours, theirs) = match finding {
        Finding::Matched(Match { pass, ours, theirs, .. }) => (pass.name(), ours, theirs),
        Finding::Differs(Difference { what, ours, theirs, .. }) => (what.name(), ours, theirs),
    };
    (name.to_owned(), plain(ours), plain(theirs))
}

pub(crate) fn all_said(findings: &[Finding]) -> Vec<(String, Vec<Record>, Vec<Record>)> {
    let mut all: Vec<_> = findings.iter().map(said).collect();
    all.sort();
    all
}

/// All records of one side in findings, in order.
pub(crate) fn told_of(findings: &[Finding], party: Party) -> Vec<Record> {
    let mut all: Vec<_> = findings
        .iter()
        .flat_map(|finding| match (finding, party) {
            (Finding::Matched(found), Party::Ours) => &found.ours,
            (Finding::Matched(found), Party::Theirs) => &found.theirs,
            (Finding::Differs(found), Party::Ours) => &found.ours,
            (Finding::Differs(found), Party::Theirs) => &found.theirs,
        })
        .cloned()
        .collect();
    all.sort();
    all
}

/// The rules with the second passes that are wanted.
pub(crate) fn rules(netted: bool, split: bool, batches: bool) -> Rules {
    let mut rules = Rules::default();
    (rules.netted, rules.split, rules.batches) = (netted, split, batches);
    rules
}

prop_compose! {
    /// Records that are likely to have to do with one another.
    pub(crate) fn a_record()(
        reference in prop_oneof![5 => Just("a"), 3 => Just("b"), 1 => Just("po"), 1 => Just("")],
        is_euro in prop::bool::weighted(0.8),
        amount in -3..9_i128,
        day in prop_oneof![4 => 0..4_i32, 1 => 0..80_i32],
        fee in prop_oneof![3 => Just(0_i128), 1 => -1..3_i128],
        kind in prop_oneof![4 => Just(""), 1 => Just("refund")],
        batch in prop_oneof![4 => Just(""), 2 => Just("po")],
    ) -> Record {
        let currency = if is_euro { euro() } else { dollar() };
        let record = Record::new(reference, currency, amount, Date(day), 0);
        Record { fee, kind: kind.into(), batch: batch.into(), ..record }
    }
}

pub(crate) fn some_records() -> impl Strategy<Value = Vec<Record>> {
    proptest::collection::vec(a_record(), 0..8)
}
