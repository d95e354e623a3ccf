//! The slots of a key as a [`Procedure`]; `slots.lua` beside it is its twin, line for line.
//!
//! One record holds all holders, so that acquiring counts and takes in one step. Each has a deadline: what is leaked returns. Time
//! never goes back behind what was written, so a slot is held for as long as was asked, whatever the clock does behind it.

use std::time::Duration;

use sysd_core::lease::HolderId;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateChange, Step, Timestamp, Undecodable};

use crate::model::{Concurrency, Slot, SlotOutcome, SlotRelease, SlotRenewal, SlotUse};
use crate::procedure::life;
use crate::schema::slots::{self as schema, Held, State};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotAsk {
    /// So many slots for so long from now. Of who holds some the cost stays, and the deadline is no earlier.
    Acquire {
        /// How many, at least one.
        cost: u32,
        /// For how long, microseconds.
        hold_us: u64,
    },
    /// To hold on for so long from now, if it is held.
    Renew {
        /// For how long, microseconds.
        hold_us: u64,
    },
    /// To let go.
    Release,
    /// Who is there.
    Look,
}

/// Asks about the slots of a key, for one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AskSlots {
    limit: Concurrency,
    holder: u128,
    ask: SlotAsk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SlotAnswer {
    Denied,
    Held,
    Lost,
}

/// What [`AskSlots`] found, before it is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotsFound {
    pub(crate) answer: SlotAnswer,
    /// By the clock that decided.
    pub(crate) now_us: u64,
    /// How many are in use after it.
    pub(crate) in_use: u32,
    pub(crate) holders: u32,
    /// How many the holder has, or had until now.
    pub(crate) cost: u32,
    /// Until when the holder has them; of a denial, when as many will have returned.
    pub(crate) until_us: u64,
}

impl AskSlots {
    /// Asks for `holder`.
    pub const fn new(limit: Concurrency, holder: HolderId, ask: SlotAsk) -> Self {
        Self { limit, holder: holder.as_u128(), ask }
    }

    /// Looks, for nobody.
    pub const fn look(limit: Concurrency) -> Self {
        Self { limit, holder: 0, ask: SlotAsk::Look }
    }

    /// What the slots are doing.
    pub const fn usage(&self, found: &SlotsFound) -> SlotUse {
        SlotUse { limit: self.limit.slots(), in_use: found.in_use, holders: found.holders }
    }

    fn slot(&self, found: &SlotsFound) -> Option<Slot> {
        let holder = HolderId::from_u128(self.holder).filter(|_| found.answer == SlotAnswer::Held)?;
        let left = Duration::from_micros(found.until_us.saturating_sub(found.now_us));
        Some(Slot { holder, cost: found.cost, until: Timestamp::from_micros_saturating(found.until_us), left })
    }

    /// What acquiring came to.
    pub fn acquired(&self, found: &SlotsFound) -> SlotOutcome {
        let usage = self.usage(found);
        match (self.slot(found), self.ask) {
            (Some(slot), _) => SlotOutcome::Granted { slot, usage },
            (None, SlotAsk::Acquire { cost, .. }) if cost > self.limit.slots() => SlotOutcome::NeverAllowed { usage },
            (None, _) => {
                let retry_after = Duration::from_micros(found.until_us.saturating_sub(found.now_us));
                SlotOutcome::Denied { retry_after, usage }
            }
        }
    }

    /// What renewing came to.
    pub fn renewed(&self, found: &SlotsFound) -> SlotRenewal {
        self.slot(found).map_or(SlotRenewal::Lost, SlotRenewal::Held)
    }

    /// What releasing came to.
    pub fn released(&self, found: &SlotsFound) -> SlotRelease {
        self.slot(found).map_or(SlotRelease::Lost, |_| SlotRelease::Released)
    }
}

/// Decides at `now`: what was found, and the state to write if it changed (nobody left: it is removed).
fn decide(ask: &AskSlots, state: Option<State>, now: Timestamp) -> (SlotsFound, Option<State>) {
    let now_us = now.as_micros();
    let mut state = state.unwrap_or_default();
    // A clock that has gone back: time stands still until it has caught up.
    state.at_us = state.at_us.max(now_us);
    let at_us = state.at_us;
    state.held.retain(|held| held.until_us > at_us);
    let in_use = state.held.iter().map(|held| held.cost).sum();
    let holders = u32::try_from(state.held.len()).unwrap_or(u32::MAX);
    let own = state.held.iter().position(|held| held.holder == ask.holder);
    let mut found = SlotsFound { answer: SlotAnswer::Lost, now_us, in_use, holders, cost: 0, until_us: 0 };
    let limit = ask.limit.slots();
    let (cost, hold_us) = match ask.ask {
        SlotAsk::Look => return (found, None),
        SlotAsk::Release => {
            let Some(own) = own else { return (found, None) };
            let Held { cost, until_us, .. } = state.held.remove(own);
            found = SlotsFound {
                answer: SlotAnswer::Held,
                in_use: in_use - cost,
                holders: holders - 1,
                cost,
                until_us,
                ..found
            };
            return (found, Some(state));
        }
        SlotAsk::Renew { hold_us } => {
            if own.is_none() {
                return (found, None);
            }
            (0, hold_us)
        }
        SlotAsk::Acquire { cost, hold_us } => (cost, hold_us),
    };
    let until_us = at_us.saturating_add(hold_us).min(Timestamp::MAX.as_micros());
    // At the end of time nothing can be held.
    if own.is_none() && (in_use + cost.min(limit + 1) > limit || until_us <= at_us) {
        // When as many will have returned; never, if there are never so many.
        let mut freed = 0;
        let returned = state.held.iter().find(|held| {
            freed += held.cost;
            in_use - freed + cost.min(limit + 1) <= limit
        });
        found.answer = SlotAnswer::Denied;
        found.until_us = returned.map_or(0, |held| held.until_us);
        return (found, None);
    }
    let mut held = Held { holder: ask.holder, cost, until_us };
    if let Some(own) = own {
        let before = state.held.remove(own);
        held = Held { until_us: before.until_us.max(until_us), ..before };
    } else {
        found.in_use += cost;
        found.holders += 1;
    }
    let behind = state.held.partition_point(|other| other.until_us <= held.until_us);
    state.held.insert(behind, held);
    found = SlotsFound { answer: SlotAnswer::Held, cost: held.cost, until_us: held.until_us, ..found };
    (found, Some(state))
}

const NAME: &str = "slots";

static SCRIPT: Script = Script { name: NAME, source: include_str!("slots.lua") };

impl Procedure for AskSlots {
    type Output = SlotsFound;

    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<SlotsFound>, Undecodable> {
        let undecodable = Undecodable { procedure: NAME, what: "state" };
        let state = state.map(|bytes| schema::decode_state(bytes).ok_or(undecodable)).transpose()?;
        let (output, state) = decide(self, state, now);
        let change = match state {
            None => StateChange::Keep,
            Some(state) => match state.held.last() {
                None => StateChange::Delete,
                Some(last) => {
                    let ttl = life(now, last.until_us - now.as_micros());
                    StateChange::Put { state: schema::encode_state(&state), ttl }
                }
            },
        };
        Ok(Step { change, output })
    }

    fn encode_output(&self, output: &SlotsFound, out: &mut OutputBytes) {
        out.extend_from_slice(&schema::encode_output(output));
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<SlotsFound, Undecodable> {
        schema::decode_output(bytes).ok_or(Undecodable { procedure: NAME, what: "output" })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        let (ask, cost, hold_us) = match self.ask {
            SlotAsk::Acquire { cost, hold_us } => (0, cost, hold_us),
            SlotAsk::Renew { hold_us } => (1, 0, hold_us),
            SlotAsk::Release => (2, 0, 0),
            SlotAsk::Look => (3, 0, 0),
        };
        out.push(ask);
        out.extend_from_slice(&self.limit.slots().to_be_bytes());
        out.extend_from_slice(&cost.to_be_bytes());
        // Beyond the end of time all is the same, and numbers stay exact.
        out.extend_from_slice(&hold_us.min(Timestamp::MAX.as_micros()).to_be_bytes());
        out.extend_from_slice(&self.holder.to_be_bytes());
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
