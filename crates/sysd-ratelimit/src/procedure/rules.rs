//! Several rules as one [`Procedure`]; `rules.lua` beside it is its twin.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

use crate::algorithm::{Algorithm as _, AnyVerdict, Limit, TakeAny};
use crate::model::{JointDecision, Rule, RuleId};
use crate::schema::rules::{self as schema, ENTRIES_MAX, Entry};

/// Takes a cost from each of several rules whose states lie in one record: from all, or from none if one of them has too
/// little. A cost of zero only looks.
///
/// A refusal, and a look, leave the stored state as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeAll {
    pub(super) asked: SmallVec<[Asked; 4]>,
    /// Else it only looks.
    pub(super) takes: bool,
    /// The rules in force whose states lie in the record, those that are asked too or not.
    in_force: Option<Arc<[RuleId]>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) id: RuleId,
    pub(super) limit: Limit,
    pub(super) cost: u32,
}

impl Asked {
    /// Its number, algorithm and the length of the algorithm's arguments; those arguments, of `take`.
    pub(super) fn encode(&self, take: &TakeAny, out: &mut ArgumentBytes) {
        let mut arguments = ArgumentBytes::new();
        take.encode_arguments(&mut arguments);
        self.encode_with(&arguments, out);
    }

    pub(super) fn encode_with(&self, arguments: &[u8], out: &mut ArgumentBytes) {
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.push(self.limit.code());
        out.push(u8::try_from(arguments.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(arguments);
    }
}

/// What [`TakeAll`] found: what each rule did, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JointVerdict {
    /// By the clock that decided.
    pub(super) now_us: u64,
    pub(super) each: SmallVec<[AnyVerdict; 4]>,
    /// What was given back to each rule's bucket so far, as its record counts it.
    pub(super) given_us: SmallVec<[u64; 4]>,
}

impl JointVerdict {
    /// What the first rule's bucket is short of full, microseconds, rounded up; clocks that differ have no part in it.
    pub(crate) fn debt_us(&self) -> u64 {
        self.each.first().map_or(0, |verdict| verdict.debt().ceil_us())
    }

    /// What the first rule found.
    pub(crate) fn first(&self) -> Option<&AnyVerdict> {
        self.each.first()
    }

    /// Whether all rules allowed it.
    pub fn is_allowed(&self) -> bool {
        self.each.iter().all(AnyVerdict::is_allowed)
    }
}

impl TakeAll {
    /// Takes each rule's cost. The rules are those of one [`RuleSet`](crate::RuleSet), some or all of them, each once.
    pub fn new<'a>(rules: impl IntoIterator<Item = (&'a Rule, u32)>) -> Self {
        Self::of(rules.into_iter().map(|(rule, cost)| Asked { id: rule.id(), limit: rule.limit(), cost }))
    }

    pub(super) fn of(asked: impl IntoIterator<Item = Asked>) -> Self {
        Self { asked: asked.into_iter().collect(), takes: true, in_force: None }
    }

    /// The same question without the taking: it is denied exactly when the take would be, and then says the same; where it is allowed,
    /// every rule says what is there.
    #[must_use]
    pub fn look(mut self) -> Self {
        self.takes = false;
        self
    }

    /// Says which rules of the record are in force though this request is not asked about them. A record has room for 64 states; where
    /// there are more, those of rules that are gone are dropped first.
    #[must_use]
    pub fn beside<'a>(self, rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let in_force: Arc<[RuleId]> = rules.into_iter().map(Rule::id).collect();
        self.with_in_force(Some(in_force))
    }

    pub(crate) fn with_in_force(mut self, in_force: Option<Arc<[RuleId]>>) -> Self {
        self.in_force = in_force;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// What it takes of each rule.
    pub(crate) fn costs(&self) -> impl Iterator<Item = u32> {
        self.asked.iter().map(|asked| asked.cost)
    }

    fn asks(&self, id: RuleId) -> bool {
        self.asked.iter().any(|asked| asked.id == id)
    }

    /// Those in force that are not asked; more than a record holds are not named.
    fn others(&self) -> impl Iterator<Item = RuleId> {
        let in_force = self.in_force.iter().flat_map(|in_force| in_force.iter().copied());
        in_force.filter(|id| !self.asks(*id)).take(ENTRIES_MAX)
    }

    /// The answer that `verdict`, the output of this very procedure, amounts to.
    pub fn decision(&self, verdict: &JointVerdict) -> JointDecision {
        let is_taken = self.takes && verdict.is_allowed();
        let decide = |(asked, verdict): (&Asked, &AnyVerdict)| {
            // Where nothing was taken, those that had enough only looked.
            let cost = if is_taken || !verdict.is_allowed() { asked.cost } else { 0 };
            asked.limit.decision(&asked.limit.take(cost), verdict)
        };
        JointDecision::of(self.asked.iter().zip(&verdict.each).map(decide).collect())
    }
}

const NAME: &str = "rules";

fn undecodable(what: &'static str) -> Undecodable {
    Undecodable { procedure: NAME, what }
}

/// The algorithms as Lua functions, before what a procedure of several rules does with them.
macro_rules! with_algorithms {
    ($($file:literal),+) => {
        concat!(
            "local function token_bucket(state, now, arguments)\n",
            include_str!("token_bucket.lua"),
            "\nend\nlocal function fixed_window(state, now, arguments)\n",
            include_str!("fixed_window.lua"),
            "\nend\nlocal function sliding_window(state, now, arguments)\n",
            include_str!("sliding_window.lua"),
            "\nend\nlocal function sliding_log(state, now, arguments)\n",
            include_str!("sliding_log.lua"),
            "\nend\nlocal function calendar(state, now, arguments)\n",
            include_str!("calendar.lua"),
            "\nend\n",
            $(include_str!($file)),+
        )
    };
}
pub(super) use with_algorithms;

static SCRIPT: Script = Script { name: NAME, source: with_algorithms!("entries.lua", "asking.lua", "rules.lua") };

/// What a rule wants to write.
pub(super) struct Written {
    pub(super) id: RuleId,
    pub(super) code: u8,
    /// Zero: never.
    pub(super) expires_us: u64,
    /// Empty: it says nothing any more.
    pub(super) state: StateBytes,
    pub(super) given_us: u64,
}

/// The later of two times at which a state expires, where zero is never.
pub(super) fn later_expiry(one_us: u64, other_us: u64) -> u64 {
    if one_us == 0 || other_us == 0 { 0 } else { one_us.max(other_us) }
}

impl Written {
    fn entry(&self) -> Entry<'_> {
        let Self { id, code, expires_us, given_us, .. } = *self;
        Entry { id, code, expires_us, state: &self.state, given_us }
    }
}

/// The record with what was written: in the place of what it replaces, or at the end. What says nothing any more is dropped,
/// and of too many rules those that have been there longest: first of those that are not in force, and never what was written.
pub(super) fn record(
    stored: &[Entry<'_>],
    written: &[Written],
    is_in_force: impl Fn(RuleId) -> bool,
    now: Timestamp,
) -> StateChange {
    let by_id = |id| written.iter().find(|written| written.id == id);
    let kept = stored.iter().enumerate().filter_map(|(at, entry)| {
        let is_first = stored[..at].iter().all(|before| before.id != entry.id);
        match by_id(entry.id).filter(|_| is_first) {
            Some(written) => (!written.state.is_empty()).then_some((written.entry(), true)),
            None => entry.is_live(now.as_micros()).then_some((*entry, false)),
        }
    });
    let is_new = |written: &&Written| stored.iter().all(|entry| entry.id != written.id);
    let new = written.iter().filter(is_new).map(|written| (written.entry(), true));
    let mut entries: Vec<_> = kept.chain(new).collect();
    while entries.len() > ENTRIES_MAX {
        let gone = entries.iter().position(|(entry, is_written)| !is_written && !is_in_force(entry.id));
        let Some(oldest) = gone.or_else(|| entries.iter().position(|(_, is_written)| !is_written)) else { break };
        entries.remove(oldest);
    }
    if entries.is_empty() {
        return StateChange::Delete;
    }
    let ends = entries.iter().try_fold(0, |last, (entry, _)| match entry.expires_us {
        0 => None,
        us => Some(last.max(us)),
    });
    let ttl = ends.map(|us| Duration::from_micros(us - now.as_micros()));
    StateChange::Put { state: schema::encode_state(entries.into_iter().map(|(entry, _)| entry)), ttl }
}

impl Procedure for TakeAll {
    type Output = JointVerdict;

    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<JointVerdict>, Undecodable> {
        let now_us = now.as_micros();
        let stored = match state {
            None => Vec::new(),
            Some(bytes) => schema::decode_state(bytes).ok_or_else(|| undecodable("state"))?,
        };
        let entry_of = |asked: &Asked| schema::live_entry(&stored, asked.id, asked.limit.code(), now_us);
        let mut each: SmallVec<[AnyVerdict; 4]> = SmallVec::new();
        let given_us = self.asked.iter().map(|asked| entry_of(asked).map_or(0, |entry| entry.given_us)).collect();
        let mut written = Vec::new();
        for asked in &self.asked {
            let take = asked.limit.take(asked.cost);
            let entry = entry_of(asked);
            let step = take.apply(entry.map(|entry| entry.state), now).map_err(|_| undecodable("state"))?;
            each.push(step.output);
            if let StateChange::Put { state, ttl } = step.change {
                let mut expires_us = match ttl {
                    None => 0,
                    Some(ttl) => now.checked_add(ttl).map_or(0, Timestamp::as_micros),
                };
                let code = asked.limit.code();
                let given_us = entry.map_or(0, |entry| entry.given_us);
                if let Some(entry) = entry.filter(|_| schema::is_bucket(code)) {
                    // One that got something back keeps its time, for those who still have something to give.
                    expires_us = later_expiry(entry.expires_us, expires_us);
                }
                written.push(Written { id: asked.id, code, expires_us, state, given_us });
            }
        }
        if !self.takes || !each.iter().all(AnyVerdict::is_allowed) {
            // Nothing is taken: those that had enough tell what is there.
            for (asked, verdict) in self.asked.iter().zip(&mut each) {
                if verdict.is_allowed() {
                    let look = asked.limit.take(0).apply(entry_of(asked).map(|entry| entry.state), now);
                    *verdict = look.map_err(|_| undecodable("state"))?.output;
                }
            }
            return Ok(Step { change: StateChange::Keep, output: JointVerdict { now_us, each, given_us } });
        }
        let is_in_force = |id| self.asks(id) || self.others().any(|other| other == id);
        let change = if written.is_empty() { StateChange::Keep } else { record(&stored, &written, is_in_force, now) };
        Ok(Step { change, output: JointVerdict { now_us, each, given_us } })
    }

    fn encode_output(&self, output: &JointVerdict, out: &mut OutputBytes) {
        out.extend_from_slice(&output.now_us.to_be_bytes());
        for ((asked, verdict), given_us) in self.asked.iter().zip(&output.each).zip(&output.given_us) {
            let mut bytes = OutputBytes::new();
            asked.limit.take(asked.cost).encode_output(verdict, &mut bytes);
            out.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(&bytes);
            if schema::is_bucket(asked.limit.code()) {
                out.extend_from_slice(&given_us.to_be_bytes());
            }
        }
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<JointVerdict, Undecodable> {
        let (now, mut rest) = bytes.split_first_chunk().ok_or_else(|| undecodable("output"))?;
        let now_us = u64::from_be_bytes(*now);
        let mut each: SmallVec<[AnyVerdict; 4]> = SmallVec::new();
        let mut given_us: SmallVec<[u64; 4]> = SmallVec::new();
        for asked in &self.asked {
            let (&length, behind) = rest.split_first().ok_or_else(|| undecodable("output"))?;
            let (output, behind) = behind.split_at_checked(usize::from(length)).ok_or_else(|| undecodable("output"))?;
            each.push(asked.limit.take(asked.cost).decode_output(output)?);
            rest = behind;
            given_us.push(if schema::is_bucket(asked.limit.code()) {
                let (given, behind) = rest.split_first_chunk().ok_or_else(|| undecodable("output"))?;
                rest = behind;
                u64::from_be_bytes(*given)
            } else {
                0
            });
        }
        let is_whole = rest.is_empty() && now_us <= Timestamp::MAX.as_micros();
        if is_whole { Ok(JointVerdict { now_us, each, given_us }) } else { Err(undecodable("output")) }
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        out.push(u8::from(self.takes));
        out.push(u8::try_from(self.others().count()).unwrap_or(u8::MAX));
        for id in self.others() {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
        for asked in &self.asked {
            asked.encode(&asked.limit.take(asked.cost), out);
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
