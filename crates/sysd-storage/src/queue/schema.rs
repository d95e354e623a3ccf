//! Where a queue's records lie and what they hold: the only place that builds its keys and rows.

use bytes::Bytes;
use sysd_core::queue::{DeadLetter, JobId, REASON_BYTES_MAX};
use sysd_core::{Entropy, Error, Key, KeyBytes, Result, Space, Timestamp, Version, tuple};

use super::state::{Input, Ticket};

pub(super) const SPACE: Space = Space::conditional("queue");
const NAME_BYTES_MAX: usize = 256;
const FORMAT: u8 = 1;

/// What minted ids begin with: then come bytes of their run, and last the job's place in it.
const MINTED: u8 = 0xFF;
const MINTED_BYTES: usize = 16;
/// How many jobs of one call get ids of one run.
const RUN_JOBS: u8 = 64;

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

/// Mints ids in runs: the jobs of a run lie in one shard, one behind the other, so that a store can write many at once.
#[derive(Debug, Default)]
pub(super) struct Minter {
    run: [u8; MINTED_BYTES],
    left: u8,
}

impl Minter {
    pub(super) fn mint(&mut self, entropy: &(impl Entropy + ?Sized)) -> JobId {
        if self.left == 0 {
            self.run = Version::mint(entropy).to_bytes();
            self.run[0] = MINTED;
            (self.run[MINTED_BYTES - 1], self.left) = (0, RUN_JOBS);
        }
        self.left -= 1;
        self.run[MINTED_BYTES - 1] += 1;
        JobId::from_slice(&self.run)
    }
}

/// Whether an id looks like one that was minted.
pub(super) fn may_be_minted(id: &JobId) -> bool {
    id.len() == MINTED_BYTES && id.first() == Some(&MINTED)
}

/// A queue's name, and with it the keys of its records.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    name: String,
    /// The partition of each shard's rows.
    rows: Vec<KeyBytes>,
}

impl Schema {
    pub(super) fn new(name: &str, shards: u16) -> Result<Self> {
        match name.len() {
            0 => Err(Error::invalid("name", "a queue's name has at least one byte")),
            size if size > NAME_BYTES_MAX => Err(Error::too_large("name", size, NAME_BYTES_MAX)),
            _ => {
                let rows = (0..shards).map(|shard| tuple::encode(&(name, ROWS, shard))).collect();
                Ok(Self { name: name.to_owned(), rows })
            }
        }
    }

    /// The shard of a job: by its id, on every machine and in every version the same.
    pub(super) fn shard_of(&self, id: &JobId) -> u16 {
        let shards = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let run = match id.as_slice() {
            [MINTED, run @ .., _] if id.len() == MINTED_BYTES => run,
            other => other,
        };
        u16::try_from(crc32fast::hash(run) % shards).unwrap_or_default()
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
    pub(super) fn rows(&self, shard: u16) -> &[u8] {
        self.rows.get(usize::from(shard)).map_or(&[], KeyBytes::as_slice)
    }

    /// The row of a job.
    pub(super) fn row(&self, shard: u16, ticket: &Ticket) -> Place {
        Place { partition: KeyBytes::from_slice(self.rows(shard)), sort: sort(ticket) }
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

/// The sort of a job's row.
pub(super) fn sort(ticket: &Ticket) -> KeyBytes {
    tuple::encode(&(ticket.lane, ticket.due.as_micros(), ticket.id.as_slice()))
}

/// The bounds of the rows of a lane that are due from `floor` to `now`.
pub(super) fn due_bounds(lane: u8, floor: Timestamp, now: Timestamp) -> (KeyBytes, KeyBytes) {
    let floor = floor.min(now).as_micros();
    (tuple::encode(&(lane, floor)), tuple::encode(&(lane, now.as_micros().saturating_add(1))))
}

pub(super) fn ticket_of(sort: &[u8]) -> Option<Ticket> {
    // An id without a zero stands there as it is.
    if let [lane, rest @ .., 0, 1] = sort
        && let Some((due, id)) = rest.split_first_chunk::<8>()
        && !id.contains(&0)
    {
        let due = Timestamp::from_micros(u64::from_be_bytes(*due)).ok()?;
        return Some(Ticket { lane: *lane, due, id: JobId::from_slice(id) });
    }
    let (lane, due, id) = tuple::decode::<(u8, u64, Vec<u8>)>(sort).ok()?;
    Some(Ticket { lane, due: Timestamp::from_micros(due).ok()?, id: JobId::from_slice(&id) })
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

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        if bytes.first().is_some_and(|&format| format > FORMAT) {
            return Err(Unreadable::Newer);
        }
        let mut input = Input(bytes);
        let read = |input: &mut Input<'_>| {
            (input.u8()? == FORMAT).then_some(())?;
            let attempts = u32::from_be_bytes(*input.array()?);
            Some((attempts, input.u8()? != 0))
        };
        let (attempts, is_marked) = read(&mut input).ok_or(Unreadable::Broken)?;
        Ok(Self { attempts, is_marked, payload: bytes.slice(bytes.len() - input.0.len()..) })
    }
}

/// Why the bytes of a row are no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A later version wrote them, and reads them.
    Newer,
    /// Nobody can read them.
    Broken,
}

/// A dead letter's row: format (1), attempts (4), whether there is a mark (1), lane (1), when it is put back (8, zero: not
/// yet), the reason's length (2), the reason, the payload. Of one that was put back the format alone is left.
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

    /// What is left of a dead letter that was put back.
    pub(super) const REPLAYED: Bytes = Bytes::from_static(&[FORMAT]);

    /// `None`: it was put back.
    pub(super) fn decode(key: Key<'_>, bytes: &Bytes) -> Result<Option<Self>> {
        if *bytes == Self::REPLAYED {
            return Ok(None);
        }
        Self::read(key.sort(), bytes).map(Some).ok_or_else(|| corrupt(key))
    }

    /// What can be told of a dead letter whose bytes make no sense, by its key: these bytes are the payload.
    pub(super) fn broken(sort: &[u8], bytes: &Bytes) -> Option<DeadLetter> {
        let (at, id) = tuple::decode::<(u64, Vec<u8>)>(sort).ok()?;
        let (at, id) = (Timestamp::from_micros(at).ok()?, JobId::from_slice(&id));
        let reason = "what is stored of it makes no sense, or is a newer version's".to_owned();
        Some(DeadLetter { id, at, attempts: 0, reason, lane: 0, payload: bytes.clone() })
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
        let (at, id) = (Timestamp::from_micros(at).ok()?, JobId::from_slice(&id));
        let letter = DeadLetter { id, at, attempts, reason, lane, payload };
        Some(Self { is_marked, replay_at: Some(replay_at).filter(|at| at.as_micros() != 0), letter })
    }
}

/// What is remembered of an id: format (1), what became of it (1), and of its last row lane (1) and due (8).
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
    /// The job is in the queue, in this row.
    pub(super) const fn open(lane: u8, due: Timestamp) -> Self {
        Self { fate: Fate::Open, lane, due }
    }

    /// Whether the job is in the queue, and in this row.
    pub(super) fn names(self, ticket: &Ticket) -> bool {
        self == Self::open(ticket.lane, ticket.due)
    }

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

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
