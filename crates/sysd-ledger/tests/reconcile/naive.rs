//! A second implementation of the rules within one reference, without the search for parts that add up: it looks at all pairs, over
//! and over, and keeps no order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sysd_ledger::reconcile::{Record, Rules};

use super::support::{all_said, rules, run, some_records};

type Said = (String, Vec<Record>, Vec<Record>);

struct Naive {
    ours: Vec<Record>,
    theirs: Vec<Record>,
    said: Vec<Said>,
    /// What was settled: reference, currency and amount, of ours or theirs.
    settled: BTreeSet<(bool, Record)>,
}

fn bare(record: &Record) -> Record {
    Record::new(&record.reference, record.currency, record.amount, sysd_ledger::Date(0), 0)
}

fn remove(from: &mut Vec<Record>, record: &Record) {
    let at = from.iter().position(|other| other == record).unwrap();
    from.remove(at);
}

impl Naive {
    fn say(&mut self, name: &str, mut ours: Vec<Record>, mut theirs: Vec<Record>) {
        ours.sort();
        theirs.sort();
        for (is_ours, records) in [(true, &ours), (false, &theirs)] {
            for record in records {
                remove(if is_ours { &mut self.ours } else { &mut self.theirs }, record);
                self.settled.insert((is_ours, bare(record)));
            }
        }
        self.said.push((name.to_owned(), ours, theirs));
    }

    /// Everything that hangs together with one pair: all records that can be reached by pairs.
    fn part(&self, can_pair: &dyn Fn(&Record, &Record) -> bool) -> Option<(Vec<usize>, Vec<usize>)> {
        let can = |o: usize, t: usize| can_pair(&self.ours[o], &self.theirs[t]);
        let (o, t) = (0..self.ours.len())
            .flat_map(|o| (0..self.theirs.len()).map(move |t| (o, t)))
            .find(|(o, t)| can(*o, *t))?;
        let (mut ours, mut theirs) = (vec![o], vec![t]);
        for _ in 0..self.ours.len() + self.theirs.len() {
            let more: Vec<_> = (0..self.ours.len()).filter(|o| theirs.iter().any(|t| can(*o, *t))).collect();
            ours = more;
            theirs = (0..self.theirs.len()).filter(|t| ours.iter().any(|o| can(*o, *t))).collect();
        }
        Some((ours, theirs))
    }

    fn same(&mut self, days: u32, is_drift: bool) {
        let keys: BTreeSet<Record> = self.ours.iter().map(bare).collect();
        for key in keys {
            let of = |records: &[Record]| records.iter().filter(|r| bare(r) == key).cloned().collect::<Vec<_>>();
            let (mut ours, mut theirs) = (of(&self.ours), of(&self.theirs));
            ours.sort();
            theirs.sort();
            let near = |a: &Record, b: &Record| a.day.0.abs_diff(b.day.0) <= days;
            let near_ours: Vec<_> = ours.iter().filter(|o| theirs.iter().any(|t| near(o, t))).cloned().collect();
            let near_theirs: Vec<_> = theirs.iter().filter(|t| ours.iter().any(|o| near(o, t))).cloned().collect();
            // The first of theirs that is near and free, for each of ours in order.
            let (mut pairs, mut free) = (Vec::new(), theirs.clone());
            for o in &ours {
                if let Some(at) = free.iter().position(|t| near(o, t)) {
                    pairs.push((o.clone(), free.remove(at)));
                }
            }
            let differ = |records: &[Record]| {
                records.len() > pairs.len()
                    && records.iter().any(|r| if is_drift { *r != records[0] } else { r.kind != records[0].kind })
            };
            if differ(&near_ours) || differ(&near_theirs) {
                self.say("ambiguous", near_ours, near_theirs);
                continue;
            }
            for (o, t) in pairs {
                self.say(if is_drift { "drift" } else { "exact" }, vec![o], vec![t]);
            }
        }
    }

    fn netted(&mut self, days: u32) {
        let can_pair = |o: &Record, t: &Record| {
            o.reference == t.reference
                && o.currency == t.currency
                && o.day.0.abs_diff(t.day.0) <= days
                && (t.fee != 0 && t.amount - t.fee == o.amount || o.fee != 0 && o.amount - o.fee == t.amount)
        };
        // What was left over of a part of alike ones hangs together with nothing any more.
        while let Some((ours, theirs)) = self.part(&can_pair) {
            let ours: Vec<_> = ours.iter().map(|o| self.ours[*o].clone()).collect();
            let theirs: Vec<_> = theirs.iter().map(|t| self.theirs[*t].clone()).collect();
            if ours.iter().all(|o| *o == ours[0]) && theirs.iter().all(|t| *t == theirs[0]) {
                for (o, t) in ours.into_iter().zip(theirs) {
                    self.say("netted", vec![o], vec![t]);
                }
            } else {
                self.say("ambiguous", ours, theirs);
            }
        }
    }

    fn differences(&mut self) {
        for is_ours in [true, false] {
            let mut all = if is_ours { self.ours.clone() } else { self.theirs.clone() };
            all.sort();
            for record in all {
                if !self.settled.insert((is_ours, bare(&record))) {
                    let (ours, theirs) = if is_ours { (vec![record], vec![]) } else { (vec![], vec![record]) };
                    self.say("duplicate", ours, theirs);
                }
            }
        }
        // The same amount on both sides is too far apart.
        let far = |one: &[Record], other: &[Record]| -> Vec<Record> {
            one.iter().filter(|r| other.iter().any(|o| bare(o) == bare(r))).cloned().collect()
        };
        let (far_ours, far_theirs) = (far(&self.ours, &self.theirs), far(&self.theirs, &self.ours));
        for record in far_ours {
            self.say("missing_there", vec![record], vec![]);
        }
        for record in far_theirs {
            self.say("missing_here", vec![], vec![record]);
        }
        for is_currency in [false, true] {
            let can_pair = |o: &Record, t: &Record| is_currency || o.currency == t.currency;
            while let Some((ours, theirs)) = self.part(&can_pair) {
                let ours: Vec<_> = ours.iter().map(|o| self.ours[*o].clone()).collect();
                let theirs: Vec<_> = theirs.iter().map(|t| self.theirs[*t].clone()).collect();
                let name = match (ours.len(), theirs.len(), is_currency) {
                    (1, 1, false) => "amount_differs",
                    (1, 1, true) => "currency_differs",
                    _ => "ambiguous",
                };
                self.say(name, ours, theirs);
            }
        }
        for record in self.ours.clone() {
            self.say("missing_there", vec![record], vec![]);
        }
        for record in self.theirs.clone() {
            self.say("missing_here", vec![], vec![record]);
        }
    }
}

fn naive(rules: &Rules, ours: &[Record], theirs: &[Record]) -> Vec<Said> {
    let references: BTreeSet<_> = ours.iter().chain(theirs).map(|record| record.reference.clone()).collect();
    let mut said = Vec::new();
    for reference in references {
        let of = |records: &[Record]| records.iter().filter(|r| r.reference == reference).cloned().collect();
        let (ours, theirs) = (of(ours), of(theirs));
        let mut naive = Naive { ours, theirs, said: Vec::new(), settled: BTreeSet::new() };
        if reference.is_empty() {
            for record in naive.ours.clone() {
                naive.say("missing_there", vec![record], vec![]);
            }
            for record in naive.theirs.clone() {
                naive.say("missing_here", vec![], vec![record]);
            }
        } else {
            naive.same(rules.window_days, false);
            naive.same(rules.drift_days, true);
            if rules.netted {
                naive.netted(rules.drift_days);
            }
            naive.differences();
        }
        said.append(&mut naive.said);
    }
    said.sort();
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn both_say_the_same(ours in some_records(), theirs in some_records(), netted in any::<bool>()) {
        let rules = rules(netted, false, false);
        let (found, _) = run(&rules, &ours, &theirs).unwrap();
        prop_assert_eq!(all_said(&found), naive(&rules, &ours, &theirs));
    }

    /// More records of a reference than are looked at at once: what is exactly the same is found all the same.
    #[test]
    fn overlong_references_are_matched_where_they_are_the_same(ours in some_records(), theirs in some_records()) {
        let mut rules = rules(false, false, false);
        rules.drift_days = rules.window_days;
        let plain = |records: &[Record]| -> Vec<Record> {
            records.iter().map(|record| Record { kind: "".into(), ..record.clone() }).collect()
        };
        let (ours, theirs) = (plain(&ours), plain(&theirs));
        let exact = |said: Vec<Said>| said.into_iter().filter(|(name, _, _)| name == "exact").collect::<Vec<_>>();
        let expected = exact(naive(&rules, &ours, &theirs));
        rules.group_max = 2;
        let (found, summary) = run(&rules, &ours, &theirs).unwrap();
        prop_assert_eq!(exact(all_said(&found)), expected);
        let of = |records: &[Record], reference: &str| records.iter().filter(|r| &*r.reference == reference).count();
        let long = ["a", "b", "po"].iter().filter(|it| of(&ours, it) + of(&theirs, it) > 2).count() as u64;
        prop_assert_eq!(summary.references_too_long, long);
    }
}
