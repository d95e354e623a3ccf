//! A state machine for tests: a bank of counters that keeps its whole history.

use std::collections::BTreeMap;

use sysd_core::{DecodeError, StateMachine, Timestamp};

/// Adds to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add {
    /// Names this command; the caller's to choose, and to keep unique.
    pub id: u64,
    /// Which counter.
    pub counter: u32,
    /// How much.
    pub amount: i64,
}

/// What adding answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// How many commands were applied before this one.
    pub position: u64,
    /// The counter's total, this command included; wraps.
    pub total: i64,
    /// The command's time.
    pub now: Timestamp,
}

/// A bank of counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    totals: BTreeMap<u32, i64>,
    journal: Vec<(Timestamp, Add)>,
}

impl Counters {
    /// A counter's total.
    pub fn total(&self, counter: u32) -> i64 {
        self.totals.get(&counter).copied().unwrap_or_default()
    }

    /// Everything that was applied, in order.
    pub fn journal(&self) -> &[(Timestamp, Add)] {
        &self.journal
    }
}

const ADD_BYTES: usize = 8 + 4 + 8;

fn read_add(bytes: &[u8]) -> Option<Add> {
    let (id, rest) = bytes.split_first_chunk::<8>()?;
    let (counter, rest) = rest.split_first_chunk::<4>()?;
    let amount = rest.try_into().ok()?;
    Some(Add { id: u64::from_be_bytes(*id), counter: u32::from_be_bytes(*counter), amount: i64::from_be_bytes(amount) })
}

impl StateMachine for Counters {
    type Command = Add;
    type Reply = Added;

    const NAME: &'static str = "counters";
    const FORMAT: u16 = 1;

    fn apply(&mut self, now: Timestamp, command: &Add) -> Added {
        let total = self.totals.entry(command.counter).or_default();
        *total = total.wrapping_add(command.amount);
        self.journal.push((now, *command));
        Added { position: self.journal.len() as u64 - 1, total: *total, now }
    }

    fn encode_command(command: &Add, out: &mut Vec<u8>) {
        out.extend_from_slice(&command.id.to_be_bytes());
        out.extend_from_slice(&command.counter.to_be_bytes());
        out.extend_from_slice(&command.amount.to_be_bytes());
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<Add, DecodeError> {
        let error = DecodeError { machine: Self::NAME, format, what: "a command of 20 bytes" };
        read_add(bytes).filter(|_| format == Self::FORMAT).ok_or(error)
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        for (now, command) in &self.journal {
            out.extend_from_slice(&now.as_micros().to_be_bytes());
            Self::encode_command(command, out);
        }
    }

    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let error = DecodeError { machine: Self::NAME, format, what: "a journal" };
        let mut counters = Self::default();
        for line in bytes.chunks(8 + ADD_BYTES) {
            let (now, command) = line.split_first_chunk::<8>().ok_or_else(|| error.clone())?;
            let now = Timestamp::from_micros(u64::from_be_bytes(*now)).map_err(|_| error.clone())?;
            counters.apply(now, &Self::decode_command(format, command)?);
        }
        Ok(counters)
    }
}
