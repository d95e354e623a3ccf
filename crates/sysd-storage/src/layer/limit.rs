//! A bound on the calls that are under way at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{Either, select};
use parking_lot::Mutex;
use sysd_core::{Clock, Effect, Error, ErrorKind, SystemClock};

use super::bug::{Bug, Bugs};
use super::{Answer, Interceptor, Operation};

/// How many calls, and who may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// The most calls under way at once, at least 1; a batch is one.
    pub concurrent_max: usize,
    /// The most calls that wait.
    pub queue_max: usize,
    /// The longest that one waits.
    pub wait_max: Duration,
}

impl Default for LimitConfig {
    /// 256 at once, 1,024 that wait for up to a second.
    fn default() -> Self {
        Self { concurrent_max: 256, queue_max: 1_024, wait_max: Duration::from_secs(1) }
    }
}

/// Lets only so many calls through at once; the others wait in a queue, first come first served.
///
/// A call that finds the queue full, or has waited for too long, is refused: [`ErrorKind::Throttled`], and nothing happened.
/// Clones share the bound.
///
/// # Cancel safety
/// A call that is dropped, waiting or under way, gives its place to the next.
#[derive(Clone, Debug)]
pub struct Limit<C = SystemClock> {
    config: LimitConfig,
    clock: C,
    places: Arc<Places>,
}

impl Default for Limit {
    fn default() -> Self {
        Self::new(LimitConfig::default())
    }
}

impl Limit {
    /// By the system's clock.
    pub fn new(config: LimitConfig) -> Self {
        Self::with_clock(config, SystemClock)
    }
}

impl<C: Clock> Limit<C> {
    /// By `clock`.
    pub fn with_clock(config: LimitConfig, clock: C) -> Self {
        let state = State { free: config.concurrent_max.max(1), next_id: 0, queue: VecDeque::new() };
        Self { config, clock, places: Arc::new(Places { state: Mutex::new(state), bugs: Bugs::NONE }) }
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub fn with_bug(mut self, bug: Bug) -> Self {
        if let Some(places) = Arc::get_mut(&mut self.places) {
            places.bugs.bug = Some(bug);
        }
        self
    }

    /// How many calls are waiting.
    pub fn waiting(&self) -> usize {
        self.places.state.lock().queue.len()
    }

    async fn place(&self) -> Result<Place, Error> {
        let (id, granted) = {
            let mut state = self.places.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Place(Some(Arc::clone(&self.places))));
            }
            if state.queue.len() >= self.config.queue_max {
                return Err(refused("too many calls are under way, and too many wait"));
            }
            let (grant, granted) = oneshot::channel();
            state.next_id += 1;
            let id = state.next_id;
            state.queue.push_back((id, grant));
            (id, granted)
        };
        let _waiter = Waiter { places: &self.places, id };
        let deadline = self.clock.now().saturating_add(self.config.wait_max);
        match select(pin!(granted), self.clock.sleep_until(deadline)).await {
            Either::Left((Ok(place), _)) => Ok(place),
            // The other end is dropped only after it was served.
            Either::Left((Err(_), _)) | Either::Right(_) => {
                Err(refused("it has waited too long for other calls to end"))
            }
        }
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::Throttled, Effect::None, message)
}

#[derive(Debug)]
struct Places {
    state: Mutex<State>,
    bugs: Bugs,
}

#[derive(Debug)]
struct State {
    /// Nobody waits while one is free.
    free: usize,
    next_id: u64,
    queue: VecDeque<(u64, oneshot::Sender<Place>)>,
}

/// The right to be under way. Dropped anywhere, also on its way to one who waited, it goes to the next.
#[derive(Debug)]
struct Place(Option<Arc<Places>>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut places) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = places.state.lock();
                let next = state.queue.pop_front();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some((_, grant)) = next else { return };
            // Who has gone meanwhile gives it back: on to the next, without recursion.
            match grant.send(Self(Some(places))) {
                Ok(()) => return,
                Err(mut place) => match place.0.take() {
                    Some(back) => places = back,
                    None => return,
                },
            }
        }
    }
}

/// Leaves the queue when it is dropped.
struct Waiter<'a> {
    places: &'a Places,
    id: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let gone = {
            let mut state = self.places.state.lock();
            let at = state.queue.iter().position(|(id, _)| *id == self.id);
            at.and_then(|at| state.queue.remove(at))
        };
        drop(gone);
    }
}

impl<C: Clock> Interceptor for Limit<C> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        match self.place().await {
            Ok(mut place) if self.places.bugs.has(Bug::LeakPlace) => {
                let places = place.0.take();
                let answer = call.await;
                drop(Place(places));
                answer
            }
            Ok(place) => {
                let answer = call.await;
                drop(place);
                answer
            }
            Err(error) => A::failed(operation.answers, error),
        }
    }
}
