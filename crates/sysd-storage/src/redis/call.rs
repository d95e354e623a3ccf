//! Commands ready to be sent.

use std::sync::Arc;

use redis::{Arg, Cmd};

use super::slots;

/// A script, and the name by which servers know it once it is loaded.
#[derive(Debug)]
pub(super) struct LuaScript {
    source: String,
    hash: String,
}

impl LuaScript {
    pub(super) fn new(source: String) -> Self {
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }
}

/// A command, and what is needed to send it on.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) command: Cmd,
    script: Option<Arc<LuaScript>>,
}

impl Call {
    /// A command whose first argument is its key.
    pub(super) fn plain(command: Cmd) -> Self {
        Self { command, script: None }
    }

    /// A script by its hash, as yet without keys and arguments, which follow in that order. `bytes` is a guess of their size.
    pub(super) fn script(script: &Arc<LuaScript>, keys: usize, arguments: usize, bytes: usize) -> Self {
        let mut command = Cmd::with_capacity(3 + keys + arguments, 48 + bytes);
        command.arg(b"EVALSHA").arg(script.hash.as_bytes()).arg(keys);
        Self { command, script: Some(Arc::clone(script)) }
    }

    /// The same with the script itself, for a server that does not know it: loaded and run in one.
    pub(super) fn loading(&self) -> Cmd {
        let Some(script) = &self.script else { return self.command.clone() };
        let mut command = Cmd::new();
        command.arg("EVAL").arg(&script.source);
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = argument {
                command.arg(bytes);
            }
        }
        command
    }

    /// The slot of its key.
    pub(super) fn slot(&self) -> u16 {
        let at = if self.script.is_some() { 3 } else { 1 };
        match self.command.args_iter().nth(at) {
            Some(Arg::Simple(key)) => slots::slot_of(key),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &Cmd) -> Vec<Vec<u8>> {
        command.args_iter().map(|arg| if let Arg::Simple(bytes) = arg { bytes.to_vec() } else { Vec::new() }).collect()
    }

    #[test]
    fn a_script_is_called_by_its_hash_and_loaded_with_the_same_arguments() {
        let script = Arc::new(LuaScript::new("return 1".to_owned()));
        let mut call = Call::script(&script, 1, 1, 8);
        call.command.arg(b"foo").arg(b"x\r\n");
        assert_eq!(call.slot(), 12_182);
        let hash = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(arguments(&call.command), [&b"EVALSHA"[..], hash, b"1", b"foo", b"x\r\n"]);
        assert_eq!(arguments(&call.loading()), [&b"EVAL"[..], b"return 1", b"1", b"foo", b"x\r\n"]);
        let mut get = redis::cmd("GET");
        assert_eq!(Call::plain(get.arg("foo").take()).slot(), 12_182);
    }
}
