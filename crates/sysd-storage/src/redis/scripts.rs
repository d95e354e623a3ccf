//! The scripts as a store runs them.
//!
//! A script is text that Redis runs anew for each call, so what is known beforehand is written into it instead of being passed
//! or asked: whether the record is a string or a row, whose time counts, how long expired records stay. In the `.lua` files
//! this is what stands in capitals behind a `$`.

use std::sync::Arc;
use std::time::Duration;

use super::call::LuaScript;

/// What is known of a store when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flavor {
    /// Whose time counts: the server's, or that of the call.
    pub(super) is_server_time: bool,
    /// Redis keeps a lone record one to three times so much longer than until its expiry.
    pub(super) reclaim_grain: Duration,
    /// Whether an update may leave a record's deadline as it is: the clock goes as fast as Redis' own.
    pub(super) keeps_deadlines: bool,
}

/// A script for lone records, and the same for rows.
#[derive(Debug)]
pub(super) struct Pair {
    lone: Arc<LuaScript>,
    rows: Arc<LuaScript>,
}

impl Pair {
    pub(super) fn of(&self, is_lone: bool) -> &Arc<LuaScript> {
        if is_lone { &self.lone } else { &self.rows }
    }
}

/// The scripts of one store.
#[derive(Debug)]
pub(super) struct Scripts {
    flavor: Flavor,
    pub(super) get: Pair,
    pub(super) write_any: Pair,
    pub(super) write_absent: Pair,
    pub(super) write_is: Pair,
    pub(super) put_rows: Arc<LuaScript>,
    pub(super) remove_rows: Arc<LuaScript>,
    pub(super) scan: Arc<LuaScript>,
    pub(super) trim: Arc<LuaScript>,
    pub(super) trim_keys: Arc<LuaScript>,
}

const SERVER_TIME: &str = "(function() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end)()";
const CALL_TIME: &str = "struct.unpack('>I8', ARGV[1])";

const LONE: [(&str, &str); 8] = [
    ("$SORT_TOO", ""),
    ("$SORT", "local name = KEYS[1]"),
    ("$NAMES_EACH", "1"),
    ("$OF_INDEX", "ARGV[index + 2] or ARGV[3], KEYS[index], nil, nil"),
    ("$LOAD", "call('GET', name)"),
    ("$REMOVE", "call('DEL', name)"),
    (
        "$PUT_KEPT",
        "if #found == #record then call('SETRANGE', name, '0', record) else call('SET', name, record, 'KEEPTTL') end",
    ),
    ("$PUT", "if life then call('SET', name, record, 'PX', life) else call('SET', name, record) end"),
];

const PUT_ROW: &str = "call('ZADD', order, 0, sort) call('HSET', name, sort, record)";

/// A row is a field of a hash, with its sort key in a sorted set; it is put into that first, so that if one of the two is of
/// another type nothing is changed.
const ROWS: [(&str, &str); 8] = [
    ("$SORT_TOO", ", sort"),
    ("$SORT", "local name, order, sort = KEYS[1], KEYS[2], ARGV[3]"),
    ("$NAMES_EACH", "2"),
    ("$OF_INDEX", "ARGV[2 * index + 1], KEYS[2 * index - 1], KEYS[2 * index], ARGV[2 * index + 2]"),
    ("$LOAD", "call('HGET', name, sort)"),
    ("$REMOVE", "call('ZREM', order, sort) call('HDEL', name, sort)"),
    ("$PUT_KEPT", PUT_ROW),
    ("$PUT", PUT_ROW),
];

impl Scripts {
    pub(super) fn new(flavor: Flavor) -> Self {
        let write = |condition: &str| flavor.pair(&include_str!("write.lua").replace("$CONDITION", condition));
        let write_if = |holds| write(&include_str!("condition.lua").replace("$HOLDS", holds));
        Self {
            flavor,
            get: flavor.pair(include_str!("get.lua")),
            write_any: write(""),
            write_absent: write_if("not found"),
            write_is: write_if("found and string.sub(found, 10, 25) == ARGV[#ARGV]"),
            put_rows: Arc::new(LuaScript::new(include_str!("put_rows.lua").to_owned())),
            remove_rows: Arc::new(LuaScript::new(include_str!("remove_rows.lua").to_owned())),
            scan: flavor.script(include_str!("scan.lua"), &ROWS),
            trim: flavor.script(include_str!("trim.lua"), &ROWS),
            trim_keys: Arc::new(LuaScript::new(include_str!("trim_keys.lua").to_owned())),
        }
    }

    /// A procedure's.
    pub(super) fn update(&self, procedure: &str) -> Pair {
        // Last, so that nothing in it is taken for ours.
        let script = |kind| {
            let text = include_str!("update.lua").replace("$STEP", include_str!("update_step.lua"));
            let text = self.flavor.text(&text, kind).replace("$PROCEDURE", procedure);
            Arc::new(LuaScript::new(text))
        };
        Pair { lone: script(&LONE), rows: script(&ROWS) }
    }
}

impl Flavor {
    fn pair(self, body: &str) -> Pair {
        Pair { lone: self.script(body, &LONE), rows: self.script(body, &ROWS) }
    }

    fn script(self, body: &str, kind: &[(&str, &str)]) -> Arc<LuaScript> {
        Arc::new(LuaScript::new(self.text(body, kind)))
    }

    fn text(self, body: &str, kind: &[(&str, &str)]) -> String {
        let now = if self.is_server_time { SERVER_TIME } else { CALL_TIME };
        let mut text = body
            .replace("$EXPIRY", include_str!("expiry.lua"))
            .replace("$NOW", now)
            .replace("$GRAIN", &self.reclaim_grain.as_micros().to_string())
            .replace("$KEEPS", if self.keeps_deadlines { "true" } else { "false" });
        for (name, code) in kind {
            text = text.replace(name, code);
        }
        text
    }
}
