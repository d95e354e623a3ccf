//! Two streams in order, side by side.

use std::cmp::Ordering;
use std::iter::Peekable;

use super::group::Group;
use super::{Counts, Out, Step, days_apart};
use crate::model::Currency;
use crate::reconcile::model::{Difference, Finding, Match, Party, Pass, Record, Records, Rules, What};

/// A stream of one side, in order.
struct Stream<E, I: Iterator<Item = Result<Record, E>>> {
    party: Party,
    records: Peekable<I>,
    /// The last record of an overlong reference that was told of: its key and row.
    last: Option<((Currency, i128), u64)>,
}

impl<E, I: Iterator<Item = Result<Record, E>>> Stream<E, I> {
    fn new(party: Party, records: I) -> Self {
        Self { party, records: records.peekable(), last: None }
    }

    fn peek(&mut self) -> Result<Option<&Record>, E> {
        // An error is taken out, so that it can be handed on.
        if let Some(Err(error)) = self.records.next_if(Result::is_err) {
            return Err(error);
        }
        Ok(self.records.peek().and_then(|record| record.as_ref().ok()))
    }

    fn next_of(&mut self, reference: &str) -> Result<Option<Record>, E> {
        if self.peek()?.is_some_and(|record| &*record.reference == reference) {
            return self.records.next().transpose();
        }
        Ok(None)
    }

    /// One of an overlong reference that has no match.
    fn lone(&mut self, record: Record, out: Out<'_, E>) -> Result<(), E> {
        let party = self.party;
        match self.last {
            Some((key, of)) if key == record.key() => {
                out(Step::Found(Finding::Differs(Difference::of(What::Duplicate { party, of }, party, record))))
            }
            _ => {
                self.last = Some((record.key(), record.row));
                out(Step::Rest(party, record))
            }
        }
    }
}

/// Settles all records of two streams in order, but for those that the other side lacks: these are handed on.
pub(in crate::reconcile) fn merge<E>(
    ours: impl Iterator<Item = Result<Record, E>>,
    theirs: impl Iterator<Item = Result<Record, E>>,
    rules: &Rules,
    counts: &mut Counts,
    out: Out<'_, E>,
) -> Result<(), E> {
    let (mut ours, mut theirs) = (Stream::new(Party::Ours, ours), Stream::new(Party::Theirs, theirs));
    loop {
        let reference = match (ours.peek()?, theirs.peek()?) {
            (None, None) => return Ok(()),
            (Some(record), None) | (None, Some(record)) => record.reference.clone(),
            (Some(our), Some(their)) => our.reference.as_ref().min(&their.reference).into(),
        };
        if reference.is_empty() {
            // Nothing says what belongs together.
            while let Some(record) = ours.next_of("")? {
                out(Step::Rest(Party::Ours, record))?;
            }
            while let Some(record) = theirs.next_of("")? {
                out(Step::Rest(Party::Theirs, record))?;
            }
            continue;
        }
        let (mut our, mut their) = (Vec::new(), Vec::new());
        let is_whole = gather(&mut ours, &reference, rules.group_max, &mut our)?
            && gather(&mut theirs, &reference, rules.group_max.saturating_sub(our.len()), &mut their)?;
        if !is_whole {
            counts.references_too_long += 1;
            long(&mut ours, &mut theirs, &reference, (our, their), rules, counts, out)?;
        } else if their.is_empty() && our.len() == 1 {
            our.into_iter().try_for_each(|record| out(Step::Rest(Party::Ours, record)))?;
        } else if our.is_empty() && their.len() == 1 {
            their.into_iter().try_for_each(|record| out(Step::Rest(Party::Theirs, record)))?;
        } else if is_exact_pair(&our, &their, rules) {
            counts.matches += 1;
            let (ours, theirs) = (our.into_iter().collect(), their.into_iter().collect());
            out(Step::Found(Finding::Matched(Match { number: counts.matches, pass: Pass::Exact, ours, theirs })))?;
        } else {
            Group::new(rules, counts, our, their).settle(out)?;
        }
    }
}

/// The most common of all: worth a way of its own.
fn is_exact_pair(ours: &[Record], theirs: &[Record], rules: &Rules) -> bool {
    #[cfg(feature = "seeded-bugs")]
    if rules.bug.is_some() {
        return false;
    }
    matches!((ours, theirs), ([our], [their]) if our.key() == their.key() && days_apart(our, their) <= rules.window_days)
}

/// Whether it was all of the reference.
fn gather<E, I: Iterator<Item = Result<Record, E>>>(
    stream: &mut Stream<E, I>,
    reference: &str,
    max: usize,
    into: &mut Vec<Record>,
) -> Result<bool, E> {
    while into.len() < max {
        match stream.next_of(reference)? {
            Some(record) => into.push(record),
            None => return Ok(true),
        }
    }
    Ok(stream.peek()?.is_none_or(|record| &*record.reference != reference))
}

/// One reference with more records than are looked at at once: the exact pass, in the order of the streams. The first ones were read.
fn long<E, O, T>(
    ours: &mut Stream<E, O>,
    theirs: &mut Stream<E, T>,
    reference: &str,
    read: (Vec<Record>, Vec<Record>),
    rules: &Rules,
    counts: &mut Counts,
    out: Out<'_, E>,
) -> Result<(), E>
where
    O: Iterator<Item = Result<Record, E>>,
    T: Iterator<Item = Result<Record, E>>,
{
    let (mut read_ours, mut read_theirs) = (read.0.into_iter(), read.1.into_iter());
    (ours.last, theirs.last) = (None, None);
    let (mut our, mut their) = (None, None);
    loop {
        if our.is_none() {
            our = next(&mut read_ours, ours, reference)?;
        }
        if their.is_none() {
            their = next(&mut read_theirs, theirs, reference)?;
        }
        let order = match (&our, &their) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) => match our.key().cmp(&their.key()) {
                Ordering::Equal if days_apart(our, their) <= rules.window_days => Ordering::Equal,
                Ordering::Equal => our.day.cmp(&their.day),
                order => order,
            },
        };
        match order {
            Ordering::Less => our.take().map_or(Ok(()), |record| ours.lone(record, out))?,
            Ordering::Greater => their.take().map_or(Ok(()), |record| theirs.lone(record, out))?,
            Ordering::Equal => {
                let of = |record: Option<Record>| record.into_iter().collect::<Records>();
                let (our, their) = (of(our.take()), of(their.take()));
                ours.last = our.first().map(|record| (record.key(), record.row));
                theirs.last = their.first().map(|record| (record.key(), record.row));
                counts.matches += 1;
                let found = Match { number: counts.matches, pass: Pass::Exact, ours: our, theirs: their };
                out(Step::Found(Finding::Matched(found)))?;
            }
        }
    }
}

fn next<E, I: Iterator<Item = Result<Record, E>>>(
    read: &mut impl Iterator<Item = Record>,
    stream: &mut Stream<E, I>,
    reference: &str,
) -> Result<Option<Record>, E> {
    match read.next() {
        Some(record) => Ok(Some(record)),
        None => stream.next_of(reference),
    }
}
