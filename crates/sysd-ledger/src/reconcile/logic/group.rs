//! The records of one reference.

use std::collections::BTreeMap;

use super::{Counts, Out, Step, at, days_apart};
use crate::model::Currency;
use crate::reconcile::model::{Candidate, Difference, Finding, Match, Party, Pass, Record, Records, Rules, What};

const PARTIES: [Party; 2] = [Party::Ours, Party::Theirs];

/// What makes two records of one reference the same movement.
type Key = (Currency, i128);

/// All records of one reference, those of each side in order; `None` where it is settled what became of one.
pub(super) struct Group<'a> {
    pub(super) rules: &'a Rules,
    pub(super) counts: &'a mut Counts,
    sides: [Vec<Option<Record>>; 2],
    /// What was settled, with a row of it: one more of the same is a duplicate.
    settled: [BTreeMap<Key, u64>; 2],
}

/// Places on both sides.
pub(super) type Places = [Vec<usize>; 2];

impl<'a> Group<'a> {
    pub(super) fn new(rules: &'a Rules, counts: &'a mut Counts, ours: Vec<Record>, theirs: Vec<Record>) -> Self {
        let some = |records: Vec<Record>| records.into_iter().map(Some).collect();
        Self { rules, counts, sides: [some(ours), some(theirs)], settled: [BTreeMap::new(), BTreeMap::new()] }
    }

    /// Settles all of it: every record goes out once.
    pub(super) fn settle<E>(mut self, out: Out<'_, E>) -> Result<(), E> {
        self.same_amounts(self.rules.window_days, false, out)?;
        if self.is_open() {
            self.same_amounts(self.rules.drift_days, true, out)?;
        }
        if self.rules.netted && self.is_open() {
            self.netted(out)?;
        }
        if self.rules.split && self.is_open() {
            self.split(out)?;
        }
        self.differences(out)
    }

    pub(super) fn get(&self, party: Party, place: usize) -> Option<&Record> {
        self.sides[at(party)].get(place)?.as_ref()
    }

    /// The places of what is not settled.
    pub(super) fn free(&self, party: Party) -> Vec<usize> {
        let places = self.sides[at(party)].iter().enumerate();
        places.filter(|(_, record)| record.is_some()).map(|(place, _)| place).collect()
    }

    /// Whether both sides have something that is not settled.
    fn is_open(&self) -> bool {
        self.sides.iter().all(|side| side.iter().any(Option::is_some))
    }

    fn take(&mut self, party: Party, places: &[usize]) -> Records {
        let mut taken = Records::new();
        for place in places {
            if let Some(record) = self.sides[at(party)].get_mut(*place).and_then(Option::take) {
                self.settled[at(party)].entry(record.key()).or_insert(record.row);
                taken.push(record);
            }
        }
        taken
    }

    pub(super) fn matched<E>(&mut self, pass: Pass, [ours, theirs]: &Places, out: Out<'_, E>) -> Result<(), E> {
        self.counts.matches += 1;
        let number = self.counts.matches;
        let (ours, theirs) = (self.take(Party::Ours, ours), self.take(Party::Theirs, theirs));
        #[cfg(feature = "seeded-bugs")]
        if self.rules.has(crate::reconcile::Bug::MatchTwice) {
            let (ours, theirs) = (ours.clone(), Records::new());
            out(Step::Found(Finding::Matched(Match { number, pass: pass.clone(), ours, theirs })))?;
        }
        out(Step::Found(Finding::Matched(Match { number, pass, ours, theirs })))
    }

    /// The ways are places; rows go out.
    pub(super) fn ambiguous<E>(&mut self, ways: &[Places], out: Out<'_, E>) -> Result<(), E> {
        let rows = |party: Party, places: &[usize]| {
            places.iter().filter_map(|place| self.get(party, *place)).map(|record| record.row).collect()
        };
        let candidate =
            |[ours, theirs]: &Places| Candidate { ours: rows(Party::Ours, ours), theirs: rows(Party::Theirs, theirs) };
        let candidates = ways.iter().take(Difference::CANDIDATES_MAX).map(candidate).collect();
        let all = |party: Party| {
            let mut places: Vec<_> = ways.iter().flat_map(|way| way[at(party)].iter().copied()).collect();
            places.sort_unstable();
            places.dedup();
            places
        };
        let [ours, theirs] = PARTIES.map(|party| self.take(party, &all(party)));
        out(Step::Found(Finding::Differs(Difference { what: What::Ambiguous, ours, theirs, candidates })))
    }

    pub(super) fn says_same(&self, party: Party, one: usize, other: usize) -> bool {
        matches!((self.get(party, one), self.get(party, other)), (Some(one), Some(other)) if one.says_same(other))
    }

    pub(super) fn is_near(&self, ours: usize, theirs: usize, days: u32) -> bool {
        match (self.get(Party::Ours, ours), self.get(Party::Theirs, theirs)) {
            (Some(ours), Some(theirs)) => days_apart(ours, theirs) <= days,
            _ => false,
        }
    }

    /// The places of what is not settled, by key.
    fn by_key(&self) -> BTreeMap<Key, Places> {
        let mut keys = BTreeMap::<Key, Places>::new();
        for party in PARTIES {
            for place in self.free(party) {
                if let Some(record) = self.get(party, place) {
                    keys.entry(record.key()).or_default()[at(party)].push(place);
                }
            }
        }
        keys
    }

    fn same_amounts<E>(&mut self, days: u32, is_drift: bool, out: Out<'_, E>) -> Result<(), E> {
        for [ours, theirs] in self.by_key().into_values() {
            if ours.is_empty() || theirs.is_empty() {
                continue;
            }
            let pairs = self.pairs(&ours, &theirs, days);
            let (near_ours, near_theirs): (Vec<_>, Vec<_>) = (
                ours.iter().copied().filter(|o| theirs.iter().any(|t| self.is_near(*o, *t, days))).collect(),
                theirs.iter().copied().filter(|t| ours.iter().any(|o| self.is_near(*o, *t, days))).collect(),
            );
            let has_choice = |party: Party, near: &[usize]| {
                near.len() > pairs.len() && near.iter().any(|place| !self.is_alike(party, near[0], *place, is_drift))
            };
            if has_choice(Party::Ours, &near_ours) || has_choice(Party::Theirs, &near_theirs) {
                let mut ways = Vec::new();
                for o in &near_ours {
                    ways.extend(
                        near_theirs.iter().filter(|t| self.is_near(*o, **t, days)).map(|t| [vec![*o], vec![*t]]),
                    );
                }
                self.ambiguous(&ways, out)?;
                continue;
            }
            for (o, t) in pairs {
                let days = match (self.get(Party::Ours, o), self.get(Party::Theirs, t)) {
                    (Some(ours), Some(theirs)) if is_drift => Some(days_apart(ours, theirs)),
                    _ => None,
                };
                let pass = days.map_or(Pass::Exact, |days| Pass::Drift { days });
                self.matched(pass, &[vec![o], vec![t]], out)?;
            }
        }
        Ok(())
    }

    /// Pairs within so many days, as many as there can be: both sides are in order of days, so the first that can go together do.
    fn pairs(&self, ours: &[usize], theirs: &[usize], days: u32) -> Vec<(usize, usize)> {
        let (mut pairs, mut ours, mut theirs) = (Vec::new(), ours.iter().peekable(), theirs.iter().peekable());
        while let (Some(o), Some(t)) = (ours.peek(), theirs.peek()) {
            if self.is_near(**o, **t, days) {
                pairs.push((**o, **t));
                ours.next();
                theirs.next();
            } else if self.get(Party::Ours, **o).map(|r| r.day) < self.get(Party::Theirs, **t).map(|r| r.day) {
                ours.next();
            } else {
                theirs.next();
            }
        }
        pairs
    }

    /// Whether it makes no difference which of the two is matched: of the same key within the window, if they are of one kind; further
    /// apart, only if they say the same.
    fn is_alike(&self, party: Party, one: usize, other: usize, is_drift: bool) -> bool {
        if is_drift {
            return self.says_same(party, one, other);
        }
        matches!((self.get(party, one), self.get(party, other)), (Some(one), Some(other)) if one.kind == other.kind)
    }

    /// Amounts that are the other side's less its fee.
    fn netted<E>(&mut self, out: Out<'_, E>) -> Result<(), E> {
        let (ours, theirs) = (self.free(Party::Ours), self.free(Party::Theirs));
        let mut edges = Vec::new();
        for o in &ours {
            for t in theirs.iter().filter(|t| self.is_near(*o, **t, self.rules.drift_days)) {
                if let (Some(our), Some(their)) = (self.get(Party::Ours, *o), self.get(Party::Theirs, *t))
                    && let Some(pass) = netted(our, their)
                {
                    edges.push((*o, *t, pass));
                }
            }
        }
        while let Some((o, t, _)) = edges.first() {
            // All that hang together with the first.
            let mut part: Places = [vec![*o], vec![*t]];
            loop {
                let before = part[0].len() + part[1].len();
                for (o, t, _) in &edges {
                    match (part[0].contains(o), part[1].contains(t)) {
                        (true, false) => part[1].push(*t),
                        (false, true) => part[0].push(*o),
                        _ => {}
                    }
                }
                if part[0].len() + part[1].len() == before {
                    break;
                }
            }
            let (inside, rest): (Vec<_>, Vec<_>) = edges.into_iter().partition(|(o, _, _)| part[0].contains(o));
            edges = rest;
            for places in &mut part {
                places.sort_unstable();
            }
            let is_alike =
                |party: Party, places: &[usize]| places.iter().all(|place| self.says_same(party, places[0], *place));
            if is_alike(Party::Ours, &part[0]) && is_alike(Party::Theirs, &part[1]) {
                let [ours, theirs] = part;
                for (o, t) in ours.into_iter().zip(theirs) {
                    let pass = inside.iter().find(|edge| (edge.0, edge.1) == (o, t)).map(|(_, _, pass)| pass.clone());
                    self.matched(pass.unwrap_or(Pass::Exact), &[vec![o], vec![t]], out)?;
                }
            } else {
                let ways: Vec<Places> = inside.iter().map(|(o, t, _)| [vec![*o], vec![*t]]).collect();
                self.ambiguous(&ways, out)?;
            }
        }
        Ok(())
    }

    /// What does not match goes out, as what it is.
    fn differences<E>(&mut self, out: Out<'_, E>) -> Result<(), E> {
        for party in PARTIES {
            self.duplicates(party, out)?;
        }
        let mut currencies = BTreeMap::<Currency, Places>::new();
        for ((currency, _), [ours, theirs]) in self.by_key() {
            // The same amount on both sides, too far apart: each lacks the other's.
            if ours.is_empty() || theirs.is_empty() {
                let places = currencies.entry(currency).or_default();
                places[0].extend(ours);
                places[1].extend(theirs);
            }
        }
        let mut alone: Places = [Vec::new(), Vec::new()];
        for [ours, theirs] in currencies.into_values() {
            if ours.is_empty() || theirs.is_empty() {
                alone[0].extend(ours);
                alone[1].extend(theirs);
            } else {
                self.differ(&[ours, theirs], false, out)?;
            }
        }
        if !alone[0].is_empty() && !alone[1].is_empty() {
            self.differ(&alone, true, out)?;
        }
        for party in PARTIES {
            for record in self.sides[at(party)].iter_mut().filter_map(Option::take) {
                out(Step::Rest(party, record))?;
            }
        }
        Ok(())
    }

    fn duplicates<E>(&mut self, party: Party, out: Out<'_, E>) -> Result<(), E> {
        for place in self.free(party) {
            let Some(record) = self.get(party, place) else { continue };
            let (key, row) = (record.key(), record.row);
            let settled = &mut self.settled[at(party)];
            let Some(of) = settled.get(&key).copied() else {
                settled.insert(key, row);
                continue;
            };
            let records = self.take(party, &[place]);
            #[cfg(feature = "seeded-bugs")]
            if self.rules.has(crate::reconcile::Bug::DropDuplicate) {
                continue;
            }
            for record in records {
                out(Step::Found(Finding::Differs(Difference::of(What::Duplicate { party, of }, party, record))))?;
            }
        }
        Ok(())
    }

    fn differ<E>(&mut self, places: &Places, is_currency: bool, out: Out<'_, E>) -> Result<(), E> {
        let ([o], [t]) = (places[0].as_slice(), places[1].as_slice()) else {
            let [ours, theirs] = places;
            let ways: Vec<Places> = ours.iter().flat_map(|o| theirs.iter().map(|t| [vec![*o], vec![*t]])).collect();
            return self.ambiguous(&ways, out);
        };
        let amount = |party, place: &usize| self.get(party, *place).map_or(0, |record| record.amount);
        let by = amount(Party::Theirs, t).saturating_sub(amount(Party::Ours, o));
        let what = if is_currency { What::CurrencyDiffers } else { What::AmountDiffers { by } };
        let (ours, theirs) = (self.take(Party::Ours, &[*o]), self.take(Party::Theirs, &[*t]));
        out(Step::Found(Finding::Differs(Difference { what, ours, theirs, candidates: Vec::new() })))
    }
}

/// Whether one of two records is the other one less its fee.
pub(super) fn netted(ours: &Record, theirs: &Record) -> Option<Pass> {
    if ours.currency != theirs.currency {
        return None;
    }
    if theirs.fee != 0 && theirs.net() == Some(ours.amount) {
        return Some(Pass::Netted { gross: Party::Theirs, fee: theirs.fee });
    }
    if ours.fee != 0 && ours.net() == Some(theirs.amount) {
        return Some(Pass::Netted { gross: Party::Ours, fee: ours.fee });
    }
    None
}
