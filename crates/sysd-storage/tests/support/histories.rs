//! Histories of records on a server that is killed and stopped under concurrent callers.
//!
//! Errors have the right kind and effect; what was acknowledged is there, what was refused is not; and the history of each
//! record, with lost replies as unknown, is linearizable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{Effect, Error, ErrorKind, Expect, Key, Outcome, Space, Store, StoreExt as _, Version, Write};
use sysd_testkit::oracle::{Call, History, RecordSpec, Reply, check};

pub(crate) const SPACE: Space = Space::conditional("histories");
const RECORDS: u8 = 3;
const CALLERS: u64 = 3;
/// Calls of a caller before the fault, and after it.
const CALLS: usize = 5;

pub(crate) async fn pause(duration: Duration) {
    // real-time: another process is stopped, killed and started.
    tokio::time::sleep(duration).await;
}

/// One record, and what was asked of it.
struct Register {
    name: Vec<u8>,
    history: Mutex<History<RecordSpec>>,
}

/// What was seen while things went wrong.
#[derive(Default)]
pub(crate) struct Seen {
    errors: Mutex<Vec<Error>>,
    is_over: AtomicBool,
}

impl Seen {
    fn note(&self, error: Error, is_write: bool) {
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
        assert!(is_write || error.effect() == Effect::None, "{error}");
        self.errors.lock().unwrap().push(error);
    }

    pub(crate) fn has(&self, kind: ErrorKind, effect: Effect) -> bool {
        self.errors.lock().unwrap().iter().any(|error| (error.kind(), error.effect()) == (kind, effect))
    }
}

fn next_write<'a>(entropy: &SeededEntropy, key: Key<'a>, held: Option<Version>) -> Write<'a> {
    let write = match below(entropy, 4) {
        0 => Write::delete(key),
        _ => Write::put(key, "x").with_version(Version::mint(entropy)),
    };
    let is = held.map_or(Expect::Absent, Expect::Is);
    write.expect([Expect::Any, Expect::Absent, is, is][usize::try_from(below(entropy, 4)).unwrap()])
}

/// Reads and writes a record until the fault is over and a few more calls were answered.
async fn call(store: impl Store + 'static, register: Arc<Register>, seen: Arc<Seen>, number: u64) {
    let entropy = SeededEntropy::new(number);
    let key = Key::lone(SPACE, &register.name);
    let version = |found: &Option<sysd_core::Record>| found.as_ref().map(|record| record.version);
    let (mut held, mut lost, mut answered, mut answered_after) = (None, 0, 0, 0);
    while answered_after < CALLS {
        let is_over = seen.is_over.load(Ordering::SeqCst);
        // Few lost calls: each may have happened at any later time, and the search for an order tries them all.
        let is_write = below(&entropy, 3) > 0 && lost < 2 && (is_over || answered < CALLS || lost == 0);
        let write = is_write.then(|| next_write(&entropy, key, held));
        let call = match &write {
            Some(write) => Call::Write { expect: write.expect, version: write.version() },
            None => Call::Get,
        };
        let id = register.history.lock().unwrap().invoke(call);
        let reply = match write {
            Some(write) => store.write(write).await.map(|outcome| match outcome {
                Outcome::Applied => Reply::Applied,
                Outcome::Conflict { found } => {
                    held = version(&found);
                    Reply::Conflict(held)
                }
            }),
            None => store.get(key).await.map(|found| {
                held = version(&found);
                Reply::Found(held)
            }),
        };
        match reply {
            Ok(reply) => {
                register.history.lock().unwrap().complete(id, reply);
                answered += 1;
                answered_after += usize::from(is_over);
            }
            Err(error) => {
                if error.effect() == Effect::None {
                    register.history.lock().unwrap().fail(id);
                } else {
                    lost += 1;
                }
                seen.note(error, is_write);
            }
        }
        // Fast enough to be in flight when it happens, slow enough for a short history.
        let is_waiting = answered >= CALLS && !is_over;
        pause(Duration::from_millis(if is_waiting { 150 } else { 5 })).await;
    }
}

/// What came of a row that was inserted.
type Insert = (Vec<u8>, Result<(), Effect>);

/// Inserts rows, each once, until the fault is over and one was acknowledged.
async fn insert(store: impl Store + 'static, partition: Vec<u8>, seen: Arc<Seen>) -> Vec<Insert> {
    let mut inserts = Vec::new();
    for at in 0_u32.. {
        if seen.is_over.load(Ordering::SeqCst) && inserts.iter().any(|(_, came): &Insert| came.is_ok()) {
            break;
        }
        let sort = at.to_be_bytes().to_vec();
        let came = match store.put_if_absent(Key::row(SPACE, &partition, &sort), sort.clone()).await {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Applied);
                Ok(())
            }
            Err(error) => {
                let effect = error.effect();
                seen.note(error, true);
                pause(Duration::from_millis(50)).await;
                Err(effect)
            }
        };
        inserts.push((sort, came));
    }
    inserts
}

/// Runs callers and writers while `fault` happens, then looks at what they saw.
pub(crate) async fn under<S: Store + Clone + 'static>(
    store: &S,
    round: u8,
    fault: impl Future<Output = ()>,
) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let registers: Vec<_> = (0..RECORDS)
        .map(|record| Arc::new(Register { name: vec![round, record], history: Mutex::new(History::new()) }))
        .collect();
    let mut callers = Vec::new();
    for (at, register) in (0..).zip(&registers) {
        for caller in 0..CALLERS {
            let number = u64::from(round) << 16 | at << 8 | caller;
            callers.push(tokio::spawn(call(store.clone(), Arc::clone(register), Arc::clone(&seen), number)));
        }
    }
    let partition = |writer: u8| vec![round, 100 + writer];
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(insert(store.clone(), partition(writer), Arc::clone(&seen)))).collect();
    pause(Duration::from_millis(700)).await;
    fault.await;
    seen.is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(60), caller).await.expect("a caller hangs").unwrap();
    }
    for (writer, inserts) in (0..).zip(writers) {
        let inserts = tokio::time::timeout(Duration::from_secs(60), inserts).await.expect("a writer hangs").unwrap();
        let partition = partition(writer);
        let keys: Vec<_> = inserts.iter().map(|(sort, _)| Key::row(SPACE, &partition, sort)).collect();
        for ((sort, came), found) in inserts.iter().zip(store.get_many(&keys).await) {
            let found = found.unwrap();
            match came {
                Ok(()) => assert_eq!(found.expect("an acknowledged row is gone").value, *sort),
                Err(Effect::None) => assert_eq!(found, None, "a row is there that was refused without effect"),
                Err(Effect::Unknown) => {}
            }
        }
    }
    for register in registers {
        check(&register.history.lock().unwrap()).unwrap();
    }
    seen
}
