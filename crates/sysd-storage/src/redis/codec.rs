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
    Order, Outcome, OutputBytes, Page, Record, Result, Row, Scan, Script, Timestamp, Trim, Version, Write,
};

use super::call::{Call, LuaScript};
use super::combine::{Lane, Update};
use super::error::Access;
use super::layout::{self, HEADER_BYTES, Name, Stored};
use super::scripts::{Flavor, Pair, Scripts};
use super::slots;
use super::walk::Walk;

/// Bytes of records that one call of a script looks at, about; one row at least.
const PAGE_BYTES: usize = 4 << 20;

const RECLAIM_GRAIN: Duration = Duration::from_secs(60);
const RECLAIM_GRAIN_DRIVEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Turns calls into commands and answers into what was asked for.
pub(super) struct Codec<C> {
    prefix: String,
    clock: C,
    limits: Limits,
    reclaim_grain: Duration,
    scripts: Scripts,
    /// The procedures' scripts as this store runs them.
    updates: RwLock<HashMap<&'static Script, Arc<ProcedureScripts>>>,
}

/// The scripts of a procedure, and which of their calls go together.
pub(super) struct ProcedureScripts {
    scripts: Pair,
    lone: Lanes,
    rows: Lanes,
}

/// The lanes of a script by slot; one node has one.
#[derive(Default)]
struct Lanes(RwLock<HashMap<u16, Arc<Lane>>>);

impl Lanes {
    fn of(&self, slot: u16) -> Arc<Lane> {
        if let Some(lane) = self.0.read().get(&slot) {
            return Arc::clone(lane);
        }
        Arc::clone(self.0.write().entry(slot).or_insert_with(Lane::new))
    }
}

impl<C: Clock> Codec<C> {
    pub(super) fn new(prefix: String, clock: C, limits: Limits) -> Self {
        let is_server_time = limits.clock == ClockAuthority::Server;
        let keeps_deadlines = is_server_time || clock.is_real_time();
        let reclaim_grain = if keeps_deadlines { RECLAIM_GRAIN } else { RECLAIM_GRAIN_DRIVEN };
        let scripts = Scripts::new(Flavor { is_server_time, reclaim_grain, keeps_deadlines });
        Self { prefix, clock, limits, reclaim_grain, scripts, updates: RwLock::default() }
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

    /// The time as scripts take it: empty where the server's counts.
    fn add_time(&self, call: &mut Call) {
        match self.now() {
            Some(now) => call.command.arg(layout::time(Some(now)).as_slice()),
            None => call.command.arg(b""),
        };
    }

    /// A script with its keys and the time.
    fn script(&self, script: &Arc<LuaScript>, key: Key<'_>, arguments: usize, bytes: usize) -> Call {
        let (names, name_bytes) = if key.is_lone() { (1, 48) } else { (2, 96) };
        let bytes = bytes + (self.prefix.len() + key.partition().len()) * names + name_bytes;
        let mut call = Call::script(script, names, 1 + arguments, bytes);
        if key.is_lone() {
            call.command.arg(Name::lone(&self.prefix, key));
        } else {
            call.command.arg(Name::rows(&self.prefix, key)).arg(Name::order(&self.prefix, key));
        }
        self.add_time(&mut call);
        call
    }

    pub(super) fn get(&self, key: Key<'_>) -> Result<Call> {
        self.limits.check_key(key)?;
        if is_bare_row(key) {
            return Ok(self.bare(b"ZSCORE", key, &[key.sort()]));
        }
        if self.is_server_time() {
            let mut call = self.script(self.scripts.get.of(key.is_lone()), key, 1, key.sort().len());
            if !key.is_lone() {
                call.command.arg(b"").arg(key.sort());
            }
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
            // Its score.
            Value::BulkString(_) | Value::Double(_) if is_bare_row(key) => Ok(Some(bare_record())),
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
        if is_bare_row(key) {
            return Ok(match write.change {
                Change::Put { .. } => self.bare(b"ZADD", key, &[b"0", key.sort()]),
                Change::Delete => self.bare(b"ZREM", key, &[key.sort()]),
            });
        }
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
        let script = match write.expect {
            Expect::Any => &self.scripts.write_any,
            Expect::Absent => &self.scripts.write_absent,
            Expect::Is(_) => &self.scripts.write_is,
        };
        let mut call = self.script(script.of(key.is_lone()), key, 3, 32 + value_bytes + key.sort().len());
        let command = &mut call.command;
        match stored {
            Some(stored) => command.arg(stored),
            None => command.arg(b""),
        };
        if !key.is_lone() {
            command.arg(key.sort());
        }
        if let Expect::Is(version) = write.expect {
            command.arg(version.to_bytes().as_slice());
        }
        Ok(call)
    }

    /// Rows of one partition, all put or all removed, without a condition and for ever.
    pub(super) fn write_rows(&self, first: &Write<'_>, run: &[Write<'_>]) -> Call {
        let bytes = run.iter().map(|write| match &write.change {
            Change::Put { value, .. } => write.key.sort().len() + HEADER_BYTES + value.len() + 24,
            Change::Delete => write.key.sort().len() + 8,
        });
        let is_put = matches!(first.change, Change::Put { .. });
        let script = if is_put { &self.scripts.put_rows } else { &self.scripts.remove_rows };
        let mut call = self.script(script, first.key, run.len() * 2, bytes.sum());
        for write in run {
            call.command.arg(write.key.sort());
            if let Change::Put { value, version, .. } = &write.change {
                call.command.arg(Stored { value, version: *version, expires_at: None });
            }
        }
        call
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
                    let life = at.saturating_since(now) + self.reclaim_grain;
                    command.arg(b"PX").arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
                }
            }
        }
        Call::plain(command)
    }

    /// A command on the sorted set of a partition of keys only.
    fn bare(&self, name: &[u8], key: Key<'_>, arguments: &[&[u8]]) -> Call {
        let size = arguments.iter().map(|argument| argument.len()).sum::<usize>();
        let size = 48 + self.prefix.len() + key.partition().len() + size;
        let mut command = Cmd::with_capacity(2 + arguments.len(), size);
        command.arg(name).arg(Name::order(&self.prefix, key));
        for argument in arguments {
            command.arg(*argument);
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
        if scan.space.is_keys_only() {
            let command = if scan.order == Order::Ascending { b"ZRANGEBYLEX".as_slice() } else { b"ZREVRANGEBYLEX" };
            let ahead = (rows + 1).to_string();
            return Ok(Some(self.bare(command, row, &[&first, &second, b"LIMIT", b"0", ahead.as_bytes()])));
        }
        let mut call = self.script(&self.scripts.scan, row, 5, 40 + first.len() + second.len());
        call.command.arg(first).arg(second).arg(rows).arg(direction).arg(PAGE_BYTES);
        Ok(Some(call))
    }

    /// The next call of a trim that has come so far and may remove so many rows more.
    pub(super) fn trim(&self, trim: &Trim<'_>, walk: &Walk, budget: usize) -> Result<Call> {
        self.limits.check_trim(trim)?;
        let row = any_row(trim.space, trim.partition);
        if let (true, Keep::First(keep)) = (trim.space.is_keys_only(), trim.keep) {
            // Redis counts in signed numbers.
            let keep = keep.min(1 << 40);
            let last = (keep + budget - 1).to_string();
            return Ok(self.bare(b"ZREMRANGEBYRANK", row, &[keep.to_string().as_bytes(), last.as_bytes()]));
        }
        let (keep, direction) = match trim.keep {
            Keep::First(keep) => (keep, b"".as_slice()),
            Keep::Last(keep) => (keep, b"rev".as_slice()),
        };
        if trim.space.is_keys_only() {
            let mut call = self.script(&self.scripts.trim_keys, row, 2, 32);
            call.command.arg(keep).arg(budget);
            return Ok(call);
        }
        let mut call = self.script(&self.scripts.trim, row, 10, 96 + walk.bound.len());
        call.command.arg(keep).arg(budget).arg(direction);
        call.command.arg(walk.bound.as_slice()).arg(walk.kept).arg(walk.passed).arg(walk.till);
        call.command.arg(if walk.is_old { b"check".as_slice() } else { b"" });
        call.command.arg(self.limits.page_rows_max).arg(PAGE_BYTES);
        Ok(call)
    }

    /// What a call removed, and how far it came if there may be more.
    pub(super) fn read_trim(&self, trim: &Trim<'_>, walk: &Walk, answer: Value) -> Result<(usize, Option<Walk>)> {
        let unexpected = || unexpected(Key::lone(trim.space, trim.partition), Access::Write);
        let (removed, next) = match answer {
            // Of keys only: as many as a call may remove are perhaps not all.
            Value::Int(removed) => {
                (removed, (usize::try_from(removed) == Ok(self.limits.page_rows_max)).then(Walk::begin))
            }
            Value::Array(fields) => match <[Value; 6]>::try_from(fields) {
                Ok([Value::Int(removed), _, Value::BulkString(bound), kept, passed, till]) => {
                    let count = |value| match value {
                        Value::Int(count) => u64::try_from(count).map_err(|_| unexpected()),
                        _ => Err(unexpected()),
                    };
                    let (kept, passed, till) = (count(kept)?, count(passed)?, count(till)?);
                    (removed, Some(Walk { since: walk.since, bound, kept, passed, till, is_old: false }))
                }
                Err(fields) => match fields.as_slice() {
                    [Value::Int(removed)] => (*removed, None),
                    _ => return Err(unexpected()),
                },
                Ok(_) => return Err(unexpected()),
            },
            _ => return Err(unexpected()),
        };
        Ok((usize::try_from(removed).unwrap_or_default(), next))
    }

    /// An update, and the scripts that run it.
    pub(super) fn update(
        &self,
        key: Key<'_>,
        procedure: &dyn ErasedProcedure,
    ) -> Result<(Arc<ProcedureScripts>, Update)> {
        self.limits.check_update(key)?;
        let script = procedure.script().ok_or_else(|| {
            let message = format!("procedure {} has no Lua twin, so Redis can't run it", procedure.name());
            Error::new(ErrorKind::Unsupported, Effect::None, message)
        })?;
        let mut arguments = ArgumentBytes::new();
        procedure.encode_arguments(&mut arguments);
        let (is_lone, prefix) = (key.is_lone(), self.prefix.as_str());
        let names = if is_lone { 1 } else { 2 };
        let size = (prefix.len() + key.space().name().len() + key.partition().len() + 16) * names;
        let update = Update::new(
            size + arguments.len() + key.sort().len(),
            |bytes| if is_lone { Name::lone(prefix, key) } else { Name::rows(prefix, key) }.write(bytes),
            |bytes| {
                if !is_lone {
                    Name::order(prefix, key).write(bytes);
                }
            },
            &arguments,
            key.sort(),
        );
        Ok((self.procedure(script), update))
    }

    /// The call that runs updates of one kind, and on a Cluster of one slot, in their order.
    pub(super) fn run(&self, scripts: &ProcedureScripts, updates: &[Update]) -> Call {
        let is_lone = updates.first().is_none_or(Update::is_lone);
        let each = if is_lone { 1 } else { 2 };
        let are_alike = is_lone && updates.windows(2).all(|pair| pair[0].arguments() == pair[1].arguments());
        let with_arguments = if are_alike { &updates[..updates.len().min(1)] } else { updates };
        let bytes = updates.iter().map(Update::size).sum::<usize>() + 32;
        let arguments = 2 + each * with_arguments.len();
        let mut call = Call::script(scripts.scripts.of(is_lone), each * updates.len(), arguments, bytes);
        for update in updates {
            call.command.arg(update.name());
            if !is_lone {
                call.command.arg(update.order());
            }
        }
        self.add_time(&mut call);
        call.command.arg(&Version::random().to_bytes()[..12]);
        for update in with_arguments {
            call.command.arg(update.arguments());
            if !is_lone {
                call.command.arg(update.sort());
            }
        }
        call
    }

    fn procedure(&self, script: &'static Script) -> Arc<ProcedureScripts> {
        if let Some(known) = self.updates.read().get(script) {
            return Arc::clone(known);
        }
        let scripts = self.scripts.update(script.source);
        let made = Arc::new(ProcedureScripts { scripts, lone: Lanes::default(), rows: Lanes::default() });
        Arc::clone(self.updates.write().entry(script).or_insert(made))
    }
}

impl ProcedureScripts {
    /// Where an update waits for others; `by_slot` where only those of its slot can go with it.
    pub(super) fn lane(&self, update: &Update, by_slot: bool) -> Arc<Lane> {
        let lanes = if update.is_lone() { &self.lone } else { &self.rows };
        lanes.of(if by_slot { slots::slot_of(update.name()) } else { 0 })
    }
}

pub(super) fn read_write(write: &Write<'_>, answer: Value) -> Result<Outcome> {
    let key = write.key;
    match answer {
        // SET; the script, or DEL of what was there; DEL of what was not.
        Value::Okay | Value::Int(0 | 1) => Ok(Outcome::Applied),
        Value::Nil | Value::Boolean(false) => Ok(write.lost_to(None)),
        Value::BulkString(found) => Ok(write.lost_to(Some(layout::decode(key, found.into())?))),
        Value::Int(-2) => {
            Err(Error::invalid("expires_at", "it has passed by the server's clock; delete the record instead"))
        }
        Value::Int(-3) => Err(layout::foreign(key)),
        _ => Err(unexpected(key, Access::Write)),
    }
}

pub(super) fn read_scan(scan: &Scan<'_>, rows_max: usize, answer: Value) -> Result<Page> {
    let unexpected = || unexpected(Key::lone(scan.space, scan.partition), Access::Read);
    let Value::Array(fields) = answer else { return Err(unexpected()) };
    if scan.space.is_keys_only() {
        return read_keys(scan, rows_max, fields);
    }
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

/// The sort keys of a page, and one more if there is more.
fn read_keys(scan: &Scan<'_>, rows_max: usize, sorts: Vec<Value>) -> Result<Page> {
    let limit = scan.limit.min(rows_max);
    let has_more = sorts.len() > limit;
    let mut page = Page { rows: Vec::with_capacity(sorts.len().min(limit)), next: None };
    for sort in sorts.into_iter().take(limit) {
        let Value::BulkString(sort) = sort else {
            return Err(unexpected(Key::lone(scan.space, scan.partition), Access::Read));
        };
        page.rows.push(Row { sort: sort.into(), record: bare_record() });
    }
    if has_more {
        page.next = page.rows.last().map(|row| row.sort.clone());
    }
    Ok(page)
}

pub(super) fn read_update(key: Key<'_>, procedure: &dyn ErasedProcedure, answer: &Value) -> Result<OutputBytes> {
    let fields = match answer {
        Value::BulkString(output) => return Ok(OutputBytes::from_slice(output)),
        Value::Array(fields) => fields,
        _ => return Err(unexpected(key, Access::Write)),
    };
    match fields.as_slice() {
        [Value::Int(2)] => Err(Error::invalid("ttl", "a time to live is from one microsecond to the year 2255")),
        [Value::Int(3), ..] => {
            Err(Error::corrupt(key, format!("procedure {} can't decode its state", procedure.name())))
        }
        _ => Err(unexpected(key, Access::Write)),
    }
}

/// Whether a record is a member of a sorted set and nothing else.
fn is_bare_row(key: Key<'_>) -> bool {
    key.space().is_keys_only() && !key.is_lone()
}

/// What there is to know of such a record.
fn bare_record() -> Record {
    Record { value: Bytes::new(), version: Version::from_u128(0), expires_at: None }
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
