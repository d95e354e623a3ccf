//! Each pass, and each difference, on the least that shows it.

use sysd_ledger::reconcile::{Finding, Party, Pass, Record, Rules, What};

use super::support::{all_said, dollar, record, run};

fn only(ours: &[Record], theirs: &[Record]) -> Finding {
    let (mut found, _) = run(&Rules::default(), ours, theirs).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn pass(ours: &[Record], theirs: &[Record]) -> Pass {
    let Finding::Matched(found) = only(ours, theirs) else { panic!("a match") };
    found.pass
}

fn what(ours: &[Record], theirs: &[Record]) -> What {
    let Finding::Differs(found) = only(ours, theirs) else { panic!("a difference") };
    found.what
}

fn names(ours: &[Record], theirs: &[Record]) -> Vec<String> {
    let (found, _) = run(&Rules::default(), ours, theirs).unwrap();
    all_said(&found).into_iter().map(|(name, _, _)| name).collect()
}

fn with_fee(record: Record, fee: i128) -> Record {
    Record { fee, ..record }
}

fn in_batch(record: Record, batch: &str) -> Record {
    Record { batch: batch.into(), ..record }
}

#[test]
fn the_window_and_beyond() {
    let ours = [record("a", 5, 0)];
    assert_eq!(pass(&ours, &[record("a", 5, 3)]), Pass::Exact);
    assert_eq!(pass(&ours, &[record("a", 5, -4)]), Pass::Drift { days: 4 });
    assert_eq!(names(&ours, &[record("a", 5, 32)]), ["missing_here", "missing_there"]);
}

#[test]
fn fees_are_netted_on_either_side() {
    let gross = with_fee(record("a", 100, 0), 3);
    let net = record("a", 97, 1);
    let (ours, theirs) = (Party::Ours, Party::Theirs);
    assert_eq!(pass(std::slice::from_ref(&net), std::slice::from_ref(&gross)), Pass::Netted { gross: theirs, fee: 3 });
    assert_eq!(pass(&[gross], &[net]), Pass::Netted { gross: ours, fee: 3 });
    // A fee that was given back.
    assert_eq!(
        pass(&[record("a", -95, 0)], &[with_fee(record("a", -100, 0), -5)]),
        Pass::Netted { gross: theirs, fee: -5 }
    );
}

#[test]
fn lines_add_up() {
    let parts = [record("a", 60, 0), record("a", 40, 2)];
    assert_eq!(pass(&[record("a", 100, 0)], &parts), Pass::Split { sum: 100, net: None });
    assert_eq!(pass(&parts, &[record("a", 100, 0)]), Pass::Split { sum: 100, net: None });
    let net = [with_fee(record("a", 62, 0), 2), record("a", 40, 2)];
    assert_eq!(pass(&[record("a", 100, 0)], &net), Pass::Split { sum: 100, net: Some(Party::Theirs) });
    // A part adds up, beside what is not ours.
    let more = [record("a", 60, 0), record("a", 40, 2), record("a", -7, 3)];
    assert_eq!(names(&[record("a", 100, 0)], &more), ["missing_here", "split"]);
    // Two parts do.
    let more = [record("a", 60, 0), record("a", 40, 0), record("a", 30, 0), record("a", 70, 0)];
    assert_eq!(what(&[record("a", 100, 0)], &more), What::Ambiguous);
    // Of three that say the same it makes no difference which.
    let same = [record("a", 50, 0), record("a", 50, 0), record("a", 50, 0)];
    assert_eq!(names(&[record("a", 100, 0)], &same), ["duplicate", "split"]);
}

#[test]
fn too_many_lines_are_said_to_be() {
    let lines: Vec<_> = (0..13).map(|at| record("a", 1 << at, 0)).collect();
    let (_, summary) = run(&Rules::default(), &[record("a", 3, 0)], &lines).unwrap();
    assert_eq!(summary.splits_not_tried, 1);
}

#[test]
fn a_payout_is_the_sum_of_its_lines() {
    let lines = [in_batch(with_fee(record("a", 60, 0), 2), "po"), in_batch(record("b", 40, 9), "po")];
    let gross = Pass::Batch { lines: 2, sum: 100, is_net: false };
    assert_eq!(pass(&lines, &[record("po", 100, 50)]), gross);
    let net = Pass::Batch { lines: 2, sum: 98, is_net: true };
    assert_eq!(pass(&[record("po", 98, 50)], &lines), net);
    assert_eq!(names(&[record("po", 97, 50)], &lines), ["missing_here", "missing_here", "missing_there"]);
    // What has its own match is not a part of the sum.
    assert_eq!(names(&[record("po", 40, 0), record("a", 60, 0)], &lines), ["batch", "exact"]);
    // One row that is gross, one that is net: one is right, and nothing says which.
    let both = [record("po", 98, 0), record("po", 100, 0)];
    assert_eq!(what(&both, &lines), What::Ambiguous);
}

#[test]
fn a_large_batch_comes_in_parts_of_one_match() {
    let lines: Vec<_> = (0..2_500).map(|at| in_batch(record(&at.to_string(), 1, 0), "po")).collect();
    let (found, summary) = run(&Rules::default(), &lines, &[record("po", 2_500, 0)]).unwrap();
    assert_eq!((found.len(), summary.matches["batch"]), (3, 1));
    assert_eq!(summary.differences_len(), 0);
}

#[test]
fn what_differs() {
    assert_eq!(what(&[record("a", 5, 0)], &[record("a", 7, 0)]), What::AmountDiffers { by: 2 });
    let other = Record { currency: dollar(), ..record("a", 5, 0) };
    assert_eq!(what(&[record("a", 5, 0)], &[other]), What::CurrencyDiffers);
    assert_eq!(what(&[], &[record("a", 5, 0)]), What::MissingHere);
    assert_eq!(what(&[record("a", 5, 0)], &[]), What::MissingThere);
    assert_eq!(names(&[record("a", 5, 0)], &[record("a", 5, 0), record("a", 5, 1)]), ["duplicate", "exact"]);
    assert_eq!(names(&[record("a", 5, 0), record("a", 5, 0)], &[]), ["duplicate", "missing_there"]);
    // Which of the two is it?
    assert_eq!(what(&[record("a", 5, 0), record("a", 6, 0)], &[record("a", 7, 0)]), What::Ambiguous);
    // Of two kinds, one is the extra one, and nothing says which.
    let kinds = [record("a", -5, 0), Record { kind: "chargeback".into(), ..record("a", -5, 0) }];
    assert_eq!(what(&[record("a", -5, 0)], &kinds), What::Ambiguous);
}
