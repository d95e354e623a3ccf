//! The books as the simulation keeps them: with a mark on every command that says who asked, and a count of what was applied.
//! Marks never reach the books.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sysd_core::{DecodeError, Durability, Followed, Replicated, Result, StateMachine, Timestamp};
use sysd_ledger::logic::Bug;
use sysd_ledger::{Books, Command, Reply};
use sysd_storage::Replica;

thread_local! {
    /// The mistake that all books of this run make. A run stays on its thread.
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    /// Which asking the future belongs to that is being polled; zero: none.
    static ASKING: Cell<u64> = const { Cell::new(0) };
}

/// From here on books that this thread opens make this mistake.
pub(crate) fn set_bug(bug: Option<Bug>) {
    BUG.set(bug);
}

/// What is submitted while it is polled bears the number of this asking.
pub(crate) struct Asking<F> {
    number: u64,
    future: Pin<Box<F>>,
}

impl<F: Future> Asking<F> {
    pub(crate) fn new(number: u64, future: F) -> Self {
        Self { number, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Asking<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        ASKING.set(self.number);
        let answer = self.future.as_mut().poll(context);
        ASKING.set(0);
        answer
    }
}

/// A command, and which asking it is of.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) number: u64,
    pub(crate) command: Command,
}

/// Books, and how many commands they have seen.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) applied: u64,
    pub(crate) books: Books,
}

impl Kept {
    fn new(applied: u64, mut books: Books) -> Self {
        books.bug = BUG.get();
        Self { applied, books }
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self::new(0, Books::default())
    }
}

/// What stands before the books in a snapshot, and before a command.
pub(crate) const MARK_BYTES: usize = 8;

fn split(format: u16, bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let error = DecodeError { machine: Books::NAME, format, what: "a mark of 8 bytes" };
    bytes.split_first_chunk::<MARK_BYTES>().map(|(mark, rest)| (u64::from_be_bytes(*mark), rest)).ok_or(error)
}

impl StateMachine for Kept {
    type Command = Asked;
    type Reply = Reply;

    const NAME: &'static str = Books::NAME;
    const FORMAT: u16 = Books::FORMAT;

    fn apply(&mut self, now: Timestamp, asked: &Asked) -> Reply {
        self.applied += 1;
        self.books.apply(now, &asked.command)
    }

    fn encode_command(asked: &Asked, out: &mut Vec<u8>) {
        out.extend_from_slice(&asked.number.to_be_bytes());
        Books::encode_command(&asked.command, out);
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<Asked, DecodeError> {
        let (number, rest) = split(format, bytes)?;
        Ok(Asked { number, command: Books::decode_command(format, rest)? })
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.applied.to_be_bytes());
        self.books.encode_snapshot(out);
    }

    fn decode_snapshot(format: u16, bytes: &[u8]) -> Result<Self, DecodeError> {
        let (applied, rest) = split(format, bytes)?;
        Ok(Self::new(applied, Books::decode_snapshot(format, rest)?))
    }
}

/// What a replica's state is, as bytes.
pub(crate) fn encoded(kept: &Kept) -> Vec<u8> {
    let mut bytes = Vec::new();
    kept.encode_snapshot(&mut bytes);
    bytes
}

/// A replica of the kept books, as a ledger takes one.
#[derive(Clone, Debug)]
pub(crate) struct Log(pub(crate) Replica<Kept>);

impl Followed<Books> for Log {
    fn durability(&self) -> Durability {
        Followed::durability(&self.0)
    }

    async fn read_latest<R, F>(&self, read: F) -> Result<R>
    where
        R: Send,
        F: FnOnce(&Books) -> R + Send,
    {
        self.0.read_latest(|kept| read(&kept.books)).await
    }

    fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&Books) -> R) -> Result<R> {
        self.0.read_within(staleness_max, |kept| read(&kept.books))
    }
}

impl Replicated<Books> for Log {
    async fn submit(&self, command: Command) -> Result<Reply> {
        self.0.submit(Asked { number: ASKING.get(), command }).await
    }
}

/// Everything that a log says, applied from its beginning.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) steps: Vec<(Timestamp, Asked)>,
}

impl StateMachine for History {
    type Command = Asked;
    type Reply = ();

    const NAME: &'static str = Books::NAME;
    const FORMAT: u16 = Books::FORMAT;

    fn apply(&mut self, now: Timestamp, asked: &Asked) {
        self.steps.push((now, asked.clone()));
    }

    fn encode_command(asked: &Asked, out: &mut Vec<u8>) {
        Kept::encode_command(asked, out);
    }

    fn decode_command(format: u16, bytes: &[u8]) -> Result<Asked, DecodeError> {
        Kept::decode_command(format, bytes)
    }

    fn encode_snapshot(&self, _: &mut Vec<u8>) {}

    fn decode_snapshot(format: u16, _: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError { machine: Self::NAME, format, what: "the whole log was to be read" })
    }
}
