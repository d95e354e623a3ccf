//! Requests that come while another one asks for a batch.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::block_on;
use sysd_core::{ErasedProcedure, ErrorKind, Key, ManualClock, OutputBytes, Result, Store};
use sysd_ratelimit::{Decision, LeaseConfig, LeasedLimiter, Rule, TokenBucket};
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
        store.update(key, procedure).await
    }
}

type Limiter = LeasedLimiter<Overridden<Memory<ManualClock>, Gate>, ManualClock>;

/// A limiter whose keeper does not run.
fn limiter(rate: &str, burst: u32, batch_max: u32) -> (ManualClock, Gate, Limiter) {
    let (clock, gate) = (clock(), Gate::default());
    let store = Overridden(Memory::with_clock(clock.clone()), gate.clone());
    let rule = Rule::new("all", TokenBucket::new(rate.parse().unwrap(), burst).unwrap()).unwrap();
    let (limiter, _) =
        LeasedLimiter::with_clock(store, "api", rule, LeaseConfig::new(batch_max), clock.clone()).unwrap();
    (clock, gate, limiter)
}

/// Requests of one token each; those that were answered are gone.
struct Crowd(Vec<Pin<Box<dyn Future<Output = Result<Decision>>>>>);

impl Crowd {
    fn of(limiter: &Limiter, count: usize) -> Self {
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
fn no_more_wait_for_a_batch_than_it_may_have_tokens_for() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 8);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 20);
    assert!(crowd.poll().is_empty());
    assert_eq!(gate.calls(), 1 + (20 - 1 - 8));
}

#[test]
fn nobody_waits_for_a_batch_for_ever() {
    let (clock, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    assert!(crowd.poll().is_empty());
    assert_eq!(gate.calls(), 1);
    gate.open();
    clock.advance(LeaseConfig::new(100).call_wait_max);
    let answers = crowd.poll();
    assert_eq!((answers.len(), allowed(&answers)), (10, 9));
    let error = answers.iter().find_map(|answer| answer.as_ref().err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[test]
fn those_who_wait_for_one_that_is_dropped_ask_the_store() {
    let (_, gate, limiter) = limiter("1/h", 1_000, 100);
    gate.shut();
    let mut crowd = Crowd::of(&limiter, 10);
    assert!(crowd.poll().is_empty());
    drop(crowd.0.remove(0));
    gate.open();
    assert_eq!(allowed(&crowd.poll()), 9);
    assert_eq!(gate.calls(), 1 + 9);
}
