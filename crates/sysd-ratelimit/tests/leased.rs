//! Requests that come while another one asks for a batch.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use sysd_core::{Clock as _, Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, Store};
use sysd_ratelimit::{
    Decision, FixedWindow, LeaseConfig, LeasedLimiter, Rule, RuleLimit, RuleLimiter, RuleSet, SlidingLog,
    SlidingWindow, TokenBucket,
};
use sysd_storage::Memory;
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::clock;

/// Calls are counted, and held while it is shut.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Passage>>);

#[derive(Default)]
struct Passage {
    is_shut: bool,
    /// Calls end so, when they go on.
    fails: Option<(ErrorKind, Effect)>,
    calls: usize,
    held: Vec<oneshot::Sender<()>>,
}

impl Gate {
    fn shut(&self) {
        self.0.lock().unwrap().is_shut = true;
    }

    /// Those that are held go on; those that come are held again if it stays shut.
    fn release(&self) {
        let held = std::mem::take(&mut self.0.lock().unwrap().held);
        for call in held {
            // It may have been dropped.
            let _ = call.send(());
        }
    }

    /// Those that come go through; those that are held stay.
    fn open(&self) {
        self.0.lock().unwrap().is_shut = false;
    }

    fn fail(&self, fails: Option<(ErrorKind, Effect)>) {
        self.0.lock().unwrap().fails = fails;
    }

    fn calls(&self) -> usize {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

impl<S: Store> Overrides<S> for Gate {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let turn = {
            let mut passage = self.0.lock().unwrap();
            passage.calls += 1;
            let (go, turn) = oneshot::channel();
            passage.is_shut.then(|| passage.held.push(go)).map(|()| turn)
        };
        if let Some(turn) = turn {
            turn.await.unwrap();
        }
        let fails = self.0.lock().unwrap().fails;
        match fails {
            Some((kind, effect)) => Err(Error::new(kind, effect, "scripted")),
            None => store.update(key, procedure).await,
        }
    }
}

type Limiter = LeasedLimiter<Overridden<Memory<ManualClock>, Gate>, ManualClock>;

/// So long a call takes to the store, and its answer back.
#[derive(Clone)]
struct Slow(ManualClock, Duration, Duration);

impl<S: Store> Overrides<S> for Slow {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let Self(clock, there, back) = self;
        clock.sleep_until(clock.now().saturating_add(*there)).await;
        let answer = store.update(key, procedure).await;
        clock.sleep_until(clock.now().saturating_add(*back)).await;
        answer
    }
}

/// A limiter whose keeper does not run.
fn limiter(rate: &str, burst: u32, batch_max: u32) -> (ManualClock, Gate, Limiter) {
    let (clock, gate) = (clock(), Gate::default());
    let store = Overridden(Memory::with_clock(clock.clone()), gate.clone());
    let rule = Rule::new("all", TokenBucket::new(rate.parse().unwrap(), burst).unwrap()).unwrap();
    let (limiter, _) =
        LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(batch_max), clock.clone()).unwrap();
    (clock, gate, limiter)
}

/// Calls are counted that are under way, and what a call takes is a millisecond.
#[derive(Clone)]
struct UnderWay(ManualClock, Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    all: usize,
    now: usize,
    most: usize,
    hang: bool,
}

impl<S: Store> Overrides<S> for UnderWay {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let Self(clock, calls) = self;
        let hangs = {
            let mut calls = calls.lock().unwrap();
            (calls.all, calls.now) = (calls.all + 1, calls.now + 1);
            calls.most = calls.most.max(calls.now);
            calls.hang
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        clock.sleep_until(clock.now().saturating_add(MILLISECOND)).await;
        calls.lock().unwrap().now -= 1;
        store.update(key, procedure).await
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

type Counted = LeasedLimiter<Overridden<Memory<ManualClock>, UnderWay>, ManualClock>;

fn under_way(burst: u32, batch_max: u32) -> (ManualClock, Arc<Mutex<Calls>>, Counted) {
    let (clock, calls) = (clock(), Arc::new(Mutex::new(Calls::default())));
    let store = Overridden(Memory::with_clock(clock.clone()), UnderWay(clock.clone(), Arc::clone(&calls)));
    let rule = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), burst).unwrap()).unwrap();
    let (limiter, _) =
        LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(batch_max), clock.clone()).unwrap();
    (clock, calls, limiter)
}

/// Requests of one token each; those that were answered are gone.
struct Crowd(Vec<Pin<Box<dyn Future<Output = Result<Decision>>>>>);

impl Crowd {
    fn of<S: Store + 'static>(limiter: &LeasedLimiter<S, ManualClock>, count: usize) -> Self {
        let ask = |_| {
            let limiter = limiter.clone();
            Box::pin(async move { limiter.check("ann", 1).await }) as Pin<Box<dyn Future<Output = Result<Decision>>>>
        };
        Self((0..count).map(ask).collect())
    }

    /// As far as they come: what was answered.
    fn poll(&mut self) -> Vec<Result<Decision>> {
        let mut answers = Vec::new();
        self.0.retain_mut(|check| match check.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            Poll::Pending => true,
        });
        answers
    }
}

fn allowed(answers: &[Result<Decision>]) -> usize {
    answers.iter().filter(|answer| answer.as_ref().is_ok_and(Decision::is_allowed)).count()
}

#[test]
fn a_crowd_is_answered_by_one_batch_and_the_next() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 64);
    assert!(crowd.poll().is_empty());
    assert_eq!(gate.calls(), 1);
    // Nothing is known of the key yet, so the first batch is of one token.
    gate.release();
    assert_eq!(allowed(&crowd.poll()), 1);
    assert_eq!((gate.calls(), crowd.0.len()), (1, 63));
    gate.release();
    assert_eq!(allowed(&crowd.poll()), 63);
    assert_eq!(gate.calls(), 0);
}

#[test]
fn a_denial_is_told_to_all_who_wait() {
    let (clock, gate, limiter) = limiter("1/s", 1, 8);
    assert_eq!(allowed(&Crowd::of(&limiter, 1).poll()), 1);
    let denied = block_on(limiter.check("ann", 1)).unwrap();
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_millis(100));
    gate.calls();
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 64);
    assert!(crowd.poll().is_empty());
    gate.release();
    let answers = crowd.poll();
    assert_eq!((answers.len(), allowed(&answers), gate.calls()), (64, 0, 1));
}

#[test]
fn a_failure_is_told_to_all_who_wait() {
    for (kind, effect) in [(ErrorKind::Unavailable, Effect::None), (ErrorKind::Timeout, Effect::Unknown)] {
        let (_, gate, limiter) = limiter("1/h", 1_000, 100);
        gate.shut();
        let mut crowd = Crowd::of(&limiter, 64);
        assert!(crowd.poll().is_empty());
        gate.fail(Some((kind, effect)));
        gate.release();
        let answers = crowd.poll();
        let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        let told = errors.filter(|error| (error.kind(), error.effect()) == (kind, effect)).count();
        assert_eq!((answers.len(), told, gate.calls()), (64, 64, 1));
        // The next asks again.
        gate.fail(None);
        gate.open();
        assert_eq!((allowed(&Crowd::of(&limiter, 5).poll()), gate.calls() > 0), (5, true));
    }
}

#[test]
fn a_store_that_does_not_answer_is_everybodys_error_after_call_wait_max() {
    let (clock, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    assert!(crowd.poll().is_empty());
    gate.open();
    clock.advance(LeaseConfig::new(100).call_wait_max);
    let answers = crowd.poll();
    let late = |answer: &Result<Decision>| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout);
    assert_eq!((answers.len(), answers.iter().filter(|answer| late(answer)).count(), gate.calls()), (10, 10, 1));
}

#[test]
fn of_those_who_wait_for_one_that_is_not_polled_one_asks_for_all() {
    let (clock, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    assert!(crowd.poll().is_empty());
    let mut kept = Crowd(vec![crowd.0.remove(0)]);
    gate.open();
    clock.advance(LeaseConfig::new(100).call_wait_max * 5 / 4);
    assert_eq!((allowed(&crowd.poll()), gate.calls()), (9, 1 + 1));
    // The others go on by what they have; that one ends as its own time says.
    assert!(kept.poll().iter().all(Result::is_err));
    assert_eq!((allowed(&Crowd::of(&limiter, 1).poll()), crowd.0.len() + kept.0.len()), (1, 0));
}

/// One that is not polled is answered before its time is over, and sees it after: others have a batch by then.
#[test]
fn what_comes_late_is_given_back() {
    let (clock, gate) = (clock(), Gate::default());
    let store = Overridden(Memory::with_clock(clock.clone()), gate.clone());
    let rule = Rule::new("all", TokenBucket::new("1/h".parse().unwrap(), 1_000).unwrap()).unwrap();
    let config = LeaseConfig::new(100);
    let (limiter, keeper) =
        LeasedLimiter::with_clock(store.clone(), "api", rule.clone(), config, clock.clone()).unwrap();
    let mut keeper: Pin<Box<dyn Future<Output = ()>>> = Box::pin(keeper);
    let mut keep = || keeper.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!keep());
    // Batches of 1, 2, 4, and one of 8 that is asked for.
    assert_eq!(allowed(&Crowd::of(&limiter, 7).poll()), 7);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 2);
    assert!(crowd.poll().is_empty());
    let mut kept = Crowd(vec![crowd.0.remove(0)]);
    // The time of those who wait begins when the first of them comes, and the keeper has nothing to give.
    gate.release();
    gate.open();
    clock.advance(config.call_wait_max * 5 / 4);
    assert_eq!(allowed(&crowd.poll()), 1);
    assert_eq!(allowed(&kept.poll()), 1);
    for _ in 0..2 {
        clock.advance(config.hold_for);
        assert!(!keep());
    }
    let central = RuleLimiter::new(store, "api", RuleSet::new([rule]).unwrap()).unwrap();
    let left = block_on(central.check("ann", 0)).unwrap().decision().remaining();
    assert_eq!((left, limiter.in_hand("ann")), (1_000 - 7 - 2, 0));
}

/// Whoever calls within a deadline of his own drops what is not answered, again and again.
#[test]
fn however_many_are_dropped_one_asks_at_a_time() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    for _ in 0..8 {
        assert!(crowd.poll().is_empty());
        assert_eq!(gate.calls(), 1);
        drop(crowd.0.remove(0));
    }
    gate.open();
    assert_eq!((allowed(&crowd.poll()), gate.calls()), (2, 1));
}

/// The one that asks is gone, again and again.
#[test]
fn no_caller_waits_longer_than_three_times_call_wait_max() {
    let wait_max = LeaseConfig::new(100).call_wait_max;
    for every in [10, 99, 249, 251, 499, 500, 749, 874, 876, 999] {
        let (clock, gate, limiter) = limiter("1/h", 1_000, 100);
        let (mut crowd, mut waited, mut answers) = (Crowd::of(&limiter, 400), Duration::ZERO, Vec::new());
        gate.shut();
        while waited < 3 * wait_max && !crowd.0.is_empty() {
            answers.extend(crowd.poll());
            assert!(gate.calls() <= 1, "{every}");
            if !crowd.0.is_empty() {
                drop(crowd.0.remove(0));
            }
            let step = Duration::from_millis(every).min((3 * wait_max).saturating_sub(waited));
            clock.advance(step);
            waited += step;
        }
        answers.extend(crowd.poll());
        assert!(crowd.0.is_empty(), "{every}: {} still wait", crowd.0.len());
        let kinds = answers.iter().map(|answer| answer.as_ref().unwrap_err().kind());
        assert!(kinds.into_iter().all(|kind| kind == ErrorKind::Timeout), "{every}");
        // Those that asked nobody have had no effect.
        let asked = answers.iter().filter(|answer| answer.as_ref().is_err_and(|error| error.effect() != Effect::None));
        assert!(asked.count() <= 1, "{every}");
    }
}

/// What the bucket can't have nobody waits for.
#[test]
fn while_one_asks_for_the_next_token_the_others_are_denied() {
    let (clock, gate, limiter) = limiter("1000/s", 1, 100);
    assert_eq!((allowed(&Crowd::of(&limiter, 1).poll()), gate.calls()), (1, 1));
    // The answer said when the next token comes.
    let answers = Crowd::of(&limiter, 10).poll();
    assert_eq!((answers.len(), allowed(&answers), gate.calls()), (10, 0, 0));
    let wait = |answer: &Result<Decision>| answer.as_ref().unwrap().retry_after();
    assert!(answers.iter().all(|answer| wait(answer) == Some(Duration::from_millis(1))), "{answers:?}");
    clock.advance(Duration::from_millis(1));
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 64);
    let answers = crowd.poll();
    assert_eq!((answers.len(), allowed(&answers), gate.calls()), (63, 0, 1));
    assert!(answers.iter().all(|answer| wait(answer) == Some(Duration::from_millis(1))), "{answers:?}");
    gate.release();
    assert_eq!(allowed(&crowd.poll()), 1);
    // Who waited as long is the next.
    gate.open();
    clock.advance(Duration::from_millis(1));
    assert_eq!((allowed(&Crowd::of(&limiter, 10).poll()), gate.calls()), (1, 1));
}

#[test]
fn of_those_who_wait_for_one_that_is_dropped_one_asks_for_all() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    assert!(crowd.poll().is_empty());
    drop(crowd.0.remove(0));
    gate.open();
    assert_eq!(allowed(&crowd.poll()), 9);
    assert_eq!(gate.calls(), 1 + 1);
}

#[test]
fn a_busy_key_asks_about_once_in_the_time_for_which_a_batch_is_held() {
    let (clock, gate, limiter) = limiter("1000000/s", 1_000_000, 100_000);
    let mut calls = Vec::new();
    // Fifty a millisecond.
    for _ in 0..40 {
        gate.calls();
        for _ in 0..100 {
            assert_eq!(allowed(&Crowd::of(&limiter, 50).poll()), 50);
            clock.advance(Duration::from_millis(1));
        }
        calls.push(gate.calls());
    }
    assert!(calls[2..].iter().all(|calls| *calls <= 2), "{calls:?}");
    assert!(calls[2..].iter().sum::<usize>() <= 38 + 8, "{calls:?}");
}

/// One process has a bucket for itself, of a thousand a second, and is asked for twice as much.
fn share_of_the_rate(burst: u32, there: u64, back: u64) -> f64 {
    let clock = clock();
    let slow = Slow(clock.clone(), Duration::from_millis(there), Duration::from_millis(back));
    let store = Overridden(Memory::with_clock(clock.clone()), slow);
    let rule = Rule::new("all", TokenBucket::new("1000/s".parse().unwrap(), burst).unwrap()).unwrap();
    let (limiter, _keeper) =
        LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(burst), clock.clone()).unwrap();
    let mut crowd = Crowd(Vec::new());
    let mut admitted = 0;
    // Batches grow in the first one and a half seconds, in which the burst is used up.
    for at in 0..700 {
        crowd.0.extend(Crowd::of(&limiter, 10).0);
        let answers = crowd.poll();
        admitted += if at < 300 { 0 } else { allowed(&answers) };
        clock.advance(5 * MILLISECOND);
    }
    f64::from(u32::try_from(admitted).unwrap()) / 2_000.0
}

/// A round trip of 100 ms, in which as much comes back as the bucket holds, or some part of it.
#[test]
fn of_a_slow_store_the_rate_is_used() {
    for (burst, there, back) in [(100, 50, 50), (100, 10, 90), (120, 90, 10), (300, 50, 50)] {
        let share = share_of_the_rate(burst, there, back);
        println!("a burst of {burst}, {there} ms there and {back} ms back: {share:.3} of the rate");
        assert!((0.9..1.001).contains(&share), "{burst}, {there}, {back}: {share}");
    }
}

/// What became of requests that came twice as fast as the limit lets them, whatever became of those before.
#[derive(Debug, Default)]
struct Overloaded {
    asked: usize,
    admitted: usize,
    denied: usize,
    /// From a request to its answer, in milliseconds.
    longest: u64,
}

/// One process has the limit for itself, of a thousand a second; a call takes so many milliseconds.
fn overloaded(rule: Rule, trip: u64) -> Overloaded {
    let clock = clock();
    let slow = Slow(clock.clone(), Duration::from_millis(trip / 2), Duration::from_millis(trip - trip / 2));
    let store = Overridden(Memory::with_clock(clock.clone()), slow);
    let (limiter, _keeper) =
        LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(100), clock.clone()).unwrap();
    let (mut waiting, mut found) = (Vec::<(u64, Crowd)>::new(), Overloaded::default());
    for now in 0..6_000_u64 {
        waiting.push((now, Crowd::of(&limiter, 2)));
        waiting.retain_mut(|(since, crowd)| {
            // In the first second what was there is used up, and batches grow.
            for answer in crowd.poll() {
                let is_admitted = answer.unwrap().is_allowed();
                if *since >= 1_000 {
                    found.asked += 1;
                    *(if is_admitted { &mut found.admitted } else { &mut found.denied }) += 1;
                    found.longest = found.longest.max(now - *since);
                }
            }
            !crowd.0.is_empty()
        });
        clock.advance(MILLISECOND);
    }
    // Those that wait in the end are no more than come in a few calls.
    let waits: usize = waiting.iter().map(|(_, crowd)| crowd.0.len()).sum();
    assert!(waits as u64 <= 10 * trip + 10, "{waits} wait");
    found
}

/// Who asks for too much is denied, soon, and does not wait in a line that only grows.
#[test]
fn of_twice_the_rate_half_is_denied_within_a_few_calls() {
    let rate = |rate: &str| rate.parse().unwrap();
    let bucket = |burst| TokenBucket::new(rate("1000/s"), burst).unwrap().into();
    // In how many calls at most. What windows have is not known before they are asked, three times for one batch.
    let limits: [(&str, RuleLimit, u64); 5] = [
        ("bucket", bucket(100), 4),
        ("great bucket", bucket(1_000), 4),
        ("fixed window", FixedWindow::new(rate("1000/s")).into(), 6),
        ("sliding window", SlidingWindow::new(rate("1000/s")).into(), 12),
        ("sliding log", SlidingLog::new(rate("1000/s")).unwrap().into(), 12),
    ];
    for (name, limit, calls) in limits {
        for trip in [1, 10, 100] {
            let found = overloaded(Rule::new("all", limit.clone()).unwrap(), trip);
            println!("{name}, calls of {trip} ms: {found:?}");
            let share = f64::from(u32::try_from(found.admitted).unwrap()) / 5_000.0;
            assert!((0.9..1.02).contains(&share), "{name}, {trip} ms: {share:.3} of the rate");
            assert!(found.longest <= calls * trip + 2, "{name}: {} ms for calls of {trip} ms", found.longest);
        }
    }
}

#[test]
fn a_crowd_of_ten_thousand_goes_through_one_call_after_the_other() {
    for (burst, some) in [(100_000, 10_000), (2_550, 2_550)] {
        let (clock, calls, limiter) = under_way(burst, 100);
        let mut crowd = Crowd::of(&limiter, 10_000);
        let mut admitted = 0;
        while !crowd.0.is_empty() {
            admitted += allowed(&crowd.poll());
            clock.advance(MILLISECOND);
        }
        let calls = calls.lock().unwrap();
        assert_eq!((admitted, calls.most), (some, 1));
        // The first is of one token, and the last may be asked for too much.
        assert!(calls.all <= some / 100 + 5, "{} calls", calls.all);
    }
}

#[test]
fn a_crowd_at_a_store_that_hangs_makes_one_call_whose_failure_is_everybodys() {
    let (clock, calls, limiter) = under_way(100_000, 100);
    calls.lock().unwrap().hang = true;
    let mut crowd = Crowd::of(&limiter, 10_000);
    assert!(crowd.poll().is_empty());
    clock.advance(LeaseConfig::new(100).call_wait_max);
    // Those in line are polled first.
    crowd.0.reverse();
    let mut answers = crowd.poll();
    answers.extend(crowd.poll());
    let late = |error: &Error| (error.kind(), error.effect()) == (ErrorKind::Timeout, Effect::Unknown);
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(late)));
    assert_eq!((answers.len(), calls.lock().unwrap().all), (10_000, 1));
}

/// Who is served and comes again at once is behind those who wait.
#[test]
fn of_a_crowd_that_comes_again_and_again_nobody_is_left_behind() {
    let (clock, calls, limiter) = under_way(100_000, 10);
    let counts: Arc<Mutex<Vec<u32>>> = Arc::new(Mutex::new(vec![0; 100]));
    let ask = |at: usize| {
        let (limiter, counts) = (limiter.clone(), Arc::clone(&counts));
        Box::pin(async move {
            loop {
                let decision = limiter.check("ann", 1).await?;
                if !decision.is_allowed() {
                    return Ok(decision);
                }
                counts.lock().unwrap()[at] += 1;
            }
        }) as Pin<Box<dyn Future<Output = Result<Decision>>>>
    };
    let mut crowd = Crowd((0..100).map(ask).collect());
    for _ in 0..1_000 {
        assert!(crowd.poll().is_empty());
        clock.advance(MILLISECOND);
    }
    let counts = counts.lock().unwrap();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 50 && most - least <= 2, "{least} to {most}");
    assert_eq!(calls.lock().unwrap().most, 1);
}

/// What was taken for those in line is in hand if they are gone before they see it; if one of them was to ask, the next does.
#[test]
fn who_has_its_turn_and_is_gone_gives_it_back() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    assert_eq!(allowed(&Crowd::of(&limiter, 7).poll()), 7);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 8);
    assert!(crowd.poll().is_empty());
    let mut first = Crowd(vec![crowd.0.remove(0)]);
    gate.release();
    assert_eq!((allowed(&first.poll()), limiter.in_hand("ann")), (1, 0));
    drop(crowd.0.drain(..5));
    assert_eq!((limiter.in_hand("ann"), allowed(&crowd.poll())), (5, 2));
    assert_eq!((allowed(&Crowd::of(&limiter, 5).poll()), gate.calls()), (5, 4));
    // Of these the first asks for 16; when it is answered 15 are told, and the next is to ask.
    let mut crowd = Crowd::of(&limiter, 50);
    assert!(crowd.poll().is_empty());
    let mut first = Crowd(vec![crowd.0.remove(0)]);
    gate.release();
    assert_eq!(allowed(&first.poll()), 1);
    drop(crowd.0.drain(..30));
    let told = allowed(&crowd.poll());
    gate.release();
    assert_eq!((told + allowed(&crowd.poll()), crowd.0.len(), gate.calls()), (19, 0, 2));
}

/// Who leaves the line is not asked for.
#[test]
fn a_batch_is_for_those_who_still_wait() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 50);
    assert!(crowd.poll().is_empty());
    drop(crowd.0.drain(10..));
    // The first has a batch of one, and the next one asks for itself and eight others.
    gate.release();
    assert_eq!(allowed(&crowd.poll()), 1);
    gate.release();
    assert_eq!((allowed(&crowd.poll()), limiter.in_hand("ann")), (9, 0));
}

/// The one that asks is told what remains with what is left of its batch.
#[test]
fn what_remains_is_what_the_process_may_still_admit() {
    let (_, _, limiter) = limiter("1/h", 1_000, 100);
    for at in 1..=300 {
        assert_eq!(block_on(limiter.check("ann", 1)).unwrap().remaining(), 1_000 - at);
    }
}

/// A batch may have taken too long because of its size.
#[test]
fn after_a_call_that_failed_a_small_batch_is_asked_for() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    // Batches of 1, 2, 4, 8 and 16.
    assert_eq!(allowed(&Crowd::of(&limiter, 31).poll()), 31);
    gate.fail(Some((ErrorKind::Timeout, Effect::Unknown)));
    assert!(block_on(limiter.check("ann", 1)).is_err());
    gate.fail(None);
    assert_eq!((allowed(&Crowd::of(&limiter, 1).poll()), limiter.in_hand("ann")), (1, 0));
}

/// The store is asked for what a cost has more than what is in hand.
#[test]
fn what_is_in_hand_counts_for_a_greater_cost() {
    let (_, gate, limiter) = limiter("1/h", 20, 20);
    // Of batches of 1, 2, 4 and 8 seven are in hand, and five are left.
    assert_eq!(allowed(&Crowd::of(&limiter, 8).poll()), 8);
    assert_eq!(limiter.in_hand("ann"), 7);
    gate.calls();
    assert!(!block_on(limiter.check("ann", 13)).unwrap().is_allowed());
    assert_eq!((limiter.in_hand("ann"), gate.calls()), (7, 0));
    let decision = block_on(limiter.check("ann", 12)).unwrap();
    assert_eq!((decision.is_allowed(), decision.remaining(), limiter.in_hand("ann")), (true, 0, 0));
    assert_eq!(gate.calls(), 1);
}

/// While one asks for what it lacks, what it lacks not is nobody else's; if it is dropped it is in hand again.
#[test]
fn what_is_put_aside_comes_back() {
    let (_, gate, limiter) = limiter("1/h", 100, 20);
    assert_eq!(allowed(&Crowd::of(&limiter, 8).poll()), 8);
    gate.shut();
    let mut asks = Box::pin(limiter.check("ann", 20));
    assert!(asks.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let mut crowd = Crowd::of(&limiter, 1);
    assert!(crowd.poll().is_empty());
    drop(asks);
    assert_eq!((allowed(&crowd.poll()), limiter.in_hand("ann")), (1, 6));
}

/// By every rule, whatever was denied before, with and without something in hand.
#[test]
fn who_waits_as_long_as_it_is_told_is_admitted() {
    let rate = || "10/s".parse().unwrap();
    let rules = [
        Rule::new("bucket", TokenBucket::new(rate(), 10).unwrap()).unwrap(),
        Rule::new("fixed", FixedWindow::new(rate())).unwrap(),
        Rule::new("sliding", SlidingWindow::new(rate())).unwrap(),
        Rule::new("log", SlidingLog::new(rate()).unwrap()).unwrap(),
    ];
    let (mut denied, mut without_a_call, mut in_hand) = (0, 0, 0);
    for rule in &rules {
        for (used, pause_us) in (1..=12).flat_map(|used| [(used, 7_000), (used, 40_000), (used, 83_000)]) {
            for (first, then) in (1..=9).flat_map(|first| (first..=10).map(move |then| (first, then))) {
                let (clock, gate) = (clock(), Gate::default());
                let store = Overridden(Memory::with_clock(clock.clone()), gate.clone());
                let config = LeaseConfig { hold_for: Duration::from_millis(200), ..LeaseConfig::new(8) };
                let (limiter, _) =
                    LeasedLimiter::with_clock(store, "api", rule.clone(), config, clock.clone()).unwrap();
                let check = |cost| block_on(limiter.check("ann", cost)).unwrap();
                for _ in 0..used {
                    check(1);
                    clock.advance(Duration::from_micros(pause_us));
                }
                check(first);
                in_hand += u32::from(limiter.in_hand("ann") > 0);
                gate.calls();
                let Some(wait) = check(then).retry_after() else { continue };
                denied += 1;
                without_a_call += u32::from(gate.calls() == 0);
                clock.advance(wait);
                let again = check(then);
                let case = format!("{} {used} {pause_us} {first} {then}", rule.name());
                assert!(again.is_allowed(), "{case}: after {wait:?} it waits {:?}", again.retry_after());
            }
        }
    }
    println!("{denied} denied, {without_a_call} of them without a call, {in_hand} times with something in hand");
    assert!(denied > 1_000 && without_a_call > 500 && in_hand > 500);
}

/// A flood of greater costs asks about the greatest once.
#[test]
fn a_log_is_asked_once_for_a_greater_cost_than_one_that_is_denied() {
    let (clock, gate) = (clock(), Gate::default());
    let store = Overridden(Memory::with_clock(clock.clone()), gate.clone());
    let rule = Rule::new("log", SlidingLog::new("10/h".parse().unwrap()).unwrap()).unwrap();
    let (limiter, _) = LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(8), clock.clone()).unwrap();
    let wait = |cost| block_on(limiter.check("ann", cost)).unwrap().retry_after();
    let hour_less = |seconds: u64| Some(Duration::from_secs(3_600 - seconds));
    for at in 0..10 {
        assert_eq!(wait(1), None, "{at}");
        clock.advance(Duration::from_secs(1));
    }
    gate.calls();
    assert_eq!((wait(1), gate.calls()), (hour_less(10), 1));
    assert_eq!((wait(5), gate.calls()), (hour_less(6), 1));
    for _ in 0..10 {
        assert_eq!(wait(1), hour_less(10));
        assert_eq!(wait(5), hour_less(6));
        // At least so long.
        assert_eq!(wait(3), hour_less(6));
    }
    assert_eq!(gate.calls(), 0);
}
