//! Real threads on one record of the in-process store: short histories, each checked.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::executor::block_on;
use sysd_core::entropy::{Entropy, SeededEntropy, below};
use sysd_core::{AnyStore, Expect, Key, Outcome, Result, Space, Store, Version, Write};
use sysd_storage::Memory;
use sysd_testkit::oracle::{Call, History, NotLinearizable, RecordSpec, Reply, check};
use sysd_testkit::{Overridden, Overrides};

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
struct TwoSteps;

impl Overrides<Memory> for TwoSteps {
    async fn write(&self, store: &Memory, write: Write<'_>) -> Result<Outcome> {
        let found = store.get(write.key).await?;
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Is(version) => found.as_ref().is_some_and(|record| record.version == version),
        };
        std::thread::yield_now();
        if holds { store.write(write.expect(Expect::Any)).await } else { Ok(write.lost_to(found)) }
    }
}

#[test]
fn a_store_that_checks_and_writes_in_two_steps_is_rejected() {
    let rejected = (0..2_000).any(|seed| one_history(&Overridden(Memory::new(), TwoSteps), seed).is_err());
    assert!(rejected);
}
