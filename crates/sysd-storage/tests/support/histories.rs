//! Histories of records on a server that is killed and stopped under concurrent callers.
//!
//! Errors have the right kind and effect; what was acknowledged is there, what was refused is not; and the history of each
//! record, with lost replies as unknown, is linearizable. Where a copy takes over that may lack the last writes, records may go
//! back in time meanwhile, and what was acknowledged meanwhile may be gone; all else holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::{SeededEntropy, below};
use sysd_core::{Effect, Error, ErrorKind, Expect, Key, Outcome, Space, Store, StoreExt as _, Version, Write};
use sysd_testkit::oracle::{Call, CallId, History, RecordSpec, Reply, RewindCall, RewindSpec, check};

pub(crate) const SPACE: Space = Space::conditional("histories");
const RECORDS: usize = 3;
const WRITERS: usize = 4;
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
    history: Mutex<Recorded>,
}

/// A history, to be judged by what is promised: of a record that stays, an order is found much sooner.
enum Recorded {
    Kept(History<RecordSpec>),
    KeptOncePassedOn(History<RewindSpec>),
}

impl Recorded {
    fn new(promise: Promise) -> Self {
        match promise {
            Promise::Kept => Self::Kept(History::new()),
            Promise::KeptOncePassedOn => Self::KeptOncePassedOn(History::new()),
        }
    }

    /// Says what the store may do from now on.
    fn tell(&mut self, call: RewindCall) {
        if let Self::KeptOncePassedOn(history) = self {
            let id = history.invoke(call);
            history.complete(id, Reply::Applied);
        }
    }

    fn invoke(&mut self, call: Call) -> CallId {
        match self {
            Self::Kept(history) => history.invoke(call),
            Self::KeptOncePassedOn(history) => history.invoke(RewindCall::Record(call)),
        }
    }

    fn complete(&mut self, id: CallId, reply: Reply) {
        match self {
            Self::Kept(history) => history.complete(id, reply),
            Self::KeptOncePassedOn(history) => history.complete(id, reply),
        }
    }

    fn fail(&mut self, id: CallId) {
        match self {
            Self::Kept(history) => history.fail(id),
            Self::KeptOncePassedOn(history) => history.fail(id),
        }
    }

    fn check(&self) {
        match self {
            Self::Kept(history) => check(history).unwrap(),
            Self::KeptOncePassedOn(history) => check(history).unwrap(),
        }
    }
}

/// What the store promises of what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It stays.
    Kept,
    /// It stays but for what is acknowledged during the fault, which begins with waiting until all before it is passed on.
    KeptOncePassedOn,
}

/// The partitions that are used: those of records, and those of rows.
pub(crate) struct Partitions {
    records: [Vec<u8>; RECORDS],
    rows: [Vec<u8>; WRITERS],
}

impl Partitions {
    pub(crate) const COUNT: usize = RECORDS + WRITERS;

    pub(crate) fn new(mut names: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut next = || names.next().unwrap();
        Self { records: std::array::from_fn(|_| next()), rows: std::array::from_fn(|_| next()) }
    }
}

/// What was seen while things went wrong.
#[derive(Default)]
pub(crate) struct Seen {
    errors: Mutex<Vec<Error>>,
    has_begun: AtomicBool,
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

/// A row that was inserted.
struct Insert {
    sort: Vec<u8>,
    came: Result<(), Effect>,
    /// Acknowledged before the fault began, or sent after it was over.
    is_apart: bool,
}

/// Inserts rows, each once, until the fault is over and one was acknowledged.
async fn insert(store: impl Store + 'static, partition: Vec<u8>, seen: Arc<Seen>) -> Vec<Insert> {
    let mut inserts = Vec::new();
    for at in 0_u32.. {
        let is_after = seen.is_over.load(Ordering::SeqCst);
        if is_after && inserts.last().is_some_and(|insert: &Insert| insert.came.is_ok() && insert.is_apart) {
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
        let is_apart = is_after || !seen.has_begun.load(Ordering::SeqCst);
        inserts.push(Insert { sort, came, is_apart });
    }
    inserts
}

/// Runs callers and writers while `fault` happens, then looks at what they saw.
pub(crate) async fn under<S: Store + Clone + 'static>(
    store: &S,
    round: u8,
    fault: impl Future<Output = ()>,
) -> Arc<Seen> {
    let partitions = Partitions::new((0..).map(|at: u8| vec![round, at]));
    Box::pin(under_promise(store, round, partitions, Promise::Kept, Box::pin(fault))).await
}

/// As [`under`], on chosen partitions, which nothing has lain in.
pub(crate) async fn under_promise<S: Store + Clone + 'static>(
    store: &S,
    round: u8,
    partitions: Partitions,
    promise: Promise,
    fault: impl Future<Output = ()>,
) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let registers: Vec<_> = partitions
        .records
        .map(|name| Arc::new(Register { name, history: Mutex::new(Recorded::new(promise)) }))
        .into_iter()
        .collect();
    let mut callers = Vec::new();
    for (at, register) in (0..).zip(&registers) {
        for caller in 0..CALLERS {
            let number = u64::from(round) << 16 | at << 8 | caller;
            callers.push(tokio::spawn(call(store.clone(), Arc::clone(register), Arc::clone(&seen), number)));
        }
    }
    let writers =
        partitions.rows.map(|rows| (rows.clone(), tokio::spawn(insert(store.clone(), rows, Arc::clone(&seen)))));
    pause(Duration::from_millis(700)).await;
    let tell = |call: &RewindCall| {
        for register in &registers {
            register.history.lock().unwrap().tell(call.clone());
        }
    };
    seen.has_begun.store(true, Ordering::SeqCst);
    tell(&RewindCall::Loosen);
    fault.await;
    tell(&RewindCall::Fasten);
    seen.is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(60), caller).await.expect("a caller hangs").unwrap();
    }
    for (partition, inserts) in writers {
        let inserts = tokio::time::timeout(Duration::from_secs(60), inserts).await.expect("a writer hangs").unwrap();
        let keys: Vec<_> = inserts.iter().map(|insert| Key::row(SPACE, &partition, &insert.sort)).collect();
        for (insert, found) in inserts.iter().zip(store.get_many(&keys).await) {
            let found = found.unwrap();
            match insert.came {
                Ok(()) if promise == Promise::Kept || insert.is_apart => {
                    assert_eq!(found.expect("an acknowledged row is gone").value, insert.sort);
                }
                Err(Effect::None) => assert_eq!(found, None, "a row is there that was refused without effect"),
                Ok(()) | Err(Effect::Unknown) => {}
            }
        }
    }
    for register in registers {
        register.history.lock().unwrap().check();
    }
    seen
}
