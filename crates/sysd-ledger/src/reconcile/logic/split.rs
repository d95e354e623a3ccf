//! Lines of one reference that add up.

use super::group::{Group, Places};
use super::{Out, at};
use crate::model::Currency;
use crate::reconcile::model::{Party, Pass, Record};

/// More ways than that are as ambiguous as these.
const WAYS_MAX: usize = 64;

/// Records of one side that say the same.
struct Alike {
    places: Vec<usize>,
    amount: i128,
    day: i32,
}

/// One record of a side, and lines of the other that add up to it.
struct Way {
    places: Places,
    sum: i128,
}

impl Group<'_> {
    pub(super) fn split<E>(&mut self, out: Out<'_, E>) -> Result<(), E> {
        let mut currencies: Vec<Currency> =
            self.free(Party::Ours).iter().filter_map(|o| Some(self.get(Party::Ours, *o)?.currency)).collect();
        currencies.dedup();
        for currency in currencies {
            while self.split_once(currency, out)? {}
        }
        Ok(())
    }

    /// Whether something was settled.
    fn split_once<E>(&mut self, currency: Currency, out: Out<'_, E>) -> Result<bool, E> {
        let [ours, theirs] = [Party::Ours, Party::Theirs].map(|party| {
            let mut places = self.free(party);
            places.retain(|place| self.get(party, *place).is_some_and(|record| record.currency == currency));
            places
        });
        if ours.is_empty() || theirs.is_empty() || ours.len() + theirs.len() < 3 {
            return Ok(false);
        }
        let all: Places = [ours, theirs];
        if let Some(pass) = self.whole(&all) {
            self.matched(pass, &all, out)?;
            return Ok(true);
        }
        if all.iter().any(|places| places.len() > self.rules.split_lines_max) {
            self.counts.splits_not_tried += 1;
            return Ok(false);
        }
        let mut ways = Vec::new();
        for party in [Party::Ours, Party::Theirs] {
            let (singles, lines) = (self.alike(party, &all), self.alike(party.opposite(), &all));
            for single in &singles {
                let mut search = Search {
                    lines: &lines,
                    target: single.amount,
                    days_max: self.rules.drift_days,
                    chosen: Vec::new(),
                    found: Vec::new(),
                };
                search.go(0, 0, (single.day, single.day));
                for lines in search.found {
                    let one = vec![single.places[0]];
                    let places = if party == Party::Ours { [one, lines] } else { [lines, one] };
                    ways.push(Way { places, sum: single.amount });
                }
            }
        }
        let Some(first) = ways.first() else { return Ok(false) };
        let mut part: Places = first.places.clone();
        let touches =
            |part: &Places, way: &Way| (0..2).any(|side| way.places[side].iter().any(|p| part[side].contains(p)));
        loop {
            let before = part[0].len() + part[1].len();
            for way in &ways {
                if touches(&part, way) {
                    for (side, places) in part.iter_mut().enumerate() {
                        let more: Vec<_> = way.places[side].iter().filter(|p| !places.contains(p)).copied().collect();
                        places.extend(more);
                    }
                }
            }
            if part[0].len() + part[1].len() == before {
                break;
            }
        }
        let inside: Vec<Way> = ways.into_iter().filter(|way| touches(&part, way)).collect();
        if let [only] = inside.as_slice() {
            self.matched(Pass::Split { sum: only.sum, net: None }, &only.places, out)?;
        } else {
            let ways: Vec<Places> = inside.into_iter().map(|way| way.places).collect();
            self.ambiguous(&ways, out)?;
        }
        Ok(true)
    }

    /// Whether all that is left of one currency adds up.
    fn whole(&self, all: &Places) -> Option<Pass> {
        let records = |party: Party| all[at(party)].iter().filter_map(move |place| self.get(party, *place));
        let days = || records(Party::Ours).chain(records(Party::Theirs)).map(|record| record.day.0);
        if days().max()?.abs_diff(days().min()?) > self.rules.drift_days {
            return None;
        }
        let sum = |party: Party, of: fn(&Record) -> Option<i128>| {
            records(party).try_fold(0_i128, |sum, record| sum.checked_add(of(record)?))
        };
        let gross = |record: &Record| Some(record.amount);
        let (ours, theirs) = (sum(Party::Ours, gross)?, sum(Party::Theirs, gross)?);
        if ours == theirs {
            return Some(Pass::Split { sum: ours, net: None });
        }
        if !self.rules.netted {
            return None;
        }
        if sum(Party::Theirs, Record::net) == Some(ours) {
            return Some(Pass::Split { sum: ours, net: Some(Party::Theirs) });
        }
        (sum(Party::Ours, Record::net) == Some(theirs)).then_some(Pass::Split { sum: theirs, net: Some(Party::Ours) })
    }

    fn alike(&self, party: Party, all: &Places) -> Vec<Alike> {
        let mut classes = Vec::<Alike>::new();
        for place in &all[at(party)] {
            if let Some(last) = classes.last_mut()
                && self.says_same(party, last.places[0], *place)
            {
                last.places.push(*place);
            } else if let Some(record) = self.get(party, *place) {
                classes.push(Alike { places: vec![*place], amount: record.amount, day: record.day.0 });
            }
        }
        classes
    }
}

/// All choices of two or more lines that add up. Of lines that say the same the first are chosen: which of them makes no difference.
struct Search<'a> {
    lines: &'a [Alike],
    target: i128,
    days_max: u32,
    chosen: Vec<usize>,
    found: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn go(&mut self, from: usize, sum: i128, days: (i32, i32)) {
        if self.found.len() >= WAYS_MAX {
            return;
        }
        let lines = self.lines;
        let Some(class) = lines.get(from) else {
            if sum == self.target && self.chosen.len() >= 2 {
                self.found.push(self.chosen.clone());
            }
            return;
        };
        self.go(from + 1, sum, days);
        let days = (days.0.min(class.day), days.1.max(class.day));
        if days.0.abs_diff(days.1) > self.days_max {
            return;
        }
        let (before, mut sum) = (self.chosen.len(), sum);
        for place in &class.places {
            let Some(more) = sum.checked_add(class.amount) else { break };
            sum = more;
            self.chosen.push(*place);
            self.go(from + 1, sum, days);
        }
        self.chosen.truncate(before);
    }
}
