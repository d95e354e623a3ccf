//! Gives back what was taken, as a [`Procedure`]; `give.lua` beside it is its twin. Why so much and no more: `giving.rs`.

use smallvec::SmallVec;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateChange, Step, Timestamp, Undecodable};

use super::giving::give;
use super::rules::{JointVerdict, TakeAll, Written, record};
use crate::schema::rules as schema;
use crate::schema::taken::Taken;

/// Gives back what a [`TakeAll`] took from its rules, as far as it still weighs.
///
/// The output is how many rules it was given back to. It must be run at most once for each take: whoever doubts whether it has
/// run must not run it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveAll {
    taken: SmallVec<[Taken; 4]>,
}

impl GiveAll {
    /// Of all that `take` took, if it took anything.
    pub fn of(take: &TakeAll, verdict: &JointVerdict) -> Option<Self> {
        Self::part_of(take, verdict, |_| u32::MAX)
    }

    /// Of what was not used, for each rule by its place in `take`, and at most what was taken from it: where the work turned out to
    /// cost less. `None` if that is nothing.
    ///
    /// ```
    /// use sysd_core::{Procedure, StateChange, Timestamp};
    /// use sysd_ratelimit::{FixedWindow, GiveAll, Rule, TakeAll};
    ///
    /// let rule = Rule::new("tokens a day", FixedWindow::new("1000/d".parse()?))?;
    /// let now = Timestamp::UNIX_EPOCH;
    /// let take = TakeAll::new([(&rule, 600)]);
    /// let taken = take.apply(None, now)?;
    /// let StateChange::Put { state, .. } = &taken.change else { panic!() };
    ///
    /// // A quarter was enough.
    /// let give = GiveAll::part_of(&take, &taken.output, |_rule| 450).unwrap();
    /// let StateChange::Put { state, .. } = give.apply(Some(state), now)?.change else { panic!() };
    /// let look = TakeAll::new([(&rule, 0)]);
    /// let left = look.decision(&look.apply(Some(&state), now)?.output);
    /// assert_eq!(left.decision().remaining(), 850);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn part_of(take: &TakeAll, verdict: &JointVerdict, unused: impl Fn(usize) -> u32) -> Option<Self> {
        if !take.takes || !verdict.is_allowed() {
            return None;
        }
        let each = take.asked.iter().zip(&verdict.each).zip(&verdict.given_us).enumerate();
        let taken = each.filter_map(|(at, ((asked, own), &given_us))| {
            Taken::of(asked, own, unused(at).min(asked.cost), verdict.now_us, given_us)
        });
        let taken: SmallVec<_> = taken.collect();
        (!taken.is_empty()).then_some(Self { taken })
    }
}

const NAME: &str = "give";

static SCRIPT: Script = Script {
    name: NAME,
    source: concat!(
        include_str!("taken.lua"),
        include_str!("entries.lua"),
        include_str!("giving.lua"),
        include_str!("give.lua")
    ),
};

impl Procedure for GiveAll {
    type Output = u8;

    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<u8>, Undecodable> {
        let (now_us, undecodable) = (now.as_micros(), || Undecodable { procedure: NAME, what: "state" });
        let Some(bytes) = state else { return Ok(Step { change: StateChange::Keep, output: 0 }) };
        let stored = schema::decode_state(bytes).ok_or_else(undecodable)?;
        let mut written: Vec<Written> = Vec::new();
        for taken in &self.taken {
            let &Taken { id, code, .. } = taken;
            let Some(entry) = schema::live_entry(&stored, id, code, now_us) else { continue };
            let given = give(entry, taken, now_us, now_us).ok_or_else(undecodable)?;
            let Some((state, given_us)) = given else { continue };
            written.push(Written { id, code, expires_us: entry.expires_us, state, given_us });
        }
        let output = u8::try_from(written.len()).unwrap_or(u8::MAX);
        let change = if written.is_empty() { StateChange::Keep } else { record(&stored, &written, |_| true, now) };
        Ok(Step { change, output })
    }

    fn encode_output(&self, output: &u8, out: &mut OutputBytes) {
        out.push(*output);
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u8, Undecodable> {
        match bytes {
            [given] => Ok(*given),
            _ => Err(Undecodable { procedure: NAME, what: "output" }),
        }
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        for taken in &self.taken {
            taken.encode(out);
        }
    }
}

#[cfg(test)]
#[path = "give_tests.rs"]
mod tests;
