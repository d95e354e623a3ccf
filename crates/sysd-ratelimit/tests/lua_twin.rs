//! The Lua twin of the token bucket against the Rust one, on a real Redis: random histories, aimed at
//! where doubles could go wrong, must give the same verdicts, the same stored bytes and the same times to live.
//!
//! The scripts are called with the state in hand and write nothing, so servers can be shared.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sysd_core::{ArgumentBytes, OutputBytes, Procedure, StateChange, Timestamp};
use sysd_ratelimit::{Rate, Take, TokenBucket};

/// Folds the twin over a history: each call is a time (eight bytes) and arguments; answers action, output, state, ttl.
const FOLD: &str = r"
local state = ARGV[1] ~= '' and ARGV[1] or nil
local answers = {}
for i = 2, #ARGV, 2 do
  local now = struct.unpack('>I8', ARGV[i])
  local action, output, new_state, ttl = twin(state, now, ARGV[i + 1])
  if action == 'put' then state = new_state end
  answers[#answers + 1] = {action, output, new_state or '', ttl and struct.pack('>I8', ttl) or ''}
end
return answers
";

type Answer = (String, Vec<u8>, Vec<u8>, Vec<u8>);

struct Twin {
    connection: redis::Connection,
    script: String,
}

impl Twin {
    fn connect(source: &str) -> Self {
        let url = std::env::var("SYSD_TEST_REDIS_URL").unwrap_or_else(|_| {
            panic!("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints")
        });
        let connection = redis::Client::open(url)
            .unwrap()
            .get_connection()
            .unwrap_or_else(|error| panic!("no Redis at SYSD_TEST_REDIS_URL ({error}): run `cargo xtask servers up`"));
        Self { connection, script: format!("local twin = function(state, now, arguments)\n{source}\nend\n{FOLD}") }
    }

    fn of(take: Take) -> Self {
        Self::connect(take.script().unwrap().source)
    }

    fn fold(&mut self, history: &History) -> Vec<Answer> {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(0).arg(&history.state[..]);
        for &(now, take) in &history.calls {
            let mut arguments = ArgumentBytes::new();
            take.encode_arguments(&mut arguments);
            command.arg(&now.as_micros().to_be_bytes()[..]).arg(&arguments[..]);
        }
        command.query(&mut self.connection).unwrap()
    }
}

/// What the Rust twin does with the same history.
fn fold_in_rust(history: &History) -> Vec<Answer> {
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
                    StateChange::Delete => panic!("a bucket never deletes"),
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
struct History {
    /// Empty: absent.
    state: Vec<u8>,
    calls: Vec<(Timestamp, Take)>,
}

fn buckets() -> impl Strategy<Value = TokenBucket> {
    let counts = prop_oneof![1_u32..=12, Just(9_999_991), Just(10_000_000), 1_u32.., Just(u32::MAX)];
    let longest_us = 3_155_760_000_000_000_u64;
    let periods =
        prop_oneof![1_u64..=30, Just(1_000_000), Just(2_592_000_000_000), 1..=longest_us, longest_us - 9..=longest_us];
    let bursts = prop_oneof![1_u32..=12, Just(1_000), 1_u32.., Just(u32::MAX)];
    (counts, periods, bursts).prop_filter_map("refills in time", |(count, period_us, burst)| {
        TokenBucket::new(Rate::new(count, Duration::from_micros(period_us)).ok()?, burst).ok()
    })
}

/// Where the history begins: today, 10^14, and the last moments before 2^53.
fn starts() -> impl Strategy<Value = u64> {
    let last = Timestamp::MAX.as_micros();
    prop_oneof![
        3 => 1_700_000_000_000_000..1_900_000_000_000_000_u64,
        2 => (100_000_000_000_000 - 9)..=(100_000_000_000_000_u64 + 9),
        2 => (last - 9)..=last,
        1 => (last - 3_155_760_000_000_009)..=last,
        1 => 0..=9_u64,
    ]
}

fn histories() -> impl Strategy<Value = History> {
    (buckets(), buckets(), starts()).prop_flat_map(|(bucket, other, start_us)| {
        let full = i64::try_from(bucket.refill_time().as_micros()).unwrap();
        let interval = full / i64::from(bucket.burst());
        let steps = prop_oneof![
            2 => Just(0),
            3 => 0..=2_i64,
            4 => (interval - 1)..=(interval + 2),
            2 => (full - 2)..=(full + 2),
            2 => 0..=full,
            1 => -full..=0,
            1 => -3..=0_i64,
        ];
        let burst = bucket.burst();
        let costs = prop_oneof![6 => Just(1), 1 => Just(0), 2 => 0..=burst.min(5), 2 => Just(burst), 1 => 0_u32..];
        // One call in twelve comes from somebody configured otherwise.
        let limits = prop_oneof![11 => Just(bucket), 1 => Just(other)];
        let calls = proptest::collection::vec((steps, costs, limits), 1..30);
        (calls, states()).prop_map(move |(calls, state)| {
            let mut now_us = start_us;
            let calls = calls
                .into_iter()
                .map(|(step_us, cost, bucket)| {
                    now_us = now_us.saturating_add_signed(step_us).min(Timestamp::MAX.as_micros());
                    (Timestamp::from_micros(now_us).unwrap(), Take::new(bucket, cost))
                })
                .collect();
            History { state, calls }
        })
    })
}

/// Mostly absent; else bytes that are nearly a state, at the edges of what is valid.
fn states() -> impl Strategy<Value = Vec<u8>> {
    let edges = || {
        prop_oneof![
            0..=2_u64,
            Just(1_800_000_000_000_000),
            Just(3_155_760_000_000_000),
            Just(3_155_760_000_000_001),
            ((1 << 53) - 2)..=((1_u64 << 53) + 2),
            0..(1_u64 << 56),
        ]
    };
    let near = (0..=2_u8, edges(), edges(), 0..=3_u32, 0..=3_u32, 21..=24_usize, any::<bool>()).prop_map(
        |(version, at_us, debt_us, part, parts, length, is_whole)| {
            let mut bytes = vec![version];
            bytes.extend_from_slice(&at_us.to_be_bytes()[1..]);
            bytes.extend_from_slice(&debt_us.to_be_bytes()[1..]);
            bytes.extend_from_slice(&part.to_be_bytes());
            bytes.extend_from_slice(&parts.to_be_bytes());
            if !is_whole {
                bytes.resize(length, 0);
            }
            bytes
        },
    );
    prop_oneof![6 => Just(vec![]), 3 => near, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

fn compare(twin: Twin, cases: u32, max_shrink_iters: u32) -> Result<(), String> {
    let twin = std::cell::RefCell::new(twin);
    let config = Config { cases, max_shrink_iters, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&histories(), |history| {
            let (lua, rust) = (twin.borrow_mut().fold(&history), fold_in_rust(&history));
            prop_assert_eq!(lua, rust);
            Ok::<(), TestCaseError>(())
        })
        .map_err(|error| error.to_string())
}

fn any_take() -> Take {
    Take::new(TokenBucket::new(Rate::per_second(1).unwrap(), 1).unwrap(), 1)
}

#[test]
fn lua_and_rust_are_equal() {
    compare(Twin::of(any_take()), 6_000, 4_096).unwrap_or_else(|error| panic!("{error}"));
}

/// The comparison can fail: each of these slips in the Lua text is found.
#[test]
fn broken_twins_are_rejected() {
    let source = any_take().script().unwrap().source;
    for (right, wrong) in [
        ("if stored_at > now then", "if false then"),
        ("now - stored_at > debt", "now - stored_at >= debt"),
        ("after == capacity and after_part > capacity_part", "after == capacity and after_part >= capacity_part"),
        ("if after_part >= denominator then", "if after_part > denominator then"),
        ("if after_part > 0 then full_in", "if false then full_in"),
        ("at <= LAST_TIME - full_in", "at + full_in <= LAST_TIME + 1"),
        ("ttl = skew + full_in", "ttl = full_in"),
        ("if price == 0 and price_part == 0 then", "if false then"),
        ("part >= parts", "part > parts"),
        ("at > LAST_TIME", "at > LAST_TIME + 1"),
        ("debt > LONGEST", "debt > LONGEST + 1"),
        ("#state ~= 23", "#state < 23"),
        ("version ~= VERSION", "false"),
        ("if parts ~= denominator and part > 0", "if false"),
        ("'>BI7I7I4I4', VERSION, at,", "'>BI7I7I4I4', VERSION, tonumber(tostring(at)),"),
    ] {
        assert!(source.contains(right), "{right:?} is no longer in the script");
        let broken = source.replacen(right, wrong, 1);
        assert!(compare(Twin::connect(&broken), 20_000, 0).is_err(), "{wrong:?} passed");
    }
}
