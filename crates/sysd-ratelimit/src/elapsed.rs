//! Durations in microseconds.

use std::time::Duration;

use sysd_core::Clock;

/// The steady time of `clock` in microseconds.
#[inline]
pub(crate) fn steady_us(clock: &impl Clock) -> u64 {
    micros(clock.steady())
}

/// Whole microseconds.
#[inline]
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
