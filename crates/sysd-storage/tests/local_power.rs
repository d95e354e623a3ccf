//! The store on a local disk when the power fails, and when the disk hangs. A killed process loses nothing that the kernel holds,
//! a machine without power all that was not synced. See `support/machine.rs`.
#![cfg(all(target_os = "linux", feature = "local"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use sysd_core::{
    Expect, Keep, Key, OutputBytes, Procedure, Record, Result, Scan, Space, StateBytes, StateChange, Step, Store as _,
    StoreExt as _, SystemClock, Timestamp, Trim, Undecodable, Version, Write,
};
use sysd_storage::{LocalConfig, LocalStore, SyncMode};

use directory::Directory;
use machine::{Machine, READS, SYNCS, say, task};

const SPACE: Space = Space::conditional("local_power");
const WRITERS: u32 = 4;

/// Small enough that files are written and merged meanwhile.
fn config(sync: SyncMode) -> LocalConfig {
    LocalConfig { sync, memtable_bytes: 64 << 10, ..LocalConfig::default() }
}

fn open(path: &Path, sync: SyncMode) -> LocalStore {
    block_on(LocalStore::open_with(path, config(sync), SystemClock)).unwrap()
}

/// The value that goes with a version: a record that is half of one write and half of another shows. Some are large.
fn value_of(version: Version) -> Vec<u8> {
    let bytes = version.to_bytes();
    let each = if bytes[1] < 32 { 64 } else { 8 };
    bytes.iter().copied().cycle().take(1 + usize::from(bytes[0]) * each).collect()
}

fn row_name(life: u32, writer: u32, at: u32) -> [u8; 12] {
    let mut name = [0; 12];
    for (part, number) in name.chunks_exact_mut(4).zip([life, writer, at]) {
        part.copy_from_slice(&number.to_be_bytes());
    }
    name
}

fn count_of(record: Option<&Record>) -> u64 {
    record.map_or(0, |record| u64::from_be_bytes(record.value[..].try_into().unwrap()))
}

/// Not a test: what runs when the power fails. Each line is said before a call or after its answer.
#[test]
fn child_writes_until_the_power_fails() {
    let Some(task) = task() else { return };
    let sync = if task[0] == "Never" { SyncMode::Never } else { SyncMode::EachBatch };
    let life = task[1].parse().unwrap();
    let store = open(Path::new(&task[2]), sync);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || block_on(write_for_ever(store, life, writer)));
        }
    });
}

async fn write_for_ever(store: &LocalStore, life: u32, writer: u32) {
    for at in 0.. {
        // A row that comes, and one that goes.
        let name = row_name(life, writer, at);
        let version = Version::random();
        let write = Write::put(Key::row(SPACE, b"p", &name), value_of(version)).with_version(version);
        assert!(store.write(write).await.unwrap().is_applied());
        say(&format!("row {writer} {at} {version}"));
        if at % 3 == 2 {
            say(&format!("going {writer} {}", at - 2));
            store.delete(Key::row(SPACE, b"p", &row_name(life, writer, at - 2))).await.unwrap();
            say(&format!("gone {writer} {}", at - 2));
        }
        // A record that is written over and over, on a condition.
        let name = writer.to_be_bytes();
        let hot = store.get(Key::lone(SPACE, &name)).await.unwrap();
        let count = count_of(hot.as_ref()) + 1;
        let mut write = Write::put(Key::lone(SPACE, &name), count.to_be_bytes().to_vec());
        if let Some(hot) = hot {
            write = write.expect(Expect::Is(hot.version));
        }
        assert!(store.write(write).await.unwrap().is_applied());
        say(&format!("hot {writer} {count}"));
        // What a reader has seen, no crash takes back.
        let other = (writer + 1) % WRITERS;
        let seen = store.get(Key::lone(SPACE, &other.to_be_bytes())).await.unwrap();
        say(&format!("hot {other} {}", count_of(seen.as_ref())));
    }
}

/// What must be there.
#[derive(Default)]
struct Told {
    /// Without a version: gone.
    rows: BTreeMap<[u8; 12], Option<Version>>,
    hot: BTreeMap<u32, u64>,
}

impl Told {
    fn hear(&mut self, life: u32, said: &str) {
        let words: Vec<&str> = said.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let row = || row_name(life, number(1), number(2));
        match words[0] {
            "row" => {
                let version = u128::from_str_radix(words[3], 16).unwrap();
                self.rows.insert(row(), Some(Version::from_u128(version)));
            }
            "going" => drop(self.rows.remove(&row())),
            "gone" => drop(self.rows.insert(row(), None)),
            "hot" => {
                let hot = self.hot.entry(number(1)).or_default();
                *hot = words[2].parse::<u64>().unwrap().max(*hot);
            }
            _ => panic!("{said}"),
        }
    }

    async fn judge(&self, store: &LocalStore) -> std::result::Result<(), String> {
        for (name, version) in &self.rows {
            let found = store.get(Key::row(SPACE, b"p", name)).await.unwrap();
            if let Some(record) = &found {
                assert_eq!(record.value, value_of(record.version), "half of a record");
            }
            if found.map(|record| record.version) != *version {
                return Err(format!("row {name:?} is lost, or is back"));
            }
        }
        for (writer, count) in &self.hot {
            let found = count_of(store.get(Key::lone(SPACE, &writer.to_be_bytes())).await.unwrap().as_ref());
            if found < *count {
                return Err(format!("record {writer} was {count} and is {found}"));
            }
        }
        Ok(())
    }
}

/// Lets the power fail so many times, after other numbers of answers; says what is missing, and how much was synced.
fn fail_power(lives: u32, sync: SyncMode) -> std::result::Result<usize, String> {
    let mut directory = Directory::new();
    std::fs::create_dir(directory.path()).unwrap();
    let (mut told, mut syncs) = (Told::default(), 0);
    for life in 0..lives {
        let task = format!("{sync:?} {life}");
        let mut machine = Machine::start("child_writes_until_the_power_fails", directory.path(), &task);
        let mut left = 1 + life * 97 % 400;
        machine.run_until(|line| {
            told.hear(life, line);
            left -= u32::from(!line.starts_with("going"));
            left == 0
        });
        syncs += machine.syncs;
        let after = Directory::new();
        machine.fail_power(after.path());
        let store = open(after.path(), sync);
        block_on(told.judge(&store)).map_err(|error| format!("life {life}: {error}"))?;
        drop(store);
        directory = after;
    }
    Ok(syncs)
}

#[test]
fn a_power_failure_takes_back_nothing_that_was_acknowledged_or_read() {
    let syncs = fail_power(10, SyncMode::EachBatch).unwrap();
    assert!(syncs > 200, "{syncs} syncs");
}

/// The mutant: it acknowledges what the kernel holds. A killed process loses nothing by it, so no other test sees it.
#[test]
fn a_store_that_does_not_sync_is_caught() {
    let error = fail_power(10, SyncMode::Never).unwrap_err();
    assert!(error.contains("is lost") || error.contains("was"), "{error}");
}

const READ_MAX: Duration = Duration::from_millis(700);
const WRITE_MAX: Duration = Duration::from_secs(1);
const ROWS: u32 = 300;

/// Puts one byte, whatever was there.
struct Set;

impl Procedure for Set {
    type Output = ();

    fn name(&self) -> &'static str {
        "set"
    }

    fn apply(&self, _: Option<&[u8]>, _now: Timestamp) -> std::result::Result<Step<()>, Undecodable> {
        Ok(Step { change: StateChange::Put { state: StateBytes::from_slice(b"s"), ttl: None }, output: () })
    }

    fn encode_output(&self, (): &(), _: &mut OutputBytes) {}

    fn decode_output(&self, _: &[u8]) -> std::result::Result<(), Undecodable> {
        Ok(())
    }
}

/// Says how a call ended, and that it did so in time.
fn told<T>(what: &str, call: impl Future<Output = Result<T>>) {
    let start = Instant::now();
    let answer = block_on(call);
    // Both deadlines, each judged a little late.
    assert!(start.elapsed() < Duration::from_secs(20), "{what} took {:?}", start.elapsed());
    match answer {
        Ok(_) => say(&format!("{what} ok")),
        Err(error) => say(&format!("{what} {:?} {:?}", error.kind(), error.effect())),
    }
}

/// Not a test: what runs while the disk hangs.
#[test]
fn child_calls_a_disk_that_hangs() {
    let Some(task) = task() else { return };
    let patient = LocalConfig { cache_bytes: 0, memtable_bytes: 16 << 10, ..LocalConfig::default() };
    let open = |config| block_on(LocalStore::open_with(Path::new(&task[1]), config, SystemClock)).unwrap();
    // A process that is followed, on a busy machine, is slow where nothing hangs too.
    let store = open(patient);
    let name = |at: u32| at.to_be_bytes();
    for at in 0..ROWS {
        block_on(store.put(Key::row(SPACE, b"p", &name(at)), vec![7; 500])).unwrap();
        block_on(store.put(Key::lone(SPACE, &name(at)), vec![7; 500])).unwrap();
    }
    while store.disk_bytes() < 100_000 {
        // real-time: files are written in the background.
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(store);
    let store =
        open(LocalConfig { read_wait_max: READ_MAX, write_wait_max: WRITE_MAX, reads_on_threads: true, ..patient });
    // The first of them lie in files, and no block of those is kept in memory.
    let (first, row) = (name(0), name(0));
    let (lone, row) = (Key::lone(SPACE, &first), Key::row(SPACE, b"p", &row));
    say("reads hang");
    told("get", store.get(lone));
    told("get_many", async { store.get_many(&[lone, row]).await.into_iter().collect::<Result<Vec<_>>>() });
    told("scan", store.scan(Scan::partition(SPACE, b"p", 10)));
    told("absent", store.write(Write::put(lone, "x").expect(Expect::Absent)));
    told("update", store.update(lone, &Set));
    told("trim", store.trim(Trim { space: SPACE, partition: b"p", keep: Keep::First(1) }));
    say("syncs hang");
    // Once that is known, nothing more is taken.
    told("any", store.put(Key::lone(SPACE, b"new"), "x"));
    told("behind", store.put(Key::lone(SPACE, b"behind"), "x"));
    told("condition", store.write(Write::put(Key::lone(SPACE, b"new"), "y").expect(Expect::Absent)));
    told("read", store.get(Key::lone(SPACE, b"new")));
    say("all goes on");
    let start = Instant::now();
    while let Err(error) = block_on(store.put(Key::lone(SPACE, b"after"), "x")) {
        assert!(error.kind().is_transient() && start.elapsed() < Duration::from_secs(20), "{error}");
    }
    assert_eq!(block_on(store.get(Key::lone(SPACE, b"behind"))).unwrap(), None);
    for key in [lone, row, Key::lone(SPACE, b"new"), Key::lone(SPACE, b"after")] {
        let found = block_on(store.get(key)).unwrap().map(|record| record.value.to_vec());
        let expected = if key.is_lone() && key.partition() != first { b"x".to_vec() } else { vec![7; 500] };
        assert_eq!(found, Some(expected), "{key:?}");
    }
    say("end");
}

#[test]
fn calls_on_a_disk_that_hangs_time_out_and_say_what_may_have_happened() {
    let directory = Directory::new();
    std::fs::create_dir(directory.path()).unwrap();
    let mut machine = Machine::start("child_calls_a_disk_that_hangs", directory.path(), "hang");
    let mut said = Vec::new();
    let mut until = |machine: &mut Machine, end: &str| {
        machine.run_until(|line| {
            said.push(line.to_owned());
            line == end
        });
    };
    until(&mut machine, "reads hang");
    machine.hang(READS);
    until(&mut machine, "syncs hang");
    assert!(machine.held() > 0, "no read hung");
    machine.hang(&[]);
    machine.hang(SYNCS);
    until(&mut machine, "all goes on");
    assert!(machine.held() > 0, "no sync hung");
    machine.hang(&[]);
    until(&mut machine, "end");
    let reads = ["get", "get_many", "scan", "absent", "update", "trim"];
    let expected = reads.map(|call| format!("{call} Timeout None")).into_iter().chain(
        [
            "syncs hang",
            "any Timeout Unknown",
            "behind Unavailable None",
            "condition Unavailable None",
            "read ok",
            "all goes on",
            "end",
        ]
        .map(str::to_owned),
    );
    assert_eq!(said, ["reads hang".to_owned()].into_iter().chain(expected).collect::<Vec<_>>());
}
