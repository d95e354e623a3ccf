//! Two or three processes with callers, crashes, a faulty network; then peace, and the check.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::join_all;
use sysd_core::{Clock as _, Durability, Effect, ManualClock, Result as CallResult, RetryPolicy, Store};
use sysd_ledger::{AuditError, Books, Command, JournalConfig, JournalEntry, Ledger, Reply};
use sysd_storage::{Replica, ReplicaConfig};
use sysd_testkit::Limited;
use sysd_testkit::oracle::log::Answer;
use sysd_testkit::sim::{Faults, Node, SimStore, Simulation, SkewedClock};

use crate::check::{self, check};
use crate::machine::{self, Asking, Kept, Log};
use crate::record::{Record, only_away, state};
use crate::support::naive::receipts;
use crate::support::world::{ACCOUNTS, World};

pub(crate) const LOG: &str = "books";
const CALLERS: u64 = 3;
const COMMANDS: u64 = 3;
/// A history of some thirty entries crosses a border or two.
pub(crate) const SEGMENT_ENTRIES: u64 = 8;
/// What holds any chunk of the journal; in half of the runs a long snapshot is cut.
const VALUE_BYTES_MAX: [usize; 2] = [40_000, 200_000];
/// In every third run transactions are so long that chunks of the journal are soon full.
const MEMO_BYTES_MAX: usize = 7_000;
/// Holds end in a run.
const HOLD_US_MAX: u64 = 150_000;
/// Clocks can be set forward by so much at first.
const BEHIND: Duration = Duration::from_millis(30);
/// What is late is there before the check.
const LATE_MAX: Duration = Duration::from_millis(50);

/// The deliberate mistakes of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bugs {
    pub(crate) books: Option<sysd_ledger::logic::Bug>,
    pub(crate) log: Option<sysd_storage::log::Bug>,
}

/// What happened in a run, so that it is seen that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) digest: u64,
    pub(crate) recorded: u64,
    /// Of these on the short way of plain transfers.
    pub(crate) pairs: u64,
    /// Chunks of the journal on the store.
    pub(crate) conflicts: u64,
    pub(crate) chunks: u64,
    pub(crate) rejected: u64,
    pub(crate) unknown: u64,
    pub(crate) not_applied: u64,
    /// Audits during which something was recorded.
    pub(crate) overtaken: u64,
}

/// What an audit found, while the books went on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audited {
    pub(crate) entries: u64,
    /// How many there were when it began.
    pub(crate) before: u64,
    /// How many there were when it was done.
    pub(crate) after: u64,
}

impl Audited {
    /// Something was recorded while it ran: by whom is asked, or by time, which lets holds end.
    pub(crate) const fn is_overtaken(&self) -> bool {
        self.before != self.after
    }
}

/// Short waits, so that every deadline is met in a run.
pub(crate) fn config(simulation: &Simulation, clock: SkewedClock, bugs: Bugs) -> ReplicaConfig {
    // Some deadlines are met in every retry, some only in long faults.
    let submit_wait_ms = [4, 15, 60][usize::try_from(simulation.below(3)).unwrap()];
    ReplicaConfig {
        submit_wait_max: Duration::from_millis(submit_wait_ms),
        call_wait_max: Duration::from_millis(10),
        poll_every: Some(Duration::from_millis(100)),
        snapshot_log_bytes: Some(4_000),
        snapshot_wait_max: Duration::from_secs(1),
        batch_commands_max: 4,
        retry: RetryPolicy {
            wait_base: Duration::from_millis(1),
            wait_max: Duration::from_millis(8),
            ..RetryPolicy::default()
        },
        clock: Arc::new(clock),
        entropy: simulation.entropy(),
        bug: bugs.log,
        segment_entries: SEGMENT_ENTRIES,
        ..ReplicaConfig::default()
    }
}

/// A ledger that a process has opened.
#[derive(Clone)]
pub(crate) struct Opened<S> {
    pub(crate) ledger: Ledger<Log, S>,
    pub(crate) replica: Replica<Kept>,
    pub(crate) writer: u64,
}

/// Opens a ledger on a node and lets all run there that it needs: the only place that knows what that is.
pub(crate) async fn open<S: Store + Clone>(
    simulation: &Simulation,
    node: Node,
    store: S,
    config: ReplicaConfig,
    record: &Record,
) -> CallResult<Opened<S>> {
    let journal = JournalConfig {
        ids_in_memory: 0,
        write_every: Duration::from_millis(25),
        chunks_cached: 2,
        call_wait_max: config.call_wait_max,
        retry: config.retry,
        clock: Arc::clone(&config.clock),
        entropy: Arc::clone(&config.entropy),
    };
    let (replica, driver) = Replica::<Kept>::open(store.clone(), LOG, config).await?;
    let notes = record.clone();
    simulation.spawn(node, async move {
        notes.note(driver.await.map_err(|error| format!("the log can't be followed: {error}")));
    });
    let log = Log(replica.clone());
    let (ledger, writer) = match store.limits().durability {
        Durability::Durable => Ledger::new(log, store, LOG, journal)?,
        _ => Ledger::that_may_forget(log, store, LOG, journal)?,
    };
    simulation.spawn(node, writer);
    Ok(Opened { ledger, replica, writer: record.next_writer() })
}

/// Metadata that some transactions have.
const TAG: (&str, &str) = ("order", "1");

fn has_tag(entry: &JournalEntry) -> bool {
    let details = entry.transaction().and_then(|transaction| transaction.details.as_ref());
    details.is_some_and(|details| details.metadata().iter().any(|(key, value)| (&**key, &**value) == TAG))
}

impl<S: Store> Opened<S> {
    /// Asks, and notes what was asked and answered.
    pub(crate) async fn ask(&self, record: &Record, command: Command) -> CallResult<Reply> {
        let asking = record.begin(self.writer, &command);
        let answer = Asking::new(asking, self.ledger.ask(command)).await;
        record.end(asking, &answer);
        answer
    }

    /// Looks at the latest books, and at the bytes of the replica's state.
    pub(crate) async fn look(&self, record: &Record) -> CallResult<()> {
        let numbers = record.numbers();
        self.ledger.read(|books| record.looked(books, &numbers)).await?;
        let begun = record.moment();
        record.read(begun, self.replica.read_latest(state).await?);
        Ok(())
    }

    /// Reads the whole journal, and has it verified. `None`: the store is away.
    pub(crate) async fn audit(&self, record: &Record) -> Option<Audited> {
        let entries: CallResult<Vec<_>> = self.ledger.journal(0).try_collect().await;
        if let Ok(entries) = &entries {
            let tagged = entries.iter().filter(|entry| has_tag(entry)).map(|entry| entry.number);
            match self.ledger.find_by_metadata(TAG.0, TAG.1, 0, usize::MAX).await {
                // More may have come meanwhile.
                Ok(found) if found.iter().map(|entry| entry.number).take(tagged.clone().count()).eq(tagged) => {}
                Ok(found) => record.note(Err(format!("not what has that metadata: {found:?}"))),
                Err(error) => record.note(only_away(&error)),
            }
        }
        record.read_journal(entries);
        match self.verify().await {
            Ok(audited) => {
                record.audited(audited);
                return Some(audited);
            }
            Err(AuditError::Store(error)) => record.note(only_away(&error)),
            Err(error) => record.note(Err(error.to_string())),
        }
        None
    }

    /// An audit proves the books as they were at one moment between its beginning and its end.
    async fn verify(&self) -> Result<Audited, AuditError> {
        let before = self.ledger.read(Books::journal_len).await?;
        let entries = self.ledger.verify().await?.entries;
        let after = self.ledger.read(Books::journal_len).await?;
        Ok(Audited { entries, before, after })
    }
}

type NodeStore = Limited<SimStore, ManualClock>;
type OnNode = Opened<NodeStore>;

/// Somebody who asks one thing after the other, and survives the processes that it asks.
#[derive(Clone, Default)]
struct Caller {
    /// What it has asked and has no answer to.
    pending: Option<Command>,
    /// How much more it wants to ask.
    left: u64,
}

/// What the nodes of one run share.
#[derive(Clone)]
struct Shared {
    record: Record,
    bugs: Bugs,
    value_bytes_max: usize,
    /// Without faults nobody gives up.
    is_peace: Arc<AtomicBool>,
    /// The wall clock of each node.
    clocks: Arc<Vec<SkewedClock>>,
    callers: Arc<Mutex<BTreeMap<(Node, u64), Caller>>>,
    /// What was asked so far, and what will be.
    asked: Arc<Mutex<(Vec<Command>, World)>>,
    running: Arc<Mutex<BTreeMap<Node, OnNode>>>,
}

pub(crate) async fn wait(simulation: &Simulation, wait: Duration) {
    let clock = simulation.clock();
    clock.sleep_until(clock.now().saturating_add(wait)).await;
}

impl Shared {
    fn new(simulation: &Simulation, nodes: &[Node], bugs: Bugs) -> Self {
        let behind = |node: &Node| BEHIND + Duration::from_millis(u64::from(node.0) * 7);
        let clock = |node: &Node| SkewedClock::new(simulation.clock(), behind(node));
        let callers = nodes.iter().flat_map(|node| (0..CALLERS).map(|caller| (*node, caller)));
        let mut world = World::new(simulation.seed());
        (world.hold_us_max, world.reversal_one_in) = (HOLD_US_MAX, 3);
        world.memo_bytes_max = if simulation.seed().is_multiple_of(3) { MEMO_BYTES_MAX } else { 0 };
        Self {
            record: Record::default(),
            bugs,
            value_bytes_max: VALUE_BYTES_MAX[usize::try_from(simulation.below(2)).unwrap()],
            is_peace: Arc::default(),
            clocks: Arc::new(nodes.iter().map(clock).collect()),
            callers: Arc::new(Mutex::new(callers.map(|key| (key, Caller { pending: None, left: COMMANDS })).collect())),
            asked: Arc::new(Mutex::new((Vec::new(), world))),
            running: Arc::default(),
        }
    }

    /// Short pages, and empty ones. Every other one is durable: what is written of the journal stays as it is then, also when it is written
    /// again.
    fn store(&self, simulation: &Simulation, node: Node) -> NodeStore {
        let mut store = simulation.store(node).with_value_bytes_max(self.value_bytes_max);
        if (simulation.seed() / 2).is_multiple_of(2) {
            store = store.durable();
        }
        Limited::new(store, simulation.clock())
    }

    fn is_peace(&self) -> bool {
        self.is_peace.load(Ordering::Relaxed)
    }

    /// What a caller asks next: what it has no answer to, or something new, now and then what another has asked.
    fn next(&self, simulation: &Simulation, key: (Node, u64)) -> Option<Command> {
        let mut callers = self.callers.lock().unwrap();
        let caller = callers.get_mut(&key)?;
        if caller.pending.is_none() {
            caller.left = caller.left.checked_sub(1)?;
            let (asked, world) = &mut *self.asked.lock().unwrap();
            let command = if asked.len() > 4 && simulation.chance(80) {
                asked[usize::try_from(simulation.below(asked.len() as u64)).unwrap()].clone()
            } else {
                world.now = simulation.clock().now();
                world.command()
            };
            asked.push(command.clone());
            caller.pending = Some(command);
        }
        caller.pending.clone()
    }

    fn is_done(&self, key: (Node, u64)) {
        if let Some(caller) = self.callers.lock().unwrap().get_mut(&key) {
            caller.pending = None;
        }
    }
}

/// A process: opens its ledger, and lets its callers use it.
async fn process(simulation: Simulation, node: Node, shared: Shared) {
    let opened = loop {
        let config = config(&simulation, shared.clocks[node.0 as usize].clone(), shared.bugs);
        match open(&simulation, node, shared.store(&simulation, node), config, &shared.record).await {
            Ok(opened) => break opened,
            Err(_) => wait(&simulation, Duration::from_millis(5)).await,
        }
    };
    shared.running.lock().unwrap().insert(node, opened.clone());
    for caller in 0..CALLERS {
        simulation.spawn(node, call(simulation.clone(), (node, caller), opened.clone(), shared.clone()));
    }
}

async fn call(simulation: Simulation, key: (Node, u64), opened: OnNode, shared: Shared) {
    let record = &shared.record;
    loop {
        let think_us_max = if shared.is_peace() { 2_000 } else { 24_000 };
        wait(&simulation, Duration::from_micros(simulation.below(think_us_max))).await;
        match simulation.below(40) {
            0 => drop(opened.replica.snapshot().await),
            1..4 => drop(opened.look(record).await),
            4 => drop(opened.audit(record).await),
            _ => {}
        }
        let Some(command) = shared.next(&simulation, key) else { return };
        let is_opening = matches!(command, Command::Open(_));
        let answer = opened.ask(record, command.clone()).await;
        if let Ok(reply) = &answer {
            shared.asked.lock().unwrap().1.recorded(&command, reply);
        }
        let gives_up = match answer {
            Ok(_) => true,
            _ if is_opening || shared.is_peace() => false,
            // Whoever gives up here relies on it that nothing was done.
            Err(error) if error.effect() == Effect::None => simulation.chance(400),
            Err(_) => simulation.chance(100),
        };
        if gives_up {
            shared.is_done(key);
        }
    }
}

/// Peace, the usual faults, a store that mostly refuses, a network that mostly loses.
fn weather(simulation: &Simulation) -> Faults {
    let many = Faults { late_max: LATE_MAX, ..Faults::MANY };
    match simulation.below(8) {
        0 => Faults { late_max: LATE_MAX, ..Faults::NONE },
        1..6 => many,
        6 => Faults { refused: 500, ..many },
        _ => Faults { request_lost: 150, reply_lost: 150, late: 100, ..many },
    }
}

/// Opens the accounts before anything goes wrong.
fn begin(simulation: &Simulation, shared: &Shared) -> Result<(), String> {
    let first = Node(8);
    let (sim, all) = (simulation.clone(), shared.clone());
    simulation.spawn(first, async move {
        let config = config(&sim, SkewedClock::new(sim.clock(), BEHIND), all.bugs);
        let Ok(opened) = open(&sim, first, all.store(&sim, first), config, &all.record).await else { return };
        let commands: Vec<_> = (0..ACCOUNTS).map(|_| all.asked.lock().unwrap().1.command()).collect();
        join_all(commands.into_iter().map(|command| opened.ask(&all.record, command))).await;
    });
    simulation.run_for(Duration::from_millis(10)).map_err(|error| error.to_string())?;
    simulation.crash(first);
    Ok(())
}

/// What one seed does. `Err`: what went wrong.
pub(crate) fn run(seed: u64, bugs: Bugs) -> Result<Outcome, String> {
    machine::set_bug(bugs.books);
    let simulation = Simulation::new(seed);
    let nodes: Vec<Node> = (0..2 + u32::from(seed % 4 == 3)).map(Node).collect();
    let shared = Shared::new(&simulation, &nodes, bugs);
    begin(&simulation, &shared)?;
    let faults = weather(&simulation);
    simulation.set_faults(faults);
    let start = |node: Node| simulation.spawn(node, process(simulation.clone(), node, shared.clone()));
    nodes.iter().copied().for_each(start);
    let any = || nodes[usize::try_from(simulation.below(nodes.len() as u64)).unwrap()];
    let run_for = |time: Duration| simulation.run_for(time).map_err(|error| error.to_string());
    for _ in 0..simulation.below(4) {
        run_for(Duration::from_micros(simulation.below(60_000)))?;
        let clock = &shared.clocks[any().0 as usize];
        match simulation.below(4) {
            0 => clock.set_back(Duration::from_micros(simulation.below(300_000))),
            1 => clock.set_forward(Duration::from_micros(simulation.below(300_000))),
            _ => {}
        }
        // The store is away, and nobody crashes.
        if simulation.chance(200) {
            simulation.set_faults(Faults { refused: 1_000, ..faults });
            run_for(Duration::from_micros(simulation.below(30_000)))?;
            simulation.set_faults(faults);
            continue;
        }
        let node = any();
        simulation.crash(node);
        shared.running.lock().unwrap().remove(&node);
        start(node);
    }
    run_for(Duration::from_millis(40))?;
    simulation.set_faults(Faults { late_max: LATE_MAX, ..Faults::NONE });
    shared.is_peace.store(true, Ordering::Relaxed);
    settle(&simulation, &nodes, &shared)?;
    Ok(outcome(&simulation, &shared.record))
}

/// Without faults everybody is answered, whatever they went through, and what is there is right.
fn settle(simulation: &Simulation, nodes: &[Node], shared: &Shared) -> Result<(), String> {
    let run_for = |time: Duration| simulation.run_for(time).map_err(|error| error.to_string());
    let waits = || shared.callers.lock().unwrap().values().any(|caller| caller.pending.is_some() || caller.left > 0);
    // Whatever is still on its way arrives, too.
    run_for(LATE_MAX)?;
    for _ in 0..20 {
        if waits() {
            run_for(Duration::from_millis(20))?;
        }
    }
    if waits() {
        let callers = shared.callers.lock().unwrap();
        let waiting: Vec<_> =
            callers.iter().filter(|(_, caller)| caller.pending.is_some()).map(|(key, _)| key).collect();
        return Err(format!("in peace, {waiting:?} were not answered"));
    }
    // Every process, and one that opens the ledger now, see the same.
    let last = Node(9);
    let looked = Arc::new(Mutex::new(Vec::new()));
    for &node in nodes {
        let Some(opened) = shared.running.lock().unwrap().get(&node).cloned() else {
            return Err(format!("in peace, {node:?} did not open its ledger"));
        };
        let (record, looked) = (shared.record.clone(), Arc::clone(&looked));
        simulation.spawn(node, async move {
            if opened.look(&record).await.is_ok() {
                looked.lock().unwrap().push(node);
            }
        });
    }
    let (sim, all, sink) = (simulation.clone(), shared.clone(), Arc::clone(&looked));
    simulation.spawn(last, async move {
        let config = config(&sim, SkewedClock::new(sim.clock(), Duration::ZERO), all.bugs);
        match open(&sim, last, all.store(&sim, last), config, &all.record).await {
            Ok(opened) => {
                // Nobody asks any more, but holds may still end: the last audit is one during which none did.
                let mut audited = opened.audit(&all.record).await;
                while audited.is_some_and(|audited| audited.is_overtaken()) {
                    audited = opened.audit(&all.record).await;
                }
                if audited.is_some() && opened.look(&all.record).await.is_ok() {
                    sink.lock().unwrap().push(last);
                }
            }
            Err(error) => all.record.note(Err(format!("in peace, it does not open: {error}"))),
        }
    });
    run_for(Duration::from_millis(60))?;
    if let Some(what) = shared.record.with(|seen, _| seen.wrong.clone()) {
        return Err(what);
    }
    let looked = looked.lock().unwrap().len();
    if looked != nodes.len() + 1 {
        return Err(format!("in peace, only {looked} of {} could be read", nodes.len() + 1));
    }
    let history = check::history(
        simulation.truth(),
        ReplicaConfig { segment_entries: SEGMENT_ENTRIES, ..check::reader(simulation.clock()) },
    )?;
    shared.record.with(|seen, _| {
        let replay = check(seen, &history)?;
        (seen.chunks, seen.pairs) = (replay.chunks, replay.kept.books.pairs);
        let last = seen.states.iter().rev().take(nodes.len() + 1);
        // The journal's writers may have come after.
        let missed = |applied: usize| history.steps.iter().skip(applied).any(|(_, asked)| asked.number != 0);
        let is_behind = last.map(|(applied, _)| usize::try_from(*applied).unwrap()).any(missed);
        if is_behind { Err("in peace, a replica is behind the log".to_owned()) } else { Ok(()) }
    })
}

fn outcome(simulation: &Simulation, record: &Record) -> Outcome {
    record.with(|seen, _| {
        let mut outcome = Outcome { digest: simulation.digest(), ..Outcome::default() };
        (outcome.chunks, outcome.overtaken, outcome.pairs) = (seen.chunks, seen.overtaken, seen.pairs);
        for submission in &seen.submissions {
            *match &submission.answer {
                Answer::Reply(Reply::Rejected(_)) => &mut outcome.rejected,
                Answer::Reply(Reply::Conflict(_)) => &mut outcome.conflicts,
                Answer::Reply(reply) => {
                    outcome.recorded += receipts(reply).len() as u64;
                    continue;
                }
                Answer::Unknown => &mut outcome.unknown,
                Answer::NotApplied => &mut outcome.not_applied,
            } += 1;
        }
        outcome
    })
}
