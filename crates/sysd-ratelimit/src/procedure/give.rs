//! Gives back what was taken, as a [`Procedure`]; `give.lua` beside it is its twin.
//!
//! The rule: what is left when something was given back must admit nothing that would have been denied had it never been
//! taken. What a take still weighs lessens while time goes by, and only that is given back:
//!
//! - A bucket that would be full without the take has nothing to gain from time, so from then on the take weighs less and less. That
//!   is not before the debt which the take found has run down, so the debt right after it, less the time since, is what may be given
//!   back, up to the price. What others were given back meanwhile brings that moment nearer: the record counts it, the verdict
//!   knows what it was then, and the difference is lessened too. Of the price, what exceeds the time since is owed in any case.
//! - A window's count is lowered if it is still the count of the window in which it was taken. One that was cut otherwise since,
//!   by another policy, ends elsewhere: what it counts may not be what was taken.
//! - A log has the very entry, or has forgotten it.
//!
//! What is left keeps its time, even where it counts nothing: without it a clock that has gone back would find an unused window
//! where others have taken.
//!
//! A state that begins before the take is not the one that was taken from: the store has lost it, and there is nothing to give.

use smallvec::SmallVec;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

use super::rules::{Asked, JointVerdict, TakeAll, Written, record};
use crate::algorithm::Limit;
use crate::model::{CalendarSpan, FixedWindow, SlidingWindow, Span, TokenBucket};
use crate::schema::rules::{self as schema, Entry};
use crate::schema::{fixed_window, sliding_log, sliding_window, token_bucket};

/// Gives back what a [`TakeAll`] took from its rules, as far as it still weighs.
///
/// The output is how many rules it was given back to. It must be run at most once for each take: whoever doubts whether it has
/// run must not run it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveAll {
    taken: SmallVec<[Taken; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    /// With what is to be given back.
    asked: Asked,
    /// When, as the rule's state has it.
    at_us: u64,
    /// What a bucket was short of full right after it.
    debt: Span,
    /// What had been given back to the bucket then.
    given_us: u64,
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
        if !verdict.is_allowed() {
            return None;
        }
        let each = take.asked.iter().zip(&verdict.each).zip(&verdict.given_us);
        let taken = each.enumerate().map(|(at, ((asked, own), &given_us))| Taken {
            asked: Asked { cost: unused(at).min(asked.cost), ..*asked },
            at_us: verdict.now_us + own.skew_us(),
            debt: own.debt(),
            given_us,
        });
        let taken: SmallVec<_> = taken.filter(|taken| taken.asked.cost > 0).collect();
        (!taken.is_empty()).then_some(Self { taken })
    }
}

impl Taken {
    /// What it still weighs in a bucket where so much has been given back by now, so long after it.
    fn owed(&self, bucket: &TokenBucket, given_us: u64, passed_us: u64) -> Span {
        let Some(price) = bucket.price(self.asked.cost) else { return Span::ZERO };
        let since_us = given_us.checked_sub(self.given_us).filter(|_| given_us < schema::GIVEN_MAX_US);
        let weighs = since_us.map_or(Span::ZERO, |since_us| self.debt.minus_us(since_us)).max(price);
        weighs.minus_us(passed_us).min(price)
    }
}

/// A state after something was given back to it, and when it expires (zero: never), and how much a bucket got, microseconds; `None` if
/// nothing is changed.
type Given = Option<(StateBytes, u64, u64)>;

fn to_bucket(bucket: &TokenBucket, entry: &Entry<'_>, taken: &Taken, now_us: u64) -> Option<Given> {
    let state = token_bucket::decode_state(entry.state)?;
    let denominator = bucket.denominator();
    let passed_us = state.at_us.max(now_us).saturating_sub(taken.at_us);
    let mut owed = taken.owed(bucket, entry.given_us, passed_us);
    if state.denominator != denominator {
        // What is owed was rounded up when the rate changed; this down.
        owed.part = 0;
    }
    if state.at_us < taken.at_us || owed == Span::ZERO {
        return Some(None);
    }
    let debt = state.debt_in(denominator);
    let owed = owed.min(debt);
    let state = token_bucket::BucketState { debt: debt.minus(owed, denominator), denominator, ..state };
    // It lives as long as it would have: until then others may have something to give, and need what is counted.
    Some(Some((StateBytes::from_slice(&token_bucket::encode_state(&state)), entry.expires_us, owed.ceil_us())))
}

/// When a state expires whose last window ends there.
fn expiry_us(ends_us: u64) -> u64 {
    if ends_us <= Timestamp::MAX.as_micros() { ends_us } else { 0 }
}

fn to_fixed(limit: &FixedWindow, entry: &Entry<'_>, taken: &Taken) -> Option<Given> {
    let state = fixed_window::decode_state(entry.state)?;
    let into_us = state.at_us % limit.window_us();
    let is_cut_alike = entry.expires_us == expiry_us(state.at_us - into_us + limit.window_us());
    if !is_cut_alike || state.at_us.checked_sub(taken.at_us).is_none_or(|since_us| since_us > into_us) {
        return Some(None);
    }
    Some(Some(less(state, entry, taken)))
}

fn to_calendar(span: &CalendarSpan, entry: &Entry<'_>, taken: &Taken) -> Option<Given> {
    let state = fixed_window::decode_state(entry.state)?;
    let is_in = |(begin_us, end_us)| {
        begin_us <= taken.at_us && taken.at_us <= state.at_us && entry.expires_us == expiry_us(end_us)
    };
    Some(span.around(state.at_us).is_some_and(is_in).then(|| less(state, entry, taken)))
}

/// A window's count without what was taken.
fn less(state: fixed_window::State, entry: &Entry<'_>, taken: &Taken) -> (StateBytes, u64, u64) {
    let state = fixed_window::State { count: state.count.saturating_sub(taken.asked.cost), ..state };
    (StateBytes::from_slice(&fixed_window::encode_state(&state)), entry.expires_us, 0)
}

fn to_sliding(limit: &SlidingWindow, entry: &Entry<'_>, taken: &Taken) -> Option<Given> {
    let mut state = sliding_window::decode_state(entry.state)?;
    let into_us = state.at_us % limit.window_us();
    if entry.expires_us != expiry_us(state.at_us - into_us + 2 * limit.window_us()) {
        return Some(None);
    }
    match state.at_us.checked_sub(taken.at_us) {
        Some(since_us) if since_us <= into_us => state.current = state.current.saturating_sub(taken.asked.cost),
        Some(since_us) if since_us <= into_us + limit.window_us() => {
            state.previous = state.previous.saturating_sub(taken.asked.cost);
        }
        _ => return Some(None),
    }
    Some(Some((StateBytes::from_slice(&sliding_window::encode_state(&state)), entry.expires_us, 0)))
}

fn to_log(entry: &Entry<'_>, taken: &Taken, now_us: u64) -> Option<Given> {
    let mut log = sliding_log::decode_state(entry.state)?;
    let Ok(at) = log.binary_search_by_key(&taken.at_us, |noted| noted.at_us) else { return Some(None) };
    match log[at].cost.checked_sub(taken.asked.cost) {
        // The last entry is the log's time, which a clock that has gone back still needs.
        None | Some(0) if at + 1 == log.len() && taken.at_us > now_us => return Some(None),
        None | Some(0) => drop(log.remove(at)),
        Some(cost) => log[at].cost = cost,
    }
    if log.is_empty() {
        // It says nothing any more.
        return Some(Some((StateBytes::new(), 0, 0)));
    }
    Some(Some((sliding_log::encode_state(&log), entry.expires_us, 0)))
}

/// `None` if the state is undecodable.
fn give(entry: &Entry<'_>, taken: &Taken, now_us: u64) -> Option<Given> {
    match &taken.asked.limit {
        Limit::TokenBucket(bucket) => to_bucket(bucket, entry, taken, now_us),
        Limit::LeakyBucket(queue) => to_bucket(queue.bucket(), entry, taken, now_us),
        Limit::FixedWindow(limit) => to_fixed(limit, entry, taken),
        Limit::SlidingWindow(limit) => to_sliding(limit, entry, taken),
        Limit::SlidingLog(_) => to_log(entry, taken, now_us),
        Limit::Calendar(span) => to_calendar(span, entry, taken),
    }
}

const NAME: &str = "give";

static SCRIPT: Script = Script { name: NAME, source: concat!(include_str!("entries.lua"), include_str!("give.lua")) };

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
            let (id, code) = (taken.asked.id, taken.asked.limit.code());
            let Some(entry) = schema::live_entry(&stored, id, code, now_us) else { continue };
            let given = give(entry, taken, now_us).ok_or_else(undecodable)?;
            let Some((state, expires_us, more_us)) = given else { continue };
            let given_us = entry.given_us.saturating_add(more_us).min(schema::GIVEN_MAX_US);
            written.push(Written { id, code, expires_us, state, given_us });
        }
        let output = u8::try_from(written.len()).unwrap_or(u8::MAX);
        let change = if written.is_empty() { StateChange::Keep } else { record(&stored, &written, now) };
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
            let mut between = ArgumentBytes::new();
            between.extend_from_slice(&taken.at_us.to_be_bytes());
            between.extend_from_slice(&taken.debt.us.to_be_bytes());
            between.extend_from_slice(&taken.debt.part.to_be_bytes());
            between.extend_from_slice(&taken.given_us.to_be_bytes());
            taken.asked.encode(&between, out);
        }
    }
}

#[cfg(test)]
#[path = "give_tests.rs"]
mod tests;
