//! Calls of the store as commands, and their answers.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use redis::{Cmd, Value};
use sysd_core::{
    ArgumentBytes, Change, Clock, ClockAuthority, Effect, ErasedProcedure, Error, ErrorKind, Expect, Keep, Key, Limits,
    Order, Outcome, OutputBytes, Page, Record, Result, Row, Scan, Script, Timestamp, Trim, Trimmed, Version, Write,
};

use super::call::{Call, LuaScript};
use super::error::Access;
use super::layout::{self, HEADER_BYTES, Name, Stored};

const RECLAIM_GRACE: Duration = Duration::from_secs(60);
const RECLAIM_GRACE_DRIVEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Turns calls into commands and answers into what was asked for.
pub(super) struct Codec<C> {
    prefix: String,
    clock: C,
    limits: Limits,
    get: Arc<LuaScript>,
    write: Arc<LuaScript>,
    scan: Arc<LuaScript>,
    trim: Arc<LuaScript>,
    /// The procedures' scripts as this store runs them.
    updates: RwLock<HashMap<&'static Script, Arc<LuaScript>>>,
}

impl<C: Clock> Codec<C> {
    pub(super) fn new(prefix: String, clock: C, limits: Limits) -> Self {
        let prelude = include_str!("store.lua");
        let script = |body: &str| Arc::new(LuaScript::new(format!("{prelude}\n{body}")));
        Self {
            prefix,
            clock,
            limits,
            get: script(include_str!("get.lua")),
            write: script(include_str!("write.lua")),
            scan: script(include_str!("scan.lua")),
            trim: script(include_str!("trim.lua")),
            updates: RwLock::default(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn is_server_time(&self) -> bool {
        self.limits.clock == ClockAuthority::Server
    }

    /// The time by this store's clock, `None` where the server's counts.
    fn now(&self) -> Option<Timestamp> {
        (!self.is_server_time()).then(|| self.clock.now())
    }

    fn grace(&self) -> Duration {
        if self.is_server_time() || self.clock.is_real_time() { RECLAIM_GRACE } else { RECLAIM_GRACE_DRIVEN }
    }

    fn grace_ms(&self) -> &'static [u8] {
        if self.grace() == RECLAIM_GRACE { b"60000" } else { b"86400000" }
    }

    /// A script with its keys and the time, which is empty where the server's counts.
    fn script(&self, script: &Arc<LuaScript>, key: Key<'_>, arguments: usize, bytes: usize) -> Call {
        let (names, name_bytes) = if key.is_lone() { (1, 48) } else { (2, 96) };
        let bytes = bytes + (self.prefix.len() + key.partition().len()) * names + name_bytes;
        let mut call = Call::script(script, names, 1 + arguments, bytes);
        if key.is_lone() {
            call.command.arg(Name::lone(&self.prefix, key));
        } else {
            call.command.arg(Name::rows(&self.prefix, key)).arg(Name::order(&self.prefix, key));
        }
        match self.now() {
            Some(now) => call.command.arg(layout::time(Some(now)).as_slice()),
            None => call.command.arg(b""),
        };
        call
    }

    pub(super) fn get(&self, key: Key<'_>) -> Result<Call> {
        self.limits.check_key(key)?;
        if self.is_server_time() {
            let mut call = self.script(&self.get, key, 1, key.sort().len());
            call.command.arg(key.sort());
            return Ok(call);
        }
        let mut command = Cmd::with_capacity(3, 64 + self.prefix.len() + key.partition().len() + key.sort().len());
        if key.is_lone() {
            command.arg(b"GET").arg(Name::lone(&self.prefix, key));
        } else {
            command.arg(b"HGET").arg(Name::rows(&self.prefix, key)).arg(key.sort());
        }
        Ok(Call::plain(command))
    }

    pub(super) fn read_get(&self, key: Key<'_>, answer: Value) -> Result<Option<Record>> {
        match answer {
            Value::Nil | Value::Boolean(false) => Ok(None),
            Value::BulkString(bytes) => {
                let record = layout::decode(key, bytes.into())?;
                // By the server's time the script has looked already.
                let is_expired = record.expires_at.is_some() && self.now().is_some_and(|now| record.is_expired(now));
                Ok((!is_expired).then_some(record))
            }
            _ => Err(unexpected(key, Access::Read)),
        }
    }

    pub(super) fn write(&self, write: &Write<'_>) -> Result<Call> {
        let now = self.now();
        // What has expired by the server's clock, the script refuses.
        self.limits.check_write(write, now.unwrap_or_default())?;
        let key = write.key;
        let stored = match &write.change {
            Change::Put { value, version, expires_at } => {
                Some(Stored { value, version: *version, expires_at: *expires_at })
            }
            Change::Delete => None,
        };
        let expires_at = stored.as_ref().and_then(|stored| stored.expires_at);
        if write.expect == Expect::Any && key.is_lone() && (expires_at.is_none() || now.is_some()) {
            return Ok(self.write_lone(key, stored.as_ref(), now));
        }
        let value_bytes = stored.as_ref().map_or(0, |stored| HEADER_BYTES + stored.value.len());
        let mut call = self.script(&self.write, key, 4, 32 + value_bytes + key.sort().len());
        let command = &mut call.command;
        match write.expect {
            Expect::Any => command.arg(b"any"),
            Expect::Absent => command.arg(b"absent"),
            Expect::Is(version) => {
                let mut expect = [b'i'; 17];
                expect[1..].copy_from_slice(&version.to_bytes());
                command.arg(expect.as_slice())
            }
        };
        match stored {
            Some(stored) => command.arg(stored),
            None => command.arg(b""),
        };
        command.arg(self.grace_ms()).arg(key.sort());
        Ok(call)
    }

    /// One command does for a lone record without a condition.
    fn write_lone(&self, key: Key<'_>, stored: Option<&Stored<'_>>, now: Option<Timestamp>) -> Call {
        let value_bytes = stored.map_or(0, |stored| stored.value.len());
        let bytes = 96 + self.prefix.len() + key.partition().len() + value_bytes;
        let mut command = Cmd::with_capacity(5, bytes);
        match stored {
            None => {
                command.arg(b"DEL").arg(Name::lone(&self.prefix, key));
            }
            Some(stored) => {
                command.arg(b"SET").arg(Name::lone(&self.prefix, key)).arg(stored);
                if let (Some(at), Some(now)) = (stored.expires_at, now) {
                    let life = at.saturating_since(now) + self.grace();
                    command.arg(b"PX").arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
                }
            }
        }
        Call::plain(command)
    }

    /// `None` where the range has room for no row.
    pub(super) fn scan(&self, scan: &Scan<'_>) -> Result<Option<Call>> {
        self.limits.check_scan(scan)?;
        if scan.is_empty_range() {
            return Ok(None);
        }
        let rows = scan.limit.min(self.limits.page_rows_max);
        let (low, high) = (lex(scan.start, b"-"), lex(scan.end, b"+"));
        let (first, second, direction) = match scan.order {
            Order::Ascending => (low, high, b"".as_slice()),
            Order::Descending => (high, low, b"rev".as_slice()),
        };
        let row = any_row(scan.space, scan.partition);
        let mut call = self.script(&self.scan, row, 4, 32 + first.len() + second.len());
        call.command.arg(first).arg(second).arg(rows).arg(direction);
        Ok(Some(call))
    }

    pub(super) fn trim(&self, trim: &Trim<'_>) -> Result<Call> {
        self.limits.check_trim(trim)?;
        let (keep, direction) = match trim.keep {
            Keep::First(keep) => (keep, b"".as_slice()),
            Keep::Last(keep) => (keep, b"rev".as_slice()),
        };
        let mut call = self.script(&self.trim, any_row(trim.space, trim.partition), 3, 32);
        call.command.arg(keep).arg(self.limits.page_rows_max).arg(direction);
        Ok(call)
    }

    pub(super) fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<Call> {
        self.limits.check_update(key)?;
        let script = procedure.script().ok_or_else(|| {
            let message = format!("procedure {} has no Lua twin, so Redis can't run it", procedure.name());
            Error::new(ErrorKind::Unsupported, Effect::None, message)
        })?;
        let mut arguments = ArgumentBytes::new();
        procedure.encode_arguments(&mut arguments);
        let version = Version::random().to_bytes();
        let mut call = self.script(&self.update_script(script), key, 4, 40 + arguments.len() + key.sort().len());
        call.command.arg(version.as_slice()).arg(arguments.as_slice()).arg(self.grace_ms()).arg(key.sort());
        Ok(call)
    }

    fn update_script(&self, script: &'static Script) -> Arc<LuaScript> {
        if let Some(known) = self.updates.read().get(script) {
            return Arc::clone(known);
        }
        let (prelude, source) = (include_str!("store.lua"), script.source);
        let body = include_str!("update.lua");
        let wrapped = format!("{prelude}\nlocal apply = (function()\n{source}\nend)()\n{body}");
        let made = Arc::new(LuaScript::new(wrapped));
        Arc::clone(self.updates.write().entry(script).or_insert(made))
    }
}

pub(super) fn read_write(write: &Write<'_>, answer: Value) -> Result<Outcome> {
    let key = write.key;
    match answer {
        // SET, DEL.
        Value::Okay | Value::Int(_) => Ok(Outcome::Applied),
        Value::Array(mut fields) => match fields.as_mut_slice() {
            [Value::Int(1)] => Ok(Outcome::Applied),
            [Value::Int(0), Value::Nil | Value::Boolean(false)] => Ok(write.lost_to(None)),
            [Value::Int(0), Value::BulkString(found)] => {
                let found = layout::decode(key, std::mem::take(found).into())?;
                Ok(write.lost_to(Some(found)))
            }
            [Value::Int(2)] => {
                Err(Error::invalid("expires_at", "it has passed by the server's clock; delete the record instead"))
            }
            [Value::Int(3)] => Err(layout::foreign(key)),
            _ => Err(unexpected(key, Access::Write)),
        },
        _ => Err(unexpected(key, Access::Write)),
    }
}

pub(super) fn read_scan(scan: &Scan<'_>, answer: Value) -> Result<Page> {
    let unexpected = || unexpected(any_row(scan.space, scan.partition), Access::Read);
    let Value::Array(fields) = answer else { return Err(unexpected()) };
    let mut fields = fields.into_iter();
    let next = match fields.next() {
        Some(Value::BulkString(cursor)) => Some(Bytes::from(cursor)),
        Some(Value::Nil | Value::Boolean(false)) => None,
        _ => return Err(unexpected()),
    };
    let mut page = Page { rows: Vec::with_capacity(fields.len() / 2), next };
    while let (Some(sort), Some(record)) = (fields.next(), fields.next()) {
        let (Value::BulkString(sort), Value::BulkString(record)) = (sort, record) else {
            return Err(unexpected());
        };
        let record = layout::decode(Key::row(scan.space, scan.partition, &sort), record.into())?;
        page.rows.push(Row { sort: sort.into(), record });
    }
    Ok(page)
}

pub(super) fn read_trim(trim: &Trim<'_>, answer: &Value) -> Result<Trimmed> {
    if let Value::Array(fields) = answer
        && let [Value::Int(removed), Value::Int(more)] = fields.as_slice()
    {
        return Ok(Trimmed { removed: usize::try_from(*removed).unwrap_or_default(), more: *more == 1 });
    }
    Err(unexpected(any_row(trim.space, trim.partition), Access::Write))
}

pub(super) fn read_update(key: Key<'_>, procedure: &dyn ErasedProcedure, answer: &Value) -> Result<OutputBytes> {
    let Value::Array(fields) = answer else { return Err(unexpected(key, Access::Write)) };
    match fields.as_slice() {
        [Value::Int(1), Value::BulkString(output)] => Ok(OutputBytes::from_slice(output)),
        [Value::Int(2)] => Err(Error::invalid("ttl", "a time to live is from one microsecond to the year 2255")),
        [Value::Int(3), ..] => {
            Err(Error::corrupt(key, format!("procedure {} can't decode its state", procedure.name())))
        }
        _ => Err(unexpected(key, Access::Write)),
    }
}

/// Any sort key will do where the names of a partition's rows are wanted.
fn any_row(space: sysd_core::Space, partition: &[u8]) -> Key<'_> {
    Key::row(space, partition, b"row")
}

/// A bound as `ZRANGEBYLEX` takes it.
fn lex(bound: Bound<&[u8]>, open: &[u8]) -> Vec<u8> {
    match bound {
        Bound::Included(sort) => [b"[".as_slice(), sort].concat(),
        Bound::Excluded(sort) => [b"(".as_slice(), sort].concat(),
        Bound::Unbounded => open.to_vec(),
    }
}

fn unexpected(key: Key<'_>, access: Access) -> Error {
    let effect = if access == Access::Read { Effect::None } else { Effect::Unknown };
    Error::new(ErrorKind::Internal, effect, "Redis answered in an unexpected shape").with_key(key)
}
