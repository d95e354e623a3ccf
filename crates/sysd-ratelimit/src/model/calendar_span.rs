//! What a decision knows of the calendar.

/// How many windows are known before the one of now, and after it.
pub(super) const AROUND: usize = 3;
/// How many bounds those have.
pub(crate) const BOUNDS: usize = 2 * AROUND + 2;

/// What one decision needs to know of a `CalendarWindow` (feature `calendar`): the windows around a moment.
///
/// It serves where the clock that decides is within three windows of that moment. Further off nothing is known of the window,
/// and nothing is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CalendarSpan {
    limit: u32,
    /// Where one window ends and the next begins, microseconds since 1970.
    bounds_us: [u64; BOUNDS],
}

impl CalendarSpan {
    #[cfg(any(test, feature = "calendar"))]
    pub(crate) const fn new(limit: u32, bounds_us: [u64; BOUNDS]) -> Self {
        Self { limit, bounds_us }
    }

    /// The most that a window admits.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The same windows with another limit, which may be anything.
    pub(crate) fn with_limit(&self, limit: u32) -> Self {
        Self { limit, ..*self }
    }

    pub(crate) fn bounds_us(&self) -> &[u64; BOUNDS] {
        &self.bounds_us
    }

    /// Begin and end of the window that holds a time, if it is known.
    pub(crate) fn around(&self, at_us: u64) -> Option<(u64, u64)> {
        let next = self.bounds_us.partition_point(|&bound_us| bound_us <= at_us);
        let begin_us = self.bounds_us.get(next.checked_sub(1)?)?;
        Some((*begin_us, *self.bounds_us.get(next)?))
    }
}
