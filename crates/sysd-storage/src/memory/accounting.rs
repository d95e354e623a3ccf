//! What a bounded store counts is what its records cost, after whatever was done to them.

use std::time::Duration;

use futures::executor::block_on;
use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{
    Clock as _, Expect, Keep, Key, ManualClock, OutputBytes, Procedure, Space, StateBytes, StateChange, Step,
    Store as _, StoreExt as _, Timestamp, Trim, Undecodable, Write,
};

use super::{Memory, MemoryConfig};

const TRUTH: Space = Space::conditional("truth");
const CACHE: Space = Space::conditional("cache").evictable();
/// The same name with and without the right to evict: the first use decides, and what is counted must agree.
const MIXED: [Space; 2] = [Space::conditional("mixed"), Space::conditional("mixed").evictable()];

/// Leaves so many bytes, or nothing.
struct Leave(Option<usize>, Option<Duration>);

impl Procedure for Leave {
    type Output = ();

    fn name(&self) -> &'static str {
        "leave"
    }

    fn apply(&self, _state: Option<&[u8]>, _now: Timestamp) -> Result<Step<()>, Undecodable> {
        let put = |length| StateChange::Put { state: StateBytes::from_elem(7, length), ttl: self.1 };
        Ok(Step { change: self.0.map_or(StateChange::Delete, put), output: () })
    }

    fn encode_output(&self, (): &(), _out: &mut OutputBytes) {}

    fn decode_output(&self, _bytes: &[u8]) -> Result<(), Undecodable> {
        Ok(())
    }
}

fn size(entropy: &SeededEntropy, bound: u64) -> usize {
    usize::try_from(below(entropy, bound)).unwrap_or_default()
}

/// Any call on any record; what it answers doesn't matter.
fn call(store: &Memory<ManualClock>, clock: &ManualClock, entropy: &SeededEntropy) {
    let space = [TRUTH, TRUTH, CACHE, CACHE, CACHE, MIXED[0], MIXED[1]][size(entropy, 7)];
    let byte = |bound| u8::try_from(below(entropy, bound)).unwrap_or_default();
    let (partition, sort) = ([byte(12); 2], [byte(40)]);
    let key = if below(entropy, 2) == 0 { Key::lone(space, &partition) } else { Key::row(space, &partition, &sort) };
    let length = [0, 10, 23, 24, 100, 700, 3_000, 30_000][size(entropy, 8)];
    let lives_us = 1 + below(entropy, 2_000);
    match below(entropy, 12) {
        0..=2 => drop(block_on(store.put(key, vec![7; length]))),
        3..=5 => {
            let until = clock.now().saturating_add(Duration::from_micros(lives_us));
            drop(block_on(store.write(Write::put(key, vec![7; length]).expires_at(until))));
        }
        6 => drop(block_on(store.write(Write::put(key, vec![7; length]).expect(Expect::Absent)))),
        7 => drop(block_on(store.delete(key))),
        8 => drop(block_on(store.run(key, &Leave(Some(length), Some(Duration::from_micros(lives_us)))))),
        9 => drop(block_on(store.run(key, &Leave([None, Some(length)][size(entropy, 2)], None)))),
        10 => {
            let keep = [Keep::First(size(entropy, 8)), Keep::Last(size(entropy, 8))][size(entropy, 2)];
            drop(block_on(store.trim(Trim { space, partition: &partition, keep })));
        }
        _ if below(entropy, 8) == 0 => store.reclaim(),
        _ => clock.advance(Duration::from_micros(below(entropy, 200))),
    }
}

fn assert_counted(store: &Memory<ManualClock>, what: &str) {
    let sums = store.shared.shards.iter().map(|shard| shard.0.lock().summed());
    let summed = sums.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert_eq!(store.shared.bound.as_ref().map(super::Bound::counted), Some(summed), "{what}");
}

#[test]
fn what_is_counted_is_what_is_held_after_every_call() {
    for seed in 0..60 {
        let entropy = SeededEntropy::new(seed);
        let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
        let bytes_max = 2_000 + size(&entropy, 60_000);
        let config = MemoryConfig { shards: 1 << size(&entropy, 4), bytes_max: Some(bytes_max) };
        let store = Memory::with_config(config, clock.clone());
        for step in 0..1_000 {
            call(&store, &clock, &entropy);
            assert_counted(&store, &format!("seed {seed}, step {step}"));
        }
    }
}

#[test]
fn what_is_counted_is_what_is_held_after_threads_have_met_at_the_bound() {
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
    let store = Memory::with_config(MemoryConfig { shards: 4, bytes_max: Some(40_000) }, clock.clone());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (store, clock) = (&store, &clock);
            scope.spawn(move || {
                let entropy = SeededEntropy::new(seed);
                (0..5_000).for_each(|_| call(store, clock, &entropy));
            });
        }
    });
    assert_counted(&store, "after 20,000 calls");
}

#[test]
fn what_the_shards_know_of_expiries_is_never_too_late() {
    for seed in 0..20 {
        let entropy = SeededEntropy::new(seed);
        let clock = ManualClock::new(Timestamp::from_micros_saturating(1_000_000));
        let store = Memory::with_config(MemoryConfig { shards: 2, bytes_max: Some(40_000) }, clock.clone());
        for _ in 0..500 {
            call(&store, &clock, &entropy);
        }
        clock.set(Timestamp::MAX);
        store.reclaim();
        // Not one is left that expires.
        let left = store.shared.shards.iter().map(|shard| shard.0.lock()).filter(|shard| shard.soonest_us() < u64::MAX);
        assert_eq!(left.count(), 0, "seed {seed}");
        for shard in &store.shared.shards {
            let mut shard = shard.0.lock();
            let _ = shard.summed();
            assert_eq!(shard.soonest_us(), u64::MAX, "seed {seed}: an expiry was overlooked");
        }
    }
}
