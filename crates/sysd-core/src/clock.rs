//! Time as a dependency: what is given `now` can be tested, simulated and replayed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use futures::future::{Either, select};

use crate::Timestamp;

/// A timer: ready once the clock that made it has reached its deadline. Dropping it cancels it.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Tells the time, and wakes at a time.
///
/// Everything in sysd that needs the time takes a clock, so no runtime is named and tests never sleep.
pub trait Clock: Send + Sync + 'static {
    /// The time now. It may step back (a wall clock can).
    fn now(&self) -> Timestamp;

    /// The time since some moment, the same for as long as this clock lives: by it is measured how long something takes.
    ///
    /// It must not step. A clock whose [`now`](Self::now) never steps back need not say more than that; all clocks here
    /// that can be set back do.
    fn steady(&self) -> Duration {
        Duration::from_micros(self.now().as_micros())
    }

    /// Ready at `deadline`, at once if that has passed. A clock that is set back meanwhile must not stretch the wait: it
    /// ends, at the latest, after the time that was left when this was called.
    fn sleep_until(&self, deadline: Timestamp) -> Sleep;

    /// Whether a second of this clock is a second of the world. Stores that let the server reclaim expired records by its
    /// own clock do so with care if it isn't.
    fn is_real_time(&self) -> bool;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn steady(&self) -> Duration {
        (**self).steady()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        (**self).sleep_until(deadline)
    }

    fn is_real_time(&self) -> bool {
        (**self).is_real_time()
    }
}

/// No answer came before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer before the deadline")]
pub struct Elapsed;

/// Lets other tasks, and other parts of this one, run once: between two pieces of a long computation.
///
/// # Cancel safety
/// Nothing was done.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs `future` for at most `wait` by `clock`; for ever, if that ends beyond [`Timestamp::MAX`].
///
/// # Errors
/// [`Elapsed`] if it was not ready by then; the future is dropped.
///
/// # Cancel safety
/// As the future's own.
pub async fn timeout<F: Future + Send>(clock: &impl Clock, wait: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = std::pin::pin!(future);
    // Polled once before the timer is made: what is ready at once costs no timer.
    if let Poll::Ready(output) = futures::poll!(future.as_mut()) {
        return Ok(output);
    }
    let Some(deadline) = clock.now().checked_add(wait) else { return Ok(future.await) };
    match select(future.as_mut(), clock.sleep_until(deadline)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Elapsed),
    }
}

/// The operating system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place where a library asks the system for the time")]
fn system_now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros_saturating(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a library asks the system for time that never steps"
)]
fn system_steady() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    Instant::now().saturating_duration_since(*START.get_or_init(Instant::now))
}

/// By how much a wait may last longer than what was left of it at first: two clocks of one machine run apart by less, and a
/// step of the wall clock by less is waited for.
fn sleep_slack(left: Duration) -> Duration {
    Duration::from_millis(1) + left / 1_024
}

#[expect(clippy::disallowed_methods, reason = "the timer of the clocks of real time")]
async fn sleep_real(now: impl Fn() -> Timestamp + Send, deadline: Timestamp) {
    let mut left = deadline.saturating_since(now());
    if left.is_zero() {
        return;
    }
    // The wall clock may be set back while this waits: it must not wait for the same hour twice.
    let latest = system_steady().saturating_add(left).saturating_add(sleep_slack(left));
    while !left.is_zero() {
        futures_timer::Delay::new(left).await;
        // Timers may fire early by a rounding.
        left = deadline.saturating_since(now()).min(latest.saturating_sub(system_steady()));
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        system_now()
    }

    fn steady(&self) -> Duration {
        system_steady()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Box::pin(sleep_real(system_now, deadline))
    }

    fn is_real_time(&self) -> bool {
        true
    }
}

/// A wall clock read through the processor's time stamp counter: about a third of [`SystemClock`]'s cost, and without the
/// fence that keeps the cache misses of neighbouring calls from overlapping.
///
/// It is anchored to the system clock and anchored anew about every second, so it follows corrections of the wall clock a
/// second late at most.
#[derive(Clone)]
pub struct FastClock {
    shared: Arc<FastClockAnchor>,
}

struct FastClockAnchor {
    counter: quanta::Clock,
    /// Microseconds to add to the counter's own time, modulo 2^64.
    offset_us: AtomicU64,
    /// The counter's time, microseconds, from which on the anchor is stale.
    stale_at_us: AtomicU64,
    /// The counter when the clock was made.
    zero_raw: u64,
}

impl FastClock {
    const ANCHOR_US: u64 = 1_000_000;

    /// Calibrates the counter: takes up to 200 milliseconds, once a process.
    #[expect(clippy::disallowed_methods, reason = "the counter under this clock")]
    pub fn new() -> Self {
        let counter = quanta::Clock::new();
        let zero_raw = counter.raw();
        let clock = Self {
            shared: Arc::new(FastClockAnchor {
                counter,
                offset_us: AtomicU64::new(0),
                stale_at_us: AtomicU64::new(0),
                zero_raw,
            }),
        };
        clock.anchor(0);
        clock
    }

    #[inline]
    fn counter_us(&self) -> u64 {
        let shared = &*self.shared;
        shared.counter.delta_as_nanos(shared.zero_raw, shared.counter.raw()) / 1_000
    }

    #[cold]
    fn anchor(&self, counter_us: u64) {
        let offset = system_now().as_micros().wrapping_sub(counter_us);
        self.shared.offset_us.store(offset, Ordering::Relaxed);
        self.shared.stale_at_us.store(counter_us + Self::ANCHOR_US, Ordering::Relaxed);
    }
}

impl Default for FastClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FastClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FastClock({})", self.now())
    }
}

impl Clock for FastClock {
    #[inline]
    fn now(&self) -> Timestamp {
        let counter_us = self.counter_us();
        if counter_us >= self.shared.stale_at_us.load(Ordering::Relaxed) {
            self.anchor(counter_us);
        }
        Timestamp::from_micros_saturating(counter_us.wrapping_add(self.shared.offset_us.load(Ordering::Relaxed)))
    }

    #[inline]
    fn steady(&self) -> Duration {
        Duration::from_micros(self.counter_us())
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let clock = self.clone();
        Box::pin(async move { sleep_real(|| clock.now(), deadline).await })
    }

    fn is_real_time(&self) -> bool {
        true
    }
}

/// A clock that stands still until it is told to move: for tests, replays and simulations. Clones share the time.
///
/// ```
/// use std::time::Duration;
/// use sysd_core::{Clock, ManualClock, Timestamp};
/// let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(clock.now().as_micros(), 1_000_000);
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    shared: Arc<ManualShared>,
}

#[derive(Debug)]
struct ManualShared {
    now_us: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    next_id: u64,
    /// By how much the clock was set back, all in all.
    back_us: u64,
    by_deadline: BTreeMap<(Timestamp, u64), Waker>,
}

impl ManualClock {
    /// Stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        let now_us = AtomicU64::new(now.as_micros());
        Self { shared: Arc::new(ManualShared { now_us, sleepers: Mutex::default() }) }
    }

    /// Moves to `now`, also backwards, and wakes what is due. Who sleeps already goes on until the clock shows its deadline,
    /// unlike with the clocks of real time.
    pub fn set(&self, now: Timestamp) {
        let due = {
            let mut sleepers = self.sleepers();
            let before_us = self.shared.now_us.swap(now.as_micros(), Ordering::SeqCst);
            sleepers.back_us += before_us.saturating_sub(now.as_micros());
            let later = sleepers.by_deadline.split_off(&(now, u64::MAX));
            std::mem::replace(&mut sleepers.by_deadline, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }

    /// Moves ahead by `duration`, to [`Timestamp::MAX`] at most.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now().saturating_add(duration));
    }

    /// The earliest deadline that somebody sleeps until: a simulation moves there when nothing else can run.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.sleepers().by_deadline.keys().next().map(|&(deadline, _)| deadline)
    }

    fn sleepers(&self) -> std::sync::MutexGuard<'_, Sleepers> {
        self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_saturating(self.shared.now_us.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        let sleepers = self.sleepers();
        Duration::from_micros(self.now().as_micros().saturating_add(sleepers.back_us))
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Box::pin(ManualSleep { clock: self.clone(), deadline, id: None })
    }

    fn is_real_time(&self) -> bool {
        false
    }
}

struct ManualSleep {
    clock: ManualClock,
    deadline: Timestamp,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        // Looked at under the lock: `set` moves the time under it too, so no wake is lost.
        let mut sleepers = clock.sleepers();
        if clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            sleepers.next_id += 1;
            sleepers.next_id
        });
        sleepers.by_deadline.insert((self.deadline, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.sleepers().by_deadline.remove(&(self.deadline, id));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt as _;
    use futures::executor::block_on;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros_saturating(micros)
    }

    #[test]
    fn a_manual_sleep_ends_at_its_deadline_and_leaves_nothing_behind() {
        let clock = ManualClock::new(at(0));
        let mut sleep = clock.sleep_until(at(10));
        let dropped = clock.sleep_until(at(5));
        assert_eq!((&mut sleep).now_or_never(), None);
        drop(dropped);
        assert_eq!(clock.next_deadline(), Some(at(10)));
        clock.set(at(9));
        assert_eq!((&mut sleep).now_or_never(), None);
        clock.set(at(10));
        assert_eq!(clock.next_deadline(), None);
        assert_eq!(sleep.now_or_never(), Some(()));
    }

    #[test]
    fn a_manual_clock_wakes_other_threads() {
        let clock = ManualClock::new(at(0));
        let sleeper = std::thread::spawn({
            let clock = clock.clone();
            move || block_on(clock.sleep_until(at(7)))
        });
        clock.set(at(7));
        sleeper.join().unwrap();
    }

    #[test]
    fn a_timeout_answers_what_came_first() {
        let clock = ManualClock::new(at(0));
        assert_eq!(block_on(timeout(&clock, Duration::ZERO, async { 1 })), Ok(1));
        let never = timeout(&clock, Duration::from_micros(3), std::future::pending::<()>());
        let mut never = std::pin::pin!(never);
        assert_eq!(never.as_mut().now_or_never(), None);
        clock.set(at(3));
        assert_eq!(never.now_or_never(), Some(Err(Elapsed)));
        // A timer of the system could not be set so far.
        let end = timeout(&SystemClock, Duration::MAX, std::future::pending::<()>());
        assert_eq!(end.now_or_never(), None);
    }

    #[test]
    fn real_clocks_agree_and_wait() {
        let (fast, system) = (FastClock::new(), SystemClock);
        let apart = fast.now().as_micros().abs_diff(system.now().as_micros());
        assert!(apart < 50_000, "{apart} us apart");
        let deadline = fast.now().saturating_add(Duration::from_millis(2));
        block_on(fast.sleep_until(deadline));
        assert!(fast.now() >= deadline);
        let deadline = system.now().saturating_add(Duration::from_millis(2));
        block_on(system.sleep_until(deadline));
        assert!(system.now() >= deadline);
    }

    // An hour's step back of the wall clock made every timeout under way an hour longer: a hung store was waited for.
    #[test]
    fn a_wall_clock_that_is_set_back_does_not_stretch_a_wait() {
        let back_us = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&back_us);
        let now = move || at(system_now().as_micros() - seen.load(Ordering::SeqCst));
        let (deadline, begun) = (now().saturating_add(Duration::from_millis(50)), system_steady());
        let mut sleep = std::pin::pin!(sleep_real(now, deadline));
        assert_eq!(sleep.as_mut().now_or_never(), None);
        back_us.store(3_600_000_000, Ordering::SeqCst);
        block_on(sleep);
        let waited = system_steady().saturating_sub(begun);
        assert!(waited >= Duration::from_millis(50), "it fired early, after {waited:?}");
        assert!(waited < Duration::from_secs(5), "50 ms lasted {waited:?}");
    }

    #[test]
    fn what_is_steady_never_goes_back() {
        let manual = ManualClock::new(at(1_000));
        let begun = manual.steady();
        manual.set(at(400));
        assert_eq!((manual.now(), manual.steady().saturating_sub(begun)), (at(400), Duration::ZERO));
        manual.advance(Duration::from_micros(30));
        assert_eq!(manual.steady().saturating_sub(begun), Duration::from_micros(30));
        for clock in [Arc::new(SystemClock) as Arc<dyn Clock>, Arc::new(FastClock::new())] {
            let begun = clock.steady();
            block_on(clock.sleep_until(clock.now().saturating_add(Duration::from_millis(2))));
            assert!(clock.steady() >= begun + Duration::from_millis(1), "it stands still");
        }
    }
}
