//! What a replica knows: the machine, and where in the log it stands. Pure.

use bytes::Bytes;
use sysd_core::{DecodeError, Error, Key, Result, StateMachine, Timestamp};

use super::WriterId;
use super::entry::{Entry, Header, Kind};

/// The state after a prefix of the log.
///
/// Invariants: it is a function of the entries before `next` alone; `now` never goes back; while there is an owner, only
/// its entries change anything.
#[derive(Debug)]
pub(super) struct State<M> {
    pub(super) machine: M,
    /// The number of the first entry that was not applied.
    pub(super) next: u64,
    /// The time of the last entry.
    pub(super) now: Timestamp,
    /// How often the log was taken over.
    pub(super) epoch: u64,
    /// Who alone may append; `None`: everybody.
    pub(super) owner: Option<WriterId>,
}

const SNAPSHOT_FORMAT: u8 = 1;

impl<M: StateMachine + Default> Default for State<M> {
    fn default() -> Self {
        Self { machine: M::default(), next: 0, now: Timestamp::UNIX_EPOCH, epoch: 0, owner: None }
    }
}

impl<M: StateMachine> State<M> {
    /// Whether an entry of this kind by this writer would count.
    pub(super) fn admits(&self, writer: WriterId, kind: Kind) -> bool {
        match kind {
            Kind::Commands => self.owner.is_none_or(|owner| owner == writer),
            // Taking over needs nobody's leave: the owner may be dead.
            Kind::Fence => true,
            Kind::Release => self.owner == Some(writer),
        }
    }

    /// Applies the entry at `next`.
    ///
    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) if the machine can't read a command: then nothing was applied.
    pub(super) fn apply(&mut self, key: Key<'_>, entry: &Entry) -> Result<()> {
        let format = entry.header.machine_format;
        let decode = |command: Option<&[u8]>| {
            let command = command.ok_or(DecodeError { machine: M::NAME, format, what: "a command's length" });
            command.and_then(|bytes| M::decode_command(format, bytes))
        };
        let commands: Vec<M::Command> = entry
            .commands()
            .map(decode)
            .collect::<Result<_, DecodeError>>()
            .map_err(|error| Error::corrupt(key, error.to_string()))?;
        if self.advance(&entry.header) {
            for command in &commands {
                self.machine.apply(entry.header.now, command);
            }
        }
        Ok(())
    }

    /// Applies an entry whose commands are at hand, pushing their replies.
    pub(super) fn apply_own<'a>(
        &mut self,
        header: &Header,
        commands: impl Iterator<Item = &'a M::Command>,
        replies: &mut Vec<M::Reply>,
    ) {
        if self.advance(header) {
            replies.extend(commands.map(|command| self.machine.apply(header.now, command)));
        }
    }

    /// Moves behind an entry; answers whether its commands count.
    fn advance(&mut self, header: &Header) -> bool {
        let admitted = self.admits(header.writer, header.kind);
        self.next += 1;
        self.now = header.now;
        match header.kind {
            Kind::Fence => {
                self.epoch = header.epoch;
                self.owner = Some(header.writer);
            }
            Kind::Release if admitted => self.owner = None,
            Kind::Release | Kind::Commands => {}
        }
        admitted
    }

    /// The whole state as bytes: format (1), machine format (2), next (8), time (8), epoch (8), owner (16, zero: none),
    /// the machine's snapshot.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![SNAPSHOT_FORMAT];
        out.extend_from_slice(&M::FORMAT.to_be_bytes());
        out.extend_from_slice(&self.next.to_be_bytes());
        out.extend_from_slice(&self.now.as_micros().to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.owner.map_or(0, |owner| owner.0).to_be_bytes());
        self.machine.encode_snapshot(&mut out);
        out
    }

    /// # Errors
    /// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
    pub(super) fn decode(key: Key<'_>, bytes: &Bytes) -> Result<Self> {
        let corrupt = || Error::corrupt(key, "the snapshot's header makes no sense");
        let (&version, rest) = bytes.split_first().ok_or_else(corrupt)?;
        let (format, rest) = rest.split_first_chunk::<2>().ok_or_else(corrupt)?;
        let (next, rest) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let (now, rest) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let (owner, machine) = rest.split_first_chunk::<16>().ok_or_else(corrupt)?;
        if version != SNAPSHOT_FORMAT {
            return Err(Error::corrupt(key, "the snapshot's format is unknown; was it written by a newer version?"));
        }
        let machine = M::decode_snapshot(u16::from_be_bytes(*format), machine)
            .map_err(|error| Error::corrupt(key, error.to_string()))?;
        let owner = u128::from_be_bytes(*owner);
        Ok(Self {
            machine,
            next: u64::from_be_bytes(*next),
            now: Timestamp::from_micros(u64::from_be_bytes(*now)).map_err(|_| corrupt())?,
            epoch: u64::from_be_bytes(*epoch),
            owner: (owner != 0).then_some(WriterId(owner)),
        })
    }
}
