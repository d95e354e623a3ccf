//! The only place where stored formats are built. Numbers are LEB128 without a sign, ids 16 bytes, big-endian.

pub(crate) mod bytes;
mod command;
pub(crate) mod entry;
pub(crate) mod journal;
mod snapshot;

use sysd_core::{DecodeError, StateMachine, Timestamp};

use crate::logic::{Books, Command};
use crate::model::Reply;

/// What this code writes.
const FORMAT: u16 = 1;

impl StateMachine for Books {
    type Command = Command;
    type Reply = Reply;

    const NAME: &'static str = "ledger";
    const FORMAT: u16 = FORMAT;

    fn apply(&mut self, now: Timestamp, command: &Command) -> Reply {
        Self::apply(self, now, command)
    }

    fn encode_command(command: &Command, out: &mut Vec<u8>) {
        command::encode(command, out);
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<Command, DecodeError> {
        bytes::read::<Self, _>(format, bytes, command::decode)
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        snapshot::encode(self, out);
    }

    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes::read::<Self, _>(format, bytes, snapshot::decode)
    }
}
