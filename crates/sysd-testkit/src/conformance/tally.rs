//! The procedure that the suite runs, with its Lua twin.

use std::time::Duration;

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable};

/// The largest sum: what a double still counts exactly.
pub(super) const SUM_MAX: u64 = (1 << 53) - 1;

static TWIN: Script = Script { name: "conformance_tally", source: include_str!("tally.lua") };

/// Does something to a record, and answers what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    /// Keeps it.
    Look,
    /// Deletes it.
    Clear,
    /// Puts these bytes.
    Set(Vec<u8>, Option<Duration>),
    /// Adds to it: an empty state is zero; the sum stops at [`SUM_MAX`].
    Add(u64, Option<Duration>),
}

/// What a [`Tally`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: Option<Vec<u8>>,
    pub(super) now: Timestamp,
}

impl Seen {
    /// The sum in the state, zero where there is none.
    pub(super) fn sum(&self) -> u64 {
        let bytes = self.state.as_deref().and_then(|state| state.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    }
}

impl Tally {
    pub(super) const fn add(amount: u64) -> Self {
        Self::Add(amount, None)
    }

    pub(super) const fn set(bytes: Vec<u8>) -> Self {
        Self::Set(bytes, None)
    }

    /// With a time to live, where it puts something.
    pub(super) fn living(self, ttl: Duration) -> Self {
        match self {
            Self::Set(bytes, _) => Self::Set(bytes, Some(ttl)),
            Self::Add(amount, _) => Self::Add(amount, Some(ttl)),
            other => other,
        }
    }

    const fn undecodable(what: &'static str) -> Undecodable {
        Undecodable { procedure: "conformance_tally", what }
    }

    fn sum(state: Option<&[u8]>) -> Result<u64, Undecodable> {
        match state {
            None | Some([]) => Ok(0),
            Some(state) => {
                let bytes = state.try_into().map_err(|_| Self::undecodable("state"))?;
                Some(u64::from_be_bytes(bytes)).filter(|sum| *sum <= SUM_MAX).ok_or(Self::undecodable("state"))
            }
        }
    }
}

impl Procedure for Tally {
    type Output = Seen;

    fn name(&self) -> &'static str {
        TWIN.name
    }

    fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<Seen>, Undecodable> {
        let change = match self {
            Self::Look => StateChange::Keep,
            Self::Clear => StateChange::Delete,
            Self::Set(bytes, ttl) => StateChange::Put { state: StateBytes::from_slice(bytes), ttl: *ttl },
            Self::Add(amount, ttl) => {
                let sum = Self::sum(state)?.saturating_add(*amount).min(SUM_MAX);
                StateChange::Put { state: StateBytes::from_slice(&sum.to_be_bytes()), ttl: *ttl }
            }
        };
        Ok(Step { change, output: Seen { state: state.map(<[u8]>::to_vec), now } })
    }

    fn encode_output(&self, output: &Seen, out: &mut OutputBytes) {
        out.push(u8::from(output.state.is_some()));
        out.extend_from_slice(&output.now.as_micros().to_be_bytes());
        out.extend_from_slice(output.state.as_deref().unwrap_or_default());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<Seen, Undecodable> {
        let error = || Self::undecodable("output");
        let (present, rest) = bytes.split_first().ok_or_else(error)?;
        let (now, state) = rest.split_first_chunk::<8>().ok_or_else(error)?;
        let now = Timestamp::from_micros(u64::from_be_bytes(*now)).map_err(|_| error())?;
        Ok(Seen { state: (*present == 1).then(|| state.to_vec()), now })
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&TWIN)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        let (operation, ttl, rest) = match self {
            Self::Look => (0, None, Vec::new()),
            Self::Clear => (1, None, Vec::new()),
            Self::Set(bytes, ttl) => (2, *ttl, bytes.clone()),
            Self::Add(amount, ttl) => (3, *ttl, amount.to_be_bytes().to_vec()),
        };
        let ttl_us = ttl.map_or(0, |ttl| u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX));
        out.push(operation);
        out.push(u8::from(ttl.is_some()));
        out.extend_from_slice(&ttl_us.to_be_bytes());
        out.extend_from_slice(&rest);
    }
}
