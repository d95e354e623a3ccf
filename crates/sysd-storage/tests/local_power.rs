//! The store on a local disk when the power fails: a killed process loses nothing that the kernel holds, a machine without power
//! all that was not synced. See `support/machine.rs`.
#![cfg(all(target_os = "linux", feature = "local"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/directory.rs"]
mod directory;
#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeMap;
use std::path::Path;

use futures::executor::block_on;
use sysd_core::{Key, Record, Space, Store as _, StoreExt as _, SystemClock, Version, Write};
use sysd_storage::{LocalConfig, LocalStore, SyncMode};

use directory::Directory;
use machine::{Machine, say, task};

const SPACE: Space = Space::conditional("local_power");
const WRITERS: u32 = 4;

/// Small enough that files are written and merged meanwhile.
fn config(sync: SyncMode) -> LocalConfig {
    LocalConfig { sync, memtable_bytes: 64 << 10, ..LocalConfig::default() }
}

fn open(path: &Path, sync: SyncMode) -> LocalStore {
    block_on(LocalStore::open_with(path, config(sync), SystemClock)).unwrap()
}

/// The value that goes with a version: a record that is half of one write and half of another shows.
fn value_of(version: Version) -> Vec<u8> {
    let bytes = version.to_bytes();
    bytes.iter().copied().cycle().take(1 + usize::from(bytes[0]) * 8).collect()
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
            write = write.expect(sysd_core::Expect::Is(hot.version));
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
    fn hear(&mut self, life: u32, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
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
            _ => panic!("{line}"),
        }
    }

    async fn judge(&self, store: &LocalStore) -> Result<(), String> {
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
fn fail_power(lives: u32, sync: SyncMode) -> Result<usize, String> {
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
    let syncs = fail_power(20, SyncMode::EachBatch).unwrap();
    assert!(syncs > 500, "{syncs} syncs");
}

/// The mutant: it acknowledges what the kernel holds. A killed process loses nothing by it, so no other test sees it.
#[test]
fn a_store_that_does_not_sync_is_caught() {
    let error = fail_power(20, SyncMode::Never).unwrap_err();
    assert!(error.contains("is lost") || error.contains("was"), "{error}");
}
