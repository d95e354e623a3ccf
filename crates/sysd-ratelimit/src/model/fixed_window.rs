//! The fixed window's limit.

use std::time::Duration;

use super::rate::Rate;

/// So many requests in each window of the clock: windows follow one another without a gap, from 1970 on.
///
/// The cheapest to explain and to store. Over any stretch as long as a window it admits at most twice the limit: the end of one
/// window and the beginning of the next. Where that is too much, take a [`SlidingWindow`](super::SlidingWindow) or a
/// [`SlidingLog`](super::SlidingLog).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedWindow {
    rate: Rate,
}

impl FixedWindow {
    /// `rate.count()` in each window of `rate.period()`.
    pub const fn new(rate: Rate) -> Self {
        Self { rate }
    }

    /// The most that a window admits.
    pub fn limit(&self) -> u32 {
        self.rate.count()
    }

    /// How long a window is.
    pub fn window(&self) -> Duration {
        self.rate.period()
    }

    /// The same window with another limit, which may be anything.
    pub(crate) fn with_limit(&self, limit: u32) -> Self {
        Self { rate: self.rate.with_count(limit) }
    }

    #[inline]
    pub(crate) fn window_us(&self) -> u64 {
        self.rate.period_us()
    }
}
