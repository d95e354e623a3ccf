//! Deterministic simulation: one seed gives the time, the ids, the faults and the interleavings.
//!
//! Everything runs on one thread. Tasks belong to *nodes*, which can crash; storage calls travel as messages that can be
//! slow, lost, or answered after their caller has given up. Time moves only when nothing else can. The same seed gives the
//! same run, so a failure is found again by its seed.
//!
//! ```
//! use sysd_core::{Clock, Key, Space, Store, StoreExt};
//! use sysd_testkit::sim::{Faults, Node, Simulation};
//!
//! const SPACE: Space = Space::conditional("sim");
//!
//! let simulation = Simulation::new(7);
//! simulation.set_faults(Faults::MANY);
//! let store = simulation.store(Node(0));
//! simulation.spawn(Node(0), async move {
//!     // May fail, or take long.
//!     let _ = store.put(Key::lone(SPACE, b"k"), "v").await;
//! });
//! simulation.run().expect("it ends");
//! println!("{} us later", simulation.clock().now().as_micros());
//! ```

mod clock;
mod executor;
mod store;
mod sweep;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sysd_core::{Clock as _, Entropy as _, ManualClock, SeededEntropy, Timestamp};
use sysd_storage::Memory;

pub use clock::SkewedClock;
use executor::Executor;
pub use store::SimStore;
pub use sweep::{Fault, sweep};

/// A process that can crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

/// How often storage calls go wrong, in thousandths, and how slow they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Refused: an error that says that nothing happened.
    pub refused: u32,
    /// Never arrives; the caller is told that nobody knows.
    pub request_lost: u32,
    /// Happens; the caller is told that nobody knows.
    pub reply_lost: u32,
    /// Happens; the caller is told nothing.
    pub reply_never: u32,
    /// Happens long after its caller has given up.
    pub late: u32,
    /// The longest way, there or back.
    pub delay_max: Duration,
    /// The longest way of a late one.
    pub late_max: Duration,
}

impl Faults {
    /// None: calls only take their time.
    pub const NONE: Self = Self {
        refused: 0,
        request_lost: 0,
        reply_lost: 0,
        reply_never: 0,
        late: 0,
        delay_max: Duration::from_micros(500),
        late_max: Duration::from_secs(10),
    };

    /// About one call in six goes wrong.
    pub const MANY: Self =
        Self { refused: 30, request_lost: 30, reply_lost: 50, reply_never: 20, late: 30, ..Self::NONE };
}

/// How a run went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// It did not come to rest.
    #[error("no end after {steps} steps, {now} after the start: does something spin?")]
    NoEnd {
        /// How many polls there were.
        steps: u64,
        /// When it was stopped.
        now: Timestamp,
    },
}

const STEPS_MAX: u64 = 2_000_000;
/// Far from zero, so that clocks can step back; the first second of 2026.
const START_US: u64 = 1_767_225_600_000_000;

struct Shared {
    seed: u64,
    entropy: Arc<SeededEntropy>,
    clock: ManualClock,
    executor: Executor,
    store: Memory<ManualClock>,
    plan: Mutex<Plan>,
}

/// What is to go wrong.
struct Plan {
    faults: Faults,
    /// Storage calls of each node so far.
    calls: Vec<u64>,
    fault: Option<(Node, Fault)>,
    /// A digest of everything that happened.
    trace: u64,
    steps: u64,
}

/// One simulated run. Clones share it; it ends when the first one is dropped.
pub struct Simulation {
    shared: Arc<Shared>,
    is_first: bool,
}

impl Clone for Simulation {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), is_first: false }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold clones: without this none would ever be freed.
        if self.is_first {
            self.shared.executor.clear();
        }
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("seed", &self.shared.seed).finish_non_exhaustive()
    }
}

impl Simulation {
    /// A run from a seed, without faults at first.
    pub fn new(seed: u64) -> Self {
        let clock = ManualClock::new(Timestamp::from_micros_saturating(START_US));
        let plan = Plan { faults: Faults::NONE, calls: Vec::new(), fault: None, trace: 0, steps: 0 };
        let shared = Shared {
            seed,
            entropy: Arc::new(SeededEntropy::new(seed)),
            store: Memory::with_clock(clock.clone()),
            clock,
            executor: Executor::default(),
            plan: Mutex::new(plan),
        };
        Self { shared: Arc::new(shared), is_first: true }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// The time; it is moved by [`run`](Self::run).
    pub fn clock(&self) -> ManualClock {
        self.shared.clock.clone()
    }

    /// The seed's random bits.
    pub fn entropy(&self) -> Arc<SeededEntropy> {
        Arc::clone(&self.shared.entropy)
    }

    /// The shared store as a node reaches it.
    pub fn store(&self, node: Node) -> SimStore {
        SimStore::new(self.clone(), node)
    }

    /// The shared store without a network before it: to look at what is there.
    pub fn truth(&self) -> Memory<ManualClock> {
        self.shared.store.clone()
    }

    /// Adds a task to a node.
    pub fn spawn(&self, node: Node, future: impl Future<Output = ()> + Send + 'static) {
        self.shared.executor.spawn(Some(node), future);
    }

    /// Ends all tasks of a node where they stand. Calls that it has sent may still arrive.
    pub fn crash(&self, node: Node) {
        self.trace(u64::from(node.0) | 1 << 40);
        self.shared.executor.crash(node);
    }

    /// From now on this goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.plan.lock().faults = faults;
    }

    /// Exactly this goes wrong for the node, besides the faults.
    pub fn set_fault(&self, node: Node, fault: Fault) {
        self.shared.plan.lock().fault = Some((node, fault));
    }

    /// How many storage calls a node has made.
    pub fn calls(&self, node: Node) -> u64 {
        self.shared.plan.lock().calls.get(node.0 as usize).copied().unwrap_or_default()
    }

    /// A digest of everything that happened: equal for equal runs.
    pub fn digest(&self) -> u64 {
        self.shared.plan.lock().trace
    }

    fn trace(&self, event: u64) {
        let mut plan = self.shared.plan.lock();
        plan.trace = (plan.trace ^ event).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    }

    /// Runs until no task can go on, whatever time passes.
    ///
    /// # Errors
    /// [`SimulationError::NoEnd`] after two million steps.
    pub fn run(&self) -> Result<(), SimulationError> {
        self.run_until(Timestamp::MAX)
    }

    /// Runs for some simulated time.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_for(&self, duration: Duration) -> Result<(), SimulationError> {
        let end = self.shared.clock.now().saturating_add(duration);
        self.run_until(end)?;
        if self.shared.clock.now() < end {
            self.shared.clock.set(end);
        }
        Ok(())
    }

    fn run_until(&self, end: Timestamp) -> Result<(), SimulationError> {
        loop {
            while let Some(task) = self.shared.executor.step(&self.shared.entropy) {
                self.trace(task as u64);
                let steps = {
                    let mut plan = self.shared.plan.lock();
                    plan.steps += 1;
                    plan.steps
                };
                if steps > STEPS_MAX {
                    return Err(SimulationError::NoEnd { steps, now: self.shared.clock.now() });
                }
            }
            match self.shared.clock.next_deadline() {
                Some(deadline) if deadline <= end => {
                    self.trace(deadline.as_micros());
                    self.shared.clock.set(deadline.max(self.shared.clock.now()));
                }
                _ => return Ok(()),
            }
        }
    }

    /// A number below `bound`, from the seed.
    pub fn below(&self, bound: u64) -> u64 {
        sysd_core::entropy::below(&self.shared.entropy, bound)
    }

    /// Whether something of these odds, in thousandths, happens.
    pub fn chance(&self, per_mille: u32) -> bool {
        executor::chance(&self.shared.entropy, per_mille)
    }

    fn delay(&self, delay_max: Duration) -> Duration {
        let delay_us_max = u64::try_from(delay_max.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.shared.entropy.next_u64() % delay_us_max.saturating_add(1))
    }
}
