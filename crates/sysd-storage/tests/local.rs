//! The store on a local disk: what only it does.
#![cfg(all(feature = "local", feature = "memory", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::join_all;
use sysd_core::{
    Clock as _, Durability, Effect, ErrorKind, Expect, Key, ManualClock, Scan, Space, Store as _, StoreExt as _,
    SystemClock, Timestamp, Write,
};
use sysd_storage::{LocalConfig, LocalStore, SyncMode};

mod support;

use support::directory::Directory;
use support::{Count, suite};

const SPACE: Space = Space::conditional("local_test");
const START: Timestamp = Timestamp::from_micros_saturating(1_760_000_000_000_000);

#[tokio::test]
async fn random_histories_answer_as_memory() {
    // Each history has a store of its own; they go when all are done.
    let directories = Mutex::new(Vec::new());
    for reads_on_threads in [false, true] {
        suite::answers_as_memory(40, async |clock| {
            let directory = Directory::new();
            let config = LocalConfig { reads_on_threads, ..LocalConfig::default() };
            let store = LocalStore::open_with(directory.path(), config, clock).await.unwrap();
            directories.lock().unwrap().push(directory);
            store
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_concurrent_writers() {
    let directory = Directory::new();
    let store = LocalStore::open(directory.path()).await.unwrap();
    suite::batches(&store).await;
    suite::concurrent_writes(&store).await;
}

#[test]
fn any_executor_will_do_and_what_was_written_is_there_after_opening_again() {
    let directory = Directory::new();
    block_on(async {
        let store = LocalStore::open(directory.path()).await.unwrap();
        assert_eq!(store.limits().durability, Durability::Durable);
        store.put(Key::lone(SPACE, b"a"), "lone").await.unwrap();
        store.put(Key::row(SPACE, b"a", b"1"), "row").await.unwrap();
        assert_eq!(store.run(Key::lone(SPACE, b"n"), &Count).await.unwrap(), 1);
    });
    block_on(async {
        let store = LocalStore::open(directory.path()).await.unwrap();
        assert_eq!(store.get(Key::lone(SPACE, b"a")).await.unwrap().unwrap().value, "lone");
        assert_eq!(store.scan(Scan::partition(SPACE, b"a", 9)).await.unwrap().rows[0].record.value, "row");
        assert_eq!(store.run(Key::lone(SPACE, b"n"), &Count).await.unwrap(), 2);
    });
}

#[test]
fn a_store_without_syncs_says_so() {
    let directory = Directory::new();
    let config = LocalConfig { sync: SyncMode::Never, ..LocalConfig::default() };
    let store = block_on(LocalStore::open_with(directory.path(), config, SystemClock)).unwrap();
    assert_eq!(store.limits().durability, Durability::BestEffort);
}

#[tokio::test]
async fn procedures_on_one_record_share_batches() {
    let directory = Directory::new();
    let store = LocalStore::open(directory.path()).await.unwrap();
    let key = Key::lone(SPACE, b"hot");
    let mut counts: Vec<u64> =
        join_all((0..2_000).map(|_| store.run(key, &Count))).await.into_iter().map(Result::unwrap).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=2_000).collect::<Vec<_>>());
}

#[test]
fn a_store_in_use_is_refused_and_free_again_when_it_is_dropped() {
    let directory = Directory::new();
    let store = block_on(LocalStore::open(directory.path())).unwrap();
    let error = block_on(LocalStore::open(directory.path())).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(error.message().contains(&directory.path().display().to_string()), "{error}");
    drop(store);
    block_on(LocalStore::open(directory.path())).unwrap();
}

#[test]
fn what_is_not_ours_or_not_for_us_is_refused() {
    let directory = Directory::new();
    fs::create_dir(directory.path()).unwrap();
    fs::write(directory.path().join("thesis.txt"), "x").unwrap();
    let error = block_on(LocalStore::open(directory.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains("thesis.txt"), "{error}");

    let directory = Directory::new();
    drop(block_on(LocalStore::open(directory.path())).unwrap());
    let format = directory.path().join("tree/sysd-format");
    for (text, kind) in [("1\n", ErrorKind::Config), ("3\n", ErrorKind::Config), ("\0", ErrorKind::Corrupt)] {
        fs::write(&format, text).unwrap();
        let error = block_on(LocalStore::open(directory.path())).unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, Effect::None), "{error}");
    }
    fs::remove_file(&format).unwrap();
    assert_eq!(block_on(LocalStore::open(directory.path())).unwrap_err().kind(), ErrorKind::Corrupt);

    let directory = Directory::new();
    drop(block_on(LocalStore::open(directory.path())).unwrap());
    fs::write(directory.path().join("tree/version"), b"FJL\x02").unwrap();
    assert_eq!(block_on(LocalStore::open(directory.path())).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_tree_that_was_not_finished_is_made_anew() {
    let directory = Directory::new();
    fs::create_dir_all(directory.path().join("tree.new/keyspaces")).unwrap();
    fs::write(directory.path().join("tree.new/0.jnl"), b"").unwrap();
    let store = block_on(LocalStore::open(directory.path())).unwrap();
    block_on(store.put(Key::lone(SPACE, b"a"), "x")).unwrap();
}

#[test]
fn where_the_disk_has_too_little_room_puts_are_refused_and_deletes_go_on() {
    let directory = Directory::new();
    let key = Key::lone(SPACE, b"a");
    block_on(async { LocalStore::open(directory.path()).await.unwrap().put(key, "x").await }).unwrap();
    let config = LocalConfig { free_bytes_min: u64::MAX, ..LocalConfig::default() };
    block_on(async {
        let store = LocalStore::open_with(directory.path(), config, SystemClock).await.unwrap();
        let error = store.put(key, "y").await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None), "{error}");
        assert_eq!(store.run(key, &Count).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(store.run(Key::lone(SPACE, b"n"), &Count).await.unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(store.get(key).await.unwrap().unwrap().value, "x");
        store.delete(key).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), None);
    });
}

/// Writes so many rounds of records that live ten seconds; answers what the tree takes on the disk at the end.
async fn churn(grace: Duration, rounds: u64, in_order: bool, reclaims: bool) -> u64 {
    const EACH: u64 = 2_000;
    let directory = Directory::new();
    let clock = ManualClock::new(START);
    let config = LocalConfig { memtable_bytes: 1 << 20, reclaim_grace: grace, ..LocalConfig::default() };
    let store = LocalStore::open_with(directory.path(), config, clock.clone()).await.unwrap();
    for round in 0..rounds {
        let names: Vec<[u8; 8]> = (0..EACH)
            .map(|at| round * EACH + at)
            .map(|at| if in_order { at } else { at.wrapping_mul(0x9E37_79B9_7F4A_7C15) }.to_be_bytes())
            .collect();
        let expiry = clock.now().saturating_add(Duration::from_secs(10));
        let mut writes = Vec::new();
        for name in &names {
            writes.push(Write::put(Key::lone(SPACE, name), vec![7; 500]).expires_at(expiry));
        }
        assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
        clock.advance(Duration::from_secs(20));
        if reclaims {
            assert!(store.reclaim().await.unwrap() <= usize::try_from(EACH * rounds).unwrap());
        }
    }
    // What is written out is merged in the background.
    let (mut bytes, mut seen) = (store.disk_bytes(), u64::MAX);
    while bytes != seen {
        // real-time: merges take as long as they take.
        tokio::time::sleep(Duration::from_millis(500)).await;
        (seen, bytes) = (bytes, store.disk_bytes());
    }
    bytes
}

#[tokio::test]
async fn what_expires_is_reclaimed_by_merges_and_passes() {
    const ROUNDS: u64 = 40;
    const NEVER: Duration = Duration::from_secs(1 << 40);
    let written = ROUNDS * 2_000 * 500;
    // The mutant: nothing is ever old enough.
    let kept = churn(NEVER, ROUNDS, false, false).await;
    assert!(kept > written * 3 / 4, "{kept} of {written}");
    let merged = churn(Duration::ZERO, ROUNDS, false, false).await;
    let ordered = churn(Duration::ZERO, ROUNDS, true, true).await;
    println!("of {written} bytes {kept} are kept where nothing goes, {merged} after merges, {ordered} after passes");
    assert!(merged < written / 3, "{merged} of {written}");
    assert!(ordered < written / 3, "{ordered} of {written}");
}

#[test]
fn a_pass_removes_what_expired_and_nothing_else() {
    let directory = Directory::new();
    let clock = ManualClock::new(START);
    let config = LocalConfig { reclaim_grace: Duration::from_secs(60), ..LocalConfig::default() };
    block_on(async {
        let store = LocalStore::open_with(directory.path(), config, clock.clone()).await.unwrap();
        let names: Vec<[u8; 2]> = (0..9_000_u16).map(u16::to_be_bytes).collect();
        let expiry = START.saturating_add(Duration::from_secs(1));
        let mut writes = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let key = if at % 2 == 0 { Key::lone(SPACE, name) } else { Key::row(SPACE, b"p", name) };
            let write = Write::put(key, "x");
            writes.push(if at % 3 == 0 { write.expires_at(expiry) } else { write });
        }
        assert!(store.write_many(&writes).await.into_iter().all(|outcome| outcome.unwrap().is_applied()));
        clock.advance(Duration::from_secs(61));
        assert_eq!(store.reclaim().await.unwrap(), 3_000);
        assert_eq!(store.reclaim().await.unwrap(), 0);
        let keys: Vec<_> = writes.iter().map(|write| write.key).collect();
        let found = store.get_many(&keys).await;
        assert!(found.into_iter().enumerate().all(|(at, found)| found.unwrap().is_some() == (at % 3 != 0)));
        // One that is made again in time stays.
        assert!(store.write(Write::put(keys[0], "again").expect(Expect::Absent)).await.unwrap().is_applied());
        assert_eq!(store.reclaim().await.unwrap(), 0);
    });
}

/// However many batches come while parts are written out and merged, and however many parts are written to.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_stays_bounded() {
    const SPACES: [Space; 4] = [
        Space::conditional("log"),
        Space::conditional("ledger_journal"),
        Space::conditional("ledger_index"),
        Space::conditional("queue"),
    ];
    let directory = Directory::new();
    let made = LocalConfig { memtable_bytes: 64 << 20, sync: SyncMode::Never, ..LocalConfig::default() };
    drop(LocalStore::open_with(directory.path(), made, SystemClock).await.unwrap());
    // That of the last opening counts.
    let config = LocalConfig { memtable_bytes: 256 << 10, ..made };
    let store = LocalStore::open_with(directory.path(), config, SystemClock).await.unwrap();
    let value = vec![7; 2 << 10];
    let mut most = 0;
    for round in 0..300_u32 {
        for at in 0..100_u32 {
            let sort = (round ^ at << 16).to_be_bytes();
            store.put(Key::row(SPACES[at as usize % SPACES.len()], b"p", &sort), value.clone()).await.unwrap();
        }
        most = most.max(store.memory_bytes());
    }
    // As much of all as may be, and of each part four that are being written out.
    let parts = SPACES.len() as u64;
    let allowed = config.memtable_bytes * (4 + 4 * parts + 1);
    assert!(most <= allowed, "{most} of {allowed}");
    let start = Instant::now();
    while store.memory_bytes() > config.memtable_bytes * 4 {
        assert!(start.elapsed() < Duration::from_secs(60), "it is not written out");
        tokio::task::yield_now().await;
    }
}
