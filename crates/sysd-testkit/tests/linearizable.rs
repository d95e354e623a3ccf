//! Real threads on one record of the in-process store: short histories, each checked.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::executor::block_on;
use sysd_core::entropy::{Entropy, SeededEntropy, below};
use sysd_core::{
    AnyStore, ErasedProcedure, Expect, Key, Limits, Outcome, OutputBytes, Page, Record, Result, Scan, Space, Store,
    Trim, Trimmed, Version, Write,
};
use sysd_storage::Memory;
use sysd_testkit::oracle::{Call, History, NotLinearizable, RecordSpec, Reply, check};

const SPACE: Space = Space::conditional("oracle");

fn one_call(
    store: &impl Store,
    history: &Mutex<History<RecordSpec>>,
    entropy: &SeededEntropy,
    held: &mut Option<Version>,
) {
    let key = Key::lone(SPACE, b"k");
    let expect = match (below(entropy, 3), *held) {
        (0, _) => Expect::Absent,
        (1, Some(version)) => Expect::Is(version),
        _ => Expect::Any,
    };
    let write = match below(entropy, 4) {
        0 => None,
        1 => Some(Write::delete(key).expect(expect)),
        _ => Some(Write::put(key, "x").with_version(Version::mint(entropy)).expect(expect)),
    };
    let reply = if let Some(write) = write {
        let id = history.lock().unwrap().invoke(Call::Write { expect, version: write.version() });
        let reply = match block_on(store.write(write)).unwrap() {
            Outcome::Applied => Reply::Applied,
            Outcome::Conflict { found } => Reply::Conflict(found.map(|record| record.version)),
        };
        (id, reply)
    } else {
        let id = history.lock().unwrap().invoke(Call::Get);
        *held = block_on(store.get(key)).unwrap().map(|record| record.version);
        (id, Reply::Found(*held))
    };
    history.lock().unwrap().complete(reply.0, reply.1);
}

fn one_history(store: &impl Store, seed: u64) -> Result<(), NotLinearizable> {
    let history = Mutex::new(History::new());
    let ready = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (history, ready) = (&history, &ready);
            scope.spawn(move || {
                let entropy = SeededEntropy::new(seed * 3 + thread);
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < 3 {
                    std::hint::spin_loop();
                }
                let mut held = None;
                for _ in 0..8 {
                    one_call(store, history, &entropy, &mut held);
                    if entropy.next_u64().is_multiple_of(2) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    check(&history.into_inner().unwrap())
}

#[test]
fn memory_is_linearizable_also_when_erased() {
    for seed in 0..300 {
        one_history(&Memory::new(), seed).unwrap();
        one_history(&AnyStore::new(Memory::new()), seed).unwrap();
    }
}

/// Broken on purpose: looks at the condition and writes in two steps.
struct TwoSteps(Memory);

impl Store for TwoSteps {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.0.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let found = self.0.get(write.key).await?;
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Is(version) => found.as_ref().is_some_and(|record| record.version == version),
        };
        std::thread::yield_now();
        if holds { self.0.write(write.expect(Expect::Any)).await } else { Ok(write.lost_to(found)) }
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.0.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.0.scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.0.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.0.update(key, procedure).await
    }
}

#[test]
fn a_store_that_checks_and_writes_in_two_steps_is_rejected() {
    let rejected = (0..2_000).any(|seed| one_history(&TwoSteps(Memory::new()), seed).is_err());
    assert!(rejected);
}
