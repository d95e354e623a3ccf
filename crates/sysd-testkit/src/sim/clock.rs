//! A node's own idea of the time.

use std::time::Duration;

use sysd_core::{Clock, ManualClock, Sleep, Timestamp};

/// A clock that runs behind the simulation's by a constant.
#[derive(Clone, Debug)]
pub struct SkewedClock {
    inner: ManualClock,
    behind: Duration,
}

impl SkewedClock {
    /// `behind` the clock of a simulation.
    pub const fn new(inner: ManualClock, behind: Duration) -> Self {
        Self { inner, behind }
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let behind_us = u64::try_from(self.behind.as_micros()).unwrap_or(u64::MAX);
        Timestamp::from_micros_saturating(self.inner.now().as_micros().saturating_sub(behind_us))
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        self.inner.sleep_until(deadline.saturating_add(self.behind))
    }

    fn is_real_time(&self) -> bool {
        false
    }
}
