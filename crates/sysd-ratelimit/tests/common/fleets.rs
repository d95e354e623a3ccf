//! Fleets in simulations: each process with a clock of its own, and how much they admitted beyond the limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::entropy::below;
use sysd_core::{
    ArgumentBytes, Clock, Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, Script,
    SeededEntropy, Sleep, StateChange, Store as _, Timestamp, Undecodable,
};
use sysd_ratelimit::{
    Decision, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, Rule, RuleLimiter, RuleSet,
    ShardedLimiter, TokenBucket,
};
use sysd_testkit::sim::{Node, SimStore, Simulation};
use sysd_testkit::{Overridden, Overrides};

pub(crate) const NODES: u32 = 3;
pub(crate) const BURST: u32 = 40;
pub(crate) const BATCH_MAX: u32 = 8;
pub(crate) const HOLD: Duration = Duration::from_millis(20);
pub(crate) const FLUSH: Duration = Duration::from_millis(20);
/// How long a call of the store's may take.
pub(crate) const CALL_MAX: Duration = Duration::from_millis(50);
/// No posting is answered later than so: a few rounds that fail, each after waiting in vain, and the store away meanwhile.
pub(crate) const LAG_MAX: Duration = Duration::from_millis(400);
/// Nothing comes back by time within a run.
pub(crate) const FROZEN: u32 = 1;

/// A process's clock: so far ahead of the true one (behind, if negative), and faster by so many millionths.
#[derive(Debug, Clone)]
pub(crate) struct Drifting {
    inner: ManualClock,
    begun_us: i64,
    begun: Duration,
    ahead_us: i64,
    ppm: i64,
}

impl Drifting {
    pub(crate) fn new(inner: ManualClock, ahead_us: i64, ppm: i64) -> Self {
        let begun_us = i64::try_from(inner.now().as_micros()).unwrap();
        let begun = inner.steady();
        Self { inner, begun_us, begun, ahead_us, ppm }
    }

    /// How far it is ahead by now.
    pub(crate) fn ahead_us(&self) -> i64 {
        let true_us = i64::try_from(self.inner.now().as_micros()).unwrap();
        self.ahead_us + (true_us - self.begun_us) * self.ppm / 1_000_000
    }
}

impl Clock for Drifting {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_saturating(self.inner.now().as_micros().saturating_add_signed(self.ahead_us()))
    }

    fn steady(&self) -> Duration {
        let true_us = i64::try_from(self.inner.steady().saturating_sub(self.begun).as_micros()).unwrap();
        self.begun + Duration::from_micros(u64::try_from(true_us + true_us * self.ppm / 1_000_000).unwrap())
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let left_us = i64::try_from(deadline.saturating_since(self.now()).as_micros()).unwrap_or(i64::MAX / 2_000_000);
        let true_us = left_us.saturating_mul(1_000_000) / (1_000_000 + self.ppm) + i64::from(left_us > 0);
        self.inner.sleep_until(self.inner.now().saturating_add(Duration::from_micros(true_us.unsigned_abs())))
    }

    fn is_real_time(&self) -> bool {
        false
    }
}

/// What lies between a process and the store.
#[derive(Debug, Clone)]
pub(crate) struct Between {
    /// Broken: sends again what may have happened.
    pub(crate) sends_again: bool,
    /// So many of a thousand replies to a giving back are lost, besides those that the simulation loses.
    pub(crate) gives_lost: u64,
    pub(crate) entropy: Arc<SeededEntropy>,
    /// It decides by the caller's clock, else by the store's.
    pub(crate) by: Option<Drifting>,
    /// Broken: a state's time goes back with the clock.
    pub(crate) time_goes_back: bool,
}

/// A procedure at the time of its caller.
struct At<'a> {
    procedure: &'a dyn ErasedProcedure,
    now: Timestamp,
    time_goes_back: bool,
}

impl ErasedProcedure for At<'_> {
    fn name(&self) -> &'static str {
        self.procedure.name()
    }

    fn apply(
        &self,
        state: Option<&[u8]>,
        _: Timestamp,
        output: &mut OutputBytes,
    ) -> std::result::Result<StateChange, Undecodable> {
        let mut state = state.map(<[u8]>::to_vec);
        if let Some(state) = state.as_mut().filter(|_| self.time_goes_back) {
            // Of the first rule, a bucket: behind the record's version, its header, and the version of its state.
            let at = &mut state[16..23];
            let now = &self.now.as_micros().to_be_bytes()[1..];
            if *now < *at {
                at.copy_from_slice(now);
            }
        }
        self.procedure.apply(state.as_deref(), self.now, output)
    }

    fn script(&self) -> Option<&'static Script> {
        self.procedure.script()
    }

    fn encode_arguments(&self, out: &mut ArgumentBytes) {
        self.procedure.encode_arguments(out);
    }
}

impl Overrides<SimStore> for Between {
    async fn update(&self, store: &SimStore, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        loop {
            let answer = match &self.by {
                None => store.update(key, procedure).await,
                Some(clock) => {
                    let at = At { procedure, now: clock.now(), time_goes_back: self.time_goes_back };
                    store.update(key, &at).await
                }
            };
            let is_lost = procedure.name() == "give" && below(&self.entropy, 1_000) < self.gives_lost;
            let answer = if is_lost && answer.is_ok() { Err(lost()) } else { answer };
            match answer {
                Err(error) if error.effect() == Effect::Unknown && self.sends_again => {}
                answer => return answer,
            }
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the reply was lost")
}

type Through = Overridden<SimStore, Between>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Central,
    Sharded,
    Leased,
    LocalFirst,
    /// Local-first whose keeper is not spawned.
    NeverPosts,
    /// Leased, on a store that sends again what may have happened.
    SendsAgain,
    /// Leased, each process by itself.
    SharesNothing,
    /// Central, where a state's time goes back with the clock.
    TimeGoesBack,
}

/// A limiter in one of the modes.
#[derive(Clone)]
pub(crate) enum Fleet {
    Central(RuleLimiter<Through>),
    Sharded(ShardedLimiter<Through, Arc<SeededEntropy>, Drifting>),
    Leased(LeasedLimiter<Through, Drifting>),
    LocalFirst(LocalFirstLimiter<Through, Drifting>),
}

impl Fleet {
    pub(crate) async fn check(&self, key: &[u8], cost: u32) -> Result<Decision> {
        match self {
            Self::Central(limiter) => limiter.check(key, cost).await.map(|joint| *joint.decision()),
            Self::Sharded(limiter) => limiter.check(key, cost).await,
            Self::Leased(limiter) => limiter.check(key, cost).await,
            Self::LocalFirst(limiter) => limiter.check(key, cost).await,
        }
    }

    pub(crate) fn lag(&self) -> Duration {
        if let Self::LocalFirst(limiter) = self { limiter.lag() } else { Duration::ZERO }
    }
}

pub(crate) type Keeper = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn bucket(per_second: u32) -> TokenBucket {
    TokenBucket::new(format!("{per_second}/s").parse().unwrap(), BURST).unwrap()
}

/// A process's limiter by its clock; on a store that goes by the callers' clocks, or by its own.
pub(crate) fn fleet(
    mode: Mode,
    simulation: &Simulation,
    node: Node,
    bucket: TokenBucket,
    clock: Drifting,
    by_callers: bool,
    gives_lost: u64,
) -> (Fleet, Option<Keeper>) {
    let between = Between {
        sends_again: mode == Mode::SendsAgain,
        gives_lost,
        entropy: simulation.entropy(),
        by: by_callers.then(|| clock.clone()),
        time_goes_back: mode == Mode::TimeGoesBack,
    };
    let (store, rule) = (Overridden(simulation.store(node), between), Rule::new("all", bucket).unwrap());
    match mode {
        Mode::Central | Mode::TimeGoesBack => {
            (Fleet::Central(RuleLimiter::new(store, "api", RuleSet::new([rule]).unwrap()).unwrap()), None)
        }
        Mode::Sharded => {
            let limiter = ShardedLimiter::with_entropy(store, "api", bucket, 4, simulation.entropy()).unwrap();
            (Fleet::Sharded(limiter.with_clock(clock).with_deadline(CALL_MAX)), None)
        }
        Mode::Leased | Mode::SendsAgain | Mode::SharesNothing => {
            let config = LeaseConfig { hold_for: HOLD, call_wait_max: CALL_MAX, ..LeaseConfig::new(BATCH_MAX) };
            let name = if mode == Mode::SharesNothing { format!("api {node:?}") } else { "api".to_owned() };
            let (limiter, keeper) = LeasedLimiter::with_clock(store, &name, rule, config, clock).unwrap();
            (Fleet::Leased(limiter), Some(Box::pin(keeper)))
        }
        Mode::LocalFirst | Mode::NeverPosts => {
            let config =
                LocalFirstConfig { flush_every: FLUSH, call_wait_max: CALL_MAX, ..LocalFirstConfig::default() };
            let (limiter, keeper) = LocalFirstLimiter::with_clock(store, "api", rule, config, clock).unwrap();
            (Fleet::LocalFirst(limiter), (mode == Mode::LocalFirst).then(|| Box::pin(keeper) as Keeper))
        }
    }
}

/// What was admitted when, and the longest lag that was seen.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// When it was asked and answered, and the cost.
    pub(crate) admitted: Vec<(u64, u64, u32)>,
    pub(crate) denied: u32,
    pub(crate) lag: Duration,
    /// So many of a process waited for an answer at once, at most.
    pub(crate) at_once: u32,
}

impl Told {
    /// By how much more than the limit was admitted, in the stretch of time where it was most.
    pub(crate) fn overshoot(&mut self, per_second: u32) -> i64 {
        self.admitted.sort_unstable();
        let mut most = i64::MIN;
        for (first, &(begin_us, ..)) in self.admitted.iter().enumerate() {
            let (mut sum, mut end_us) = (0, 0);
            for &(_, answered_us, cost) in &self.admitted[first..] {
                sum += i64::from(cost);
                // They were decided in between, whenever.
                end_us = end_us.max(answered_us);
                let refilled = (end_us - begin_us) * u64::from(per_second);
                let granted = i64::from(BURST) + i64::try_from(refilled).unwrap().div_euclid(1_000_000);
                most = most.max(sum - granted);
            }
        }
        most
    }

    pub(crate) fn sum(&self) -> u32 {
        self.admitted.iter().map(|(.., cost)| cost).sum()
    }
}

/// How the callers of a process ask for one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) callers: u32,
    /// All callers of all processes ask at the same moments, every so many microseconds; zero: each when it likes.
    pub(crate) together_us: u64,
    /// So often each.
    pub(crate) times: u32,
    /// One in so many pauses is long, on average; the others are up to 2 ms.
    pub(crate) long_in: u64,
    /// The shortest and the longest of the long ones, in microseconds.
    pub(crate) long_us: (u64, u64),
}

impl Demand {
    /// In bursts and pauses, so often each.
    pub(crate) const fn bursts(times: u32) -> Self {
        Self { callers: 2, together_us: 0, times, long_in: 8, long_us: (0, 60_000) }
    }

    /// It stops for longer than a batch is held, again and again: most batches are given back in part.
    pub(crate) const fn comes_and_goes(times: u32) -> Self {
        Self { long_in: 2, long_us: (40_000, 100_000), ..Self::bursts(times) }
    }

    /// More at once than a batch is for, so often each.
    pub(crate) const fn crowds(times: u32) -> Self {
        Self { callers: 3 * BATCH_MAX, together_us: 30_000, ..Self::bursts(times) }
    }
}

/// Starts a process: its keeper, and those that ask for one key.
pub(crate) fn start(
    simulation: &Simulation,
    node: Node,
    (limiter, keeper): (Fleet, Option<Keeper>),
    demand: Demand,
    told: &Arc<Mutex<Told>>,
) {
    if let Some(keeper) = keeper {
        simulation.spawn(node, keeper);
    }
    let waiting = Arc::new(AtomicU32::new(0));
    for _ in 0..demand.callers {
        let (limiter, entropy, clock, told, waiting) =
            (limiter.clone(), simulation.entropy(), simulation.clock(), Arc::clone(told), Arc::clone(&waiting));
        simulation.spawn(node, async move {
            for _ in 0..demand.times {
                let pause_us = if below(&entropy, demand.long_in) == 0 {
                    let (least_us, most_us) = demand.long_us;
                    least_us + below(&entropy, most_us - least_us)
                } else {
                    below(&entropy, 2_000)
                };
                let pause_us = match demand.together_us {
                    0 => pause_us,
                    every_us => every_us - clock.now().as_micros() % every_us,
                };
                clock.sleep_until(clock.now().saturating_add(Duration::from_micros(pause_us))).await;
                let cost = u32::try_from(below(&entropy, 4)).unwrap();
                let asked_us = clock.now().as_micros();
                let at_once = 1 + waiting.fetch_add(1, Ordering::Relaxed);
                let answer = limiter.check(b"ann", cost).await;
                waiting.fetch_sub(1, Ordering::Relaxed);
                let mut told = told.lock().unwrap();
                told.at_once = told.at_once.max(at_once);
                told.lag = told.lag.max(limiter.lag());
                match answer {
                    Ok(decision) if decision.is_allowed() => {
                        told.admitted.push((asked_us, clock.now().as_micros(), cost));
                    }
                    Ok(_) => told.denied += 1,
                    Err(_) => {}
                }
            }
        });
    }
}
