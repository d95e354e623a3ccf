//! Deliberate mistakes, each of which a run finds in itself.

use sysd_ledger::reconcile::{BadRow, Bug, Party, ReconcileError, Reconciliation, Rules, Summary, Uneven, records};

use super::support::{euro, record};

fn run_with(bug: Option<Bug>) -> Result<Summary, ReconcileError> {
    let rules = Rules { bug, ..Rules::default() };
    let run = Reconciliation { rules, ..Reconciliation::new(std::env::temp_dir()) };
    let ours = records([record("a", 5, 0), record("b", 6, 0)]);
    let bad = BadRow { row: 4, column: "amount".to_owned(), why: "it is bad".to_owned(), known: None };
    let theirs = records([record("a", 5, 0), record("a", 5, 0), record("b", 6, 0)]).chain([Ok(Err(bad))]);
    run.run(ours, theirs, &mut |_| Ok(()))
}

#[test]
fn without_a_mistake_the_totals_are_even() {
    let summary = run_with(None).unwrap();
    assert_eq!(summary.matches["exact"], 2);
    assert_eq!(summary.differences["duplicate"], 1);
    assert_eq!(summary.totals.bad_rows(Party::Theirs), 1);
    assert_eq!(summary.totals.rows, [2, 4]);
}

#[test]
fn a_duplicate_that_is_dropped_is_found() {
    let Err(ReconcileError::Uneven(Uneven::Currency { party, currency, read, told })) =
        run_with(Some(Bug::DropDuplicate))
    else {
        panic!("it is dropped")
    };
    assert_eq!((party, currency, read.rows, told.rows, read.amount - told.amount), (Party::Theirs, euro(), 3, 2, 5));
}

#[test]
fn bad_rows_that_are_passed_over_are_found() {
    let Err(ReconcileError::Uneven(found)) = run_with(Some(Bug::SkipBadRows)) else { panic!("it is passed over") };
    assert_eq!(found, Uneven::Rows { party: Party::Theirs, read: 4, told: 3 });
}

#[test]
fn a_record_that_is_matched_twice_is_found() {
    assert!(matches!(run_with(Some(Bug::MatchTwice)), Err(ReconcileError::Uneven(Uneven::Currency { .. }))));
}
