//! The sliding log's limit.

use std::time::Duration;

use super::rate::Rate;
use crate::error::RateLimitError;

/// The most that a [`SlidingLog`] may admit in a window: it keeps a note of each, and is read and written whole.
pub const SLIDING_LOG_MAX: u32 = 1_000;

/// So many requests in any window at all, exactly: the time of each is kept.
///
/// Never more than the limit in any stretch as long as the window. It costs 11 bytes and a step of work for each request of the
/// last window, so the limit is at most [`SLIDING_LOG_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlidingLog {
    rate: Rate,
}

impl SlidingLog {
    /// `rate.count()` in any window of `rate.period()`.
    ///
    /// # Errors
    /// [`RateLimitError::LogTooLong`] for more than [`SLIDING_LOG_MAX`].
    pub fn new(rate: Rate) -> Result<Self, RateLimitError> {
        if rate.count() > SLIDING_LOG_MAX {
            return Err(RateLimitError::LogTooLong { limit: rate.count() });
        }
        Ok(Self { rate })
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
        Self { rate: self.rate.with_count(limit) }
    }

    #[inline]
    pub(crate) fn window_us(&self) -> u64 {
        self.rate.period_us()
    }
}
