//! What the in-process store adds to the contract: bounds, eviction, reclaiming, sharing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{
    Clock as _, Effect, ErrorKind, Expect, Keep, Key, ManualClock, Order, OutputBytes, Procedure, Scan, Space,
    StateBytes, StateChange, Step, Store, StoreExt, Timestamp, Trim, Undecodable, Write,
};
use sysd_storage::{Memory, MemoryConfig};

const TRUTH: Space = Space::conditional("truth");
const CACHE: Space = Space::plain("cache").evictable();

fn bounded(bytes_max: usize) -> (Memory<ManualClock>, ManualClock) {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
    let config = MemoryConfig { shards: 4, bytes_max: Some(bytes_max) };
    (Memory::with_config(config, clock.clone()), clock)
}

fn put(store: &impl Store, space: Space, name: u32, bytes: usize) -> Result<(), ErrorKind> {
    let key = name.to_be_bytes();
    block_on(store.put(Key::lone(space, &key), vec![7; bytes])).map_err(|error| {
        assert_eq!(error.effect(), Effect::None);
        error.kind()
    })
}

/// Adds one, and answers the sum; its state lives for a second.
struct Count;

impl Procedure for Count {
    type Output = u64;

    fn name(&self) -> &'static str {
        "count"
    }

    fn apply(&self, state: Option<&[u8]>, _now: Timestamp) -> Result<Step<u64>, Undecodable> {
        let count = state.map_or(Ok(0), |state| self.decode_output(state))? + 1;
        let state = StateBytes::from_slice(&count.to_be_bytes());
        Ok(Step { change: StateChange::Put { state, ttl: Some(Duration::from_secs(1)) }, output: count })
    }

    fn encode_output(&self, output: &u64, out: &mut OutputBytes) {
        out.extend_from_slice(&output.to_be_bytes());
    }

    fn decode_output(&self, bytes: &[u8]) -> Result<u64, Undecodable> {
        let error = Undecodable { procedure: "count", what: "state" };
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| error)?))
    }
}

#[test]
fn a_bound_refuses_what_does_not_fit_and_forgets_nothing() {
    let (store, _) = bounded(10_000);
    let fitted = (0..100).take_while(|&name| put(&store, TRUTH, name, 500).is_ok()).count();
    assert!((10..20).contains(&fitted), "{fitted}");
    assert_eq!(put(&store, TRUTH, 99, 500), Err(ErrorKind::Full));
    assert_eq!(store.record_count(), fitted);
    // Smaller over larger always fits, and what is deleted makes room.
    put(&store, TRUTH, 0, 10).unwrap();
    put(&store, TRUTH, 0, 500).unwrap();
    block_on(store.delete(Key::lone(TRUTH, &1_u32.to_be_bytes()))).unwrap();
    put(&store, TRUTH, 99, 500).unwrap();
    assert_eq!(put(&store, TRUTH, 98, 500), Err(ErrorKind::Full));
}

#[test]
fn a_full_store_refuses_updates_too_and_leaves_no_trace() {
    let (store, _) = bounded(200);
    block_on(store.run(Key::lone(TRUTH, b"a"), &Count)).unwrap();
    let error = block_on(store.run(Key::lone(TRUTH, b"b"), &Count)).unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None));
    assert_eq!(block_on(store.run(Key::lone(TRUTH, b"a"), &Count)).unwrap(), 2);
    assert_eq!(block_on(store.get(Key::lone(TRUTH, b"b"))).unwrap(), None);
}

#[test]
fn caches_make_room_for_truth_and_never_the_other_way() {
    let (store, _) = bounded(10_000);
    for name in 0..1_000 {
        put(&store, CACHE, name, 100).unwrap();
    }
    for name in 0..40 {
        put(&store, TRUTH, name, 100).unwrap();
    }
    for name in 0..1_000 {
        let _ = put(&store, CACHE, name, 100);
    }
    for name in 0..40_u32 {
        assert!(block_on(store.get(Key::lone(TRUTH, &name.to_be_bytes()))).unwrap().is_some());
    }
}

#[test]
fn expired_records_make_room() {
    let (store, clock) = bounded(1_000);
    let soon = clock.now().saturating_add(Duration::from_secs(1));
    let write = Write::put(Key::lone(TRUTH, b"old"), vec![0; 700]).expires_at(soon);
    assert!(block_on(store.write(write)).unwrap().is_applied());
    assert_eq!(put(&store, TRUTH, 1, 500), Err(ErrorKind::Full));
    clock.set(soon);
    put(&store, TRUTH, 1, 500).unwrap();
}

#[test]
fn a_flood_of_expiring_keys_is_reclaimed() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1));
    let store = Memory::with_clock(clock.clone());
    for name in 0..1_000_000_u32 {
        block_on(store.run(Key::lone(TRUTH, &name.to_be_bytes()), &Count)).unwrap();
        clock.advance(Duration::from_micros(100));
    }
    // 10,000 are alive at any time; small shards sweep from 1,024 records on.
    let held = store.record_count();
    assert!(held < 64 * 1_024 + 20_000, "{held}");
    clock.advance(Duration::from_secs(1));
    store.reclaim();
    assert_eq!(store.record_count(), 0);
}

#[test]
fn threads_lose_no_update() {
    let store = Memory::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..10_000 {
                    block_on(store.run(Key::row(TRUTH, b"p", b"s"), &Count)).unwrap();
                }
            });
        }
    });
    assert_eq!(block_on(store.run(Key::row(TRUTH, b"p", b"s"), &Count)).unwrap(), 40_001);
}

#[test]
fn every_update_has_a_version_of_its_own() {
    let store = Memory::new();
    let mut versions = std::collections::HashSet::new();
    for round in 0..1_000_u32 {
        let name = (round % 50).to_be_bytes();
        block_on(store.run(Key::lone(TRUTH, &name), &Count)).unwrap();
        versions.insert(block_on(store.get(Key::lone(TRUTH, &name))).unwrap().unwrap().version);
    }
    assert_eq!(versions.len(), 1_000);
}

#[test]
fn undecodable_state_is_corrupt_and_stays() {
    let store = Memory::new();
    let key = Key::lone(TRUTH, b"a");
    block_on(store.put(key, "not a count")).unwrap();
    let error = block_on(store.run(key, &Count)).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Corrupt, Some(key)));
    assert_eq!(block_on(store.get(key)).unwrap().unwrap().value, "not a count");
}

#[test]
fn large_scans_come_in_pages_and_trims_in_bounded_steps() {
    let store = Memory::new();
    let writes: Vec<[u8; 4]> = (0..2_500_u32).map(u32::to_be_bytes).collect();
    for sort in &writes {
        block_on(store.put(Key::row(TRUTH, b"p", sort), "x")).unwrap();
    }
    let scan = Scan::partition(TRUTH, b"p", 10_000).order(Order::Descending);
    assert_eq!(block_on(store.scan(scan)).unwrap().rows.len(), 1_000);
    let rows = block_on(store.scan_rows(scan)).unwrap();
    assert!(rows.iter().map(|row| row.sort.as_ref()).eq(writes.iter().rev().map(|sort| &sort[..])));
    let trim = Trim { space: TRUTH, partition: b"p", keep: Keep::Last(3) };
    let first = block_on(store.trim(trim)).unwrap();
    assert_eq!((first.removed, first.more), (1_000, true));
    assert_eq!(block_on(store.trim_all(trim)).unwrap(), 1_497);
    assert_eq!(block_on(store.scan_rows(scan)).unwrap().len(), 3);
    assert_eq!(store.record_count(), 3);
}

#[test]
fn a_lost_condition_says_what_is_there() {
    let store = Memory::new();
    let key = Key::lone(TRUTH, b"a");
    let first = Write::put(key, "1").expect(Expect::Absent);
    assert!(block_on(store.write(first.clone())).unwrap().is_applied());
    assert!(block_on(store.write(first)).unwrap().is_applied(), "sent again after a lost reply");
    let second = block_on(store.put_if_absent(key, "2")).unwrap();
    assert_eq!(second, sysd_core::Outcome::Conflict { found: block_on(store.get(key)).unwrap() });
}
