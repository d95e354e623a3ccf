//! The store on a local disk when things go wrong: killed under load, torn and damaged files, a disk without room.
//!
//! The process that is killed is this test's own program, told by a variable to write until it dies.
#![cfg(all(feature = "local", feature = "memory", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures::executor::block_on;
use sysd_core::{
    Effect, ErrorKind, Expect, Key, Outcome, Record, Result, Scan, Space, Store as _, StoreExt as _, SystemClock,
    Version, Write,
};
use sysd_storage::{LocalConfig, LocalStore, Replica, ReplicaConfig};
use sysd_testkit::Counters;
use sysd_testkit::counters::Add;
use sysd_testkit::oracle::{Call, CallId, History, RecordSpec, Reply, check};

mod support;

use support::Count;
use support::directory::Directory;

const SPACE: Space = Space::conditional("local_faults");
const VARIABLE: &str = "SYSD_LOCAL_CHILD";
const WRITERS: u32 = 4;
/// Calls of one writer on one record: histories stay short enough to be searched.
const CALLS_EACH: u32 = 8;

/// Small enough that files are written and merged meanwhile.
fn config() -> LocalConfig {
    LocalConfig { memtable_bytes: 1 << 20, ..LocalConfig::default() }
}

async fn open(path: &Path) -> LocalStore {
    LocalStore::open_with(path, config(), SystemClock).await.unwrap()
}

/// The value that goes with a version: a record that is half of one write and half of another shows. Some are large.
fn value_of(version: Version) -> Vec<u8> {
    let bytes = version.to_bytes();
    let each = if bytes[1] < 32 { 64 } else { 8 };
    bytes.iter().copied().cycle().take(1 + usize::from(bytes[0]) * each).collect()
}

fn version_of(record: Option<&Record>) -> Option<Version> {
    record.map(|record| {
        assert_eq!(record.value, value_of(record.version), "half of a record");
        record.version
    })
}

/// Starts this program again to run one of the functions below, which all do nothing but for it.
fn spawn(what: &str, directory: &Path, life: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", what, "--nocapture", "--test-threads", "1"])
        .env(VARIABLE, format!("{life}:{}", directory.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Which life this is, and where; nothing in the tests' own process.
fn task() -> Option<(u32, PathBuf)> {
    let task = std::env::var(VARIABLE).ok()?;
    let (life, directory) = task.split_once(':').unwrap();
    Some((life.parse().unwrap(), directory.into()))
}

/// Says a line, whole: the parent reads it even if this process dies at once.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("@ {line}\n").as_bytes()).unwrap();
}

fn hex(version: Option<Version>) -> String {
    version.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

fn unhex(text: &str) -> Option<Version> {
    u128::from_str_radix(text, 16).ok().map(Version::from_u128)
}

fn name(life: u32, at: u32) -> [u8; 8] {
    (u64::from(life) << 32 | u64::from(at)).to_be_bytes()
}

/// Not a test: what the killed process does. Each line is said before a call or after its answer.
#[test]
fn child_writes_until_it_is_killed() {
    let Some((life, directory)) = task() else { return };
    let store = block_on(open(&directory));
    say("open");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || block_on(write_for_ever(store, life, writer)));
        }
    });
}

async fn write_for_ever(store: &LocalStore, life: u32, writer: u32) {
    let mut last = None;
    for at in 0.. {
        // Once on a record that the others write too.
        let shared = name(life, at / CALLS_EACH);
        let key = Key::lone(SPACE, &shared);
        let id = format!("{} {writer}:{at}", at / CALLS_EACH);
        let version = Version::random();
        let expect = match at % 4 {
            0 => Expect::Absent,
            1 => Expect::Any,
            _ => last.map_or(Expect::Absent, Expect::Is),
        };
        if at % 4 == 3 {
            say(&format!("get {id}"));
            last = version_of(store.get(key).await.unwrap().as_ref());
            say(&format!("found {id} {}", hex(last)));
        } else {
            let told = match expect {
                Expect::Any => "any".to_owned(),
                Expect::Absent => "absent".to_owned(),
                Expect::Is(version) => version.to_string(),
            };
            say(&format!("write {id} {version} {told}"));
            let write = Write::put(key, value_of(version)).with_version(version).expect(expect);
            last = match store.write(write).await.unwrap() {
                Outcome::Applied => {
                    say(&format!("applied {id}"));
                    Some(version)
                }
                Outcome::Conflict { found } => {
                    let found = version_of(found.as_ref());
                    say(&format!("conflict {id} {}", hex(found)));
                    found
                }
            };
        }
        // Once on a row of its own, and once on everybody's counter.
        let (partition, sort) = (life.to_be_bytes(), name(writer, at));
        let row = Write::put(Key::row(SPACE, &partition, &sort), value_of(version)).with_version(version);
        assert!(store.write(row).await.unwrap().is_applied());
        say(&format!("row {writer} {at} {version}"));
        say("counting");
        say(&format!("counted {}", store.run(Key::lone(SPACE, b"counter"), &Count).await.unwrap()));
    }
}

/// What a life told before it was killed.
#[derive(Default)]
struct Told {
    histories: BTreeMap<u32, History<RecordSpec>>,
    calls: HashMap<String, CallId>,
    rows: BTreeMap<[u8; 8], Version>,
    counting: u64,
    counted_max: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut history = |record: &str| {
            let history = self.histories.entry(record.parse().unwrap()).or_default();
            std::mem::take(history)
        };
        match words[..] {
            ["get", record, id] => {
                let mut now = history(record);
                self.calls.insert(id.to_owned(), now.invoke(Call::Get));
                self.histories.insert(record.parse().unwrap(), now);
            }
            ["write", record, id, version, expect] => {
                let expect = match expect {
                    "any" => Expect::Any,
                    "absent" => Expect::Absent,
                    version => Expect::Is(unhex(version).unwrap()),
                };
                let mut now = history(record);
                self.calls.insert(id.to_owned(), now.invoke(Call::Write { expect, version: unhex(version) }));
                self.histories.insert(record.parse().unwrap(), now);
            }
            ["found", record, id, version] => self.answer(record, id, Reply::Found(unhex(version))),
            ["applied", record, id] => self.answer(record, id, Reply::Applied),
            ["conflict", record, id, version] => self.answer(record, id, Reply::Conflict(unhex(version))),
            ["row", writer, at, version] => {
                self.rows.insert(name(writer.parse().unwrap(), at.parse().unwrap()), unhex(version).unwrap());
            }
            ["counting"] => self.counting += 1,
            ["counted", count] => self.counted_max = self.counted_max.max(count.parse().unwrap()),
            _ => {}
        }
    }

    fn answer(&mut self, record: &str, id: &str, reply: Reply) {
        self.histories.get_mut(&record.parse().unwrap()).unwrap().complete(self.calls[id], reply);
    }

    /// What is wrong with the store, after this life, if anything is.
    async fn judge(mut self, store: &LocalStore, life: u32) -> std::result::Result<(), String> {
        for (record, history) in &mut self.histories {
            let id = history.invoke(Call::Get);
            let found = store.get(Key::lone(SPACE, &name(life, *record))).await.unwrap();
            history.complete(id, Reply::Found(version_of(found.as_ref())));
            check(history).map_err(|error| format!("life {life}, record {record}: {error}"))?;
        }
        for (sort, version) in &self.rows {
            let found = store.get(Key::row(SPACE, &life.to_be_bytes(), sort)).await.unwrap();
            if version_of(found.as_ref()) != Some(*version) {
                return Err(format!("life {life} lost row {sort:?}: {found:?} is there"));
            }
        }
        let rows = store.scan_rows(Scan::partition(SPACE, &life.to_be_bytes(), 1 << 20)).await.unwrap();
        // At most one call of each writer was under way.
        let extra = rows.iter().filter(|row| !self.rows.contains_key(&row.sort[..])).count();
        if extra > WRITERS as usize {
            return Err(format!("life {life} has {extra} rows that nobody acknowledged"));
        }
        for row in &rows {
            assert!(version_of(Some(&row.record)).is_some());
        }
        Ok(())
    }
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
    // The test harness of the child says things too, the first without an end of line.
    lines.filter_map(|line| line.split_once("@ ").map(|(_, line)| line.to_owned()))
}

#[test]
fn a_process_killed_a_hundred_times_loses_nothing_acknowledged() {
    const LIVES: u32 = 110;
    let directory = Directory::new();
    let (mut count_least, mut count_most, mut acknowledged) = (0, 0, 0);
    let mut rows = BTreeMap::new();
    for life in 0..LIVES {
        let mut child = spawn("child_writes_until_it_is_killed", directory.path(), life);
        let mut told = Told::default();
        let mut said = lines(&mut child);
        assert_eq!(said.next().as_deref(), Some("open"));
        if life == 0 {
            let error = block_on(LocalStore::open(directory.path())).unwrap_err();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
            assert!(error.message().contains(&directory.path().display().to_string()), "{error}");
        }
        // Killed while it writes, sooner or later.
        for line in said.by_ref().take(50 + (life as usize * 97) % 1_500) {
            told.hear(&line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, it did.
        said.for_each(|line| told.hear(&line));
        count_least = told.counted_max.max(count_least);
        count_most += told.counting;
        acknowledged += told.rows.len();
        rows.extend(told.rows.iter().map(|(sort, version)| ((life, *sort), *version)));
        block_on(async {
            let store = open(directory.path()).await;
            told.judge(&store, life).await.unwrap();
            let counter = store.get(Key::lone(SPACE, b"counter")).await.unwrap();
            let count = counter.map_or(0, |record| u64::from_be_bytes(record.value[..].try_into().unwrap()));
            assert!((count_least..=count_most).contains(&count), "{count} is not {count_least} to {count_most}");
            (count_least, count_most) = (count, count);
        });
    }
    assert!(acknowledged > LIVES as usize * 20, "only {acknowledged} rows were acknowledged");
    block_on(async {
        let store = open(directory.path()).await;
        for ((life, sort), version) in &rows {
            let found = store.get(Key::row(SPACE, &life.to_be_bytes(), sort)).await.unwrap();
            assert_eq!(version_of(found.as_ref()), Some(*version), "row {sort:?} of life {life}");
        }
        // The judge sees a row that is lost, and a record that went back.
        let (&(life, sort), &version) = rows.first_key_value().unwrap();
        store.delete(Key::row(SPACE, &life.to_be_bytes(), &sort)).await.unwrap();
        let told = Told { rows: [(sort, version)].into(), ..Told::default() };
        told.judge(&store, life).await.unwrap_err();
        let mut told = Told::default();
        let lost = Version::random();
        told.hear(&format!("write 0 0:0 {lost} any"));
        told.hear("applied 0 0:0");
        told.judge(&store, life).await.unwrap_err();
    });
}

/// Not a test: a replica that is killed.
#[test]
fn child_submits_until_it_is_killed() {
    let Some((life, directory)) = task() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&directory).await;
        let config = ReplicaConfig { snapshot_log_bytes: Some(20_000), ..ReplicaConfig::default() };
        let (replica, driver) = Replica::<Counters>::open(store, "bank", config).await.unwrap();
        tokio::spawn(driver);
        let callers: Vec<_> = (0..16_u64)
            .map(|caller| {
                let replica = replica.clone();
                tokio::spawn(async move {
                    for at in 0.. {
                        let id = u64::from(life) << 40 | caller << 32 | at;
                        replica.submit(Add { id, counter: 1, amount: 1 }).await.unwrap();
                        say(&format!("done {id}"));
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    });
}

#[test]
fn a_replica_that_is_killed_has_every_acknowledged_command_once() {
    let directory = Directory::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut done = BTreeSet::new();
    for life in 0..10 {
        let mut child = spawn("child_submits_until_it_is_killed", directory.path(), life);
        let mut said = lines(&mut child);
        let mut hear = |line: String| done.extend(line.strip_prefix("done ").and_then(|id| id.parse::<u64>().ok()));
        said.by_ref().take(400).for_each(&mut hear);
        child.kill().unwrap();
        child.wait().unwrap();
        said.for_each(&mut hear);
        let journal = runtime.block_on(async {
            let store = open(directory.path()).await;
            let (replica, driver) = Replica::<Counters>::open(store, "bank", ReplicaConfig::default()).await.unwrap();
            let driver = tokio::spawn(driver);
            let ids = |counters: &Counters| counters.journal().iter().map(|(_, add)| add.id).collect::<Vec<_>>();
            let journal = replica.read_latest(ids).await.unwrap();
            drop(replica);
            driver.abort();
            drop(driver.await);
            journal
        });
        let applied: BTreeSet<u64> = journal.iter().copied().collect();
        assert_eq!(applied.len(), journal.len(), "something was applied twice");
        assert!(done.is_subset(&applied), "life {life} lost something acknowledged");
    }
    assert!(done.len() > 2_000, "only {} commands were acknowledged", done.len());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// The sort keys of a store of numbered rows: they must be the first so many.
async fn prefix_of(store: &LocalStore) -> Result<usize> {
    let rows = store.scan_rows(Scan::partition(SPACE, b"p", 10_000)).await?;
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row.sort, (at as u64).to_be_bytes()[..], "a hole");
        assert!(version_of(Some(&row.record)).is_some());
    }
    Ok(rows.len())
}

async fn put_rows(store: &LocalStore, rows: u64) {
    for at in 0..rows {
        let version = Version::random();
        let sort = at.to_be_bytes();
        let write = Write::put(Key::row(SPACE, b"p", &sort), value_of(version)).with_version(version);
        assert!(store.write(write).await.unwrap().is_applied());
    }
}

#[test]
fn a_torn_journal_opens_with_what_came_before() {
    let whole = Directory::new();
    block_on(async { put_rows(&LocalStore::open(whole.path()).await.unwrap(), 100).await });
    let journal = |directory: &Directory| {
        let mut found = Vec::new();
        files(directory.path(), &mut found);
        let is_journal = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "jnl");
        let mut journals: Vec<_> = found.iter().filter(is_journal).cloned().collect();
        assert_eq!(journals.len(), 1);
        journals.remove(0)
    };
    // It is longer than what is written in it.
    let bytes = fs::read(journal(&whole)).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    let mut counts = Vec::new();
    for at in 0..40 {
        let torn = Directory::new();
        copy(whole.path(), torn.path());
        let file = fs::OpenOptions::new().write(true).open(journal(&torn)).unwrap();
        file.set_len(used * at / 40 + at % 7).unwrap();
        drop(file);
        block_on(async {
            let store = LocalStore::open(torn.path()).await.unwrap();
            let count = prefix_of(&store).await.unwrap();
            // And it goes on.
            put_rows(&store, 3).await;
            counts.push(count);
        });
        assert!(block_on(async { prefix_of(&LocalStore::open(torn.path()).await.unwrap()).await }).unwrap() >= 3);
    }
    assert!(counts.is_sorted() && counts[0] == 0 && counts[39] > 80, "{counts:?}");
}

#[test]
fn damage_is_told_and_never_answered() {
    let whole = Directory::new();
    block_on(async {
        let config = LocalConfig { memtable_bytes: 64 << 10, ..LocalConfig::default() };
        let store = LocalStore::open_with(whole.path(), config, SystemClock).await.unwrap();
        put_rows(&store, 1_000).await;
        while store.disk_bytes() == 0 {
            // real-time: files are written in the background.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    let mut tables = Vec::new();
    files(&whole.path().join("tree/keyspaces"), &mut tables);
    tables.retain(|path| path.parent().is_some_and(|parent| parent.ends_with("tables")));
    assert!(!tables.is_empty());
    let mut told = 0;
    for step in 1..=20_usize {
        let damaged = Directory::new();
        copy(whole.path(), damaged.path());
        for table in &tables {
            let path = damaged.path().join(table.strip_prefix(whole.path()).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() * step / 21;
            bytes[at] ^= 0x55;
            fs::write(path, bytes).unwrap();
        }
        told += usize::from(block_on(is_told(damaged.path())));
    }
    assert!(told >= 15, "only {told} of 20 damages were told");
}

/// Opens a damaged store; whether damage was told. Everything else must be as it was.
async fn is_told(path: &Path) -> bool {
    let store = match LocalStore::open(path).await {
        Ok(store) => store,
        Err(error) => {
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
            return true;
        }
    };
    let mut is_told = false;
    for at in 0..1_000_u64 {
        let sort = at.to_be_bytes();
        let key = Key::row(SPACE, b"p", &sort);
        match store.get(key).await {
            Ok(found) => assert!(version_of(found.as_ref()).is_some(), "row {at} is gone without a word"),
            Err(error) => {
                assert_eq!((error.kind(), error.effect(), error.key()), (ErrorKind::Corrupt, Effect::None, Some(key)));
                is_told = true;
            }
        }
    }
    is_told
}

/// Not a test: a process whose files may not grow beyond its limit.
#[test]
fn child_writes_until_there_is_no_room() {
    let Some((_, directory)) = task() else { return };
    // Nothing is written out: the journal grows.
    let config = LocalConfig { memtable_bytes: 1 << 30, ..LocalConfig::default() };
    let store = Arc::new(block_on(LocalStore::open_with(&directory, config, SystemClock)).unwrap());
    let mut at = 0_u64;
    let error = loop {
        let sort = at.to_be_bytes();
        match block_on(store.put(Key::row(SPACE, b"p", &sort), vec![7; 1 << 20])) {
            Ok(()) => at += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::Unknown), "{error}");
    // From now on nothing is taken, and what is there is still read.
    let error = block_on(store.put(Key::lone(SPACE, b"k"), "x")).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None), "{error}");
    let last = (at - 1).to_be_bytes();
    assert!(block_on(store.get(Key::row(SPACE, b"p", &last))).unwrap().is_some());
    say(&format!("full {at}"));
}

#[test]
fn a_disk_without_room_stops_the_store_and_loses_nothing_acknowledged() {
    let directory = Directory::new();
    // The limit in place of a small disk: writes beyond it fail. Its signal, which would end the process, is ignored.
    let script = "trap '' XFSZ; ulimit -f 140000; exec \"$0\" \"$@\"";
    let mut child = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_there_is_no_room", "--nocapture"])
        .env(VARIABLE, format!("0:{}", directory.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said: Vec<_> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success());
    let acknowledged: u64 = said[0].strip_prefix("full ").unwrap().parse().unwrap();
    assert!(acknowledged > 50, "{acknowledged}");
    block_on(async {
        let store = LocalStore::open(directory.path()).await.unwrap();
        for at in 0..acknowledged {
            let sort = at.to_be_bytes();
            assert_eq!(store.get(Key::row(SPACE, b"p", &sort)).await.unwrap().unwrap().value.len(), 1 << 20);
        }
        // The one that failed is there or not; and it goes on.
        store.put(Key::lone(SPACE, b"k"), "x").await.unwrap();
    });
}
