//! A fleet's limiters on a store that is slow or down, behind the layers `Timeout` and `Breaker`: the table of docs/ratelimit.md, "A fleet on a store
//! that is slow or down", by a clock that is driven.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use sysd_core::breaker::BreakerConfig;
use sysd_core::{
    Clock as _, Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, SeededEntropy, Store,
};
use sysd_ratelimit::{
    Decision, LeaseConfig, LeasedLimiter, LocalFirstConfig, LocalFirstLimiter, Outcome, Rule, RuleLimiter, RuleSet,
    ShardedLimiter, SlidingLog, TokenBucket, is_outage,
};
use sysd_storage::Memory;
use sysd_storage::layer::{Breaker, LayerExt as _, Layered, Timeout, TimeoutConfig};
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::clock;
use common::numbers::Numbers;

const MS: Duration = Duration::from_millis(1);
/// Of the store's calls.
const TIMEOUT: Duration = Duration::from_millis(10);
/// Of a request, all its calls together.
const CALL_MAX: Duration = Duration::from_millis(80);
const EVERY: Duration = Duration::from_millis(200);
const BREAKER: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(10),
    calls_min: 4,
    failures_percent: 50,
    open_for: Duration::from_secs(1),
    probes: 2,
};

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// It answers after so long.
    Slow(Duration),
    /// Nothing happens, and nothing is heard of it.
    Hangs,
    /// It happens, and nothing is heard of it.
    Silent,
    /// An error that says that nothing happened.
    Errs(ErrorKind),
    /// It happens, and the connection breaks before the answer is there.
    Breaks,
}

const SICK: [Health; 4] = [Health::Hangs, Health::Silent, Health::Errs(ErrorKind::Unavailable), Health::Breaks];

#[derive(Clone, Debug)]
struct Patient {
    clock: ManualClock,
    health: Arc<Mutex<Health>>,
    calls: Arc<AtomicU32>,
}

impl<S: Store> Overrides<S> for Patient {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let health = *self.health.lock().unwrap();
        match health {
            Health::Well => store.update(key, procedure).await,
            Health::Slow(wait) => {
                self.clock.sleep_until(self.clock.now().saturating_add(wait)).await;
                store.update(key, procedure).await
            }
            Health::Hangs => std::future::pending().await,
            Health::Silent => {
                store.update(key, procedure).await?;
                std::future::pending().await
            }
            Health::Errs(kind) => Err(Error::new(kind, Effect::None, "scripted")),
            Health::Breaks => {
                store.update(key, procedure).await?;
                Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, "scripted"))
            }
        }
    }
}

type Guarded = Layered<Layered<Overridden<Memory<ManualClock>, Patient>, Timeout<ManualClock>>, Breaker<ManualClock>>;
type Keeper = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Ward {
    clock: ManualClock,
    patient: Patient,
    /// What the store has, whatever it says.
    truth: Memory<ManualClock>,
    store: Guarded,
    keepers: Vec<Keeper>,
}

fn ward(timeout: Duration) -> Ward {
    let clock = clock();
    let truth = Memory::with_clock(clock.clone());
    let health = Arc::new(Mutex::new(Health::Well));
    let patient = Patient { clock: clock.clone(), health, calls: Arc::default() };
    let timeout = Timeout::with_clock(TimeoutConfig { write_max: timeout, ..TimeoutConfig::default() }, clock.clone());
    let breaker = Breaker::with_clock(BREAKER, clock.clone());
    let store = Overridden(truth.clone(), patient.clone()).layer(timeout).layer(breaker);
    Ward { clock, patient, truth, store, keepers: Vec::new() }
}

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl Ward {
    fn is(&self, health: Health) {
        *self.patient.health.lock().unwrap() = health;
    }

    fn calls(&self) -> u32 {
        self.patient.calls.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.store.interceptor().is_open()
    }

    /// Asks until the breaker opens; how often.
    fn until_open(&mut self, mut ask: impl FnMut(&mut Self)) -> u32 {
        let mut asked = 0;
        while !self.is_open() {
            assert!(asked < 1_000, "it never opens");
            ask(self);
            asked += 1;
        }
        assert!(asked >= BREAKER.calls_min / 2);
        asked
    }

    fn poll_keepers(&mut self) {
        for keeper in &mut self.keepers {
            let _ = poll(keeper.as_mut());
        }
    }

    /// Drives the clock until it is answered: what it says, and after how long.
    fn drive<T>(&mut self, call: impl Future<Output = T>) -> (T, Duration) {
        let (begun, mut call) = (self.clock.now(), pin!(call));
        loop {
            let waited = self.clock.now().saturating_since(begun);
            if let Poll::Ready(answer) = poll(call.as_mut()) {
                return (answer, waited);
            }
            assert!(waited <= 3 * CALL_MAX, "it waits for ever");
            self.pass(MS);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.clock.now().saturating_add(time);
        self.poll_keepers();
        while self.clock.now() < until {
            self.clock.advance(MS);
            self.poll_keepers();
        }
    }

    /// A log, of which exactly so much comes back as is given back.
    fn leased(&mut self) -> LeasedLimiter<Guarded, ManualClock> {
        let config = LeaseConfig { hold_for: EVERY, call_wait_max: CALL_MAX, ..LeaseConfig::new(64) };
        let made = LeasedLimiter::with_clock(self.store.clone(), "api", log(), config, self.clock.clone());
        let (limiter, keeper) = made.unwrap();
        self.keepers.push(Box::pin(keeper));
        self.poll_keepers();
        limiter
    }

    fn local_first(&mut self, keys_max: usize) -> LocalFirstLimiter<Guarded, ManualClock> {
        let config = LocalFirstConfig { flush_every: EVERY, call_wait_max: CALL_MAX, keys_max };
        let made = LocalFirstLimiter::with_clock(self.store.clone(), "api", bucket(), config, self.clock.clone());
        let (limiter, keeper) = made.unwrap();
        self.keepers.push(Box::pin(keeper));
        self.poll_keepers();
        limiter
    }

    fn sharded(&self) -> ShardedLimiter<Guarded, Arc<SeededEntropy>, ManualClock> {
        let (bucket, entropy) = (TokenBucket::new("1/h".parse().unwrap(), LIMIT).unwrap(), SeededEntropy::new(7));
        let limiter = ShardedLimiter::with_entropy(self.store.clone(), "api", bucket, 4, Arc::new(entropy)).unwrap();
        limiter.with_clock(self.clock.clone()).with_deadline(CALL_MAX)
    }

    /// What the store has of a key.
    fn left(&self, rule: Rule, key: &str) -> u32 {
        let truth = RuleLimiter::new(self.truth.clone(), "api", RuleSet::new([rule]).unwrap()).unwrap();
        block_on(truth.check(key, 0)).unwrap().decision().remaining()
    }
}

const LIMIT: u32 = 100;

fn log() -> Rule {
    Rule::new("all", SlidingLog::new(format!("{LIMIT}/h").parse().unwrap()).unwrap()).unwrap()
}

const PER_SECOND: u32 = 10;

fn bucket() -> Rule {
    Rule::new("all", TokenBucket::new(format!("{PER_SECOND}/s").parse().unwrap(), LIMIT).unwrap()).unwrap()
}

/// It was not asked, and said so without a wait.
fn is_turned_away((answer, waited): &(Result<Decision>, Duration)) -> bool {
    let is_unavailable =
        |error: &Error| (error.kind(), error.effect()) == (ErrorKind::Unavailable, Effect::None) && is_outage(error);
    waited.is_zero() && answer.as_ref().is_err_and(is_unavailable)
}

/// As the store is: after its time, or at once.
fn is_failure(health: Health, (answer, waited): &(Result<Decision>, Duration)) -> bool {
    let error = answer.as_ref().unwrap_err();
    let told = (error.kind(), error.effect(), *waited);
    match health {
        Health::Errs(kind) => told == (kind, Effect::None, Duration::ZERO),
        Health::Breaks => told == (ErrorKind::Unavailable, Effect::Unknown, Duration::ZERO),
        _ => told == (ErrorKind::Timeout, Effect::Unknown, TIMEOUT),
    }
}

#[test]
fn leased_goes_by_what_is_in_hand_while_the_breaker_is_open() {
    for health in SICK {
        let numbers = Numbers::default();
        metrics::with_local_recorder(&numbers, || {
            let mut ward = ward(TIMEOUT);
            let limiter = ward.leased();
            let mut admitted = 0;
            // Of 1, 2, 4 and 8 seven are in hand.
            for _ in 0..8 {
                assert!(ward.drive(limiter.check("ann", 1)).0.unwrap().is_allowed());
                admitted += 1;
            }
            assert_eq!(limiter.in_hand("ann"), 7);
            // As one that is denied, for as long as that is known.
            assert!(ward.drive(limiter.check("bob", LIMIT)).0.unwrap().is_allowed());
            assert!(!ward.drive(limiter.check("bob", 1)).0.unwrap().is_allowed());
            ward.is(health);
            ward.until_open(|ward| {
                let answer = ward.drive(limiter.check("cid", 1));
                assert!(is_failure(health, &answer), "{health:?}: {answer:?}");
            });
            let calls = ward.calls();
            for _ in 0..50 {
                let answer = ward.drive(limiter.check("cid", 1));
                assert!(is_turned_away(&answer), "{health:?}: {answer:?}");
            }
            // A crowd, too: nobody waits in line for one that is turned away.
            let (answers, waited) = ward.drive(join_all((0..50).map(|_| limiter.check("dan", 1))));
            for answer in answers {
                assert!(is_turned_away(&(answer, waited)));
            }
            for _ in 0..3 {
                assert!(ward.drive(limiter.check("ann", 1)).0.unwrap().is_allowed());
                admitted += 1;
            }
            assert!(ward.drive(limiter.check("bob", 1)).0.unwrap().retry_after().is_some());
            // Rounds in which the keeper is turned away: what is left of the batch waits.
            ward.pass(3 * EVERY);
            assert!(ward.is_open() && limiter.in_hand("ann") == 0);
            assert!(is_turned_away(&ward.drive(limiter.check("ann", 1))));
            assert_eq!((ward.calls(), ward.left(log(), "ann")), (calls, LIMIT - 15));
            // It is tried after its time, and again, while it is no better.
            ward.pass(3 * BREAKER.open_for);
            let tries = ward.calls() - calls;
            assert!((1..=6).contains(&tries), "{health:?}: tried {tries} times");
            ward.is(Health::Well);
            ward.pass(2 * BREAKER.open_for + 2 * EVERY);
            for _ in 0..BREAKER.probes {
                assert!(ward.drive(limiter.check("eve", 1)).0.unwrap().is_allowed());
            }
            assert!(!ward.is_open());
            ward.pass(2 * EVERY);
            // What was admitted was taken before. Four were left in hand: given back, or sent and not heard of.
            let left = ward.left(log(), "ann");
            let lost = numbers.labelled("sysd_ratelimit_keeper_lost_tokens_total");
            let unknown = lost.get("limiter=api,mode=leased,effect=unknown").copied().unwrap_or(0);
            let given = left + admitted - (LIMIT - 4);
            assert!(left + admitted <= LIMIT, "{health:?}: {left} left, {admitted} admitted");
            match health {
                // Nothing has happened: it is sent again until it has.
                Health::Errs(_) => assert_eq!((given, lost.len()), (4, 0)),
                Health::Hangs => assert_eq!((given, unknown, lost.len()), (0, 4, 1)),
                _ => assert_eq!((given, unknown, lost.len()), (4, 4, 1)),
            }
        });
    }
}

/// Many rests, of a store that is slow: the round that tries it waits for those by which it tries.
#[test]
fn nothing_is_lost_by_a_keeper_that_tries_a_store_behind_a_breaker() {
    const KEYS: u32 = 90;
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let mut ward = ward(TIMEOUT);
        let limiter = ward.leased();
        let name = |at: u32| format!("key {at}");
        for at in 0..KEYS {
            for _ in 0..2 {
                assert!(ward.drive(limiter.check(name(at), 1)).0.unwrap().is_allowed());
            }
            assert_eq!(limiter.in_hand(name(at)), 1);
        }
        ward.is(Health::Errs(ErrorKind::Unavailable));
        ward.until_open(|ward| drop(ward.drive(limiter.check("nobody", 1)).0.unwrap_err()));
        ward.is(Health::Slow(5 * MS));
        // Two of them are probes, and the others are turned away by the same breaker; the next round gives all back.
        ward.pass(BREAKER.open_for + 3 * EVERY);
        assert!(!ward.is_open());
        let left: Vec<_> = (0..KEYS).map(|at| ward.left(log(), &name(at))).collect();
        assert!(left.iter().all(|left| *left == LIMIT - 2), "{left:?}");
    });
    let lost = numbers.labelled("sysd_ratelimit_keeper_lost_tokens_total");
    assert!(lost.is_empty(), "{lost:?}");
}

/// Two local-first processes of one key, asked for more than the limit lets, before, during and long after an outage.
#[derive(Debug)]
struct Demand {
    asked: u32,
    admitted: u32,
    time: Duration,
    /// The longest that was seen.
    lag: Duration,
    /// From the last answer before the outage to its end.
    outage: Duration,
    /// What the store has in the end.
    left: u32,
}

impl Demand {
    fn refilled(time: Duration) -> u32 {
        u32::try_from(u128::from(PER_SECOND) * time.as_micros() / 1_000_000).unwrap() + 1
    }

    /// What the bucket alone grants.
    fn granted(&self) -> u32 {
        LIMIT + Self::refilled(self.time)
    }

    /// What two processes may be granted of such a lag.
    fn bound(&self, lag: Duration) -> u32 {
        self.granted() + 2 * (LIMIT + 2 * Self::refilled(lag))
    }
}

fn local_first_in_an_outage(health: Health, has_keepers: bool) -> Demand {
    let mut ward = ward(TIMEOUT);
    // Neither learns of the other meanwhile, and each knows one key.
    let fleet = [ward.local_first(1), ward.local_first(1)];
    if !has_keepers {
        ward.keepers.clear();
    }
    let (begun, mut asked, mut admitted, mut lag) = (ward.clock.now(), 0, 0, Duration::ZERO);
    let mut ask = |ward: &mut Ward, times: u32| {
        for limiter in (0..times).flat_map(|_| &fleet) {
            let (answer, waited) = ward.drive(limiter.check("ann", 1));
            assert!(waited.is_zero());
            asked += 1;
            admitted += u32::from(answer.unwrap().is_allowed());
            lag = lag.max(limiter.lag());
        }
    };
    ask(&mut ward, 20);
    ward.pass(2 * EVERY);
    let outage = ward.clock.now();
    ward.is(health);
    let calls = ward.calls();
    for _ in 0..5 {
        ask(&mut ward, 1);
        ward.pass(EVERY);
    }
    if has_keepers {
        // Each round is a call of each process, until the breaker opens.
        assert!(ward.is_open() && ward.calls() - calls <= BREAKER.calls_min, "{}", ward.calls() - calls);
        let calls = ward.calls();
        for _ in 0..150 {
            // Where there is no room for a key the store would be asked.
            assert!(is_turned_away(&ward.drive(fleet[0].check("bob", 1))));
        }
        assert_eq!(ward.calls(), calls);
        assert!(fleet[0].last_error().is_some() && fleet[0].lag() > EVERY);
    }
    ask(&mut ward, 150);
    let (answer, _) = ward.drive(fleet[0].check("ann", 0));
    assert_eq!(answer.unwrap().remaining(), 0, "{health:?}: its own bucket is not empty");
    let outage = ward.clock.now().saturating_since(outage);
    ward.is(Health::Well);
    // The breaker closes meanwhile; then for long enough to make up for all of it.
    for _ in 0..600 {
        ask(&mut ward, 2);
        ward.pass(EVERY / 2);
    }
    assert!(!ward.is_open());
    let (time, left) = (ward.clock.now().saturating_since(begun), ward.left(bucket(), "ann"));
    if has_keepers {
        assert!(fleet.iter().all(|limiter| limiter.lag() <= EVERY));
    }
    Demand { asked, admitted, time, lag, outage, left }
}

#[test]
fn local_first_goes_by_what_it_believes_while_the_breaker_is_open() {
    for health in SICK {
        let demand = local_first_in_an_outage(health, true);
        // What the docs say of it: the outage, until the breaker lets calls through again, and three rounds with their calls.
        let lag_max = demand.outage + EVERY + BREAKER.open_for + 3 * (EVERY + TIMEOUT);
        assert!(demand.lag > demand.outage && demand.lag <= lag_max, "{health:?}: {demand:?}");
        let bound = demand.bound(demand.lag);
        assert!(demand.asked > bound + LIMIT, "{health:?}: too few to tell: {demand:?}");
        assert!(demand.admitted <= bound, "{health:?}: more than {bound}: {demand:?}");
        // It is made up for: in the end no more is admitted too much than what is on its way.
        let on_its_way = 2 * 2 * Demand::refilled(2 * EVERY);
        assert!(demand.admitted <= demand.granted() + on_its_way, "{health:?}: {demand:?}");
        assert!(demand.left <= Demand::refilled(3 * EVERY), "{health:?}: {demand:?}");
        // Broken: what nobody posts is not made up for.
        let alone = local_first_in_an_outage(health, false);
        assert!(alone.admitted > alone.bound(lag_max), "{health:?}: nobody noticed: {alone:?}");
    }
}

/// Postings by which the store is tried are waited for: none is posted twice.
#[test]
fn what_was_admitted_is_posted_once_by_a_keeper_that_tries_a_store_behind_a_breaker() {
    const KEYS: u32 = 200;
    let mut ward = ward(TIMEOUT);
    let hourly = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), LIMIT).unwrap()).unwrap();
    let config = LocalFirstConfig { flush_every: EVERY, call_wait_max: CALL_MAX, ..LocalFirstConfig::default() };
    let made = LocalFirstLimiter::with_clock(ward.store.clone(), "api", hourly.clone(), config, ward.clock.clone());
    let (limiter, keeper) = made.unwrap();
    ward.keepers.push(Box::pin(keeper));
    ward.poll_keepers();
    let name = |at: u32| format!("key {at}");
    ward.is(Health::Errs(ErrorKind::Unavailable));
    for at in 0..KEYS {
        assert!(ward.drive(limiter.check(name(at), 3)).0.unwrap().is_allowed());
    }
    ward.pass(BREAKER.calls_min * EVERY + EVERY);
    assert!(ward.is_open());
    ward.is(Health::Slow(5 * MS));
    ward.pass(BREAKER.open_for + 3 * EVERY);
    assert!(!ward.is_open());
    let left: Vec<_> = (0..KEYS).map(|at| ward.left(hourly.clone(), &name(at))).collect();
    assert!(left.iter().all(|left| *left == LIMIT - 3), "{left:?}");
}

#[test]
fn sharded_is_turned_away_while_the_breaker_is_open() {
    for health in SICK {
        let mut ward = ward(TIMEOUT);
        let limiter = ward.sharded();
        let mut admitted = 0;
        for _ in 0..20 {
            assert!(ward.drive(limiter.check("ann", 1)).0.unwrap().is_allowed());
            admitted += 1;
        }
        ward.is(health);
        let failed = ward.until_open(|ward| {
            let answer = ward.drive(limiter.check("ann", 1));
            assert!(is_failure(health, &answer), "{health:?}: {answer:?}");
        });
        let calls = ward.calls();
        for cost in [0, 1, LIMIT / 2, LIMIT] {
            for _ in 0..20 {
                let answer = ward.drive(limiter.check("ann", cost));
                assert!(is_turned_away(&answer), "{health:?}: {cost}: {answer:?}");
            }
        }
        assert!(ward.is_open() && ward.calls() == calls);
        // What can never be needs no store.
        assert_eq!(ward.drive(limiter.check("ann", LIMIT + 1)).0.unwrap().outcome(), Outcome::NeverAllowed);
        ward.is(Health::Well);
        ward.pass(BREAKER.open_for);
        for _ in 0..200 {
            admitted += u32::from(ward.drive(limiter.check("ann", 1)).0.unwrap().is_allowed());
        }
        assert!(!ward.is_open());
        // What was taken and not heard of is lost.
        let lost = if matches!(health, Health::Silent | Health::Breaks) { failed } else { 0 };
        assert_eq!(admitted, LIMIT - lost, "{health:?}");
    }
}

/// The one trap: whom the limiter gives up before the layer does shows the breaker nothing, and the store is asked for ever.
#[test]
fn a_timeout_that_is_longer_than_the_limiters_own_leaves_the_breaker_closed() {
    // One that is as long is found by the layer.
    for (timeout, is_found) in [(TIMEOUT, true), (CALL_MAX, true), (CALL_MAX + MS, false)] {
        let mut ward = ward(timeout);
        let (leased, sharded) = (ward.leased(), ward.sharded());
        ward.is(Health::Hangs);
        for at in 0..20 {
            ward.drive(leased.check(format!("key {at}"), 1)).0.unwrap_err();
        }
        let calls = if is_found { BREAKER.calls_min } else { 20 };
        assert_eq!((ward.is_open(), ward.calls()), (is_found, calls), "{timeout:?}");
        if !is_found {
            for _ in 0..20 {
                ward.drive(sharded.check("ann", 1)).0.unwrap_err();
            }
            assert_eq!((ward.is_open(), ward.calls()), (false, 40), "{timeout:?}");
        }
    }
}
