//! A lease's record, and how it is decided upon. Pure.
//!
//! The record: format (1), token (8), holder (16, zero: nobody), deadline (8), big-endian.

use std::time::Duration;

use sysd_core::lease::{FencingToken, HolderId, LeaseLost};
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

const FORMAT: u8 = 1;
const STATE_BYTES: usize = 33;

/// What is asked of a lease's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Hold it for so long, if nobody else does.
    Acquire(Duration),
    /// Hold on under this token for so long.
    Renew(FencingToken, Duration),
    /// Let go of it under this token.
    Release(FencingToken),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is held under this token.
    Held(FencingToken),
    /// Somebody else holds it, for so long.
    Taken(FencingToken, Duration),
    /// It is not held by who asks (any more), or was let go.
    Lost(LeaseLost),
}

/// A lease's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) token: u64,
    pub(super) holder: u128,
    pub(super) deadline: Timestamp,
}

/// Mistakes that a lease could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Takes what somebody else holds.
    TakeAnyway,
    /// Starts tokens anew after a release.
    RestartToken,
    /// Ends a lease before its deadline.
    EndEarly,
    /// Renews whoever holds it.
    RenewAnyToken,
    /// Does not recognise its own acquisition.
    ForgetHolder,
}

/// The procedure: one question by one holder.
#[derive(Clone, Copy, Debug)]
pub struct AskLease {
    /// Who asks.
    pub holder: HolderId,
    /// What.
    pub ask: Ask,
    /// How much longer than its lease the record stays.
    pub keep_for: Duration,
    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    pub bug: Option<Bug>,
}

static SCRIPT: Script = Script { name: "lease", source: include_str!("lease.lua") };

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl State {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&format, rest) = bytes.split_first()?;
        let (token, rest) = rest.split_first_chunk::<8>()?;
        let (holder, rest) = rest.split_first_chunk::<16>()?;
        let deadline = Timestamp::from_micros(u64::from_be_bytes(rest.try_into().ok()?)).ok()?;
        let token = u64::from_be_bytes(*token);
        let is_known = format == FORMAT && token <= Timestamp::MAX.as_micros();
        is_known.then_some(Self { token, holder: u128::from_be_bytes(*holder), deadline })
    }

    fn encode(self) -> StateBytes {
        let mut bytes = StateBytes::new();
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.token.to_be_bytes());
        bytes.extend_from_slice(&self.holder.to_be_bytes());
        bytes.extend_from_slice(&self.deadline.as_micros().to_be_bytes());
        debug_assert_eq!(bytes.len(), STATE_BYTES);
        bytes
    }
}

impl AskLease {
    #[cfg(feature = "seeded-bugs")]
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    #[expect(clippy::unused_self, reason = "as above, without the field")]
    const fn has(&self, _: Bug) -> bool {
        false
    }

    /// Decides: the record as it is to be (`None`: as it is), and the answer.
    pub(super) fn decide(&self, state: Option<State>, now: Timestamp) -> (Option<State>, Answer) {
        match self.ask {
            Ask::Acquire(hold) => self.decide_acquire(state, now, hold),
            Ask::Renew(token, hold) => self.decide_renew(state, now, token, hold),
            Ask::Release(token) => self.decide_release(state, now, token),
        }
    }

    fn decide_acquire(&self, state: Option<State>, now: Timestamp, hold: Duration) -> (Option<State>, Answer) {
        let holder = self.holder.as_u128();
        let until = now.saturating_add(hold);
        if let Some(state) = state.filter(|state| state.holder != 0 && self.is_live(state, now)) {
            if state.holder == holder && !self.has(Bug::ForgetHolder) {
                let longer = State { deadline: state.deadline.max(until), ..state };
                return (Some(longer), Answer::Held(FencingToken::from_u64(state.token)));
            }
            if !self.has(Bug::TakeAnyway) {
                let left = state.deadline.saturating_since(now);
                return (None, Answer::Taken(FencingToken::from_u64(state.token), left));
            }
        }
        // Not below the time: should the record be lost, the next token is higher all the same.
        let last = state.map_or(0, |state| state.token);
        let token = (last + 1).max(now.as_micros()).min(Timestamp::MAX.as_micros());
        let restarted = self.has(Bug::RestartToken) && state.is_none_or(|state| state.holder == 0);
        let token = if restarted { 1 } else { token };
        (Some(State { token, holder, deadline: until }), Answer::Held(FencingToken::from_u64(token)))
    }

    fn is_live(&self, state: &State, now: Timestamp) -> bool {
        let early = if self.has(Bug::EndEarly) { Duration::from_millis(3) } else { Duration::ZERO };
        now.saturating_add(early) < state.deadline
    }

    fn decide_renew(
        &self,
        state: Option<State>,
        now: Timestamp,
        token: FencingToken,
        hold: Duration,
    ) -> (Option<State>, Answer) {
        let Some(state) = state else { return (None, Answer::Lost(LeaseLost::Expired)) };
        if state.token != token.as_u64() && !self.has(Bug::RenewAnyToken) {
            return (None, Answer::Lost(LeaseLost::TakenOver { token: FencingToken::from_u64(state.token) }));
        }
        if state.holder == 0 {
            return (None, Answer::Lost(LeaseLost::Released));
        }
        if !self.is_live(&state, now) {
            return (None, Answer::Lost(LeaseLost::Expired));
        }
        let longer = State { deadline: state.deadline.max(now.saturating_add(hold)), ..state };
        (Some(longer), Answer::Held(token))
    }

    fn decide_release(&self, state: Option<State>, now: Timestamp, token: FencingToken) -> (Option<State>, Answer) {
        match state {
            None => (None, Answer::Lost(LeaseLost::Expired)),
            Some(state) if state.token != token.as_u64() => {
                (None, Answer::Lost(LeaseLost::TakenOver { token: FencingToken::from_u64(state.token) }))
            }
            Some(state) if state.holder == 0 => (None, Answer::Lost(LeaseLost::Released)),
            Some(state) if !self.is_live(&state, now) => (None, Answer::Lost(LeaseLost::Expired)),
            Some(state) => (Some(State { holder: 0, deadline: now, ..state }), Answer::Lost(LeaseLost::Released)),
        }
    }
}

impl Procedure for AskLease {
    type Output = Answer;

    fn name(&self) -> &'static str {
        "lease"
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<Answer>, Undecodable> {
        let error = Undecodable { procedure: "lease", what: "state" };
        let state = state.map(|bytes| State::decode(bytes).ok_or(error)).transpose()?;
        let (next, output) = self.decide(state, now);
        let change = next.map_or(StateChange::Keep, |next| {
            // Beyond the end of time the record stays for ever.
            let ends = next.deadline.checked_add(self.keep_for);
            StateChange::Put { state: next.encode(), ttl: ends.map(|ends| ends.saturating_since(now)) }
        });
        Ok(Step { change, output })
    }

    fn encode_output(&self, output: &Answer, out: &mut OutputBytes) {
        let (tag, token, left_us) = match *output {
            Answer::Held(token) => (0, token.as_u64(), 0),
            Answer::Taken(token, left) => (1, token.as_u64(), micros(left)),
            Answer::Lost(LeaseLost::Expired) => (2, 0, 0),
            Answer::Lost(LeaseLost::Released) => (3, 0, 0),
            Answer::Lost(LeaseLost::TakenOver { token }) => (4, token.as_u64(), 0),
        };
        out.push(tag);
        out.extend_from_slice(&token.to_be_bytes());
        out.extend_from_slice(&left_us.to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<Answer, Undecodable> {
        let error = Undecodable { procedure: "lease", what: "output" };
        let (&tag, rest) = bytes.split_first().ok_or(error.clone())?;
        let (token, rest) = rest.split_first_chunk::<8>().ok_or(error.clone())?;
        let left_us = u64::from_be_bytes(rest.try_into().map_err(|_| error.clone())?);
        let token = FencingToken::from_u64(u64::from_be_bytes(*token));
        match tag {
            0 => Ok(Answer::Held(token)),
            1 => Ok(Answer::Taken(token, Duration::from_micros(left_us))),
            2 => Ok(Answer::Lost(LeaseLost::Expired)),
            3 => Ok(Answer::Lost(LeaseLost::Released)),
            4 => Ok(Answer::Lost(LeaseLost::TakenOver { token })),
            _ => Err(error),
        }
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&SCRIPT)
    }

    /// What is asked (1), holder (16), token (8), hold (8, microseconds), keep (8).
    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        let longest = Timestamp::MAX.as_micros();
        let (tag, token, hold) = match self.ask {
            Ask::Acquire(hold) => (0, 0, hold),
            Ask::Renew(token, hold) => (1, token.as_u64(), hold),
            Ask::Release(token) => (2, token.as_u64(), Duration::ZERO),
        };
        out.push(tag);
        out.extend_from_slice(&self.holder.as_u128().to_be_bytes());
        out.extend_from_slice(&token.to_be_bytes());
        // Rounded up, as adding to a timestamp does.
        let rounded = |span: Duration| Timestamp::UNIX_EPOCH.saturating_add(span).as_micros().min(longest);
        out.extend_from_slice(&rounded(hold).to_be_bytes());
        out.extend_from_slice(&rounded(self.keep_for).to_be_bytes());
    }
}
