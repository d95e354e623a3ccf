//! State machines: large state, exact, at memory speed, made durable by a shared log.

use std::future::Future;
use std::time::Duration;

use crate::{Durability, Result as CallResult, Timestamp};

/// Bytes of a command or snapshot that can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{machine} format {format} can't be decoded: {what}")]
pub struct DecodeError {
    /// [`StateMachine::NAME`].
    pub machine: &'static str,
    /// The format that the bytes claim.
    pub format: u16,
    /// What is wrong.
    pub what: &'static str,
}

/// A pure, deterministic machine: the same commands at the same times give the same state and replies on every replica.
///
/// `apply` must use no clock, no randomness, no iteration order of a hash map, no floating point that differs by machine:
/// what a command needs, it carries. A refusal (insufficient funds) is a reply.
///
/// # Panics
/// Nothing here should panic. A log survives one all the same: in `encode_command` it ends the submission, of which nothing
/// was written; in the others it ends the driver, or the opening, that called. One in `apply` may leave its replica's state
/// half changed, and comes again wherever the command is applied: then no replica can get past its entry.
///
/// # Formats
/// Commands and snapshots are stored for ever. [`StateMachine::FORMAT`] is what this code writes; the decoders are told the
/// format that was written and must read every one that ever shipped, with the same meaning.
pub trait StateMachine: Send + Sync + Sized + 'static {
    /// What is asked of it.
    type Command: Send + Sync + 'static;
    /// What it answers.
    type Reply: Send + 'static;

    /// Its name, stored with the log, so that no machine reads another's.
    const NAME: &'static str;
    /// The format of the commands and snapshots that this code writes.
    const FORMAT: u16;

    /// Applies one command. `now` never goes back in a log.
    fn apply(&mut self, now: Timestamp, command: &Self::Command) -> Self::Reply;

    /// Appends the command's bytes, in [`StateMachine::FORMAT`].
    fn encode_command(command: &Self::Command, out: &mut Vec<u8>);

    /// Reads a command; the bytes are exactly one.
    ///
    /// # Errors
    /// [`DecodeError`] if they are not.
    fn decode_command(format: u16, bytes: &[u8]) -> Result<Self::Command, DecodeError>;

    /// Appends the whole state, in [`StateMachine::FORMAT`], the same bytes for the same state.
    fn encode_snapshot(&self, out: &mut Vec<u8>);

    /// Reads a whole state.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not one.
    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// A state machine that somebody keeps up with its log: what a domain reads, without knowing who that is. Clones share it.
///
/// The `Replica` and the `Follower` of `sysd-storage` are such, on any store.
pub trait Followed<M: StateMachine>: Clone + Send + Sync + 'static {
    /// What becomes of commands that were answered.
    fn durability(&self) -> Durability;

    /// Reads the state, with everything in it that was answered anywhere before this was called. Nothing is applied while `read`
    /// runs. It ends by a deadline of the keeper's, as long as the future that does its work is polled.
    ///
    /// # Errors
    /// If it can't be known what was answered; nothing is changed by any.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    fn read_latest<R, F>(&self, read: F) -> impl Future<Output = CallResult<R>> + Send
    where
        R: Send,
        F: FnOnce(&M) -> R + Send;

    /// Reads the state as it is here, if everything is in it that was answered until `staleness_max` ago.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if not, saying how long ago it was.
    fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&M) -> R) -> CallResult<R>;
}

/// A state machine that somebody keeps durable: what the shell of a domain asks, without knowing who that is.
///
/// The `Replica` of `sysd-storage` is one, on any store.
pub trait Replicated<M: StateMachine>: Followed<M> {
    /// Makes a command durable, applies it, and answers the machine's reply. It ends by a deadline of the keeper's, as long as the future
    /// that does its work is polled.
    ///
    /// # Errors
    /// Without effect it was not applied and never will be; with an unknown one it may be applied once, now or later, and never twice.
    ///
    /// # Cancel safety
    /// The command may be applied all the same.
    fn submit(&self, command: M::Command) -> impl Future<Output = CallResult<M::Reply>> + Send;
}
