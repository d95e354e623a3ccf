//! Where a queue's records lie and what they hold: the only place that builds its keys and rows.

use bytes::Bytes;
use sysd_core::queue::{DeadLetter, JobId, REASON_BYTES_MAX};
use sysd_core::{Error, Key, KeyBytes, Result, Space, Timestamp, tuple};

use super::state::{Input, Ticket};

pub(super) const SPACE: Space = Space::conditional("queue");
const NAME_BYTES_MAX: usize = 256;
const FORMAT: u8 = 1;

/// What rows hold beside the payload, at most; a dead letter's.
pub(super) const ROW_BYTES: usize = 1 + 4 + 1 + 1 + 8 + 2 + REASON_BYTES_MAX;

const HEAD: u8 = 0;
const SHARD: u8 = 1;
const ROWS: u8 = 2;
const MARK: u8 = 3;
const DEAD: u8 = 4;

/// The bytes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: KeyBytes,
    pub(super) sort: KeyBytes,
}

impl Place {
    pub(super) fn key(&self) -> Key<'_> {
        Key::row(SPACE, &self.partition, &self.sort)
    }
}

/// A queue's name, and with it the keys of its records.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    name: String,
}

impl Schema {
    pub(super) fn new(name: &str) -> Result<Self> {
        match name.len() {
            0 => Err(Error::invalid("name", "a queue's name has at least one byte")),
            size if size > NAME_BYTES_MAX => Err(Error::too_large("name", size, NAME_BYTES_MAX)),
            _ => Ok(Self { name: name.to_owned() }),
        }
    }

    fn lone(partition: KeyBytes) -> Place {
        Place { partition, sort: KeyBytes::new() }
    }

    /// The lone record of what is fixed.
    pub(super) fn head(&self) -> Place {
        Self::lone(tuple::encode(&(self.name.as_str(), HEAD)))
    }

    /// The lone record of a shard's jobs in flight.
    pub(super) fn shard(&self, shard: u16) -> Place {
        Self::lone(tuple::encode(&(self.name.as_str(), SHARD, shard)))
    }

    /// The partition of a shard's rows.
    pub(super) fn rows(&self, shard: u16) -> KeyBytes {
        tuple::encode(&(self.name.as_str(), ROWS, shard))
    }

    /// The row of a job.
    pub(super) fn row(&self, shard: u16, ticket: &Ticket) -> Place {
        Place { partition: self.rows(shard), sort: sort(ticket) }
    }

    /// The lone record that remembers an id.
    pub(super) fn mark(&self, id: &JobId) -> Place {
        Self::lone(tuple::encode(&(self.name.as_str(), MARK, id.as_slice())))
    }

    /// The partition of the dead letters.
    pub(super) fn graves(&self) -> KeyBytes {
        tuple::encode(&(self.name.as_str(), DEAD))
    }

    /// The row of a dead letter.
    pub(super) fn grave(&self, at: Timestamp, id: &JobId) -> Place {
        Place { partition: self.graves(), sort: tuple::encode(&(at.as_micros(), id.as_slice())) }
    }
}

fn sort(ticket: &Ticket) -> KeyBytes {
    tuple::encode(&(ticket.lane, ticket.due.as_micros(), ticket.id.as_slice()))
}

/// The bounds of the rows of a lane that are due from `floor` to `now`.
pub(super) fn due_bounds(lane: u8, floor: Timestamp, now: Timestamp) -> (KeyBytes, KeyBytes) {
    let floor = floor.min(now).as_micros();
    (tuple::encode(&(lane, floor)), tuple::encode(&(lane, now.as_micros().saturating_add(1))))
}

pub(super) fn ticket_of(sort: &[u8]) -> Option<Ticket> {
    let (lane, due, id) = tuple::decode::<(u8, u64, Vec<u8>)>(sort).ok()?;
    Some(Ticket { lane, due: Timestamp::from_micros(due).ok()?, id: JobId::from_vec(id) })
}

/// What a job's row holds: format (1), attempts (4), whether there is a mark (1), the payload.
pub(super) struct JobRow {
    pub(super) attempts: u32,
    pub(super) is_marked: bool,
    pub(super) payload: Bytes,
}

impl JobRow {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(6 + self.payload.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.attempts.to_be_bytes());
        out.push(u8::from(self.is_marked));
        out.extend_from_slice(&self.payload);
        out.into()
    }

    pub(super) fn decode(key: Key<'_>, bytes: &Bytes) -> Result<Self> {
        let mut input = Input(bytes);
        let read = |input: &mut Input<'_>| {
            (input.u8()? == FORMAT).then_some(())?;
            let attempts = u32::from_be_bytes(*input.array()?);
            Some((attempts, input.u8()? != 0))
        };
        let (attempts, is_marked) = read(&mut input).ok_or_else(|| corrupt(key))?;
        Ok(Self { attempts, is_marked, payload: bytes.slice(bytes.len() - input.0.len()..) })
    }
}

/// A dead letter's row: format (1), attempts (4), whether there is a mark (1), lane (1), when it is put back (8, zero: not
/// yet), the reason's length (2), the reason, the payload.
pub(super) struct Grave {
    pub(super) is_marked: bool,
    pub(super) replay_at: Option<Timestamp>,
    pub(super) letter: DeadLetter,
}

impl Grave {
    pub(super) fn encode(&self) -> Bytes {
        let letter = &self.letter;
        let mut out = Vec::with_capacity(32 + letter.reason.len() + letter.payload.len());
        out.push(FORMAT);
        out.extend_from_slice(&letter.attempts.to_be_bytes());
        out.push(u8::from(self.is_marked));
        out.push(letter.lane);
        out.extend_from_slice(&self.replay_at.map_or(0, Timestamp::as_micros).to_be_bytes());
        out.extend_from_slice(&u16::try_from(letter.reason.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(letter.reason.as_bytes());
        out.extend_from_slice(&letter.payload);
        out.into()
    }

    pub(super) fn decode(key: Key<'_>, bytes: &Bytes) -> Result<Self> {
        Self::read(key.sort(), bytes).ok_or_else(|| corrupt(key))
    }

    fn read(sort: &[u8], bytes: &Bytes) -> Option<Self> {
        let (at, id) = tuple::decode::<(u64, Vec<u8>)>(sort).ok()?;
        let mut input = Input(bytes);
        (input.u8()? == FORMAT).then_some(())?;
        let attempts = u32::from_be_bytes(*input.array()?);
        let (is_marked, lane) = (input.u8()? != 0, input.u8()?);
        let replay_at = input.time()?;
        let length = u16::from_be_bytes(*input.array()?).into();
        let reason = std::str::from_utf8(input.bytes(length)?).ok()?.to_owned();
        let payload = bytes.slice(bytes.len() - input.0.len()..);
        let (at, id) = (Timestamp::from_micros(at).ok()?, JobId::from_vec(id));
        let letter = DeadLetter { id, at, attempts, reason, lane, payload };
        Some(Self { is_marked, replay_at: Some(replay_at).filter(|at| at.as_micros() != 0), letter })
    }
}

/// What is remembered of an id: format (1), what became of it (1), lane (1), due (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) fate: Fate,
    pub(super) lane: u8,
    pub(super) due: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// In the queue.
    Open,
    /// Done.
    Done,
    /// Among the dead letters.
    Dead,
}

impl Mark {
    pub(super) fn encode(self) -> Bytes {
        let fate = match self.fate {
            Fate::Open => 0,
            Fate::Done => 1,
            Fate::Dead => 2,
        };
        let mut out = vec![FORMAT, fate, self.lane];
        out.extend_from_slice(&self.due.as_micros().to_be_bytes());
        out.into()
    }

    pub(super) fn decode(key: Key<'_>, bytes: &[u8]) -> Result<Self> {
        let read = || {
            let mut input = Input(bytes);
            (input.u8()? == FORMAT).then_some(())?;
            let fate = match input.u8()? {
                0 => Fate::Open,
                1 => Fate::Done,
                2 => Fate::Dead,
                _ => return None,
            };
            let mark = Self { fate, lane: input.u8()?, due: input.time()? };
            input.0.is_empty().then_some(mark)
        };
        read().ok_or_else(|| corrupt(key))
    }
}

/// What is fixed: format (1), shards (2), lanes (1).
pub(super) fn encode_head(shards: u16, lanes: u8) -> Bytes {
    let [high, low] = shards.to_be_bytes();
    vec![FORMAT, high, low, lanes].into()
}

pub(super) fn decode_head(key: Key<'_>, bytes: &[u8]) -> Result<(u16, u8)> {
    match *bytes {
        [FORMAT, high, low, lanes] => Ok((u16::from_be_bytes([high, low]), lanes)),
        _ => Err(corrupt(key)),
    }
}

pub(super) fn corrupt(key: Key<'_>) -> Error {
    Error::corrupt(key, "not a record of a queue, or of a newer version's")
}
