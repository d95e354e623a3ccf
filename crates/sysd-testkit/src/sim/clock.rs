//! A node's own idea of the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sysd_core::{Clock, ManualClock, Sleep, Timestamp};

/// A clock that runs behind the simulation's, and can be set back further and forward again. Clones share the setting.
#[derive(Clone, Debug)]
pub struct SkewedClock {
    inner: ManualClock,
    behind_us: Arc<AtomicU64>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl SkewedClock {
    /// `behind` the clock of a simulation.
    pub fn new(inner: ManualClock, behind: Duration) -> Self {
        Self { inner, behind_us: Arc::new(AtomicU64::new(micros(behind))) }
    }

    /// Sets it back. Who sleeps by it wakes when it would have: as a machine's timers do, sleeps measure what was left.
    pub fn set_back(&self, duration: Duration) {
        self.behind_us.fetch_add(micros(duration), Ordering::Relaxed);
    }

    /// Sets it forward, at most to the simulation's time. Sleeps are as in [`set_back`](Self::set_back).
    pub fn set_forward(&self, duration: Duration) {
        let forward = |behind_us: u64| Some(behind_us.saturating_sub(micros(duration)));
        let _ = self.behind_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, forward);
    }

    fn behind_us(&self) -> u64 {
        self.behind_us.load(Ordering::Relaxed)
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_saturating(self.inner.now().as_micros().saturating_sub(self.behind_us()))
    }

    fn steady(&self) -> Duration {
        self.inner.steady()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.inner.sleep_until(deadline.saturating_add(Duration::from_micros(self.behind_us())))
    }

    fn is_real_time(&self) -> bool {
        false
    }
}
