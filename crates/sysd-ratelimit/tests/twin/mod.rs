//! A procedure's Lua twin beside the Rust one, on a real Redis and on the nodes of a real Redis Cluster.
//!
//! The scripts are called with the state in hand and write nothing, so servers can be shared.
#![allow(dead_code, reason = "each test uses its part")]

#[cfg(feature = "calendar")]
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
#[cfg(feature = "calendar")]
use sysd_core::ManualClock;
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, StateChange, Timestamp};

#[cfg(feature = "calendar")]
use sysd_ratelimit::{
    CalendarUnit, CalendarWindow, FixedWindow, LeakyBucket, Rate, Rule, RuleLimit, SlidingLog, SlidingWindow,
    TokenBucket,
};

/// Folds the twin over a history: each call is a time (eight bytes) and arguments; answers action, output, state, ttl.
const FOLD: &str = r"
local state = ARGV[1] ~= '' and ARGV[1] or nil
local answers = {}
for i = 2, #ARGV, 2 do
  local now = struct.unpack('>I8', ARGV[i])
  local action, output, new_state, ttl = twin(state, now, ARGV[i + 1])
  if action == 'put' then state = new_state elseif action == 'delete' then state = nil end
  answers[#answers + 1] = {action, output, new_state or '', ttl and struct.pack('>I8', ttl) or ''}
end
return answers
";

fn fold_script(source: &str) -> String {
    format!("local twin = function(state, now, arguments)\n{source}\nend\n{FOLD}")
}

type Answer = (String, Vec<u8>, Vec<u8>, Vec<u8>);

pub(crate) struct Twin {
    connection: redis::Connection,
    /// To the nodes of a Cluster, which take turns.
    nodes: Vec<redis::Connection>,
    turn: usize,
    script: String,
}

fn server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask servers up` and export what it prints"))
}

fn connect(url: String) -> redis::Connection {
    let client = redis::Client::open(url).unwrap();
    client.get_connection().unwrap_or_else(|error| panic!("no Redis ({error}): run `cargo xtask servers up`"))
}

impl Twin {
    pub(crate) fn connect(source: &str) -> Self {
        let cluster = server("SYSD_TEST_REDIS_CLUSTER_URL");
        let nodes = cluster.trim_start_matches("redis-cluster://").trim_end_matches('/').split(',');
        let nodes: Vec<_> = nodes.map(|node| connect(format!("redis://{node}/"))).collect();
        assert!(nodes.len() > 1, "{} node in SYSD_TEST_REDIS_CLUSTER_URL", nodes.len());
        let connection = connect(server("SYSD_TEST_REDIS_URL"));
        Self { connection, nodes, turn: 0, script: fold_script(source) }
    }

    pub(crate) fn of(take: &impl Procedure) -> Self {
        Self::connect(take.script().unwrap().source)
    }

    /// The digest of a twin's script, which the server has from now on.
    fn load(&mut self, source: &str) -> String {
        let script = fold_script(source);
        redis::cmd("SCRIPT").arg("LOAD").arg(script).query(&mut self.connection).unwrap()
    }

    /// Many histories through a script that was loaded; an error if it fails on one of them.
    fn fold_all<P: Procedure>(&mut self, digest: &str, histories: &[History<P>]) -> Result<Vec<Vec<Answer>>, String> {
        let mut pipe = redis::pipe();
        for history in histories {
            let mut command = redis::cmd("EVALSHA");
            command.arg(digest).arg(0);
            history.write(&mut command);
            pipe.add_command(command);
        }
        pipe.query(&mut self.connection).map_err(|error| {
            assert!(!error.is_io_error(), "{error}");
            error.to_string()
        })
    }

    /// What the server answers, and what a node of the Cluster does.
    fn fold<P: Procedure>(&mut self, history: &History<P>) -> [Vec<Answer>; 2] {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(0);
        history.write(&mut command);
        self.turn = (self.turn + 1) % self.nodes.len();
        [command.query(&mut self.connection).unwrap(), command.query(&mut self.nodes[self.turn]).unwrap()]
    }
}

/// What the Rust twin does with the same history.
fn fold_in_rust<P: Procedure>(history: &History<P>) -> Vec<Answer> {
    let mut state = (!history.state.is_empty()).then(|| history.state.clone());
    let mut answers = Vec::new();
    for (now, take) in &history.calls {
        let answer = match take.apply(state.as_deref(), *now) {
            Err(error) => ("undecodable".to_owned(), error.what.as_bytes().to_vec(), vec![], vec![]),
            Ok(step) => {
                let mut output = OutputBytes::new();
                take.encode_output(&step.output, &mut output);
                let output = output.to_vec();
                match step.change {
                    StateChange::Keep => ("keep".to_owned(), output, vec![], vec![]),
                    StateChange::Delete => {
                        state = None;
                        ("delete".to_owned(), output, vec![], vec![])
                    }
                    StateChange::Put { state: new, ttl } => {
                        let ttl = ttl.map(|ttl| u64::try_from(ttl.as_micros()).unwrap().to_be_bytes().to_vec());
                        state = Some(new.to_vec());
                        ("put".to_owned(), output, new.to_vec(), ttl.unwrap_or_default())
                    }
                }
            }
        };
        answers.push(answer);
    }
    answers
}

#[derive(Debug, Clone)]
pub(crate) struct History<P> {
    /// Empty: absent.
    pub(crate) state: Vec<u8>,
    pub(crate) calls: Vec<(Timestamp, P)>,
}

impl<P: Procedure> History<P> {
    /// As the arguments of the fold.
    fn write(&self, command: &mut redis::Cmd) {
        command.arg(&self.state[..]);
        for (now, take) in &self.calls {
            let mut arguments = ArgumentBytes::new();
            take.encode_arguments(&mut arguments);
            command.arg(&now.as_micros().to_be_bytes()[..]).arg(&arguments[..]);
        }
    }
}

/// Where the history begins: today, 10^14, and the last moments before 2^53.
pub(crate) fn starts() -> impl Strategy<Value = u64> {
    let last = Timestamp::MAX.as_micros();
    prop_oneof![
        3 => 1_700_000_000_000_000..1_900_000_000_000_000_u64,
        2 => (100_000_000_000_000 - 9)..=(100_000_000_000_000_u64 + 9),
        2 => (last - 9)..=last,
        1 => (last - 3_155_760_000_000_009)..=last,
        1 => 0..=9_u64,
    ]
}

/// Both twins over random histories.
pub(crate) fn compare<P: Procedure + Clone + std::fmt::Debug>(
    twin: Twin,
    histories: &impl Strategy<Value = History<P>>,
    cases: u32,
    max_shrink_iters: u32,
) -> Result<(), String> {
    let twin = std::cell::RefCell::new(twin);
    let config = Config { cases, max_shrink_iters, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(histories, |history| {
            let ([lua, on_cluster], rust) = (twin.borrow_mut().fold(&history), fold_in_rust(&history));
            prop_assert_eq!(lua, &rust[..]);
            prop_assert_eq!(on_cluster, rust, "on the Cluster");
            Ok::<(), TestCaseError>(())
        })
        .map_err(|error| error.to_string())
}

/// So many histories are put to a script at once.
const BATCH: usize = 64;

/// Several times what the rarest slip takes: whoever makes it rarer is told.
const HISTORIES_MAX: usize = 20_000;

/// The comparison can fail: each of these slips in the Lua text is found. The histories are always the same, made from a fixed seed, so
/// no run is luckier than another.
pub(crate) fn reject_slips<P: Procedure + Clone + std::fmt::Debug>(
    take: &P,
    histories: &impl Strategy<Value = History<P>>,
    slips: &[(&str, &str)],
) {
    let source = take.script().unwrap().source;
    let mut twin = Twin::of(take);
    let mut left = Vec::new();
    for (right, wrong) in slips {
        assert!(source.contains(right), "{right:?} is no longer in the script");
        left.push((right, wrong, twin.load(&source.replacen(right, wrong, 1))));
    }
    let mut runner = TestRunner::deterministic();
    for at in (0..HISTORIES_MAX).step_by(BATCH) {
        let batch: Vec<_> = (0..BATCH).map(|_| histories.new_tree(&mut runner).unwrap().current()).collect();
        let rust: Vec<_> = batch.iter().map(fold_in_rust).collect();
        left.retain(|(right, wrong, script)| {
            let passes = twin.fold_all(script, &batch).is_ok_and(|lua| lua == rust);
            if !passes {
                println!("found by history {at} or one of the {BATCH} after it: {right:?} -> {wrong:?}");
            }
            passes
        });
        if left.is_empty() {
            return;
        }
    }
    panic!("not found in {HISTORIES_MAX} histories: {left:?}");
}

/// A record in which so much has been given back to each bucket.
pub(crate) fn with_given(record: &[u8], given_us: u64) -> Vec<u8> {
    let (mut new, mut rest) = (record[..1].to_vec(), &record[1..]);
    while !rest.is_empty() {
        let (code, length) = (rest[4], usize::from(rest[13]) + 256 * usize::from(rest[12]));
        let (entry, behind) = rest.split_at(14 + length);
        new.extend_from_slice(entry);
        if code <= 2 && length == 23 {
            let at = new.len() - length - 1;
            new[at] = 31;
            new.extend_from_slice(&given_us.to_be_bytes());
        }
        rest = behind;
    }
    new
}

/// What may have been given back: little, much, more than is counted, and what is never written.
pub(crate) fn given() -> impl Strategy<Value = u64> {
    let most = 0xFFFF_FFFF_0000_0000_u64;
    prop_oneof![
        4 => Just(1_u64),
        2 => (1_u64 << 32) - 3..=1 << 32,
        2 => most - 3..=most,
        1 => Just(most - 100_000_000_000_000),
    ]
}

/// The rule of a place, by one of six algorithms; the calendar's in `unit`, as a caller sees it whose clock says `now_us`.
#[cfg(feature = "calendar")]
pub(crate) fn rule(at: usize, algorithm: usize, rate: (u32, u64), unit: CalendarUnit, now_us: u64) -> Rule {
    let (count, period_us) = rate;
    let rate = Rate::new(count, Duration::from_micros(period_us)).unwrap();
    let limit: RuleLimit = match algorithm {
        0 => TokenBucket::new(rate, count).unwrap().into(),
        1 => LeakyBucket::new(rate, count).unwrap().into(),
        2 => FixedWindow::new(rate).into(),
        3 => SlidingWindow::new(rate).into(),
        4 => SlidingLog::new(rate).unwrap().into(),
        _ => {
            let clock = ManualClock::new(Timestamp::from_micros(now_us).unwrap());
            CalendarWindow::new(count, unit, "UTC", clock).unwrap().into()
        }
    };
    Rule::new(&format!("rule {at}"), limit).unwrap()
}
