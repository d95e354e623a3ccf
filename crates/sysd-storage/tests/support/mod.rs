//! What the tests of the stores of servers share.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod cassandra;
pub(crate) mod directory;
pub(crate) mod dynamodb;
pub(crate) mod fake_dynamodb;
pub(crate) mod fake_redis;
pub(crate) mod histories;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub(crate) mod log;
pub(crate) mod nats;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod suite;

use std::time::Duration;

use sysd_core::{
    ArgumentBytes, ManualClock, OutputBytes, Procedure, Script, StateBytes, StateChange, Step, Timestamp, Undecodable,
    random_base62,
};
use sysd_storage::{RedisConfig, RedisStore};

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask servers up` and export what it prints"))
}

/// Sends a signal. What is to be stopped has stopped when this returns, with all its threads: `kill` alone returns sooner, and on
/// a busy machine a server then still answered.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name} {process}");
    let has_stopped = || {
        let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            // A thread that has ended meanwhile has none.
            stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['T', 't', 'Z', 'X']))
        })
    };
    if name == "-STOP" {
        server::wait_until("the server stands still", Duration::from_secs(20), has_stopped);
    }
}

pub(crate) fn server_url() -> String {
    variable("SYSD_TEST_REDIS_URL")
}

pub(crate) fn cluster_url() -> String {
    variable("SYSD_TEST_REDIS_CLUSTER_URL")
}

pub(crate) fn cassandra_url() -> String {
    variable("SYSD_TEST_CASSANDRA_URL")
}

/// The URL, and the file of the authority.
pub(crate) fn tls_url() -> (String, String) {
    (variable("SYSD_TEST_REDIS_TLS_URL"), variable("SYSD_TEST_REDIS_TLS_CA"))
}

/// Keys of the test's own on a shared server.
pub(crate) fn config() -> RedisConfig {
    let prefix = format!("{}:", random_base62(12, &sysd_core::SystemEntropy));
    RedisConfig { prefix, ..RedisConfig::default() }
}

/// A store of the test's own keys, by a clock.
pub(crate) async fn connect(url: &str, clock: ManualClock) -> RedisStore<ManualClock> {
    RedisStore::connect_with(url, config(), clock).await.unwrap()
}

/// Adds, up to 9; 9 removes the record, 5 leaves it. Its state lives for as many milliseconds as it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Add(pub(crate) u8);

pub(crate) const ADD: Script = Script {
    name: "add",
    source: r"
        local sum = string.byte(arguments)
        if state then
          if #state ~= 1 then return 'undecodable', 'state' end
          sum = sum + string.byte(state)
        end
        if sum == 5 then return 'keep', string.char(sum) end
        if sum >= 9 then return 'delete', string.char(sum) end
        return 'put', string.char(sum), string.char(sum), sum * 1000",
};

impl Procedure for Add {
    type Output = u8;

    fn name(&self) -> &'static str {
        "add"
    }

    fn apply(&self, state: Option<&[u8]>, _now: Timestamp) -> Result<Step<u8>, Undecodable> {
        let sum = self.0 + state.map_or(Ok(0), |state| self.decode_output(state))?;
        let change = match sum {
            5 => StateChange::Keep,
            9.. => StateChange::Delete,
            _ => StateChange::Put {
                state: StateBytes::from_slice(&[sum]),
                ttl: Some(Duration::from_millis(u64::from(sum))),
            },
        };
        Ok(Step { change, output: sum })
    }

    fn encode_output(&self, output: &u8, out: &mut OutputBytes) {
        out.push(*output);
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u8, Undecodable> {
        match bytes {
            [sum] => Ok(*sum),
            _ => Err(Undecodable { procedure: "add", what: "state" }),
        }
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&ADD)
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        out.push(self.0);
    }
}

/// Counts its calls, for ever.
pub(crate) struct Count;

const COUNT: Script = Script {
    name: "count",
    source: r"
        local count = struct.pack('>I8', (state and struct.unpack('>I8', state) or 0) + 1)
        return 'put', count, count",
};

impl Procedure for Count {
    type Output = u64;

    fn name(&self) -> &'static str {
        "count"
    }

    fn apply(&self, state: Option<&[u8]>, _now: Timestamp) -> Result<Step<u64>, Undecodable> {
        let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
        let change = StateChange::Put { state: StateBytes::from_slice(&count.to_be_bytes()), ttl: None };
        Ok(Step { change, output: count })
    }

    fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
        out.extend_from_slice(&output.to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
        let error = Undecodable { procedure: "count", what: "state" };
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| error)?))
    }

    fn script(&self) -> Option<&'static Script> {
        Some(&COUNT)
    }
}
