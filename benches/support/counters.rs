//! A state machine for benches.

use sysd_core::{DecodeError, StateMachine, Timestamp};

/// A thousand counters: 12 bytes a command, 8 a reply.
pub(crate) struct Counters(Vec<i64>);

impl Default for Counters {
    fn default() -> Self {
        Self(vec![0; 1_024])
    }
}

impl StateMachine for Counters {
    type Command = (u32, i64);
    type Reply = i64;

    const NAME: &'static str = "bench";
    const FORMAT: u16 = 1;

    fn apply(&mut self, _: Timestamp, &(counter, amount): &(u32, i64)) -> i64 {
        let total = &mut self.0[counter as usize % 1_024];
        *total = total.wrapping_add(amount);
        *total
    }

    fn encode_command((counter, amount): &(u32, i64), out: &mut Vec<u8>) {
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&amount.to_be_bytes());
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<(u32, i64), DecodeError> {
        let error = DecodeError { machine: Self::NAME, format, what: "12 bytes" };
        let (counter, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| error.clone())?;
        Ok((u32::from_be_bytes(*counter), i64::from_be_bytes(rest.try_into().map_err(|_| error)?)))
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|total| out.extend_from_slice(&total.to_be_bytes()));
    }

    fn decode_snapshot(_: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(bytes.chunks(8).map(|total| total.try_into().map(i64::from_be_bytes).unwrap_or_default()).collect()))
    }
}
