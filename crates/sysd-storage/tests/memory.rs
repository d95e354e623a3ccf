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

/// A store of one shard with 200 records of a cache that stay, and 200 that have expired.
fn half_expired(bytes_max: usize) -> Memory<ManualClock> {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
    let store = Memory::with_config(MemoryConfig { shards: 1, bytes_max: Some(bytes_max) }, clock.clone());
    let soon = clock.now().saturating_add(Duration::from_secs(1));
    for name in 0..200_u32 {
        put(&store, CACHE, name, 100).unwrap();
    }
    for name in 200..400_u32 {
        let key = name.to_be_bytes();
        let write = Write::put(Key::lone(CACHE, &key), vec![7; 100]).expires_at(soon);
        assert!(block_on(store.write(write)).unwrap().is_applied());
    }
    clock.set(soon);
    store
}

fn live_count(store: &impl Store, space: Space, names: std::ops::Range<u32>) -> usize {
    names.filter(|name| block_on(store.get(Key::lone(space, &name.to_be_bytes()))).unwrap().is_some()).count()
}

#[test]
fn expired_records_go_before_live_ones() {
    // Live records were evicted from the first shards although the expired ones made room enough.
    let store = half_expired(100_000);
    put(&store, TRUTH, 0, 30_000).unwrap();
    assert_eq!(live_count(&store, CACHE, 0..200), 200);
}

#[test]
fn what_can_never_fit_evicts_nothing() {
    // A value larger than the bound evicted the whole cache, and was then refused.
    let (store, _) = bounded(100_000);
    for name in 0..200 {
        put(&store, CACHE, name, 100).unwrap();
    }
    let error = block_on(store.put(Key::lone(TRUTH, b"new"), vec![7; 200_000])).unwrap_err();
    assert_eq!((error.kind(), error.effect(), error.field()), (ErrorKind::TooLarge, Effect::None, Some("value")));
    assert_eq!(live_count(&store, CACHE, 0..200), 200);
    let fits = 100_000 - 128 - 3;
    let error = block_on(store.put(Key::lone(TRUTH, b"new"), vec![7; fits + 1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    block_on(store.put(Key::lone(TRUTH, b"new"), vec![7; fits])).unwrap();
    assert_eq!((store.record_count(), live_count(&store, CACHE, 0..200)), (1, 0));
}

#[test]
fn what_would_not_fit_without_the_cache_either_evicts_nothing() {
    let (store, _) = bounded(100_000);
    block_on(store.put(Key::lone(TRUTH, b"large"), vec![7; 60_000])).unwrap();
    for name in 0..100 {
        put(&store, CACHE, name, 100).unwrap();
    }
    assert_eq!(put(&store, TRUTH, 0, 50_000), Err(ErrorKind::Full));
    assert_eq!(live_count(&store, CACHE, 0..100), 100);
    put(&store, TRUTH, 0, 39_000).unwrap();
}

#[test]
fn a_larger_value_over_a_smaller_one_asks_for_the_difference_only() {
    // Room was made for the whole of it, though it took the place of one nearly as large.
    let (store, _) = bounded(100_000);
    block_on(store.put(Key::lone(TRUTH, b"large"), vec![7; 75_000])).unwrap();
    for name in 0..100 {
        put(&store, CACHE, name, 100).unwrap();
    }
    block_on(store.put(Key::lone(TRUTH, b"large"), vec![7; 78_000])).unwrap();
    let left = live_count(&store, CACHE, 0..100);
    assert!(left > 75, "{left} of 100 are left, and about 90 have room");
}

#[test]
fn no_more_is_evicted_than_is_needed() {
    for shards in [1, 4, 64] {
        let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
        let store = Memory::with_config(MemoryConfig { shards, bytes_max: Some(100_000) }, clock);
        for name in 0..1_000_u32 {
            put(&store, CACHE, name, 100).unwrap();
        }
        // There is room for 431; a 64th of it is freed at once.
        assert!(store.record_count() > 415, "{shards} shards: {}", store.record_count());
    }
}

#[test]
fn no_evictable_record_stays_for_ever() {
    // The first records of the first shard were evicted each time, and all others never.
    for shards in [1, 4, 64] {
        let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
        let store = Memory::with_config(MemoryConfig { shards, bytes_max: Some(100_000) }, clock);
        for name in 0..10_000_u32 {
            put(&store, CACHE, name, 100).unwrap();
        }
        let (old, new) = (live_count(&store, CACHE, 0..7_000), live_count(&store, CACHE, 9_500..10_000));
        assert!(old < 20 && new > 100, "{shards} shards: {old} of the first 7,000, {new} of the last 500");
    }
}

#[test]
fn a_write_that_was_refused_fits_as_soon_as_something_has_expired() {
    let (store, clock) = bounded(1_000_000);
    let soon = clock.now().saturating_add(Duration::from_secs(1));
    let mut count = 0;
    while put(&store, TRUTH, count, 100).is_ok() {
        count += 1;
    }
    block_on(store.delete(Key::lone(TRUTH, &0_u32.to_be_bytes()))).unwrap();
    let write = Write::put(Key::lone(TRUTH, b"soon"), vec![7; 100]).expires_at(soon);
    assert!(block_on(store.write(write)).unwrap().is_applied());
    for _ in 0..10 {
        assert_eq!(put(&store, TRUTH, u32::MAX, 100), Err(ErrorKind::Full));
    }
    // What has expired is found at once.
    clock.set(soon);
    put(&store, TRUTH, u32::MAX, 100).unwrap();
    assert_eq!(put(&store, TRUTH, u32::MAX - 1, 100), Err(ErrorKind::Full));
}

/// Removes its record.
struct Remove;

impl Procedure for Remove {
    type Output = ();

    fn name(&self) -> &'static str {
        "remove"
    }

    fn apply(&self, _state: Option<&[u8]>, _now: Timestamp) -> Result<Step<()>, Undecodable> {
        Ok(Step { change: StateChange::Delete, output: () })
    }

    fn encode_output(&self, (): &(), _out: &mut OutputBytes) {}

    fn decode_output(&self, _bytes: &[u8]) -> Result<(), Undecodable> {
        Ok(())
    }
}

#[test]
fn what_is_given_back_can_be_used_again() {
    let (store, clock) = bounded(20_000);
    let key = Key::lone(TRUTH, b"k");
    for round in 0..200_u32 {
        block_on(store.put(Key::row(TRUTH, b"p", &round.to_be_bytes()), vec![7; 1_000])).unwrap();
        block_on(store.trim(Trim { space: TRUTH, partition: b"p", keep: Keep::First(0) })).unwrap();
        block_on(store.put(key, vec![7; 5_000])).unwrap();
        block_on(store.put(key, vec![7; 10])).unwrap();
        block_on(store.run(key, &Remove)).unwrap();
    }
    // Below the bound, expired records go when a shard has grown.
    let store = Memory::with_config(MemoryConfig { shards: 1, bytes_max: Some(400_000) }, clock.clone());
    for name in 0..20_000_u32 {
        let soon = clock.now().saturating_add(Duration::from_micros(1));
        let key = name.to_be_bytes();
        assert!(block_on(store.write(Write::put(Key::lone(TRUTH, &key), "x").expires_at(soon))).unwrap().is_applied());
        clock.set(soon);
    }
    store.reclaim();
    block_on(store.put(key, vec![7; 390_000])).unwrap();
}

/// Says when it is dropped.
struct Buffer(Vec<u8>, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn under_a_bound_a_slice_does_not_keep_its_buffer() {
    let (store, _) = bounded(10_000);
    let dropped = std::sync::Arc::default();
    let buffer = bytes::Bytes::from_owner(Buffer(vec![7; 1 << 20], std::sync::Arc::clone(&dropped)));
    block_on(store.put(Key::lone(TRUTH, b"slice"), buffer.slice(100..200))).unwrap();
    drop(buffer);
    assert!(dropped.load(std::sync::atomic::Ordering::SeqCst), "a megabyte lies there for a hundred bytes");
    assert_eq!(block_on(store.get(Key::lone(TRUTH, b"slice"))).unwrap().unwrap().value, vec![7; 100]);
}

#[test]
fn trims_are_the_same_whether_or_not_rows_can_expire() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1));
    let store = Memory::with_clock(clock.clone());
    let later = clock.now().saturating_add(Duration::from_secs(1));
    for (partition, expires_at) in [(b"stays", None), (b"mixed", Some(later))] {
        for sort in 0..1_500_u32 {
            let sort = sort.to_be_bytes();
            let write = Write::put(Key::row(TRUTH, partition, &sort), "x");
            let write =
                if sort[3] % 2 == 0 { expires_at.map_or(write.clone(), |at| write.expires_at(at)) } else { write };
            assert!(block_on(store.write(write)).unwrap().is_applied());
        }
    }
    let trim = |partition, keep| block_on(store.trim(Trim { space: TRUTH, partition, keep })).unwrap();
    let sorts = |partition| {
        let rows = block_on(store.scan_rows(Scan::partition(TRUTH, partition, 10_000))).unwrap();
        rows.into_iter().map(|row| u32::from_be_bytes(row.sort.as_ref().try_into().unwrap())).collect::<Vec<_>>()
    };
    let trimmed = trim(b"stays", Keep::First(10));
    assert_eq!((trimmed.removed, trimmed.more), (1_000, true));
    assert_eq!(sorts(b"stays"), (0..500).collect::<Vec<_>>());
    let trimmed = trim(b"stays", Keep::First(10));
    assert_eq!((trimmed.removed, trimmed.more), (490, false));
    assert_eq!(sorts(b"stays"), (0..10).collect::<Vec<_>>());
    let trimmed = trim(b"stays", Keep::Last(3));
    assert_eq!((trimmed.removed, trimmed.more), (7, false));
    assert_eq!(sorts(b"stays"), [7, 8, 9]);
    clock.set(later);
    // 750 live rows, the odd ones: expired ones do not count as kept.
    block_on(store.trim_all(Trim { space: TRUTH, partition: b"mixed", keep: Keep::First(700) })).unwrap();
    assert_eq!(sorts(b"mixed"), (0..700).map(|at| at * 2 + 1).collect::<Vec<_>>());
    block_on(store.trim_all(Trim { space: TRUTH, partition: b"mixed", keep: Keep::Last(2) })).unwrap();
    assert_eq!(sorts(b"mixed"), [1_397, 1_399]);
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
