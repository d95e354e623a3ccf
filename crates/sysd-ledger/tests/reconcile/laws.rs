//! What is true of every run, with all passes.

use proptest::prelude::*;
use sysd_ledger::reconcile::{Finding, Match, Party, Pass, Record, Rules, Summary, What};

use super::support::{all_said, record, rules, run, some_records, told_of};

fn numbered(records: &[Record]) -> Vec<Record> {
    let mut all: Vec<_> = (1..).zip(records).map(|(row, record)| Record { row, ..record.clone() }).collect();
    all.sort();
    all
}

fn sum(records: &[Record], is_net: bool) -> i128 {
    records.iter().map(|record| record.amount - if is_net { record.fee } else { 0 }).sum()
}

/// Whether a match is what its pass says it is.
fn holds(rules: &Rules, Match { pass, ours, theirs, .. }: &Match) -> bool {
    let all = || ours.iter().chain(theirs);
    let days = || all().map(|record| record.day.0);
    let apart = days().max().unwrap().abs_diff(days().min().unwrap());
    let is_one = all().all(|record| record.reference == ours[0].reference && record.currency == ours[0].currency);
    let pair = || match (ours.as_slice(), theirs.as_slice()) {
        ([o], [t]) => (o.clone(), t.clone()),
        _ => panic!("a pair"),
    };
    match pass {
        Pass::Exact => pair().0.amount == pair().1.amount && is_one && apart <= rules.window_days,
        Pass::Drift { days } => {
            let is_far = apart > rules.window_days && apart <= rules.drift_days;
            pair().0.amount == pair().1.amount && is_one && apart == *days && is_far
        }
        Pass::Netted { gross, fee } => {
            let (o, t) = pair();
            let (gross, net) = if *gross == Party::Ours { (o, t) } else { (t, o) };
            *fee != 0 && gross.fee == *fee && gross.amount - fee == net.amount && is_one && apart <= rules.drift_days
        }
        Pass::Split { sum: of, net } => {
            let ours_sum = sum(ours, *net == Some(Party::Ours));
            let theirs_sum = sum(theirs, *net == Some(Party::Theirs));
            let is_more = ours.len() + theirs.len() >= 3;
            ours_sum == *of && theirs_sum == *of && is_more && is_one && apart <= rules.drift_days
        }
        Pass::Batch { lines, sum: of, is_net } => {
            let (single, members) =
                if &*ours[0].batch == "po" && &*ours[0].reference != "po" { (theirs, ours) } else { (ours, theirs) };
            single.len() == 1
                && single[0].amount == *of
                && &*single[0].reference == "po"
                && members.iter().all(|r| r.batch == single[0].reference && r.currency == single[0].currency)
                && members.len() as u64 == *lines
                && sum(members, *is_net) == *of
        }
        _ => false,
    }
}

fn checked(rules: &Rules, ours: &[Record], theirs: &[Record], found: &[Finding], summary: &Summary) {
    assert_eq!(told_of(found, Party::Ours), numbered(ours));
    assert_eq!(told_of(found, Party::Theirs), numbered(theirs));
    summary.totals.check().unwrap();
    for finding in found {
        match finding {
            Finding::Matched(found) => assert!(holds(rules, found), "{found:?}"),
            Finding::Differs(found) => {
                let (ours, theirs) = (found.ours.len(), found.theirs.len());
                let is_right = match found.what {
                    What::AmountDiffers { by } => {
                        by == found.theirs[0].amount - found.ours[0].amount && (ours, theirs) == (1, 1)
                    }
                    What::CurrencyDiffers => {
                        found.ours[0].currency != found.theirs[0].currency && (ours, theirs) == (1, 1)
                    }
                    What::MissingHere => (ours, theirs) == (0, 1),
                    What::MissingThere => (ours, theirs) == (1, 0),
                    What::Duplicate { party, .. } => ((ours, theirs) == (1, 0)) == (party == Party::Ours),
                    What::Ambiguous => !found.candidates.is_empty() && ours + theirs >= 3,
                    _ => false,
                };
                assert!(is_right, "{found:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn every_record_is_told_of_once_and_every_match_is_what_it_says(ours in some_records(), theirs in some_records()) {
        let rules = rules(true, true, true);
        let (found, summary) = run(&rules, &ours, &theirs).unwrap();
        checked(&rules, &ours, &theirs, &found, &summary);
    }

    #[test]
    fn the_order_of_rows_makes_no_difference(
        (ours, shuffled) in some_records().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        (theirs, their_shuffled) in some_records().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        let rules = rules(true, true, true);
        let (found, summary) = run(&rules, &ours, &theirs).unwrap();
        let (again, other) = run(&rules, &shuffled, &their_shuffled).unwrap();
        prop_assert_eq!(all_said(&found), all_said(&again));
        prop_assert_eq!(summary.totals, other.totals);
    }

    /// What is one record here and the only lines there that add up to it is found, among lines that have nothing to do with it.
    #[test]
    fn the_only_way_to_add_up_is_found(
        parts in proptest::collection::vec(1..1_000_i128, 2..5),
        others in proptest::collection::vec(1..1_000_i128, 0..4),
        is_ours in any::<bool>(),
    ) {
        let whole = parts.iter().sum::<i128>();
        let lines: Vec<_> = parts.iter().chain(&others).map(|amount| record("a", *amount, 0)).collect();
        let ways = (0..1_u32 << lines.len()).filter(|mask| {
            let chosen = lines.iter().enumerate().filter(|(at, _)| mask & 1 << at != 0);
            mask.count_ones() >= 2 && chosen.map(|(_, line)| line.amount).sum::<i128>() == whole
        });
        let amounts: std::collections::BTreeSet<_> = lines.iter().map(|line| line.amount).collect();
        prop_assume!(ways.count() == 1 && amounts.len() == lines.len() && !amounts.contains(&whole));
        let one = vec![record("a", whole, 0)];
        let (ours, theirs) = if is_ours { (one, lines) } else { (lines, one) };
        let (found, _) = run(&Rules::default(), &ours, &theirs).unwrap();
        let split = found.iter().find_map(|finding| match finding {
            Finding::Matched(found) if found.pass.name() == "split" => Some(found),
            _ => None,
        });
        let split = split.unwrap();
        prop_assert_eq!(split.ours.len() + split.theirs.len(), parts.len() + 1);
    }
}
