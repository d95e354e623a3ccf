//! What must hold on every store: on a disk, on a node, on a Cluster, over TLS.
#![allow(clippy::future_not_send, reason = "each is run where it is made")]

use std::ops::Bound;
use std::time::Duration;

use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{
    Clock as _, Expect, Keep, Key, ManualClock, Order, Outcome, Record, Scan, Space, Store, StoreExt, SystemEntropy,
    Timestamp, Trim, Version, Write, random_base62,
};
use sysd_storage::Memory;

use super::Add;

const SPACE: Space = Space::conditional("suite");

/// What can be compared: each store mints the versions of its updates itself.
fn seen(record: Option<Record>) -> Option<(Vec<u8>, Option<Timestamp>)> {
    record.map(|record| (record.value.to_vec(), record.expires_at))
}

const SORTS: [&[u8]; 8] = [b"", b"\x00", b"\x00\x00", b"a", b"a\x00", b"b", b"\xFF", b"\xFF\xFF"];

/// One random call, as text of its answer.
async fn call(
    store: &impl Store,
    partitions: &[Vec<u8>; 2],
    seed: u64,
    now: Timestamp,
    minted: &mut Vec<Version>,
) -> String {
    let entropy = SeededEntropy::new(seed);
    let pick = |bound: usize| usize::try_from(below(&entropy, bound as u64)).unwrap();
    let partition = partitions[pick(2)].as_slice();
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

/// A partition that no other test uses.
fn partition(name: &[u8]) -> Vec<u8> {
    [random_base62(12, &SystemEntropy).as_bytes(), name].concat()
}

/// So many random histories answer as on the in-process store.
pub(crate) async fn answers_as_memory<S: Store>(histories: u64, connect: impl AsyncFn(ManualClock) -> S) {
    for history in 0..histories {
        let partitions = [partition(b"p}{%"), partition(b"\x00\xFF")];
        let clock = ManualClock::new(Timestamp::from_micros_saturating(100_000_000_000_000 + history));
        let memory = Memory::with_clock(clock.clone());
        let store = connect(clock.clone()).await;
        let (mut minted_memory, mut minted) = (Vec::new(), Vec::new());
        for step in 0..150 {
            let seed = history * 1_000 + step;
            let expected = call(&memory, &partitions, seed, clock.now(), &mut minted_memory).await;
            let answer = call(&store, &partitions, seed, clock.now(), &mut minted).await;
            assert_eq!(answer, expected, "history {history}, step {step}");
            clock.advance(Duration::from_micros(seed % 3 * 500));
        }
    }
}

/// Batches answer in order and fail one by one.
pub(crate) async fn batches(store: &impl Store) {
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

/// Concurrent conditional writes lose nothing.
pub(crate) async fn concurrent_writes(store: &(impl Store + Clone)) {
    let counter = partition(b"counter");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, counter) = (store.clone(), counter.clone());
            tokio::spawn(async move {
                let key = Key::lone(SPACE, &counter);
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
    let found = store.get(Key::lone(SPACE, &counter)).await.unwrap().unwrap();
    assert_eq!(found.value.len(), 200);
}
