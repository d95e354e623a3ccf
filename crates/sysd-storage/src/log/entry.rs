//! The stored form of a log entry.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format, 1 |
//! | 1 | kind: 0 commands, 1 fence, 2 release |
//! | 2 | the machine's format |
//! | 16 | the writer |
//! | 8 | the time, microseconds since 1970 |
//! | 8 | the epoch |
//! | 4 | how many commands |
//! | … | each command: 4 bytes of length, its bytes |
//! | 4 | CRC-32 of the entry's number (8 bytes) and all of the above |
//!
//! Integers are big-endian.

use bytes::{BufMut as _, Bytes, BytesMut};
use sysd_core::{Error, Key, Result, Timestamp};

use super::WriterId;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 1 + 2 + 16 + 8 + 8 + 4;
const CHECKSUM_BYTES: usize = 4;

/// What an entry takes besides its commands.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + CHECKSUM_BYTES;

/// What a command takes besides its bytes.
pub(super) const COMMAND_OVERHEAD_BYTES: usize = 4;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Commands for the machine.
    Commands,
    /// Its writer takes over: from here on only it appends.
    Fence,
    /// The owner lets go: from here on everybody appends.
    Release,
}

/// What stands before an entry's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) machine_format: u16,
    pub(super) writer: WriterId,
    pub(super) now: Timestamp,
    pub(super) epoch: u64,
    pub(super) count: u32,
}

/// An entry as it was read.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) header: Header,
    body: Bytes,
}

fn checksum(number: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Appends a command to a body. `None`, and the body as it was, if it has 4 GiB or more.
pub(super) fn push_command(body: &mut Vec<u8>, command: &[u8]) -> Option<()> {
    let size = u32::try_from(command.len()).ok()?;
    body.extend_from_slice(&size.to_be_bytes());
    body.extend_from_slice(command);
    Some(())
}

pub(super) fn encode(number: u64, header: &Header, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(OVERHEAD_BYTES + body.len());
    out.put_u8(FORMAT);
    out.put_u8(match header.kind {
        Kind::Commands => 0,
        Kind::Fence => 1,
        Kind::Release => 2,
    });
    out.put_u16(header.machine_format);
    out.put_u128(header.writer.0);
    out.put_u64(header.now.as_micros());
    out.put_u64(header.epoch);
    out.put_u32(header.count);
    out.put_slice(body);
    out.put_u32(checksum(number, &out));
    out.freeze()
}

/// # Errors
/// [`Corrupt`](sysd_core::ErrorKind::Corrupt) with the key.
pub(super) fn decode(key: Key<'_>, number: u64, value: &Bytes) -> Result<Entry> {
    let corrupt = |what| Error::corrupt(key, what);
    let Some((rest, stored)) = value.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(corrupt("the log entry is cut short"));
    };
    if rest.first() != Some(&FORMAT) {
        return Err(corrupt("the log entry's format is unknown; was it written by a newer version?"));
    }
    if checksum(number, rest) != u32::from_be_bytes(*stored) {
        return Err(corrupt("the log entry's checksum is wrong"));
    }
    let header = decode_header(rest).ok_or_else(|| corrupt("the log entry's header makes no sense"))?;
    let entry = Entry { header, body: value.slice(HEADER_BYTES..value.len() - CHECKSUM_BYTES) };
    if count(&entry.body) != Some(header.count as usize) {
        return Err(corrupt("the log entry does not hold the commands that it counts"));
    }
    Ok(entry)
}

fn decode_header(bytes: &[u8]) -> Option<Header> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let (machine_format, rest) = rest.split_first_chunk::<2>()?;
    let (writer, rest) = rest.split_first_chunk::<16>()?;
    let (now, rest) = rest.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    let kind = match head[1] {
        0 => Kind::Commands,
        1 => Kind::Fence,
        2 => Kind::Release,
        _ => return None,
    };
    Some(Header {
        kind,
        machine_format: u16::from_be_bytes(*machine_format),
        writer: WriterId(u128::from_be_bytes(*writer)),
        now: Timestamp::from_micros(u64::from_be_bytes(*now)).ok()?,
        epoch: u64::from_be_bytes(*epoch),
        count: u32::from_be_bytes(*count),
    })
}

impl Entry {
    /// The bytes of its commands; `None` where the lengths don't add up.
    pub(super) fn commands(&self) -> impl Iterator<Item = Option<&[u8]>> {
        commands(&self.body)
    }
}

fn commands(mut rest: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((command, behind)) = rest
            .split_first_chunk::<COMMAND_OVERHEAD_BYTES>()
            .and_then(|(size, behind)| behind.split_at_checked(u32::from_be_bytes(*size) as usize))
        else {
            rest = &[];
            return Some(None);
        };
        rest = behind;
        Some(Some(command))
    })
}

/// How many commands a body holds; `None` if the lengths don't add up.
pub(super) fn count(body: &[u8]) -> Option<usize> {
    commands(body).try_fold(0, |count, command| command.map(|_| count + 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use sysd_core::{ErrorKind, Space};

    const KEY: Key<'_> = Key::lone(Space::conditional("log"), b"k");

    fn header(count: u32) -> Header {
        let now = Timestamp::from_micros(1_700_000_000_000_000).unwrap();
        Header { kind: Kind::Commands, machine_format: 3, writer: WriterId(0xABCD), now, epoch: 9, count }
    }

    fn body(commands: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for command in commands {
            push_command(&mut body, command).unwrap();
        }
        body
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(commands in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)) {
            let header = header(u32::try_from(commands.len()).unwrap());
            let entry = decode(KEY, 5, &encode(5, &header, &body(&commands))).unwrap();
            prop_assert_eq!(entry.header, header);
            let read: Option<Vec<_>> = entry.commands().map(|command| command.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(read, Some(commands));
        }

        #[test]
        fn any_changed_byte_is_found(at in 0..64_usize, bit in 0..8) {
            let mut bytes = encode(5, &header(1), &body(&[b"command".to_vec()])).to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            prop_assert_eq!(decode(KEY, 5, &bytes.into()).unwrap_err().kind(), ErrorKind::Corrupt);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(decode(KEY, 5, &bytes.into()).is_err());
        }
    }

    #[test]
    fn an_entry_at_another_number_is_refused() {
        let bytes = encode(5, &header(0), &[]);
        assert!(decode(KEY, 5, &bytes).is_ok());
        assert_eq!(decode(KEY, 6, &bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_body_is_counted() {
        assert_eq!(count(&body(&[b"one".to_vec(), Vec::new()])), Some(2));
        assert_eq!(count(&[]), Some(0));
        assert_eq!(count(&[0, 0, 0, 9, 1]), None);
        assert_eq!(count(&[0, 0]), None);
    }

    #[test]
    fn a_wrong_count_is_refused() {
        assert!(decode(KEY, 5, &encode(5, &header(2), &body(&[b"one".to_vec()]))).is_err());
        assert!(decode(KEY, 5, &encode(5, &header(1), &[0, 0, 0, 9, 1])).is_err());
    }
}
