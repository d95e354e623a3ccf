//! The sliding-window counter's limit.

use std::time::Duration;

use super::rate::Rate;

/// The most steps that a window is cut into: so many that all products stay below 2^53.
const STEPS_MAX: u64 = 1 << 18;

/// So many requests in a window that slides, as two counters know it.
///
/// What the window before admitted is taken to have come evenly: it counts for the share of it that the sliding window still
/// covers, in steps of a 2^18th of the window, rounded up. Two counters a key, whatever the limit. Where the window before was
/// uneven, a stretch as long as a window can hold more than the limit, at most less than twice as many; where it was even, never
/// more than the limit and one.
///
/// Source: the approximation that Cloudflare described in 2017 ("How we built rate limiting capable of scaling to millions of
/// domains").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlidingWindow {
    rate: Rate,
    step_us: u64,
    steps: u64,
}

impl SlidingWindow {
    /// `rate.count()` in any window of `rate.period()`.
    pub const fn new(rate: Rate) -> Self {
        let step_us = rate.period_us().div_ceil(STEPS_MAX);
        Self { rate, step_us, steps: rate.period_us().div_ceil(step_us) }
    }

    /// The most that a window admits.
    pub fn limit(&self) -> u32 {
        self.rate.count()
    }

    /// How long the window is.
    pub fn window(&self) -> Duration {
        self.rate.period()
    }

    /// The same window with another limit, which may be anything.
    pub(crate) fn with_limit(&self, limit: u32) -> Self {
        Self { rate: self.rate.with_count(limit), ..*self }
    }

    #[inline]
    pub(crate) fn window_us(&self) -> u64 {
        self.rate.period_us()
    }

    /// How long a step is.
    #[inline]
    pub(crate) fn step_us(&self) -> u64 {
        self.step_us
    }

    /// How many steps a window has.
    #[inline]
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}
