//! Lines of a batch that add up to the line that is about the batch. Two looks at the same two streams: the first adds up and decides,
//! the second tells of every record. So a batch may have any number of lines.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;

use super::{Counts, Out, Step};
use crate::model::Currency;
use crate::reconcile::model::{Candidate, Difference, Finding, Match, Party, Pass, Record, Records, Rules, What};

/// The most lines that go out as a part of one match.
const PART_MAX: usize = 1_000;

/// What a record is in the pass over batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::reconcile) enum Role {
    /// The line about a batch: its reference is the batch's id.
    Single,
    /// A line of a batch.
    Member,
}

/// A record under the batch that it may be about, or is in. In the order of keys, roles and records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::reconcile) struct Placed {
    pub(in crate::reconcile) key: Box<str>,
    pub(in crate::reconcile) role: Role,
    pub(in crate::reconcile) record: Record,
}

impl Placed {
    /// A record has one role, so that it can't be matched in two.
    pub(in crate::reconcile) fn new(record: Record) -> Self {
        let is_member = !record.batch.is_empty() && record.batch != record.reference;
        let (key, role) = if is_member { (&record.batch, Role::Member) } else { (&record.reference, Role::Single) };
        Self { key: key.clone(), role, record }
    }
}

/// What becomes of the lines of a batch in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::reconcile) struct Decision {
    key: Box<str>,
    currency: Currency,
    /// Whose lines; the line about the batch is the other side's.
    members: Party,
    lines: u64,
    /// What they add up to, gross and net.
    sums: [Option<i128>; 2],
    /// The lines of the other side that are equal to the sum; more than one are ambiguous.
    singles: Vec<Record>,
}

#[derive(Clone, Copy)]
struct Sums {
    lines: u64,
    gross: Option<i128>,
    net: Option<i128>,
}

fn add(sums: &mut BTreeMap<Currency, Sums>, record: &Record) {
    let sum = sums.entry(record.currency).or_insert(Sums { lines: 0, gross: Some(0), net: Some(0) });
    sum.lines += 1;
    sum.gross = sum.gross.and_then(|sum| sum.checked_add(record.amount));
    sum.net = sum.net.and_then(|sum| sum.checked_add(record.net()?));
}

type Stream<I> = Peekable<I>;

fn peek<'a, E: 'a, I: Iterator<Item = Result<Placed, E>>>(stream: &'a mut Stream<I>) -> Result<Option<&'a Placed>, E> {
    if let Some(Err(error)) = stream.next_if(Result::is_err) {
        return Err(error);
    }
    Ok(stream.peek().and_then(|placed| placed.as_ref().ok()))
}

fn next_of<E, I: Iterator<Item = Result<Placed, E>>>(stream: &mut Stream<I>, key: &str) -> Result<Option<Placed>, E> {
    if peek(stream)?.is_some_and(|placed| &*placed.key == key) {
        return stream.next().transpose();
    }
    Ok(None)
}

fn next_key<E, O, T>(ours: &mut Stream<O>, theirs: &mut Stream<T>) -> Result<Option<Box<str>>, E>
where
    O: Iterator<Item = Result<Placed, E>>,
    T: Iterator<Item = Result<Placed, E>>,
{
    Ok(match (peek(ours)?, peek(theirs)?) {
        (None, None) => None,
        (Some(placed), None) | (None, Some(placed)) => Some(placed.key.clone()),
        (Some(our), Some(their)) => Some(match our.key.cmp(&their.key) {
            Ordering::Greater => their.key.clone(),
            _ => our.key.clone(),
        }),
    })
}

/// The lines about one batch, and what its lines add up to, of one side.
#[derive(Default)]
struct SideOf {
    singles: Vec<Record>,
    too_many: bool,
    sums: BTreeMap<Currency, Sums>,
}

fn look<E, I>(stream: &mut Stream<I>, key: &str, max: usize) -> Result<SideOf, E>
where
    I: Iterator<Item = Result<Placed, E>>,
{
    let mut side = SideOf::default();
    while let Some(Placed { role, record, .. }) = next_of(stream, key)? {
        match role {
            Role::Member => add(&mut side.sums, &record),
            Role::Single if side.singles.len() < max => side.singles.push(record),
            Role::Single => side.too_many = true,
        }
    }
    Ok(side)
}

/// The first look: what can be settled of batches, in their order.
pub(in crate::reconcile) fn decide<E>(
    ours: impl Iterator<Item = Result<Placed, E>>,
    theirs: impl Iterator<Item = Result<Placed, E>>,
    rules: &Rules,
    counts: &mut Counts,
    out: &mut dyn FnMut(Decision) -> Result<(), E>,
) -> Result<(), E> {
    let (mut ours, mut theirs) = (ours.peekable(), theirs.peekable());
    while let Some(key) = next_key(&mut ours, &mut theirs)? {
        // Records without an id and a batch belong to nothing.
        let max = if key.is_empty() { 0 } else { rules.group_max };
        let (our, their) = (look(&mut ours, &key, max)?, look(&mut theirs, &key, max)?);
        if !key.is_empty() && (our.too_many || their.too_many) {
            counts.references_too_long += 1;
            continue;
        }
        for (members, sums, singles) in
            [(Party::Ours, our.sums, &their.singles), (Party::Theirs, their.sums, &our.singles)]
        {
            for (currency, Sums { lines, gross, net }) in sums {
                let net = if rules.netted { net } else { None };
                let fits = |single: &&Record| {
                    single.currency == currency && (Some(single.amount) == gross || Some(single.amount) == net)
                };
                let singles: Vec<_> = singles.iter().filter(fits).cloned().collect();
                if !singles.is_empty() {
                    out(Decision { key: key.clone(), currency, members, lines, sums: [gross, net], singles })?;
                }
            }
        }
    }
    Ok(())
}

/// Lines of a batch that wait to go out together.
struct Part {
    decision: Decision,
    number: u64,
    lines: Records,
    /// Whether the line about the batch, or more than one, has gone out.
    is_begun: bool,
}

impl Part {
    fn send<E>(&mut self, out: Out<'_, E>) -> Result<(), E> {
        if self.is_begun && self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let singles = &self.decision.singles;
        let head: Records = if self.is_begun { Records::new() } else { singles.iter().cloned().collect() };
        self.is_begun = true;
        let (ours, theirs) = match self.decision.members {
            Party::Ours => (lines, head),
            Party::Theirs => (head, lines),
        };
        if let [single] = singles.as_slice() {
            let [gross, _] = self.decision.sums;
            let pass =
                Pass::Batch { lines: self.decision.lines, sum: single.amount, is_net: Some(single.amount) != gross };
            return out(Step::Found(Finding::Matched(Match { number: self.number, pass, ours, theirs })));
        }
        let candidate = |single: &Record| match self.decision.members {
            Party::Ours => Candidate { ours: Vec::new(), theirs: vec![single.row] },
            Party::Theirs => Candidate { ours: vec![single.row], theirs: Vec::new() },
        };
        let candidates = singles.iter().take(Difference::CANDIDATES_MAX).map(candidate).collect();
        out(Step::Found(Finding::Differs(Difference { what: What::Ambiguous, ours, theirs, candidates })))
    }
}

/// The second look, at the same streams: tells of every record.
pub(in crate::reconcile) fn apply<E>(
    ours: impl Iterator<Item = Result<Placed, E>>,
    theirs: impl Iterator<Item = Result<Placed, E>>,
    decisions: impl Iterator<Item = Result<Decision, E>>,
    counts: &mut Counts,
    out: Out<'_, E>,
) -> Result<(), E> {
    let (mut ours, mut theirs, mut decisions) = (ours.peekable(), theirs.peekable(), decisions.peekable());
    while let Some(key) = next_key(&mut ours, &mut theirs)? {
        let mut parts = Vec::new();
        while let Some(decision) =
            decisions.next_if(|decision| decision.as_ref().map_or(true, |decision| decision.key == key)).transpose()?
        {
            counts.matches += u64::from(decision.singles.len() == 1);
            parts.push(Part { decision, number: counts.matches, lines: Records::new(), is_begun: false });
        }
        tell(&mut ours, Party::Ours, &key, &mut parts, out)?;
        tell(&mut theirs, Party::Theirs, &key, &mut parts, out)?;
        for mut part in parts {
            part.send(out)?;
        }
    }
    Ok(())
}

fn tell<E, I>(stream: &mut Stream<I>, party: Party, key: &str, open: &mut [Part], out: Out<'_, E>) -> Result<(), E>
where
    I: Iterator<Item = Result<Placed, E>>,
{
    while let Some(Placed { role, record, .. }) = next_of(stream, key)? {
        let part = open.iter_mut().find(|part| match role {
            Role::Member => part.decision.members == party && part.decision.currency == record.currency,
            Role::Single => part.decision.members != party && part.decision.singles.contains(&record),
        });
        match (part, role) {
            (Some(part), Role::Member) => {
                part.lines.push(record);
                if part.lines.len() >= PART_MAX {
                    part.send(out)?;
                }
            }
            // It goes out with the lines.
            (Some(_), Role::Single) => {}
            (None, _) => out(Step::Rest(party, record))?,
        }
    }
    Ok(())
}

/// Decisions are kept on the disk between the two looks.
impl Decision {
    pub(in crate::reconcile) fn parts(&self) -> (&str, Currency, Party, u64, [Option<i128>; 2], &[Record]) {
        (&self.key, self.currency, self.members, self.lines, self.sums, &self.singles)
    }

    pub(in crate::reconcile) fn from_parts(
        key: Box<str>,
        currency: Currency,
        members: Party,
        lines: u64,
        sums: [Option<i128>; 2],
        singles: Vec<Record>,
    ) -> Self {
        Self { key, currency, members, lines, sums, singles }
    }
}
