//! Commands and their answers: the only place that builds a log's keys and entries.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;
use sysd_core::event::{Delivered, Event, EventId, Position, Start};
use sysd_core::{Effect, Error, ErrorKind, KeyBytes, Result, Timestamp};

use super::super::call::{Call, LuaScript};

/// Format byte, time, id.
pub(super) const HEAD_BYTES: usize = 1 + 8 + EventId::BYTES;
const FORMAT: u8 = 1;

pub(super) type Head = [u8; HEAD_BYTES];

/// What begins an entry.
pub(super) fn head(id: EventId, at: Timestamp) -> Head {
    let mut head = [0; HEAD_BYTES];
    head[0] = FORMAT;
    head[1..9].copy_from_slice(&at.as_micros().to_be_bytes());
    head[9..].copy_from_slice(&id.to_bytes());
    head
}

fn read_head(head: &[u8]) -> Option<(Head, Timestamp, EventId)> {
    let head: Head = head.try_into().ok().filter(|head: &Head| head[0] == FORMAT)?;
    let at = Timestamp::from_micros(u64::from_be_bytes(head[1..9].try_into().ok()?)).ok()?;
    Some((head, at, EventId::from_bytes(&head[9..])?))
}

/// The scripts.
pub(super) struct Scripts {
    append: Arc<LuaScript>,
    read: Arc<LuaScript>,
    commit: Arc<LuaScript>,
    release: Arc<LuaScript>,
    seek: Arc<LuaScript>,
    lag: Arc<LuaScript>,
    enroll: Arc<LuaScript>,
}

/// What a read comes to.
pub(super) enum Read {
    /// Somebody else owns the partition.
    Taken,
    /// It is the reader's.
    Mine(Mine),
    /// The group has no record there.
    NoGroup,
}

pub(super) struct Mine {
    pub(super) token: u64,
    /// The number that was next.
    pub(super) from: u64,
    pub(super) events: Vec<Delivered>,
    /// The head of the last event.
    pub(super) last: Option<Head>,
    /// There may be more, but it would have been too long.
    pub(super) is_cut: bool,
}

/// What a read wants.
pub(super) struct Want<'a> {
    pub(super) member: &'a str,
    pub(super) session_us: u64,
    pub(super) token: u64,
    pub(super) cursor: Option<(u64, Head)>,
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
}

/// Who commits.
pub(super) struct Commit<'a> {
    pub(super) member: &'a str,
    pub(super) session_us: u64,
    pub(super) token: u64,
    /// The last event that it was handed.
    pub(super) cursor: (u64, Head),
}

/// How far a group is in a partition: its next number, the lowest and the highest.
pub(super) struct Progress {
    pub(super) next: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Names of a log's keys, and the commands that use them.
pub(super) struct Wire {
    prefix: String,
    name: String,
    scripts: Scripts,
}

impl Wire {
    pub(super) fn new(prefix: &str, name: &str) -> Self {
        let script = |source: &str| Arc::new(LuaScript::new(source.to_owned()));
        let scripts = Scripts {
            append: script(include_str!("append.lua")),
            read: script(include_str!("read.lua")),
            commit: script(include_str!("commit.lua")),
            release: script(include_str!("release.lua")),
            seek: script(include_str!("seek.lua")),
            lag: script(include_str!("lag.lua")),
            enroll: script(include_str!("enroll.lua")),
        };
        Self { prefix: prefix.to_owned(), name: name.to_owned(), scripts }
    }

    fn stream(&self, partition: u32) -> String {
        format!("{}{{events:{}:{partition}}}", self.prefix, self.name)
    }

    fn group(&self, partition: u32, group: &str) -> String {
        format!("{}:{group}", self.stream(partition))
    }

    fn members(&self, group: &str) -> String {
        format!("{}{{events:{}}}:{group}:members", self.prefix, self.name)
    }

    /// Says how many partitions there are, unless that was said before; answers what was.
    pub(super) fn partitions(&self, partitions: u32) -> Call {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}{{events:{}}}:partitions", self.prefix, self.name));
        command.arg(partitions).arg("NX").arg("GET");
        Call::plain(command)
    }

    pub(super) fn append(&self, partition: u32, keep: u64, event: &Event, at: Timestamp) -> Call {
        let mut command = redis::Cmd::with_capacity(11, 128 + event.key.len() + event.bytes.len());
        command.arg(b"XADD").arg(self.stream(partition)).arg(b"MAXLEN").arg(b"~").arg(keep).arg(b"0-*");
        command.arg(b"m").arg(&head(event.id, at)[..]).arg(b"k").arg(&event.key[..]).arg(b"v").arg(&event.bytes[..]);
        Call::plain(command)
    }

    pub(super) fn append_many(&self, partition: u32, keep: u64, events: &[&Event], at: Timestamp) -> Call {
        let bytes: usize = events.iter().map(|event| HEAD_BYTES + event.key.len() + event.bytes.len()).sum();
        let mut call = Call::script(&self.scripts.append, 1, 1 + 3 * events.len(), 64 + bytes);
        call.command.arg(self.stream(partition)).arg(keep);
        for event in events {
            call.command.arg(&head(event.id, at)[..]).arg(&event.key[..]).arg(&event.bytes[..]);
        }
        call
    }

    pub(super) fn read(&self, partition: u32, group: &str, want: &Want<'_>) -> Call {
        let mut call = Call::script(&self.scripts.read, 2, 7, 256);
        call.command.arg(self.stream(partition)).arg(self.group(partition, group));
        call.command.arg(want.member).arg(want.session_us).arg(want.token);
        match &want.cursor {
            Some((number, head)) => call.command.arg(*number).arg(&head[..]),
            None => call.command.arg("").arg(""),
        };
        call.command.arg(want.events_max).arg(want.bytes_max);
        call
    }

    pub(super) fn commit(&self, at: Position, group: &str, want: &Commit<'_>) -> Call {
        let mut call = Call::script(&self.scripts.commit, 2, 6, 256);
        call.command.arg(self.stream(at.partition)).arg(self.group(at.partition, group));
        call.command.arg(want.member).arg(want.session_us).arg(want.token).arg(at.number.saturating_add(1));
        let (number, head) = &want.cursor;
        call.command.arg(*number).arg(&head[..]);
        call
    }

    pub(super) fn release(&self, partition: u32, group: &str, member: &str, token: u64) -> Call {
        let mut call = Call::script(&self.scripts.release, 1, 2, 192);
        call.command.arg(self.group(partition, group)).arg(member).arg(token);
        call
    }

    /// Begins the group (`is_new`) or moves it; `None` where `to` says nothing of this partition.
    pub(super) fn seek(&self, partition: u32, group: &str, is_new: bool, to: &Start) -> Option<Call> {
        let (kind, which) = match to {
            Start::Oldest => ("oldest", 0),
            Start::Newest => ("newest", 0),
            Start::Time(time) => ("time", time.as_micros()),
            Start::Positions(positions) => match positions.iter().find(|position| position.partition == partition) {
                Some(position) => ("number", position.number),
                None if is_new => ("oldest", 0),
                None => return None,
            },
        };
        let mut call = Call::script(&self.scripts.seek, 2, 3, 192);
        call.command.arg(self.stream(partition)).arg(self.group(partition, group));
        call.command.arg(if is_new { "begin" } else { "move" }).arg(kind).arg(which);
        Some(call)
    }

    pub(super) fn lag(&self, partition: u32, group: &str) -> Call {
        let mut call = Call::script(&self.scripts.lag, 2, 0, 128);
        call.command.arg(self.stream(partition)).arg(self.group(partition, group));
        call
    }

    /// Says that a member is alive, and asks who is; without one only asks.
    pub(super) fn enroll(&self, group: &str, member: &str, session_us: u64) -> Call {
        let mut call = Call::script(&self.scripts.enroll, 1, 2, 128);
        call.command.arg(self.members(group)).arg(member).arg(session_us);
        call
    }

    pub(super) fn retire(&self, group: &str, member: &str) -> Call {
        let mut command = redis::cmd("ZREM");
        command.arg(self.members(group)).arg(member);
        Call::plain(command)
    }
}

pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, Effect::Unknown, "Redis answered something else than a log's script does")
}

fn corrupt(partition: u32) -> Error {
    let message = format!("partition {partition} holds an entry that no log wrote; was it written by another program?");
    Error::new(ErrorKind::Corrupt, Effect::None, message)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

pub(super) fn read_number(value: &Value) -> Result<u64> {
    number(value).ok_or_else(unexpected)
}

pub(super) fn read_names(value: Value) -> Result<Vec<String>> {
    redis::from_redis_value(value).map_err(|_| unexpected())
}

pub(super) fn read_progress(value: &Value) -> Result<Option<Progress>> {
    let Value::Array(numbers) = value else { return Err(unexpected()) };
    match numbers.as_slice() {
        [] => Ok(None),
        [next, first, last] => {
            Ok(Some(Progress { next: read_number(next)?, first: read_number(first)?, last: read_number(last)? }))
        }
        _ => Err(unexpected()),
    }
}

/// Reads what a read answers.
pub(super) fn read_events(partition: u32, value: Value) -> Result<Read> {
    let Value::Array(parts) = value else { return Err(unexpected()) };
    let mut parts = parts.into_iter();
    match parts.next().as_ref().and_then(number) {
        Some(0) => return Ok(Read::Taken),
        Some(1) => {}
        Some(2) => return Ok(Read::NoGroup),
        _ => return Err(unexpected()),
    }
    let (Some(token), Some(from), Some(Value::Array(entries)), Some(is_cut)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unexpected());
    };
    let (token, from, is_cut) = (read_number(&token)?, read_number(&from)?, read_number(&is_cut)? == 1);
    let (mut events, mut last) = (Vec::with_capacity(entries.len()), None);
    for entry in entries {
        let (delivered, head) = read_entry(partition, entry).ok_or_else(|| corrupt(partition))?;
        events.push(delivered);
        last = Some(head);
    }
    Ok(Read::Mine(Mine { token, from, events, last, is_cut }))
}

fn read_entry(partition: u32, entry: Value) -> Option<(Delivered, Head)> {
    let Value::Array(entry) = entry else { return None };
    let [Value::BulkString(name), Value::Array(fields)] = <[Value; 2]>::try_from(entry).ok()? else { return None };
    let number = std::str::from_utf8(&name).ok()?.strip_prefix("0-")?.parse().ok()?;
    let [
        Value::BulkString(m),
        Value::BulkString(head),
        Value::BulkString(k),
        Value::BulkString(key),
        Value::BulkString(v),
        Value::BulkString(bytes),
    ] = <[Value; 6]>::try_from(fields).ok()?
    else {
        return None;
    };
    if [m.as_slice(), &k, &v] != [b"m", b"k", b"v"] {
        return None;
    }
    let (head, appended_at, id) = read_head(&head)?;
    let event = Event { id, key: KeyBytes::from_slice(&key), bytes: Bytes::from(bytes) };
    Some((Delivered { event, position: Position { partition, number }, appended_at }, head))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::Version;

    fn text(text: &[u8]) -> Value {
        Value::BulkString(text.to_vec())
    }

    fn entry(name: &str, fields: &[&[u8]]) -> Value {
        Value::Array(vec![text(name.as_bytes()), Value::Array(fields.iter().map(|field| text(field)).collect())])
    }

    #[test]
    fn reads_the_entries_that_it_wrote_and_refuses_others() {
        let id = EventId { version: Version::from_u128(3), index: 4 };
        let head = head(id, Timestamp::MAX);
        let answer =
            |entry| Value::Array(vec![Value::Int(1), text(b"7"), text(b"5"), Value::Array(vec![entry]), Value::Int(0)]);
        let Read::Mine(mine) = read_events(2, answer(entry("0-5", &[b"m", &head, b"k", b"\xff", b"v", b""]))).unwrap()
        else {
            panic!("it is mine")
        };
        let event = Event::new(id, b"\xff", "");
        let position = Position { partition: 2, number: 5 };
        assert_eq!(mine.events, [Delivered { event, position, appended_at: Timestamp::MAX }]);
        assert_eq!((mine.token, mine.from, mine.last, mine.is_cut), (7, 5, Some(head), false));
        let future = [&[9][..], &head[1..]].concat();
        for foreign in [
            entry("5-0", &[b"m", &head, b"k", b"", b"v", b""]),
            entry("0-5", &[b"m", &head, b"k", b""]),
            entry("0-5", &[b"x", &head, b"k", b"", b"v", b""]),
            entry("0-5", &[b"m", &head[1..], b"k", b"", b"v", b""]),
            entry("0-5", &[b"m", &future, b"k", b"", b"v", b""]),
        ] {
            let error = read_events(2, answer(foreign)).map(|_| ()).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None));
        }
        assert!(matches!(read_events(2, Value::Array(vec![Value::Int(0)])).unwrap(), Read::Taken));
        assert_eq!(read_events(2, Value::Okay).map(|_| ()).unwrap_err().kind(), ErrorKind::Internal);
    }
}
