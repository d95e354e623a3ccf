//! Reserving and settling as a [`Procedure`]; `holds.lua` beside it is its twin.
//!
//! The record has the states of the rules and, for each hold, what it took of which of them and when. So a hold that is settled for less,
//! or that nobody settles, gives back what it still weighs (see `giving.rs`), whoever asks next and by whatever policy. What is due is
//! given back before anything else, as at its deadline: nobody has asked since.

use std::time::Duration;

use smallvec::SmallVec;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

use super::charging::{Extra, charge};
use super::giving::give;
use super::rules::{Asked, JointVerdict, TakeAll, later_expiry, with_algorithms};
use crate::algorithm::{Algorithm as _, AnyVerdict};
use crate::model::{HOLDS_MAX, HoldId, JointDecision, Reservation, Rule, RuleId, Settlement, Span};
use crate::schema::holds::{self as schema, Held};
use crate::schema::rules::{ENTRIES_MAX, Entry, is_bucket};
use crate::schema::taken::{Taken, Weight};
use crate::schema::token_bucket;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldAsk {
    /// To take a cost for good.
    Take {
        /// How much of each rule.
        cost: u32,
    },
    /// To take a cost and hold it. What is held under this number stays as it is, with a deadline that is no earlier.
    Reserve {
        /// By what it is known.
        id: HoldId,
        /// How much of each rule.
        cost: u32,
        /// For how long, microseconds.
        hold_us: u64,
    },
    /// To make what is held what it really cost.
    Settle {
        /// By what it is known.
        id: HoldId,
        /// What it cost, of each rule.
        cost: u32,
    },
    /// What is there.
    Look,
}

/// Asks several rules whose states lie in one record, with the holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskHolds {
    ask: HoldAsk,
    /// With the cost.
    asked: TakeAll,
    /// With none.
    look: TakeAll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Denied,
    Done,
    NotHeld,
    Full,
    /// It was held before.
    Kept,
}

/// What [`AskHolds`] found, before it is put into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldsFound {
    answer: Answer,
    /// The deadline of the hold, or of the first of too many.
    until_us: u64,
    verdict: JointVerdict,
}

impl AskHolds {
    /// Asks the rules of one [`RuleSet`](crate::RuleSet).
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a Rule>, ask: HoldAsk) -> Self {
        let cost = match ask {
            HoldAsk::Take { cost } | HoldAsk::Reserve { cost, .. } | HoldAsk::Settle { cost, .. } => cost,
            HoldAsk::Look => 0,
        };
        let asked = TakeAll::new(rules.into_iter().map(|rule| (rule, cost)));
        let look = TakeAll::of(asked.asked.iter().map(|asked| Asked { cost: 0, ..*asked }));
        Self { ask, asked, look }
    }

    /// What the rules decided; where they were not asked, what is there.
    pub fn decision(&self, found: &HoldsFound) -> JointDecision {
        self.read_by(found.answer).decision(&found.verdict)
    }

    /// By what the verdict is to be read: a reservation that found its hold, or no place for one, only looked.
    fn read_by(&self, answer: Answer) -> &TakeAll {
        match (self.ask, answer) {
            (HoldAsk::Take { .. } | HoldAsk::Reserve { .. }, Answer::Denied | Answer::Done) => &self.asked,
            _ => &self.look,
        }
    }

    /// What reserving came to.
    pub fn reserved(&self, found: &HoldsFound) -> Reservation {
        let left = Duration::from_micros(found.until_us.saturating_sub(found.verdict.now_us));
        match found.answer {
            Answer::Denied => Reservation::Denied(self.decision(found)),
            Answer::Full => Reservation::Full { retry_after: left },
            Answer::Done | Answer::Kept | Answer::NotHeld => {
                let until = Timestamp::from_micros_saturating(found.until_us);
                Reservation::Held { until, left, decision: self.decision(found) }
            }
        }
    }

    /// What settling came to.
    pub fn settled(&self, found: &HoldsFound) -> Settlement {
        let decision = self.decision(found);
        if found.answer == Answer::Done { Settlement::Settled { decision } } else { Settlement::NotHeld { decision } }
    }

    /// What the twin needs of a rule: the price of what is settled may be above what a bucket holds.
    fn encode_rule(&self, asked: &Asked, out: &mut ArgumentBytes) {
        match (self.ask, asked.limit.as_bucket()) {
            (HoldAsk::Settle { cost, .. }, Some(bucket)) => {
                let price = bucket.price_beyond(cost);
                let arguments = token_bucket::encode_arguments(bucket.denominator(), bucket.capacity(), price);
                asked.encode_with(&arguments, out);
            }
            _ => asked.encode(&asked.limit.take(asked.cost), out),
        }
    }
}

/// The state of a rule while the record is worked on.
struct Kept {
    id: RuleId,
    code: u8,
    expires_us: u64,
    /// Empty: it says nothing any more.
    state: StateBytes,
    given_us: u64,
    is_written: bool,
}

impl Kept {
    fn entry(&self) -> Entry<'_> {
        let Self { id, code, expires_us, given_us, .. } = *self;
        Entry { id, code, expires_us, state: &self.state, given_us }
    }
}

/// The record while it is worked on.
struct Work {
    now: Timestamp,
    at_us: u64,
    holds: Vec<Held>,
    kept: Vec<Kept>,
    is_changed: bool,
}

fn undecodable(what: &'static str) -> Undecodable {
    Undecodable { procedure: NAME, what }
}

impl Work {
    fn new(state: Option<&[u8]>, now: Timestamp) -> Result<Self, Undecodable> {
        let decode = |bytes| schema::decode_state(bytes).ok_or_else(|| undecodable("state"));
        let record = state.map(decode).transpose()?.unwrap_or_default();
        let kept = record.entries.iter().map(|&Entry { id, code, expires_us, state, given_us }| {
            let state = StateBytes::from_slice(state);
            Kept { id, code, expires_us, state, given_us, is_written: false }
        });
        let at_us = record.at_us.max(now.as_micros());
        Ok(Self { now, at_us, kept: kept.collect(), holds: record.holds, is_changed: false })
    }

    /// The state of a rule, if it is of the same algorithm, has not expired and says something.
    fn live(&self, id: RuleId, code: u8) -> Option<usize> {
        let at = self.kept.iter().position(|kept| kept.id == id)?;
        let kept = &self.kept[at];
        let is_live = kept.entry().is_live(self.now.as_micros());
        (kept.code == code && is_live && !kept.state.is_empty()).then_some(at)
    }

    fn state_of(&self, asked: &Asked) -> Option<&Kept> {
        self.live(asked.id, asked.limit.code()).map(|at| &self.kept[at])
    }

    fn give_back(&mut self, taken: &Taken, moment_us: u64) -> Result<(), Undecodable> {
        let Some(at) = self.live(taken.id, taken.code) else { return Ok(()) };
        let kept = &mut self.kept[at];
        let given = give(&kept.entry(), taken, moment_us, self.now.as_micros()).ok_or_else(|| undecodable("state"))?;
        if let Some((state, given_us)) = given {
            *kept = Kept { state, given_us, is_written: true, ..*kept };
        }
        Ok(())
    }

    /// In the place of what it replaces, or at the end. Answers when it expires.
    fn write(&mut self, asked: &Asked, state: StateBytes, ttl: Option<Duration>) -> u64 {
        let (id, code) = (asked.id, asked.limit.code());
        let mut expires_us = ttl.and_then(|ttl| self.now.checked_add(ttl)).map_or(0, Timestamp::as_micros);
        let mut given_us = 0;
        if let Some(before) = self.state_of(asked) {
            given_us = before.given_us;
            if is_bucket(code) {
                expires_us = later_expiry(before.expires_us, expires_us);
            }
        }
        let new = Kept { id, code, expires_us, state, given_us, is_written: true };
        match self.kept.iter_mut().find(|kept| kept.id == id) {
            Some(kept) => *kept = new,
            None => self.kept.push(new),
        }
        expires_us
    }

    /// What is due comes back as of its deadline.
    fn expire(&mut self) -> Result<(), Undecodable> {
        let due = self.holds.iter().take_while(|hold| hold.until_us <= self.at_us).count();
        let due: Vec<_> = self.holds.drain(..due).collect();
        self.is_changed |= !due.is_empty();
        for hold in due {
            for taken in &hold.parts {
                self.give_back(taken, hold.until_us)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, hold: Held) {
        let behind = self.holds.partition_point(|other| other.until_us <= hold.until_us);
        self.holds.insert(behind, hold);
        self.is_changed = true;
    }

    /// Makes what was taken from a rule what it really cost.
    fn settle(&mut self, taken: &Taken, asked: &TakeAll, real: u32) -> Result<(), Undecodable> {
        let now_us = self.now.as_micros();
        if real == 0 {
            return self.give_back(taken, now_us);
        }
        let is_its = |asked: &&Asked| asked.id == taken.id && asked.limit.code() == taken.code;
        // Of a rule that is gone nobody knows what a part costs.
        let Some(asked) = asked.asked.iter().rfind(is_its) else { return Ok(()) };
        let extra = match (taken.weight, asked.limit.as_bucket()) {
            (Weight::Bucket { denominator, price: mut held, .. }, Some(bucket)) => {
                let mut price = bucket.price_beyond(real);
                if bucket.denominator() != denominator {
                    price = Span { us: price.ceil_us(), part: 0 };
                    held.part = 0;
                }
                if price < held {
                    return self.give_back(&taken.of_price(held.minus(price, denominator)), now_us);
                }
                Extra::Price(price.minus(held, bucket.denominator()))
            }
            _ if real < taken.cost => return self.give_back(&taken.of_cost(taken.cost - real), now_us),
            _ => Extra::Cost(real - taken.cost),
        };
        if matches!(extra, Extra::Price(Span::ZERO) | Extra::Cost(0)) {
            return Ok(());
        }
        let state = self.state_of(asked).map(|kept| &kept.state[..]);
        if let Some((state, ttl)) = charge(asked, state, extra, self.now).map_err(|_| undecodable("state"))? {
            self.write(asked, state, ttl);
        }
        Ok(())
    }

    /// What the rules say, without taking anything.
    fn look(&self, take: &TakeAll) -> Result<JointVerdict, Undecodable> {
        let mut verdict =
            JointVerdict { now_us: self.now.as_micros(), each: SmallVec::new(), given_us: SmallVec::new() };
        for asked in &take.asked {
            let kept = self.state_of(asked);
            let step = asked.limit.take(0).apply(kept.map(|kept| &kept.state[..]), self.now);
            verdict.each.push(step.map_err(|_| undecodable("state"))?.output);
            verdict.given_us.push(kept.map_or(0, |kept| kept.given_us));
        }
        Ok(verdict)
    }

    /// Takes from all or none; answers what was taken of each.
    fn take(&mut self, take: &TakeAll) -> Result<(JointVerdict, SmallVec<[Taken; 2]>), Undecodable> {
        let now_us = self.now.as_micros();
        let mut verdict = JointVerdict { now_us, each: SmallVec::new(), given_us: SmallVec::new() };
        let mut writes = Vec::new();
        for asked in &take.asked {
            let kept = self.state_of(asked);
            let step = asked.limit.take(asked.cost).apply(kept.map(|kept| &kept.state[..]), self.now);
            let step = step.map_err(|_| undecodable("state"))?;
            verdict.given_us.push(kept.map_or(0, |kept| kept.given_us));
            verdict.each.push(step.output);
            if let StateChange::Put { state, ttl } = step.change {
                writes.push((asked, state, ttl));
            }
        }
        if !verdict.is_allowed() {
            // Those that had enough tell what is there.
            let look = self.look(take)?;
            for (own, look) in verdict.each.iter_mut().zip(look.each) {
                if AnyVerdict::is_allowed(own) {
                    *own = look;
                }
            }
            return Ok((verdict, SmallVec::new()));
        }
        for (asked, state, ttl) in writes {
            self.write(asked, state, ttl);
            self.is_changed = true;
        }
        let each = take.asked.iter().zip(&verdict.each).zip(&verdict.given_us);
        let parts = each.filter_map(|((asked, own), &given)| Taken::of(asked, own, asked.cost, now_us, given));
        let parts = parts.collect();
        Ok((verdict, parts))
    }

    /// The record as it is now.
    fn change(mut self) -> StateChange {
        if !self.is_changed {
            return StateChange::Keep;
        }
        let now_us = self.now.as_micros();
        self.kept.retain(|kept| if kept.is_written { !kept.state.is_empty() } else { kept.entry().is_live(now_us) });
        while self.kept.len() > ENTRIES_MAX {
            let Some(oldest) = self.kept.iter().position(|kept| !kept.is_written) else { break };
            self.kept.remove(oldest);
        }
        if self.holds.is_empty() && self.kept.is_empty() {
            return StateChange::Delete;
        }
        let held_us = self.holds.last().map_or(0, |hold| hold.until_us);
        let ends = self.kept.iter().try_fold(held_us, |last, kept| match kept.expires_us {
            0 => None,
            us => Some(last.max(us)),
        });
        let ttl = ends.map(|us| Duration::from_micros(us - now_us));
        StateChange::Put {
            state: schema::encode_state(self.at_us, &self.holds, self.kept.iter().map(Kept::entry)),
            ttl,
        }
    }
}

const NAME: &str = "holds";
const OUTPUT_HEADER_BYTES: usize = 9;

static SCRIPT: Script = Script {
    name: NAME,
    source: with_algorithms!(
        "taken.lua",
        "holding.lua",
        "entries.lua",
        "giving.lua",
        "asking.lua",
        "charging.lua",
        "holds.lua"
    ),
};

impl Procedure for AskHolds {
    type Output = HoldsFound;

    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<HoldsFound>, Undecodable> {
        let mut work = Work::new(state, now)?;
        work.expire()?;
        let own = |work: &Work, id: HoldId| work.holds.iter().position(|hold| hold.id == id.as_u128());
        let (mut answer, mut until_us) = (Answer::Done, 0);
        let verdict = match self.ask {
            HoldAsk::Look => work.look(&self.look)?,
            HoldAsk::Take { .. } => work.take(&self.asked)?.0,
            HoldAsk::Settle { id, cost } => {
                answer = Answer::NotHeld;
                if let Some(own) = own(&work, id) {
                    answer = Answer::Done;
                    work.is_changed = true;
                    for taken in &work.holds.remove(own).parts {
                        work.settle(taken, &self.asked, cost)?;
                    }
                }
                work.look(&self.look)?
            }
            HoldAsk::Reserve { id, hold_us, .. } => {
                let longer_us = work.at_us.saturating_add(hold_us).min(Timestamp::MAX.as_micros());
                if let Some(own) = own(&work, id) {
                    answer = Answer::Kept;
                    until_us = work.holds[own].until_us.max(longer_us);
                    if work.holds[own].until_us < longer_us {
                        let hold = Held { until_us, ..work.holds.remove(own) };
                        work.hold(hold);
                    }
                    work.look(&self.look)?
                } else if work.holds.len() >= HOLDS_MAX || longer_us <= work.at_us {
                    answer = Answer::Full;
                    until_us = work.holds.first().map_or(0, |first| first.until_us);
                    work.look(&self.look)?
                } else {
                    let (verdict, parts) = work.take(&self.asked)?;
                    if !parts.is_empty() {
                        until_us = longer_us;
                        work.hold(Held { id: id.as_u128(), until_us, parts });
                    }
                    verdict
                }
            }
        };
        if !verdict.is_allowed() {
            answer = Answer::Denied;
        }
        Ok(Step { change: work.change(), output: HoldsFound { answer, until_us, verdict } })
    }

    fn encode_output(&self, output: &HoldsFound, out: &mut OutputBytes) {
        out.push(match output.answer {
            Answer::Denied => 0,
            Answer::Done => 1,
            Answer::NotHeld => 2,
            Answer::Full => 3,
            Answer::Kept => 4,
        });
        out.extend_from_slice(&output.until_us.to_be_bytes());
        self.look.encode_output(&output.verdict, out);
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<HoldsFound, Undecodable> {
        let (header, verdict) = bytes.split_at_checked(OUTPUT_HEADER_BYTES).ok_or_else(|| undecodable("output"))?;
        let answer = match header[0] {
            0 => Answer::Denied,
            1 => Answer::Done,
            2 => Answer::NotHeld,
            3 => Answer::Full,
            4 => Answer::Kept,
            _ => return Err(undecodable("output")),
        };
        let until_us = header.last_chunk().map_or(u64::MAX, |until| u64::from_be_bytes(*until));
        if until_us > Timestamp::MAX.as_micros() {
            return Err(undecodable("output"));
        }
        Ok(HoldsFound { answer, until_us, verdict: self.look.decode_output(verdict)? })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        let (ask, id, hold_us, cost) = match self.ask {
            HoldAsk::Take { cost } => (0, 0, 0, cost),
            HoldAsk::Reserve { id, cost, hold_us } => (1, id.as_u128(), hold_us, cost),
            HoldAsk::Settle { id, cost } => (2, id.as_u128(), 0, cost),
            HoldAsk::Look => (3, 0, 0, 0),
        };
        out.push(ask);
        out.extend_from_slice(&id.to_be_bytes());
        // Beyond the end of time all is the same, and numbers stay exact.
        out.extend_from_slice(&hold_us.min(Timestamp::MAX.as_micros()).to_be_bytes());
        out.extend_from_slice(&cost.to_be_bytes());
        for asked in &self.asked.asked {
            self.encode_rule(asked, out);
        }
    }
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
