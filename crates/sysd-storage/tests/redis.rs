//! The Redis store on real servers: equal to the in-process store, and right when the server dies.
#![cfg(all(feature = "redis", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::ops::Bound;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{
    ArgumentBytes, Clock as _, Durability, Effect, ErrorKind, Expect, Keep, Key, ManualClock, Order, Outcome,
    OutputBytes, Procedure, Record, Scan, Script, Space, StateBytes, StateChange, Step, Store, StoreExt, SystemClock,
    Timestamp, Trim, Undecodable, Version, Write, random_base62,
};
use sysd_storage::{Memory, RedisConfig, RedisStore};

const SPACE: Space = Space::conditional("redis_test");

fn server_url() -> String {
    std::env::var("SYSD_TEST_REDIS_URL")
        .expect("SYSD_TEST_REDIS_URL is not set: run `cargo xtask servers up` and export what it prints")
}

fn config() -> RedisConfig {
    let prefix = format!("{}:", random_base62(12, &sysd_core::SystemEntropy));
    RedisConfig { prefix, ..RedisConfig::default() }
}

/// Adds, up to 9; 9 removes the record, 5 leaves it. Its state lives for as many milliseconds as it counts.
#[derive(Clone, Copy, Debug)]
struct Add(u8);

const ADD: Script = Script {
    name: "add",
    source: r"
        return function(state, now, arguments)
          local sum = string.byte(arguments)
          if state then
            if #state ~= 1 then return 'undecodable', 'state' end
            sum = sum + string.byte(state)
          end
          if sum == 5 then return 'keep', string.char(sum) end
          if sum >= 9 then return 'delete', string.char(sum) end
          return 'put', string.char(sum), string.char(sum), sum * 1000
        end",
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

/// What can be compared: each store mints the versions of its updates itself.
fn seen(record: Option<Record>) -> Option<(Vec<u8>, Option<Timestamp>)> {
    record.map(|record| (record.value.to_vec(), record.expires_at))
}

const SORTS: [&[u8]; 8] = [b"", b"\x00", b"\x00\x00", b"a", b"a\x00", b"b", b"\xFF", b"\xFF\xFF"];

/// One random call, as text of its answer.
async fn call(store: &impl Store, seed: u64, now: Timestamp, minted: &mut Vec<Version>) -> String {
    let entropy = SeededEntropy::new(seed);
    let pick = |bound: usize| usize::try_from(below(&entropy, bound as u64)).unwrap();
    let partition: &[u8] = [b"p}{%".as_slice(), b"\x00\xFF"][pick(2)];
    let key = Key::row(SPACE, partition, SORTS[pick(SORTS.len())]);
    let bounds = |at: usize| [Bound::Unbounded, Bound::Included(SORTS[at]), Bound::Excluded(SORTS[at])];
    match pick(8) {
        0 => format!("{:?}", store.get(key).await.map(seen)),
        1..=3 => {
            let known = minted.get(pick(8)).copied().unwrap_or(Version::from_u128(0));
            let expect = [Expect::Any, Expect::Absent, Expect::Is(known)][pick(3)];
            let version = Version::mint(&entropy);
            minted.insert(0, version);
            minted.truncate(8);
            let mut write = match pick(4) {
                0 => Write::delete(key),
                _ => Write::put(key, vec![7; [0, 1, 30][pick(3)]]).with_version(version),
            };
            if pick(2) == 0 {
                write = write.expires_at(now.saturating_add(Duration::from_micros(1 + 1_000 * pick(4) as u64)));
            }
            match store.write(write.expect(expect)).await {
                Ok(Outcome::Conflict { found }) => format!("conflict {:?}", seen(found)),
                other => format!("{other:?}"),
            }
        }
        4 => {
            let (start, end) = (bounds(1 + pick(7))[pick(3)], bounds(1 + pick(7))[pick(3)]);
            let order = [Order::Ascending, Order::Descending][pick(2)];
            let scan = Scan::partition(SPACE, partition, 1 + pick(4)).range(start, end).order(order);
            let rows = store
                .scan_rows(scan)
                .await
                .map(|rows| rows.into_iter().map(|row| (row.sort, seen(Some(row.record)))).collect::<Vec<_>>());
            format!("{:?}", rows.map_err(|error| (error.kind(), error.field())))
        }
        5 => {
            let keep = [Keep::First(pick(4)), Keep::Last(pick(4))][pick(2)];
            let trimmed = store.trim_all(Trim { space: SPACE, partition, keep }).await;
            // Which expired rows a store still holds is its own affair.
            format!("{:?}", trimmed.map(|_| ()))
        }
        _ => {
            let output = store.run(key, &Add(u8::try_from(1 + pick(4)).unwrap())).await;
            format!("{:?}", output.map_err(|error| error.kind()))
        }
    }
}

#[tokio::test]
async fn answers_as_memory_does_over_random_histories() {
    for history in 0..40_u64 {
        let clock = ManualClock::new(Timestamp::from_micros_saturating(100_000_000_000_000 + history));
        let memory = Memory::with_clock(clock.clone());
        let redis = RedisStore::connect_with(&server_url(), config(), clock.clone()).await.unwrap();
        let (mut minted_memory, mut minted_redis) = (Vec::new(), Vec::new());
        for step in 0..150 {
            let seed = history * 1_000 + step;
            let expected = call(&memory, seed, clock.now(), &mut minted_memory).await;
            let answer = call(&redis, seed, clock.now(), &mut minted_redis).await;
            assert_eq!(answer, expected, "history {history}, step {step}");
            clock.advance(Duration::from_micros(seed % 3 * 500));
        }
    }
}

#[tokio::test]
async fn batches_answer_in_order_and_fail_one_by_one() {
    let store = RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap();
    let names: Vec<[u8; 2]> = (0..600_u16).map(u16::to_be_bytes).collect();
    let mut writes: Vec<_> = names.iter().map(|name| Write::put(Key::lone(SPACE, name), name.to_vec())).collect();
    writes[7].key = Key::lone(SPACE, b"");
    let outcomes = store.write_many(&writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 599);
    assert_eq!(outcomes[7].as_ref().unwrap_err().field(), Some("partition"));
    let keys: Vec<_> = names.iter().map(|name| Key::lone(SPACE, name)).collect();
    for (at, found) in store.get_many(&keys).await.into_iter().enumerate() {
        assert_eq!(found.unwrap().map(|record| record.value.to_vec()), (at != 7).then(|| names[at].to_vec()));
    }
}

#[tokio::test]
async fn concurrent_updates_lose_nothing() {
    let store = RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = Key::lone(SPACE, b"counter");
                let mut won = 0_u64;
                while won < 25 {
                    let found = store.get(key).await.unwrap();
                    let count = found.as_ref().map_or(0, |record| record.value.len());
                    let expect = found.map_or(Expect::Absent, |record| Expect::Is(record.version));
                    let write = Write::put(key, vec![1; count + 1]).expect(expect);
                    won += u64::from(store.write(write).await.unwrap().is_applied());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let found = store.get(Key::lone(SPACE, b"counter")).await.unwrap().unwrap();
    assert_eq!(found.value.len(), 200);
}

/// A Redis of the test's own, to be killed.
struct Private {
    child: Child,
    port: u16,
    directory: PathBuf,
    arguments: &'static [&'static str],
}

impl Private {
    fn start(arguments: &'static [&'static str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = std::env::temp_dir().join(format!("sysd-redis-{}-{port}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self { child: Self::spawn(port, &directory, arguments), port, directory, arguments }
    }

    fn spawn(port: u16, directory: &PathBuf, arguments: &[&str]) -> Child {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
            .arg(directory)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing: `cargo xtask test` installs it");
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "redis-server did not start");
            std::thread::yield_now();
        }
        child
    }

    fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.directory, self.arguments);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn scripts_are_loaded_again_when_the_server_forgot_them() {
    let server = Private::start(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    assert_eq!(store.run(key, &Add(1)).await.unwrap(), 1);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let _: u8 = store.run(key, &Add(1)).await.unwrap();
    assert!(store.put_if_absent(Key::lone(SPACE, b"other"), "x").await.unwrap().is_applied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = Private::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let config = RedisConfig { durability: Durability::Durable, ..config() };
    let store = RedisStore::connect_with(&server.url(), config, SystemClock).await.unwrap();
    let mut acknowledged = 0_u32;
    for _round in 0..3 {
        let writers: Vec<_> = (0..16_u32)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for at in 0_u32.. {
                        let sort = [(acknowledged + writer).to_be_bytes(), at.to_be_bytes()].concat();
                        if let Err(error) = store.put(Key::row(SPACE, b"p", &sort), "x").await {
                            return (at, error);
                        }
                    }
                    unreachable!("the server is killed before four billion writes")
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            tokio::task::yield_now().await;
        }
        server.kill();
        let mut counts = Vec::new();
        for writer in writers {
            let (count, error) = writer.await.unwrap();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
            counts.push(count);
        }
        assert!(counts.iter().sum::<u32>() > 0);
        let error = store.get(Key::lone(SPACE, b"k")).await.unwrap_err();
        assert_eq!((error.kind().is_transient(), error.effect()), (true, Effect::None), "{error}");
        server.restart();
        let back = Instant::now();
        while store.get(Key::lone(SPACE, b"k")).await.is_err() {
            assert!(back.elapsed() < Duration::from_secs(2), "not found again within two seconds");
            tokio::task::yield_now().await;
        }
        for (writer, count) in (0..).zip(counts) {
            for at in 0..count {
                let sort = [(acknowledged + writer).to_be_bytes(), at.to_be_bytes()].concat();
                let found = store.get(Key::row(SPACE, b"p", &sort)).await.unwrap();
                assert!(found.is_some(), "write {at} of writer {writer} was acknowledged and is gone");
            }
        }
        acknowledged += 16;
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout_of_unknown_effect() {
    let server = Private::start(&[]);
    let config = RedisConfig { response_timeout: Duration::from_millis(300), ..config() };
    let store = RedisStore::connect_with(&server.url(), config, SystemClock).await.unwrap();
    let key = Key::lone(SPACE, b"k");
    store.put(key, "before").await.unwrap();
    server.signal("-STOP");
    let write = Write::put(key, "during").expect(Expect::Absent);
    let error = store.write(write).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    let error = store.get(key).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::None), "{error}");
    server.signal("-CONT");
    // What comes late belongs to the calls that gave up: the next answer is the right one.
    assert_eq!(store.get(key).await.unwrap().unwrap().value, "before");
}

#[tokio::test]
async fn foreign_bytes_are_corrupt_and_stay() {
    let config = config();
    let store = RedisStore::connect_with(&server_url(), config.clone(), SystemClock).await.unwrap();
    let client = redis::Client::open(server_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = Key::lone(SPACE, b"k");
    let name = format!("{}{{redis_test:k}}", config.prefix);
    for command in [["SET", "x"], ["RPUSH", "x"]] {
        let () = redis::cmd("DEL").arg(&name).query_async(&mut connection).await.unwrap();
        let () = redis::cmd(command[0]).arg(&name).arg(command[1]).query_async(&mut connection).await.unwrap();
        let kinds = [
            store.get(key).await.unwrap_err(),
            store.put_if_absent(key, "y").await.unwrap_err(),
            store.run(key, &Add(1)).await.unwrap_err(),
        ];
        for error in kinds {
            assert_eq!(
                (error.kind(), error.effect(), error.key()),
                (ErrorKind::Corrupt, Effect::None, Some(key)),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_the_server_and_keeps_the_password() {
    let server =
        Private::start(&["--requirepass", "hunter2", "--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"]);
    let error = RedisStore::connect(&format!("redis://:wrong-secret@127.0.0.1:{}/", server.port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
    let error = RedisStore::connect(&format!("redis://:hunter2@127.0.0.1:{}/", server.port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("noeviction") && !format!("{error:?}").contains("hunter2"));
    let error = RedisStore::connect("no url").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn a_procedure_without_a_twin_is_unsupported() {
    struct Bare;
    impl Procedure for Bare {
        type Output = ();
        fn name(&self) -> &'static str {
            "bare"
        }
        fn apply(&self, _: Option<&[u8]>, _: Timestamp) -> Result<Step<()>, Undecodable> {
            Ok(Step { change: StateChange::Keep, output: () })
        }
        fn encode_output(&self, (): &(), _: &mut OutputBytes) {}
        fn decode_output(&self, _: &[u8]) -> Result<(), Undecodable> {
            Ok(())
        }
    }
    let store = RedisStore::connect_with(&server_url(), config(), SystemClock).await.unwrap();
    let error = store.run(Key::lone(SPACE, b"k"), &Bare).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unsupported, Effect::None));
}
